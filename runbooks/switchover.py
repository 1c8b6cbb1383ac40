"""Switchover: the primary is healthy and stops in order, the standby goes on where it ended.  Nothing may be lost.

The primary stops, brings its last transaction into the vault and gives its lease back: that is the fence, by its own
word.  From there on it is a failover.  ``hand_over`` is the first half alone, by a primary that sees its own trouble:
the standby's agent does the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from lifeline import admission
from lifeline.errors import LifelineError, Refused, StepFailed, Unproven
from lifeline.model import Evidence, Finding, Lease
from lifeline.runbook import Outcome, Runbook, Step, check_waivers
from runbooks.failover import context, prepare, summary, take_over_steps
from runbooks.promotion import START_S, Promotion
from runbooks.site import Site, confirm

NAME = "switchover"
STOP_S = 120.0
WAIVERS = (admission.WAIVE_DATA, admission.WAIVE_TRAFFIC, admission.WAIVE_WRITE)
_WAIVER = re.compile(r"(; nothing was touched)?[: (]+to go on [a-z ]+: --waive [a-z-]+\)?")


def switchover(
    site: Site,
    target: str | None = None,
    *,
    yes: bool = False,
    dry_run: bool = False,
    waive: tuple[str, ...] = (),
    ask: Callable[[str], str] = input,
) -> Outcome | None:
    """Make ``target`` (default: the standby) the primary, in order.  None for a dry run."""
    waived = check_waivers(waive, WAIVERS)
    # A primary that serves is just what a switchover moves.
    try:
        decision, promotion = prepare(site, target, frozenset({admission.WAIVE_SERVING}), NAME)
    except (Refused, Unproven) as error:
        raise _in_order(error) from None
    leaving = (
        Leaving(site, promotion.old.name, promotion.lease) if promotion.lease.holder == promotion.old.name else None
    )
    if leaving is not None and not promotion.lease.released:
        leaving.refuse_unhealthy()
    site.say(f"{decision.reason} (inventory from {site.loaded.origin})")
    runbook = steps_of(promotion, leaving)
    if dry_run:
        runbook.plan()
        return None
    if not yes:  # who is asked knows it first
        site.say(f"DNS: {promotion.name_stood().says}")
    confirm(site, _warning(promotion), yes, ask)
    journal = site.journal(NAME)
    promotion.run_id = journal.run_id
    return runbook.run(journal, context(promotion, decision), waived, publish=site.publish)


def steps_of(promotion: Promotion, leaving: Leaving | None) -> Runbook:
    """The whole of it.  ``leaving`` None: the old primary has left already."""
    site = promotion.site
    before = [] if leaving is None else leaving.steps(back=True)
    steps = [*before, *take_over_steps(promotion, _left_step(promotion), again="fab switchover")]
    return Runbook(NAME, steps, lambda outcome: summary(promotion, outcome), site.clock, site.out)


def _in_order(refusal: LifelineError) -> LifelineError:
    """A failover's refusal, without the waiver that only a failover has: here nothing is lost by waiting."""
    says = _WAIVER.sub("", refusal.message)
    if says == refusal.message:
        return refusal
    again = "when it is close behind, fab switchover; where it doesn't follow, fab reprotect"
    hint = f"{refusal.hint}; {again}" if admission.WAIVE_LAG in refusal.message else refusal.hint
    return type(refusal)(f"{says}; nothing was moved", hint=hint)


def _left_step(promotion: Promotion) -> Step:
    """The fence of a switchover: the old primary's own word.  Nothing is powered off for it."""

    def left() -> Finding:
        if promotion.lease.over_released:
            return Finding.passed(f"{promotion.old.name} stopped in order and gave its lease back", rung="released")
        return Finding.failed(f"{promotion.old.name} didn't give its lease back: it must be fenced")

    would = "nothing more: it has given its lease back by then"
    return Step(f"old primary {promotion.old.name} has left", until=left, within=0, would=would, hint="fab failover")


def hand_over(site: Site, me: str, reason: str) -> Outcome:
    """By the primary itself: stop, and give the lease back.  What can't be flushed stays on this host's disk: to go on
    serving would not bring it into the vault either."""
    lease = site.leases.read()
    if lease is None or lease.holder != me or lease.released:
        raise Refused(f"{me} holds no lease to give back", hint="fab status")
    leaving = Leaving(site, me, lease)
    words = "the standby takes over.\n  next: fab status"
    runbook = Runbook(
        "hand-over", leaving.steps(back=False), lambda _: f"{me} has stopped: {words}", site.clock, site.out
    )
    told: dict[str, object] = {"host": me, "epoch": lease.epoch, "reason": reason}
    return runbook.run(site.journal("hand-over"), told, publish=site.publish)


