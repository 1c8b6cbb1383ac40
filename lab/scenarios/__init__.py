"""Disaster scenarios: what happens, what the operator does about it, and what must be shown afterwards.

A ``SCENARIO`` of a module in this folder, or each of its ``SCENARIOS``, is one; nothing else has to be registered.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lab.scenarios.criteria import Criterion, Facts

if TYPE_CHECKING:
    from lab.stage import Stage
    from lifeline.model import Host


@dataclass
class Situation:
    """What a scenario has before it: the stage, and its hosts by their roles before the fault.

    ``kept``: what one of its functions leaves for another.
    """

    stage: Stage
    primary: Host
    standby: Host
    kept: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """A disaster.

    fault: makes it happen, returns what was seen of it; seen: did it, by the lab's own eyes (None: not known)?
    types: the operator's commands, one after the other; {primary} and {standby} are the hosts' names; empty: nobody
    types anything. component: the row of the procedures' RTO table that it is held against, "" for none.
    ready: before clients trade. settled: for a fault that stops nobody: when it is over; its recovery time is then the
    longest that clients were without an answer. looks: what must be shown beside what the ledger shows. mend: what ends
    the fault afterwards. within_s: how long the drill waits for it to be over.
    """

    name: str
    title: str
    story: str
    fault: Callable[[Situation], Mapping[str, Any]]
    seen: Callable[[Situation], bool | None]
    judge: Callable[[Facts], list[Criterion]]
    component: str
    types: tuple[tuple[str, ...], ...] = ()
    ready: Callable[[Situation], None] | None = None
    settled: Callable[[Situation], bool] | None = None
    looks: Callable[[Situation], list[Criterion]] | None = None
    mend: Callable[[Situation], None] | None = None
    within_s: float = 300.0

    def commands(self, situation: Situation) -> tuple[tuple[str, ...], ...]:
        """``types``, with the hosts' names."""
        names = {"primary": situation.primary.name, "standby": situation.standby.name}
        return tuple(tuple(word.format(**names) for word in argv) for argv in self.types)


def every() -> dict[str, Scenario]:
    """All scenarios by name."""
    return {scenario.name: scenario for scenario in _found()}


def _found() -> Iterator[Scenario]:
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        if isinstance(one := getattr(module, "SCENARIO", None), Scenario):
            yield one
        yield from getattr(module, "SCENARIOS", ())
