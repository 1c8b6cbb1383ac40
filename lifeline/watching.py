"""How far is a copy behind? Pure, but for reading positions through the ports it is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from lifeline import replica

# A follower that has applied nothing yet is restoring; large databases take minutes.
FIRST_RESTORE_S = 1800.0
SETTLE_S = 3.0  # a follower looks every half second, and lists nine prefixes each time
SETTLE_POLL_S = 0.25
# Litestream's first two levels: single transactions, which go after minutes, and what they were compacted into. There
# an object may begin before the follower's position and reach beyond it: one looks back by more than an object holds.
_LEVELS = (("0000", 0), ("0001", 10_000))


class Keys(Protocol):
    """What is read of the vault: keys in order, those behind `after` only."""

    def keys(self, prefix: str, after: str = "") -> Iterable[str]: ...


@dataclass(frozen=True)
class Position:
    """A follower's applied transaction, and the newest in the vault."""

    applied: int
    newest: int

    @property
    def behind(self) -> bool:
        return self.applied < self.newest


@dataclass(frozen=True)
class Watched:
    """One database as the agent watches it. Times are the agent's clock; `lag_s` None is "not known"."""

    applied: int | None = None
    newest: int | None = None
    caught_up_at: float | None = None  # a follower had everything then
    moved_at: float = 0.0  # a follower last made progress, or had nothing to do
    stalled: bool = False
    restarts: int = 0
    last_sync_at: str | None = None
    lag_s: float | None = None

    @classmethod
    def of_primary(cls, listed: replica.Listed | None) -> Watched:
        """From Litestream's list: how old its last success is. Its status says "replicating" through any outage."""
        stamp = listed.last_sync_at if listed else None
        return cls(last_sync_at=stamp, lag_s=None if stamp is None else age(stamp, datetime.now(UTC)))

    def to_json(self, now: float) -> dict[str, Any]:
        return {
            **{"txid": self.applied, "newest_txid": self.newest, "lag_s": self.lag_s, "stalled": self.stalled},
            **{"restarts": self.restarts, "last_sync_at": self.last_sync_at},
        }


class Newest:
    """The newest transactions in the vault. What one look has listed, the next one doesn't list again."""

    def __init__(self, vault: Keys, service: str) -> None:
        self._vault, self._service = vault, service
        self._seen: dict[str, str] = {}  # by prefix: the last key

    def of(self, epoch: int, database: str, applied: int) -> int:
        """As far as a copy that has `applied` must know: 0 when there is nothing behind that."""
        root = replica.replica_prefix(self._service, epoch, database)
        return max(self._behind(f"{root}/{level}/", applied - back) for level, back in _LEVELS)

    def _behind(self, prefix: str, txid: int) -> int:
        # "~" sorts behind everything in a name: the first key wanted is that of the next transaction.
        after = f"{prefix}{replica.format_txid(txid)}~" if txid > 0 else ""
        # The last key itself is wanted: is it still there?
        keys = list(self._vault.keys(prefix, after=max(after, self._seen.get(prefix, "")[:-1])))
        if keys:
            self._seen[prefix] = keys[-1]
        return replica.newest_txid(keys)


def lag(
    newest: Newest,
    epoch: int,
    database: str,
    applied: Callable[[], int],
    sleep: Callable[[float], None] = time.sleep,
) -> Position:
    """Compare a follower with the vault. The vault is read first: what arrives while we look is no lag.

    Under load a follower is always half a second behind, so one that is behind gets a moment to prove it is only that.
    """
    begun = applied()
    there = max(newest.of(epoch, database, begun), begun)
    found = Position(applied(), there)
    waited = 0.0
    while found.behind and waited < SETTLE_S:
        sleep(SETTLE_POLL_S)
        waited += SETTLE_POLL_S
        found = Position(applied(), there)
    return found


def progress(before: Watched | None, position: Position | None, now: float, stalled_s: float) -> Watched:
    """What is known after another look. `position` None: the vault couldn't be read, and nothing is known. Pure."""
    before = before or Watched(moved_at=now)
    if position is None:
        return Watched(before.applied, None, before.caught_up_at, before.moved_at, False, before.restarts)
    if not position.behind and position.newest:
        return Watched(position.applied, position.newest, now, now, False, before.restarts, lag_s=0.0)
    moved = now if position.applied != before.applied or not position.newest else before.moved_at
    patience = stalled_s if position.applied else FIRST_RESTORE_S
    lag_s = None if before.caught_up_at is None else round(now - before.caught_up_at, 3)
    return Watched(
        position.applied,
        position.newest,
        before.caught_up_at,
        moved,
        now - moved >= patience,
        before.restarts,
        lag_s=lag_s,
    )


def age(stamp: str, now: datetime) -> float:
    """Seconds since an RFC 3339 time with up to nine decimals (Go's), never negative."""
    whole, _, rest = stamp.partition(".")
    digits = rest.rstrip("Z")
    zone = ""
    for sign in "+-":
        if sign in digits:
            digits, _, tail = digits.partition(sign)
            zone = sign + tail
    if not rest:
        return max(0.0, (now - datetime.fromisoformat(stamp)).total_seconds())
    then = datetime.fromisoformat(f"{whole}.{digits[:6].ljust(6, '0')}{zone or '+00:00'}")
    return max(0.0, (now - then).total_seconds())
