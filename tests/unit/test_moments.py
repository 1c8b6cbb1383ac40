"""Every moment of a replica is met as exactly as its files allow, and what `at` finds can be restored."""

from __future__ import annotations

import bisect
import random
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from lab.bench import history
from lifeline import points
from lifeline.store import MemoryStore

END = 1_764_160_834.0
SPAN = history.Span(seconds=5400, fine_s=400, sparse_s=10, dense_s=0.5, snapshot_s=1800, ballast=8_000)
BEGIN = END - SPAN.seconds + 60
EDGE = END - SPAN.fine_s  # files of a second are kept from here on


@dataclass(frozen=True)
class Replica:
    store: MemoryStore
    commits: list[float]

    def at(self, moment: float) -> points.Point:
        return points.at(self.store, "s", 1, "month", datetime.fromtimestamp(moment, UTC))


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Replica:
    store = MemoryStore()
    for file in history.files("s", "month", tmp_path_factory.mktemp("history"), SPAN, END):
        store.put(file.key, file.body)
    return Replica(store, SPAN.commits(END))


def test_the_history_is_whole(replica: Replica) -> None:
    walked = points.walk(replica.store, "s", 1, "month", deep=True)
    assert walked.good and walked.newest == len(replica.commits)


@pytest.mark.parametrize(
    ("begin", "end", "exact"),
    [
        (END - SPAN.seconds + 60, EDGE, 30.0),
        (EDGE, EDGE + 30, 30.0),
        (EDGE + 30, END - 300, 1.0),
        (END - 299, END, 0.0),
    ],
    ids=["files of 30 s", "where files of a second begin", "files of a second", "single transactions"],
)
def test_a_moment_is_met_as_exactly_as_its_files_allow(
    replica: Replica, begin: float, end: float, exact: float
) -> None:
    draw = random.Random(begin)
    for _ in range(15):
        moment = draw.uniform(begin, end)
        point = replica.at(moment)
        assert points.plan(replica.store, "s", 1, "month", txid=point.txid).txid == point.txid
        due = bisect.bisect_right(replica.commits, moment)
        assert point.txid <= due
        if point.txid < due:  # the oldest commit that is missing
            assert moment - replica.commits[point.txid] <= exact
