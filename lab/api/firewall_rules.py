"""From firewalls to what one machine enforces: tags and droplet ids become addresses. Only reads the store."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Literal

from lab.api.store import Doc, Store
from lab.ports import FirewallRule


def covers(firewall: Doc, droplet: Doc) -> bool:
    """Is this droplet behind this firewall, by its id or one of its tags?"""
    return droplet["id"] in firewall["droplet_ids"] or not set(firewall["tags"]).isdisjoint(droplet["tags"])


def for_droplet(store: Store, droplet: Doc) -> tuple[FirewallRule, ...] | None:
    """The union of what its firewalls allow; None when no firewall covers it."""
    applying = [firewall for firewall in store.all("firewall") if covers(firewall, droplet)]
    if not applying:
        return None
    droplets = store.all("droplet")
    rules = [rule for firewall in applying for rule in _rules(firewall, droplets)]
    return tuple(dict.fromkeys(rules))  # the same rule twice is once, in the order given


def _rules(firewall: Doc, droplets: list[Doc]) -> Iterable[FirewallRule]:
    sides: tuple[tuple[Literal["in", "out"], str, str], ...] = (
        ("in", "inbound_rules", "sources"),
        ("out", "outbound_rules", "destinations"),
    )
    for direction, key, peers in sides:
        for rule in firewall[key]:
            cidrs = tuple(resolve(rule[peers], droplets))
            if cidrs:  # nobody to allow (yet) must not come to mean everybody
                yield FirewallRule(direction, rule["protocol"], rule["ports"], cidrs)


def resolve(peers: Doc, droplets: list[Doc]) -> Iterable[str]:
    """The IPv4 ranges meant by `{addresses, droplet_ids, tags}`."""
    ids, tags = set(peers.get("droplet_ids") or ()), set(peers.get("tags") or ())
    found = [cidr for cidr in peers.get("addresses") or () if ipaddress.ip_network(cidr, strict=False).version == 4]
    for droplet in droplets:
        if droplet["id"] in ids or not tags.isdisjoint(droplet["tags"]):
            found += [f"{droplet[key]}/32" for key in ("public_ip", "private_ip") if droplet[key]]
    return dict.fromkeys(str(ipaddress.ip_network(cidr, strict=False)) for cidr in found)
