"""`lifeline-host backup`: the independent copy. Everything as of one moment, verified, saved by restic in the vault, on
the host and off-site, and noted in the catalogue.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from lifeline import catalogue, data, marker, proc, snapshots
from lifeline.errors import BadConfig, LifelineError, Refused, StepFailed
from lifeline.layout import Config, alone, read_role, write_file
from lifeline.progress import Meter, Say, during, say
from lifeline.snapshots import Kind, Place, Repository
from lifeline.verify import connect, rows, verify_database

RESTIC_S = 3600.0
OPEN_S = 30.0
NOTE = "entry.json"  # in the staging folder, so in every snapshot: the catalogue's entry, as far as it is known then
ROOM_FACTOR, ROOM_EXTRA = 1.1, 64 << 20  # of the databases' size, while a backup is being made


class Vault(Protocol):
    """What a backup needs of the vault."""

    def keys(self, prefix: str, after: str = "") -> Iterable[str]: ...

    def read(self, key: str) -> bytes | None: ...

    def write(self, key: str, body: bytes) -> None: ...


Answer = dict[str, Any]


@contextmanager
def one_at_a_time(config: Config, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """A lock that ends with the process, however it ends. Refused: another has it still, after ``wait_s`` seconds."""
    busy = Refused(f"another {what} is running on {config.name}", hint="fab status shows its jobs")
    with alone(config.layout.run / f"{what}.lock", busy, wait_s):
        yield


def repositories(config: Config) -> dict[Place, Repository]:
    """Where this host keeps its backups, each a repository of its own: in the vault, on its disk, and off-site where it
    was given a key for that."""
    return {
        place: repository(config, place)
        for place in snapshots.PLACES
        if place != "offsite" or config.offsite_destination is not None
    }


def has_local(config: Config) -> bool:
    """Has this host ever backed up to its own disk?"""
    return (config.layout.state / "local").exists()


def repository(config: Config, place: Place) -> Repository:
    """One of them. BadConfig: this host was given no key for it."""
    layout, service = config.layout, config.service.name
    password, cache = layout.restic_password, layout.restic_cache
    if place == "local":
        return snapshots.on_host(layout.state / "local", password, cache)
    if place == "vault":
        return snapshots.in_bucket("vault", service, config.destination, password, cache)
    if (away := config.offsite_destination) is None:
        raise BadConfig(f"the inventory on {config.name} holds no {place} key for it", hint="fab provision")
    return snapshots.in_bucket("offsite", service, away, password, cache / "offsite")


def backup(config: Config, vault: Vault, kind: Kind, *, progress: Say = say) -> Answer:
    """One backup of a primary. A copy that fails in one place is noted with its reason, and raises StepFailed after
    the others were saved; where all fail there is no entry."""
    role = read_role(config.layout)
    if role.role != "primary":
        return {"skipped": f"{config.name} is {role.role}, not primary"}
    begun, staging = time.monotonic(), config.layout.staging
    with one_at_a_time(config, "backup"):
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
        _require_room(config)
        try:
            marked = marker.mark(config, staging, progress)
            databases = {name: _verified(config, name, path, marked) for name, path in marked.copies.items()}
            what = {
                **{"version": 2, "service": config.service.name, "host": config.name, "epoch": role.epoch},
                **{"kind": kind, "at": _rfc3339(marked.at), "marker": {"held_ms": marked.held_ms}},
                **{"databases": databases, "files": marked.files},
            }
            # With the copy goes what it holds, so that it can be told to be whole when the catalogue is gone.
            write_file(staging / NOTE, json.dumps(what))
            copies = _save_all(config, vault, staging, kind, role.epoch, marked.at, progress)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        entry = {
            **what,
            **{"seconds": round(time.monotonic() - begun, 3), "copies": copies},
            **{"bytes": max(copy.get("bytes", 0) for copy in copies.values())},
            **{"bytes_added": max(copy.get("bytes_added", 0) for copy in copies.values())},
        }
        key = catalogue.entry_key(config.service.name, kind, marked.at)
        vault.write(key, json.dumps(entry, indent=1).encode())
        for place in ("vault", "local"):
            if "snapshot" in copies[place]:
                with suppress(LifelineError):  # the backup is made; the next one looks again
                    note_holding(config, repository(config, place), vault.write)
    failed = {place: copy["error"] for place, copy in copies.items() if "error" in copy}
    if failed:
        says = "; ".join(f"{place}: {why}" for place, why in failed.items())
        raise StepFailed(f"{key} was saved, but not everywhere: {says}", hint="mend that, then fab backup")
    return {"catalogue": key, **entry, "snapshot": copies["vault"]["snapshot"]}


def _require_room(config: Config) -> None:
    layout = config.layout
    size = sum(layout.live(d).stat().st_size for d in config.service.databases if layout.live(d).exists())
    need, free = int(size * ROOM_FACTOR) + ROOM_EXTRA, shutil.disk_usage(layout.state).free
    if free < need:
        raise StepFailed(
            f"a backup needs {need >> 20} MB of free disk on {config.name} while it is made, there are {free >> 20} MB",
            hint="df -h /var/lib on that host; free some space, then fab backup",
        )


def _verified(config: Config, name: str, path: Path, marked: marker.Marked) -> Answer:
    """A copy is verified before it is saved: a backup of damage would be no backup."""
    invariants = config.service.invariants_of(name)
    with during(f"verifying the copy of {name}"):
        finding = verify_database(path, invariants, "full", within=RESTIC_S)
    data.require_good(name, finding)
    return {
        **{"txid": marked.txids.get(name), "sha256": digest(path), "bytes": path.stat().st_size},
        **{"rows": count_rows(path), "verified": str(finding.verdict)},
    }


def digest(path: Path) -> str:
    """A file's sha256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def count_rows(path: Path) -> dict[str, int]:
    """Rows of every table of a database at rest, but SQLite's, Litestream's and Lifeline's own."""
    with connect(path) as connection:
        found = rows(connection, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        names = [str(row[0]) for row in found if not str(row[0]).startswith(("sqlite_", "_litestream", "_lifeline"))]
        return {name: int(rows(connection, f"SELECT count(*) FROM {quoted(name)}")[0][0]) for name in names}


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def _save_all(
    config: Config, vault: Vault, staging: Path, kind: Kind, epoch: int, at: datetime, progress: Say
) -> dict[str, Answer]:
    found: dict[str, Answer] = {}
    errors: list[LifelineError] = []
    paths = [staging, *(p for p in (_here(config, log) for log in config.service.logs) if p.exists())]
    for place, repository in repositories(config).items():
        try:
            if open_repository(repository):
                _tell_if_it_had_vanished(config, vault, place)
            argv = snapshots.backup_argv(repository, paths, host=config.name, kind=kind, epoch=epoch, at=at)
            meter = Meter(f"saving to {place}", progress)
            saved = snapshots.parse_backup(restic(repository, argv, "save a backup", meter=meter))
            found[place] = {
                "snapshot": saved.snapshot,
                "bytes": saved.bytes_total,
                "bytes_added": saved.bytes_added,
            }
        except LifelineError as error:
            errors.append(error)
            found[place] = {"error": error.message}
    if len(errors) == len(found):
        raise errors[0]
    return found


def _here(config: Config, path: object) -> Path:
    return config.layout.root / str(path).lstrip("/")


def _tell_if_it_had_vanished(config: Config, vault: Vault, place: Place) -> None:
    """A repository was begun: if any backup lay there, all of them are gone, and the next one must not hide it."""
    service = config.service.name
    for key in catalogue.entry_keys(vault.keys(catalogue.entries(service))):
        try:
            entry = catalogue.parse(key, vault.read(key) or b"")
        except LifelineError:
            continue
        here = place != "local" or entry.get("host") == config.name
        if here and (catalogue.copies(entry).get(place) or {}).get("snapshot"):
            name = f"{place} on {config.name}" if place == "local" else place
            note = {"version": 1, "repository": name, "at": _rfc3339(datetime.now(UTC)), "newest": key}
            vault.write(catalogue.anew_key(service, place, config.name), json.dumps(note).encode())
            return


def note_holding(config: Config, repository: Repository, write: Callable[[str, bytes], object]) -> None:
    """Note in the vault which snapshots a repository holds: an entry says where its copies were when it was made."""
    listed = snapshots.parse_list(restic(repository, snapshots.list_argv(repository), "list snapshots", within=120))
    note = {"version": 1, "listed": _rfc3339(datetime.now(UTC)), "snapshots": [one.id for one in listed]}
    key = catalogue.holding_key(config.service.name, repository.place, config.name)
    write(key, json.dumps(note).encode())


def open_repository(repository: Repository, *, create: bool = True) -> bool:
    """Make sure that the repository is there and the password opens it; was it begun just now? Raises what
    `snapshots.failure` makes of it."""
    done = proc.run(repository.argv("cat", "config"), timeout=OPEN_S, env=repository.environment)
    if done.ok:
        return False
    if create and snapshots.is_missing(done.code, done.stderr):
        done = proc.run(repository.argv("init", "--json"), timeout=2 * OPEN_S, env=repository.environment)
    if not done.ok:
        raise snapshots.failure(repository.place, "open it", done.code, done.stderr)
    return True


def restic(
    repository: Repository, argv: Sequence[str], what: str, *, within: float = RESTIC_S, meter: Meter | None = None
) -> str:
    """Run restic and return its stdout; a lock that a killed run left is removed, once. `meter`: told how far it is."""

    def line(text: str) -> None:
        if meter and (far := snapshots.parse_status(text)):
            meter(*far)

    done = proc.run(argv, timeout=within, env=repository.environment, line=line)
    if not done.ok and snapshots.is_locked(done.code, done.stderr):
        proc.run(repository.argv("unlock"), timeout=OPEN_S, env=repository.environment)  # stale ones only
        done = proc.run(argv, timeout=within, env=repository.environment, line=line)
    if not done.ok:
        raise snapshots.failure(repository.place, what, done.code, done.stderr)
    return done.stdout


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
