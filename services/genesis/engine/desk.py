"""The way of an order, and the one rule of this engine: nothing leaves the house before the vault holds its record.

intent booked → barrier → sent to the exchange → execution booked → barrier → acknowledged.  Cut the power between any
two of them: what the outside saw is in the vault, and what the exchange did can be asked of it by the client order id.

Where the exchange doesn't answer: intent booked → barrier → queued → barrier → acknowledged as queued; the courier
sends it when the exchange is back.
"""

from __future__ import annotations

from typing import Protocol

import apsw

from .audit import Audit
from .barrier import Barrier
from .gate import Gate, Turns
from .metrics import BARRIER, DATABASE, DEFECT, Counters
from .model import Ask, Conflict, Execution, NoAnswer, NotAcknowledged, NotInVault, Order
from .store import Store

RECONCILING = "reconciling with the exchange"
QUIESCED = "quiesced"
STOPPING = "stopping"
TURN_WITHIN_S = 5.0
QUEUE_LIMIT = 10_000


class Exchange(Protocol):
    """What the desk needs of venue.Venue."""

    def execute(self, order: Order) -> Execution: ...
    def look_up(self, client_order_id: str) -> Execution | None: ...


class Desk:
    """Takes orders once ``reconcile`` has been through, or has found the exchange out of reach: then it only queues
    them. Safe to call from any thread."""

    def __init__(
        self, store: Store, venue: Exchange, barrier: Barrier, audit: Audit, *, queue_limit: int = QUEUE_LIMIT
    ) -> None:
        self.store = store
        self.gate = Gate(RECONCILING)
        self.counters = Counters()
        self.reconciled = False
        self._venue = venue
        self._barrier = barrier
        self._audit = audit
        self._queue_limit = queue_limit
        self._turns = Turns()

    def place(self, ask: Ask) -> Order:
        """The order: filled or rejected, for good, or queued. The same client order id again returns the same order.

        Raises NotAcknowledged when its fate can't be vouched for now, Conflict when the id is another order's.
        """
        with self.gate.entered(), self._turns.of(ask.client_order_id, TURN_WITHIN_S):
            try:
                order = self._placed(ask)
            except (NotAcknowledged, apsw.Error) as error:
                self._audit("not acknowledged", client_order_id=ask.client_order_id, reason=str(error))
                self._blame(ask.client_order_id, error)
                raise
            except Conflict:
                raise
            except Exception as error:
                self._blame(ask.client_order_id, error)
                raise
        self._audit(order.state, client_order_id=order.client_order_id, trade_id=order.trade_id, reason=order.reason)
        return order

    def _placed(self, ask: Ask) -> Order:
        order = self.store.intend(ask)
        if order.state == "pending":
            order = self._work(order)
        # Also when it was settled long ago: the first answer may never have passed the barrier.
        self._barrier()
        return order

    def _work(self, order: Order) -> Order:
        self._barrier()
        try:
            if not self.reconciled:
                raise NoAnswer(RECONCILING)
            return self._settle(order, self._venue.execute(order))
        except NoAnswer as error:
            # Safe also if it was executed and only the answer was lost: it is asked for under the same id.
            return self._queue(order, str(error))

    def _queue(self, order: Order, reason: str) -> Order:
        queued = self.store.queue(order.id, reason, self._queue_limit)
        if queued is None:
            raise NotAcknowledged(f"the queue is full ({self._queue_limit} orders wait for the exchange): {reason}")
        if queued.state == "queued":
            self.counters.add("genesis_orders_queued_total")
        return queued

    def _settle(self, order: Order, execution: Execution) -> Order:
        settled, booked = self.store.settle(order.id, execution)
        if booked:
            name = "genesis_trades_total" if settled.state == "filled" else "genesis_orders_rejected_total"
            self.counters.add(name)
        return settled

    def _blame(self, client_order_id: str, error: Exception) -> None:
        """Count what failed for reasons of this host; an exchange that is away fails here and elsewhere alike."""
        if isinstance(error, NotInVault):
            self.counters.failed(client_order_id, BARRIER)
        elif isinstance(error, apsw.Error):
            self.counters.failed(client_order_id, DATABASE)
        elif not isinstance(error, NotAcknowledged):
            self.counters.failed(client_order_id, DEFECT)

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

        An order that the exchange has never seen stays pending: its client may send it again. Queued ones are the
        courier's. NoAnswer, with the gate open: orders are queued, and none is sent before this has been through.
        """
        settled = []
        try:
            for order in self.store.pending():
                if order.state == "queued":
                    continue
                with self._turns.of(order.client_order_id, TURN_WITHIN_S):
                    execution = self._venue.look_up(order.client_order_id)
                    if execution is not None:
                        settled.append(self._settle(order, execution))
        except NoAnswer:
            self.gate.open(RECONCILING)
            raise
        finally:
            self._tell(settled, "reconciled")
        self.reconciled = True
        self.gate.open(RECONCILING)
        return settled

    def deliver(self, most: int) -> int:
        """Send the oldest queued orders, at most so many, each once; how many were settled.

        Each has its intent in the vault, so one barrier for all of them is early enough. NoAnswer when the exchange is
        away again.
        """
        settled: list[Order] = []
        try:
            for order in self.store.queued(most):
                with self._turns.of(order.client_order_id, TURN_WITHIN_S):
                    settled.append(self._settle(order, self._venue.execute(order)))
        finally:
            self._tell(settled, "delivered")
        return len(settled)

    def _tell(self, settled: list[Order], event: str) -> None:
        if settled:
            self._barrier()
        for order in settled:
            self._audit(event, client_order_id=order.client_order_id, state=order.state, trade_id=order.trade_id)
