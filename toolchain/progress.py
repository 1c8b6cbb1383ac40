"""Telling someone who waits what is going on, and running the long commands they wait for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lifeline.errors import StepFailed, Unavailable

TICK_S = 15.0
TAIL_LINES = 15


def say(message: str) -> None:
    """One line of progress, on stderr: stdout belongs to whoever asked for a result."""
    print(f"toolchain: {message}", file=sys.stderr, flush=True)


def run(
    argv: Sequence[str],
    *,
    what: str,
    log: Path,
    deadline_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    hint: str = "",
) -> None:
    """Run a long command with its output in ``log`` and a sign of life every quarter of a minute.

    Raises Unavailable when the program is missing, StepFailed (with the end of its output) when it fails or runs out
    of time.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("ab") as output:
        try:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=cwd
            )
        except FileNotFoundError as error:
            raise Unavailable(f"{what}: {argv[0]} is not installed", hint=hint or "make setup-lab") from error
        try:
            code = _wait(child, what, started, deadline_s)
        except BaseException:
            _stop(child)
            raise
    if code is None:
        raise StepFailed(f"{what}: no end after {deadline_s:.0f} s; its output is in {log}\n{tail(log)}", hint=hint)
    if code != 0:
        raise StepFailed(f"{what}: exit code {code}; its output is in {log}\n{tail(log)}", hint=hint)


def _wait(child: subprocess.Popen[bytes], what: str, started: float, deadline_s: float) -> int | None:
    """The exit code; None when the deadline passed (the child is stopped by then)."""
    while True:
        left = started + deadline_s - time.monotonic()
        try:
            return child.wait(timeout=max(0.0, min(TICK_S, left)))
        except subprocess.TimeoutExpired:
            if left <= 0:
                _stop(child)
                return None
            say(f"{what}: {time.monotonic() - started:.0f} s")


def _stop(child: subprocess.Popen[bytes]) -> None:
    """TERM first: mmdebstrap and apt clean up after themselves when asked."""
    child.terminate()
    try:
        child.wait(timeout=20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, indented, for an error message."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join("    " + line for line in text.splitlines()[-lines:])


def cpus() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0))
