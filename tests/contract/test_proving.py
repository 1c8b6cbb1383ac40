"""Verification by real restores: Litestream's replica and restic's snapshots, S3 on loopback."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime

import apsw
import pytest

from lifeline import backups, catalogue, ltx, proving, sentinel, snapshots
from lifeline.host_stores import open_vault_store
from tests.contract.replica_store import S3, store, wait
from tests.contract.test_backups import Hammer, Primary, primary  # noqa: F401

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with store(tmp_path_factory.mktemp("s3")) as running:
        yield running


def prove(primary: Primary, **more: object) -> dict[str, object]:  # noqa: F811
    config = primary.host()
    proof = proving.Proof(open_vault_store(config), backups.repositories(config), 1)
    return proving.prove(config, primary.store, proof, draw=random.Random(1), progress=lambda _: None, **more)  # type: ignore[arg-type]


def protected(primary: Primary) -> dict[str, object]:  # noqa: F811
    """A replica with a snapshot, a backup, and a fresh sentinel."""
    with primary.replicating(), Hammer(primary):
        wait(primary.newest, 20, "a replica")
        entry = backups.backup(primary.host(), primary.store, "full", progress=lambda _: None)
        sentinel.write(primary.host())
        primary.control.sync(primary.path, 20)
        wait(lambda: any(k for k in primary.store.keys(f"replica/{primary.service}/epoch-0001/trades/0009/")), 20, "L9")
    return entry


def test_everything_good_is_pass_with_the_measured_rpo_and_in_the_catalogue(primary: Primary) -> None:  # noqa: F811
    entry = protected(primary)
    report = prove(primary, weekly=True)
    assert report["verdict"] == "PASS", report
    assert [one["what"] for one in report["points"]] == ["newest", "random", "entry", "entry"]  # type: ignore[attr-defined]
    assert isinstance(report["rpo_measured_s"], float) and report["rpo_measured_s"] < 60
    body = primary.store.read(str(report["key"])) or b""
    document = catalogue.parse(str(report["key"]), body)
    assert catalogue.verification_of(str(entry["catalogue"]), [document]) == (document["at"], "PASS")
    assert not (primary.host().layout.state / "prove").exists()
    names = {one["name"] for one in report["checks"]}  # type: ignore[attr-defined]
    assert names == {"chain of trades", "restic check", f"restic check on {primary.host().name}"}


def test_rows_that_differ_from_the_catalogue_are_a_failure(primary: Primary) -> None:  # noqa: F811
    entry = protected(primary)
    body = json.loads(primary.store.read(str(entry["catalogue"])) or b"")
    body["databases"]["trades"]["rows"]["trades"] += 1
    primary.store.write(str(entry["catalogue"]), json.dumps(body).encode())
    report = prove(primary)
    assert report["verdict"] == "FAIL"
    error = proving.failure(report)
    assert error is not None and "rows, the catalogue says" in str(error) and error.exit_code == 8


def test_a_truncated_file_of_the_replica_is_found_and_named(primary: Primary) -> None:  # noqa: F811
    protected(primary)
    for key in list(primary.store.keys(f"replica/{primary.service}/")):
        if ltx.parse_key(key):
            body = primary.store.read(key) or b""
            primary.store.write(key, body[: len(body) * 2 // 3])
    report = prove(primary, weekly=True)
    assert report["verdict"] == "FAIL"
    assert any("damaged" in one["says"] for one in report["checks"])  # type: ignore[attr-defined]


def test_without_any_backup_nothing_is_green(primary: Primary) -> None:  # noqa: F811
    report = prove(primary)
    assert report["verdict"] == "UNKNOWN" and report["rpo_measured_s"] is None
    assert all(one["verdict"] != "PASS" for one in report["points"])  # type: ignore[attr-defined]


def test_a_disk_too_small_is_not_known_and_says_the_numbers(primary: Primary, monkeypatch) -> None:  # noqa: F811
    protected(primary)
    monkeypatch.setattr(proving, "ROOM_EXTRA", 1 << 60)
    report = prove(primary)
    assert report["verdict"] == "UNKNOWN"
    assert "MB of free disk" in report["points"][0]["says"]  # type: ignore[index]


def test_a_repository_that_was_damaged_fails_the_weekly_check(primary: Primary) -> None:  # noqa: F811
    protected(primary)
    for key in list(primary.store.keys(f"{snapshots.prefix(primary.service)}data/")):
        body = primary.store.read(key) or b""
        primary.store.write(key, body[: len(body) // 2] + b"x" + body[len(body) // 2 + 1 :])
    report = prove(primary, weekly=True)
    assert report["verdict"] == "FAIL", report


@pytest.mark.parametrize(("broken", "verdict"), [("damaged", "FAIL"), ("unreadable", "UNKNOWN")])
def test_a_hosts_own_repository_is_checked_weekly_too(primary: Primary, broken: str, verdict: str) -> None:  # noqa: F811
    protected(primary)
    name, local = f"restic check on {primary.host().name}", primary.host().layout.state / "local"

    def found() -> str:
        return next(one["verdict"] for one in prove(primary, weekly=True)["checks"] if one["name"] == name)  # type: ignore

    assert found() == "PASS"
    if broken == "unreadable":
        (local / "config").unlink()
    for pack in [one for one in (local / "data").glob("*/*") if broken == "damaged"]:
        body = pack.read_bytes()
        pack.chmod(0o600)
        pack.write_bytes(body[: len(body) // 2] + b"x" + body[len(body) // 2 + 1 :])
    assert found() == verdict


def test_clocks_that_differ_measure_nothing() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert proving._age({"sentinel_at": "2026-01-01T00:00:05Z"}, at) is None
    assert proving._age({"sentinel_at": "2025-12-31T23:59:58.5Z"}, at) == 1.5
    assert proving._age({"sentinel_at": None}, at) is None


def test_a_sentinel_is_the_primarys_alone_and_gives_way(primary: Primary) -> None:  # noqa: F811
    config = primary.host()
    first = sentinel.write(config)["trades"]
    assert sentinel.write(config)["trades"] >= first
    holder = apsw.Connection(str(primary.path))
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Exception, match="no sentinel"):
        sentinel.write(config)
    holder.execute("ROLLBACK")
    (config.layout.state / "role.json").write_text('{"role": "standby", "epoch": 1}')
    with pytest.raises(Exception, match="not primary"):
        sentinel.write(config)


def test_what_there_was_nothing_to_compare_with_is_no_failure() -> None:
    skipped = {"what": "entry", "verdict": "SKIPPED", "says": "compacted since"}
    assert proving.failure({"verdict": "PASS", "points": [skipped], "checks": []}) is None
    unknown = {"what": "newest", "verdict": "UNKNOWN", "says": "no answer"}
    error = proving.failure({"verdict": "UNKNOWN", "points": [skipped, unknown], "checks": []})
    assert error is not None and error.exit_code == 5 and "no answer" in str(error)
