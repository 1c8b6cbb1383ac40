"""The primary's host is lost: its power, its line, or all its processes stop."""

from __future__ import annotations

from functools import partial
from typing import Any

from lab import faults, network
from lab.scenarios import Scenario, Situation, criteria
from lab.series import eyes


def _cut_power(situation: Situation) -> dict[str, Any]:
    """Every process of the primary dies at once, nothing is flushed; the cloud's API knows no more than it sees."""
    faults.power_cut(situation.primary.name)
    return {"fault": "power cut", "host": situation.primary.name}


def _cut_line(situation: Situation) -> dict[str, Any]:
    faults.cut_region(situation.primary.region)
    return {"fault": "region cut off from everything", "region": situation.primary.region}


def _freeze(situation: Situation) -> dict[str, Any]:
    faults.freeze(situation.primary.name)
    return {"fault": "every process stopped", "host": situation.primary.name}


ELSEWHERE = partial(criteria.recovered, elsewhere=True)
SCENARIOS = (
    Scenario(
        name="complete-failure",
        title="Complete failure of the primary",
        story="The primary loses power under load. An operator at the keyboard starts the failover at once.",
        fault=_cut_power,
        seen=lambda situation: eyes.power(situation.primary) == "off",
        types=(("fab", "failover", "--yes"),),
        judge=ELSEWHERE,
        component="complete failover",
        mend=lambda situation: faults.power_back(situation.primary.name),
    ),
    Scenario(
        name="network-partition",
        title="The primary's region cut off from everything",
        story="Its line is cut, and it goes on by itself without knowing. An operator fails over at once.",
        fault=_cut_line,
        seen=lambda situation: f"{situation.primary.region} from everything" in network.partitions(),
        types=(("fab", "failover", "--yes"),),
        judge=ELSEWHERE,
        component="complete failover",
        mend=lambda situation: faults.heal(),
    ),
    Scenario(
        name="manual-failover",
        title="Manual failover, as the procedures have it",
        story="The primary hangs. An operator fails over to the host that is named, as in the procedures.",
        fault=_freeze,
        seen=lambda situation: eyes.frozen(situation.primary),
        types=(("fab", "failover", "--target", "{standby}", "--yes"),),
        judge=ELSEWHERE,
        component="complete failover",
        mend=lambda situation: faults.power_back(situation.primary.name),
    ),
)
