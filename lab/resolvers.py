"""Two resolvers of the lab's world, real ones: Unbound, as it should be, and dnsmasq, which keeps answers too long.

Unbound walks from the root (lab/registry.py) and keeps an answer for its TTL. dnsmasq asks Unbound, as a router or an
office's forwarder would, and keeps what it got for at least ``BAD_KEEPS_S`` seconds, as some do to spare traffic.
"""

from __future__ import annotations

from pathlib import Path

from lab import config
from lab.config import LabConfig
from lab.servers import DnsProbe, Server
from lifeline.errors import Unavailable
from toolchain import apt

BAD_KEEPS_S = 120
_READY_NAME = "ready.resolver.test"
# A copy, because a distribution's AppArmor profile allows the original its own folders only.
_COPY_AND_RUN = 'cp -f "$1" "$2" && shift && exec "$@"'


def servers(lab: LabConfig) -> list[Server]:
    """How to run both."""
    folder = lab.state / "resolvers"
    settings, hints = folder / "unbound.conf", folder / "root.hints"
    good = [str(folder / "unbound"), "-d", "-p", "-c", str(settings)]
    bad = [
        *(str(folder / "dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--user=root"),
        *(f"--listen-address={config.BAD_RESOLVER_ADDRESS}", "--bind-interfaces", "--no-hosts", "--no-resolv"),
        f"--server={config.RESOLVER_ADDRESS}@{config.BAD_RESOLVER_ADDRESS}",
        *(f"--min-cache-ttl={BAD_KEEPS_S}", "--no-negcache", f"--address=/{_READY_NAME}/127.0.0.1"),
        "--log-facility=-",
    ]
    return [
        _server("resolver", good, config.RESOLVER_ADDRESS, {settings: _unbound(hints), hints: _hints()}),
        _server("resolver-bad", bad, config.BAD_RESOLVER_ADDRESS, {}),
    ]


def _server(name: str, command: list[str], address: str, files: dict[Path, str]) -> Server:
    program = Path(command[0])
    return Server(
        name=name,
        argv=("/bin/sh", "-c", _COPY_AND_RUN, name, _installed(program.name), *command),
        env={"PATH": apt.SYSTEM_PATH},
        ready=DnsProbe(address, _READY_NAME),
        directories=(program.parent,),
        files=files,
    )


def _installed(program: str) -> str:
    found = apt.which(program)
    if found is None:
        raise Unavailable(f"{program} is not installed", hint="make setup-lab")
    return found


def _unbound(hints: Path) -> str:
    return f"""\
server:
  directory: "{hints.parent}"
  username: ""
  chroot: ""
  pidfile: ""
  use-syslog: no
  logfile: ""
  do-daemonize: no
  interface: {config.RESOLVER_ADDRESS}
  outgoing-interface: {config.RESOLVER_ADDRESS}
  do-ip6: no
  access-control: {config.LAB_NET} allow
  root-hints: "{hints}"
  module-config: "iterator"  # the lab signs nothing
  local-zone: "test." nodefault
  local-data: "{_READY_NAME}. A 127.0.0.1"
  # A server that was down is asked again soon: a lab's come back within seconds.
  infra-host-ttl: 5
  infra-keep-probing: yes
  cache-max-negative-ttl: 5
  num-threads: 1
  outgoing-range: 64
  num-queries-per-thread: 32
  msg-cache-size: 1m
  rrset-cache-size: 1m
remote-control:
  control-enable: no
"""


def _hints() -> str:
    return f". 3600000 NS a.registry.test.\na.registry.test. 3600000 A {config.REGISTRY_ADDRESS}\n"
