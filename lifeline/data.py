"""Bringing databases to a host: from the follower or the replica, beside the live ones, verified, swapped in.
Nothing is deleted first.

An interrupted call leaves either the old database or the new one at the live path, never a mixture; to call again is
to resume.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lifeline import checked, points, rebuild, replica
from lifeline.copies import Target, Vault, await_followers, find_end, read_follower
from lifeline.errors import BadInput, DataBad, Refused, StepFailed, Unproven
from lifeline.layout import Config, DataFile, own, read_data, read_role, sync_directory, write_data
from lifeline.model import Finding, Verdict
from lifeline.progress import Meter, during
from lifeline.service import Database
from lifeline.store import Store
from lifeline.verify import Check, connect, rows, verify_database

PREVIOUS_KEPT = 2
AT_REST_S = 1.5


def finalize(
    config: Config,
    vault: Vault,
    epoch: int,
    *,
    stop_followers: Callable[[], object],
    running: Callable[[], bool],
    within: float = 600.0,
) -> dict[str, Any]:
    """Bring every database to the end of `epoch`'s replica at its live path. The writer of that epoch must be
    fenced: the end must stand still.

    A follower's copy is taken when it has applied exactly the newest transaction: nothing newer exists that it could
    have begun to apply.
    Else the database is restored beside. Either is verified before the swap. Databases that are at the end already,
    or beyond what the vault still has, are left alone.
    """
    begun = time.monotonic()
    data = read_data(config.layout)
    if data.live_epoch is not None and data.live_epoch > epoch:
        raise Refused(
            f"the databases on {config.name} are those it wrote in epoch {data.live_epoch}: the end of epoch {epoch} "
            "is behind them",
            hint="fab status",
        )
    try:
        target = find_end(config, vault, epoch)
    except Unproven:
        if data.finalized != epoch or data.origin_epoch is None:
            raise
        target = Target(data.origin_epoch, dict(data.txids))  # brought here by a run before this one
    if data.finalized == epoch and _covers(data, target):
        target = Target(data.origin_epoch or target.epoch, dict(data.txids))
        stop_followers()
        if all(config.layout.live(database).exists() for database in config.service.databases):
            made = [
                {"name": name, "txid": txid, "method": "already there", "seconds": 0.0}
                for name, txid in target.txids.items()
            ]
            return {"changed": False, "epoch": epoch, "source_epoch": target.epoch, "databases": made}
    with during("waiting for what the follower still has to apply"):
        applied = await_followers(config, target, within=min(within, 30.0), running=running)
    stop_followers()
    made = [_bring(config, database, target, applied, begun + within) for database in config.service.databases]
    set_aside(config)
    swap_all(config, DataFile(origin_epoch=target.epoch, finalized=epoch, txids=dict(target.txids), as_replicated=True))
    return {"changed": True, "epoch": epoch, "source_epoch": target.epoch, "databases": made}


def _covers(data: DataFile, target: Target) -> bool:
    """Do the live databases hold all that `target` does?"""
    if data.origin_epoch != target.epoch:
        return data.origin_epoch is not None and data.origin_epoch > target.epoch
    return all(data.txids.get(name, 0) >= txid for name, txid in target.txids.items())


def _bring(
    config: Config, database: Database, target: Target, applied: Mapping[str, int], deadline: float
) -> dict[str, Any]:
    """A verified copy of one database at its staged path: the follower's, or a restored one."""
    begun = time.monotonic()
    config.layout.private(database)
    staged = config.layout.staged(database)
    clear(staged)
    txid = target.txids[database.name]
    follower = config.layout.following(database, target.epoch)
    method = "restore"
    as_far = applied.get(database.name) == txid and read_follower(follower) == txid
    # A follower is a cache: its damage is no verdict on the replica.
    if as_far and _look_over(config, database, follower, deadline).verdict is Verdict.PASS:
        _take(config, database, follower, staged)
        method = "follower"
    if method == "restore":
        restore_beside(config, database, target.epoch, txid=txid, within=max(1.0, deadline - time.monotonic()))
        require_good(database.name, _look_over(config, database, staged, deadline))
    return {"name": database.name, "txid": txid, "method": method, "seconds": round(time.monotonic() - begun, 3)}


def restore_beside(
    config: Config,
    database: Database,
    epoch: int,
    *,
    txid: int | None = None,
    within: float = 600.0,
) -> rebuild.Rebuilt:
    """Restore one database from `epoch`'s replica in the vault to its staged path: to its end, or to `txid`.

    Raises DataBad when files are missing or damaged that nothing replaces, StepFailed when it takes too long.
    """
    from lifeline.host_stores import open_vault_store

    config.layout.private(database)
    staged = config.layout.staged(database)
    clear(staged)
    try:
        made = rebuild_point(open_vault_store(config), config.service.name, epoch, database.name, staged, txid, within)
    except (DataBad, BadInput) as error:
        says = f"{database.name} can't be restored from epoch {epoch}: {error.message}"
        hint = "bring the objects' versions back, or fab restore --at TIME, to before the damage"
        raise DataBad(says, hint=hint) from None
    set_wal(staged)
    return made


def rebuild_point(
    store: Store,
    service: str,
    epoch: int,
    database: str,
    output: Path,
    txid: int | None,
    within: float,
    *,
    fits: Callable[[int], None] = lambda size: None,
) -> rebuild.Rebuilt:
    """A database as of `txid` (None: the end), written to `output`; damaged files are gone round where others hold
    the same transactions. Raises Gap when they don't. `fits` may refuse its size, before anything is written."""
    deadline, avoid, meter = time.monotonic() + within, frozenset[str](), Meter(f"restoring {database}")

    def watch(done: int, total: int) -> None:
        if time.monotonic() > deadline:
            raise StepFailed(f"{database}: {done} of {total} bytes after {within:.0f} s", hint="the same again")
        meter(done, total)

    while True:
        plan = points.plan(store, service, epoch, database, txid=txid, avoid=avoid)
        fits(points.size(store, plan))
        try:
            return rebuild.rebuild(store, plan, output, progress=watch)
        except rebuild.Damaged as damaged:
            avoid |= {damaged.key}


