"""Both hosts, and all that can happen to them and between them, in a world of one thread: the agents, their lease,
autopilot, failsafe and fence are the real ones; machines, wires, stores and the pilot's deeds are modelled.

Time passes in steps of half a second. After each one `check` looks at what must never be: that is judged by what was
acknowledged and what ran, as the world itself saw it, never by what a host said.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lifeline import failsafe
from lifeline.agent import Agent
from lifeline.autopilot import Doors
from lifeline.cloud import PowerState
from lifeline.deadman import disarm, due
from lifeline.errors import LifelineError, Refused, Unavailable, Unproven
from lifeline.layout import DataFile, read_role, write_data, write_role
from lifeline.lease import Claim, Leases
from lifeline.model import FailoverPolicy, Lease, Mode, Verdict
from lifeline.store import MemoryStore
from lifeline.watching import Watched
from runbooks.fence import RUNG_S, Fence
from tests.unit.hostkit import FakeSupervisor, config

A, B = "primary-newyork", "backup-singapore"
OTHER = {A: B, B: A}
STEP_S = 0.5
TTL_S, MARGIN_S = 12.0, 2.0
AWAY = Unavailable("no answer")
PLACES = ("lease", "vault", "cloud")
SKEW_S = 900.0  # of a host's date: beyond that S3 refuses what it signs


class Violation(AssertionError):
    """Something that must never be."""


@dataclass
class Acknowledged:
    """A write that a client was told of."""

    number: int
    host: str
    epoch: int
    at: float


class Wires:
    """Which of two parties hear each other. Both ways at once, as packets and their answers are."""

    def __init__(self) -> None:
        self.cut: set[frozenset[str]] = set()

    def up(self, one: str, other: str) -> bool:
        return frozenset((one, other)) not in self.cut


class World:
    """Two hosts, three services, an operator."""

    def __init__(self, root: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.random, self.now, self.wires = random.Random(seed), 0.0, Wires()
        self.down: set[str] = set()  # of PLACES
        self.lossy = False  # a store that does as it is told, and whose answer is lost
        self.store, self.numbers = MemoryStore("lease"), count(1)
        self.vault: dict[int, list[int]] = {}  # epoch -> its transactions, those before it included
        self.owner: dict[int, str] = {}
        self.acknowledged: list[Acknowledged] = []
        self.both_ran = 0
        self.promotions = 0
        self.told: list[str] = []
        monkeypatch.setattr(failsafe, "ask", self._ask)
        monkeypatch.setattr("os.fsync", lambda _: None)  # nobody cuts the power of this machine
        self.hosts = {name: Node(self, root / name, name, 100.0 * number) for number, name in enumerate((A, B), 1)}
        first = Leases(self.store, "genesis").take(self.claim(A, "operator:founder", 0), over=0)
        assert first.epoch == 1
        self.vault[1], self.owner[1] = [], A
        self.hosts[A]._own(1)
        self.hosts[A].become("primary", 1)
        self.hosts[B].become("standby", 1)
        self.run(6)

    def claim(self, holder: str, by: str, number: int) -> Claim:
        return Claim("genesis", holder, TTL_S, MARGIN_S, by, f"run-{number}")

    def reaches(self, who: str, place: str) -> bool:
        skewed = who in self.hosts and place != "cloud" and abs(self.hosts[who].skew_s) > SKEW_S
        return place not in self.down and self.wires.up(who, place) and not skewed

    def _ask(self, address: str, key: bytes, lease: Lease) -> float | None:
        """What failsafe.ask does, over this world's wires: signed and answered by the real thing."""
        asker = self.hosts[lease.holder]
        peer = self.hosts[OTHER[asker.name]]
        if not self.wires.up(A, B) or not peer.answers:
            return None
        question = {"holder": lease.holder, "epoch": lease.epoch, "ttl_s": lease.ttl_s, "nonce": "n"}
        body = json.dumps(question).encode()
        status, answer, _ = peer.agent.peer_answer(body, failsafe.sign(key, body))
        if self.lossy and self.random.random() < 0.3:
            return None
        return float(json.loads(answer)["promised_s"]) if status == 200 else None

    # -- time

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            order = [A, B] if self.random.random() < 0.5 else [B, A]
            for name in order:
                self.hosts[name].step()
            self.check()

    # -- what must never be

    def check(self) -> None:
        running = [host.name for host in self.hosts.values() if host.runs]
        self.both_ran = self.both_ran + 1 if len(running) == 2 else 0
        # A host that wakes up needs a moment to see that its time is over; it acknowledges nothing in it (below).
        if self.both_ran > 2:
            raise Violation(f"two services run at {self.now}: {self.history()}")

    def acknowledge(self, number: int, host: str, epoch: int) -> None:
        """A client was told. It never is by two hosts in one epoch, nor by an epoch that is over."""
        for earlier in reversed(self.acknowledged[-400:]):
            if earlier.epoch == epoch and earlier.host != host:
                raise Violation(f"{earlier.host} and {host} both wrote in epoch {epoch}: {self.history()}")
            if earlier.epoch > epoch:
                raise Violation(f"{host} acknowledged in epoch {epoch} after epoch {earlier.epoch}: {self.history()}")
        self.acknowledged.append(Acknowledged(number, host, epoch, self.now))

    def promoted(self, host: Node, epoch: int) -> None:
        """A host begins to serve: with the lease, behind a fence, with all that was acknowledged."""
        self.promotions += 1
        lease = self.lease()
        if (lease.holder, lease.epoch) != (host.name, epoch):
            raise Violation(f"{host.name} serves epoch {epoch}; the lease is {lease}: {self.history()}")
        if (other := self.hosts[OTHER[host.name]]).runs and other.may_acknowledge:
            raise Violation(f"{host.name} is promoted beside {other.name}: {self.history()}")
        if missing := {one.number for one in self.acknowledged} - set(host.live):
            raise Violation(f"{host.name} is promoted without {sorted(missing)[:5]}: {self.history()}")

    def lease(self) -> Lease:
        found = Leases(self.store, "genesis").read().lease
        assert found is not None
        return found

    def follows(self, name: str) -> bool:
        role = read_role(self.hosts[name].config.layout)
        return self.hosts[name].answers and (role.role, role.epoch) == ("standby", self.lease().epoch)

    def state(self) -> str:
        """Of both hosts and the lease, for whoever reads of a failure."""
        said = [
            f"{name}: {read_role(host.config.layout)}, {host.agent.autopilot.decision}, {host.agent.judgement()}"
            for name, host in self.hosts.items()
        ]
        return f"[{'; '.join(said)}; {self.lease()}]"

    def history(self) -> str:
        return "; ".join(self.told[-40:])

    def tell(self, what: str) -> None:
        self.told.append(f"{self.now:g} {what}")

    # -- the operator, who reaches everything that is there

    def set_mode(self, name: str, seconds: float | None = None) -> None:
        until = None if seconds is None else f"{self.utc(seconds):%Y-%m-%dT%H:%M:%SZ}"
        if "lease" not in self.down:
            Leases(self.store, "genesis").set_mode(Mode(name, "x", until))  # type: ignore[arg-type]

    def utc(self, ahead: float = 0.0) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now + ahead)

    def power(self, name: str, on: bool) -> None:
        host = self.hosts[name]
        if on and not host.powered:
            host.boot()
        elif not on:
            host.powered = False

    def power_state(self, name: str) -> PowerState:
        return "active" if self.hosts[name].powered else "off"

    def failover(self, target: str) -> None:
        """`fab failover`: over any renewal; what it can't do it leaves half done."""
        host = self.hosts[target]
        lease = self.lease() if "lease" not in self.down else None
        if lease is None or not host.answers or read_role(host.config.layout).role != "standby":
            return
        host.operator = ModelPilot(host, "operator:x")
        host.operator.tell({"take_over": {"lease": lease.to_json(), "quiet_since": None, "depose": True}})

    def go_on(self) -> None:
        """`fab failover` again, after one that didn't come to its end."""
        lease = self.lease()
        host = self.hosts[lease.holder]
        at_work = host.operator is not None and host.operator.code() is None
        if lease.taken_by == "operator:x" and not at_work and host.live_epoch != lease.epoch and host.answers:
            host.operator = ModelPilot(host, "operator:x")
            host.operator.tell({"take_over": {"lease": None, "quiet_since": None}})

    def serving(self) -> str | None:
        return next((host.name for host in self.hosts.values() if host.runs and host.may_acknowledge), None)


