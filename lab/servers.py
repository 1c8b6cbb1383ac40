"""A server of the lab as a value: what to run, what it needs on disk, and how to see that it answers.

Rooms describe their servers (``lab/objectstore.py``, ``lab/aws.py``, ``lab/proxy.py``); whoever starts the lab decides
how to run them. Describing has no side effect.
"""

from __future__ import annotations

import http.client
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dnslib import DNSError, DNSRecord

_PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class HttpProbe:
    """Ready when ``GET path`` there answers with one of ``expect``. Never goes through a proxy.

    ``authority``: speak TLS, and accept a certificate of this authority (PEM) only.
    """

    address: str
    port: int
    path: str = "/"
    expect: tuple[int, ...] = (200,)
    authority: Path | None = None

    def __call__(self) -> bool:
        try:
            connection = self._connection()
        except OSError:  # no authority
            return False
        try:
            connection.request("GET", self.path)
            return connection.getresponse().status in self.expect
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.authority is None:
            return http.client.HTTPConnection(self.address, self.port, timeout=_PROBE_TIMEOUT_S)
        trusted = ssl.create_default_context(cafile=self.authority)
        return http.client.HTTPSConnection(self.address, self.port, timeout=_PROBE_TIMEOUT_S, context=trusted)


@dataclass(frozen=True)
class DnsProbe:
    """Ready when a name server there has an answer to this question."""

    address: str
    name: str
    kind: str = "A"
    port: int = 53

    def __call__(self) -> bool:
        query = DNSRecord.question(self.name, self.kind)
        try:
            return bool(DNSRecord.parse(query.send(self.address, self.port, timeout=1)).rr)
        except (OSError, DNSError):
            return False


@dataclass(frozen=True)
class Every:
    """Ready when all of these are."""

    probes: tuple[HttpProbe, ...]

    def __call__(self) -> bool:
        return all(probe() for probe in self.probes)


@dataclass(frozen=True)
class Server:
    """One process. ``env`` is its whole environment; ``files`` (path → text) are written 0600 before it starts.

    ``kill_to_stop``: SIGKILL is the way to stop it (a clean shutdown is slow, and not needed).
    ``leftovers``: paths outside its own folder that it creates and doesn't remove.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    ready: Callable[[], bool]
    directories: tuple[Path, ...] = ()
    files: Mapping[Path, str] = field(default_factory=dict)
    kill_to_stop: bool = False
    leftovers: tuple[Path, ...] = ()


def prepare(server: Server) -> None:
    """Create the folders and files that the server needs. Safe to repeat."""
    for directory in server.directories:
        directory.mkdir(parents=True, exist_ok=True)
    for path, text in server.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(text)


def tidy(server: Server) -> None:
    """Remove what a stopped server leaves outside its own folder."""
    for path in server.leftovers:
        path.unlink(missing_ok=True)
