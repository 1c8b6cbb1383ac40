"""docs/failover.md: a row a series, each with its own date, commit and machine, kept while others are measured anew.

Several series may end at the same time, in labs of their own: the page is locked while it is changed.
"""

from __future__ import annotations

import fcntl
import os
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lab.bench import page as bench
from lab.environment import describe
from lab.scenarios.trials import TRIALS, Trial
from lab.series.verdict import Run
from lifeline.model import Verdict

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/failover.md"
TITLE = "Series"
HEAD = """# Failover, measured

Written by `fab drill --runs N --page` and `python -m lab.series.costs`; never by hand. Real hosts in the lab, traded on
all the time; how, and what is judged: [drills.md](drills.md#series).
"""
HOW = """Each row is one series on one pair of hosts, which change roles from run to run. Seconds are median / worst.
*Outside write*: from the fault to a stranger's write, who asks for the public name at that moment, read back. *Kept
answers*: the same for clients that keep a DNS answer for its TTL (30 s). *Outage*: from the last write that a stranger
got acknowledged to the next. *Promotion*: from the lease's take-over to the new primary's first acknowledgement.
*Pause*: the longest time without one at the primary, where nothing may move. A run that can't be judged counts as
failed.
"""
HEADS = (
    *("series", "ttl, s", "runs", "passed", "outside write, s", "promised", "kept answers, s"),
    *(
        "outage, s",
        "promotion, s",
        "pause, s",
        "lost",
        "twice",
        "two primaries",
        "promotions",
        "zombies safe",
        "measured",
    ),
)
SIZES = "Promotion and the size of the database"
SIZES_HOW = """The same series with a database filled to that size before (`--mb`), with rows that nothing compresses;
*promotion* and *outside write* as above. Each run begins on a machine at rest: after a change
of roles a large database is uploaded, backed up and proved for minutes, and here both hosts and all stores share the
cores.
"""
SIZE_HEADS = ("database, MB", "ttl, s", "runs", "passed", "promotion, s", "outside write, s", "measured")
MOST_RATIO = 1.3
ORDER = (TITLE, SIZES, "What the agent costs", "What the lease store costs")
Cells = tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """How a series is held. mb: the database's size, 0: what trading makes of it. page: does its row go there?"""

    runs: int
    ttl: int
    mb: int = 0
    keep: bool = False
    page: bool = False


def row(trial: Trial, plan: Plan, runs: Sequence[Run]) -> Cells:
    """One series, but for when and where."""
    outside, outage = [run.outside_s for run in runs], [run.outage_s for run in runs]
    return (
        *(trial.name, str(plan.ttl), str(plan.runs), str(sum(run.verdict is Verdict.PASS for run in runs))),
        *(_spread(outside), _promise(trial, plan, outage if trial.expects == "switchover" else outside)),
        *(_spread([run.rto_s for run in runs]), _spread(outage), _spread([run.promotion_s for run in runs])),
        _spread([run.pause_s for run in runs]),
        *(_sum([run.lost for run in runs]), _sum([run.duplicated for run in runs])),
        _sum([None if run.overlap_s is None else int(run.overlap_s > 0) for run in runs]),
        *(_sum([run.failovers for run in runs]), _zombies(runs)),
    )


def _spread(values: Sequence[float | None], digits: int = 1) -> str:
    known = [value for value in values if value is not None]
    unknown = f", {len(values) - len(known)} not" if known and len(known) < len(values) else ""
    return f"{statistics.median(known):.{digits}f} / {max(known):.{digits}f}{unknown}" if known else "-"


def _sum(values: Sequence[int | None]) -> str:
    """What isn't known is never a number."""
    unknown = sum(value is None for value in values)
    return str(sum(value or 0 for value in values)) + (f", {unknown} UNKNOWN" if unknown else "")


def _zombies(runs: Sequence[Run]) -> str:
    back = [run.zombie_safe for run in runs if run.zombie_safe is not None]
    return f"{sum(back)} of {len(back)}" if back else "-"


