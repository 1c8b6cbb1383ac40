"""The engine: what the outside saw is in the vault, nothing is executed twice, and the book always balances."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest

from services.genesis.engine.config import BadSetting, Config
from services.genesis.engine.desk import QUIESCED, RECONCILING
from services.genesis.engine.model import Ask, Conflict, Execution, Invalid, NotAcknowledged
from services.genesis.engine.state import write_state
from tests.unit.genesiskit import EXCHANGE, REPO, Cut, FakeAgent, Process, Rig, ask, violations

SYMBOLS = frozenset({"BTC", "ETH"})


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path)
    rig.desk.reconcile()
    return rig


# -- the way of an order


def test_an_order_is_filled_booked_and_acknowledged(rig: Rig) -> None:
    order = rig.desk.place(ask())
    assert (order.state, order.trade_id, order.price, order.epoch) == ("filled", "X1", 101, 1)
    assert rig.store.positions() == {"BTC": 5}
    assert rig.store.cash() == -5 * 101
    assert violations(rig.folder / "genesis.db") == {}


def test_the_intent_is_in_the_vault_before_the_exchange_hears_of_it(rig: Rig) -> None:
    held: list[dict[str, str]] = []
    rig.exchange.before = lambda: held.append(dict(rig.vault.holds))
    rig.desk.place(ask())
    assert held == [{"c1": "pending"}]


def test_the_execution_is_in_the_vault_before_it_is_acknowledged(rig: Rig) -> None:
    rig.desk.place(ask())
    assert rig.vault.holds == {"c1": "filled"}


def test_the_same_id_again_is_the_same_order_and_no_second_trade(rig: Rig) -> None:
    assert rig.desk.place(ask()) == rig.desk.place(ask())
    assert rig.exchange.sent == ["c1"]


def test_the_same_id_for_another_order_is_a_conflict(rig: Rig) -> None:
    rig.desk.place(ask(qty=5))
    with pytest.raises(Conflict, match="buy 5 BTC"):
        rig.desk.place(ask(qty=6))


def test_no_vault_no_order_leaves_the_house(rig: Rig) -> None:
    rig.vault.fail_on = {0}
    with pytest.raises(NotAcknowledged, match="vault"):
        rig.desk.place(ask())
    assert rig.exchange.sent == []
    assert rig.audit()[-1]["event"] == "not acknowledged"


def test_an_executed_order_whose_second_barrier_fails_is_acknowledged_by_the_retry_only(rig: Rig) -> None:
    rig.vault.fail_on = {2, 3}
    for _ in range(2):  # the second attempt finds it booked, and still must not vouch for it
        with pytest.raises(NotAcknowledged):
            rig.desk.place(ask())
    assert rig.desk.place(ask()).state == "filled"
    assert rig.exchange.sent == ["c1"]
    assert rig.vault.holds == {"c1": "filled"}


def test_an_order_is_shown_only_once_the_vault_holds_it(rig: Rig) -> None:
    rig.desk.place(ask())
    rig.vault.fail_on = {0}
    with pytest.raises(NotAcknowledged):
        rig.desk.show("c1")


def test_an_exchange_that_fails_after_the_fact_is_asked_again_and_executes_once(rig: Rig) -> None:
    def lost() -> None:
        rig.exchange.after = lambda: None
        raise NotAcknowledged("the exchange did not answer")

    rig.exchange.after = lost
    with pytest.raises(NotAcknowledged):
        rig.desk.place(ask())
    assert rig.store.pending()[0].client_order_id == "c1"
    assert rig.desk.place(ask()).trade_id == "X1"
    assert len(rig.exchange.executions) == 1


def test_a_rejection_is_booked_for_good(rig: Rig) -> None:
    rig.exchange.executions["c1"] = Execution(False, reason="margin")
    for _ in range(2):
        order = rig.desk.place(ask())
        assert (order.state, order.reason) == ("rejected", "margin")
    assert rig.store.positions() == {}
    assert violations(rig.folder / "genesis.db") == {}


def test_above_the_tiers_limit_nothing_is_sent(rig: Rig) -> None:
    order = rig.desk.place(ask(qty=101))
    assert order.state == "rejected" and "limit of 100 lots in tier 1" in str(order.reason)
    assert rig.exchange.sent == []


def test_many_at_once_with_few_ids_execute_each_id_once(rig: Rig) -> None:
    with ThreadPoolExecutor(8) as pool:
        orders = list(pool.map(lambda n: rig.desk.place(ask(f"c{n % 5}", qty=1 + n % 5)), range(40)))
    assert len({order.trade_id for order in orders}) == 5
    assert sorted(rig.exchange.executions) == ["c0", "c1", "c2", "c3", "c4"]
    assert rig.store.positions() == {"BTC": 15}
    assert violations(rig.folder / "genesis.db") == {}


def test_the_tier_rises_with_the_trades(rig: Rig) -> None:
    rig.store._writer.execute("UPDATE tiers SET from_trades = 2 WHERE tier = 2")
    rig.desk.place(ask("c1"))
    assert rig.store.tier()["tier"] == 1
    rig.desk.place(ask("c2"))
    assert rig.store.tier()["tier"] == 2
    assert rig.desk.place(ask("c3", qty=1000)).state == "filled"


# -- power cuts: the engine is gone in the middle, and the database starts elsewhere in the next epoch


@pytest.mark.parametrize("where", ["first barrier", "before the exchange", "after the exchange", "second barrier"])
def test_after_a_cut_anywhere_the_retry_finds_one_trade(rig: Rig, where: str) -> None:
    def cut() -> None:
        raise Cut

    rig.exchange.before = cut if where == "before the exchange" else rig.exchange.before
    rig.exchange.after = cut if where == "after the exchange" else rig.exchange.after
    rig.vault.cut_on = {"first barrier": 1, "second barrier": 2}.get(where)
    with pytest.raises(Cut):
        rig.desk.place(ask())
    rig.exchange.before = rig.exchange.after = lambda: None

    rig.open(epoch=2)
    rig.desk.reconcile()
    order = rig.desk.place(ask())

    assert order.state == "filled"
    assert list(rig.exchange.executions) == ["c1"]
    assert [trade["client_order_id"] for trade in rig.store.trades(0, 10)] == ["c1"]
    assert violations(rig.folder / "genesis.db") == {}


def test_orders_wait_until_reconciliation_was_through(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    with pytest.raises(NotAcknowledged, match=RECONCILING):
        rig.desk.place(ask())
    rig.exchange.before = lambda: (_ for _ in ()).throw(NotAcknowledged("down"))
    rig.store.intend(ask("old"))
    with pytest.raises(NotAcknowledged, match="down"):
        rig.desk.reconcile()
    assert rig.desk.gate.reasons == [RECONCILING]


def test_reconciliation_books_what_the_exchange_did_and_leaves_what_it_never_saw(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for identity in ("done", "refused", "never sent"):
        rig.store.intend(ask(identity))
    rig.exchange.executions = {"done": Execution(True, "X9", 7, "t"), "refused": Execution(False, reason="margin")}
    settled = rig.desk.reconcile()
    assert [(order.client_order_id, order.state) for order in settled] == [("done", "filled"), ("refused", "rejected")]
    assert [order.client_order_id for order in rig.store.pending()] == ["never sent"]
    assert rig.vault.holds["done"] == "filled"
    assert violations(rig.folder / "genesis.db") == {}


# -- invariants must be able to fail


@pytest.mark.parametrize(
    ("damage", "invariant"),
    [
        ("UPDATE entries SET amount = amount + 1 WHERE id = 1", "every trade's entries sum to zero in each commodity"),
        ("DELETE FROM entries WHERE id IN (1, 2)", "every trade has its four entries"),
        ("PRAGMA foreign_keys = 0; DELETE FROM trades WHERE id = 1", "no entry without its trade"),
        (
            "UPDATE entries SET amount = amount * 2 WHERE commodity = 'USD'",
            "entries move what was traded, at its price",
        ),
        ("UPDATE positions SET qty = qty + 1", "positions are the sum of trades"),
        ("INSERT INTO positions VALUES ('DOGE', 1, '')", "positions are the sum of trades"),
        (
            "UPDATE orders SET state = 'rejected', reason = 'x' WHERE id = 1",
            "an order is filled if and only if it has its one trade",
        ),
        ("UPDATE orders SET qty = 9 WHERE id = 1", "a trade is what its order asked for"),
        ("DELETE FROM tier_state", "a tier is in force, and it is known"),
    ],
)
def test_damage_violates_the_invariant_that_names_it(rig: Rig, damage: str, invariant: str) -> None:
    rig.desk.place(ask("c1"))
    rig.desk.place(ask("c2", symbol="ETH", side="sell", qty=3))
    apsw.Connection(str(rig.folder / "genesis.db")).execute(damage)
    assert invariant in violations(rig.folder / "genesis.db")


# -- requests, state files, configuration


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"qty": 0}, "qty"),
        ({"qty": True}, "qty"),
        ({"qty": 1.5}, "qty"),
        ({"side": "hold"}, "side"),
        ({"symbol": "DOGE"}, "symbol"),
        ({"client_order_id": ""}, "client_order_id"),
        ({"client_order_id": "a/b"}, "client_order_id"),
        ({"extra": 1}, "fields"),
    ],
)
def test_a_senseless_order_is_refused_by_field(change: dict[str, Any], word: str) -> None:
    raw = {"client_order_id": "c1", "symbol": "BTC", "side": "buy", "qty": 1}
    with pytest.raises(Invalid, match=word):
        Ask.from_json({**raw, **change}, SYMBOLS)


def test_the_api_answers_with_honest_status_codes(rig: Rig) -> None:
    api = rig.api()
    order = {"client_order_id": "c1", "symbol": "BTC", "side": "buy", "qty": 1}

    def post(**change: Any) -> tuple[int, Any]:
        return api.answer("POST", "/orders", json.dumps({**order, **change}).encode())

    assert post()[0] == 201
    assert post(qty=2)[0] == 409
    assert post(qty=0)[0] == 400
    assert post(client_order_id="c2", qty=500)[0] == 422
    assert api.answer("POST", "/orders", b"{")[0] == 400
    assert api.answer("GET", "/orders/nobody", b"")[0] == 404
    assert api.answer("GET", "/nothing", b"")[0] == 404
    rig.vault.fail_on = {0}
    status, answer = post(client_order_id="c3")
    assert (status, answer["state"]) == (503, "unknown")


def test_the_export_pages_through_every_trade_once(rig: Rig) -> None:
    for number in range(7):
        rig.desk.place(ask(f"c{number}"))
    api, seen, after = rig.api(), [], 0
    while after is not None:
        status, page = api.answer("GET", f"/export/trades?after={after}&limit=3", b"")
        assert status == 200
        seen += [trade["client_order_id"] for trade in page["trades"]]
        after = page["next"]
    assert seen == [f"c{number}" for number in range(7)]


def test_the_oldest_probes_make_room(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.genesis.engine.store.PROBES_KEPT", 2)
    for number in range(4):
        rig.desk.store.write_probe(f"t-{number}")
    assert [rig.desk.store.has_probe(f"t-{number}") for number in range(4)] == [False, False, True, True]


def test_a_probe_goes_through_database_and_barrier(rig: Rig) -> None:
    api = rig.api()
    assert api.answer("POST", "/probe", b'{"token": "t-1"}')[0] == 201
    assert api.answer("GET", "/probe/t-1", b"")[1]["token"] == "t-1"
    assert api.answer("GET", "/probe/t-2", b"")[0] == 404
    assert api.answer("POST", "/probe", b'{"token": "a b"}')[0] == 400
    rig.vault.fail_on = {0}
    assert api.answer("POST", "/probe", b'{"token": "t-3"}')[0] == 503


def test_health_is_unwell_when_the_database_cannot_be_written(rig: Rig) -> None:
    api = rig.api()
    assert api.answer("GET", "/health", b"")[0] == 200
    rig.store._writer.set_busy_timeout(10)
    api._beaten = (float("-inf"), None)
    blocker = apsw.Connection(str(rig.folder / "genesis.db"))
    blocker.execute("BEGIN IMMEDIATE")
    status, health = api.answer("GET", "/health", b"")
    assert status == 503 and "can't be written" in health["status"]


def test_state_files_say_what_the_database_says(rig: Rig) -> None:
    rig.desk.place(ask())
    rig.store.intend(ask("open"))
    write_state(rig.store, rig.folder / "state")
    read = {path.stem: json.loads(path.read_text()) for path in (rig.folder / "state").iterdir()}
    assert read["positions"]["positions"] == {"cash_cents": -505, "lots": {"BTC": 5}}
    assert [order["client_order_id"] for order in read["orders"]["orders"]] == ["open"]
    assert read["tier"]["tier"]["name"] == "probation"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GENESIS_DURABILITY", "hope"),
        ("LIFELINE_EPOCH", "two"),
        ("GENESIS_EXCHANGE", "ftp://x"),
        ("GENESIS_EXCHANGE", ""),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=name):
        Config.load({**EXCHANGE, name: value})


# -- the process: real sockets, a fake agent, SIGKILL


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    from services.genesis.exchange.book import Book
    from services.genesis.exchange.server import Exchange

    exchange = Exchange(("127.0.0.1", 0), Book(tmp_path / "exchange.db"))
    threading.Thread(target=exchange.serve_forever, args=(0.05,), daemon=True).start()
    process = Process(tmp_path, exchange.server_address[1])
    yield process
    if process.child.poll() is None:
        process.child.kill()
    process.child.wait()
    process.agent.shutdown()
    exchange.shutdown()


def test_the_process_survives_sigkill_quiesces_resumes_and_ends_on_sigterm(process: Process, tmp_path: Path) -> None:
    order = {"client_order_id": "c1", "symbol": "BTC", "side": "buy", "qty": 1}
    status, first = process.call("/orders", order)
    assert (status, first["served_by"], first["epoch"]) == (201, "here", 3)
    assert FakeAgent.calls >= 2

    process.child.kill()
    process.child.wait()
    process.start()
    status, again = process.call("/orders", order)
    assert (status, again["trade_id"]) == (201, first["trade_id"])

    assert process.hook("quiesce") == 0
    assert process.call("/orders", {**order, "client_order_id": "c2"})[0] == 503
    assert process.call("/health")[1]["closed_for"] == [QUIESCED]
    assert process.hook("resume") == 0
    assert process.call("/orders", {**order, "client_order_id": "c2"})[0] == 201

    begun = time.monotonic()
    process.child.send_signal(signal.SIGTERM)
    assert process.child.wait(timeout=8) == 0
    assert time.monotonic() - begun < 5
    state = json.loads((tmp_path / "home/state/positions.json").read_text())
    assert state["positions"]["lots"] == {"BTC": 2}


def test_a_leak_ends_in_an_orderly_stop_and_the_next_start_goes_on(process: Process, tmp_path: Path) -> None:
    order = {"client_order_id": "c1", "symbol": "BTC", "side": "buy", "qty": 1}
    first = process.call("/orders", order)[1]
    assert process.call("/admin/faults", {"leak_mb_per_s": 400})[0] == 200
    assert process.child.wait(timeout=20) == 0
    assert json.loads((tmp_path / "home/state/positions.json").read_text())["positions"]["lots"] == {"BTC": 1}

    process.start()
    assert process.call("/orders", order) == (201, first)
    assert process.call("/orders", {**order, "client_order_id": "c2"})[0] == 201
    events = [json.loads(line) for line in (tmp_path / "logs/audit.jsonl").read_text().splitlines()]
    (stopped,) = [one for one in events if one["event"] == "stopped"]
    used = re.match(r"memory: (\d+)% of the configured limit", stopped["reason"])
    assert stopped["drained"] and used and int(used[1]) >= 85  # how far beyond, is how fast it leaks between two looks
    started = [one["after"] for one in events if one["event"] == "started"]
    assert started == [None, stopped["reason"]]


def test_a_limit_that_the_start_alone_exceeds_makes_no_endless_round(process: Process, tmp_path: Path) -> None:
    process.child.kill()
    process.child.wait()
    process.environment["GENESIS_MEMORY_LIMIT_MB"] = "5"
    process.start()
    assert process.call("/orders", {"client_order_id": "c1", "symbol": "BTC", "side": "buy", "qty": 1})[0] == 201
    assert "memory is not watched" in (tmp_path / "logs/audit.jsonl").read_text()


def test_a_standby_does_not_even_open_the_database(tmp_path: Path) -> None:
    environment = {**os.environ, **EXCHANGE, "LIFELINE_ROLE": "standby", "GENESIS_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, str(REPO / "services/genesis/bin/genesis"), "serve"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 78 and "primary only" in done.stderr
    assert not (tmp_path / "home").exists()
