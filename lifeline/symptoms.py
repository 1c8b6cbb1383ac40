"""What a serving primary sees of its own service: does it answer, what do its figures say, are its databases whole?

Looks here, judgement in trouble.py, triggers.py and damage.py. A new role begins with nothing known.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lifeline import damage, loopback, proc, triggers, trouble
from lifeline.damage import Damage
from lifeline.errors import LifelineError
from lifeline.layout import Config
from lifeline.supervisor import Supervisor

SCRAPE_S = 2.0
TAIL_MOST = 256 << 10  # of a log that grew faster between two looks, the newest part is read
FILES_MOST = 32


class Work(Protocol):
    """A verb of this host that runs."""

    def done(self) -> proc.Done | None: ...
    def stop(self) -> None: ...


def start_verb(config: Config, *words: str) -> Work:
    """Start a verb of lifeline-host that gives way to the service."""
    return proc.start([*proc.GENTLE, str(config.layout.bin / "lifeline-host"), *words])


@dataclass
class Tail:
    """Where the reading of a log has come to. What stood there at the first look was written before our time."""

    places: dict[Path, tuple[int, int]] = field(default_factory=dict)  # inode, offset

    def sign(self, files: Iterator[Path]) -> str:
        """What in the new lines points at damage; "" for nothing."""
        first = not self.places
        found = [(damage.sign_in(text), path) for path in files if (text := self._new(path, first))]
        return next((f'"{sign}" in {path.name}' for sign, path in found if sign), "")

    def _new(self, path: Path, first: bool) -> bytes:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return b""
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                return b""
            inode, offset = self.places.get(path, (0, about.st_size if first else 0))
            if path in self.places and (inode != about.st_ino or offset > about.st_size):
                offset = 0  # set aside, and begun anew
            offset = max(offset, about.st_size - TAIL_MOST)
            text = os.pread(handle, TAIL_MOST, offset)
            self.places[path] = (about.st_ino, offset + len(text))
            return text
        except OSError:
            return b""
        finally:
            os.close(handle)


class Symptoms:
    """State and looks. ``verb`` starts a verb of this host; tests put their own."""

    def __init__(
        self,
        config: Config,
        supervisor: Callable[[], Supervisor],
        now: Callable[[], float],
        verb: Callable[..., Work] = start_verb,
    ) -> None:
        self._config, self._supervisor, self._now, self._verb = config, supervisor, now, verb
        self._policy = config.inventory.policy
        self._work: tuple[Work, float] | None = None
        self.forget()

    def forget(self) -> None:
        """This host doesn't serve, or serves another epoch: what was seen is about the past."""
        work, self._work = self._work, None
        if work is not None:
            work[0].stop()
        self.health = trouble.Health()
        self.watches = tuple(triggers.Watch(trigger) for trigger in self._config.service.triggers)
        self.checks = damage.Checks(self._now())
        self._tail = Tail()

    def look(self) -> None:
        """One round, while this host serves."""
        self._look_at_health()
        if self.watches:
            self._scrape()
        if sign := self._tail.sign(self._logs()):
            self.checks = self.checks.pointed(sign)
        self._look_at_data()

    def trouble(self) -> str:
        """What a hand-over would cure, "" for nothing."""
        service, now = self._config.service.name, self._now()
        fired = [(watch, found) for watch in self.watches if (found := watch.judge(now)).fired]
        return trouble.together(
            trouble.of(service, self.health, now, self._policy.service_down_s),
            *(f"{watch.trigger.name}: {found.says}" for watch, found in fired),
        )

    def damage(self) -> Damage | None:
        """What is wrong with the data."""
        return self.checks.found

    def to_json(self) -> dict[str, Any]:
        """For /health: each trigger, and the last check of the data."""
        now, checks = self._now(), self.checks
        judged = [(watch.trigger.name, watch.judge(now)) for watch in self.watches]
        ended = None if checks.ended is None else round(now - checks.ended, 1)
        return {
            "triggers": [{"name": name, "fired": one.fired, "says": one.says} for name, one in judged],
            "data": {"verdict": checks.verdict or None, "says": checks.says, "age_s": ended, "sign": checks.sign},
        }

    def _look_at_health(self) -> None:
        service = self._config.service
        why_not, by_hand = loopback.why_not(service.port, service.health), False
        if why_not:
            with contextlib.suppress(LifelineError):
                state = self._supervisor().states().get(service.name)
                by_hand = state is not None and state.stopped_by_hand
        self.health = trouble.looked(self.health, self._now(), why_not, by_hand)

    def _scrape(self) -> None:
        service, found, why = self._config.service, None, ""
        try:
            status, body = loopback.ask(service.port, str(service.metrics), SCRAPE_S)
            found, why = (triggers.parse(body.decode()), "") if status == 200 else (None, f"HTTP {status}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
        why = why and f"its metrics can't be read ({why})"
        self.watches = tuple(watch.seen(self._now(), found, why) for watch in self.watches)

    def _logs(self) -> Iterator[Path]:
        """What supervisor keeps of service and Litestream, and the service's own that aren't packed."""
        root, count = self._config.layout.root, 0
        for name in (self._config.service.name, "litestream"):
            yield root / "var/log/supervisor" / f"{name}.log"
        for place in self._config.service.logs:
            path = root / str(place).lstrip("/")
            for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                if file.suffix != ".gz" and (count := count + 1) <= FILES_MOST:
                    yield file

    def _look_at_data(self) -> None:
        now = self._now()
        if self._work is None:
            if self.checks.due(now, self._policy.check_every_s):
                with contextlib.suppress(LifelineError):
                    self._work, self.checks = (self._verb(self._config, "verify"), now), self.checks.begun()
            return
        work, begun = self._work
        if (done := work.done()) is None:
            return
        self._work = None
        verdict, says = verdict_of(done)
        self.checks = self.checks.after(now, now - begun, verdict, says, secrets.token_hex(8))


def verdict_of(done: proc.Done) -> tuple[str, str]:
    """What a verb that verifies has found, and says: only damage that it saw is FAIL."""
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {}
    says = str(answer.get("error") or "") or ("" if done.ok else done.reason)
    return ("PASS" if done.ok else "FAIL" if done.code == 8 else "UNKNOWN"), says
