"""`lifeline-host restore`: past data beside the live databases, verified, then swapped in; or a copy to look at.

Sources are tried in the order of how new their data is, and each failure is told.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from lifeline import backups, data, extract, points, snapshots, sources
from lifeline.errors import BadInput, LifelineError, Refused, StepFailed, Unavailable
from lifeline.layout import Config, DataFile, read_json, write_file
from lifeline.progress import say
from lifeline.service import Database
from lifeline.snapshots import Repository
from lifeline.sources import Copy, Source
from lifeline.store import Store
from lifeline.supervisor import Supervisor
from lifeline.verify import worst

VERIFY_S = 3600.0
ROOM_EXTRA = 64 << 20
RATE = 60 << 20  # bytes a second, restored and verified, where nothing was measured on this host
Answer = dict[str, Any]
Find = Callable[[], Copy]
Opened = Callable[[], Store]
Output = Callable[[Database], Path]


@dataclass(frozen=True)
class Want:
    """What is asked for: `epoch` is the newest that counts; `at` RFC 3339, or `txid`, or neither for the newest;
    `source` None: any, the newest data first."""

    epoch: int
    at: str | None = None
    txid: int | None = None
    source: Source | None = None

    @property
    def fixed(self) -> bool:
        """Does it mean the same data whenever it is asked for? The end of a replica moves on."""
        return self.at is not None or self.txid is not None

    @property
    def moment(self) -> datetime | None:
        return None if self.at is None else datetime.fromisoformat(self.at)


def wanted(epoch: int, at: str | None, txid: str | None, source: str | None) -> Want:
    """From the command line. BadInput for what makes no sense."""
    if at is not None and txid is not None:
        raise BadInput("restore to a time or to a transaction, not both", hint="fab restore --at TIME")
    number = parse_txid(txid)
    if number is not None and source in ("snapshot", "local"):
        raise BadInput(f"a transaction can't be found in {source}: restic's copies have times", hint="--at TIME")
    if source is not None and source not in sources.SOURCES:
        raise BadInput(f'"{source}" is no source; known: {", ".join(sources.SOURCES)}', hint="fab restore --from vault")
    return Want(epoch, normalise_time(at), number, source)


def normalise_time(text: str | None) -> str | None:
    """A restore's time as RFC 3339 in UTC; "2024-01-15 14:00:00" is taken for UTC. BadInput for anything that isn't
    a time, or is in the future."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(
            f'"{text}" is not a time',
            hint='--at "2026-01-15 14:00:00" (UTC), or with an offset: 2026-01-15T14:00:00+01:00',
        ) from None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    if at > datetime.now(UTC):
        raise BadInput(f'"{text}" is in the future', hint="leave --at out for the newest state")
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_txid(text: str | None) -> int | None:
    """A transaction's number: decimal, or as Litestream writes it, 16 hexadecimal digits."""
    if text is None:
        return None
    try:
        number = int(text, 16) if len(text) == 16 else int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise BadInput(f'"{text}" is no transaction', hint="a number such as 4711, or 0000000000001267")
    return number


@dataclass(frozen=True)
class Doors:
    """Where the replicas are read; opened by the caller, so that one that is away fails only when it is tried."""

    vault: Opened
    offsite: Opened


def restore(
    config: Config, supervisor: Supervisor, doors: Doors, want: Want, *, stage_only: bool = False, older: bool = False
) -> Answer:
    """Every database restored beside its live one, verified in full, then swapped in; the old ones are kept.

    With `stage_only` the service may go on; the swap then takes a moment. The data belongs to no epoch then: take
    the next one to serve it. `older`: data of another source than the newest may be taken.
    """
    begun = time.monotonic()
    if not stage_only:
        _require_stopped(config, supervisor)
    with backups.one_at_a_time(config, "restore"):
        staged = _stage(config, doors, want, older)
        kept = {} if stage_only else _swap(config, want, staged)
    return {
        **{"changed": True, "epoch": want.epoch, "source_epoch": staged["epoch"], "swapped": not stage_only},
        **{"verified": True, "source": staged["source"], "tried": staged["tried"], "bytes": staged["bytes"]},
        "databases": [
            {"name": name, "txid": txid, "at": staged["at"], "kept": kept.get(name)}
            for name, txid in staged["txids"].items()
        ],
        "seconds": round(time.monotonic() - begun, 3),
    }


def _require_stopped(config: Config, supervisor: Supervisor) -> None:
    running = supervisor.states()
    busy = [name for name in (config.service.name, "litestream") if name in running and running[name].running]
    if busy:
        raise Refused(f"{', '.join(busy)} still running on {config.name}", hint="lifeline-host stop-service")


def _swap(config: Config, want: Want, staged: Mapping[str, Any]) -> dict[str, str]:
    txids = {name: txid for name, txid in staged["txids"].items() if txid}
    origin = int(staged["epoch"]) or want.epoch
    kept = data.swap_all(
        config,
        DataFile(origin_epoch=origin, txids=txids, at=want.at, as_replicated=bool(staged["as_replicated"])),
    )
    _note(config).unlink(missing_ok=True)
    if not all(config.layout.live(database).exists() for database in config.service.databases):
        raise StepFailed("a database is missing after the swap")
    return kept


