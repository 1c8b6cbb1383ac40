"""Where an operator reads: a runbook's lines on stdout, and between them, on stderr, what hosts say of long work."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Iterable

from lifeline.journal import redact
from lifeline.runbook import Out

KEPT = 200  # lines that a slow terminal has not taken yet; what comes then is left out
CATCH_UP_S = 0.2


class Screen:
    """Prints like ``out``.  ``hear`` puts a host's line onto ``err``: where both are one terminal, a line of the
    runbook's that is still open is ended first, and goes on below.

    A thread does the latter: a terminal that is slow, or stopped with Ctrl-S, holds up no host's work.
    """

    def __init__(self, out: Out, err: Out, secrets: Iterable[str] = ()) -> None:
        self._out, self._err = out, err
        self._secrets = frozenset(secret for secret in secrets if secret)
        self._one = _same(out, err)
        self._lock = threading.Lock()
        self._open = self._broken = False  # the runbook's line: not ended yet; ended before its time
        self._lines: queue.Queue[str] = queue.Queue(KEPT)
        self._quiet = threading.Event()  # nothing waits to be shown
        self._quiet.set()
        threading.Thread(target=self._show, name="screen", daemon=True).start()

    def aside(self) -> None:
        """From here on all of it is on ``err``: stdout is a program's."""
        self._out, self._one = self._err, True

    def write(self, text: str) -> object:
        if self._one:
            self._quiet.wait(CATCH_UP_S)  # what was said before this stands before it
        with self._lock:
            before = "      … " if self._broken and text.strip() else ""
            self._broken = self._broken and not before
            self._open = not text.endswith("\n") if text else self._open
            return self._out.write(before + text)

    def line(self, text: str) -> None:
        """A line of its own, even in the middle of another."""
        with self._lock:
            self._out.write(f"{self._apart()}{text}\n")

    def _apart(self) -> str:
        """Ends the runbook's line if it is open; it goes on below."""
        if not self._open:
            return ""
        self._open, self._broken = False, True
        return "\n"

    def flush(self) -> object:
        return self._out.flush()

    def isatty(self) -> bool:
        return self._out.isatty()

    def hear(self, host: str, text: str) -> None:
        """A line of a host's progress.  Returns at once."""
        self._quiet.clear()
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(f"      {host}: {redact(text, self._secrets)}\n")

    def _show(self) -> None:
        while True:
            line = self._lines.get()
            with self._lock if self._one else contextlib.nullcontext(), contextlib.suppress(OSError, ValueError):
                self._err.write((self._apart() if self._one else "") + line)
                self._err.flush()
            if self._lines.empty():
                self._quiet.set()


def _same(out: Out, err: Out) -> bool:
    """Are both the same terminal, or file?"""
    if out is err:
        return True
    try:
        return os.path.samestat(os.fstat(out.fileno()), os.fstat(err.fileno()))  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
