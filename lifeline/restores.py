"""`lifeline-host restore`: past data beside the live databases, verified, then swapped in; or a copy to look at.

Sources are tried in the order of how new their data is, and each failure is told.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NoReturn, TextIO, TypeVar

from lifeline import backups, data, extract, files, points, replica, room, sources
from lifeline.alerts import MEMORY_NEEDED
from lifeline.errors import BadInput, LifelineError, Refused, StepFailed, Unavailable
from lifeline.layout import Config, DataFile, read_json, write_file
from lifeline.progress import say
from lifeline.service import Database
from lifeline.sources import Backup, Copy, Source
from lifeline.store import Store, find
from lifeline.supervisor import Supervisor
from lifeline.verify import worst

VERIFY_S = 3600.0
EARLIEST = 1970  # the year before which nothing can have been written; no clock's zone leads out of what a date can be
RATE = 60 << 20  # bytes a second, restored and verified, where nothing was measured on this host
Answer = dict[str, Any]
T = TypeVar("T")
Opened = Callable[[], Store]
Part = Literal["database", "configuration", "state", "logs"]
PARTS: tuple[Part, ...] = ("database", *files.KINDS)


@dataclass(frozen=True)
class Want:
    """What is asked for: `epoch` is the newest that counts; `at` RFC 3339, or `txid`, or neither for the newest;
    `source` None: any, the newest data first. `only`: which parts of a backup."""

    epoch: int
    at: str | None = None
    txid: int | None = None
    source: Source | None = None
    only: tuple[Part, ...] = ("database",)

    @property
    def databases(self) -> bool:
        return "database" in self.only

    @property
    def files(self) -> tuple[files.Kind, ...]:
        return tuple(kind for kind in files.KINDS if kind in self.only)

    @property
    def fixed(self) -> bool:
        """Does it mean the same data whenever it is asked for? The end of a replica moves on."""
        return self.at is not None or self.txid is not None

    @property
    def moment(self) -> datetime | None:
        return None if self.at is None else datetime.fromisoformat(self.at)


def wanted(epoch: int, at: str | None, txid: str | None, source: str | None, only: Sequence[str] = ()) -> Want:
    """From the command line. BadInput for what makes no sense."""
    parts = _parts(only)
    if at is not None and txid is not None:
        raise BadInput("restore to a time or to a transaction, not both", hint="fab restore --at TIME")
    number = parse_txid(txid)
    if number is not None and source in ("snapshot", "local"):
        raise BadInput(f"a transaction can't be found in {source}: restic's copies have times", hint="--at TIME")
    if source is not None and source not in sources.SOURCES:
        raise BadInput(f'"{source}" is no source; known: {", ".join(sources.SOURCES)}', hint="fab restore --from vault")
    if parts != ("database",):
        _require_backup(parts, number, source)
    return Want(epoch, normalise_time(at), number, source, parts)


def _parts(only: Sequence[str]) -> tuple[Part, ...]:
    named = {"config": "configuration"}
    given = [named.get(name, name) for name in only] or ["database"]
    for name in given:
        if name not in PARTS:
            known = "config, state, logs, database"
            raise BadInput(f'"{name}" is no part of a backup; known: {known}', hint="fab restore --only state")
    return tuple(part for part in PARTS if part in given)


def _require_backup(parts: Sequence[Part], txid: int | None, source: Source | None) -> None:
    """Files are in backups only; so are a database and files of one moment."""
    words = " ".join(f"--only {'config' if part == 'configuration' else part}" for part in parts)
    if txid is not None:
        raise BadInput(
            "files have no transactions: they are as of a backup's time", hint=f"fab restore {words} --at TIME"
        )
    if source == "vault":
        raise BadInput(
            "the replica in the vault holds databases only; files are in the backups",
            hint=f"fab restore {words} --from snapshot: the backups in the same vault",
        )
    if "database" in parts and source is None:
        raise BadInput(
            "database and files of one moment are in a backup only, and what was written since it is undone: say which",
            hint=f"fab backups shows how old they are; fab restore {words} --from local, or snapshot, or offsite",
        )


def normalise_time(text: str | None) -> str | None:
    """A restore's time as RFC 3339 in UTC; "2024-01-15 14:00:00" is taken for UTC. BadInput for anything that isn't
    a time, or is in the future."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        if at.year < EARLIEST:
            raise OverflowError
    except (ValueError, OverflowError):
        raise BadInput(
            f'"{text}" is not a time',
            hint='--at "2026-01-15 14:00:00" (UTC), or with an offset: 2026-01-15T14:00:00+01:00',
        ) from None
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
class Place:
    """Where what is restored goes. `scratch`: where a backup is unpacked first; nobody else's, as another restore may
    run at the same time."""

    database: Callable[[Database], Path]
    file: Callable[[files.Noted], Path]
    scratch: Path


