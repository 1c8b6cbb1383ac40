"""`lifeline-host backup` and `restore`: the second copy is made, a restore to a time is staged and swapped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from lifeline import copies, data, points, proc, snapshots
from lifeline.errors import BadInput, Refused, StepFailed
from lifeline.layout import Config, read_role
from lifeline.model import Finding
from lifeline.snapshots import Kind
from lifeline.supervisor import Supervisor
from lifeline.verify import verify_database

RESTIC_S = 3600.0
RETENTION_DAYS = 365


class Vault(Protocol):
    """What a backup needs of the vault."""

    def write(self, key: str, body: bytes) -> None: ...


@contextmanager
def one_at_a_time(config: Config, what: str) -> Iterator[None]:
    """A lock that ends with the process, however it ends."""
    path = config.layout.run / f"{what}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(f"another {what} is running on {config.name}") from None
        yield


def backup(config: Config, vault: Vault, kind: Kind) -> dict[str, Any]:
    """A consistent copy of every database, verified before it is saved, with the service's configuration, state and
    (full) logs."""
    role = read_role(config.layout)
    if role.role != "primary":
        return {"skipped": f"{config.name} is {role.role}, not primary"}
    begun, at = time.monotonic(), datetime.now(UTC)
    staging = config.layout.state / "backup"
    with one_at_a_time(config, "backup"):
        shutil.rmtree(staging, ignore_errors=True)
        try:
            copies = [
                _copy(config, database.name, staging / f"{database.name}.db") for database in config.service.databases
            ]
            saved = _save(config, staging, kind, role.epoch)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    seconds = time.monotonic() - begun
    databases = {str(copy["name"]): copy for copy in copies}
    entry = snapshots.catalogue_entry(
        service=config.service.name,
        host=config.name,
        epoch=role.epoch,
        kind=kind,
        at=at,
        seconds=seconds,
        saved=saved,
        databases=databases,
    )
    key = snapshots.catalogue_key(config.service.name, kind, at)
    vault.write(key, json.dumps(entry, indent=1).encode())
    return {
        **{
            "catalogue": key,
            "kind": kind,
            "snapshot": saved.snapshot,
            "bytes": saved.bytes_total,
            "seconds": round(seconds, 3),
        },
        "databases": copies,
    }


def _copy(config: Config, name: str, target: Path) -> dict[str, Any]:
    database = config.service.database(name)
    size = snapshots.copy_database(config.layout.live(database), target)
    invariants = [invariant for invariant in config.service.invariants if invariant.database == name]
    finding: Finding = verify_database(target, invariants, "full")
    data.require_good(name, finding)
    return {"name": name, "sha256": _sha256(target), "bytes": size, "verified": str(finding.verdict)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save(config: Config, staging: Path, kind: Kind, epoch: int) -> snapshots.Saved:
    destination, service = config.destination, config.service
    environment = snapshots.environment(
        service.name,
        destination,
        password_file=config.layout.restic_password,
        cache=config.layout.root / "var/cache/lifeline/restic",
    )
    extra = [*service.configuration, *service.state, *(service.logs if kind == "full" else ())]
    paths = [
        staging,
        *(path for path in (config.layout.root / str(extra_path).lstrip("/") for extra_path in extra) if path.exists()),
    ]
    if not proc.run(snapshots.exists_argv(destination), timeout=60, env=environment).ok:
        proc.check(snapshots.init_argv(destination), timeout=120, env=environment)
    argv = snapshots.backup_argv(destination, paths, host=config.name, kind=kind, epoch=epoch)
    saved = snapshots.parse_backup(proc.check(argv, timeout=RESTIC_S, env=environment).stdout)
    if kind == "full":
        proc.check(snapshots.forget_argv(destination, days=RETENTION_DAYS), timeout=RESTIC_S, env=environment)
    return saved


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
