"""The processes a lab is made of, and how to start and stop one of them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from lab import aws, config, objectstore, proxy, resolvers
from lab.config import LabConfig
from lab.processes import Group, spawn, wait_until
from lab.servers import DnsProbe, Every, HttpProbe, Server, prepare, tidy
from lifeline.errors import StepFailed

READY_S = 30.0
_SETTLE_S = 3.0
_TAIL_LINES = 15
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def stores(lab: LabConfig) -> list[Server]:
    """Spaces of every region, and AWS S3."""
    spaces = [objectstore.spaces_spec(lab, region) for region in config.REGIONS]
    return [objectstore.server(store) for store in (*spaces, objectstore.aws_spec(lab))]


def clouds(lab: LabConfig) -> list[Server]:
    """What tells the stores about keys, and so starts after them."""
    return [api(lab), aws.server(lab)]


def names(lab: LabConfig) -> list[Server]:
    """How the rest is found."""
    return [dns(lab), registry(lab), route53(lab), *resolvers.servers(lab), proxy.server(proxy.spec(lab))]


def servers(lab: LabConfig) -> list[Server]:
    """Everything but the stand-in providers."""
    return [*stores(lab), *clouds(lab), *names(lab)]


def dns(lab: LabConfig) -> Server:
    """The name server (lab.dns)."""
    return Server(
        name="dns",
        argv=(sys.executable, "-m", "lab.dns", "--config", str(lab.file)),
        env={"PATH": _SYSTEM_PATH, "LC_ALL": "C.UTF-8"},
        ready=DnsProbe(config.DNS_ADDRESS, next(iter(config.REGIONS.values())).spaces_name),
    )


def registry(lab: LabConfig) -> Server:
    """The root of all names (lab.registry)."""
    return Server(
        name="registry",
        argv=(sys.executable, "-m", "lab.registry", "--config", str(lab.file)),
        env={"PATH": _SYSTEM_PATH, "LC_ALL": "C.UTF-8"},
        ready=DnsProbe(config.REGISTRY_ADDRESS, ".", "NS"),
    )


def route53(lab: LabConfig) -> Server:
    """Route 53's name servers and checkers (lab.route53)."""
    return Server(
        name="route53",
        argv=(sys.executable, "-m", "lab.route53", "--config", str(lab.file)),
        env={"PATH": _SYSTEM_PATH, "LC_ALL": "C.UTF-8"},
        ready=DnsProbe(config.ROUTE53_ADDRESSES[0], "ready.route53.test"),
    )


def api(lab: LabConfig) -> Server:
    """The simulated DigitalOcean API (lab.api)."""
    return Server(
        name="api",
        argv=(sys.executable, "-m", "lab.api", "--config", str(lab.file)),
        env={
            **{name: os.environ[name] for name in ("XDG_CACHE_HOME", "HOME") if name in os.environ},  # the base image's
            "PATH": _SYSTEM_PATH,
            "LC_ALL": "C.UTF-8",
        },
        ready=Every(
            (
                HttpProbe(config.API_ADDRESS, config.API_PORT, "/v2/account", (401,)),
                HttpProbe(config.API_ADDRESS, config.API_TLS_PORT, "/v2/account", (401,), lab.tls.authority),
            )
        ),
    )


def providers(lab: LabConfig, packages: list[str], variables: Mapping[str, str]) -> Server:
    """Stand-ins for the Pulumi providers that can't be had here; they act with the operator's environment."""
    attach = attach_file(lab)
    return Server(
        name="providers",
        argv=(sys.executable, "-m", "lab.providers", "--port-file", str(attach), *packages),
        env={**variables, "PATH": variables["PATH"]},
        ready=lambda: _listens(attach),
        directories=(attach.parent,),
    )


def attach_file(lab: LabConfig) -> Path:
    """Holds the value for PULUMI_DEBUG_PROVIDERS while the stand-ins run."""
    return lab.state / "providers" / "attach"


def stood_in(lab: LabConfig) -> set[str]:
    """The providers whose stand-ins were started last."""
    file = attach_file(lab)
    listed = file.read_text().strip() if file.exists() else ""
    return {item.partition(":")[0] for item in listed.split(",") if item}


def log_of(lab: LabConfig, name: str) -> Path:
    return lab.logs / f"{name}.log"


def start(server: Server, log: Path) -> bool:
    """Bring a server up; True when it had to be started. StepFailed tells which one failed, with the end of its log."""
    group = Group(server.name)
    if group.alive() and _answers_within(server, _SETTLE_S):
        return False
    stop(server)
    prepare(server)
    begin = log.stat().st_size if log.exists() else 0
    spawn(server.name, server.argv, log, env=server.env)
    try:
        wait_until(lambda: server.ready() or not group.alive(), READY_S, "not ready")
        if not group.alive():
            raise RuntimeError("it exited")
    except RuntimeError as error:
        raise StepFailed(f"{server.name}: {error}\n{_tail(log, begin)}", hint=f"less {log}") from error
    return True


def stop(server: Server) -> None:
    """Kill it, unless it likes to end by itself, and remove what it leaves behind."""
    group = Group(server.name)
    if group.path.is_dir():
        if server.kill_to_stop:
            group.remove()
        else:
            group.terminate(2.0)
    tidy(server)


def _answers_within(server: Server, seconds: float) -> bool:
    try:
        wait_until(server.ready, seconds, "")
    except RuntimeError:
        return False
    return True


def _tail(log: Path, begin: int) -> str:
    """The last lines written since ``begin``."""
    with log.open(errors="replace") as file:
        file.seek(begin, os.SEEK_SET)
        return "\n".join(f"  | {line.rstrip()}" for line in file.readlines()[-_TAIL_LINES:])


def _listens(attach: Path) -> bool:
    """All ports of ``digitalocean:PORT,aws:PORT`` accept connections."""
    try:
        ports = [int(item.rpartition(":")[2]) for item in attach.read_text().strip().split(",")]
        for port in ports:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except (OSError, ValueError):
        return False
    return bool(ports)