def _note(config: Config) -> Path:
    return config.layout.state / "staged.json"


def _stage(config: Config, doors: Doors, want: Want, older: bool) -> Answer:
    """Restored beside and verified. Done once for the same request, unless it is for the end, which moves on."""
    note, asked = _note(config), asdict(want)
    found = read_json(note)
    if (
        found
        and want.fixed
        and found.get("asked") == asked
        and all(config.layout.staged(database).exists() for database in config.service.databases)
    ):
        return found
    note.unlink(missing_ok=True)
    for database in config.service.databases:
        config.layout.private(database)
        data.clear(config.layout.staged(database))
    copy, tried = _first_good(config, doors, want, config.layout.staged, older)
    report = {**_plain(copy), "asked": asked, "tried": tried}
    write_file(note, json.dumps(report))
    return report


def inspect(config: Config, doors: Doors, want: Want, folder: Path) -> Answer:
    """A verified copy of every database in a new folder, for a person to look at; nothing live is touched."""
    if folder.exists():
        raise BadInput(f"{folder} exists already on {config.name}", hint="name a folder that doesn't")
    live = [config.layout.live(database).parent for database in config.service.databases]
    if any(folder == parent or parent in folder.parents for parent in live):
        raise BadInput(f"{folder} lies among the live databases", hint="name a folder elsewhere")
    begun = time.monotonic()
    try:
        copy, tried = _first_good(config, doors, want, sources.in_folder(folder), True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    paths = {name: str(path) for name, path in copy.paths.items()}
    took = round(time.monotonic() - begun, 3)
    return {**_plain(copy), "tried": tried, "paths": paths, "verified": True, "seconds": took}


def extract_rows(config: Config, doors: Doors, want: Want, table: str, form: extract.Format, owner: int) -> Answer:
    """Rows of one table of a verified past copy into a file of `owner`'s; the caller fetches and removes it.

    With several databases the first that has such a table is meant.
    """
    begun, scratch = time.monotonic(), config.layout.state / "extract"
    with backups.one_at_a_time(config, "extraction"):
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            copy, tried = _first_good(config, doors, want, sources.in_folder(scratch), True)
            handle, name = tempfile.mkstemp(prefix="lifeline-rows-", suffix=f".{form}")
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as out:
                count = _of_any(list(copy.paths.values()), table, form, out)
            os.chown(name, owner, -1)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    took = round(time.monotonic() - begun, 3)
    return {**_plain(copy), "path": name, "rows": count, "tried": tried, "seconds": took}


def _of_any(paths: list[Path], table: str, form: extract.Format, out: TextIO) -> int:
    for path in paths[:-1]:
        with contextlib.suppress(BadInput):
            return extract.extract(path, table, form, out)
    return extract.extract(paths[-1], table, form, out)


def _plain(copy: Copy) -> Answer:
    return {
        **{"source": copy.source, "epoch": copy.epoch, "txids": dict(copy.txids), "at": copy.at},
        **{"bytes": copy.bytes, "restore_s": copy.seconds, "as_replicated": copy.as_replicated},
    }


def _first_good(config: Config, doors: Doors, want: Want, output_of: Output, older: bool) -> tuple[Copy, list[Answer]]:
    """The newest data that can be restored and is good, and what failed before it."""
    require_room(config)
    tried: list[Answer] = []
    errors: list[LifelineError] = []
    for source, name, find in _candidates(config, doors, want, output_of, tried):
        say(f"restoring from {name}")
        try:
            copy = find()
            findings = {
                d.name: data.verify_copy(config, d, copy.paths[d.name], "full", time.monotonic() + VERIFY_S)
                for d in config.service.databases
            }
            data.require_good(name, worst(findings))
        except BadInput:
            raise
        except LifelineError as error:
            errors.append(error)
            say(f"not from {name}: {error.message}")
            tried.append({"source": source, "from": name, "why": error.message, "reach": getattr(error, "reach", None)})
            continue
        if tried and not older:
            _refuse_older(tried, name, copy)
        return copy, tried
    if len(errors) == 1:
        raise errors[0]
    worst_error = next((error for error in errors if not isinstance(error, Unavailable)), errors[0])
    said = "; ".join(f"{one['from']}: {one['why']}" for one in tried)
    raise type(worst_error)(f"no source has good data: {said}", hint="fab restore --at an earlier time; fab backups")


def _refuse_older(tried: list[Answer], name: str, copy: Copy) -> None:
    said = "; ".join(f"{one['from']}: {one['why']}" for one in tried)
    of = f" of {copy.at}" if copy.at else ""
    raise Refused(
        f"the newest data can't be restored ({said}). What can be: {name}{of}; everything after that is lost",
        hint="to take it: the same command with --waive older-source",
    )


_Candidate = tuple[Source, str, Find]


def _candidates(
    config: Config, doors: Doors, want: Want, output_of: Output, tried: list[Answer]
) -> Iterator[_Candidate]:
    """What to try, the newest data first. `tried` fills up meanwhile: a replica with a hole is taken up to it."""
    both: tuple[tuple[Source, Opened], ...] = (("vault", doors.vault), ("offsite", doors.offsite))
    replicas = [one for one in both if want.source in (None, one[0])]
    for source, opened in replicas:
        yield source, f"the replica ({source})", partial(_replica, config, source, opened, want, output_of)
    for source, opened in replicas:
        reach = next((one["reach"] for one in tried if one["source"] == source and one["reach"]), None)
        if reach and not want.fixed:
            name = f"the replica ({source}) up to the gap"
            yield source, name, partial(_up_to, config, source, opened, want, reach, output_of)
    places: tuple[tuple[Source, snapshots.Place], ...]
    places = (("local", "local"), ("snapshot", "vault"), ("offsite", "offsite"))
    for source, place in places:
        repository = backups.repositories(config).get(place)
        if repository and want.txid is None and want.source in (None, source):
            yield source, f"restic ({place})", partial(_restic, config, source, repository, want, output_of)


def _replica(config: Config, source: Source, opened: Opened, want: Want, output_of: Output) -> Copy:
    store = opened()
    if want.moment is not None:
        epoch, txids = sources.at_moment(config, store, want.epoch, want.moment)
        return sources.from_replica(config, store, source, epoch, txids, output_of, at=want.at)
    asked: dict[str, int | None] = dict.fromkeys((d.name for d in config.service.databases), want.txid)
    if want.txid is not None and len(asked) > 1:
        raise BadInput("each database counts its own transactions: with several, restore to a time", hint="--at TIME")
    epoch = sources.newest_epoch(config, store, want.epoch)
    return sources.from_replica(config, store, source, epoch, asked, output_of)


def _up_to(config: Config, source: Source, opened: Opened, want: Want, reach: int, output_of: Output) -> Copy:
    """The replica up to the last transaction before a hole."""
    store, databases = opened(), config.service.databases
    if len(databases) > 1:
        raise StepFailed("with several databases a gap needs a time", hint="fab restore --at TIME, to before the gap")
    epoch = sources.newest_epoch(config, store, want.epoch)
    return sources.from_replica(config, store, source, epoch, {databases[0].name: reach}, output_of)


def _restic(config: Config, source: Source, repository: Repository, want: Want, output_of: Output) -> Copy:
    scratch = config.layout.state / "restore"
    try:
        snapshot = sources.choose(repository, want.moment)
        at = snapshot.at.isoformat(timespec="seconds").replace("+00:00", "Z")
        return sources.from_restic(config, repository, source, snapshot.id, scratch, output_of, at=at)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def require_room(config: Config) -> None:
    """Refuse before anything is touched when the disk is too small. StepFailed with the numbers."""
    need, free = _need(config)
    if free < need:
        raise StepFailed(
            f"a restore needs {need >> 20} MB of free disk on {config.name}, there are {free >> 20} MB",
            hint="df -h /var/lib on that host; free some space, then the same again",
        )


def _need(config: Config) -> tuple[int, int]:
    layout = config.layout
    live = [layout.live(database) for database in config.service.databases]
    size = sum(path.stat().st_size for path in live if path.exists())
    return int(size * 1.2) + ROOM_EXTRA, shutil.disk_usage(layout.state).free


def outline(config: Config, doors: Doors, want: Want) -> Answer:
    """What a restore would take: point, size, time, the room it needs and there is. Restores nothing."""
    need, free = _need(config)
    answer: Answer = {"need_bytes": need, "free_bytes": free, "memory_bytes": 200 << 20, "at": want.at, "tried": []}
    for source, opened in (("vault", doors.vault), ("offsite", doors.offsite)):
        if want.source not in (None, source):
            continue
        try:
            return {**answer, **_outline(config, source, opened(), want)}
        except BadInput:
            raise
        except LifelineError as error:
            answer["tried"].append({"from": f"the replica ({source})", "why": error.message})
    answer["source"] = want.source or "restic"
    return answer


def _outline(config: Config, source: str, store: Store, want: Want) -> Answer:
    service = config.service
    txids: Mapping[str, int | None] = dict.fromkeys((d.name for d in service.databases), want.txid)
    if want.moment is not None:
        epoch, txids = sources.at_moment(config, store, want.epoch, want.moment)
    else:
        epoch = sources.newest_epoch(config, store, want.epoch)
    plans = [points.plan(store, service.name, epoch, name, txid=txid) for name, txid in txids.items()]
    newest = [points.plan(store, service.name, epoch, plan.database) for plan in plans]
    size = sum(plan.bytes for plan in plans)
    return {
        **{"source": source, "epoch": epoch, "txids": {plan.database: plan.txid for plan in plans}, "bytes": size},
        **{"files": sum(len(plan.pieces) for plan in plans), "expected_s": round(2 + size / _rate(config), 1)},
        "transactions_lost": sum(new.txid - old.txid for new, old in zip(newest, plans, strict=True)),
    }


def _rate(config: Config) -> float:
    found = read_json(config.layout.state / "rates.json") or {}
    rate = found.get("bytes_per_s")
    return float(rate) if isinstance(rate, int | float) and rate > 0 else float(RATE)
