"""Machines and object stores that exist in memory only: for tests of the API, and to try clients without root."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lab.ports import FirewallRule, MachineSpec, SpacesKey


@dataclass
class InMemoryMachines:
    """Does what `lab.ports.Machines` promises, to a dict.

    `calls` is what was asked, in order; `failing` names methods that raise.
    """

    specs: dict[int, MachineSpec] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    snapshots: set[str] = field(default_factory=set)
    firewalls: dict[int, tuple[FirewallRule, ...] | None] = field(default_factory=dict)
    calls: list[tuple[str, int | str]] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    gate: threading.Event | None = None  # when set, every call waits for it: an operation that takes its time

    def _call(self, name: str, what: int | str) -> None:
        self.calls.append((name, what))
        if self.gate is not None and not self.gate.wait(timeout=10):
            raise RuntimeError("the gate was never opened")
        if name in self.failing:
            raise RuntimeError(f"{name} fails, as the test asked")

    def _known(self, droplet_id: int) -> None:
        if droplet_id not in self.specs:
            raise RuntimeError(f"no machine {droplet_id}")

    def create(self, spec: MachineSpec) -> None:
        self._call("create", spec.id)
        self.specs[spec.id] = spec
        self.firewalls[spec.id] = None if spec.firewall is None else tuple(spec.firewall)
        self.running.add(spec.id)

    def destroy(self, droplet_id: int) -> None:
        self._call("destroy", droplet_id)
        self.specs.pop(droplet_id, None)
        self.firewalls.pop(droplet_id, None)
        self.running.discard(droplet_id)

    def power_on(self, droplet_id: int) -> None:
        self._call("power_on", droplet_id)
        self._known(droplet_id)
        self.running.add(droplet_id)

    def power_off(self, droplet_id: int) -> None:
        self._call("power_off", droplet_id)
        self._known(droplet_id)
        self.running.discard(droplet_id)

    def shutdown(self, droplet_id: int) -> None:
        self._call("shutdown", droplet_id)
        self._known(droplet_id)
        self.running.discard(droplet_id)

    def rebuild(self, spec: MachineSpec) -> None:
        self._call("rebuild", spec.id)
        self._known(spec.id)
        self.specs[spec.id] = spec
        self.running.add(spec.id)

    def resize(self, spec: MachineSpec) -> None:
        self._call("resize", spec.id)
        self._known(spec.id)
        self.specs[spec.id] = spec

    def snapshot(self, droplet_id: int, snapshot_id: str) -> int:
        self._call("snapshot", droplet_id)
        self._known(droplet_id)
        self.snapshots.add(snapshot_id)
        return 1_500_000_000

    def delete_snapshot(self, snapshot_id: str) -> None:
        self._call("delete_snapshot", snapshot_id)
        self.snapshots.discard(snapshot_id)

    def status(self, droplet_id: int) -> Literal["active", "off", "absent"]:
        if droplet_id not in self.specs:
            return "absent"
        return "active" if droplet_id in self.running else "off"

    def set_firewall(self, droplet_id: int, rules: Sequence[FirewallRule] | None) -> None:
        self._call("set_firewall", droplet_id)
        self._known(droplet_id)
        self.firewalls[droplet_id] = None if rules is None else tuple(rules)


@dataclass
class InMemorySpaces:
    """Holds the keys it was last told of."""

    keys: dict[str, SpacesKey] = field(default_factory=dict)
    failing: bool = False

    def apply_keys(self, keys: Sequence[SpacesKey]) -> None:
        if self.failing:
            raise RuntimeError("apply_keys fails, as the test asked")
        self.keys = {key.access_key: key for key in keys}
