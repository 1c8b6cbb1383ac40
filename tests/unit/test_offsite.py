"""The mirror's passes: what they ask for, what they mend, what they say; and the order in which an epoch is removed."""

from __future__ import annotations

import json
import random
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lifeline import offsite, points, prune
from lifeline.errors import Unavailable
from lifeline.layout import Config
from lifeline.store import Info, MemoryStore, keys
from tests.unit.hostkit import config as host_config

PREFIX = "replica/genesis/epoch-0001/trades"
START = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Dated(MemoryStore):
    """A bucket with a clock of its own."""

    def __init__(self, name: str, now: datetime = START) -> None:
        super().__init__(name)
        self.now = now

    def _write(self, key: str, body: bytes) -> str:
        etag = super()._write(key, body)
        found = self._objects[key]
        info = Info(key, found.info.size, etag, self.now)
        self._objects[key] = type(found)(found.body, info)
        return etag


def key(level: int, first: int, last: int, epoch: int = 1) -> str:
    return f"replica/genesis/epoch-{epoch:04d}/trades/{level:04x}/{first:016x}-{last:016x}.ltx"


def ltx_file(first: int, last: int, at: datetime = START) -> bytes:
    """A header, which is all that is looked at here."""
    return (b"LTX1" + bytes(4) + struct.pack(">IIQQQ", 4096, 1, first, last, int(at.timestamp() * 1000))).ljust(100)


def write(store: Dated, level: int, first: int, last: int, epoch: int = 1) -> None:
    store.put(key(level, first, last, epoch), ltx_file(first, last, store.now))


class World:
    """A vault with a replica that has a snapshot and two files of half a minute, and an empty off-site vault."""

    def __init__(self, folder: Path) -> None:
        self.config: Config = host_config(folder)
        self.vault, self.away = Dated("vault"), Dated("away")
        self.vault.put("replica/genesis/epoch-0001/owner.json", b'{"host": "primary-newyork"}')
        write(self.vault, 9, 1, 10)
        write(self.vault, 2, 11, 20)
        write(self.vault, 2, 21, 30)
        self.vault.put("catalogue/genesis/20260601T020000Z-full.json", b"{}")
        self.vault.put("bundle/current.json", b"one")
        self.vault.put("journal/20260601T100000Z-failover-ab.jsonl", b"line\n")

    def pass_(self, epoch: int = 1, after: timedelta = timedelta(0)) -> dict[str, Any]:
        self.vault.now += after
        self.away.now = self.vault.now
        return offsite.mirror(self.config, self.vault, self.away, epoch, now=lambda: self.vault.now)

    @property
    def held(self) -> set[str]:
        return set(keys(self.away, ""))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


MINUTE = timedelta(minutes=1)


def test_a_pass_asks_the_offsite_vault_nothing_and_brings_it_only_what_is_new(world: World) -> None:
    assert world.pass_()["replica"]["databases"]["trades"]["txid"] == 30
    idle = world.pass_(after=MINUTE)["requests"]
    assert idle["offsite"] == {}
    for number in range(3000):
        write(world.vault, 2, 31 + number, 31 + number)
    report = world.pass_(after=MINUTE)
    assert report["requests"]["offsite"] == {"PutObject": 3000}
    assert world.pass_(after=MINUTE)["requests"] == idle  # whatever the replica's size
    assert report["replica"]["databases"]["trades"]["txid"] == 3030 and report["objects"] == 3000
    assert points.plan(world.away, "genesis", 1, "trades").txid == 3030


def test_what_went_missing_is_found_within_a_day_copied_again_and_told(world: World) -> None:
    world.pass_()
    world.away.delete(key(2, 11, 20))
    assert world.pass_(after=MINUTE)["objects"] == 0
    report = world.pass_(after=timedelta(hours=24))
    assert key(2, 11, 20) in world.held
    assert (report["checked"]["missed"], report["checked"]["missed_first"]) == (1, key(2, 11, 20))
    assert report["checked"]["holes"] == []
    assert world.pass_(after=timedelta(hours=24))["checked"]["missed"] == 0


DAY = timedelta(hours=25)


