"""Who begins the log anew: judged by two counts, seen twice, told for a day. Real SQLite, and what Litestream's table
would say."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import pytest

from lifeline import checkpoints
from lifeline.checkpoints import SALTS, Counts, Watched, judge
from lifeline.layout import Config, write_role
from tests.unit.hostkit import config

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIFE = (1, 7, 0)


def seen(*counts: tuple[int, int]) -> Watched:
    found = None
    for begun, meant in counts:
        found = judge(found, LIFE, Counts(begun, meant), NOW)
    assert found
    return found


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ([(5, 0), (6, 1), (9, 4)], 0),  # they go up together
        ([(5, 0), (6, 0), (6, 1)], 0),  # between Litestream's checkpoint and its count
        ([(5, 0), (6, 0), (7, 1), (8, 2)], 1),
        ([(5, 0), (8, 0), (8, 0)], 3),
        ([(SALTS - 1, 0), (1, 0), (1, 0)], 2),  # a salt is 32 bits
        ([(5, 0), (4, 0), (4, 0)], 0),  # another log: its salt was drawn
        ([(5, 0), (6, 9), (7, 9)], 0),  # a checkpoint need not begin a log
    ],
)
def test_what_two_looks_see_is_told(counts: list[tuple[int, int]], told: int) -> None:
    assert seen(*counts).told == told


def test_another_life_of_the_log_begins_at_nothing() -> None:
    before = seen((5, 0), (7, 0), (7, 0))
    assert judge(before, (2, 7, 0), Counts(9, 0), NOW) == Watched((2, 7, 0), Counts(9, 0))


def test_told_for_a_day() -> None:
    watched = {"trades": seen((5, 0), (7, 0), (7, 0)), "quiet": seen((5, 0))}
    assert checkpoints.strangers(watched, NOW + timedelta(hours=23)) == {"trades": 2}
    assert checkpoints.strangers(watched, NOW + timedelta(hours=25)) == {}


@pytest.fixture
def host(tmp_path: Path) -> Config:
    made = config(tmp_path)
    write_role(made.layout, "primary", 1)
    made.layout.live(made.service.databases[0]).parent.mkdir(parents=True, exist_ok=True)
    return made


def service(host: Config, autocheckpoint: int) -> apsw.Connection:
    live = host.layout.live(host.service.databases[0])
    database = apsw.Connection(str(live))
    database.execute(f"PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = {autocheckpoint}").fetchall()
    database.execute("CREATE TABLE IF NOT EXISTS t (b); CREATE TABLE IF NOT EXISTS _litestream_seq (id, seq)")
    return database


def written(database: apsw.Connection) -> None:
    """Some 20 MB, in transactions of 1 MB."""
    for _ in range(20):
        database.execute("INSERT INTO t VALUES (zeroblob(1000000))")


@pytest.mark.parametrize("autocheckpoint", [0, 1000])
def test_a_service_that_checkpoints_is_told_from_one_that_does_not(host: Config, autocheckpoint: int) -> None:
    database, clock = service(host, autocheckpoint), itertools.count()

    def look(watched: dict[str, Watched]) -> dict[str, Watched]:
        return checkpoints.look(host, watched, NOW + timedelta(seconds=10 * next(clock)))

    watched = look({})
    written(database)
    watched = look(look(watched))
    assert bool(checkpoints.strangers(watched, NOW)) is bool(autocheckpoint)
    # The test that docs/service.md has for authors says the same.
    live = host.layout.live(host.service.databases[0])
    assert (live.stat().st_size > 1 << 20) is bool(autocheckpoint)
    # Our own new log, before Litestream is there, is none of theirs.
    before = checkpoints.strangers(watched, NOW)
    checkpoints.note_anew(host.layout.run)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    database.execute("INSERT INTO t VALUES (1)")
    assert checkpoints.strangers(look(look(watched)), NOW) in ({}, before)
    write_role(host.layout, "standby", 1)
    assert look(watched) == {}


def test_what_cannot_be_read_is_not_known(host: Config, tmp_path: Path) -> None:
    assert checkpoints.count(tmp_path / "nothing.db") is None
    database = apsw.Connection(str(tmp_path / "plain.db"))
    database.execute("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").fetchall()
    assert checkpoints.count(tmp_path / "plain.db") is None  # Litestream was never there
