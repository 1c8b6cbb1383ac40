"""A month of a replica in minutes: real transactions, taken out of SQLite's log as Litestream takes them, in its own
files, at the levels that a vault holds after 30 days. Litestream itself restores from them (moments.py).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import apsw
import lz4.block
from fastcrc import crc64

from lifeline import replica
from lifeline.continuation import uvarint
from lifeline.points import SNAPSHOTS

PAGE = 4096
INTERVALS = {1: 1, 2: 30, 3: 300, 4: 3600}  # replica.LEVELS, in seconds
RAW_S = 300  # single transactions are kept for five minutes
BATCH = 5000
_WAL_HEADER, _FRAME = 32, 24
_NO_CHECKSUM, _HAS_SIZE = 2, 1


@dataclass(frozen=True)
class Span:
    """How long a history is and how dense: a transaction every `sparse_s` seconds, every `dense_s` in its last `fine_s`
    seconds, of which alone the files of a second are kept. `ballast`: bytes of the database that never change."""

    seconds: int = 30 * 86_400
    fine_s: int = 86_400
    sparse_s: float = 10.0
    dense_s: float = 0.5
    snapshot_s: int = 86_400
    ballast: int = 50_000_000

    def commits(self, end: float) -> list[float]:
        """When its transactions were committed, to the millisecond, as Litestream notes it."""
        draw, found, at = random.Random(1), [], end - self.seconds
        while at < end:
            step = self.dense_s if at >= end - self.fine_s else self.sparse_s
            found.append(round(at + draw.random() * 0.9 * step, 3))
            at += step
        return found


@dataclass(frozen=True)
class File:
    """An object of the replica, and the time that Litestream notes beside it."""

    key: str
    body: bytes
    at: datetime


@dataclass
class _Open:
    """What a level's next file will hold: the newest of each page since its last one."""

    first: int = 0
    pages: dict[int, bytes] = field(default_factory=dict)


def files(service: str, name: str, folder: Path, span: Span, end: float) -> Iterator[File]:
    """The whole replica of `span` up to `end`, in the order in which its files came to be. Its one table,
    `moments (id, at)`, holds the time of every commit."""
    prefix, commits = replica.replica_prefix(service, 1, name), span.commits(end)
    source = _Source(folder / f"{name}.db", span.ballast)
    whole, packed = source.pages(), dict[int, bytes]()
    levels = {level: _Open() for level in INTERVALS}
    snapshot_due = end - span.seconds

    def made(level: int, first: int, last: int, size: int, pages: dict[int, bytes], at: float) -> File:
        key = f"{prefix}/{level:04x}/{replica.format_txid(first)}-{replica.format_txid(last)}.ltx"
        body = encode(first, last, size, pages, at, packed if level == SNAPSHOTS else {})
        return File(key, body, datetime.fromtimestamp(at, UTC))

    for index, (size, pages) in enumerate(source.transactions(commits)):
        txid, at = index + 1, commits[index]
        whole.update(pages)
        for number in pages:
            packed.pop(number, None)
        if at >= end - RAW_S:
            yield made(0, txid, txid, size, pages, at)
        for level, interval in INTERVALS.items():
            open_ = levels[level]
            open_.first = open_.first or txid
            open_.pages.update(pages)
            # A file is written when its time is over; what comes after the last of them is still in finer ones.
            if index + 1 < len(commits) and commits[index + 1] // interval != at // interval:
                if level > 1 or at >= end - span.fine_s:
                    yield made(level, open_.first, txid, size, open_.pages, at)
                levels[level] = _Open()
        if at >= snapshot_due:
            yield made(SNAPSHOTS, 1, txid, size, whole, at)
            snapshot_due += span.snapshot_s
    source.close()


class _Source:
    """The database whose history it is, and its transactions as SQLite's log has them."""

    def __init__(self, path: Path, ballast: int) -> None:
        self._path = path
        self._connection = apsw.Connection(str(path))
        self._connection.execute(
            f"PRAGMA page_size = {PAGE}; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;"
            "PRAGMA wal_autocheckpoint = 0; CREATE TABLE ballast (id INTEGER PRIMARY KEY, data BLOB);"
            "CREATE TABLE moments (id INTEGER PRIMARY KEY, at REAL)"
        ).fetchall()
        draw = random.Random(2)
        with self._connection:
            for _ in range(ballast // 3500):
                # Half of it can be packed, as with real data.
                data = draw.randbytes(1750) + bytes(1750)
                self._connection.execute("INSERT INTO ballast (data) VALUES (?)", (data,))
        self._truncate()

    def close(self) -> None:
        self._connection.close()

    def _truncate(self) -> None:
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def pages(self) -> dict[int, bytes]:
        """Every page, by its number."""
        data = self._path.read_bytes()
        return {at // PAGE + 1: data[at : at + PAGE] for at in range(0, len(data), PAGE)}

    def transactions(self, commits: list[float]) -> Iterator[tuple[int, dict[int, bytes]]]:
        """One transaction for each time: the database's size in pages after it, and the pages it wrote."""
        for begin in range(0, len(commits), BATCH):
            for at in commits[begin : begin + BATCH]:
                self._connection.execute("INSERT INTO moments (at) VALUES (?)", (at,))
            yield from _of_log(self._path.with_name(self._path.name + "-wal").read_bytes())
            self._truncate()


def _of_log(log: bytes) -> Iterator[tuple[int, dict[int, bytes]]]:
    pages: dict[int, bytes] = {}
    for at in range(_WAL_HEADER, len(log), _FRAME + PAGE):
        number, size = struct.unpack(">II", log[at : at + 8])
        pages[number] = log[at + _FRAME : at + _FRAME + PAGE]
        if size:  # the frame that commits
            yield size, pages
            pages = {}


def encode(first: int, last: int, size: int, pages: dict[int, bytes], at: float, packed: dict[int, bytes]) -> bytes:
    """A file as Litestream writes it; `packed` remembers pages that were packed before."""
    millis = round(at * 1000)
    head = struct.pack(">4sIIIQQQQQQIIQ", b"LTX1", _NO_CHECKSUM, PAGE, size, first, last, millis, 0, 0, 0, 0, 0, 0)
    parts = [head.ljust(100, b"\0")]
    index, offset, crc = [], 100, crc64.go_iso(parts[0])
    for number in sorted(pages):
        block = packed.get(number) or lz4.block.compress(pages[number], store_size=False)
        packed[number] = block
        header = struct.pack(">IHI", number, _HAS_SIZE, len(block))
        crc = crc64.go_iso(pages[number], crc64.go_iso(header, crc))
        parts += (header, block)
        index.append(uvarint(number) + uvarint(offset) + uvarint(len(header) + len(block)))
        offset += len(header) + len(block)
    listed = b"".join([*index, b"\0"])
    end = bytes(6) + listed + struct.pack(">Q", len(listed)) + bytes(8)
    checksum = crc64.go_iso(end, crc) | 1 << 63
    return b"".join([*parts, end, struct.pack(">Q", checksum)])
