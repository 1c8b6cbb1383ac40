"""`lifeline-keeper`, on every host: runs what is due by the calendar, one thing at a time, and raises alerts.

It decides nothing of who is primary, and holds no key: what is done it asks `lifeline-host` to do, what was done
the catalogue says. It can be killed at any moment: the next one ends what is left of a job, and sees what is missing. A
job runs beside the rounds, so that sentinel and alerts go on meanwhile, and ends with the role it belongs to.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from lifeline import alerts, checkpoints, deadman, forks, logs, proc, roles, room, schedule, sentinel
from lifeline.errors import LifelineError, StepFailed
from lifeline.layout import (
    Config,
    Layout,
    RoleFile,
    load_config,
    read_alerts,
    read_jobs,
    read_json,
    read_role,
    write_file,
)
from lifeline.model import Role
from lifeline.schedule import Attempt

LOOK_S = 2.0
SENTINEL_S = 30.0
CATALOGUE_S = 600.0
SOON_S = 30.0  # while there is an alert that the catalogue can end: somebody may do by hand what is missing
ALERTS_S = 10.0
JOB_S = 6 * 3600.0
RELIEF = timedelta(minutes=15)  # for logs to make room, before a person is told that the disk is full
OTHERS_GRACE = timedelta(hours=2)  # the other host tells what it didn't do itself, if it can
RUNNING, STOPPED = "RUNNING", "STOPPED"  # beside the verdicts of jobs that came to their end
UNLISTED = ("offsite", "prune", "prune-local", "logs", "evidence")  # jobs that leave no entry in the catalogue
log = logging.getLogger("lifeline.keeper")
Clock = Callable[[], datetime]


class Work(Protocol):
    """A verb that runs."""

    def answer(self) -> dict[str, Any] | None:
        """What it said, None while it runs. Raises StepFailed with its own words."""

    def stop(self) -> None:
        """End it, with all that it started."""


@dataclass(frozen=True)
class Running:
    """The job of the moment."""

    due: schedule.Due
    work: Work
    role: RoleFile
    started: datetime
    begun: float


def utc() -> datetime:
    """Now."""
    return datetime.now(UTC)


class Keeper:
    """State and the loop. `now` and `elapsed` are clocks; tests put their own. `ask` runs a verb of lifeline-host and
    waits for it, `start` doesn't."""

    def __init__(
        self,
        config: Callable[[], Config],
        ask: Callable[..., dict[str, Any]],
        start: Callable[[Config, tuple[str, ...]], Work],
        *,
        now: Clock = utc,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._ask, self._start = config, ask, start
        self._now, self._elapsed = now, elapsed
        self._running: Running | None = None
        self._role: RoleFile | None = None
        self._role_since, self._role_at = elapsed(), now()
        self._catalogue: dict[str, Any] = {}
        self._read_at: float | None = None
        self._catalogue_error: str | None = None
        self._troubled = False
        self._next: dict[str, float] = {}
        self._disk_percent: float | None = None
        self._disk_over: datetime | None = None
        self._logs: dict[str, checkpoints.Watched] = {}

    def look(self, config: Config) -> None:
        """One round: role, job, sentinel, catalogue, alerts, and the next job if none runs."""
        role = read_role(config.layout)
        if role != self._role:
            self._role, self._role_since, self._role_at, self._read_at = role, self._elapsed(), self._now(), None
        self._attend(config, role)
        settled = role.role != "none" and self._elapsed() - self._role_since >= config.inventory.backups.settle_s
        if role.role == "primary" and self._time_for("sentinel", SENTINEL_S):
            self._write_sentinel(config)
        if self._time_for("disk", ALERTS_S):
            self._look_at_disk(config)
            self._logs = checkpoints.look(config, self._logs, self._now())
        if settled:
            self._read_catalogue(SOON_S if self._troubled else CATALOGUE_S)
            if self._running is None and (wanted := self._relief(config, role)):
                self._begin(config, wanted, role)
        if self._time_for("alerts", ALERTS_S):
            self._raise_alerts(config, role, settled)
        if settled and self._catalogue_error is None and self._running is None:
            policy, successes = config.inventory.backups, self._successes(config)
            if wanted := schedule.due(role.role, policy, successes, self._attempts(config), self._now()):
                self._begin(config, wanted, role)

    def _time_for(self, what: str, every: float) -> bool:
        if self._elapsed() < self._next.get(what, 0.0):
            return False
        self._next[what] = self._elapsed() + every
        return True

    def _look_at_disk(self, config: Config) -> None:
        """Since when it is above the limit."""
        self._disk_percent = logs.disk_percent(config)
        over = self._disk_percent is not None and self._disk_percent >= config.inventory.thresholds.disk_percent
        self._disk_over = (self._disk_over or self._now()) if over else None

    def _relief(self, config: Config, role: RoleFile) -> schedule.Due | None:
        """Room by the logs, at once when the disk is above the limit."""
        if self._disk_over is None:
            return None
        return schedule.at_once(role.role, "logs", self._disk_over, self._logs_ended(config), self._now())

    def _relief_to_come(self, config: Config) -> bool:
        """Above the limit for so short that the logs were not seen to yet."""
        if (since := self._disk_over) is None:
            return False
        ended = self._logs_ended(config)
        return (ended is None or ended < since) and self._now() - since < RELIEF

    def _logs_ended(self, config: Config) -> datetime | None:
        return _time(read_jobs(config.layout).get("logs", {}).get("ended"))

    def _write_sentinel(self, config: Config) -> None:
        answer = roles.ask_agent(config.layout.agent_socket, "GET", "/lease")
        if answer and answer.get("confirmed"):
            with contextlib.suppress(LifelineError):  # a busy database goes first; a missing sentinel shows by itself
                sentinel.write(config)

    def _read_catalogue(self, every: float) -> None:
        if self._read_at is not None and self._elapsed() - self._read_at < every:
            return
        try:
            self._catalogue, self._catalogue_error = self._ask("catalogue", timeout=60), None
        except LifelineError as error:
            self._catalogue_error = error.message
        self._read_at = self._elapsed()

    def _successes(self, config: Config) -> dict[str, datetime]:
        """As the catalogue has it; of what leaves no entry there, as this host remembers."""
        jobs = {name: job.get("succeeded") for name, job in read_jobs(config.layout).items() if name in UNLISTED}
        noted = self._catalogue.get("successes") or {}
        return {name: at for name, text in {**jobs, **noted}.items() if (at := _time(text))}

    def _attempts(self, config: Config) -> dict[str, Attempt]:
        found = {}
        for name, job in read_jobs(config.layout).items():
            slot, ended = _time(job.get("slot")), _time(job.get("ended"))
            if slot and ended and job.get("verdict") not in (RUNNING, STOPPED):
                found[name] = Attempt(slot, ended, int(job.get("failed") or 0))
        return found

    def _begin(self, config: Config, due: schedule.Due, role: RoleFile) -> None:
        name, started, begun = due.job.name, self._now(), self._elapsed()
        log.info("%s, for %s", name, _stamp(due.slot))
        before = self._attempts(config).get(name)
        failed = before.failed if before and before.slot == due.slot else 0
        note = {"slot": _stamp(due.slot), "started": _stamp(started), "verdict": RUNNING, "failed": failed}
        note_job(config.layout, name, note)
        self._running = Running(due, self._start(config, due.job.verb), role, started, begun)

    def _attend(self, config: Config, role: RoleFile) -> None:
        """See how the job does: it has ended, has run for too long, or is no longer this host's."""
        if (job := self._running) is None:
            return
        name = job.due.job.name
        if role != job.role:
            self.stop(config, f"this host is {role.role} of epoch {role.epoch} by now")
            return
        before = int(read_jobs(config.layout).get(name, {}).get("failed") or 0)
        try:
            if (answer := job.work.answer()) is None:
                if self._elapsed() - job.begun < JOB_S:
                    return
                job.work.stop()
                raise StepFailed(f"it ran longer than {JOB_S / 3600:.0f} hours and was stopped")
            skipped = answer.get("skipped")
            verdict = "SKIPPED" if skipped else str(answer.get("verdict") or "PASS")
            says = str(skipped or answer.get("catalogue") or answer.get("key") or "")
            failed, ended = 0, self._now()
            if verdict == "UNKNOWN":  # in some minutes it may be known: the vault was away, or no backup made yet
                failed, says = before + 1, f"it could not prove everything ({says})"
        except LifelineError as error:
            verdict, says, failed, ended = "FAIL", error.message, before + 1, self._now()
        self._running = None
        seconds = round(self._elapsed() - job.begun, 3)
        note = {"ended": _stamp(ended), "seconds": seconds, "verdict": verdict, "says": says, "failed": failed}
        note_job(config.layout, name, note if failed or verdict == "SKIPPED" else {**note, "succeeded": _stamp(ended)})
        log.log(logging.INFO if verdict in ("PASS", "SKIPPED") else logging.ERROR, "%s: %s %s", name, verdict, says)
        if name not in UNLISTED:
            self._read_at = None

    def stop(self, config: Config, why: str) -> None:
        """End the job that runs, if one does; its slot is run again by whoever has the role."""
        if (job := self._running) is None:
            return
        job.work.stop()
        self._running = None
        note_job(config.layout, job.due.job.name, {"verdict": STOPPED, "says": why})
        log.warning("%s: stopped, %s", job.due.job.name, why)

    def _raise_alerts(self, config: Config, role: RoleFile, settled: bool) -> None:
        seen = self._seen(config, role, settled)
        before = [known for one in read_alerts(config.layout) if (known := alerts.parse(one))]
        current, new, over = alerts.merged(before, alerts.judge(seen), _stamp(self._now()))
        self._troubled = any(alerts.by_catalogue(alert) for alert in current)
        # The agent's herald reads them, and tells people (herald.py).
        for alert in new:
            log.error("alert %s: %s; next: %s", alert.name, alert.says, alert.next)
        for alert in over:
            log.info("alert %s is over", alert.name)
        path = config.layout.state / "alerts.json"
        body = {"alerts": [asdict(alert) for alert in current], "catalogue": self._catalogue or None}
        write_file(path, json.dumps(body), mode=0o644)
        path.touch()  # its age tells whether somebody still looks

    def _seen(self, config: Config, role: RoleFile, settled: bool) -> alerts.Seen:
        layout, late = config.layout, self._late(config, role) if settled else []
        undone = self._undone(config, role)
        jobs = {name: job for name, job in read_jobs(layout).items() if name in undone}
        primary = settled and role.role == "primary"
        agent = roles.ask_agent(layout.agent_socket, "GET", "/status")
        lags = [found.get("lag_s") for found in ((agent or {}).get("databases") or {}).values()] if primary else []
        known = [lag for lag in lags if lag is not None]
        live = layout.live(config.service.databases[0]).parent
        return alerts.Seen(
            role=role.role,
            late=late,
            failed={name: str(job.get("says")) for name, job in jobs.items() if job.get("failed")},
            largest_database=max((_size(path) for path in _copies(config, role)), default=0),
            disk_free=shutil.disk_usage(live).free if live.is_dir() else None,
            disk_percent=self._disk_percent,
            disk_limit=config.inventory.thresholds.disk_percent,
            relief_to_come=settled and self._relief_to_come(config),
            checkpointed=checkpoints.strangers(self._logs, self._now()),
            memory_available=room.memory_available(),
            replica_age_s=max(known, default=None),
            replica_stale_s=config.inventory.policy.max_lag_s,
            replica_unseen=primary and len(known) < len(config.service.databases),
            verification=self._catalogue.get("verification"),
            incomplete=self._catalogue.get("incomplete") or {},
            offsite=self._catalogue.get("offsite"),
            anew=self._catalogue.get("anew") or {},
            damaged=self._catalogue.get("damaged") or (),
            keeper_error=self._catalogue_error if role.role != "none" else None,
            forks=forks.known(layout, config),
            agent=agent,
            unguarded=not deadman.runs(layout.deadman_group),
            drills=self._catalogue.get("drills") or (),
        )

    def _late(self, config: Config, role: RoleFile) -> list[tuple[str, datetime]]:
        """By the catalogue as it was last seen, if ever. The other host's jobs too: it may be what is broken."""
        if not self._catalogue:
            return []
        policy, successes, now = config.inventory.backups, self._successes(config), self._now()
        own = schedule.late(role.role, policy, successes, self._role_at, now)
        other: Role = "standby" if role.role == "primary" else "primary"
        others = schedule.late(other, policy, successes, self._role_at, now, OTHERS_GRACE)
        return [(job.name, slot) for job, slot in [*own, *(one for one in others if one[0].name not in UNLISTED)]]

    def _undone(self, config: Config, role: RoleFile) -> set[str]:
        policy, successes, now = config.inventory.backups, self._successes(config), self._now()
        mine = [job for job in schedule.JOBS if job.role == role.role]
        return {job.name for job in mine if schedule.open_slot(job, policy, successes, now)}

    def forever(self, stop: threading.Event) -> None:
        """Until told to stop."""
        config: Config | None = None
        while not stop.wait(LOOK_S):
            try:
                config = self._config()
                self.look(config)
            except (LifelineError, OSError) as error:
                log.error("%s", error)
        if config:
            self.stop(config, "the keeper was told to end")


def _copies(config: Config, role: RoleFile) -> list[Path]:
    """The databases that this host has, live or following."""
    layout, databases = config.layout, config.service.databases
    return [layout.live(d) for d in databases] + [layout.following(d, role.epoch) for d in databases]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def note_job(layout: Layout, name: str, job: dict[str, Any]) -> None:
    """Keep it, atomically; what was counted of failures stays while it runs."""
    jobs = read_jobs(layout)
    write_file(layout.state / "jobs.json", json.dumps({**jobs, name: {**jobs.get(name, {}), **job}}), mode=0o644)


def ask_host(tool: Path, *words: str, timeout: float) -> dict[str, Any]:
    """A verb of this host, at low priority, and its answer. Raises StepFailed with its own words."""
    return _answer(proc.run([*proc.GENTLE, str(tool), *words], timeout=timeout))


def _answer(done: proc.Done) -> dict[str, Any]:
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {}
    if not done.ok:
        raise StepFailed(str(answer.get("error") or done.reason))
    return dict(answer)


@dataclass(frozen=True)
class HostWork:
    """A verb of this host that runs at low priority."""

    running: proc.Running

    def answer(self) -> dict[str, Any] | None:
        """See Work."""
        done = self.running.done()
        return None if done is None else _answer(done)

    def stop(self) -> None:
        """See Work."""
        self.running.stop()


def start_host(tool: Path, config: Config, words: tuple[str, ...]) -> HostWork:
    """Start a verb, and note its process: a keeper that is killed leaves it to the next one to end."""
    running = proc.start([*proc.GENTLE, str(tool), *words])
    note = {"pid": running.process.pid, "began": proc.began(running.process.pid)}
    write_file(config.layout.run / "job.json", json.dumps(note))
    return HostWork(running)


def end_left_job(layout: Layout) -> bool:
    """End what a killed keeper left running. False: nothing was."""
    note = read_json(layout.run / "job.json") or {}
    pid, begun = note.get("pid"), note.get("began")
    return isinstance(pid, int) and isinstance(begun, str) and proc.end_orphans(pid, begun)


def _time(text: object) -> datetime | None:
    """A time as the catalogue and jobs.json have them; None for anything else."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else None


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def main() -> int:
    """Console script `lifeline-keeper`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    layout, stop = Layout(), threading.Event()
    tool = layout.bin / "lifeline-host"
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if end_left_job(layout):
        log.warning("a job of the keeper before was still running: it was ended, and is run again")
    keeper = Keeper(
        lambda: load_config(layout),
        lambda *words, timeout: ask_host(tool, *words, timeout=timeout),
        lambda config, words: start_host(tool, config, words),
    )
    keeper.forever(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
