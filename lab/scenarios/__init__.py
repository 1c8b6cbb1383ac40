"""Disaster scenarios, one file each: what happens, what the operator does about it, and what must be shown afterwards.

A module in this folder with a ``SCENARIO`` is a scenario; nothing else has to be registered.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.scenarios.criteria import Criterion, Facts


@dataclass(frozen=True)
class Scenario:
    """A disaster.

    fault: makes it happen to the primary of that name, returns what was seen of it; recover: the operator's command;
    judge: what must be shown, from what was measured.
    """

    name: str
    title: str
    story: str
    fault: Callable[[str], dict[str, Any]]
    recover: tuple[str, ...]
    judge: Callable[[Facts], list[Criterion]]


def every() -> dict[str, Scenario]:
    """All scenarios by name."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        scenario = getattr(importlib.import_module(f"{__name__}.{module.name}"), "SCENARIO", None)
        if isinstance(scenario, Scenario):
            found[scenario.name] = scenario
    return found
