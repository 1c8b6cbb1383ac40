"""A new epoch goes on where the last one ended, without a full copy of every database first.

Litestream takes a full copy when it can't tell what its replica holds. Here it is told: the file that would have been
its last, of transaction X, lies in the new prefix and in its local state, and names the write-ahead log that the
database has now. So the first transaction of the new epoch is X + 1, in the vault within milliseconds whatever the
database's size, and Litestream makes its snapshot of the new epoch beside it. Until that is there the new prefix needs
the old one up to X: `owner.json` says so, as `continues`, and `points.py` reads it. Whether that succeeds or not, the
new history has all of the old one up to X and nothing behind it; that is `origin`, and `forks.py` reads it.

Only for a copy that is page for page what the replica holds at X; anything else would be ruin.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import apsw

from lifeline import replica, wal
from lifeline.errors import LifelineError, StepFailed
from lifeline.layout import Config, DataFile, own, write_file
from lifeline.service import Database
from lifeline.store import Store, find
from lifeline.verify import connect, rows

log = logging.getLogger("lifeline.continuation")


class Vault(Protocol):
    """What a continuation needs of the vault."""

    def write(self, key: str, body: bytes) -> None: ...


@dataclass(frozen=True)
class Continues:
    """Where an epoch goes on from: the epoch before, and each database's last transaction in it."""

    epoch: int
    txids: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "databases": dict(self.txids)}


def owner(host: str, epoch: int, origin: Continues | None, done: Continues | None) -> bytes:
    """The owner.json of an epoch: whose it is, what its data is from, and for which databases its replica goes on from
    there."""
    note: dict[str, Any] = {"host": host, "epoch": epoch}
    note |= {"origin": origin.to_json()} if origin else {}
    note |= {"continues": done.to_json()} if done else {}
    return json.dumps(note).encode()


def of_owner(body: bytes | None, what: str = "continues") -> Continues | None:
    """What an epoch's owner.json says of it; None when the epoch stands on its own, or nobody owns it."""
    found = {} if body is None else json.loads(body).get(what)
    return Continues(int(found["epoch"]), {k: int(v) for k, v in found["databases"].items()}) if found else None


def of(store: Store, service: str, epoch: int) -> Continues | None:
    """The same, as the vault's owner.json has it."""
    held = find(store, f"{replica.epoch_prefix(service, epoch)}owner.json")
    return of_owner(held.body if held else None)


def of_next(store: Store, service: str, epoch: int, newest: int) -> Continues | None:
    """Where history went on from within this epoch, by the owner of whichever later one (up to ``newest``) did; None
    when none says so."""
    for later in range(epoch + 1, newest + 1):
        held = find(store, f"{replica.epoch_prefix(service, later)}owner.json")
        # Releases before this one wrote no origin.
        found = held and (of_owner(held.body, "origin") or of_owner(held.body))
        if found and found.epoch == epoch:
            return found
    return None


def origin(config: Config, have: DataFile) -> Continues | None:
    """What these databases at rest continue, or None: then the epoch begins with a full copy."""
    names = [database.name for database in config.service.databases]
    if have.live_epoch is not None or have.origin_epoch is None or not have.as_replicated:
        return None
    if not all(have.txids.get(name) for name in names):
        return None
    return Continues(have.origin_epoch, {name: have.txids[name] for name in names})


def begin(config: Config, vault: Vault, epoch: int, continues: Continues) -> Continues | None:
    """Prepare `epoch`'s prefix and Litestream's local state; returns what of it was sent to the vault. Litestream and
    the service must be stopped.

    What goes wrong here costs a full copy, and nothing else: Litestream takes one whenever the pieces don't fit. Once
    the vault has its piece Litestream goes on from there, whatever is on this disk; and a write that got no answer may
    have arrived.
    """
    done = {}
    for database in config.service.databases:
        live, txid = config.layout.live(database), continues.txids[database.name]
        try:
            first = boundary_file(live, txid, salts=_open_log(live, config.service.user))
            done[database.name] = txid
            _place(config, vault, epoch, database, txid, first)
        except (LifelineError, OSError, struct.error, apsw.Error) as error:
            log.warning("%s may begin epoch %d with a full copy: %s", database.name, epoch, error)
    return Continues(continues.epoch, done) if done else None


