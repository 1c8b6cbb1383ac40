"""`lifeline-deadman`: when the lease has run out and the agent hasn't acted, kill all that supervisor runs.

The last guard of a primary, for the agent that hangs, can't start, or isn't there. It shares nothing with what it
guards: a file of its own outside the release, run by the system's Python with the standard library alone, and locked in
memory, so that it needs no disk once it runs. The agent tells it by a file in /run how long the lease lasts; killing is
one write to the kernel, which takes the whole control group at once: no process ids, no answer from supervisor.

    deadman.py /run/lifeline /sys/fs/cgroup/system.slice/supervisor.service
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
import time
from pathlib import Path

POLL_S = 0.25
ALL_PAGES = 3  # MCL_CURRENT | MCL_FUTURE


def boottime() -> float:
    """Seconds since boot, suspended time included. Setting the date doesn't move it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def arm(run: Path, until: float) -> None:
    """From `until` on (CLOCK_BOOTTIME) nothing may run here, unless this is called again. OSError: it isn't armed."""
    (run / "deadline.new").write_text(f"{until:.3f}\n")
    (run / "deadline.new").replace(run / "deadline")


def disarm(run: Path) -> None:
    """What was guarded is stopped: there is nothing left to kill."""
    (run / "deadline").unlink(missing_ok=True)


def due(run: Path, now: float) -> bool:
    """Is it armed, and its time over? A deadline that can't be read is."""
    try:
        return now >= float((run / "deadline").read_text())
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True


def cut(group: Path) -> None:
    """SIGKILL to every process of a control group in one instant, those being forked too. No such group: none runs."""
    with contextlib.suppress(FileNotFoundError):
        handle = os.open(group / "cgroup.kill", os.O_WRONLY)
        try:
            os.write(handle, b"1")
        finally:
            os.close(handle)


def runs(group: Path) -> bool:
    """Has the deadman's own control group a process? Asked of the kernel: it is what the deadman itself relies on."""
    try:
        return "populated 1" in (group / "cgroup.events").read_text()
    except OSError:
        return False


def notify(word: str) -> None:
    """Tell systemd: READY=1, WATCHDOG=1. Nothing happens where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(word.encode(), "\0" + address[1:] if address.startswith("@") else address)


def look(run: Path, group: Path) -> None:
    """Kill if it is time. What fails is tried again at the next look."""
    if not due(run, boottime()):
        return
    try:
        cut(group)
        disarm(run)
        said = "the lease ran out and the agent did not stop what needs it: killed all that supervisor ran"
    except OSError as error:
        said = f"the lease ran out, and killing failed: {error}"
    with contextlib.suppress(OSError):
        print(said, flush=True)


def main(run: Path, group: Path) -> int:
    """Until it is killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mlockall(ALL_PAGES)
    notify("READY=1")
    while True:
        look(run, group)
        notify("WATCHDOG=1")
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
