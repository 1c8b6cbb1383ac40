"""A small world behind fake doors: two hosts, a lease, a cloud, a vault.  Its state survives the operator's process.

``World.crash_after`` kills the "process" right after the n-th action took effect; ``World.actions`` counts them.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from lifeline.cloud import NAME_SERVERS, NotThere, PowerState, RecordValue, TokenRefused
from lifeline.errors import DataBad, LifelineError, Refused, StepFailed, Unavailable, Unproven
from lifeline.hosts import Progress, Result
from lifeline.inventory import Loaded
from lifeline.model import Finding, Host, Inventory, Lease, Mode, Record
from lifeline.names import Answer, Delegation, Names
from lifeline.outside import Outside
from lifeline.service import Service
from runbooks.site import Site

T = TypeVar("T")
OLD, NEW = "primary-newyork", "backup-singapore"
SERVICE_TOML = """
name = "genesis"
user = "genesis"
command = ["bin/genesis", "serve"]
port = 8080
health = "/health"
durability = "vault"
[[databases]]
name = "trades"
path = "/var/lib/genesis/trades.db"
[probe]
write_path = "/probe"
write_body = '{"token": "{token}"}'
read_path = "/probe/{token}"
"""
AGREE: dict[str, Any] = {"ran": True, "agree": True, "compared": {"trades": 7}, "differences": [], "more": 0}


class Killed(BaseException):
    """The operator's process died here."""


def inventory_json() -> dict[str, Any]:
    def host(number: int, name: str, role: str, region: str) -> dict[str, Any]:
        return {
            "name": name,
            "home_role": role,
            "region": region,
            "droplet_id": str(number),
            "address": f"198.18.{number}.10",
            "private_address": "10.0.0.2",
            "fqdn": f"{name}.genesis.test",
            "user": "operator",
            "host_key": "ssh-ed25519 AAAA",
            "vault_key": {"access_key": f"VK{number}", "secret_key": f"vault-secret-{number}"},
            "offsite_key": {"access_key": f"OK{number}", "secret_key": f"offsite-secret-{number}"},
            "uptime_check": f"check-{number}",
        }

    return {
        "version": 1,
        "stack": "lab",
        "service": "genesis",
        "record": {"fqdn": "trade.genesis.test", "domain": "genesis.test", "name": "trade", "id": "123", "ttl": 30},
        "hosts": [host(1, OLD, "primary", "nyc3"), host(2, NEW, "backup", "sgp1")],
        "vault": {"bucket": "v", "region": "ams3", "endpoint": "http://ams3.spaces.test", "path_style": False},
        "offsite": {
            "bucket": "o",
            "lease_bucket": "l",
            "region": "us-east-2",
            "endpoint": "http://198.18.0.20",
            "path_style": True,
        },
        "cloud": {"api": "http://198.18.0.10"},
        "checks": {"service": "check-0"},
        "targets": {"rto_target_s": 600, "rto_max_s": 1800, "rpo_target_s": 0, "rpo_max_s": 60},
        "policy": {"lease_ttl_s": 30, "lease_margin_s": 5, "fence_required": ["power-off"], "max_lag_s": 60},
    }


class FakeClock:
    """Time passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def utc(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@dataclass
class HostState:
    """What is on a host's disk, and whether it answers."""

    role: str = "none"
    epoch: int | None = None
    finalized: int | None = None
    lag_s: float | None = 0.3
    stalled: bool = False
    reachable: bool = True
    following: bool = False
    live_epoch: int | None = None
    restored: bool = False
    reconciled: bool = True
    empty: bool = False  # a new host, without a database
    keeper: bool = True
    alerts: list[dict[str, str]] = field(default_factory=list)


