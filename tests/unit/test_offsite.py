"""The mirror of restic's repository while it changes, and the order in which an epoch is removed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from lifeline import offsite, points, prune
from lifeline.store import Info, MemoryStore, Missing, Object, keys

ROOT = "snapshots/genesis/"
PREFIX = "replica/genesis/epoch-0001/trades"


class Busy(MemoryStore):
    """A vault into which a backup is written between any two listings, or from which a pack is pruned."""

    backups = 0

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Info]:
        found = list(super().list(prefix, after=after))
        for part in ("data", "index", "snapshots"):
            self.put(f"{ROOT}{part}/{self.backups:04d}", b"x")
        self.backups += 1
        return iter(found)


class Pruned(MemoryStore):
    def get(self, key: str) -> Object:
        if "/data/" in key:
            raise Missing(key)
        return super().get(key)


def names(store: MemoryStore, part: str) -> set[str]:
    return {key.rpartition("/")[2] for key in keys(store, f"{ROOT}{part}/")}


def test_no_snapshot_arrives_without_its_packs_while_a_backup_runs() -> None:
    vault, there = Busy(), MemoryStore()
    for _ in range(3):
        offsite._copy_repository(vault, there, "genesis", offsite.Tally())
        assert names(there, "snapshots") <= names(there, "index") <= names(there, "data")
    assert names(there, "snapshots")


def test_a_pack_that_was_pruned_meanwhile_holds_back_what_may_need_it() -> None:
    vault, there = Pruned(), MemoryStore()
    for part in ("data", "index", "snapshots"):
        vault.put(f"{ROOT}{part}/1", b"x")
    offsite._copy_repository(vault, there, "genesis", offsite.Tally())
    assert not names(there, "snapshots") and not names(there, "index")


def test_a_removal_cut_off_anywhere_never_leaves_a_shorter_whole() -> None:
    files = [(9, 1, 1), (9, 1, 40), *((2, n, n + 9) for n in range(1, 71, 10)), (3, 1, 30), (4, 1, 20)]
    files += [(1, n, n + 1) for n in range(61, 79, 2)]
    every = [f"{PREFIX}/{level:04x}/{first:016x}-{last:016x}.ltx" for level, first, last in files]
    every.append("replica/genesis/epoch-0001/owner.json")
    random.Random(1).shuffle(every)
    store = MemoryStore()
    for key in every:
        store.put(key, b"{}")
    end = points.plan(store, "genesis", 1, "trades").txid
    assert end == 78
    order = prune.removal_order(every)
    assert order[-1].endswith("owner.json")
    for key in order:
        store.delete(key)
        try:
            assert points.plan(store, "genesis", 1, "trades").txid == end
        except (points.Gap, points.NothingOldEnough):
            continue
    with pytest.raises(points.NothingOldEnough):
        points.plan(store, "genesis", 1, "trades")
