"""Which source a restore takes, and which its plan says it would, where the vault's replica has a hole; and that two
restores at once stay apart. The replicas are real, if small: a database of one page whose `user_version` counts."""

from __future__ import annotations

import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lifeline import backups, continuation, data, points, replica, restores, room, sources
from lifeline.errors import BadInput, DataBad, Unavailable
from lifeline.layout import Config
from lifeline.model import Finding
from lifeline.restores import Doors, Want
from lifeline.snapshots import Snapshot
from lifeline.sources import Backup, Source
from lifeline.store import MemoryStore
from tests.unit.hostkit import SERVICE, FakeSupervisor
from tests.unit.hostkit import config as host_config

BEGIN = datetime(2026, 6, 1, 12, tzinfo=UTC)
NEWEST, HOLE = 10, 4


def at(txid: int) -> str:
    """Half a minute after a transaction, before the next one."""
    return (BEGIN + timedelta(minutes=txid, seconds=30)).isoformat()


def store(name: str, folder: Path, *, without: int | None = None, databases: tuple[str, ...] = ("trades",)) -> Any:
    """A bucket with a replica of transactions 1 to 10, a minute apart, but for one."""
    made, path = MemoryStore(name), folder / f"{name}-source.db"
    connection = sqlite3.connect(path, isolation_level=None)
    for txid in range(1, NEWEST + 1):
        connection.execute(f"PRAGMA user_version = {txid}")
        when = (BEGIN + timedelta(minutes=txid)).timestamp()
        for database in databases if txid != without else ():
            number = replica.format_txid(txid)
            key = f"{replica.replica_prefix('genesis', 1, database)}/{9 if txid == 1 else 2:04x}/{number}-{number}.ltx"
            made.put(key, continuation.boundary_file(path, txid, salts=(0, 0), at=when))
    connection.close()
    return made


@pytest.fixture(autouse=True)
def no_backups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "backups_of", lambda *_: ([], []))
    monkeypatch.setattr(room, "require_memory", lambda *_: None)
    monkeypatch.setattr(data, "verify_copy", lambda *_: Finding.passed("not looked at"))  # it has no table


@pytest.fixture
def host(tmp_path: Path) -> Config:
    return host_config(tmp_path / "host")


@pytest.fixture
def holed(tmp_path: Path) -> Doors:
    """The vault lacks transaction 4, the off-site vault nothing."""
    vault, offsite = store("vault", tmp_path, without=HOLE), store("offsite", tmp_path)
    return Doors(lambda: vault, lambda: offsite)


def alone(doors: Doors) -> Doors:
    """With the off-site vault away."""

    def away() -> Any:
        raise Unavailable("the off-site vault doesn't answer")

    return Doors(doors.vault, away)


def user_version(path: Path | str) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


def restored(host: Config, doors: Doors, want: Want, folder: Path) -> tuple[str, int]:
    """(source, transaction) of a copy, by what is in it."""
    found = restores.inspect(host, doors, want, folder)
    version = user_version(found["paths"]["trades"])
    assert found["txids"] == {"trades": version}
    return found["source"], version


@pytest.mark.parametrize(
    ("want", "source", "txid"),
    [
        (Want(1), "offsite", NEWEST),
        (Want(1, at=at(8)), "offsite", 8),
        (Want(1, txid=8), "offsite", 8),
        (Want(1, at=at(3)), "vault", 3),
        (Want(1, source="vault"), "vault", 3),
    ],
)
def test_a_restore_and_its_plan_go_round_a_hole_in_the_vault(
    host: Config, holed: Doors, tmp_path: Path, want: Want, source: str, txid: int
) -> None:
    plan = restores.outline(host, holed, want)
    assert (plan["source"], plan["txids"]) == (source, {"trades": txid})
    assert plan["transactions_lost"] == NEWEST - txid  # also those behind the hole
    assert restored(host, holed, want, tmp_path / "copy") == (source, txid)


def test_a_file_that_is_damaged_is_a_hole_too(host: Config, holed: Doors, tmp_path: Path) -> None:
    vault = store("damaged", tmp_path)
    key = next(info.key for info in vault.list() if info.key.endswith(f"{replica.format_txid(HOLE)}.ltx"))
    body = vault.get(key).body
    vault.put(key, body[:300] + bytes([body[300] ^ 0xFF]) + body[301:])
    assert restored(host, Doors(lambda: vault, holed.offsite), Want(1, at=at(8)), tmp_path / "copy") == ("offsite", 8)


