"""What a host tells whom about its alerts: the ladder, and the incident that it opens. Pure: seen and remembered in,
events and messages out.

Two kinds of alerts. One that *pages* opens an incident, and calls people level by level until somebody acknowledges, it
is over, or it is closed. Any other is told once when it is raised and once when it is over.

Level 1 is what the hosts do by themselves: nobody is called for the first minutes. An alert that says that nothing goes
on without a person skips it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from lifeline import incidents
from lifeline.alerts import Alert
from lifeline.contacts import LEVELS, TITLES, Contacts
from lifeline.incidents import QUIET, Event, Incident, Kind
from lifeline.moments import stamp

# Data is in danger, or the service is down or soon will be. By the beginning of their names.
PAGES = (
    *("agent-silent", "failsafe", "failover-", "switchover-wanted", "data-damaged", "replica-stale", "replica-unseen"),
    *("disk-critical", "unguarded", "fork-", "offsite-hole", "keeper-silent", "recovery-under-way"),
)
# Nothing that was begun by itself will end these.
NEEDS_A_PERSON = ("failover-", "switchover-wanted", "data-damaged", "disk-critical")
RECOVERS = ("promote", "resume", "hand-over")  # acts of the autopilot that are an incident of themselves
ENDED = 20  # incidents to remember as over
SHOWN = 12  # lines of each part of a message


@dataclass(frozen=True)
class Outgoing:
    """A message for one way out (``channel`` of Contacts.channels)."""

    channel: str
    message: Mapping[str, Any]


@dataclass(frozen=True)
class Memory:
    """What a host remembers from one look to the next; it survives a restart.

    ``events``: of the incident it is in; ``passed_on``: what was told of that. ``told``: alerts that were told without
    an incident, with their words. ``ended``: incidents that are over, whatever the vault still says; ``settled``:
    alerts that held when theirs was closed, and open no other until they were over. ``act``: the autopilot's last.
    """

    events: tuple[Event, ...] = ()
    told: Mapping[str, str] = field(default_factory=dict)
    passed_on: frozenset[str] = frozenset()
    ended: tuple[str, ...] = ()
    settled: frozenset[str] = frozenset()
    act: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "events": [one.to_json() for one in self.events],
            **{"told": dict(self.told), "passed_on": sorted(self.passed_on), "ended": list(self.ended)},
            **{"settled": sorted(self.settled), "act": self.act},
        }

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None) -> Memory:
        """Nothing remembered where the note is damaged: better told twice than not at all."""
        try:
            if raw is None:
                return cls()
            events = tuple(Event.parse(one) for one in raw["events"])
            names = frozenset(raw["passed_on"]), tuple(raw["ended"]), frozenset(raw["settled"])
            return cls(events, dict(raw["told"]), *names, str(raw["act"]))
        except (KeyError, TypeError, ValueError):
            return cls()


@dataclass(frozen=True)
class Seen:
    """One look. ``decision``: what the autopilot does, and why. ``shared``: the events of recent incidents as the vault
    has them. ``acknowledged_by``: whom the pager names; ``salt``: for a new incident's id."""

    host: str
    stack: str
    service: str
    at: datetime
    alerts: Sequence[Alert]
    decision: tuple[str, str] = ("", "")
    shared: Sequence[Event] = ()
    acknowledged_by: str = ""
    salt: str = "000000"


@dataclass(frozen=True)
class Told:
    """What comes of a look: what to remember, events to record, messages to send."""

    memory: Memory
    events: tuple[Event, ...] = ()
    messages: tuple[Outgoing, ...] = ()


def pages(alert: Alert) -> bool:
    """Does it open an incident?"""
    return alert.name.startswith(PAGES)


def due(incident: Incident, contacts: Contacts, now: datetime) -> list[str]:
    """Whom to call now: levels whose time has come and that nobody called yet."""
    if not incident.open or incident.acknowledged or not incident.raised:
        return []
    waited = (now - incident.opened_at).total_seconds()
    found = []
    for level in LEVELS:
        after = 0.0 if level == "on-call" and incident.needs_a_person else contacts.after_s[level]
        if waited >= after and level not in incident.paged:
            found.append(level)
    return found


def look(memory: Memory, seen: Seen, contacts: Contacts) -> Told:
    """One look at everything."""
    return _Look(memory, seen, contacts).all()


