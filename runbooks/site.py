"""What a runbook works on: the inventory, and one door to each thing it touches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lifeline.cloud import Cloud
from lifeline.errors import LifelineError, Refused
from lifeline.hosts import Remote
from lifeline.inventory import Loaded, folder
from lifeline.journal import Clock, Journal, SystemClock
from lifeline.model import Host, Inventory, Lease, Mode, Observation
from lifeline.outside import Outside
from lifeline.runbook import Out
from lifeline.service import Service
from runbooks.screen import Screen

T = TypeVar("T")
SERVICE_COPY = "/etc/lifeline/service.toml"


class Hosts(Protocol):
    """Hosts by name."""

    def __getitem__(self, name: str) -> Remote: ...
    def each(self, names: Iterable[str], job: Callable[[Remote], T]) -> dict[str, T | LifelineError]: ...
    def close(self) -> None: ...


class Leases(Protocol):
    """The lease store, as runbooks use it.  Unavailable when it can't be reached."""

    def read(self) -> Lease | None:
        """The lease now; None when nobody ever took it."""

    def depose(self, holder: str, over: Lease, run_id: str) -> Lease:
        """Epoch N+1 for ``holder``, written over exactly ``over``; Refused when another epoch came between."""

    def begin_after(self, holder: str, epoch: int, run_id: str) -> Lease:
        """Where the lease is lost: a released one of ``epoch``; one that is there stays."""

    def set_mode(self, mode: Mode | None) -> Lease:
        """A person's word on automatic failover; None takes it back."""


class Vault(Protocol):
    """The vault, as runbooks use it.  Unavailable when it can't be reached."""

    def put(self, key: str, body: bytes) -> None: ...
    def get(self, key: str) -> bytes | None: ...
    def keys(self, prefix: str) -> list[tuple[str, datetime]]:
        """Keys under a prefix, with the time they were written (UTC)."""

    def key_refused(self, host: Host) -> bool:
        """Is a write with the host's own vault key refused?"""


@dataclass
class Site:
    """An inventory and its doors.  Doors open when first used."""

    root: Path
    loaded: Loaded
    hosts: Hosts
    cloud: Cloud
    leases: Leases
    vault: Vault
    outside: Outside
    clock: Clock = field(default_factory=SystemClock)
    # When the last renewal of the lease was seen by whoever watched it before this run, on `clock`; None: nobody did.
    quiet_since: float | None = None
    # Somebody waits at a keyboard for the end: what is only told may take its time.
    attended: bool = True
    out: Out = field(default_factory=lambda: sys.stdout)

    @property
    def inventory(self) -> Inventory:
        return self.loaded.inventory

    @property
    def journals(self) -> Path:
        """Where this operator's journals of the stack lie."""
        return folder(self.root, self.inventory.stack) / "journal"

    def journal(self, runbook: str) -> Journal:
        return Journal.start(self.journals, runbook, self.inventory.secrets(), self.clock)

    def publish(self, journal: Journal) -> None:
        """Copy a journal to the vault: all of it, whatever found room here."""
        self.vault.put(f"journal/{journal.run_id}.jsonl", journal.text)

    def observe(self, name: str, timeout: float = 15.0) -> Observation:
        """What a host says of itself."""
        return Observation.from_json(self.hosts[name].verb("observe", timeout=timeout), f"{name}: observe")

    def service(self, name: str) -> Service:
        """The service as host ``name`` runs it: what is deployed, not what a checkout happens to say."""
        result = self.hosts[name].run(["sudo", "-n", "cat", SERVICE_COPY], timeout=10)
        return Service.parse(result.text, f"{name}:{SERVICE_COPY}")

    def say(self, text: str) -> None:
        if isinstance(self.out, Screen):
            self.out.line(text)
            self.out.flush()
        else:
            print(text, file=self.out, flush=True)

    def aside(self) -> None:
        """Say everything on stderr from here on: stdout is for a program."""
        if isinstance(self.out, Screen):
            self.out.aside()
        else:
            self.out = sys.stderr

    def close(self) -> None:
        self.hosts.close()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def confirm(site: Site, what: str, yes: bool, ask: Callable[[str], str] = input) -> None:
    """Say what will be destroyed or changed, and ask; Refused unless the operator agrees."""
    site.say(what)
    if yes:
        return
    try:
        answer = ask("Type yes to go on: ")
    except EOFError:
        answer = ""
    if answer.strip().lower() != "yes":
        raise Refused(
            "not confirmed: nothing was changed", hint="the same command with --yes, or --dry-run to see the plan"
        )
