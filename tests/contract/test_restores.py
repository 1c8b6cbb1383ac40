"""Restores from every source, with real Litestream and restic, S3 on loopback; and what is said when a source fails."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest

from lifeline import backups, room
from lifeline.errors import BadInput, DataBad, LifelineError, Refused, StepFailed
from lifeline.host_stores import open_vault_store
from lifeline.layout import read_data, write_role
from lifeline.restores import Doors, Waived, Want, inspect, normalise_time, outline, restore, wanted
from lifeline.store import MemoryStore
from tests.contract.replica_store import S3, store, wait
from tests.contract.test_backups import Primary, ids, made, primary  # noqa: F401
from tests.unit.hostkit import FakeSupervisor

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("restic") is None, reason="restic is not installed")]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with store(tmp_path_factory.mktemp("s3")) as running:
        yield running


@dataclass
class History:
    """A host whose database holds 1..30; a backup was taken at 10, `then` is after 20."""

    primary: Primary
    then: str
    txid: int

    def doors(self, *, vault: bool = True) -> Doors:
        empty = MemoryStore("off-site")
        return Doors(lambda: open_vault_store(self.primary.host()) if vault else _gone(), lambda: empty)

    def restore(self, want: Want, **more: object) -> dict[str, object]:
        doors = self.doors(vault=bool(more.pop("vault", True)))
        more["waived"] = Waived(older=bool(more.pop("older", False)))
        return restore(self.primary.host(), FakeSupervisor(), doors, want, **more)  # type: ignore[arg-type]

    def live(self) -> list[int]:
        return ids(self.primary.path)


def _gone() -> MemoryStore:
    raise StepFailed("the vault doesn't answer")


@pytest.fixture
def history(primary: Primary) -> History:  # noqa: F811
    """One of the test's own, to be damaged."""
    return lived(primary)


