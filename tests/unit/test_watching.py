"""Lag and stalls, by the clock of the one who watches."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lifeline.watching import FIRST_RESTORE_S, Newest, Position, Watched, age, lag, progress
from tests.unit.hostkit import FakeVault


def test_what_arrives_while_we_look_is_no_lag() -> None:
    vault = FakeVault()
    vault.replicate(1, 9)
    positions = iter([5, 5, 9])
    slept: list[float] = []
    assert lag(Newest(vault, "genesis"), 1, "trades", lambda: next(positions), slept.append) == Position(9, 9)
    assert len(slept) == 1


def test_a_follower_that_stands_still_is_not_waited_for_for_long() -> None:
    vault = FakeVault()
    vault.replicate(1, 9)
    slept: list[float] = []
    assert lag(Newest(vault, "genesis"), 1, "trades", lambda: 5, slept.append) == Position(5, 9)
    assert 1 <= sum(slept) <= 5  # longer than a follower's pause, shorter than the pause between looks


@pytest.mark.parametrize(("applied", "newest"), [(5, 9), (9, 9), (12, 12)])
def test_what_was_compacted_is_seen_too(applied: int, newest: int) -> None:
    vault = FakeVault()
    for txid in range(1, 10):
        vault.replicate(1, txid)
    vault.compact(1, 2, 9)
    assert lag(Newest(vault, "genesis"), 1, "trades", lambda: applied, lambda _: None) == Position(applied, newest)


def test_only_keys_behind_the_position_are_listed() -> None:
    class Counting(FakeVault):
        seen = 0

        def keys(self, prefix: str, after: str = "") -> object:  # type: ignore[override]
            found = list(super().keys(prefix, after))
            Counting.seen += len(found)
            return iter(found)

    vault = Counting()
    for txid in range(1, 101):
        vault.replicate(1, txid)
    newest = Newest(vault, "genesis")  # type: ignore[arg-type]
    assert lag(newest, 1, "trades", lambda: 98, lambda _: None) == Position(98, 100)
    assert Counting.seen == 2
    vault.replicate(1, 101)
    assert lag(newest, 1, "trades", lambda: 98, lambda _: None) == Position(98, 101)
    assert Counting.seen == 4  # the last one again, and the new one


def test_what_was_seen_once_and_is_gone_is_not_remembered() -> None:
    vault = FakeVault()
    vault.replicate(1, 9)
    newest = Newest(vault, "genesis")
    assert lag(newest, 1, "trades", lambda: 5, lambda _: None) == Position(5, 9)
    vault.objects.clear()
    assert lag(newest, 1, "trades", lambda: 5, lambda _: None) == Position(5, 5)


def test_caught_up_is_zero_and_behind_counts_from_when_it_was_last_so() -> None:
    first = progress(None, Position(7, 7), 100.0, 20)
    assert (first.lag_s, first.stalled) == (0.0, False)
    second = progress(first, Position(7, 9), 105.0, 20)
    assert (second.lag_s, second.stalled) == (5.0, False)


def test_standing_still_behind_is_a_stall_and_moving_is_not() -> None:
    seen = progress(None, Position(7, 7), 0.0, 20)
    for now in (5.0, 10.0, 15.0):
        seen = progress(seen, Position(7, 9), now, 20)
        assert not seen.stalled
    moving = progress(seen, Position(8, 30), 21.0, 20)
    assert not moving.stalled
    assert progress(seen, Position(7, 9), 21.0, 20).stalled


def test_a_first_restore_gets_more_patience() -> None:
    seen = progress(None, Position(0, 9), 0.0, 20)
    assert not progress(seen, Position(0, 9), 100.0, 20).stalled
    assert progress(seen, Position(0, 9), FIRST_RESTORE_S, 20).stalled
    assert progress(seen, Position(0, 9), 100.0, 20).lag_s is None  # never had a copy: the lag isn't known


def test_nothing_to_follow_yet_is_no_stall() -> None:
    seen = progress(None, Position(0, 0), 0.0, 20)
    assert not progress(seen, Position(0, 0), 1e6, 20).stalled


def test_an_unreadable_vault_is_not_known_and_no_stall() -> None:
    seen = progress(progress(None, Position(7, 7), 0.0, 20), None, 1e6, 20)
    assert seen.lag_s is None and not seen.stalled


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("2026-01-01T00:00:00Z", 10.0),
        ("2026-01-01T00:00:09.123456789Z", 0.876544),
        ("2026-01-01T01:00:09.5+01:00", 0.5),
        ("2026-01-01T00:00:30Z", 0.0),
    ],
)
def test_age_of_gos_times(stamp: str, seconds: float) -> None:
    assert age(stamp, datetime(2026, 1, 1, 0, 0, 10, tzinfo=UTC)) == pytest.approx(seconds)


def test_a_primary_without_a_first_success_is_not_known() -> None:
    assert Watched.of_primary(None).lag_s is None
