"""Making an isolated copy: infrastructure, the stack's data by a key that can only read, a pair that serves it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifeline import inventory as inventories
from lifeline.errors import Refused, StepFailed
from lifeline.inventory import Loaded
from lifeline.journal import Journal
from lifeline.model import Finding, Key, StoreRef
from lifeline.points import Piece, Plan, stream
from lifeline.runbook import Runbook, Step
from lifeline.service import Service
from lifeline.store import Denied, Missing, Store, find, upload_file
from runbooks.infrastructure import Data, newest, newest_prefix, plans_of
from runbooks.isolated import AGAIN, Cloud, Copy, derive, draw, free_ranges, take_back
from runbooks.rebuild import Found, Hosts
from runbooks.site import Site
from runbooks.stack import UP_S, Say, Stack

NAME = "isolated"
PROOF = "drill/only-readers-write-here"  # what the reading key must not be able to write
KEY_S = 60.0
TELL_BYTES = 50_000_000
TRIES = 5  # compaction takes files away while they are copied
OpenStore = Callable[[StoreRef, Key], Store]


# -- the data


def take(source: Store, target: Store, service: Service, say: Say) -> list[Plan]:
    """Copy what a restore of the newest epoch takes, under the same keys; what was copied.  Refused where there is
    none."""
    for _ in range(TRIES):
        epoch = newest_prefix(source, service.name)
        if not epoch:
            raise Refused(f"{source.where} holds no replica of {service.name}", hint="fab status")
        plans = plans_of(source, service, epoch)
        try:
            _transfer(source, target, [piece for plan in plans for piece in plan.pieces], say)
        except Missing:
            continue  # compacted meanwhile: another plan has the same in other files
        return plans
    raise StepFailed(f"{source.where}: files went while they were copied, {TRIES} times", hint="fab drill --isolated")


def _transfer(source: Store, target: Store, pieces: Sequence[Piece], say: Say) -> None:
    """Through a file on this machine's disk: one may be as large as the database."""
    total, done, told = sum(piece.size for piece in pieces), 0, 0
    for owner in sorted({f"{'/'.join(piece.key.split('/')[:3])}/owner.json" for piece in pieces}):
        if found := find(source, owner):
            target.put(owner, found.body)
    for piece in pieces:
        there = target.head(piece.key)
        if there is None or there.size != piece.size:
            with tempfile.TemporaryDirectory(prefix="lifeline-copy-") as folder:
                path = Path(folder) / "piece"
                with path.open("wb") as file:
                    for part in stream(source, piece):
                        file.write(part)
                upload_file(target, path, piece.key)
        done += piece.size
        if done - told > TELL_BYTES:
            told = done
            say(f"{done / 1e6:.0f} of {total / 1e6:.0f} MB …")


# -- making it


