"""A stand-in for PagerDuty, by the contract of its reference: Events API v2 (POST /v2/enqueue) and, of the REST API,
GET /incidents. In memory, on a loopback port; it can be made to be slow, busy or broken.

    202 {"status": "success", "message": "Event processed", "dedup_key"}    taken
    400 {"status": "invalid event", "message", "errors": [...]}             never try again
    429, 500                                                                later

An event for a dedup_key with an open alert goes to that alert; acknowledge and resolve for none are taken, and dropped;
a trigger after a resolve is a new alert; keys of another integration are another's alerts. While an alert is
acknowledged, further triggers call nobody.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

ACTIONS = ("trigger", "acknowledge", "resolve")
SEVERITIES = ("critical", "error", "warning", "info")
SUMMARY, DEDUP = 1024, 255
BODY = 512 << 10  # larger events are refused


@dataclass
class Paged:
    """An alert, and how often it called somebody."""

    routing_key: str
    dedup_key: str
    summary: str
    status: str = "triggered"
    calls: int = 1
    by: str = ""
    log: list[Mapping[str, Any]] = field(default_factory=list)


@dataclass
class Pager:
    """State, and what tests do to it. ``routing_keys``: integrations there are; ``api_token``: the REST API's."""

    routing_keys: frozenset[str]
    api_token: str
    alerts: list[Paged] = field(default_factory=list)
    events: list[Mapping[str, Any]] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)  # statuses that the next events get instead
    retry_after: str | None = None
    url: str = ""
    hold: threading.Event = field(default_factory=threading.Event)  # while cleared, nothing is answered

    def __post_init__(self) -> None:
        self.hold.set()

    def open_alert(self, routing_key: str, dedup_key: str) -> Paged | None:
        """The alert that events of that key go to."""
        mine = (one for one in self.alerts if (one.routing_key, one.dedup_key) == (routing_key, dedup_key))
        return next((one for one in mine if one.status != "resolved"), None)

    def acknowledge(self, who: str) -> None:
        """Somebody presses the button: whatever is open is acknowledged."""
        for one in self.alerts:
            if one.status == "triggered":
                one.status, one.by = "acknowledged", who

    def enqueue(self, body: bytes) -> tuple[int, Mapping[str, Any]]:
        """An event; (status, answer)."""
        if self.faults:
            status = self.faults.pop(0)
            return status, {"status": "throttle exceeded" if status == 429 else "error", "message": "later"}
        try:
            event = json.loads(body)
        except ValueError:
            return 400, _invalid("Event object format is unrecognized", ["JSON parse error"])
        if errors := list(problems(event)):
            return 400, _invalid("Event object is invalid", errors)
        key = event.get("dedup_key") or f"generated-{len(self.events)}"
        self.events.append(event)
        if event["routing_key"] in self.routing_keys:  # an unknown one is taken too, and goes nowhere
            self._apply(event, key)
        return 202, {"status": "success", "message": "Event processed", "dedup_key": key}

    def _apply(self, event: Mapping[str, Any], key: str) -> None:
        found = self.open_alert(event["routing_key"], key)
        if event["event_action"] == "trigger":
            if found is None:
                self.alerts.append(Paged(event["routing_key"], key, event["payload"]["summary"], log=[event]))
                return
            found.log.append(event)  # a further trigger calls nobody: it is the same alert
        elif found is not None:
            found.log.append(event)
            acknowledged = event["event_action"] == "acknowledge"
            found.status = "acknowledged" if acknowledged else "resolved"
            found.by = found.by or ("the API" if acknowledged else "")

    def incidents(self, query: Mapping[str, list[str]]) -> dict[str, Any]:
        """GET /incidents: by incident_key, which also finds by the key of an incident's alerts, and by status."""
        wanted, statuses = query.get("incident_key", [""])[0], query.get("statuses[]", [])
        found = [
            {
                **{"type": "incident", "status": one.status, "incident_key": one.dedup_key, "title": one.summary},
                "acknowledgements": [{"acknowledger": {"type": "user_reference", "summary": one.by}}]
                if one.status == "acknowledged"
                else [],
            }
            for one in self.alerts
            if one.dedup_key == wanted and (not statuses or one.status in statuses)
        ]
        return {"incidents": found, "limit": 25, "offset": 0, "more": False, "total": None}


def problems(event: Any) -> Iterator[str]:
    """What the API would refuse in an event."""
    if not isinstance(event, dict):
        yield "Event object format is unrecognized"
        return
    key = event.get("routing_key")
    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z0-9]{32}", key):
        yield "Length of 'routing_key' is incorrect (should be 32 characters)"
    action, dedup = event.get("event_action"), event.get("dedup_key")
    if action not in ACTIONS:
        yield f"'event_action' is missing or invalid: {action!r}"
    if dedup is not None and (not isinstance(dedup, str) or len(dedup) > DEDUP):
        yield "'dedup_key' is invalid"
    if action in ("acknowledge", "resolve") and not dedup:
        yield "'dedup_key' is required"
    if action == "trigger":
        yield from _payload(event.get("payload"))


def _payload(payload: Any) -> Iterator[str]:
    if not isinstance(payload, dict):
        yield "'payload' is missing or blank"
        return
    for name in ("summary", "source", "severity"):
        if not isinstance(payload.get(name), str) or not payload[name]:
            yield f"'payload.{name}' is missing or blank"
    if len(str(payload.get("summary"))) > SUMMARY:
        yield "'payload.summary' is too long"
    if payload.get("severity") not in SEVERITIES:
        yield "'payload.severity' is invalid (must be one of: critical, warning, error, info)"
    if not isinstance(payload.get("custom_details", {}), dict):
        yield "'payload.custom_details' is invalid"
    try:
        datetime.fromisoformat(str(payload.get("timestamp", "2026-01-01T00:00:00Z")))
    except ValueError:
        yield "'payload.timestamp' is invalid"


def _invalid(message: str, errors: list[str]) -> dict[str, Any]:
    return {"status": "invalid event", "message": message, "errors": errors}


class _Handler(BaseHTTPRequestHandler):
    pager: Pager

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.pager.hold.wait()
        if self.path != "/v2/enqueue":
            self._answer(404, {"error": "Not Found"})
        elif len(body) > BODY:
            self._answer(413, {"status": "error", "message": "too large"})
        else:
            self._answer(*self.pager.enqueue(body))

    def do_GET(self) -> None:
        at = urlsplit(self.path)
        self.pager.hold.wait()
        if at.path != "/incidents":
            self._answer(404, {"error": "Not Found"})
        elif self.headers.get("Authorization") != f"Token token={self.pager.api_token}":
            self._answer(401, {"error": {"code": 2006, "message": "Authentication failed"}})
        else:
            self._answer(200, self.pager.incidents(parse_qs(at.query)))

    def _answer(self, status: int, body: Mapping[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 429 and self.pager.retry_after is not None:
            self.send_header("Retry-After", self.pager.retry_after)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Not a line per request."""


@contextmanager
def serve(pager: Pager, address: str = "127.0.0.1", port: int = 0) -> Iterator[Pager]:
    """Answer on that address until the end of the block; ``pager.url`` says where."""
    handler = type("Handler", (_Handler,), {"pager": pager})
    server = ThreadingHTTPServer((address, port), handler)
    server.daemon_threads = True
    pager.url = f"http://{address}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield pager
    finally:
        pager.hold.set()
        server.shutdown()
        server.server_close()
