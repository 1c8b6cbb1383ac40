"""The procedures' tables, and what a measurement is worth against them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from lifeline.objectives import (
    OBJECTIVES,
    RPO,
    RTO,
    Met,
    html_table,
    judge,
    judge_all,
    length,
    markdown_table,
    parse,
    text_table,
    worst,
)

TABLE = [
    # component, target and maximum as the procedures write them, in seconds
    ("service restart", 60, 300),
    ("database recovery", 300, 900),
    ("complete failover", 600, 1800),
    ("full disaster recovery", 1800, 7200),
    ("trades", 0, 60),
    ("positions", 0, 60),
    ("configuration", 14400, 86400),
    ("logs", 3600, 14400),
]


def test_the_tables_are_those_of_the_procedures() -> None:
    assert [(one.component, one.target_s, one.max_s) for one in (*RTO, *RPO)] == TABLE


@pytest.mark.parametrize(("component", "target", "most"), TABLE)
def test_target_and_maximum_are_judged_apart(component: str, target: float, most: float) -> None:
    at_target = Met.PASS if target == 0 else Met.LATE  # "0" is met by 0, "< 1 minute" isn't met by a minute
    assert judge(component, target).verdict is at_target
    assert judge(component, target + 0.001).verdict is Met.LATE
    assert judge(component, most).verdict is Met.LATE
    assert judge(component, most + 0.001).verdict is Met.FAIL
    if target:
        assert judge(component, target - 0.001).verdict is Met.PASS


@pytest.mark.parametrize("nothing", [None, -0.1, float("nan"), float("inf")])
def test_what_is_not_known_or_cant_be_is_unknown(nothing: float | None) -> None:
    assert judge("trades", nothing).verdict is Met.UNKNOWN


def test_everything_of_the_tables_is_judged_what_has_no_measurement_is_unknown() -> None:
    judged = judge_all({"trades": 0.0, "complete failover": 41.2})
    assert len(judged) == len(OBJECTIVES)
    assert {one.objective.component for one in judged if one.verdict is Met.PASS} == {"trades", "complete failover"}
    assert {one.verdict for one in judged} == {Met.PASS, Met.UNKNOWN}
    assert [one.objective.component for one in judge_all({}, ["logs", "trades"])] == ["trades", "logs"]


def test_a_component_that_is_in_no_table_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        judge("trade", 0.0)
    with pytest.raises(KeyError):
        judge_all({"trade": 0.0}, ["trades"])


def test_the_worst_of_many() -> None:
    passed, late = judge("trades", 0), judge("trades", 1)
    unknown, failed = judge("trades", None), judge("trades", 61)
    worse = [Met.PASS, Met.LATE, Met.UNKNOWN, Met.FAIL]
    assert [worst([passed, late, unknown, failed][: count + 1]) for count in range(4)] == worse
    assert worst([]) is Met.UNKNOWN


def test_lengths_read_as_people_say_them() -> None:
    found = {0: "0 s", 0.04: "0.0 s", 0.4: "0.4 s", 41.2: "41 s", 60: "1 min", 90: "1 min 30 s", 3599.6: "1 h"}
    assert {value: length(value) for value in found} == found
    assert (length(7500), length(None)) == ("2 h 5 min", "UNKNOWN")


def test_tables_say_the_same_in_each_form() -> None:
    judged = judge_all({"trades": 0.0, "service restart": 70.0}, ["trades", "positions", "service restart"])
    text, document, page = text_table(judged), markdown_table(judged), html_table(judged)
    for form in (text, document, page):
        assert all(word in form for word in ("1 min 10 s", "LATE", "PASS", "UNKNOWN", "RTO service restart"))
    starts = [line.index(word) for line, word in zip(text.splitlines()[1:], ("1 min 10 s", "0 s", "UNKN"), strict=True)]
    assert all(one == other for one, other in pairwise(starts))  # columns align
    assert len({line.count("|") for line in document.splitlines()}) == 1
    assert "&lt; 1 min" in page and "< 1 min" not in page  # escaped


def test_a_report_s_rows_are_read_back_as_they_were_judged_then() -> None:
    judged = judge_all({"trades": 0.0, "complete failover": 700.0}, ["trades", "complete failover", "logs"])
    assert parse([one.to_json() for one in judged]) == judged
    old = {**judge("trades", 5.0).to_json(), "max_s": 3.0, "verdict": "FAIL"}
    assert parse([old])[0].verdict is Met.FAIL and parse([old])[0].objective.max_s == 3.0


def test_json_has_the_figures_and_null_for_what_is_not_known() -> None:
    wanted = {"component": "logs", "kind": "rpo", "target_s": 3600.0, "max_s": 14400.0, "measured_s": None}
    assert judge("logs", None).to_json() == {**wanted, "verdict": "UNKNOWN"}
