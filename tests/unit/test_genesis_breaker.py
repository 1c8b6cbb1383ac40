"""The circuit breaker: a table of what is seen and the state that follows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.genesis.engine.breaker import Breaker, Outcome, Rules

RULES = Rules(failures=3, window=8, enough=4, timeouts=0.5, rest_s=10, trials=2)
OK, BAD, LATE = "answered", "failed", "timed out"

# Steps: an outcome, "wait" (the rest is over), "try" (a trial begins); and the state after the last one.
TABLE: list[tuple[str, list[str], str]] = [
    ("new", [], "closed"),
    ("all well", [OK] * 50, "closed"),
    ("too few failures", [BAD, BAD], "closed"),
    ("a success between", [BAD, BAD, OK, BAD, BAD], "closed"),
    ("failures in a row", [OK, BAD, BAD, BAD], "open"),
    ("timeouts are failures", [LATE, BAD, LATE], "open"),
    ("every second one times out, too few calls", [OK, LATE, LATE], "closed"),
    ("half of the calls time out", [OK, LATE, OK, LATE], "open"),
    ("less than half", [OK, OK, LATE, OK, OK, LATE, OK, LATE], "closed"),
    ("those long ago don't count", [LATE, OK, OK, *[OK] * 8, LATE, OK, LATE], "closed"),
    ("open stays open for calls on their way", [BAD, BAD, BAD, OK, OK, OK], "open"),
    ("open after its rest, until somebody tries", [BAD, BAD, BAD, "wait"], "open"),
    ("a trial begins", [BAD, BAD, BAD, "wait", "try"], "half-open"),
    ("one good trial is not enough", [BAD, BAD, BAD, "wait", "try", OK, "try"], "half-open"),
    ("two are", [BAD, BAD, BAD, "wait", "try", OK, "try", OK], "closed"),
    ("a bad one opens it", [BAD, BAD, BAD, "wait", "try", BAD], "open"),
    ("a bad one after a good one too", [BAD, BAD, BAD, "wait", "try", OK, "try", LATE], "open"),
    ("good ones are counted anew", [BAD, BAD, BAD, "wait", "try", OK, "try", BAD, "wait", "try", OK], "half-open"),
    ("closed begins without a past", [BAD, BAD, BAD, "wait", "try", OK, "try", OK, BAD, BAD], "closed"),
]


@pytest.mark.parametrize(("steps", "state"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_state_after(steps: list[str], state: str) -> None:
    assert after(steps).state == state


def after(steps: list[str]) -> Breaker:
    breaker, now = Breaker(RULES), 0.0
    for step in steps:
        now += RULES.rest_s if step == "wait" else 0.1
        if step == "try":
            assert breaker.trial_due(now)
            breaker = breaker.trying(now)
        elif step != "wait":
            breaker = breaker.after(step, now)  # type: ignore[arg-type]
    return breaker


def test_nothing_is_tried_while_it_rests_or_is_closed() -> None:
    breaker = after([BAD, BAD, BAD])
    assert not breaker.trial_due(breaker.since + 9.9) and breaker.trial_due(breaker.since + 10)
    assert not Breaker(RULES).trial_due(1e9)


def test_it_says_why_it_opened() -> None:
    assert after([BAD, BAD, LATE]).why == "3 failures in a row, the last one timed out"
    assert after([OK, LATE, OK, LATE]).why == "2 of the last 4 calls timed out"
    assert after([BAD, BAD, BAD, "wait", "try", BAD]).why == "a trial failed"
    assert after([BAD, BAD, BAD, "wait", "try", OK, "try", OK]).why == ""


@given(st.lists(st.sampled_from([OK, BAD, LATE, "wait"]), max_size=80))
def test_orders_go_through_only_where_the_last_calls_were_no_failure(steps: list[str]) -> None:
    breaker, now, row = Breaker(RULES), 0.0, 0
    for step in steps:
        now += 10.0 if step == "wait" else 0.1
        if step == "wait":
            continue
        if not breaker.lets_through:
            if not breaker.trial_due(now):
                continue
            breaker = breaker.trying(now)
        outcome: Outcome = step  # type: ignore[assignment]
        breaker, row = breaker.after(outcome, now), 0 if step == OK else row + 1
        assert not (breaker.lets_through and row >= RULES.failures)
        assert len(breaker.recent) <= RULES.window and breaker.good < RULES.trials
