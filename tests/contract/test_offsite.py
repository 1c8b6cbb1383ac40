"""The off-site mirror and pruning: real Litestream and restic, two S3 stores on loopback."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lifeline import backups, catalogue, offsite, points, proc, prune, rebuild, snapshots
from lifeline.errors import Unavailable
from lifeline.model import Key, StoreRef
from lifeline.store import Info, MemoryStore, Store
from lifeline.vault import open_store
from tests.contract.replica_store import S3, store, wait
from tests.contract.test_backups import Hammer, Primary, ids, primary  # noqa: F401
from tests.contract.test_proving import prove

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with store(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with store(tmp_path_factory.mktemp("away")) as running:
        yield running


def opened(s3: S3) -> Store:
    to = s3.destination
    ref = StoreRef(to.bucket, "us-east-1", to.endpoint, True)
    return open_store(ref, Key(to.access_key, to.secret_key), direct=True)


def lived(primary: Primary) -> list[int]:  # noqa: F811
    """A replica with compacted levels and a backup; returns its rows."""
    with primary.replicating(), Hammer(primary):
        wait(primary.newest, 20, "a replica")
        backups.backup(primary.host(), primary.store, "full", progress=lambda _: None)
        wait(lambda: any(True for _ in primary.store.keys(f"{replica_of(primary)}/0009/")), 20, "a snapshot")
    return ids(primary.path)


def replica_of(primary: Primary) -> str:  # noqa: F811
    return f"replica/{primary.service}/epoch-0001/trades"


def restores(primary: Primary, away: S3, folder: Path) -> list[int]:  # noqa: F811
    """The off-site replica's end, read from there alone."""
    copy = opened(away)
    plan = points.plan(copy, primary.service, 1, "trades")
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "offsite.db"
    output.unlink(missing_ok=True)
    rebuild.rebuild(copy, plan, output)
    return ids(output)


def test_what_is_off_site_restores_from_there_alone(primary: Primary, away: S3, tmp_path: Path) -> None:  # noqa: F811
    rows = lived(primary)
    config, vault = primary.host(), opened(primary.store)
    report = offsite.mirror(config, vault, opened(away), 1)
    assert report["objects"] > 3 and len(report["snapshots"]) == 1
    assert report["replica"]["databases"]["trades"]["txid"] > 0
    got = restores(primary, away, tmp_path)
    assert got and got == rows[: len(got)]
    to = away.destination
    cache = config.layout.root / "cache-away"
    repository = snapshots.in_bucket("offsite", primary.service, to, config.layout.restic_password, cache)
    done = proc.run(snapshots.check_argv(repository, 100), timeout=120, env=repository.environment)
    assert done.ok, done.reason
    again = offsite.mirror(config, vault, opened(away), 1)
    assert again["objects"] == 0
    note = catalogue.parse("x", primary.store.read(catalogue.offsite_key(primary.service)) or b"")
    assert note["snapshots"] == report["snapshots"]


class Dies(MemoryStore):
    """An off-site vault whose host dies before the n-th write."""

    def __init__(self, writes: int) -> None:
        super().__init__("away")
        self.left = writes

    def _write(self, key: str, body: bytes) -> str:
        if self.left == 0:
            raise Unavailable("the host died")
        self.left -= 1
        return super()._write(key, body)


def test_cut_off_at_any_write_what_is_there_is_whole_and_the_next_pass_ends_it(
    primary: Primary,  # noqa: F811
    tmp_path: Path,
) -> None:
    rows = lived(primary)
    config, vault = primary.host(), opened(primary.store)
    for writes in itertools.count():
        (config.layout.state / "offsite-done.json").unlink(missing_ok=True)
        copy = Dies(writes)
        try:
            offsite.mirror(config, vault, copy, 1)
            break
        except Unavailable:
            pass
        present = {info.key for info in copy.list()}
        if any("/snapshots/" in key for key in present):  # restic's: everything it needs is there
            source = {info.key for info in vault.list(f"{snapshots.prefix(primary.service)}data/")}
            assert source <= present
        try:
            plan = points.plan(copy, primary.service, 1, "trades")
        except Exception:
            plan = None
        if plan is not None:
            output = tmp_path / f"{writes}.db"
            rebuild.rebuild(copy, plan, output)
            assert ids(output) == rows[: len(ids(output))]
        copy.left = 10_000
        offsite.mirror(config, vault, copy, 1)
        assert points.plan(copy, primary.service, 1, "trades").txid > 0
    assert writes > 5


