"""A droplet's cloud firewall: nft rules in the droplet's network namespace, put there from outside.

The droplet has no CAP_NET_ADMIN, so it can neither see nor undo them, as with a real cloud firewall.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from lab import config
from lab.network import TABLE, namespace_of, run
from lab.ports import FirewallRule

FIREWALL = f"{TABLE}_firewall"
# Declaring the table before deleting it makes "delete if it exists" one atomic transaction.
_REMOVE = f"table inet {FIREWALL}\ndelete table inet {FIREWALL}\n"


def apply(droplet_id: int, rules: Sequence[FirewallRule] | None) -> None:
    """Replace the droplet's rules in one transaction; None takes the firewall away."""
    text = _REMOVE if rules is None else render(rules)
    run(["ip", "netns", "exec", namespace_of(droplet_id), "nft", "-f", "-"], stdin=text)


def render(rules: Sequence[FirewallRule]) -> str:
    """The nft program for an allow-list: answers, loopback and the metadata service pass, all else must be allowed.

    DNS is no exception: DigitalOcean's outbound rules must name it too.
    """
    inbound = "\n".join(_lines(rules, "in"))
    outbound = "\n".join(_lines(rules, "out"))
    return f"""{_REMOVE}table inet {FIREWALL} {{
  chain inbound {{ type filter hook input priority 0; policy drop;
    iifname "lo" accept
    ct state established,related accept
{inbound}
  }}
  chain outbound {{ type filter hook output priority 0; policy drop;
    oifname "lo" accept
    ct state established,related accept
    ip daddr {config.API_ADDRESS} tcp dport {config.METADATA_PORT} accept
{outbound}
  }}
}}
"""


def _lines(rules: Sequence[FirewallRule], direction: str) -> Iterator[str]:
    side = "saddr" if direction == "in" else "daddr"
    for rule in rules:
        if rule.direction != direction:
            continue
        for cidr in rule.cidrs:
            network = ipaddress.ip_network(cidr, strict=False)
            family = "ip" if network.version == 4 else "ip6"
            yield f"    {family} {side} {network} {_protocol(rule, network.version)} accept"


def _protocol(rule: FirewallRule, version: int) -> str:
    if rule.protocol == "icmp":
        return "meta l4proto " + ("icmp" if version == 4 else "ipv6-icmp")
    if rule.ports in ("0", "all", ""):
        return f"meta l4proto {rule.protocol}"
    first, _, last = rule.ports.partition("-")
    ports = f"{int(first)}-{int(last)}" if last else str(int(first))
    return f"{rule.protocol} dport {ports}"
