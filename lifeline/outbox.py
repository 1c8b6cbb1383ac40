"""What is to be sent, on disk until it was: a folder for each way, a file for each message, sent in the order it came.

Each way has a thread of its own: one that is down holds up nothing but itself, is tried again with pauses that grow,
and goes on where it was after a restart. What a provider refuses is set aside, and told by the other ways.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifeline.layout import read_json, write_file

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0
IDLE_S = 5.0
MOST = 500  # messages a way; beyond that the newest are dropped, and that is told
log = logging.getLogger("lifeline.outbox")
Message = Mapping[str, Any]


@dataclass(frozen=True)
class Sent:
    """What became of one attempt. ``again``: in how many seconds at least it may be tried again, None: no use trying;
    ``says``: why it wasn't delivered."""

    delivered: bool
    says: str = ""
    again: float | None = None


def pause(tries: int, asked: float | None) -> float:
    """How long to wait after so many failures in a row; a provider that asks for longer gets it, up to a limit."""
    doubled = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(tries - 1, 30))
    return min(LONGEST_PAUSE_S, max(doubled, asked or 0.0))


class Queue:
    """One way's messages, and the thread that sends them. ``send`` may take its time, and must not raise."""

    def __init__(self, folder: Path, send: Callable[[Message], Sent]) -> None:
        self.folder, self._send = folder, send
        self._wake, self._stop = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self.tries = 0
        self.problem = ""
        self._thread: threading.Thread | None = None

    def put(self, message: Message) -> bool:
        """On disk when this returns; False: there are too many already."""
        with self._lock:
            waiting = self._waiting()
            if len(waiting) >= MOST:
                log.error("%s: %d messages wait already, this one is dropped", self.folder.name, len(waiting))
                return False
            number = int(waiting[-1].stem) + 1 if waiting else time.time_ns() // 1000
            write_file(self.folder / f"{number:020d}.json", json.dumps({"queued": time.time(), "message": message}))
        self._wake.set()
        return True

    def start(self) -> None:
        self._thread = threading.Thread(target=self._forever, daemon=True, name=f"outbox-{self.folder.name}")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()

    def _forever(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                wait = self.once()
            except Exception:  # what goes wrong here must never take the agent with it
                log.exception("%s: can't send", self.folder.name)
                wait = LONGEST_PAUSE_S
            # A message that came meanwhile doesn't shorten a pause: the one before it goes first.
            if wait is None:
                self._wake.wait(IDLE_S)
            else:
                self._stop.wait(wait)

    def once(self) -> float | None:
        """One attempt, at the oldest message; returns the seconds to wait, None when there is nothing to send."""
        waiting = self._waiting()
        if not waiting:
            self.problem, self.tries = "", 0
            return None
        path = waiting[0]
        held = read_json(path)
        sent = self._send(held["message"]) if held and isinstance(held.get("message"), dict) else Sent(False, "torn")
        if sent.delivered:
            path.unlink(missing_ok=True)
            (self.folder / "refused.json").unlink(missing_ok=True)  # whatever was wrong was mended
            self.problem, self.tries = "", 0
            return 0.0
        self.problem = sent.says
        if sent.again is None:
            log.error("%s refused a message: %s", self.folder.name, sent.says)
            write_file(self.folder / "refused.json", json.dumps({"at": time.time(), "says": sent.says}))
            path.unlink(missing_ok=True)
            return 0.0
        self.tries += 1
        if self.tries == 1:
            log.warning("%s: not delivered, and tried again: %s", self.folder.name, sent.says)
        return pause(self.tries, sent.again)

    def status(self) -> dict[str, Any]:
        """For `observe` and alerts: how much waits, since when, what is wrong, what was refused last."""
        waiting = self._waiting()
        held = read_json(waiting[0]) if waiting else None
        refused = read_json(self.folder / "refused.json")
        return {
            "waiting": len(waiting),
            "oldest_s": round(max(0.0, time.time() - float(held["queued"])), 1) if held and "queued" in held else None,
            "problem": self.problem or None,
            "refused": refused.get("says") if refused else None,
        }

    def _waiting(self) -> list[Path]:
        with contextlib.suppress(OSError):
            return sorted(path for path in self.folder.iterdir() if path.stem.isdigit() and path.suffix == ".json")
        return []
