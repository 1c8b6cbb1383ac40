"""The service's hooks (docs/service.md), run on this host as its user, with its environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lifeline import proc
from lifeline.errors import BadConfig, StepFailed, Unproven
from lifeline.layout import Config, read_json, read_role, write_file
from lifeline.schema import At

COMPARE_WITHIN_S = 300.0


def run(config: Config, name: str, within: float = 60.0) -> dict[str, Any]:
    """Run a hook. Nothing to do where the service has none."""
    if not getattr(config.service.hooks, name):
        return {"hook": name, "ran": False}
    done = proc.run(_command(config, name), timeout=within)
    if not done.ok:
        raise StepFailed(
            f"the service's hook {name} failed: {done.reason}", hint=f"run it by hand: lifeline-host run hook {name}"
        )
    if name == "reconcile" and owes_reconcile(config):
        _owed(config).unlink(missing_ok=True)
    return {"hook": name, "ran": True, "output": done.stdout.strip()[-2000:]}


def owe_reconcile(config: Config, epoch: int) -> None:
    """Note that as primary of `epoch` the service hasn't agreed with the world outside yet. What is owed is noted, not
    what was done: where there is no note nothing is owed, as on a host that an older release made primary."""
    if config.service.hooks.reconcile:
        write_file(_owed(config), json.dumps({"epoch": epoch}))


def owes_reconcile(config: Config) -> bool:
    """Is this host primary of an epoch in which the `reconcile` hook is still to succeed?"""
    role, owed = read_role(config.layout), read_json(_owed(config)) or {}
    return role.role == "primary" and owed.get("epoch") == role.epoch and bool(config.service.hooks.reconcile)


def _owed(config: Config) -> Path:
    return config.layout.state / "reconcile-owed.json"


def compare(config: Config) -> dict[str, Any]:
    """What the compare hook says, and "ran": true. Unproven when it says nothing that can be relied on.

    It runs beside the service that serves, and gives way to it.
    """
    if not config.service.hooks.compare:
        return {"ran": False}
    try:
        done = proc.run([*proc.GENTLE, *_command(config, "compare")], timeout=COMPARE_WITHIN_S)
        if done.ok:
            return {"ran": True, **read_comparison(done.stdout)}
        why = done.reason
    except (StepFailed, BadConfig) as error:
        why = error.message
    raise Unproven(
        f"{config.service.name}'s books were not compared with the world outside: {why}",
        hint=f"on {config.name}: lifeline-host run hook compare",
    )


def read_comparison(text: str) -> dict[str, Any]:
    """What a compare hook printed. BadConfig names what is missing or contradicts itself: that proves nothing."""
    try:
        at = At(json.loads(text), "the compare hook's answer")
    except ValueError:
        raise BadConfig("the compare hook's answer is not JSON") from None
    agree, more = at.flag("agree"), at.integer("more", 0, least=0)
    counts = at.at("compared")
    compared = {what: counts.integer(what, least=0) for what in counts.names()}
    differences = [
        {
            "what": one.text("what"),
            "key": one.text("key"),
            "here": one.value.get("here"),
            "there": one.value.get("there"),
        }
        for one in at.each("differences", [])
    ]
    if not compared:
        counts.fail("must say of what how many were compared")
    if agree == bool(differences or more):
        at.fail('"agree" is what "differences" contradicts')
    return {"agree": agree, "compared": compared, "differences": differences, "more": more}


def _command(config: Config, name: str) -> list[str]:
    return [str(config.layout.bin / "lifeline-host"), "run", "hook", name]
