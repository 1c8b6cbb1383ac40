"""What must be shown for a drill to pass: pure functions from what was measured to a verdict with its reason.

A criterion without evidence is UNKNOWN, and a drill with an UNKNOWN did not pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lifeline import objectives
from lifeline.ledger import Judgement
from lifeline.model import Targets, Verdict
from lifeline.objectives import Judged, Met


@dataclass(frozen=True)
class Criterion:
    """One thing that must be shown, and whether it was."""

    name: str
    verdict: Verdict
    says: str


@dataclass(frozen=True)
class Recovery:
    """How the operator's command went. ``failed`` and ``waived`` name steps of its journal."""

    command: str
    code: int | None
    seconds: float
    steps: int = 0
    failed: tuple[str, ...] = ()
    waived: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What a drill measured. None: not known. Times in seconds."""

    targets: Targets
    primary: str | None = None
    """Who acknowledged writes just before the fault."""
    before: int = 0
    """Writes acknowledged before the fault."""
    fault_seen: bool | None = None
    """Did the fault really happen, by the lab's own eyes?"""
    recovery: Recovery | None = None
    rto_s: float | None = None
    served_after: frozenset[str] | None = None
    """Who acknowledged writes begun after the fault."""
    judgement: Judgement | None = None
    component: str = ""
    """The row of the procedures' RTO table that the scenario is held against."""
    looked: tuple[Criterion, ...] = ()
    """What the scenario's own look found."""

    def objectives(self) -> tuple[Judged, ...]:
        """The procedures' rows that this drill measures: its own RTO, and the RPO of trades and positions."""
        rpo = self.judgement.rpo_measured_s if self.judgement else None
        rows = {"trades": rpo, "positions": rpo, **({self.component: self.rto_s} if self.component else {})}
        return objectives.judge_all(rows, rows)


def worst(criteria: Iterable[Criterion]) -> Verdict:
    """FAIL outranks UNKNOWN, UNKNOWN outranks PASS; nothing shown is UNKNOWN."""
    return worst_of(criterion.verdict for criterion in criteria)


def worst_of(found: Iterable[Verdict]) -> Verdict:
    """The same of verdicts."""
    verdicts = set(found)
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.PASS if verdicts == {Verdict.PASS} else Verdict.UNKNOWN


def criterion(name: str, holds: bool | None, says: str) -> Criterion:
    """``holds`` None: there is no evidence."""
    verdict = Verdict.UNKNOWN if holds is None else Verdict.PASS if holds else Verdict.FAIL
    return Criterion(name, verdict, says)


def under_load(facts: Facts, least: int = 50) -> Criterion:
    """The fault must hit a service at work: with no writes, nothing can be lost."""
    holds = facts.before >= least if facts.primary else None
    return criterion(
        "the service was at work when it was hit",
        # Too few writes prove too little: not a failure of the recovery, but no proof either.
        True if holds else None,
        f"{facts.before} writes acknowledged by {facts.primary or 'nobody'} before the fault (at least {least})",
    )


def fault_happened(facts: Facts) -> Criterion:
    """Otherwise the drill drilled nothing."""
    says = {None: "it was not reached", True: "seen by the lab", False: "the lab does not see it"}[facts.fault_seen]
    return criterion("the disaster happened", facts.fault_seen or None, says)


def command_succeeded(recovery: Recovery | None) -> Criterion:
    """Exit code 0, every step of its journal proved, none waived."""
    name = "the recovery succeeded, and no proof was waived"
    if recovery is None or recovery.code is None:
        return criterion(name, None, "the recovery was not begun, or its end was not seen")
    says = f"{recovery.command}: exit code {recovery.code}, {recovery.steps} steps in {recovery.seconds:.1f} s"
    for words, steps in (("failed", recovery.failed), ("waived", recovery.waived)):
        says += f"; {words}: {', '.join(steps)}" if steps else ""
    if recovery.code == 0 and not recovery.steps:
        return criterion(name, None, f"{says}: there is no journal of it")
    return criterion(name, recovery.code == 0 and not recovery.failed and not recovery.waived, says)


