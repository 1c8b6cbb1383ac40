"""`lifeline-keeper`, on every host: runs what is due by the calendar, one thing at a time, and raises alerts.

It decides nothing of who is primary, and holds no key: what is done it asks `lifeline-host` to do, what was done
the catalogue says. It can be killed at any moment; the next one sees what is missing.
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
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lifeline import alerts, proc, roles, schedule, sentinel
from lifeline.errors import LifelineError, StepFailed
from lifeline.layout import Config, Layout, RoleFile, load_config, read_alerts, read_jobs, read_role, write_file
from lifeline.schedule import Attempt

LOOK_S = 2.0
SENTINEL_S = 30.0
CATALOGUE_S = 600.0
ALERTS_S = 10.0
SETTLE_S = 120.0  # after a role was taken: a failover has other things to do
JOB_S = 6 * 3600.0
GENTLE = ("nice", "-n", "10", "ionice", "-c", "3")
UNLISTED = ("offsite", "prune")  # jobs that leave no entry in the catalogue
log = logging.getLogger("lifeline.keeper")
Clock = Callable[[], datetime]


def utc() -> datetime:
    """Now."""
    return datetime.now(UTC)


class Keeper:
    """State and the loop. `now` and `elapsed` are clocks; tests put their own. `ask` runs lifeline-host."""

    def __init__(
        self,
        config: Callable[[], Config],
        ask: Callable[..., dict[str, Any]],
        *,
        now: Clock = utc,
        elapsed: Callable[[], float] = time.monotonic,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._config, self._ask, self._now, self._elapsed, self._settle_s = config, ask, now, elapsed, settle_s
        self._role: RoleFile | None = None
        self._role_since, self._role_at = elapsed(), now()
        self._catalogue: dict[str, Any] = {}
        self._read_at: float | None = None
        self._catalogue_error: str | None = None
        self._next: dict[str, float] = {}

    def look(self, config: Config) -> None:
        """One round: role, catalogue, sentinel, alerts, and at most one job."""
        role = read_role(config.layout)
        if role != self._role:
            self._role, self._role_since, self._role_at, self._read_at = role, self._elapsed(), self._now(), None
        if role.role == "none":
            return
        settled = self._elapsed() - self._role_since >= self._settle_s
        if role.role == "primary" and self._time_for("sentinel", SENTINEL_S):
            self._write_sentinel(config)
        if settled:
            self._read_catalogue()
        if self._time_for("alerts", ALERTS_S):
            self._raise_alerts(config, role)
        if settled and self._catalogue_error is None:
            wanted = schedule.due(
                role.role, config.inventory.backups, self._successes(config), self._attempts(config), self._now()
            )
            if wanted:
                self._run(config, wanted)
                if wanted.job.name not in UNLISTED:
                    self._read_at = None

    def _time_for(self, what: str, every: float) -> bool:
        if self._elapsed() < self._next.get(what, 0.0):
            return False
        self._next[what] = self._elapsed() + every
        return True

    def _write_sentinel(self, config: Config) -> None:
        answer = roles.ask_agent(config.layout.agent_socket, "GET", "/lease")
        if answer and answer.get("confirmed"):
            with contextlib.suppress(LifelineError):  # a busy database goes first; a missing sentinel shows by itself
                sentinel.write(config)

    def _read_catalogue(self) -> None:
        if self._read_at is not None and self._elapsed() - self._read_at < CATALOGUE_S:
            return
        try:
            self._catalogue, self._catalogue_error = self._ask("catalogue", timeout=60), None
            self._read_at = self._elapsed()
        except LifelineError as error:
            self._catalogue_error = error.message
            self._read_at = self._elapsed() - CATALOGUE_S + 60  # again in a minute

    def _successes(self, config: Config) -> dict[str, datetime]:
        """As the catalogue has it; of what leaves no entry there, as this host remembers."""
        jobs = {name: str(job["ended"]) for name, job in read_jobs(config.layout).items() if _own_success(name, job)}
        noted = self._catalogue.get("successes") or {}
        return {name: datetime.fromisoformat(at) for name, at in {**jobs, **noted}.items() if at}

    def _attempts(self, config: Config) -> dict[str, Attempt]:
        found = {}
        for name, job in read_jobs(config.layout).items():
            with contextlib.suppress(KeyError, TypeError, ValueError):
                found[name] = Attempt(_time(job["slot"]), _time(job["ended"]), int(job.get("failed") or 0))
        return found

    def _run(self, config: Config, wanted: schedule.Due) -> None:
        name, begun, started = wanted.job.name, self._elapsed(), self._now()
        log.info("%s, for %s", name, _stamp(wanted.slot))
        note_job(config.layout, name, {"slot": _stamp(wanted.slot), "started": _stamp(started), "verdict": "RUNNING"})
        before = self._attempts(config).get(name)
        try:
            answer = self._ask(*wanted.job.verb, timeout=JOB_S)
            verdict, says = str(answer.get("verdict") or "PASS"), str(answer.get("skipped") or answer.get("key") or "")
            failed = 0
        except LifelineError as error:
            verdict, says = "FAIL", error.message
            failed = (before.failed if before and before.slot == wanted.slot else 0) + 1
        note = {
            **{"slot": _stamp(wanted.slot), "started": _stamp(started), "ended": _stamp(self._now())},
            **{"seconds": round(self._elapsed() - begun, 3), "verdict": verdict, "says": says, "failed": failed},
        }
        note_job(config.layout, name, note)
        log.log(logging.INFO if verdict == "PASS" else logging.ERROR, "%s: %s %s", name, verdict, says)

    def _raise_alerts(self, config: Config, role: RoleFile) -> None:
        seen = self._seen(config, role)
        before = [alerts.Alert(**one) for one in read_alerts(config.layout)]
        current, new, over = alerts.merged(before, alerts.judge(seen), _stamp(self._now()))
        for alert in new:
            log.error("alert %s: %s; next: %s", alert.name, alert.says, alert.next)
        for alert in over:
            log.info("alert %s is over", alert.name)
        body = json.dumps({"alerts": [asdict(alert) for alert in current]})
        write_file(config.layout.state / "alerts.json", body, mode=0o644)

    def _seen(self, config: Config, role: RoleFile) -> alerts.Seen:
        policy, layout = config.inventory.backups, config.layout
        known = self._read_at is not None and self._catalogue_error is None
        successes, now = self._successes(config), self._now()
        undone = {job.name for job in schedule.JOBS if schedule.open_slot(job, policy, successes, now)}
        late = schedule.late(role.role, policy, successes, self._role_at, now) if known else []
        live = [layout.live(d) for d in config.service.databases]
        jobs = read_jobs(layout).items()
        agent = roles.ask_agent(layout.agent_socket, "GET", "/status") or {}
        lags = [found.get("lag_s") for found in (agent.get("databases") or {}).values()]
        return alerts.Seen(
            role=role.role,
            late=[(job.name, slot) for job, slot in late],
            failed={name: str(job.get("says")) for name, job in jobs if job.get("failed") and name in undone},
            largest_database=max((path.stat().st_size for path in live if path.exists()), default=0),
            disk_free=shutil.disk_usage(layout.state).free,
            memory_available=memory_available(),
            replica_age_s=max((lag for lag in lags if lag is not None), default=None),
            verification=self._catalogue.get("verification"),
            keeper_error=self._catalogue_error,
        )

    def forever(self, stop: threading.Event) -> None:
        """Until told to stop."""
        while not stop.wait(LOOK_S):
            try:
                self.look(self._config())
            except (LifelineError, OSError) as error:
                log.error("%s", error)


def note_job(layout: Layout, name: str, job: dict[str, Any]) -> None:
    """Keep it, atomically; what was counted of failures stays while it runs."""
    jobs = read_jobs(layout)
    write_file(layout.state / "jobs.json", json.dumps({**jobs, name: {**jobs.get(name, {}), **job}}), mode=0o644)


def memory_available(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that can be had without swapping; None where the kernel doesn't say."""
    for line in meminfo.read_text().splitlines() if meminfo.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def ask_host(tool: Path, *words: str, timeout: float) -> dict[str, Any]:
    """A verb of this host, at low priority. Raises StepFailed with its own words."""
    done = proc.run([*GENTLE, str(tool), *words], timeout=timeout)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {}
    if not done.ok:
        raise StepFailed(str(answer.get("error") or done.reason))
    return dict(answer)


def _own_success(name: str, job: dict[str, Any]) -> bool:
    return name in UNLISTED and bool(job.get("ended")) and not job.get("failed")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def main() -> int:
    """Console script `lifeline-keeper`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    layout, stop = Layout(), threading.Event()
    tool = layout.bin / "lifeline-host"
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # a job that runs is supervisor's to end, with our group
    keeper = Keeper(lambda: load_config(layout), lambda *words, timeout: ask_host(tool, *words, timeout=timeout))
    keeper.forever(stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
