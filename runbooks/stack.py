"""One stack of the project, by Pulumi's CLI as an operator types it: the one door to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifeline import inventory as inventories
from lifeline.errors import StepFailed, Unavailable
from lifeline.hosts import Result, local, watched
from lifeline.model import ADOPT, Inventory
from lifeline.standing import Standing, label

UP_S = 1800.0
ASK_S = 60.0
LOCKED = "currently locked"  # Pulumi's words
Say = Callable[[str], None]


class Locked(StepFailed):
    """Another pulumi works on the stack, or one that was killed has left its lock."""


@dataclass(frozen=True)
class Stack:
    """``root``: the checkout.  ``again``: the command that goes on once an error is mended.  ``env``: what its program
    is told beside what this process is."""

    root: Path
    name: str
    again: str
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """Its configuration, where Pulumi.yaml says that these are."""
        return self.root / "stacks" / f"Pulumi.{self.name}.yaml"

    def exists(self) -> bool:
        stacks = json.loads(self._ask("stack", "ls", "--json"))
        return any(one["name"].rpartition("/")[2] == self.name for one in stacks)

    def init(self) -> None:
        self._ask("stack", "init", self.name)

    def settings(self) -> dict[str, Any]:
        """Its configuration by full names; what is secret, in whole or in part, is left out."""
        found = json.loads(self._ask("config", "--json", "--stack", self.name))
        return {key: one.get("objectValue", one.get("value")) for key, one in found.items() if not one.get("secret")}

    def known(self) -> list[tuple[str, str]]:
        """(type, label) of what its state has; empty where there is no state."""
        if not self.exists():
            return []
        found = json.loads(self._ask("stack", "export", "--stack", self.name))["deployment"]
        return [
            (one["type"], name)
            for one in found.get("resources") or ()
            if one.get("id") and (name := label(one["type"], one.get("inputs") or {}))
        ]

    def up(self, take_over: Standing, say: Say, *flags: str) -> None:
        """Make what is missing; ``take_over``: what stands and no state knows."""
        self._work(("up", "--suppress-outputs", *flags), say, {ADOPT: json.dumps(take_over)})

    def destroy(self, say: Say, *flags: str) -> None:
        """All that its state knows, as far as it goes.  Locked while another pulumi works on it."""
        self._work(("destroy", "--suppress-outputs", "--continue-on-error", *flags), say)

    def unlock(self) -> None:
        """Remove the lock that a killed pulumi has left."""
        self._ask("cancel", "--yes", "--stack", self.name)

    def remove(self) -> None:
        """The empty stack, and its file."""
        self._ask("stack", "rm", "--yes", "--stack", self.name)

    def inventory(self) -> Inventory:
        """What stands, by its output."""
        return inventories.of_pulumi(self.root, self.name)

    def _work(self, words: tuple[str, ...], say: Say, more: Mapping[str, str] | None = None) -> None:
        verb, *flags = words
        show = progress()

        def hear(line: str) -> None:
            if shown := show(line):
                say(shown)

        argv = ["pulumi", verb, "--stack", self.name, "--yes", "--skip-preview", *flags]
        env = {**os.environ, **self.env, **(more or {})}
        done = watched([*argv, "--non-interactive", "--color=never"], hear, timeout=UP_S, env=env, cwd=self.root)
        if done.code != 0:
            kind = Locked if LOCKED in done.text else StepFailed
            raise kind(f"pulumi {verb}: {complaint(done)}", hint=f"mend that, then {self.again}, which goes on")

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
        if line.rstrip().endswith(done) or any(f" {word} (" in line for word in ("created", "imported", "deleted")):
            counted += 1
            return f"{counted} resources …" if counted % 10 == 0 else None
        return line.strip() if line.strip().startswith("Duration") else None

    return show
