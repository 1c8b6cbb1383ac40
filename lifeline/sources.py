"""Past copies of the databases, from wherever they lie, into a folder: the replica in the vault or off-site, restic's
snapshots in the vault or on the host. What comes out isn't verified yet.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from lifeline import backups, data, points, snapshots
from lifeline.errors import DataBad, StepFailed, Unproven
from lifeline.layout import Config
from lifeline.progress import Meter
from lifeline.service import Database
from lifeline.snapshots import Repository
from lifeline.store import Store

Source = Literal["vault", "offsite", "snapshot", "local"]
SOURCES: tuple[Source, ...] = ("vault", "offsite", "snapshot", "local")
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
    Raises Gap, DataBad, Unavailable."""
    begun = time.monotonic()
    paths, found, size = {}, {}, 0
    for database in config.service.databases:
        output = output_of(database)
        output.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        output.unlink(missing_ok=True)
        made = data.rebuild_point(
            store, config.service.name, epoch, database.name, output, txids.get(database.name), RESTORE_S
        )
        data.set_wal(output)
        paths[database.name], found[database.name], size = output, made.txid, size + made.bytes
    return Copy(source, epoch, paths, dict(found), at, size, round(time.monotonic() - begun, 3), True)


def at_moment(config: Config, store: Store, newest: int, moment: datetime) -> tuple[int, dict[str, int | None]]:
    """(epoch, each database's transaction) as of a moment, in the newest epoch up to `newest` that was begun by then.

    Raises NothingOldEnough, saying since when there is something, when the moment is before all of them.
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


def choose(repository: Repository, moment: datetime | None) -> snapshots.Snapshot:
    """The newest snapshot, or the newest taken at or before a moment; asks restic alone, so that it works when the
    vault's catalogue is gone. Raises NothingOldEnough."""
    backups.open_repository(repository, create=False)
    listed = snapshots.parse_list(
        backups.restic(repository, snapshots.list_argv(repository), "list snapshots", within=120)
    )
    found = [one for one in listed if moment is None or one.at <= moment]
    if not found:
        since = f"; the first is of {listed[0].at:%Y-%m-%d %H:%M:%S} UTC" if listed else ""
        raise points.NothingOldEnough(f"no snapshot that old in {repository.place}{since}", hint="fab backups")
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
    saved = unpack(config, repository, snapshot, folder)
    paths: dict[str, Path] = {}
    for database in config.service.databases:
        copy = saved / f"{database.name}.db"
        if not copy.exists():
            raise DataBad(f"snapshot {snapshot[:8]} lacks {database.name}", hint="fab backups: take another")
        data.set_wal(copy)
        if output_of is not None:
            target = output_of(database)
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            copy = Path(shutil.move(copy, target))
        paths[database.name] = copy
    size = sum(path.stat().st_size for path in paths.values())
    seconds = round(time.monotonic() - begun, 3)
    return Copy(source, 0, paths, dict.fromkeys(paths), at, size, seconds, False)


def unpack(config: Config, repository: Repository, snapshot: str, folder: Path) -> Path:
    """A snapshot's databases (`NAME.db`) and small files (below `files/`), below `folder`; returns where they lie."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    staging = str(config.layout.state / "backup")
    argv = snapshots.restore_argv(repository, snapshot, folder, [staging])
    meter = Meter(f"unpacking snapshot {snapshot[:8]}")
    backups.restic(repository, argv, f"restore snapshot {snapshot[:8]}", within=RESTORE_S, meter=meter)
    saved = folder / staging.lstrip("/")
    if not saved.is_dir():
        raise StepFailed(f"snapshot {snapshot[:8]} holds nothing of Lifeline's", hint="fab backups")
    return saved
