"""The exchange's HTTP API, and its ways to misbehave (POST /admin/faults)."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from dataclasses import asdict, dataclass, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from services.genesis.exchange.book import Book, Mismatch

MAX_BODY = 16_384
PAGE_MAX = 1000


@dataclass(frozen=True)
class Faults:
    """How it misbehaves now. Rates are probabilities, 0 to 1.

    latency_s: before each answer; error_before: 500 and nothing happened; error_after: executed, then 500;
    reject: refuses new orders; down: connections are closed without an answer.
    """

    latency_s: float = 0.0
    error_before: float = 0.0
    error_after: float = 0.0
    reject: float = 0.0
    down: bool = False

    @classmethod
    def from_json(cls, raw: Any) -> Faults:
        """ValueError when a field is unknown or out of range."""
        if not isinstance(raw, dict) or not set(raw) <= {field.name for field in fields(cls)}:
            raise ValueError(f"the fields are {', '.join(field.name for field in fields(cls))}")
        faults = cls(**raw)
        rates = (faults.error_before, faults.error_after, faults.reject)
        if (
            not all(isinstance(rate, int | float) and 0 <= rate <= 1 for rate in rates)
            or not 0 <= faults.latency_s <= 60
        ):
            raise ValueError("rates are 0 to 1, latency_s is 0 to 60")
        return faults


class Exchange(ThreadingHTTPServer):
    """One gateway to the book. Serves until ``shutdown``."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], book: Book, seed: int = 0) -> None:
        self.book = book
        self.faults = Faults()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def happens(self, rate: float) -> bool:
        with self._lock:
            return self._random.random() < rate

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "exchange"
    timeout = 60
    wbufsize = -1
    disable_nagle_algorithm = True
    server: Exchange

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/health":
            return self._send(200, {"status": "ok"})
        if parts.path == "/admin/faults":
            return self._send(200, asdict(self.server.faults))
        if self._misbehaved():
            return None
        if parts.path == "/v1/trades":
            query = parse_qs(parts.query)
            after, limit = int(query.get("after", ["0"])[0]), min(PAGE_MAX, int(query.get("limit", ["100"])[0]))
            fills = self.server.book.fills(after, limit)
            return self._send(200, {"trades": fills, "next": fills[-1]["number"] if len(fills) == limit else None})
        if parts.path.startswith("/v1/orders/"):
            order = self.server.book.find(unquote(parts.path.removeprefix("/v1/orders/")))
            return self._send(200, order) if order else self._send(404, {"error": "never seen"})
        return self._send(404, {"error": "no such thing"})

    def do_POST(self) -> None:
        try:
            raw = json.loads(self.rfile.read(min(MAX_BODY, int(self.headers.get("Content-Length", "0")))))
            if self.path == "/admin/faults":
                self.server.faults = Faults.from_json(raw)
                return self._send(200, asdict(self.server.faults))
            if self.path != "/v1/orders":
                return self._send(404, {"error": "no such thing"})
            if not self._misbehaved():
                self._place(raw)
        except (ValueError, KeyError, TypeError) as error:
            self._send(400, {"error": str(error)})

    def _place(self, raw: Any) -> None:
        reject = "the exchange is not in the mood" if self.server.happens(self.server.faults.reject) else None
        identity, symbol, side, qty = raw["client_order_id"], raw["symbol"], raw["side"], raw["qty"]
        if side not in ("buy", "sell") or not isinstance(qty, int) or qty < 1:
            raise ValueError("side is buy or sell, qty a whole number above 0")
        try:
            new, order = self.server.book.place(str(identity), str(symbol), side, qty, reject)
        except Mismatch as error:
            return self._send(409, {"error": str(error)})
        if self.server.happens(self.server.faults.error_after):
            return self._send(500, {"error": "after the fact"})
        return self._send(201 if new else 200, order)

    def _misbehaved(self) -> bool:
        faults = self.server.faults
        if faults.latency_s:
            time.sleep(faults.latency_s)  # the fault itself: a slow exchange
        if faults.down:
            self.close_connection = True
            return True
        if self.server.happens(faults.error_before):
            self._send(500, {"error": "before the fact"})
            return True
        return False

    def _send(self, status: int, document: Any) -> None:
        payload = json.dumps(document).encode()
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Its book is its log."""
