"""Incidents where they lie: on this machine, and in the vault; whichever is there, and later both.

An event is written here first, and is on the disk before anything else happens; the vault gets it when it can.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lifeline.errors import LifelineError
from lifeline.incidents import Event, folder, id_of
from lifeline.layout import write_file
from runbooks.site import Vault


@dataclass
class Records:
    """``here``: the folder below which the vault's keys are paths."""

    here: Path
    service: str
    vault: Vault

    def add(self, event: Event) -> str:
        """Write it down; returns why the vault hasn't got it, empty when it has."""
        key = event.key(self.service, secrets.token_hex(2))
        write_file(self.here / key, event.body())
        try:
            self.vault.put(key, event.body())
        except LifelineError as error:
            return error.message
        return ""

    def sync(self) -> str:
        """Bring here what is only in the vault, and there what is only here. Returns why that couldn't be done."""
        try:
            there = {key for key, _ in self.vault.keys(folder(self.service)) if id_of(key, self.service)}
            mine = set(self._keys())
            for key in sorted(there - mine):
                if (body := self.vault.get(key)) is not None:
                    write_file(self.here / key, body)
            for key in sorted(mine - there):
                self.vault.put(key, (self.here / key).read_bytes())
        except LifelineError as error:
            return error.message
        return ""

    def events(self) -> tuple[list[Event], list[str]]:
        """Every event that is here, and what can't be read: each a line."""
        found, problems = [], []
        for key in self._keys():
            try:
                event = Event.parse((self.here / key).read_bytes())
                if event.incident != id_of(key, self.service):
                    raise ValueError(f"it says it belongs to {event.incident}")
                found.append(event)
            except (OSError, ValueError) as error:
                problems.append(f"{key}: {error}")
        return found, problems

    def _keys(self) -> Iterator[str]:
        for path in sorted((self.here / folder(self.service)).glob("*/*.json")):
            if id_of(key := str(path.relative_to(self.here)), self.service):
                yield key
