"""The engine's HTTP API.  docs/genesis.md is its reference."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import apsw

from . import memory
from .breaker import STATES
from .config import Config
from .courier import Courier
from .desk import Desk
from .faults import Faults
from .metrics import Gauge, Labels, render
from .model import Ask, Conflict, Invalid, NotAcknowledged, Order
from .venue import Venue

MAX_BODY = 16_384
PAGE_MAX = 1000
IDLE_S = 60
HEALTH_CACHED_S = 1.0
_TOKEN = re.compile(r"[A-Za-z0-9_.-]{1,100}")

PLACED = {"filled": 201, "queued": 202, "rejected": 422}

Answer = tuple[int, Any]


class Api:
    """Requests → answers; knows nothing of sockets."""

    def __init__(self, desk: Desk, venue: Venue, courier: Courier, config: Config) -> None:
        self._desk = desk
        self._venue = venue
        self._courier = courier
        self._config = config
        self._faults = Faults() if config.admin_faults else None
        self._started = time.time()
        self._health_lock = threading.Lock()
        self._beaten: tuple[float, str | None] = (float("-inf"), None)

    def answer(self, method: str, target: str, body: bytes) -> Answer:
        """Status and JSON document for a request; a text where the answer is one."""
        parts = urlsplit(target)
        path = [unquote(part) for part in parts.path.strip("/").split("/")]
        route = self._routes().get((method, path[0]))
        if route is None:
            return 404, {"error": f"no such thing: {method} {parts.path}"}
        try:
            return route(path[1:], parse_qs(parts.query), body)
        except Invalid as error:
            return 400, {"error": str(error)}
        except Conflict as error:
            return 409, {"error": str(error)}
        except NotAcknowledged as error:
            return 503, {"error": str(error), "state": "unknown"}
        except apsw.Error as error:
            return 503, {"error": f"database: {error}", "state": "unknown"}

    def _routes(self) -> dict[tuple[str, str], Callable[[list[str], dict[str, list[str]], bytes], Answer]]:
        return {
            ("GET", "health"): self._health,
            ("GET", "metrics"): self._metrics,
            ("POST", "orders"): self._place,
            ("GET", "orders"): self._order,
            ("GET", "trades"): self._trades,
            ("GET", "export"): self._trades,
            ("GET", "positions"): self._positions,
            ("POST", "probe"): self._write_probe,
            ("GET", "probe"): self._read_probe,
            **({("POST", "admin"): self._misbehave} if self._faults else {}),
        }

    def _place(self, path: list[str], query: dict[str, list[str]], body: bytes) -> Answer:
        order = self._desk.place(Ask.from_json(_json(body), self._config.symbols))
        return PLACED[order.state], self._shown(order)

    def _order(self, path: list[str], query: dict[str, list[str]], body: bytes) -> Answer:
        if len(path) != 1:
            raise Invalid("GET /orders/<client_order_id>")
        order = self._desk.show(path[0])
        if order is None:
            return 404, {"error": f"no order {path[0]}"}
        return 200, self._shown(order)

    def _shown(self, order: Order) -> dict[str, Any]:
        document = asdict(order)
        del document["id"]
        return {**document, "served_by": self._config.host}

    def _trades(self, path: list[str], query: dict[str, list[str]], body: bytes) -> Answer:
        after, limit = _whole(query, "after", 0, 2**62), _whole(query, "limit", 100, PAGE_MAX)
        trades = self._desk.store.trades(after, limit)
        return 200, {"trades": trades, "next": trades[-1]["id"] if len(trades) == limit else None}

    def _positions(self, path: list[str], query: dict[str, list[str]], body: bytes) -> Answer:
        store = self._desk.store
        return 200, {"positions": store.positions(), "cash_cents": store.cash(), "tier": store.tier()}

    def _write_probe(self, path: list[str], query: dict[str, list[str]], body: bytes) -> Answer:
        raw = _json(body)
        token = raw.get("token") if isinstance(raw, dict) else None
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise Invalid("token: 1 to 100 letters, digits, '-', '_' and '.'")
        self._desk.probe(token)
        return 201, {"token": token, "served_by": self._config.host, "epoch": self._config.epoch}

    def _read_probe(self, path: list[str], query: dict[str, list[str]], body: bytes) -> Answer:
        if len(path) != 1 or not self._desk.store.has_probe(path[0]):
            return 404, {"error": "no such probe"}
        return 200, {"token": path[0], "served_by": self._config.host, "epoch": self._config.epoch}

    def _health(self, path: list[str], query: dict[str, list[str]], body: bytes) -> Answer:
        gate, problem = self._desk.gate, self._write_problem()
        return (503 if problem else 200), {
            "status": problem or "ok",
            "role": self._config.role,
            "epoch": self._config.epoch,
            "host": self._config.host,
            "accepting": not gate.reasons,
            "closed_for": gate.reasons,
            "in_flight": gate.inside,
            "reconciled": self._desk.reconciled,
            "exchange": {gateway.name: gateway.breaker.state for gateway in self._venue.gateways},
            "queued": (self._waiting() or (None,))[0],
            "sqlite": apsw.sqlite_lib_version(),
        }

    def _metrics(self, path: list[str], query: dict[str, list[str]], body: bytes) -> Answer:
        calls: dict[Labels, int] = {
            (("exchange", gateway.name), ("result", outcome)): count
            for gateway in self._venue.gateways
            for outcome, count in gateway.counted().items()
        }
        return 200, render(self._desk.counters.values(), calls, self._gauges())

    def _gauges(self) -> Iterator[Gauge]:
        if waiting := self._waiting():
            yield "genesis_orders_queued", (), waiting[0]
            yield "genesis_orders_pending", (), waiting[1]
        yield "genesis_accepting", (), not self._desk.gate.reasons
        yield "genesis_reconciled", (), self._desk.reconciled
        for gateway in self._venue.gateways:
            now = gateway.breaker.state
            for state in STATES:
                yield "genesis_exchange_state", (("exchange", gateway.name), ("state", state)), state == now
        if self._courier.differences is not None:
            yield "genesis_exchange_differences", (), self._courier.differences
        reading = memory.read(self._config.memory_limit)
        yield "genesis_memory_bytes", (), reading.used
        yield "genesis_memory_limit_bytes", (), reading.limit
        yield "genesis_started_timestamp_seconds", (), self._started

    def _waiting(self) -> tuple[int, int] | None:
        """(queued, of unknown fate); None: the database can't be read, and the other figures matter all the more."""
        try:
            return self._desk.store.waiting()
        except apsw.Error:
            return None

    def _misbehave(self, path: list[str], query: dict[str, list[str]], body: bytes) -> Answer:
        assert self._faults is not None
        return (200, self._faults.set(_json(body))) if path == ["faults"] else (404, {"error": "no such fault"})

    def _write_problem(self) -> str | None:
        """A real write at most once a second, however many ask: a full disk is found by writing, nothing else."""
        with self._health_lock:
            if time.monotonic() - self._beaten[0] > HEALTH_CACHED_S:
                problem = None
                try:
                    self._desk.store.beat()
                except apsw.Error as error:
                    problem = f"the database can't be written: {error}"
                self._beaten = (time.monotonic(), problem)
            return self._beaten[1]


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        raise Invalid("the body is not JSON") from None


