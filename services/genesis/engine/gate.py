"""Who may come in: orders are taken only while the gate is open, and who closes it can wait for those inside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .model import NotAcknowledged


class Gate:
    """Closed for reasons; open when there is none."""

    def __init__(self, *reasons: str) -> None:
        self._reasons = set(reasons)
        self._inside = 0
        self._changed = threading.Condition()

    def close(self, reason: str) -> None:
        with self._changed:
            self._reasons.add(reason)

    def open(self, reason: str) -> None:
        """Take back one reason."""
        with self._changed:
            self._reasons.discard(reason)

    @property
    def reasons(self) -> list[str]:
        with self._changed:
            return sorted(self._reasons)

    @property
    def inside(self) -> int:
        """How many are at work."""
        with self._changed:
            return self._inside

    @contextmanager
    def entered(self) -> Iterator[None]:
        """NotAcknowledged, with the reasons, while closed."""
        with self._changed:
            if self._reasons:
                raise NotAcknowledged(f"not taking orders: {', '.join(sorted(self._reasons))}")
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def wait_empty(self, within_s: float) -> bool:
        """True once nobody is inside; False after ``within_s`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._inside == 0, within_s)


class Turns:
    """One at a time per key: two requests with one client order id must not both send it."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def of(self, key: str, within_s: float) -> Iterator[None]:
        """NotAcknowledged when the other is still at it after ``within_s`` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: key not in self._taken, within_s):
                raise NotAcknowledged(f"{key} is being worked on by another request")
            self._taken.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._taken.discard(key)
                self._changed.notify_all()
