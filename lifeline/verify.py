"""Is this database copy good? Asked of every restored copy before it may serve, and of live databases by `fab
validate`.

PASS needs every check to have run and passed. What couldn't be checked is UNKNOWN, never PASS.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from lifeline.model import Finding, Verdict
from lifeline.service import Invariant, Service

try:
    import apsw
except ImportError:  # a host that isn't provisioned yet; reading is safe with any SQLite
    apsw = None  # type: ignore[assignment]

Check = Literal["quick", "full"]
SHOWN_ROWS = 5
MAPPED = 64 << 30
WORKERS = 4  # checks at a time; a host has few cores, and its service may need one

# Two checkpointing copies of SQLite must both have the fix of the WAL-reset corruption.
_FIXED_IN = ((3, 51, 3), (3, 50, 7), (3, 44, 6))


def wal_reset_fixed(version: str) -> bool:
    """Whether this SQLite is past the WAL-reset corruption (3.51.3, back-ported to 3.50.7 and 3.44.6)."""
    found = tuple(int(part) for part in version.split(".")[:3])
    return found >= _FIXED_IN[0] or any(found[:2] == fixed[:2] and found >= fixed for fixed in _FIXED_IN[1:])


def sqlite_version() -> str:
    """The SQLite that this process uses on databases."""
    return apsw.sqlite_lib_version() if apsw is not None else sqlite3.sqlite_version


@contextmanager
def connect(path: Path, *, write: bool = False) -> Iterator[Any]:
    """Open an existing database with the newest SQLite at hand; never creates one. The connection has `execute`.

    Read-only on a copy at rest is `immutable`: plain read-only would leave a -shm file of root's beside it.
    """
    if write:
        mode = "mode=rw"
    elif path.with_name(path.name + "-wal").exists():
        mode = "mode=ro"
    else:
        mode = "mode=ro&immutable=1"
    uri = f"file:{quote(str(path))}?{mode}"
    if apsw is not None:
        flags = apsw.SQLITE_OPEN_URI | (apsw.SQLITE_OPEN_READWRITE if write else apsw.SQLITE_OPEN_READONLY)
        connection: Any = apsw.Connection(uri, flags=flags)
        connection.set_busy_timeout(5000)
    else:
        connection = sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def rows(connection: Any, sql: str, limit: int | None = None) -> list[tuple[Any, ...]]:
    """Up to `limit` rows of a query."""
    found = []
    for row in connection.execute(sql):
        found.append(tuple(row))
        if limit is not None and len(found) >= limit:
            break
    return found


def verify_database(
    path: Path, invariants: Sequence[Invariant], check: Check = "quick", *, within: float = 300.0
) -> Finding:
    """Check one database file, in at most `within` seconds: it is a database with content, whole, with foreign keys
    and invariants kept."""
    if not path.exists():
        return Finding.failed(f"{path} does not exist")
    begun = time.monotonic()
    evidence: dict[str, Any] = {
        "path": str(path),
        "bytes": path.stat().st_size,
        "check": check,
        "sqlite": sqlite_version(),
    }

    def done(finding: Finding) -> Finding:
        evidence["seconds"] = round(time.monotonic() - begun, 3)
        return Finding(finding.verdict, finding.says, {**evidence, **finding.evidence})

    steps = _checks(invariants, check)
    workers = min(len(steps), os.cpu_count() or 1, WORKERS)
    with ThreadPoolExecutor(workers, thread_name_prefix="verify") as pool:  # both bindings step without the GIL
        found = list(pool.map(lambda step: _made(path, step, begun, within), steps))
    bad = [finding for finding in found if finding.verdict is not Verdict.PASS]
    if bad:
        # Damage of the pages explains what else fails, so it comes first; what is certain outranks what isn't known.
        return done(next((finding for finding in bad if finding.verdict is Verdict.FAIL), bad[0]))
    for finding in found:
        evidence.update(finding.evidence)
    return done(Finding.passed(f"{path.name} is whole, {len(invariants)} invariants hold"))


def _made(path: Path, step: Step, begun: float, within: float) -> Finding:
    """One check, on a connection of its own."""
    try:
        with connect(path) as connection:
            if not path.with_name(path.name + "-wal").exists():
                connection.execute(f"PRAGMA mmap_size = {MAPPED}")  # at rest: a third faster than reading
            connection.set_progress_handler(lambda: time.monotonic() - begun > within, 10_000)
            return step(connection)
    except Exception as error:  # whatever SQLite's two bindings throw; classified() says what it means
        return classified(error, within)


def verify_service(
    service: Service, check: Check = "quick", *, paths: dict[str, Path] | None = None, within: float = 300.0
) -> Finding:
    """Check every database of a service, where it lives or at `paths` (by database name). The worst verdict is the
    verdict."""
    findings = {}
    for database in service.databases:
        path = (paths or {}).get(database.name, Path(database.path))
        invariants = service.invariants_of(database.name)
        findings[database.name] = verify_database(path, invariants, check, within=within)
    return worst(findings)


def worst(findings: dict[str, Finding]) -> Finding:
    """One finding for many: FAIL outranks UNKNOWN (damage is certain), UNKNOWN outranks PASS."""
    order = [Verdict.PASS, Verdict.SKIPPED, Verdict.UNKNOWN, Verdict.FAIL]
    evidence = {
        name: {"verdict": str(finding.verdict), "says": finding.says, **finding.evidence}
        for name, finding in findings.items()
    }
    bad = max(findings.values(), key=lambda finding: order.index(finding.verdict), default=None)
    if bad is None:
        return Finding.unknown("there is nothing to check")
    return Finding(bad.verdict, bad.says if bad.verdict is not Verdict.PASS else "every database is good", evidence)


Step = Callable[[Any], Finding]


def _checks(invariants: Sequence[Invariant], check: Check) -> list[Step]:
    """Checks that don't wait for each other: what says most first, and the longest beside the others."""
    kept: list[Step] = []
    for invariant in invariants:
        kept.append(lambda connection, invariant=invariant: _invariant(connection, invariant))  # type: ignore[misc]
    return [_has_content, lambda connection: _integrity(connection, check), _foreign_keys, *kept]


