"""An incident: what happened, who knew of it, what was decided and done, in one timeline. Pure.

It is a folder of events, each written once and by one writer: hosts and operators add at the same time, and nobody
waits for a lock or writes over somebody else's words. What an incident *is*, open, acknowledged, closed, follows from
its events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from lifeline.moments import stamp

Kind = Literal["opened", "alert", "over", "decision", "paged", "acknowledged", "note", "joined", "closed"]
KINDS: tuple[str, ...] = get_args(Kind)
ROOT = "incidents/"
QUIET = timedelta(minutes=10)  # when all its alerts have been over for so long, an incident closes itself
REPORT_WITHIN = timedelta(hours=24)  # of its end
LONGEST = 4000  # characters of a text


@dataclass(frozen=True)
class Event:
    """Something that belongs to an incident. ``data``: plain JSON values, no secrets."""

    incident: str
    at: datetime
    who: str
    kind: Kind
    says: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        fixed = {"version": 1, "incident": self.incident, "at": stamp(self.at), "who": self.who, "kind": self.kind}
        return {**fixed, "says": self.says, "data": dict(self.data)}

    def body(self) -> bytes:
        """As it is kept."""
        return json.dumps(self.to_json(), ensure_ascii=False, indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, body: bytes | Mapping[str, Any]) -> Event:
        """ValueError: not an event."""
        try:
            raw = json.loads(body) if isinstance(body, bytes) else body
            at = datetime.fromisoformat(raw["at"])
            if raw["version"] != 1 or raw["kind"] not in KINDS or at.tzinfo is None:
                raise ValueError(f"version {raw['version']!r}, kind {raw['kind']!r}, at {raw['at']!r}")
            texts = (str(raw["who"]), raw["kind"], str(raw["says"])[:LONGEST])
            return cls(str(raw["incident"]), at.astimezone(UTC), *texts, dict(raw["data"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not an event of an incident: {error!r}") from None

    def key(self, service: str, salt: str) -> str:
        """Where it lies, in the vault: by time, then by who; ``salt`` tells two of one millisecond apart."""
        at = f"{self.at.astimezone(UTC):%Y%m%dT%H%M%S}{self.at.microsecond // 1000:03d}Z"
        who = re.sub(r"[^\w.-]", "-", self.who)
        return f"{folder(service)}{self.incident}/{at}-{who}-{self.kind}-{salt}.json"


def tick(at: datetime) -> datetime:
    """To the millisecond, as it is written down: an event that was read back is the same event."""
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def folder(service: str) -> str:
    return f"{ROOT}{service}/"


def new_id(at: datetime, salt: str) -> str:
    """Sorts by time: of two that were opened at once, the older is the one that both go on with."""
    return f"{at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{salt}"


def id_of(key: str, service: str) -> str:
    """The incident that a key belongs to; empty for anything else."""
    found = re.fullmatch(r"(\d{8}T\d{6}Z-[0-9a-f]+)/[^/]+\.json", key.removeprefix(folder(service)))
    return found[1] if found and key.startswith(folder(service)) else ""


def reports_due(keys: Iterable[str], service: str, now: datetime) -> dict[str, datetime]:
    """Incidents that ended 24 hours ago or earlier and have no published report, with when they ended; by what lies in
    their folders alone. One that joined another is told with that one."""
    ended, done = {}, set()
    for key in keys:
        name, _, file = key.removeprefix(folder(service)).partition("/")
        if re.fullmatch(r"report-.*\.md|.*-joined-[0-9a-f]+\.json", file):
            done.add(name)
        elif found := re.fullmatch(r"(\d{8}T\d{6})\d{3}Z-.*-closed-[0-9a-f]+\.json", file):
            ended[name] = datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return {name: at for name, at in sorted(ended.items()) if name not in done and now - at >= REPORT_WITHIN}


@dataclass(frozen=True)
class Incident:
    """An incident as its events tell it. ``raised``: (host, alert) that hold; ``quiet_since``: since when none does."""

    id: str
    events: tuple[Event, ...]
    title: str
    opened_at: datetime
    opened_by: str
    by_alert: bool
    raised: frozenset[tuple[str, str]]
    quiet_since: datetime | None
    paged: frozenset[str]
    acknowledged: Event | None
    closed: Event | None

    @property
    def open(self) -> bool:
        return self.closed is None

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.closed is not None:
            return f"joined {self.closed.data.get('into')}" if self.closed.kind == "joined" else "closed"
        if self.by_alert and self.quiet_since is not None:
            return "recovered"
        return "acknowledged" if self.acknowledged else "open"

    @property
    def needs_a_person(self) -> bool:
        """Did an alert say that nothing goes on by itself?"""
        return any(one.kind == "alert" and one.data.get("needs_person") for one in self.events)


def told(events: Iterable[Event]) -> Incident:
    """The incident of these events, all of one id, in any order. ValueError when there is none."""
    ordered = tuple(sorted(events, key=lambda one: (one.at, KINDS.index(one.kind), one.who)))
    if not ordered:
        raise ValueError("an incident without events")
    first = next((one for one in ordered if one.kind == "opened"), ordered[0])
    raised: set[tuple[str, str]] = set()
    quiet_since: datetime | None = None
    for one in ordered:
        name = (one.who, str(one.data.get("alert")))
        if one.kind == "alert":
            raised, quiet_since = raised | {name}, None
        elif one.kind == "over" and name in raised:
            raised = raised - {name}
            quiet_since = None if raised else one.at
    return Incident(
        id=first.incident,
        events=ordered,
        title=first.says,
        opened_at=first.at,
        opened_by=first.who,
        by_alert=any(one.kind == "alert" for one in ordered),
        raised=frozenset(raised),
        quiet_since=quiet_since,
        paged=frozenset(str(one.data.get("level")) for one in ordered if one.kind == "paged"),
        acknowledged=next((one for one in ordered if one.kind == "acknowledged"), None),
        closed=next((one for one in ordered if one.kind in ("closed", "joined")), None),
    )


def by_incident(events: Iterable[Event]) -> list[Incident]:
    """Every incident of these events, oldest first."""
    groups: dict[str, list[Event]] = {}
    for one in events:
        groups.setdefault(one.incident, []).append(one)
    return [told(groups[name]) for name in sorted(groups)]


def newest_open(found: Iterable[Incident]) -> Incident | None:
    """The one that goes on: of several, the oldest, which the others join."""
    return next((one for one in sorted(found, key=lambda one: one.id) if one.open), None)
