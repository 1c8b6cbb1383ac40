"""A lane: a command in a room of its own on this machine, so that tests can have one lab beside another.

    python -m tests.lane NAME COMMAND...      (root)

A lab has fixed addresses, control groups and folders; a lane has namespaces of its own for network, processes and
control groups, and its own ``/run``, ``/tmp``, lab folder and ``.lifeline``. Everything else is the machine's. `make
test` starts the workers of pytest-xdist with it, one a lane.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from lab.processes import hierarchy

CHECKOUT = Path(__file__).resolve().parents[1]
LANES = Path("/var/lib/lifeline-lanes")
_NAMESPACES = ("--net", "--mount", "--pid", "--cgroup", "--fork", "--kill-child", "--mount-proc")


def enter(name: str, command: list[str]) -> None:
    """Become the lane, whose first process runs the command. Standard input and output stay as they are."""
    group = hierarchy() / f"lifeline-lane-{name}"
    group.mkdir(exist_ok=True)
    if "populated 1" in (group / "cgroup.events").read_text():
        sys.exit(f"lane {name} is in use: {group}")
    (group / "cgroup.procs").write_text(str(os.getpid()))
    inside = [sys.executable, "-m", "tests.lane", "--inside", name, *command]
    os.execvp("unshare", ["unshare", *_NAMESPACES, "--propagation", "private", "--", *inside])


def run(name: str, command: list[str]) -> int:
    """The lane's process 1: furnishes it, runs the command, whose exit code is the answer, and waits for whatever loses
    its parent in the meantime."""
    _furnish(LANES / name)
    child = subprocess.Popen(command, env={**os.environ, "LIFELINE_LAB": str(LANES / name / "lab")})
    while True:
        gone, status = os.wait()
        if gone == child.pid:
            return os.waitstatus_to_exitcode(status)


def _furnish(home: Path) -> None:
    """The lane's own folders, empty, over the machine's, and views of the kernel's: those of the machine show its
    interfaces and its groups."""
    shutil.rmtree(home, ignore_errors=True)  # of a run that was killed: its lab ended with its lane
    subprocess.run(["umount", "--lazy", "--recursive", "/sys"], check=True)
    subprocess.run(["umount", "--lazy", "--recursive", "/run/netns"], check=False, capture_output=True)
    _mount("-t", "sysfs", "sysfs", "/sys")
    _mount("-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
    _mount("-t", "tmpfs", "tmpfs", "/run")
    for folder in ("/run/lock", "/run/netns"):
        Path(folder).mkdir()
    for ours, theirs in ((home / "tmp", Path("/tmp")), (home / "dot-lifeline", CHECKOUT / ".lifeline")):
        ours.mkdir(parents=True, exist_ok=True)
        theirs.mkdir(exist_ok=True)
        _mount("--bind", str(ours), str(theirs))
    Path("/tmp").chmod(0o1777)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        sys.exit(run(sys.argv[2], sys.argv[3:]))
    enter(sys.argv[1], sys.argv[2:])
