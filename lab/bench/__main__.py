"""`python -m lab.bench`: measures the groups that are asked for, one after the other, and writes the page."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.bench import barrier, moments, page, restores, writes
from lab.bench.history import Span
from lab.bench.page import Section
from lab.bench.stand import say

Measure = Callable[[Path], Section]
MISSED = 6  # the exit code of a step that failed
ORDER = (restores.TITLE, restores.LARGE, moments.TITLE, barrier.TITLE, writes.TITLE)


def groups(mb: int) -> dict[str, Measure]:
    """Every group of promises, by the name that `--only` takes, in the order of the page."""
    return {
        "restores": lambda folder: restores.measure(folder, mb, rounds=3),
        "moments": lambda folder: moments.measure(folder, Span(), rounds=5, samples=20),
        "barrier": lambda folder: barrier.measure(folder, rounds=200, seconds=10),
        "writes": lambda folder: writes.measure(folder, rounds=3, seconds=10),
    }


def main(argv: Sequence[str]) -> int:
    """Exit code 0 when every promise measured is kept."""
    parser = argparse.ArgumentParser(prog="lab.bench", description="Measures; writes docs/benchmarks.md.")
    parser.add_argument("--mb", type=int, default=1000, help="size of the database that is restored (default 1000)")
    parser.add_argument("--only", action="append", choices=list(groups(0)), help="this group; may be repeated")
    parser.add_argument("--folder", type=Path, help="where to work (default: a new one in the temporary folder)")
    parser.add_argument("--page", type=Path, default=page.PAGE, help="what to write (default docs/benchmarks.md)")
    arguments = parser.parse_args(argv)
    found = groups(arguments.mb)
    sections = [run(found[name], arguments.folder, arguments.page) for name in arguments.only or found]
    return 0 if all(section.kept for section in sections) else MISSED


def run(measure: Measure, folder: Path | None, target: Path) -> Section:
    """One group, in a folder of its own that is gone afterwards; its section is on the page at once."""
    folder = (folder or Path(tempfile.gettempdir())) / f"lifeline-bench-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        section = measure(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    page.write(target, section, ORDER)
    say(f"\n{section.title}")
    for row in section.rows:
        say(f"  {row.verdict:7} {row.what}: {row.measured}" + (f" [{row.shown}]" if row.number is not None else ""))
    return section


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
