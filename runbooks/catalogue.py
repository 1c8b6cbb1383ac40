"""The catalogue in the vault: which backups there are, and what became of them."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lifeline import catalogue
from lifeline.catalogue import Backup
from lifeline.errors import DataBad
from runbooks.site import Site


def newest_backup(site: Site) -> dict[str, Any] | None:
    """The newest entry, with its "key"; None when there is none. DataBad when it is damaged."""
    keys = catalogue.entry_keys(_keys(site))
    body = site.vault.get(keys[0]) if keys else None
    return None if body is None else catalogue.parse(keys[0], body)


def newest_verification(site: Site) -> dict[str, Any] | None:
    """What the newest verification found, or None. A damaged one is none: the host's alert `catalogue-damaged` names
    it."""
    for key in catalogue.verified_keys(_keys(site)):
        with contextlib.suppress(DataBad):
            return catalogue.parse_verification(key, site.vault.get(key) or b"")
    return None


def mirror(site: Site) -> dict[str, Any] | None:
    """What the last pass of the off-site mirror left; None before the first. DataBad when it is damaged."""
    key = catalogue.offsite_key(site.inventory.service)
    body = site.vault.get(key)
    return None if body is None else catalogue.parse(key, body)


def backups(site: Site, most: int | None) -> list[Backup]:
    """The newest `most` backups (None: all), the newest first, each with its verification and its places. A damaged
    entry is among them, as damaged."""
    keys = _keys(site)
    with ThreadPoolExecutor(max_workers=8) as pool:
        entries = list(pool.map(lambda key: (key, _read(site, key)), catalogue.entry_keys(keys)[:most]))
        found = list(pool.map(lambda key: _read_verification(site, key), catalogue.verified_keys(keys)))
        seen = list(pool.map(lambda key: (key, _read(site, key)), catalogue.holding_keys(site.inventory.service, keys)))
    mirror = _read(site, catalogue.offsite_key(site.inventory.service))
    whole = [document for document in found if not isinstance(document, DataBad)]
    holdings = {key: document for key, document in seen if not isinstance(document, DataBad)}
    return catalogue.joined(entries, whole, None if isinstance(mirror, DataBad) else mirror, holdings)


def _keys(site: Site) -> list[str]:
    return [key for key, _ in site.vault.keys(catalogue.root(site.inventory.service))]


def _read(site: Site, key: str) -> dict[str, Any] | DataBad:
    body = site.vault.get(key)
    try:
        return catalogue.parse(key, body or b"")
    except DataBad as error:
        return error


def _read_verification(site: Site, key: str) -> dict[str, Any] | DataBad:
    try:
        return catalogue.parse_verification(key, site.vault.get(key) or b"")
    except DataBad as error:
        return error
