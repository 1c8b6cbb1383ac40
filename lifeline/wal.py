"""SQLite's write-ahead log as a killed process left it, put right before the next one opens the database.

SQLite commits in two steps: pages into the log (`-wal`), their number into the index of the log (`-shm`). As long as
any process has the database open nobody reads the log anew: what was written and not entered is overwritten by the
next writer. Litestream reads the log alone, so its replica may hold that transaction; then the log no longer goes on
from where the replica ends. Litestream (0.5.17) mends that with a copy that lacks all of the log before that point,
goes on to say that everything is in the vault, and what is restored is old and passes every check of SQLite's.

The formats of log and index are documented: https://www.sqlite.org/walformat.html.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifeline import ltx
from lifeline.errors import StepFailed
from lifeline.verify import connect, rows

HEADER, FRAME = 32, 24
WITHIN_S = 5.0
_WRITE_LOCK = 120  # the byte of the index that a writer locks
# iVersion, unused, iChange, isInit, bigEndCksum, szPage, mxFrame, nPage, aFrameCksum, aSalt, aCksum; twice
_INDEX = struct.Struct("=III BBH II 8s 8s 8s")
INDEX_BYTES = 2 * _INDEX.size  # of its head, which is there twice
_FRAME = struct.Struct(">II8s")  # page, size of the database after a commit, salts


@dataclass(frozen=True)
class Index:
    """The head of a log's index: how many frames are entered, and the salts of the log they are in."""

    page_size: int
    frames: int
    salts: bytes

    @property
    def end(self) -> int:
        """Where in the log the next frame goes."""
        return HEADER + self.frames * (FRAME + self.page_size)


def read_index(data: bytes) -> Index | None:
    """None when SQLite itself would not believe it, and read the log anew."""
    size = _INDEX.size
    if len(data) < 2 * size or data[:size] != data[size : 2 * size]:
        return None
    _, _, _, initialised, _, page_size, frames, _, _, salts, _ = _INDEX.unpack_from(data)
    return Index(65536 if page_size == 1 else page_size, frames, salts) if initialised else None


def not_entered(index: Index, read: Callable[[int, int], bytes]) -> bool:
    """Does the log hold a whole transaction behind what is entered? `read(length, at)` reads it."""
    at = index.end
    while len(head := read(_FRAME.size, at)) == _FRAME.size:
        _, commit, salts = _FRAME.unpack(head)
        if salts != index.salts:
            return False
        if commit:
            return True
        at += FRAME + index.page_size
    return False


def enter(database: Path) -> bool:
    """Have SQLite find what a writer that is gone had written and not entered. True when there was something.

    Leaves what such a writer leaves at its worst, half an entry, under a writer's lock: whoever reads next reads the
    log anew. SQLite is made for that, whoever else has the database open.
    """
    log, index = _beside(database, "wal"), _beside(database, "shm")
    if not (log.exists() and index.exists()):
        return False  # whoever opens it next reads the log anyway
    with index.open("r+b", buffering=0) as file, log.open("rb") as frames, _writing(file.fileno(), index):
        found = read_index(os.pread(file.fileno(), 2 * _INDEX.size, 0))
        if found is None or not not_entered(found, lambda length, at: os.pread(frames.fileno(), length, at)):
            return False
        os.pwrite(file.fileno(), bytes(_INDEX.size), _INDEX.size)
    with connect(database, write=True) as connection:
        keep_log(connection)
        rows(connection, "SELECT count(*) FROM sqlite_schema")
    return True


@contextmanager
def _writing(file: int, path: Path) -> Iterator[None]:
    """A writer's lock, as SQLite takes it. StepFailed where somebody else doesn't let go of it."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _WRITE_LOCK)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise StepFailed(f"{path} stays locked by a writer", hint="fab status; who has it open?") from None
            time.sleep(0.01)
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, _WRITE_LOCK)


def begin_anew(database: Path, local: Path) -> bool:
    """Begin a new log where Litestream, whose local files are in `local`, would take the one there is for what its
    replica goes on from, and it isn't: after a power cut the log may lack what the replica has. True where that was so.

    Litestream must not be running. It then takes a full copy, which is right, as the new log has other salts.
    """
    newest = max(local.glob("*.ltx"), default=None)
    if newest is None or not _contradicts(database, newest):
        return False
    deadline = time.monotonic() + WITHIN_S
    with connect(database, write=True) as connection:
        while rows(connection, "PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            if time.monotonic() > deadline:
                raise StepFailed(f"{database} has a reader that doesn't end", hint="fab status; who has it open?")
            time.sleep(0.05)
        keep_log(connection)
    return True


def _contradicts(database: Path, newest: Path) -> bool:
    """Is the log's page at the end of Litestream's newest file another one than in that file? Other salts, or a log
    that ends before, Litestream sees by itself."""
    log = _beside(database, "wal")
    if not log.exists():
        return False
    with newest.open("rb") as file:
        head = ltx.parse_header(file.read(ltx.HEADER))
    at = head.log_end - (FRAME + head.page_size)
    if at < HEADER:
        return False  # it holds nothing of this log yet
    with log.open("rb") as frames:
        frames.seek(at)
        frame = frames.read(FRAME + head.page_size)
    if len(frame) < FRAME + head.page_size or frame[8:16] != head.salts:
        return False
    number, page = int.from_bytes(frame[:4], "big"), frame[FRAME:]
    with newest.open("rb") as file:
        for first, run in ltx.decode(iter(lambda: file.read(1 << 20), b""), lambda _: None):
            if first <= number < first + len(run):
                return run[number - first] != page
    return True


def keep_log(connection: Any) -> None:
    """No checkpoint by this connection, not even when it closes: Litestream must see every frame."""
    import apsw

    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


def _beside(database: Path, what: str) -> Path:
    return database.with_name(f"{database.name}-{what}")