@dataclass
class World:
    """Everything outside the operator's process."""

    root: Path
    crash_after: int | None = None
    inventory: Inventory = field(default_factory=lambda: Inventory.from_json(inventory_json()))
    lease: Lease | None = field(
        default_factory=lambda: Lease("genesis", OLD, 1, 30, 5, 9, f"agent:{OLD}", ""),
    )
    power: dict[str, PowerState] = field(default_factory=lambda: {"1": "active", "2": "active"})
    closed: set[str] = field(default_factory=set)  # hosts behind a firewall that lets nothing in or out
    keys: set[str] = field(default_factory=lambda: {"VK1", "VK2"})
    address: str = "198.18.1.10"
    hosts: dict[str, HostState] = field(
        default_factory=lambda: {
            OLD: HostState("primary", 1, live_epoch=1),
            NEW: HostState("standby", 1, following=True),
        }
    )
    actions: Counter[str] = field(default_factory=Counter)
    vault: dict[str, bytes] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)  # doors that don't answer: "cloud", "lease", "vault", "names"; "token"
    # refused; "account": a token of another one, which sees nothing
    ttl: int = 30  # of the record, at the provider
    delegated: tuple[str, ...] = NAME_SERVERS
    served: dict[str, str] = field(default_factory=dict)  # name server → address, where it isn't the record's
    kept: dict[str, tuple[str, float]] = field(default_factory=dict)  # resolver → (address, until when by the clock)
    asked: list[str] = field(default_factory=list)  # every host that was spoken to
    mute: int = 1  # the primary of this epoch doesn't answer its users: what failovers are for
    bad_data: bool = False
    rotten: LifelineError | None = None  # of the live files alone; a restore cures it
    books: dict[str, Any] | LifelineError = field(default_factory=AGREE.copy)  # what the compare verb answers
    fence_waived: bool = False
    as_in_the_backup: bool = False
    room: dict[str, int] = field(default_factory=dict)  # of disk and memory, where a plan shall say something else
    words: list[tuple[str, ...]] = field(default_factory=list)  # of every `restore` that hosts were asked for
    clock: FakeClock = field(default_factory=FakeClock)

    def act(self, name: str, effect: Callable[[], None]) -> None:
        effect()
        self.actions[name] += 1
        if self.crash_after is not None and sum(self.actions.values()) == self.crash_after:
            raise Killed(name)

    def check(self, door: str) -> None:
        if door == "cloud" and "token" in self.down:
            raise TokenRefused("the cloud's API refuses our token")
        if door in self.down:
            raise Unavailable(f"{door} is down")

    def fenced(self, new: str) -> bool:
        """Judged by the world itself, not by what a probe said."""
        old = self.inventory.other(new)
        if self.hosts[old.name].role != "primary" and self.lease is not None and self.lease.over_released:
            return True
        off = self.power.get(old.droplet_id, "absent") != "active"
        return off or self.clock.now >= self.inventory.policy.self_fence_s or self.fence_waived

    def process(self) -> Site:
        """A new operator's process: fresh doors onto the same world."""
        return Site(
            root=self.root,
            loaded=Loaded(self.inventory, "the test"),
            hosts=FakeHosts(self),
            cloud=FakeCloud(self),
            leases=FakeLeases(self),
            vault=FakeVault(self),
            outside=FakeOutside(self),
            clock=self.clock,
            out=io.StringIO(),
        )


class FakeOutside(Outside):
    """Sees what a stranger would: the record, and whether that host serves."""

    def __init__(self, world: World) -> None:
        super().__init__(
            "trade.genesis.test",
            names=lambda domain: FakeNames(world, domain),
            resolve=lambda name: [world.address],
        )
        self._world = world

    def round_trips(self, service: Service) -> Finding:
        assert service.name == "genesis"
        for host in self._world.inventory.hosts:
            state = self._world.hosts[host.name]
            if host.address == self._world.address and state.role == "primary" and state.reachable:
                return Finding.passed(f"through {host.name}", address=host.address)
        return Finding.failed("nobody answers")

    def answers(self, service: Service) -> Finding:
        return self.answers_at(self._world.address, service)

    def answers_at(self, address: str, service: Service) -> Finding:
        for host in self._world.inventory.hosts:
            state, on = self._world.hosts[host.name], self._world.power.get(host.droplet_id) == "active"
            if host.address == address and state.role == "primary" and state.reachable and on:
                hangs = self._world.mute == state.live_epoch
                return Finding.failed("it hangs") if hangs else Finding.passed("200", address=address)
        return Finding.failed("nobody answers")


