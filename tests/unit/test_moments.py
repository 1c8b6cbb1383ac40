"""Every moment of a replica is met as exactly as its files allow, and what `at` finds can be restored."""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from lab.bench import history
from lifeline import points
from lifeline.replica import replica_prefix
from lifeline.store import Info, MemoryStore

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


class Compacted(MemoryStore):
    """A replica whose single transactions go while it is read, as they do once the coarser files have them."""

    def __init__(self, replica: Replica, going: Sequence[str]) -> None:
        super().__init__()
        self._going = list(going)
        for info in replica.store.list():
            self.put(info.key, replica.store.get(info.key).body)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        while self._going:
            self.delete(self._going.pop())
        return super().get_range(key, start, length)


def of_level(replica: Replica, level: int) -> list[points.Piece]:
    return list(points.pieces(replica.store.list(f"{replica_prefix('s', 1, 'month')}/{level:04x}/")))


def test_what_compaction_takes_away_while_the_chain_is_read_is_no_damage(replica: Replica) -> None:
    coarse = max(piece.last for piece in of_level(replica, 1))
    store = Compacted(replica, [piece.key for piece in of_level(replica, 0) if piece.last <= coarse])
    walked = points.walk(store, "s", 1, "month", deep=True)
    assert walked.good and walked.newest == len(replica.commits)
    assert walked.pieces < points.walk(replica.store, "s", 1, "month").pieces


def test_what_goes_while_the_chain_is_read_and_is_nowhere_else_is_a_hole(replica: Replica) -> None:
    *_, alone, last = of_level(replica, 0)
    walked = points.walk(Compacted(replica, [alone.key]), "s", 1, "month", deep=True)
    assert walked.holes == ((alone.first - 1, last.first),)


def test_a_file_that_is_listed_and_never_there_is_damage(replica: Replica) -> None:
    class Listed(Compacted):
        def list(self, prefix: str = "", *, after: str = "") -> Iterator[Info]:
            return replica.store.list(prefix, after=after)

    key = of_level(replica, 0)[-1].key
    assert [where for where, _ in points.walk(Listed(replica, [key]), "s", 1, "month", deep=True).damaged] == [key]


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
