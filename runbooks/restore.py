"""Restore: the primary's databases from the vault, beside, verified, swapped; then served under a new epoch.

For data that is wrong or damaged while the primary's host is well.  The databases that were there are kept on the host.
The restored data begins a new epoch: a replica that goes back in time isn't a continuation of the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from lifeline import decide
from lifeline.errors import Refused
from lifeline.journal import Begun, unfinished
from lifeline.model import Finding, Lease
from lifeline.runbook import Outcome, Runbook, Step, check_waivers
from runbooks.catalogue import epoch_at
from runbooks.fence import fence_of, fence_step
from runbooks.promotion import FINALIZE_S, Promotion, outside_step, reprotect_step, serve_step, traffic_step
from runbooks.site import Site, confirm

NAME = "restore"
STAGE_S = 3600.0


def restore(
    site: Site,
    at: str | None = None,
    *,
    yes: bool = False,
    dry_run: bool = False,
    waive: tuple[str, ...] = (),
    ask: Callable[[str], str] = input,
) -> Outcome | None:
    """Bring the primary's databases back to ``at`` (default: the end of its replica).  None for a dry run."""
    from lifeline.restores import normalise_time

    waived = check_waivers(waive, (decide.WAIVE_FENCE, decide.WAIVE_TRAFFIC, decide.WAIVE_WRITE))
    work = prepare(site, normalise_time(at))
    runbook = work.runbook()
    if dry_run:
        runbook.plan()
        return None
    confirm(site, work.warning(), yes, ask)
    journal = site.journal(NAME)
    work.promotion.run_id = journal.run_id
    return runbook.run(journal, work.context(), waived, publish=site.publish)


def prepare(site: Site, moment: str | None) -> Restoration:
    """Look and decide, without touching anything; raises the refusal if it is one."""
    lease = site.leases.read()
    if lease is None:
        raise Refused("nobody ever held the lease: there is no primary to restore", hint="fab provision")
    begun = unfinished(site.journals, NAME)
    took = begun is not None and begun.took(lease)
    source = _source(site, lease, moment, begun if took else None)
    observed = site.observe(lease.holder)
    if observed.role == "standby":
        why = f"{lease.holder} holds the lease and is still a standby: a failover to it is half done"
        raise Refused(why, hint="fab failover")
    promotion = Promotion(site, lease.holder, lease, site.service(lease.holder), observed)
    # A restore that took its lease already goes on with it; a new one takes the next.
    promotion.epoch = lease.epoch if took else lease.epoch + 1
    resumed = begun.context if begun and _is_this(begun, promotion, moment) else None
    work = Restoration(promotion, source, moment, fenced=_needs_fence(promotion, resumed))
    if work.in_place() and resumed is None:
        why = f"the databases on {lease.holder} belong to no epoch: another restore is half done there"
        raise Refused(why, hint="fab status; the journal in .lifeline shows which")
    return work


