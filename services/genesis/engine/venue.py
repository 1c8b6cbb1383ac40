"""The exchange as the engine sees it.  It is idempotent by client order id, so any request may be sent again."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any
from urllib.parse import quote, urlsplit

from .model import Execution, NotAcknowledged, Order

RETRY_PAUSE_S = 0.1
_FILL = ("number", "client_order_id", "trade_id", "symbol", "side", "qty", "price")


class Venue:
    """Connections are kept, one per thread. NotAcknowledged: no answer, so the order's fate isn't known."""

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._timeout_s = timeout_s
        self._local = threading.local()

    def execute(self, order: Order) -> Execution:
        """Send the order; the exchange executes it once, however often it is sent."""
        ask = {"client_order_id": order.client_order_id, "symbol": order.symbol, "side": order.side, "qty": order.qty}
        status, answer = self._call("POST", "/v1/orders", ask)
        if status not in (200, 201):
            raise NotAcknowledged(f"the exchange answered {status}: {answer}")
        return _execution(answer)

    def look_up(self, client_order_id: str) -> Execution | None:
        """What became of an order; None: the exchange has never seen it."""
        status, answer = self._call("GET", f"/v1/orders/{quote(client_order_id, safe='')}")
        if status == 404:
            return None
        if status != 200:
            raise NotAcknowledged(f"the exchange answered {status}: {answer}")
        return _execution(answer)

    def fills(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Its filled orders with a number above ``after``, ascending, at most ``limit``."""
        status, answer = self._call("GET", f"/v1/trades?after={after}&limit={limit}")
        if status != 200:
            raise NotAcknowledged(f"the exchange answered {status}: {answer}")
        try:
            return [{name: fill[name] for name in _FILL} for fill in answer["trades"]]
        except (KeyError, TypeError) as error:
            raise NotAcknowledged(f"the exchange's list of trades makes no sense: {error!r}") from None

    def _call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Try until the deadline: what failed half way is safe to repeat. A 4xx is an answer, a 5xx is not."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                status, answer = self._once(method, path, body, max(0.05, deadline - time.monotonic()))
                if status < 500:
                    return status, answer
                problem = f"the exchange answered {status}"
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._drop()
                problem = f"the exchange did not answer: {error!r}"
            if time.monotonic() + RETRY_PAUSE_S >= deadline:
                raise NotAcknowledged(problem)
            time.sleep(RETRY_PAUSE_S)

    def _once(self, method: str, path: str, body: Any, timeout: float) -> tuple[int, Any]:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(*self._address, timeout=timeout)
            self._local.connection = connection
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Content-Type": "application/json"} if payload else {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def _drop(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None


def _execution(answer: Any) -> Execution:
    if answer["state"] == "filled":
        return Execution(True, str(answer["trade_id"]), int(answer["price"]), str(answer["executed_at"]))
    return Execution(False, reason=str(answer["reason"]))
