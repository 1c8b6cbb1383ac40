"""What the exchange knows: every order it was sent, once, and what it did with it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
  number INTEGER PRIMARY KEY,
  client_order_id TEXT NOT NULL UNIQUE,
  symbol TEXT NOT NULL,
  side TEXT NOT NULL CHECK (side IN ('buy', 'sell')),
  qty INTEGER NOT NULL CHECK (qty > 0),
  price INTEGER,
  reason TEXT,                      -- rejected, with the reason; NULL: filled
  executed_at TEXT NOT NULL,
  CHECK ((price IS NULL) = (reason IS NOT NULL))
) STRICT;
"""
PRICES = {"BTC": 6_500_000, "ETH": 350_000, "SOL": 15_000}
OTHER_PRICE = 10_000


class Mismatch(Exception):
    """The client order id is another order's."""


class Book:
    """Thread-safe. Every order is executed in full at the market's price, exactly once per client order id."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = apsw.Connection(str(path))
        self._connection.set_busy_timeout(5000)
        self._connection.pragma("journal_mode", "wal")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(SCHEMA)
        self._lock = threading.Lock()

    def place(
        self, client_order_id: str, symbol: str, side: str, qty: int, reject: str | None = None
    ) -> tuple[bool, dict[str, Any]]:
        """(is new, the order). ``reject``: refuse a new order with this reason. Raises Mismatch."""
        with self._lock:
            known = self._find(client_order_id)
            if known is None:
                self._execute(client_order_id, symbol, side, qty, reject)
            order = self._find(client_order_id)
            assert order is not None
        if (order["symbol"], order["side"], order["qty"]) != (symbol, side, qty):
            raise Mismatch(f"{client_order_id} is another order")
        return known is None, order

    def _execute(self, client_order_id: str, symbol: str, side: str, qty: int, reject: str | None) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        price = None if reject else self._price(symbol)
        self._connection.execute(
            "INSERT INTO orders (client_order_id, symbol, side, qty, price, reason, executed_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (client_order_id, symbol, side, qty, price, reject, now),
        )

    def find(self, client_order_id: str) -> dict[str, Any] | None:
        with self._lock:
            return self._find(client_order_id)

    def fills(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Filled orders with a number above ``after``, in order, at most ``limit``."""
        with self._lock:
            return self._orders("number > ? AND reason IS NULL ORDER BY number LIMIT ?", after, limit)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _find(self, client_order_id: str) -> dict[str, Any] | None:
        return next(iter(self._orders("client_order_id = ?", client_order_id)), None)

    def _orders(self, which: str, *bindings: Any) -> list[dict[str, Any]]:
        names = ("number", "client_order_id", "symbol", "side", "qty", "price", "reason", "executed_at")
        rows = self._connection.execute(f"SELECT {', '.join(names)} FROM orders WHERE {which}", bindings)
        return [_told(dict(zip(names, row, strict=True))) for row in rows]

    def _price(self, symbol: str) -> int:
        """Cents; a saw-tooth around the symbol's level, so that prices differ and can be told in advance."""
        number = self._connection.execute("SELECT COALESCE(MAX(number), 0) FROM orders").get
        base = PRICES.get(symbol, OTHER_PRICE)
        return int(base + base * (int(number) % 21 - 10) // 1000)


def _told(order: dict[str, Any]) -> dict[str, Any]:
    """An order as the outside sees it."""
    filled = order["reason"] is None
    return {
        **order,
        "state": "filled" if filled else "rejected",
        "trade_id": f"X{order['number']:08d}" if filled else None,
    }
