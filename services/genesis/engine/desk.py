"""The way of an order, and the one rule of this engine: nothing leaves the house before the vault holds its record.

intent booked → barrier → sent to the exchange → execution booked → barrier → acknowledged.  Cut the power between any
two of them: what the outside saw is in the vault, and what the exchange did can be asked of it by the client order id.
"""

from __future__ import annotations

from typing import Protocol

from .audit import Audit
from .barrier import Barrier
from .gate import Gate, Turns
from .model import Ask, Execution, NotAcknowledged, Order
from .store import Store

RECONCILING = "reconciling with the exchange"
QUIESCED = "quiesced"
STOPPING = "stopping"
TURN_WITHIN_S = 5.0


class Exchange(Protocol):
    """What the desk needs of venue.Venue."""

    def execute(self, order: Order) -> Execution: ...
    def look_up(self, client_order_id: str) -> Execution | None: ...


class Desk:
    """Takes orders once ``reconcile`` has been through; safe to call from any thread."""

    def __init__(self, store: Store, venue: Exchange, barrier: Barrier, audit: Audit) -> None:
        self.store = store
        self.gate = Gate(RECONCILING)
        self._venue = venue
        self._barrier = barrier
        self._audit = audit
        self._turns = Turns()

    def place(self, ask: Ask) -> Order:
        """The order, filled or rejected, for good. The same client order id again returns the same order.

        Raises NotAcknowledged when its fate can't be vouched for now, Conflict when the id is another order's.
        """
        with self.gate.entered(), self._turns.of(ask.client_order_id, TURN_WITHIN_S):
            try:
                order = self.store.intend(ask)
                if order.state == "pending":
                    order = self._work(order)
                # Also when it was settled long ago: the first answer may never have passed the barrier.
                self._barrier()
            except NotAcknowledged as error:
                self._audit("not acknowledged", client_order_id=ask.client_order_id, reason=str(error))
                raise
            self._audit(
                order.state, client_order_id=order.client_order_id, trade_id=order.trade_id, reason=order.reason
            )
            return order

    def _work(self, order: Order) -> Order:
        self._barrier()
        return self.store.settle(order.id, self._venue.execute(order))

    def show(self, client_order_id: str) -> Order | None:
        """The order as it stands, once the vault holds what is shown: what the outside saw can't be lost either."""
        order = self.store.order(client_order_id)
        self._barrier()
        return order

    def probe(self, token: str) -> None:
        """Write a probe, through the same database and barrier as an order."""
        self.store.write_probe(token)
        self._barrier()

    def reconcile(self) -> list[Order]:
        """Book every order of unknown fate as the exchange tells it, and open the gate. Returns those settled.

        An order that the exchange has never seen stays pending: it was not executed, and its client may send it again.
        """
        settled = []
        for order in self.store.pending():
            with self._turns.of(order.client_order_id, TURN_WITHIN_S):
                execution = self._venue.look_up(order.client_order_id)
                if execution is not None:
                    settled.append(self.store.settle(order.id, execution))
        if settled:
            self._barrier()
        for order in settled:
            self._audit("reconciled", client_order_id=order.client_order_id, state=order.state, trade_id=order.trade_id)
        self.gate.open(RECONCILING)
        return settled
