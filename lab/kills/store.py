"""The vault of a campaign: SeaweedFS on loopback, which can be killed and comes back with what it had."""

from __future__ import annotations

import random
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from lab.config import KeyPair
from lab.objectstore import SPACES_ACCOUNT, StoreSpec, server
from lab.servers import prepare, tidy
from lifeline.errors import LifelineError, StepFailed
from lifeline.model import Key, StoreRef
from lifeline.store import Store
from lifeline.vault import open_store

HERE = "127.0.0.1"
KEY = KeyPair("KILLSOPERATOR", "kills-on-loopback")
READY_S = 30.0
_PORTS_A_STORE = 10
_ports = random.Random()


def free_ports(count: int = 1) -> int:
    """The first of `count` free ports in a row, below the ephemeral ones: a connection must not take them meanwhile."""
    while True:
        first = _ports.randrange(20_000, 32_000 - count)
        if all(_free(port) for port in range(first, first + count)):
            return first


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HERE, port))
        except OSError:
            return False
    return True


def await_(condition: Callable[[], object], within_s: float, what: str) -> None:
    """Until it is so. StepFailed with `what` after the deadline."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise StepFailed(f"not within {within_s:g} s: {what}")
        time.sleep(0.02)


class Vault:
    """One store, with a bucket for each site."""

    def __init__(self, folder: Path) -> None:
        first = free_ports(_PORTS_A_STORE)
        self._spec = StoreSpec("kills", folder, HERE, first, first, None, KEY, SPACES_ACCOUNT, "us-east-1", HERE)
        self._server = server(self._spec)
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        prepare(self._server)

    def ref(self, bucket: str) -> StoreRef:
        return StoreRef(bucket, "us-east-1", self._spec.inside_endpoint, path_style=True)

    def open(self, bucket: str) -> Store:
        return open_store(self.ref(bucket), Key(KEY.access_key, KEY.secret_key), direct=True)

    def start(self, bucket: str = "") -> None:
        """Start it, and wait until it answers; with a bucket, until that can be written."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._server.argv, env=dict(self._server.env), stdout=log, stderr=log, start_new_session=True
            )
        await_(self._server.ready, READY_S, "the store answers")
        if bucket:
            store = self.open(bucket)
            await_(lambda: _writes(store), READY_S, "the store takes writes")

    def make_bucket(self, bucket: str) -> None:
        import boto3
        from botocore.config import Config

        client = boto3.client(
            "s3",
            endpoint_url=self._spec.inside_endpoint,
            aws_access_key_id=KEY.access_key,
            aws_secret_access_key=KEY.secret_key,
            region_name="us-east-1",
            config=Config(proxies={}, s3={"addressing_style": "path"}),
        )
        client.create_bucket(Bucket=bucket)

    def kill(self) -> None:
        """SIGKILL: what it had acknowledged is on its disk, what was on its way is torn."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            tidy(self._server)


def _writes(store: Store) -> bool:
    try:
        store.put("ready", b"")
    except LifelineError:
        return False
    return True
