"""`lifeline-host restore`: past data staged beside the live databases, verified, and swapped in."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from lifeline import copies, data, points
from lifeline.backups import one_at_a_time
from lifeline.errors import BadInput, Refused, StepFailed
from lifeline.layout import Config
from lifeline.supervisor import Supervisor


def normalise_time(text: str | None) -> str | None:
    """A restore's time as RFC 3339 in UTC; "2024-01-15 14:00:00" is taken for UTC. BadInput for anything that isn't
    a time, or is in the future."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(
            f'"{text}" is not a time',
            hint='--at "2026-01-15 14:00:00" (UTC), or with an offset: 2026-01-15T14:00:00+01:00',
        ) from None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    if at > datetime.now(UTC):
        raise BadInput(f'"{text}" is in the future', hint="leave --at out for the newest state")
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _stage(config: Config, vault: copies.Vault, epoch: int, at: str | None) -> tuple[int, dict[str, Any]]:
    """Restored beside, from the newest epoch up to `epoch` that reaches back to `at`: the time asked for may lie
    before a promotion."""
    while True:
        source = copies.find_target(config, vault, epoch).epoch
        try:
            return source, data.stage_restore(config, source, at)
        except points.NothingOldEnough:
            if source == 1:
                raise
            epoch = source - 1


def restore(
    config: Config, supervisor: Supervisor, vault: copies.Vault, epoch: int, at: str | None, *, stage_only: bool
) -> dict[str, Any]:
    """Every database restored beside its live one, verified in full, then swapped in; the old ones are kept.

    With `stage_only` the service may go on; the swap then takes a moment. The data belongs to no epoch then: take
    the next one to serve it.
    """
    at = normalise_time(at)
    begun = time.monotonic()
    running = supervisor.states()
    busy = [name for name in (config.service.name, "litestream") if name in running and running[name].running]
    if busy and not stage_only:
        raise Refused(f"{', '.join(busy)} still running on {config.name}", hint="lifeline-host stop-service")
    with one_at_a_time(config, "restore"):
        source, staged = _stage(config, vault, epoch, at)
        kept: dict[str, str] = {} if stage_only else data.swap_restored(config, source, at, staged["txids"])
    if not stage_only and not all(config.layout.live(database).exists() for database in config.service.databases):
        raise StepFailed("a database is missing after the swap")
    return {
        **{"changed": True, "epoch": epoch, "source_epoch": source, "swapped": not stage_only, "verified": True},
        "databases": [
            {"name": name, "txid": txid, "at": at, "kept": kept.get(name)} for name, txid in staged["txids"].items()
        ],
        "seconds": round(time.monotonic() - begun, 3),
    }
