"""The commit barrier: what a commit waits until the vault holds it, beside one PUT to the store and the sync itself."""

from __future__ import annotations

import http.client
import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import apsw

from lab.bench.page import Row, Section
from lab.bench.stand import BUCKET, Replicated, Vault, replicating, say, spread, timed, vault
from lifeline import replica
from lifeline.barrier import Barrier, UnixConnection

TITLE = "The commit barrier"
SERVICE, NAME = "bench", "commits"
WRITERS = (1, 8, 64)
WAIT_S = 30.0


def measure(folder: Path, rounds: int, seconds: float) -> Section:
    """`rounds` of each part alone, then `seconds` of commits by each number of writers at once."""
    with vault(folder / "s3") as into, Book(folder / "commits.db") as book:
        book.commit()
        with replicating(folder / "litestream", into, SERVICE, NAME, book.path) as found:
            barrier = Barrier({NAME: book.path}, found.control.sync, lambda: None)
            rows = _alone(into, found, book, barrier, rounds)
            for writers in WRITERS:
                rows.append(_together(book, barrier, writers, seconds))
    how = (
        "A commit (WAL, `synchronous = FULL`) and the wait until Litestream has it in the vault, by the agent's own "
        f"barrier; {rounds} rounds of each part in turn, then {seconds:g} s by so many writers at once."
    )
    return Section(TITLE, how, tuple(rows))


class Book:
    """A database with one writing connection, as a service has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection = apsw.Connection(str(path))
        self._connection.set_busy_timeout(5000)
        self._connection.execute(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;"
            "CREATE TABLE commits (id INTEGER PRIMARY KEY, at REAL, text TEXT)"
        ).fetchall()

    def __enter__(self) -> Book:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def commit(self) -> None:
        with self._lock:
            self._connection.execute("INSERT INTO commits (at, text) VALUES (?, ?)", (time.time(), "x" * 200))


def _alone(into: Vault, found: Replicated, book: Book, barrier: Barrier, rounds: int) -> list[Row]:
    puts, syncs, waits = [], [], []
    put = _Put(into, _size_of_a_commit(into, found, book))
    for number in range(rounds + 5):
        book.commit()
        sync = timed(lambda: _sync_here(found))
        found.control.sync(book.path, WAIT_S)
        one = timed(put)
        book.commit()
        wait = timed(lambda: barrier.wait(NAME, WAIT_S))
        if number >= 5:  # the first ones open connections
            puts.append(one)
            syncs.append(sync)
            waits.append(wait)
    together = statistics.median(puts) + statistics.median(syncs)
    say(f"  barrier {spread(waits, 'ms', 1000)}, PUT {spread(puts, 'ms', 1000)}, sync {spread(syncs, 'ms', 1000)}")
    return [
        Row(f"one PUT of a commit's {put.size} bytes to the store, unsigned, on an open connection", _ms(puts)),
        Row("the sync itself: Litestream takes the commit out of the log, and sends nothing", _ms(syncs)),
        Row(
            "the barrier, one writer, against the sum of both",
            *(_ms(waits), statistics.median(waits) / together, 1.5),
            because="between the two Litestream signs, and waits for its own locks",
        ),
    ]


def _ms(times: list[float]) -> str:
    return spread(times, "ms", 1000)


def _sync_here(found: Replicated) -> None:
    """The part of a sync before anything is sent."""
    connection = UnixConnection(found.socket, WAIT_S)
    body = json.dumps({"path": str(found.path), "wait": False, "timeout": int(WAIT_S)})
    connection.request("POST", "/sync", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"Litestream refused: {text.decode(errors='replace')}")


def _size_of_a_commit(into: Vault, found: Replicated, book: Book) -> int:
    book.commit()
    txid = found.control.sync(book.path, WAIT_S).txid
    name = replica.format_txid(txid)
    info = into.store.head(f"{replica.replica_prefix(SERVICE, 1, NAME)}/0000/{name}-{name}.ltx")
    assert info is not None
    return info.size


class _Put:
    """The least a PUT can cost: no signature, the connection is open."""

    def __init__(self, into: Vault, size: int) -> None:
        self.size, self._body, self._count = size, os.urandom(size), 0
        at = urlsplit(into.destination.endpoint)
        self._connection = http.client.HTTPConnection(str(at.hostname), at.port, timeout=WAIT_S)

    def __call__(self) -> None:
        self._count += 1
        self._connection.request("PUT", f"/{BUCKET}/put/{self._count}", self._body)
        answer = self._connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"the store refused a PUT: {answer.status}")


def _together(book: Book, barrier: Barrier, writers: int, seconds: float) -> Row:
    waits: list[float] = []
    before, begun = barrier.stats.syncs, time.monotonic()

    def work() -> None:
        while time.monotonic() - begun < seconds:
            book.commit()
            waits.append(timed(lambda: barrier.wait(NAME, WAIT_S)))

    in_threads(writers, work)
    took, syncs = time.monotonic() - begun, barrier.stats.syncs - before
    waits.sort()
    text = f"{_ms(waits)}, 99 of 100 within {1000 * waits[int(len(waits) * 0.99)]:.1f} ms"
    say(f"  {writers} writers: {text}")
    return Row(
        f"the barrier with {writers} writer{'s' if writers > 1 else ''} at once",
        f"{text}; {len(waits) / took:.0f} commits a second, {len(waits) / max(1, syncs):.1f} a sync",
    )


def in_threads(count: int, work: Callable[[], None]) -> None:
    """`work` in so many threads; the first error is ours."""
    failed: list[BaseException] = []

    def one() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