def test_an_older_epoch_documents_and_restics_snapshots_are_missed_too(world: World) -> None:
    world.pass_()
    write(world.vault, 9, 1, 40, epoch=2)
    world.pass_(epoch=2, after=MINUTE)
    for name in ("snapshots/" + "a" * 64, "snapshots/" + "b" * 64, "keys/" + "c" * 64, "config"):
        world.away.put(f"snapshots/genesis/{name}", b"x")
    checked = world.pass_(epoch=2, after=DAY)["checked"]
    assert (checked["missed"], checked["gone"]) == (0, 0)
    gone = {each for each in world.held if "epoch-0002" not in each and each != "catalogue/genesis/offsite.json"}
    for each in gone:
        world.away.delete(each)
    checked = world.pass_(epoch=2, after=DAY)["checked"]
    mirrored = sorted(each for each in gone if not each.startswith("snapshots/"))
    assert (checked["missed"], checked["missed_first"]) == (len(mirrored), mirrored[0])
    assert set(mirrored) <= world.held
    assert (checked["gone"], checked["gone_first"]) == (4, "/config")
    assert world.pass_(epoch=2, after=DAY)["checked"]["gone"] == 0


def test_a_snapshot_that_goes_between_two_looks_is_missed_by_the_next_one(world: World) -> None:
    world.away.put("snapshots/genesis/snapshots/" + "a" * 64, b"x")
    world.pass_()
    world.away.delete("snapshots/genesis/snapshots/" + "a" * 64)
    world.vault.put("catalogue/genesis/20260601T130000Z-full.json", b"{}")
    assert world.pass_(after=MINUTE)["snapshots"] == []  # a new backup has them listed
    assert world.pass_(after=DAY)["checked"]["gone"] == 1


def test_snapshots_as_old_as_the_policy_may_go(world: World) -> None:
    world.away.put("snapshots/genesis/snapshots/" + "a" * 64, b"x")
    world.pass_()
    world.pass_(after=timedelta(days=world.config.inventory.backups.offsite_days + 1))
    world.away.delete("snapshots/genesis/snapshots/" + "a" * 64)
    assert world.pass_(after=DAY)["checked"]["gone"] == 0


def test_what_goes_after_a_failover_is_missed_by_what_the_other_host_had_seen(world: World, tmp_path: Path) -> None:
    world.away.put("snapshots/genesis/snapshots/" + "a" * 64, b"x")
    world.pass_(after=10 * MINUTE)
    world.away.delete("snapshots/genesis/snapshots/" + "a" * 64)
    world.away.delete(key(9, 1, 10))
    world.config = host_config(tmp_path / "other", "backup-singapore")
    write(world.vault, 9, 1, 40, epoch=2)
    checked = world.pass_(epoch=2, after=timedelta(hours=1))["checked"]
    assert (checked["missed_first"], checked["gone"]) == (key(9, 1, 10), 1)


def test_a_torn_copy_is_replaced(world: World) -> None:
    world.pass_()
    world.away.put(key(2, 21, 30), b"half")
    world.pass_(after=timedelta(hours=24))
    assert world.away.get(key(2, 21, 30)).body == world.vault.get(key(2, 21, 30)).body


def test_what_neither_has_any_more_is_a_hole_and_no_restore_is_promised_across_it(world: World) -> None:
    write(world.vault, 2, 31, 40)
    world.pass_()
    for store in (world.vault, world.away):
        store.delete(key(2, 21, 30))
    report = world.pass_(after=timedelta(hours=24))
    assert report["checked"]["holes"] == ["epoch 1, trades, behind transaction 20"]
    assert report["replica"] is None
    write(world.vault, 9, 1, 50)
    assert world.pass_(after=MINUTE)["replica"]["databases"]["trades"]["txid"] == 50


def test_an_epoch_that_ended_gets_its_last_seconds(world: World) -> None:
    write(world.vault, 1, 28, 30)
    write(world.vault, 1, 31, 33)
    for txid in (31, 32, 33, 34, 35):
        write(world.vault, 0, txid, txid)
    world.pass_()
    assert points.plan(world.away, "genesis", 1, "trades").txid == 30
    world.vault.put(
        "replica/genesis/epoch-0002/owner.json", b'{"continues": {"epoch": 1, "databases": {"trades": 35}}}'
    )
    write(world.vault, 0, 35, 35, epoch=2)
    write(world.vault, 2, 36, 40, epoch=2)
    report = world.pass_(epoch=2, after=MINUTE)
    assert points.plan(world.away, "genesis", 1, "trades").txid == 35
    assert {key(1, 31, 33), key(0, 34, 34), key(0, 35, 35)} <= world.held
    assert not {key(1, 28, 30), key(0, 31, 31)} & world.held  # coarser files have those
    # So the epoch that goes on from there restores too, before it has a snapshot.
    assert report["replica"] == {"epoch": 2, "databases": {"trades": {"txid": 40, "at": "2026-06-01T12:00:00.000Z"}}}


