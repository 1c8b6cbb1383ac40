"""Become a process of the lab: detach, join a control group, log to a file, exec.

Run as a script by :mod:`lab.processes` with a bare interpreter (``-I -S``), so it imports nothing of the project. The
process that goes on is an orphan in a session of its own: nobody has to reap it, and it outlives whoever asked for it.

    launch.py GROUP_DIR LOG_FILE WORK_DIR ARGV...
"""

import os
import sys


def main(group: str, log: str, work: str, argv: list[str]) -> None:
    # The group is joined before the fork: when this process returns, the child is in it already.
    with open(os.path.join(group, "cgroup.procs"), "w") as procs:  # noqa: PTH118, PTH123 - pathlib costs 10 ms of import
        procs.write("0")
    os.setsid()
    if os.fork():
        os._exit(0)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.closerange(3, 1 << 16)
    os.chdir(work)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        os._exit(127)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
