"""The exchange is ill: two real gateways to one book on loopback, with faults put in from outside.

Whatever they do, an order is executed once, acknowledged only for what is so, and none that was taken is forgotten.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest

from services.genesis.engine.audit import Audit
from services.genesis.engine.breaker import Rules
from services.genesis.engine.courier import Courier
from services.genesis.engine.desk import Desk
from services.genesis.engine.model import Ask, NoAnswer, NotAcknowledged, NotInVault, Order
from services.genesis.engine.store import Store
from services.genesis.engine.venue import Venue
from services.genesis.engine.web import Api
from services.genesis.exchange.book import Book
from services.genesis.exchange.server import Exchange
from tests.unit.genesiskit import config, violations

pytestmark = pytest.mark.slow  # servers and their clients: for make test

RULES = Rules(failures=3, window=10, enough=6, timeouts=0.5, rest_s=0.1, trials=2)
TIMEOUT_S = 3.0  # a busy machine must not look like an ill exchange
FINE: dict[str, Any] = {}
DOWN = {"down": True}
SLOW = {"latency_s": 5.0}
NEVER = threading.Event()


class World:
    """An exchange with two gateways, and an engine that trades on it."""

    def __init__(self, folder: Path, gateways: int = 2) -> None:
        self.folder = folder
        self.book = Book(folder / "exchange.db")
        self.gateways = [Exchange(("127.0.0.1", 0), self.book) for _ in range(gateways)]
        for gateway in self.gateways:
            threading.Thread(target=gateway.serve_forever, args=(0.02,), daemon=True).start()
        self.barriers, self.barrier_fails = 0, False
        self.comparisons: list[dict[str, Any] | None] = []
        self.start()

    def start(self, queue_limit: int = 100) -> None:
        """The engine begins (anew): nothing is left of the one before but the database."""
        self.store = Store(self.folder / "genesis.db", epoch=1)
        self.audit = Audit(self.folder / "logs")
        names = ("main", "backup")[: len(self.gateways)]
        urls = {
            name: f"http://127.0.0.1:{one.server_address[1]}" for name, one in zip(names, self.gateways, strict=True)
        }
        self.venue = Venue(urls, TIMEOUT_S, rules=RULES, changed=lambda name, now: self.audit(now.state, exchange=name))
        self.desk = Desk(self.store, self.venue, self.barrier, self.audit, queue_limit=queue_limit)
        self.courier = Courier(self.desk, self.venue, self.audit, self.compare)

    def barrier(self) -> None:
        self.barriers += 1
        if self.barrier_fails:
            raise NotInVault("the vault doesn't answer")

    def compare(self) -> dict[str, Any] | None:
        """Trades here and there, as the compare hook would say it."""
        here = {one["trade_id"] for one in self.store.trades(0, 1000)}
        there = {one["trade_id"] for one in self.book.fills(0, 1000)}
        self.comparisons.append({"agree": here == there, "differences": sorted(here ^ there)})
        return self.comparisons[-1]

    def ill(self, main: dict[str, Any], backup: dict[str, Any] | None = None) -> None:
        """As anybody may do it from outside."""
        for gateway, faults in zip(self.gateways, (main, main if backup is None else backup), strict=False):
            connection = http.client.HTTPConnection("127.0.0.1", gateway.server_address[1], timeout=2)
            connection.request("POST", "/admin/faults", json.dumps(faults))
            assert connection.getresponse().status == 200
            connection.close()

    def place(self, identity: str = "c1") -> Order:
        return self.desk.place(Ask(identity, "BTC", "buy", 5))

    def until(self, reached: Callable[[], bool], meanwhile: Callable[[], object] = lambda: None) -> None:
        deadline = time.monotonic() + 30
        while not reached():
            assert time.monotonic() < deadline
            meanwhile()
            time.sleep(0.02)

    def rounds_until(self, reached: Callable[[], bool]) -> None:
        self.until(reached, lambda: self.courier.round(NEVER))

    def states(self) -> dict[str, str]:
        return {gateway.name: gateway.breaker.state for gateway in self.venue.gateways}

    def executed(self) -> list[str]:
        return [fill["client_order_id"] for fill in self.book.fills(0, 1000)]

    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in (self.folder / "logs/audit.jsonl").read_text().splitlines()]

    def close(self) -> None:
        for gateway in self.gateways:
            gateway.shutdown()
            gateway.server_close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.desk.reconcile()
    yield world
    assert violations(tmp_path / "genesis.db") == {}
    world.close()


def test_the_first_connection_is_used_while_it_is_well(world: World) -> None:
    assert world.place().state == "filled"
    main, backup = (gateway.counted() for gateway in world.venue.gateways)
    assert (main["answered"], backup["answered"]) == (1, 0)


@pytest.mark.parametrize("fault", [DOWN, SLOW, {"error_before": 1.0}, {"error_after": 1.0}], ids=str)
def test_an_ill_connection_is_left_for_the_other_and_every_order_is_executed_once(
    world: World, fault: dict[str, Any]
) -> None:
    world.ill(fault, FINE)
    assert [world.place(f"c{number}").state for number in range(5)] == ["filled"] * 5
    assert world.executed() == [f"c{number}" for number in range(5)]
    assert world.states() == {"main": "open", "backup": "closed"}
    calls = world.venue.gateways[0].counted()
    assert calls["failed"] + calls["timed out"] == RULES.failures  # nobody else waited for it
    if fault == SLOW:
        assert calls["failed"] == 0


def test_a_connection_that_is_well_again_is_used_again(world: World) -> None:
    world.ill(DOWN, FINE)
    for number in range(4):
        world.place(f"c{number}")
    world.ill(FINE)
    world.rounds_until(lambda: world.states()["main"] == "closed")
    before = world.venue.gateways[1].counted()
    world.place("again")
    assert world.venue.gateways[1].counted() == before
    assert [event for event in world.events() if event in ("open", "half-open", "closed")][-1] == "closed"


def test_no_connection_queues_the_order_durably_and_says_so(world: World) -> None:
    world.ill(DOWN)
    order = world.place()
    assert order.state == "queued" and "exchange" in str(order.reason)
    assert world.executed() == []
    assert world.place() == order  # the same id again is the same order, and isn't sent behind the courier's back
    world.start()
    assert [waiting.client_order_id for waiting in world.store.queued(10)] == ["c1"]


def test_what_is_queued_is_delivered_once_when_the_exchange_is_back_and_the_books_are_compared(world: World) -> None:
    world.ill(DOWN)
    assert {world.place(f"c{number}").state for number in range(24)} == {"queued"}
    world.courier.round(NEVER)
    assert world.states() == {"main": "open", "backup": "open"} and world.comparisons == []
    world.ill(FINE)
    world.rounds_until(lambda: world.store.waiting() == (0, 0))
    assert world.executed() == [f"c{number}" for number in range(24)]  # in the order in which they came
    assert {world.place(f"c{number}").state for number in range(24)} == {"filled"}
    world.rounds_until(lambda: world.courier.differences is not None)
    assert world.courier.differences == 0 and world.comparisons[-1] == {"agree": True, "differences": []}
    world.courier.round(NEVER)
    assert len(world.comparisons) == 1
    assert len(world.executed()) == 24


def test_an_answer_that_got_lost_before_the_order_was_queued_makes_no_second_trade(world: World) -> None:
    world.ill({"error_after": 1.0})
    assert world.place().state == "queued"
    assert world.executed() == ["c1"]  # it was executed, and nobody was told
    world.ill(FINE)
    world.rounds_until(lambda: world.store.waiting() == (0, 0))
    assert world.executed() == ["c1"] and world.store.positions() == {"BTC": 5}


def test_an_exchange_that_flaps_executes_each_order_once(world: World) -> None:
    stop = threading.Event()
    runner = threading.Thread(target=world.courier.run, args=(stop,))
    runner.start()
    flaps: list[dict[str, Any]] = [DOWN, {"error_after": 0.5}, FINE, {"error_before": 0.5}, {"error_after": 1.0}, FINE]
    with ThreadPoolExecutor(6) as pool:

        def insist(number: int) -> str:
            for _ in range(20):
                try:
                    return world.place(f"c{number}").state
                except NotAcknowledged:
                    time.sleep(0.02)
            raise AssertionError

        world.ill(DOWN)
        taken = pool.map(insist, range(24))
        world.until(lambda: world.store.waiting()[0] > 0)  # at least one was queued while nothing answered
        for number, flap in enumerate(flaps * 2):
            world.ill(flap, flaps[(number + 2) % len(flaps)])
            time.sleep(0.05)  # how long each mood lasts: the fault itself
        states = set(taken)
    world.ill(FINE)
    world.until(lambda: world.store.waiting() == (0, 0))
    stop.set()
    runner.join(10)
    assert states <= {"filled", "queued"} and "queued" in states
    assert sorted(world.executed()) == sorted(f"c{number}" for number in range(24))
    assert world.store.positions() == {"BTC": 120}


def test_a_kill_between_the_exchange_and_the_book_is_made_good_by_the_next_start(world: World) -> None:
    world.ill(DOWN)
    world.place()
    world.book.place("c1", "BTC", "buy", 5)  # sent by a courier that died before it could book it
    world.ill(FINE)
    world.start()
    world.desk.reconcile()
    world.rounds_until(lambda: world.store.waiting() == (0, 0))
    assert world.place().state == "filled" and world.executed() == ["c1"]


def test_a_full_queue_takes_no_more_and_forgets_none(world: World) -> None:
    world.start(queue_limit=2)
    world.desk.reconcile()
    world.ill(DOWN)
    assert [world.place(identity).state for identity in ("c1", "c2")] == ["queued", "queued"]
    with pytest.raises(NotAcknowledged, match="the queue is full"):
        world.place("c3")
    assert world.desk.counters.values()["genesis_trades_failed_total", (("reason", "barrier"),)] == 0
    world.ill(FINE)
    world.rounds_until(lambda: world.store.waiting()[0] == 0)
    assert world.executed() == ["c1", "c2"]
    assert world.place("c3").state == "filled"


def test_queued_is_acknowledged_only_when_the_vault_has_it(world: World) -> None:
    world.ill(DOWN)
    world.barrier_fails = True
    with pytest.raises(NotInVault):
        world.place()
    assert world.store.waiting() == (0, 1)  # its intent may not be in the vault: it is not for the courier to send
    world.barrier_fails = False
    assert world.place().state == "queued"


def test_a_promotion_while_the_exchange_is_away_takes_orders_and_sends_none_before_it_has_asked(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.store.intend(Ask("old", "BTC", "buy", 1))
    world.ill(DOWN)
    with pytest.raises(NoAnswer):
        world.desk.reconcile()
    assert world.desk.gate.reasons == [] and not world.desk.reconciled
    world.ill(FINE)
    assert world.place().state == "queued"
    world.rounds_until(lambda: world.venue.reachable)
    world.courier.round(NEVER)
    assert world.executed() == []
    world.desk.reconcile()
    world.courier.round(NEVER)
    assert world.executed() == ["c1"]  # what its client was never told about is not sent: its client may
    world.close()


def test_what_the_exchange_refuses_for_good_holds_up_nobody(world: World) -> None:
    world.book.place("c1", "ETH", "sell", 9)  # another order has this id there
    world.ill(DOWN)
    world.place("c1")
    world.place("c2")
    world.ill(FINE)
    world.rounds_until(lambda: world.store.waiting() == (0, 0))
    refused = world.place("c1")
    assert refused.state == "rejected" and "409" in str(refused.reason)
    assert world.place("c2").state == "filled"


def test_a_connection_that_was_closed_while_idle_says_nothing_of_the_exchange(world: World) -> None:
    world.place("c1")
    connection = world.venue.gateways[0]._local.connection
    connection.sock.shutdown(socket.SHUT_RDWR)
    world.place("c2")
    assert world.venue.gateways[0].counted() == {"answered": 2, "failed": 0, "timed out": 0}


def test_one_connection_alone_has_all_the_time(tmp_path: Path) -> None:
    world = World(tmp_path, gateways=1)
    world.desk.reconcile()
    world.ill({"latency_s": TIMEOUT_S * 0.55})
    assert world.place().state == "filled"
    world.close()


def test_the_database_keeps_the_queue_honest(world: World) -> None:
    world.place()
    with pytest.raises(apsw.ConstraintError, match="only a pending order"):
        world.store._writer.execute("INSERT INTO queue VALUES (1, 't', 'r')")


def test_a_database_of_before_the_queue_is_taken_over(tmp_path: Path) -> None:
    store = Store(tmp_path / "genesis.db")
    store.intend(Ask("c1", "BTC", "buy", 5))
    store._writer.execute("DROP TRIGGER settled_is_not_queued; DROP TABLE queue")
    store.close()
    again = Store(tmp_path / "genesis.db")
    assert again.pending()[0].state == "pending"
    queued = again.queue(1, "away", 10)
    assert queued is not None and queued.state == "queued"


def test_the_api_says_queued_and_metrics_and_health_say_how_the_exchange_is(world: World) -> None:
    api = Api(world.desk, world.venue, world.courier, config(world.folder))
    order = json.dumps({"client_order_id": "c1", "symbol": "BTC", "side": "buy", "qty": 1}).encode()
    world.ill(DOWN)
    status, answer = api.answer("POST", "/orders", order)
    assert (status, answer["state"]) == (202, "queued")
    assert api.answer("GET", "/orders/c1", b"")[1]["state"] == "queued"
    health = api.answer("GET", "/health", b"")[1]
    assert health["exchange"] == {"main": "open", "backup": "open"} and health["queued"] == 1 and health["accepting"]
    text = api.answer("GET", "/metrics", b"")[1]
    assert 'genesis_exchange_state{exchange="main",state="open"} 1\n' in text
    assert 'genesis_exchange_state{exchange="main",state="closed"} 0\n' in text
    assert "\ngenesis_orders_queued 1\n" in text and "\ngenesis_orders_queued_total 1\n" in text
    world.ill(FINE)
    world.rounds_until(lambda: world.store.waiting() == (0, 0))
    assert api.answer("POST", "/orders", order)[0] == 201
    world.rounds_until(lambda: world.courier.differences is not None)
    text = api.answer("GET", "/metrics", b"")[1]
    assert "\ngenesis_orders_queued 0\n" in text and "\ngenesis_exchange_differences 0\n" in text