class Restoration:
    """The primary's databases, restored in place from ``source``'s replica as of ``moment`` (None: its end)."""

    def __init__(self, promotion: Promotion, source: int, moment: str | None, fenced: bool = False) -> None:
        self.fenced = fenced
        self.promotion = promotion
        self.site = promotion.site
        self.host = promotion.new.name
        self.source = source
        self.moment = moment
        self.kept: list[str] = []

    @property
    def _arguments(self) -> list[str]:
        return ["--epoch", str(self.source), *(["--at", self.moment] if self.moment else [])]

    @property
    def _when(self) -> str:
        return f"as of {self.moment}" if self.moment else f"to the end of epoch {self.source}"

    def context(self) -> dict[str, object]:
        """For the journal's first line; ``prepare`` reads it when it resumes."""
        lease = self.promotion.lease
        return {
            "host": self.host,
            "at": self.moment,
            "source_epoch": self.source,
            "epoch": self.promotion.epoch,
            "fenced": self.fenced,
            "lease_run_id": lease.run_id if lease.epoch == self.promotion.epoch else self.promotion.run_id,
        }

    def warning(self) -> str:
        """What the operator is asked to agree to."""
        lost = (
            f"Everything written after {self.moment} is undone"
            if self.moment
            else "Nothing that is in the vault is undone"
        )
        return (
            f"This stops {self.promotion.service.name} on {self.host}, replaces its databases by copies {self._when}, "
            f"and serves them as epoch {self.promotion.epoch}. {lost}; the present databases are kept on the host."
        )

    def runbook(self) -> Runbook:
        promotion, epoch = self.promotion, self.promotion.epoch
        service = promotion.service.name
        beside = Step(
            f"a copy {self._when} is restored beside and verified",
            until=self.staged,
            within=0,
            peek=lambda: Finding.failed("not looked at in a dry run"),
            would=f"restore beside the live databases of {self.host} and verify, while {service} goes on",
            hint="fab restore --at another time",
        )
        steps = [
            Step(
                f"{service} is stopped on {self.host}",
                until=self.stopped,
                do=self.stop,
                within=120,
                would="bring its last writes into the vault, stop it and Litestream",
            ),
            Step(
                "the restored databases are in place",
                until=self.swapped,
                do=self.swap,
                within=STAGE_S,
                would="restore beside and verify if that wasn't done, swap, keep the old ones",
                hint="fab restore",
            ),
            Step(
                f"{self.host} holds the lease, epoch {epoch}",
                until=self.leased,
                do=promotion.take_lease,
                within=10,
                would=f"take epoch {epoch}",
            ),
            Step("data is verified", until=promotion.data_verified, within=0, peek=_later, hint="fab restore --at"),
            serve_step(promotion, again="fab restore"),
            traffic_step(promotion),
            outside_step(promotion),
            reprotect_step(promotion),
        ]
        # To a time: most of the work is done while the service goes on.  To the end: the end must stand still first.
        ordered = [beside, *steps] if self.moment else steps
        if self.fenced:
            ordered.insert(0, fence_step(fence_of(promotion)))
        return Runbook(NAME, ordered, self.summary, self.site.clock, self.site.out)

    def staged(self) -> Finding:
        """Making the copy is the proof: it is verified where it lies, and the verb does nothing the second time."""
        if self.in_place():
            return Finding.passed("in place already")
        answer = self.site.hosts[self.host].verb("restore", *self._arguments, "--stage", timeout=STAGE_S)
        return Finding.passed(f"from epoch {answer.get('source_epoch')}", databases=answer["databases"])

    def stopped(self) -> Finding:
        seen = self.promotion.observed = self.site.observe(self.host)
        if self.in_place():
            return Finding.passed("the restored data is in place already")
        if seen.role == "primary" or seen.service_running or seen.litestream_running:
            return Finding.failed(f"its role is {seen.role}", role=seen.role)
        return Finding.passed("nothing runs")

    def stop(self) -> None:
        """A damaged database may not let its last writes be flushed; going back in time doesn't need them."""
        flags = ["--no-flush"] if self.moment else []
        self.site.hosts[self.host].verb("stop-service", *flags, timeout=FINALIZE_S)

    def swapped(self) -> Finding:
        self.promotion.observed = self.site.observe(self.host)
        if self.in_place():
            return Finding.passed("swapped; the old ones are kept", kept=self.kept)
        return Finding.failed("the live databases are those of before")

    def swap(self) -> None:
        answer = self.site.hosts[self.host].verb("restore", *self._arguments, timeout=STAGE_S)
        self.kept = [str(item["kept"]) for item in answer["databases"] if item.get("kept")]

    def leased(self) -> Finding:
        lease = self.site.leases.read()
        if lease is None or lease.holder != self.host or lease.epoch > self.promotion.epoch:
            raise Refused("somebody else took the lease meanwhile", hint="fab status")
        self.promotion.lease = lease
        says = f"{lease.holder} holds epoch {lease.epoch}"
        return Finding.passed(says) if lease.epoch == self.promotion.epoch else Finding.failed(says)

    def in_place(self) -> bool:
        """Swapped in: the live databases belong to no epoch, or to the new one already.

        Those that a failover brought to an epoch's end belong to none either: `finalized` tells them apart.
        """
        seen = self.promotion.observed
        if seen.live_epoch is not None:
            return seen.live_epoch == self.promotion.epoch
        return seen.role == "none" and seen.finalized is None

    def summary(self, outcome: Outcome) -> str:
        lines = [f"{self.host} serves epoch {self.promotion.epoch}, after {outcome.seconds:.1f} s."]
        lines.extend(f"The old database is at {path} on {self.host}." for path in self.kept)
        lines.append(f"  next: {'fab reprotect' if self.promotion.missing else 'fab validate'}")
        return "\n".join(lines)


def _later() -> Finding:
    return Finding.failed("only restored data can be verified")


def _source(site: Site, lease: Lease, moment: str | None, begun: Begun | None) -> int:
    """The epoch to restore from.  ``begun``: our unfinished restore that took the lease; Refused if to another time."""
    if begun is None:
        return lease.epoch if moment is None else epoch_at(site, lease.epoch, datetime.fromisoformat(moment))
    at = begun.context.get("at")
    if at != moment:
        what = f"fab restore --at '{at}'" if at else "fab restore"
        raise Refused(f"a restore to another time is half done on {lease.holder}: finish it first", hint=what)
    return int(begun.context["source_epoch"])


def _is_this(begun: Begun, promotion: Promotion, moment: str | None) -> bool:
    """Databases without an epoch are our unfinished restore's own, if it is this one."""
    context = begun.context
    return (context["host"], context["at"], context["epoch"]) == (promotion.new.name, moment, promotion.epoch)


def _needs_fence(promotion: Promotion, resumed: Mapping[str, Any] | None) -> bool:
    """A holder of the lease that never served its epoch is a failover half done: the other host may still serve."""
    if resumed is not None:
        return bool(resumed.get("fenced"))
    return promotion.observed.live_epoch != promotion.lease.epoch
