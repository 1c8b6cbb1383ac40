"""An isolated copy of a stack: hosts, buckets, names and a lease of its own, serving what the stack's vault holds now.

The stack itself is only read, its vault by a key that can do nothing else. The copy is written down before anything of
it is made, and `tear_down` ends it from whatever state it was left in: by Pulumi's state, and by the account's own
lists for what no state has heard of.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from lifeline import inventory as inventories
from lifeline.errors import BadConfig, Refused, StepFailed
from lifeline.inventory import Loaded
from lifeline.journal import Clock, Journal, stamp
from lifeline.model import Finding, Inventory, Key, StoreRef
from lifeline.points import Piece, Plan, stream
from lifeline.runbook import Runbook, Step
from lifeline.service import Service
from lifeline.store import Denied, Missing, Store, find, upload_file
from runbooks.infrastructure import Data, newest, newest_prefix, plans_of
from runbooks.provision import Provisioning, service_env
from runbooks.rebuild import Found, Hosts
from runbooks.site import Site
from runbooks.stack import LOCKED, UP_S, Locked, Say, Stack

NAME = "isolated"
AGAIN = "fab drill --tear-down"
SUFFIX = "-drill"
PROOF = "drill/only-readers-write-here"  # what the reading key must not be able to write
KEY_S, GONE_S, LOCKED_S = 60.0, 120.0, 60.0
TELL_BYTES = 50_000_000
TRIES = 5  # compaction takes files away while they are copied
OpenStore = Callable[[StoreRef, Key], Store]


class Cloud(Protocol):
    """What a copy needs of the cloud beside hosts and records."""

    def add_spaces_key(self, name: str, bucket: str, permission: Any) -> Key: ...
    def spaces_keys(self, name: str) -> list[str]: ...
    def delete_spaces_key(self, access_key: str) -> None: ...
    def prices(self) -> dict[str, float]: ...
    def private_ranges(self) -> list[str]: ...
    def droplet_id(self, name: str) -> str | None: ...
    def destroy(self, droplet_id: str) -> None: ...
    def sweep(self, ours: Callable[[str], bool]) -> list[str]: ...


class Accounts(Protocol):
    """And of AWS."""

    def remove(self, user: str) -> bool: ...


# -- what it is


@dataclass(frozen=True)
class Copy:
    """A copy of the stack ``of``, by its names.  ``label``: how the account's names of it begin; ``since``: when it was
    begun (UTC)."""

    stack: str
    of: str
    service: str
    hosts: tuple[str, ...]
    regions: tuple[str, ...]
    domain: str
    label: str
    since: str

    @property
    def reader(self) -> str:
        """The name of the key that reads the stack's vault."""
        return f"{self.label}-reader"

    def owns(self, label: str) -> bool:
        """Is that one of its names in the account?  Exactly: another stack's may begin like it."""
        parts = ("operator", "primary", "backup", "service", "service-down", *self.regions, *self.hosts)
        names = {self.domain, self.label, *(f"{self.label}-{part}" for part in parts)}
        names |= {f"{self.label}-{host}-down" for host in self.hosts}
        return label in names or label.startswith(f"{self.label}: ")


def copy_of(inventory: Inventory, now: datetime) -> Copy:
    """How a stack's copy is called.  Pure."""
    if inventory.stack.endswith(SUFFIX):
        raise Refused(f"{inventory.stack} is called as an isolated copy is", hint="export LIFELINE_STACK=the stack")
    stack = f"{inventory.stack}{SUFFIX}"
    return Copy(
        **{"stack": stack, "of": inventory.stack, "service": inventory.service, "since": stamp(now)},
        hosts=tuple(f"drill-{host.name}" for host in inventory.hosts),
        regions=tuple(host.region for host in inventory.hosts),
        domain=f"{stack}.{inventory.record.domain}",
        label=f"{inventory.service}-{stack}",
    )


def derive(settings: Mapping[str, Any], copy: Copy, ranges: Sequence[str], public_key: str) -> dict[str, Any]:
    """The copy's stack file out of the stack's configuration: names, networks and a key of its own, a lock of a day,
    and no word about whom to call.  Without secrets.  Pure."""
    start = "lifeline:"
    own = {key.removeprefix(start): value for key, value in settings.items() if key.startswith(start)}
    if missing := [key for key in ("primary", "backup", "vault", "offsite", "domain") if key not in own]:
        raise BadConfig(f"{copy.of}: lifeline:{missing[0]} can't be read", hint=f"pulumi config --stack {copy.of}")
    for key in ("seed", "alerting", "route53"):
        own.pop(key, None)
    homes = zip(("primary", "backup"), copy.hosts, ranges, strict=True)
    own |= {home: {**own[home], "name": name, "vpcRange": network} for home, name, network in homes}
    own |= {
        **{"domain": copy.domain, "protect": "false", "sshPublicKey": public_key},
        "offsite": {**own["offsite"], "lockMode": "governance", "lockDays": 1},
        "policy": {**(own.get("policy") or {}), "mode": "manual"},
    }
    others = {key: value for key, value in settings.items() if not key.startswith(start)}
    return {"config": {**others, **{f"{start}{key}": value for key, value in own.items()}}}


