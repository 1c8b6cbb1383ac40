"""The lab's processes: every one is in a control group of its own below ``lifeline-lab``.

A control group can't be escaped by forking, needs no pid file, and survives the crash of whoever started the processes.
So "is it running", "kill all of it at once", "freeze it" and "what did an earlier lab leave behind" are each one file
of the kernel's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT_NAME = "lifeline-lab"
_LAUNCH = Path(__file__).with_name("launch.py")
_POLL_S = 0.02


def hierarchy() -> Path:
    """Where cgroup v2 is mounted; beside the v1 controllers is good enough, no controller is used."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise RuntimeError("no cgroup2 is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`")


@dataclass(frozen=True)
class Group:
    """All processes of one part of the lab, for example ``dns`` or ``d4``."""

    name: str

    @property
    def path(self) -> Path:
        return hierarchy() / ROOT_NAME / self.name

    def alive(self) -> bool:
        """Has at least one living process (zombies don't count)."""
        try:
            return "populated 1" in (self.path / "cgroup.events").read_text()
        except OSError:
            return False

    def pids(self) -> list[int]:
        """Every process of the group and of the groups below it."""
        found: list[int] = []
        for directory, _, _ in os.walk(self.path):
            try:
                found += [int(pid) for pid in Path(directory, "cgroup.procs").read_text().split()]
            except OSError:  # the group went away while we looked, and its processes with it
                continue
        return sorted(found)

    def memory_bytes(self) -> int:
        """Proportional set size of all its processes: shared pages are counted once over all groups."""
        return sum(_pss_bytes(pid) for pid in self.pids())

    def freeze(self, frozen: bool, within_s: float = 5.0) -> None:
        """Stop every process where it stands, or let all of them go on."""
        (self.path / "cgroup.freeze").write_text("1" if frozen else "0")
        wanted = f"frozen {int(frozen)}"
        events = self.path / "cgroup.events"
        wait_until(lambda: wanted in events.read_text(), within_s, f"{self.name} did not become {wanted}")

    def kill(self, within_s: float = 10.0) -> None:
        """SIGKILL to every process at once, frozen or not; returns when none is left. Nothing there: nothing to do."""
        try:
            (self.path / "cgroup.kill").write_text("1")
        except FileNotFoundError:
            return
        wait_until(lambda: not self.alive(), within_s, f"processes of {self.name} survive SIGKILL: {self.pids()}")

    def terminate(self, within_s: float = 5.0) -> None:
        """SIGTERM, then SIGKILL for those that are left; the group is gone afterwards."""
        for pid in self.pids():
            _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + within_s
        while self.alive() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self.remove()

    def remove(self) -> None:
        """Kill what is left and remove the group."""
        self.kill()
        for directory, _, _ in os.walk(self.path, topdown=False):
            _rmdir(Path(directory))


def groups() -> Iterator[Group]:
    """Every group of the lab, of this lab or of one that crashed."""
    root = hierarchy() / ROOT_NAME
    if root.is_dir():
        yield from (Group(entry.name) for entry in sorted(root.iterdir()) if entry.is_dir())


def remove_all() -> None:
    """Kill every process of the lab at once and remove the groups."""
    Group(".").remove()


def spawn(
    name: str, argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, work: Path = Path("/")
) -> Group:
    """Start a detached process in the group ``name``, its output appended to ``log``; returns when it is in there."""
    group = Group(name)
    group.path.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-I", "-S", str(_LAUNCH), str(group.path), str(log), str(work), *argv]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        raise RuntimeError(f"{name} could not be started: {done.stderr.strip()}")
    return group


def wait_until(condition: Callable[[], bool], within_s: float, message: str) -> None:
    """Poll ``condition()`` until it is true; RuntimeError(message) after ``within_s`` seconds."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{message} (waited {within_s:g} s)")
        time.sleep(_POLL_S)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _rmdir(path: Path) -> None:
    """A group stays busy for some milliseconds after its last process died."""

    def gone() -> bool:
        try:
            path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    wait_until(gone, 5.0, f"control group {path} can't be removed")


def _pss_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
