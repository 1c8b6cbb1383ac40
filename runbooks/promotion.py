"""A host becomes primary: what can be seen of it, what makes it so, and the steps that failover and restore share."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from lifeline import admission
from lifeline.errors import LifelineError, Refused, Unavailable
from lifeline.model import Copy, Evidence, Finding, Lease, Observation, Verdict
from lifeline.runbook import Step
from lifeline.service import Service
from runbooks.site import Site
from runbooks.traffic import Traffic

FINALIZE_S = 1800.0
START_S = 900.0


@dataclass
class Promotion:
    """The promotion of ``target``: probes and actions.

    ``observed`` is the new primary as last seen.  Its verbs' answers bring it up to date, so that the seconds of an
    incident aren't spent on asking what was just answered; a probe that finds the claim not so makes the next one look.
    """

    site: Site
    target: str
    lease: Lease
    service: Service
    observed: Observation
    run_id: str = ""
    taken_at: float | None = None  # since then the old primary has not renewed: its time to stop runs from there
    missing: str = ""
    names: Future[Finding] | None = None  # how the name stood before anything was touched, as soon as that is known
    _promised: float | None = None

    def __post_init__(self) -> None:
        inventory = self.site.inventory
        self.new = inventory.host(self.target)
        self.old = inventory.other(self.target)
        self.traffic = Traffic(self.site, self.new)
        # What was given back isn't held any more: its last holder too serves again only as a new epoch.
        held = self.lease.holder == self.new.name and not self.lease.released
        self.epoch = self.lease.epoch + (0 if held else 1)
        self._lease_fresh = True
        self._observed_fresh = True

    # The lease

    def lease_held(self) -> Finding:
        lease = self.lease if self._lease_fresh else self.site.leases.read()
        self._lease_fresh = False
        if lease is None or lease.epoch > self.epoch or (lease.epoch == self.epoch and lease.holder != self.new.name):
            who = f"{lease.holder}, epoch {lease.epoch}" if lease else "nobody"
            raise Refused(f"somebody else took the lease meanwhile: it is held by {who}", hint="fab status")
        self.lease = lease
        says = f"{lease.holder} holds epoch {lease.epoch}"
        seen = {"holder": lease.holder, "epoch": lease.epoch, "taken_by": lease.taken_by}
        if lease.epoch != self.epoch:
            return Finding(Verdict.FAIL, says, seen)
        if self.taken_at is None:
            watched = self.site.quiet_since
            self.taken_at = self.site.clock.monotonic() if watched is None else watched
        return Finding(Verdict.PASS, says, seen)

    def take_lease(self) -> None:
        self.site.leases.depose(self.new.name, self.lease, self.run_id)

    def promised_until(self) -> float:
        """Until when, on our clock, the old primary may go on by the new one's word (failsafe.py); it gives no more
        from now on. Unproven when that isn't known."""
        if self._promised is None:
            answer = self._verb("withdraw", "--epoch", str(self.epoch - 1), timeout=15)
            self._promised = self.site.clock.monotonic() + float(answer["promised_s"])
        return self._promised

    # Its data

    def data_final(self) -> Finding:
        """At the end of the epochs before ours; a host that serves our epoch was, when it began, and so was one that
        has served it: to go back to that end would set aside what it wrote since."""
        seen, end = self._look(), self.epoch - 1
        if self._serves(seen):
            return Finding.passed("it serves already", epoch=self.epoch)
        if seen.live_epoch == self.epoch:
            return Finding.passed(f"as {seen.host} wrote it in epoch {self.epoch}", epoch=self.epoch)
        if seen.finalized == end:
            return Finding.passed(f"at the end of epoch {end}", txids={copy.name: copy.txid for copy in seen.databases})
        return self._not_so(f"not yet at the end of epoch {end}", finalized=seen.finalized)

    def finalize(self) -> Evidence:
        answer = self._verb("finalize", "--epoch", str(self.epoch - 1), timeout=FINALIZE_S)
        self._learn(finalized=int(answer["epoch"]), databases=_with_txids(self.observed.databases, answer))
        return answer

    def data_verified(self) -> Finding:
        """Integrity and invariants; a copy that fails them is DataBad, from the host itself."""
        answer = self._verb("verify", timeout=FINALIZE_S)
        checks = answer.get("checks", [])
        return Finding(Verdict(answer["verdict"]), f"{len(checks)} checks", {"checks": checks})

    # Its service

    def started(self) -> Finding:
        seen = self._look()
        if self._serves(seen) and seen.service_healthy and seen.litestream_running:
            return Finding.passed(f"healthy, replicating to epoch {self.epoch}", epoch=self.epoch)
        says = f"its role is {seen.role}" + ("" if seen.reconciled else ", and it isn't reconciled")
        return self._not_so(says, role=seen.role, epoch=seen.epoch, healthy=seen.service_healthy)

    def start(self) -> Evidence:
        answer = self._verb("start-primary", "--epoch", str(self.epoch), timeout=START_S)
        self._learn(
            role=answer["role"],
            epoch=int(answer["epoch"]),
            service_running=True,
            service_healthy=bool(answer["healthy"]),
            reconciled=True,
            litestream_running=bool(answer["replicating"]),
        )
        return answer

    # Traffic

    def name_stood(self) -> Finding:
        """Told and written down, whatever it is: the record is moved all the same."""
        if self.names is None:
            return Finding(Verdict.SKIPPED, "it wasn't asked")
        found = self.names.result()
        return replace(found, verdict=Verdict.PASS) if found.verdict is Verdict.FAIL else found

    def round_trips(self) -> Finding:
        return self.site.outside.round_trips(self.service)

    def answers(self) -> Finding:
        return self.site.outside.answers(self.service)

    # Reprotection

    def reprotecting(self) -> Finding:
        """The new primary's replica fills; and there is a standby, or plain words for what is missing."""
        seen = self.site.observe(self.new.name)
        if not (seen.litestream_running and seen.last_sync_at):
            return Finding.failed(f"{self.new.name} has not replicated to epoch {self.epoch} yet")
        follows, self.missing = self._standby()
        evidence = {"last_sync_at": seen.last_sync_at, "standby": follows, "missing": self.missing}
        if follows or self.missing:
            words = f"{self.old.name} follows" if follows else f"NO STANDBY: {self.missing}"
            return Finding(Verdict.PASS, f"epoch {self.epoch} is filling; {words}", evidence)
        return Finding(Verdict.FAIL, f"{self.old.name} runs, and doesn't follow yet", evidence)

    def reprotect(self) -> None:
        """Make the old primary a standby, if it runs at all: fenced by its key or its lease, it may."""
        if self._power() != "active":
            return
        try:
            self.site.hosts[self.old.name].verb("start-standby", "--epoch", str(self.epoch), timeout=60)
        except LifelineError as error:
            self.missing = f"{self.old.name} needs rebuilding: {error.message}"

    def _standby(self) -> tuple[bool, str]:
        """(the old primary follows, what is missing); (False, ""): not yet."""
        power = self._power()
        if power != "active":
            return False, f"{self.old.name} is {power}"
        if self.missing:
            return False, self.missing
        try:
            seen = self.site.observe(self.old.name)
        except LifelineError as error:
            return False, f"{self.old.name} is on, but: {error.message}"
        return seen.role == "standby" and seen.epoch == self.epoch and seen.follower_running, ""

    def _power(self) -> str:
        try:
            return self.site.cloud.power_state(self.old.droplet_id)
        except LifelineError:
            return "in a state that isn't known"

    # Seeing

    def _serves(self, seen: Observation) -> bool:
        return seen.role == "primary" and seen.epoch == self.epoch

    def _look(self) -> Observation:
        if not self._observed_fresh:
            self.observed = self.site.observe(self.new.name)
            self._observed_fresh = True
        return self.observed

    def _not_so(self, says: str, **evidence: Any) -> Finding:
        self._observed_fresh = False
        return Finding(Verdict.FAIL, says, evidence)

    def _learn(self, **changes: Any) -> None:
        self.observed = replace(self.observed, **changes)
        self._observed_fresh = True

    def _verb(self, verb: str, *args: str, timeout: float) -> dict[str, Any]:
        try:
            return self.site.hosts[self.new.name].verb(verb, *args, timeout=timeout)
        except Unavailable:
            self._observed_fresh = False  # the answer was lost, perhaps not the deed
            raise


