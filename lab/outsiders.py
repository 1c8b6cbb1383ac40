"""Who is outside the two regions in a drill: the exchange, the load client with its ledger, and a watcher of DNS."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.rdatatype

from lab import config
from lab.processes import Group, spawn
from lifeline.errors import StepFailed, Unavailable
from lifeline.ledger import Event, Survivor, read_event

CHECKOUT = Path(__file__).resolve().parent.parent
EXCHANGE, CLIENT = "exchange", "client"
EXCHANGE_PORT = 8080
PAGE = 1000
POLL_S = 0.1
STOP_CLIENT_S = 15.0


def poll(condition: Callable[[], bool], within_s: float) -> bool:
    """True as soon as ``condition()`` is; False after ``within_s`` seconds."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


@dataclass
class Exchange:
    """The exchange that the service trades on, one book behind two gateways, in a control group of the lab's:
    ``lab.down`` ends it too."""

    data: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://{config.EXCHANGE_ADDRESSES[0]}:{EXCHANGE_PORT}"

    def start(self) -> None:
        """Started afresh, with the books there are; StepFailed when it doesn't answer."""
        Group(EXCHANGE).remove()
        argv = [sys.executable, "-m", "services.genesis.exchange", "--data", str(self.data)]
        for address in config.EXCHANGE_ADDRESSES:
            argv += ["--listen", f"{address}:{EXCHANGE_PORT}"]
        spawn(EXCHANGE, argv, self.log, env=_bare_environment(), work=CHECKOUT)
        if not poll(self._answers, 10):
            raise StepFailed(f"the exchange does not answer at {self.url}", hint=f"less {self.log}")

    def _answers(self) -> bool:
        try:
            return bool(get_json(f"{self.url}/health", 1.0))
        except Unavailable:
            return False

    def executions(self) -> list[Survivor]:
        """All it ever executed."""
        return [Survivor(trade["client_order_id"], trade["trade_id"]) for trade in pages(f"{self.url}/v1/trades")]

    def stop(self) -> None:
        Group(EXCHANGE).terminate()


@dataclass
class Client:
    """The load client, and its ledger as it grows."""

    name: str
    port: int
    ledger: Path
    log: Path
    rate: float
    workers: int = 8
    events: list[Event] = field(default_factory=list)
    _offset: int = 0

    def start(self) -> None:
        Group(CLIENT).remove()
        argv = [sys.executable, "-m", "services.genesis.client", "--name", self.name, "--port", str(self.port)]
        argv += ["--dns", config.DNS_ADDRESS, "--source", config.CLIENT_ADDRESS, "--ledger", str(self.ledger)]
        argv += ["--workers", str(self.workers), "--rate", str(self.rate)]
        spawn(CLIENT, argv, self.log, env=_bare_environment(), work=CHECKOUT)

    def read(self) -> list[Event]:
        """Every event so far, in the order they reached the disk."""
        if not self.ledger.exists():
            return self.events
        with self.ledger.open("rb") as file:
            file.seek(self._offset)
            chunk = file.read()
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.events += [event for event in map(read_event, whole.decode().splitlines()) if event]
        return self.events

    @contextmanager
    def held(self) -> Iterator[None]:
        """It does nothing in here, and goes on afterwards."""
        group = Group(CLIENT)
        group.freeze(True)
        try:
            yield
        finally:
            group.freeze(False)

    def stop(self) -> list[Event]:
        """Let it finish what it began, then end it; all its events."""
        group = Group(CLIENT)
        for pid in group.pids():
            os.kill(pid, signal.SIGTERM)
        poll(lambda: not group.alive(), STOP_CLIENT_S)
        group.remove()
        return self.read()


class DnsWatcher(threading.Thread):
    """Notes when the name's address changes, as its name server answers: asked ten times a second, nothing cached."""

    def __init__(self, name: str) -> None:
        super().__init__(name="dns-watcher", daemon=True)
        self._name = name
        self._ended = threading.Event()
        self.seen: list[tuple[float, str]] = []
        """(monotonic time, address), one per change."""

    def run(self) -> None:
        while not self._ended.wait(POLL_S):
            address = resolve(self._name)
            if address and (not self.seen or self.seen[-1][1] != address):
                self.seen.append((time.monotonic(), address))

    def changed_after(self, mono: float) -> float | None:
        """When the address first changed after ``mono``; None: it didn't."""
        return next((when for when, _ in self.seen[1:] if when > mono), None)

    @property
    def address(self) -> str | None:
        return self.seen[-1][1] if self.seen else None

    def end(self) -> None:
        self._ended.set()
        self.join(3.0)


def resolve(name: str) -> str | None:
    """What the domain's name server says at this moment; None: nothing."""
    try:
        answer = dns.query.udp(dns.message.make_query(name, dns.rdatatype.A), config.DNS_ADDRESS, timeout=1.0)
    except (dns.exception.DNSException, OSError):
        return None
    return next((str(item) for rrset in answer.answer for item in rrset if rrset.rdtype == dns.rdatatype.A), None)


def survivors(address: str, port: int) -> list[Survivor]:
    """Every trade the service at ``address`` has; Unavailable when it can't be read in full."""
    return [
        Survivor(trade["client_order_id"], trade["trade_id"])
        for trade in pages(f"http://{address}:{port}/export/trades")
    ]


def pages(url: str, after: int = 0) -> Iterator[dict[str, Any]]:
    """The items of a paged export (``trades``, ``next``), from the one behind ``after`` on."""
    following: int | None = after
    while following is not None:
        page = get_json(f"{url}?after={following}&limit={PAGE}", 10.0)
        yield from page["trades"]
        following = page["next"]


def get_json(url: str, timeout: float) -> Any:
    """The JSON document at ``url``, without any proxy; Unavailable when there is none."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as answer:
            return json.load(answer)
    except (OSError, ValueError) as error:
        raise Unavailable(f"{url}: {error}") from error


def _bare_environment() -> dict[str, str]:
    """Outsiders hold no credentials."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