@dataclass(frozen=True)
class Doors:
    """Where replicas and catalogue are read; opened by the caller, so that one that is away fails only when it is
    tried. `at_once`: the vault without patience, to see whether it is there."""

    vault: Opened
    offsite: Opened
    at_once: Opened | None = None


@dataclass(frozen=True)
class Waived:
    """What an operator goes on without: the newest data, memory enough."""

    older: bool = False
    memory: bool = False


def restore(
    config: Config,
    supervisor: Supervisor,
    doors: Doors,
    want: Want,
    *,
    stage_only: bool = False,
    waived: Waived = Waived(),
) -> Answer:
    """What is wanted restored beside, verified in full, then swapped in; what was there is kept.

    With `stage_only` the service may go on; the swap then takes a moment. Databases belong to no epoch then: take
    the next one to serve them. Without databases the service is stopped here for the moment of the swap, and started
    again.
    """
    begun = time.monotonic()
    if not stage_only and want.databases:
        _require_stopped(config, supervisor)
    with backups.one_at_a_time(config, "restore"):
        staged = _stage(config, doors, want, waived)
        kept: dict[str, str] = {}
        done: Answer = {}
        if not stage_only and want.databases:
            kept, done = _swap(config, supervisor, want, staged)
        elif not stage_only:
            done = files.put(config, supervisor, _files(staged))
            _note(config).unlink(missing_ok=True)
    return {
        **{"changed": True, "epoch": want.epoch, "source_epoch": staged["epoch"], "swapped": not stage_only},
        **{"verified": True, "source": staged["source"], "tried": staged["tried"], "bytes": staged["bytes"]},
        **{"files": {**done, "beside": staged["beside"], "remarks": staged["remarks"]}},
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


def _swap(
    config: Config, supervisor: Supervisor, want: Want, staged: Mapping[str, Any]
) -> tuple[dict[str, str], Answer]:
    done = files.put(config, supervisor, _files(staged)) if want.files else {}
    txids = {name: txid for name, txid in staged["txids"].items() if txid}
    origin = int(staged["epoch"]) or want.epoch
    kept = data.swap_all(
        config,
        DataFile(origin_epoch=origin, txids=txids, at=want.at, as_replicated=bool(staged["as_replicated"])),
    )
    _note(config).unlink(missing_ok=True)
    if not all(config.layout.live(database).exists() for database in config.service.databases):
        raise StepFailed("a database is missing after the swap")
    return kept, done


def _files(staged: Mapping[str, Any]) -> list[files.Noted]:
    """What waits to be put in place."""
    return [files.Noted(**{**one, "path": PurePosixPath(one["path"])}) for one in staged["in_place"]]


def _note(config: Config) -> Path:
    return config.layout.state / "staged.json"


def _stage(config: Config, doors: Doors, want: Want, waived: Waived) -> Answer:
    """Restored beside and verified. Done once for the same request, unless it is for the end, which moves on."""
    note, asked = _note(config), json.loads(json.dumps(asdict(want)))
    found = read_json(note)
    databases = config.service.databases if want.databases else ()
    if (
        found
        and want.fixed
        and found.get("asked") == asked
        and all(config.layout.staged(database).exists() for database in databases)
        and all(files.staged(config, file).exists() for file in _files(found))
    ):
        return found
    note.unlink(missing_ok=True)
    for database in databases:
        config.layout.private(database)
        data.clear(config.layout.staged(database))
    files.clear(config)
    aside = config.layout.state / "restored" / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    copy, tried = _first_good(config, doors, want, _in_place(config, aside), waived)
    in_place = [{**asdict(one), "path": str(one.path)} for one in copy.files if files.has_place(config, one)]
    where = str(aside) if aside.exists() else None
    report = {**_plain(copy), "asked": asked, "tried": tried, "in_place": in_place, "beside": where}
    write_file(note, json.dumps(report))
    return report


def _in_place(config: Config, aside: Path) -> Place:
    """Beside where it belongs, on the same file system; what has no place goes to a folder of its own."""

    def file(one: files.Noted) -> Path:
        return files.staged(config, one) if files.has_place(config, one) else aside / one.below

    return Place(config.layout.staged, file, _scratch(config))


def _scratch(config: Config) -> Path:
    """Of whoever has the lock of a restore in place."""
    return config.layout.state / "restore"


def inspect(config: Config, doors: Doors, want: Want, folder: Path, waived: Waived = Waived()) -> Answer:
    """A verified copy of what is wanted in a new folder, for a person to look at; nothing live is touched. Any source
    will do."""
    live = [config.layout.live(database).parent for database in config.service.databases]
    if any(folder == parent or parent in folder.parents for parent in live):
        raise BadInput(f"{folder} lies among the live databases", hint="name a folder elsewhere")
    begun = time.monotonic()
    try:
        folder.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        raise BadInput(f"{folder} exists already on {config.name}", hint="name a folder that doesn't") from None
    try:
        copy, tried = _first_good(config, doors, want, _in_folder(folder), replace(waived, older=True))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    paths = {name: str(path) for name, path in copy.paths.items()}
    took = round(time.monotonic() - begun, 3)
    return {**_plain(copy), "tried": tried, "paths": paths, "verified": True, "files": len(copy.files), "seconds": took}


def _in_folder(folder: Path) -> Place:
    return Place(sources.in_folder(folder), lambda file: folder / file.below, folder / ".unpacked")


def extract_rows(config: Config, doors: Doors, want: Want, table: str, form: extract.Format, owner: int) -> Answer:
    """Rows of one table of a verified past copy into a file of `owner`'s; the caller fetches and removes it.

    With several databases the first that has such a table is meant.
    """
    begun, scratch = time.monotonic(), config.layout.state / "extract"
    with backups.one_at_a_time(config, "extraction"):
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            copy, tried = _first_good(config, doors, want, _in_folder(scratch), Waived(older=True))
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
        "remarks": list(copy.remarks),
    }


