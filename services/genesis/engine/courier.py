"""What was queued while the exchange was away is sent when it is back; then our books are compared with its own."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from .audit import Audit
from .desk import Desk
from .model import NoAnswer
from .venue import Venue

TICK_S = 0.5
BATCH = 50
COMPARE_S = 300.0
COMPARE_AGAIN_S = 30.0
Compare = Callable[[], dict[str, Any] | None]


class Courier:
    """One thread's work. `compare` says how our books and the exchange's agree; None: it can't be told."""

    def __init__(self, desk: Desk, venue: Venue, audit: Audit, compare: Compare) -> None:
        self._desk, self._venue, self._audit, self._compare = desk, venue, audit, compare
        self._ill: set[str] = set()
        self._due = False  # something went wrong since the books were last compared
        self._not_before = 0.0
        self._comparing: threading.Thread | None = None
        self.differences: int | None = None

    def round(self, stop: threading.Event) -> None:
        """One look at the exchange, and what can be sent now."""
        self._venue.try_again()
        ill = {gateway.name for gateway in self._venue.gateways if not gateway.breaker.lets_through}
        self._due, self._ill = self._due or bool(self._ill - ill), ill
        if not self._venue.reachable or not self._desk.reconciled:
            return
        try:
            while not stop.is_set() and self._desk.deliver(BATCH):
                self._due = True
        except NoAnswer:
            return  # away again: the next round sees
        self._see_to_books(stop)

    def _see_to_books(self, stop: threading.Event) -> None:
        """Compared beside: it may take as long as an order in flight may, and the next outage doesn't wait for it."""
        busy = self._comparing is not None and self._comparing.is_alive()
        if not self._due or busy or stop.is_set() or time.monotonic() < self._not_before:
            return
        self._due, self._not_before = False, time.monotonic() + COMPARE_AGAIN_S
        self._comparing = threading.Thread(target=self._agree, name="compare", daemon=True)
        self._comparing.start()

    def _agree(self) -> None:
        if (found := self._compare()) is None:
            self._due = True  # it couldn't be told: again later
        self.differences = None if found is None else len(found["differences"]) + int(found.get("more") or 0)
        self._audit("compared with the exchange", **(found or {"agree": None}))

    def run(self, stop: threading.Event) -> None:
        """Until told to stop."""
        said = ""
        while not stop.wait(TICK_S):
            try:
                self.round(stop)
                said = ""
            except Exception as error:  # the vault doesn't answer, the disk is full: the queue keeps what is in it
                if repr(error) != said:
                    self._audit("the queue waits", reason=repr(error))
                said = repr(error)


def compare_beside(argv: list[str]) -> dict[str, Any] | None:
    """Ask a process of its own: what it reads of large books must not be this one's memory."""
    try:
        done = subprocess.run(argv, capture_output=True, timeout=COMPARE_S, check=False)
        found = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("agree"), bool) else None
