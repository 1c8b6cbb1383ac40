"""Past copies of the databases, from wherever they lie, into a folder: the replica in the vault or off-site, restic's
snapshots in the vault or on the host. What comes out isn't verified yet.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from lifeline import backups, data, points, snapshots
from lifeline.errors import BadInput, DataBad, StepFailed, Unproven
from lifeline.layout import Config
from lifeline.snapshots import Repository
from lifeline.store import Progress, Store

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
    folder: Path,
    *,
    at: str | None = None,
    progress: Progress | None = None,
) -> Copy:
    """Every database as of its transaction (None: the end) from `epoch`'s replica. Raises Gap, DataBad, Unavailable."""
    begun, folder_made = time.monotonic(), folder
    folder_made.mkdir(parents=True, exist_ok=True, mode=0o700)
    paths, found, size = {}, {}, 0
    for database in config.service.databases:
        output = folder / f"{database.name}.db"
        output.unlink(missing_ok=True)
        made = data.rebuild_point(
            store, config.service.name, epoch, database.name, output, txids.get(database.name), RESTORE_S, progress
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
    raise points.NothingOldEnough(
        f"nothing goes back to {moment:%Y-%m-%d %H:%M:%S} UTC",
        hint="fab backups; fab restore --from snapshot --at TIME",
    )


def newest_epoch(config: Config, store: Store, epoch: int) -> int:
    """The newest epoch up to `epoch` with a replica. Raises Unproven when there is none."""
    found = points.epochs(store, config.service.name, epoch)
    if not found:
        raise Unproven(
            f"{store.where} holds no replica of {config.service.name} up to epoch {epoch}", hint="fab backups"
        )
    return found[0]


def from_restic(config: Config, repository: Repository, source: Source, entry: Mapping[str, Any], folder: Path) -> Copy:
    """Every database of a catalogue entry, from its snapshot in `repository`."""
    begun = time.monotonic()
    saved = snapshot_files(config, repository, entry, folder)
    paths: dict[str, Path] = {}
    for database in config.service.databases:
        if not (copy := saved / f"{database.name}.db").exists():
            raise DataBad(f"{entry.get('key')}: its snapshot lacks {database.name}", hint="fab backups: take another")
        paths[database.name] = copy
        data.set_wal(copy)
    size = sum(path.stat().st_size for path in paths.values())
    txids = {name: (entry.get("databases") or {}).get(name, {}).get("txid") for name in paths}
    seconds = round(time.monotonic() - begun, 3)
    epoch, at, key = int(entry.get("epoch") or 0), str(entry.get("at")), str(entry.get("key"))
    return Copy(source, epoch, paths, txids, at, size, seconds, False, key)


def snapshot_files(config: Config, repository: Repository, entry: Mapping[str, Any], folder: Path) -> Path:
    """Restore an entry's snapshot below `folder`; returns where the staged part of it lies: databases as `NAME.db`, the
    other files below `files/`."""
    copies = entry.get("copies") or {"vault": {"snapshot": entry.get("snapshot")}}
    # The mirror off-site holds the vault's snapshots.
    place = "vault" if repository.place == "offsite" else repository.place
    snapshot = (copies.get(place) or {}).get("snapshot")
    if not snapshot:
        raise BadInput(
            f"{entry.get('key')} has no copy in {repository.place}", hint="fab backups shows where each lies"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    backups.open_repository(repository, create=False)
    staging = str(config.layout.state / "backup")
    argv = snapshots.restore_argv(repository, str(snapshot), folder, [staging])
    backups.restic(repository, argv, f"restore snapshot {str(snapshot)[:8]}", within=RESTORE_S)
    saved = folder / staging.lstrip("/")
    if not saved.is_dir():
        raise StepFailed(f"the snapshot of {entry.get('key')} holds nothing of Lifeline's", hint="fab backups")
    return saved
