"""The exchange as the engine sees it: one book behind one or two connections. It is idempotent by client order id, so
any request may be sent again, and by either connection.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from .breaker import OUTCOMES, RULES, Breaker, Outcome, Rules
from .model import Execution, NoAnswer, NotAcknowledged, Order

RETRY_PAUSE_S = 0.1
# Answers: done, or this order never will be. Any other status (who are you, too many, out of order) is no business.
REFUSED = (400, 409, 422)
ANSWERS = (200, 201, 404, *REFUSED)
# No order has this id: it makes the exchange look, and changes nothing.
TRIAL_ID = "trial"
Changed = Callable[[str, Breaker], None]
_FILL = ("number", "client_order_id", "trade_id", "symbol", "side", "qty", "price")


class Gateway:
    """One connection to the exchange, by name, with its circuit breaker. Sockets are kept, one per thread."""

    def __init__(self, name: str, url: str, rules: Rules, changed: Changed) -> None:
        parts = urlsplit(url)
        self.name = name
        self._calls: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self._address = (parts.hostname or "", parts.port or 80)
        self._local = threading.local()
        self._breaker = Breaker(rules)
        self._changed = changed
        self._lock = threading.Lock()

    @property
    def breaker(self) -> Breaker:
        with self._lock:
            return self._breaker

    def counted(self) -> dict[Outcome, int]:
        """How its calls ended."""
        with self._lock:
            return dict(self._calls)

    def call(self, method: str, path: str, body: Any, timeout: float) -> tuple[int, Any]:
        """Once. NoAnswer also when what came is no answer to the question."""
        try:
            status, answer = self._once(method, path, body, timeout)
            outcome: Outcome = "answered" if status in ANSWERS else "failed"
            problem = f"answered {status}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._drop()
            outcome = "timed out" if isinstance(error, TimeoutError) else "failed"
            problem = f"did not answer: {error!r}"
        self._move(lambda breaker: breaker.after(outcome, time.monotonic()), outcome)
        if outcome != "answered":
            raise NoAnswer(f"the exchange ({self.name}) {problem}")
        return status, answer

    def try_again(self, timeout: float) -> None:
        """If its circuit isn't closed and has rested: one trial."""
        if not self.breaker.trial_due(time.monotonic()):
            return
        self._move(lambda breaker: breaker.trying(time.monotonic()))
        try:
            self.call("GET", f"/v1/orders/{TRIAL_ID}", None, timeout)
        except NoAnswer:
            return  # the breaker knows

    def _move(self, step: Callable[[Breaker], Breaker], outcome: Outcome | None = None) -> None:
        with self._lock:
            before, self._breaker = self._breaker, step(self._breaker)
            after = self._breaker
            if outcome:
                self._calls[outcome] += 1
        if after.state != before.state:
            self._changed(self.name, after)

    def _once(self, method: str, path: str, body: Any, timeout: float) -> tuple[int, Any]:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(*self._address, timeout=timeout)
            self._local.connection = connection
        connection.timeout = timeout
        kept = connection.sock is not None
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        payload = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, payload, {"Content-Type": "application/json"} if payload else {})
            response = connection.getresponse()
        except (ConnectionError, http.client.RemoteDisconnected):
            if not kept:
                raise
            # It was closed while nobody used it: that says nothing of the exchange.
            self._drop()
            return self._once(method, path, body, timeout)
        return response.status, json.loads(response.read())

    def _drop(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None


class Venue:
    """Every call goes by the first connection whose circuit is closed, and by the next when that one doesn't answer.

    NoAnswer: no connection answered in time, or every circuit is open; an order's fate isn't known then.
    """

    def __init__(
        self,
        urls: Mapping[str, str],
        timeout_s: float,
        *,
        rules: Rules = RULES,
        changed: Changed = lambda name, breaker: None,
    ) -> None:
        self.gateways: Sequence[Gateway] = [Gateway(name, url, rules, changed) for name, url in urls.items()]
        self._timeout_s = timeout_s
        # One that hangs must leave the other its time.
        self._attempt_s = timeout_s / len(self.gateways)

    @property
    def reachable(self) -> bool:
        """Is any circuit closed?"""
        return any(gateway.breaker.lets_through for gateway in self.gateways)

    def execute(self, order: Order) -> Execution:
        """Send the order; the exchange executes it once, however often it is sent."""
        ask = {"client_order_id": order.client_order_id, "symbol": order.symbol, "side": order.side, "qty": order.qty}
        status, answer = self._call("POST", "/v1/orders", ask)
        if status in REFUSED:
            return Execution(False, reason=f"the exchange refused it: {status}: {str(answer)[:200]}")
        return _execution(status, answer)

    def look_up(self, client_order_id: str) -> Execution | None:
        """What became of an order; None: the exchange has never seen it."""
        status, answer = self._call("GET", f"/v1/orders/{quote(client_order_id, safe='')}")
        return None if status == 404 else _execution(status, answer)

    def fills(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Its filled orders with a number above ``after``, ascending, at most ``limit``."""
        status, answer = self._call("GET", f"/v1/trades?after={after}&limit={limit}")
        if status != 200:
            raise NotAcknowledged(f"the exchange answered {status}: {answer}")
        try:
            return [{name: fill[name] for name in _FILL} for fill in answer["trades"]]
        except (KeyError, TypeError) as error:
            raise NotAcknowledged(f"the exchange's list of trades makes no sense: {error!r}") from None

    def try_again(self) -> None:
        """One trial of each connection that is due for one."""
        for gateway in self.gateways:
            gateway.try_again(self._attempt_s)

    def _call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Try until the deadline: what failed half way is safe to repeat."""
        deadline, tried, problem = time.monotonic() + self._timeout_s, 0, ""
        while True:
            ready = [gateway for gateway in self.gateways if gateway.breaker.lets_through]
            if not ready:
                raise NoAnswer(problem or f"no connection to the exchange: {self._ills()}")
            gateway = ready[tried % len(ready)]
            try:
                return gateway.call(method, path, body, max(0.05, min(self._attempt_s, deadline - time.monotonic())))
            except NoAnswer as error:
                problem, tried = str(error), tried + 1
            if time.monotonic() + RETRY_PAUSE_S >= deadline:
                raise NoAnswer(problem)
            if tried % len(ready) == 0:
                time.sleep(RETRY_PAUSE_S)

    def _ills(self) -> str:
        return "; ".join(f"{gateway.name}: {gateway.breaker.why}" for gateway in self.gateways)


def _execution(status: int, answer: Any) -> Execution:
    if status not in (200, 201):
        raise NotAcknowledged(f"the exchange answered {status}: {answer}")
    if answer["state"] == "filled":
        return Execution(True, str(answer["trade_id"]), int(answer["price"]), str(answer["executed_at"]))
    return Execution(False, reason=str(answer["reason"]))
