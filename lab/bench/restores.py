"""Restores: the service's database from the vault to verified and serving, beside Litestream's own restore, plain
downloads, and the plain script, on the same data, one after the other."""

from __future__ import annotations

import gzip
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import apsw

from lab.bench import genesis
from lab.bench.page import Row, Section
from lab.bench.stand import BIN, Replicated, Vault, replicating, say, spread, take_whole, timed, vault
from lifeline import points, proc, replica
from lifeline.data import rebuild_point, set_wal
from lifeline.model import Verdict
from lifeline.store import Store
from lifeline.verify import verify_database

TITLE, LARGE = "Restores", "Restores, large"
LARGE_MB = 4000
WITHIN_S = 7200.0
NAME = "genesis"
FILE_KEY, SCRIPT_KEY = "plain/genesis.db", "script/genesis.db.gz"


def measure(folder: Path, mb: int, rounds: int) -> Section:
    """`rounds` of each way in turn. The group's section; a large database gets one of its own, of one round and without
    the script: Litestream alone checks 10 GB for a quarter of an hour."""
    large = mb >= LARGE_MB
    rounds = 1 if large else rounds
    home = folder / "live"
    home.mkdir(parents=True)
    path = home / "genesis.db"
    with vault(folder / "s3") as into:
        say(f"a book of {mb} MB: {timed(lambda: genesis.make_database(path, mb)):.0f} s")
        with replicating(folder / "litestream", into, NAME, NAME, path) as found:
            take_whole(found, into, lambda: _write(path))
        _upload(into.store, path, FILE_KEY)
        rows = _compare(folder, into, found, rounds)
        if not large:
            rows += _script(folder, into.store, path)
    how = (
        "The reference service's database, its client order ids drawn at random, from the vault to verified in full "
        f"(integrity, foreign keys, {len(genesis.service().invariants)} invariants) and to the engine taking orders. "
        f"{mb} MB were asked for; rounds: {rounds}."
    )
    return Section(LARGE if large else TITLE, how, tuple(rows))


def _write(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(10_000)
    connection.execute("INSERT OR REPLACE INTO heartbeat VALUES (1, 'bench')")
    connection.close()


def _upload(store: Store, path: Path, key: str) -> None:
    with path.open("rb") as source:
        store.upload(source, key, size=path.stat().st_size)


def _compare(folder: Path, into: Vault, found: Replicated, rounds: int) -> list[Row]:
    store, times = into.store, _Times()
    home = folder / "restored"
    plan, invariants = points.plan(store, NAME, 1, NAME), genesis.service().invariants

    def ours() -> None:
        output = _emptied(home) / "genesis.db"
        begun = time.monotonic()
        rebuild_point(store, NAME, 1, NAME, output, None, WITHIN_S)
        set_wal(output)
        rebuilt = time.monotonic()
        verdict = verify_database(output, invariants, "full", within=WITHIN_S)
        if verdict.verdict is not Verdict.PASS:
            raise SystemExit(f"what was restored isn't good: {verdict.says}")
        verified = time.monotonic()
        with genesis.engine(home):
            times.add("serving", time.monotonic() - begun)
        times.add("rebuilt", rebuilt - begun)
        times.add("verified", verified - begun)

    def litestream() -> None:
        output = _emptied(home) / "genesis.db"
        argv = replica.restore_argv(BIN / "litestream", found.config, found.path, output)
        proc.check([*argv[:2], "-integrity-check", "full", *argv[2:]], timeout=WITHIN_S)

    def moved() -> None:
        with (_emptied(home) / "download").open("wb") as file:
            for piece in plan.pieces:
                for part in points.stream(store, piece):
                    file.write(part)
            os.fsync(file.fileno())

    for number in range(rounds):
        times.take("litestream", litestream)
        times.take("moved", moved)
        ours()
        times.take("file", lambda: _download(store, FILE_KEY, _emptied(home) / "download"))
        say(f"  {number + 1}/{rounds} " + ", ".join(f"{name} {took[-1]:.1f} s" for name, took in times.found.items()))
    return _judged(times, found.path.stat().st_size / 1e6, plan.bytes / 1e6)


def _judged(times: _Times, size: float, moved: float) -> list[Row]:
    ours = times.middle("serving")
    checks = (
        f"reading and unpacking takes {times.middle('rebuilt') / times.middle('moved'):.1f} times such a download; "
        f"the rest are the checks, {times.middle('verified') - times.middle('rebuilt'):.1f} s on two cores, "
        "which a download leaves out"
    )
    return [
        Row(f"restore of {size:.0f} MB, vault to verified and serving", spread(times["serving"])),
        Row("of which reading and unpacking", spread(times["rebuilt"])),
        Row("of which until verified", spread(times["verified"])),
        Row(
            "the same by `litestream restore -integrity-check full` alone: no foreign keys, no invariants, not serving",
            *(spread(times["litestream"]), ours / times.middle("litestream"), 1.25),
        ),
        Row(
            f"a plain download of the database's own {size:.0f} MB",
            *(spread(times["file"]), ours / times.middle("file"), 2.5),
            because=checks,
        ),
        Row(
            f"a plain download of the {moved:.0f} MB that we move",
            *(spread(times["moved"]), ours / times.middle("moved")),
        ),
        Row(
            "the procedures' 5 minutes, two orders of magnitude to spare",
            *("300 s", ours / 300, 0.01),
            because=f"a plain download of the database alone is {times.middle('file') / 300:.2f} of it",
        ),
    ]


class _Times:
    """What each way took, round by round."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {}

    def __getitem__(self, name: str) -> list[float]:
        return self.found[name]

    def add(self, name: str, seconds: float) -> None:
        self.found.setdefault(name, []).append(seconds)

    def take(self, name: str, work: Callable[[], object]) -> None:
        self.add(name, timed(work))

    def middle(self, name: str) -> float:
        return statistics.median(self.found[name])


def _emptied(home: Path) -> Path:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    return home


def _download(store: Store, key: str, target: Path) -> None:
    info = store.head(key)
    assert info is not None
    with target.open("wb") as file:
        for start in range(0, info.size, points.PART):
            file.write(store.get_range(key, start, min(points.PART, info.size - start)))
        os.fsync(file.fileno())


def _script(folder: Path, store: Store, path: Path) -> list[Row]:
    """What a script does: `.backup`, gzip, upload; download, gunzip, integrity check."""
    packed, copy, back = folder / "copy.db.gz", folder / "copy.db", folder / "back.db"

    def take() -> None:
        proc.check(["sqlite3", str(path), f".backup '{copy}'"], timeout=WITHIN_S)
        with copy.open("rb") as source, gzip.open(packed, "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        _upload(store, packed, SCRIPT_KEY)

    def bring() -> None:
        _download(store, SCRIPT_KEY, folder / "back.gz")
        with gzip.open(folder / "back.gz", "rb") as source, back.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        found = apsw.Connection(str(back), flags=apsw.SQLITE_OPEN_READONLY).execute("PRAGMA integrity_check").fetchall()
        if found != [("ok",)]:
            raise SystemExit(f"the script's copy isn't good: {found[0][0]}")

    taken, brought = timed(take), timed(bring)
    size = packed.stat().st_size / 1e6
    a_day = f"{taken:.1f} s, {size:.0f} MB each time: {6 * size:.0f} MB a day"
    return [
        Row("the plain script: `.backup`, gzip, upload, every 4 h", a_day),
        Row("the plain script: download, gunzip, integrity check", f"{brought:.1f} s, losing up to 4 h"),
    ]
