"""Failback: home again.  The home host is made a standby, catches up, and takes over in order.

Two runbooks in a row, each with its own journal: to type `fab failback` again goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable

from lifeline.errors import Refused
from lifeline.model import Lease
from lifeline.runbook import Outcome, check_waivers
from runbooks.reprotect import Reprotection, reprotect
from runbooks.site import Site, confirm
from runbooks.switchover import WAIVERS, switchover

NAME = "failback"


def failback(
    site: Site,
    *,
    yes: bool = False,
    dry_run: bool = False,
    waive: tuple[str, ...] = (),
    ask: Callable[[str], str] = input,
) -> Outcome | None:
    """Make the home primary the primary again.  None for a dry run, or when it is home already."""
    check_waivers(waive, WAIVERS)  # of the switchover at the end: what is no waiver is told before a host is powered on
    home, lease = site.inventory.home_primary.name, site.leases.read()
    if lease is None:
        raise Refused("nobody ever held the lease: there is nothing to bring home", hint="fab provision")
    if lease.holder == home and not lease.released and not lease.over_released:
        site.say(f"{home} is primary, epoch {lease.epoch}: it is at home already.\n  next: fab status")
        return None
    if lease.holder != home and not lease.released:
        if dry_run and not _follows(site, lease):
            reprotect(site, dry_run=True)
            site.say(f"Then, when {home} follows: fab switchover --target {home}.")
            return None
        if not dry_run:
            confirm(site, _warning(site, lease), yes, ask)
            reprotect(site, yes=True)
    return switchover(site, home, yes=True, dry_run=dry_run, waive=waive)


def _follows(site: Site, lease: Lease) -> bool:
    work = Reprotection(site, lease)
    return work.powered().verdict == "PASS" and work.follows().verdict == "PASS"


def _warning(site: Site, lease: Lease) -> str:
    home, service = site.inventory.home_primary.name, site.inventory.service
    return (
        f"This powers {home} on if it is off, makes it follow {lease.holder}, and when it has caught up stops "
        f"{service} on {lease.holder} and goes on with it on {home}: some seconds without writes, and nothing is "
        f"lost. What {home} wrote before and never got into the vault stays on its disk."
    )
