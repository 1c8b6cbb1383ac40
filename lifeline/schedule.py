"""What is due on a host, and what is late. Pure: times in, jobs out.

A job has slots on the calendar. It is due when its newest slot has no success yet; so what was missed is made up for
once, not once for every slot, and what another host did counts. Successes from the future are not believed: a clock
that was wrong must not stop the backups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from lifeline.model import WEEKDAYS, BackupPolicy, Role

# Litestream writes its files of half a minute on the half minute: soon after, the mirror finds the newest one.
AFTER_COMPACTION = timedelta(seconds=8)
AHEAD = timedelta(minutes=5)  # how far clocks of two hosts may differ
AT_ONCE_AGAIN = timedelta(minutes=10)
LOGS_EVERY = timedelta(minutes=30)  # the procedures lose less than an hour of them
RETRY = (timedelta(minutes=5), timedelta(minutes=15), timedelta(minutes=30))


@dataclass(frozen=True)
class Job:
    """Something a host does by the calendar. `verb`: what lifeline-host is asked; `late_after` its slot; `serves`: jobs
    whose slot its success covers too."""

    name: str
    role: Role
    verb: tuple[str, ...]
    late_after: timedelta
    serves: tuple[str, ...] = ()


JOBS = (
    Job("backup-full", "primary", ("backup", "--full"), timedelta(minutes=60), ("backup-incremental",)),
    Job("backup-incremental", "primary", ("backup",), timedelta(minutes=30)),
    # Wherever the service has run there are logs.
    Job("logs", "primary", ("logs",), timedelta(minutes=30)),
    Job("logs", "standby", ("logs",), timedelta(minutes=30)),
    Job("offsite", "primary", ("offsite",), timedelta(minutes=15)),
    Job("prune", "primary", ("prune",), timedelta(hours=24)),
    Job("evidence", "primary", ("evidence",), timedelta(hours=24)),
    Job("verify-weekly", "standby", ("prove", "--scheduled", "--weekly"), timedelta(hours=12), ("verify",)),
    Job("verify", "standby", ("prove", "--scheduled"), timedelta(hours=6)),
    # What it backed up while it was primary; the vault is the primary's to prune.
    Job("prune-local", "standby", ("prune",), timedelta(hours=24)),
)


@dataclass(frozen=True)
class Attempt:
    """The newest run of a job on this host that came to its end: its slot, and how many failed in a row for that slot;
    0: it succeeded."""

    slot: datetime
    ended: datetime
    failed: int


@dataclass(frozen=True)
class Due:
    """A job to run now, for this slot."""

    job: Job
    slot: datetime


def slot(job: Job, policy: BackupPolicy, now: datetime) -> datetime:
    """The newest time at or before `now` at which the job was to run."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if job.name == "backup-incremental":
        return midnight + timedelta(hours=now.hour // policy.every_hours * policy.every_hours)
    if job.name == "logs":
        return midnight + (now - midnight) // LOGS_EVERY * LOGS_EVERY
    if job.name == "evidence":
        return midnight + timedelta(hours=now.hour)
    if job.name == "offsite":
        first, every = midnight + AFTER_COMPACTION, timedelta(seconds=policy.offsite_every_s)
        return first + (now - first) // every * every
    at = policy.full_at if job.name in ("backup-full", "prune", "prune-local") else policy.verify_at
    found = midnight + timedelta(hours=int(at[:2]), minutes=int(at[3:]))
    if job.name == "verify-weekly":
        found -= timedelta(days=(now.weekday() - WEEKDAYS.index(policy.check_on)) % 7)
        return found if found <= now else found - timedelta(days=7)
    return found if found <= now else found - timedelta(days=1)


def following(job: Job, policy: BackupPolicy, success: datetime) -> datetime:
    """The first slot that a success at this time didn't serve."""
    period = {
        "backup-incremental": timedelta(hours=policy.every_hours),
        "logs": LOGS_EVERY,
        "evidence": timedelta(hours=1),
        "offsite": timedelta(seconds=policy.offsite_every_s),
        "verify-weekly": timedelta(days=7),
    }.get(job.name, timedelta(days=1))
    return slot(job, policy, slot(job, policy, success) + period)


def believed(success: datetime | None, now: datetime) -> datetime | None:
    """A success that can be: none from the future."""
    return success if success is not None and success <= now + AHEAD else None


def last_success(job: Job, successes: Mapping[str, datetime], now: datetime) -> datetime | None:
    """When something was last done that serves the job's slots."""
    names = (job.name, *(other.name for other in JOBS if job.name in other.serves))
    return max((found for name in names if (found := believed(successes.get(name), now))), default=None)


def open_slot(job: Job, policy: BackupPolicy, successes: Mapping[str, datetime], now: datetime) -> datetime | None:
    """The job's newest slot if nothing was done for it, else None."""
    newest, done = slot(job, policy, now), last_success(job, successes, now)
    return newest if done is None or done < newest else None


def due(
    role: Role,
    policy: BackupPolicy,
    successes: Mapping[str, datetime],
    attempts: Mapping[str, Attempt],
    now: datetime,
) -> Due | None:
    """The first job of this role that is to run now; a failed one waits before it is tried again.

    A slot that this host served is served, whatever the catalogue shows: with an entry from the future in it, left by a
    clock that was wrong, the same backup would be made again and again.
    """
    for job in JOBS:
        if job.role != role or (wanted := open_slot(job, policy, successes, now)) is None:
            continue
        last = attempts.get(job.name)
        if last and last.slot == wanted and last.ended <= now + AHEAD and not _again(last, now):
            continue
        return Due(job, wanted)
    return None


def at_once(role: Role, name: str, since: datetime, ended: datetime | None, now: datetime) -> Due | None:
    """A job that something calls for since then, whatever the calendar says: once for it, and now and then again."""
    if ended is not None and since <= ended <= now + AHEAD and now - ended < AT_ONCE_AGAIN:
        return None
    job = next((job for job in JOBS if (job.name, job.role) == (name, role)), None)
    return Due(job, now) if job else None


def _again(last: Attempt, now: datetime) -> bool:
    return last.failed > 0 and now >= last.ended + RETRY[min(last.failed, len(RETRY)) - 1]


def late(
    role: Role,
    policy: BackupPolicy,
    successes: Mapping[str, datetime],
    since: datetime,
    now: datetime,
    grace: timedelta = timedelta(0),
) -> list[tuple[Job, datetime]]:
    """Jobs of this role that nothing was done for in time, with the first slot that was missed. `since`: when this host
    took its role; what was due before is its first duty, and late only some time after."""
    found = []
    for job in JOBS:
        if job.role != role or open_slot(job, policy, successes, now) is None:
            continue
        done = last_success(job, successes, now)
        # The first one missed: the newest moves on with the clock, and something done every minute were never late.
        missed = slot(job, policy, now) if done is None else following(job, policy, done)
        begun = since if done is None else max(missed, since)
        if now - begun > job.late_after + grace:
            found.append((job, missed))
    return found
