"""Past copies of the databases, from wherever they lie, into a folder: the replica in the vault or off-site, restic's
snapshots in the vault or on the host. What comes out isn't verified yet.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lifeline import backups, catalogue, data, points, room, snapshots
from lifeline.errors import DataBad, LifelineError, StepFailed, Unproven
from lifeline.files import Kind, Noted, here
from lifeline.layout import Config, read_json
from lifeline.progress import Meter
from lifeline.service import Database
from lifeline.snapshots import Place, Repository, Snapshot
from lifeline.store import Store

Source = Literal["vault", "offsite", "snapshot", "local"]
SOURCES: tuple[Source, ...] = ("vault", "offsite", "snapshot", "local")
# Where independent copies lie, the fastest first.
PLACES: Mapping[Source, Place] = {"local": "local", "snapshot": "vault", "offsite": "offsite"}
RESTORE_S = 3600.0


@dataclass(frozen=True)
class Copy:
    """Databases of one moment in a folder. `txids` as the replica counts them; None where that isn't known.
    `as_replicated`: page for page the replica's. `entry`: the catalogue's key, of a restic snapshot."""

    source: Source
    epoch: int
    paths: Mapping[str, Path]
    txids: Mapping[str, int | None]
    at: str | None
    bytes: int
    seconds: float
    as_replicated: bool
    entry: str | None = None
    files: tuple[Noted, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Backup:
    """One snapshot of an independent copy."""

    source: Source
    repository: Repository
    snapshot: Snapshot

    @property
    def name(self) -> str:
        return f"the backup of {self.snapshot.at:%Y-%m-%d %H:%M:%S} UTC ({self.repository.place})"


def from_replica(
    config: Config,
    store: Store,
    source: Source,
    epoch: int,
    txids: Mapping[str, int | None],
    output_of: Callable[[Database], Path],
    *,
    at: str | None = None,
) -> Copy:
    """Every database as of its transaction (None: the end) from `epoch`'s replica, each to where `output_of` says.
    Raises Gap, DataBad, Unavailable, NoRoom."""
    begun = time.monotonic()
    paths, found, size = {}, {}, 0
    for database in config.service.databases:
        output = output_of(database)
        output.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        output.unlink(missing_ok=True)
        made = data.rebuild_point(
            *(store, config.service.name, epoch, database.name, output, txids.get(database.name), RESTORE_S),
            fits=partial(_fits, config, output.parent),
        )
        data.set_wal(output)
        paths[database.name], found[database.name], size = output, made.txid, size + made.bytes
    return Copy(source, epoch, paths, dict(found), at, size, round(time.monotonic() - begun, 3), True)


def _fits(config: Config, folder: Path, size: int) -> None:
    room.require_disk(config.name, {folder: size}, spare=0)


def at_moment(config: Config, store: Store, newest: int, moment: datetime) -> tuple[int, dict[str, int | None]]:
    """(epoch, each database's transaction) as of a moment, in the newest epoch up to `newest` that was begun by then.

    Raises NothingOldEnough when the moment is before all of them.
    """
    service = config.service
    for epoch in points.epochs(store, service.name, newest):
        try:
            found = {d.name: points.at(store, service.name, epoch, d.name, moment).txid for d in service.databases}
            return epoch, dict(found)
        except points.NothingOldEnough:
            continue
    says = f"no replica goes back to {moment:%Y-%m-%d %H:%M:%S} UTC"
    raise points.NothingOldEnough(says, hint="fab backups shows older copies: fab restore --from snapshot --at TIME")


def first_moment(config: Config, store: Store, newest: int) -> datetime | None:
    """The earliest moment to which all databases can be restored from the replicas up to `newest`, None when there is
    none."""
    for epoch in reversed(points.epochs(store, config.service.name, newest)):
        found = [points.first(store, config.service.name, epoch, d.name) for d in config.service.databases]
        if all(found):
            return max(moment for moment in found if moment)
    return None


def newest_epoch(config: Config, store: Store, epoch: int) -> int:
    """The newest epoch up to `epoch` with a replica. Raises Unproven when there is none."""
    found = points.epochs(store, config.service.name, epoch)
    if not found:
        raise Unproven(
            f"{store.where} holds no replica of {config.service.name} up to epoch {epoch}", hint="fab backups"
        )
    return found[0]


def in_folder(folder: Path) -> Callable[[Database], Path]:
    """Each database as `NAME.db` in a folder."""
    return lambda database: folder / f"{database.name}.db"


def to_ask(config: Config, wanted: Source | None) -> tuple[Source, ...]:
    """The source that is wanted; without one all that this host was given a key for."""
    if wanted is not None:
        return (wanted,)
    return tuple(source for source in SOURCES if source != "offsite" or config.offsite_destination is not None)


def backups_of(
    config: Config, wanted: Source | None, moment: datetime | None
) -> tuple[list[Backup], list[tuple[Source, LifelineError]]]:
    """The newest backup (at or before a moment) of each place, the newest first; and the places that can't be asked or
    have none, with their reasons."""
    found: list[Backup] = []
    failed: list[tuple[Source, LifelineError]] = []
    asked = [source for source in PLACES if source in to_ask(config, wanted)]
    with ThreadPoolExecutor(max_workers=len(PLACES)) as pool:
        chosen = {source: pool.submit(_choose, config, source, moment) for source in asked}
        for source, future in chosen.items():
            try:
                found.append(future.result())
            except LifelineError as error:
                failed.append((source, error))
    return sorted(found, key=lambda one: one.snapshot.at, reverse=True), failed


def _choose(config: Config, source: Source, moment: datetime | None) -> Backup:
    repository = backups.repository(config, PLACES[source])
    return Backup(source, repository, choose(repository, moment))


def choose(repository: Repository, moment: datetime | None) -> Snapshot:
    """The newest snapshot, or the newest taken at or before a moment; asks restic alone, so that it works when the
    vault's catalogue is gone. Raises NothingOldEnough."""
    try:
        backups.open_repository(repository, create=False)
    except snapshots.NoRepository as error:
        raise points.NothingOldEnough(f"there is no backup in {repository.place} yet", hint=error.hint) from None
    listed = snapshots.parse_list(
        backups.restic(repository, snapshots.list_argv(repository), "list snapshots", within=120)
    )
    found = [one for one in listed if moment is None or one.at <= moment]
    if not listed:
        raise points.NothingOldEnough(f"there is no backup in {repository.place} yet", hint="fab backups")
    if not found:
        since = f"the first is of {listed[0].at:%Y-%m-%d %H:%M:%S} UTC"
        says = f"no backup that old in {repository.place}; {since}"
        raise points.NothingOldEnough(says, hint="fab backups --all", first=listed[0].at)
    return found[-1]


def from_restic(
    config: Config,
    repository: Repository,
    source: Source,
    snapshot: str,
    folder: Path,
    output_of: Callable[[Database], Path] | None = None,
    *,
    at: str | None = None,
) -> Copy:
    """Every database of one snapshot, unpacked below `folder`, which is emptied first. They stay there, or go to where
    `output_of` says."""
    begun = time.monotonic()
    unpack(config, repository, snapshot, folder)
    return databases_of(config, source, snapshot, folder, output_of, at=at, begun=begun)


def databases_of(
    config: Config,
    source: Source,
    snapshot: str,
    folder: Path,
    output_of: Callable[[Database], Path] | None,
    *,
    at: str | None,
    begun: float,
) -> Copy:
    """The databases of what was unpacked below `folder`, each held to the digest that its backup noted."""
    saved = staging_in(config, folder)
    noted = (read_json(saved / backups.NOTE) or {}).get("databases") or {}
    paths: dict[str, Path] = {}
    for database in config.service.databases:
        copy = saved / f"{database.name}.db"
        if not copy.exists():
            raise DataBad(f"snapshot {snapshot[:8]} lacks {database.name}", hint="fab backups: take another")
        if database.name in noted and backups.digest(copy) != noted[database.name].get("sha256"):
            raise DataBad(f"{database.name} in snapshot {snapshot[:8]} is not what was saved", hint="fab backups")
        data.set_wal(copy)
        if output_of is not None:
            target = output_of(database)
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            copy = Path(shutil.move(copy, target))
        paths[database.name] = copy
    size = sum(path.stat().st_size for path in paths.values())
    seconds = round(time.monotonic() - begun, 3)
    return Copy(source, 0, paths, dict.fromkeys(paths), at, size, seconds, False)


def staging_in(config: Config, folder: Path) -> Path:
    """Where below `folder` a snapshot's databases (`NAME.db`), small files (below `files/`) and note lie."""
    return folder / str(config.layout.staging).lstrip("/")


def unpack(
    config: Config, repository: Repository, snapshot: str, folder: Path, include: Sequence[Path] | None = None
) -> Path:
    """A snapshot below `folder`, which is emptied first: all of its staging folder, or only what `include` names (as
    paths of the host); returns where the staging folder lies."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    only = include if include is not None else [config.layout.staging]
    argv = snapshots.restore_argv(repository, snapshot, folder, list(map(str, only)))
    meter = Meter(f"unpacking snapshot {snapshot[:8]}")
    backups.restic(repository, argv, f"restore snapshot {snapshot[:8]}", within=RESTORE_S, meter=meter)
    saved = staging_in(config, folder)
    if not saved.is_dir():
        raise StepFailed(f"snapshot {snapshot[:8]} holds nothing of Lifeline's", hint="fab backups")
    return saved


def parts_of(config: Config, databases: bool, kinds: Sequence[Kind]) -> list[Path]:
    """What `unpack` is to include for these parts of a backup: not a gigabyte of database for a settings file."""
    staging = config.layout.staging
    found = [staging] if databases else [staging / backups.NOTE, *([staging / "files"] if kinds else [])]
    return [*found, *(here(config, path) for path in config.service.logs if "logs" in kinds)]


def file_in(config: Config, folder: Path, file: Noted) -> Path:
    """Where `unpack` put a file: logs are saved from where they lie."""
    if file.kind == "logs":
        return folder / str(here(config, file.path)).lstrip("/")
    return staging_in(config, folder) / "files" / file.below


def entry_of(
    config: Config, catalogues: Sequence[Callable[[], Store]], saved: Path
) -> tuple[dict[str, Any], list[str]]:
    """What a backup holds, by the catalogue's entry; where none can be read, by the note that was saved with it. And a
    remark on which it is. DataBad where the two differ."""
    note = read_json(saved / backups.NOTE)
    if note is None:
        raise DataBad("this backup carries no note of what it holds", hint="fab backups: take another")
    key = catalogue.entry_key(config.service.name, str(note["kind"]), datetime.fromisoformat(str(note["at"])))
    why = []
    for opened in catalogues:
        try:
            entry = catalogue.parse(key, opened().get(key).body)
        except LifelineError as error:
            why.append(error.message)
            continue
        if any(entry.get(part) != note.get(part) for part in ("files", "databases")):
            raise DataBad(f"{key} and the backup itself differ about what it holds", hint="fab backups: take another")
        return entry, []
    remark = f"held to the backup's own note of what it holds, as the catalogue can't be read: {'; '.join(why)}"
    return {"key": None, **note}, [remark]
