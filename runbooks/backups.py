"""Backups: the catalogue, as a table for people or as JSON for programs. Reads only."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from lifeline.catalogue import Backup
from runbooks.catalogue import backups as read
from runbooks.site import Site

SHOWN = 20
_HEAD = ("AGE", "KIND", "TAKEN (UTC)", "SIZE", "ADDED", "SECONDS", "WHERE", "VERIFIED BY A RESTORE")


def backups(site: Site, *, everything: bool = False, as_json: bool = False) -> list[Backup]:
    """Print (and return) the backups there are, the newest first."""
    found = read(site, None if everything else SHOWN)
    if as_json:
        site.say(json.dumps([_plain(one) for one in found], indent=1))
    elif not found:
        site.say("There is no backup.\n  next: fab backup --full")
    else:
        site.say(table(found, datetime.now(UTC)))
    return found


def table(found: list[Backup], now: datetime) -> str:
    """For people; a damaged entry says so in its line."""
    lines = [_HEAD, *(_line(one, now) for one in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    text = ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.extend(f"DAMAGED {one.key}: {one.error}" for one in found if one.error)
    if any(one.verdict == "FAIL" for one in found):
        text.append("ONE THAT FAILED can't be relied on: what it holds is damaged, or can't be restored.")
        text.append("  next: fab backup --full; then fab verify")
    elif not any(one.verdict == "PASS" for one in found):
        text.append("NONE OF THESE WAS RESTORED YET: what was never restored is not known to be a backup.")
        text.append("  next: fab verify")
    return "\n".join(text)


def _line(one: Backup, now: datetime) -> tuple[str, ...]:
    head = (age(now - one.at), one.kind, f"{one.at:%Y-%m-%d %H:%M:%S}")
    if one.entry is None:
        return (*head, "-", "-", "-", "-", "DAMAGED ENTRY")
    verified = f"{one.verdict} {one.verified_at}" if one.verdict else "never"
    numbers = (size(one.entry.get("bytes")), size(one.entry.get("bytes_added")), f"{one.entry.get('seconds', 0):.1f}")
    return (*head, *numbers, "+".join(one.where) or "NOWHERE", verified)


def age(delta: timedelta) -> str:
    """ "3 h": in the largest unit of which there are two."""
    seconds = max(0, int(delta.total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def size(count: Any) -> str:
    """Bytes, in the unit that says something."""
    if not isinstance(count, int):
        return "?"
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _plain(one: Backup) -> dict[str, Any]:
    return {**asdict(one), "at": one.at.isoformat().replace("+00:00", "Z")}
