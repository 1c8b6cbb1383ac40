"""One moment for everything a backup takes: the databases' copies, their transactions, the small files beside them.

Writers wait behind `BEGIN IMMEDIATE` while the moment is noted: Litestream's transaction, the files copied, and the
long copy of each database begun. It reads the snapshot it began with, so the writers go on while it runs.
"""

from __future__ import annotations

import grp
import hashlib
import pwd
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw

from lifeline import replica
from lifeline.barrier import ControlSocket
from lifeline.errors import LifelineError, StepFailed
from lifeline.layout import OURS, Config
from lifeline.progress import Meter, Say
from lifeline.service import Database
from lifeline.verify import connect

HOLD_S = 2.0  # the longest that writers are kept waiting
LOCK_TRIES = 5
SYNC_S = 1.0
_READING = 1  # SQLITE_TXN_READ
FileNotes = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Marked:
    """The moment, and what was taken at it. `txids`: None where Litestream could not say. `files`: kind → path on the
    host → {"sha256", "bytes"}."""

    at: datetime
    held_ms: float
    txids: Mapping[str, int | None]
    files: FileNotes
    copies: Mapping[str, Path] = field(default_factory=dict)


def mark(config: Config, staging: Path, progress: Say = lambda _: None) -> Marked:
    """Copy every database to `staging/<name>.db`, and configuration and state below `staging/files`, as of one moment.

    Logs grow all the time and are only noted, with what they hold then. Raises StepFailed when a database stays
    locked by its service, or the copy can't begin in time.
    """
    databases = [d for d in config.service.databases if config.layout.live(d).exists()]
    missing = [d.name for d in config.service.databases if d not in databases]
    if missing:
        raise StepFailed(f"{', '.join(missing)}: no database at its path on {config.name}", hint="fab status")
    staging.mkdir(parents=True, exist_ok=True, mode=0o700)
    copies = [_Copy(config.layout.live(d), staging / f"{d.name}.db", d.name) for d in databases]
    _let_litestream_finish(config, databases)
    with ExitStack() as held:
        for database in databases:
            held.enter_context(_writers_wait(config.layout.live(database)))
        at, begun = datetime.now(UTC), time.monotonic()
        txids = {d.name: _txid(config, d) for d in databases}
        files: FileNotes = {
            kind: _take(config, paths, staging / "files")
            for kind, paths in (("configuration", config.service.configuration), ("state", config.service.state))
        }
        for copy in copies:
            copy.start()
        for copy in copies:
            copy.await_begun(begun + HOLD_S)
        held_ms = round((time.monotonic() - begun) * 1000, 1)
    files["logs"] = {str(path): noted(found) for path, found in files_below(config, config.service.logs)}
    for copy in copies:
        copy.finish(progress)
    return Marked(at, held_ms, txids, files, {copy.name: copy.target for copy in copies})


@contextmanager
def _writers_wait(path: Path) -> Iterator[None]:
    with connect(path, write=True) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # checkpoints are Litestream's
        for attempt in range(LOCK_TRIES):
            try:
                connection.execute("BEGIN IMMEDIATE")
                break
            except apsw.BusyError:
                if attempt == LOCK_TRIES - 1:
                    raise StepFailed(
                        f"{path} is locked by its service all the time: no consistent moment can be had",
                        hint="does the service leave a transaction open? the next scheduled run tries again",
                    ) from None
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


def _let_litestream_finish(config: Config, databases: list[Database]) -> None:
    """What it has to catch up with, a checkpoint perhaps, wants the lock that the writers are about to wait for."""
    if config.layout.control_socket.exists():
        for database in databases:
            _txid(config, database)


def _txid(config: Config, database: Database) -> int | None:
    try:
        return ControlSocket(config.layout.control_socket).sync(config.layout.live(database), SYNC_S).txid
    except LifelineError:
        return None


class _Copy:
    """`VACUUM INTO`, in a thread. It has begun when it reads: from then on it sees nothing newer."""

    def __init__(self, source: Path, target: Path, name: str) -> None:
        self.source, self.target, self.name = source, target, name
        self._begun, self._cancelled = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"copy-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            with connect(self.source) as connection:
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # the schema is read before

                def look() -> bool:
                    if not self._begun.is_set() and connection.txn_state("main") >= _READING:
                        self._begun.set()
                    return self._cancelled.is_set()

                connection.set_progress_handler(look, 1)
                # A bound parameter: a path may hold a quote.
                connection.execute("VACUUM INTO ?", (str(self.target),))
        except Exception as error:
            self._error = error
        finally:
            self._begun.set()

    def await_begun(self, deadline: float) -> None:
        if not self._begun.wait(max(0.0, deadline - time.monotonic())):
            self._cancelled.set()
            raise StepFailed(f"the copy of {self.name} did not begin within {HOLD_S:.0f} s", hint="fab backup")

    def finish(self, progress: Say) -> None:
        size, meter = self.source.stat().st_size, Meter(f"copying {self.name}", progress)
        while self._thread.is_alive():
            self._thread.join(1.0)
            if self._thread.is_alive() and self.target.exists():
                meter(min(self.target.stat().st_size, size), size)
        if self._error is not None:
            if isinstance(self._error, apsw.FullError):
                raise StepFailed(f"no space left for a copy of {self.name}", hint="df -h /var/lib on that host")
            raise StepFailed(
                f"{self.name} can't be copied: {self._error}", hint="fab validate says whether it is damaged"
            )


def files_below(config: Config, paths: Iterable[Any]) -> Iterator[tuple[Path, Path]]:
    """(path as the service knows it, where it is) of every file at or below `paths`; of the databases there none: they
    are copied as databases."""
    live = [config.layout.live(database) for database in config.service.databases]
    databases = {path for one in live for path in (one, *replica.sidecars(one))}
    for path in map(Path, paths):
        here = config.layout.root / str(path).lstrip("/")
        if here.is_dir():
            for found in sorted(here.rglob("*")):
                ours = OURS in found.relative_to(here).parts
                if found.is_file() and not found.is_symlink() and not ours and found not in databases:
                    yield path / found.relative_to(here), found
        elif here.is_file():
            yield path, here


def _take(config: Config, paths: tuple[Any, ...], into: Path) -> dict[str, dict[str, Any]]:
    notes = {}
    for path, found in files_below(config, paths):
        target = into / str(path).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy2(found, target)
        notes[str(path)] = {**noted(target), **owned(found)}
    return notes


def owned(path: Path) -> dict[str, Any]:
    """Owner and mode. By name too: the other host may have other numbers."""
    status = path.stat()
    try:
        user, group = pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        user, group = "", ""
    mode = status.st_mode & 0o7777
    return {"uid": status.st_uid, "gid": status.st_gid, "user": user, "group": group, "mode": mode}


def noted(path: Path, most: int | None = None) -> dict[str, Any]:
    """{"sha256", "bytes"} of a file, or of its beginning."""
    size, found = 0, hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(min(1 << 20, (1 << 62 if most is None else most) - size)):
            found.update(part)
            size += len(part)
    return {"sha256": found.hexdigest(), "bytes": size}