@dataclass
class Making:
    """From nothing to a copy with its data and its lease.  ``reopen``: a site over its inventory."""

    site: Site
    copy: Copy
    stack: Stack
    cloud: Cloud
    service: Service
    settings: Mapping[str, Any]
    open_store: OpenStore
    operator: Key
    reopen: Callable[[Loaded], Site]
    fresh: Site | None = None
    reader: Key | None = None
    only_reads: bool = False
    plans: list[Plan] = field(default_factory=list)
    taken_at: float | None = None

    def steps(self) -> list[Step]:
        say = "make them by pulumi up, from a stack file of its own"
        return [
            Step("the copy's infrastructure stands", self.stands, self.bring_up, within=UP_S, would=say, hint=AGAIN),
            Step("there is a key that can only read the stack's vault", self.can_read, self.get_key, within=KEY_S),
            Step("the copy's vault has the stack's data", self.has_data, self.take_data, within=UP_S, hint=AGAIN),
            Step("that key is taken back", self.key_gone, self.return_key, within=KEY_S),
            Step("the copy's lease is held", self.leased, self.take_lease, within=10),
        ]

    def stands(self) -> Finding:
        if self.fresh is None:
            return Finding.failed("not made yet")
        hosts = self.fresh.inventory.hosts
        return Finding.passed(", ".join(f"{host.name} {host.address}" for host in hosts))

    def bring_up(self) -> None:
        public_key = draw(self.site.root, self.copy.stack)
        ranges = free_ranges(self.cloud.private_ranges(), len(self.copy.hosts))
        # JSON is YAML; Pulumi adds its salt, and removes the file with the stack.
        own = derive(self.settings, self.copy, ranges, public_key)
        self.stack.file.write_text(json.dumps(own, indent=1) + "\n")
        self.stack.init()
        self.stack.up({}, self._say)
        inventory = self.stack.inventory()
        inventories.save(self.site.root, inventory)
        self.fresh = self.reopen(Loaded(inventory, f"Pulumi's stack {self.copy.stack}"))

    def can_read(self) -> Finding:
        """Tried, both ways: what a key was granted is one thing, what the store does with it another."""
        if self.reader is None:
            return Finding.failed("none was asked for")
        store = self._source()
        try:
            newest_prefix(store, self.service.name)
        except Denied as error:
            return Finding.failed(f"not known yet: {error.message}")
        try:
            store.put(PROOF, b"")
        except Denied:
            self.only_reads = True
            return Finding.passed("it reads, and a write with it was refused")
        raise Refused(
            f"the key that should only read could write {PROOF} into {store.where}: this is not isolated",
            hint="was the key granted more than read? doctl spaces keys list",
        )

    def get_key(self) -> None:
        self.reader = self.cloud.add_spaces_key(self.copy.reader, self.site.inventory.vault.bucket, "read")

    def has_data(self) -> Finding:
        if not self.plans:
            return Finding.failed("nothing was copied yet")
        wanted = {plan.database: plan.txid for plan in self.plans}
        there = {plan.database: plan.txid for plan in plans_of(self._target(), self.service, self.plans[0].epoch)}
        if there != wanted:
            return Finding.failed(f"it has {there}, and should have {wanted}")
        data, read = self.data(), sum(plan.bytes for plan in self.plans)
        return Finding.passed(f"epoch {data.epoch}, {data.points}; {read / 1e6:.1f} MB", bytes=read, txids=wanted)

    def take_data(self) -> None:
        self.plans = take(self._source(), self._target(), self.service, self._say)

    def key_gone(self) -> Finding:
        left = self.cloud.spaces_keys(self.copy.reader)
        return Finding.failed("it is still good") if left else Finding.passed("there is none of that name")

    def return_key(self) -> None:
        take_back(self.cloud, self.copy.reader)

    def leased(self) -> Finding:
        fresh = self._fresh()
        lease = fresh.leases.read()
        if lease is None or lease.released:
            return Finding.failed("nobody holds it yet")
        if self.taken_at is None:
            self.taken_at = fresh.clock.monotonic()
        return Finding.passed(f"{lease.holder} holds epoch {lease.epoch}")

    def take_lease(self) -> None:
        fresh, host = self._fresh(), self.home
        run = f"{NAME}-{self.copy.since}"
        last = fresh.leases.read() or fresh.leases.begin_after(host, self.plans[0].epoch, run)
        fresh.leases.depose(host, last, run)

    @property
    def home(self) -> str:
        return self._fresh().inventory.home_primary.name

    def data(self) -> Data:
        return newest(self.plans)

    def _fresh(self) -> Site:
        assert self.fresh is not None
        return self.fresh

    def _source(self) -> Store:
        assert self.reader is not None
        return self.open_store(self.site.inventory.vault, self.reader)

    def _target(self) -> Store:
        return self.open_store(self._fresh().inventory.vault, self.operator)

    def _say(self, line: str) -> None:
        self.site.say(f"      {line}")


def make(making: Making, began: float) -> float:
    """Make it, until it serves with a standby behind it.  ``began``: when the command was given; the seconds from then
    to a stranger's first write."""
    site, copy = making.site, making.copy
    journals = inventories.folder(site.root, copy.stack) / "journal"
    journal = Journal.start(journals, NAME, site.inventory.secrets(), site.clock)
    Runbook(NAME, making.steps(), clock=site.clock, out=site.out).run(journal, {"of": copy.of, "copy": copy.stack})
    fresh, data = making.fresh, making.data()
    assert fresh is not None
    found = Found(making.home, data.epoch, data.epoch + 1, resumed=False, lease=None, data=data, known=0)
    # No token of the cloud's: they could use it on others.
    hosts = Hosts(fresh, making.service, found, making.taken_at, began, token=lambda: "")
    # No host of old can be about: the lease is one that nobody ever held.
    steps = [step for step in hosts.steps() if step.until != hosts.alone]
    outcome = Runbook(NAME, steps, clock=fresh.clock, out=fresh.out).run(
        fresh.journal(NAME), {"of": copy.of, "copy": copy.stack, "source_epoch": data.epoch}
    )
    return hosts.recovery_s(outcome)
