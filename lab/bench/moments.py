"""Points in time: a restore to a moment with 30 days of points in the vault, and how exactly the moment is met."""

from __future__ import annotations

import bisect
import http.client
import itertools
import random
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lab.bench import history
from lab.bench.history import File, Span
from lab.bench.page import Row, Section
from lab.bench.stand import BIN, BUCKET, Vault, say, spread, timed, vault
from lifeline import points, proc, replica
from lifeline.data import rebuild_point, set_wal
from lifeline.errors import LifelineError
from lifeline.model import Verdict
from lifeline.service import Database
from lifeline.verify import connect, rows, verify_database

TITLE = "Points in time"
SERVICE, NAME = "bench", "month"
CONNECTIONS = 4
BATCH = 4000
WITHIN_S = 3600.0
LITESTREAM_S = 1200.0


def measure(folder: Path, span: Span, rounds: int, samples: int) -> Section:
    """`rounds` of restores to the end and to a moment, alternately; `samples` moments at either end of the month."""
    end = float(int(time.time()))
    with vault(folder / "s3") as into:
        begun = time.monotonic()
        count, size = _fill(into, history.files(SERVICE, NAME, folder, span, end))
        say(f"{count} files, {size / 1e6:.0f} MB: {time.monotonic() - begun:.0f} s")
        month = _Month(into, folder, span.commits(end))
        oldest, fine, newest = end - span.seconds + 1, end - span.fine_s, end - history.RAW_S
        found = [
            *_compare(month, oldest, newest, rounds),
            _error(month, fine, newest, samples, 1.0, "24 h"),
            _error(month, oldest, fine, samples, 30.0, "30 days"),
            _litestream(month, (oldest + fine) / 2),
        ]
    how = (
        f"A replica of {span.seconds / 86_400:.3g} days in Litestream's own files: {count}, {size / 1e6:.0f} MB,"
        f" {len(month.commits)} transactions. Files of a second for the last {span.fine_s / 3600:.3g} h, of 30 s, 5 min"
        f" and 1 h for all of it, a snapshot every {span.snapshot_s / 3600:.3g} h. Restores are verified in full."
    )
    return Section(TITLE, how, tuple(found))


def _fill(into: Vault, files: Iterable[File]) -> tuple[int, int]:
    """The files into the store, as Litestream would have put them; how many, and their bytes."""
    count, size, endpoint = 0, 0, urlsplit(into.destination.endpoint)
    source = iter(files)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        while batch := list(itertools.islice(source, BATCH)):
            shares = [batch[number::CONNECTIONS] for number in range(CONNECTIONS)]
            list(pool.map(lambda share: _put(str(endpoint.hostname), endpoint.port, share), shares))
            count, size = count + len(batch), size + sum(len(file.body) for file in batch)
            say(f"  {count} files, to {batch[-1].at:%Y-%m-%d %H:%M}")
    return count, size


def _put(host: str, port: int | None, files: Iterable[File]) -> None:
    """Unsigned and on one connection: 180,000 objects are to be there in minutes."""
    connection = http.client.HTTPConnection(host, port, timeout=120)
    for file in files:
        # Litestream notes a file's time beside it, and asks for that when it restores to a time.
        noted = {"x-amz-meta-litestream-timestamp": file.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
        connection.request("PUT", f"/{BUCKET}/{file.key}", file.body, noted)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"the store refused {file.key}: {answer.status}")
    connection.close()


class _Counted:
    """A store that counts what is asked of it."""

    def __init__(self, store: Any) -> None:
        self._store, self.requests = store, 0

    def __getattr__(self, name: str) -> Any:
        self.requests += 1
        return getattr(self._store, name)


