"""One process that serves both stand-ins, each on a loopback port of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import grpc
from pulumi.runtime.proto import provider_pb2_grpc

from lab.providers import aws, digitalocean
from lab.providers.servicer import StandIn

THREADS = 16
MAX_MESSAGE = 64 * 1024 * 1024
STAND_INS = {
    "digitalocean": ("pulumi-digitalocean", digitalocean.configure),
    "aws": ("pulumi-aws", aws.configure),
}


@dataclass(frozen=True)
class Running:
    """Servers by package, and where they listen."""

    servers: dict[str, grpc.Server]
    ports: dict[str, int]

    @property
    def attach(self) -> str:
        """The value of PULUMI_DEBUG_PROVIDERS."""
        return ",".join(f"{name}:{port}" for name, port in sorted(self.ports.items()))

    def stop(self) -> None:
        """Returns when calls in progress are done, or after two seconds."""
        for stopped in [server.stop(grace=2) for server in self.servers.values()]:
            stopped.wait()


def ports_of(attach: str) -> dict[str, int]:
    """The ports by package in a value of PULUMI_DEBUG_PROVIDERS; what can't be read is left out."""
    pairs = (pair.partition(":") for pair in attach.strip().split(","))
    return {name: int(port) for name, _, port in pairs if name and port.isdigit()}


def serve(packages: Iterable[str], wished: Mapping[str, int] | None = None) -> Running:
    """Start a stand-in for each package ("digitalocean", "aws") on a loopback port: the wished one, or a free one."""
    servers: dict[str, grpc.Server] = {}
    ports: dict[str, int] = {}
    for package in packages:
        distribution, configure = STAND_INS[package]
        server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix=package),
            options=[("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.so_reuseport", 0)],
        )
        provider_pb2_grpc.add_ResourceProviderServicer_to_server(StandIn(version(distribution), configure), server)
        ports[package] = _listen(server, (wished or {}).get(package, 0))
        server.start()
        servers[package] = server
    return Running(servers, ports)


def _listen(server: grpc.Server, wished: int) -> int:
    """The port it listens on."""
    with contextlib.suppress(RuntimeError):  # taken meanwhile
        if port := int(server.add_insecure_port(f"127.0.0.1:{wished}")):
            return port
    return int(server.add_insecure_port("127.0.0.1:0"))


def write_whole(path: Path, text: str) -> None:
    """A reader sees all of it or nothing."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)
