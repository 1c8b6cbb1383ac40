"""What every part of the simulator shares: configuration, state, the ports, the clock, and the locks."""

from __future__ import annotations

import threading
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, cast

from fastapi import Depends, Request

from lab.api.config import Config
from lab.api.errors import bad_request
from lab.api.store import Store
from lab.ports import FirewallRule, Machines, Spaces


@dataclass
class Cloud:
    """One simulated account."""

    config: Config
    store: Store
    machines: Machines
    spaces: Spaces
    workers: Executor
    _locks: dict[int, threading.Lock] = field(default_factory=dict)
    firewall_lock: threading.RLock = field(default_factory=threading.RLock)
    # What the machines enforce now. Not kept: after a restart everything is applied anew.
    firewalls_applied: dict[int, tuple[FirewallRule, ...] | None] = field(default_factory=dict)
    spaces_lock: threading.Lock = field(default_factory=threading.Lock)

    def machine_lock(self, droplet_id: int) -> threading.Lock:
        """One thing at a time happens to a machine, whoever asked for it."""
        return self._locks.setdefault(droplet_id, threading.Lock())  # setdefault is atomic: all get the same one


def now() -> str:
    """The time as the API writes it: UTC, to the second."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_stamp(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _cloud(request: Request) -> Cloud:
    return cast(Cloud, request.app.state.cloud)


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request; no body is an empty one."""
    raw = await request.body()
    if not raw.strip():
        return {}
    try:
        value = await request.json()
    except ValueError:
        raise bad_request("Unable to parse the JSON in the request body") from None
    if not isinstance(value, dict):
        raise bad_request("The request body must be a JSON object")
    return value


CloudDep = Annotated[Cloud, Depends(_cloud)]
BodyDep = Annotated[dict[str, Any], Depends(_body)]
