"""A replica's files into a database, read ahead while they are unpacked.

`litestream restore` unpacks, merges, packs and unpacks again in one stream. Here each file's pages are written where
they belong, older files first, so that the newest version of a page stays. What comes out is the same, byte for byte
(a test compares them), and every file's checksum is checked on the way.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lifeline import ltx
from lifeline.errors import DataBad, StepFailed
from lifeline.points import PART, Piece, Plan
from lifeline.store import Missing, Progress, Store

AHEAD = 4  # parts on their way at once: 32 MB of memory


class Damaged(DataBad):
    """A file of the plan is damaged or gone. `key` names it: plan again without it."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key} can't be used: {why}", hint="fab restore goes round it where it can")
        self.key = key


@dataclass(frozen=True)
class Rebuilt:
    """What was made: the database's size, what was downloaded, and how long it took."""

    txid: int
    bytes: int
    downloaded: int
    seconds: float


def rebuild(store: Store, plan: Plan, output: Path, *, progress: Progress | None = None) -> Rebuilt:
    """Write the database of `plan` to `output`, which must not exist. On failure nothing is left there.

    Raises Damaged for a file that is not what it was, StepFailed for a disk that can't hold it. Memory: some 60 MB,
    whatever the size.
    """
    begun, partial = time.monotonic(), output.with_name(output.name + ".partial")
    if output.exists():
        raise StepFailed(f"{output} exists already")
    partial.unlink(missing_ok=True)
    try:
        file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            size = _apply_all(store, plan, file, progress)
            os.ftruncate(file, size)
            os.fsync(file)
        finally:
            os.close(file)
        partial.rename(output)
    finally:
        partial.unlink(missing_ok=True)
    return Rebuilt(plan.txid, size, plan.bytes, round(time.monotonic() - begun, 3))


def _apply_all(store: Store, plan: Plan, file: int, progress: Progress | None) -> int:
    """Every file in turn; returns the size of the database."""
    size, done = 0, 0

    def count(read: int) -> None:
        nonlocal done
        done += read
        if progress:
            progress(done, plan.bytes)

    with ThreadPoolExecutor(max_workers=AHEAD, thread_name_prefix="rebuild") as pool:
        parts = _read_ahead(pool, store, plan)
        for piece in plan.pieces:
            header = _apply(piece, _of_piece(piece, parts, count), file)
            if size and size > header.pages * header.page_size:
                # What a transaction cut off must not come back when a later one lets the database grow again.
                os.ftruncate(file, header.pages * header.page_size)
            size = header.pages * header.page_size
    return size


def _apply(piece: Piece, chunks: Iterator[bytes], file: int) -> ltx.Header:
    headers: list[ltx.Header] = []
    try:
        for number, pages in ltx.decode(chunks, headers.append):
            data, at = b"".join(pages), (number - 1) * headers[0].page_size
            while data:
                written = os.pwrite(file, data, at)
                data, at = data[written:], at + written
    except (ltx.Torn, Missing) as error:
        raise Damaged(piece.key, error.message) from None
    if (headers[0].first, headers[0].last) != (piece.first, piece.last):
        raise Damaged(piece.key, "it holds other transactions than its name says")
    return headers[0]


_Part = tuple[Piece, "Future[bytes]"]


def _read_ahead(pool: ThreadPoolExecutor, store: Store, plan: Plan) -> Iterator[_Part]:
    """Every part of every file in order, the next ones on their way."""
    wanted = ((piece, start) for piece in plan.pieces for start in range(0, piece.size, PART))
    coming: deque[_Part] = deque()
    try:
        for piece, start in wanted:
            coming.append((piece, pool.submit(store.get_range, piece.key, start, min(PART, piece.size - start))))
            if len(coming) >= AHEAD:
                yield coming.popleft()
        while coming:
            yield coming.popleft()
    finally:
        for _, future in coming:
            future.cancel()


def _of_piece(piece: Piece, parts: Iterator[_Part], count: Callable[[int], None]) -> Iterator[bytes]:
    """This file's parts; Torn when it is shorter than it was."""
    left = piece.size
    while left > 0:
        _, future = next(parts)
        data = future.result()
        if len(data) != min(PART, left):
            raise ltx.Torn("it ends too early")
        left -= len(data)
        count(len(data))
        yield data
