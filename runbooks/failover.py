"""Failover: the primary is lost, the standby becomes primary.  To run it again is to resume it.

Guaranteed by the order of the steps: the lease is taken before anything is destroyed; nothing is started before the old
primary is proved fenced; nothing is served that wasn't brought to the end of the replica and verified; traffic moves to
a service that answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from lifeline import admission
from lifeline.admission import Action, Candidate, Decision, Holder, View
from lifeline.cloud import NotThere, TokenRefused, sees
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
FOLLOWS_WITHIN_S = 5.0
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
    fenced = _given_back_step(promotion) if _again(promotion) else fence_step(fence)
    if decision.action is Action.RESUME:
        fenced = _spare_follower(promotion, fenced)
    steps = take_over_steps(promotion, fenced, again="fab failover")
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

    The old primary isn't spoken with: it is taken for dead, and a dead host answers slowly.  Only what a user gets at
    its address is looked at, beside the rest; where a failover seems half done both hosts are asked.  How the name
    stands is asked beside all that follows, as nothing rests on it before the record is moved.
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
        if lease is not None and admission.in_doubt(view):
            # A switchover cuts nobody's power: to go on with one is never wrong.
            follows = pool.submit(_follows, site, lease) if runbook == NAME else None
            view = replace(view, holder=_holder(site, lease), follows=bool(follows and follows.result()))
        choice = _go_on(admission.choose(view))
        assert lease is not None  # choose() refuses without one
        described: Future[Service] = pool.submit(site.service, choice.target)
        asked = admission.WAIVE_SERVING not in waived
        address = site.inventory.host(lease.holder).address
        answered = _beside(lambda: site.outside.answers_at(address, described.result())) if asked else None
        observed: Observation | None = None
        service: Service | None = None
        try:
            observed = site.observe(choice.target)
            service = described.result()
            candidate = _candidate(observed, lease)
        except BadConfig:
            raise  # our own fault, not the target's
        except LifelineError as error:
            candidate = Candidate(choice.target, problem=error.message)
    choice = _go_on(admission.lost(choice, lease.holder, _serves(answered), waived))
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


def _serves(answered: Future[Finding] | None) -> bool:
    """Does it answer at its own address?  The name may be what is wrong.  Whatever can't be had in time is none."""
    if answered is None:
        return False
    try:
        return answered.result(SERVES_WITHIN_S).verdict is Verdict.PASS
    except (LifelineError, TimeoutError):
        return False


def _holder(site: Site, lease: Lease) -> Holder | None:
    """By its own word; None when it gives none."""
    try:
        seen = site.observe(lease.holder)
    except BadConfig:
        raise  # our own fault
    except LifelineError:
        return None
    return Holder((seen.role, seen.epoch) == ("primary", lease.epoch), seen.service_healthy)


def _follows(site: Site, lease: Lease) -> bool:
    """Is the other host a standby of the lease's epoch?  By its own word, on which nothing is started."""
    try:
        seen = site.observe(site.inventory.other(lease.holder).name, timeout=FOLLOWS_WITHIN_S)
    except LifelineError:
        return False
    return (seen.role, seen.epoch) == ("standby", lease.epoch) and not seen.service_running


def _candidate(seen: Observation, lease: Lease) -> Candidate:
    """A host that gave the lease back itself, and has what it wrote under it, lags behind nobody: it isn't asked to be
    a standby."""
    wrote_last = lease.released and seen.host == lease.holder and seen.live_epoch == lease.epoch
    return Candidate(seen.host, "", seen.role, seen.lag_s, seen.follower_stalled, wrote_last)


def _again(promotion: Promotion) -> bool:
    """Does the host that gave the lease back serve again itself?"""
    return promotion.lease.released and promotion.lease.holder == promotion.new.name


def _given_back_step(promotion: Promotion) -> Step:
    def nobody() -> Finding:
        if promotion.lease.over_released:
            says = f"{promotion.new.name} gave the lease back itself, and nobody took it"
            return Finding.passed(says, rung="released")
        return Finding.failed("the lease was held by somebody when it was taken")

    would = "nothing: the last holder gave its lease back itself"
    return Step("there is nobody to fence", until=nobody, within=0, would=would, hint="fab status")


def _spare_follower(promotion: Promotion, fenced: Step) -> Step:
    """Gone on with, the host on the other side may be the standby by now that is needed most.  Nothing serves an epoch
    before its fence was proved, or waived: where it is served already, there is nobody left to fence.  And who follows
    it serves nothing.  Asked once, and only if no rung is proved as it is."""
    old, epoch, spared = promotion.old.name, promotion.epoch, list[str]()

    def why_not() -> str:
        if (promotion.observed.role, promotion.observed.epoch) == ("primary", epoch):
            return f"{promotion.new.name} serves epoch {epoch} already: its fence lies behind it"
        if _follows(promotion.site, promotion.lease):
            return f"{old} is a standby of epoch {epoch}: it serves nothing, and stays on"
        return ""

    def until() -> Finding:
        found = fenced.until()
        if found.verdict is Verdict.PASS:
            return found
        if not spared:
            spared.append(why_not())
        return Finding.passed(spared[0], rung="spared") if spared[0] else found

    return replace(fenced, until=until)


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
    if _again(promotion):
        return (
            f"This makes {new} the primary of {promotion.service.name} again, as epoch {promotion.epoch}, with all "
            f"that the vault has of what it wrote. After a switchover that is everything; what a hand-over couldn't "
            f"bring there is kept on its disk (fab forks). {old} is left as it is."
        )
    return (
        f"This makes {new} the primary of {promotion.service.name}. To fence {old} it will: {fence.would()}. "
        f"What {old} acknowledged and never got into the vault is lost."
    )


def context(promotion: Promotion, decision: Decision) -> dict[str, object]:
    """For the journal's first line; ``_begun`` reads it."""
    held = promotion.lease.epoch == promotion.epoch
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
    the cloud refuses our token, or it is one of another account."""
    refused = False
    try:
        addresses = [site.cloud.record(site.inventory.record).address]
    except LifelineError as error:
        refused = isinstance(error, TokenRefused) or (isinstance(error, NotThere) and _another_accounts(site))
        addresses = site.outside.resolve(site.inventory.record.fqdn)
    by_address: Mapping[str, Host] = {host.address: host for host in site.inventory.hosts}
    return next((by_address[address].name for address in addresses if address in by_address), None), refused


def _another_accounts(site: Site) -> bool:
    """Does our token see no host of ours?"""
    with suppress(LifelineError):
        return not any(sees(site.cloud, host) for host in site.inventory.hosts)
    return False


def _refuse_unless_fenced_otherwise(site: Site, waived: frozenset[str]) -> None:
    """An outage of the API may end before the fence's time is up; a refused token can't, and a primary that lost its
    lease stops.  So this is said while nothing was touched."""
    if admission.WAIVE_FENCE in waived or frozenset({"self-fence"}) in site.inventory.policy.alternatives():
        return
    raise Refused(
        "the cloud's API refuses our token, or it is another account's, so the old primary can't be fenced; nothing "
        f"was touched (to go on without that proof: --waive {admission.WAIVE_FENCE})",
        hint='check DIGITALOCEAN_TOKEN; for the lab: eval "$(fab lab.env)"',
    )


def _begun(site: Site, lease: Lease | None, runbook: str) -> str | None:
    """The target of our unfinished run, if that is the one that took this very lease."""
    begun = unfinished(site.journals, runbook)
    return begun.context.get("target") if begun and lease and begun.took(lease) else None
