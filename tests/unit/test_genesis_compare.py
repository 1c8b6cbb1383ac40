"""The engine's books beside those of a real exchange on loopback: what differs is found, what is in flight isn't."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from services.genesis.engine.audit import Audit
from services.genesis.engine.barrier import no_barrier
from services.genesis.engine.compare import PAGE, SHOWN, compare
from services.genesis.engine.desk import Desk
from services.genesis.engine.model import Ask, NotAcknowledged, Order
from services.genesis.engine.store import Store
from services.genesis.engine.venue import Venue
from services.genesis.exchange.book import Book
from services.genesis.exchange.server import Exchange, Faults

REPO = Path(__file__).resolve().parents[2]


class Site:
    """An engine without its process, and the exchange it trades on."""

    def __init__(self, folder: Path, exchange: Exchange) -> None:
        self.folder, self.exchange = folder, exchange
        self.database = folder / "genesis.db"
        self.url = f"http://127.0.0.1:{exchange.server_address[1]}"
        self.venue = Venue({"main": self.url}, 10)
        self.store = Store(self.database, epoch=1)
        self.desk = Desk(self.store, self.venue, no_barrier, Audit(folder / "logs"))
        self.desk.reconcile()

    def trade(self, identity: str, symbol: str = "BTC", side: Any = "buy", qty: int = 5) -> Order:
        return self.desk.place(Ask(identity, symbol, side, qty))

    def damage(self, sql: str) -> None:
        with apsw.Connection(str(self.database)) as connection:
            connection.execute(sql)

    def compare(self, venue: Any = None, settle_s: float = 0.2) -> dict[str, Any]:
        return compare(self.database, venue or self.venue, settle_s)

    def differences(self) -> list[tuple[str, str]]:
        return [(one["what"], one["key"]) for one in self.compare()["differences"]]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    exchange = Exchange(("127.0.0.1", 0), Book(tmp_path / "exchange.db"))
    threading.Thread(target=exchange.serve_forever, args=(0.02,), daemon=True).start()
    yield Site(tmp_path, exchange)
    exchange.shutdown()
    exchange.server_close()


def three_trades(site: Site) -> None:
    site.trade("c1")
    site.trade("c2", symbol="ETH", side="sell", qty=3)
    site.trade("c3")


def test_books_that_agree(site: Site) -> None:
    three_trades(site)
    found = site.compare()
    assert found == {"agree": True, "compared": {"trades": 3, "positions": 2}, "differences": [], "more": 0}


def test_books_that_were_never_written_agree_with_an_exchange_that_was_never_asked(site: Site) -> None:
    assert site.compare()["compared"] == {"trades": 0, "positions": 0}


def test_what_the_exchange_refused_is_no_trade_on_either_side(site: Site) -> None:
    site.exchange.faults = Faults(reject=1.0)
    assert site.trade("c1").state == "rejected"
    assert site.trade("c2", qty=101).state == "rejected"  # above the tier's limit: the exchange never saw it
    assert site.compare()["agree"]


def test_a_trade_that_only_the_exchange_knows(site: Site) -> None:
    three_trades(site)
    site.exchange.book.place("stranger", "BTC", "buy", 7)
    found = site.compare()
    assert not found["agree"]
    position, trade = found["differences"]
    assert position == {"what": "position that differs", "key": "BTC", "here": 10, "there": 17}
    assert trade["what"] == "trade that only the exchange knows" and trade["key"] == "stranger"
    assert trade["here"] is None and trade["there"]["qty"] == 7


def test_an_order_that_is_rejected_here_and_filled_there(site: Site) -> None:
    site.store.intend(Ask("c1", "BTC", "buy", 101))
    site.exchange.book.place("c1", "BTC", "buy", 101)
    trade = site.compare()["differences"][1]
    assert (trade["key"], trade["here"]) == ("c1", {"state": "rejected"})


def test_trades_that_a_restore_to_an_earlier_point_undid(site: Site) -> None:
    site.trade("c1")
    kept = site.folder / "earlier.db"
    apsw.Connection(str(site.database)).execute("VACUUM INTO ?", (str(kept),))
    site.trade("c2", qty=2)
    found = compare(kept, site.venue, 0.2)
    assert [one["key"] for one in found["differences"]] == ["BTC", "c2"]


def test_a_trade_that_the_exchange_does_not_know(site: Site) -> None:
    three_trades(site)
    with apsw.Connection(str(site.folder / "exchange.db")) as connection:
        connection.execute("DELETE FROM orders WHERE client_order_id = 'c2'")
    position, trade = site.compare()["differences"]
    assert position == {"what": "position that differs", "key": "ETH", "here": -3, "there": 0}
    assert trade["what"] == "trade that the exchange doesn't know" and trade["key"] == "c2" and trade["there"] is None


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        ("UPDATE trades SET price = price + 1 WHERE id = 3", "price"),
        ("UPDATE trades SET exchange_trade_id = 'X9' WHERE id = 3", "trade_id"),
    ],
)
def test_a_trade_that_differs(site: Site, damage: str, field: str) -> None:
    three_trades(site)
    site.damage(damage)
    (one,) = site.compare()["differences"]
    assert (one["what"], one["key"]) == ("trade that differs", "c3")
    assert {name for name in one["here"] if one["here"][name] != one["there"][name]} == {field}


def test_a_position_altered_by_a_wrong_update(site: Site) -> None:
    three_trades(site)
    site.damage("UPDATE positions SET qty = qty * 2 WHERE symbol = 'BTC'")
    assert site.compare()["differences"] == [{"what": "position that differs", "key": "BTC", "here": 20, "there": 10}]


def test_an_update_so_consistent_that_no_invariant_sees_it(site: Site) -> None:
    """Every row of one trade, its entries and the position turned round: only the exchange knows better."""
    three_trades(site)
    site.damage(
        "UPDATE orders SET side = 'sell' WHERE id = 3; UPDATE trades SET side = 'sell' WHERE id = 3;"
        "UPDATE entries SET amount = -amount WHERE trade_id = 3; UPDATE positions SET qty = 0 WHERE symbol = 'BTC'"
    )
    assert site.differences() == [("position that differs", "BTC"), ("trade that differs", "c3")]


def test_a_position_that_was_lost_or_made_up(site: Site) -> None:
    three_trades(site)
    site.damage("DELETE FROM positions WHERE symbol = 'BTC'; INSERT INTO positions VALUES ('SOL', 1, '')")
    assert site.differences() == [("position that differs", "BTC"), ("position that differs", "SOL")]


# -- both move while we look


class Meanwhile:
    """An exchange at which something happens just before its nth page is asked for."""

    def __init__(self, site: Site, number: int, what: Callable[[], object]) -> None:
        self.site, self.number, self.what, self.asked = site, number, what, 0

    def fills(self, after: int, limit: int) -> list[dict[str, Any]]:
        self.asked += 1
        if self.asked == self.number:
            self.what()
        return self.site.venue.fills(after, limit)


@pytest.mark.parametrize("page", [1, 2, 3, 4])
def test_a_trade_made_while_we_look_is_no_difference(site: Site, page: int) -> None:
    """Before, between and after the exchange's pages and our snapshot: pages 1 and 2 come before it, 3 after."""
    three_trades(site)
    meanwhile = Meanwhile(site, page, lambda: site.trade("new"))
    found = site.compare(meanwhile)
    assert found["agree"] and meanwhile.asked >= 3
    assert found["compared"]["trades"] == (4 if page < 3 else 3)


