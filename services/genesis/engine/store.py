"""The book: one SQLite database in WAL mode, one connection that writes, one that reads.

Litestream checkpoints, and nobody else (wal_autocheckpoint = 0 under Lifeline): a checkpoint behind its back would
cost a new snapshot. ``synchronous = FULL``: after a power cut the local file must not lag behind the vault.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw

from .model import Ask, Conflict, Execution, Order
from .schema import SCHEMA

BUSY_TIMEOUT_MS = 5000
PROBES_KEPT = 1000  # a minute and more of everybody who asks from outside

_ORDER = """
SELECT orders.id, client_order_id, orders.symbol, orders.side, orders.qty,
       iif(queue.order_id IS NULL, state, 'queued'), coalesce(orders.reason, queue.reason), orders.epoch, created_at,
       exchange_trade_id, price
FROM orders LEFT JOIN trades ON trades.order_id = orders.id LEFT JOIN queue ON queue.order_id = orders.id
"""


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Store:
    """Every method is safe to call from any thread; each write is one transaction, on the disk when it returns."""

    def __init__(
        self, path: Path, *, epoch: int = 0, checkpoints: bool = True, now: Callable[[], str] = utc_now
    ) -> None:
        self.epoch = epoch
        self._now = now
        self._writer = self._open(path, checkpoints)
        self._write_lock = threading.Lock()
        with self._transaction() as connection:
            connection.execute(SCHEMA)
            connection.execute("INSERT OR IGNORE INTO tier_state VALUES (1, 1, ?)", (now(),))
        self._reader = self._open(path, checkpoints)
        self._reader.execute("PRAGMA query_only = 1")
        self._read_lock = threading.Lock()

    @staticmethod
    def _open(path: Path, checkpoints: bool) -> apsw.Connection:
        connection = apsw.Connection(str(path))
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        # A follower leaves the promoted copy in DELETE mode: set WAL at every start.
        mode = connection.pragma("journal_mode", "wal")
        if mode != "wal":
            raise RuntimeError(f"{path}: journal mode is {mode}, not WAL")
        connection.execute("PRAGMA synchronous = FULL; PRAGMA foreign_keys = 1")
        if not checkpoints:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        return connection

    def close(self) -> None:
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    @contextmanager
    def _transaction(self) -> Iterator[apsw.Connection]:
        with self._write_lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            try:
                self._writer.execute("COMMIT")
            except BaseException:
                # A COMMIT that fails (disk full) leaves the transaction open.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _read(self, sql: str, *bindings: Any) -> list[tuple[Any, ...]]:
        with self._read_lock:
            return [tuple(row) for row in self._reader.execute(sql, bindings)]

    # -- orders ---------------------------------------------------------------------------------------------------

    def intend(self, ask: Ask) -> Order:
        """Record the intent, before anything happens outside; the order as it stands if the id is known already.

        Raises Conflict when the id is another order's. Above the tier's limit it is booked as rejected.
        """
        with self._transaction() as connection:
            order = _order(connection, "WHERE client_order_id = ?", ask.client_order_id)
            if order is None:
                tier, limit = connection.execute("SELECT tier, max_qty FROM tier_state JOIN tiers USING (tier)").get
                now = self._now()
                refused = f"above the limit of {limit} lots in tier {tier}" if ask.qty > limit else None
                connection.execute(
                    "INSERT INTO orders"
                    " (client_order_id, symbol, side, qty, tier, state, reason, epoch, created_at, decided_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(ask.client_order_id, ask.symbol, ask.side, ask.qty, tier),
                        *("rejected" if refused else "pending", refused, self.epoch, now, now if refused else None),
                    ),
                )
                order = _order(connection, "WHERE client_order_id = ?", ask.client_order_id)
                assert order is not None
        if not order.is_for(ask):
            raise Conflict(f"{ask.client_order_id} is another order: {order.side} {order.qty} {order.symbol}")
        return order

    def queue(self, order_id: int, reason: str, limit: int) -> Order | None:
        """Keep a pending order for later; None: so many wait already. Settled or queued, it stays as it is."""
        with self._transaction() as connection:
            order = _known(connection, order_id)
            if order.state == "pending":
                if connection.execute("SELECT count(*) FROM queue").get >= limit:
                    return None
                connection.execute("INSERT INTO queue VALUES (?, ?, ?)", (order_id, self._now(), reason))
                order = _known(connection, order_id)
        return order

    def settle(self, order_id: int, execution: Execution) -> tuple[Order, bool]:
        """Book what the exchange did; (the order, whether this booked it). A settled order stays as it is."""
        with self._transaction() as connection:
            order = _known(connection, order_id)
            open_still = order.state in ("pending", "queued")
            if open_still:
                self._book(connection, order, execution)
                order = _known(connection, order_id)
        return order, open_still

    def _book(self, connection: apsw.Connection, order: Order, execution: Execution) -> None:
        now = self._now()
        state, reason = ("filled", None) if execution.filled else ("rejected", execution.reason or "no reason given")
        connection.execute(
            "UPDATE orders SET state = ?, reason = ?, decided_at = ? WHERE id = ?", (state, reason, now, order.id)
        )
        if not execution.filled:
            return
        connection.execute(
            "INSERT INTO trades (order_id, exchange_trade_id, symbol, side, qty, price, executed_at, epoch)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(order.id, execution.trade_id, order.symbol, order.side, order.qty),
                *(execution.price, execution.executed_at, self.epoch),
            ),
        )
        trade, asset = connection.last_insert_rowid(), order.qty if order.side == "buy" else -order.qty
        cash = -asset * execution.price
        connection.executemany(
            "INSERT INTO entries (trade_id, account, commodity, amount) VALUES (?, ?, ?, ?)",
            [
                *((trade, "portfolio", order.symbol, asset), (trade, "exchange", order.symbol, -asset)),
                *((trade, "cash", "USD", cash), (trade, "exchange", "USD", -cash)),
            ],
        )
        connection.execute(
            "INSERT INTO positions VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET qty = qty + ?2, updated_at = ?3",
            (order.symbol, asset, now),
        )
        # Trades are never deleted, so the newest id is their number.
        connection.execute(
            "UPDATE tier_state SET tier = earned.tier, since = ?2"
            " FROM (SELECT MAX(tier) AS tier FROM tiers WHERE from_trades <= ?1) AS earned"
            " WHERE tier_state.tier < earned.tier",
            (trade, now),
        )

    def order(self, client_order_id: str) -> Order | None:
        with self._read_lock:
            return _order(self._reader, "WHERE client_order_id = ?", client_order_id)

    def pending(self) -> list[Order]:
        """Orders whose fate isn't known here, the queued ones among them, oldest first."""
        return [Order(*row) for row in self._read(_ORDER + "WHERE state = 'pending' ORDER BY orders.id")]

    def queued(self, most: int) -> list[Order]:
        """The oldest orders that wait for the exchange."""
        return [Order(*row) for row in self._read(_ORDER + "WHERE queue.order_id NOT NULL ORDER BY 1 LIMIT ?", most)]

    def waiting(self) -> tuple[int, int]:
        """How many orders are queued, and how many of unknown fate in all."""
        sql = "SELECT (SELECT count(*) FROM queue), (SELECT count(*) FROM orders WHERE state = 'pending')"
        queued, pending = self._read(sql)[0]
        return int(queued), int(pending)

    # -- reports --------------------------------------------------------------------------------------------------

    def trades(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Trades with an id above ``after``, in order, at most ``limit``."""
        names = ("id", "client_order_id", "trade_id", "symbol", "side", "qty", "price", "executed_at", "epoch")
        rows = self._read(
            "SELECT trades.id, client_order_id, exchange_trade_id, trades.symbol, trades.side, trades.qty, price,"
            " executed_at, trades.epoch FROM trades JOIN orders ON orders.id = order_id"
            " WHERE trades.id > ? ORDER BY trades.id LIMIT ?",
            *(after, limit),
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def positions(self) -> dict[str, int]:
        """Lots held by symbol; negative is short."""
        return {symbol: qty for symbol, qty in self._read("SELECT symbol, qty FROM positions ORDER BY symbol")}

    def cash(self) -> int:
        """Cents."""
        return int(self._read("SELECT COALESCE(SUM(amount), 0) FROM entries WHERE account = 'cash'")[0][0])

    def tier(self) -> dict[str, Any]:
        row = self._read("SELECT tier, name, max_qty, since FROM tier_state JOIN tiers USING (tier)")[0]
        return dict(zip(("tier", "name", "max_qty", "since"), row, strict=True))

    # -- probes ---------------------------------------------------------------------------------------------------

    def write_probe(self, token: str) -> None:
        """A real write like any other; the oldest probes make room."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO probes VALUES (?, ?)", (token, self._now()))
            oldest = "SELECT written_at FROM probes ORDER BY written_at DESC LIMIT 1 OFFSET ?"
            connection.execute(f"DELETE FROM probes WHERE written_at < ({oldest})", (PROBES_KEPT - 1,))

    def has_probe(self, token: str) -> bool:
        return bool(self._read("SELECT 1 FROM probes WHERE token = ?", token))

    def beat(self) -> None:
        """Raises apsw.Error when the database can't be written."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO heartbeat VALUES (1, ?)", (self._now(),))


def _known(connection: apsw.Connection, order_id: int) -> Order:
    order = _order(connection, "WHERE orders.id = ?", order_id)
    if order is None:
        raise KeyError(order_id)
    return order


def _order(connection: apsw.Connection, where: str, value: object) -> Order | None:
    for row in connection.execute(_ORDER + where, (value,)):
        return Order(*row)
    return None
