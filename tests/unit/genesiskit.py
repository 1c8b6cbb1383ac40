"""The engine in a test's hands: with a fake exchange and a fake vault in one process, or as the real process."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import apsw

from lifeline.service import Service
from services.genesis.engine.audit import Audit
from services.genesis.engine.config import Config
from services.genesis.engine.courier import Courier
from services.genesis.engine.desk import Desk
from services.genesis.engine.model import Ask, Execution, NotInVault, Order
from services.genesis.engine.store import Store
from services.genesis.engine.venue import Venue
from services.genesis.engine.web import Api

REPO = Path(__file__).resolve().parents[2]
SERVICE = Service.load(REPO / "services/genesis/service.toml")
EXCHANGE = {"GENESIS_EXCHANGE": "http://127.0.0.1:1"}


class Cut(BaseException):
    """The power is gone: nothing of the engine's runs any more."""


class FakeExchange:
    """Idempotent like the real one; ``before`` and ``after`` may raise."""

    def __init__(self) -> None:
        self.executions: dict[str, Execution] = {}
        self.sent: list[str] = []
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None

    def execute(self, order: Order) -> Execution:
        self.sent.append(order.client_order_id)
        self.before()
        if order.client_order_id not in self.executions:
            number = len(self.executions) + 1
            self.executions[order.client_order_id] = Execution(True, f"X{number}", 100 + number, "2026-01-01T00:00:00Z")
        self.after()
        return self.executions[order.client_order_id]

    def look_up(self, client_order_id: str) -> Execution | None:
        self.before()
        return self.executions.get(client_order_id)


class Vault:
    """A barrier that keeps what the vault holds: the tables as they were at the last successful call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.calls = 0
        self.holds: dict[str, str] = {}
        self.fail_on: set[int] = set()
        self.cut_on: int | None = None

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.cut_on:
            raise Cut
        if self.calls in self.fail_on or 0 in self.fail_on:
            raise NotInVault("the vault does not answer")
        rows = apsw.Connection(str(self._path)).execute("SELECT client_order_id, state FROM orders")
        self.holds = {str(identity): str(state) for identity, state in rows}


class Rig:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.exchange = FakeExchange()
        self.vault = Vault(folder / "genesis.db")
        self.open()

    def open(self, epoch: int = 1) -> None:
        self.store = Store(self.folder / "genesis.db", epoch=epoch)
        self.desk = Desk(self.store, self.exchange, self.vault, Audit(self.folder / "logs"))

    def api(self, **env: str) -> Api:
        venue = Venue({"main": "http://127.0.0.1:1"}, 0.1)
        courier = Courier(self.desk, venue, Audit(self.folder / "logs"), lambda: None)
        return Api(self.desk, venue, courier, config(self.folder, **env))

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "logs" / "audit.jsonl").read_text().splitlines()]


def ask(identity: str = "c1", symbol: str = "BTC", side: Any = "buy", qty: int = 5) -> Ask:
    return Ask(identity, symbol, side, qty)


def violations(path: Path) -> dict[str, list[Any]]:
    """The invariants of service.toml, as the library will ask them."""
    found = {}
    for invariant in SERVICE.invariants:
        rows = list(apsw.Connection(str(path)).execute(invariant.sql))
        if bool(rows) is (invariant.expect == "no-rows"):
            found[invariant.name] = rows
    return found


def config(folder: Path, **env: str) -> Config:
    return Config.load({"GENESIS_HOME": str(folder), "GENESIS_LOGS": str(folder / "logs"), **EXCHANGE, **env})


class FakeAgent(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    calls = 0


class _AgentHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        FakeAgent.calls += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"txid": 1}')

    def log_message(self, format: str, *args: Any) -> None: ...
    def address_string(self) -> str:
        return "unix"


class Process:
    def __init__(self, folder: Path, exchange: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        agent = FakeAgent(str(folder / "agent.sock"), _AgentHandler)
        threading.Thread(target=agent.serve_forever, args=(0.05,), daemon=True).start()
        self.agent = agent
        self.environment = {
            **os.environ,
            **{"LIFELINE_ROLE": "primary", "LIFELINE_EPOCH": "3", "LIFELINE_HOST": "here"},
            **{"LIFELINE_AGENT_SOCKET": str(folder / "agent.sock"), "GENESIS_EXCHANGE": f"http://127.0.0.1:{exchange}"},
            **{"GENESIS_HOME": str(folder / "home"), "GENESIS_LOGS": str(folder / "logs")},
            **{"GENESIS_ADDRESS": "127.0.0.1", "GENESIS_PORT": str(self.port)},
            **{"GENESIS_ADMIN_FAULTS": "1", "GENESIS_MEMORY_LIMIT_MB": "200"},
        }
        self.start()

    def command(self, verb: str) -> list[str]:
        return [sys.executable, str(REPO / "services/genesis/bin/genesis"), verb]

    def start(self) -> None:
        self.child = subprocess.Popen(self.command("serve"), env=self.environment)
        assert self.hook("reconcile") == 0

    def hook(self, verb: str) -> int:
        done = subprocess.run(self.command(verb), env=self.environment, capture_output=True, timeout=20, check=False)
        return done.returncode

    def call(self, path: str, document: Any = None) -> tuple[int, Any]:
        data = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