class _Look:
    """One look, gathering events and messages."""

    def __init__(self, memory: Memory, seen: Seen, contacts: Contacts) -> None:
        self.memory, self.seen, self.contacts = memory, seen, contacts
        self.events: list[Event] = []
        self.messages: list[Outgoing] = []
        self.passed_on = set(memory.passed_on)
        self.known = list(memory.events)
        self.ended = list(memory.ended)

    def all(self) -> Told:
        incident = self._which()
        paging = [alert for alert in (*self.seen.alerts, *self._under_way()) if pages(alert)]
        settled = self.memory.settled & {alert.name for alert in paging}
        paging = [alert for alert in paging if alert.name not in settled]
        if incident is None and paging:
            incident = self._open(paging[0])
        if incident is not None:
            self._record(incident.id, paging)
            self._call(incident.id)
            self._pass_on(incident.id)
        told = self._tell([alert for alert in self.seen.alerts if not pages(alert)])
        act = self.seen.decision[0]
        if incident is not None and not self._now(incident.id).open:
            settled |= {alert.name for alert in paging}
            ended = (*self.ended, incident.id)[-ENDED:]
            return self._told(Memory((), told, frozenset(), ended, settled, act))
        return self._told(
            Memory(tuple(self.known), told, frozenset(self.passed_on), tuple(self.ended[-ENDED:]), settled, act)
        )

    def _told(self, memory: Memory) -> Told:
        return Told(memory, tuple(self.events), tuple(self.messages))

    def _under_way(self) -> list[Alert]:
        """A recovery that the hosts began by themselves: people are called if it isn't over soon."""
        act, reason = self.seen.decision
        if act not in RECOVERS:
            return []
        return [Alert("recovery-under-way", f"{act}: {reason}", "fab status --watch", stamp(self.seen.at))]

    def _now(self, name: str) -> Incident:
        return incidents.told(one for one in self.known if one.incident == name)

    def _which(self) -> Incident | None:
        """The incident this host is in: its own, or an older one that somebody else opened, which it then joins."""
        recent = incidents.by_incident(self.seen.shared)
        shared = [one for one in recent if one.open and one.id not in self.ended]
        if not self.known:
            found = next(iter(shared), None)
            self.known = list(found.events) if found else []
            return found
        name = self.known[0].incident
        mine = {(one.at, one.who, one.kind, one.says): one for one in self.known}
        theirs = {(one.at, one.who, one.kind, one.says): one for one in self.seen.shared if one.incident == name}
        self.known = list({**mine, **theirs}.values())
        incident = self._now(name)
        older = next((one for one in shared if one.id < name), None)
        if older is None or not incident.open:
            return incident
        self._add(name, "joined", f"goes on as {older.id}", into=older.id)
        self._pass_on(name)
        self.ended.append(name)
        self.known, self.passed_on = list(older.events), set()
        return older

    def _open(self, first: Alert) -> Incident:
        name = incidents.new_id(self.seen.at, self.seen.salt)
        self._add(name, "opened", first.says)
        return self._now(name)

    def _add(self, name: str, kind: Kind, says: str = "", who: str = "", **data: Any) -> None:
        event = Event(name, self.seen.at, who or self.seen.host, kind, says, data)
        self.known.append(event)
        self.events.append(event)

    def _record(self, name: str, paging: Sequence[Alert]) -> None:
        """Alerts raised and over, decisions, an acknowledgement, and the end of it."""
        incident = self._now(name)
        if not incident.open:
            return
        mine = {alert for host, alert in incident.raised if host == self.seen.host}
        for alert in paging:
            if alert.name not in mine:
                person = alert.name.startswith(NEEDS_A_PERSON)
                data: dict[str, Any] = {
                    "alert": alert.name,
                    "next": alert.next,
                    "since": alert.since,
                    "needs_person": person,
                }
                self._add(name, "alert", alert.says, **data)
        for gone in sorted(mine - {alert.name for alert in paging}):
            self._add(name, "over", alert=gone)
        act, reason = self.seen.decision
        if act and act != self.memory.act:  # a reason counts seconds: only what is done otherwise is a decision
            self._add(name, "decision", f"{act}: {reason}")
        if self.seen.acknowledged_by and incident.acknowledged is None:
            self._add(name, "acknowledged", who=self.seen.acknowledged_by)
        incident = self._now(name)
        if incident.by_alert and incident.quiet_since and self.seen.at - incident.quiet_since >= QUIET:
            minutes = QUIET // timedelta(minutes=1)
            self._add(name, "closed", f"all its alerts have been over for {minutes} minutes")

    def _call(self, name: str) -> None:
        for level in due(self._now(name), self.contacts, self.seen.at):
            self._add(name, "paged", TITLES[level], level=level)

    # -- messages

    def _pass_on(self, name: str) -> None:
        """Each thing of the incident that a way out has to hear, once; as it was left by this host or another."""
        incident = self._now(name)
        for level in LEVELS:
            # The pager hears it from both hosts: one of them may be gone, and it knows what it has heard already.
            if level in incident.paged and incident.open:
                self._once(f"page-{level}", [f"pagerduty-{level}"], incident, "trigger", level)
                if self._paged_by_me(incident, level):
                    self._once(f"mail-{level}", ["email"], incident, "trigger", level)
        called = [level for level in LEVELS if level in incident.paged]
        pagers = [f"pagerduty-{level}" for level in called]
        if incident.acknowledged and incident.open:
            self._once("acknowledged", [*pagers, "webhook"], incident, "acknowledge")
        if not incident.open:
            self._once("closed", [*pagers, "webhook"], incident, "resolve")
            # What was over before anybody was called is told all the same, in the morning's mail.
            for level in (called or ["on-call"]) if self._closed_by_me(incident) else ():
                self._once(f"closed-{level}", ["email"], incident, "resolve", level)
        elif any(one.kind in ("opened", "alert", "over", "decision", "paged") for one in self.events):
            self._send(["webhook"], incident, "trigger", None)

    def _closed_by_me(self, incident: Incident) -> bool:
        return incident.closed is not None and (incident.closed.who, incident.closed.kind) == (self.seen.host, "closed")

    def _paged_by_me(self, incident: Incident, level: str) -> bool:
        own = (one for one in incident.events if one.kind == "paged" and one.who == self.seen.host)
        return any(one.data.get("level") == level for one in own)

    def _once(
        self, what: str, channels: Iterable[str], incident: Incident, action: str, level: str | None = None
    ) -> None:
        if what not in self.passed_on:
            self.passed_on.add(what)
            self._send(channels, incident, action, level)

    def _send(self, channels: Iterable[str], incident: Incident, action: str, level: str | None) -> None:
        """What happened, what was done, what is needed."""
        raised = [
            one for one in incident.events if one.kind == "alert" and (one.who, one.data["alert"]) in incident.raised
        ]
        done = [one.says for one in incident.events if one.kind == "decision"]
        needed = list(dict.fromkeys(str(one.data.get("next")) for one in raised))
        ack = ["fab incident ack, or acknowledge it here: then nobody further up is called"]
        latest = raised[-1].says if raised else incident.title
        over = incident.closed.says if incident.closed else ""
        message = {
            **self._frame(action, dedup(self.seen.stack, incident.id), "incident", level),
            "summary": f"{self.seen.service} ({self.seen.stack}): {over or latest}",
            "severity": "critical",
            "happened": [f"{one.at:%H:%M:%S} {one.who}: {one.says}" for one in incident.events if one.kind == "alert"][
                -SHOWN:
            ],
            "done": (done or ["nothing that was decided here"])[-SHOWN:],
            "needed": [*needed[-SHOWN:], *ack] if action == "trigger" else needed[-SHOWN:],
            "incident": incident.id,
            "state": incident.state,
        }
        self._out(channels, message)

    def _frame(self, action: str, key: str, kind: str, level: str | None) -> dict[str, Any]:
        fixed = {"version": 1, "action": action, "dedup": key, "kind": kind, "level": level, "at": stamp(self.seen.at)}
        return {**fixed, "source": self.seen.host, "stack": self.seen.stack, "service": self.seen.service}

    def _out(self, channels: Iterable[str], message: Mapping[str, Any]) -> None:
        there = self.contacts.channels
        self.messages += [Outgoing(channel, message) for channel in channels if channel in there]

    def _tell(self, quiet: Sequence[Alert]) -> dict[str, str]:
        """Alerts that call nobody out of bed: each told once, and once when it is over."""
        now = {alert.name: alert for alert in quiet}
        for name, alert in now.items():
            if name not in self.memory.told:
                self._quietly("trigger", alert)
        for name, says in self.memory.told.items():
            if name not in now:
                self._quietly("resolve", Alert(name, says, ""))
        return {name: alert.says for name, alert in now.items()}

    def _quietly(self, action: str, alert: Alert) -> None:
        message = {
            **self._frame(action, f"lifeline/{self.seen.stack}/{self.seen.host}/{alert.name}", "alert", None),
            "summary": f"{self.seen.service} ({self.seen.stack}), {self.seen.host}: {alert.says}",
            "severity": "warning",
            **{"happened": [alert.says], "done": [], "needed": [alert.next] if alert.next else []},
            "alert": alert.name,
        }
        self._out(["pagerduty-on-call", "webhook", "email"], message)


def dedup(stack: str, incident: str) -> str:
    """What makes it one alert at the pager, whoever sends it and how often."""
    return f"lifeline/{stack}/{incident}"
