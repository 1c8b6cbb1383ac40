"""Writes per second across an outage, as SVG that styles itself by the page's colours.  Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 960, 280
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 46, 34


@dataclass(frozen=True)
class Mark:
    """A vertical line: seconds since zero, its label, and its colour (a class: good, bad, neutral)."""

    at: float
    label: str
    kind: str


def writes_chart(writes: Sequence[Sequence[int]], marks: Sequence[Mark]) -> str:
    """Bars of (second, count), x in seconds since zero. Empty string without data."""
    if not writes:
        return ""
    first, last = writes[0][0], writes[-1][0] + 1
    top = _round_up(max(count for _, count in writes))
    wide = (WIDTH - LEFT - RIGHT) / (last - first)

    def x(second: float) -> float:
        return round(LEFT + (min(max(second, first), last) - first) * wide, 2)

    def y(count: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - count / top), 2)

    label = f"Acknowledged writes per second, from {first} to {last} seconds around the fault"
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}" class="chart">']
    parts += _outage(marks, x)
    for count in (0, top / 2, top):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(count)}" y2="{y(count)}"/>')
        parts.append(f'<text class="axis" x="{LEFT - 6}" y="{y(count) + 4}" text-anchor="end">{count:g}</text>')
    for second in _ticks(first, last):
        parts.append(f'<text class="axis" x="{x(second)}" y="{HEIGHT - 14}" text-anchor="middle">{second:g}</text>')
    gap = min(1.5, wide * 0.15)
    for second, count in writes:
        if count:
            parts.append(
                f'<rect class="bar" x="{round(x(second) + gap / 2, 2)}" width="{round(wide - gap, 2)}"'
                f' y="{y(count)}" height="{round(y(0) - y(count), 2)}"><title>{second} s: {count} writes</title></rect>'
            )
    parts += _lines(marks, x)
    parts.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 1}" text-anchor="end">seconds</text></svg>')
    return "\n".join(parts)


def _outage(marks: Sequence[Mark], x: Callable[[float], float]) -> list[str]:
    """The time between the fault and the recovery, shaded."""
    begin = next((mark.at for mark in marks if mark.kind == "bad"), None)
    end = next((mark.at for mark in marks if mark.kind == "good"), None)
    if begin is None or end is None:
        return []
    width = round(x(end) - x(begin), 2)
    return [f'<rect class="outage" x="{x(begin)}" width="{width}" y="{TOP}" height="{HEIGHT - TOP - BOTTOM}"/>']


def _lines(marks: Sequence[Mark], x: Callable[[float], float]) -> list[str]:
    """Marks with their labels, staggered so that neighbours stay readable."""
    parts = []
    for index, mark in enumerate(sorted(marks, key=lambda mark: mark.at)):
        at, row = x(mark.at), 14 + 16 * (index % 2)
        anchor = "end" if at > WIDTH * 0.8 else "start"
        near = at - 5 if anchor == "end" else at + 5
        text = f"{mark.label}, {mark.at:.1f} s" if mark.at else mark.label
        parts.append(f'<line class="mark {mark.kind}" x1="{at}" x2="{at}" y1="{row - 10}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text class="label {mark.kind}" x="{near}" y="{row}" text-anchor="{anchor}">{escape(text)}</text>'
        )
    return parts


def _round_up(value: int) -> int:
    """The next even 1, 2 or 5 times a power of ten, so that the axis reads well."""
    if value <= 2:
        return 2
    power = int(10 ** math.floor(math.log10(value)))
    return next(step * power for step in (1, 2, 4, 5, 6, 8, 10) if step * power >= value)


def _ticks(first: int, last: int) -> list[int]:
    """About ten round places; zero, the fault, is one of them."""
    step = next(size for size in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 3600, 10**9) if (last - first) / size <= 12)
    return [second for second in range(-(-first // step) * step, last + 1, step)]