def free_ranges(taken: Iterable[str], count: int) -> list[str]:
    """Private networks that overlap none of the account's.  Pure."""
    known = [ipaddress.ip_network(one) for one in taken]
    found = (ipaddress.ip_network(f"10.{second}.{third}.0/24") for second in range(254, 199, -1) for third in (1, 2))
    free = [str(one) for one in found if not any(one.overlaps(other) for other in known)]
    if len(free) < count:
        raise Refused("the account's private networks leave no room for a copy's", hint="doctl vpcs list")
    return free[:count]


# -- what is written down


def note_path(root: Path, stack: str) -> Path:
    return inventories.folder(root, stack) / "copy.json"


def noted(root: Path) -> list[Copy]:
    """The copies that were begun from this checkout, and not torn down since."""
    return [read_note(path) for path in sorted(root.glob(".lifeline/*/copy.json"))]


def read_note(path: Path) -> Copy:
    try:
        found = json.loads(path.read_text())
        return Copy(**{**found, "hosts": tuple(found["hosts"]), "regions": tuple(found["regions"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadConfig(f"{path} can't be read: {error}", hint=f"pulumi stack ls; less {path}") from None


def write_note(root: Path, copy: Copy) -> None:
    path = note_path(root, copy.stack)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_suffix(".new")
    partial.write_text(json.dumps(asdict(copy), indent=1))
    partial.replace(path)


# -- looking before it is made


def admit(site: Site, copy: Copy, stack: Stack, cloud: Cloud) -> None:
    """Refused where a copy can't be made, or something of one stands."""
    root, folder = site.root, site.root / "services" / copy.service
    files = (inventories.folder(root, copy.stack) / "service.env", folder / f"{copy.stack}.env")
    if service_env(root, copy.of, folder) and not any(path.is_file() for path in files):
        where = files[1].relative_to(root)
        raise Refused(
            f"{copy.service} runs with settings, and what these lead to is real: the copy doesn't get them. It needs "
            f"settings of its own, a sandbox's; {where} isn't there",
            hint=f"write {where} (an empty one, where it needs none), and type it again",
        )
    stands = [name for name in copy.hosts if cloud.droplet_id(name)]
    if stack.exists() or stands:
        what = f"the stack {copy.stack}" if not stands else f"a droplet {stands[0]}"
        raise Refused(f"there is {what} already: a copy that was made elsewhere, or not torn down", hint=AGAIN)


def price(site: Site, settings: Mapping[str, Any], cloud: Cloud) -> str:
    """What it costs, in words."""
    sizes = [str(settings[f"lifeline:{home}"]["size"]) for home in ("primary", "backup")]
    known = cloud.prices()
    if missing := [size for size in sizes if size not in known]:
        return f"What a {missing[0]} costs, the API doesn't say."
    hourly = sum(known[size] for size in sizes)
    return (
        f"${hourly:.4f} an hour for its droplets ({', '.join(sizes)}) for as long as it stands, some minutes as a "
        "rule, and what its three buckets hold for that time."
    )


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
        self.fresh = self.reopen(Loaded(self.stack.inventory(), f"Pulumi's stack {self.copy.stack}"))

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
        points = ", ".join(f"{name} to transaction {txid}" for name, txid in wanted.items())
        read = sum(plan.bytes for plan in self.plans)
        return Finding.passed(f"epoch {self.plans[0].epoch}, {points}; {read / 1e6:.1f} MB", bytes=read, txids=wanted)

    def take_data(self) -> None:
        self.plans = take(self._source(), self._target(), self.service, self._say)

    def key_gone(self) -> Finding:
        left = self.cloud.spaces_keys(self.copy.reader)
        return Finding.failed("it is still good") if left else Finding.passed("there is none of that name")

    def return_key(self) -> None:
        for key in self.cloud.spaces_keys(self.copy.reader):
            self.cloud.delete_spaces_key(key)

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
    hosts = Hosts(fresh, making.service, found, making.taken_at, began, provisioning=_provisioning(fresh))
    # No host of old can be about: the lease is one that nobody ever held.
    steps = [step for step in hosts.steps() if step.until != hosts.alone]
    outcome = Runbook(NAME, steps, clock=fresh.clock, out=fresh.out).run(
        fresh.journal(NAME), {"of": copy.of, "copy": copy.stack, "source_epoch": data.epoch}
    )
    return hosts.recovery_s(outcome)


def _provisioning(site: Site) -> Provisioning:
    """Its hosts get no token of the cloud's: they could use it on others."""
    from toolchain import wheels

    folder = site.root / "services" / site.inventory.service
    return Provisioning(site, folder, wheels.ensure, token=lambda: "")


def seed_path(root: Path, stack: str) -> Path:
    return inventories.folder(root, stack) / "seed"


def key_path(root: Path, stack: str) -> Path:
    """Of the private key that opens its hosts."""
    return inventories.folder(root, stack) / "id_ed25519"


def draw(root: Path, stack: str) -> str:
    """Its seed, another one each time: a bucket's name is not free again for days.  And its key, as an account takes
    none twice: the public half."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    for path, text in ((seed_path(root, stack), secrets.token_hex(32).encode()), (key_path(root, stack), private)):
        path.touch(mode=0o600)
        path.write_bytes(text)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def stack_of(root: Path, copy: Copy) -> Stack:
    """Its Pulumi stack."""
    return Stack(root, copy.stack, AGAIN, {"LIFELINE_SEED_FILE": str(seed_path(root, copy.stack))})


# -- its end


def tear_down(root: Path, copy: Copy, stack: Stack, cloud: Cloud, accounts: Accounts, clock: Clock, say: Say) -> None:
    """Destroy all of it, and forget it when nothing is left.  Any number of times, from any state.  StepFailed says
    what is left."""
    if stack.exists():
        ours = note_path(root, copy.stack).exists()
        try:
            _destroy(stack, clock, say, ours)
        except Locked:
            raise
        except StepFailed as error:
            # A pulumi that was killed had asked for more than it could write down, and what hangs on that stays too.
            say(f"not all of it went: {error.message.splitlines()[-1]}")
            _sweep(copy, cloud, accounts, clock, say)
            _destroy(stack, clock, say, ours, "--refresh")
        stack.remove()
    _sweep(copy, cloud, accounts, clock, say)
    _forget(root, copy)


def _sweep(copy: Copy, cloud: Cloud, accounts: Accounts, clock: Clock, say: Say) -> None:
    """What is there by its name, whether or not a state has heard of it."""
    for name in (copy.reader, *(f"{copy.label}-{host}" for host in copy.hosts)):
        for key in cloud.spaces_keys(name):
            cloud.delete_spaces_key(key)
            say(f"key {name}: taken back")
    for host in copy.hosts:
        if droplet := cloud.droplet_id(host):
            cloud.destroy(droplet)
            say(f"droplet {host} ({droplet}): destroyed")
        if accounts.remove(f"{copy.label}-{host}"):
            say(f"AWS user {copy.label}-{host}: removed")
    deadline = clock.monotonic() + GONE_S
    while left := [host for host in copy.hosts if cloud.droplet_id(host)]:
        if clock.monotonic() > deadline:
            raise StepFailed(f"{', '.join(left)} can't be destroyed, and cost money", hint=AGAIN)
        clock.sleep(1.0)
    for swept in cloud.sweep(copy.owns):
        say(f"{swept}: removed")


def _destroy(stack: Stack, clock: Clock, say: Say, ours: bool, *flags: str) -> None:
    """A pulumi that was begun by a killed drill ends by itself; after a while its lock is what it left.  A lock that is
    somebody else's (not ``ours``) is never broken."""
    deadline = clock.monotonic() + LOCKED_S
    while True:
        try:
            return stack.destroy(lambda line: None if LOCKED in line else say(line), *flags)
        except Locked:
            if not ours:
                raise
            if (left := deadline - clock.monotonic()) <= 0:
                stack.unlock()
            say(f"a pulumi works on it still, or was killed: {max(0.0, left):.0f} s until its lock is broken")
            clock.sleep(5.0)


def _forget(root: Path, copy: Copy) -> None:
    """The note last.  Its journals stay, and its settings, where a person has put some there."""
    folder = inventories.folder(root, copy.stack)
    stack_of(root, copy).file.unlink(missing_ok=True)
    for path in (inventories.cache_path, seed_path, key_path, note_path):
        path(root, copy.stack).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        shutil.rmtree(folder)
