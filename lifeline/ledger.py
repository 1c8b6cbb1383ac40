"""The ledger: what the outside saw acknowledged, and what became of it.  Pure: events and survivors in, judgement out.

The load client writes one JSON line an event, flushed to the disk before it goes on:

| event | fields beside wall (seconds since 1970) and mono (CLOCK_MONOTONIC, the same for all processes of a machine) |
|---|---|
| sent | id: before the first attempt |
| acknowledged | id, value (what the service says it did), began (mono of the attempt), served_by, epoch |
| queued | id, served_by: a promise that it will be done; the client then only asks what became of it |
| forgotten | id: it was queued, and the service doesn't know it any more; it is sent again |
| refused | id, status: a final no |
| failed | id, reason: no answer, or not a final one; the same id is sent again |
| read_back | id, began (mono of the acknowledged attempt), served_by: the write was read through the public name |
| resolved | address, until (mono when the answer's TTL is over) |
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

SHOWN = 20


@dataclass(frozen=True)
class Acknowledged:
    """A write that the outside was told is done.  ``at``: wall time; ``value`` names what was done ("" = not told)."""

    id: str
    at: float
    value: str = ""


@dataclass(frozen=True)
class Survivor:
    """A write as found afterwards, in the new primary or in the books of who it was made with."""

    id: str
    value: str = ""


@dataclass(frozen=True)
class Judgement:
    """What became of the acknowledged writes.  None: not known, because the survivors are not.

    lost: acknowledged and gone; altered: of those, the ones whose id is there with another value; duplicated: present
    more than once, on either side; unacknowledged_survivors: kept without having been acknowledged, which is allowed;
    unbooked: done outside, unknown to the new primary; invented: in the new primary, never done outside.
    rpo_measured_s: time of the fault less that of the oldest lost acknowledgement; 0 when none is lost.
    """

    acknowledged: int
    survived: int | None
    lost: tuple[str, ...] | None
    altered: tuple[str, ...] | None
    duplicated: tuple[str, ...] | None
    unacknowledged_survivors: int | None
    unbooked: tuple[str, ...] | None
    invented: tuple[str, ...] | None
    rpo_measured_s: float | None

    def to_json(self) -> dict[str, Any]:
        """The report's ``ledger``: counts, and the first ids of what is wrong."""
        document: dict[str, Any] = {}
        examples: dict[str, list[str]] = {}
        for name, value in asdict(self).items():
            if isinstance(value, tuple | list):
                if value:
                    examples[name] = list(value[:SHOWN])
                value = len(value)
            document[name] = value
        del document["rpo_measured_s"]
        return {**document, "examples": examples}


def judge(
    acknowledged: Sequence[Acknowledged],
    survivors: Sequence[Survivor] | None,
    *,
    fault_at: float,
    outside: Sequence[Survivor] | None = None,
) -> Judgement:
    """Compare what was acknowledged with what is there after the fault at ``fault_at`` (wall time).

    ``survivors`` None: they could not be read, and nothing is concluded. ``outside``: the truth of the other party.
    """
    first: dict[str, Acknowledged] = {}
    for write in acknowledged:
        first.setdefault(write.id, write)
    if survivors is None:
        return Judgement(len(first), None, None, None, None, None, None, None, None)
    found: dict[str, set[str]] = {}
    for survivor in survivors:
        found.setdefault(survivor.id, set()).add(survivor.value)
    altered = [i for i, write in first.items() if i in found and write.value and write.value not in found[i]]
    missing = [identity for identity in first if identity not in found]
    lost = sorted([*missing, *altered], key=lambda identity: (first[identity].at, identity))
    # A write acknowledged after the fault and lost all the same is not within any window: 0 would flatter, lost tells.
    rpo = max(0.0, fault_at - first[lost[0]].at) if lost else 0.0
    return Judgement(
        acknowledged=len(first),
        survived=len(first) - len(lost),
        lost=tuple(lost),
        altered=tuple(sorted(altered)),
        duplicated=_more_than_once(survivors, outside or ()),
        unacknowledged_survivors=len(found.keys() - first.keys()),
        unbooked=None if outside is None else tuple(sorted({o.id for o in outside} - found.keys())),
        invented=None if outside is None else tuple(sorted(found.keys() - {o.id for o in outside})),
        rpo_measured_s=round(rpo, 3),
    )


def _more_than_once(*sides: Iterable[Survivor]) -> tuple[str, ...]:
    twice: set[str] = set()
    for side in sides:
        twice.update(identity for identity, count in Counter(item.id for item in side).items() if count > 1)
    return tuple(sorted(twice))


# -- the events


@dataclass(frozen=True)
class Event:
    """One line of the ledger."""

    kind: str
    wall: float
    mono: float
    fields: dict[str, Any]


def read_event(line: str) -> Event | None:
    """An event from its line; None for a line torn by a kill."""
    try:
        raw = json.loads(line)
        return Event(raw.pop("event"), float(raw.pop("wall")), float(raw.pop("mono")), raw)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def acknowledged(events: Iterable[Event]) -> list[Acknowledged]:
    """The acknowledged writes among the events."""
    return [
        Acknowledged(event.fields["id"], event.wall, str(event.fields.get("value") or ""))
        for event in events
        if event.kind == "acknowledged"
    ]


def first_round_trip(events: Iterable[Event], after_mono: float) -> Event | None:
    """The first read-back of a write whose attempt began after ``after_mono``: where the RTO ends."""
    done = [event for event in events if event.kind == "read_back" and float(event.fields["began"]) > after_mono]
    return min(done, key=lambda event: event.mono, default=None)


def longest_gap(events: Iterable[Event], after_mono: float) -> float | None:
    """The longest time without an acknowledgement from ``after_mono`` on, in seconds; None: there was none after it."""
    times = sorted(event.mono for event in events if event.kind == "acknowledged" and event.mono > after_mono)
    gaps = [later - earlier for earlier, later in pairwise([after_mono, *times])]
    return round(max(gaps), 3) if gaps else None


def ttl_left(events: Iterable[Event], at_mono: float) -> float | None:
    """Seconds for which the client may still use the answer it had from DNS at that moment; None: it had none."""
    answers = [event for event in events if event.kind == "resolved" and event.mono <= at_mono]
    if not answers:
        return None
    newest = max(answers, key=lambda event: event.mono)
    return max(0.0, float(newest.fields["until"]) - at_mono)


def per_second(events: Iterable[Event], zero_mono: float) -> list[tuple[int, int]]:
    """(second since ``zero_mono``, writes acknowledged in it), without gaps: an outage is a row of zeros."""
    counts = Counter(math.floor(event.mono - zero_mono) for event in events if event.kind == "acknowledged")
    if not counts:
        return []
    return [(second, counts[second]) for second in range(min(counts), max(counts) + 1)]
