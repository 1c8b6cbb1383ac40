"""The journal: one JSON line a step, on disk before anything else happens, without secrets.

A line holds run_id, step, verdict, started (UTC), seconds, evidence and waiver.  The first line of a run is the step
"run started" and the last "run finished": a journal without the last belongs to a run that was killed, or to one
whose disk became full.  A name with ENDED behind it says of the latter that it ended well all the same.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets as random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from lifeline.errors import BadConfig
from lifeline.model import Evidence, Lease, Verdict
from lifeline.moments import stamp as stamp

RUN_STARTED = "run started"
RUN_FINISHED = "run finished"
ENDED = ".ended"
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
    """Appends to ``path`` (made with its folder, 0600), each line flushed to the disk before ``write`` returns.

    Without its first line nobody could resume the run, and nothing was done yet: then it is BadConfig.  After that an
    outage doesn't wait for a disk: ``text`` has every line, the file gets those that it lacks as soon as there is room,
    and ``trouble`` says why it lacks any; "": it doesn't.
    """

    path: Path
    run_id: str
    secrets: frozenset[str] = field(default_factory=frozenset, repr=False)
    text: bytes = field(default=b"", init=False, repr=False)
    trouble: str = field(default="", init=False)
    _saved: int = field(default=0, init=False, repr=False)  # bytes of ``text`` that are on the disk for certain

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
        """Append one line; it is on the disk when this returns, or there is ``trouble``."""
        line = {
            "run_id": self.run_id,
            "step": step,
            "verdict": str(verdict),
            "started": stamp(started),
            "seconds": round(seconds, 3),
            "evidence": redact(evidence, self.secrets),
            "waiver": waiver,
        }
        first, self.text = not self.text, self.text + (json.dumps(line, ensure_ascii=False) + "\n").encode()
        try:
            self._save()
            self.trouble = ""
        except OSError as error:
            if first:
                raise self._not_begun(error) from None
            self.trouble = error.strerror or str(error)
            if (step, verdict) == (RUN_FINISHED, Verdict.PASS):
                self._mark_ended()

    def _save(self) -> None:
        """What the file lacks, behind what it has for certain: a write that was cut short is made again over itself."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            end = os.lseek(descriptor, min(self._saved, os.fstat(descriptor).st_size), os.SEEK_SET)
            while end < len(self.text):
                end += os.write(descriptor, self.text[end:])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._saved = end

    def _not_begun(self, error: OSError) -> BadConfig:
        with contextlib.suppress(OSError):
            self.path.unlink()  # a torn first line is no run
        folder = next(parent for parent in self.path.parents if parent.exists())
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return BadConfig(
            f"the journal can't be written ({self.path}: {error.strerror or error}), and without it this run could not "
            "be resumed: nothing was done, service and data are as they were",
            hint=f"{'df -h' if full else 'ls -ld'} {folder}; then the same command again, or from another machine",
        )

    def _mark_ended(self) -> None:
        """A rename takes no room: the next command must not take this for a run that is half done."""
        with contextlib.suppress(OSError):
            self.path = self.path.rename(f"{self.path}{ENDED}")

    @property
    def lacking(self) -> int:
        """How many lines the file lacks."""
        return self.text[self._saved :].count(b"\n")

    def read(self) -> list[dict[str, Any]]:
        return read_lines(self.path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal; a last line torn by a kill, or by a full disk, is left out."""
    return list(numbered(path).values())


def numbered(path: Path) -> dict[int, dict[str, Any]]:
    """The same by their numbers in the file, from 1."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    lines = {}
    for number, line in enumerate(text.split(b"\n"), 1):  # splitlines() would also break at what JSON has in a string
        with contextlib.suppress(ValueError):  # torn, be it inside a character
            lines[number] = json.loads(line.decode())
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
    found = (path for path in folder.glob(f"*-{runbook}-*") if path.suffix in (".jsonl", ENDED))
    # Names tell seconds apart; within one, only the first line tells which began later.
    for _, same in groupby(sorted(found, reverse=True), key=lambda path: path.name.partition("-")[0]):
        runs = [(lines, path) for path in same if (lines := read_lines(path))]
        if not runs:
            continue  # never begun: not even its first line is whole
        lines, path = max(runs, key=lambda run: str(run[0][0]["started"]))
        good = lines[-1]["step"] == RUN_FINISHED and lines[-1]["verdict"] == Verdict.PASS
        return None if good or path.suffix == ENDED else Begun(lines[0]["run_id"], lines[0]["evidence"])
    return None
