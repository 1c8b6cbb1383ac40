"""`make bench`: restores measured beside Litestream's own, a plain download and the plain script, on the same data in
one run. What it finds is written to docs/benchmarks.md; nobody else writes there.

    python -m lab.bench --mb 1000

A store of its own (SeaweedFS on loopback) and Litestream; no hosts: what is compared is the work, not the network.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import apsw

from lab.environment import describe
from lifeline import points, proc, rebuild, replica
from lifeline.barrier import ControlSocket
from lifeline.data import set_wal
from lifeline.model import Key, StoreRef, Verdict
from lifeline.replica import Destination
from lifeline.service import Database, Invariant
from lifeline.store import Store
from lifeline.vault import open_store
from lifeline.verify import verify_database

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/benchmarks.md"
BIN = Path(sys.executable).parent
ROUNDS = 3
SERVICE, NAME = "bench", "trades"
INVARIANTS = (
    Invariant(
        "entries sum to zero", NAME, "SELECT trade FROM entries GROUP BY trade HAVING SUM(amount) <> 0", "no-rows"
    ),
)


@dataclass(frozen=True)
class Row:
    """One promise: what was measured against what, and whether it holds. `limit` None: stated, not judged."""

    what: str
    measured: str
    ratio: float | None = None
    limit: float | None = None

    @property
    def verdict(self) -> str:
        if self.limit is None or self.ratio is None:
            return "stated"
        return "PASS" if self.ratio <= self.limit else "MISSED"


def say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def object_store(folder: Path) -> Iterator[tuple[Store, Destination]]:
    """SeaweedFS on loopback with one bucket; killed at the end."""
    ports = {name: _free_port() for name in ("master", "volume", "filer", "s3")}
    grpc = {name: _free_port() for name in ports}
    key = Key("bench", "bench-secret")
    folder.mkdir(parents=True)
    (folder / "s3.json").write_text(
        '{"identities": [{"name": "bench", "credentials": [{"accessKey": "bench", "secretKey": "bench-secret"}],'
        ' "actions": ["Admin", "Read", "Write", "List"]}]}'
    )
    argv = [str(BIN / "weed"), "-logtostderr=true", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    argv += ["-master.peers=none", "-master.electionTimeout=1s", "-master.heartbeatInterval=200ms", "-filer", "-s3"]
    argv += ["-volume.max=1000", "-volume.preStopSeconds=0", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    argv += [f"-s3.config={folder / 's3.json'}", "-s3.autoCreateBucket=true"]
    argv += [f"-{name}.port={port}" for name, port in ports.items()]
    argv += [f"-{name}.port.grpc={port}" for name, port in grpc.items()]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            argv, stdout=log, stderr=log, env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
        )
    try:
        endpoint = f"http://127.0.0.1:{ports['s3']}"
        _await(lambda: _answers(endpoint), 30)
        store = open_store(StoreRef("bench", "us-east-1", endpoint, True), key, direct=True, read_s=120.0)
        _await(lambda: _writes(store), 30)
        yield store, Destination(endpoint, "bench", True, key.access_key, key.secret_key)
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _writes(store: Store) -> bool:
    try:
        store.put("ready", b"")
    except Exception:
        return False
    return True


def _await(condition: Callable[[], object], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the store, or Litestream, doesn't get ready")
        time.sleep(0.05)


def make_database(path: Path, mb: int) -> None:
    """Trades with their double entries, indexed as an engine would, of about `mb` megabytes."""
    draw, connection = random.Random(1), apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF")
    connection.execute(
        "CREATE TABLE trades (id INTEGER PRIMARY KEY, symbol TEXT, side TEXT, qty INT, price INT, exchange_id TEXT);"
        "CREATE TABLE entries (id INTEGER PRIMARY KEY, trade INT, account TEXT, amount INT);"
        "CREATE UNIQUE INDEX executions ON trades (exchange_id); CREATE INDEX of_trade ON entries (trade)"
    )
    count = 0
    while path.stat().st_size < mb * 1_000_000:
        with connection:
            for _ in range(100_000):
                count += 1
                amount = draw.randrange(1, 10**9)
                row = (count, draw.choice("ABCD"), draw.choice(("buy", "sell")), draw.randrange(1000), amount)
                connection.execute(
                    "INSERT INTO trades VALUES (?, ?, ?, ?, ?, ?)", (*row, f"{draw.getrandbits(128):032x}")
                )
                connection.execute(
                    "INSERT INTO entries (trade, account, amount) VALUES (?, 'cash', ?)", (count, -amount)
                )
                connection.execute(
                    "INSERT INTO entries (trade, account, amount) VALUES (?, 'asset', ?)", (count, amount)
                )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def replicate(folder: Path, destination: Destination, path: Path, store: Store) -> Path:
    """Bring the database into the store by Litestream; returns its configuration."""
    control, config = folder / "ls.sock", folder / "litestream.yml"
    database = Database(NAME, path)  # type: ignore[arg-type]
    text = replica.render_config(SERVICE, 1, destination, [database], state=folder / "state", socket=control)
    config.write_text(text)
    process = subprocess.Popen(replica.replicate_argv(BIN / "litestream", config), env=proc.child_environment())
    try:
        _await(control.exists, 30)
        connection = apsw.Connection(str(path))
        connection.set_busy_timeout(10_000)
        connection.execute("CREATE TABLE IF NOT EXISTS last (at TEXT)")
        connection.close()
        ControlSocket(control).sync(path, 600)
        _await(lambda: any(True for _ in store.list(f"replica/{SERVICE}/epoch-0001/{NAME}/0009/")), 600)
    finally:
        process.terminate()
        process.wait()
    return config


def timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def median(times: list[float]) -> str:
    return f"{statistics.median(times):.1f} s ({min(times):.1f} to {max(times):.1f})"


def compare(folder: Path, store: Store, config: Path, path: Path) -> list[Row]:
    """The three ways to the same data, one after the other, several times."""
    output, plan = folder / "restored.db", points.plan(store, SERVICE, 1, NAME)

    def ours() -> None:
        output.unlink(missing_ok=True)
        rebuild.rebuild(store, points.plan(store, SERVICE, 1, NAME), output)
        set_wal(output)
        found = verify_database(output, INVARIANTS, "full", within=3600)
        if found.verdict is not Verdict.PASS:
            raise SystemExit(f"what was restored isn't good: {found.says}")

    def rebuilt() -> None:
        output.unlink(missing_ok=True)
        rebuild.rebuild(store, plan, output)

    def litestream() -> None:
        output.unlink(missing_ok=True)
        argv = replica.restore_argv(BIN / "litestream", config, path, output)
        proc.check([*argv[:2], "-integrity-check", "full", *argv[2:]], timeout=3600)

    def download() -> None:
        with (folder / "download").open("wb") as file:
            for piece in plan.pieces:
                for part in points.stream(store, piece):
                    file.write(part)
            os.fsync(file.fileno())

    times: dict[str, list[float]] = {name: [] for name in ("ours", "rebuilt", "litestream", "download")}
    for number in range(ROUNDS):
        for name, work in (("download", download), ("ours", ours), ("rebuilt", rebuilt), ("litestream", litestream)):
            times[name].append(timed(work))
            say(f"  {number + 1}/{ROUNDS} {name}: {times[name][-1]:.1f} s")
    middle = {name: statistics.median(found) for name, found in times.items()}
    size = path.stat().st_size / 1e6
    return [
        Row(f"restore of {size:.0f} MB, vault to verified in full", median(times["ours"])),
        Row(
            "the same by `litestream restore -integrity-check full` alone (no invariants)",
            median(times["litestream"]),
            middle["ours"] / middle["litestream"],
            1.25,
        ),
        Row(
            f"a plain download of the same {plan.bytes / 1e6:.0f} MB",
            median(times["download"]),
            middle["ours"] / middle["download"],
            2.5,
        ),
        Row(
            "of which reading and unpacking, before any check",
            median(times["rebuilt"]),
            middle["rebuilt"] / middle["download"],
        ),
        Row("the procedures' 5 minutes, two orders of magnitude to spare", "300 s", middle["ours"] / 300, 0.01),
    ]


def plain_script(folder: Path, store: Store, path: Path) -> list[Row]:
    """What a script does: `.backup`, gzip, upload; download, gunzip, integrity check."""
    packed, copy, back = folder / "copy.db.gz", folder / "copy.db", folder / "back.db"

    def take() -> None:
        copy.unlink(missing_ok=True)
        proc.check(["sqlite3", str(path), f".backup '{copy}'"], timeout=3600)
        with copy.open("rb") as source, gzip.open(packed, "wb", compresslevel=6) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        with packed.open("rb") as source:
            store.upload(source, "script/copy.db.gz", size=packed.stat().st_size)

    def bring() -> None:
        info = store.head("script/copy.db.gz")
        assert info is not None
        with (folder / "back.gz").open("wb") as file:
            for start in range(0, info.size, points.PART):
                file.write(store.get_range(info.key, start, min(points.PART, info.size - start)))
        with gzip.open(folder / "back.gz", "rb") as source, back.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        found = apsw.Connection(str(back), flags=apsw.SQLITE_OPEN_READONLY).execute("PRAGMA integrity_check").fetchall()
        if found != [("ok",)]:
            raise SystemExit(f"the script's copy isn't good: {found[0][0]}")

    taken, brought = timed(take), timed(bring)
    size = packed.stat().st_size / 1e6
    return [
        Row(
            "the plain script: `.backup`, gzip, upload",
            f"{taken:.1f} s, {size:.0f} MB each time: {6 * size:.0f} MB a day",
        ),
        Row("the plain script: download, gunzip, integrity check", f"{brought:.1f} s, losing up to 4 h"),
    ]


def page(rows: list[Row], mb: int) -> str:
    """docs/benchmarks.md."""
    found = describe(ROOT, "none")
    versions = found["versions"]
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "not known",
    )
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; never by hand. Ratios are taken within one run, alternately, the median of "
        f"{ROUNDS} rounds with the least and the most.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {versions['commit']}: {found['cpus']} × {cpu}, "
        f"{found['memory_gib']} GiB, Linux {found['kernel']}; Litestream {versions['litestream']}, "
        f"SQLite by apsw {versions['apsw']}, SeaweedFS {versions['seaweedfs']} on loopback, {mb} MB asked for; "
        f"load {os.getloadavg()[0]:.1f} at the end.",
        "",
        "| | measured | ours ÷ that | promised | |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        limit = "" if row.limit is None else f"≤ {row.limit:g}"
        lines.append(f"| {row.what} | {row.measured} | {ratio} | {limit} | {row.verdict} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure restores; writes docs/benchmarks.md.")
    parser.add_argument("--mb", type=int, default=1000, help="size of the database (default 1000)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / f"lifeline-bench-{os.getpid()}")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True)
    try:
        with object_store(folder / "s3") as (store, destination):
            path = folder / "trades.db"
            say(f"a database of {arguments.mb} MB: {timed(lambda: make_database(path, arguments.mb)):.0f} s")
            config = replicate(folder, destination, path, store)
            rows = [*compare(folder, store, config, path), *plain_script(folder, store, path)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    PAGE.write_text(page(rows, arguments.mb))
    for row in rows:
        say(f"{row.verdict:7} {row.what}: {row.measured}" + ("" if row.ratio is None else f", ratio {row.ratio:.2f}"))
    return 0 if all(row.verdict != "MISSED" for row in rows) else 6


if __name__ == "__main__":
    sys.exit(main())
