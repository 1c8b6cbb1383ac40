"""What this host's service answers: said in words."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from lifeline import loopback


class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/hangs":
            threading.Event().wait(1.0)
        self.send_response({"/health": 200, "/moved": 302}.get(self.path, 503))
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "says"),
    [("/health", ""), ("/down", "HTTP 503"), ("/moved", "HTTP 302"), ("/hangs", "timed out")],
)
def test_why_it_does_not_answer(port: int, path: str, says: str) -> None:
    assert loopback.why_not(port, path, 0.2) == says


def test_where_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert "refused" in loopback.why_not(free.getsockname()[1], "/health")


def test_the_body_with_its_status(port: int) -> None:
    assert loopback.ask(port, "/health", 1.0) == (200, b"ok")
