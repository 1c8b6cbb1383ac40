"""Reprotect: after a failover, make the other host a standby again.

The old primary's disk holds what it wrote and never got into the vault; its live databases are left where they are.
Its agent starts nothing that the lease doesn't say: switched on, it waits.
"""

from __future__ import annotations

from collections.abc import Callable

from lifeline.errors import LifelineError, Refused
from lifeline.journal import unfinished
from lifeline.model import Finding, Host, Lease
from lifeline.runbook import Outcome, Runbook, Step
from runbooks.forks import told
from runbooks.site import Site, confirm
from runbooks.wanted import Asked

NAME = "reprotect"
BOOT_S = 120.0
FOLLOW_S = 900.0


def reprotect(
    site: Site, *, yes: bool = False, dry_run: bool = False, ask: Callable[[str], str] = input
) -> Outcome | None:
    """Make the host that isn't primary follow the one that is.  None for a dry run."""
    lease = site.leases.read()
    if lease is None:
        raise Refused("nobody ever held the lease: there is no primary to follow", hint="fab provision")
    work = Reprotection(site, lease)
    work.refuse_half_done()
    runbook = work.runbook()
    if dry_run:
        runbook.plan()
        return None
    what = f"This powers {work.other.name} on if it is off, and makes it follow {lease.holder} (epoch {lease.epoch})."
    confirm(site, what, yes, ask)
    return runbook.run(site.journal(NAME), {"primary": lease.holder, "standby": work.other.name}, publish=site.publish)


def rejoin(site: Site, me: str) -> Outcome:
    """By a host itself, that came back: it follows whoever serves.  What it wrote and never got into the vault is set
    aside on its disk, and told."""
    lease = site.leases.read()
    if lease is None or lease.holder == me or lease.released:
        raise Refused(f"nobody else holds the lease: there is nothing for {me} to follow", hint="fab status")
    work = Reprotection(site, lease)
    runbook = Runbook(
        "rejoin", [work.follow_step(), work.fork_step()], lambda _: f"{me} is a standby again.", site.clock, site.out
    )
    told: dict[str, object] = {"primary": lease.holder, "standby": me, "epoch": lease.epoch}
    return runbook.run(site.journal("rejoin"), told, publish=site.publish)


def power_on(site: Site, me: str) -> Outcome:
    """By a primary without a standby: the other host is switched on.  What comes back finds that the lease has moved,
    serves nobody, and its own agent makes it follow."""
    lease = site.leases.read()
    if lease is None or lease.holder != me or lease.released:
        raise Refused(f"{me} doesn't hold the lease: it has nobody to make its standby", hint="fab status")
    work = Reprotection(site, lease)
    done = f"{work.other.name} is on; its agent makes it follow {me}.\n  next: fab status"
    told: dict[str, object] = {"primary": me, "standby": work.other.name, "epoch": lease.epoch}
    closes = any("firewall" in entry for entry in site.inventory.policy.alternatives())
    steps = [work.power_step(), *([work.open_step()] if closes else [])]
    runbook = Runbook("power-on", steps, lambda _: done, site.clock, site.out)
    return runbook.run(site.journal("power-on"), told, publish=site.publish)


