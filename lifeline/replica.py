"""Litestream: its configuration, its commands, what it answers, and the positions of a replica. Pure.

A replica lives at `replica/<service>/epoch-NNNN/<database>`: Litestream knows no lineage, so a prefix has one
writer, for one epoch, once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lifeline.errors import StepFailed
from lifeline.model import Key, StoreRef
from lifeline.service import Database

CONTROL_SOCKET = Path("/run/lifeline/litestream.sock")
MONITOR_INTERVAL = (
    "100ms"  # governs the lag; at 20 ms a mostly idle database costs more CPU than the 50 ms won are worth
)
SYNC_INTERVAL = "100ms"
# While nothing arrives, each look lists nine prefixes: at 100 ms an idle follower costs 90 requests a second.
FOLLOW_INTERVAL = "500ms"
SNAPSHOT_INTERVAL = "24h"
SNAPSHOT_RETENTION = "720h"  # the default of 24 h would be the whole window of a restore to a point in time
# Transactions are compacted into files of a second, then of half a minute, …: how exactly one can go back to a moment.
# Litestream keeps them all as long as the snapshots; the finest is pruned by us (prune.py): 30 days of it would be
# 2.6 million objects.
LEVELS = ("1s", "30s", "5m", "1h")
L0_CHECK_INTERVAL = "1m"  # each check lists the files of a second
BUSY_TIMEOUT = "5s"

_LTX = re.compile(r"(?P<first>[0-9a-f]{16})-(?P<last>[0-9a-f]{16})\.ltx$")


@dataclass(frozen=True)
class Destination:
    """An S3 bucket as Litestream must address it. `secret_key` goes into files of mode 0600 only."""

    endpoint: str
    bucket: str
    path_style: bool
    access_key: str
    secret_key: str
    region: str = "us-east-1"  # Spaces signs with us-east-1 wherever the bucket is

    @classmethod
    def of(cls, store: StoreRef, key: Key, *, region: str = "us-east-1") -> Destination:
        """A bucket, as the holder of `key`; without an endpoint it is AWS's."""
        endpoint = store.endpoint or f"https://s3.{store.region}.amazonaws.com"
        return cls(endpoint, store.bucket, store.path_style, key.access_key, key.secret_key, region)


def epoch_prefix(service: str, epoch: int) -> str:
    """`replica/genesis/epoch-0003/`: everything one promotion wrote."""
    return f"replica/{service}/epoch-{epoch:04d}/"


def replica_prefix(service: str, epoch: int, database: str) -> str:
    """`replica/genesis/epoch-0003/trades`: one database's replica of one epoch."""
    return f"{epoch_prefix(service, epoch)}{database}"


def txid_of(key: str) -> int | None:
    """The last transaction an LTX object holds, by its name (`…/0000/<first>-<last>.ltx`), or None for any other
    object."""
    found = _LTX.search(key)
    return int(found["last"], 16) if found else None


def newest_txid(keys: Iterable[str]) -> int:
    """The newest transaction among vault keys of one database; 0 when there is none."""
    return max((txid for key in keys if (txid := txid_of(key)) is not None), default=0)


def format_txid(txid: int) -> str:
    """As Litestream writes it: 16 hex digits."""
    return f"{txid:016x}"


def parse_txid(text: str) -> int:
    """The content of a follower's `-txid` file. Raises ValueError on anything but 16 hex digits."""
    if not re.fullmatch(r"[0-9a-f]{16}\s*", text):
        raise ValueError(f"not a transaction id: {text!r}")
    return int(text, 16)


def render_config(
    service: str,
    epoch: int,
    destination: Destination,
    databases: Sequence[Database],
    *,
    state: Path,
    socket: Path = CONTROL_SOCKET,
) -> str:
    """litestream.yml for one epoch. Holds the vault key: write it with mode 0600, and run with `-no-expand-env` (a
    secret may hold a `$`).

    `state` gets one folder per epoch: Litestream's local position of an earlier epoch would name transactions
    that the new prefix doesn't have.
    """
    lines = [
        f"# Written by lifeline-host for epoch {epoch}. Changes are lost at the next promotion.",
        f"socket: {{enabled: true, path: {_quoted(str(socket))}, permissions: 0600}}",
        f"snapshot: {{interval: {SNAPSHOT_INTERVAL}, retention: {SNAPSHOT_RETENTION}}}",
        f"levels: [{', '.join(f'{{interval: {interval}}}' for interval in LEVELS)}]",
        f"l0-retention-check-interval: {L0_CHECK_INTERVAL}",
        # At level info every idle sync is a line: some 20 a second.
        "logging: {level: warn, type: text, stderr: true}",
        # A primary that is being stopped has this long to bring its last transactions out.
        "shutdown-sync-timeout: 15s",
        "dbs:" if databases else "dbs: []",
    ]
    for database in databases:
        lines += [
            f"  - path: {_quoted(str(database.path))}",
            f"    meta-path: {_quoted(str(state / f'epoch-{epoch:04d}' / database.name))}",
            f"    monitor-interval: {MONITOR_INTERVAL}",
            f"    busy-timeout: {BUSY_TIMEOUT}",
            "    replica:",
            "      type: s3",
            f"      bucket: {_quoted(destination.bucket)}",
            f"      path: {_quoted(replica_prefix(service, epoch, database.name))}",
            f"      endpoint: {_quoted(destination.endpoint)}",
            f"      region: {_quoted(destination.region)}",
            f"      force-path-style: {str(destination.path_style).lower()}",
            "      sign-payload: true",
            f"      access-key-id: {_quoted(destination.access_key)}",
            f"      secret-access-key: {_quoted(destination.secret_key)}",
            f"      sync-interval: {SYNC_INTERVAL}",
        ]
    return "\n".join(lines) + "\n"


def replicate_argv(litestream: Path, config: Path) -> list[str]:
    """The daemon of a primary."""
    return [str(litestream), "replicate", "-no-expand-env", "-config", str(config)]


def restore_argv(
    litestream: Path,
    config: Path,
    database: Path,
    output: Path,
    *,
    txid: int | None = None,
    timestamp: str | None = None,
) -> list[str]:
    """Restore `database` (as named in `config`) to `output`, which must not exist: to the end, to `txid`, or to
    `timestamp` (RFC 3339)."""
    if txid is not None and timestamp is not None:
        raise ValueError("restore to a transaction or to a time, not both")
    target = (
        ["-txid", format_txid(txid)] if txid is not None else ["-timestamp", timestamp] if timestamp is not None else []
    )
    return _restore(litestream, config, ["-json", *target], output, database)


def plan_argv(litestream: Path, config: Path, database: Path) -> list[str]:
    """Exits 0 when a restore of `database` would find data; writes nothing."""
    return _restore(litestream, config, ["-dry-run", "-json"], Path("/nonexistent/plan"), database)


def follow_argv(
    litestream: Path, config: Path, database: Path, output: Path, *, interval: str = FOLLOW_INTERVAL
) -> list[str]:
    """Restore to `output` and keep applying what arrives. `output` must not exist: Litestream's own resumption
    usually fails."""
    return _restore(litestream, config, ["-f", "-follow-interval", interval], output, database)


def _restore(litestream: Path, config: Path, flags: list[str], output: Path, database: Path) -> list[str]:
    how = [str(litestream), "restore", "-no-expand-env", "-config", str(config)]
    return [*how, *flags, "-o", str(output), str(database)]


def txid_file(output: Path) -> Path:
    """Where a follower notes the last transaction it has applied and synced."""
    return output.with_name(output.name + "-txid")


def sidecars(database: Path) -> list[Path]:
    """The files SQLite keeps beside a database. A new database must never meet an old one's: SQLite would replay a
    foreign WAL."""
    return [database.with_name(database.name + suffix) for suffix in ("-wal", "-shm", "-journal")]


@dataclass(frozen=True)
class Restored:
    """What `restore -json` says it did. `txid` is 0 when Litestream didn't say."""

    txid: int
    seconds: float


def parse_restore(stdout: str) -> Restored:
    """Parse `litestream restore -json`."""
    try:
        data = json.loads(stdout[stdout.index("{") :])
        return Restored(int(data.get("txid") or "0", 16), float(data["duration_ms"]) / 1000)
    except (ValueError, KeyError, TypeError) as error:
        raise StepFailed(f"litestream restore answered something unexpected: {error}") from None


@dataclass(frozen=True)
class Synced:
    """The answer of the control socket's /sync: the local and the replicated position."""

    txid: int
    replicated_txid: int

    @property
    def complete(self) -> bool:
        """Everything that was in the local log is in the vault. A replica that lost its position says 0."""
        return 0 < self.txid <= self.replicated_txid


def parse_sync(body: bytes) -> Synced:
    """Parse the control socket's answer to `POST /sync`."""
    data = json.loads(body)
    return Synced(int(data["txid"]), int(data["replicated_txid"]))


@dataclass(frozen=True)
class Listed:
    """One database of `GET /list`. `last_sync_at` is RFC 3339, None before the first success: the only honest sign
    of an outage."""

    path: str
    status: str
    last_sync_at: str | None


def parse_list(body: bytes) -> list[Listed]:
    """Parse the control socket's answer to `GET /list`."""
    return [Listed(str(d["path"]), str(d["status"]), d.get("last_sync_at")) for d in json.loads(body)["databases"]]


def _quoted(text: str) -> str:
    return json.dumps(text)  # a JSON string is a YAML string
