"""The inventory when Pulumi is gone: from the vault's sealed copy, from the off-site vault's, or from a host.

From the vault: LIFELINE_VAULT_BUCKET and LIFELINE_VAULT_ENDPOINT (and _REGION) say where it is, SPACES_* and the
passphrase open it.  From off-site: LIFELINE_OFFSITE_BUCKET and _REGION, AWS_* and the passphrase.  Write these down
where the disaster can't take them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lifeline import inventory as inventories
from lifeline.errors import BadConfig, BadInput, LifelineError, Unavailable
from lifeline.inventory import Loaded
from lifeline.model import Host, StoreRef


def renew(*, from_vault: bool = False, from_offsite: bool = False, from_host: str = "", host_key: str = "") -> Loaded:
    """Load the inventory from where it was asked for (default: Pulumi) and cache it."""
    if sum(map(bool, (from_vault, from_offsite, from_host))) > 1:
        raise BadInput("--from-vault, --from-offsite or --from-host: only one of them", hint="fab --help inventory")
    if host_key and not from_host:
        raise BadInput("--host-key goes with --from-host only", hint="fab --help inventory")
    root = inventories.project_root()
    stack = inventories.stack_name(root)
    if from_vault:
        with _without_inventory("is LIFELINE_VAULT_BUCKET right? else fab inventory --from-offsite"):
            loaded = _sealed(stack, _vault(), "SPACES")
    elif from_offsite:
        with _without_inventory("is LIFELINE_OFFSITE_BUCKET right? else fab inventory --from-vault"):
            loaded = _sealed(stack, _offsite(), "AWS")
    elif from_host:
        loaded = _from_host(from_host, host_key)
    else:
        loaded = inventories.from_pulumi(root, stack)
    path = inventories.save(root, loaded.inventory)
    print(f"inventory of {loaded.inventory.stack} from {loaded.origin}, cached at {path}")
    return loaded


@contextmanager
def _without_inventory(following: str) -> Iterator[None]:
    """What is next where a store can't be read: neither `fab status` nor Pulumi can do without an inventory, or state,
    that may be gone."""
    try:
        yield
    except Unavailable as error:
        if error.hint.startswith(("fab status", "pulumi")):
            error.hint = f"{following}, or fab inventory --from-host ADDRESS --host-key KEY"
        raise


def remaining(root: Path, stack: str) -> Loaded:
    """What is left of an inventory when hosts and state may be gone: the sealed copy of whichever vault is named, the
    vault's before the off-site one's; else that of the vaults which the cache (or Pulumi) names; else the cache.

    The sealed copy before the cache: until a rebuild is over it is of the lost site, whereas the cache is of what the
    rebuild has made, and a rebuild that is typed again goes on from the lost one."""
    problems: list[str] = []
    for variable, where, keys in (
        ("LIFELINE_VAULT_BUCKET", _vault, "SPACES"),
        ("LIFELINE_OFFSITE_BUCKET", _offsite, "AWS"),
    ):
        if os.environ.get(variable):
            try:
                return _sealed(stack, where(), keys)
            except Unavailable as error:
                problems.append(error.message)
    if problems:
        raise Unavailable(f"no inventory is left: {'; '.join(problems)}", hint="fab inventory --from-host ADDRESS")
    cached = inventories.load(root, stack)
    for ref, keys in ((cached.inventory.vault, "SPACES"), (cached.inventory.offsite, "AWS")):
        try:
            return _sealed(stack, ref, keys)
        except (
            LifelineError
        ):  # gone with its bucket, or no key here: the cache says as much, unless a rebuild has begun
            continue
    return cached


def _vault() -> StoreRef:
    bucket, endpoint = os.environ.get("LIFELINE_VAULT_BUCKET"), os.environ.get("LIFELINE_VAULT_ENDPOINT")
    if not bucket or not endpoint:
        raise BadConfig(
            "where is the vault? LIFELINE_VAULT_BUCKET and LIFELINE_VAULT_ENDPOINT aren't both set",
            hint="export LIFELINE_VAULT_BUCKET=… LIFELINE_VAULT_ENDPOINT=https://ams3.digitaloceanspaces.com",
        )
    return StoreRef(bucket, os.environ.get("LIFELINE_VAULT_REGION", "us-east-1"), endpoint, False)


def _offsite() -> StoreRef:
    """On AWS; elsewhere (a lab) with an endpoint, where names of buckets are paths."""
    bucket, region = os.environ.get("LIFELINE_OFFSITE_BUCKET"), os.environ.get("LIFELINE_OFFSITE_REGION")
    if not bucket or not region:
        raise BadConfig(
            "where is the off-site vault? LIFELINE_OFFSITE_BUCKET and LIFELINE_OFFSITE_REGION aren't both set",
            hint="export LIFELINE_OFFSITE_BUCKET=… LIFELINE_OFFSITE_REGION=us-east-2; its name: aws s3 ls",
        )
    endpoint = os.environ.get("LIFELINE_OFFSITE_ENDPOINT")
    return StoreRef(bucket, region, endpoint, endpoint is not None)


def _sealed(stack: str, where: StoreRef, keys: str) -> Loaded:
    from lifeline.sealing import unseal
    from lifeline.store import find
    from lifeline.vault import key_from_environment, open_store
    from runbooks.provision import passphrase

    store = open_store(where, key_from_environment(keys))
    sealed = find(store, inventories.sealed_key(stack))
    if sealed is None:
        raise Unavailable(
            f"{store.where} holds no {inventories.sealed_key(stack)}: is LIFELINE_STACK the right one?",
            hint="fab inventory --from-offsite; or fab inventory --from-host ADDRESS",
        )
    return inventories.from_sealed(sealed.body, lambda body: unseal(body, passphrase()), store.where)


def _from_host(address: str, host_key: str) -> Loaded:
    """Any host of the site.  Its copy holds that host's own secrets only: enough for every runbook but `vault-key`."""
    from lifeline import hosts

    try:
        hosts.host_key(host_key)
    except ValueError as error:
        given = f"is {error}" if host_key else "is missing"
        raise BadInput(
            f"--host-key {given}: without a pinned key anybody could answer",
            hint=f'fab inventory --from-host {address} --host-key "$(cat KEY.pub)"; the host itself has it, seen in '
            "the cloud's console, in /etc/ssh/ssh_host_ed25519_key.pub",
        ) from None
    user = os.environ.get("LIFELINE_USER", "operator")
    host = Host(address, "primary", "", "", address, "", address, user, host_key, None, None, None)
    remote = hosts.connect(host)
    try:
        return inventories.from_host(remote)
    finally:
        remote.close()
