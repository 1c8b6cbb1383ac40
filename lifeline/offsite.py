"""The off-site vault: one pass of the mirror, from the vault to AWS S3 under Object Lock. Spaces can't copy across
regions, so what is new is streamed through the host.

Same keys, so that what restores from the vault restores from there. Nothing is ever removed: a vault that was emptied
must not empty its copy. Objects never change under a key, but for a few notes, so a key that is there is done.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lifeline import catalogue, points, replica, snapshots
from lifeline.errors import LifelineError
from lifeline.layout import Config, read_json, write_file
from lifeline.progress import Meter
from lifeline.store import Info, Missing, Store, find

# Finer files are for the first day, and the vault: a chain of these ends half a minute ago, and locks less.
FROM_LEVEL = 2
IN_MEMORY = 8 << 20
# In this order what is there is whole at any moment: a snapshot comes after everything it needs.
RESTIC = ("keys/", "config", "data/", "index/", "snapshots/")
NOTES = ("inventory/", "bundle/current.json")  # keys that are written again


@dataclass
class Tally:
    """What a pass has moved."""

    objects: int = 0
    bytes: int = 0
    meter: Meter = field(default_factory=lambda: Meter("copied off-site"))

    def add(self, size: int) -> None:
        self.objects, self.bytes = self.objects + 1, self.bytes + size
        self.meter(self.bytes, 0)


def mirror(config: Config, vault: Store, offsite: Store, epoch: int) -> dict[str, Any]:
    """Copy what the off-site vault lacks; returns (and notes in both) what it holds.

    Interrupted anywhere, what is there restores, and the next pass goes on. Raises Unavailable.
    """
    begun, tally, service = time.monotonic(), Tally(), config.service.name
    _copy_repository(vault, offsite, service, tally)
    for number in points.epochs(vault, service, epoch):
        _copy_epoch(config, vault, offsite, number, tally)
    for prefix in (catalogue.root(service), "bundle/", "journal/", "inventory/"):
        _copy_missing(vault, offsite, prefix, tally)
    report = {
        **{"version": 1, "at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")},
        **{"seconds": round(time.monotonic() - begun, 3), "objects": tally.objects, "bytes": tally.bytes},
        "snapshots": [info.key.rsplit("/", 1)[1] for info in offsite.list(f"{snapshots.prefix(service)}snapshots/")],
        "replica": _end(config, offsite, epoch),
    }
    body = json.dumps(report, indent=1).encode()
    for store in (offsite, vault):
        store.put(catalogue.offsite_key(service), body, content_type="application/json")
    return report


def _copy_missing(vault: Store, offsite: Store, prefix: str, tally: Tally) -> None:
    """Everything below a prefix whose name or size isn't there yet."""
    there = {info.key: info.size for info in offsite.list(prefix)}
    for info in vault.list(prefix):
        note = info.key.startswith(NOTES)
        if info.key.endswith("/offsite.json") or (there.get(info.key) == info.size and not note):
            continue
        if note and _same(vault, offsite, info):
            continue
        _copy(vault, offsite, info, tally)


def _copy_repository(vault: Store, offsite: Store, service: str, tally: Tally) -> None:
    """restic's files. Listed in the opposite order: what a listed snapshot needs was written before it, so it is listed
    too, while a backup is running. What was pruned meanwhile ends this part: the next pass begins it anew."""
    prefix = snapshots.prefix(service)
    listed = {part: list(vault.list(f"{prefix}{part}")) for part in reversed(RESTIC)}
    for part in RESTIC:
        there = {info.key: info.size for info in offsite.list(f"{prefix}{part}")}
        for info in listed[part]:
            if there.get(info.key) != info.size and not _copy(vault, offsite, info, tally):
                return


def _same(vault: Store, offsite: Store, info: Info) -> bool:
    here, there = find(vault, info.key), find(offsite, info.key)
    return here is not None and there is not None and here.body == there.body


def _copy_epoch(config: Config, vault: Store, offsite: Store, epoch: int, tally: Tally) -> None:
    """One epoch's replica: who wrote it, then each database's files, level by level, those behind the last one done."""
    service = config.service.name
    _copy_missing(vault, offsite, f"{replica.epoch_prefix(service, epoch)}owner.json", tally)
    done = _Done(config, offsite)
    for database in config.service.databases:
        prefix = replica.replica_prefix(service, epoch, database.name)
        for level in (points.SNAPSHOTS, *(level for level in points.LEVELS if level >= FROM_LEVEL)):
            folder = f"{prefix}/{level:04x}/"
            for info in vault.list(folder, after=done.last(folder)):
                _copy(vault, offsite, info, tally)
                done.note(folder, info.key)
    done.save()


class _Done:
    """The last file copied of each level, so that a pass with nothing new asks for nothing old. Names are in order; a
    host that knows nothing looks at what is there."""

    def __init__(self, config: Config, offsite: Store) -> None:
        self._path, self._offsite = config.layout.state / "offsite-done.json", offsite
        found = read_json(self._path) or {}
        self._last: dict[str, str] = found.get("last") or {} if found.get("where") == offsite.where else {}

    def last(self, folder: str) -> str:
        if folder not in self._last:
            self._last[folder] = max((info.key for info in self._offsite.list(folder)), default="")
        return self._last[folder]

    def note(self, folder: str, key: str) -> None:
        self._last[folder] = key

    def save(self) -> None:
        write_file(self._path, json.dumps({"where": self._offsite.where, "last": self._last}))


def _copy(vault: Store, offsite: Store, info: Info, tally: Tally) -> bool:
    """False when it is gone from the vault."""
    try:
        if info.size <= IN_MEMORY:
            offsite.put(info.key, vault.get(info.key).body)
        else:
            offsite.upload(io.BufferedReader(_Object(vault, info), points.PART), info.key, size=info.size)
    except Missing:
        return False  # retention was faster
    tally.add(info.size)
    return True


class _Object(io.RawIOBase):
    """An object of a store as a stream, read part by part."""

    def __init__(self, store: Store, info: Info) -> None:
        self._store, self._info, self._at = store, info, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        want = min(len(buffer), self._info.size - self._at)
        if want <= 0:
            return 0
        data = self._store.get_range(self._info.key, self._at, want)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _end(config: Config, offsite: Store, epoch: int) -> dict[str, Any] | None:
    """What restores from there: the newest epoch that is whole, and each database's last transaction, with its time."""
    service = config.service.name
    for number in points.epochs(offsite, service, epoch):
        try:
            plans = [points.plan(offsite, service, number, d.name) for d in config.service.databases]
        except LifelineError:
            continue  # its first files aren't there yet
        return {"epoch": number, "databases": dict(_positions(offsite, plans))}
    return None


def _positions(offsite: Store, plans: list[points.Plan]) -> Iterator[tuple[str, dict[str, Any]]]:
    for plan in plans:
        at = points.header(offsite, plan.pieces[-1]).at
        yield plan.database, {"txid": plan.txid, "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
