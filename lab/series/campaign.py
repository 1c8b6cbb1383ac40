"""Going through the runs of a series, one after the other; what came of each is said, kept, and put on the page."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from lab import lifecycle
from lab.conduct import EXIT, INTERRUPTED, broke_off, say, undisturbed
from lab.outsiders import CHECKOUT
from lab.scenarios.criteria import Criterion, criterion, worst
from lab.scenarios.trials import Trial
from lab.series import ballast, eyes, page
from lab.series.page import PAGE, Plan
from lab.series.run import Site, Trying
from lab.series.verdict import Run
from lab.stage import Stage
from lifeline.errors import LifelineError, Unavailable
from lifeline.hosts import Hosts
from lifeline.ledger import acknowledged, judge
from lifeline.model import Verdict

RATE = 20.0  # orders a second: two cores carry several series side by side
STEADY_S = 2.0
BACK_S = 120.0


@dataclass
class Series:
    """A series and what came of it so far. ``ended``: why not all of its runs were held."""

    trial: Trial
    plan: Plan
    stage: Stage
    runs: list[Run] = field(default_factory=list)
    books: Criterion | None = None
    ended: str = ""

    def hold(self) -> None:
        """Stage, runs, and the books at the end; raises where there is no stage."""
        inventory = self.stage.prepare(self.trial.policy(self.plan.ttl))
        os.environ.update(self.stage.env)  # from here on we are the operator's shell
        site = Site(
            self.stage, self.trial, eyes.Stores(inventory, self.stage.env), patience(self.plan.mb), bool(self.plan.mb)
        )
        if self.plan.mb:
            self._fill(site)
        self.stage.trade(STEADY_S)
        for number in range(1, self.plan.runs + 1):
            run = Trying(site, number).hold()
            self._keep(run)
            if run.verdict is not Verdict.PASS:
                try:
                    site.mend()
                    site.ready()
                except LifelineError as error:
                    self.ended = f"after run {number} the site could not be brought back: {error.message}"
                    break
        self.books = self._final_books()

    def _fill(self, site: Site) -> None:
        """Before anybody trades: the database as large as wanted, and the standby as far."""
        with self.stage.record.step(f"the database has {self.plan.mb} MB, and the standby too") as step:
            scene, service = site.paired(), self.stage.service
            assert service is not None
            with contextlib.closing(Hosts(site.hosts)) as hosts:
                step.evidence.update(bytes=ballast.fill(hosts[scene.old.name], service, self.plan.mb))
            site.paired()
            site.await_writes(scene.old)

    def _keep(self, run: Run) -> None:
        self.runs.append(run)
        with (self.stage.folder / "runs.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(run.to_json(), ensure_ascii=False) + "\n")
        say(run.line())

    def _final_books(self) -> Criterion:
        """With the load stopped: all that clients were ever told, what is there, and the exchange's own books."""
        name = "in the end the books agree with the exchange's"
        assert self.stage.client and self.stage.exchange
        events = self.stage.client.stop()
        try:
            there, outside = self.stage.survivors(), self.stage.exchange.executions()
        except Unavailable as error:
            return criterion(name, None, error.message)
        found = judge(acknowledged(events), there, fault_at=0.0, outside=outside)
        wrong = [len(side or ()) for side in (found.lost, found.duplicated, found.unbooked, found.invented)]
        words = "{} lost, {} twice, {} executed and not booked, {} booked and not executed".format(*wrong)
        return criterion(name, not any(wrong), f"{found.acknowledged} acknowledged; {words}")

    @property
    def verdict(self) -> Verdict:
        """Every run that was planned passed, and the books agree; a run that wasn't held is one that is UNKNOWN."""
        broken = bool(self.ended) or self.plan.runs > len(self.runs)
        missing = [Criterion("every run was held", Verdict.UNKNOWN, self.ended)] * broken
        books = [] if self.books is None else [self.books]
        return worst([*(Criterion("run", run.verdict, "") for run in self.runs), *missing, *books])

    def summary(self) -> list[str]:
        """The end, in a few lines."""
        row = page.row(self.trial, self.plan, self.runs)
        passed = sum(run.verdict is Verdict.PASS for run in self.runs)
        lines = ["", f"  {self.verdict}  {self.trial.title}, ttl {self.plan.ttl} s: {passed} of {self.plan.runs} runs"]
        lines += [f"  {name}: {value}" for name, value in zip(page.HEADS[3:-1], row[3:], strict=True) if value != "-"]
        lines += [f"  ! run {run.number}: {reason}" for run in self.runs for reason in run.reasons]
        if self.books is not None:
            lines.append(f"  {self.books.verdict}  {self.books.name}: {self.books.says}")
        return [*lines, *([f"  ! {self.ended}"] if self.ended else []), f"  {self.stage.folder / 'runs.jsonl'}", ""]


def patience(mb: int) -> float:
    """How long a host may take to come back as a standby: what it has to restore and to compare takes its time."""
    return BACK_S + mb / 5


def hold(trial: Trial, plan: Plan, root: Path = CHECKOUT) -> tuple[Series, int]:
    """Hold a series; its exit code. Never raises."""
    lifecycle.require_root()
    size = f"-{plan.mb}mb" if plan.mb else ""
    series = Series(trial, plan, Stage(root, f"{trial.name}-ttl{plan.ttl}{size}", RATE))
    say(f"Series of {plan.runs}: {trial.title}, ttl {plan.ttl} s. {trial.story}")
    interrupted, why = broke_off(series.hold, "series", series.stage.logs / "traceback.txt")
    series.ended = why or series.ended
    with undisturbed():
        _finish(series)
    return series, INTERRUPTED if interrupted else EXIT[series.verdict]


def _finish(series: Series) -> None:
    try:
        if series.verdict is not Verdict.PASS:
            series.stage.save_logs()
        for line in series.summary():
            say(line)
        if series.plan.page and series.runs:
            page.put(PAGE, series.trial, series.plan, series.runs)
            say(f"  its row is in {PAGE}")
    finally:
        series.stage.stop(keep=series.plan.keep)
