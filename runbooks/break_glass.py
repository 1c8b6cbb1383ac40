"""The inventory when Pulumi is gone: from the vault's sealed copy, or from a host.

From the vault: LIFELINE_VAULT_BUCKET and LIFELINE_VAULT_ENDPOINT (and _REGION) say where it is, SPACES_* and the
passphrase open it.  Write these down where the disaster can't take them.
"""

from __future__ import annotations

import os
from pathlib import Path

from lifeline import inventory as inventories
from lifeline.errors import BadConfig, BadInput, Unavailable
from lifeline.inventory import Loaded
from lifeline.model import Host, StoreRef


def renew(*, from_vault: bool = False, from_host: str = "", host_key: str = "") -> Loaded:
    """Load the inventory from where it was asked for (default: Pulumi) and cache it."""
    if from_vault and from_host:
        raise BadInput("--from-vault or --from-host, not both", hint="fab --help inventory")
    root = inventories.project_root()
    stack = inventories.stack_name(root)
    if from_vault:
        loaded = _from_vault(stack)
    elif from_host:
        loaded = _from_host(from_host, host_key)
    else:
        loaded = inventories.from_pulumi(root, stack)
    path = inventories.save(root, loaded.inventory)
    print(f"inventory of {loaded.inventory.stack} from {loaded.origin}, cached at {path}")
    return loaded


def _from_vault(stack: str) -> Loaded:
    from lifeline.sealing import unseal
    from lifeline.store import find
    from lifeline.vault import key_from_environment, open_store

    bucket = os.environ.get("LIFELINE_VAULT_BUCKET")
    endpoint = os.environ.get("LIFELINE_VAULT_ENDPOINT")
    if not bucket or not endpoint:
        raise BadConfig(
            "where is the vault? LIFELINE_VAULT_BUCKET and LIFELINE_VAULT_ENDPOINT aren't both set",
            hint="export LIFELINE_VAULT_BUCKET=… LIFELINE_VAULT_ENDPOINT=https://ams3.digitaloceanspaces.com",
        )
    region = os.environ.get("LIFELINE_VAULT_REGION", "us-east-1")
    store = open_store(StoreRef(bucket, region, endpoint, False), key_from_environment("SPACES"))
    sealed = find(store, inventories.sealed_key(stack))
    if sealed is None:
        raise Unavailable(
            f"{store.where} holds no {inventories.sealed_key(stack)}", hint="fab inventory --from-host ADDRESS"
        )
    return inventories.from_sealed(sealed.body, lambda body: unseal(body, _passphrase()))


def _from_host(address: str, host_key: str) -> Loaded:
    """Any host of the site.  Its copy holds that host's own secrets only: enough for every runbook but `vault-key`."""
    from lifeline.hosts import connect

    if not host_key.startswith("ssh-ed25519 "):
        given = "isn't one" if host_key else "is missing"
        raise BadInput(
            f"--host-key {given}: without a pinned key anybody could answer",
            hint=f'fab inventory --from-host {address} --host-key "ssh-ed25519 AAAA…"',
        )
    user = os.environ.get("LIFELINE_USER", "operator")
    host = Host(address, "primary", "", "", address, "", address, user, host_key, None, None, None)
    remote = connect(host)
    try:
        return inventories.from_host(remote)
    finally:
        remote.close()


def _passphrase() -> str:
    name = os.environ.get("LIFELINE_PASSPHRASE_FILE")
    if not name:
        raise BadConfig("LIFELINE_PASSPHRASE_FILE isn't set", hint="export LIFELINE_PASSPHRASE_FILE=…")
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise BadConfig(f"{name}: {error.strerror}", hint="check LIFELINE_PASSPHRASE_FILE") from None
