"""What is due, what is late, and when a failed run is tried again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline import schedule
from lifeline.model import BackupPolicy, Role
from lifeline.schedule import JOBS, Attempt

POLICY = BackupPolicy()
BY_NAME = {job.name: job for job in JOBS}


def due(role: Role, successes: dict[str, datetime], attempts: dict[str, Attempt], now: datetime) -> schedule.Due | None:
    """What is due besides mirror, pruning, logs and evidence, which were just done."""
    return schedule.due(role, POLICY, {**just_done(now), **successes}, attempts, now)


def late(successes: dict[str, datetime], since: datetime, now: datetime) -> list[tuple[schedule.Job, datetime]]:
    return schedule.late("primary", POLICY, {**just_done(now), **successes}, since, now)


def just_done(now: datetime) -> dict[str, datetime]:
    return dict.fromkeys(("offsite", "prune", "prune-local", "logs", "evidence"), now)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("job", "now", "slot"),
    [
        ("backup-full", "2026-01-02 02:00", "2026-01-02 02:00"),
        ("backup-full", "2026-01-02 01:59", "2026-01-01 02:00"),
        ("backup-incremental", "2026-01-02 03:59", "2026-01-02 00:00"),
        ("backup-incremental", "2026-01-02 04:00", "2026-01-02 04:00"),
        ("logs", "2026-01-02 03:59", "2026-01-02 03:30"),
        ("logs", "2026-01-02 03:29", "2026-01-02 03:00"),
        ("evidence", "2026-01-02 03:59", "2026-01-02 03:00"),
        ("verify", "2026-01-02 02:59", "2026-01-01 03:00"),
        ("verify-weekly", "2026-01-02 12:00", "2025-12-28 03:00"),  # a Friday: the Sunday before
        ("verify-weekly", "2026-01-04 03:00", "2026-01-04 03:00"),
        ("verify-weekly", "2026-01-04 02:00", "2025-12-28 03:00"),
        ("offsite", "2026-01-02 12:00:30", "2026-01-02 12:00:08"),
        ("offsite", "2026-01-02 12:00:07.900", "2026-01-02 11:59:08"),
        ("offsite", "2026-01-02 00:00:07.900", "2026-01-01 23:59:08"),
    ],
)
def test_slots(job: str, now: str, slot: str) -> None:
    assert schedule.slot(BY_NAME[job], POLICY, at(now)) == at(slot)


@given(st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)), st.sampled_from(JOBS), st.integers(1, 24))
def test_a_slot_is_never_in_the_future_and_never_goes_back(now: datetime, job: schedule.Job, hours: int) -> None:
    policy, now = BackupPolicy(every_hours=hours), now.replace(tzinfo=UTC)
    slot = schedule.slot(job, policy, now)
    assert slot <= now < slot + timedelta(days=8)
    assert schedule.slot(job, policy, now + timedelta(minutes=1)) >= slot
    assert schedule.slot(job, policy, slot) == slot


def test_after_an_outage_one_run_makes_up_for_all_that_was_missed() -> None:
    now = at("2026-01-10 12:34")
    long_ago = {"backup-full": at("2026-01-01 02:00"), "backup-incremental": at("2026-01-01 08:00")}
    found = due("primary", long_ago, {}, now)
    assert found is not None and (found.job.name, found.slot) == ("backup-full", at("2026-01-10 02:00"))
    # The full one of 12:35 is what the incremental of 12:00 was to be, too.
    done = {**long_ago, "backup-full": now}
    assert due("primary", done, {}, now + timedelta(minutes=1)) is None


def test_what_the_other_host_did_counts() -> None:
    """A host that was promoted at 03:00 goes by the catalogue: nothing is due before 04:00."""
    successes = {"backup-full": at("2026-01-02 02:01")}
    assert due("primary", successes, {}, at("2026-01-02 03:00")) is None
    found = due("primary", successes, {}, at("2026-01-02 04:00"))
    assert found is not None and found.job.name == "backup-incremental"


def test_a_first_backup_is_a_full_one_and_a_first_verification_a_whole_one() -> None:
    now = at("2026-01-02 12:00")
    first = due("primary", {}, {}, now)
    assert first is not None and first.job.name == "backup-full"
    verify = due("standby", {}, {}, now)
    assert verify is not None and verify.job.name == "verify-weekly"
    assert due("standby", {"verify-weekly": now}, {}, now) is None
    assert due("none", {}, {}, now) is None


def test_a_failed_run_waits_longer_each_time_and_not_into_the_next_slot() -> None:
    slot = at("2026-01-02 02:00")
    for failed, minutes in ((1, 5), (2, 15), (3, 30), (9, 30)):
        attempts = {"backup-full": Attempt(slot, at("2026-01-02 02:10"), failed)}
        successes = {"backup-incremental": at("2026-01-02 02:00")}
        ended, pause = attempts["backup-full"].ended, timedelta(minutes=minutes)
        early = ended + pause - timedelta(minutes=1)
        assert due("primary", successes, attempts, early) is None
        again = due("primary", successes, attempts, ended + pause)
        assert again is not None and again.slot == slot
    old = {"backup-full": Attempt(at("2026-01-01 02:00"), at("2026-01-02 02:00"), 3)}
    assert due("primary", {}, old, at("2026-01-02 02:01")) is not None


def test_a_clock_that_was_wrong_neither_stops_the_backups_nor_runs_a_storm() -> None:
    now = at("2026-01-02 12:00")
    future = {"backup-full": at("2031-01-01 02:00")}
    found = due("primary", future, {}, now)
    assert found is not None and found.job.name == "backup-full"
    assert due("primary", {"backup-full": now}, {}, now - timedelta(minutes=3)) is None
    # An attempt noted in the future doesn't hold up the present.
    attempts = {"backup-full": Attempt(at("2026-01-02 02:00"), at("2031-01-01 02:00"), 1)}
    assert due("primary", {}, attempts, now) is not None


def test_late_is_counted_from_the_slot_or_from_taking_the_role() -> None:
    successes = {"backup-full": at("2026-01-01 02:00"), "backup-incremental": at("2026-01-02 00:10")}
    long_primary = at("2026-01-01 00:00")
    assert late(successes, long_primary, at("2026-01-02 02:59")) == []
    found = late(successes, long_primary, at("2026-01-02 03:01"))
    assert [(job.name, slot) for job, slot in found] == [("backup-full", at("2026-01-02 02:00"))]
    just_promoted = at("2026-01-02 03:00")
    assert late(successes, just_promoted, at("2026-01-02 03:30")) == []


@pytest.mark.parametrize(
    ("role", "ended", "runs"),
    [
        ("primary", None, True),
        ("standby", "2026-01-02 11:00", True),  # before it was called for
        ("standby", "2026-01-02 11:58", False),
        ("primary", "2026-01-02 11:45", True),  # and again, ten minutes later
        ("primary", "2031-01-02 12:00", True),  # by a clock that was wrong
        ("none", None, False),
    ],
)
def test_what_is_called_for_runs_at_once_and_now_and_then_again(role: Role, ended: str | None, runs: bool) -> None:
    found = schedule.at_once(role, "logs", at("2026-01-02 11:40"), at(ended) if ended else None, at("2026-01-02 12:00"))
    assert (found is not None) is runs
