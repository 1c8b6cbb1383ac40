"""A past copy onto this machine: for whoever has the secrets and this repository, and no host left to ask.

Everything is read with the operator's own keys. Nothing of DigitalOcean's is needed for what is off-site; no lease is
taken, nothing is served.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lifeline.errors import BadConfig, BadInput
from lifeline.layout import Config, Visitor
from lifeline.model import Inventory, Key
from lifeline.service import Service
from runbooks.provision import passphrase, restic_password
from runbooks.wanted import Asked

HERE = "here"


def copy_here(
    root: Path,
    inventory: Inventory,
    want: Asked,
    target: Path,
    epoch: int,
    short_of_memory: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """What a host's `restore --to` answers, made on this machine. `epoch`: the newest that counts."""
    from lifeline.restores import Doors, Waived, inspect, wanted
    from lifeline.vault import key_from_environment, open_store  # boto3: 0.2 s

    if want.source == "local":
        raise BadInput(
            "the local backups lie on the hosts, not on this machine",
            hint=f"fab restore --from offsite --to {HERE}:{target}",
        )
    doors = Doors(
        lambda: open_store(inventory.vault, key_from_environment("SPACES")),
        lambda: open_store(inventory.offsite, key_from_environment("AWS")),
    )
    # On the target's file system: what is unpacked is moved there by a rename.
    with _room_beside(target) as folder:
        config = visitor(root, inventory, Path(folder))
        if shutil.which("restic") is None:
            say("restic is not installed here: only replicas can be read (apt install restic)")
        asked = wanted(epoch, want.at, want.txid, want.source, want.only)
        return inspect(config, doors, asked, target, Waived(memory=short_of_memory))


def _room_beside(target: Path) -> tempfile.TemporaryDirectory[str]:
    above = next((folder for folder in target.parents if folder.exists()), target)
    hint = f"fab restore --to {HERE}:/var/tmp/copy, a folder that isn't there yet"
    if above == target:
        raise BadInput(f"{target} is no new folder", hint=hint)
    try:
        return tempfile.TemporaryDirectory(prefix=".lifeline-", dir=above)
    except OSError as error:
        raise BadInput(f"nothing can be written below {above}: {error.strerror}", hint=hint) from None


def visitor(root: Path, inventory: Inventory, folder: Path) -> Config:
    """This machine as the code that runs on hosts sees it, with the operator's keys, as far as there are any."""
    layout = Visitor(folder=folder)
    layout.etc.mkdir(parents=True, mode=0o700)
    layout.state.mkdir(parents=True, mode=0o700)
    layout.restic_password.touch(mode=0o600)
    layout.restic_password.write_text(restic_password(passphrase(), inventory.stack))
    service = Service.load(root / "services" / inventory.service / "service.toml")
    me = replace(inventory.hosts[0], name=HERE, vault_key=_key("SPACES"), offsite_key=_key("AWS"))
    return Config(layout, HERE, "", replace(inventory, hosts=(me, *inventory.hosts[1:])), service)


def _key(prefix: str) -> Key | None:
    from lifeline.vault import key_from_environment

    try:
        return key_from_environment(prefix)
    except BadConfig:
        return None  # said by whatever needs it
