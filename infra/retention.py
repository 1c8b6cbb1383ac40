"""What may expire by age, and what never may.

A Litestream path needs its oldest snapshot until the last increment on it, and a restic repository needs its packs,
its keys and its configuration for as long as any snapshot refers to them. An age rule on either makes everything
above the expired object unrestorable, with no error until the day of the restore. So objects expire by age only where
each stands for itself. The rest is for the tools that know what refers to what: Litestream within an epoch, `restic
forget --keep-within` for snapshots; an epoch can only go as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass

# Each object under these stands for itself.
EXPIRING = ("journal/", "drills/", "exports/", "logs/", "forks/", "incidents/")
# Each object under these is part of something larger.
# The catalogue says which backup was proved last: that must not go because it is old. `lifeline-host prune` keeps it.
NEVER_EXPIRING = ("replica/", "snapshots/", "bundle/", "inventory/", "catalogue/", "evidence/")


@dataclass(frozen=True)
class Rule:
    """One lifecycle rule; ages in days, None where the rule says nothing. An empty prefix is the whole bucket."""

    id: str
    prefix: str
    expire_days: int | None = None
    noncurrent_days: int | None = None
    abort_upload_days: int | None = None
    clear_markers: bool = False  # of objects of which nothing else is left


def rules(retention_days: int, noncurrent_days: int, abort_upload_days: int) -> tuple[Rule, ...]:
    """The rules of a bucket that holds backups: current versions by prefix, everything else for the whole bucket."""
    expiring = tuple(
        Rule(id=f"expire-{prefix.strip('/')}", prefix=prefix, expire_days=retention_days) for prefix in EXPIRING
    )
    # Litestream deletes files all day. Each deletion leaves a marker, for ever, and listings have to pass over them.
    housekeeping = Rule("housekeeping", "", None, noncurrent_days, abort_upload_days, clear_markers=True)
    return (*expiring, housekeeping)