def test_an_order_in_flight_is_no_difference_once_it_is_booked(site: Site) -> None:
    three_trades(site)
    order = site.store.intend(Ask("new", "BTC", "buy", 1))
    execution = site.venue.execute(order)
    booking = threading.Timer(0.3, lambda: site.store.settle(order.id, execution))
    booking.start()
    assert site.compare(settle_s=10)["agree"]
    booking.join()


def test_an_order_that_nobody_books_is_a_difference(site: Site) -> None:
    order = site.store.intend(Ask("c1", "BTC", "buy", 1))
    site.venue.execute(order)
    (one,) = site.compare()["differences"]
    assert (one["what"], one["key"]) == ("trade that only the exchange knows", "c1")
    assert one["here"] == {"state": "pending"}


def test_an_order_that_never_reached_the_exchange_is_no_difference(site: Site) -> None:
    three_trades(site)
    site.store.intend(Ask("c4", "BTC", "buy", 1))
    assert site.compare()["agree"]


def test_under_load_there_is_never_a_difference(site: Site) -> None:
    stop = threading.Event()

    def trade(name: str) -> None:
        number = 0
        while not stop.is_set():
            site.trade(f"{name}-{number}", qty=1)
            number += 1

    traders = [threading.Thread(target=trade, args=(name,)) for name in "ab"]
    for trader in traders:
        trader.start()
    try:
        found = [site.compare(settle_s=10) for _ in range(20)]
    finally:
        stop.set()
        for trader in traders:
            trader.join()
    assert [one for one in found if not one["agree"]] == []
    assert found[-1]["compared"]["trades"] > 0


