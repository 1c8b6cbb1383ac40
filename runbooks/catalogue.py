"""The catalogue in the vault: which backups there are.  A backup is noted only after its copy was verified."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from lifeline.errors import DataBad
from lifeline.replica import epoch_prefix
from runbooks.site import Site


def newest_backup(site: Site) -> dict[str, Any] | None:
    """The newest entry, with its "key"; None when there is none."""
    keys = [key for key, _ in site.vault.keys(f"catalogue/{site.inventory.service}/")]
    if not keys:
        return None
    key = max(keys)  # names begin with their time
    body = site.vault.get(key)
    if body is None:
        return None
    try:
        entry = dict(json.loads(body))
    except (ValueError, TypeError) as error:
        raise DataBad(f"{key} in the vault is not a catalogue entry: {error}", hint="fab backup") from error
    return {"key": key, **entry}


def epoch_at(site: Site, newest: int, moment: datetime) -> int:
    """The epoch that was being written at ``moment``: the newest one begun before it; 1 at least."""
    for epoch in range(newest, 1, -1):
        written = [modified for _, modified in site.vault.keys(epoch_prefix(site.inventory.service, epoch))]
        if written and min(written) <= moment:
            return epoch
    return 1
