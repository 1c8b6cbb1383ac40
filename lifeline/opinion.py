"""The standby's second opinion: is what the vault holds clean? Asked for by a primary that found its own data damaged.

The newest point of the vault is restored beside and verified in full, as before every promotion. The answer is in
/health, under the id of what was found there: an older one proves nothing of it.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from lifeline.errors import LifelineError
from lifeline.layout import Config
from lifeline.symptoms import Work, start_verb, verdict_of

AGAIN_S = 60.0  # what couldn't be told is tried again


class Opinion:
    """State and rounds."""

    def __init__(self, config: Config, now: Callable[[], float], verb: Callable[..., Work] = start_verb) -> None:
        self._config, self._now, self._verb = config, now, verb
        self._folder = config.layout.state / "opinion"
        self._work: Work | None = None
        self._id, self._ended_at = "", float("-inf")
        self.answer: dict[str, Any] | None = None

    def look(self, peer: Mapping[str, Any] | None, epoch: int) -> None:
        """One round. ``peer``: the other agent's /health, None when it doesn't answer; a work begun goes on."""
        if self._work is not None:
            self._attend()
            return
        asked = (peer or {}).get("damage")
        if not isinstance(asked, dict) or (peer or {}).get("epoch") != epoch:
            return
        wanted = str(asked.get("id"))
        known = self.answer is not None and self.answer["id"] == wanted
        told = known and self.answer is not None and self.answer["verdict"] != "UNKNOWN"
        if told or (known and self._now() - self._ended_at < AGAIN_S):
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(LifelineError):
            words = ("restore", "--epoch", str(epoch), "--from", "vault", "--to", str(self._folder))
            self._work, self._id = self._verb(self._config, *words), wanted

    def forget(self) -> None:
        """This host is no standby any more."""
        work, self._work, self.answer = self._work, None, None
        if work is not None:
            work.stop()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _attend(self) -> None:
        assert self._work is not None
        if (done := self._work.done()) is None:
            return
        self._work, self._ended_at = None, self._now()
        verdict, says = verdict_of(done)
        self.answer = {"id": self._id, "verdict": verdict, "says": says}
        shutil.rmtree(self._folder, ignore_errors=True)
