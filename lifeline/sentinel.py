"""The sentinel: a row in each database that says when it was written. Its age in a restored copy is the measured RPO:
what would have been lost.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from lifeline import wal
from lifeline.errors import Refused, StepFailed
from lifeline.layout import Config, read_role
from lifeline.verify import connect

TABLE = "_lifeline_sentinel"
_MAKE = f"CREATE TABLE IF NOT EXISTS {TABLE} (id INTEGER PRIMARY KEY CHECK (id = 1), at TEXT NOT NULL)"
_WRITE = f"INSERT INTO {TABLE} VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET at = excluded.at"
BUSY_MS = 500  # the service goes first


def write(config: Config) -> dict[str, str]:
    """Write the time into every database of a primary; returns it by database. Raises StepFailed where one stays
    locked: then nothing is said of it."""
    if (role := read_role(config.layout).role) != "primary":
        raise Refused(f"{config.name} is {role}, not primary: nothing is written to its databases", hint="fab status")
    found = {}
    for database in config.service.databases:
        live = config.layout.live(database)
        if not (database.sentinel and live.exists()):
            continue
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            with connect(live, write=True) as connection:
                if not _in_wal_mode(connection):
                    continue  # its service is still making it
                wal.keep_log(connection)
                # A commit that waits for the disk can be killed when it is written and not entered yet: see wal.py.
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(_MAKE)
                connection.execute(_WRITE, (at,))
                connection.execute("COMMIT")
        except Exception as error:  # of either SQLite binding
            raise StepFailed(f"no sentinel in {database.name}: {error}", hint="the keeper tries again") from None
        found[database.name] = at
    return found


def _in_wal_mode(connection: Any) -> bool:
    return [str(row[0]) for row in connection.execute("PRAGMA journal_mode")] == ["wal"]