_THE_SERVICES_OWN = "name NOT GLOB '_litestream*' AND name NOT GLOB '_lifeline*' AND name NOT GLOB 'sqlite_*'"


def _has_content(connection: Any) -> Finding:
    # An empty file is a perfectly sound SQLite database: the one answer that must never pass.
    tables = rows(connection, f"SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND {_THE_SERVICES_OWN}")
    count = tables[0][0]
    return Finding.passed(tables=count) if count else Finding.failed("the database is empty: it has no table")


def _integrity(connection: Any, check: Check) -> Finding:
    pragma = "integrity_check" if check == "full" else "quick_check"
    found = [row[0] for row in rows(connection, f"PRAGMA {pragma}({SHOWN_ROWS})")]
    return (
        Finding.passed(integrity="ok")
        if found == ["ok"]
        else Finding.failed(f"{pragma} found damage: {found[0]}", damage=found)
    )


def _foreign_keys(connection: Any) -> Finding:
    found = rows(connection, "PRAGMA foreign_key_check", SHOWN_ROWS)
    if found:
        return Finding.failed(
            f"rows of {found[0][0]} point to rows of {found[0][2]} that don't exist", foreign_keys=_plain(found)
        )
    return Finding.passed()


def _invariant(connection: Any, invariant: Invariant) -> Finding:
    found = rows(connection, invariant.sql, SHOWN_ROWS)
    if invariant.expect == "no-rows" and found:
        return Finding.failed(
            f"invariant {invariant.name!r} is violated, for one by {_plain(found)[0]}", violations=_plain(found)
        )
    if invariant.expect == "rows" and not found:
        return Finding.failed(f"invariant {invariant.name!r} is violated: the query found no row")
    return Finding.passed()


def _plain(found: list[tuple[Any, ...]]) -> list[list[Any]]:
    return [[value if isinstance(value, int | float | str | None) else repr(value) for value in row] for row in found]


def classified(error: Exception, within: float = 300.0) -> Finding:
    """What an exception of either binding says about the data: damage is FAIL, anything else was no check."""
    name, text = type(error).__name__, str(error)
    if name == "InterruptError" or "interrupted" in text:
        return Finding.unknown(f"the check did not end within {within:.0f} s")
    if name in ("CorruptError", "NotADBError") or "malformed" in text or "not a database" in text:
        return Finding.failed(f"the database is damaged: {text}")
    return Finding.unknown(f"could not be checked: {name}: {text}")
