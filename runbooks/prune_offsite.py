"""Prune off-site: what the off-site vault holds beyond its policy goes, by the operator's own hand and key.

No host may remove anything there: who takes a host must not be able to empty the last copy. So this runs on the
operator's machine, with AWS_* of the environment, and restic too. Object Lock stays in force: what is removed is
hidden, and its versions last until their locks end.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lifeline import backups, excess, snapshots
from lifeline.errors import BadConfig, Refused, StepFailed
from lifeline.excess import Excess
from lifeline.model import Inventory
from lifeline.replica import Destination
from lifeline.store import Store
from runbooks.backups import size
from runbooks.provision import passphrase, restic_password
from runbooks.site import Site, confirm


@dataclass(frozen=True)
class Copies:
    """What it works on. `forget` lets restic let go of snapshots, and of what only they needed."""

    vault: Store
    offsite: Store
    forget: Callable[[Sequence[str]], None]


def copies(inventory: Inventory) -> Copies:
    """The real ones, with the operator's keys; opens nothing yet."""
    from lifeline.vault import key_from_environment, open_store

    key = key_from_environment("AWS")
    destination = Destination.of(inventory.offsite, key, region=inventory.offsite.region)

    def forget(ids: Sequence[str]) -> None:
        if shutil.which("restic") is None:
            raise BadConfig("restic is not installed on this machine", hint="apt install restic; then the same again")
        with tempfile.TemporaryDirectory(prefix="lifeline-restic-") as folder:
            password = Path(folder) / "password"
            password.touch(mode=0o600)
            password.write_text(restic_password(passphrase(), inventory.stack))
            cache = Path(folder) / "cache"
            repository = snapshots.in_bucket("offsite", inventory.service, destination, password, cache)
            backups.open_repository(repository, create=False)
            backups.restic(repository, snapshots.forget_argv(repository, ids), "forget snapshots")

    return Copies(
        open_store(inventory.vault, key_from_environment("SPACES")), open_store(inventory.offsite, key), forget
    )


def prune_offsite(
    site: Site, copies: Copies, *, yes: bool = False, dry_run: bool = False, ask: Callable[[str], str] = input
) -> Excess:
    """What went, or would go. Never the newest backup nor the newest that a restore from there has proved, nothing that
    the vault still holds, and nothing at all before something was restored from there."""
    lease = site.leases.read()
    if lease is None:
        raise Refused("nobody ever held the lease: there is nothing to prune", hint="fab provision")

    def survey() -> Excess:
        inventory, now = site.inventory, datetime.now(UTC)
        site.say("Looking at both vaults: a listing of each, some seconds per hundred thousand objects.")
        return excess.survey(copies.vault, copies.offsite, inventory.service, inventory.backups, lease.epoch, now)

    found = survey()
    if missing := {"snapshots", "replicas"} - found.proved:
        kinds = " and ".join(sorted(missing))
        site.say(f"Of the {kinds} off-site none was restored from there yet: so none of them may go.")
        site.say("  next: fab verify --weekly restores them")
    if dry_run or not found:
        site.say(said(found, "would go"))
        return found
    kept = "The bucket's Object Lock keeps their versions until it ends; until then they can be brought back."
    confirm(site, f"{said(found, 'will be removed from the off-site vault')}\n{kept}", yes, ask)
    if found.snapshots:
        site.say(f"restic forgets {len(found.snapshots)} snapshots and repacks what it keeps; this may take minutes")
        copies.forget(found.snapshots)
    count = excess.remove(copies.offsite, site.inventory.service, found, site.say)
    if left := survey():
        raise StepFailed(said(left, "are still there"), hint="fab prune --offsite")
    site.say(f"{said(found, 'are gone')} {count} objects were removed, beside restic's own.")
    return found


def said(found: Excess, how: str) -> str:
    """In one sentence."""
    parts = [f"{len(found.snapshots)} snapshots older than the policy keeps"] if found.snapshots else []
    parts += [f"the replica of epoch {number}" for number in found.epochs]
    parts += [f"{len(found.files)} files of replicas that no point kept needs"] if found.files else []
    parts += [f"{len(found.notes)} documents of the catalogue"] if found.notes else []
    if not parts:
        return "Everything the off-site vault holds is to be kept: nothing goes."
    return f"{'; '.join(parts)} {how} ({size(found.bytes)} of replicas)."
