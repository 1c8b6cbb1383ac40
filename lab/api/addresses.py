"""Which address a droplet gets: pure arithmetic on networks and what is taken already."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable

_FIRST_PUBLIC = 10  # below: the gateway, Spaces and what else a region needs
_FIRST_RESERVED = 200  # reserved IPs take the region's upper end
_FIRST_PRIVATE = 2
DEFAULT_PREFIX = 20  # of a VPC made without a range


def free_public(network: ipaddress.IPv4Network, taken: Collection[str]) -> str | None:
    """The lowest free address for a droplet; None when the region is full."""
    return _free(network, taken, _FIRST_PUBLIC, _FIRST_RESERVED)


def free_reserved(network: ipaddress.IPv4Network, taken: Collection[str]) -> str | None:
    return _free(network, taken, _FIRST_RESERVED, network.num_addresses - 1)


def free_private(network: ipaddress.IPv4Network, taken: Collection[str]) -> str | None:
    return _free(network, taken, _FIRST_PRIVATE, network.num_addresses - 1)


def _free(network: ipaddress.IPv4Network, taken: Collection[str], first: int, end: int) -> str | None:
    for offset in range(first, min(end, network.num_addresses - 1)):
        address = str(network.network_address + offset)
        if address not in taken:
            return address
    return None


def free_range(pool: ipaddress.IPv4Network, taken: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network | None:
    """The first /20 of the pool that overlaps no other VPC."""
    used = list(taken)
    prefix = max(DEFAULT_PREFIX, pool.prefixlen)
    for candidate in pool.subnets(new_prefix=prefix):
        if not any(candidate.overlaps(other) for other in used):
            return candidate
    return None


def mac(address: str) -> str:
    """A locally administered MAC that is the same whenever the address is."""
    return "02:4c:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(address).packed)


def ipv6(address: str, region: int) -> str:
    """The address recorded for a droplet with IPv6, in the documentation range: the lab routes no IPv6."""
    host = int(ipaddress.IPv4Address(address)) & 0xFFFF
    return str(ipaddress.IPv6Address(f"2001:db8:{region:x}::{host:x}"))
