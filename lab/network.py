"""The lab's network: bridges for regions, VPCs and the world outside, and a namespace per droplet.

Everything is named ``ll-*`` (interfaces, namespaces) or ``lifeline_lab*`` (nft tables), so what an earlier lab left
behind is found by name. Forwarding is switched on for the lab's own bridges only: the machine's ``ip_forward`` stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lab import config
from lab.ports import Interface

PREFIX = "ll-"
TABLE = "lifeline_lab"
_BRIDGE_SETTINGS = {"ipv6/conf/{0}/disable_ipv6": "1", "ipv4/conf/{0}/forwarding": "1"}

# What the lab's services and the operator answer to. The first address of a bridge is its gateway.
BRIDGES: dict[str, tuple[str, ...]] = {
    config.WORLD_BRIDGE: (config.OPERATOR_ADDRESS, *config.EXCHANGE_ADDRESSES, config.CLIENT_ADDRESS),
    config.CLOUD_BRIDGE: (
        "198.18.0.1",
        config.API_ADDRESS,
        config.AWS_S3_ADDRESS,
        config.AWS_IAM_ADDRESS,
        *config.NAME_SERVERS.values(),
        config.REGISTRY_ADDRESS,
        *config.ROUTE53_ADDRESSES,
        config.RESOLVER_ADDRESS,
        config.BAD_RESOLVER_ADDRESS,
        config.PROXY_ADDRESS,
    ),
    **{region.bridge: (region.gateway, region.spaces) for region in config.REGIONS.values()},
}

_GUARD = f"""
table inet {TABLE} {{
  chain from_here {{ type filter hook output priority -10; policy accept;
    ip daddr {config.LAB_NET} oifname != {{ "lo", "ll-*" }} drop comment "nothing of the lab leaves the machine"
    jump partitions
  }}
  chain to_here {{ type filter hook input priority -10; policy accept;
    ip daddr {config.LAB_NET} iifname != {{ "lo", "ll-*" }} drop comment "nothing outside reaches the lab"
    iifname "ll-*" ip daddr != {config.LAB_NET} drop comment "a droplet reaches the lab's services only"
    iifname "ll-*" meta nfproto ipv6 drop
    jump partitions
  }}
  chain across {{ type filter hook forward priority -10; policy accept;
    iifname "ll-*" oifname != "ll-*" drop comment "a droplet has no way out"
    oifname "ll-*" iifname != "ll-*" drop comment "and there is no way in"
    jump partitions
  }}
  chain partitions {{ }}
}}
"""


def run(argv: Sequence[str], *, stdin: str | None = None) -> str:
    """Run a tool and return its output; RuntimeError with what it said when it fails."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip() or done.returncode}")
    return done.stdout


def ip_batch(lines: Iterable[str], namespace: str | None = None) -> None:
    """Several ``ip`` commands in one process: a tenth of the time."""
    run(["ip", *(["-n", namespace] if namespace else []), "-batch", "-"], stdin="\n".join(lines) + "\n")


def links() -> list[str]:
    """Names of the lab's interfaces in the root namespace."""
    rows = json.loads(run(["ip", "-j", "link", "show"]) or "[]")
    return [row["ifname"] for row in rows if row.get("ifname", "").startswith(PREFIX)]


def namespaces() -> list[str]:
    """Names of the lab's network namespaces."""
    rows = json.loads(run(["ip", "-j", "netns", "list"]) or "[]")
    return [row["name"] for row in rows if row["name"].startswith(PREFIX)]


def up() -> None:
    """Create what is missing; what exists stays, so running machines and partitions are not disturbed."""
    existing = set(links())
    for bridge, addresses in BRIDGES.items():
        if bridge not in existing:
            add_bridge(bridge)
        ip_batch(f"addr replace {address}/24 dev {bridge}" for address in addresses)
        # Whatever on this machine doesn't choose its own address is the operator, for droplets (below) and for the
        # lab's services: firewalls and partitions can tell it from a region's gateway or from the service itself.
        if bridge != config.WORLD_BRIDGE:
            local = f"dev {bridge} table local proto kernel scope host src {config.OPERATOR_ADDRESS}"
            ip_batch(f"route replace local {address} {local}" for address in addresses)
    ip_batch(
        f"route replace {region.subnet} dev {region.bridge} src {config.OPERATOR_ADDRESS}"
        for region in config.REGIONS.values()
    )
    if not table_exists(TABLE):
        run(["nft", "-f", "-"], stdin=_GUARD)


def down() -> None:
    """Remove every namespace, interface and table of the lab."""
    for name in namespaces():
        run(["ip", "netns", "delete", name])
    for name in links():
        if name in links():  # one end of a veth pair takes the other with it
            run(["ip", "link", "delete", name])
    if table_exists(TABLE):
        run(["nft", "delete", "table", "inet", TABLE])
    _forget_netns_folder()


def _forget_netns_folder() -> None:
    """``ip netns add`` mounts /run/netns onto itself, once; undone when nobody has a namespace in it."""
    folder = Path("/run/netns")
    if folder.is_dir() and not any(folder.iterdir()):
        while f" {folder} " in Path("/proc/self/mounts").read_text():
            run(["umount", str(folder)])
        folder.rmdir()


