"""The bisection for the last good point, alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.clean_point import bisect
from lifeline.model import Verdict

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
