"""Droplets as real hosts: Debian under systemd-nspawn, each with a disk, an address and processes of its own.

A machine is on while its control group has a process, and exists while its folder has a spec; nothing else is
remembered, so there is no state that could disagree with the machine. Each call takes the droplet's lock: the API's
threads, the faults and ``lab.down`` may all touch the same droplet.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from lab import disks, firewall, network
from lab.ports import FirewallRule, Interface, MachineSpec
from lab.processes import Group, spawn, wait_until

SHUTDOWN_S = 20.0
_SNAPSHOT = "snapshot:"
# systemd of Debian 13 refuses a cgroup-v1 layout, which nspawn would choose on a hybrid host.
_BOOT = Path(__file__).with_name("boot.py")
_NSPAWN_ENV = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


class NspawnMachines:
    """Implements :class:`lab.ports.Machines`. ``state`` is the lab's folder, ``image`` the unpacked base image."""

    def __init__(self, state: Path | str, image: Path | str) -> None:
        self._machines = Path(state) / "machines"
        self._snapshots = Path(state) / "snapshots"
        self._logs = Path(state) / "logs"
        self._image = Path(image)
        self._authority = Path(state) / "tls/ca.pem"

    # --- the port ----------------------------------------------------------------------------------------------------

    def create(self, spec: MachineSpec) -> None:
        """Boot a new droplet; returns when its init runs. An existing one is only brought up."""
        with self._locked(spec.id):
            self._save(spec)
            self._prepare_disk(spec)
            self._start(spec.id)

    def destroy(self, droplet_id: int) -> None:
        with self._locked(droplet_id):
            Group(group_of(droplet_id)).remove()
            network.detach(droplet_id)
            self._drop_disk(droplet_id)
            disks.remove(self._home(droplet_id))
            forget(network.namespace_of(droplet_id))

    def power_on(self, droplet_id: int) -> None:
        with self._locked(droplet_id):
            self._start(droplet_id)

    def power_off(self, droplet_id: int) -> None:
        """Power cut: SIGKILL to all processes at once; the disk stays as it was at that moment."""
        with self._locked(droplet_id):
            self._cut(droplet_id)

    def shutdown(self, droplet_id: int) -> None:
        """Ask init to stop everything; power is cut after 20 s."""
        with self._locked(droplet_id):
            group = Group(group_of(droplet_id))
            leader = _leader(group)
            if leader is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(leader, signal.SIGTERM)
                with contextlib.suppress(RuntimeError):
                    wait_until(lambda: not group.alive(), SHUTDOWN_S, "no clean shutdown")
            self._cut(droplet_id)

    def rebuild(self, spec: MachineSpec) -> None:
        with self._locked(spec.id):
            self._cut(spec.id)
            self._drop_disk(spec.id)
            self._save(spec)
            self._prepare_disk(spec)
            self._start(spec.id)

    def resize(self, spec: MachineSpec) -> None:
        """Recorded only: the lab limits neither processors nor memory."""
        with self._locked(spec.id):
            if self.status(spec.id) != "off":
                raise RuntimeError(f"droplet {spec.id} must be off to be resized")
            self._save(spec)

    def snapshot(self, droplet_id: int, snapshot_id: str) -> int:
        """Copy the disk, of a running machine as a power cut at this moment would leave it."""
        with self._locked(droplet_id):
            target = self._snapshots / snapshot_id
            if not target.is_dir():
                group = Group(group_of(droplet_id))
                running = group.alive()
                if running:
                    group.freeze(True)
                try:
                    disks.copy(self._disk(droplet_id) / "upper", target)
                finally:
                    if running:
                        group.freeze(False)
            return disks.size_bytes(target)

    def delete_snapshot(self, snapshot_id: str) -> None:
        disks.remove(self._snapshots / snapshot_id)

    def status(self, droplet_id: int) -> Literal["active", "off", "absent"]:
        if Group(group_of(droplet_id)).alive():
            return "active"
        return "off" if (self._home(droplet_id) / "spec.json").exists() else "absent"

    def set_firewall(self, droplet_id: int, rules: Sequence[FirewallRule] | None) -> None:
        """Enforced before this returns, and again at every boot. An absent droplet has nothing to protect."""
        with self._locked(droplet_id):
            if self.status(droplet_id) == "absent":
                return
            self._save(replace(self.spec(droplet_id), firewall=rules))
            if network.namespace_of(droplet_id) in network.namespaces():
                firewall.apply(droplet_id, rules)

    # --- beyond the port: for faults, status and down ----------------------------------------------------------------

    def ids(self) -> list[int]:
        """Droplets that have a disk."""
        return sorted(int(home.name[1:]) for home in self._machines.glob("d*") if (home / "spec.json").exists())

    def spec(self, droplet_id: int) -> MachineSpec:
        """What the droplet was created from."""
        raw = json.loads((self._home(droplet_id) / "spec.json").read_text())
        interfaces = [Interface(**interface) for interface in raw.pop("interfaces")]
        rules = raw.pop("firewall")
        firewall_rules = None if rules is None else [FirewallRule(**rule) for rule in rules]
        return MachineSpec(interfaces=interfaces, firewall=firewall_rules, **raw)

    def root(self, droplet_id: int) -> Path:
        """Where the droplet's file system is mounted while it is on."""
        return self._home(droplet_id) / "root"

    def console(self, droplet_id: int) -> Path:
        """The console's log; it outlives the droplet."""
        return self._logs / f"console-d{droplet_id}.log"

    # --- how ---------------------------------------------------------------------------------------------------------

    def _home(self, droplet_id: int) -> Path:
        return self._machines / f"d{droplet_id}"

    def _disk(self, droplet_id: int) -> Path:
        return self._home(droplet_id) / "disk"

    @contextlib.contextmanager
    def _locked(self, droplet_id: int) -> Iterator[None]:
        locks = self._machines / "locks"
        locks.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (locks / str(droplet_id)).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _save(self, spec: MachineSpec) -> None:
        self._home(spec.id).mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_json(self._home(spec.id) / "spec.json", asdict(spec))

    def _prepare_disk(self, spec: MachineSpec) -> None:
        """The marker is written last: a disk that was being made when something crashed is made anew."""
        marker = self._home(spec.id) / "prepared"
        if marker.exists():
            return
        network.detach(spec.id)
        self._drop_disk(spec.id)
        if spec.image.startswith(_SNAPSHOT):
            source = self._snapshots / spec.image.removeprefix(_SNAPSHOT)
            if not source.is_dir():
                raise RuntimeError(f"no such snapshot: {source.name}")
            disks.copy(source, self._disk(spec.id) / "upper")
        disks.mount(self._image, self._disk(spec.id), self.root(spec.id))
        disks.prepare(self.root(spec.id), spec)
        disks.trust(self.root(spec.id), self._authority)
        marker.touch()

    def _drop_disk(self, droplet_id: int) -> None:
        (self._home(droplet_id) / "prepared").unlink(missing_ok=True)
        disks.unmount(self.root(droplet_id))
        disks.remove(self._disk(droplet_id))

    def _start(self, droplet_id: int) -> None:
        group = Group(group_of(droplet_id))
        if group.alive():
            return
        if self.status(droplet_id) == "absent":
            raise RuntimeError(f"droplet {droplet_id} has no disk to boot from")
        group.remove()  # an earlier boot's, with its limits and frozen state
        spec = self.spec(droplet_id)
        self._prepare_disk(spec)
        disks.mount(self._image, self._disk(droplet_id), self.root(droplet_id))
        network.attach(droplet_id, spec.interfaces)
        firewall.apply(droplet_id, spec.firewall)
        console = self.console(droplet_id)
        spawn(group.name, _nspawn(droplet_id, self.root(droplet_id)), console, env=_NSPAWN_ENV)
        wait_until(lambda: _has_init(group) or not group.alive(), 10.0, f"droplet {droplet_id} does not boot")
        if not group.alive():
            raise RuntimeError(f"droplet {droplet_id} does not boot: {console.read_text()[-400:]}")

    def _cut(self, droplet_id: int) -> None:
        network.unplug(droplet_id)  # first: a dying process's connections aren't closed when power fails, they hang
        Group(group_of(droplet_id)).remove()
        disks.unmount(self.root(droplet_id))


