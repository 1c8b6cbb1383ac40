"""What may go, and what never does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from lifeline.retention import Epoch, expired_epochs, expired_snapshots
from lifeline.snapshots import Snapshot

NOW = datetime(2026, 6, 1, tzinfo=UTC)
YEAR, MONTH = timedelta(days=365), timedelta(days=30)


def snapshot(name: str, days: float) -> Snapshot:
    return Snapshot(name, NOW - timedelta(days=days), ())


def gone(snapshots: list[Snapshot], *proved: str, keep: timedelta = YEAR) -> list[str]:
    return [one.id for one in expired_snapshots(snapshots, frozenset(proved), keep, NOW)]


def test_what_is_old_goes_once_something_newer_is_proved() -> None:
    assert gone([snapshot("a", 400), snapshot("b", 366), snapshot("c", 10)], "c") == ["a", "b"]


def test_while_nothing_is_proved_nothing_goes() -> None:
    assert gone([snapshot("a", 4000), snapshot("b", 3000)]) == []
    assert gone([snapshot("a", 4000), snapshot("b", 3000)], "not here any more") == []


def test_the_newest_proved_one_stays_whatever_its_age() -> None:
    assert gone([snapshot("a", 900), snapshot("b", 800), snapshot("c", 700)], "a", "b") == ["a"]


@given(
    st.lists(st.floats(0, 1000), max_size=12),
    st.sets(st.integers(0, 11), max_size=12),
    st.integers(1, 500),
)
def test_never_the_newest_nor_the_newest_proved(days: list[float], proved: set[int], keep: int) -> None:
    snapshots = [snapshot(str(number), age) for number, age in enumerate(days)]
    left = set(gone(snapshots, *map(str, proved), keep=timedelta(days=keep)))
    good = [one for one in snapshots if int(one.id) in proved]
    if snapshots:
        assert sorted(snapshots, key=lambda one: one.at)[-1].id not in left
    if good:
        assert sorted(good, key=lambda one: one.at)[-1].id not in left
    assert all(one.at < NOW - timedelta(days=keep) for one in snapshots if one.id in left)


def epoch(number: int, days: float, proved: bool = False, continues: int | None = None) -> Epoch:
    return Epoch(number, NOW - timedelta(days=days), proved, continues)


def test_a_superseded_epoch_goes_when_a_newer_one_is_proved_and_none_builds_on_it() -> None:
    assert expired_epochs([epoch(1, 90), epoch(2, 60), epoch(3, 0, True)], MONTH, NOW) == [1, 2]
    assert expired_epochs([epoch(1, 90), epoch(2, 20, True)], MONTH, NOW) == [1]
    assert expired_epochs([epoch(1, 90), epoch(2, 60), epoch(3, 0, True, continues=2)], MONTH, NOW) == [1]


def test_an_epoch_stays_while_no_newer_one_is_proved_and_the_newest_always() -> None:
    assert expired_epochs([epoch(1, 90), epoch(2, 60)], MONTH, NOW) == []
    assert expired_epochs([epoch(1, 90, True), epoch(2, 60)], MONTH, NOW) == []
    assert expired_epochs([epoch(1, 90, True)], MONTH, NOW) == []
    assert expired_epochs([], MONTH, NOW) == []
