"""Which files make a database, while its replica is being written; with empty files, as only their names count."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from lifeline import points
from lifeline.points import Gap, plan
from lifeline.replica import epoch_prefix, format_txid, replica_prefix
from lifeline.store import Info, MemoryStore


def add(store: MemoryStore, level: int, first: int, last: int, epoch: int = 1) -> str:
    key = f"{replica_prefix('genesis', epoch, 'trades')}/{level:04x}/{format_txid(first)}-{format_txid(last)}.ltx"
    store.put(key, b"")
    return key


def planned(store: MemoryStore) -> points.Plan:
    return plan(store, "genesis", 1, "trades")


class Written(MemoryStore):
    """A replica whose writer is as fast as we list: each listing finds a transaction more than the one before."""

    newest = 10
    listings = 0

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Info]:
        self.listings += 1
        assert self.listings < 100, "the plan runs after an end that recedes"
        found = list(super().list(prefix, after=after))
        self.newest += 1
        add(self, 0, self.newest, self.newest)
        if self.newest % 5 == 0:
            add(self, 1, self.newest - 4, self.newest)
        return iter(found)


def test_the_end_of_a_replica_that_is_being_written_is_found() -> None:
    store = Written()
    add(store, 9, 1, 1)
    for txid in range(2, 11):
        add(store, 0, txid, txid)
    found = planned(store)
    assert 10 <= found.txid <= store.newest and store.listings < 20
    ends = [piece.last for piece in found.pieces]
    assert ends == sorted(ends) and ends[-1] == found.txid


def test_a_hole_of_one_level_is_bridged_by_another_as_often_as_there_is_one() -> None:
    store = MemoryStore()
    add(store, 9, 1, 1)
    for begin in (2, 12, 22):
        add(store, 2, begin, begin + 4)  # and then five transactions that only the finest level has
        for txid in range(begin + 5, begin + 10):
            add(store, 0, txid, txid)
    found = planned(store)
    assert found.txid == 31 and len(found.pieces) == 1 + 3 * 6
    store.delete(found.pieces[9].key)
    with pytest.raises(Gap) as gap:
        planned(store)
    assert gap.value.reach == found.pieces[8].last


def owned(store: MemoryStore, end: int) -> None:
    note = {"host": "b", "epoch": 2, "continues": {"epoch": 1, "databases": {"trades": end}}}
    store.put("replica/genesis/epoch-0002/owner.json", json.dumps(note).encode())


@pytest.mark.parametrize("level", [0, 1, 2])
def test_an_owner_that_speaks_of_a_continuation_which_never_was_is_not_believed(level: int) -> None:
    """It was killed before it had prepared the epoch, which so began with a full copy, counted from one."""
    store = MemoryStore()
    for txid in range(1, 41):
        add(store, 0, txid, txid)
    owned(store, 40)
    add(store, level, 1, 50, epoch=2)
    found = plan(store, "genesis", 2, "trades")
    assert {piece.key.split("/")[2] for piece in found.pieces} == {"epoch-0002"} and found.txid == 50
    assert [point.txid for point in points.points(store, "genesis", 2, "trades")] == [50]
    assert points.walk(store, "genesis", 2, "trades").good


def test_an_owner_is_believed_where_no_file_begins_before_the_end_it_speaks_of() -> None:
    store = MemoryStore()
    for txid in range(1, 41):
        add(store, 0, txid, txid)
    owned(store, 40)
    add(store, 0, 40, 40, epoch=2)
    add(store, 1, 40, 44, epoch=2)
    found = plan(store, "genesis", 2, "trades")
    assert [piece.key.split("/")[2] for piece in found.pieces[-2:]] == ["epoch-0001", "epoch-0002"]
    add(store, 9, 1, 44, epoch=2)  # a snapshot is of all there is, whatever it began with
    assert points.points(store, "genesis", 2, "trades")[0].txid == 40


def test_a_moment_in_an_epoch_that_began_anew_is_found_there() -> None:
    store = MemoryStore()
    owned(store, 40)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for txid in range(1, 10):  # fewer than the last epoch had
        store.put(add(store, 0, txid, txid, epoch=2), dated(txid, moment + timedelta(seconds=txid)))
    assert points.at(store, "genesis", 2, "trades", moment + timedelta(seconds=5)).txid == 5


def dated(txid: int, at: datetime) -> bytes:
    """A file's header."""
    millis = int(at.timestamp() * 1000)
    return struct.pack(">4sIIIQQQQQQIIQ", b"LTX1", 2, 4096, 1, txid, txid, millis, 0, 0, 0, 0, 0, 0).ljust(100, b"\0")


def continues(store: MemoryStore, epoch: int, txid: int) -> None:
    owner = {"host": "a", "continues": {"epoch": epoch - 1, "databases": {"trades": txid}}}
    store.put(f"{epoch_prefix('genesis', epoch)}owner.json", json.dumps(owner).encode())


@pytest.fixture
def second() -> MemoryStore:
    """Epoch 1 ends with transaction 5; epoch 2 goes on to 12, with a snapshot at 8, and lacks 10."""
    store = MemoryStore()
    add(store, 9, 1, 1)
    for txid in range(2, 6):
        add(store, 2, txid, txid)
    continues(store, 2, 5)
    add(store, 9, 1, 8, epoch=2)
    for txid in (5, 6, 7, 8, 9, 11, 12):
        add(store, 2, txid, txid, epoch=2)
    return store


def test_a_hole_is_told_as_one_when_the_epoch_before_was_pruned(second: MemoryStore) -> None:
    for info in list(second.list(epoch_prefix("genesis", 1))):
        second.delete(info.key)
    for txid in (None, 12):
        with pytest.raises(Gap, match="gap behind transaction 9 of epoch 2") as gap:
            plan(second, "genesis", 2, "trades", txid=txid)
        assert (gap.value.epoch, gap.value.reach) == (2, 9)


def test_a_hole_in_the_epoch_before_is_one_beginning_less(second: MemoryStore) -> None:
    second.delete(add(second, 2, 3, 3))
    assert plan(second, "genesis", 2, "trades", txid=9).pieces[0].level == points.SNAPSHOTS
    with pytest.raises(Gap) as gap:  # the snapshot of epoch 2 is too late for it
        plan(second, "genesis", 2, "trades", txid=7)
    assert (gap.value.epoch, gap.value.reach) == (1, 2)
    assert plan(second, "genesis", 1, "trades", txid=2).txid == 2
    second.delete(add(second, 9, 1, 8, epoch=2))
    with pytest.raises(Gap) as gap:
        plan(second, "genesis", 2, "trades")
    assert (gap.value.epoch, gap.value.reach) == (1, 2)


def test_an_epoch_before_that_lost_its_end_is_a_hole(second: MemoryStore) -> None:
    second.delete(add(second, 2, 5, 5))
    with pytest.raises(Gap, match="epoch 2 goes on from transaction 5 of epoch 1, which isn't there"):
        plan(second, "genesis", 2, "trades", txid=7)


def test_the_end_counts_what_is_behind_a_hole(second: MemoryStore) -> None:
    assert points.end(second, "genesis", 2, "trades", 9) == 12
    assert points.end(second, "genesis", 2, "trades", 13) == 13
