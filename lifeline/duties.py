"""Which drills are to be held how often, and what is due. Pure: past drills in, standings and a calendar file out.

A duty is served by a drill of one of its scenarios that ended in PASS, and by nothing else: a drill that failed, or
proved nothing, leaves it as due as before.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

AHEAD = timedelta(minutes=5)  # how far clocks may differ; what was held later than that wasn't
State = Literal["held", "due", "overdue", "never"]


@dataclass(frozen=True)
class Duty:
    """Something to be rehearsed every so many months; any one of its scenarios serves it. ``due_days``: it is told as
    due so long before."""

    name: str
    title: str
    months: int
    scenarios: tuple[str, ...]
    due_days: int = 7


PRODUCTION = "production-switchover"  # fab drill --production
ISOLATED = "isolated-copy"  # fab drill --isolated

CALENDAR = (
    Duty("restart", "Service restart", 1, ("service-restart", "memory-leak")),
    Duty("failover", "Failover", 1, ("complete-failure", "network-partition", "manual-failover", PRODUCTION, ISOLATED)),
    # The copy comes of the stack's own vault, on hosts that were not there before.
    Duty("recovery", "Full disaster recovery", 3, ("rebuild", ISOLATED), 14),
    Duty("rebuild", "Complete infrastructure rebuild", 12, ("rebuild",), 30),
)


@dataclass(frozen=True)
class Held:
    """A drill that was held: what its report says of it. Seconds; None: not known."""

    scenario: str
    at: datetime
    verdict: str
    name: str = ""
    rto_s: float | None = None
    rpo_s: float | None = None
    rto_target_s: float | None = None
    rto_max_s: float | None = None
    rpo_target_s: float | None = None
    rpo_max_s: float | None = None
    lost: int | None = None
    title: str = ""


def of_report(document: Mapping[str, Any], name: str = "") -> Held:
    """Out of a report.json (docs/design.md). ValueError: it is none."""
    try:
        at = datetime.fromisoformat(document["started"])
        if at.tzinfo is None:
            raise ValueError("started has no time zone")
        rto, rpo, ledger = document["rto"], document["rpo"], document.get("ledger") or {}
        return Held(
            str(document["scenario"]),
            *(at.astimezone(UTC), str(document["verdict"]), name),
            *(_number(rto.get("measured_s")), _number(rpo.get("measured_s"))),
            *(_number(rto.get("target_s")), _number(rto.get("max_s"))),
            *(_number(rpo.get("target_s")), _number(rpo.get("max_s"))),
            ledger.get("lost"),
            str(document.get("title") or document["scenario"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a drill's report: {error!r}") from None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Standing:
    """A duty as it stands. ``last``: when it was last served; ``due_at``: by when it has to be again."""

    duty: Duty
    state: State
    last: datetime | None
    due_at: datetime | None

    @property
    def says(self) -> str:
        """In words, for people and alerts."""
        served = f"last passed {self.last:%Y-%m-%d}" if self.last else "never passed"
        by = f"{self.due_at:%Y-%m-%d}" if self.due_at else ""
        return {
            "held": f"{served}; due again by {by}",
            "due": f"{served}; due by {by}",
            "overdue": f"{served}; OVERDUE since {by}",
            "never": f"{served}; due now",
        }[self.state]

    @property
    def command(self) -> str:
        return f"fab drill --scenario {self.duty.scenarios[0]}"


def months_later(moment: datetime, months: int) -> datetime:
    """The same day so many months later, or the last one of a shorter month."""
    years, month = divmod(moment.month - 1 + months, 12)
    year = moment.year + years
    return moment.replace(year=year, month=month + 1, day=min(moment.day, monthrange(year, month + 1)[1]))


def standings(
    held: Iterable[Held], now: datetime, since: datetime | None = None, duties: Sequence[Duty] = CALENDAR
) -> list[Standing]:
    """Every duty. ``since``: when this deployment began; a duty that nothing served is overdue a period after that."""
    passed = [one for one in held if one.verdict == "PASS" and one.at <= now + AHEAD]
    found = []
    for duty in duties:
        last = max((one.at for one in passed if one.scenario in duty.scenarios), default=None)
        base = last or since
        due_at = months_later(base, duty.months) if base else None
        found.append(Standing(duty, _state(duty, last, due_at, now), last, due_at))
    return found


def _state(duty: Duty, last: datetime | None, due_at: datetime | None, now: datetime) -> State:
    if due_at is None:
        return "never"
    if now >= due_at:
        return "overdue"
    return "held" if last and now < due_at - timedelta(days=duty.due_days) else "due"


def table(found: Sequence[Standing]) -> str:
    """For a terminal: one line a duty, and what to type where it is time."""
    lines = []
    for one in found:
        lines.append(f"{one.duty.title:<32} {one.says}")
        if one.state != "held":
            lines.append(f"{'':<32}   next: {one.command}")
    return "\n".join(lines)


# -- the calendar file: RFC 5545


def ical(found: Sequence[Standing], stack: str, now: datetime) -> str:
    """An iCalendar file: a day for each duty, repeated by its period, with an alarm some days before."""
    stack = re.sub(r"[^\w.-]", "-", stack)
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//Lifeline//Disaster recovery drills//EN", "CALSCALE:GREGORIAN"]
    for one in found:
        # What is overdue belongs to today: nobody looks for a drill in a day that has passed.
        day = max((one.due_at or now).astimezone(UTC).date(), now.astimezone(UTC).date())
        lines += _event(one, day, stack, now)
    return "".join(f"{_folded(line)}\r\n" for line in [*lines, "END:VCALENDAR"])


def _event(one: Standing, day: date, stack: str, now: datetime) -> list[str]:
    duty = one.duty
    every = "FREQ=YEARLY" if duty.months == 12 else f"FREQ=MONTHLY;INTERVAL={duty.months}"
    if day.day > 28 and (duty.months % 12 or day.month == 2):
        # Not every month has that day: the last of these that there is. (A February's, every year.)
        days = ",".join(str(number) for number in range(28, day.day + 1))
        every += f"{'' if duty.months % 12 else ';BYMONTH=2'};BYMONTHDAY={days};BYSETPOS=-1"
    about = f"{one.says}. {one.command}. Any of these serves: {', '.join(duty.scenarios)}."
    return [
        *("BEGIN:VEVENT", f"UID:{duty.name}@{stack}.drills.lifeline", f"DTSTAMP:{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"),
        *(f"DTSTART;VALUE=DATE:{day:%Y%m%d}", f"RRULE:{every}", "TRANSP:TRANSPARENT"),
        *(f"SUMMARY:{_escaped(f'Drill: {duty.title} ({stack})')}", f"DESCRIPTION:{_escaped(about)}"),
        *("BEGIN:VALARM", "ACTION:DISPLAY", f"TRIGGER:-P{duty.due_days}D"),
        *(f"DESCRIPTION:{_escaped(f'Drill due: {duty.title}')}", "END:VALARM", "END:VEVENT"),
    ]


def _escaped(text: str) -> str:
    """TEXT of RFC 5545, 3.3.11."""
    for plain, written in (("\\", "\\\\"), (";", "\\;"), (",", "\\,"), ("\n", "\\n")):
        text = text.replace(plain, written)
    return text


def _folded(line: str) -> str:
    """At most 75 octets a line, and never within a character (3.1)."""
    pieces: list[str] = []
    piece, size = "", 0
    for character in line:
        octets = len(character.encode())
        if size + octets > (75 if not pieces else 74):
            pieces.append(piece)
            piece, size = "", 0
        piece, size = piece + character, size + octets
    return "\r\n ".join([*pieces, piece])
