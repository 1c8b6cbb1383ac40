"""What the engine does wrong on demand, for drills: only where GENESIS_ADMIN_FAULTS is 1."""

from __future__ import annotations

import threading
from typing import Any

from .model import Invalid

STEP_S = 0.1
MOST_MB_S = 1000


class Faults:
    """A leak is a leak: what it took is never given back."""

    def __init__(self) -> None:
        self._leaked: list[bytearray] = []
        self._rate_mb = 0.0
        self._changed = threading.Event()
        threading.Thread(target=self._leak, name="faults", daemon=True).start()

    def set(self, raw: Any) -> dict[str, Any]:
        """From a request's body; Invalid names what is allowed."""
        rate = raw.get("leak_mb_per_s") if isinstance(raw, dict) and set(raw) == {"leak_mb_per_s"} else None
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= MOST_MB_S:
            raise Invalid(f"leak_mb_per_s: 0 to {MOST_MB_S}, and nothing else")
        self._rate_mb = float(rate)
        self._changed.set()
        return self.shown()

    def shown(self) -> dict[str, Any]:
        return {"leak_mb_per_s": self._rate_mb, "leaked_bytes": sum(map(len, self._leaked))}

    def _leak(self) -> None:
        while True:
            self._changed.wait(STEP_S if self._rate_mb else None)
            self._changed.clear()
            # Written to, so that it is resident.
            self._leaked.append(bytearray(b"\x01") * int(self._rate_mb * STEP_S * (1 << 20)))
