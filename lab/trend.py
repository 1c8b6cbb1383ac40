"""One measure of one scenario over all its drills, as SVG that styles itself by the page's colours. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

WIDTH, HEIGHT = 460, 150
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 16, 26


@dataclass(frozen=True)
class Point:
    """A drill. ``value`` None: it isn't known what it measured. ``kind``: good, fair, bad or unknown."""

    at: datetime
    value: float | None
    kind: str
    label: str


def trend_chart(points: Sequence[Point], target: float | None, most: float | None, label: str) -> str:
    """Points by time, a line through those that are known, and target and maximum where they are within the scale."""
    if not points:
        return ""
    known = [point for point in points if point.value is not None]
    top = max([*(point.value or 0.0 for point in known), 0.0]) * 1.15
    # What was measured sets the scale; a target far above it would press it all to the floor.
    shown = [(value, name) for value, name in ((target, "target"), (most, "maximum")) if value and value <= top * 4]
    top = max([top, *(value * 1.1 for value, _ in shown)]) or 1.0
    first, last = points[0].at, points[-1].at
    span = (last - first).total_seconds()

    def x(at: datetime) -> float:
        part = (at - first).total_seconds() / span if span else 0.5
        return round(LEFT + (WIDTH - LEFT - RIGHT) * part, 1)

    def y(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top), 1)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}" class="trend">']
    for value in (0.0, top / 2, top):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{_short(value)}</text>')
    for value, name in shown:
        parts.append(f'<line class="limit {name}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text class="limit" x="{WIDTH - RIGHT}" y="{y(value) - 4}" text-anchor="end">{name}</text>')
    if len(known) > 1:
        line = " ".join(f"{x(point.at)},{y(point.value or 0.0)}" for point in known)
        parts.append(f'<polyline class="line" points="{line}"/>')
    for point in points:
        parts.append(_dot(point, x(point.at), y(point.value or 0.0)))
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">{first:%Y-%m-%d}</text>')
    if span:
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{last:%Y-%m-%d}</text>')
    return "\n".join([*parts, "</svg>"])


def _dot(point: Point, x: float, y: float) -> str:
    title = f"<title>{escape(point.label)}</title>"
    if point.value is None:  # a cross on the floor: never a dot at nought
        return f'<path class="mark unknown" d="M{x - 4} {y - 4}l8 8m0 -8l-8 8">{title}</path>'
    return f'<circle class="mark {point.kind}" cx="{x}" cy="{y}" r="4">{title}</circle>'


def _short(value: float) -> str:
    if value >= 7200:
        return f"{value / 3600:.1f} h"
    if value >= 120:
        return f"{value / 60:.0f} min"
    return f"{value:.0f} s" if value >= 10 or not value else f"{value:.1f} s"
