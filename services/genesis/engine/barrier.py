"""The commit barrier, from the service's side: ask the local agent whether what we committed is in the vault."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Protocol

from .model import NotInVault

DATABASE = "genesis"


class Barrier(Protocol):
    """Returns when all that was committed before the call is in the vault; NotInVault when that isn't proved."""

    def __call__(self) -> None: ...


def no_barrier() -> None:
    """Durability ``async``: about a second of acknowledged work may be lost with the host."""


class AgentBarrier:
    """The real one. Calls may be concurrent: the agent lets them share a round trip."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s

    def __call__(self) -> None:
        connection = _UnixConnection(self._path, self._timeout_s)
        try:
            connection.request(
                "POST", "/barrier", json.dumps({"database": DATABASE}), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NotInVault(f"the commit barrier did not answer: {error!r}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise NotInVault(f"not in the vault yet: {body[:300].decode(errors='replace')}")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
