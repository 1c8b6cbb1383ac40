"""Pulumi, and what stands in the clouds whether it knows of it or not: the infrastructure as a rebuild meets it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lifeline import inventory as inventories
from lifeline import points
from lifeline.cloud import DigitalOcean
from lifeline.errors import LifelineError, StepFailed, Unavailable
from lifeline.hosts import Result, local, watched
from lifeline.model import ADOPT, Inventory
from lifeline.service import Service
from lifeline.standing import BUCKET, SPACES, Address, Standing, label
from lifeline.store import Store

if TYPE_CHECKING:
    from lifeline.accounts import Accounts

UP_S = 1800.0
ASK_S = 60.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Data:
    """The newest data there is: out of which vault, of which epoch, each database's transaction, and when the last of
    their files was written. ``epoch`` 0: no replica anywhere; ``tried``: what failed before."""

    source: str = ""
    epoch: int = 0
    txids: Mapping[str, int] = field(default_factory=dict)
    at: datetime | None = None
    tried: tuple[str, ...] = ()


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

    def known(self) -> list[tuple[str, str]]:
        if not self._has_stack():
            return []
        found = json.loads(self._ask("stack", "export", "--stack", self.lost.stack))["deployment"]
        return [
            (one["type"], name)
            for one in found.get("resources") or ()
            if one.get("id") and (name := label(one["type"], one.get("inputs") or {}))
        ]

    def standing(self) -> Standing:
        return {**self.cloud.standing(), **self._accounts.standing(self._zone), **self._buckets()}

    def addresses(self, domain: str) -> list[Address]:
        return self.cloud.addresses(domain)

    def bring_up(self, take_over: Standing, say: Say) -> None:
        """Twice: what is taken over stays as it is the first time."""
        stack = self.lost.stack
        if not self._has_stack():
            self._ask("stack", "init", stack)
        self._up(take_over, say, "--refresh")  # what a state knows and the clouds don't is made again too
        if take_over:
            self._up({}, say)

    def _up(self, take_over: Standing, say: Say, *flags: str) -> None:
        show = progress()

        def hear(line: str) -> None:
            if shown := show(line):
                say(shown)

        up = ["pulumi", "up", "--stack", self.lost.stack, "--yes", "--skip-preview", "--suppress-outputs", *flags]
        env = {**os.environ, ADOPT: json.dumps(take_over)}
        done = watched([*up, "--non-interactive", "--color=never"], hear, timeout=UP_S, env=env, cwd=self.root)
        if done.code != 0:
            raise StepFailed(f"pulumi up: {complaint(done)}", hint="mend that, then fab rebuild, which goes on")

    def inventory(self) -> Inventory:
        return inventories.from_pulumi(self.root, self.lost.stack).inventory

    def data(self, service: Service) -> Data:
        from lifeline.vault import key_from_environment, open_store

        tried: list[str] = []
        for name, ref, keys in (("vault", self.lost.vault, "SPACES"), ("offsite", self.lost.offsite, "AWS")):
            try:
                store = open_store(ref, key_from_environment(keys))
                epochs = points.epochs(store, service.name, newest_prefix(store, service.name))
                if epochs:
                    return replace(newest(store, service, epochs[0]), source=name, tried=tuple(tried))
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

    def _has_stack(self) -> bool:
        stacks = json.loads(self._ask("stack", "ls", "--json"))
        return any(one["name"].rpartition("/")[2] == self.lost.stack for one in stacks)

    def _ask(self, *words: str) -> bytes:
        done = local(["pulumi", *words, "--non-interactive"], timeout=ASK_S, cwd=self.root)
        if done.code != 0:
            raise Unavailable(
                f"pulumi {' '.join(words[:2])}: {done.last_words}",
                hint="is PULUMI_BACKEND_URL where the new state shall be, and the stack's passphrase set?",
            )
        return done.stdout


def newest_prefix(store: Store, service: str) -> int:
    """The newest epoch of which there is anything, 0 for none; found without listing what is in them."""
    prefix, epoch, after = f"replica/{service}/epoch-", 0, ""
    while (one := next(iter(store.list(prefix, after=after)), None)) is not None:
        number = one.key.removeprefix(prefix).partition("/")[0]
        epoch, after = int(number), f"{prefix}{number}0"  # behind all of it: "0" follows "/"
    return epoch


def newest(store: Store, service: Service, epoch: int) -> Data:
    """The end of an epoch's replica; of several databases, as of the one that was written last before the others."""
    plans = [points.plan(store, service.name, epoch, database.name) for database in service.databases]
    at = min(max(piece.modified for piece in plan.pieces) for plan in plans)
    return Data(epoch=epoch, txids={plan.database: plan.txid for plan in plans}, at=at)


def complaint(done: Result) -> str:
    """What went wrong, out of all it said."""
    wrong = [line.strip() for line in done.text.splitlines() if "error:" in line.lower()]
    return "\n".join(dict.fromkeys(wrong)) or done.last_words


def progress() -> Callable[[str], str | None]:
    """Of a screenful, a running count of resources: every tenth, and whatever went wrong."""
    counted = 0

    def show(line: str) -> str | None:
        nonlocal counted
        if "error" in line.lower():
            return line
        done = ("created", "updated", "replaced", "deleted", "imported")
        if line.rstrip().endswith(done) or any(f" {word} (" in line for word in ("created", "imported")):
            counted += 1
            return f"{counted} resources …" if counted % 10 == 0 else None
        return line.strip() if line.strip().startswith("Duration") else None

    return show
