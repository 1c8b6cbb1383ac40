"""The real doors of a Site, each opened when first used: an operator's start-up time is part of the recovery time."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lifeline import inventory as inventories
from lifeline.cloud import Cloud, DigitalOcean, ReadOnly
from lifeline.errors import Refused
from lifeline.hosts import Hosts
from lifeline.model import Host, Inventory, Key, Lease, Mode
from lifeline.names import Names
from lifeline.outside import Outside
from runbooks.screen import Screen
from runbooks.site import Site

if TYPE_CHECKING:
    from lifeline.lease import Claim, Leases
    from lifeline.store import Store
    from runbooks.infrastructure import Pulumi


def open_site(*, fresh: bool = False, read_only: bool = False, with_cloud: bool = True) -> Site:
    """The site of LIFELINE_STACK.  ``fresh``: ask Pulumi before the cache.  ``read_only``: for a dry run.
    ``with_cloud`` False: for what never asks the cloud, and must work without a token for it."""
    root = inventories.project_root()
    loaded = inventories.load(root, inventories.stack_name(root), fresh=fresh)
    return site_of(root, loaded, read_only=read_only, with_cloud=with_cloud)


def open_remains(*, read_only: bool = False) -> Site:
    """The site of LIFELINE_STACK when hosts, state and cache may be gone: over what is left of its inventory."""
    from runbooks.break_glass import remaining

    root = inventories.project_root()
    return site_of(root, remaining(root, inventories.stack_name(root)), read_only=read_only)


def clouds_of(site: Site) -> Pulumi:
    """What a rebuild makes a site's infrastructure with."""
    from runbooks.infrastructure import Pulumi

    return Pulumi(site.root, site.inventory, DigitalOcean.from_environment(site.inventory.cloud_api))


def site_of(
    root: Path,
    loaded: inventories.Loaded,
    *,
    read_only: bool = False,
    with_cloud: bool = True,
    ssh_key: Path | None = None,
) -> Site:
    """A site over an inventory that was loaded already.  ``ssh_key``: what opens its hosts, by default the
    operator's."""
    found = loaded.inventory
    cloud = DigitalOcean.from_environment(found.cloud_api) if with_cloud else None
    screen = Screen(sys.stdout, sys.stderr, found.secrets())
    return Site(
        root=root,
        loaded=loaded,
        hosts=Hosts(found.hosts, ssh_key, hear=screen.hear),
        cloud=cast("Cloud", NoCloud()) if cloud is None else ReadOnly(cloud) if read_only else cloud,
        leases=LeaseDoor(found, _environment("AWS"), f"operator:{getpass.getuser()}", read_only),
        vault=VaultDoor(found, _environment("SPACES"), read_only),
        outside=Outside(found.record.fqdn, partial(Names, resolvers=found.dns.resolvers)),
        attended=sys.stdin is not None and sys.stdin.isatty(),
        out=screen,
    )


def _environment(prefix: str) -> Callable[[], Key]:
    """The operator's own key (AWS_* or SPACES_*), looked for when it is needed."""

    def key() -> Key:
        from lifeline.vault import key_from_environment

        return key_from_environment(prefix)

    return key


class NoCloud:
    """In the cloud's place where it isn't asked."""

    def __getattr__(self, name: str) -> object:
        raise Refused(f"this command works without the cloud's API, and wanted {name} of it: a defect in Lifeline")


class LeaseDoor:
    """The lease store.  ``taken_by``: "operator:NAME" or "pilot:HOST", for the lease's own record."""

    def __init__(self, inventory: Inventory, key: Callable[[], Key], taken_by: str, read_only: bool = False) -> None:
        self._inventory = inventory
        self._key = key
        self._taken_by = taken_by
        self._read_only = read_only

    @cached_property
    def leases(self) -> Leases:
        from lifeline.lease import Leases
        from lifeline.vault import open_store

        store = open_store(self._inventory.lease_store, self._key(), connect_s=2.0, read_s=4.0, attempts=2)
        return Leases(store, self._inventory.service)

    def read(self) -> Lease | None:
        return self.leases.read().lease

    def depose(self, holder: str, over: Lease, run_id: str) -> Lease:
        """Epoch N+1 for ``holder`` over ``over``'s epoch, however often its holder renewed meanwhile."""
        if self._read_only:
            raise Refused("a dry run may not take a lease")
        taken = self.leases.depose(self.claim(holder, run_id), over=over.epoch).lease
        assert taken is not None
        return taken

    def begin_after(self, holder: str, epoch: int, run_id: str) -> Lease:
        if self._read_only:
            raise Refused("a dry run may not write to the lease")
        begun = self.leases.begin_after(self.claim(holder, run_id), epoch).lease
        assert begun is not None
        return begun

    def set_mode(self, mode: Mode | None) -> Lease:
        if self._read_only:
            raise Refused("a dry run may not write to the lease")
        return self.leases.set_mode(mode)

    def claim(self, holder: str, run_id: str) -> Claim:
        """What a take-over for ``holder`` writes."""
        from lifeline.lease import Claim

        policy = self._inventory.policy
        return Claim(
            service=self._inventory.service,
            holder=holder,
            ttl_s=policy.lease_ttl_s,
            margin_s=policy.lease_margin_s,
            taken_by=self._taken_by,
            run_id=run_id,
        )


class VaultDoor:
    """The vault."""

    def __init__(self, inventory: Inventory, key: Callable[[], Key], read_only: bool = False) -> None:
        self._inventory = inventory
        self._key = key
        self._read_only = read_only

    @cached_property
    def store(self) -> Store:
        from lifeline.vault import open_store

        return open_store(self._inventory.vault, self._key(), read_s=10.0, attempts=2)

    def put(self, key: str, body: bytes) -> None:
        if self._read_only:
            raise Refused("a dry run may not write to the vault")
        self.store.put(key, body)

    def get(self, key: str) -> bytes | None:
        from lifeline.store import find

        found = find(self.store, key)
        return None if found is None else found.body

    def keys(self, prefix: str) -> list[tuple[str, datetime]]:
        return [(info.key, info.modified) for info in self.store.list(prefix)]

    def key_refused(self, host: Host) -> bool:
        """Tries it: what the cloud says of a deleted key is one thing, what the store does with it another."""
        from lifeline.store import Denied
        from lifeline.vault import open_store

        if host.vault_key is None:
            return False
        try:
            open_store(self._inventory.vault, host.vault_key, read_s=5.0, attempts=1).put(f"fence/{host.name}", b"")
        except Denied:
            return True
        return False