def _first_good(config: Config, doors: Doors, want: Want, place: Place, waived: Waived) -> tuple[Copy, list[Answer]]:
    """The newest data that can be restored and is good, and what failed before it."""
    if not waived.memory:
        room.require_memory(config.name)
    if want.databases:
        room.require_disk(config.name, beside(config, place.database))
    tried: list[Answer] = []
    errors: list[LifelineError] = []
    gaps: dict[Source, points.Gap] = {}
    ways = _candidates(
        *(config, doors, want, gaps),
        lambda source, opened, want: _replica(config, source, opened, want, place.database),
        lambda backup: _from_backup(config, doors, backup, want, place),
    )
    for source, name, make in ways:
        say(f"restoring from {name}")
        try:
            copy = make()
            findings = {
                d.name: data.verify_copy(config, d, copy.paths[d.name], "full", time.monotonic() + VERIFY_S)
                for d in config.service.databases
                if want.databases
            }
            if findings:
                data.require_good(name, worst(findings))
        except (BadInput, room.NoRoom):
            raise
        except LifelineError as error:
            errors.append(error)
            if isinstance(error, points.Gap):
                gaps.setdefault(source, error)
            say(f"not from {name}: {error.message}")
            tried.append({"source": source, "from": name, "why": error.message, "reach": getattr(error, "reach", None)})
            continue
        if tried and not waived.older and want.databases:
            _refuse_older(tried, name, copy)
        return copy, tried
    raise _none_is_good(want, errors, tried)