class FakeNames(Names):
    """The DNS as it follows the record; what a resolver keeps it keeps."""

    def __init__(self, world: World, domain: str) -> None:
        super().__init__(domain, ("192.0.2.1", "192.0.2.2"))
        self._world = world

    def delegation(self) -> Delegation:
        self._world.check("names")
        return Delegation(self.domain, "test", self._world.delegated, ())

    def authoritative(self, name: str) -> tuple[Answer, ...]:
        self._world.check("names")
        world = self._world
        return tuple(
            Answer(server, (world.served.get(server, world.address),), world.ttl) for server in world.delegated
        )

    def cached(self, name: str, resolvers: Iterable[str] | None = None) -> tuple[Answer, ...]:
        return tuple(self._cached(server) for server in self.resolvers)

    def _cached(self, server: str) -> Answer:
        world = self._world
        if server in world.down:
            return Answer(server, problem="doesn't answer")
        address, until = world.kept.get(server, ("", 0.0))
        if until > world.clock.now:
            return Answer(server, (address,), round(until - world.clock.now))
        return Answer(server, (world.address,), world.ttl)


class FakeCloud:
    def __init__(self, world: World) -> None:
        self._world = world

    def power_state(self, droplet_id: str) -> PowerState:
        self._world.check("cloud")
        return "absent" if "account" in self._world.down else self._world.power.get(droplet_id, "absent")

    def power_off(self, droplet_id: str) -> None:
        self._world.check("cloud")
        self._world.act("power-off", lambda: self._world.power.update({droplet_id: "off"}))

    def power_on(self, droplet_id: str) -> None:
        self._world.check("cloud")
        self._world.act("power-on", lambda: self._world.power.update({droplet_id: "active"}))

    def droplet_id(self, name: str) -> str | None:
        self._world.check("cloud")
        if "account" in self._world.down:
            return None
        known = self._world.inventory.host(name).droplet_id
        return known if known in self._world.power else next((i for i in self._world.power if i not in "12"), None)

    def record(self, record: Record) -> RecordValue:
        self._world.check("cloud")
        if "account" in self._world.down:
            raise NotThere("the cloud's API refuses GET /v2/domains: 404 not found")
        return RecordValue(self._world.address, self._world.ttl)

    def set_record(self, record: Record, address: str) -> None:
        self._world.check("cloud")
        self._world.act("record", lambda: vars(self._world).update(address=address, ttl=record.ttl))

    def has_spaces_key(self, access_key: str) -> bool:
        self._world.check("cloud")
        return access_key in self._world.keys

    def delete_spaces_key(self, access_key: str) -> None:
        self._world.check("cloud")
        self._world.act("key", lambda: self._world.keys.discard(access_key))

    def not_closed(self, droplet_id: str, host: str) -> str:
        self._world.check("cloud")
        closed = host in self._world.closed or "account" in self._world.down  # of a droplet that isn't there
        return "" if closed else f"it isn't behind lifeline-fence-{host}"

    def close(self, droplet_id: str, host: str) -> None:
        self._world.check("cloud")
        self._world.act("close", lambda: self._world.closed.add(host))

    def reopen(self, droplet_id: str, host: str) -> bool:
        self._world.check("cloud")
        was = host in self._world.closed
        if was:
            self._world.act("reopen", lambda: self._world.closed.discard(host))
        return was

    def has_closing(self, host: str) -> bool:
        self._world.check("cloud")
        return host in self._world.closed

    def uptime(self, check_id: str) -> Mapping[str, str]:
        self._world.check("cloud")
        return {"eu_west": "UP"}