@pytest.fixture(scope="module")
def calm(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> History:
    """One for all tests that leave it as it is."""
    return lived(made(s3, "calm", tmp_path_factory))


def lived(primary: Primary) -> History:  # noqa: F811
    def insert(numbers: range) -> int:
        database = apsw.Connection(str(primary.path))
        database.set_busy_timeout(5000)
        for number in numbers:
            database.execute("INSERT INTO trades VALUES (?, 'x')", (number,))
        database.close()
        return primary.control.sync(primary.path, 20).txid

    with primary.replicating():
        insert(range(1, 11))
        backups.backup(primary.host(), primary.store, "full", progress=lambda _: None)
        txid = insert(range(11, 21))
        time.sleep(1.2)  # files are dated by their transactions, snapshots of restic by the second
        then = datetime.now(UTC).isoformat()
        insert(range(21, 31))
        wait(lambda: any(True for _ in primary.store.keys(prefix(primary, "0009"))), 20, "a snapshot")
    write_role(primary.host().layout, "none", 1)
    return History(primary, then, txid)


def prefix(primary: Primary, level: str = "") -> str:  # noqa: F811
    return f"replica/{primary.service}/epoch-0001/trades/{level}"


def test_the_newest_a_time_and_each_source(history: History) -> None:
    primary = history.primary  # noqa: F811
    for number in (31, 32):
        database = apsw.Connection(str(primary.path))
        database.execute("INSERT INTO trades VALUES (?, 'never replicated')", (number,))
        database.close()
    at = normalise_time(history.then)
    answer = history.restore(Want(1, at=at))
    assert history.live() == list(range(1, 21)) and answer["source"] == "vault"
    kept = answer["databases"][0]["kept"]  # type: ignore[index]
    assert ids(Path(kept) / "trades.db")[-1] == 32  # what was there is kept, its log too
    assert read_data(primary.host().layout).as_replicated
    history.restore(Want(1))
    assert history.live() == list(range(1, 31))
    for source in ("snapshot", "local"):
        history.restore(wanted(1, None, None, source))
        assert history.live() == list(range(1, 11))
        # Never to be gone on from as if it were the replica's: SQLite and restic copied it.
        assert not read_data(primary.host().layout).as_replicated and read_data(primary.host().layout).txids == {}


def test_staged_once_for_a_time_and_always_anew_for_the_end(history: History) -> None:
    want = Want(1, at=normalise_time(history.then))
    config = history.primary.host()
    history.restore(want, stage_only=True)
    staged = config.layout.staged(config.service.databases[0])
    before = staged.stat().st_mtime_ns
    history.restore(want, stage_only=True)
    assert staged.stat().st_mtime_ns == before
    history.restore(Want(1), stage_only=True)
    assert staged.stat().st_mtime_ns != before
    history.restore(want)  # what was staged for the end is not taken for the time
    assert history.live() == list(range(1, 21))


def test_with_the_vault_gone_an_older_source_is_named_and_only_taken_when_agreed(history: History) -> None:
    with pytest.raises(Refused, match="the vault doesn't answer") as refused:
        history.restore(Want(1), vault=False)
    assert "(local)" in str(refused.value) and "older-source" in str(refused.value.hint)
    assert history.live() == list(range(1, 31))
    answer = history.restore(Want(1), vault=False, older=True)
    assert history.live() == list(range(1, 11)) and answer["source"] == "local"


def test_a_hole_in_the_chain_is_walked_back_from_when_agreed(history: History) -> None:
    primary = history.primary  # noqa: F811
    whole = sorted(primary.store.keys(prefix(primary)))
    newest = max(int(key[-20:-4], 16) for key in whole if key.endswith(".ltx"))
    for key in whole:
        if key.endswith(".ltx") and int(key[-37:-21], 16) <= newest - 1 <= int(key[-20:-4], 16):
            primary.store.delete(key)
    plan = outline(primary.host(), history.doors(), Want(1))  # says so while the service still goes on
    assert "has a gap behind transaction" in plan["tried"][0]["why"]
    assert plan["txids"]["trades"] < newest  # up to the hole, like the restore
    assert plan["transactions_lost"] == newest - plan["txids"]["trades"]
    with pytest.raises((Refused, LifelineError)):
        history.restore(Want(1))
    assert history.live() == list(range(1, 31))
    answer = history.restore(Want(1), older=True)
    assert answer["tried"] and history.live()[:10] == list(range(1, 11))


def test_damage_everywhere_changes_nothing(history: History) -> None:
    primary = history.primary  # noqa: F811
    for key in list(primary.store.keys(prefix(primary))):
        body = primary.store.read(key) or b""
        primary.store.write(key, body[: len(body) // 2])
    with pytest.raises(DataBad):
        history.restore(Want(1, source="vault"))
    assert history.live() == list(range(1, 31))


def test_a_copy_to_look_at_touches_nothing_and_needs_a_new_place(calm: History, tmp_path: Path) -> None:
    config = calm.primary.host()
    found = inspect(config, calm.doors(), Want(1, at=normalise_time(calm.then)), tmp_path / "look")
    assert ids(Path(found["paths"]["trades"])) == list(range(1, 21)) and calm.live() == list(range(1, 31))
    with pytest.raises(BadInput, match="exists already"):
        inspect(config, calm.doors(), Want(1), tmp_path / "look")
    with pytest.raises(BadInput, match="among the live"):
        inspect(config, calm.doors(), Want(1), calm.primary.path.parent / "copy")
    with pytest.raises(LifelineError):
        inspect(config, calm.doors(), Want(1, at="2001-01-01T00:00:00Z"), tmp_path / "early")
    assert not (tmp_path / "early").exists()


def test_a_plan_says_what_it_takes_and_restores_nothing(calm: History) -> None:
    plan = outline(calm.primary.host(), calm.doors(), Want(1, at=normalise_time(calm.then)))
    assert plan["txids"]["trades"] >= calm.txid - 1 and plan["transactions_lost"] > 0
    assert plan["need_bytes"] > 0 and plan["free_bytes"] > 0 and plan["expected_s"] > 0
    assert calm.live() == list(range(1, 31))


def test_a_disk_too_small_is_refused_before_anything(calm: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "disks", lambda needs, spare=0: [room.Disk(next(iter(needs)), 1 << 60, 1 << 30)])
    for want in (Want(1), wanted(1, None, None, "local", ["state"])):
        with pytest.raises(Refused, match="MB of free disk"):
            calm.restore(want)
    assert calm.live() == list(range(1, 31))


def test_a_time_before_everything_says_so(calm: History) -> None:
    with pytest.raises(LifelineError, match="the earliest moment to be had is 20"):
        calm.restore(Want(1, at="2001-01-01T00:00:00Z", source="vault"))
    with pytest.raises(BadInput, match="the earliest moment to be had is 20"):
        calm.restore(Want(1, at="2001-01-01T00:00:00Z", source="local"))


def test_a_running_service_is_never_restored_under(calm: History) -> None:
    supervisor = FakeSupervisor([calm.primary.service])
    supervisor.start(calm.primary.service)
    with pytest.raises(Refused, match="still running"):
        restore(calm.primary.host(), supervisor, calm.doors(), Want(1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("at", "txid", "source"),
    [
        ("2026-01-01", "5", None),
        (None, "minus one", None),
        (None, "0", None),
        (None, "5", "local"),
        (None, None, "the attic"),
        ("2999-01-01", None, None),
    ],
)
def test_what_makes_no_sense_is_bad_input(at: str | None, txid: str | None, source: str | None) -> None:
    with pytest.raises(BadInput) as caught:
        wanted(1, at, txid, source)
    assert caught.value.hint


def test_transactions_are_read_as_numbers_and_as_litestream_writes_them() -> None:
    assert wanted(1, None, "4711", None).txid == 4711
    assert wanted(1, None, "0000000000001267", None).txid == 4711


def test_files_and_the_database_of_one_moment_and_each_alone(history: History) -> None:
    """Without the vault: neither replica nor catalogue can be read, and what restic kept tells what it holds."""
    primary, root = history.primary, history.primary.root  # noqa: F811
    service_env, log = root / "etc/lifeline/service.env", root / "var/log/x/audit.log"
    primary.state_file.write_text("30")
    (primary.state_file.parent / "new.json").write_text("{}")
    with log.open("a") as file:
        file.write("line 2\n")
    config, doors = primary.host(), history.doors(vault=False)
    plan = outline(config, doors, wanted(1, None, None, "local", ["state", "config", "logs"]))
    assert {one["path"]: one["change"] for one in plan["files"]} == {
        "/etc/lifeline/service.env": "same",
        "/var/lib/x/state/positions.json": "changed",
        "/var/log/x/audit.log": "beside",
    }
    assert plan["others"] == ["/var/lib/x/state/new.json"] and "note of what it holds" in plan["remarks"][0]

    answer = history.restore(wanted(1, None, None, "local", ["state", "logs"]), vault=False)
    done: dict[str, Any] = answer["files"]  # type: ignore[assignment]
    assert primary.state_file.read_text() == "0" and history.live() == list(range(1, 31))
    assert done["changed"] == ["/var/lib/x/state/positions.json"]
    (kept,) = done["kept"]
    assert (Path(kept) / "var/lib/x/state/positions.json").read_text() == "30"
    beside = Path(str(done["beside"])) / "var/log/x/audit.log"
    assert beside.read_text() == "line 1\n" and log.read_text() == "line 1\nline 2\n"

    primary.state_file.write_text("31")
    service_env.write_text("KEY=another\n")
    want = wanted(1, None, None, "snapshot", ["database", "state"])
    answer = history.restore(want)
    assert history.live() == list(range(1, 11)) and primary.state_file.read_text() == "0"
    assert service_env.read_text() == "KEY=another\n" and answer["databases"]


def test_the_newest_backup_not_after_a_time_whatever_place_it_is_in(history: History) -> None:
    primary, config = history.primary, history.primary.host()  # noqa: F811
    shutil.rmtree(config.layout.state / "local")  # this host was rebuilt: the vault's is all there is
    primary.state_file.write_text("30")
    doors = history.doors()
    plan = outline(config, doors, wanted(1, None, None, None, ["state"]))
    assert plan["source"] == "snapshot" and plan["remarks"] == []
    assert [one["from"] for one in plan["tried"]] == ["the backups (local)"]
    with pytest.raises(LifelineError, match="the earliest moment to be had is 20"):
        outline(config, doors, wanted(1, "2001-01-01", None, "snapshot", ["state"]))
    assert primary.state_file.read_text() == "30"


def test_what_the_catalogue_and_a_backup_say_differently_is_not_restored(history: History) -> None:
    primary = history.primary  # noqa: F811
    (key,) = (key for key in primary.store.keys(f"catalogue/{primary.service}/") if key.endswith("-full.json"))
    body = primary.store.read(key) or b""
    primary.store.write(key, body.replace(b'"bytes": 1,', b'"bytes": 2,'))
    primary.state_file.write_text("30")
    with pytest.raises(DataBad, match="differ about what it holds"):
        history.restore(wanted(1, None, None, "snapshot", ["state"]))
    assert primary.state_file.read_text() == "30"


def test_files_to_look_at(calm: History, tmp_path: Path) -> None:
    config, want = calm.primary.host(), wanted(1, None, None, "local", ["state", "logs", "config", "database"])
    found = inspect(config, calm.doors(), want, tmp_path / "look")
    assert found["files"] == 3 and ids(Path(found["paths"]["trades"])) == list(range(1, 11))
    assert (tmp_path / "look/var/lib/x/state/positions.json").read_text() == "0"
    assert (tmp_path / "look/etc/lifeline/service.env").read_text() == "KEY=secret\n"
