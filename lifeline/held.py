"""Drills' reports where they lie: in a folder, or in a store."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lifeline import duties
from lifeline.duties import Held
from lifeline.store import Store, find

ENOUGH = 20  # of one kind that all failed: whatever passed before is long ago
DRILLS, JOURNALS, REPORT = "drills/", "journal/", "report.json"


def in_folder(folder: Path) -> tuple[list[Held], list[str]]:
    """Every drill below ``folder``, oldest first, and what can't be read there: each a line."""
    found, problems = [], []
    for path in sorted(folder.glob(f"*/{REPORT}")):
        if path.parent.is_symlink():
            continue  # `latest`
        try:
            found.append(duties.of_report(_document(path.read_bytes()), path.parent.name))
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {error}")
    return sorted(found, key=lambda one: one.at), problems


def in_store(store: Store) -> list[Held]:
    """Of each kind of drill in the store its newest PASS, and some that were held since: what a calendar has to know.

    What can't be read as a report isn't one: it serves no duty. Raises Unavailable.
    """
    found: list[Held] = []
    read: Counter[str] = Counter()  # by the folder's name behind its time: what a series calls them too
    keys = [info.key for info in store.list(DRILLS) if info.key.endswith(f"/{REPORT}")]
    for key in sorted(keys, reverse=True):
        name = key.removeprefix(DRILLS).removesuffix(f"/{REPORT}")
        kind = name.partition("-")[2]
        if read[kind] >= ENOUGH or (body := find(store, key)) is None:
            continue
        read[kind] += 1
        try:
            held = duties.of_report(_document(body.body), name)
        except ValueError:
            continue
        found.append(held)
        if held.verdict == "PASS":
            read[kind] = ENOUGH
    return found


def first_run(store: Store) -> datetime | None:
    """Since when this deployment exists: the oldest journal there is, which is that of its provisioning."""
    return next(_times(store), None)


def overdue(store: Store, now: datetime) -> list[dict[str, str]]:
    """What the calendar calls for and nothing in the store shows: each a name, what it means, and what to type."""
    late = [one for one in duties.standings(in_store(store), now, first_run(store)) if one.state == "overdue"]
    means = "nothing shows that this recovery still works"
    return [
        {
            **{"name": one.duty.name, "says": f"drill {one.duty.title.lower()}: {one.says}; {means}"},
            "next": f"{one.command}; then fab evidence seal, with this stack's credentials",
        }
        for one in late
    ]


def _times(store: Store) -> Iterator[datetime]:
    for info in store.list(JOURNALS):
        try:
            yield datetime.strptime(info.key.removeprefix(JOURNALS)[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            continue


def _document(body: bytes) -> dict[str, Any]:
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return document
