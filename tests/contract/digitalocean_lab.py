"""The simulated API for tests: a configuration on loopback, in process or served, with machines in memory."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from lab.api.app import create_app
from lab.api.config import Config, RegionConfig, Token
from lab.api.memory import InMemoryMachines, InMemorySpaces
from lab.tls import TlsFiles, ensure

TOKEN = "dop_v1_test"


def config(state: Path, **changes: object) -> Config:
    """Three regions, one token, no probing to speak of."""
    regions = tuple(
        RegionConfig(slug, f"ll-{slug}", f"198.18.{number}.0/24", f"198.18.{number}.1")
        for number, slug in enumerate(("nyc3", "sgp1", "ams3"), start=1)
    )
    settings = {"tokens": (Token(TOKEN),), "regions": regions, "uptime_period_s": 3600.0, **changes}
    return Config(state_dir=state, **settings)  # type: ignore[arg-type]


@contextlib.contextmanager
def served(
    state: Path,
    machines: InMemoryMachines | None = None,
    spaces: InMemorySpaces | None = None,
    tls: TlsFiles | None = None,
    **settings: object,
) -> Iterator[str]:
    """The API on a free port of loopback; yields its URL. `settings` are fields of its Config.

    `tls`: serve HTTPS, with a certificate drawn there as for a lab.
    """
    secure = {}
    if tls is not None:
        ensure(tls, ("127.0.0.1",))
        secure = {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key}
    # The protocol is named because asyncio sends small answers at once only where it is (40 ms a call otherwise).
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
        app = create_app(config(state, **settings), machines or InMemoryMachines(), spaces or InMemorySpaces())
        end_s = {"timeout_graceful_shutdown": 1}  # clients keep their connections
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", **secure, **end_s))  # type: ignore[arg-type]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        end = time.monotonic() + 10
        while not server.started:
            assert thread.is_alive() and time.monotonic() < end, "the API did not start"
            time.sleep(0.01)
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join(timeout=10)
