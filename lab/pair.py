"""A primary with a standby that could take over: is there one, and how it becomes one again after a trouble."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lab import faults
from lab.outsiders import poll
from lab.scenarios.trials import Scene
from lab.series import eyes
from lab.stage import Stage
from lifeline.errors import StepFailed, Unproven
from lifeline.hosts import local
from lifeline.model import Host

REPROTECT_S, SETTLE_S, COMPARED_S = 180.0, 60.0, 120.0


def pair(hosts: Sequence[Host]) -> Scene | None:
    """Primary and standby, when each is what it must be and the standby could take over; else None."""
    said = {host.name: eyes.health(host) for host in hosts}
    roles = {found.get("role"): host for host in hosts if (found := said[host.name])}
    if set(roles) != {"primary", "standby"}:
        return None
    old, new = roles["primary"], roles["standby"]
    primary, standby = said[old.name], said[new.name]
    copies = (standby.get("databases") or {}).values()
    near = bool(copies) and all(copy["lag_s"] == 0.0 and not copy["stalled"] for copy in copies)
    serves = primary["judgement"] == "serve" and primary["epoch"] == standby["epoch"]
    pilot = standby.get("pilot") or {}
    watches = pilot.get("lease") == "kept" and pilot.get("peer") == "serves"
    return Scene(old, new) if serves and near and watches else None


def holder(hosts: Sequence[Host]) -> Host:
    """Who says that it is primary and serves; Unproven when it isn't exactly one."""
    found = [host for host in hosts if eyes.health(host).get("judgement") == "serve"]
    if len(found) != 1:
        raise Unproven(f"{len(found)} hosts say that they serve", hint="fab status")
    return found[0]


def mend(stage: Stage, within_s: float) -> bool:
    """End every trouble, and do what an operator would where no pair comes of it; is there one then?"""
    assert stage.inventory
    hosts = stage.inventory.hosts
    faults.heal()
    for host in hosts:
        if eyes.frozen(host):
            faults.thaw(host.name)
        if eyes.power(host) == "off":
            faults.power_back(host.name)
    if not poll(lambda: pair(hosts) is not None, within_s):
        stage.command("reprotect", ["fab", "reprotect", "--yes"], lambda line: line).wait(REPROTECT_S)
        return poll(lambda: pair(hosts) is not None, within_s)
    return True


def settle(stage: Stage) -> None:
    """What a former primary came back with is on its disk and was told: as a person would, who has dealt with it, so
    that the next drill doesn't begin with this one's alert. StepFailed when it isn't compared in time."""
    if not poll(lambda: all(one.get("verdict") == "PASS" for one in _forks(stage)), COMPARED_S):
        raise StepFailed(f"what a former primary wrote isn't compared after {COMPARED_S:.0f} s", hint="fab forks")
    for one in _forks(stage):
        if not one.get("settled"):
            where = f"{one['host']}:{one['folder']}"
            stage.command("settle", ["fab", "forks", "--settle", where], lambda line: line).check(SETTLE_S)


def _forks(stage: Stage) -> list[dict[str, Any]]:
    asked = local(["fab", "forks", "--json"], timeout=SETTLE_S, env=stage.env, cwd=stage.root)
    if asked.code != 0:
        raise StepFailed(f"fab forks: {asked.last_words}", hint="fab forks")
    found: list[dict[str, Any]] = json.loads(asked.stdout)
    return found
