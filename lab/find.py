"""The droplets of the running lab by their names."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from lab import config
from lab.config import LabConfig
from lab.machines import NspawnMachines, group_of
from lab.processes import Group
from lifeline.errors import BadInput
from toolchain import image


def machines() -> NspawnMachines:
    """The droplets of the running lab, by the lab's own eyes and not the API's."""
    return NspawnMachines(LabConfig.load(config.state_dir() / "lab.json").state, image.path())


def running(name: str) -> Group:
    """The control group of a droplet that is on."""
    group = Group(group_of(droplet(name)[1]))
    if not group.alive():
        raise BadInput(f"droplet {name!r} is off", hint=f"python -m lab.faults power_back {name}")
    return group


def droplet(name: str) -> tuple[NspawnMachines, int]:
    """By name or by id."""
    there = machines()
    known = {droplet_id: there.spec(droplet_id).name for droplet_id in there.ids()}
    for droplet_id, known_name in known.items():
        if name in (known_name, str(droplet_id)):
            return there, droplet_id
    raise BadInput(f"no droplet {name!r} in the lab", hint=f"one of {', '.join(known.values()) or 'none: pulumi up'}")


def command_line(pid: int) -> str:
    """Its words; empty when it ended while we looked."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def init(name: str) -> int:
    """The process 1 of a droplet, by its number out here."""
    for pid in running(name).pids():
        with contextlib.suppress(OSError):
            numbers = re.search(r"(?m)^NSpid:(.*)$", Path(f"/proc/{pid}/status").read_text())
            if numbers and len(inside := numbers[1].split()) > 1 and inside[-1] == "1":
                return pid
    raise BadInput(f"droplet {name!r} has not booted", hint=f"python -m lab.faults power_back {name}")


def within(name: str, path: str) -> Path:
    """As the droplet's own processes see it, with all that is mounted there."""
    found = Path(f"/proc/{init(name)}/root{path}")
    if not found.exists():
        raise BadInput(f"{name} has no {path}")
    return found
