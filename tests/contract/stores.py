"""Object stores of the lab on loopback addresses, for contract tests: no root, no lab, gone at the end.

The same tests run against a real service when the environment names one: see docs/lab-stores.md.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config as BotoConfig
from botocore.exceptions import ClientError

from lab.config import KeyPair
from lab.objectstore import AWS_ACCOUNT, SPACES_ACCOUNT, StoreSpec, server
from lab.servers import prepare, tidy
from lifeline.model import Key, StoreRef

READY_S = 30.0
OPERATOR = KeyPair("LLTESTOPERATOR", "operators-secret")
_PORTS_A_STORE = 10


@dataclass(frozen=True)
class Running:
    """A store that answers, with the operator's key and the region its clients sign for."""

    spec: StoreSpec
    region: str

    def ref(self, bucket: str) -> StoreRef:
        return StoreRef(bucket, self.region, self.spec.inside_endpoint, path_style=True)

    def client(self, key: KeyPair | Key = OPERATOR) -> Any:
        """boto3's, without retries or proxies."""
        return boto3.client(
            "s3",
            endpoint_url=self.spec.inside_endpoint,
            aws_access_key_id=key.access_key,
            aws_secret_access_key=key.secret_key,
            region_name=self.region,
            config=BotoConfig(retries={"total_max_attempts": 1}, proxies={}, s3={"addressing_style": "path"}),
        )


def spaces_spec(folder: Path, region: str = "nyc3") -> StoreSpec:
    """Spaces of a region on loopback."""
    return _spec(region, folder, f"{region}.spaces.test", SPACES_ACCOUNT, region)


def aws_spec(folder: Path) -> StoreSpec:
    """AWS S3 on loopback."""
    return _spec("aws", folder, None, AWS_ACCOUNT, "us-east-2")


def _spec(name: str, folder: Path, domain: str | None, account: str, region: str) -> StoreSpec:
    first = free_ports(_PORTS_A_STORE + 1)
    # 127.0.0.1 itself: for any other address SeaweedFS listens on both. The last port is its front's.
    here = "127.0.0.1"
    return StoreSpec(name, folder, here, first + _PORTS_A_STORE, first, domain, OPERATOR, account, region, here)


@contextlib.contextmanager
def running(spec: StoreSpec, region: str) -> Iterator[Running]:
    """A store, ready; killed at the end."""
    description = server(spec)
    prepare(description)
    with (spec.directory / "log").open("wb") as log:
        process = subprocess.Popen(description.argv, env=description.env, stdout=log, stderr=log)
    try:
        wait_until(lambda: description.ready() or process.poll() is not None, READY_S)
        assert process.poll() is None, (spec.directory / "log").read_text()[-2000:]
        yield Running(spec, region)
    finally:
        process.kill()
        process.wait()
        tidy(description)


def wait_until(condition: Any, within_s: float) -> None:
    """Poll until true; fails after the deadline."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s"
        time.sleep(0.02)


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_ports = iter(range(19000 + _WORKER * 1000, 20000 + _WORKER * 1000))  # outside the ephemeral range


def free_ports(count: int) -> int:
    """The first of ``count`` free ports in a row. None is given out twice, and parallel test processes get others."""
    row: list[int] = []
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                row.clear()
                continue
        row.append(port)
        if len(row) == count:
            return row[0]
    raise AssertionError("no free ports")


def outcome(call: Any, /, **arguments: Any) -> str:
    """What a client was told: "ok", or the error's code."""
    try:
        call(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "ok"
