"""The load client: trades through the public name as a user would, and keeps the ledger the drill is judged by.

It honours DNS: an answer is used until its TTL is over and not asked for again before, whatever happens meanwhile. It
never believes an order executed before it is told so: what isn't acknowledged is sent again, under the same id. What
was taken into the queue is a promise: it isn't sent again, but asked for until it is done.

    python -m services.genesis.client --name trade.genesis.test --dns 198.18.0.53 --ledger FILE    (SIGTERM ends it)
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import secrets
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dns.exception
import dns.resolver

CONNECT_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 3.0
RETRY_PAUSE_S = 0.2
# After SIGTERM an order begun may still be finished, so that as few as possible end without a known fate.
FINISH_WITHIN_S = 6.0
SYMBOLS = ("BTC", "ETH", "SOL")


class Ledger:
    """Appends events as JSON lines; ``write`` returns when the line is on the disk. Writers at once share an fsync."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._taken = self._flushed = 0
        threading.Thread(target=self._flush, name="ledger", daemon=True).start()

    def write(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "wall": time.time(), "mono": time.monotonic(), **fields}) + "\n"
        with self._changed:
            self._lines.append(line.encode())
            self._taken += 1
            mine = self._taken
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._flushed >= mine)

    def _flush(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._lines))
                lines, self._lines, upto = self._lines, [], self._taken
            self._file.write(b"".join(lines))
            self._file.flush()
            os.fsync(self._file.fileno())
            with self._changed:
                self._flushed = upto
                self._changed.notify_all()


class Unresolved(Exception):
    """DNS gave no address."""


class Name:
    """A name and its address, asked for again only when the answer's TTL is over."""

    def __init__(self, name: str, server: str, port: int, ledger: Ledger, source: str | None = None) -> None:
        self._name = name
        self._resolver = dns.resolver.Resolver(configure=False)
        self._resolver.nameservers = [server]
        self._resolver.port = port
        self._source = source
        self._ledger = ledger
        self._lock = threading.Lock()
        self._address, self._until = "", float("-inf")

    def address(self) -> str:
        with self._lock:
            if time.monotonic() >= self._until:
                self._ask()
            return self._address

    def _ask(self) -> None:
        try:
            answer = self._resolver.resolve(self._name, "A", source=self._source, lifetime=2.0, search=False)
        except dns.exception.DNSException as error:
            raise Unresolved(f"{self._name}: {error!r}") from error
        if answer.rrset is None:
            raise Unresolved(f"{self._name}: empty answer")
        self._address = str(answer.rrset[0])
        self._until = time.monotonic() + answer.rrset.ttl
        self._ledger.write("resolved", address=self._address, ttl=answer.rrset.ttl, until=self._until)