# -- size


def fill(site: Site, count: int) -> None:
    """``count`` trades at both, without the engine's transaction for each."""
    with apsw.Connection(str(site.folder / "exchange.db")) as there:
        there.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            "INSERT INTO orders SELECT i, 'c' || i, 'BTC', 'buy', 1, 100, NULL, 't' FROM n",
            (count,),
        )
    site.damage(
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
        "INSERT INTO orders SELECT i, 'c' || i, 'BTC', 'buy', 1, 1, 'filled', NULL, 1, 't', 't' FROM n;"
        "INSERT INTO trades SELECT id, id, printf('X%08d', id), symbol, side, qty, 100, 't', 1 FROM orders;"
        "INSERT INTO positions SELECT symbol, SUM(qty), 't' FROM trades GROUP BY symbol"
    )


def test_many_differences_are_counted_and_the_first_shown(site: Site) -> None:
    fill(site, 3 * PAGE)
    assert site.compare()["agree"]
    site.damage("UPDATE trades SET price = 99 WHERE id > 1000; UPDATE positions SET qty = 0")
    found = site.compare()
    assert len(found["differences"]) == SHOWN and found["more"] == 2 * PAGE + 1 - SHOWN
    assert found["differences"][0]["what"] == "position that differs"


def test_memory_does_not_grow_with_the_trades(site: Site) -> None:
    def peak() -> int:
        tracemalloc.start()
        try:
            assert site.compare()["agree"]
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    fill(site, 5 * PAGE)
    assert peak() < 3 << 20  # a page of a thousand takes about one and a half


# -- what can't be told


class Circle:
    def fills(self, after: int, limit: int) -> list[dict[str, Any]]:
        trade = {"trade_id": "X1", "symbol": "BTC", "side": "buy", "qty": 1, "price": 1}
        return [{"number": 1, "client_order_id": f"c{after}", **trade}]


def test_an_exchange_that_lists_in_circles_is_not_asked_for_ever(site: Site) -> None:
    with pytest.raises(NotAcknowledged, match="circles"):
        site.compare(Circle())


def test_an_exchange_of_another_form_is_no_agreement(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    three_trades(site)
    monkeypatch.setattr(site.venue, "_call", lambda *_: (200, {"trades": [{"number": 1}]}))
    with pytest.raises(NotAcknowledged, match="makes no sense"):
        site.compare()


def genesis_compare(site: Site, **change: str) -> subprocess.CompletedProcess[str]:
    """The hook, as Lifeline runs it."""
    environment = {
        **os.environ,
        **{"GENESIS_EXCHANGE": site.url, "GENESIS_HOME": str(site.folder), "GENESIS_EXCHANGE_TIMEOUT_S": "0.5"},
        **change,
    }
    program = [sys.executable, str(REPO / "services/genesis/bin/genesis"), "compare"]
    return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_hook_prints_the_comparison_and_changes_nothing(site: Site) -> None:
    three_trades(site)
    before = site.database.read_bytes()
    done = genesis_compare(site)
    assert (done.returncode, json.loads(done.stdout)["agree"]) == (0, True)
    assert site.database.read_bytes() == before


def test_an_exchange_that_is_down_is_no_agreement(site: Site) -> None:
    three_trades(site)
    site.exchange.faults = Faults(down=True)
    done = genesis_compare(site)
    assert (done.returncode, done.stdout) == (1, "") and "exchange (main) did not answer" in done.stderr


def test_books_that_are_not_there_are_no_agreement(site: Site, tmp_path: Path) -> None:
    done = genesis_compare(site, GENESIS_HOME=str(tmp_path / "nowhere"))
    assert (done.returncode, done.stdout) == (1, "") and "not compared" in done.stderr
