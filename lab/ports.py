"""What the simulated API asks of the machines and of the object store: the seam between lab/api and the rest.

lab/api decides *what* exists; implementations of these ports make it real (lab/machines.py, lab/objectstore.py). Tests
of the API alone use in-memory ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True)
class Interface:
    """One network interface of a droplet."""

    kind: Literal["public", "private"]
    bridge: str  # "ll-nyc3", or the VPC's bridge
    address: str
    prefix: int
    gateway: str | None
    mac: str


@dataclass(frozen=True)
class FirewallRule:
    """One direction's allowance; everything not allowed is dropped once a droplet has a firewall."""

    direction: Literal["in", "out"]
    protocol: Literal["tcp", "udp", "icmp"]
    ports: str  # "22", "8000-9000", "0" = all
    # IPv4, never empty: tags and droplet ids are addresses by now, and a rule that resolves to nobody is left out.
    cidrs: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class MachineSpec:
    """All that is needed to boot a droplet from nothing."""

    id: int
    name: str
    region: str
    image: str  # slug, or "snapshot:<id>"
    interfaces: Sequence[Interface]
    public_keys: Sequence[str]
    user_data: str
    vcpus: int = 1
    memory_mb: int = 1024
    # Enforced before the first packet, so that a droplet is never open while it boots. None: no firewall.
    firewall: Sequence[FirewallRule] | None = None


class Machines(Protocol):
    """Real hosts. Every call blocks until it is done, is idempotent, and raises RuntimeError with a reason."""

    def create(self, spec: MachineSpec) -> None: ...
    def destroy(self, droplet_id: int) -> None: ...
    def power_on(self, droplet_id: int) -> None: ...
    def power_off(self, droplet_id: int) -> None:
        """Power cut: every process dies at once, the disk stays."""

    def shutdown(self, droplet_id: int) -> None:
        """A clean shutdown request; power_off after a deadline."""

    def rebuild(self, spec: MachineSpec) -> None:
        """A new disk from the image; identity (id, addresses) stays."""

    def resize(self, spec: MachineSpec) -> None:
        """A powered-off machine gets other vcpus and memory from its next power_on; the disk stays."""

    def snapshot(self, droplet_id: int, snapshot_id: str) -> int:
        """Copy the disk to an image; returns its size in bytes."""

    def delete_snapshot(self, snapshot_id: str) -> None: ...
    def status(self, droplet_id: int) -> Literal["active", "off", "absent"]:
        """What the machine really is, not what was asked for."""

    def set_firewall(self, droplet_id: int, rules: Sequence[FirewallRule] | None) -> None:
        """None: no firewall, everything open."""


@dataclass(frozen=True)
class SpacesGrant:
    """`bucket` is "" for every bucket (fullaccess only)."""

    bucket: str
    permission: Literal["read", "readwrite", "fullaccess"]


@dataclass(frozen=True)
class SpacesKey:
    """One Spaces access key and what it may touch."""

    name: str
    access_key: str
    secret_key: str
    grants: Sequence[SpacesGrant]


class Spaces(Protocol):
    """The object stores of every region. Returns when the keys are enforced."""

    def apply_keys(self, keys: Sequence[SpacesKey]) -> None: ...