def group_of(droplet_id: int) -> str:
    """The droplet's control group (see lab.processes)."""
    return f"d{droplet_id}"


def forget(pattern: str = f"{network.PREFIX}d*") -> None:
    """Remove the folders that nspawn made for machines of this name and doesn't remove."""
    for folder in Path("/run/systemd/nspawn/propagate").glob(pattern):
        disks.remove(folder)


def _nspawn(droplet_id: int, root: Path) -> list[str]:
    namespace = network.namespace_of(droplet_id)
    return [
        *[sys.executable, "-I", "-S", str(_BOOT)],
        "systemd-nspawn",
        "--quiet",
        "--boot",
        f"--directory={root}",
        f"--machine={namespace}",
        f"--network-namespace-path=/run/netns/{namespace}",
        "--register=no",
        "--keep-unit",
        "--console=pipe",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--drop-capability=CAP_NET_ADMIN",
        "--capability=CAP_IPC_LOCK",  # as on a droplet: the deadman locks itself in memory
    ]


def _leader(group: Group) -> int | None:
    """The nspawn process that was started, as opposed to those it started: init's signals go through it."""
    parents: dict[int, int] = {}
    for pid in group.pids():
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/stat").read_text()
            comm, _, rest = status.partition("(")[2].rpartition(")")
            if comm.startswith("systemd-nspawn"):
                parents[pid] = int(rest.split()[1])
    return next((pid for pid, parent in parents.items() if parent not in parents), None)


def _has_init(group: Group) -> bool:
    for pid in group.pids():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                return True
    return False


def _write_json(path: Path, value: object) -> None:
    partial = path.with_suffix(".new")
    partial.touch(mode=0o600)
    partial.write_text(json.dumps(value))
    partial.replace(path)