def render(config: Config, epoch: int) -> str:
    """litestream.yml of this host for `epoch`."""
    layout = config.layout
    databases = [Database(d.name, layout.live(d)) for d in config.service.databases]  # type: ignore[arg-type]
    return replica.render_config(
        config.service.name,
        epoch,
        config.destination,
        databases,
        state=layout.state / "litestream",
        socket=layout.control_socket,
    )


def swap_all(config: Config, data: DataFile) -> dict[str, str]:
    """Move every staged database to its live path, the old one aside, and note where the data comes from; returns
    where the old ones are."""
    # Until all are swapped the live files are of no single origin: a crash in between must not leave the old note
    # standing.
    write_data(config.layout, DataFile())
    kept = {d.name: str(aside) for d in config.service.databases if (aside := _swap(config, d)) is not None}
    write_data(config.layout, data)
    # Only now: gigabytes take their time to go, and a crash meanwhile must find the note written.
    for database in config.service.databases:
        _prune_previous(config.layout.beside(database) / "previous")
    return kept


def set_aside(config: Config) -> list[str]:
    """Move databases that this host wrote out of the way, by rename; returns where they are (forks.py tells what they
    hold). Nothing runs then."""
    layout, have = config.layout, read_data(config.layout)
    if have.live_epoch is None:
        return []
    moved = []
    for database in config.service.databases:
        live = layout.live(database)
        old = [path for path in (live, *replica.sidecars(live)) if path.exists()]
        if not old:
            continue
        folder = _free(layout.private(database) / f"fork-{have.live_epoch:04d}")
        folder.mkdir(mode=0o700)
        # The log goes first: a database without its log lacks rows, a log without its database is worth nothing.
        for path in reversed(old):
            path.rename(folder / path.name)
        sync_directory(folder)
        moved.append(str(folder))
    write_data(layout, DataFile())
    return moved


def _free(folder: Path) -> Path:
    """A name that isn't taken: an epoch may be left twice, after a restore."""
    number = 1
    found = folder
    while found.exists():
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    return found


def _swap(config: Config, database: Database) -> Path | None:
    live, staged = config.layout.live(database), config.layout.staged(database)
    own(staged, config.service.user)
    old = [path for path in (live, *replica.sidecars(live)) if path.exists()]
    aside = None
    if old:
        aside = config.layout.beside(database) / "previous" / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        aside.mkdir(parents=True, mode=0o700)
        # The log leaves with its database, and before the new one comes: SQLite would replay it into a stranger.
        for path in reversed(old):
            path.rename(aside / path.name)
    staged.rename(live)
    sync_directory(live.parent)
    return aside


def _prune_previous(folder: Path) -> None:
    if folder.is_dir():
        for path in sorted(folder.iterdir())[:-PREVIOUS_KEPT]:
            shutil.rmtree(path, ignore_errors=True)


def set_wal(path: Path) -> None:
    """Back to WAL, which is part of the file: a restored or followed copy may be in DELETE mode. Leaves no log
    behind."""
    with connect(path, write=True) as connection:
        mode = rows(connection, "PRAGMA journal_mode = WAL")[0][0]
        if mode != "wal":
            raise StepFailed(f"{path} can't be set to WAL mode (it is in {mode!r})")
    for sidecar in replica.sidecars(path):
        if sidecar.exists() and sidecar.stat().st_size:
            raise StepFailed(f"{sidecar} is not empty after {path.name} was closed")
        sidecar.unlink(missing_ok=True)


def require_good(name: str, finding: Finding) -> None:
    """Raise DataBad for FAIL and Unproven for anything else that isn't PASS."""
    if finding.verdict is Verdict.FAIL:
        raise DataBad(f"{name}: {finding.says}", hint="fab restore --at TIME, to before the damage")
    if finding.verdict is not Verdict.PASS:
        raise Unproven(f"{name}: {finding.says}")


def verify_copy(config: Config, database: Database, path: Path, check: Check, deadline: float) -> Finding:
    invariants = config.service.invariants_of(database.name)
    with during(f"verifying {database.name}"):
        return verify_database(path, invariants, check, within=max(1.0, deadline - time.monotonic()))


def _look_over(config: Config, database: Database, copy: Path, deadline: float) -> Finding:
    with during(f"verifying {database.name}"):
        return checked.quick(config, database, copy, within=max(1.0, deadline - time.monotonic()))


def _take(config: Config, database: Database, follower: Path, staged: Path) -> None:
    staged.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    follower.rename(staged)
    replica.txid_file(follower).unlink(missing_ok=True)
    with checked.our_own_change(config, database, staged):
        set_wal(staged)


def check_ahead(config: Config) -> None:
    """Whoever may become primary soon: look over what the followers have, so that no promotion waits for it. A copy
    that still grows isn't worth it: by then it would be another one."""
    for database in config.service.databases:
        follower = config.layout.following(database, read_role(config.layout).epoch)
        with contextlib.suppress(OSError):
            if time.time() - follower.stat().st_mtime > AT_REST_S:
                checked.quick(config, database, follower)


def clear(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for leftover in (path, *replica.sidecars(path), path.with_name(path.name + ".tmp"), replica.txid_file(path)):
        with contextlib.suppress(FileNotFoundError):
            leftover.unlink()
