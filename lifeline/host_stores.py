"""The vault and the lease as host-side code asks for them. Imports boto3, so it is imported late."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

from lifeline.errors import BadConfig, Unproven
from lifeline.layout import Config
from lifeline.lease import Leases
from lifeline.model import Key, Lease
from lifeline.store import Missing, Store
from lifeline.vault import open_store


class HostVault:
    """The vault with this host's own key. Opened when first used: a store costs the agent of a primary 13 MB it
    never needs."""

    def __init__(self, opened: Callable[[], Store]) -> None:
        self._open = opened

    @cached_property
    def _store(self) -> Store:
        return self._open()

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
    """The lease, for the agent that holds it or watches it. Opened when first used, as above."""

    def __init__(self, opened: Callable[[], Leases]) -> None:
        self._open = opened

    @cached_property
    def _leases(self) -> Leases:
        return self._open()

    def renew(self, holder: str, epoch: int) -> Lease:
        """Renew if it is `holder`'s for `epoch`; the lease as it is then, somebody else's if it is.

        A released lease has a ttl of 0: what its renewal is good for is over at once.
        """
        lease = self._leases.renew(holder, epoch).lease
        if lease is None:
            raise Unproven("there is no lease", hint="fab status")
        return lease

    def read(self) -> Lease | None:
        """The lease now; None when nobody ever took it."""
        return self._leases.read().lease

    def release(self, holder: str, epoch: int) -> None:
        """Give it back, if it is `holder`'s for `epoch`: another host may take it at once."""
        self._leases.release(holder, epoch)


def open_vault(config: Config, *, patient: bool = True) -> HostVault:
    """Impatient for the agent, which asks again in five seconds anyway."""
    key = _own(config, config.inventory.host(config.name).vault_key, "vault")
    ref = config.inventory.vault
    if patient:
        return HostVault(lambda: open_store(ref, key, direct=True))
    return HostVault(lambda: open_store(ref, key, direct=True, connect_s=2.0, read_s=4.0, attempts=1))


def open_vault_store(config: Config, *, patient: bool = True) -> Store:
    """The vault with this host's own key, as a Store. Impatient to see whether it is there at all."""
    key = _own(config, config.inventory.host(config.name).vault_key, "vault")
    if patient:
        return open_store(config.inventory.vault, key, direct=True)
    return open_store(config.inventory.vault, key, direct=True, read_s=10.0, attempts=1)


def open_offsite_store(config: Config) -> Store:
    """The off-site vault with this host's own key."""
    key = _own(config, config.inventory.host(config.name).offsite_key, "off-site")
    return open_store(config.inventory.offsite, key, direct=True)


def open_leases(config: Config) -> HostLeases:
    """A renewal is a write, after trouble a read and a write: at worst 12 s here, which must fit between a third of the
    ttl and its end."""
    key = _own(config, config.inventory.host(config.name).offsite_key, "off-site")
    ref = config.inventory.lease_store

    def opened() -> Leases:
        return Leases(open_store(ref, key, direct=True, connect_s=2.0, read_s=4.0, attempts=1), config.service.name)

    return HostLeases(opened)


def _own(config: Config, key: Key | None, what: str) -> Key:
    if key is None:
        raise BadConfig(f"the inventory on {config.name} holds no {what} key for it", hint="fab provision")
    return key
