"""`fab drill --scenario all`: every scenario, one after the other, on one lab; and what came of each, in one table."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import lifecycle, scenarios
from lab.bench.page import machine
from lab.conduct import say
from lab.drill import EXIT, Options, run
from lab.outsiders import CHECKOUT
from lab.scenarios.criteria import worst_of
from lab.series.run import mended
from lifeline.errors import LifelineError
from lifeline.model import Verdict
from lifeline.objectives import length

PAGE = CHECKOUT / "docs/rehearsals.md"
HEAD = """# Every scenario, rehearsed

Written by `fab drill --scenario all --page`; never by hand. One lab, one pair of hosts, all scenarios one after the other.
"""


@dataclass(frozen=True)
class Held:
    """A drill that was held. Times in seconds; None: not known."""

    name: str
    title: str
    verdict: Verdict
    objectives: tuple[dict[str, Any], ...]
    seconds: float
    folder: Path


def hold_all(options: Options, *, page: bool = False, root: Path = CHECKOUT) -> int:
    """The worst exit code. The lab stays up from one to the next, and afterwards only if it was up before, or is kept."""
    lifecycle.require_root()
    was_up = _is_up()
    lifecycle.up(say=lambda text: say(f"   {text}"))
    begun, found = time.monotonic(), []
    try:
        for name, scenario in scenarios.every().items():
            folder, code = run(scenario, options, root)
            found.append(_held(name, scenario.title, folder))
            if code == INTERRUPTED:
                break
            if not mended(root):
                say("   there is no pair of hosts any more: the next one begins with a new one")
    finally:
        if not (was_up or options.keep):
            lifecycle.down(say=say)
    took = time.monotonic() - begun
    say(table(found))
    say(f"{len(found)} scenarios in {length(took)}")
    if page:
        PAGE.write_text(f"{HEAD}\n{machine()}\n\n{table(found)}\n\n{len(found)} scenarios in {length(took)}.\n")
    return EXIT[worst_of(one.verdict for one in found)]
