"""Which points are searched for the last good one, and the bisection, alone."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.clean_point import Search, bisect, bisect_branches, branches
from lifeline.model import Verdict
from lifeline.replica import epoch_prefix, format_txid, replica_prefix
from lifeline.store import MemoryStore

PASS, FAIL, UNKNOWN = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN


@given(st.integers(1, 3000), st.data())
def test_where_damage_stays_its_beginning_is_found_in_few_restores(count: int, data: st.DataObject) -> None:
    first_bad = data.draw(st.integers(0, count))
    found = bisect(count, lambda index: PASS if index < first_bad else FAIL)
    assert found.good == (first_bad - 1 if first_bad else None)
    assert found.bad == (first_bad if first_bad < count else None)
    assert len(found.verdicts) <= math.log2(count) + 3
    assert len({index for index, _ in found.verdicts}) == len(found.verdicts)


@given(st.lists(st.sampled_from([PASS, FAIL, UNKNOWN]), max_size=60))
def test_whatever_is_there_what_is_proposed_passed_and_what_follows_failed(verdicts: list[Verdict]) -> None:
    found = bisect(len(verdicts), lambda index: verdicts[index])
    if found.good is not None:
        assert verdicts[found.good] is PASS
    if found.bad is not None:
        assert verdicts[found.bad] is FAIL
    if found.good is not None and found.bad is not None:
        assert found.good < found.bad
        assert all(verdicts[index] is UNKNOWN for index in range(found.good + 1, found.bad))


@pytest.mark.parametrize(
    ("verdicts", "good", "bad"),
    [
        ([], None, None),
        ([UNKNOWN, UNKNOWN], None, None),
        ([PASS], 0, None),
        ([FAIL], None, 0),
        ([FAIL, FAIL], None, 0),
        ([UNKNOWN, FAIL], None, 1),
        ([PASS, UNKNOWN, FAIL], 0, 2),
        ([UNKNOWN, PASS, UNKNOWN, UNKNOWN, FAIL, UNKNOWN], 1, 4),
    ],
)
def test_the_ends(verdicts: list[Verdict], good: int | None, bad: int | None) -> None:
    found = bisect(len(verdicts), lambda index: verdicts[index])
    assert (found.good, found.bad) == (good, bad)


class History:
    """Replicas of several epochs, of which only the files' names count."""

    def __init__(self) -> None:
        self.store = MemoryStore()

    def epoch(self, number: int, txids: range, *, continues: tuple[int, int] | None = None) -> None:
        """`continues`: the epoch and transaction it goes on from; else it begins with a snapshot."""
        owner: dict[str, object] = {"host": "a"}
        if continues:
            owner["continues"] = {"epoch": continues[0], "databases": {"trades": continues[1]}}
        self.store.put(f"{epoch_prefix('genesis', number)}owner.json", json.dumps(owner).encode())
        for txid in txids:
            level = 9 if txid == txids[0] and continues is None else 1
            name = f"{format_txid(txid)}-{format_txid(txid)}"
            self.store.put(f"{replica_prefix('genesis', number, 'trades')}/{level:04x}/{name}.ltx", b"")

    def lines(self, newest: int) -> list[list[tuple[int, int]]]:
        found = branches(self.store, "genesis", "trades", newest)
        return [[(point.epoch, point.txid) for point in line] for line in found]

    def last_good(self, newest: int, damaged: set[tuple[int, int]]) -> tuple[tuple[int, int] | None, ...]:
        """(last good, first bad after it), by epoch and transaction."""
        lines = self.lines(newest)
        listed = [point for line in lines for point in line]
        found: Search = bisect_branches(
            [len(line) for line in lines], lambda index: FAIL if listed[index] in damaged else PASS
        )
        return tuple(None if index is None else listed[index] for index in (found.good, found.bad))


def of(epoch: int, txids: range) -> list[tuple[int, int]]:
    return [(epoch, txid) for txid in txids]


def test_what_an_earlier_restore_went_back_behind_is_not_searched() -> None:
    history = History()
    history.epoch(1, range(1, 21))
    history.epoch(2, range(10, 19), continues=(1, 10))
    assert history.lines(2) == [of(1, range(1, 11)) + of(2, range(10, 19))]
    damaged = {*of(1, range(11, 21)), *of(2, range(16, 19))}
    assert history.last_good(2, damaged) == ((2, 15), (2, 16))


def test_a_line_that_was_left_altogether_is_not_searched() -> None:
    """Epoch 2 went on from 1, and then a restore went back to before it."""
    history = History()
    history.epoch(1, range(1, 21))
    history.epoch(2, range(10, 19), continues=(1, 10))
    history.epoch(3, range(5, 8), continues=(1, 5))
    assert history.lines(3) == [of(1, range(1, 6)) + of(3, range(5, 8))]


def test_behind_a_backup_that_was_restored_the_newest_line_comes_first() -> None:
    history = History()
    history.epoch(1, range(1, 21))
    history.epoch(2, range(1, 9))  # from a backup: it says of no epoch that it continues it
    history.epoch(3, range(8, 12), continues=(2, 8))
    damaged = {*of(1, range(11, 21)), *of(3, range(10, 12))}
    assert history.lines(3) == [of(1, range(1, 21)), of(2, range(1, 9)) + of(3, range(8, 12))]
    assert history.last_good(3, damaged) == ((3, 9), (3, 10))
    # Nothing of it passes: only then further back; what follows the good one is what the restore will undo.
    everything = {*damaged, *of(2, range(1, 9)), *of(3, range(8, 12))}
    assert history.last_good(3, everything) == ((1, 10), (1, 11))
    assert history.last_good(3, everything - {*of(1, range(11, 21))}) == ((1, 20), (2, 1))
    assert history.last_good(3, {*everything, *of(1, range(1, 11))}) == (None, (1, 1))
    assert history.last_good(3, set()) == ((3, 11), None)
