"""What may expire by age, and what never may.

A Litestream path needs its oldest snapshot until the last increment on it, and a restic repository needs its packs,
its keys and its configuration for as long as any snapshot refers to them. An age rule on either makes everything
above the expired object unrestorable, with no error until the day of the restore. So objects expire by age only where
each stands for itself; replicas are pruned by whole epochs and snapshots by `restic forget --keep-within`, both to
the same `retentionDays`, by the tools that know what refers to what.
"""

from __future__ import annotations

from dataclasses import dataclass

# Each object under these stands for itself.
EXPIRING = ("catalogue/", "journal/", "drills/", "exports/")
# Each object under these is part of something larger.
NEVER_EXPIRING = ("replica/", "snapshots/", "bundle/", "inventory/")


@dataclass(frozen=True)
class Rule:
    """One lifecycle rule; ages in days, None where the rule says nothing. An empty prefix is the whole bucket."""

    id: str
    prefix: str
    expire_days: int | None = None
    noncurrent_days: int | None = None
    abort_upload_days: int | None = None


def rules(retention_days: int, noncurrent_days: int, abort_upload_days: int) -> tuple[Rule, ...]:
    """The rules of a bucket that holds backups: current versions by prefix, everything else for the whole bucket."""
    expiring = tuple(
        Rule(id=f"expire-{prefix.strip('/')}", prefix=prefix, expire_days=retention_days) for prefix in EXPIRING
    )
    return (*expiring, Rule("housekeeping", "", noncurrent_days=noncurrent_days, abort_upload_days=abort_upload_days))
