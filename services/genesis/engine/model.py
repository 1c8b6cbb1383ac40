"""What the engine speaks in.  Quantities are whole lots, prices and cash whole cents: money is never a float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Side = Literal["buy", "sell"]
State = Literal["pending", "queued", "filled", "rejected"]
MAX_QTY = 1_000_000


class Invalid(Exception):
    """The request makes no sense; the message says why (HTTP 400)."""


class Conflict(Exception):
    """This client order id was used for another order (HTTP 409)."""


class NotAcknowledged(Exception):
    """We can't vouch for the order now: it may or may not be executed; the same id may be sent again (HTTP 503)."""


class NotInVault(NotAcknowledged):
    """The commit barrier failed: what was just committed may be on this host alone."""


class NoAnswer(NotAcknowledged):
    """The exchange can't be reached, from here as from elsewhere."""


@dataclass(frozen=True)
class Ask:
    """An order as the client asks for it."""

    client_order_id: str
    symbol: str
    side: Side
    qty: int

    @classmethod
    def from_json(cls, raw: Any, symbols: frozenset[str]) -> Ask:
        """Validate a request's body; Invalid names the field."""
        if not isinstance(raw, dict):
            raise Invalid("the body must be a JSON object")
        known = {"client_order_id", "symbol", "side", "qty"}
        if set(raw) != known:
            raise Invalid(f"the fields must be {', '.join(sorted(known))}")
        identity, symbol, side, qty = raw["client_order_id"], raw["symbol"], raw["side"], raw["qty"]
        if not isinstance(identity, str) or not 1 <= len(identity) <= 64 or not identity.isascii() or "/" in identity:
            raise Invalid("client_order_id: 1 to 64 ASCII characters without '/'")
        if not isinstance(symbol, str) or symbol not in symbols:
            raise Invalid(f"symbol: one of {', '.join(sorted(symbols))}")
        if side not in ("buy", "sell"):
            raise Invalid("side: buy or sell")
        if isinstance(qty, bool) or not isinstance(qty, int) or not 1 <= qty <= MAX_QTY:
            raise Invalid(f"qty: a whole number of lots, 1 to {MAX_QTY}")
        return cls(identity, symbol, side, qty)


@dataclass(frozen=True)
class Execution:
    """What the exchange did with an order: a fill at a price in cents, or a rejection with its reason."""

    filled: bool
    trade_id: str = ""
    price: int = 0
    executed_at: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Order:
    """An order as booked.  ``pending``: its intent is recorded, its fate is not known here.  ``queued``: the same, and
    this engine sends it as soon as the exchange can be reached; ``reason`` says why it couldn't be sent at once."""

    id: int
    client_order_id: str
    symbol: str
    side: Side
    qty: int
    state: State
    reason: str | None
    epoch: int
    created_at: str
    trade_id: str | None = None
    price: int | None = None

    def is_for(self, ask: Ask) -> bool:
        return (self.symbol, self.side, self.qty) == (ask.symbol, ask.side, ask.qty)