def _none_is_good(want: Want, errors: Sequence[LifelineError], tried: Sequence[Answer]) -> LifelineError:
    early = [error for error in errors if isinstance(error, points.NothingOldEnough)]
    first = min((error.first for error in early if error.first), default=None)
    others = [error for error in errors if error not in early]
    since = "" if first is None else f"{_up_to_second(first):%Y-%m-%d %H:%M:%S}"
    if since and not others:
        flags = "".join(f" --only {part}" for part in want.only if want.only != ("database",))
        flags += f" --from {want.source}" if want.source else ""
        return BadInput(
            f"nothing goes back to {want.moment:%Y-%m-%d %H:%M:%S} UTC; the earliest moment to be had is {since} UTC",
            hint=f'fab restore{flags} --at "{since}"',
        )
    if len(errors) == 1:
        return errors[0]
    # What can't be asked may hold it: so that, and not that the rest is too young, is why.
    kind = next((error for error in others or errors if not isinstance(error, Unavailable)), (others or errors)[0])
    said = "; ".join(f"{one['from']}: {one['why']}" for one in tried)
    known = f". The earliest moment in what answers is {since} UTC" if since else ""
    return type(kind)(f"no source has good data: {said}{known}", hint="fab restore --at an earlier time; fab backups")


def _up_to_second(moment: datetime) -> datetime:
    """As it can be typed: the next whole second."""
    return datetime.fromtimestamp(math.ceil(moment.timestamp()), UTC)


def _refuse_older(tried: list[Answer], name: str, copy: Copy) -> None:
    said = "; ".join(f"{one['from']}: {one['why']}" for one in tried)
    of = f" of {copy.at}" if copy.at else ""
    raise Refused(
        f"the newest data can't be restored ({said}). What can be: {name}{of}; everything after that is lost",
        hint="to take it: the same command with --waive older-source",
    )


def _candidates(
    config: Config,
    doors: Doors,
    want: Want,
    gaps: Mapping[Source, points.Gap],
    replica: Callable[[Source, Opened, Want], T],
    backup: Callable[[Backup], T],
) -> Iterator[tuple[Source, str, Callable[[], T]]]:
    """What to try, the newest data first, for a plan as for the deed: from a `replica`, or from a `backup`. `gaps`
    fills up meanwhile: a replica with a hole is taken up to it."""
    both: tuple[tuple[Source, Opened], ...] = (("vault", doors.vault), ("offsite", doors.offsite))
    replicas = [one for one in both if one[0] in sources.to_ask(config, want.source) and not want.files]
    for source, opened in replicas:
        yield source, f"the replica ({source})", partial(replica, source, opened, want)
    for source, opened in replicas:
        if (gap := gaps.get(source)) and gap.reach and not want.fixed:
            name = f"the replica ({source}) up to the gap"
            yield source, name, partial(_up_to, config, want, gap, partial(replica, source, opened))
    if want.txid is None and want.source != "vault":
        found, failed = sources.backups_of(config, want.source, want.moment)
        for source, error in failed:  # they may hold newer data than what can be had: said first
            yield source, f"the backups ({sources.PLACES[source]})", partial(_raise, error)
        for one in found:
            yield one.source, one.name, partial(backup, one)


def _raise(error: LifelineError) -> NoReturn:
    raise error


def _up_to(config: Config, want: Want, gap: points.Gap, replica: Callable[[Want], T]) -> T:
    """The last transaction before a hole, in place of the end."""
    if len(config.service.databases) > 1:
        raise StepFailed("with several databases a gap needs a time", hint="fab restore --at TIME, to before the gap")
    return replica(replace(want, epoch=gap.epoch, txid=gap.reach))


def _replica(config: Config, source: Source, opened: Opened, want: Want, output_of: Callable[[Database], Path]) -> Copy:
    store = opened()
    with _dated(config, store, want):
        epoch, txids = _point(config, store, want)
        return sources.from_replica(config, store, source, epoch, txids, output_of, at=want.at)


