"""The journal: one JSON line a step, on disk before anything else happens, without secrets.

A line holds run_id, step, verdict, started (UTC), seconds, evidence and waiver.  The first line of a run is the step
"run started" and the last "run finished": a journal without the last belongs to a run that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets as random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from lifeline.model import Evidence, Lease, Verdict
from lifeline.moments import stamp as stamp

RUN_STARTED = "run started"
RUN_FINISHED = "run finished"
_SECRET_KEY = re.compile(r"secret|token|password|passphrase", re.IGNORECASE)


class Clock(Protocol):
    """Time as an argument: durations are monotonic, the wall clock only labels."""

    def utc(self) -> datetime: ...
    def monotonic(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The real one."""

    def utc(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def new_run_id(runbook: str, moment: datetime) -> str:
    """Sorts by time, says what it was, and two people at two keyboards never share one."""
    return f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}-{runbook}-{random.token_hex(3)}"


def redact(value: Any, secrets: frozenset[str]) -> Any:
    """A JSON-able copy without secrets: neither under a telling key nor inside any string."""
    if isinstance(value, Mapping):
        return {
            str(key): "***" if _SECRET_KEY.search(str(key)) and isinstance(item, str) else redact(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, secrets) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


@dataclass
class Journal:
    """Appends to ``path`` (made with its folder, 0600), each line flushed to the disk before ``write`` returns."""

    path: Path
    run_id: str
    secrets: frozenset[str] = field(default_factory=frozenset, repr=False)

    @classmethod
    def start(cls, folder: Path, runbook: str, secrets: Iterable[str] = (), clock: Clock | None = None) -> Journal:
        """A new run's journal: ``<folder>/<run id>.jsonl``."""
        run_id = new_run_id(runbook, (clock or SystemClock()).utc())
        return cls(folder / f"{run_id}.jsonl", run_id, frozenset(secret for secret in secrets if secret))

    def write(
        self,
        step: str,
        verdict: Verdict,
        started: datetime,
        seconds: float,
        evidence: Evidence,
        waiver: str | None = None,
    ) -> None:
        """Append one line; it is on the disk when this returns."""
        line = {
            "run_id": self.run_id,
            "step": step,
            "verdict": str(verdict),
            "started": stamp(started),
            "seconds": round(seconds, 3),
            "evidence": redact(evidence, self.secrets),
            "waiver": waiver,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, (json.dumps(line, ensure_ascii=False) + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> list[dict[str, Any]]:
        return read_lines(self.path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal; a last line torn by a kill is left out."""
    return list(numbered(path).values())


def numbered(path: Path) -> dict[int, dict[str, Any]]:
    """The same by their numbers in the file, from 1."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    lines = {}
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would also break at what JSON leaves in a string
        with contextlib.suppress(ValueError):
            lines[number] = json.loads(line)
    return lines


@dataclass(frozen=True)
class Begun:
    """A run that has no good end, by its journal's first line.  ``context``: what it set out to do."""

    run_id: str
    context: Mapping[str, Any]

    def took(self, lease: Lease) -> bool:
        """Was this very lease taken by it, or by the run that it resumed?"""
        return lease.run_id in (self.run_id, self.context.get("lease_run_id"))


def unfinished(folder: Path, runbook: str) -> Begun | None:
    """The newest run of ``runbook`` in ``folder``, if it was killed or stopped short of the end; else None."""
    journals = sorted(folder.glob(f"*-{runbook}-*.jsonl"))
    second = journals[-1].name.partition("-")[0] if journals else ""
    # Names tell seconds apart; within one, only the first line tells which began later.
    runs = [lines for path in journals if path.name.startswith(second) and (lines := read_lines(path))]
    lines = max(runs, key=lambda run: str(run[0]["started"]), default=[])
    if not lines or (lines[-1]["step"] == RUN_FINISHED and lines[-1]["verdict"] == Verdict.PASS):
        return None
    return Begun(lines[0]["run_id"], lines[0]["evidence"])
