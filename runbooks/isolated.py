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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from lifeline import inventory as inventories
from lifeline.errors import BadConfig, Refused, StepFailed
from lifeline.journal import Clock, stamp
from lifeline.model import Inventory, Key
from runbooks.settings import service_env
from runbooks.site import Site
from runbooks.stack import LOCKED, Locked, Say, Stack

AGAIN = "fab drill --tear-down"
SUFFIX = "-drill"
GONE_S, LOCKED_S = 120.0, 30.0


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

    @property
    def users(self) -> tuple[str, ...]:
        """What its hosts' keys, and their users at AWS, are called."""
        return tuple(f"{self.label}-{host}" for host in self.hosts)

    def owns(self, label: str) -> bool:
        """Is that one of its names in the account?  Exactly: another stack's may begin like it."""
        parts = ("operator", "primary", "backup", "service", "service-down", *self.regions)
        names = {self.domain, self.label, *(f"{self.label}-{part}" for part in parts)}
        names |= {*self.users, *(f"{user}-down" for user in self.users)}
        return label in names or label.startswith(f"{self.label}: ")


def copy_of(inventory: Inventory, now: datetime) -> Copy:
    """How a stack's copy is called.  Pure."""
    if inventory.stack.endswith(SUFFIX):
        raise Refused(f"{inventory.stack} is called as an isolated copy is", hint="export LIFELINE_STACK=the stack")
    stack = f"{inventory.stack}{SUFFIX}"
    return Copy(
        **{"stack": stack, "of": inventory.stack, "service": inventory.service, "since": stamp(now)},
        hosts=tuple(f"{stack}-{host.name}" for host in inventory.hosts),
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
        **{"domain": copy.domain, "protect": "false", "ownZone": "true", "sshPublicKey": public_key},
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


def price(settings: Mapping[str, Any], cloud: Cloud) -> str:
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


# -- what is drawn for it


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
    for name in (copy.reader, *copy.users):
        if take_back(cloud, name):
            say(f"key {name}: taken back")
    for host in copy.hosts:
        if droplet := cloud.droplet_id(host):
            cloud.destroy(droplet)
            say(f"droplet {host} ({droplet}): destroyed")
    for user in copy.users:
        if accounts.remove(user):
            say(f"AWS user {user}: removed")
    deadline = clock.monotonic() + GONE_S
    while left := [host for host in copy.hosts if cloud.droplet_id(host)]:
        if clock.monotonic() > deadline:
            raise StepFailed(f"{', '.join(left)} can't be destroyed, and cost money", hint=AGAIN)
        clock.sleep(1.0)
    for swept in cloud.sweep(copy.owns):
        say(f"{swept}: removed")


def take_back(cloud: Cloud, name: str) -> int:
    """Delete the keys of that name; how many there were."""
    found = cloud.spaces_keys(name)
    for key in found:
        cloud.delete_spaces_key(key)
    return len(found)


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