def table_exists(table: str) -> bool:
    return f"table inet {table}\n" in run(["nft", "list", "tables"])


def add_bridge(name: str) -> None:
    """A bridge that forwards IPv4 and speaks no IPv6; no address yet."""
    ip_batch([f"link add {name} type bridge forward_delay 0", f"link set {name} up"])
    for setting, value in _BRIDGE_SETTINGS.items():
        Path("/proc/sys/net", setting.format(name)).write_text(value)


def partitions() -> list[str]:
    """Names of the cuts in force."""
    if not table_exists(TABLE):
        return []
    return list(dict.fromkeys(name for name, _ in _partition_rules()))


def add_partition(name: str, matches: Sequence[str]) -> None:
    """Drop what matches any of the nft expressions, in one transaction."""
    rules = [f'add rule inet {TABLE} partitions {match} drop comment "{name}"' for match in matches]
    run(["nft", "-f", "-"], stdin="\n".join(rules) + "\n")


def remove_partition(name: str) -> None:
    handles = [handle for known, handle in _partition_rules() if known == name]
    rules = [f"delete rule inet {TABLE} partitions handle {handle}" for handle in handles]
    run(["nft", "-f", "-"], stdin="\n".join(rules) + "\n")


def _partition_rules() -> list[tuple[str, int]]:
    """(comment, handle) of every rule in the chain: the kernel is the only place that remembers."""
    listing = json.loads(run(["nft", "-j", "list", "chain", "inet", TABLE, "partitions"]))
    rules = [item["rule"] for item in listing["nftables"] if "rule" in item]
    return [(rule.get("comment", ""), rule["handle"]) for rule in rules]


# --- one droplet -----------------------------------------------------------------------------------------------------


def namespace_of(droplet_id: int) -> str:
    return f"{PREFIX}d{droplet_id}"


@contextlib.contextmanager
def _exclusive() -> Iterator[None]:
    """One at a time over all processes: an idle VPC bridge must not be removed while it is being plugged into."""
    with Path(__file__).open() as lock:  # any file will do, and this one leaves nothing behind
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def attach(droplet_id: int, interfaces: Sequence[Interface]) -> None:
    """Give a droplet its namespace with eth0, eth1 … plugged into their bridges. Always a new one: in that from before
    the kernel would go on sending, for dead processes, what a power cut had kept from being sent."""
    with _exclusive():
        _attach(droplet_id, interfaces)


def _attach(droplet_id: int, interfaces: Sequence[Interface]) -> None:
    namespace = namespace_of(droplet_id)
    ends = [f"{namespace}e{index}" for index in range(len(interfaces))]
    _detach(namespace)
    for bridge in {interface.bridge for interface in interfaces} - set(links()):
        add_bridge(bridge)
    run(["ip", "netns", "add", namespace])
    ip_batch(_plug(end, namespace, index, interfaces[index].bridge) for index, end in enumerate(ends))
    inside = ["link set lo up"]
    for index, interface in enumerate(interfaces):
        inside += _configure(f"eth{index}", interface)
    ip_batch(inside, namespace)
    run(["ip", "netns", "exec", namespace, "nft", "-f", "-"], stdin=_METADATA)


def _plug(end: str, namespace: str, index: int, bridge: str) -> str:
    return "\n".join(
        [
            f"link add {end} type veth peer name eth{index} netns {namespace}",
            f"link set {end} master {bridge} addrgenmode none up",
        ]
    )


def _configure(device: str, interface: Interface) -> list[str]:
    lines = [
        f"link set {device} address {interface.mac} up",
        f"addr add {interface.address}/{interface.prefix} dev {device}",
    ]
    if interface.gateway:
        lines.append(f"route add default via {interface.gateway} dev {device}")
    return lines


# 169.254.169.254 is translated where the droplet can't see or change it: it has no CAP_NET_ADMIN.
_METADATA = f"""
table ip {TABLE}_metadata {{
  chain output {{ type nat hook output priority -100;
    ip daddr {config.METADATA_ADDRESS} tcp dport 80 dnat to {config.API_ADDRESS}:{config.METADATA_PORT}
  }}
}}
"""


def unplug(droplet_id: int) -> None:
    """Without power a host answers nothing: the kernel, which still has its addresses, would refuse connections."""
    with _exclusive():
        prefix = f"{namespace_of(droplet_id)}e"
        ip_batch(f"link set {name} down" for name in links() if name.startswith(prefix))


def detach(droplet_id: int) -> None:
    """Remove a droplet's namespace and interfaces, and VPC bridges that nothing is plugged into any more."""
    with _exclusive():
        _detach(namespace_of(droplet_id))


def _detach(namespace: str) -> None:
    # Its ends out here first: with the namespace they would go when the kernel finds the time, and until then a bridge
    # has them still.
    for name in links():
        if name[: len(namespace) + 1] == f"{namespace}e":
            subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)
    if namespace in namespaces():
        run(["ip", "netns", "delete", namespace])
    _remove_idle_bridges()


def _remove_idle_bridges() -> None:
    for name in links():
        ports = Path("/sys/class/net", name, "brif")
        if name not in BRIDGES and ports.is_dir() and not any(ports.iterdir()):
            subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)