class FakeLeases:
    def __init__(self, world: World) -> None:
        self._world = world

    def read(self) -> Lease | None:
        self._world.check("lease")
        return self._world.lease

    def depose(self, holder: str, over: Lease, run_id: str) -> Lease:
        self._world.check("lease")
        now = self._world.lease
        if now is None or now.epoch != over.epoch:
            raise Refused("another epoch came between")
        taken = replace(now, holder=holder, epoch=now.epoch + 1, renewal=0, taken_by="operator:test", run_id=run_id)
        taken = replace(taken, ttl_s=30.0, over_released=now.released)
        self._world.act("lease", lambda: setattr(self._world, "lease", taken))
        return taken

    def begin_after(self, holder: str, epoch: int, run_id: str) -> Lease:
        self._world.check("lease")
        if self._world.lease is None:
            self._world.lease = Lease("genesis", holder, epoch, 0, 5, 0, "operator:test", run_id)
        return self._world.lease

    def set_mode(self, mode: Mode | None) -> Lease:
        self._world.check("lease")
        assert self._world.lease is not None
        self._world.lease = replace(self._world.lease, mode=mode)
        return self._world.lease


class FakeVault:
    def __init__(self, world: World) -> None:
        self._world = world

    def put(self, key: str, body: bytes) -> None:
        self._world.check("vault")
        self._world.vault[key] = body

    def get(self, key: str) -> bytes | None:
        self._world.check("vault")
        return self._world.vault.get(key)

    def keys(self, prefix: str) -> list[tuple[str, datetime]]:
        """All of one age: no test of a runbook tells them apart by it."""
        self._world.check("vault")
        return [(key, self._world.clock.utc()) for key in sorted(self._world.vault) if key.startswith(prefix)]

    def key_refused(self, host: Host) -> bool:
        self._world.check("vault")
        return host.vault_key is not None and host.vault_key.access_key not in self._world.keys


class FakeHosts:
    def __init__(self, world: World) -> None:
        self._world = world

    def __getitem__(self, name: str) -> FakeRemote:
        return FakeRemote(self._world, name)

    def each(self, names: Iterable[str], job: Callable[[Any], T]) -> dict[str, T | LifelineError]:
        answers: dict[str, T | LifelineError] = {}
        for name in names:
            try:
                answers[name] = job(self[name])
            except LifelineError as error:
                answers[name] = error
        return answers

    def close(self) -> None:
        pass


