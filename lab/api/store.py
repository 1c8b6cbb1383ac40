"""The simulator's memory: one SQLite file, so that it survives a restart and a kill -9 of the simulator.

Every resource is a JSON document under a kind ("droplet", "record", …) and an id. Documents are small and few (a lab,
not a cloud), so one table is easier to read than twenty, and a new resource needs no migration.

The lab's DNS server is another process and reads the same file: `records(path)` opens it read-only, sees every
committed change, and never blocks the simulator (WAL).
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

Doc = dict[str, Any]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS object (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, UNIQUE (kind, id));
CREATE TABLE IF NOT EXISTS counter (kind TEXT PRIMARY KEY, last INTEGER NOT NULL);
"""

# Ids are ints that are never used twice, as at DigitalOcean. Kinds start apart, so that a mix-up shows.
_FIRST_ID = {"droplet": 1001, "action": 200001, "key": 3001, "record": 40001, "image": 50001}


class Record(NamedTuple):
    """One DNS record. `name` is relative ("@" is the apex); `data` has no final dot; ints that don't apply are None."""

    domain: str
    name: str
    type: str
    data: str
    ttl: int
    priority: int | None
    port: int | None
    weight: int | None
    flags: int | None
    tag: str | None


def records(path: Path | str) -> list[Record]:
    """Every record of every domain, read from the simulator's state file without writing to it.

    Raises sqlite3.OperationalError while there is no such file yet.
    """
    with closing(sqlite3.connect(f"file:{Path(path).absolute()}?mode=ro", uri=True, timeout=2)) as connection:
        rows = connection.execute("SELECT body FROM object WHERE kind = 'record' ORDER BY seq").fetchall()
    return [_record(json.loads(body)) for (body,) in rows]


def _record(doc: Doc) -> Record:
    optional = (doc.get(key) for key in ("priority", "port", "weight", "flags", "tag"))
    return Record(doc["domain"], doc["name"], doc["type"], doc["data"], doc["ttl"], *optional)


class Store:
    """Thread-safe: one connection, one lock. A transaction is all or nothing; nested ones join the outermost."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = threading.RLock()
        self._depth = 0
        path.touch(mode=0o600)  # it holds Spaces secrets
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
        self._connection.execute("PRAGMA journal_mode = WAL")
        # NORMAL keeps every commit across a kill -9; only a power cut of the laptop itself may lose the last ones.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(_SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the store for a read-then-write that must not interleave."""
        with self._lock:
            outermost = self._depth == 0
            if outermost:
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                if outermost:
                    self._connection.execute("ROLLBACK")
                raise
            else:
                if outermost:
                    self._connection.execute("COMMIT")
            finally:
                self._depth -= 1

    def next_id(self, kind: str) -> int:
        """A new int id; never the same twice, also after deletions and restarts."""
        with self.transaction():
            row = self._connection.execute("SELECT last FROM counter WHERE kind = ?", (kind,)).fetchone()
            value = int(row[0]) + 1 if row else _FIRST_ID.get(kind, 1)
            self._connection.execute("INSERT OR REPLACE INTO counter (kind, last) VALUES (?, ?)", (kind, value))
            return value

    def put(self, kind: str, id_: int | str, doc: Doc) -> None:
        """Create or replace; a replaced document keeps its place in listings."""
        with self.transaction():
            self._connection.execute(
                "INSERT INTO object (kind, id, body) VALUES (?, ?, ?)"
                " ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body",
                (kind, str(id_), json.dumps(doc)),
            )

    def get(self, kind: str, id_: int | str) -> Doc | None:
        with self._lock:
            row = self._connection.execute(
                "SELECT body FROM object WHERE kind = ? AND id = ?", (kind, str(id_))
            ).fetchone()
        return json.loads(row[0]) if row else None

    def all(self, kind: str) -> list[Doc]:
        """Every document of a kind, oldest first."""
        with self._lock:
            rows = self._connection.execute("SELECT body FROM object WHERE kind = ? ORDER BY seq", (kind,)).fetchall()
        return [json.loads(body) for (body,) in rows]

    def update(self, kind: str, id_: int | str, **changes: Any) -> Doc | None:
        """Change some fields; None when the document is gone (it is not made anew)."""
        with self.transaction():
            doc = self.get(kind, id_)
            if doc is None:
                return None
            doc.update(changes)
            self.put(kind, id_, doc)
            return doc

    def delete(self, kind: str, id_: int | str) -> bool:
        """True if there was one."""
        with self.transaction():
            cursor = self._connection.execute("DELETE FROM object WHERE kind = ? AND id = ?", (kind, str(id_)))
            return cursor.rowcount > 0

    def close(self) -> None:
        with self._lock:
            self._connection.close()
