"""What recovery may take: the procedures' RTO and RPO tables, and what a measurement is worth against them. Pure.

Target and maximum are judged apart: PASS meets the target, LATE misses it within the maximum, FAIL is beyond that. What
wasn't measured is UNKNOWN, and so is what can't be: a negative time is a broken clock, no fast recovery.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from typing import Any, Literal

Kind = Literal["rto", "rpo"]
MINUTE, HOUR = 60.0, 3600.0


class Met(StrEnum):
    """How a measurement stands against its objective."""

    PASS = "PASS"
    LATE = "LATE"
    FAIL = "FAIL"
    UNKNOWN = "UNKNOWN"


_SAYS = {
    Met.PASS: "target met",
    Met.LATE: "target missed, within the maximum",
    Met.FAIL: "above the maximum",
    Met.UNKNOWN: "not known",
}


@dataclass(frozen=True)
class Objective:
    """A row of the tables, in seconds. A target of 0 is met by 0; any other must be undercut ("< 1 minute")."""

    component: str
    kind: Kind
    target_s: float
    max_s: float

    def met_by(self, measured_s: float | None) -> Met:
        """The verdict on a measurement; None: nobody measured."""
        if measured_s is None or not math.isfinite(measured_s) or measured_s < 0:
            return Met.UNKNOWN
        if measured_s < self.target_s or measured_s == self.target_s == 0:
            return Met.PASS
        return Met.LATE if measured_s <= self.max_s else Met.FAIL


RTO = (
    Objective("service restart", "rto", 1 * MINUTE, 5 * MINUTE),
    Objective("database recovery", "rto", 5 * MINUTE, 15 * MINUTE),
    Objective("complete failover", "rto", 10 * MINUTE, 30 * MINUTE),
    Objective("full disaster recovery", "rto", 30 * MINUTE, 2 * HOUR),
)
RPO = (
    Objective("trades", "rpo", 0, 1 * MINUTE),
    Objective("positions", "rpo", 0, 1 * MINUTE),
    Objective("configuration", "rpo", 4 * HOUR, 24 * HOUR),
    Objective("logs", "rpo", 1 * HOUR, 4 * HOUR),
)
OBJECTIVES: Mapping[str, Objective] = {one.component: one for one in (*RTO, *RPO)}


@dataclass(frozen=True)
class Judged:
    """An objective with what was measured for it."""

    objective: Objective
    measured_s: float | None
    verdict: Met

    @property
    def says(self) -> str:
        return _SAYS[self.verdict]

    def to_json(self) -> dict[str, object]:
        """For a report: component, kind, target_s, max_s, measured_s, verdict."""
        one = self.objective
        return {
            **{"component": one.component, "kind": one.kind, "target_s": one.target_s, "max_s": one.max_s},
            **{"measured_s": self.measured_s, "verdict": str(self.verdict)},
        }


def judge(component: str, measured_s: float | None) -> Judged:
    """One component of the tables; KeyError for one that isn't in them: a typo must not be judged by nothing."""
    objective = OBJECTIVES[component]
    return Judged(objective, measured_s, objective.met_by(measured_s))


def judge_all(measured: Mapping[str, float | None], among: Iterable[str] = OBJECTIVES) -> tuple[Judged, ...]:
    """Every component ``among`` these, in the order of the tables; what has no measurement is UNKNOWN.

    KeyError for a measurement of something that isn't in the tables.
    """
    for component in measured:
        OBJECTIVES[component]
    wanted = set(among)
    return tuple(judge(name, measured.get(name)) for name in OBJECTIVES if name in wanted)


def parse(rows: Iterable[Mapping[str, Any]]) -> tuple[Judged, ...]:
    """Out of a report's "objectives" again, as they were judged then."""
    return tuple(
        Judged(
            Objective(str(row["component"]), "rpo" if row["kind"] == "rpo" else "rto", row["target_s"], row["max_s"]),
            *(row["measured_s"], Met(row["verdict"])),
        )
        for row in rows
    )


def worst(judged: Sequence[Judged]) -> Met:
    """FAIL before UNKNOWN before LATE; of nothing, UNKNOWN."""
    found = {one.verdict for one in judged} or {Met.UNKNOWN}
    return next(verdict for verdict in (Met.FAIL, Met.UNKNOWN, Met.LATE, Met.PASS) if verdict in found)


def length(seconds: float | None) -> str:
    """A time as people say it: UNKNOWN, 0 s, 0.4 s, 41 s, 1 min 30 s, 2 h 5 min."""
    if seconds is None:
        return "UNKNOWN"
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds else "0 s"
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


_HEAD = ("", "measured", "target", "maximum", "verdict", "")


def _row(one: Judged) -> tuple[str, ...]:
    goal = one.objective
    target = length(goal.target_s) if goal.target_s == 0 else f"< {length(goal.target_s)}"
    name = f"{goal.kind.upper()} {goal.component}"
    return (name, length(one.measured_s), target, length(goal.max_s), str(one.verdict), one.says)


def text_table(judged: Sequence[Judged]) -> str:
    """For a terminal: columns that align."""
    rows = [_HEAD, *(_row(one) for one in judged)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in padded)


def markdown_table(judged: Sequence[Judged]) -> str:
    """For a document."""
    rows = [_HEAD, ("---",) * len(_HEAD), *(_row(one) for one in judged)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def html_table(judged: Sequence[Judged]) -> str:
    """For a report's page: its classes are the verdicts, and LATE has the page's colour for "fair"."""
    head = "".join(f"<th>{cell}</th>" for cell in _HEAD)
    lines = [f'<table class="objectives"><thead><tr>{head}</tr></thead><tbody>']
    for one in judged:
        name, measured, target, most, verdict, says = map(escape, _row(one))
        shade = "fair" if one.verdict is Met.LATE else verdict
        numbers = "".join(f'<td class="n">{cell}</td>' for cell in (measured, target, most))
        lines.append(f'<tr><td>{name}</td>{numbers}<td class="v {shade}">{verdict}</td><td>{says}</td></tr>')
    return "\n".join([*lines, "</tbody></table>"])
