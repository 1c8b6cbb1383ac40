"""What a kill showed: judged, summed up, and written down as docs/kills.md.  Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from lab.kills.plan import DURABILITIES, Durability, Kill
from lifeline.ledger import Acknowledged, Survivor, judge

ASYNC_MOST_S = 2.0


@dataclass(frozen=True)
class Books:
    """What a restored copy holds, and what the exchange had executed before the restore began."""

    trades: Sequence[Survivor]
    orders: frozenset[str]
    executed: Sequence[Survivor]


@dataclass(frozen=True)
class Record:
    """One kill and what came of it.

    `behind_s`: from the oldest write that was acknowledged before the kill and isn't in the restored copy, to the kill:
    what was lost, with the host; what would have been, with any other. `restore_s`: from the kill to a copy restored
    and verified, all tries included. `back_s`: to the next acknowledged write; None where the next kill came first.
    """

    kill: Kill
    problems: tuple[str, ...]
    acknowledged: int = 0
    lost: tuple[str, ...] = ()
    behind_s: float = 0.0
    restore_s: float | None = None
    back_s: float | None = None
    cut_off: str = ""

    @property
    def passed(self) -> bool:
        return not self.problems

    def line(self) -> str:
        """For the terminal."""
        told = "; ".join(self.problems) if self.problems else self.cut_off and f"first try: {self.cut_off}"
        numbers = f"{self.acknowledged} acknowledged, {len(self.lost)} not in the copy ({self.behind_s:.3f} s)"
        times = f"restored {_seconds(self.restore_s)}, back {_seconds(self.back_s)}"
        head = f"{'PASS' if self.passed else 'FAIL'} {self.kill.number:3} {self.kill.durability:5} {self.kill.label:22}"
        return f"{head} {numbers}, {times}" + (f"  {told}" if told else "")


def compare(kill: Kill, at: float, acknowledged: Sequence[Acknowledged], books: Books) -> Record:
    """Hold a restored copy against the ledger. `acknowledged`: all that must be there; `at`: the time of the kill.

    Durability `vault` vouches for every one of them, and for the intent of whatever the exchange executed; `async` for
    none, but what was acknowledged before the kill must not be older than ASYNC_MOST_S.
    """
    owed = [write for write in acknowledged if kill.durability == "vault" or write.at <= at]
    found = judge(owed, books.trades, fault_at=at, outside=books.executed)
    lost, behind_s = found.lost or (), found.rpo_measured_s or 0.0
    problems = []
    if lost and kill.durability == "vault":
        problems.append(f"{len(lost)} acknowledged writes are lost, {lost[0]} the oldest")
    if behind_s >= ASYNC_MOST_S:
        problems.append(f"what is lost goes back {behind_s:.3f} s")
    if found.altered:
        problems.append(f"{len(found.altered)} writes came back as others, {found.altered[0]} for one")
    if found.duplicated:
        problems.append(f"{len(found.duplicated)} trades are there twice, {found.duplicated[0]} for one")
    unknown = {one.id for one in books.executed} - books.orders
    if unknown and kill.durability == "vault":
        problems.append(f"{len(unknown)} executed orders have no intent in the vault, {min(unknown)} for one")
    return Record(kill, tuple(problems), len(owed), lost, behind_s)


def disagreements(owed: Sequence[Acknowledged], books: Books, forgotten: AbstractSet[str]) -> list[str]:
    """Once the load has stopped and everything settled: what the books and the world outside still differ in.

    `forgotten`: what was lost with a host, and told; the exchange remembers it.
    """
    found = judge(owed, books.trades, fault_at=0.0, outside=books.executed)
    unbooked = set(found.unbooked or ()) - forgotten
    problems = []
    if found.lost:
        problems.append(f"in the end {len(found.lost)} acknowledged writes are missing, {found.lost[0]} the oldest")
    if found.invented:
        problems.append(f"in the end there are {len(found.invented)} trades that the exchange never made")
    if unbooked:
        problems.append(f"in the end {len(unbooked)} executions are not booked, {min(unbooked)} for one")
    return problems


@dataclass(frozen=True)
class Row:
    """A line of the table: one kind of kill under one durability."""

    durability: Durability
    label: str
    records: Sequence[Record]

    def cells(self) -> list[str]:
        passed = sum(record.passed for record in self.records)
        acknowledged = sum(record.acknowledged for record in self.records)
        behind = [record.behind_s for record in self.records]
        restored = [record.restore_s for record in self.records if record.restore_s is not None]
        back = [record.back_s for record in self.records if record.back_s is not None]
        return [
            *(self.durability, self.label, str(len(self.records)), str(passed), str(acknowledged)),
            str(sum(len(record.lost) for record in self.records)),
            f"{statistics.median(behind):.3f} / {max(behind):.3f}",
            _spread(restored),
            _spread(back),
        ]


def rows(records: Iterable[Record]) -> list[Row]:
    """By durability and kind, in a fixed order."""
    found: dict[tuple[Durability, str], list[Record]] = {}
    for record in records:
        found.setdefault((record.kill.durability, record.kill.label), []).append(record)
    order = sorted(found, key=lambda key: (DURABILITIES.index(key[0]), key[1]))
    return [Row(*key, found[key]) for key in order]


def summary(records: Sequence[Record]) -> list[str]:
    """What is promised, and whether it held: one sentence each."""
    of = {name: [record for record in records if record.kill.durability == name] for name in DURABILITIES}
    lost = sum(len(record.lost) for record in of["vault"])
    gone = [record.behind_s for record in of["async"] if record.kill.kind == "host"]
    worst = max((record.behind_s for record in of["async"]), default=0.0)
    passed = sum(record.passed for record in records)
    return [
        f"{passed} of {len(records)} kills passed: restored, verified in full, and as the ledger says.",
        f"Durability `vault`: {lost} acknowledged writes lost in {len(of['vault'])} kills.",
        f"Durability `async`: the worst loss of a host was {max(gone, default=0.0):.3f} s; the furthest that the vault "
        f"was behind at any kill, {worst:.3f} s (promised: under {ASYNC_MOST_S:g} s).",
    ]


def page(records: Sequence[Record], *, seed: int, seconds: float, environment: Mapping[str, Any]) -> str:
    """docs/kills.md."""
    head = ["durability", "killed", "kills", "passed", "acknowledged", "not in the copy"]
    head += ["vault behind, s: median / worst", "until restored and verified, s", "until acknowledged again, s"]
    lines = [
        "# Kills",
        "",
        f"Written by `make kills`; never by hand. {_HOW}",
        "",
        f"{environment['when']}, commit {environment['commit']}: {environment['machine']}; "
        f"{len(records)} kills in {seconds / 60:.1f} min, seed {seed} (`make kills KILLS={len(records)} SEED={seed}` "
        "draws the same ones).",
        "",
        *(f"- {sentence}" for sentence in summary(records)),
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row.cells())} |" for row in rows(records)),
    ]
    failed = [record for record in records if not record.passed]
    if failed:
        lines += ["", "What failed:", "", *(f"- {record.line()}" for record in failed)]
    return "\n".join(lines) + "\n"


_HOW = (
    "The reference service trades under load, with real Litestream, SeaweedFS on loopback as the vault, the agent's "
    "barrier, and the code that restores and promotes on a droplet. A *service*, *litestream* or *store* is killed "
    "with SIGKILL and started again; with a *host* everything on it dies at once and its disk is gone: a new one comes "
    "back from the vault. A quarter of the kills come while the damage of the last one is still being mended. After "
    "each the newest state is restored from the vault to a place of its own, verified in full with the service's "
    "invariants, and held against the load client's ledger and the exchange's books."
)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else ""
