"""The second, independent copy: a consistent full copy of every database by SQLite itself, kept by restic with a key
of its own.

Other tool, other format, other password than the replica: no single defect takes both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from lifeline.errors import StepFailed
from lifeline.replica import Destination
from lifeline.verify import connect

Kind = Literal["full", "incremental"]
PASSWORD_FILE = Path("/etc/lifeline/restic.password")
CACHE = Path("/var/cache/lifeline/restic")


def repository(service: str, destination: Destination) -> str:
    """restic's name of the repository. Path-style or not is an option, see `options`."""
    return f"s3:{destination.endpoint.rstrip('/')}/{destination.bucket}/snapshots/{service}"


def environment(
    service: str, destination: Destination, *, password_file: Path = PASSWORD_FILE, cache: Path = CACHE
) -> dict[str, str]:
    """restic's environment: secrets are here and in the password's file, never in argv."""
    return {
        "RESTIC_REPOSITORY": repository(service, destination),
        "RESTIC_PASSWORD_FILE": str(password_file),
        "RESTIC_CACHE_DIR": str(cache),
        "AWS_ACCESS_KEY_ID": destination.access_key,
        "AWS_SECRET_ACCESS_KEY": destination.secret_key,
        "AWS_DEFAULT_REGION": destination.region,
    }


def options(destination: Destination) -> list[str]:
    """How restic addresses the bucket."""
    return ["-o", f"s3.bucket-lookup={'path' if destination.path_style else 'dns'}"]


def init_argv(destination: Destination) -> list[str]:
    """Create the repository."""
    return ["restic", *options(destination), "init", "--json"]


def exists_argv(destination: Destination) -> list[str]:
    """Exits 0 when the repository exists and the password opens it."""
    return ["restic", *options(destination), "cat", "config"]


def backup_argv(destination: Destination, paths: Sequence[Path], *, host: str, kind: Kind, epoch: int) -> list[str]:
    """Save `paths` as one snapshot. A full one reads every file again instead of trusting size and time."""
    again = ["--force"] if kind == "full" else []
    tags = ["--tag", kind, "--tag", f"epoch-{epoch:04d}"]
    return ["restic", *options(destination), "backup", "--json", "--host", host, *tags, *again, "--", *map(str, paths)]


def restore_argv(destination: Destination, snapshot: str, target: Path) -> list[str]:
    """Restore a snapshot below `target`."""
    return ["restic", *options(destination), "restore", snapshot, "--target", str(target), "--verify"]


def forget_argv(destination: Destination, *, days: int) -> list[str]:
    """Let go of snapshots older than `days`, keeping the newest whatever its age."""
    return [
        "restic",
        *options(destination),
        "forget",
        "--json",
        "--keep-within",
        f"{days}d",
        "--keep-last",
        "1",
        "--prune",
    ]


@dataclass(frozen=True)
class Saved:
    """restic's summary of a backup."""

    snapshot: str
    files: int
    bytes_total: int
    bytes_added: int


def parse_backup(stdout: str) -> Saved:
    """The summary among the JSON lines of `restic backup --json`."""
    for line in reversed(stdout.splitlines()):
        try:
            data = json.loads(line)
        except ValueError:
            continue
        if isinstance(data, dict) and data.get("message_type") == "summary" and data.get("snapshot_id"):
            return Saved(
                str(data["snapshot_id"]),
                int(data["total_files_processed"]),
                int(data["total_bytes_processed"]),
                int(data["data_added"]),
            )
    raise StepFailed("restic did not say which snapshot it made")


def copy_database(source: Path, target: Path) -> int:
    """A consistent copy of a live database (`VACUUM INTO`); returns its size in bytes. `target` must not exist."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with connect(source) as connection:
        # A bound parameter: a path may hold a quote.
        connection.execute("VACUUM INTO ?", (str(target),))
    return target.stat().st_size


def catalogue_key(service: str, kind: Kind, at: datetime) -> str:
    """`catalogue/genesis/20260102T030405Z-full.json`."""
    return f"catalogue/{service}/{at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{kind}.json"


_CATALOGUE = re.compile(r"/(?P<at>\d{8}T\d{6}Z)-(?P<kind>full|incremental)\.json$")


def newest_backup(keys: Iterable[str]) -> tuple[datetime, Kind] | None:
    """Time and kind of the newest backup among catalogue keys."""
    found = [match for key in keys if (match := _CATALOGUE.search(key))]
    if not found:
        return None
    newest = max(found, key=lambda match: match["at"])
    return datetime.strptime(newest["at"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC), "full" if newest[
        "kind"
    ] == "full" else "incremental"


def catalogue_entry(
    *,
    service: str,
    host: str,
    epoch: int,
    kind: Kind,
    at: datetime,
    seconds: float,
    saved: Saved,
    databases: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """What the vault notes of a backup; `databases` is the verification of each copy before it was saved."""
    return {
        **{"version": 1, "service": service, "host": host, "epoch": epoch, "kind": kind},
        **{"at": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "seconds": round(seconds, 3)},
        **{
            "snapshot": saved.snapshot,
            "files": saved.files,
            "bytes": saved.bytes_total,
            "bytes_added": saved.bytes_added,
        },
        "databases": {name: dict(found) for name, found in databases.items()},
    }