def writes_again(facts: Facts) -> Criterion:
    """A write begun after the fault was acknowledged and read back through the public name, within the maximum."""
    name = f"clients write again through the same name within {facts.targets.rto_max_s:g} s"
    if facts.rto_s is None:
        begun = facts.fault_seen is not None
        return criterion(name, False if begun else None, "no write through the public name read back after the fault")
    missed = "" if facts.rto_s <= facts.targets.rto_target_s else f", target {facts.targets.rto_target_s:g} s missed"
    return criterion(name, facts.rto_s <= facts.targets.rto_max_s, f"after {facts.rto_s:.1f} s{missed}")


def served_elsewhere(facts: Facts) -> Criterion:
    """Everything after the fault was answered by one host, and not by the one that was lost."""
    name = "one host answers after the fault, and not the lost one"
    if not facts.served_after or facts.primary is None:
        return criterion(name, None, "no write was acknowledged after the fault")
    served = ", ".join(sorted(facts.served_after))
    return criterion(name, len(facts.served_after) == 1 and facts.primary not in facts.served_after, f"by {served}")


def nothing_lost(facts: Facts) -> Criterion:
    """Every acknowledged write is on the new primary, with the same contents: the promise of durability ``vault``."""
    name = "nothing acknowledged is lost"
    judgement = facts.judgement
    if judgement is None or judgement.lost is None:
        return criterion(name, None, "what survived could not be read")
    if not judgement.acknowledged:
        return criterion(name, None, "nothing was acknowledged")
    rpo = f", back to {judgement.rpo_measured_s:g} s before the fault" if judgement.lost else ""
    says = f"{judgement.survived} of {judgement.acknowledged} acknowledged writes survived{rpo}"
    return criterion(name, not judgement.lost, says)


def nothing_twice(facts: Facts) -> Criterion:
    """No order was executed or booked twice."""
    name = "nothing was done twice"
    judgement = facts.judgement
    if judgement is None or judgement.duplicated is None:
        return criterion(name, None, "what survived could not be read")
    return criterion(name, not judgement.duplicated, f"{len(judgement.duplicated)} duplicates")


def books_agree(facts: Facts) -> Criterion:
    """The new primary and the other party know of the same writes."""
    name = "the books agree with the exchange's"
    judgement = facts.judgement
    if judgement is None or judgement.unbooked is None or judgement.invented is None:
        return criterion(name, None, "one of the two could not be read")
    says = f"{len(judgement.unbooked)} executed and not booked, {len(judgement.invented)} booked and not executed"
    return criterion(name, not judgement.unbooked and not judgement.invented, says)


def served_here(facts: Facts) -> Criterion:
    """The host that was hit goes on by itself: nothing moved."""
    name = "the same host answers after the fault"
    if not facts.served_after or facts.primary is None:
        return criterion(name, None, "no write was acknowledged after the fault")
    return criterion(name, facts.served_after == {facts.primary}, f"by {', '.join(sorted(facts.served_after))}")


def within_objectives(facts: Facts) -> Criterion:
    """The procedures' own tables; a target missed is told, a maximum missed fails."""
    judged = facts.objectives()
    met = objectives.worst(judged)
    holds = None if met is Met.UNKNOWN else met is not Met.FAIL
    says = "; ".join(f"{one.objective.component}: {objectives.length(one.measured_s)}, {one.says}" for one in judged)
    return criterion("within the procedures' RTO and RPO", holds, says)


def recovered(facts: Facts, *, elsewhere: bool | None = False, typed: bool = True) -> list[Criterion]:
    """What every recovery must show. elsewhere: must the other host serve afterwards (None: whichever)? typed: by an
    operator's commands."""
    served = {True: [served_elsewhere(facts)], False: [served_here(facts)], None: []}[elsewhere]
    return [
        under_load(facts),
        fault_happened(facts),
        *([command_succeeded(facts.recovery)] if typed else []),
        writes_again(facts),
        *served,
        nothing_lost(facts),
        nothing_twice(facts),
        books_agree(facts),
        *facts.looked,
        within_objectives(facts),
    ]
