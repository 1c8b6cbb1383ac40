"""Every group of `make bench` at its smallest: what it says needs a quiet machine, that it runs needs this."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.bench import barrier, moments, restores, writes
from lab.bench.history import Span
from lab.bench.page import Section, render

pytestmark = pytest.mark.slow

MONTH = Span(seconds=900, fine_s=330, dense_s=2.0, snapshot_s=400, ballast=100_000)
GROUPS: dict[str, Callable[[Path], Section]] = {
    "restores": lambda folder: restores.measure(folder, mb=2, rounds=1),
    "moments": lambda folder: moments.measure(folder, MONTH, rounds=1, samples=2),
    "barrier": lambda folder: barrier.measure(folder, rounds=3, seconds=0.5),
    "writes": lambda folder: writes.measure(folder, rounds=1, seconds=0.5),
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_measures_all_that_it_promises(tmp_path: Path, name: str) -> None:
    section = GROUPS[name](tmp_path)
    judged = [row for row in section.rows if row.limit is not None]
    assert judged
    assert all(row.number is not None and row.number >= 0 for row in judged)
    assert all(row.measured in render(section) for row in section.rows)