def _point(config: Config, store: Store, want: Want) -> tuple[int, Mapping[str, int | None]]:
    """(epoch, each database's transaction in it; None: its end) that is wanted of a replica."""
    if want.moment is not None:
        return sources.at_moment(config, store, want.epoch, want.moment)
    names = [database.name for database in config.service.databases]
    if want.txid is not None and len(names) > 1:
        raise BadInput("each database counts its own transactions: with several, restore to a time", hint="--at TIME")
    return sources.newest_epoch(config, store, want.epoch), dict.fromkeys(names, want.txid)


@contextlib.contextmanager
def _dated(config: Config, store: Store, want: Want) -> Iterator[None]:
    """For a moment: what isn't old enough says since when there is something."""
    try:
        yield
    except points.NothingOldEnough as error:
        if want.moment is not None:
            error.first = error.first or sources.first_moment(config, store, want.epoch)
        raise


def _from_backup(config: Config, doors: Doors, backup: Backup, want: Want, place: Place) -> Copy:
    """Its databases and files, each held to what was noted of it."""
    begun, scratch = time.monotonic(), place.scratch
    snapshot = backup.snapshot.id
    at = backup.snapshot.at.isoformat(timespec="seconds").replace("+00:00", "Z")
    try:
        saved = sources.unpack(config, backup.repository, snapshot, scratch, sources.parts_of(config, False, ()))
        room.require_disk(config.name, room.moved(scratch, _sizes(config, saved, want, place)))
        saved = sources.unpack(
            config, backup.repository, snapshot, scratch, sources.parts_of(config, want.databases, want.files)
        )
        copy = Copy(backup.source, 0, {}, {}, at, 0, 0.0, False)
        if want.databases:
            output_of = place.database
            copy = sources.databases_of(config, backup.source, snapshot, scratch, output_of, at=at, begun=begun)
        if not want.files:
            return copy
        entry, remarks = sources.entry_of(config, (doors.vault, doors.offsite), saved)
        noted = files.noted(entry, want.files)
        rotated = files.take(noted, partial(sources.file_in, config, scratch), place.file)
        remarks += [f"{path} was rotated while it was saved: not known whether all of it is here" for path in rotated]
        size = copy.bytes + sum(file.bytes for file in noted)
        took = round(time.monotonic() - begun, 3)
        return replace(copy, files=tuple(noted), remarks=tuple(remarks), bytes=size, seconds=took)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sizes(config: Config, saved: Path, want: Want, place: Place) -> list[tuple[Path, int]]:
    """Where each part of a backup goes to, and its bytes, as its note has it."""
    note = read_json(saved / backups.NOTE) or {}
    noted = note.get("databases") or {}
    databases = config.service.databases if want.databases else ()
    found = [(place.database(d).parent, int(noted.get(d.name, {}).get("bytes") or 0)) for d in databases]
    return found + [(place.file(file).parent, file.bytes) for file in files.noted(note, want.files)]


def beside(
    config: Config, output_of: Callable[[Database], Path], sizes: Mapping[str, int] | None = None
) -> dict[Path, int]:
    """Bytes that the databases take where they are restored to: as many as the live ones have, or `sizes` says where
    that is more."""
    needs: dict[Path, int] = {}
    for database in config.service.databases:
        live, folder = config.layout.live(database), output_of(database).parent
        size = max(live.stat().st_size if live.exists() else 0, (sizes or {}).get(database.name, 0))
        needs[folder] = needs.get(folder, 0) + int(size * room.FACTOR)
    return needs


def require_vault(config: Config, doors: Doors, epoch: int) -> None:
    """Refuse to stop a primary that couldn't be started again: it writes to a prefix of its own in the vault before it
    serves. Unavailable with what works meanwhile."""
    try:
        find((doors.at_once or doors.vault)(), f"{replica.epoch_prefix(config.service.name, epoch + 1)}owner.json")
    except LifelineError as error:
        raise Unavailable(
            f"{config.name} can't use the vault ({error.message}), and a primary whose writes don't reach it isn't "
            f"started: a restore in place would leave {config.service.name} stopped. Nothing was touched",
            hint=f"for a copy to look at: fab restore --from local --to {config.name}:/var/tmp/copy; the way back to a "
            "vault is in docs/runbooks.md, The vault is gone; then the same command again",
        ) from None


