"""The audit log: one JSON line an event, appended in one write, for whoever asks afterwards what happened."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .store import utc_now


class Audit:
    """Appends to ``<folder>/audit.jsonl``; opened anew for each line, so that log rotation needs no signal."""

    def __init__(self, folder: Path, **always: Any) -> None:
        self._path = folder / "audit.jsonl"
        self._always = always
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, event: str, **fields: Any) -> None:
        line = json.dumps({"at": utc_now(), "event": event, **self._always, **fields}, ensure_ascii=False)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            os.write(descriptor, (line + "\n").encode())
        finally:
            os.close(descriptor)
