"""A provisioned host below a folder, with a supervisor that only remembers: for unit tests of host-side code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lifeline.errors import LifelineError, StepFailed
from lifeline.layout import Config, Layout
from lifeline.model import Inventory, Lease
from lifeline.service import Service
from lifeline.supervisor import State

SERVICE = """
name = "genesis"
user = "nobody"
command = ["bin/genesis"]
port = 8080
health = "/health"
durability = "vault"
[[databases]]
name = "trades"
path = "/var/lib/genesis/trades.db"
"""


def inventory() -> Inventory:
    def host(name: str, role: str, number: int) -> dict[str, Any]:
        key = {"access_key": f"AK{number}", "secret_key": f"secret-of-{name}"}
        return {
            **{"name": name, "home_role": role, "region": "nyc3", "droplet_id": str(number)},
            **{"address": f"198.51.100.{number}", "private_address": "", "fqdn": f"{name}.test", "user": "operator"},
            **{"host_key": "ssh-ed25519 AAAA", "vault_key": key, "offsite_key": key, "uptime_check": None},
        }

    return Inventory.from_json(
        {
            **{"version": 1, "stack": "test", "service": "genesis"},
            "record": {"fqdn": "trade.test", "domain": "test", "name": "trade", "id": "1", "ttl": 30},
            "hosts": [host("primary-newyork", "primary", 1), host("backup-singapore", "backup", 2)],
            "vault": {"bucket": "vault", "region": "ams3", "endpoint": "http://ams3.test", "path_style": False},
            "offsite": {"bucket": "o", "lease_bucket": "l", "region": "us-east-2", "endpoint": None},
            "cloud": {"api": "http://127.0.0.1"},
            "targets": {"rto_target_s": 1, "rto_max_s": 2, "rpo_target_s": 0, "rpo_max_s": 1},
            "policy": {"lease_ttl_s": 30, "lease_margin_s": 5, "fence_required": ["power-off"], "max_lag_s": 60},
        }
    )


def config(root: Path, name: str = "primary-newyork", service: str = SERVICE) -> Config:
    layout = Layout(root)
    for folder in (layout.etc, layout.state, layout.run, layout.supervisor_conf, root / "var/lib/genesis"):
        folder.mkdir(parents=True, exist_ok=True)
    layout.supervisor_socket.touch()
    layout.supervisor_group.mkdir(parents=True, exist_ok=True)
    (layout.supervisor_group / "cgroup.kill").touch()
    return Config(layout, name, "digest", inventory(), Service.parse(service))


def lease(holder: str = "primary-newyork", epoch: int = 1, ttl: float = 30.0) -> Lease:
    return Lease("genesis", holder, epoch, ttl, 5.0, 0, "operator:x", "run")


class FakeSupervisor:
    """Programs that start and stop at once; `stubborn` ones don't stop."""

    def __init__(self, names: Iterable[str] = ("litestream", "follower", "genesis")) -> None:
        self.running = dict.fromkeys(names, False)
        self.by_hand: set[str] = set()
        self.stubborn: set[str] = set()
        self.calls: list[str] = []
        self.dead = False

    def _asked(self, call: str) -> None:
        if self.dead:
            raise StepFailed("supervisor does not answer")
        self.calls.append(call)

    def states(self) -> dict[str, State]:
        self._asked("states")
        return {
            name: State(name, "RUNNING" if up else "STOPPED", 0, 0, name in self.by_hand)
            for name, up in self.running.items()
        }

    def start(self, name: str, *, wait: bool = True) -> bool:
        self._asked(f"start {name}")
        self.running[name] = True
        return True

    def stop(self, name: str) -> bool:
        self._asked(f"stop {name}")
        self.running[name] = False
        return True

    def stop_all(self, names: Iterable[str], within: float) -> list[str]:
        names = list(names)
        self._asked(f"stop {' '.join(names)}")
        for name in names:
            if name not in self.stubborn:
                self.running[name] = False
        if left := [name for name in names if self.running.get(name)]:
            raise StepFailed(f"still running: {left}")
        return names

    def reload(self) -> dict[str, list[str]]:
        self._asked("reload")
        return {"added": [], "changed": [], "removed": []}


class FakeSystemd:
    """Remembers what was asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def reload(self) -> None:
        self.calls.append("reload")

    def restart(self, units: Iterable[str]) -> None:
        self.calls.append(f"restart {' '.join(units)}")


class FakeVault:
    """Objects in a dict."""

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        self.objects = dict(objects or {})
        self.down = False

    def keys(self, prefix: str, after: str = "") -> Iterator[str]:
        if self.down:
            raise StepFailed("the vault is down")
        return iter(sorted(key for key in self.objects if key.startswith(prefix) and key > after))

    def read(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def write(self, key: str, body: bytes) -> None:
        self.objects[key] = body

    def replicate(self, epoch: int, txid: int, database: str = "trades") -> None:
        self.objects[f"replica/genesis/epoch-{epoch:04d}/{database}/0000/{txid:016x}-{txid:016x}.ltx"] = b"x"

    def compact(self, epoch: int, first: int, last: int, database: str = "trades") -> None:
        """Level 0's objects become one of level 1."""
        root = f"replica/genesis/epoch-{epoch:04d}/{database}"
        for txid in range(first, last + 1):
            self.objects.pop(f"{root}/0000/{txid:016x}-{txid:016x}.ltx", None)
        self.objects[f"{root}/0001/{first:016x}-{last:016x}.ltx"] = b"x"


class FakeLeases:
    """A lease store under the test's control."""

    def __init__(self, found: Lease) -> None:
        self.lease = found
        self.error: LifelineError | None = None
        self.renewals = 0

    def renew(self, holder: str, epoch: int) -> Lease:
        if self.error:
            raise self.error
        self.renewals += 1
        return self.lease

    def read(self) -> Lease | None:
        if self.error:
            raise self.error
        return self.lease

    def release(self, holder: str, epoch: int) -> None:
        if self.error:
            raise self.error
        if (self.lease.holder, self.lease.epoch) == (holder, epoch):
            self.lease = replace(self.lease, ttl_s=0.0)


@contextmanager
def shipped(root: Path, name: str = "primary-newyork") -> Iterator[Layout]:
    """What provisioning leaves in /etc/lifeline and in the release."""
    made = config(root, name).layout
    (made.etc / "inventory.json").write_text(json.dumps(inventory().for_host(name)))
    (made.etc / "host.json").write_text(json.dumps({"name": name, "release": "digest"}))
    made.service_dir.mkdir(parents=True)
    (made.service_dir / "service.toml").write_text(SERVICE)
    yield made
