"""The database.  Constraints keep single rows honest; what spans tables is an invariant in service.toml."""

from __future__ import annotations

SCHEMA = """
CREATE TABLE IF NOT EXISTS tiers (
  tier INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  from_trades INTEGER NOT NULL UNIQUE,  -- in force from this many trades on
  max_qty INTEGER NOT NULL CHECK (max_qty > 0)
) STRICT;
CREATE TABLE IF NOT EXISTS tier_state (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  tier INTEGER NOT NULL REFERENCES tiers,
  since TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS orders (
  id INTEGER PRIMARY KEY,
  client_order_id TEXT NOT NULL UNIQUE,
  symbol TEXT NOT NULL,
  side TEXT NOT NULL CHECK (side IN ('buy', 'sell')),
  qty INTEGER NOT NULL CHECK (qty > 0),
  tier INTEGER NOT NULL REFERENCES tiers,
  state TEXT NOT NULL CHECK (state IN ('pending', 'filled', 'rejected')),
  reason TEXT,
  epoch INTEGER NOT NULL,               -- the promotion under which it was taken
  created_at TEXT NOT NULL,
  decided_at TEXT,
  CHECK ((state = 'pending') = (decided_at IS NULL)),
  CHECK ((state = 'rejected') = (reason IS NOT NULL))
) STRICT;
CREATE INDEX IF NOT EXISTS orders_pending ON orders (id) WHERE state = 'pending';
CREATE TABLE IF NOT EXISTS queue (      -- orders acknowledged as queued: the exchange was away
  order_id INTEGER PRIMARY KEY REFERENCES orders,
  queued_at TEXT NOT NULL,
  reason TEXT NOT NULL
) STRICT;
CREATE TRIGGER IF NOT EXISTS queued_is_pending BEFORE INSERT ON queue
WHEN (SELECT state FROM orders WHERE id = NEW.order_id) IS NOT 'pending'
BEGIN SELECT RAISE(ABORT, 'only a pending order can be queued'); END;
CREATE TRIGGER IF NOT EXISTS settled_is_not_queued AFTER UPDATE OF state ON orders WHEN NEW.state <> 'pending'
BEGIN DELETE FROM queue WHERE order_id = NEW.id; END;
CREATE TABLE IF NOT EXISTS trades (
  id INTEGER PRIMARY KEY,
  order_id INTEGER NOT NULL UNIQUE REFERENCES orders,
  exchange_trade_id TEXT NOT NULL UNIQUE,
  symbol TEXT NOT NULL,
  side TEXT NOT NULL CHECK (side IN ('buy', 'sell')),
  qty INTEGER NOT NULL CHECK (qty > 0),
  price INTEGER NOT NULL CHECK (price > 0),  -- cents a lot
  executed_at TEXT NOT NULL,
  epoch INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS entries (
  id INTEGER PRIMARY KEY,
  trade_id INTEGER NOT NULL REFERENCES trades,
  account TEXT NOT NULL CHECK (account IN ('cash', 'portfolio', 'exchange')),
  commodity TEXT NOT NULL,              -- 'USD' in cents, or a symbol in lots
  amount INTEGER NOT NULL CHECK (amount <> 0)
) STRICT;
CREATE INDEX IF NOT EXISTS entries_trade ON entries (trade_id);
CREATE TABLE IF NOT EXISTS positions (
  symbol TEXT PRIMARY KEY,
  qty INTEGER NOT NULL,
  updated_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS probes (
  token TEXT PRIMARY KEY,
  written_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS probes_written_at ON probes (written_at);
CREATE TABLE IF NOT EXISTS heartbeat (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  at TEXT NOT NULL
) STRICT;
INSERT OR IGNORE INTO tiers VALUES (1, 'probation', 0, 100), (2, 'standard', 1000, 1000), (3, 'full', 100000, 1000000);
"""
