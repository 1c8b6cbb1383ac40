"""A writer that dies in its commit: the pages are in the log, their number not in its index.

    python -m tests.unit.killed_writer DATABASE SQL GO

It commits SQL, and SIGKILLs itself while it syncs the log, once the file GO is there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw


class File(apsw.VFSFile):
    """A file of SQLite's, on the disk as always; the sync of the log is deadly once `armed`."""

    armed = False
    go = Path()

    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self.name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        if File.armed and self.name.endswith("-wal"):
            while not File.go.exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)


class Disk(apsw.VFS):
    """The usual one, with our files."""

    def __init__(self) -> None:
        super().__init__("deadly", "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> File:
        return File(name, flags)


def main(database: str, sql: str, go: str) -> None:
    """Doesn't return."""
    disk = Disk()
    connection = apsw.Connection(database, vfs="deadly")
    connection.set_busy_timeout(5000)
    connection.execute("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0").fetchall()
    File.go, File.armed = Path(go), True
    connection.execute(sql).fetchall()
    disk.unregister()


@contextmanager
def dying(database: Path, sql: str, go: Path) -> Iterator[None]:
    """A writer in its commit while the context lasts; dead after it."""
    argv = [sys.executable, "-m", "tests.unit.killed_writer", str(database), sql, str(go)]
    process = subprocess.Popen(argv, cwd=Path(__file__).resolve().parents[2])
    try:
        yield
        go.touch()
        assert process.wait(20) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
