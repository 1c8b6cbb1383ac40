"""Our books against the exchange's: trades and positions. Looks only, beside the engine that serves.

Both move while we look. So the exchange is read, then our books in one snapshot, then what is new at the exchange: what
it knew before must be in our books or in flight there, and what is in our books it must know after. Both are put side
by side in a temporary file of SQLite's: memory doesn't grow with the number of trades. A snapshot stops no writer.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import apsw

from .model import NotAcknowledged

PAGE = 1000
SHOWN = 100
POLL_S = 0.1
BUSY_MS = 5000
Row = dict[str, Any]

_THEIRS = """
CREATE TABLE theirs (
  key TEXT PRIMARY KEY, number INTEGER, before INTEGER,
  trade_id TEXT, symbol TEXT, side TEXT, qty INTEGER, price INTEGER
) WITHOUT ROWID"""
_FIELDS = ("trade_id", "symbol", "side", "qty", "price")
_UNLIKE = """
SELECT orders.client_order_id, theirs.key IS NULL,
  trades.exchange_trade_id, trades.symbol, trades.side, trades.qty, trades.price,
  theirs.trade_id, theirs.symbol, theirs.side, theirs.qty, theirs.price
FROM ours.trades JOIN ours.orders ON orders.id = trades.order_id
LEFT JOIN theirs ON theirs.key = orders.client_order_id
WHERE (trades.exchange_trade_id, trades.symbol, trades.side, trades.qty, trades.price)
  IS NOT (theirs.trade_id, theirs.symbol, theirs.side, theirs.qty, theirs.price)
ORDER BY trades.id"""
_THEIRS_ALONE = """
SELECT key, orders.state, theirs.trade_id, theirs.symbol, theirs.side, theirs.qty, theirs.price
FROM theirs LEFT JOIN ours.orders ON orders.client_order_id = theirs.key
LEFT JOIN ours.trades ON trades.order_id = orders.id
WHERE before AND trades.id IS NULL ORDER BY number"""
# What is newer at the exchange than our snapshot, or on its way into our books, is in neither sum.
_POSITIONS = """
WITH held AS (
  SELECT theirs.symbol, SUM(CASE theirs.side WHEN 'buy' THEN theirs.qty ELSE -theirs.qty END) AS qty
  FROM theirs LEFT JOIN ours.orders ON orders.client_order_id = theirs.key
  LEFT JOIN ours.trades ON trades.order_id = orders.id
  WHERE trades.id IS NOT NULL OR (before AND orders.state IS NOT 'pending') GROUP BY theirs.symbol)
SELECT symbol, COALESCE(positions.qty, 0), COALESCE(held.qty, 0)
FROM ours.positions FULL JOIN held USING (symbol) ORDER BY symbol"""
_BOOKED = """
SELECT client_order_id FROM ours.orders JOIN ours.trades ON trades.order_id = orders.id
WHERE client_order_id IN (SELECT value FROM json_each(?))"""


class Fills(Protocol):
    """What is asked of the exchange (venue.Venue)."""

    def fills(self, after: int, limit: int) -> list[Row]:
        """Its filled orders with a number above ``after``, ascending, at most ``limit``; NotAcknowledged."""


@dataclass
class _Found:
    """Differences: all are counted, the first are shown."""

    count: int = 0
    shown: list[Row] = field(default_factory=list)

    def add(self, what: str, key: str, here: Any, there: Any) -> None:
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append({"what": what, "key": key, "here": here, "there": there})


def compare(path: Path, venue: Fills, settle_s: float) -> Row:
    """{"agree", "compared": {what: how many}, "differences": [{"what", "key", "here", "there"}], "more": how many of
    them aren't shown}. Raises NotAcknowledged when the exchange can't be asked, apsw.Error when our books can't.

    ``settle_s``: an order that the exchange filled is in our books by then, or nobody is working on it.
    """
    found, in_flight = _Found(), {}
    with contextlib.closing(_beside(path)) as connection:
        last = _fetch(connection, venue, 0, before=True)
        connection.execute("BEGIN")
        trades = connection.execute("SELECT COUNT(*) FROM ours.trades").get
        _fetch(connection, venue, last, before=False)
        positions = list(connection.execute(_POSITIONS))
        for symbol, here, there in positions:
            if here != there:
                found.add("position that differs", symbol, here, there)
        for key, alone, *both in connection.execute(_UNLIKE):
            if alone:
                found.add("trade that the exchange doesn't know", key, _trade(both[:5]), None)
            else:
                found.add("trade that differs", key, _trade(both[:5]), _trade(both[5:]))
        for key, state, *there in connection.execute(_THEIRS_ALONE):
            if state == "pending":
                in_flight[key] = there
            else:
                found.add("trade that only the exchange knows", key, state and {"state": state}, _trade(there))
        connection.execute("COMMIT")
        for key in in_flight.keys() - _booked(connection, list(in_flight), settle_s):
            found.add("trade that only the exchange knows", key, {"state": "pending"}, _trade(in_flight[key]))
    return {
        "agree": not found.count,
        "compared": {"trades": trades, "positions": len(positions)},
        "differences": found.shown,
        "more": found.count - len(found.shown),
    }


def _beside(path: Path) -> apsw.Connection:
    """A temporary database of our own, and the engine's attached to it, for reading only."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection("", flags=flags)
    connection.set_busy_timeout(BUSY_MS)
    connection.execute("ATTACH ? AS ours", (f"{path.resolve().as_uri()}?mode=ro",))
    connection.execute(_THEIRS)
    return connection


def _fetch(connection: apsw.Connection, venue: Fills, after: int, *, before: bool) -> int:
    """Note the exchange's fills above a number; the highest there is."""
    while page := venue.fills(after, PAGE):
        if (last := int(page[-1]["number"])) <= after:
            raise NotAcknowledged(f"the exchange's list of trades goes round in circles at number {last}")
        with connection:
            connection.executemany(
                "INSERT INTO theirs VALUES"
                " (:client_order_id, :number, :before, :trade_id, :symbol, :side, :qty, :price)",
                ({**fill, "before": before} for fill in page),
            )
        after = last
    return after


def _booked(connection: apsw.Connection, keys: list[str], within: float) -> set[str]:
    """Those of the orders that are in our books as trades, once all are or time is up."""
    deadline = time.monotonic() + within
    while True:
        found = {str(row[0]) for row in connection.execute(_BOOKED, (json.dumps(keys),))}
        if len(found) == len(keys) or time.monotonic() >= deadline:
            return found
        time.sleep(POLL_S)


def _trade(values: list[Any]) -> Row:
    return dict(zip(_FIELDS, values, strict=True))