class FakeRemote:
    """A host whose verbs do to HostState what the real ones do to the host."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name

    @property
    def host(self) -> Host:
        return self._world.inventory.host(self._name)

    @property
    def _state(self) -> HostState:
        self._world.asked.append(self._name)
        state = self._world.hosts[self._name]
        if (
            not state.reachable
            or self._name in self._world.closed
            or self._world.power.get(self.host.droplet_id) != "active"
        ):
            raise Unavailable(f"{self._name} can't be reached")
        return state

    def run(
        self, argv: Sequence[str], *, input: bytes | None = None, timeout: float = 60.0, check: bool = True
    ) -> Result:
        assert self._state
        assert argv[-1] == "/etc/lifeline/service.toml"
        return Result(tuple(argv), 0, SERVICE_TOML.encode(), b"")

    def put(self, local: Path, remote: str, progress: Progress | None = None) -> None:
        raise NotImplementedError

    def get(self, remote: str, local: Path, progress: Progress | None = None) -> None:
        raise NotImplementedError

    def verb(self, verb: str, *args: str, timeout: float = 60.0) -> dict[str, Any]:
        state = self._state
        epoch = int(args[1]) if args[:1] == ("--epoch",) else 0
        name = "stage" if "--stage" in args else "outline" if "--plan" in args else verb
        if verb == "restore":
            self._world.words.append(args)
            if name == "outline" and {"--only", "local", "snapshot"} & {*args}:
                name = "outline-backup"
            if name == "restore" and "--only" in args and "database" not in args:
                name = "put"
        answer: dict[str, Any] = getattr(self, "_" + name.replace("-", "_"))(state, epoch)
        return json.loads(json.dumps(answer))  # type: ignore[no-any-return]

    def _observe(self, state: HostState, _: int) -> dict[str, Any]:
        primary = state.role == "primary"
        return {
            "host": self._name,
            "role": state.role,
            "epoch": state.epoch,
            "bundle": "d1",
            "finalized": state.finalized,
            "live_epoch": state.live_epoch,
            "origin_epoch": 1 if state.restored or state.finalized is not None else None,
            "service": {"running": primary, "healthy": primary, "reconciled": state.reconciled},
            "databases": [{"name": "trades", "exists": not state.empty, "txid": 7, "lag_s": state.lag_s}],
            "litestream": {"running": primary, "last_sync_at": "2026-01-01T00:00:00Z" if primary else None},
            "follower": {"running": state.following, "stalled": state.stalled},
            "agent": {"running": True, "lease_age_s": 1.0},
            "keeper": {"running": state.keeper, "looked_age_s": 3.0},
            "alerts": state.alerts,
        }

    def _finalize(self, state: HostState, epoch: int) -> dict[str, Any]:
        def effect() -> None:
            state.finalized, state.role, state.following = epoch, "none", False

        self._world.act("finalize", effect)
        return {"changed": True, "epoch": epoch, "databases": [{"name": "trades", "txid": 9, "method": "follower"}]}

    def _verify(self, state: HostState, _: int) -> dict[str, Any]:
        if self._world.bad_data:
            raise DataBad("invariant broken: debits equal credits")
        if self._world.rotten:
            raise self._world.rotten
        return {"verdict": "PASS", "seconds": 0.1, "checks": [{"name": "integrity", "verdict": "PASS", "detail": ""}]}

    def _compare(self, state: HostState, _: int) -> dict[str, Any]:
        assert state.role == "primary", "the books of a host that doesn't serve"
        if isinstance(self._world.books, LifelineError):
            raise self._world.books
        return self._world.books

    def _start_primary(self, state: HostState, epoch: int) -> dict[str, Any]:
        if state.finalized != epoch - 1 and not state.restored and state.live_epoch != epoch:
            raise StepFailed("not final")
        lease = self._world.lease
        assert lease is not None and (lease.holder, lease.epoch) == (self._name, epoch), "started without the lease"
        served = self._world.hosts[self._world.inventory.other(self._name).name].role == "primary"
        assert not served or self._world.fenced(self._name), "started before the old primary was fenced"

        def effect() -> None:
            state.role, state.epoch, state.finalized, state.live_epoch = "primary", epoch, None, epoch
            state.restored, state.reconciled = False, True

        self._world.act("start-primary", effect)
        return {"changed": True, "role": "primary", "epoch": epoch, "healthy": True, "replicating": True}

    def _stop_service(self, state: HostState, _: int) -> dict[str, Any]:
        def effect() -> None:
            state.role = "none"

        self._world.act("stop-service", effect)
        return {"changed": True, "running": False}

    def _leave(self, state: HostState, epoch: int) -> dict[str, Any]:
        assert state.role == "primary", "asked to leave what it doesn't serve"
        if "vault" in self._world.down:
            self._stop_service(state, 0)
            raise Unproven("stopped, but its last transactions are not proved to be in the vault")
        stopped = self._stop_service(state, 0)
        if "lease" in self._world.down:
            return {**stopped, "flushed": {"trades": 9}, "released": False, "says": "no answer"}
        return {**stopped, "flushed": {"trades": 9}, **self._release(state, epoch)}

    def _release(self, state: HostState, epoch: int) -> dict[str, Any]:
        assert state.role != "primary", "gave its lease back while it served"
        now = self._world.lease
        assert now is not None and (now.holder, now.epoch) == (self._name, epoch)
        self._world.act("release", lambda: setattr(self._world, "lease", replace(now, ttl_s=0.0)))
        return {"epoch": epoch, "released": True}

    def _forks(self, state: HostState, _: int) -> dict[str, Any]:
        return {"forks": []}

    def _withdraw(self, state: HostState, epoch: int) -> dict[str, Any]:
        return {"promised_s": 0.0}

    def _stage(self, state: HostState, epoch: int) -> dict[str, Any]:
        self._world.act("stage", lambda: None)
        files: dict[str, Any] = {"beside": None, "remarks": []}
        return {
            "changed": True,
            "epoch": epoch,
            "source": "vault",
            "source_epoch": epoch,
            "databases": [],
            "files": files,
        }

    def _outline(self, state: HostState, epoch: int) -> dict[str, Any]:
        self._world.check("vault")
        room = {"free_bytes": 9 << 30, "need_bytes": 1 << 20, "tried": [], **self._world.room}
        point = {"source": "vault", "epoch": epoch, "txids": {"trades": 5}, "files": 3, "bytes": 4096}
        return {**room, **point, "expected_s": 2.0, "transactions_lost": 0}

    def _outline_backup(self, state: HostState, epoch: int) -> dict[str, Any]:
        change = "same" if self._world.as_in_the_backup else "changed"
        return {
            **{"free_bytes": 9 << 30, "need_bytes": 1 << 20, "tried": [], "source": "local", "place": "local"},
            **self._world.room,
            **{"snapshot": "abc", "snapshot_at": "2025-12-31T22:00:01Z", "backup_at": "2025-12-31T22:00:00.120Z"},
            **{"kind": "full", "host": OLD, "entry": None, "remarks": ["a remark"], "bytes": 70, "expected_s": 2.0},
            "files": [
                {"kind": "state", "path": "/var/lib/x/state/positions.json", "bytes": 70, "change": change},
                {"kind": "state", "path": "/var/lib/x/state/tier.json", "bytes": 7, "change": "same"},
            ],
            "others": ["/var/lib/x/state/new.json"],
        }

    def _put(self, state: HostState, epoch: int) -> dict[str, Any]:
        self._world.act("put", lambda: None)
        done = {"changed": ["/var/lib/x/state/positions.json"], "kept": ["/kept/"], "beside": None, "remarks": []}
        return {"changed": True, "epoch": epoch, "source": "local", "files": done, "databases": []}

    def _restore(self, state: HostState, epoch: int) -> dict[str, Any]:
        assert state.role == "none", "swapped under a running service"

        def effect() -> None:
            state.live_epoch, state.finalized, state.restored, state.empty = None, None, True, False
            self._world.rotten = None

        self._world.act("restore", effect)
        databases = [{"name": "trades", "kept": "/old/trades.db"}]
        return {"changed": True, "epoch": epoch, "source": "vault", "databases": databases}

    def _search_clean(self, state: HostState, epoch: int) -> dict[str, Any]:
        """The vault's newest point passes."""
        return {"tried": 1, "points": 9, "good": {"at": "2026-01-01T00:00:09Z"}, "bad": None, "lost": None}

    def _backup(self, state: HostState, _: int) -> dict[str, Any]:
        assert state.role == "primary"
        key = "catalogue/genesis/20260101T000000Z-incremental.json"
        entry = {"version": 2, "kind": "incremental", "at": "2026-01-01T00:00:00Z"}
        self._world.act("backup", lambda: self._world.vault.update({key: json.dumps(entry).encode()}))
        return {"catalogue": key, "kind": "incremental", "snapshot": "abc", "bytes": 7, "seconds": 1.0, "databases": []}

    def _start_standby(self, state: HostState, epoch: int) -> dict[str, Any]:
        def effect() -> None:
            state.role, state.epoch, state.following = "standby", epoch, True

        self._world.act("start-standby", effect)
        return {"changed": True, "role": "standby", "epoch": epoch, "following": True}
