"""What a person must know of a host. Pure: what is seen in, alerts out.

An alert lasts as long as its reason. Whoever delivers them (a pager, say) is told of each once, when it is raised, and
once when it is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Alert:
    """`name` tells two alerts apart; `says` is what happened and what it means; `next` the command to type."""

    name: str
    says: str
    next: str
    since: str = ""


@dataclass(frozen=True)
class Seen:
    """What alerts are made of. Sizes in bytes, ages in seconds; None: not known."""

    role: str
    late: Sequence[tuple[str, datetime]] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    largest_database: int = 0
    disk_free: int | None = None
    memory_available: int | None = None
    replica_age_s: float | None = None
    replica_stale_s: float = 60.0
    replica_unseen: bool = False
    verification: Mapping[str, Any] | None = None
    keeper_error: str | None = None
    forks: Sequence[Mapping[str, Any]] = ()
    agent: Mapping[str, Any] | None = field(default_factory=dict)
    """The agent's own status; None: it doesn't answer."""
    disk_percent: float | None = None
    disk_limit: float = 100.0
    relief_to_come: bool = False  # old logs are about to go: perhaps that is enough
    incomplete: Mapping[str, str] = field(default_factory=dict)
    """Why the newest backup isn't where, by place."""
    offsite: Mapping[str, Any] | None = None
    """The mirror's last look at everything."""
    anew: Mapping[str, str] = field(default_factory=dict)
    """Since when restic's repositories hold nothing older, of those that had vanished."""
    damaged: Sequence[str] = ()
    """Keys of the catalogue's documents that can't be read."""
    unguarded: bool = False
    drills: Sequence[Mapping[str, Any]] = ()
    """Drills that are overdue: {"name", "says", "next"}."""
    checkpointed: Mapping[str, int] = field(default_factory=dict)
    """By database: how often its log was begun anew by another than Litestream."""


DISK_FACTOR, DISK_EXTRA = 2.2, 256 << 20  # a restored copy beside the live one, and what is kept
MEMORY_NEEDED = 200 << 20
OVERDUE_DAYS = 30  # how often an operator should have to prune off-site


NEXT = {
    **{"backup-full": "fab backup --full", "backup-incremental": "fab backup", "prune": "fab prune"},
    **{"verify": "fab verify", "verify-weekly": "fab verify --weekly", "evidence": "fab evidence seal"},
}


def judge(seen: Seen) -> list[Alert]:
    """Every alert there is reason for."""
    return [
        *(*_failover(seen), *_guarded(seen), *_forks(seen), *_jobs(seen), *_room(seen)),
        *(*_replica(seen), *_verified(seen), *_offsite(seen), *_drills(seen)),
    ]


def _failover(seen: Seen) -> Iterable[Alert]:
    """What the agent can't do alone, or what it does without."""
    if seen.agent is None:
        says = "the agent doesn't answer: nobody renews the lease here, watches the other host, or takes over"
        yield Alert("agent-silent", says, "on that host: systemctl status lifeline-agent; fab provision")
        return
    if seen.agent.get("failsafe"):
        says = "the lease store can't be reached; the service goes on by the other host's word, and nobody is promoted"
        yield Alert("failsafe", says, "fab status; is AWS reachable from that host?")
    for one in (seen.agent.get("pilot") or {}).get("alerts") or ():
        yield Alert(str(one["name"]), str(one["says"]), str(one["next"]))


def _forks(seen: Seen) -> Iterable[Alert]:
    """What a former primary has that nobody else does. The folder's name is the alert's: each is told once."""
    for fork in seen.forks:
        if fork["settled"]:
            continue
        counts = ", ".join(f"{here} rows of {name}" for name, (here, _) in fork["tables"].items() if here)
        what = counts or ("only changes" if fork["tables"] else "not compared yet")
        says = f"{fork['folder']} holds what this host wrote and the vault didn't get in time: {what}"
        yield Alert(f"fork-{fork['folder']}", says, "fab forks")


def _jobs(seen: Seen) -> Iterable[Alert]:
    for name, slot in seen.late:
        says = f"{name} of {slot:%Y-%m-%d %H:%M} UTC has not been done, nor any since"
        yield Alert(f"late-{name}", says, NEXT.get(name, "fab status"))
    for name, why in seen.failed.items():
        yield Alert(f"failed-{name}", f"{name} failed: {why}", "fab status; it is tried again by itself")
    if seen.keeper_error:
        yield Alert("catalogue-unreadable", f"what was backed up can't be seen: {seen.keeper_error}", "fab status")


def _room(seen: Seen) -> Iterable[Alert]:
    need = int(seen.largest_database * DISK_FACTOR) + DISK_EXTRA
    if seen.disk_free is not None and seen.disk_free < need:
        says = f"a restore needs {need >> 20} MB of free disk here, there are {seen.disk_free >> 20} MB"
        yield Alert("disk-short", says, "free some space: df -h /var/lib on that host")
    if seen.disk_percent is not None and seen.disk_percent >= seen.disk_limit and not seen.relief_to_come:
        says = (
            f"the disk is {seen.disk_percent:.0f} % full ({seen.disk_limit:.0f} % is the limit), and letting go of old "
            "logs was not enough: when it is full, nothing can be written"
        )
        yield Alert("disk-critical", says, "what fills it? on that host: du -xh /var | sort -h | tail -20")
    if seen.memory_available is not None and seen.memory_available < MEMORY_NEEDED:
        says = f"a restore needs {MEMORY_NEEDED >> 20} MB of memory, there are {seen.memory_available >> 20} MB"
        yield Alert("memory-short", says, "look what uses it: free -m on that host")


