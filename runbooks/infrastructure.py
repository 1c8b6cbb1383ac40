"""Pulumi, and what stands in the clouds whether it knows of it or not: the infrastructure as a rebuild meets it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lifeline import points
from lifeline.cloud import DigitalOcean
from lifeline.errors import LifelineError
from lifeline.model import Inventory
from lifeline.service import Service
from lifeline.standing import BUCKET, SPACES, Address, Standing
from lifeline.store import Store
from runbooks.stack import Say, Stack

if TYPE_CHECKING:
    from lifeline.accounts import Accounts


@dataclass(frozen=True)
class Data:
    """The newest data there is: out of which vault, of which epoch, each database's transaction, and when the last of
    their files was written. ``epoch`` 0: no replica anywhere; ``tried``: what failed before."""

    source: str = ""
    epoch: int = 0
    txids: Mapping[str, int] = field(default_factory=dict)
    at: datetime | None = None
    tried: tuple[str, ...] = ()

    @property
    def points(self) -> str:
        """Where each database ends, in words."""
        return ", ".join(f"{name} to transaction {txid}" for name, txid in self.txids.items())


class Infrastructure(Protocol):
    """What a rebuild needs of the clouds beside hosts, lease and vault."""

    def known(self) -> list[tuple[str, str]]:
        """(type, label) of what the stack's state has; empty where there is no state."""

    def standing(self) -> Standing:
        """What there is that can be taken over; without records."""

    def addresses(self, domain: str) -> list[Address]:
        """The domain's A records; none where there is no such domain."""

    def bring_up(self, take_over: Standing, say: Say) -> None:
        """Make what is missing, take over what stands, and then what differs as the program has it."""

    def inventory(self) -> Inventory: ...
    def data(self, service: Service) -> Data:
        """The newest there is of the service's databases."""

    def owner(self, access_key: str) -> str | None:
        """Whose off-site key that is; None: nobody's."""

    def revoke(self, access_key: str) -> None: ...


@dataclass
class Pulumi:
    """The real one: the CLI, as an operator types it, and the clouds' own lists. ``lost``: the inventory of before."""

    root: Path
    lost: Inventory
    cloud: DigitalOcean

    @property
    def _stack(self) -> Stack:
        return Stack(self.root, self.lost.stack, again="fab rebuild")

    def known(self) -> list[tuple[str, str]]:
        return self._stack.known()

    def standing(self) -> Standing:
        return {**self.cloud.standing(), **self._accounts.standing(self._zone), **self._buckets()}

    def addresses(self, domain: str) -> list[Address]:
        return self.cloud.addresses(domain)

    def bring_up(self, take_over: Standing, say: Say) -> None:
        """Twice: what is taken over stays as it is the first time."""
        stack = self._stack
        if not stack.exists():
            stack.init()
        stack.up(take_over, say, "--refresh")  # what a state knows and the clouds don't is made again too
        if take_over:
            stack.up({}, say)

    def inventory(self) -> Inventory:
        return self._stack.inventory()

    def data(self, service: Service) -> Data:
        from lifeline.vault import key_from_environment, open_store

        tried: list[str] = []
        for name, ref, keys in (("vault", self.lost.vault, "SPACES"), ("offsite", self.lost.offsite, "AWS")):
            try:
                found = newest_data(open_store(ref, key_from_environment(keys)), service)
                if found is not None:
                    return replace(found, source=name, tried=tuple(tried))
                tried.append(f"the {name} holds no replica")
            except LifelineError as error:
                tried.append(f"the {name}: {error.message}")
        return Data(tried=tuple(tried))

    def owner(self, access_key: str) -> str | None:
        return self._accounts.owner(access_key)

    def revoke(self, access_key: str) -> None:
        self._accounts.revoke(access_key)

    @property
    def _zone(self) -> str | None:
        second = self.lost.dns.route53
        return second.zone if second else None

    @cached_property
    def _accounts(self) -> Accounts:
        from lifeline.accounts import Accounts
        from lifeline.vault import key_from_environment

        return Accounts(key_from_environment("AWS"))

    def _buckets(self) -> Standing:
        from lifeline.vault import key_from_environment, open_store

        vault, lost = self.lost.vault, self.lost
        found: Standing = {SPACES: {}, BUCKET: {}}
        if open_store(vault, key_from_environment("SPACES")).exists():
            found[SPACES][vault.bucket] = f"{vault.region},{vault.bucket}"
        for ref in (lost.offsite, lost.lease_store):
            if open_store(ref, key_from_environment("AWS")).exists():
                found[BUCKET][ref.bucket] = ref.bucket
        return found


def newest_prefix(store: Store, service: str) -> int:
    """The newest epoch of which there is anything, 0 for none; found without listing what is in them."""
    prefix, epoch, after = f"replica/{service}/epoch-", 0, ""
    while (one := next(iter(store.list(prefix, after=after)), None)) is not None:
        number = one.key.removeprefix(prefix).partition("/")[0]
        epoch, after = int(number), f"{prefix}{number}0"  # behind all of it: "0" follows "/"
    return epoch


def newest_data(store: Store, service: Service) -> Data | None:
    """The end of the newest epoch of which there is anything."""
    epochs = points.epochs(store, service.name, newest_prefix(store, service.name))
    return newest(plans_of(store, service, epochs[0])) if epochs else None


def plans_of(store: Store, service: Service, epoch: int) -> list[points.Plan]:
    """What the end of an epoch is made of, each database's."""
    return [points.plan(store, service.name, epoch, database.name) for database in service.databases]


def newest(plans: Sequence[points.Plan]) -> Data:
    """As of the database that was written last before the others."""
    at = min(max(piece.modified for piece in plan.pieces) for plan in plans)
    return Data(epoch=plans[0].epoch, txids={plan.database: plan.txid for plan in plans}, at=at)
