"""The last point whose data is good: found by bisection over the points of the replica, each really restored, and
checked with integrity_check, the service's invariants, and a check of the operator's own.

Bisection takes damage to stay once it is there. What it proposes was restored and passed, and the next point that could
be restored failed; that much is shown, not supposed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from lifeline import backups, continuation, points, room, sources
from lifeline.continuation import Continues
from lifeline.errors import BadInput, DataBad, LifelineError, StepFailed
from lifeline.layout import Config
from lifeline.model import Verdict
from lifeline.points import Point
from lifeline.progress import Say, during, say
from lifeline.restores import beside
from lifeline.service import Invariant
from lifeline.sources import Copy
from lifeline.store import Store
from lifeline.verify import connect, rows, verify_database

AT_MOST = 4096  # points looked at per epoch; twelve restores tell which
CHECK_S = 3600.0
Judge = Callable[[int], Verdict]


@dataclass
class Search:
    """Where the good ends. `good`: index of the last point that passed, None if none did; `bad`: of the first after it
    that failed, None if none did. `verdicts`: what was asked, in that order."""

    good: int | None
    bad: int | None
    verdicts: list[tuple[int, Verdict]] = field(default_factory=list)


def bisect(count: int, judge: Judge) -> Search:
    """The last good one of `count` points in the order of time. A point that can't be judged (UNKNOWN) is left out.

    Asks the newest first, then the oldest, then about log2(count) between them.
    """
    known: dict[int, Verdict] = {}
    asked: list[tuple[int, Verdict]] = []

    def ask(index: int) -> Verdict:
        if index not in known:
            known[index] = judge(index)
            asked.append((index, known[index]))
        return known[index]

    def first_known(indices: Sequence[int]) -> int | None:
        return next((index for index in indices if ask(index) is not Verdict.UNKNOWN), None)

    newest = first_known(range(count - 1, -1, -1))
    if newest is None:
        return Search(None, None, asked)
    if known[newest] is Verdict.PASS:
        return Search(newest, None, asked)
    oldest = first_known(range(newest))
    if oldest is None or known[oldest] is not Verdict.PASS:
        return Search(None, newest if oldest is None else oldest, asked)
    good, bad = oldest, newest
    while (inside := range(good + 1, bad)) and len(inside):
        middle = (good + bad) // 2
        near = first_known(sorted(inside, key=lambda index: abs(index - middle)))
        if near is None:
            break
        good, bad = (near, bad) if known[near] is Verdict.PASS else (good, near)
    return Search(good, bad, asked)


def search(config: Config, store: Store, epoch: int, check: str | None, progress: Say = say) -> dict[str, Any]:
    """Search the replicas up to `epoch`, of what history kept. `check`: SQL that finds no row in good data.

    Answers {"good": {"epoch", "txid", "at"} or null, "bad": the same, "tried", "points", "lost": {"seconds",
    "transactions", "rows": {table: [then, now]}}}; times are the commits', exact enough for `restore --at`.
    """
    scratch = config.layout.state / "search"
    room.require_disk(config.name, beside(config, sources.in_folder(scratch)))
    lines = branches(store, config.service.name, config.service.databases[0].name, epoch)
    listed = [point for line in lines for point in line]
    if not listed:
        raise StepFailed("the vault has no point to search", hint="fab backups; fab restore --from local")
    counts: dict[int, dict[str, int]] = {}

    def judge(index: int) -> Verdict:
        verdict, counted = _judge(config, store, listed[index], check, scratch, progress)
        if counted is not None:
            counts[index] = counted
        return verdict

    with backups.one_at_a_time(config, "restore"):
        try:
            found = bisect_branches([len(line) for line in lines], judge)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    newest = next((index for index, verdict in found.verdicts if verdict is not Verdict.UNKNOWN), None)
    return {
        "good": _shown(config, store, listed, found.good),
        "bad": _shown(config, store, listed, found.bad),
        **{"points": len(listed), "tried": len(found.verdicts)},
        "verdicts": [{"txid": listed[i].txid, "epoch": listed[i].epoch, "verdict": str(v)} for i, v in found.verdicts],
        "lost": _lost(config, store, listed, found, counts, newest),
    }


def bisect_branches(counts: Sequence[int], judge: Judge) -> Search:
    """As `bisect`, over points that lie in branches, the newest last: an older branch is asked only where nothing in
    those after it passes. Its own end may be damage that a restore has gone back behind."""
    asked: list[tuple[int, Verdict]] = []
    bad: int | None = None
    for number in range(len(counts) - 1, -1, -1):
        begin = sum(counts[:number])
        found = bisect(counts[number], partial(_judge_from, judge, begin))
        asked += [(begin + index, verdict) for index, verdict in found.verdicts]
        bad = bad if found.bad is None else begin + found.bad
        if found.good is not None:
            return Search(begin + found.good, bad, asked)
    return Search(None, bad, asked)


def _judge_from(judge: Judge, begin: int, index: int) -> Verdict:
    return judge(begin + index)


def branches(store: Store, service: str, database: str, newest: int) -> list[list[Point]]:
    """Points in the order of time: of each line of epochs that continue each other, the newest line last.

    What a restore went back behind is left out. An epoch that says of none that it continues it begins a line: what it
    began with came from a backup, and how much of the epoch before that undid isn't known.
    """
    found: list[list[Point]] = []
    before: Continues | None = None
    for epoch in points.epochs(store, service, newest):
        if before and epoch > before.epoch:
            continue  # a line that was left
        listed = points.points(store, service, epoch, database, at_most=AT_MOST)
        if before and epoch == before.epoch:
            end = before.txids[database]
            found[0] = [*(point for point in listed if point.txid <= end), *found[0]]
        else:
            found.insert(0, listed)
        said = continuation.of(store, service, epoch)
        before = said if said and database in said.txids else None
    return found


def _judge(
    config: Config,
    store: Store,
    point: Point,
    check: str | None,
    scratch: Path,
    progress: Say,
) -> tuple[Verdict, dict[str, int] | None]:
    """Restore and check one point, and count its rows. What can't be restored is not known; what fails a check is
    bad."""
    try:
        copy = _restored(config, store, point, scratch)
    except LifelineError as error:
        progress(f"transaction {point.txid} of epoch {point.epoch}: can't be restored ({error.message})")
        return Verdict.UNKNOWN, None
    if check:
        _require_runnable(copy.paths[config.service.databases[0].name], check)
    verdict = Verdict.PASS
    for name, path in copy.paths.items():
        with during(f"verifying {name}", progress):
            finding = verify_database(path, _checks(config, name, check), "full", within=CHECK_S)
        if finding.verdict is not Verdict.PASS:
            verdict = finding.verdict
        progress(f"transaction {point.txid} of epoch {point.epoch}: {finding.verdict}, {finding.says}")
    try:
        return verdict, backups.count_rows(copy.paths[config.service.databases[0].name])
    except Exception:  # damaged beyond counting
        return verdict, None


def _require_runnable(path: Path, check: str) -> None:
    try:
        with connect(path) as connection:
            rows(connection, f"EXPLAIN {check}", 1)
    except Exception as error:  # of either SQLite binding; damage is for the verification to tell
        if type(error).__name__ in ("SQLError", "OperationalError"):
            raise BadInput(f"the check can't be run: {error}", hint='--check "SELECT id FROM t WHERE …"') from None


def _checks(config: Config, database: str, check: str | None) -> list[Invariant]:
    own = config.service.invariants_of(database)
    if check is None or database != config.service.databases[0].name:
        return own
    return [*own, Invariant("the operator's check", database, check, "no-rows")]


def _restored(config: Config, store: Store, point: Point, scratch: Path) -> Copy:
    shutil.rmtree(scratch, ignore_errors=True)
    first, *others = config.service.databases
    txids: dict[str, int | None] = {first.name: point.txid}
    if others:
        if point.at is None:
            raise DataBad("its time isn't known")
        for other in others:
            txids[other.name] = points.at(store, config.service.name, point.epoch, other.name, point.at).txid
    return sources.from_replica(config, store, "vault", point.epoch, txids, sources.in_folder(scratch))


def _shown(config: Config, store: Store, listed: Sequence[Point], index: int | None) -> dict[str, Any] | None:
    if index is None:
        return None
    point = listed[index]
    return {"epoch": point.epoch, "txid": point.txid, "at": _committed(config, store, point)}


def _committed(config: Config, store: Store, point: Point) -> str:
    """When the point's last transaction was committed, by the file it ends: exact, where a listing is not."""
    first = config.service.databases[0].name
    plan = points.plan(store, config.service.name, point.epoch, first, txid=point.txid)
    return (
        points.header(store, plan.pieces[-1])
        .at.astimezone(UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def _lost(
    config: Config,
    store: Store,
    listed: Sequence[Point],
    found: Search,
    counts: dict[int, dict[str, int]],
    newest: int | None,
) -> dict[str, Any] | None:
    """What going back to the good point would undo, as far as it can be told."""
    if found.good is None or newest is None or found.bad is None:
        return None
    then, now = counts.get(found.good), counts.get(newest)
    changed = (
        {
            table: [then.get(table), now.get(table)]
            for table in sorted({*then, *now})
            if then.get(table) != now.get(table)
        }
        if then is not None and now is not None
        else None
    )
    begun = datetime.fromisoformat(_committed(config, store, listed[found.good]))
    ended = datetime.fromisoformat(_committed(config, store, listed[newest]))
    same = listed[found.good].epoch == listed[newest].epoch
    return {
        "seconds": round((ended - begun).total_seconds(), 3),
        "transactions": listed[newest].txid - listed[found.good].txid if same else None,
        "rows": changed,
    }
