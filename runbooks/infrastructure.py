"""Pulumi, and what stands in the clouds whether it knows of it or not: the infrastructure as a rebuild meets it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lifeline import inventory as inventories
from lifeline.cloud import Cloud
from lifeline.errors import StepFailed, Unavailable
from lifeline.hosts import Result, local, watched
from lifeline.model import Inventory
from lifeline.standing import BUCKET, SPACES, Standing, label

UP_S = 1800.0
ASK_S = 60.0
ADOPT = "LIFELINE_ADOPT"  # what infra/adopt.py reads
Say = Callable[[str], None]


class Infrastructure(Protocol):
    """What a rebuild needs of the clouds beside hosts, lease and vault."""

    def known(self) -> list[tuple[str, str]]:
        """(type, label) of what the stack's state has; empty where there is no state."""

    def standing(self) -> Standing:
        """What there is that can be taken over; without records."""

    def bring_up(self, take_over: Standing, say: Say) -> None:
        """Make what is missing, take over what stands, and then what differs as the program has it."""

    def inventory(self) -> Inventory: ...
    def owner(self, access_key: str) -> str | None:
        """Whose off-site key that is; None: nobody's."""

    def revoke(self, access_key: str) -> None: ...


@dataclass
class Pulumi:
    """The real one: the CLI, as an operator types it, and the clouds' own lists. ``lost``: the inventory of before."""

    root: Path
    lost: Inventory
    cloud: Cloud

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

    def owner(self, access_key: str) -> str | None:
        return self._accounts.owner(access_key)

    def revoke(self, access_key: str) -> None:
        self._accounts.revoke(access_key)

    @property
    def _zone(self) -> str | None:
        second = self.lost.dns.route53
        return second.zone if second else None

    @property
    def _accounts(self) -> Any:
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


def counts(standing: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """What is taken over, for people: type and name."""
    for kind, ones in sorted(standing.items()):
        yield from (f"{kind.rpartition(':')[2]} {name}" for name in sorted(ones))
