"""An S3 server on loopback, and a SQLite writer that can be killed: what the replica's contract tests stand on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config as BotoConfig

from lifeline import replica
from lifeline.barrier import ControlSocket
from lifeline.proc import child_environment
from lifeline.replica import Destination
from lifeline.service import Database

BIN = Path(sys.executable).parent
LITESTREAM = BIN / "litestream"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(condition: Any, within: float, what: str) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within} s"
        time.sleep(0.02)


@dataclass
class S3:
    """A running store. `keys` is the port the host-side code needs of the vault."""

    destination: Destination
    pid: int
    client: Any = field(repr=False)

    def keys(self, prefix: str, after: str = "") -> Iterator[str]:
        pages = self.client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.destination.bucket, Prefix=prefix, StartAfter=after):
            yield from (item["Key"] for item in page.get("Contents", []))

    def read(self, key: str) -> bytes | None:
        with contextlib.suppress(self.client.exceptions.NoSuchKey):
            return bytes(self.client.get_object(Bucket=self.destination.bucket, Key=key)["Body"].read())
        return None

    def write(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.destination.bucket, Key=key, Body=body)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.destination.bucket, Key=key)

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """The store hangs: connections are accepted by the kernel and never answered."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


@contextlib.contextmanager
def store(folder: Path) -> Iterator[S3]:
    """SeaweedFS with one bucket, ready; killed at the end."""
    names = ("master", "volume", "filer", "s3")
    ports = {name: free_port() for name in (*names, *(f"{name}-grpc" for name in names))}
    key = {"accessKey": "loopback", "secretKey": "loop$back-secret"}
    folder.mkdir(parents=True, exist_ok=True)
    identity = {"name": "test", "credentials": [key], "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    argv = [
        *[str(BIN / "weed"), "-logtostderr=true", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"],
        *["-master.peers=none", "-master.electionTimeout=1s", "-master.heartbeatInterval=200ms"],
        *["-master.volumeSizeLimitMB=256", "-volume.max=1000", "-volume.preStopSeconds=0", "-filer", "-s3"],
        *[f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"],
        *[f"-{name}.port={ports[name]}" for name in names],
        *[f"-{name}.port.grpc={ports[f'{name}-grpc']}" for name in names],
    ]
    env = {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=env)
    try:
        endpoint = f"http://127.0.0.1:{ports['s3']}"
        destination = Destination(endpoint, "vault", True, key["accessKey"], key["secretKey"])
        wait(lambda: _answers(endpoint), 30, "SeaweedFS answers")
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=key["accessKey"],
            aws_secret_access_key=key["secretKey"],
            region_name="us-east-1",
            config=BotoConfig(s3={"addressing_style": "path"}, retries={"max_attempts": 10}),
        )
        client.create_bucket(Bucket="vault")
        yield S3(destination, process.pid, client)
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextlib.contextmanager
def spawned(argv: Sequence[str], log: Path | None = None, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed at the end, if it still lives."""
    out = log.open("ab") if log else subprocess.DEVNULL
    process = subprocess.Popen(argv, env=child_environment(), stdout=out, stderr=out, **more)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if log:
            out.close()  # type: ignore[union-attr]


@dataclass(frozen=True)
class Site:
    """A host's folder: one database, its Litestream on one epoch."""

    folder: Path
    store: S3
    service: str
    epoch: int

    @property
    def database(self) -> Database:
        return Database("trades", self.folder / "trades.db")  # type: ignore[arg-type]

    @property
    def path(self) -> Path:
        return Path(self.database.path)

    @property
    def config(self) -> Path:
        return self.folder / f"litestream-{self.epoch}.yml"

    @property
    def control(self) -> ControlSocket:
        # The path of a unix socket has room for about 100 characters.
        return ControlSocket(self.socket)

    @property
    def socket(self) -> Path:
        return Path("/tmp") / f"ll-{os.getpid()}-{self.folder.name}-{self.epoch}.sock"

    def write_config(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = replica.render_config(
            self.service,
            self.epoch,
            self.store.destination,
            [self.database],
            state=self.folder / "state",
            socket=self.socket,
        )
        self.config.write_text(text)
        return self.config

    @contextlib.contextmanager
    def replicating(self) -> Iterator[subprocess.Popen[bytes]]:
        """Litestream on this epoch, its socket up."""
        argv = replica.replicate_argv(LITESTREAM, self.write_config())
        self.socket.unlink(missing_ok=True)
        with spawned(argv, self.folder / "litestream.log") as process:
            wait(self.socket.exists, 15, "Litestream's socket")
            yield process
        self.socket.unlink(missing_ok=True)

    @contextlib.contextmanager
    def following(self, output: Path) -> Iterator[subprocess.Popen[bytes]]:
        output.parent.mkdir(parents=True, exist_ok=True)
        argv = replica.follow_argv(LITESTREAM, self.write_config(), self.path, output)
        with spawned(argv, self.folder / "follower.log") as process:
            yield process

    def newest(self) -> int:
        return replica.newest_txid(self.store.keys(f"replica/{self.service}/epoch-{self.epoch:04d}/trades/"))
