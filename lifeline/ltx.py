"""Litestream's files, read: header, pages, checksum. Pure; the format is documented at https://github.com/superfly/ltx.

A file is a header of 100 bytes, pages in the order of their numbers, an index, and a trailer. Each page is 6 bytes of
header, 4 of size, and one LZ4 block; a page header of zeros ends them. The checksum is over all of it but itself, with
the pages as they are unpacked.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import lz4.block
from fastcrc import crc64

from lifeline.errors import DataBad

HEADER = 100
TRAILER = 16
_PAGE = struct.Struct(">IHI")
_END = bytes(6)
_HAS_SIZE = 1
_MARK = 1 << 63
_NAME = re.compile(r"/(?P<level>[0-9a-f]{4})/(?P<first>[0-9a-f]{16})-(?P<last>[0-9a-f]{16})\.ltx$")


class Torn(DataBad):
    """A file that isn't what it was written as."""


def parse_key(key: str) -> tuple[int, int, int] | None:
    """(level, first transaction, last transaction) of an object's key, or None for anything else."""
    found = _NAME.search(key)
    return (int(found["level"], 16), int(found["first"], 16), int(found["last"], 16)) if found else None


@dataclass(frozen=True)
class Header:
    """What a file says of itself. `pages`: the database's size after it, in pages. `at`: when its *last* transaction
    was committed. `log_end` and `salts`: where it ended in which write-ahead log; of a file as it was taken only."""

    page_size: int
    pages: int
    first: int
    last: int
    at: datetime
    log_end: int
    salts: bytes


def parse_header(data: bytes) -> Header:
    """Raises Torn when it isn't one."""
    if len(data) < HEADER or data[:4] != b"LTX1":
        raise Torn("it is no LTX file")
    page_size, pages, first, last, millis = struct.unpack(">IIQQQ", data[8:40])
    if page_size < 512 or page_size > 65536 or page_size & (page_size - 1):
        raise Torn(f"its pages are said to be of {page_size} bytes")
    log_at, log_size, salts = struct.unpack(">QQ8s", data[48:72])
    try:
        at = datetime.fromtimestamp(millis / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise Torn("its date makes no sense") from None
    return Header(page_size, pages, first, last, at, log_at + log_size, salts)


def decode(chunks: Iterable[bytes], header: Callable[[Header], None]) -> Iterator[tuple[int, list[bytes]]]:
    """Runs of pages with successive numbers, as (first number, pages), from a whole file that comes in `chunks`.

    `header` is called first. Raises Torn at the end when the checksum is wrong: what was taken until then must not be
    used. About 250 MB/s.
    """
    source, buffer, at = iter(chunks), b"", 0

    def need(count: int) -> None:
        nonlocal buffer, at
        if len(buffer) - at >= count:
            return
        parts, have = [buffer[at:]], len(buffer) - at
        while have < count:
            part = next(source, None)
            if part is None:
                raise Torn("it ends too early")
            parts.append(part)
            have += len(part)
        buffer, at = b"".join(parts), 0

    need(HEADER)
    head = parse_header(buffer)
    header(head)
    crc = crc64.go_iso(buffer[:HEADER])
    at = HEADER
    size, unpack, page_header, checksum = head.page_size, lz4.block.decompress, _PAGE.unpack_from, crc64.go_iso
    begin = 0
    run: list[bytes] = []
    while True:
        need(10)
        number, flags, length = page_header(buffer, at)
        if number == 0:
            break
        if flags != _HAS_SIZE or length > 2 * size + 64 or number > head.pages:
            raise Torn(f"page {number} makes no sense")
        need(10 + length)
        try:
            page = unpack(buffer[at + 10 : at + 10 + length], uncompressed_size=size)
        except lz4.block.LZ4BlockError as error:
            raise Torn(f"page {number} can't be unpacked: {error}") from None
        crc = checksum(page, checksum(buffer[at : at + 10], crc))
        at += 10 + length
        if number != begin + len(run) or len(run) >= _RUN:
            if run:
                yield begin, run
            begin, run = number, []
        run.append(page)
    if run:
        yield begin, run
    rest = b"".join([buffer[at:], *source])
    if len(rest) < len(_END) + TRAILER:
        raise Torn("it ends too early")
    if crc64.go_iso(rest[:-8], crc) | _MARK != int.from_bytes(rest[-8:], "big"):
        raise Torn("its checksum is wrong")


_RUN = 256  # pages handed on at once


def check(chunks: Iterable[bytes]) -> Header:
    """The header of a file that is whole; Torn if it isn't."""
    found: list[Header] = []
    for _ in decode(chunks, found.append):
        pass
    return found[0]