class Node:
    """A host: a machine with a disk (its role, its data), the real agent on it, and a pilot."""

    def __init__(self, world: World, root: Path, name: str, booted_at: float) -> None:
        self.world, self.name = world, name
        self.config = config(root, name)
        inventory = self.config.inventory
        policy = FailoverPolicy(
            TTL_S, MARGIN_S, ("power-off", "self-fence"), 60, mode="automatic", partition_s=10, settle_s=20
        )
        self.config = replace(self.config, inventory=replace(inventory, policy=policy))
        self.config.layout.peer_key.write_text("key")
        self.powered, self.frozen, self.agent_stopped, self.skew_s = True, False, False, 0.0
        self.rate = 1.0 + world.random.uniform(-0.02, 0.02)  # no two clocks go alike
        self._zero = booted_at
        self.live: list[int] = []
        self.live_epoch: int | None = None
        self.trouble = ""
        self.boot()

    # -- the machine

    def clock(self) -> float:
        """CLOCK_BOOTTIME: goes on while it is frozen, begins anew with a boot; a jump of the date isn't seen here."""
        return (self.world.now + self._zero) * self.rate

    def utc(self) -> datetime:
        return self.world.utc() + timedelta(seconds=self.skew_s)

    def boot(self) -> None:
        self.powered, self.frozen, self.agent_stopped = True, False, False
        self._zero = -self.world.now + self.world.random.uniform(5, 50)
        for file in self.config.layout.run.iterdir():
            file.unlink()
        self.supervisor = FakeSupervisor()
        self.pilot: ModelPilot | None = None
        self.operator: ModelPilot | None = None
        self.start_agent()

    def start_agent(self) -> None:
        self.agent = Agent(self.config, lambda: self.supervisor, self, self, self.clock)  # type: ignore[arg-type, return-value]
        doors = Doors(self.read, self.ask_peer, self.new_pilot)
        autopilot = self.agent.autopilot
        autopilot._doors, autopilot._utc = doors, self.utc
        self.agent.symptoms = NoSymptoms(self)  # type: ignore[assignment]
        self._agent_silent_s = 0.0
        self._due = dict.fromkeys(("renew", "look", "peer", "watch"), 0.0)

    def become(self, role: Any, epoch: int) -> None:
        write_role(self.config.layout, role, epoch)
        self.agent.poke()

    @property
    def up(self) -> bool:
        return self.powered and not self.frozen

    @property
    def answers(self) -> bool:
        return self.up and not self.agent_stopped

    @property
    def runs(self) -> bool:
        """Is there a service process that is being scheduled?"""
        return self.up and self.supervisor.running["genesis"]

    @property
    def may_acknowledge(self) -> bool:
        return self.answers and self.agent.refusal() is None

    def step(self) -> None:
        if not self.up:
            return
        self._write()
        if self.agent_stopped:
            self._agent_silent_s += STEP_S
            if self._agent_silent_s >= 4.0:  # systemd's watchdog kills it and starts the next one
                self.agent_stopped = False
                self.start_agent()
        else:
            self._run_agent()
        if due(self.config.layout.run, self.clock()):
            self.supervisor.running = dict.fromkeys(self.supervisor.running, False)
        for job in (self.pilot, self.operator):
            if job is not None:
                job.step()

    def _run_agent(self) -> None:
        policy, agent = self.config.inventory.policy, self.agent
        jobs: tuple[tuple[str, float, Callable[[], object]], ...] = (
            ("renew", policy.renew_s, agent.renew_once),
            ("peer", 1.0, agent.autopilot.ask_peer),
            ("watch", 1.0, self._watch),
        )
        agent.guard_once()
        for name, every, job in jobs:
            if self.world.now >= self._due[name]:
                self._due[name] = self.world.now + every
                job()
        agent.guard_once()
        agent.autopilot.look()

    def _watch(self) -> None:
        role = read_role(self.config.layout).role
        if role != "standby":
            self.agent.watch_once()
        else:
            seen = self.world.reaches(self.name, "vault")
            near = Watched(7, 7, 1, 1, lag_s=0.1) if seen else Watched(7, None)
            self.agent.watched = {"trades": near}

    def _write(self) -> None:
        """A client's write: committed here, perhaps replicated, perhaps acknowledged."""
        if not self.runs or self.live_epoch is None:
            return
        world, epoch, number = self.world, self.live_epoch, next(self.world.numbers)
        before = self.may_acknowledge
        self.live.append(number)
        if self.supervisor.running["litestream"] and world.reaches(self.name, "vault"):
            if world.owner.get(epoch) != self.name:
                raise Violation(f"{self.name} writes to the prefix of epoch {epoch}: {world.history()}")
            world.vault[epoch] = list(self.live)
        in_vault = number in world.vault.get(epoch, [])[-1:]
        if before and in_vault and self.may_acknowledge:
            world.acknowledge(number, self.name, epoch)

    # -- what the agent needs: the lease store, the vault, the other host, a pilot

    def _asked(self) -> Leases:
        if not self.world.reaches(self.name, "lease"):
            raise AWAY
        return Leases(self.world.store, "genesis")

    def _answer(self, lease: Lease | None) -> Lease | None:
        if self.world.lossy and self.world.random.random() < 0.3:
            raise AWAY  # it was done; nobody hears of it
        return lease

    def renew(self, holder: str, epoch: int) -> Lease | None:
        return self._answer(self._asked().renew(holder, epoch).lease)

    def read(self) -> Lease | None:
        return self._answer(self._asked().read().lease)

    def take(self, by: str, over: int, renewal: int | None, run: int) -> Lease:
        taken = self._asked().take(self.world.claim(self.name, by, run), over=over, renewal=renewal)
        found = self._answer(taken.lease)
        assert found is not None
        return found

    def keys(self, prefix: str, after: str = "") -> list[str]:
        raise AWAY

    def ask_peer(self) -> Mapping[str, Any] | None:
        peer = self.world.hosts[OTHER[self.name]]
        if not self.world.wires.up(A, B) or not peer.answers:
            return None
        return dict(json.loads(json.dumps(peer.agent.status())))

    def new_pilot(self) -> ModelPilot:
        self.pilot = ModelPilot(self)
        return self.pilot

    # -- its verbs

    def stop_service(self) -> None:
        self.supervisor.running.update(genesis=False, litestream=False)
        if self.live_epoch is not None and self.world.reaches(self.name, "vault"):
            self.world.vault[self.live_epoch] = list(self.live)
        self.become("none", read_role(self.config.layout).epoch)
        disarm(self.config.layout.run)

    def _own(self, epoch: int | None) -> None:
        """Whose the databases are: this host's writing in that epoch, or a copy."""
        self.live_epoch = epoch
        write_data(self.config.layout, DataFile(live_epoch=epoch))

    def finalize(self, end: int) -> None:
        if not self.world.reaches(self.name, "vault"):
            raise AWAY
        if self.supervisor.running["genesis"]:
            raise Refused("its databases are in use")
        newest = max(epoch for epoch in self.world.vault if epoch <= end)
        self.live = list(self.world.vault[newest])
        self._own(None)
        self.supervisor.running["follower"] = False
        self.become("none", read_role(self.config.layout).epoch)

    def start_primary(self, epoch: int) -> None:
        world = self.world
        if not world.reaches(self.name, "vault"):
            raise AWAY
        if world.owner.setdefault(epoch, self.name) != self.name:
            raise Refused(f"epoch {epoch} was written by {world.owner[epoch]}")
        self._own(epoch)
        self.become("primary", epoch)
        self.agent.renew_once()
        if self.agent.judgement().kind != "serve":
            self.become("none", epoch)
            raise Unproven("the lease isn't confirmed")
        world.promoted(self, epoch)
        self.supervisor.running.update(genesis=True, litestream=True)
        world.vault.setdefault(epoch, list(self.live))


