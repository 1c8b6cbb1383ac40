"""What is wrong with a primary's own service, for ``decide``.  Pure: looks in, words out.

Supervisor's own restarts come first: only what lasts is trouble.  A service that a person stopped is none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Health:
    """How the service does.  ``down_since``: since when it was seen not to answer, seconds of the agent's clock; None
    while it answers, and before it was first looked at."""

    down_since: float | None = None
    why: str = ""


def looked(before: Health, now: float, why_not: str, by_hand: bool) -> Health:
    """After a look.  ``why_not``: "" when it answered 200."""
    if not why_not or by_hand:
        return Health()
    return Health(now if before.down_since is None else before.down_since, why_not)


def of(service: str, health: Health, now: float, down_s: float) -> str:
    """The trouble in words, "" for none."""
    if health.down_since is None or now - health.down_since < down_s:
        return ""
    return f"{service} has been down for {now - health.down_since:.0f} s and doesn't recover ({health.why})"


def together(*found: str) -> str:
    """Several troubles in one line; "" for none."""
    return "; ".join(words for words in found if words)
