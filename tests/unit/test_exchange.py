"""The exchange: one execution per client order id, and misbehaviour only as asked."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.genesis.engine.breaker import Rules
from services.genesis.engine.model import NotAcknowledged, Order
from services.genesis.engine.venue import Venue
from services.genesis.exchange.book import Book, Mismatch
from services.genesis.exchange.server import Exchange, Faults


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Exchange]:
    exchange = Exchange(("127.0.0.1", 0), Book(tmp_path / "exchange.db"))
    threading.Thread(target=exchange.serve_forever, args=(0.02,), daemon=True).start()
    yield exchange
    exchange.shutdown()
    exchange.server_close()
    exchange.book.close()


@pytest.fixture
def venue(exchange: Exchange) -> Venue:
    return Venue({"main": f"http://127.0.0.1:{exchange.server_address[1]}"}, timeout_s=1.5, rules=Rules(failures=1000))


def order(identity: str = "c1", qty: int = 2) -> Order:
    return Order(1, identity, "BTC", "buy", qty, "pending", None, 1, "t")


def call(exchange: Exchange, method: str, path: str, document: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", exchange.server_address[1], timeout=2)
    connection.request(method, path, None if document is None else json.dumps(document))
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_an_order_sent_twice_is_executed_once(exchange: Exchange, venue: Venue) -> None:
    first = venue.execute(order())
    assert first.filled and first.trade_id == "X00000001"
    assert venue.execute(order()) == first == venue.look_up("c1")
    assert len(exchange.book.fills(0, 10)) == 1


def test_the_truth_survives_a_restart(tmp_path: Path) -> None:
    book = Book(tmp_path / "e.db")
    _, placed = book.place("c1", "BTC", "buy", 1)
    book.close()
    assert Book(tmp_path / "e.db").place("c1", "BTC", "buy", 1) == (False, placed)


def test_an_id_is_one_order_for_ever(tmp_path: Path) -> None:
    book = Book(tmp_path / "e.db")
    book.place("c1", "BTC", "buy", 1)
    with pytest.raises(Mismatch):
        book.place("c1", "BTC", "buy", 2)


def test_an_order_never_seen_is_no_order(venue: Venue) -> None:
    assert venue.look_up("nobody") is None


def test_an_error_after_the_fact_is_found_out_by_asking_again(exchange: Exchange, venue: Venue) -> None:
    exchange.faults = Faults(error_after=1.0)
    with pytest.raises(NotAcknowledged, match="500"):
        venue.execute(order())
    exchange.faults = Faults()
    execution = venue.look_up("c1")
    assert execution is not None and execution.filled
    assert len(exchange.book.fills(0, 10)) == 1


def test_an_error_before_the_fact_leaves_nothing(exchange: Exchange, venue: Venue) -> None:
    exchange.faults = Faults(error_before=1.0)
    with pytest.raises(NotAcknowledged):
        venue.execute(order())
    exchange.faults = Faults()
    assert venue.look_up("c1") is None


def test_down_means_no_answer_until_it_is_up_again(exchange: Exchange, venue: Venue) -> None:
    exchange.faults = Faults(down=True)
    with pytest.raises(NotAcknowledged, match="did not answer"):
        venue.execute(order())
    exchange.faults = Faults()
    assert venue.execute(order()).filled


def test_slower_than_the_deadline_is_no_answer(exchange: Exchange, venue: Venue) -> None:
    exchange.faults = Faults(latency_s=2.5)
    with pytest.raises(NotAcknowledged):
        venue.execute(order())


def test_a_rejection_stays_one(exchange: Exchange, venue: Venue) -> None:
    exchange.faults = Faults(reject=1.0)
    rejected = venue.execute(order())
    exchange.faults = Faults()
    assert not rejected.filled and rejected.reason
    assert venue.execute(order()) == rejected


def test_faults_are_set_from_outside_and_checked(exchange: Exchange) -> None:
    assert call(exchange, "POST", "/admin/faults", {"reject": 0.5})[1]["reject"] == 0.5
    assert call(exchange, "POST", "/admin/faults", {"mood": "bad"})[0] == 400
    assert call(exchange, "POST", "/admin/faults", {"reject": 2})[0] == 400
    assert call(exchange, "GET", "/admin/faults")[1]["reject"] == 0.5


def test_the_export_pages_through_all_fills(exchange: Exchange, venue: Venue) -> None:
    for number in range(5):
        venue.execute(order(f"c{number}"))
    seen, after = [], 0
    while after is not None:
        status, page = call(exchange, "GET", f"/v1/trades?after={after}&limit=2")
        assert status == 200
        seen += [fill["client_order_id"] for fill in page["trades"]]
        after = page["next"]
    assert seen == [f"c{number}" for number in range(5)]


def test_senseless_orders_are_refused(exchange: Exchange) -> None:
    assert call(exchange, "POST", "/v1/orders", {"client_order_id": "x"})[0] == 400
    assert (
        call(exchange, "POST", "/v1/orders", {"client_order_id": "x", "symbol": "A", "side": "b", "qty": 1})[0] == 400
    )