class NoSymptoms:
    """What the service suffers from is the world's to say."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def trouble(self) -> str:
        return self._node.trouble

    def damage(self) -> None:
        return None

    def to_json(self) -> dict[str, Any]:
        return {}

    def look(self) -> None: ...
    def forget(self) -> None: ...


class OneCloud:
    """The cloud's API as one host reaches it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def power_state(self, droplet_id: str) -> PowerState:
        if not self._node.world.reaches(self._node.name, "cloud"):
            raise AWAY
        return self._node.world.power_state(OTHER[self._node.name])

    def power_off(self, droplet_id: str) -> None:
        self.power_state(droplet_id)
        self._node.world.tell(f"{OTHER[self._node.name]} is powered off")
        self._node.world.power(OTHER[self._node.name], False)

    def droplet_id(self, name: str) -> str | None:
        return None


class NodeClock:
    """A host's clock for the real fence."""

    def __init__(self, node: Node) -> None:
        self.monotonic = node.clock

    def utc(self) -> datetime:
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        raise NotImplementedError


class ModelPilot:
    """The pilot's orders, one deed a step: it may die between any two. The order of the deeds is the runbooks' own."""

    def __init__(self, node: Node, by: str = "") -> None:
        self.node, self._by, self._order = node, by or f"pilot:{node.name}", dict[str, Any]()
        self._said: dict[str, Any] = {}
        self._code: int | None = None
        self._deeds: Any = None

    def tell(self, order: Mapping[str, Any]) -> None:
        self._order = dict(order)
        self.node.world.tell(f"{self.node.name}'s pilot: {next(iter(order))}")
        ((name, words),) = self._order.items()
        self._deeds = getattr(self, f"_{name}")(words)

    def said(self) -> Mapping[str, Any]:
        return self._said

    def code(self) -> int | None:
        return self._code

    def stop(self) -> None:
        self.node.pilot = None

    def die(self) -> None:
        """Killed: what was done stays done."""
        self._code = 137 if self._code is None else self._code

    def step(self) -> None:
        if self._code is not None:
            return
        if self._deeds is None:
            self._said = {"seen": {"power": self._power(), "uptime": None}}
            return
        try:
            next(self._deeds)
        except StopIteration:
            self._code = 0
        except LifelineError as error:
            self._code, self._said = error.exit_code, {"error": error.message, "hint": ""}
        if self._code is not None:
            self.node.world.tell(f"{self.node.name}'s pilot ended with {self._code}: {self._said.get('error')}")

    def _power(self) -> str | None:
        try:
            return OneCloud(self.node).power_state("")
        except LifelineError:
            return None

    def _take_over(self, words: Mapping[str, Any]) -> Any:
        node = self.node
        watched = None if words["lease"] is None else Lease.from_json(words["lease"])
        before = node.read()
        assert before is not None
        if before.holder == node.name and not before.released:
            taken = before
        elif watched is None:
            raise Refused("this host didn't watch the lease run out")
        else:
            renewal = None if words.get("depose") else watched.renewal
            taken = node.take(self._by, watched.epoch, renewal, next(node.world.numbers))
        began = node.clock() if words["quiet_since"] is None else float(words["quiet_since"])
        yield
        yield from self._fence(taken, began)
        role = read_role(node.config.layout)
        if (role.role, role.epoch) == ("primary", taken.epoch):
            return  # somebody else brought it to its end
        node.finalize(taken.epoch - 1)
        yield
        node.start_primary(taken.epoch)

    def _fence(self, taken: Lease, began: float) -> Any:
        node, clock = self.node, NodeClock(self.node)
        fence = Fence(
            inventory=node.config.inventory,
            old=node.config.inventory.host(OTHER[node.name]),
            cloud=OneCloud(node),  # type: ignore[arg-type]
            key_refused=lambda _: False,
            clock=clock,
            taken_at=lambda: began,
            promised_until=self._promised(taken.epoch - 1),
            released=lambda: taken.over_released,
            held_s=TTL_S + MARGIN_S,
        )
        end = clock.monotonic() + 2 * RUNG_S + TTL_S + MARGIN_S
        while (found := fence.proven()).verdict is not Verdict.PASS:
            if clock.monotonic() > end:
                raise Unproven(f"not fenced: {found.says}")
            fence._act("power-off")
            yield

    def _promised(self, epoch: int) -> Callable[[], float]:
        until: list[float] = []

        def promised() -> float:
            if not until:
                if not self.node.answers:
                    raise Unavailable("the agent doesn't answer")
                until.append(self.node.clock() + self.node.agent.promises.withdraw(epoch))
            return until[0]

        return promised

    def _hand_over(self, words: Mapping[str, Any]) -> Any:
        node, lease = self.node, self.node.read()
        if lease is None or lease.holder != node.name or lease.released:
            raise Refused("no lease to give back")
        node.stop_service()
        yield
        node._asked().release(node.name, lease.epoch)

    def _serve_again(self, words: Mapping[str, Any]) -> Any:
        node, lease = self.node, self.node.read()
        if lease is None or lease.holder != node.name or lease.released or node.live_epoch != lease.epoch:
            raise Refused("not its own lease, or not its own data")
        yield
        node.start_primary(lease.epoch)

    def _rejoin(self, words: Mapping[str, Any]) -> Any:
        node, lease = self.node, self.node.read()
        if lease is None or lease.holder == node.name or lease.released:
            raise Refused("nothing to follow")
        yield
        node._own(None)
        node.become("standby", lease.epoch)
