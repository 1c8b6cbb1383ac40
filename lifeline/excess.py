"""What the off-site vault holds beyond its policy, and its removal.

Hosts may add there, not remove, so of replicas and snapshots nothing goes by itself. The mirror's daily look says how
much there is; `fab prune --offsite` removes it, with the operator's key. What the vault still holds is never part of
it: the mirror would bring it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from lifeline import catalogue, points, prune, replica, retention, snapshots
from lifeline.model import BackupPolicy
from lifeline.points import Piece
from lifeline.store import Info, Store, keys

SOURCE = "offsite"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Excess:
    """`snapshots`: ids; `files` and `notes`: keys. `bytes`: of epochs and files; what snapshots free only restic knows.
    `overdue`: how long ago the oldest of it could have gone. `proved`: what was restored from there, of the two kinds;
    of a kind that wasn't, nothing may go."""

    snapshots: tuple[str, ...] = ()
    epochs: tuple[int, ...] = ()
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    bytes: int = 0
    overdue: timedelta = timedelta(0)
    proved: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.snapshots or self.epochs or self.files or self.notes)

    def to_json(self) -> dict[str, Any]:
        """Counts, for the mirror's report."""
        return {
            **{"snapshots": len(self.snapshots), "epochs": list(self.epochs), "files": len(self.files)},
            **{"bytes": self.bytes, "overdue_days": round(self.overdue / timedelta(days=1), 1)},
        }


def survey(vault: Store, offsite: Store, service: str, policy: BackupPolicy, newest: int, now: datetime) -> Excess:
    """Everything that may go. `newest`: the epoch of the lease. Only what a restore from the off-site vault itself has
    superseded does: while none was proved, nothing may. Raises Unavailable."""
    verified = prune.verifications(vault, service)
    keep_points, keep_copies = timedelta(days=policy.points_days), timedelta(days=policy.offsite_days)
    proved_copies = prune.proved_snapshots(vault, verified, SOURCE, SOURCE)
    old = _snapshots(offsite, service, proved_copies, keep_copies, now)
    proved = prune.proved_epochs(verified, SOURCE)
    found = prune.epochs_of(offsite, service, newest, proved, keep_points, now)
    epochs = [
        number
        for number in retention.expired_epochs(found, keep_points, now)
        if next(points.pieces(vault.list(replica.epoch_prefix(service, number))), None) is None
    ]
    needed = {one.continues for one in found}
    whole = [info for number in epochs for info in offsite.list(replica.epoch_prefix(service, number))]
    files = [
        piece
        for one in found
        if one.number not in (*epochs, *needed) and any(number >= one.number for number in proved)
        for piece in _superseded(vault, offsite, service, one.number, keep_points, now)
    ]
    sizes = [*(info.size for info in whole), *(piece.size for piece in files)]
    ended = [*(info.modified for info in whole), *(piece.modified for piece in files)]
    ages = [*(now - one.at - keep_copies for one in old), *(now - at - keep_points for at in ended)]
    return Excess(
        tuple(one.id for one in old),
        tuple(epochs),
        tuple(piece.key for piece in files),
        tuple(_notes(vault, offsite, service, {one.id for one in old}, now - keep_copies)),
        sum(sizes),
        max(ages, default=timedelta(0)),
        frozenset([*(["snapshots"] if proved_copies else []), *(["replicas"] if proved else [])]),
    )


def _snapshots(
    offsite: Store, service: str, proved: frozenset[str], keep: timedelta, now: datetime
) -> list[snapshots.Snapshot]:
    """By the dates of their objects: those of restic are sealed."""
    listed = [
        snapshots.Snapshot(info.key.rpartition("/")[2], info.modified, ())
        for info in offsite.list(f"{snapshots.prefix(service)}snapshots/")
    ]
    known = frozenset(one.id for one in listed if one.id.startswith(tuple(proved)))
    return retention.expired_snapshots(listed, known, keep, now)


def _superseded(
    vault: Store, offsite: Store, service: str, epoch: int, keep: timedelta, now: datetime
) -> Iterator[Piece]:
    """Files of an epoch that goes on living, in the order in which they are to go."""
    for _, of_database in groupby(points.pieces(offsite.list(replica.epoch_prefix(service, epoch))), key=_database):
        gone = sorted(retention.superseded(list(of_database), keep, now), key=_snapshots_first)
        for folder, files in groupby(gone, key=lambda piece: piece.key.rpartition("/")[0]):
            held = set(keys(vault, f"{folder}/"))
            yield from (piece for piece in files if piece.key not in held)


def _database(piece: Piece) -> str:
    return piece.key.rsplit("/", 2)[0]


def _snapshots_first(piece: Piece) -> tuple[int, str]:
    return -piece.level, piece.key


def _notes(vault: Store, offsite: Store, service: str, gone: set[str], before: datetime) -> Iterator[str]:
    """Documents of the catalogue as old as that, that the vault has let go of: verifications, and entries of which no
    snapshot is left here either."""
    root = catalogue.root(service)
    held, there = set(keys(vault, root)), list(keys(offsite, root))
    left = {key.rpartition("/")[2] for key in keys(offsite, f"{snapshots.prefix(service)}snapshots/")} - gone
    for key in (*catalogue.verified_keys(there)[1:], *catalogue.entry_keys(there)):
        if key in held or catalogue.time_of(key) >= before:
            continue
        places = [prune.snapshot_of(offsite, key, place) for place in ("vault", SOURCE)]
        if not any(one.startswith(tuple(filter(None, places))) for one in left):
            yield key


def remove(offsite: Store, service: str, excess: Excess, progress: Say) -> int:
    """Epochs, files and notes; the snapshots are restic's own to forget, before. How many objects. Interrupted
    anywhere, what is left restores, and the same again goes on."""
    count = 0
    for number in excess.epochs:
        progress(f"removing the replica of epoch {number}")
        count += prune.remove_epoch(offsite, service, number)
    # Snapshots, then the rest: with an old snapshot still there, the files gone behind it would be a hole.
    for level, files in groupby(excess.files, key=_level):
        keys_ = list(files)
        progress(f"removing {len(keys_)} files of level {level}")
        count += offsite.delete_all(keys_)
    return count + offsite.delete_all(excess.notes)


def _level(key: str) -> str:
    return key.rsplit("/", 2)[1].lstrip("0") or "0"


def total(infos: Sequence[Info] | Iterator[Info]) -> tuple[int, int]:
    """(objects, bytes) of a listing."""
    count = size = 0
    for info in infos:
        count, size = count + 1, size + info.size
    return count, size
