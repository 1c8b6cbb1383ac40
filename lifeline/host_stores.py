"""The vault and the lease as host-side code asks for them. Imports boto3, so it is imported late."""

from __future__ import annotations

from collections.abc import Iterable

from lifeline.errors import BadConfig
from lifeline.layout import Config
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


def open_vault(config: Config, *, patient: bool = True) -> HostVault:
    """Impatient for the agent, which asks again in five seconds anyway."""
    key = config.inventory.host(config.name).vault_key
    if key is None:
        raise BadConfig(f"the inventory on {config.name} holds no vault key for it", hint="fab provision")
    limits = {"connect_s": 3.0, "read_s": 20.0, "attempts": 3} if patient else {"connect_s": 2.0, "read_s": 4.0, "attempts": 1}
    return HostVault(open_store(config.inventory.vault, key, direct=True, **limits))  # type: ignore[arg-type]
