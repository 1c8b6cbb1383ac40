"""The vault and the lease as host-side code asks for them. Imports boto3, so it is imported late."""

from __future__ import annotations

from collections.abc import Iterable

from lifeline.errors import BadConfig, Unproven
from lifeline.layout import Config
from lifeline.lease import Leases
from lifeline.model import Key, Lease
from lifeline.store import Missing, Store
from lifeline.vault import open_store


class HostVault:
    """The vault with this host's own key."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def keys(self, prefix: str, after: str = "") -> Iterable[str]:
        """Every key under `prefix`, in order, those behind `after` only."""
        return (info.key for info in self._store.list(prefix, after=after))

    def read(self, key: str) -> bytes | None:
        """The object's body, or None when there is none."""
        try:
            return self._store.get(key).body
        except Missing:
            return None

    def write(self, key: str, body: bytes) -> None:
        self._store.put(key, body, content_type="application/json")


class HostLeases:
    """The lease, for the agent that holds it."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    def renew(self, holder: str, epoch: int) -> Lease:
        """Renew if it is `holder`'s for `epoch`; the lease as it is then, somebody else's if it is.

        A released lease has a ttl of 0: what its renewal is good for is over at once.
        """
        lease = self._leases.renew(holder, epoch).lease
        if lease is None:
            raise Unproven("there is no lease", hint="fab status")
        return lease


def open_vault(config: Config, *, patient: bool = True) -> HostVault:
    """Impatient for the agent, which asks again in five seconds anyway."""
    key = _own(config, config.inventory.host(config.name).vault_key, "vault")
    ref = config.inventory.vault
    if patient:
        return HostVault(open_store(ref, key, direct=True))
    return HostVault(open_store(ref, key, direct=True, connect_s=2.0, read_s=4.0, attempts=1))


def open_leases(config: Config) -> HostLeases:
    """A renewal is a read and a write: at worst 12 s here, which must fit between a third of the ttl and its end."""
    key = _own(config, config.inventory.host(config.name).offsite_key, "off-site")
    store = open_store(config.inventory.lease_store, key, direct=True, connect_s=2.0, read_s=4.0, attempts=1)
    return HostLeases(Leases(store, config.service.name))


def _own(config: Config, key: Key | None, what: str) -> Key:
    if key is None:
        raise BadConfig(f"the inventory on {config.name} holds no {what} key for it", hint="fab provision")
    return key