@dataclass(frozen=True)
class _Month:
    """The replica, and when each of its transactions was committed."""

    into: Vault
    folder: Path
    commits: list[float]

    def restore(self, moment: float | None, *, verified: bool) -> tuple[float, int]:
        """The database as of a moment, or of the end: (when its newest row was committed, requests to the store)."""
        output, store = self.folder / "restored.db", _Counted(self.into.store)
        asked: Any = store
        output.unlink(missing_ok=True)
        txid = None if moment is None else points.at(asked, SERVICE, 1, NAME, datetime.fromtimestamp(moment, UTC)).txid
        rebuild_point(asked, SERVICE, 1, NAME, output, txid, WITHIN_S)
        set_wal(output)
        found = verify_database(output, [], "full") if verified else None
        if found and found.verdict is not Verdict.PASS:
            raise SystemExit(f"what was restored isn't good: {found.says}")
        return _newest(output), store.requests

    def lost(self, moment: float, newest: float) -> float:
        """Seconds from the oldest commit that is missing to the moment asked for; 0 when none is."""
        missing = bisect.bisect_right(self.commits, newest)
        return max(0.0, moment - self.commits[missing]) if missing < len(self.commits) else 0.0


def _newest(path: Path) -> float:
    with connect(path) as connection:
        return float(rows(connection, "SELECT max(at) FROM moments")[0][0])


def _compare(month: _Month, oldest: float, newest: float, rounds: int) -> list[Row]:
    draw, latest, past, requests = random.Random(3), list[float](), list[float](), list[int]()
    for number in range(rounds):
        latest.append(timed(lambda: month.restore(None, verified=True)))
        moment, begun = draw.uniform(oldest, newest), time.monotonic()
        requests.append(month.restore(moment, verified=True)[1])
        past.append(time.monotonic() - begun)
        say(f"  {number + 1}/{rounds} latest {latest[-1]:.2f} s, a moment {past[-1]:.2f} s")
    ratio = statistics.median(past) / statistics.median(latest)
    text = f"{spread(past, digits=2)}, {statistics.median(requests):.0f} requests"
    return [
        Row("restore of the latest state", spread(latest, digits=2)),
        Row("restore to a moment, drawn from all of it", text, ratio, 2.0),
    ]


def _error(month: _Month, begin: float, end: float, samples: int, limit: float, where: str) -> Row:
    """How much is missing at moments drawn between two times, half of them in the worst place: just before a commit."""
    draw, lost, older = random.Random(4), list[float](), list[float]()
    for number in range(samples):
        moment = draw.uniform(begin, end)
        if number % 2:
            moment = month.commits[bisect.bisect(month.commits, moment)] - 0.001
        newest, _ = month.restore(moment, verified=False)
        if newest > moment:
            raise SystemExit(f"asked for {moment}, restored {newest}: later than asked")
        lost.append(month.lost(moment, newest))
        older.append(moment - newest)
    say(f"  within {where}: at most {max(lost):.2f} s missing")
    return Row(
        f"error within {where}: from the oldest commit that is missing to the time asked for, {samples} times",
        *(f"{spread(lost, digits=2)}; the newest row {spread(older, digits=2)} before it", max(lost), limit, " s"),
    )


def _litestream(month: _Month, moment: float) -> Row:
    """`litestream restore -timestamp` for one of the moments: does it say the same?"""
    output, config, database = month.folder / "theirs.db", month.folder / "litestream.yml", month.folder / f"{NAME}.db"
    listed = [Database(NAME, database)]  # type: ignore[arg-type]
    config.write_text(replica.render_config(SERVICE, 1, month.into.destination, listed, state=month.folder / "state"))
    stamp = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    argv = replica.restore_argv(BIN / "litestream", config, database, output, timestamp=stamp)
    what = "the same moment by `litestream restore -timestamp`, which asks for the date of every file"
    begun = time.monotonic()
    try:
        proc.check(argv, timeout=LITESTREAM_S)
    except LifelineError as error:
        return Row(what, f"failed within {LITESTREAM_S:.0f} s: {error.message}")
    took, theirs, ours = time.monotonic() - begun, _newest(output), month.restore(moment, verified=False)[0]
    say(f"  litestream: {took:.1f} s")
    if abs(theirs - ours) > 0.0005:
        raise SystemExit(f"Litestream restored {theirs} for {moment}, we {ours}")
    return Row(what, f"{took:.1f} s, the same newest row")
