"""docs/benchmarks.md: a section a group, each with its own date, commit and machine, kept while others are rerun."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lab.environment import describe

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/benchmarks.md"
HEAD = """# Benchmarks

Written by `make bench`; never by hand. Each section says when, where and of which commit it is; ratios are taken within
one run, alternately, and times are medians with the least and the most.
"""


@dataclass(frozen=True)
class Row:
    """One promise: what was measured, the number that is judged, and its limit. No limit: stated, not judged.

    `at_least`: the number must not be below the limit, else not above. `because`: shown when the promise is missed.
    """

    what: str
    measured: str
    number: float | None = None
    limit: float | None = None
    unit: str = ""
    at_least: bool = False
    because: str = ""

    @property
    def verdict(self) -> str:
        if self.limit is None or self.number is None:
            return "stated"
        kept = self.number >= self.limit if self.at_least else self.number <= self.limit
        return "PASS" if kept else "MISSED"

    @property
    def promised(self) -> str:
        return "" if self.limit is None else f"{'≥' if self.at_least else '≤'} {self.limit:g}{self.unit}"

    @property
    def shown(self) -> str:
        if self.number is None:
            return ""
        digits = 2 if self.limit is None or self.limit >= 0.1 else 4
        return f"{self.number:.{digits}f}{self.unit}"


@dataclass(frozen=True)
class Section:
    """One group's results: its heading, what was done in a sentence, and the rows."""

    title: str
    how: str
    rows: tuple[Row, ...]

    @property
    def kept(self) -> bool:
        return all(row.verdict != "MISSED" for row in self.rows)


def render(section: Section) -> str:
    """Its Markdown, with the machine it was measured on."""
    lines = [f"## {section.title}", "", section.how, "", machine(), ""]
    lines += ["| | measured | judged | promised | |", "|---|---|---|---|---|"]
    for row in section.rows:
        lines.append(f"| {row.what} | {row.measured} | {row.shown} | {row.promised} | {row.verdict} |")
    missed = [f"- MISSED, {row.what}: {row.because}" for row in section.rows if row.verdict == "MISSED" and row.because]
    return "\n".join([*lines, *(["", *missed] if missed else [])]) + "\n"


def machine() -> str:
    found = describe(ROOT, "none")
    versions = found["versions"]
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {versions['commit']}: {found['cpus']} × {_cpu()}, "
        f"{found['memory_gib']} GiB, Linux {found['kernel']}; Litestream {versions['litestream']}, "
        f"SQLite by apsw {versions['apsw']}, SeaweedFS {versions['seaweedfs']} on loopback; "
        f"load {os.getloadavg()[0]:.1f} at the end."
    )


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "a CPU without a name")


def merge(page: str, title: str, section: str, order: Sequence[str], head: str = HEAD) -> str:
    """The page with this section in place of the one of the same title; what has a title nobody knows is dropped."""
    found = {text.partition("\n")[0]: f"## {text}" for text in re.split(r"^## ", page, flags=re.MULTILINE)[1:]}
    found[title] = section
    return "\n".join([head, *(found[name].rstrip("\n") + "\n" for name in order if name in found)])


def write(page: Path, section: Section, order: Sequence[str]) -> None:
    """Put a section into the page, as soon as it is measured: what follows may take long, or fail."""
    before = page.read_text(encoding="utf-8") if page.exists() else ""
    page.write_text(merge(before, section.title, render(section), order), encoding="utf-8")
