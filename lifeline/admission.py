"""What a failover goes on with and what it refuses: pure, from what was seen and what the policy says.  No I/O.

``choose`` says to whom; ``lost`` whether there is anything to fail over from; ``admit`` whether that host may become
primary.  None raises: a refusal is a Decision with the reason in words and, where the operator may overrule it, the
waiver's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from lifeline.model import FailoverPolicy, Finding, Lease, Role, Verdict

WAIVE_LAG = "standby-lag"
WAIVE_FENCE = "unfenced-primary"
WAIVE_DATA = "unverified-data"
WAIVE_TRAFFIC = "traffic"
WAIVE_WRITE = "outside-write"
WAIVE_SERVING = "serving-primary"


class Action(StrEnum):
    """What to do; the refusals differ by whose fault it is, as the exit codes do."""

    FAILOVER = "failover"  # a new epoch
    RESUME = "resume"  # the lease's holder is the target of a failover that didn't finish
    BAD_TARGET = "bad-target"
    REFUSE = "refuse"
    UNPROVEN = "unproven"
    UNAVAILABLE = "unavailable"


GO = (Action.FAILOVER, Action.RESUME)


@dataclass(frozen=True)
class Decision:
    """``target`` is set when the action goes on.  ``waiver``: the name that overrules this refusal, "" for none."""

    action: Action
    reason: str
    target: str = ""
    waiver: str = ""
    hint: str = ""

    @property
    def goes_on(self) -> bool:
        return self.action in GO


@dataclass(frozen=True)
class View:
    """What is known before anything is touched.

    lease: None when there is none.  lease_problem: why the lease can't be read, "" if it can.  traffic_at: the host
    that the record points at, None when not known.  begun: the target of a failover that this operator's own journal
    shows begun and not finished, under the lease that holds now.
    """

    hosts: tuple[str, ...]
    asked: str | None
    lease: Lease | None
    lease_problem: str = ""
    traffic_at: str | None = None
    begun: str | None = None


@dataclass(frozen=True)
class Candidate:
    """The target as it was seen.  ``problem``: why it can't be seen, "" if it can.  ``lag_s``: None is not known."""

    name: str
    problem: str = ""
    role: Role = "none"
    lag_s: float | None = None
    stalled: bool = False


def choose(view: View) -> Decision:
    """To whom, and is it a new failover or the rest of one?"""
    if view.asked is not None and view.asked not in view.hosts:
        return Decision(Action.BAD_TARGET, f'there is no host "{view.asked}"; hosts: {", ".join(view.hosts)}')
    if view.lease_problem:
        return Decision(
            Action.UNAVAILABLE,
            f"the lease store can't be reached ({view.lease_problem}): without it nobody may be promoted",
            hint="fab status",
        )
    lease = view.lease
    if lease is None:
        return Decision(
            Action.REFUSE, "nobody ever held the lease: there is no primary to take over from", hint="fab provision"
        )
    if lease.holder not in view.hosts:
        return Decision(
            Action.REFUSE,
            f"the lease is held by {lease.holder}, which the inventory doesn't know: the inventory is out of date",
            hint="fab provision",
        )
    unfinished = _unfinished(view, lease)
    if unfinished and view.asked in (None, lease.holder):
        return Decision(
            Action.RESUME, f"resuming the failover to {lease.holder}, epoch {lease.epoch}: {unfinished}", lease.holder
        )
    if view.asked == lease.holder:
        return Decision(
            Action.REFUSE,
            f"{lease.holder} is primary already (epoch {lease.epoch}): there is nothing to fail over",
            hint="fab status",
        )
    target = view.asked or next((name for name in view.hosts if name != lease.holder), "")
    return Decision(Action.FAILOVER, f"{lease.holder} is primary (epoch {lease.epoch}); {target} takes over", target)


def lost(choice: Decision, primary: str, serves: bool, waive: frozenset[str] = frozenset()) -> Decision:
    """May this primary be left?  ``serves``: users are answered by it just now.  One that serves is no lost one: it may
    be what the last failover made, and its power would be cut."""
    if not serves or choice.action is not Action.FAILOVER or WAIVE_SERVING in waive:
        return choice
    return Decision(
        Action.REFUSE,
        f"{primary} is primary and answers its users: a failover would cut it off, with what it acknowledged and the "
        f"vault hasn't got; nothing was touched (to fail over all the same: --waive {WAIVE_SERVING})",
        waiver=WAIVE_SERVING,
        hint="fab status; to move in order, losing nothing: fab switchover",
    )


def admit(
    candidate: Candidate, choice: Decision, policy: FailoverPolicy, waive: frozenset[str] = frozenset()
) -> Decision:
    """May the chosen target become primary?"""
    if candidate.problem:
        return Decision(
            Action.UNAVAILABLE,
            f"{candidate.name} can't take over: {candidate.problem}",
            hint="fab status; fab provision",
        )
    if choice.action is Action.RESUME:
        return (
            choice  # it was admitted when the lease was taken; since then its follower may be stopped, its data final
        )
    lag = _lag(candidate, policy)
    if lag is None or WAIVE_LAG in waive:
        return choice
    action, why = lag
    return Decision(
        action,
        f"{candidate.name} {why} (its data would be brought up to date from the vault first, which takes time): "
        f"to go on all the same: --waive {WAIVE_LAG}",
        waiver=WAIVE_LAG,
        hint="fab status",
    )


def _unfinished(view: View, lease: Lease) -> str:
    """Why the failover to the lease's holder isn't finished; "" if it is, as far as can be seen."""
    if lease.taken_by.startswith("agent:"):
        return ""
    if view.begun == lease.holder:
        return "the journal of the last run has no end"
    if view.traffic_at is not None and view.traffic_at != lease.holder:
        return f"traffic still points at {view.traffic_at}"
    return ""


def _lag(candidate: Candidate, policy: FailoverPolicy) -> tuple[Action, str] | None:
    if candidate.role != "standby":
        return Action.REFUSE, f"is no standby (its role is {candidate.role})"
    if candidate.stalled:
        return Action.REFUSE, "has a follower that stalled"
    if candidate.lag_s is None:
        return Action.UNPROVEN, "doesn't know how far it lags behind the primary"
    if candidate.lag_s > policy.max_lag_s:
        return Action.REFUSE, f"lags {candidate.lag_s:.0f} s behind the primary, policy allows {policy.max_lag_s:.0f} s"
    return None


def fence(policy: FailoverPolicy, rungs: Mapping[str, Finding]) -> Finding:
    """Is the old primary fenced?  ``rungs``: what each rung's own probe says now.

    PASS: all rungs of one alternative are proved.  FAIL: none is, but one still can be.  UNKNOWN: none can be.
    """
    evidence = {
        name: {"verdict": str(found.verdict), "says": found.says, **found.evidence} for name, found in rungs.items()
    }
    hopeful: list[str] = []
    hopeless: list[str] = []
    for alternative in policy.alternatives():
        findings = {name: rungs.get(name, Finding.unknown("not tried")) for name in sorted(alternative)}
        verdicts = {found.verdict for found in findings.values()}
        said = "; ".join(f"{name}: {found.says}" for name, found in findings.items() if found.says)
        if verdicts == {Verdict.PASS}:
            return Finding(Verdict.PASS, said, evidence)
        (hopeless if Verdict.UNKNOWN in verdicts else hopeful).append(said)
    if hopeful:
        return Finding(Verdict.FAIL, "; ".join(hopeful), evidence)
    return Finding(Verdict.UNKNOWN, "; ".join(hopeless), evidence)