def test_an_epoch_that_ended_before_its_first_half_minute_arrives_too(world: World) -> None:
    world.vault.put(
        "replica/genesis/epoch-0002/owner.json", b'{"continues": {"epoch": 1, "databases": {"trades": 30}}}'
    )
    for txid in (30, 31, 32):
        write(world.vault, 0, txid, txid, epoch=2)
    write(world.vault, 9, 1, 33, epoch=3)
    world.pass_(epoch=3)
    assert points.plan(world.away, "genesis", 2, "trades").txid == 32


def test_documents_that_come_late_or_are_written_again_are_brought(world: World) -> None:
    world.pass_()
    world.vault.put("bundle/current.json", b"two")
    world.vault.put("journal/20260601T100000Z-failover-ab.jsonl", b"line\nline\n")
    world.vault.put("journal/20260601T090000Z-backup-cd.jsonl", b"of an hour before\n")
    report = world.pass_(after=MINUTE)
    assert report["objects"] == 3 and report["requests"]["offsite"] == {"PutObject": 3}
    assert world.away.get("bundle/current.json").body == b"two"


def test_a_pass_that_was_cut_off_is_made_up_for(world: World) -> None:
    world.pass_()
    write(world.vault, 2, 31, 40)

    def fails(*_: Any, **__: Any) -> str:
        raise Unavailable("the host died")

    world.away.put = fails  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        world.pass_(after=MINUTE)
    del world.away.put
    assert world.pass_(after=MINUTE)["replica"]["databases"]["trades"]["txid"] == 40


@pytest.mark.parametrize("spoilt", ["", "[]", '{"where": 3}', '{"where": "x", "epoch": 1, "looked": "yesterday"}'])
def test_a_host_that_knows_nothing_looks(world: World, spoilt: str) -> None:
    world.pass_()
    (world.config.layout.state / "offsite-known.json").write_text(spoilt)
    report = world.pass_(after=MINUTE)
    assert report["objects"] == 0 and report["requests"]["offsite"]["ListObjectsV2"] > 5


def test_another_offsite_vault_is_filled_from_the_beginning(world: World) -> None:
    world.pass_()
    world.away = Dated("another")
    world.pass_(after=MINUTE)
    assert {key(9, 1, 10), key(2, 11, 20), key(2, 21, 30), "bundle/current.json"} <= world.held


def test_what_is_lacking_by_key_and_size() -> None:
    def infos(**sizes: int) -> list[Info]:
        return [Info(name, size, "", START) for name, size in sorted(sizes.items())]

    draw = random.Random(1)
    for _ in range(300):
        here = {name: draw.randrange(2) for name in "abcdefgh" if draw.random() < 0.5}
        there = {name: draw.randrange(2) for name in "abcdefgh" if draw.random() < 0.5}
        found = [info.key for info in offsite.lacking(infos(**here), iter(infos(**there)))]
        assert found == sorted(name for name, size in here.items() if there.get(name) != size)


def test_the_report_is_in_the_vault(world: World) -> None:
    report = world.pass_()
    assert json.loads(world.vault.get("catalogue/genesis/offsite.json").body) == report
    assert (report["checked"]["objects"], report["checked"]["bytes"]) == (7, 337)


def test_a_removal_cut_off_anywhere_never_leaves_a_shorter_whole() -> None:
    files = [(9, 1, 1), (9, 1, 40), *((2, n, n + 9) for n in range(1, 71, 10)), (3, 1, 30), (4, 1, 20)]
    files += [(1, n, n + 1) for n in range(61, 79, 2)]
    every = [key(level, first, last) for level, first, last in files]
    every.append("replica/genesis/epoch-0001/owner.json")
    draw = random.Random(1)
    for _ in range(20):
        draw.shuffle(every)
        store = MemoryStore()
        for name in every:
            store.put(name, b"{}")
        end = points.plan(store, "genesis", 1, "trades").txid
        assert end == 78
        groups = prune.removal(every)
        assert groups[-1] == ["replica/genesis/epoch-0001/owner.json"] and sum(map(len, groups)) == len(every)
        for group in groups:
            for name in draw.sample(group, len(group)):
                store.delete(name)
                try:
                    assert points.plan(store, "genesis", 1, "trades").txid == end
                except (points.Gap, points.NothingOldEnough):
                    continue
        with pytest.raises(points.NothingOldEnough):
            points.plan(store, "genesis", 1, "trades")
