"""Which files make a database, while its replica is being written; with empty files, as only their names count."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lifeline import points
from lifeline.points import Gap, plan
from lifeline.replica import format_txid, replica_prefix
from lifeline.store import Info, MemoryStore


def add(store: MemoryStore, level: int, first: int, last: int) -> str:
    key = f"{replica_prefix('genesis', 1, 'trades')}/{level:04x}/{format_txid(first)}-{format_txid(last)}.ltx"
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
