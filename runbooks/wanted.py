"""What an operator asked to have restored, and the words for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from lifeline.errors import BadInput

STAGE_S = 3600.0


@dataclass(frozen=True)
class Asked:
    """A time (RFC 3339), a transaction, a source; none of them for the newest data. `only`: which parts of a backup."""

    at: str | None = None
    txid: str | None = None
    source: str | None = None
    only: tuple[str, ...] = ("database",)

    @property
    def databases(self) -> bool:
        return "database" in self.only

    @property
    def from_backup(self) -> bool:
        """Is it in an independent copy, not in a replica?"""
        return self.source in ("snapshot", "local") or self.only != ("database",)

    @property
    def fixed(self) -> bool:
        """Is it the same data whenever it is asked for?  Only then can it be made beside while the service goes on."""
        return any((self.at, self.txid, self.from_backup))

    def pinned(self, at: str, source: str) -> Asked:
        """Exactly the backup of that time in that place, whatever is taken meanwhile."""
        return replace(self, at=at, source=source)

    def arguments(self) -> list[str]:
        given = (("--at", self.at), ("--txid", self.txid), ("--from", self.source))
        parts = [word for part in self.only for word in ("--only", part)] if self.only != ("database",) else []
        return [*parts, *(word for flag, value in given if value for word in (flag, value))]

    def command(self) -> str:
        """To type the same again."""
        words = [f"{word!r}" if " " in word else word for word in self.arguments()]
        return " ".join(["fab restore", *words])

    def context(self) -> dict[str, Any]:
        """For a journal's first line."""
        return {"at": self.at, "txid": self.txid, "from": self.source, "only": list(self.only)}

    @classmethod
    def of_context(cls, context: Mapping[str, Any]) -> Asked:
        only = tuple(context.get("only") or ("database",))
        return cls(context.get("at"), context.get("txid"), context.get("from"), only)


def asked(at: str | None, txid: str | None, source: str | None, only: Sequence[str] = ()) -> Asked:
    """From the command line; BadInput for what makes no sense, before anything is looked at."""
    from lifeline.restores import wanted

    want = wanted(1, at, txid, source, only)
    return Asked(want.at, None if want.txid is None else str(want.txid), want.source, want.only)


# `fab restore` goes one of several ways; the first that is asked for, and the options that mean something on it.
WAYS: Mapping[str, tuple[str, ...]] = {
    "table": ("format", "at", "txid", "from", "to"),
    "salvage": ("to",),
    "before-corruption": ("check", "yes", "dry-run", "waive"),
    "to": ("at", "txid", "from", "only", "waive"),
    "": ("at", "txid", "from", "only", "yes", "dry-run", "waive"),
}


def one_way(given: Mapping[str, object], ways: Mapping[str, tuple[str, ...]] = WAYS, verb: str = "restore") -> str:
    """Which way, by the options that were given. BadInput for one that would mean nothing on it: to pass over it would
    be to do something else than was asked for."""
    named = [name for name, value in given.items() if value]
    way = next((way for way in ways if way in named), "")
    for name in named:
        if name != way and name not in ways[way]:
            others = " or ".join(f"--{other}" for other, takes in ways.items() if other and name in takes)
            what = f"--{name} doesn't go with --{way}" if way else f"--{name} goes with {others} only"
            known = " ".join(f"--{one}" for one in ways[way]) or "no other option"
            hint = f"fab {verb} {f'--{way} ' if way else ''}takes {known}; fab --help {verb}"
            raise BadInput(f"{what}; nothing was done", hint=hint)
    return way


def both_clocks(at: str) -> str:
    """A time in UTC and on the operator's clock: the one thing that must not be misread."""
    moment = datetime.fromisoformat(at)
    local = moment.astimezone()
    here = "" if local.utcoffset() == timedelta(0) else f", {local:%Y-%m-%d %H:%M:%S} {local.tzname()} here"
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC{here}"
