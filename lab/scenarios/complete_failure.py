"""Complete failure: the primary's power is cut while clients trade."""

from __future__ import annotations

from typing import Any

from lab import faults
from lab.scenarios import Scenario, criteria
from lab.scenarios.criteria import Criterion, Facts


def cut_power(primary: str) -> dict[str, Any]:
    """Every process of the primary dies at once, nothing is flushed; the cloud's API knows no more than it sees."""
    faults.power_cut(primary)
    return {"fault": "power cut", "host": primary}


def judge(facts: Facts) -> list[Criterion]:
    """What a complete failure must show."""
    return [
        criteria.under_load(facts),
        criteria.fault_happened(facts),
        criteria.command_succeeded(facts.recovery),
        criteria.writes_again(facts),
        criteria.served_elsewhere(facts),
        criteria.nothing_lost(facts),
        criteria.nothing_twice(facts),
        criteria.books_agree(facts),
    ]


SCENARIO = Scenario(
    name="complete-failure",
    title="Complete failure of the primary",
    story="The primary loses power under load. An operator at the keyboard starts the failover at once.",
    fault=cut_power,
    recover=("fab", "failover", "--yes"),
    judge=judge,
)
