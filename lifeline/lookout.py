"""What a host makes of what it sees of the other one: silence, measured on its own clock.  Pure.

Times are seconds of this host's CLOCK_BOOTTIME.  A silence is what was *seen*: from the end of the first read that
showed a renewal to the end of the last one that still did.  While nothing could be read nothing was seen, and after a
gap the count begins anew: a holder that was cut off from the store together with us gets its time to renew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from lifeline.damage import Damage, Proof, proof_for
from lifeline.decide import LATE_RENEWALS, CopyState, LeaseState, PeerState, Witness
from lifeline.model import FailoverPolicy, Lease, ModeName

PEER_FRESH_S = 3.0  # an older answer is none


@dataclass(frozen=True)
class LeaseWatch:
    """The lease as it was read last, since when it shows that renewal, and when that was last seen."""

    lease: Lease | None = None
    since: float | None = None
    read_at: float | None = None
    error: str = ""

    @property
    def silent_s(self) -> float:
        return 0.0 if self.since is None or self.read_at is None else self.read_at - self.since


def read(before: LeaseWatch, lease: Lease | None, now: float, gap_s: float) -> LeaseWatch:
    """After a read that ended at ``now``.  ``gap_s``: a longer time without one breaks what was counted."""
    same = _life(before.lease) == _life(lease)
    unbroken = before.read_at is not None and now - before.read_at <= gap_s
    since = before.since if same and unbroken and before.since is not None else now
    return LeaseWatch(lease, since, now)


def unread(before: LeaseWatch, error: str) -> LeaseWatch:
    """After a read that failed."""
    return replace(before, error=error or "no answer")


def _life(lease: Lease | None) -> tuple[Any, ...] | None:
    """What a living holder changes."""
    return None if lease is None else (lease.holder, lease.epoch, lease.renewal, lease.ttl_s)


def lease_state(watch: LeaseWatch, me: str, policy: FailoverPolicy) -> LeaseState:
    """The lease, for ``decide``."""
    lease = watch.lease
    if watch.error or watch.read_at is None:
        return LeaseState.UNREAD
    if lease is None:
        return LeaseState.NOBODY
    if lease.released:
        return LeaseState.RELEASED
    if lease.holder == me:
        return LeaseState.MINE
    if watch.silent_s >= lease.ttl_s + lease.margin_s:
        return LeaseState.EXPIRED
    return LeaseState.LATE if watch.silent_s >= LATE_RENEWALS * policy.renew_s else LeaseState.KEPT


@dataclass(frozen=True)
class PeerWatch:
    """The other agent's last answer (its /health), and when it came."""

    answer: Mapping[str, Any] | None = None
    at: float | None = None

    def age_s(self, now: float) -> float | None:
        return None if self.at is None else now - self.at


def peer_state(watch: PeerWatch, now: float) -> PeerState:
    """The other host, for ``decide``.  What it says of itself is believed only where that holds us back."""
    age = watch.age_s(now)
    if watch.answer is None or age is None or age > PEER_FRESH_S:
        return PeerState.SILENT
    if watch.answer.get("judgement") == "serve":
        return PeerState.SERVES
    databases = (watch.answer.get("databases") or {}).values()
    # One that can't see the vault could do no better: its lag isn't known.
    ready = bool(databases) and all(found.get("lag_s") is not None and not found.get("stalled") for found in databases)
    return PeerState.STANDBY if watch.answer.get("role") == "standby" and ready else PeerState.IDLE


def peer_proof(watch: PeerWatch, found: Damage | None, now: float) -> Proof:
    """What the other host says of the vault's copy, after this one found its own data damaged."""
    age = watch.age_s(now)
    fresh = watch.answer is not None and age is not None and age <= PEER_FRESH_S
    return proof_for(found, (watch.answer or {}).get("opinion")) if fresh else Proof.NONE


class Followed(Protocol):
    """One database of a standby, as watching.py has it."""

    @property
    def newest(self) -> int | None: ...
    @property
    def stalled(self) -> bool: ...
    @property
    def lag_s(self) -> float | None: ...


def copy_state(watched: Mapping[str, Followed], policy: FailoverPolicy) -> CopyState:
    """A standby's databases, for ``decide``: what the vault holds must be known, then being behind costs only time."""
    if not watched or any(found.newest is None for found in watched.values()):
        return CopyState.UNSEEN
    near = all(
        not found.stalled and found.lag_s is not None and found.lag_s <= policy.max_lag_s for found in watched.values()
    )
    return CopyState.READY if near else CopyState.BEHIND


def witness(regions: Mapping[str, str] | None) -> Witness:
    """The uptime check's word, by region: as many as say so."""
    if not regions:
        return Witness.UNKNOWN
    words = {word.upper() for word in regions.values()}
    return Witness.DOWN if words == {"DOWN"} else Witness.UP if "UP" in words else Witness.UNKNOWN


def mode_now(lease: Lease | None, policy: FailoverPolicy, now: datetime) -> ModeName:
    """A person's word in the lease, while it holds; else the stack's policy.  A pause ends by itself."""
    word = lease.mode if lease else None
    if word is None or (word.until is not None and now >= datetime.fromisoformat(word.until)):
        return policy.mode
    return word.name
