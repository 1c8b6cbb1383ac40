"""The load client: honest about DNS, stubborn about orders, and its ledger holds every acknowledgement."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dnslib import RR, A, DNSRecord

from lifeline.ledger import Event, acknowledged, first_round_trip, read_event
from services.genesis.client import Ledger, Name, Unresolved

pytestmark = pytest.mark.slow  # servers and their clients: for make test


class Zone:
    """A name server with one name; counts the questions."""

    def __init__(self, address: str, ttl: int) -> None:
        self.address, self.ttl, self.asked = address, ttl, 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                data, who = self._socket.recvfrom(4096)
            except OSError:
                return
            self.asked += 1
            reply = DNSRecord.parse(data).reply()
            reply.add_answer(RR(reply.q.qname, rdata=A(self.address), ttl=self.ttl))
            self._socket.sendto(reply.pack(), who)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def zone() -> Iterator[Zone]:
    zone = Zone("127.0.0.1", ttl=1)
    yield zone
    zone.close()


class Service(ThreadingHTTPServer):
    """Idempotent; ``sick``: answers 503 after having booked; ``away``: the exchange is, so orders are queued."""

    daemon_threads = True

    def __init__(self, address: str, port: int, book: dict[str, str], name: str) -> None:
        self.book, self.name, self.sick, self.away = book, name, False, False
        self.queue: set[str] = set()
        self.posts: list[str] = []
        super().__init__((address, port), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None: ...


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: Service

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.posts.append(order["client_order_id"])
        if self.server.away:
            self.server.queue.add(order["client_order_id"])
            return self._send(202, {**order, "state": "queued"})
        trade = self.server.book.setdefault(order["client_order_id"], f"X{len(self.server.book)}")
        self._send(503 if self.server.sick else 201, {**order, "state": "filled", "trade_id": trade})

    def do_GET(self) -> None:
        identity = self.path.rsplit("/", 1)[1]
        if identity in self.server.queue and not self.server.away:
            self.server.queue.discard(identity)
            self.server.book.setdefault(identity, f"X{len(self.server.book)}")
        if identity in self.server.queue:
            return self._send(200, {"client_order_id": identity, "state": "queued"})
        if identity not in self.server.book:
            return self._send(404, {"error": "no such order"})
        trade = self.server.book[identity]
        return self._send(200, {"client_order_id": identity, "state": "filled", "trade_id": trade})

    def _send(self, status: int, document: dict[str, Any]) -> None:
        payload = json.dumps({**document, "served_by": self.server.name}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None: ...


def read(path: Path) -> list[Event]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [event for event in map(read_event, lines) if event]


def until(condition: Any, within_s: float = 8.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


class Client:
    def __init__(self, folder: Path, zone: Zone, port: int) -> None:
        self.ledger = folder / "ledger.jsonl"
        argv = [sys.executable, "-m", "services.genesis.client", "--name", "trade.test", "--port", str(port)]
        argv += ["--dns", f"127.0.0.1:{zone.port}", "--ledger", str(self.ledger), "--workers", "4", "--rate", "100"]
        self.process = subprocess.Popen(argv)

    def stop(self) -> list[Event]:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=12) == 0
        return read(self.ledger)


def test_a_name_is_asked_for_again_only_when_its_ttl_is_over(
    zone: Zone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], time=time.time, sleep=time.sleep)
    monkeypatch.setattr("services.genesis.client.time", clock)
    name = Name("trade.test", "127.0.0.1", zone.port, Ledger(tmp_path / "l"))
    assert name.address() == "127.0.0.1"
    zone.address = "127.0.0.2"
    now[0] += 0.99
    assert name.address() == "127.0.0.1" and zone.asked == 1
    now[0] += 0.01
    assert name.address() == "127.0.0.2" and zone.asked == 2


def test_no_answer_is_an_error_and_asked_again(tmp_path: Path) -> None:
    name = Name("trade.test", "127.0.0.1", 1, Ledger(tmp_path / "l"))
    with pytest.raises(Unresolved):
        name.address()


def test_it_follows_the_name_to_the_new_primary_and_every_acknowledgement_is_in_the_book(
    zone: Zone, tmp_path: Path
) -> None:
    book: dict[str, str] = {}
    old = Service("127.0.0.1", 0, book, "old")
    port = old.server_address[1]
    client = Client(tmp_path, zone, port)
    try:
        until(lambda: len(acknowledged(read(client.ledger))) > 20)
        old.sick = True  # booked, and not acknowledged: the same id must be sent again
        until(lambda: any(event.kind == "failed" for event in read(client.ledger)))
        old.shutdown()
        old.server_close()
        cut = time.monotonic()
        new = Service("127.0.0.2", port, book, "new")
        zone.address = "127.0.0.2"
        until(lambda: first_round_trip(read(client.ledger), cut) is not None)
        events = client.stop()
    finally:
        client.process.kill()
    new.shutdown()
    acks = acknowledged(events)
    assert {ack.id: ack.value for ack in acks} == {ack.id: book[ack.id] for ack in acks}
    assert len(acks) == len({ack.id for ack in acks})
    assert {event.fields["served_by"] for event in events if event.kind == "acknowledged"} == {"old", "new"}
    # Nothing is left between: after a graceful end each order sent has its answer.
    answered = {event.fields["id"] for event in events if event.kind in ("acknowledged", "refused")}
    assert {event.fields["id"] for event in events if event.kind == "sent"} == answered
    questions = [event for event in events if event.kind == "resolved"]
    for earlier, later in itertools.pairwise(questions):
        assert later.mono >= float(earlier.fields["until"])


def test_what_was_queued_is_asked_for_and_not_sent_again_unless_it_was_forgotten(zone: Zone, tmp_path: Path) -> None:
    service = Service("127.0.0.1", 0, {}, "here")
    service.away = True
    client = Client(tmp_path, zone, service.server_address[1])
    try:
        until(lambda: len(service.queue) == 4)  # one of each worker
        first = set(service.queue)
        forgotten = min(first)
        service.queue.discard(forgotten)
        until(lambda: service.posts.count(forgotten) == 2)
        service.away = False
        until(lambda: len(acknowledged(read(client.ledger))) > 10)
        events = client.stop()
    finally:
        client.process.kill()
    service.shutdown()
    kinds = {
        kind: [e.fields["id"] for e in events if e.kind == kind] for kind in ("queued", "forgotten", "acknowledged")
    }
    assert set(kinds["queued"]) == first and kinds["forgotten"] == [forgotten]
    assert [service.posts.count(identity) for identity in sorted(first)] == [2, 1, 1, 1]
    assert first <= set(kinds["acknowledged"]) and len(set(kinds["acknowledged"])) == len(kinds["acknowledged"])
