"""What of the backups may go, in the vault, on the host and off-site. Pure: what there is in, what may go out.

The newest backup that a restore has proved never goes, whatever the calendar says, nor does the newest at all; and
while nothing is proved, nothing goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from lifeline.points import SNAPSHOTS, Piece
from lifeline.snapshots import Snapshot


def expired_snapshots(
    snapshots: Sequence[Snapshot], proved: frozenset[str], keep: timedelta, now: datetime
) -> list[Snapshot]:
    """Those older than `keep`, but the newest, and the newest whose id is among the `proved`. None while none is."""
    ordered = sorted(snapshots, key=lambda snapshot: snapshot.at)
    good = [snapshot for snapshot in ordered if snapshot.id in proved]
    if not good:
        return []
    kept = {ordered[-1].id, good[-1].id}
    return [snapshot for snapshot in ordered if snapshot.at < now - keep and snapshot.id not in kept]


@dataclass(frozen=True)
class Epoch:
    """A replica of one promotion. `last`: when its newest object was written; `proved`: a point of it was restored and
    found good; `continues`: the epoch it can't be restored without, while it has no snapshot of its own."""

    number: int
    last: datetime
    proved: bool
    continues: int | None = None


def expired_epochs(epochs: Sequence[Epoch], keep: timedelta, now: datetime) -> list[int]:
    """Epochs that nobody can want any more: written for the last time longer than `keep` ago, with a newer one that was
    proved, and that no other goes on from. Whole ones only: a part of a replica is worth nothing."""
    proved = [epoch.number for epoch in epochs if epoch.proved]
    needed = {epoch.continues for epoch in epochs if epoch.continues is not None}
    newest = max((epoch.number for epoch in epochs), default=0)
    return sorted(
        epoch.number
        for epoch in epochs
        if epoch.number != newest
        and epoch.number not in needed
        and epoch.last < now - keep
        and any(number > epoch.number for number in proved)
    )


def superseded(pieces: Sequence[Piece], keep: timedelta, now: datetime) -> list[Piece]:
    """Files of one database's replica that no point younger than `keep` needs: those that end no later than the newest
    of its snapshots that is older than that. What is left begins with this snapshot, and has no hole that it hadn't."""
    bases = [piece.last for piece in pieces if piece.level == SNAPSHOTS and piece.modified < now - keep]
    if not bases:
        return []
    base = max(bases)
    return [piece for piece in pieces if piece.last < base or (piece.last == base and piece.level != SNAPSHOTS)]
