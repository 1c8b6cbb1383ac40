"""Failover: the primary is lost, the standby becomes primary.  To run it again is to resume it.

Guaranteed by the order of the steps: the lease is taken before anything is destroyed; nothing is started before the old
primary is proved fenced; nothing is served that wasn't brought to the end of the replica and verified; traffic moves to
a service that answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from lifeline import admission
from lifeline.admission import Action, Candidate, Decision, View
from lifeline.cloud import TokenRefused
from lifeline.errors import BadConfig, BadInput, LifelineError, Refused, Unavailable, Unproven
from lifeline.journal import unfinished
from lifeline.model import Finding, Host, Lease, Observation, Verdict
from lifeline.runbook import Outcome, Runbook, Step, check_waivers
from lifeline.service import Service
from runbooks.fence import Fence, fence_of, fence_step
from runbooks.promotion import (
    FINALIZE_S,
    Promotion,
    names_step,
    outside_step,
    reprotect_step,
    resolvers_step,
    serve_step,
    traffic_step,
)
from runbooks.site import Site, confirm
from runbooks.traffic import as_declared

NAME = "failover"
SERVES_WITHIN_S = 1.5  # a dead primary isn't waited for longer
WAIVERS = (
    admission.WAIVE_SERVING,
    admission.WAIVE_LAG,
    admission.WAIVE_FENCE,
    admission.WAIVE_DATA,
    admission.WAIVE_TRAFFIC,
    admission.WAIVE_WRITE,
)
_ERRORS: Mapping[Action, type[LifelineError]] = {
    Action.BAD_TARGET: BadInput,
    Action.REFUSE: Refused,
    Action.UNPROVEN: Unproven,
    Action.UNAVAILABLE: Unavailable,
}


def failover(
    site: Site,
    target: str | None = None,
    *,
    yes: bool = False,
    dry_run: bool = False,
    waive: tuple[str, ...] = (),
    ask: Callable[[str], str] = input,
) -> Outcome | None:
    """Make ``target`` (default: the host that isn't primary) the primary.  None for a dry run."""
    waived = check_waivers(waive, WAIVERS)
    decision, promotion = prepare(site, target, waived, NAME)
    site.say(f"{decision.reason} (inventory from {site.loaded.origin})")
    fence = fence_of(promotion)
    # UNKNOWN stops here: an unreachable primary is not a fenced primary.
    steps = take_over_steps(promotion, fence_step(fence), again="fab failover")
    runbook = Runbook(NAME, steps, lambda outcome: summary(promotion, outcome), site.clock, site.out)
    if dry_run:
        runbook.plan()
        return None
    if not yes:  # who is asked knows it first
        site.say(f"DNS: {promotion.name_stood().says}")
    confirm(site, _warning(promotion, fence), yes, ask)
    journal = site.journal(NAME)
    promotion.run_id = journal.run_id
    return runbook.run(journal, context(promotion, decision), waived, publish=site.publish)


def prepare(site: Site, target: str | None, waived: frozenset[str], runbook: str) -> tuple[Decision, Promotion]:
    """Look and decide, without touching anything; raises the refusal if it is one.  ``runbook``: whose journals tell
    what was begun.

    The old primary isn't spoken with: it is taken for dead, and a dead host answers slowly.  Only what users get of it
    is looked at, beside the rest.  How the name stands is asked beside all that follows, as nothing rests on it before
    the record is moved.
    """
    names = _beside(lambda: as_declared(site))
    with ThreadPoolExecutor(max_workers=2) as pool:
        traffic = pool.submit(_traffic_at, site)
        lease, problem = _read_lease(site)
        traffic_at, token_refused = traffic.result()
        if token_refused:
            _refuse_unless_fenced_otherwise(site, waived)
        view = View(
            hosts=tuple(host.name for host in site.inventory.hosts),
            asked=target,
            lease=lease,
            lease_problem=problem,
            traffic_at=traffic_at,
            begun=_begun(site, lease, runbook),
        )
        choice = _go_on(admission.choose(view))
        assert lease is not None  # choose() refuses without one
        described: Future[Service] = pool.submit(site.service, choice.target)
        asked = admission.WAIVE_SERVING not in waived
        answered = _beside(lambda: site.outside.answers(described.result())) if asked else None
        observed: Observation | None = None
        service: Service | None = None
        try:
            observed = site.observe(choice.target)
            service = described.result()
            candidate = Candidate(choice.target, "", observed.role, observed.lag_s, observed.follower_stalled)
        except BadConfig:
            raise  # our own fault, not the target's
        except LifelineError as error:
            candidate = Candidate(choice.target, problem=error.message)
    choice = _go_on(admission.lost(choice, lease.holder, _serves(site, lease.holder, answered), waived))
    decision = _go_on(admission.admit(candidate, choice, site.inventory.policy, waived))
    assert observed is not None and service is not None  # admit() refuses a host that can't be seen
    return decision, Promotion(site, decision.target, lease, service, observed, names=names)


def _beside(look: Callable[[], Finding]) -> Future[Finding]:
    """Begun now; nobody waits for it but who wants the answer."""
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        return pool.submit(look)
    finally:
        pool.shutdown(wait=False)


def _serves(site: Site, primary: str, answered: Future[Finding] | None) -> bool:
    """Do users get an answer, and is it this host's?  Whatever can't be had in time is none."""
    if answered is None:
        return False
    try:
        found = answered.result(SERVES_WITHIN_S)
    except (LifelineError, TimeoutError):
        return False
    return found.verdict is Verdict.PASS and found.evidence.get("address") == site.inventory.host(primary).address


def take_over_steps(promotion: Promotion, fenced: Step, again: str) -> list[Step]:
    """From the lease to the outside write.  ``fenced``: the proof that the old primary can't write or serve;
    ``again``: the command that resumes it."""
    epoch, new = promotion.epoch, promotion.new
    return [
        # First: its epoch names our replica prefix, so a live old primary can't write into the new history.
        Step(
            f"{new.name} holds the lease, epoch {epoch}",
            until=promotion.lease_held,
            do=promotion.take_lease,
            within=10,
            would=f"take the lease from {promotion.lease.holder}: epoch {epoch}",
            hint="fab status",
        ),
        fenced,
        Step(
            "data is final",
            until=promotion.data_final,
            do=promotion.finalize,
            within=FINALIZE_S,
            would=f"bring the databases of {new.name} to the end of epoch {epoch - 1}",
            hint=again,
        ),
        Step(
            "data is verified",
            until=promotion.data_verified,
            within=0,
            waiver=admission.WAIVE_DATA,
            hint="fab validate",
            peek=lambda: Finding.failed("only final data can be verified"),
            would="check every database's integrity and the service's invariants",
        ),
        serve_step(promotion, again=again),
        names_step(promotion),
        traffic_step(promotion.traffic, again=again),
        # The recovery time ends here.
        outside_step(promotion),
        reprotect_step(promotion),
        resolvers_step(promotion.traffic),
    ]


def _warning(promotion: Promotion, fence: Fence) -> str:
    new, old = promotion.new.name, promotion.old.name
    return (
        f"This makes {new} the primary of {promotion.service.name}. To fence {old} it will: {fence.would()}. "
        f"What {old} acknowledged and never got into the vault is lost."
    )


def context(promotion: Promotion, decision: Decision) -> dict[str, object]:
    """For the journal's first line; ``_begun`` reads it."""
    held = promotion.lease.holder == promotion.new.name
    return {
        "target": promotion.new.name,
        "old_primary": promotion.old.name,
        "epoch": promotion.epoch,
        "lease_run_id": promotion.lease.run_id if held else promotion.run_id,
        "reason": decision.reason,
        "inventory": promotion.site.loaded.origin,
    }


def summary(promotion: Promotion, outcome: Outcome) -> str:
    """What it means, and what to type next."""
    new, service = promotion.new.name, promotion.service.name
    lines = [f"{new} is primary of {service}, epoch {promotion.epoch}, after {outcome.seconds:.1f} s."]
    waived = [result.step.waiver for result in outcome.results if result.waived]
    if waived:
        lines.append(f"Gone on without proof: {', '.join(waived)}.")
    if promotion.missing:
        lines.append(f"THERE IS NO STANDBY: {promotion.missing}. Losing {new} too would mean a restore from the vault.")
    lines.append(f"  next: {'fab reprotect' if promotion.missing else 'fab status'}")
    return "\n".join(lines)


def _go_on(decision: Decision) -> Decision:
    if decision.goes_on:
        return decision
    raise _ERRORS[decision.action](decision.reason, hint=decision.hint)


def _read_lease(site: Site) -> tuple[Lease | None, str]:
    try:
        return site.leases.read(), ""
    except Unavailable as error:
        return None, error.message


def _traffic_at(site: Site) -> tuple[str | None, bool]:
    """The host that traffic goes to now, by the cloud's API or, failing that, by DNS; None: not known.  And whether
    the cloud refuses our token."""
    refused = False
    try:
        addresses = [site.cloud.record(site.inventory.record).address]
    except LifelineError as error:
        refused = isinstance(error, TokenRefused)
        addresses = site.outside.resolve(site.inventory.record.fqdn)
    by_address: Mapping[str, Host] = {host.address: host for host in site.inventory.hosts}
    return next((by_address[address].name for address in addresses if address in by_address), None), refused


def _refuse_unless_fenced_otherwise(site: Site, waived: frozenset[str]) -> None:
    """An outage of the API may end before the fence's time is up; a refused token can't, and a primary that lost its
    lease stops.  So this is said while nothing was touched."""
    if admission.WAIVE_FENCE in waived or frozenset({"self-fence"}) in site.inventory.policy.alternatives():
        return
    raise Refused(
        "the cloud's API refuses our token, so the old primary can't be fenced; nothing was touched "
        f"(to go on without that proof: --waive {admission.WAIVE_FENCE})",
        hint='check DIGITALOCEAN_TOKEN; for the lab: eval "$(fab lab.env)"',
    )


def _begun(site: Site, lease: Lease | None, runbook: str) -> str | None:
    """The target of our unfinished run, if that is the one that took this very lease."""
    begun = unfinished(site.journals, runbook)
    return begun.context.get("target") if begun and lease and begun.took(lease) else None