def _warning(promotion: Promotion) -> str:
    new, old, service = promotion.new.name, promotion.old.name, promotion.service.name
    return (
        f"This stops {service} on {old}, and goes on with it on {new}: some seconds without writes, and until "
        f"resolvers have the new address. Nothing is lost: {new} starts only when the vault has {old}'s last "
        "transaction."
    )


@dataclass
class Leaving:
    """A healthy primary that stops in order."""

    site: Site
    host: str
    lease: Lease
    heard: str = ""  # how it stopped, by its own answer in this run

    def refuse_unhealthy(self) -> None:
        """It must be able to bring its last writes into the vault: that is what makes this no failover.  One that
        stopped before this run may have stopped without."""
        try:
            seen = self.site.observe(self.host)
        except LifelineError as error:
            raise Refused(
                f"{self.host} can't be asked to stop in order: {error.message}", hint="fab failover"
            ) from None
        if (seen.role, seen.epoch) != ("primary", self.lease.epoch):
            raise Refused(
                f"{self.host} holds the lease, epoch {self.lease.epoch}, and doesn't serve it (role {seen.role}): "
                "whether the vault has its last writes isn't known; nothing was touched",
                hint="fab provision, which starts it again, then fab switchover; or fab failover, which may lose them",
            )
        if not seen.litestream_running:
            raise Refused(f"{self.host} doesn't replicate: its last writes aren't in the vault", hint="fab failover")

    def steps(self, back: bool) -> list[Step]:
        """``back``: if its last writes don't get into the vault, it serves again and nothing has changed."""
        service, epoch = self.site.inventory.service, self.lease.epoch
        return [
            Step(
                f"{service} has stopped on {self.host}, "
                + ("and the vault has all of it" if back else "and the vault has what could be brought there"),
                until=self.stopped,
                do=self.stop_or_stay if back else self.stop,
                within=STOP_S,
                would="stop it, bring its last transaction into the vault, stop Litestream",
                hint=f"fab status; if {self.host} has stopped: fab provision, which starts it again",
            ),
            Step(
                f"{self.host} has given its lease back, epoch {epoch}",
                until=self.released,
                do=self.release,
                within=20,
                would="release the lease: the fence, by its own word",
                hint="fab failover",
            ),
        ]

    def stopped(self) -> Finding:
        """That nothing runs is no proof that the vault has it: only the host's own answer is, or its lease given back,
        which it does after that."""
        seen = self.site.observe(self.host)
        if seen.role == "primary" or seen.service_running or seen.litestream_running:
            return Finding.failed(f"its role is {seen.role}", role=seen.role)
        txids = {copy.name: copy.txid for copy in seen.databases}
        if self.heard:
            return Finding.passed(self.heard, txids=txids)
        lease = self.site.leases.read()
        if lease is not None and (lease.released or lease.epoch > self.lease.epoch):
            return Finding.passed("nothing runs, and it has given its lease back", txids=txids)
        return Finding.failed("nothing runs; whether the vault has its last writes isn't known", role=seen.role)

    def stop(self) -> Evidence:
        try:
            return self._leave()
        except Unproven as error:
            self.site.say(f"        {error.message}")
            self.heard = error.message
            return {"flushed": None, "says": error.message}

    def stop_or_stay(self) -> Evidence:
        try:
            return self._leave()
        except Unproven as error:
            self._serve_again(error)
            says = f"{error.message}; so nothing was moved, and {self.host} serves again"
            raise StepFailed(says, hint="fab status; is the vault reachable from it?") from None

    def _leave(self) -> Evidence:
        """Its lease with it: the next step only has to give it back where that didn't succeed."""
        answer = self.site.hosts[self.host].verb("leave", "--epoch", str(self.lease.epoch), timeout=STOP_S)
        self.heard = "nothing runs, and its last transactions are in the vault"
        return answer

    def _serve_again(self, reason: LifelineError) -> None:
        try:
            self.site.hosts[self.host].verb("start-primary", "--epoch", str(self.lease.epoch), timeout=START_S)
        except LifelineError as error:
            says = f"{reason.message}; and it doesn't start again: {error.message}. NOBODY SERVES"
            raise StepFailed(says, hint="fab failover") from None

    def released(self) -> Finding:
        lease = self.site.leases.read()
        if lease is None or lease.epoch > self.lease.epoch:
            # The other host's agent may be faster than we.
            return Finding.passed("it was taken over already") if lease else Finding.failed("there is no lease")
        says = "released" if lease.released else f"{lease.holder} holds it"
        return Finding.passed(says) if lease.released else Finding.failed(says)

    def release(self) -> Evidence:
        return self.site.hosts[self.host].verb("release", "--epoch", str(self.lease.epoch), timeout=30)
