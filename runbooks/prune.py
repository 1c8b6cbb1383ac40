"""Prune: let go of what is kept long enough.  Says what would go, asks, and lets the primary do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifeline.errors import Refused
from runbooks.site import Site, confirm

PRUNE_S = 4 * 3600.0


def prune(site: Site, *, yes: bool = False, dry_run: bool = False, ask: Callable[[str], str] = input) -> dict[str, Any]:
    """What went, or would go.  The newest backup that a restore has proved never does."""
    lease = site.leases.read()
    if lease is None:
        raise Refused("nobody ever held the lease: there is nothing to prune", hint="fab provision")
    host = site.hosts[lease.holder]
    plan = host.verb("prune", "--dry-run", timeout=PRUNE_S)
    if dry_run or not _anything(plan):
        site.say(_said(plan, "would go"))
        return plan
    confirm(site, _said(plan, "will be deleted, for good"), yes, ask)
    done = host.verb("prune", timeout=PRUNE_S)
    site.say(_said(done, "are gone"))
    return done


def _anything(plan: dict[str, Any]) -> bool:
    return bool(plan["epochs"] or plan["fine_points"] or any(plan["snapshots"].values()))


def _said(plan: dict[str, Any], how: str) -> str:
    parts = [f"{len(ids)} snapshots ({place})" for place, ids in plan["snapshots"].items() if ids]
    parts += [f"the replica of epoch {number}" for number in plan["epochs"]]
    if plan["fine_points"]:
        parts.append(f"{plan['fine_points']} files of a second each, whose transactions coarser files hold too")
    return f"{'; '.join(parts)} {how}." if parts else "Everything there is is to be kept: nothing goes."
