"""The rules of failover, as a table: what was seen → what is done, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lifeline.admission import Action, Candidate, Decision, Holder, View, admit, choose, fence, lost
from lifeline.model import FailoverPolicy, Finding, Lease, Verdict

HOSTS = ("newyork", "singapore")
POLICY = FailoverPolicy(30, 5, ("power-off",), 60)


def lease(holder: str = "newyork", taken_by: str = "agent:newyork", epoch: int = 4) -> Lease:
    return Lease("genesis", holder, epoch, 30, 5, 17, taken_by, "run-1")


def view(**fields: Any) -> View:
    return replace(View(HOSTS, None, lease(), traffic_at="newyork"), **fields)


BY_US = lease("singapore", "operator:ada", 5)
GIVEN_BACK = replace(lease(taken_by="operator:ada"), ttl_s=0.0)

CHOICES = {
    "the other host takes over": (view(), Action.FAILOVER, "singapore"),
    "the other host, asked for by name": (view(asked="singapore"), Action.FAILOVER, "singapore"),
    "traffic not known": (view(traffic_at=None), Action.FAILOVER, "singapore"),
    "a host nobody knows": (view(asked="paris"), Action.BAD_TARGET, "hosts: newyork, singapore"),
    "a host nobody knows, lease store down too": (
        view(asked="x", lease=None, lease_problem="no"),
        Action.BAD_TARGET,
        "no host",
    ),
    "the target is primary already": (view(asked="newyork"), Action.REFUSE, "newyork is primary already (epoch 4)"),
    "the lease store is down": (view(lease=None, lease_problem="timed out"), Action.UNAVAILABLE, "timed out"),
    "no lease was ever taken": (view(lease=None), Action.REFUSE, "nobody ever held the lease"),
    "the lease names a stranger": (view(lease=lease("paris")), Action.REFUSE, "out of date"),
    # A failover that stopped half way: to run it again is to resume it, never to fail back to the dead host.
    "begun, traffic not moved": (view(lease=BY_US), Action.RESUME, "singapore"),
    "begun, traffic not moved, asked by name": (view(lease=BY_US, asked="singapore"), Action.RESUME, "singapore"),
    "begun, traffic moved, journal open": (
        view(lease=BY_US, traffic_at="singapore", begun="singapore"),
        Action.RESUME,
        "singapore",
    ),
    "begun, and its target follows nobody's word": (
        view(lease=BY_US, traffic_at="singapore", begun="singapore", holder=Holder(serves=True, healthy=True)),
        Action.RESUME,
        "singapore",
    ),
    "begun, and come through since": (
        view(lease=BY_US, traffic_at="singapore", begun="singapore", follows=True),
        Action.FAILOVER,
        "newyork",
    ),
    "begun, come through since, asked for by name": (
        view(lease=BY_US, traffic_at="singapore", begun="singapore", follows=True, asked="singapore"),
        Action.RESUME,
        "singapore",
    ),
    "only the name is elsewhere": (
        view(lease=BY_US, holder=Holder(serves=True, healthy=True), follows=True),
        Action.REFUSE,
        "only traffic points at newyork",
    ),
    "the name is elsewhere, and the primary is ill beside a standby": (
        view(lease=BY_US, holder=Holder(serves=True), follows=True),
        Action.FAILOVER,
        "newyork",
    ),
    "given back": (view(lease=GIVEN_BACK), Action.FAILOVER, "singapore"),
    "given back, and its last holder asked for": (view(lease=GIVEN_BACK, asked="newyork"), Action.FAILOVER, "newyork"),
    "begun, but the operator wants the other": (view(lease=BY_US, asked="newyork"), Action.FAILOVER, "newyork"),
    "finished: the next one goes back": (view(lease=BY_US, traffic_at="singapore"), Action.FAILOVER, "newyork"),
    "finished, traffic not known": (view(lease=BY_US, traffic_at=None), Action.FAILOVER, "newyork"),
    "finished, asked for again": (
        view(lease=BY_US, traffic_at="singapore", asked="singapore"),
        Action.REFUSE,
        "primary already",
    ),
    "an agent's lease is no failover begun": (
        view(traffic_at="singapore", begun="newyork"),
        Action.FAILOVER,
        "singapore",
    ),
}


@pytest.mark.parametrize("case", CHOICES)
def test_choose(case: str) -> None:
    seen, action, says = CHOICES[case]
    decision = choose(seen)
    assert decision.action is action
    assert says in (decision.target if decision.goes_on else decision.reason)
    assert decision.goes_on == bool(decision.target)


FAILOVER = Decision(Action.FAILOVER, "", "singapore")
RESUME = Decision(Action.RESUME, "", "singapore")
STANDBY = Candidate("singapore", role="standby", lag_s=0.4)

ADMISSIONS = {
    "a warm standby": (STANDBY, FAILOVER, Action.FAILOVER, ""),
    "at the very limit": (replace(STANDBY, lag_s=60.0), FAILOVER, Action.FAILOVER, ""),
    "it lags": (replace(STANDBY, lag_s=61.0), FAILOVER, Action.REFUSE, "standby-lag"),
    "its lag is not known": (replace(STANDBY, lag_s=None), FAILOVER, Action.UNPROVEN, "standby-lag"),
    "its follower stalled": (replace(STANDBY, stalled=True), FAILOVER, Action.REFUSE, "standby-lag"),
    "it is no standby": (replace(STANDBY, role="none"), FAILOVER, Action.REFUSE, "standby-lag"),
    "it can't be reached": (replace(STANDBY, problem="no route"), FAILOVER, Action.UNAVAILABLE, ""),
    "it can't be reached, half way": (replace(STANDBY, problem="no route"), RESUME, Action.UNAVAILABLE, ""),
    "it gave the lease back itself, and has all of it": (
        Candidate("singapore", wrote_last=True),
        FAILOVER,
        Action.FAILOVER,
        "",
    ),
    "half way, follower stopped": (Candidate("singapore"), RESUME, Action.RESUME, ""),
    "half way, primary already": (Candidate("singapore", role="primary"), RESUME, Action.RESUME, ""),
}


def test_who_answers_its_users_is_not_lost() -> None:
    refused = lost(FAILOVER, "newyork", serves=True)
    assert (refused.action, refused.waiver) == (Action.REFUSE, "serving-primary")
    assert "--waive serving-primary" in refused.reason and "fab switchover" in refused.hint
    assert lost(FAILOVER, "newyork", serves=False) == FAILOVER
    assert lost(FAILOVER, "newyork", serves=True, waive=frozenset({"serving-primary"})) == FAILOVER
    assert lost(RESUME, "singapore", serves=True) == RESUME


@pytest.mark.parametrize("case", ADMISSIONS)
def test_admit(case: str) -> None:
    candidate, choice, action, waiver = ADMISSIONS[case]
    decision = admit(candidate, choice, POLICY)
    assert (decision.action, decision.waiver) == (action, waiver)
    assert waiver in decision.reason
    if waiver:
        assert admit(candidate, choice, POLICY, frozenset({waiver})) == choice


OK, NO, DARK = Finding.passed("is off"), Finding.failed("is active"), Finding.unknown("the API is down")

FENCES: dict[str, tuple[tuple[str, ...], dict[str, Finding], Verdict]] = {
    "proved": (("power-off",), {"power-off": OK}, Verdict.PASS),
    "not yet": (("power-off",), {"power-off": NO}, Verdict.FAIL),
    "can't be known": (("power-off",), {"power-off": DARK}, Verdict.UNKNOWN),
    "was not looked at": (("power-off",), {}, Verdict.UNKNOWN),
    "the second rung holds": (("power-off", "self-fence"), {"power-off": DARK, "self-fence": OK}, Verdict.PASS),
    "the second rung may yet hold": (("power-off", "self-fence"), {"power-off": DARK, "self-fence": NO}, Verdict.FAIL),
    "both of two": (("vault-key+self-fence",), {"vault-key": OK, "self-fence": OK}, Verdict.PASS),
    "one of two": (("vault-key+self-fence",), {"vault-key": OK, "self-fence": NO}, Verdict.FAIL),
    "one of two, the other dark": (("vault-key+self-fence",), {"vault-key": DARK, "self-fence": OK}, Verdict.UNKNOWN),
    "a rung that policy doesn't name proves nothing": (
        ("power-off",),
        {"power-off": DARK, "vault-key": OK},
        Verdict.UNKNOWN,
    ),
}


@pytest.mark.parametrize("case", FENCES)
def test_fence(case: str) -> None:
    required, rungs, verdict = FENCES[case]
    finding = fence(replace(POLICY, fence_required=required), rungs)
    assert finding.verdict is verdict
    assert set(finding.evidence) == set(rungs)
