"""A person's word on automatic failover: pause, resume, automatic, manual.  It lies in the lease, which whoever could
promote reads anyway; so it holds as soon as it is written, on both hosts, and outlives both."""

from __future__ import annotations

import getpass
import re
from datetime import UTC, timedelta

from lifeline.errors import BadInput
from lifeline.lookout import mode_now
from lifeline.model import Lease, Mode
from runbooks.site import Site

PAUSE = "1h"
LONGEST = timedelta(days=7)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def pause(site: Site, length: str = PAUSE) -> Lease:
    """Nothing is taken over or handed over until the end of the pause, or `fab resume`."""
    until = site.clock.utc() + _length(length)
    word = Mode("paused", _me(), until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    lease = site.leases.set_mode(word)
    site.say(
        f"Paused until {word.until}: until then the hosts fail nothing over by themselves, whatever happens. A primary "
        "that can't keep its lease still stops.\n  next: fab resume, when you are done; fab failover works all the same"
    )
    return lease


def resume(site: Site) -> Lease:
    """The stack's policy holds again."""
    lease = site.leases.set_mode(None)
    site.say(f"The stack's policy holds: {_means(mode_now(lease, site.inventory.policy, site.clock.utc()))}")
    return lease


def mode(site: Site, name: str) -> Lease:
    """Automatic or manual, until `fab resume`, whatever the stack says."""
    if name not in ("automatic", "manual"):
        raise BadInput(f'"{name}" is no mode; there are automatic and manual', hint="fab pause, to stop it for a while")
    lease = site.leases.set_mode(Mode("automatic" if name == "automatic" else "manual", _me()))
    site.say(_means(name) + "\n  next: fab status; fab resume goes back to the stack's policy")
    return lease


def _means(name: str) -> str:
    if name == "automatic":
        return "automatic: a host that sees the primary lost, and can prove that it is fenced, takes over by itself."
    if name == "paused":
        return "paused still."
    return "manual: the hosts say when they would fail over, and wait for fab failover."


def _length(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+)([smhd])", text.strip())
    if not found:
        raise BadInput(f'"{text[:40]}" is no length of time', hint="fab pause --for 30m, 2h or 1d")
    try:
        length = timedelta(**{_UNITS[found[2]]: int(found[1])})
    except (OverflowError, ValueError):  # more days, or digits, than there are
        length = timedelta.max
    if not timedelta(0) < length <= LONGEST:
        raise BadInput(f"{text[:40]} is too long for a pause, or none at all: at most 7d", hint="fab mode manual")
    return length


def _me() -> str:
    return f"operator:{getpass.getuser()}"
