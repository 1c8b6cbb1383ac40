"""What a host is given that only an operator has: the service's own settings, and the cloud's token for its pilot.

A machine may lack them (a new laptop, a second operator, an inventory out of the vault). The hosts run with them all
the same, so what isn't here is theirs to keep: provisioning takes nothing away because of where it was typed.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from lifeline import inventory as inventories
from lifeline.errors import Refused
from lifeline.hosts import Remote
from lifeline.model import Host
from lifeline.reading import read_text

ETC = "/etc/lifeline"
ENV, TOKEN = "service.env", "pilot.token"
TOKEN_FILE = "LIFELINE_PILOT_TOKEN_FILE"


def service_env(root: Path, stack: str, service: Path) -> str | None:
    """The service's own settings for a stack: the operator's (.lifeline/<stack>/service.env), or those beside
    service.toml; None where this machine has neither. An empty file is settings too: none."""
    for path in (inventories.folder(root, stack) / ENV, service / f"{stack}.env"):
        if path.is_file():
            return read_text(path, hint="fab provision, when it is mended")
    return None


def pilot_token() -> str | None:
    """The cloud's token for hosts that fail over by themselves (cloud.PILOT_SCOPES), with its newline; "" out of an
    empty file: they shall have none. None where the environment names no file."""
    name = os.environ.get(TOKEN_FILE)
    if not name:
        return None
    token = read_text(Path(name), hint=f"check {TOKEN_FILE}").strip()
    return f"{token}\n" if token else ""


def on_host(remote: Remote) -> dict[str, str]:
    """Both files as a host has them; "" for one that isn't there."""

    def read(name: str) -> str:
        path = f"{ETC}/{name}"
        return remote.run(["sudo", "-n", "sh", "-c", f"test ! -e {path} || cat {path}"], timeout=20).text

    return {name: read(name) for name in (ENV, TOKEN)}


def shipped(here: Mapping[str, str | None], hosts: Mapping[str, Mapping[str, str]], stack: str) -> dict[str, str]:
    """What both hosts shall have: what is here, else what they have already. Refused where they differ in that."""
    return {name: _theirs(name, hosts, stack) if text is None else text for name, text in here.items()}


def taken_away(new: str, hosts: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """The names of settings that a host has and `new` hasn't, by host: a value never leaves here."""
    kept = _names(new)
    lost = {host: [name for name in _names(held[ENV]) if name not in kept] for host, held in hosts.items()}
    return {host: names for host, names in lost.items() if names}


def copy_command(host: Host, stack: str) -> str:
    """What brings a host's settings to this machine, to be changed here."""
    return f"ssh {host.user}@{host.address} sudo cat {ETC}/{ENV} > .lifeline/{shlex.quote(stack)}/{ENV}"


def _theirs(name: str, hosts: Mapping[str, Mapping[str, str]], stack: str) -> str:
    found = {held[name] for held in hosts.values() if held[name].strip()}
    if len(found) > 1:
        here = f"export {TOKEN_FILE}=… (the token's file)" if name == TOKEN else f"write .lifeline/{stack}/{ENV}"
        raise Refused(
            f"this machine has no {name}, and {' and '.join(hosts)} have different ones: which is right isn't known",
            hint=f"{here}, then fab provision",
        )
    return next(iter(found), "")


def _names(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [line.partition("=")[0].strip() for line in lines if "=" in line and not line.startswith("#")]
