"""`fab drill --scenario all`: every scenario, one after the other, on one lab; and what came of each, in one table."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import lifecycle, scenarios
from lab.bench.page import machine
from lab.conduct import EXIT, INTERRUPTED, say
from lab.drill import Options, run
from lab.outsiders import CHECKOUT
from lab.scenarios.criteria import worst_of
from lab.stage import lab_is_up
from lifeline.model import Verdict
from lifeline.objectives import length

PAGE = CHECKOUT / "docs/rehearsals.md"
HEAD = """# Every scenario, rehearsed

Written by `fab drill --scenario all --page`; never by hand. All scenarios one after the other, on one pair of hosts.
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
    """The worst exit code. The lab stays up between them, and afterwards if it was up before or is to be kept."""
    lifecycle.require_root()
    was_up = lab_is_up()
    lifecycle.up(say=lambda text: say(f"   {text}"))
    begun, found = time.monotonic(), []
    try:
        for name, scenario in scenarios.every().items():
            folder, code = run(scenario, options, root)
            found.append(_held(name, scenario.title, folder))
            if code == INTERRUPTED:
                break
    finally:
        if not (was_up or options.keep):
            lifecycle.down(say=say)
    took = time.monotonic() - begun
    say(table(found))
    say(f"{len(found)} scenarios in {length(took)}")
    if page:
        PAGE.write_text(f"{HEAD}\n{machine()}\n\n{table(found)}\n\n{len(found)} scenarios in {length(took)}.\n")
    return EXIT[worst_of(one.verdict for one in found)]


def _held(name: str, title: str, folder: Path) -> Held:
    """From its report; a drill without one is UNKNOWN."""
    try:
        report = json.loads((folder / "report.json").read_text())
    except (OSError, ValueError):
        return Held(name, title, Verdict.UNKNOWN, (), 0.0, folder)
    verdict, objectives = Verdict(report["verdict"]), tuple(report["objectives"])
    return Held(name, title, verdict, objectives, float(report["seconds"]), folder)


def table(found: Sequence[Held]) -> str:
    """Markdown: a row a scenario."""
    lines = ["| scenario | | RTO | target | RPO of trades | verdict | took |", "|---|---|---|---|---|---|---|"]
    for one in found:
        rto = next((row for row in one.objectives if row["kind"] == "rto"), None)
        rpo = next((row for row in one.objectives if row["component"] == "trades"), None)
        cells = [one.name, one.title, length(rto["measured_s"] if rto else None)]
        cells += [f"{rto['component']}, < {length(rto['target_s'])}: {rto['verdict']}" if rto else "UNKNOWN"]
        cells += [f"{length(rpo['measured_s'])}: {rpo['verdict']}" if rpo else "UNKNOWN", str(one.verdict)]
        lines.append(f"| {' | '.join([*cells, f'{one.seconds:.0f} s'])} |")
    return "\n".join(lines)