def _place(config: Config, vault: Vault, epoch: int, database: Database, txid: int, first: bytes) -> None:
    name = f"{replica.format_txid(txid)}-{replica.format_txid(txid)}.ltx"
    # The vault first: a local position that the vault knows nothing of would stop Litestream, the opposite is mended.
    vault.write(f"{replica.replica_prefix(config.service.name, epoch, database.name)}/0000/{name}", first)
    state = config.layout.state / "litestream" / f"epoch-{epoch:04d}" / database.name
    write_file(state / "ltx/0" / name, first)


def _open_log(live: Path, user: str) -> tuple[int, int]:
    """Give a database at rest a write-ahead log, and keep it; returns its salts.

    One transaction that changes nothing is in it: a log without a frame has no header. It is the first of the new
    epoch.
    """
    with connect(live, write=True) as connection:
        wal.keep_log(connection)
        version = rows(connection, "PRAGMA user_version")[0][0]
        connection.execute(f"PRAGMA user_version = {int(version)}")
    log_file = live.with_name(live.name + "-wal")
    header = log_file.read_bytes()[: wal.HEADER]
    if len(header) < wal.HEADER:
        raise StepFailed(f"{log_file} has no header")
    for path in (log_file, live.with_name(live.name + "-shm")):
        if path.exists():
            own(path, user)
    salts: tuple[int, int] = struct.unpack(">II", header[16:24])
    return salts


def boundary_file(live: Path, txid: int, *, salts: tuple[int, int], at: float | None = None) -> bytes:
    """An LTX file for transaction `txid` that holds the database's first page as it is, at the beginning of the log
    with these salts.

    The first page is the only one in which a copy may differ from the replica: setting the journal mode writes it.
    """
    with live.open("rb") as file:
        head = file.read(100)
        page_size = struct.unpack(">H", head[16:18])[0]
        page_size = 65536 if page_size == 1 else page_size
        file.seek(0)
        page = file.read(page_size)
        pages = os.fstat(file.fileno()).st_size // page_size
    millis = int((time.time() if at is None else at) * 1000)
    header = struct.pack(
        ">4sIIIQQQQQQIIQ", b"LTX1", _NO_CHECKSUM, page_size, pages, txid, txid, millis, 0, wal.HEADER, 0, *salts, 0
    ).ljust(_HEADER, b"\0")
    packed = _lz4_literals(page)
    page_header = struct.pack(">IHI", 1, _HAS_SIZE, len(packed))
    index = uvarint(1) + uvarint(_HEADER) + uvarint(len(page_header) + len(packed)) + uvarint(0)
    end = bytes(6) + index + struct.pack(">Q", len(index)) + bytes(8)
    checksum = _crc64(header + page_header + page + end) | 1 << 63
    return header + page_header + packed + end + struct.pack(">Q", checksum)


# The format: https://github.com/superfly/ltx. Pages are LZ4 blocks; one that is all literals needs no library.

_HEADER = 100
_NO_CHECKSUM = 2
_HAS_SIZE = 1


def _lz4_literals(data: bytes) -> bytes:
    if len(data) < 15:
        return bytes([len(data) << 4]) + data
    full, rest = divmod(len(data) - 15, 255)
    return b"\xf0" + b"\xff" * full + bytes([rest]) + data


def uvarint(number: int) -> bytes:
    """A number as LTX has them: seven bits a byte, the lowest first."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _crc64(data: bytes) -> int:
    """CRC-64/GO-ISO."""
    crc = 0xFFFFFFFFFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xD800000000000000 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFFFFFFFFFF
