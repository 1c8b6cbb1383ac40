"""The second, independent copy: restic, with a key of its own. Its repositories, its commands, what it answers. Pure.

Other tool, other format, other password than the replica: no single defect takes both. The same password opens three
repositories, in the vault, on the host and off-site, each with packs of its own: what spoils one spoils no other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from lifeline.errors import BadConfig, LifelineError, StepFailed, Unavailable
from lifeline.replica import Destination

Kind = Literal["full", "incremental"]
Place = Literal["vault", "local", "offsite"]
PLACES: tuple[Place, ...] = ("vault", "local", "offsite")
# How often it says how far it is; and whose time a snapshot's is.
STATUS = {"RESTIC_PROGRESS_FPS": "0.5", "TZ": "UTC"}
STUCK_S = 30  # restic's own patience with a store that accepts a connection and says nothing


@dataclass(frozen=True)
class Repository:
    """Where a repository is and how to open it. `environment` holds secrets: never print it."""

    place: Place
    environment: Mapping[str, str] = field(repr=False)
    options: tuple[str, ...] = ()

    def argv(self, *words: str) -> list[str]:
        """A restic command on this repository; no secret is in it."""
        return ["restic", *self.options, *words]


def prefix(service: str) -> str:
    """Where a bucket keeps the repository."""
    return f"snapshots/{service}/"


def in_bucket(place: Place, service: str, destination: Destination, password: Path, cache: Path) -> Repository:
    """The repository in a bucket; `password` and `cache` are paths."""
    environment = {
        "RESTIC_REPOSITORY": f"s3:{destination.endpoint.rstrip('/')}/{destination.bucket}/snapshots/{service}",
        "RESTIC_PASSWORD_FILE": str(password),
        "RESTIC_CACHE_DIR": str(cache),
        **STATUS,
        "AWS_ACCESS_KEY_ID": destination.access_key,
        "AWS_SECRET_ACCESS_KEY": destination.secret_key,
        "AWS_DEFAULT_REGION": destination.region,
    }
    return Repository(place, environment, ("-o", f"s3.bucket-lookup={'path' if destination.path_style else 'dns'}"))


def on_host(path: Path, password: Path, cache: Path) -> Repository:
    """The repository on the host's own disk."""
    return Repository(
        "local",
        {
            **{"RESTIC_REPOSITORY": str(path), "RESTIC_PASSWORD_FILE": str(password), "RESTIC_CACHE_DIR": str(cache)},
            **STATUS,
        },
    )


def backup_argv(
    repository: Repository, paths: Sequence[Path], *, host: str, kind: Kind, epoch: int, at: datetime
) -> list[str]:
    """Save `paths` as one snapshot, dated by the moment it is of: restic would date it by when it began, minutes later.
    A full one reads every file again instead of trusting size and time."""
    again = ["--force"] if kind == "full" else []
    tags = ["--tag", kind, "--tag", f"epoch-{epoch:04d}"]
    # It knows whole seconds; the next one, or what came after a moment would be taken for what was there by then.
    date = f"{at.astimezone(UTC) + timedelta(microseconds=999_999):%Y-%m-%d %H:%M:%S}"
    return repository.argv("backup", "--json", "--host", host, "--time", date, *tags, *again, "--", *map(str, paths))


def restore_argv(repository: Repository, snapshot: str, target: Path, include: Sequence[str] = ()) -> list[str]:
    """Restore a snapshot below `target`, checked while it is written; only the paths in `include` if there are any."""
    only = [word for path in include for word in ("--include", path)]
    return repository.argv("restore", "--json", snapshot, "--target", str(target), "--verify", *only)


def list_argv(repository: Repository) -> list[str]:
    """All its snapshots, as JSON."""
    return repository.argv("snapshots", "--json", "--no-lock")


def check_argv(repository: Repository, percent: int) -> list[str]:
    """Its structure, and the content of `percent` of its packs, chosen at random."""
    return repository.argv("check", f"--read-data-subset={percent}%")


