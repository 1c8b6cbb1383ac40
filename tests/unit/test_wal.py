"""What a killed writer leaves in SQLite's log, for real: its commit written and not entered."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from lifeline import host_run, wal
from lifeline.errors import StepFailed
from lifeline.wal import FRAME, HEADER, Index, not_entered, read_index
from tests.unit.hostkit import config
from tests.unit.killed_writer import dying

PAGE = 512
SALTS = b"saltsalt"
INDEX = Index(PAGE, 2, SALTS)


def log_of(*frames: tuple[int, bytes]) -> bytes:
    """A log whose frames have these sizes after a commit (0: none) and salts."""
    made = (struct.pack(">II8s", 1, commit, salts).ljust(FRAME, b"\0") + bytes(PAGE) for commit, salts in frames)
    return bytes(HEADER) + b"".join(made)


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        ((), False),
        (((0, SALTS), (9, SALTS)), True),
        (((0, SALTS), (0, SALTS)), False),  # it died before its last page
        (((0, SALTS), (9, b"an older")), False),  # the rest is of a log before this one
    ],
)
def test_a_whole_transaction_behind_what_is_entered(behind: tuple[tuple[int, bytes], ...], expected: bool) -> None:
    log = log_of((5, SALTS), (5, SALTS), *behind)
    assert not_entered(INDEX, lambda length, at: log[at : at + length]) is expected


def test_an_index_that_sqlite_would_not_believe_is_none(tmp_path: Path, database: apsw.Connection) -> None:
    data = (tmp_path / "x.db-shm").read_bytes()
    found = read_index(data)
    assert found and found.page_size == 4096 and found.end == (tmp_path / "x.db-wal").stat().st_size
    assert read_index(data[:48] + bytes(48) + data[96:]) is None
    assert read_index(bytes(136)) is None and read_index(b"") is None


@pytest.fixture
def database(tmp_path: Path) -> Iterator[apsw.Connection]:
    """Open all the while, as Litestream has it; rows 1 and 2."""
    connection = apsw.Connection(str(tmp_path / "x.db"))
    connection.execute("PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER)").fetchall()
    connection.execute("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)").fetchall()
    yield connection
    connection.close()


def numbers(connection: apsw.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT id FROM t ORDER BY id")]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def busy(connection: apsw.Connection) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE; ROLLBACK").fetchall()
    except apsw.BusyError:
        return True
    return False


def die(tmp_path: Path) -> None:
    before = (tmp_path / "x.db-wal").stat().st_size
    with dying(tmp_path / "x.db", "INSERT INTO t VALUES (3)", tmp_path / "go"):
        eventually(lambda: (tmp_path / "x.db-wal").stat().st_size > before)


def test_what_was_written_and_not_entered_is_lost_to_the_next_writer(tmp_path: Path, database: apsw.Connection) -> None:
    die(tmp_path)
    size = (tmp_path / "x.db-wal").stat().st_size
    database.execute("INSERT INTO t VALUES (4)").fetchall()
    assert numbers(database) == [1, 2, 4] and (tmp_path / "x.db-wal").stat().st_size == size


def test_entered_it_is_kept_and_there_for_all(tmp_path: Path, database: apsw.Connection) -> None:
    assert wal.enter(tmp_path / "x.db") is False
    database.execute("BEGIN; SELECT * FROM t").fetchall()  # a reader goes on through it
    die(tmp_path)
    assert wal.enter(tmp_path / "x.db") is True
    assert numbers(database) == [1, 2]
    database.execute("COMMIT; INSERT INTO t VALUES (4)").fetchall()
    assert numbers(database) == [1, 2, 3, 4]
    assert wal.enter(tmp_path / "x.db") is False
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_nothing_is_touched_while_somebody_writes(
    tmp_path: Path, database: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "WITHIN_S", 0.1)
    with dying(tmp_path / "x.db", "INSERT INTO t VALUES (3)", tmp_path / "go"):
        eventually(lambda: busy(database))
        with pytest.raises(StepFailed, match="locked by a writer"):
            wal.enter(tmp_path / "x.db")


def test_a_database_at_rest_needs_nothing(tmp_path: Path, database: apsw.Connection) -> None:
    database.close()
    assert wal.enter(tmp_path / "x.db") is False and wal.begin_anew(tmp_path / "x.db", tmp_path / "none") is False


@pytest.mark.parametrize("program", ["service", "litestream"])
def test_neither_service_nor_litestream_opens_a_database_before_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    made = config(tmp_path)
    live = made.layout.live(made.service.databases[0])
    database = apsw.Connection(str(live))
    database.execute("PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER)").fetchall()
    size = live.with_name("trades.db-wal").stat().st_size
    with dying(live, "INSERT INTO t VALUES (3)", tmp_path / "go"):
        eventually(lambda: live.with_name("trades.db-wal").stat().st_size > size)
    made.layout.litestream_yml.write_text("path: replica/genesis/epoch-0001/trades")
    monkeypatch.setattr(host_run, "require_lease", lambda _: 1)
    found: list[list[int]] = []
    for becoming in ("_become_service", "_exec"):
        monkeypatch.setattr(host_run, becoming, lambda *_: found.append(numbers(database)))
    (host_run.run_service if program == "service" else host_run.run_litestream)(made)
    assert found == [[3]]
