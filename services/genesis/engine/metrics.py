"""The engine's figures, in Prometheus' text format. Counts begin with the process and never fall."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

Labels = tuple[tuple[str, str], ...]
Gauge = tuple[str, Labels, float]

# Why a trade fails on this host; another host might do better. An exchange that is away or refuses is none of them.
BARRIER, DATABASE, DEFECT = "barrier", "database", "defect"
COUNTERS: dict[str, tuple[str, tuple[Labels, ...]]] = {
    "genesis_trades_total": ("Orders filled and booked.", ((),)),
    "genesis_orders_rejected_total": ("Orders rejected, by the exchange or above the tier's limit.", ((),)),
    "genesis_trades_failed_total": (
        "Orders that failed for reasons of this host, each counted once however often it is tried again.",
        tuple((("reason", reason),) for reason in (BARRIER, DATABASE, DEFECT)),
    ),
    "genesis_orders_queued_total": ("Orders taken into the queue because the exchange was away.", ((),)),
}
GAUGES = {
    "genesis_orders_queued": "Orders that wait for the exchange.",
    "genesis_orders_pending": "Orders whose fate isn't known, the queued ones among them.",
    "genesis_accepting": "1: orders are taken.",
    "genesis_reconciled": "1: the exchange was asked about every order of unknown fate since the start.",
    "genesis_exchange_state": "1 for the state that the circuit of this connection is in.",
    "genesis_exchange_differences": "How many trades and positions differed from the exchange's, when last compared.",
    "genesis_memory_bytes": "Resident memory of the process.",
    "genesis_memory_limit_bytes": "What it may use; at 85 % of that it stops in order and begins anew.",
    "genesis_started_timestamp_seconds": "When the process began.",
}
CALLS = "genesis_exchange_calls_total"
FAILED_KEPT = 10_000


class Counters:
    """Safe for threads; every series is there from the start, with 0."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = {(name, labels): 0 for name, (_, series) in COUNTERS.items() for labels in series}
        self._failed: dict[str, None] = {}

    def add(self, name: str) -> None:
        with self._lock:
            self._values[name, ()] += 1

    def failed(self, client_order_id: str, reason: str) -> None:
        """This order failed here. It counts once: a client tries a few times a second."""
        with self._lock:
            if client_order_id in self._failed:
                return
            self._failed[client_order_id] = None
            if len(self._failed) > FAILED_KEPT:
                del self._failed[next(iter(self._failed))]
            self._values["genesis_trades_failed_total", (("reason", reason),)] += 1

    def values(self) -> dict[tuple[str, Labels], int]:
        with self._lock:
            return dict(self._values)


def render(counters: Mapping[tuple[str, Labels], int], calls: Mapping[Labels, int], gauges: Iterable[Gauge]) -> str:
    """The text of `GET /metrics`."""
    lines: list[str] = []
    for name, (text, _) in COUNTERS.items():
        lines += _head(name, "counter", text)
        lines += [_line(name, labels, value) for (known, labels), value in counters.items() if known == name]
    lines += _head(CALLS, "counter", "Calls to the exchange, by connection and how they ended.")
    lines += [_line(CALLS, labels, value) for labels, value in calls.items()]
    found = list(gauges)
    for name, text in GAUGES.items():
        series = [_line(name, labels, value) for known, labels, value in found if known == name]
        lines += [*_head(name, "gauge", text), *series] if series else []
    return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _line(name: str, labels: Labels, value: float) -> str:
    inner = ",".join(f'{key}="{text}"' for key, text in labels)
    number = int(value) if value == int(value) else value
    return f"{name}{{{inner}}} {number}" if inner else f"{name} {number}"
