"""What protection costs the service: orders a second through the real engine, with nothing, with Litestream beside it,
and with the commit barrier too."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from lab.bench import genesis
from lab.bench.barrier import in_threads
from lab.bench.page import Row, Section
from lab.bench.stand import Vault, replicating, say, spawned, vault, wait
from lifeline import replica
from lifeline.layout import Layout

TITLE = "The service's write rate"
NAME = "genesis"
CLIENTS = (1, 8, 64)
PROTECTIONS = ("none", "async", "vault")
Rates = dict[tuple[str, int], list[float]]


def measure(folder: Path, rounds: int, seconds: float) -> Section:
    """`rounds` of each protection in turn, `seconds` of orders by each number of clients."""
    rates: Rates = {}
    sent: list[float] = []
    with vault(folder / "s3") as into, genesis.exchange(folder) as trades_on:
        for number in range(rounds):
            for protection in PROTECTIONS:
                home = folder / f"{protection}-{number}"
                home.mkdir()
                with _protected(home, into, f"{protection}{number}", trades_on, protection) as port:
                    for clients in CLIENTS:
                        rates.setdefault((protection, clients), []).append(orders(port, clients, seconds))
                if protection == "vault":
                    sent.append(_sent(into, f"{protection}{number}"))
                found = ", ".join(f"{clients}: {rates[protection, clients][-1]:.0f}" for clients in CLIENTS)
                say(f"  {number + 1}/{rounds} {protection}: orders a second by clients {found}")
    how = (
        f"Orders through the engine's HTTP interface, each two transactions and a call to the exchange; {rounds} times "
        f"{seconds:g} s each. With `vault` an order passes the barrier twice: before it goes to the exchange, "
        "and before it is acknowledged. Engine, exchange, clients, Litestream and the store share the machine's cores."
    )
    return Section(TITLE, how, tuple(_judged(rates, sent)))


@contextlib.contextmanager
def _protected(home: Path, into: Vault, service: str, trades_on: str, protection: str) -> Iterator[int]:
    """The engine under that protection; yields its port."""
    genesis.make_database(home / "genesis.db", 0)
    with contextlib.ExitStack() as stack:
        socket = None
        if protection != "none":
            found = stack.enter_context(replicating(home / "ls", into, service, NAME, home / "genesis.db"))
            if protection == "vault":
                socket = Layout(home).agent_socket
                argv = [sys.executable, "-m", "lab.bench.door", str(home), NAME, str(found.path), str(found.socket)]
                stack.enter_context(spawned(argv, home / "door.log", env=genesis.environment(), stop_s=5))
                wait(socket.exists, 60, "the agent's door")
        yield stack.enter_context(genesis.engine(home, trades_on, socket))


def orders(port: int, clients: int, seconds: float) -> float:
    """Acknowledged orders a second, each client sending the next when it has its answer."""
    begun, lock, done = time.monotonic(), threading.Lock(), 0

    def client() -> None:
        nonlocal done
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        mine, prefix = 0, secrets.token_hex(8)
        while time.monotonic() - begun < seconds:
            order = {"client_order_id": f"{prefix}-{mine}", "symbol": "BTC", "side": "buy", "qty": 1}
            connection.request("POST", "/orders", json.dumps(order), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 503:
                continue  # not acknowledged: the same order again, as a client does
            if answer.status != 201:
                raise SystemExit(f"the engine refused an order: {answer.status} {text[:200].decode()}")
            mine += 1
        connection.close()
        with lock:
            done += mine

    in_threads(clients, client)
    return done / (time.monotonic() - begun)


def _sent(into: Vault, service: str) -> float:
    """Bytes an order in the vault as they came, before compaction."""
    sizes = [info.size for info in into.store.list(f"{replica.replica_prefix(service, 1, NAME)}/0000/")]
    return sum(sizes[1:]) / max(1, len(sizes) - 1)


def _judged(rates: Rates, sent: list[float]) -> Iterator[Row]:
    for protection in PROTECTIONS:
        for clients in CLIENTS:
            found, bare = rates[protection, clients], rates["none", clients]
            text = f"{statistics.median(found):.0f} orders a second ({min(found):.0f} to {max(found):.0f})"
            what = f"`{protection}`, {clients} client{'s' if clients > 1 else ''}"
            ratio = statistics.median(found) / statistics.median(bare)
            if protection == "none":
                yield Row(f"no protection, {clients} client{'s' if clients > 1 else ''}", text)
            elif protection == "async":
                because = "Litestream and the store take their share of the cores that engine and clients run on"
                yield Row(what, text, ratio, 0.95, at_least=True, because=because)
            else:
                yield Row(what, text, ratio)
    yield Row("sent to the vault a transaction group, before compaction", f"{statistics.median(sent):.0f} bytes")
