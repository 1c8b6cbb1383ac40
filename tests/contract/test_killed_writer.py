"""Litestream beside a writer that dies in its commit, and after a power cut that took the end of the log: what the
vault has is still what the database is. That it isn't, without our part, is shown too: the day it is, wal.py can go.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from lifeline import checkpoints, ltx, wal
from lifeline.barrier import Barrier
from lifeline.verify import connect, rows
from tests.contract.replica_store import S3, Site, store, wait
from tests.contract.test_replica import insert, restore, writer
from tests.unit.killed_writer import dying

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with store(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, s3: S3, request: pytest.FixtureRequest) -> Site:
    return Site(tmp_path / "a", s3, f"svc{zlib.crc32(request.node.name.encode()):08x}", 1)


def lived(site: Site) -> apsw.Connection:
    """Rows 1 to 20 in the database file; that they were changed, and 21 to 30, only in its log. All in the vault."""
    database = writer(site.path)
    for number in range(1, 21):
        insert(database, number)
    site.control.sync(site.path, 20)
    database.execute("PRAGMA wal_autocheckpoint = 0; PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    database.execute("UPDATE trades SET note = 'changed ' || id").fetchall()
    for number in range(21, 31):
        insert(database, number)
    site.control.sync(site.path, 20)
    return database


def goes_on(site: Site, database: apsw.Connection) -> None:
    """A commit a time, as a service does, each vouched for by the barrier."""
    barrier = Barrier({"trades": site.path}, site.control.sync, lambda: None)
    for number in range(41, 46):
        insert(database, number)
        barrier.wait("trades", 20)


def content(path: Path) -> list[tuple[int, str]]:
    with connect(path) as connection:
        return [(row[0], row[1]) for row in rows(connection, "SELECT id, note FROM trades ORDER BY id")]


def restored(site: Site, tmp_path: Path) -> list[tuple[int, str]]:
    output = tmp_path / "restored.db"
    restore(site, output)
    return content(output)


def killed_in_its_commit(site: Site, tmp_path: Path) -> None:
    before = site.newest()
    with dying(site.path, "INSERT INTO trades VALUES (31, 'x')", tmp_path / "go"):
        wait(lambda: site.newest() > before, 20, "Litestream has read what isn't committed")


@pytest.mark.parametrize("entered", [True, False])
def test_a_service_killed_in_its_commit_costs_the_replica_nothing(site: Site, tmp_path: Path, entered: bool) -> None:
    with site.replicating():
        database = lived(site)
        killed_in_its_commit(site, tmp_path)
        if entered:
            assert wal.enter(site.path)
        goes_on(site, database)
        alive = content(site.path)
    assert (restored(site, tmp_path) == alive) is entered
    numbers = [number for number, _ in alive]
    assert numbers[-1] == 45 and (31 in numbers) is entered


def cut_off(site: Site) -> None:
    """A power cut took the last transaction of the log, which the vault has: the disk had not got it yet."""
    newest = max((site.folder / "state/epoch-0001/trades/ltx/0").glob("*.ltx"))
    head = ltx.parse_header(newest.read_bytes())
    begin = head.log_end - (wal.FRAME + head.page_size)
    for name in ("wal", "shm"):
        path = site.path.with_name(f"trades.db-{name}")
        path.unlink() if name == "shm" else path.open("r+b").truncate(begin)


@pytest.mark.parametrize("anew", [True, False])
def test_a_log_that_lost_its_end_costs_the_replica_nothing(site: Site, tmp_path: Path, anew: bool) -> None:
    with site.replicating() as litestream:
        database = lived(site)
        litestream.kill()
        litestream.wait()
        wal.keep_log(database)
        database.close()
    cut_off(site)
    database = writer(site.path)
    insert(database, 32)  # the service is back before Litestream
    if anew:
        assert wal.begin_anew(site.path, site.folder / "state/epoch-0001/trades/ltx/0")
    with site.replicating():
        goes_on(site, database)
        alive = content(site.path)
    assert (restored(site, tmp_path) == alive) is anew
    numbers = [number for number, _ in alive]
    assert 30 not in numbers and {32, 45} <= set(numbers)


def test_a_log_that_goes_on_is_left_alone(site: Site) -> None:
    local = site.folder / "state/epoch-0001/trades/ltx/0"
    with site.replicating() as litestream:
        database = lived(site)
        litestream.kill()
        litestream.wait()
        insert(database, 31)
    assert not wal.begin_anew(site.path, local) and not wal.enter(site.path)
    with site.replicating():
        goes_on(site, database)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert not wal.begin_anew(site.path, local)
    insert(database, 50)
    assert not wal.begin_anew(site.path, local)


@pytest.mark.parametrize("autocheckpoint", [0, 1000])
def test_a_log_begun_anew_behind_a_killed_litestream_is_counted(site: Site, autocheckpoint: int) -> None:
    """Litestream's own are counted by itself, in its table; another's are not."""
    with site.replicating() as litestream:
        database = writer(site.path)
        database.execute(f"PRAGMA wal_autocheckpoint = {autocheckpoint}").fetchall()
        insert(database, 1)
        site.control.sync(site.path, 20)

        def grown() -> checkpoints.Counts | None:
            database.execute("UPDATE trades SET note = hex(randomblob(1000000))").fetchall()
            return checkpoints.count(site.path)

        wait(lambda: (counts := grown()) and counts.meant > 0, 30, "Litestream has checkpointed")
        site.control.sync(site.path, 20)
        before = checkpoints.count(site.path)
        for _ in range(5):
            grown()
            site.control.sync(site.path, 20)
        own = checkpoints.count(site.path)
        litestream.kill()
        litestream.wait()
        for _ in range(20):
            grown()
        after = checkpoints.count(site.path)
    assert before and own and after
    assert own.begun - before.begun <= own.meant - before.meant
    assert (after.begun - own.begun > after.meant - own.meant) is bool(autocheckpoint)