@pytest.mark.parametrize("want", [Want(1, at=at(8)), Want(1, txid=8)])
def test_where_no_source_has_it_each_says_why(host: Config, holed: Doors, tmp_path: Path, want: Want) -> None:
    says = r"gap behind transaction 3 .*off-site vault doesn't answer"
    with pytest.raises(DataBad, match=says):
        restores.outline(host, alone(holed), want)
    with pytest.raises(DataBad, match=says):
        restores.inspect(host, alone(holed), want, tmp_path / "copy")


def test_a_transaction_behind_the_end_of_the_replica_is_bad_input(host: Config, tmp_path: Path) -> None:
    whole = store("whole", tmp_path)
    with pytest.raises(BadInput, match="epoch 1 ends with transaction 10, before 11"):
        restores.outline(host, Doors(lambda: whole, lambda: whole), Want(1, txid=11))


def test_a_transaction_from_before_the_first_snapshot_is_told_as_that(host: Config, tmp_path: Path) -> None:
    vault = store("vault", tmp_path)
    vault.delete(next(info.key for info in vault.list() if "/0009/" in info.key))
    fifth = next(info.key for info in vault.list() if info.key.endswith(f"{replica.format_txid(5)}.ltx"))
    vault.put(fifth.replace("/0002/", "/0009/"), vault.get(fifth).body)
    with pytest.raises(points.NothingOldEnough, match="nothing in epoch 1 goes back to transaction 3"):
        restores.outline(host, Doors(lambda: vault, lambda: vault), Want(1, txid=3, source="vault"))


def test_with_several_databases_a_hole_needs_a_time(tmp_path: Path) -> None:
    host = host_config(
        tmp_path / "host", service=SERVICE + '[[databases]]\nname = "more"\npath = "/var/lib/x/more.db"\n'
    )
    vault = store("vault", tmp_path, without=HOLE, databases=("trades", "more"))
    doors = Doors(lambda: vault, lambda: vault)
    with pytest.raises(DataBad, match="a gap needs a time"):
        restores.outline(host, doors, Want(1, source="vault"))
    assert restores.outline(host, doors, Want(1, at=at(3)))["txids"] == {"trades": 3, "more": 3}
    with pytest.raises(BadInput, match="each database counts its own"):
        restores.outline(host, doors, Want(1, txid=3))


def test_a_copy_to_look_at_leaves_a_restore_in_place_alone(
    host: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backup_of(_: Config, source: Source | None, moment: datetime | None) -> tuple[list[Backup], list[Any]]:
        assert moment is not None
        number = str(moment.minute)
        return [Backup("local", backups.repositories(host)["local"], Snapshot(number, moment, ()))], []

    def unpack(_: Config, repository: object, number: str, folder: Path, include: object = None) -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        saved = sources.staging_in(host, folder)
        saved.mkdir(parents=True)
        connection = sqlite3.connect(saved / "trades.db")
        connection.execute(f"PRAGMA user_version = {number}")
        connection.close()
        return saved

    set_wal = data.set_wal

    def meanwhile(path: Path) -> None:
        monkeypatch.setattr(data, "set_wal", set_wal)
        found = restores.inspect(host, doors, Want(1, at=at(7), source="local"), tmp_path / "look")
        assert user_version(found["paths"]["trades"]) == 7
        assert [path.name for path in (tmp_path / "look").iterdir()] == ["trades.db"]
        set_wal(path)

    monkeypatch.setattr(sources, "backups_of", backup_of)
    monkeypatch.setattr(sources, "unpack", unpack)
    monkeypatch.setattr(data, "set_wal", meanwhile)
    doors = Doors(lambda: MemoryStore(), lambda: MemoryStore())
    restores.restore(host, FakeSupervisor(), doors, Want(1, at=at(3), source="local"))  # type: ignore[arg-type]
    assert user_version(host.layout.live(host.service.databases[0])) == 3


def test_the_same_folder_is_never_two_copies(host: Config, holed: Doors, tmp_path: Path) -> None:
    restored(host, holed, Want(1), tmp_path / "copy")
    with pytest.raises(BadInput, match="exists already"):
        restores.inspect(host, holed, Want(1), tmp_path / "copy")
    assert (tmp_path / "copy/trades.db").exists()