def forget_argv(repository: Repository, snapshots: Sequence[str]) -> list[str]:
    """Let go of these snapshots, and of what only they needed."""
    return repository.argv("forget", "--prune", *snapshots)


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


def parse_status(line: str) -> tuple[int, int] | None:
    """(bytes done, bytes in all) of a line of `--json`; None for any other."""
    try:
        data = json.loads(line)
    except ValueError:
        return None
    if not isinstance(data, dict) or data.get("message_type") != "status":
        return None
    return int(data.get("bytes_done") or data.get("bytes_restored") or 0), int(data.get("total_bytes") or 0)


@dataclass(frozen=True)
class Snapshot:
    """One of a repository's snapshots; `at` is the moment it is of (UTC), in whole seconds."""

    id: str
    at: datetime
    tags: tuple[str, ...]


def parse_list(stdout: str) -> list[Snapshot]:
    """Parse `restic snapshots --json`, the oldest first."""
    try:
        rows: list[dict[str, Any]] = json.loads(stdout or "[]") or []
        found = [
            Snapshot(str(row["id"]), _time(str(row["time"])), tuple(map(str, row.get("tags") or ()))) for row in rows
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise StepFailed(f"restic's list of snapshots is not understood: {error}") from None
    return sorted(found, key=lambda snapshot: snapshot.at)


_NANOSECONDS = re.compile(r"(\.\d{6})\d+")


def _time(text: str) -> datetime:
    """restic writes nanoseconds, which Python doesn't read."""
    return datetime.fromisoformat(_NANOSECONDS.sub(r"\1", text)).astimezone(UTC)


# restic's exit codes since 0.17; the words are for those before.
_NO_REPOSITORY = (10, ("Is there a repository at the following location", "unable to open config file"))
_NOT_THERE = ("does not exist", "no such file or directory")  # older ones say the above of an unreachable store too
_LOCKED = (11, ("unable to create lock", "repository is already locked"))
_WRONG_PASSWORD = (12, ("wrong password or no key found",))


class NoRepository(StepFailed):
    """Nothing was ever saved there, or all of it is gone."""


def is_missing(code: int, stderr: str) -> bool:
    """Does restic say that there is no repository? Not the same as one it can't reach."""
    told = code == _NO_REPOSITORY[0] or any(words in stderr for words in _NOT_THERE)
    known = _is(_NO_REPOSITORY, code, stderr) and not _is(_WRONG_PASSWORD, code, stderr)
    return told and known and "denied" not in stderr.lower()


def is_locked(code: int, stderr: str) -> bool:
    """Does another restic hold the repository, or one that was killed?"""
    return _is(_LOCKED, code, stderr)


def failure(place: Place, what: str, code: int, stderr: str) -> LifelineError:
    """restic's failure in an operator's words."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else f"exit code {code}"
    if _is(_WRONG_PASSWORD, code, stderr):
        return BadConfig(
            f"the restic password on this host doesn't open the repository ({place})",
            hint="was LIFELINE_PASSPHRASE_FILE another one when it was made? fab provision writes the password again",
        )
    if is_missing(code, stderr):
        return NoRepository(f"there is no repository ({place}): can't {what}", hint="fab backup makes one")
    if any(words in stderr for words in ("Access Denied", "InvalidAccessKeyId", "SignatureDoesNotMatch")):
        return Unavailable(f"the repository ({place}) refused this host's key: can't {what}", hint="fab status")
    if "no space left" in stderr:
        return StepFailed(f"no space left on this host: can't {what} ({place})", hint="df -h /var/lib on that host")
    return Unavailable(f"restic can't {what} ({place}): {last}", hint="fab status; is the store up?")


def _is(kind: tuple[int, tuple[str, ...]], code: int, stderr: str) -> bool:
    return code == kind[0] or any(words in stderr for words in kind[1])
