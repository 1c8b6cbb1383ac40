"""The agent's two doors: HTTP on port 8008 for whoever watches, and a unix socket for the service (barrier) and
`lifeline-host`."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifeline import failsafe
from lifeline.errors import LifelineError
from lifeline.layout import AGENT_PORT, Layout, read_alerts, read_jobs, read_json

if TYPE_CHECKING:
    from lifeline.agent import Agent

BARRIER_TIMEOUT_S = 10.0
BARRIER_LONGEST_S = 60.0
_BODY_LIMIT = 4096
_LOCAL_PATHS = "there are GET /lease, GET /status, POST /poke, POST /withdraw and POST /barrier"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # a service keeps its connection
    timeout = 120
    agent: Agent

    def answer(self, status: int, body: dict[str, Any] | str) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Not a line per request: probes and barriers come by the second."""

    def address_string(self) -> str:
        return "local"  # a unix peer has no address


class _Public(_Handler):
    """/primary and /standby are for load balancers and uptime checks: the status code is the answer. Nothing changes
    state here, but for what the other host's agent signs."""

    def do_GET(self) -> None:
        status = self.agent.status()
        judged = status["judgement"]
        if self.path == "/primary":
            self.answer(200 if judged == "serve" else 503, _brief(status))
        elif self.path == "/standby":
            behind = any(found["stalled"] for found in status["databases"].values())
            self.answer(200 if status["role"] == "standby" and not behind else 503, _brief(status))
        elif self.path == "/health":
            self.answer(200, status)
        elif self.path == "/metrics":
            self.answer(200, metrics(self.agent))
        else:
            self.answer(404, {"error": "there are /primary, /standby, /health and /metrics"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        declared = self.headers.get("Content-Length") or ""
        length = int(declared) if declared.isdigit() else 0
        if self.path != "/promise" or not 0 < length <= _BODY_LIMIT:
            self.close_connection = True
            self.answer(404, {"error": "there is POST /promise, for the other host's agent"})
            return
        body = self.rfile.read(length)
        status, reply, signature = self.agent.peer_answer(body, self.headers.get(failsafe.SIGNATURE))
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        if signature:
            self.send_header(failsafe.SIGNATURE, signature)
        self.end_headers()
        self.wfile.write(reply)


class _Local(_Handler):
    def do_GET(self) -> None:
        status = self.agent.status()
        if self.path == "/lease":
            self.answer(
                200, {"confirmed": status["judgement"] == "serve", "epoch": status["epoch"], "reason": status["reason"]}
            )
        elif self.path == "/status":
            self.answer(200, status)
        else:
            self.answer(404, {"error": _LOCAL_PATHS})

    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 <= length <= _BODY_LIMIT:
                raise ValueError(f"a body of {length} bytes")
            body = json.loads(self.rfile.read(length) or b"{}")
            if not isinstance(body, dict):
                raise ValueError("the body must be an object")
            timeout = min(BARRIER_LONGEST_S, max(0.1, float(body.get("timeout_s", BARRIER_TIMEOUT_S))))
        except (ValueError, TypeError) as error:
            self.close_connection = True
            self.answer(400, {"error": str(error)})
            return
        if self.path == "/poke":
            self.agent.poke()
            self.answer(200, {})
        elif self.path == "/withdraw" and isinstance(body.get("epoch"), int):
            self.answer(200, {"promised_s": round(self.agent.promises.withdraw(body["epoch"]), 3)})
        elif self.path == "/barrier":
            self._barrier(body.get("database"), timeout)
        else:
            self.answer(404, {"error": _LOCAL_PATHS})

    def _barrier(self, database: str | None, timeout: float) -> None:
        try:
            self.answer(200, {"txid": self.agent.barrier.wait(database, timeout)})
        except LifelineError as error:
            self.answer(503, {"error": error.message})


def _brief(status: dict[str, Any]) -> dict[str, Any]:
    return {key: status[key] for key in ("host", "role", "epoch", "reason")}


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


class _TcpServer(ThreadingHTTPServer):
    daemon_threads = True
    address_family = socket.AF_INET

    def server_bind(self) -> None:
        # HTTPServer asks the resolver for its own name here; a host must come up without DNS.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]


@contextlib.contextmanager
def serve(agent: Agent, port: int = AGENT_PORT) -> Iterator[int]:
    """Both servers, in threads, while the context lasts; yields the TCP port (for `port` 0)."""
    with _TcpServer(("", port), _bound(_Public, agent)) as public, _unix(agent) as local:
        for server in (public, local):
            threading.Thread(target=server.serve_forever, args=(0.5,), daemon=True).start()
        try:
            yield int(public.server_address[1])
        finally:
            public.shutdown()
            local.shutdown()


def _bound(handler: type[_Handler], agent: Agent) -> type[_Handler]:
    return type(handler.__name__, (handler,), {"agent": agent})


@contextlib.contextmanager
def _unix(agent: Agent) -> Iterator[_UnixServer]:
    path: Path = agent.layout.agent_socket
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    mask = os.umask(0o177)  # nobody else's, from its first moment
    try:
        server = _UnixServer(str(path), _bound(_Local, agent))
    finally:
        os.umask(mask)
    with server:
        if os.geteuid() == 0:
            os.chown(path, 0, pwd.getpwnam(agent.config.service.user).pw_gid)
            path.chmod(0o660)
        yield server


def metrics(agent: Agent) -> str:
    """Prometheus' text format."""
    status, stats = agent.status(), agent.stats()
    lines = [
        *_metric(
            "role",
            "gauge",
            [(f'{{role="{role}"}}', int(status["role"] == role)) for role in ("primary", "standby", "none")],
        ),
        *_metric("serving", "gauge", [("", int(status["judgement"] == "serve"))]),
        *_metric("epoch", "gauge", [("", status["epoch"])]),
        *_metric("lease_age_seconds", "gauge", [("", status["lease_age_s"])]),
        *_metric("lease_silent_seconds", "gauge", [("", status["pilot"]["silent_s"])]),
        *_metric("peer_age_seconds", "gauge", [("", status["pilot"]["peer_age_s"])]),
        *_metric("failsafe", "gauge", [("", int(status["failsafe"]))]),
        *_per_database(status, "txid", "txid"),
        *_per_database(status, "newest_txid", "newest_txid"),
        *_per_database(status, "lag_seconds", "lag_s"),
        *_per_database(status, "follower_restarts_total", "restarts", "counter"),
        *_metric(
            "barrier_total", "counter", [('{result="passed"}', stats.passed), ('{result="failed"}', stats.failed)]
        ),
        *_metric("barrier_syncs_total", "counter", [("", stats.syncs)]),
        *_metric("barrier_seconds_total", "counter", [("", round(stats.seconds, 6))]),
        *_metric("barrier_slowest_seconds", "gauge", [("", round(stats.slowest, 6))]),
        *_of_the_keeper(agent.layout),
    ]
    return "\n".join(lines) + "\n"


def _of_the_keeper(layout: Layout) -> list[str]:
    jobs = [(f'{{job="{name}"}}', job) for name, job in read_jobs(layout).items()]
    succeeded = [(label, _seconds(job.get("succeeded"))) for label, job in jobs]
    return [
        *_metric("job_last_success_timestamp_seconds", "gauge", succeeded),
        *_metric("job_seconds", "gauge", [(label, job.get("seconds")) for label, job in jobs]),
        *_of_the_catalogue((read_json(layout.state / "alerts.json") or {}).get("catalogue")),
        *_metric("alert", "gauge", [(f'{{name="{alert["name"]}"}}', 1) for alert in read_alerts(layout)]),
    ]


def _of_the_catalogue(found: dict[str, Any] | None) -> list[str]:
    """Ages by this host's clock, of what the keeper last saw there."""
    made, proved = (found or {}).get("successes") or {}, (found or {}).get("verification") or {}
    backups = [at for name, stamp in made.items() if name.startswith("backup-") and (at := _seconds(stamp))]
    at, now = _seconds(proved.get("at")), time.time()
    return [
        *_metric("backup_age_seconds", "gauge", [("", round(now - max(backups), 1))] if backups else []),
        *_metric("verification_age_seconds", "gauge", [("", round(now - at, 1))] if at else []),
        *_metric("verification_passed", "gauge", [("", int(proved.get("verdict") == "PASS"))] if at else []),
        *_metric("rpo_measured_seconds", "gauge", [("", proved.get("rpo_measured_s"))]),
    ]


def _seconds(stamp: object) -> float | None:
    try:
        return datetime.fromisoformat(str(stamp)).timestamp()
    except ValueError:
        return None


def _per_database(status: dict[str, Any], name: str, field: str, kind: str = "gauge") -> list[str]:
    return _metric(
        name, kind, [(f'{{database="{database}"}}', found[field]) for database, found in status["databases"].items()]
    )


def _metric(name: str, kind: str, samples: list[tuple[str, Any]]) -> list[str]:
    # What isn't known has no sample: a gap in a graph, not a zero.
    known = [f"lifeline_{name}{labels} {value}" for labels, value in samples if value is not None]
    return [f"# TYPE lifeline_{name} {kind}", *known] if known else []