class Reprotection:
    """The host that isn't primary, on its way to standby."""

    def __init__(self, site: Site, lease: Lease) -> None:
        self.site = site
        self.lease = lease
        self.other: Host = site.inventory.other(lease.holder)

    def runbook(self) -> Runbook:
        other = self.other.name
        return Runbook(
            NAME,
            [
                self.power_step(),
                self.open_step(),
                Step(f"{other} answers", until=self.reachable, within=BOOT_S, hint="fab provision", poll=1.0),
                self.follow_step(),
                self.fork_step(),
            ],
            lambda outcome: f"{other} is standby again, after {outcome.seconds:.1f} s.\n  next: fab status",
            self.site.clock,
            self.site.out,
        )

    def power_step(self) -> Step:
        return Step(
            f"{self.other.name} is on",
            until=self.powered,
            do=lambda: self.site.cloud.power_on(self.other.droplet_id),
            within=60,
            would="power it on",
            hint="pulumi up --refresh, if the droplet is gone",
        )

    def open_step(self) -> Step:
        return Step(
            f"{self.other.name} may be spoken with",
            until=self.opened,
            do=self.reopen,
            within=30,
            would="open its firewall again, if a fence closed it",
        )

    def follow_step(self) -> Step:
        """It follows whoever holds the lease."""
        other, epoch = self.other.name, str(self.lease.epoch)
        return Step(
            f"{other} follows {self.lease.holder}, epoch {epoch}",
            until=self.follows,
            do=lambda: self.site.hosts[other].verb("start-standby", "--epoch", epoch, timeout=120),
            within=FOLLOW_S,
            would=f"start-standby --epoch {epoch}",
            hint="fab provision",
            poll=1.0,
        )

    def fork_step(self) -> Step:
        """What it wrote as a former primary and the vault never got is known, and told."""
        return Step(
            f"what {self.other.name} alone has is known",
            until=self.compared,
            within=0,
            peek=lambda: Finding.failed("known when its databases were compared with the vault"),
            would="compare what was set aside with what history kept of its epoch, row by row",
            hint="fab forks",
        )

    def compared(self) -> Finding:
        found = self.site.hosts[self.other.name].verb("forks", timeout=FOLLOW_S)["forks"]
        if not found:
            return Finding.passed("nothing: the vault has every row of it")
        for fork in found:
            self.site.say(f"        {told(self.other.name, fork)}")
        counts = [{key: fork[key] for key in ("folder", "verdict")} for fork in found]
        return Finding.passed(f"{len(found)} set aside; next: fab forks", forks=counts)

    def refuse_half_done(self) -> None:
        """A holder that doesn't serve its epoch has written nothing to follow, and the other host may hold the only
        good copy.  A holder that can't be asked is no reason: then this standby is what is needed most."""
        try:
            seen = self.site.observe(self.lease.holder)
        except LifelineError:
            return
        if (seen.role, seen.epoch) != ("primary", self.lease.epoch):
            raise Refused(
                f"{self.lease.holder} holds the lease, epoch {self.lease.epoch}, and doesn't serve it (its role is "
                f"{seen.role}): a failover or a restore isn't finished, and there is nothing to follow yet",
                hint=self._way_on(),
            )

    def _way_on(self) -> str:
        """What goes on with it, by this operator's journals; the run may be another's."""
        for name in ("restore", "switchover", "failover"):
            begun = unfinished(self.site.journals, name)
            if begun and (begun.took(self.lease) or begun.context.get("epoch") == self.lease.epoch + 1):
                if name == "restore":
                    return Asked.of_context(begun.context).command()
                return f"fab {name} --target {begun.context['target']}"
        return f"fab failover --target {self.lease.holder}; where it was a restore: fab restore, as it was typed before"

    def powered(self) -> Finding:
        state = self.site.cloud.power_state(self.other.droplet_id)
        if state == "absent":
            return Finding.unknown(f"there is no droplet {self.other.droplet_id} any more: it must be built anew")
        return Finding.passed(state) if state == "active" else Finding.failed(f"it is {state}")

    def opened(self) -> Finding:
        """Behind its own firewall again.  It is no fence any more: the lease has moved, and it serves nobody."""
        if self.site.cloud.has_closing(self.other.name):
            return Finding.failed("a fence closes its firewall")
        return Finding.passed("no fence closes its firewall")

    def reopen(self) -> None:
        self.site.cloud.reopen(self.other.droplet_id, self.other.name)

    def reachable(self) -> Finding:
        try:
            seen = self.site.observe(self.other.name)
        except Refused:
            raise
        except LifelineError as error:
            return Finding.failed(error.message)
        return Finding.passed(f"its role is {seen.role}", role=seen.role, epoch=seen.epoch)

    def follows(self) -> Finding:
        """It follows, and knows how far behind it is: only then is it a standby."""
        seen = self.site.observe(self.other.name)
        ready = (seen.role, seen.epoch) == ("standby", self.lease.epoch) and seen.follower_running
        if ready and seen.lag_s is not None:
            return Finding.passed(f"{seen.lag_s:.1f} s behind", lag_s=seen.lag_s)
        says = "it follows, its lag isn't known yet" if ready else f"its role is {seen.role}"
        return Finding.failed(says, role=seen.role, epoch=seen.epoch)
