"""The reference service to measure: its database at any size, its engine, its exchange. Real, without hosts."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw

from lab.bench.stand import free_port, spawned, wait
from lifeline.service import Service

ROOT = Path(__file__).resolve().parents[2]
SERVICE_FILE = ROOT / "services/genesis/service.toml"
BATCH = 20_000
# As a client that draws its order ids would leave it behind: each trade is one filled order, four entries.
_ORDERS = """
INSERT INTO orders (id, client_order_id, symbol, side, qty, tier, state, epoch, created_at, decided_at)
WITH RECURSIVE n(id) AS (SELECT ?1 UNION ALL SELECT id + 1 FROM n WHERE id < ?2)
SELECT id, lower(hex(randomblob(16))), CASE id % 3 WHEN 0 THEN 'BTC' WHEN 1 THEN 'ETH' ELSE 'SOL' END,
       CASE abs(random()) % 2 WHEN 0 THEN 'buy' ELSE 'sell' END, 1 + abs(random()) % 20, 1, 'filled', 1,
       strftime('%Y-%m-%dT%H:%M:%f000Z', 1760000000 + id / 60.0, 'unixepoch'),
       strftime('%Y-%m-%dT%H:%M:%f000Z', 1760000000 + id / 60.0 + 0.02, 'unixepoch')
FROM n"""
_TRADES = """
INSERT INTO trades (id, order_id, exchange_trade_id, symbol, side, qty, price, executed_at, epoch)
SELECT id, id, 'T' || id, symbol, side, qty,
       (CASE symbol WHEN 'BTC' THEN 6500000 WHEN 'ETH' THEN 350000 ELSE 15000 END) * (95 + abs(random()) % 10) / 100,
       decided_at, epoch
FROM orders WHERE id BETWEEN ?1 AND ?2"""
_ENTRIES = """
INSERT INTO entries (trade_id, account, commodity, amount)
SELECT trades.id, account, CASE asset WHEN 1 THEN symbol ELSE 'USD' END,
       sign * (CASE side WHEN 'buy' THEN 1 ELSE -1 END) * qty * (CASE asset WHEN 1 THEN 1 ELSE price END)
FROM trades JOIN (
  SELECT 1 AS leg, 'portfolio' AS account, 1 AS asset, 1 AS sign UNION ALL SELECT 2, 'exchange', 1, -1
  UNION ALL SELECT 3, 'cash', 0, -1 UNION ALL SELECT 4, 'exchange', 0, 1)
WHERE trades.id BETWEEN ?1 AND ?2 ORDER BY trades.id, leg"""
_POSITIONS = """
INSERT INTO positions
SELECT symbol, SUM(CASE side WHEN 'buy' THEN qty ELSE -qty END), '2026-01-01T00:00:00Z' FROM trades GROUP BY symbol"""


def service() -> Service:
    return Service.load(SERVICE_FILE)


def make_database(path: Path, mb: int) -> None:
    """A book of about `mb` megabytes (0: an empty one) that keeps every invariant of service.toml."""
    with engine(path.parent):
        pass  # the schema is its own
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA synchronous = OFF; PRAGMA cache_size = -400000").fetchall()
    done = 0
    while path.stat().st_size < mb * 1_000_000:
        with connection:
            for sql in (_ORDERS, _TRADES, _ENTRIES):
                connection.execute(sql, (done + 1, done + BATCH))
        done += BATCH
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.execute(_POSITIONS)
    connection.close()


@contextlib.contextmanager
def exchange(folder: Path) -> Iterator[str]:
    """The exchange that the engine trades on; yields its URL."""
    port = free_port()
    argv = [sys.executable, "-m", "services.genesis.exchange", "--listen", f"127.0.0.1:{port}"]
    with spawned([*argv, "--data", str(folder / "exchange.db")], folder / "exchange.log", env=environment()):
        wait(lambda: _health(port) is not None, 60, "the exchange answers")
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def engine(home: Path, trades_on: str = "http://127.0.0.1:9", barrier: Path | None = None) -> Iterator[int]:
    """The engine on the database in `home`, taking orders; yields its port. With a barrier's socket its durability is
    `vault`, else `async`."""
    port = free_port()
    settings = {
        **{"LIFELINE_ROLE": "primary", "LIFELINE_EPOCH": "1", "LIFELINE_HOST": "bench"},
        **{"GENESIS_HOME": str(home), "GENESIS_LOGS": str(home / "logs"), "GENESIS_EXCHANGE": trades_on},
        **{"GENESIS_ADDRESS": "127.0.0.1", "GENESIS_PORT": str(port)},
        "GENESIS_DURABILITY": "vault" if barrier else "async",
        **({"LIFELINE_AGENT_SOCKET": str(barrier)} if barrier else {}),
    }
    argv = [sys.executable, str(ROOT / "services/genesis/bin/genesis"), "serve"]
    with spawned(argv, home / "engine.log", env={**environment(), **settings}, stop_s=15):
        wait(lambda: (_health(port) or {}).get("accepting"), 120, "the engine takes orders")
        yield port


def environment() -> dict[str, str]:
    """For a process that imports the project."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _health(port: int) -> dict[str, object] | None:
    """What it says of itself; None while it doesn't answer, or isn't well."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        found = json.loads(answer.read())
        return dict(found) if answer.status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