def test_a_vault_that_was_emptied_empties_nothing(primary: Primary) -> None:  # noqa: F811
    lived(primary)
    config, copy = primary.host(), MemoryStore("away")
    offsite.mirror(config, opened(primary.store), copy, 1)
    before = {info.key for info in copy.list()}
    offsite.mirror(config, MemoryStore("emptied"), copy, 1)
    assert before <= {info.key for info in copy.list()}


def test_a_big_object_is_streamed_in_parts() -> None:
    source, body = MemoryStore("vault"), bytes(range(256)) * (80 << 10)
    source.put("big", body)
    info: Info = source.head("big")  # type: ignore[assignment]
    copy, tally = MemoryStore("away"), offsite.Tally()
    offsite._copy(source, copy, info, tally)
    assert copy.get("big").body == body and (tally.objects, tally.bytes) == (1, len(body))


def test_pruning_lets_go_of_old_snapshots_once_one_is_proved_and_of_fine_points(primary: Primary) -> None:  # noqa: F811
    lived(primary)
    config, vault = primary.host(), opened(primary.store)
    first = backups.backup(config, primary.store, "full", progress=lambda _: None)
    later = datetime.now(UTC) + timedelta(days=400)
    assert prune.prune(config, vault, 1, now=later)["snapshots"] == {"vault": [], "local": []}
    backups.backup(config, primary.store, "full", progress=lambda _: None)
    proved = [one for one in prove(primary)["points"] if one["source"] == "snapshot"]  # type: ignore[attr-defined]
    assert proved[0]["verdict"] == "PASS"
    plan = prune.prune(config, vault, 1, now=later, dry_run=True)
    assert len(plan["snapshots"]["vault"]) == 2 and plan["epochs"] == []
    listed = backups.repositories(config)["vault"]
    count = json.loads(backups.restic(listed, snapshots.list_argv(listed), "list"))
    assert len(count) == 3  # a dry run lets go of nothing
    done = prune.prune(config, vault, 1, now=later)
    assert any(one.startswith(first["copies"]["vault"]["snapshot"]) for one in done["snapshots"]["vault"])
    assert len(json.loads(backups.restic(listed, snapshots.list_argv(listed), "list"))) == 1
    assert len(catalogue.entry_keys(primary.store.keys(catalogue.root(primary.service)))) == 1
    left = [one["verdict"] for one in prove(primary)["points"] if one["source"] == "snapshot"]  # type: ignore[attr-defined]
    assert left == ["PASS"]


def test_fine_points_go_when_the_coarser_level_has_them(primary: Primary, tmp_path: Path) -> None:  # noqa: F811
    rows = lived(primary)
    vault, folder = opened(primary.store), replica_of(primary)
    fine = list(primary.store.keys(f"{folder}/0001/"))
    assert len(fine) > 2
    later = datetime.now(UTC) + timedelta(days=2)
    for key in list(primary.store.keys(f"{folder}/0002/")):  # a half minute may have ended meanwhile
        primary.store.delete(key)
    assert list(points.expired_fine(vault, primary.service, 1, "trades", later)) == []  # nothing coarser has them
    # As the next level would: the same transactions in one file.
    last = fine[-1].rsplit("/", 1)[1][17:33]
    primary.store.write(f"{folder}/0002/{1:016x}-{last}.ltx", b"its content doesn't matter here")
    gone = list(points.expired_fine(vault, primary.service, 1, "trades", later))
    assert gone == fine[:-1]  # Litestream goes on from the last one
    primary.store.delete(f"{folder}/0002/{1:016x}-{last}.ltx")
    assert restores(primary, primary.store, tmp_path)[:1] == rows[:1]