class Worker(threading.Thread):
    """One user: an order at a time, at its own pace, each until it has an answer."""

    def __init__(
        self,
        number: int,
        name: Name,
        port: int,
        ledger: Ledger,
        every_s: float,
        stop: threading.Event,
        source: str | None,
    ) -> None:
        super().__init__(name=f"worker-{number}", daemon=True)
        self._prefix = f"{secrets.token_hex(3)}-{number}"
        self._dns, self._port, self._source = name, port, source
        self._ledger = ledger
        self._every_s = every_s
        self._stopping = stop
        self._random = random.Random(number)
        self._connection: http.client.HTTPConnection | None = None
        self._confirmed = ""
        self._promised = False

    def run(self) -> None:
        due = time.monotonic() + self._random.random() * self._every_s
        count = 0
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            count += 1
            self._trade(f"{self._prefix}-{count}")
            # After an outage the pace is the same as before: no burst to make good for it.
            due = max(due + self._every_s, time.monotonic())
        self._drop()

    def _trade(self, identity: str) -> None:
        order = {
            "client_order_id": identity,
            "symbol": self._random.choice(SYMBOLS),
            "side": self._random.choice(("buy", "sell")),
            "qty": self._random.randint(1, 20),
        }
        self._ledger.write("sent", id=identity)
        self._promised = False
        give_up: float | None = None
        while give_up is None or time.monotonic() < give_up:
            if self._attempt(identity, order):
                return
            if self._stopping.is_set() and give_up is None:
                give_up = time.monotonic() + FINISH_WITHIN_S
            time.sleep(RETRY_PAUSE_S)  # a user's pause before the same order again

    def _attempt(self, identity: str, order: dict[str, Any]) -> bool:
        """True when the answer is final."""
        began = time.monotonic()
        try:
            address = self._dns.address()
            if self._promised:
                status, answer = self._call(address, "GET", f"/orders/{identity}")
            else:
                status, answer = self._call(address, "POST", "/orders", order)
        except (Unresolved, OSError, http.client.HTTPException, ValueError) as error:
            self._failed(identity, repr(error))
            return False
        state = answer.get("state") if answer.get("client_order_id") == identity else None
        if status in (200, 201) and state == "filled":
            self._ledger.write(
                "acknowledged",
                id=identity,
                value=answer["trade_id"],
                began=began,
                served_by=answer.get("served_by"),
                epoch=answer.get("epoch"),
            )
            self._read_back(address, identity, answer["trade_id"], began)
            return True
        if status in (200, 202) and state == "queued":
            if not self._promised:
                self._ledger.write("queued", id=identity, served_by=answer.get("served_by"))
            self._promised = True
            return False
        if status == 404 and self._promised:
            self._ledger.write("forgotten", id=identity)
            self._promised = False
            return False
        if 400 <= status < 500 or state == "rejected":
            self._ledger.write("refused", id=identity, status=status, answer=answer)
            return True
        self._failed(identity, f"{status}: {str(answer)[:200]}")
        return False

    def _read_back(self, address: str, identity: str, value: str, began: float) -> None:
        """The first write at an address, and the first after a failure, must be there for others to read."""
        if self._confirmed == address:
            return
        try:
            status, answer = self._call(self._dns.address(), "GET", f"/orders/{identity}")
        except (Unresolved, OSError, http.client.HTTPException, ValueError) as error:
            self._failed(identity, f"read back: {error!r}")
            return
        if status == 200 and answer.get("trade_id") == value:
            self._confirmed = address
            self._ledger.write("read_back", id=identity, began=began, served_by=answer.get("served_by"))
        else:
            self._failed(identity, f"read back: {status}: {str(answer)[:200]}")

    def _failed(self, identity: str, reason: str) -> None:
        self._drop()
        self._confirmed = ""
        self._ledger.write("failed", id=identity, reason=reason)

    def _call(self, address: str, method: str, path: str, document: Any = None) -> tuple[int, dict[str, Any]]:
        connection = self._connected(address)
        body = None if document is None else json.dumps(document)
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.will_close:
            self._drop()
        return response.status, answer

    def _connected(self, address: str) -> http.client.HTTPConnection:
        if self._connection is not None and self._connection.host != address:
            self._drop()
        if self._connection is None:
            source = (self._source, 0) if self._source else None
            connection = http.client.HTTPConnection(
                address, self._port, timeout=CONNECT_TIMEOUT_S, source_address=source
            )
            connection.connect()
            connection.sock.settimeout(ANSWER_TIMEOUT_S)
            self._connection = connection
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def main(argv: Sequence[str]) -> int:
    """Trade until SIGTERM."""
    parser = argparse.ArgumentParser(prog="client", description="Trades through the public name and keeps the ledger.")
    parser.add_argument("--name", required=True, help="the service's public name")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--dns", required=True, help="ADDRESS or ADDRESS:PORT of the DNS server")
    parser.add_argument("--source", help="the local address to speak from")
    parser.add_argument("--ledger", type=Path, required=True, help="where to keep the ledger (JSON lines)")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rate", type=float, default=60.0, help="orders a second, all workers together")
    args = parser.parse_args(argv)
    server, _, dns_port = args.dns.partition(":")
    ledger, stop = Ledger(args.ledger), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    name = Name(args.name, server, int(dns_port or 53), ledger, args.source)
    ledger.write("started", workers=args.workers, rate=args.rate)
    workers = [
        Worker(number, name, args.port, ledger, args.workers / args.rate, stop, args.source)
        for number in range(args.workers)
    ]
    for worker in workers:
        worker.start()
    stop.wait()
    deadline = time.monotonic() + FINISH_WITHIN_S + ANSWER_TIMEOUT_S + CONNECT_TIMEOUT_S
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    ledger.write("stopped", unfinished=sum(worker.is_alive() for worker in workers))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
