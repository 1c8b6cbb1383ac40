"""A copy that was found good and hasn't been written to since isn't read all over again.

A check reads a database from end to end. Of a large one that takes seconds, and while a host becomes primary they are
an outage. So what a check found good is noted for each database, with what tells this file, as it is, from any other:
device, inode, size and the time of its last write. A note is of this boot (it lies in /run) and of the last minutes: it
spares the second and third look at the same copy, and never one on another day. A disk that rots in between is not seen
by it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lifeline.layout import Config, read_json, write_file
from lifeline.model import Finding, Verdict
from lifeline.replica import sidecars
from lifeline.service import Database, Invariant
from lifeline.verify import verify_database

FRESH_S = 120.0
Mark = list[Any]


def quick(config: Config, database: Database, path: Path, within: float = 300.0) -> Finding:
    """`verify_database`'s quick check of one of a database's copies, or what it found of this very copy just now."""
    invariants = config.service.invariants_of(database.name)
    with _one_look_at_a_time(config, database):  # who comes while another one looks has the answer with that one
        mark = _mark(path, invariants)
        if mark and (known := _noted(config, database, mark)):
            return known
        finding = verify_database(path, invariants, "quick", within=within)
        if finding.verdict is Verdict.PASS and mark and mark == _mark(path, invariants):
            _note(config, database, mark, finding, time.monotonic())
        return finding


@contextlib.contextmanager
def _one_look_at_a_time(config: Config, database: Database) -> Iterator[None]:
    """Ends with the process, however that ends."""
    path = _file(config, database).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def our_own_change(config: Config, database: Database, path: Path) -> Iterator[None]:
    """What is written to a copy in here takes nothing from what was found of it."""
    invariants = config.service.invariants_of(database.name)
    before = _mark(path, invariants)
    known = before and _noted(config, database, before)
    yield
    if known and (after := _mark(path, invariants)):
        _note(config, database, after, known, float(known.evidence["checked_at"]))


def _mark(path: Path, invariants: Sequence[Invariant]) -> Mark | None:
    """None for what isn't there, or isn't at rest: a log says more than the file."""
    try:
        if any(one.stat().st_size for one in sidecars(path) if one.exists()):
            return None
        found = path.stat()
    except OSError:
        return None
    asked = hashlib.sha256(repr([(one.name, one.sql, one.expect) for one in invariants]).encode()).hexdigest()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, asked]


def _file(config: Config, database: Database) -> Path:
    return config.layout.run / "checked" / f"{database.name}.json"


def _noted(config: Config, database: Database, mark: Mark) -> Finding | None:
    note = read_json(_file(config, database))
    if note is None or note["mark"] != mark or not 0 <= time.monotonic() - note["at"] < FRESH_S:
        return None
    return Finding.passed(note["says"], **note["evidence"], checked_at=note["at"])


def _note(config: Config, database: Database, mark: Mark, finding: Finding, at: float) -> None:
    evidence = {name: value for name, value in finding.evidence.items() if name != "checked_at"}
    write_file(
        _file(config, database), json.dumps({"mark": mark, "at": at, "says": finding.says, "evidence": evidence})
    )
