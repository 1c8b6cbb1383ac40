"""Progress of long work: a verb of a host says it on stderr, a line at a time; a runbook shows it to whoever waits.

Such a line begins with a mark, so that nothing else a program writes there is shown: no trace, no stray output. What is
said holds no secrets, comes seldom (a few lines a minute), and never fails the work it tells of.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

MARK = "progress: "
EVERY_S = 5.0
FIRST_S, AGAIN_S = 2.0, 15.0  # of what can't say how far it is
LONGEST = 200
Say = Callable[[str], None]


def say(text: str) -> None:
    """One line. Whoever waited may have gone; the work goes on."""
    with contextlib.suppress(OSError, ValueError):
        print(f"{MARK}{' '.join(text.split())}", file=sys.stderr, flush=True)


def heard(line: bytes) -> str | None:
    """The text of a line of progress, fit for a terminal; None for any other line."""
    text = line.decode(errors="replace")
    if not text.startswith(MARK):
        return None
    return "".join(c for c in text[len(MARK) :].strip() if c.isprintable())[:LONGEST]


@contextlib.contextmanager
def during(what: str, tell: Say = say) -> Iterator[None]:
    """Says what is being done once it takes more than moments, and from time to time that it still is."""
    done = threading.Event()

    def remind() -> None:
        begun, pause = time.monotonic(), FIRST_S
        while not done.wait(pause):
            tell(f"{what}: {time.monotonic() - begun:.0f} s so far")
            pause = AGAIN_S

    threading.Thread(target=remind, name="progress", daemon=True).start()
    try:
        yield
    finally:
        done.set()


class Meter:
    """Tells how far work has come: called with (done, total) as often as one likes, it says so every few seconds.

    A total of 0 or less isn't known. `unit`: "MB" for bytes, or what is counted.
    """

    def __init__(self, what: str, tell: Say = say, *, unit: str = "MB", clock: Callable[[], float] = time.monotonic):
        self._what, self._tell, self._unit, self._clock = what, tell, unit, clock
        self._begun = self._told = clock()

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if done > 0 and now - self._told >= EVERY_S:
            self._told = now
            self._tell(f"{self._what}: {self._far(done, total, now - self._begun)}")

    def _far(self, done: int, total: int, spent: float) -> str:
        if self._unit == "MB":
            done, total = done // 1_000_000, total // 1_000_000
        if total <= 0:
            return f"{done} {self._unit}"
        left = f", about {spent * (total - done) / done:.0f} s left" if 0 < done < total else ""
        return f"{100 * min(done, total) // total} %, {done} of {total} {self._unit}{left}"
