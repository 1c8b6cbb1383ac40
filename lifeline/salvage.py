"""When nothing can be restored: SQLite's own `.recover` on a damaged database, beside it, and what came back, table by
table. The damaged files are only read.

What `.recover` finds is rows, not a history: pages are taken as they lie, so the result is a database to look at,
verified like any other, and rarely one to serve.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lifeline import backups, proc, replica
from lifeline.errors import BadInput, StepFailed
from lifeline.layout import Config
from lifeline.progress import during
from lifeline.service import Database
from lifeline.verify import connect, rows, verify_database

SQLITE3 = "sqlite3"
RECOVER_S = 3600.0
LOST_AND_FOUND = "lost_and_found"
Answer = dict[str, Any]


def salvage(config: Config, folder: Path, expected: Mapping[str, Mapping[str, int]]) -> Answer:
    """Recover every database of the host as it lies into a new folder, as `NAME.db`.

    `expected`: rows of each table in the newest backup, by database; what isn't known is null in the answer.

    Answers {"databases": [{"name", "path", "verdict", "says", "tables": {table: {"recovered", "expected"}},
    "lost_and_found", "seconds"}], "sqlite"}.
    """
    if folder.exists():
        raise BadInput(f"{folder} exists already on {config.name}", hint="name a folder that doesn't")
    layout = config.layout
    size = sum(path.stat().st_size for d in config.service.databases if (path := layout.live(d)).exists())
    need, free = 4 * size + (64 << 20), shutil.disk_usage(layout.state).free
    if free < need:
        says = f"a salvage needs {need >> 20} MB of free disk on {config.name}, there are {free >> 20} MB"
        raise StepFailed(says, hint="df -h /var/lib on that host; free some space, then the same again")
    version = proc.check([SQLITE3, "--version"], timeout=10).stdout.split()[0]
    folder.mkdir(parents=True, mode=0o700)
    try:
        found = [_one(config, database, folder, expected.get(database.name)) for database in config.service.databases]
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return {"databases": found, "sqlite": version}


def _one(config: Config, database: Database, folder: Path, expected: Mapping[str, int] | None) -> Answer:
    begun, live, output = time.monotonic(), config.layout.live(database), folder / f"{database.name}.db"
    if not live.exists():
        raise BadInput(f"{live} isn't there: nothing to salvage", hint="fab restore")
    with during(f"recovering what can be had of {database.name}"):
        recover(live, output)
    invariants = config.service.invariants_of(database.name)
    with during(f"verifying {database.name}"):
        finding = verify_database(output, invariants, "full", within=RECOVER_S)
    counts = backups.count_rows(output)
    lost = sum(counts.pop(name) for name in list(counts) if name.startswith(LOST_AND_FOUND))
    names = sorted({*counts, *(expected or {})})
    tables = {
        name: {"recovered": counts.get(name, 0), "expected": None if expected is None else expected.get(name, 0)}
        for name in names
    }
    return {
        **{"name": database.name, "path": str(output), "verdict": str(finding.verdict), "says": finding.says},
        **{"tables": tables, "lost_and_found": lost, "seconds": round(time.monotonic() - begun, 3)},
    }


def recover(damaged: Path, output: Path) -> None:
    """`.recover` a copy of a database and its log into `output`, which must not exist. StepFailed when nothing comes
    out."""
    scratch = output.with_name(f".{output.name}.scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    try:
        copy, script = scratch / "damaged.db", scratch / "recovered.sql"
        shutil.copyfile(damaged, copy)
        for sidecar in replica.sidecars(damaged):
            if sidecar.name.endswith("-wal") and sidecar.exists():
                shutil.copyfile(sidecar, scratch / "damaged.db-wal")
        said = proc.run([SQLITE3, str(copy)], stdin=f'.output "{script}"\n.recover\n', timeout=RECOVER_S)
        if not said.ok and "SQL logic error" in said.stderr:
            raise StepFailed(f"this host's sqlite3 can't recover: {said.reason}", hint="Debian 13's can: sqlite3 3.46")
        if not script.exists() or not script.stat().st_size:
            raise StepFailed(f"nothing can be recovered from {damaged}: {said.reason}", hint="fab restore --from local")
        # It goes on behind what it can't load: every row that can be had is wanted.
        read = proc.run([SQLITE3, str(output)], stdin=f'.read "{script}"\n', timeout=RECOVER_S)
        if not output.exists() or not _tables(output):
            raise StepFailed(f"nothing came back from {damaged}: {read.reason}", hint="fab restore --from local")
        output.chmod(0o600)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _tables(path: Path) -> int:
    with connect(path) as connection:
        return int(rows(connection, "SELECT count(*) FROM sqlite_schema WHERE type = 'table'")[0][0])
