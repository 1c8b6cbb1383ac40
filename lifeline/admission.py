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
class Holder:
    """The lease's holder by its own word: does it serve the lease's epoch, and does its service answer it?"""

    serves: bool = False
    healthy: bool = False


@dataclass(frozen=True)
class View:
    """What is known before anything is touched.

    lease: None when there is none.  lease_problem: why the lease can't be read, "" if it can.  traffic_at: the host
    that the record points at, None when not known.  begun: the target of a failover that this operator's own journal
    shows begun and not finished, under the lease that holds now.  holder: None when it wasn't asked, or gave no answer.
    follows: the other host is a standby of the lease's epoch.
    """

    hosts: tuple[str, ...]
    asked: str | None
    lease: Lease | None
    lease_problem: str = ""
    traffic_at: str | None = None
    begun: str | None = None
    holder: Holder | None = None
    follows: bool = False


@dataclass(frozen=True)
class Candidate:
    """The target as it was seen.  ``problem``: why it can't be seen, "" if it can.  ``lag_s``: None is not known.
    ``wrote_last``: it was the one writer of the epoch that has ended, and gave that back itself."""

    name: str
    problem: str = ""
    role: Role = "none"
    lag_s: float | None = None
    stalled: bool = False
    wrote_last: bool = False


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
    other = next((name for name in view.hosts if name != lease.holder), "")
    if in_doubt(view) and (found := _resume_or_not(view, lease, other)):
        return found
    if view.asked == lease.holder:
        return _again(lease)
    target = view.asked or other
    if lease.released:
        return Decision(
            Action.FAILOVER,
            f"{lease.holder} gave its lease back (epoch {lease.epoch}); {target} takes over",
            target,
            hint=f"fab status; if {target} can't be had: fab failover --target {lease.holder}",
        )
    return Decision(Action.FAILOVER, f"{lease.holder} is primary (epoch {lease.epoch}); {target} takes over", target)


def in_doubt(view: View) -> bool:
    """Does it look as if a failover to the lease's holder were half done?  Then both hosts are asked: only another run
    closes a journal, so it may have come through weeks ago, and the one that it left may be the standby by now."""
    lease = view.lease
    if lease is None or lease.holder not in view.hosts or view.asked not in (None, lease.holder):
        return False
    if lease.taken_by.startswith("agent:") or lease.released:
        return False
    return view.begun == lease.holder or _astray(view, lease)


def _resume_or_not(view: View, lease: Lease, other: str) -> Decision | None:
    """The rest of a failover, or only a name that leads elsewhere?  None: neither, it has come through."""
    holder, leave = lease.holder, f"fab failover --target {other}"
    came_through = view.follows and view.asked is None
    unfinished = "the journal of the last run has no end" if view.begun == holder and not came_through else ""
    if not unfinished and _astray(view, lease):
        if view.holder == Holder(serves=True, healthy=True):
            return Decision(
                Action.REFUSE,
                f"{holder} is primary (epoch {lease.epoch}) and its service is healthy: only traffic points at "
                f"{view.traffic_at}. A failover doesn't mend a name, and would cut off who serves; nothing was touched "
                f"(if that is wanted: {leave})",
                hint="fab dns",
            )
        unfinished = "" if came_through else f"traffic still points at {view.traffic_at}"
    if not unfinished:
        return None
    return Decision(
        Action.RESUME,
        f"resuming the failover to {holder}, epoch {lease.epoch}: {unfinished} (to leave {holder} instead: {leave})",
        holder,
        hint=f"if {holder} is lost too: {leave}; else fab status",
    )


def _again(lease: Lease) -> Decision:
    """The holder itself was asked for: it can only begin anew what it has given back."""
    if lease.released:
        return Decision(
            Action.FAILOVER,
            f"{lease.holder} gave its lease back (epoch {lease.epoch}) and nobody took it over: it serves again, as "
            f"epoch {lease.epoch + 1}",
            lease.holder,
        )
    return Decision(
        Action.REFUSE,
        f"{lease.holder} is primary already (epoch {lease.epoch}): there is nothing to fail over",
        hint="fab status",
    )


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
        hint="fab status; to move in order, losing nothing: fab switchover; if only the name leads elsewhere: fab dns",
    )


def admit(
    candidate: Candidate, choice: Decision, policy: FailoverPolicy, waive: frozenset[str] = frozenset()
) -> Decision:
    """May the chosen target become primary?"""
    if candidate.problem:
        return Decision(
            Action.UNAVAILABLE,
            f"{candidate.name} can't take over: {candidate.problem}",
            hint=choice.hint or "fab status; fab provision",
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


def _astray(view: View, lease: Lease) -> bool:
    """Is it known that the name leads to another host than the lease's holder?"""
    return view.traffic_at is not None and view.traffic_at != lease.holder


def _lag(candidate: Candidate, policy: FailoverPolicy) -> tuple[Action, str] | None:
    if candidate.wrote_last:
        return None
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
