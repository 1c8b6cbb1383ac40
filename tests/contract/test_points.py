"""Points and rebuilding, against what Litestream itself writes: S3 on loopback."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import pytest

from lifeline import points, rebuild, replica
from lifeline.errors import BadInput
from lifeline.model import Key, StoreRef
from lifeline.store import Store
from lifeline.vault import open_store
from tests.contract.replica_store import S3, Site, store, wait
from tests.contract.test_replica import ids, insert, restore, writer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with store(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, s3: S3, request: pytest.FixtureRequest) -> Site:
    return Site(tmp_path / "a", s3, f"svc{zlib.crc32(request.node.name.encode()):08x}", 1)


@pytest.fixture(scope="module")
def vault(s3: S3) -> Store:
    to = s3.destination
    ref = StoreRef(to.bucket, "us-east-1", to.endpoint, True)
    return open_store(ref, Key(to.access_key, to.secret_key), direct=True)


def planned(vault: Store, site: Site, txid: int | None = None, avoid: frozenset[str] = frozenset()) -> points.Plan:
    return points.plan(vault, site.service, site.epoch, "trades", txid=txid, avoid=avoid)


def rebuilt(vault: Store, plan: points.Plan, output: Path) -> Path:
    output.unlink(missing_ok=True)
    rebuild.rebuild(vault, plan, output)
    return output


def grow_and_shrink(site: Site, page_size: int = 4096) -> list[int]:
    """A history with growth, a VACUUM and growth again; returns the transactions after each of its steps."""
    site.folder.mkdir(parents=True, exist_ok=True)
    database = apsw.Connection(str(site.path))
    database.execute(f"PRAGMA page_size = {page_size}")
    database.close()
    ends = []
    with site.replicating():
        database = writer(site.path)
        for number in range(1, 40):
            insert(database, number)
            if number % 10 == 0:
                with database:
                    for more in range(1000):
                        insert(database, number * 10_000 + more)
            if number == 25:
                database.execute("DELETE FROM trades WHERE id > 9999")
                database.execute("VACUUM")
            if number % 5 == 0:
                ends.append(site.control.sync(site.path, 10).txid)
        ends.append(site.control.sync(site.path, 10).txid)
        wait(lambda: any(True for _ in site.store.keys(f"{prefix(site)}/0009/")), 30, "a snapshot")
        wait(lambda: any(True for _ in site.store.keys(f"{prefix(site)}/0001/")), 30, "a compacted file")
        insert(database, 40)
        ends.append(site.control.sync(site.path, 10).txid)
        database.close()
    return ends


def prefix(site: Site) -> str:
    return replica.replica_prefix(site.service, site.epoch, "trades")


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_what_is_rebuilt_is_what_litestream_restores(site: Site, vault: Store, tmp_path: Path, page_size: int) -> None:
    for end in [None, *grow_and_shrink(site, page_size)]:
        try:
            plan = planned(vault, site, end)
        except BadInput:
            continue  # compacted away: no file ends there
        ours = rebuilt(vault, plan, tmp_path / "ours.db")
        theirs = tmp_path / "theirs.db"
        theirs.unlink(missing_ok=True)
        restore(site, theirs, plan.txid)
        assert ours.read_bytes() == theirs.read_bytes()
    assert set(range(1, 41)) <= set(ids(ours))


def test_a_moment_is_met_and_never_overshot(site: Site, vault: Store, tmp_path: Path) -> None:
    committed: dict[int, datetime] = {}
    with site.replicating():
        database = writer(site.path)
        for number in range(1, 120):
            insert(database, number)
            committed[number] = datetime.now(UTC)
            time.sleep(0.04)
        site.control.sync(site.path, 10)
        database.close()
    for number in (20, 60, 100, 119):
        moment = committed[number] + timedelta(milliseconds=1)
        point = points.at(vault, site.service, 1, "trades", moment)
        got = ids(rebuilt(vault, planned(vault, site, point.txid), tmp_path / "at.db"))
        late = [n for n in got if committed[n] > moment + timedelta(milliseconds=150)]
        assert not late
        assert max(got) >= number - 30  # about a second of writes
    with pytest.raises(points.NothingOldEnough):
        points.at(vault, site.service, 1, "trades", committed[1] - timedelta(hours=1))


def test_a_hole_is_named_and_bridged_where_another_level_has_it(site: Site, vault: Store, tmp_path: Path) -> None:
    grow_and_shrink(site)
    whole = planned(vault, site)
    kept = {}
    for piece in whole.pieces:
        kept[piece.key] = site.store.read(piece.key) or b""
    # Each file of the plan in turn is away, but the newest: that loss nobody can see.
    # Another way is found, or the hole is told with what can be reached.
    for piece in whole.pieces[:-1]:
        site.store.delete(piece.key)
        try:
            plan = planned(vault, site)
            assert plan.txid == whole.txid
            rebuilt(vault, plan, tmp_path / "other.db")
        except points.Gap as gap:
            assert gap.reach < whole.txid
            if gap.reach:
                assert planned(vault, site, gap.reach).txid == gap.reach
        site.store.write(piece.key, kept[piece.key])
    assert planned(vault, site).txid == whole.txid


def test_flipped_bytes_name_the_file_and_leave_nothing(site: Site, vault: Store, tmp_path: Path) -> None:
    grow_and_shrink(site)
    plan = planned(vault, site)
    body = site.store.read(plan.pieces[0].key) or b""
    for position in (20, 200, len(body) // 2, len(body) - 3):
        site.store.write(plan.pieces[0].key, body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :])
        with pytest.raises(rebuild.Damaged) as caught:
            rebuild.rebuild(vault, plan, tmp_path / "out.db")
        assert caught.value.key == plan.pieces[0].key
        assert list(tmp_path.glob("out.db*")) == []
    site.store.write(plan.pieces[0].key, body[: len(body) // 2])
    with pytest.raises(rebuild.Damaged):
        rebuild.rebuild(vault, planned(vault, site), tmp_path / "out.db")
    walked = points.walk(vault, site.service, 1, "trades", deep=True)
    assert [key for key, _ in walked.damaged] == [plan.pieces[0].key]
    around = planned(vault, site, avoid=frozenset({plan.pieces[0].key}))
    assert around.txid == plan.txid
    rebuild.rebuild(vault, around, tmp_path / "out.db")
    assert set(range(1, 41)) <= set(ids(tmp_path / "out.db"))


def test_a_walk_finds_a_whole_chain_whole_and_a_hole(site: Site, vault: Store) -> None:
    ends = grow_and_shrink(site)
    walked = points.walk(vault, site.service, 1, "trades", deep=True)
    assert walked.good and walked.newest == ends[-1]
    listed = points.points(vault, site.service, 1, "trades")
    assert listed[-1].txid == ends[-1] and len(points.points(vault, site.service, 1, "trades", at_most=3)) == 3
    for key in list(site.store.keys(f"{prefix(site)}/")):
        if replica.txid_of(key) == ends[-1] - 1 or (replica.txid_of(key) or 0) == ends[-1]:
            site.store.delete(key)
    assert points.walk(vault, site.service, 1, "trades").newest < ends[-1]