def serve_step(promotion: Promotion, again: str) -> Step:
    """The service runs there as primary.  ``again``: the command that resumes the runbook."""
    service, new, epoch = promotion.service.name, promotion.new.name, promotion.epoch
    return Step(
        f"{service} runs as primary on {new}, epoch {epoch}",
        until=promotion.started,
        do=promotion.start,
        within=START_S,
        would=f"start {service} there, and Litestream on epoch {epoch}'s prefix",
        hint=again,
    )


def names_step(promotion: Promotion) -> Step:
    """Before the record is moved: would that move the clients, and how soon?  It was asked beside all that came before,
    and stops nobody."""
    return Step("how the name stood is told", until=promotion.name_stood, within=0, advisory=True)


def traffic_step(traffic: Traffic, again: str) -> Step:
    """The public name leads to that host.  ``again``: the command that resumes the runbook."""
    return Step(
        f"{traffic.record.fqdn} points at {traffic.host.name}",
        until=traffic.to_move,
        do=traffic.move,
        within=20,
        would=f"set it to {traffic.host.address}",
        waiver=admission.WAIVE_TRAFFIC,
        hint=traffic.by_hand(again),
    )


def resolvers_step(traffic: Traffic) -> Step:
    """The world's caches have followed.  The last step: nothing that brings the service back waits for them.  Where
    nobody sits at a keyboard, one look is enough: `fab dns` proves it later."""
    return Step(
        f"resolvers lead to {traffic.host.name}",
        until=traffic.followed,
        within=0,
        peek=lambda: Finding.failed("resolvers aren't asked before the record was moved: they would keep the answer"),
        would=f"ask every name server and resolver, for {traffic.record.ttl} s or a little longer",
        advisory=True,
    )


def outside_step(promotion: Promotion) -> Step:
    """A user's write works."""
    return Step(
        "an outside write round-trips",
        until=promotion.round_trips,
        within=promotion.site.inventory.record.ttl + 60,
        waiver=admission.WAIVE_WRITE,
        hint="fab status",
        peek=promotion.answers,
        would="write through the public name, and read it back",
    )


def reprotect_step(promotion: Promotion) -> Step:
    """The new primary's writes are in the vault, and there is a standby or plain words for what is missing."""
    return Step(
        "reprotection is under way",
        until=promotion.reprotecting,
        do=promotion.reprotect,
        within=60,
        would=f"see epoch {promotion.epoch} fill; make {promotion.old.name} a standby if it runs",
        hint="fab status",
    )


def _with_txids(copies: tuple[Copy, ...], answer: Mapping[str, Any]) -> tuple[Copy, ...]:
    txids = {item["name"]: item.get("txid") for item in answer.get("databases", [])}
    return tuple(replace(copy, txid=txids.get(copy.name, copy.txid)) for copy in copies)
