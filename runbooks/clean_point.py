"""The last clean point: searched on the standby, proposed with what it would undo, and on agreement restored to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifeline.errors import DataBad, LifelineError, Refused, Unproven
from lifeline.runbook import Outcome
from runbooks.promotion import FINALIZE_S
from runbooks.restore import restore
from runbooks.site import Site
from runbooks.wanted import both_clocks

SEARCH_S = 6 * 3600.0


def before_corruption(
    site: Site,
    check: str | None = None,
    *,
    yes: bool = False,
    dry_run: bool = False,
    waive: tuple[str, ...] = (),
    ask: Callable[[str], str] = input,
) -> Outcome | None:
    """Find the last point that passes every check, and restore to it.  None where there is nothing to do, or for a dry
    run."""
    lease = site.leases.read()
    if lease is None:
        raise Refused("nobody ever held the lease: there is nothing to search", hint="fab provision")
    host = _where(site, lease.holder)
    site.say(f"Searching on {host}: each point is restored beside and checked; nothing live is touched.")
    arguments = ["--epoch", str(lease.epoch), *(["--check", check] if check else [])]
    found = site.hosts[host].verb("search-clean", *arguments, timeout=SEARCH_S)
    site.say(f"{found['tried']} of {found['points']} points restored and checked.")
    if found["good"] is None:
        raise DataBad(
            "no point of the replica passes: the damage is older than all of them, or the check is wrong",
            hint="fab restore --from snapshot --at an earlier time; fab backups shows which there are",
        )
    if found["bad"] is None:
        if not _live_is_damaged(site, lease.holder):
            return None
        return restore(site, yes=yes, dry_run=dry_run, waive=waive, ask=ask)
    site.say(proposal(found))
    return restore(site, found["good"]["at"], yes=yes, dry_run=dry_run, waive=waive, ask=ask)


def _live_is_damaged(site: Site, holder: str) -> bool:
    """The vault's newest point is clean: what is wrong, if anything is, is wrong on the primary's disk alone."""
    site.say("The newest point passes every check: there is no corruption to go back behind in the vault.")
    try:
        site.hosts[holder].verb("verify", timeout=FINALIZE_S)
    except DataBad as error:
        site.say(f"The live files on {holder} are damaged: {error.message}")
        site.say("The vault's newest point isn't: to restore it undoes nothing that reached the vault.")
        return True
    except LifelineError as error:
        raise Unproven(
            f"the vault's newest point is clean, but the live files on {holder} couldn't be checked: {error.message}",
            hint="fab validate; if they are damaged: fab restore",
        ) from None
    site.say(f"The live files on {holder} pass every check too.\n  next: fab validate")
    return False


def _where(site: Site, holder: str) -> str:
    """The standby, if it answers: many restores are work that a primary shouldn't have to do."""
    other = site.inventory.other(holder).name
    try:
        return other if site.observe(other).role != "primary" else holder
    except LifelineError:
        return holder


def proposal(found: dict[str, Any]) -> str:
    """What was found and what going back there would undo."""
    good, bad, lost = found["good"], found["bad"], found["lost"] or {}
    lines = [
        f"Last good point: {both_clocks(good['at'])}, transaction {good['txid']} of epoch {good['epoch']}.",
        f"The next one that could be restored fails: {both_clocks(bad['at'])}, transaction {bad['txid']}.",
    ]
    if lost.get("seconds") is not None:
        count = "" if lost.get("transactions") is None else f", {lost['transactions']} transactions"
        lines.append(f"Going back undoes the last {lost['seconds']:.0f} s{count}.")
    rows = lost.get("rows")
    if rows is None:
        lines.append("How many rows that is can't be counted: the newest copy is too damaged.")
    for table, (then, now) in (rows or {}).items():
        lines.append(f"  {table}: {then} rows then, {now} now")
    return "\n".join(lines)
