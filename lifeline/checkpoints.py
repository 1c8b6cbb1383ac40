"""Who begins SQLite's write-ahead log anew? Only Litestream may: what another one's checkpoint lets be overwritten
while Litestream isn't there to read it, the replica never gets as it was written.

Both leave a count. Each time a log is begun anew its first salt goes up by one; each time Litestream checkpoints it
adds one to its own table, `_litestream_seq`. While Litestream alone checkpoints the two go up together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from lifeline import wal
from lifeline.layout import Config, read_role
from lifeline.verify import connect, rows

TOLD_FOR = timedelta(hours=24)
SALTS = 1 << 32
MOST = 1 << 20  # further on it is another log: its salts were drawn


@dataclass(frozen=True)
class Counts:
    """How often a log was begun anew, and how often Litestream checkpointed. Only differences mean anything."""

    begun: int
    meant: int


@dataclass(frozen=True)
class Watched:
    """One database. `life`: of which log these counts are; `extra`: how often more than meant, when last seen."""

    life: tuple[int, ...]
    first: Counts
    extra: int = 0
    told: int = 0
    at: datetime | None = None


def count(database: Path) -> Counts | None:
    """Both counts as of one moment; None where they can't be had just now."""
    before = _salt(database)
    if before is None:
        return None
    try:
        with connect(database) as connection:
            found = rows(connection, "SELECT seq FROM _litestream_seq")
    except Exception:  # no such table yet, or busy: the next look will tell
        return None
    return Counts(before, int(found[0][0]) if found else 0) if _salt(database) == before else None


def _salt(database: Path) -> int | None:
    try:
        with database.with_name(f"{database.name}-shm").open("rb") as index:
            found = wal.read_index(index.read(wal.INDEX_BYTES))
    except OSError:
        return None
    return int.from_bytes(found.salts[:4], "big") if found else None


def judge(before: Watched | None, life: tuple[int, ...], now: Counts, at: datetime) -> Watched:
    """After another look. Pure. What is seen once may be Litestream's own, between its checkpoint and its count; what
    two looks see is not."""
    if before is None or before.life != life:
        return Watched(life, now)
    begun = (now.begun - before.first.begun) % SALTS
    extra = begun - (now.meant - before.first.meant)
    if begun > MOST:
        return Watched(life, now, told=before.told, at=before.at)
    if min(extra, before.extra) > before.told:
        return replace(before, extra=extra, told=min(extra, before.extra), at=at)
    return replace(before, extra=extra)


def look(config: Config, watched: Mapping[str, Watched], now: datetime) -> dict[str, Watched]:
    """Every live database of a primary; nothing elsewhere."""
    role = read_role(config.layout)
    if role.role != "primary":
        return {}
    found: dict[str, Watched] = {}
    for database in config.service.databases:
        live, before = config.layout.live(database), watched.get(database.name)
        counted = count(live) if live.exists() else None
        if counted is not None:
            life = (role.epoch, live.stat().st_ino, _anew(config.layout.run))
            found[database.name] = judge(before, life, counted, now)
        elif before is not None:
            found[database.name] = before
    return found


def strangers(watched: Mapping[str, Watched], now: datetime) -> dict[str, int]:
    """By database: how often somebody else began its log anew, where that was within the last day."""
    return {name: one.told for name, one in watched.items() if one.at is not None and now - one.at < TOLD_FOR}


def note_anew(run: Path) -> None:
    """We began a log anew ourselves, before Litestream was there (wal.begin_anew)."""
    run.mkdir(parents=True, exist_ok=True)
    path = run / "log-begun-anew"
    path.touch()
    os.utime(path)


def _anew(run: Path) -> int:
    path = run / "log-begun-anew"
    return path.stat().st_mtime_ns if path.exists() else 0
