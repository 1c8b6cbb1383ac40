"""The page over all drills: whether recovery works, how it does over time, and what is overdue.

``drills/index.html``: one file without scripts, like the reports that it links to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lab.report import templates
from lab.trend import Point, trend_chart
from lifeline import duties, held
from lifeline.duties import Held, Standing
from lifeline.layout import write_file
from lifeline.objectives import Met, Objective, length

SHADES = {Met.PASS: "good", Met.LATE: "fair", Met.FAIL: "bad", Met.UNKNOWN: "unknown"}


def write(folder: Path, now: datetime | None = None) -> Path:
    """The page over every report below ``folder``; its path. Written whole or not at all."""
    found, problems = held.in_folder(folder)
    path = folder / "index.html"
    write_file(path, html(found, problems, now or datetime.now(UTC)), mode=0o644)
    return path


def refresh(folder: Path, tell: Callable[[str], None]) -> None:
    """The same after a drill, which is over whatever happens here."""
    try:
        tell(f"  over all drills: {write(folder)}")
    except Exception as error:
        tell(f"  the page over all drills can't be written: {error!r}; fab drill --index")


def html(found: Sequence[Held], problems: Sequence[str], now: datetime) -> str:
    """The page; every value is escaped. ``found``: oldest first."""
    since = found[0].at if found else None
    standing = duties.standings(found, now, since)
    names = sorted({one.scenario for one in found})
    environment = templates()
    environment.filters["length"] = length
    return environment.get_template("index.html").render(
        made=now.strftime("%Y-%m-%d %H:%M UTC"),
        overall=overall(found, standing),
        standings=standing,
        scenarios=[_scenario([one for one in found if one.scenario == name]) for name in names],
        problems=problems,
        count=len(found),
    )


def overall(found: Sequence[Held], standing: Sequence[Standing]) -> tuple[str, str]:
    """(verdict, why) of the page: PASS only if nothing is overdue and the newest drill of every scenario passed."""
    newest = {one.scenario: one for one in found}
    failed = sorted(name for name, one in newest.items() if one.verdict == "FAIL")
    unproved = sorted(name for name, one in newest.items() if one.verdict not in ("PASS", "FAIL"))
    late = [one.duty.title for one in standing if one.state == "overdue"]
    never = [one.duty.title for one in standing if one.last is None]
    if failed:
        return "FAIL", f"the newest drill failed: {', '.join(failed)}"
    if not found:
        return "UNKNOWN", "no drill was held: nothing is known about recovery"
    if unproved:
        return "UNKNOWN", f"the newest drill proved nothing: {', '.join(unproved)}"
    if late:
        return "UNKNOWN", f"overdue: {', '.join(late)}"
    if never:
        return "UNKNOWN", f"never passed: {', '.join(never)}"
    return "PASS", "every drill that is called for was held in time, and the newest of each scenario passed"


def _scenario(drills: Sequence[Held]) -> dict[str, Any]:
    newest = drills[-1]
    return {
        **{"name": newest.scenario, "title": newest.title, "newest": newest, "count": len(drills)},
        "passed": sum(one.verdict == "PASS" for one in drills),
        "charts": [_chart(drills, "RTO"), _chart(drills, "RPO")],
        "drills": list(reversed(drills)),
    }


def _chart(drills: Sequence[Held], kind: str) -> dict[str, Any]:
    newest = drills[-1]
    measured = [one.rto_s if kind == "RTO" else one.rpo_s for one in drills]
    rto = (newest.rto_target_s, newest.rto_max_s)
    target, most = rto if kind == "RTO" else (newest.rpo_target_s, newest.rpo_max_s)
    points = [
        Point(
            one.at, value, _shade(one, value, target, most), f"{one.at:%Y-%m-%d %H:%M}: {length(value)}, {one.verdict}"
        )
        for one, value in zip(drills, measured, strict=True)
    ]
    label = f"{kind} of {newest.scenario} over {len(drills)} drills; the newest {length(measured[-1])}"
    svg = Markup(trend_chart(points, target, most, label))
    return {
        **{"kind": kind, "svg": svg, "newest": measured[-1], "target": target, "max": most},
        "shade": points[-1].kind,
    }


def _shade(drill: Held, value: float | None, target: float | None, most: float | None) -> str:
    """By the figure; a drill that failed is no good figure, however small."""
    if drill.verdict == "FAIL":
        return "bad"
    if target is None or most is None:
        return "unknown"
    return SHADES[Objective("", "rto", target, most).met_by(value)]