def _whole(query: dict[str, list[str]], name: str, default: int, most: int) -> int:
    text = query.get(name, [str(default)])[0]
    if not text.isdecimal() or int(text) > most or (name == "limit" and int(text) < 1):
        raise Invalid(f"{name}: a whole number, at most {most}")
    return int(text)


class Server(ThreadingHTTPServer):
    """One thread per connection; connections are kept alive."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], api: Api) -> None:
        self.api = api
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "genesis"
    timeout = IDLE_S
    # Head and body in one packet: otherwise Nagle and delayed ACKs cost 40 ms a request.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        self._respond(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            self._send(
                413 if length.isdecimal() else 411, {"error": f"a body of at most {MAX_BODY} bytes, with its length"}
            )
            return
        self._respond(self.rfile.read(int(length)))

    def _respond(self, body: bytes) -> None:
        try:
            status, document = self.server.api.answer(self.command, self.path, body)
        except Exception as error:  # a defect must reach the client as one, and the log
            self.log_error("%s %s: %r", self.command, self.path, error)
            status, document = 500, {"error": f"internal: {type(error).__name__}", "state": "unknown"}
        self._send(status, document)

    def _send(self, status: int, document: Any) -> None:
        text = isinstance(document, str)
        payload = (document if text else json.dumps(document)).encode()
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4" if text else "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """The audit log has what matters."""
