"""How far do the copies go? The end of a replica, what a host's followers have of it, and the care of those copies.

A follower's copy is a cache as long as the vault is whole. When it isn't, it may be the last there is: none is removed
before another is as far.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lifeline import replica
from lifeline.errors import DataBad, Unproven
from lifeline.layout import Config
from lifeline.service import Database

FOLLOWER_STALL_S = 2.0  # without progress of the follower for so long, restoring anew is the faster way
POLL_S = 0.05


class Vault(Protocol):
    """What this module needs of the vault."""

    def keys(self, prefix: str) -> Iterable[str]:
        """Every key under `prefix`."""


@dataclass(frozen=True)
class Target:
    """The end of a replica: the epoch it is in, and each database's newest transaction."""

    epoch: int
    txids: Mapping[str, int]


def find_target(config: Config, vault: Vault, epoch: int) -> Target:
    """The newest data written in `epoch` or, when that promotion never wrote anything, before it.

    Raises Unproven when there is none, or when a database is missing: an empty database is never the answer.
    """
    service = config.service
    for candidate in range(epoch, 0, -1):
        txids = {
            database.name: replica.newest_txid(
                vault.keys(replica.replica_prefix(service.name, candidate, database.name) + "/")
            )
            for database in service.databases
        }
        missing = sorted(name for name, txid in txids.items() if txid == 0)
        if not missing:
            return Target(candidate, txids)
        if len(missing) < len(txids):
            older = "fab restore --at TIME, a moment before that promotion"
            raise Unproven(
                f"the replica of epoch {candidate} lacks {', '.join(missing)}: that promotion never was complete",
                hint=older if candidate > 1 else "fab restore --from snapshot",
            )
    raise Unproven(f"the vault holds no replica of {service.name} up to epoch {epoch}", hint="fab status")


def read_follower(path: Path) -> int:
    """The last transaction a follower has applied to `path` and synced; 0 when there is no follower's copy."""
    try:
        return replica.parse_txid(replica.txid_file(path).read_text()) if path.exists() else 0
    except (OSError, ValueError):
        return 0


def find_end(config: Config, vault: Vault, epoch: int) -> Target:
    """The newest data known on this host: the vault's end, or beyond it what a follower had from the vault.

    The loss of the newest objects of a replica can't be seen in the vault; a follower that is further shows it. Its
    copy holds everything up to there, so nothing need be lost. Raises DataBad when only a kept copy is further: that
    one was interrupted, and isn't taken without a person looking at it.
    """
    names = [database.name for database in config.service.databases]
    # Followers first: what arrives in the vault meanwhile is no loss.
    applied = {number: _applied(config, number) for number in range(1, epoch + 1)}
    try:
        found = find_target(config, vault, epoch)
    except Unproven:
        found = Target(0, dict.fromkeys(names, 0))
        if not any(all(at.values()) for at in applied.values()):
            _refuse_kept(config, found, epoch)
            raise
    for number in range(epoch, max(found.epoch, 1) - 1, -1):
        known = found.txids if number == found.epoch else dict.fromkeys(names, 0)
        furthest = {name: max(known[name], applied[number][name]) for name in names}
        if all(furthest.values()):
            found = Target(number, furthest)
            break
    _refuse_kept(config, found, epoch)
    return found


def _applied(config: Config, epoch: int) -> dict[str, int]:
    return {d.name: read_follower(config.layout.following(d, epoch)) for d in config.service.databases}


def _refuse_kept(config: Config, found: Target, epoch: int) -> None:
    for number in range(max(found.epoch, 1), epoch + 1):
        for database in config.service.databases:
            kept = config.layout.kept(database, number)
            known = found.txids[database.name] if number == found.epoch else 0
            if read_follower(kept) > known:
                raise DataBad(
                    f"the vault has lost data of {database.name}: it ends with transaction {known} of epoch {number}, "
                    f"and {config.name} has had {read_follower(kept)} from it, kept at {kept}",
                    hint="bring the vault's newest versions of epoch "
                    f"{number} back, or move that copy away to go on without it; then the same command again",
                )


def keep_follower(config: Config, database: Database, epoch: int) -> None:
    """Make room for a follower that begins anew. What it had is kept until it is as far again: the vault may be away
    or damaged, and then this copy is the last."""
    layout = config.layout
    old, kept = layout.following(database, epoch), layout.kept(database, epoch)
    if read_follower(old) > read_follower(kept):
        shutil.rmtree(kept.parent, ignore_errors=True)
        old.parent.rename(kept.parent)
    # Where there is no room for two, following is worth more than what was.
    room = not kept.exists() or shutil.disk_usage(kept.parent).free > 1.2 * kept.stat().st_size
    drop_followers(config, database, but=kept.parent if room else None)


def drop_kept(config: Config, database: Database, epoch: int) -> None:
    """Remove what was kept, once the follower is as far."""
    kept = config.layout.kept(database, epoch)
    if kept.parent.is_dir() and read_follower(config.layout.following(database, epoch)) >= read_follower(kept) > 0:
        shutil.rmtree(kept.parent, ignore_errors=True)


def drop_followers(config: Config, database: Database, but: Path | None = None) -> None:
    """Remove the copies that followed, of every epoch."""
    for pattern in ("follower-*", "kept-*"):
        for folder in config.layout.beside(database).glob(pattern):
            if folder != but:
                shutil.rmtree(folder, ignore_errors=True)


def await_followers(
    config: Config,
    target: Target,
    *,
    within: float,
    running: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, int]:
    """Wait until the followers have reached `target`, as long as they make progress; returns what each has applied."""

    begun = moved = clock()
    last = _applied(config, target.epoch)
    while not _reached(last, target) and clock() - begun < within and clock() - moved < FOLLOWER_STALL_S and running():
        time.sleep(POLL_S)
        now = _applied(config, target.epoch)
        if now != last:
            last, moved = now, clock()
    return last


def _reached(applied: Mapping[str, int], target: Target) -> bool:
    return all(applied.get(name, 0) == txid for name, txid in target.txids.items())
