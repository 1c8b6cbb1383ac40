"""A cache of things that take long to make: each made by one process, complete or absent, never half there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lifeline.errors import Unavailable
from toolchain.progress import say

PARTIAL = ".partial-"


def root() -> Path:
    """$XDG_CACHE_HOME/lifeline or ~/.cache/lifeline."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lifeline"


def digest(*parts: str) -> str:
    """Twelve hex digits that change when any part does."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode())
        total.update(b"\0")
    return total.hexdigest()[:12]


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Hold an advisory lock; the kernel drops it when its holder dies, so a killed build blocks nobody."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is making {lock.stem.lstrip('.')}; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def make_once(target: Path, make: Callable[[Path], None]) -> Path:
    """The folder ``target``, made by ``make(folder)`` if it isn't there.

    ``make`` gets an empty folder beside the target, renamed onto it when everything is in: whoever sees ``target`` sees
    all of it. What a killed run left is removed by the next one, which holds the lock and so knows that nobody uses it.
    """
    if target.is_dir():
        return target
    with locked(target.parent / f".{target.name}.lock"):
        if target.is_dir():
            return target
        for stale in target.parent.glob(f".{target.name}{PARTIAL}*"):
            remove_tree(stale)
        partial = target.parent / f".{target.name}{PARTIAL}{os.getpid()}"
        partial.mkdir()
        try:
            make(partial)
            partial.rename(target)
        except BaseException:
            remove_tree(partial)
            raise
    return target


def require_space(gib: float, what: str) -> None:
    """Raise Unavailable when the cache's disk has less than ``gib`` free: now, not after four minutes."""
    root().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root()).free / 2**30
    if free < gib:
        hint = "free some, or set XDG_CACHE_HOME to a folder on a larger disk"
        raise Unavailable(f"{what} takes {gib:g} GiB of disk; {root()} has {free:.1f}", hint=hint)


def remove_tree(folder: Path) -> None:
    """Delete a folder without ever descending into something mounted below it.

    Not shutil.rmtree: Go's module cache is read-only and a killed bootstrap may have left /proc or /dev mounted.
    """
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=False, capture_output=True)
    subprocess.run(["rm", "-rf", "--one-file-system", "--", str(folder)], check=True)
