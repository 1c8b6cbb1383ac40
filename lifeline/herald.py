"""The agent's herald: looks at the alerts, decides (escalation.py), records and sends.

It stands beside the agent's own threads and none of them waits for it: a provider, a mail server or a vault that hangs
holds up one thread that does nothing else. What goes wrong here is logged, and never ends the agent.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

from lifeline import alerts, delivery, escalation, incidents
from lifeline.alerts import Alert
from lifeline.contacts import LEVELS
from lifeline.errors import LifelineError
from lifeline.escalation import Memory, Seen
from lifeline.incidents import Event
from lifeline.layout import Config, read_json, write_file
from lifeline.model import ALERTS_STALE_S
from lifeline.outbox import Message, Queue, Sent

LOOK_S = 2.0
SHARED_S, PAGER_S = 15.0, 15.0
RECENT = timedelta(days=7)  # incidents that began before are known here, or nobody's any more
UNDELIVERED_S = 300.0
RECORDS = "vault"
log = logging.getLogger("lifeline.herald")


class Vault(Protocol):
    """What it takes of the vault; see host_stores.HostVault."""

    def keys(self, prefix: str, after: str = "") -> Iterable[str]: ...
    def read(self, key: str) -> bytes | None: ...
    def write(self, key: str, body: bytes) -> None: ...


class Herald:
    """State, queues and threads. ``decision``: what the autopilot does, and why; ``healthy``: is the agent at work?"""

    def __init__(
        self,
        config: Config,
        vault: Vault,
        decision: Callable[[], tuple[str, str]],
        healthy: Callable[[], bool],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.config, self._vault, self._decision, self._healthy, self._now = config, vault, decision, healthy, now
        self.contacts = config.inventory.contacts
        folder = config.layout.state / "outbox"
        self.queues = {name: Queue(folder / name, partial(self._send, name)) for name in self.contacts.channels}
        self.queues[RECORDS] = Queue(folder / RECORDS, self._keep)
        self._note = config.layout.state / "herald.json"
        self.memory = Memory.parse(read_json(self._note))
        self._shared: dict[str, Event] = {}
        self._acknowledged = ("", "")
        self._beaten: dict[str, Any] = {}
        self._status: Mapping[str, Any] = {}
        self._started = time.monotonic()
        self._stop = threading.Event()

    # -- the look

    def look(self) -> None:
        """Once: what is so, what follows, kept on the disk before any of it is sent."""
        inventory, config = self.config.inventory, self.config
        incident = self.memory.events[0].incident if self.memory.events else ""
        by = self._acknowledged[1] if self._acknowledged[0] == incident else ""
        seen = Seen(
            *(config.name, inventory.stack, config.service.name, incidents.tick(self._now()), self.alerts()),
            *(self._decision(), tuple(self._shared.values()), by, secrets.token_hex(3)),
        )
        told = escalation.look(self.memory, seen, self.contacts)
        for event in told.events:
            log.warning("incident %s: %s %s", event.incident, event.kind, event.says)
            key = event.key(config.service.name, secrets.token_hex(2))
            self.queues[RECORDS].put({"key": key, "event": event.to_json()})
        for one in told.messages:
            self.queues[one.channel].put(one.message)
        if told.memory != self.memory:
            write_file(self._note, json.dumps(told.memory.to_json()))
            self.memory = told.memory
        self._status = self._report()

    def alerts(self) -> list[Alert]:
        """The keeper's, as it left them; that nobody leaves any; and that the ways out don't lead there."""
        path = self.config.layout.state / "alerts.json"
        body = read_json(path) or {}
        found = [one for raw in body.get("alerts") or () if (one := alerts.parse(raw))]
        with contextlib.suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if age < ALERTS_STALE_S:
                return [*found, *self._undelivered()]
        if time.monotonic() - self._started < ALERTS_STALE_S:
            return [*found, *self._undelivered()]  # both have just begun
        says = "the keeper doesn't look: no backup, no verification and no alert comes from this host"
        silent = Alert("keeper-silent", says, "on that host: supervisorctl status lifeline-keeper; fab provision")
        return [*found, silent, *self._undelivered()]

    def _undelivered(self) -> list[Alert]:
        found = []
        for name, queue in self.queues.items():
            status = queue.status()
            if status["oldest_s"] is not None and status["oldest_s"] > UNDELIVERED_S:
                says = f"{status['waiting']} messages have waited for {name}, the first for {status['oldest_s']:.0f} s"
                says = f"{says}: {status['problem']}"
                found.append(Alert(f"undelivered-{name}", says, "is it up, and reachable from this host?"))
            elif status["refused"]:
                says = f"{name} refused a message: {status['refused']}"
                found.append(Alert(f"refused-{name}", says, "pulumi config, lifeline:alerting; then fab provision"))
        return found

    # -- what others write

    def read_shared(self) -> None:
        """Recent incidents as the vault has them; what was read once is not read again. Where nobody is to be called,
        only while there is one: an agent of a primary that needs no vault opens none."""
        if not self.contacts.channels and not self.memory.events:
            return
        service = self.config.service.name
        folder = incidents.folder(service)
        after = f"{folder}{self._now() - RECENT:%Y%m%dT%H%M%SZ}"
        keys = [key for key in self._vault.keys(folder, after) if incidents.id_of(key, service)]
        shared = {key: event for key, event in self._shared.items() if key in set(keys)}
        for key in keys:
            if key not in shared and (body := self._vault.read(key)) is not None:
                with contextlib.suppress(ValueError):
                    shared[key] = Event.parse(body)
        self._shared = shared

    def ask_pager(self) -> None:
        """Whether somebody acknowledged it there."""
        pagerduty = self.contacts.pagerduty
        if pagerduty is None or not self.memory.events:
            return
        incident = incidents.told(self.memory.events)
        if incident.paged and incident.acknowledged is None:
            key = escalation.dedup(self.config.inventory.stack, incident.id)
            if by := delivery.acknowledged_at_pagerduty(pagerduty, key):
                self._acknowledged = (incident.id, by)

    def beat(self) -> None:
        """To the monitor outside, while agent and keeper are at work: what it doesn't hear is its alert."""
        if (heartbeat := self.contacts.heartbeat) is None or not self._healthy() or not self._watched():
            return
        self._beaten = {"at": time.time(), "problem": delivery.beat(heartbeat.url, self.config.name) or None}

    def _watched(self) -> bool:
        with contextlib.suppress(OSError):
            return time.time() - (self.config.layout.state / "alerts.json").stat().st_mtime < ALERTS_STALE_S
        return False

    # -- sending

    def _send(self, channel: str, message: Message) -> Sent:
        contacts = self.contacts
        if channel == "webhook" and contacts.webhook:
            return delivery.to_webhook(contacts.webhook, message)
        if channel == "email" and contacts.email:
            return delivery.by_email(contacts.email, message)
        level = channel.removeprefix("pagerduty-")
        if contacts.pagerduty and level in LEVELS:
            return delivery.to_pagerduty(contacts.pagerduty, level, message)
        return Sent(False, f"there is no way {channel} any more")

    def _keep(self, message: Message) -> Sent:
        """An event into the vault."""
        try:
            self._vault.write(str(message["key"]), Event.parse(message["event"]).body())
        except LifelineError as error:
            return Sent(False, error.message, 0.0)
        except ValueError as error:
            return Sent(False, str(error))
        return Sent(True)

    # -- threads

    def start(self) -> None:
        """Each does one thing; none is waited for."""
        for queue in self.queues.values():
            queue.start()
        jobs: list[tuple[Callable[[], None], float]] = [(self.look, LOOK_S), (self.read_shared, SHARED_S)]
        if self.contacts.pagerduty:
            jobs.append((self.ask_pager, PAGER_S))
        if self.contacts.heartbeat:
            jobs.append((self.beat, self.contacts.heartbeat.every_s))
        for job, every in jobs:
            threading.Thread(
                target=self._forever, args=(job, every), daemon=True, name=f"herald-{job.__name__}"
            ).start()

    def stop(self) -> None:
        self._stop.set()
        for queue in self.queues.values():
            queue.stop()

    def _forever(self, job: Callable[[], None], every: float) -> None:
        while not self._stop.is_set():
            try:
                job()
            except LifelineError as error:
                log.warning("%s: %s", job.__name__, error.message)
            except Exception:  # whatever it is, recovery goes on without us
                log.exception("%s failed", job.__name__)
            self._stop.wait(every)

    def status(self) -> Mapping[str, Any]:
        """As of the last look: for whoever asks the agent, without I/O."""
        return {**self._status, "heartbeat": self._beaten or None}

    def _report(self) -> Mapping[str, Any]:
        incident = incidents.told(self.memory.events) if self.memory.events else None
        return {
            "incident": incident.id if incident else None,
            "state": incident.state if incident else None,
            "queues": {name: queue.status() for name, queue in self.queues.items()},
        }