def _promise(trial: Trial, plan: Plan, measured: Sequence[float | None]) -> str:
    """What was promised of this series, and whether it is kept; a run without a number keeps nothing."""
    promised = trial.promised.get(plan.ttl)
    if promised is None:
        return "-"
    median, worst = promised
    known = [value for value in measured if value is not None]
    kept = len(known) == plan.runs and statistics.median(known) < median and (worst is None or max(known) < worst)
    words = f"{'outage ' if trial.expects == 'switchover' else ''}< {median:g}" + (
        f" / < {worst:g}" if worst is not None else ""
    )
    return f"{words}: {'PASS' if kept else 'MISSED'}"


def measured() -> str:
    """When and where; the load is the machine's, other work included."""
    found = describe(ROOT, "none")
    load = os.getloadavg()[2]
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {found['versions']['commit']}, {found['cpus']} CPUs, load {load:.1f}"
    )


def put(page: Path, trial: Trial, plan: Plan, runs: Sequence[Run]) -> None:
    """The series' row in place of the one that measured the same."""
    title, heads = (SIZES, SIZE_HEADS) if plan.mb else (TITLE, HEADS)
    cells = (*(size_row if plan.mb else row)(trial, plan, runs), measured())

    def changed(before: str) -> str:
        return (sizes_section if plan.mb else section)(merged(rows_of(before, title, heads), cells))

    change(page, title, changed)


def put_section(page: Path, title: str, text: str) -> None:
    """A whole section, as it was measured."""
    change(page, title, lambda before: text)


def change(page: Path, title: str, made: Callable[[str], str]) -> None:
    """Read, change and write under a lock: nobody's row is lost."""
    page.touch()
    with page.open("r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = file.read()
        text = bench.merge(before, title, made(before), ORDER, head=HEAD)
        file.seek(0)
        file.truncate()
        file.write(text)


def rows_of(page: str, title: str = TITLE, heads: Cells = HEADS) -> list[Cells]:
    """The rows that a section of the page has."""
    text = next((part for part in re.split(r"^## ", page, flags=re.MULTILINE) if part.startswith(f"{title}\n")), "")
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(f"| {heads[0]} |")]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    return [cells for cells in rows if len(cells) == len(heads)]


def merged(rows: Sequence[Cells], new: Cells) -> list[Cells]:
    """All rows by name and ttl, or size and ttl; this one instead of the one it measures anew."""
    known = {cells[:2]: cells for cells in (*rows, new)}
    order = {name: place for place, name in enumerate(TRIALS)}
    return [
        known[key] for key in sorted(known, key=lambda key: (order.get(key[0], 0), _number(key[0]), -_number(key[1])))
    ]


def _number(text: str) -> float:
    return float(text) if text.isdigit() else 0.0


def section(rows: Sequence[Cells]) -> str:
    """The table of series, and what all of them say of what came back."""
    back = [cells[HEADS.index("zombies safe")].split(" of ") for cells in rows]
    safe, all_ = (sum(int(one[side]) for one in back if len(one) == 2) for side in (0, 1))
    return f"{_table(TITLE, HOW, HEADS, rows)}\nOf all that came back, in whatever way: {safe} of {all_} safe.\n"


def size_row(trial: Trial, plan: Plan, runs: Sequence[Run]) -> Cells:
    """A series with a database of a size."""
    passed = sum(run.verdict is Verdict.PASS for run in runs)
    promotion, outside = [run.promotion_s for run in runs], [run.outside_s for run in runs]
    return str(plan.mb), str(plan.ttl), str(plan.runs), str(passed), _spread(promotion, 2), _spread(outside)


def sizes_section(rows: Sequence[Cells]) -> str:
    """Sizes, and what the largest costs over the smallest."""
    text = _table(SIZES, SIZES_HOW, SIZE_HEADS, rows)
    medians = {float(cells[0]): float(cells[4].split(" / ")[0]) for cells in rows if cells[4] != "-"}
    if len(medians) < 2:
        return text
    small, large = min(medians), max(medians)
    ratio = medians[large] / medians[small]
    kept = "PASS" if ratio < MOST_RATIO else "MISSED"
    return f"{text}\n{large:g} MB over {small:g} MB, medians: {ratio:.2f}; promised < {MOST_RATIO:g}: {kept}.\n"


def _table(title: str, how: str, heads: Cells, rows: Sequence[Cells]) -> str:
    lines = [f"## {title}", "", how, f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)]) + "\n"