def outline(config: Config, doors: Doors, want: Want) -> Answer:
    """What a restore in place would take: point, size, time, the room it needs and there is. Restores nothing; refuses
    what could only end with a stopped service."""
    if want.databases:
        require_vault(config, doors, want.epoch)
    memory = {"memory_bytes": MEMORY_NEEDED, "memory_free_bytes": room.memory_available()}
    answer: Answer = {**memory, "at": want.at, "tried": []}
    failures: list[LifelineError] = []
    gaps: dict[Source, points.Gap] = {}
    ways = _candidates(
        *(config, doors, want, gaps),
        lambda source, opened, want: _outline(config, source, opened(), want),
        lambda backup: _outline_backup(config, doors, backup, want),
    )
    for source, name, look in ways:
        try:
            return {**answer, **look()}
        except BadInput:
            raise
        except LifelineError as error:
            failures.append(error)
            if isinstance(error, points.Gap):
                gaps.setdefault(source, error)
            answer["tried"].append({"from": name, "why": error.message})
    raise _none_is_good(want, failures, answer["tried"])


def _outline_backup(config: Config, doors: Doors, backup: Backup, want: Want) -> Answer:
    """By its note alone: nothing big is read."""
    scratch = _scratch(config)
    with backups.one_at_a_time(config, "restore"):
        try:
            saved = sources.unpack(
                config, backup.repository, backup.snapshot.id, scratch, sources.parts_of(config, False, ())
            )
            entry, remarks = sources.entry_of(config, (doors.vault, doors.offsite), saved)
            live = Place(config.layout.live, lambda file: files.here(config, file.path), scratch)
            sizes = _sizes(config, saved, want, live)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    compared = files.compare(config, files.noted(entry, want.files))
    placed = [kind for kind in want.files if kind != "logs"]
    size = sum(count for _, count in sizes)
    disk = room.disks(room.moved(scratch, sizes))[0]
    return {
        **{"source": backup.source, "place": backup.repository.place, "snapshot": backup.snapshot.id},
        **{"snapshot_at": backup.snapshot.at.isoformat().replace("+00:00", "Z"), "backup_at": entry["at"]},
        **{"kind": entry["kind"], "host": entry["host"], "entry": entry["key"], "remarks": remarks},
        **{"bytes": size, "need_bytes": disk.need, "free_bytes": disk.free, "disk": str(disk.path)},
        **{"expected_s": round(2 + size / _rate(config), 1)},
        "files": [
            {
                **{"kind": file.kind, "path": str(file.path), "bytes": file.bytes},
                "change": change if files.has_place(config, file) else "beside",
            }
            for file, change in compared
        ],
        "others": files.others(config, [file for file, _ in compared], placed),
    }


def _outline(config: Config, source: str, store: Store, want: Want) -> Answer:
    service = config.service
    with _dated(config, store, want):
        epoch, txids = _point(config, store, want)
        plans = [points.plan(store, service.name, epoch, name, txid=txid) for name, txid in txids.items()]
    ends = [points.end(store, service.name, epoch, plan.database, plan.txid) for plan in plans]
    size = sum(plan.bytes for plan in plans)
    sizes = {plan.database: points.size(store, plan) for plan in plans}
    disk = room.disks(beside(config, config.layout.staged, sizes))[0]
    return {
        **{"need_bytes": disk.need, "free_bytes": disk.free, "disk": str(disk.path)},
        **{"source": source, "epoch": epoch, "txids": {plan.database: plan.txid for plan in plans}, "bytes": size},
        **{"files": sum(len(plan.pieces) for plan in plans), "expected_s": round(2 + size / _rate(config), 1)},
        "transactions_lost": sum(end - plan.txid for end, plan in zip(ends, plans, strict=True)),
    }


def _rate(config: Config) -> float:
    found = read_json(config.layout.state / "rates.json") or {}
    rate = found.get("bytes_per_s")
    return float(rate) if isinstance(rate, int | float) and rate > 0 else float(RATE)
