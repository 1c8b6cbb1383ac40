"""When may this host serve? Pure: what the agent knows → what it must do. The one rule that keeps two primaries apart.

Times are seconds of this host's CLOCK_BOOTTIME, which goes on counting while the machine is suspended: a host that
slept through its lease must know it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lifeline.layout import RoleFile
from lifeline.model import Lease

Kind = Literal["idle", "serve", "wait", "fence"]


@dataclass(frozen=True)
class Judgement:
    """idle: not primary. serve: the lease is ours. wait: not confirmed yet, nothing may be started. fence: stop now,
    and be nothing."""

    kind: Kind
    reason: str = ""


@dataclass(frozen=True)
class Known:
    """What the agent knows of the lease.

    `lease` is what was read last, None when it never was. `valid_until` is when this host must have stopped unless
    it renews: the time at which the last successful renewal was *begun*, plus ttl - margin; None when it never renewed.
    """

    lease: Lease | None = None
    valid_until: float | None = None
    error: str = ""


def valid_until(begun: float, lease: Lease) -> float:
    """The end of what a renewal begun at `begun` is good for."""
    return begun + lease.ttl_s - lease.margin_s


def judge(role: RoleFile, me: str, known: Known, now: float) -> Judgement:
    """The verdict of this moment.

    Invariant: "serve" implies that the lease store confirmed us as holder of exactly this epoch less than ttl -
    margin ago.
    """
    if role.role != "primary":
        return Judgement("idle", f"this host is {role.role}")
    lease = known.lease
    if lease is not None and (lease.holder, lease.epoch) != (me, role.epoch):
        return Judgement(
            "fence",
            f"the lease of epoch {lease.epoch} is {lease.holder}'s; this host was primary of epoch {role.epoch}",
        )
    if known.valid_until is not None and now >= known.valid_until:
        return Judgement("fence", f"the lease could not be renewed in time: {known.error or 'no answer'}")
    # A deadline without a lease is what a restarted agent has from its predecessor: reason enough to stop, none to
    # serve.
    if known.valid_until is None or lease is None:
        return Judgement("wait", known.error or "the lease is not confirmed yet")
    return Judgement("serve")