def _replica(seen: Seen) -> Iterable[Alert]:
    if seen.role == "primary" and seen.replica_age_s is not None and seen.replica_age_s > seen.replica_stale_s:
        says = f"nothing has reached the vault for {seen.replica_age_s:.0f} s: newer writes are on this host alone"
        yield Alert("replica-stale", says, "fab status; is the vault reachable from this host?")

    for name, times in seen.checkpointed.items():
        says = (
            f"the log of {name} was begun anew {times} times by another than Litestream: its replica may lack what was "
            "written while Litestream wasn't running. The independent backups don't rest on it"
        )
        yield Alert(
            f"foreign-checkpoint-{name}", says, "fab backup; then have the service leave checkpoints alone (service.md)"
        )
    if seen.replica_unseen:
        says = "whether writes reach the vault can't be seen: they may be on this host alone"
        yield Alert("replica-unseen", says, "fab status; read /var/log/supervisor/litestream.log on that host")


def _verified(seen: Seen) -> Iterable[Alert]:
    if seen.verification and seen.verification.get("verdict") not in (None, "PASS"):
        says = f"the last verification ({seen.verification.get('at')}) is {seen.verification['verdict']}"
        why = seen.verification.get("says")
        yield Alert("verification", f"{says}: {why}" if why else says, "fab verify")
    if seen.damaged:
        says = f"{len(seen.damaged)} verifications in the vault can't be read and count as none: {seen.damaged[0]}"
        yield Alert("catalogue-damaged", says, "fab verify makes a new one; remove that object from the vault")


def _guarded(seen: Seen) -> Iterable[Alert]:
    if seen.unguarded:
        says = "the deadman doesn't run: if the agent hangs too, this host may serve beyond its lease, beside another"
        yield Alert("unguarded", says, "on that host: systemctl status lifeline-deadman; then fab provision")


def _offsite(seen: Seen) -> Iterable[Alert]:
    """As the mirror found it when it last looked at everything."""
    for place, why in seen.incomplete.items():
        yield Alert(f"backup-incomplete-{place}", f"the newest backup has no copy in {place}: {why}", "fab backup")
    if seen.role != "primary":
        return
    for name, at in seen.anew.items():
        says = f"restic's repository ({name}) had vanished at {at}, with every backup in it; it was begun anew"
        step = "fab backups shows where the older ones still lie; who removed it?"
        yield Alert(f"repository-anew-{name.split()[0]}", says, step)
    if not (found := seen.offsite):
        return
    if holes := found.get("holes"):
        says = f"the off-site vault can't be restored across {len(holes)} holes, the first in {holes[0]}"
        yield Alert("offsite-hole", says, "fab verify --weekly; the vault has its own copy")
    if missed := found.get("missed"):
        says = f"{missed} objects had gone from the off-site vault, the first {found.get('missed_first')}; copied again"
        yield Alert("offsite-missed", says, "who deleted them? Only an operator's key can; their versions are kept")
    if gone := found.get("gone"):
        says = f"{gone} snapshots or keys have gone from the off-site repository, the first {found.get('gone_first')}"
        yield Alert(
            "offsite-gone", says, "fab backups --all; who deleted them? Versions are kept until their locks end"
        )
    beyond = found.get("beyond") or {}
    if float(beyond.get("overdue_days") or 0) > OVERDUE_DAYS:
        says = f"the off-site vault holds what should have gone {beyond['overdue_days']:.0f} days ago, and costs more"
        yield Alert("offsite-grown", says, "fab prune --offsite")


def _drills(seen: Seen) -> Iterable[Alert]:
    """Told by one host: both see the same calendar."""
    if seen.role == "primary":
        for one in seen.drills:
            yield Alert(f"drill-overdue-{one['name']}", str(one["says"]), str(one["next"]))


def by_catalogue(alert: Alert) -> bool:
    """Is its reason in the catalogue, or that it can't be read?"""
    known = ("verification", "catalogue-unreadable", "catalogue-damaged")
    return alert.name.startswith("late-") or alert.name in known


def parse(document: object) -> Alert | None:
    """An alert of alerts.json; None for anything else."""
    if not isinstance(document, Mapping):
        return None
    texts = [document.get(key) for key in ("name", "says", "next", "since")]
    return Alert(*map(str, texts)) if all(isinstance(text, str) for text in texts) else None


def merged(before: Sequence[Alert], now: Sequence[Alert], at: str) -> tuple[list[Alert], list[Alert], list[Alert]]:
    """(all with the time since which they hold, those newly raised, those that are over)."""
    known = {alert.name: alert for alert in before}
    current = [
        Alert(alert.name, alert.says, alert.next, known[alert.name].since if alert.name in known else at)
        for alert in now
    ]
    names = {alert.name for alert in now}
    return current, [a for a in current if a.name not in known], [a for a in before if a.name not in names]
