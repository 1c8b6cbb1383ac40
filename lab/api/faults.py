"""Faults to order: what goes wrong with the next calls. Kept in memory; a restart of the simulator clears them.

`POST /_lab/faults` takes one fault, `GET` shows those that are left, `DELETE` clears all (or one: `/_lab/faults/{id}`).
"""

from __future__ import annotations

import fnmatch
import itertools
import threading
from dataclasses import asdict, dataclass, replace
from typing import Any

from fastapi import APIRouter, Request, Response

from lab.api import fields
from lab.api.cloud import BodyDep
from lab.api.errors import not_found, unprocessable

router = APIRouter()
# error_after: the client sees a failure, the side effect has happened. That is how retried POSTs make duplicates.
KINDS = ("error_before", "error_after", "latency", "rate_limit", "down")
_STATUS = {"error_before": 500, "error_after": 500, "rate_limit": 429, "down": 503, "latency": 0}


@dataclass(frozen=True)
class Fault:
    """`path` is a glob ("/v2/droplets/*"); `count` calls are hit, None: until cleared."""

    id: int
    kind: str
    method: str
    path: str
    count: int | None
    seconds: float
    status: int

    def matches(self, method: str, path: str) -> bool:
        return self.method in ("*", method) and fnmatch.fnmatchcase(path, self.path)


class Faults:
    """The faults still to come. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._faults: list[Fault] = []

    def add(self, body: dict[str, Any]) -> Fault:
        """Check and keep one; 422 when it makes no sense."""
        kind = fields.choice(body, "kind", KINDS)
        everything = kind == "down"
        count = fields.integer(body, "count", default=None if everything else 1)
        if count is not None and count < 1:
            raise unprocessable("count must be at least 1, or null for all until cleared")
        seconds = body.get("seconds") or 0
        if not isinstance(seconds, int | float) or not 0 <= seconds <= 600 or (kind == "latency" and not seconds):
            raise unprocessable("seconds must be between 0 and 600, and latency needs some")
        fault = Fault(
            id=next(self._ids),
            kind=kind,
            method=fields.string(body, "method", default="*").upper(),
            path=fields.string(body, "path", default="/v2/*"),
            count=None if "count" in body and body["count"] is None else count,
            seconds=float(seconds),
            status=fields.integer(body, "status", default=_STATUS[kind]) or _STATUS[kind],
        )
        with self._lock:
            self._faults.append(fault)
        return fault

    def take(self, method: str, path: str) -> list[Fault]:
        """The faults that hit this call; each is used up by one."""
        hit: list[Fault] = []
        with self._lock:
            left: list[Fault] = []
            for fault in self._faults:
                if not fault.matches(method, path):
                    left.append(fault)
                    continue
                hit.append(fault)
                if fault.count is None:
                    left.append(fault)
                elif fault.count > 1:
                    left.append(replace(fault, count=fault.count - 1))
            self._faults = left
        return hit

    def all(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(fault) for fault in self._faults]

    def clear(self, id_: int | None = None) -> bool:
        """True if something was cleared."""
        with self._lock:
            before = len(self._faults)
            self._faults = [fault for fault in self._faults if id_ is not None and fault.id != id_]
            return len(self._faults) < before


def _faults(request: Request) -> Faults:
    found: Faults = request.app.state.faults
    return found


@router.get("/_lab/faults")
def list_faults(request: Request) -> dict[str, Any]:
    return {"faults": _faults(request).all()}


@router.post("/_lab/faults", status_code=201)
def add_fault(request: Request, body: BodyDep) -> dict[str, Any]:
    return {"fault": asdict(_faults(request).add(body))}


@router.delete("/_lab/faults", status_code=204)
def clear_faults(request: Request) -> Response:
    _faults(request).clear()
    return Response(status_code=204)


@router.delete("/_lab/faults/{fault_id}", status_code=204)
def clear_fault(request: Request, fault_id: int) -> Response:
    if not _faults(request).clear(fault_id):
        raise not_found("fault")
    return Response(status_code=204)
