"""Step, Runbook: probe first, act only if needed, poll to a deadline, write down everything.

To run a runbook again *is* to resume it: a step whose probe passes is recorded and its action skipped.  UNKNOWN stops
the run, unless the operator waives that step by name; the journal keeps the waiver.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from lifeline.errors import BadInput, LifelineError, NotDone, StepFailed, Unavailable, Unproven
from lifeline.journal import ENDED, RUN_FINISHED, RUN_STARTED, Clock, Journal, SystemClock
from lifeline.model import Evidence, Finding, Verdict

POLL_S = 0.2
UNKNOWN_S = 60.0
_NOW = {Verdict.PASS: "so", Verdict.FAIL: "not so", Verdict.UNKNOWN: "not known", Verdict.SKIPPED: "skipped"}


class Out(Protocol):
    """What a runbook prints on."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...
    def isatty(self) -> bool: ...


@dataclass(frozen=True)
class Step:
    """A claim about the world, how to see whether it holds, and how to make it hold.

    name: the claim, as it reads when true.  until: sees, and changes nothing.  do: makes it so; a crash in its middle
    leaves something that a second call completes.  within: seconds from the step's start until the claim must hold.
    would: what ``do`` does, in words, for the plan.  waiver: the name under which an operator may go on although the
    claim is UNKNOWN.  hint: the next command if it fails.  unsure: the next one while it isn't known, where that is
    another: what mends a fault may do harm where there is none.  peek: what a dry run looks at instead of ``until``,
    where the proof itself leaves traces (a write) or can't be had yet.  wrong: the error that it is when the claim is
    not so.  advisory: UNKNOWN is told and written down, and stops nobody: for what is in other people's hands, and
    nothing that follows rests on.
    """

    name: str
    until: Callable[[], Finding]
    do: Callable[[], Evidence | None] | None = None
    within: float = 30.0
    would: str = ""
    waiver: str = ""
    hint: str = ""
    unsure: str = ""
    poll: float = POLL_S
    peek: Callable[[], Finding] | None = None
    wrong: type[LifelineError] = StepFailed
    advisory: bool = False


@dataclass(frozen=True)
class Result:
    """A step as it went.  ``acted``: its action ran in this run."""

    step: Step
    verdict: Verdict
    seconds: float
    finding: Finding
    acted: bool
    waived: bool = False


@dataclass(frozen=True)
class Outcome:
    """A whole run: every step held, was waived or was skipped."""

    run_id: str
    results: Sequence[Result]
    seconds: float

    def result(self, name: str) -> Result:
        return next(result for result in self.results if result.step.name == name)


@dataclass(frozen=True)
class Planned:
    """A step as a dry run sees it."""

    step: Step
    finding: Finding
    would: str


@dataclass
class Runbook:
    """An ordered list of steps.  ``summary`` says at the end what it means and what to type next.

    ``survey``: look at everything, and fail at the end with the first failure: for checks that don't build on each
    other.
    """

    name: str
    steps: Sequence[Step]
    summary: Callable[[Outcome], str] | None = None
    clock: Clock = field(default_factory=SystemClock)
    out: Out = field(default_factory=lambda: sys.stdout)
    survey: bool = False
    _warned: bool = field(default=False, init=False, repr=False)  # that the journal can't be written

    def run(
        self,
        journal: Journal,
        context: Mapping[str, object] | None = None,
        waive: frozenset[str] = frozenset(),
        publish: Callable[[Journal], None] | None = None,
    ) -> Outcome:
        """Run every step in order; raises a LifelineError at the first that doesn't hold.

        ``context`` (plain values) goes into the journal's first line.  ``publish`` copies the journal to a safe place
        at the end, on failure too; its own failure is said, and fails nothing.  A disk that is full stops a run only
        before it has done anything.
        """
        started, begun = self.clock.utc(), self.clock.monotonic()
        evidence = {"runbook": self.name, **(context or {}), "waive": sorted(waive)}
        journal.write(RUN_STARTED, Verdict.PASS, started, 0.0, evidence)
        results: list[Result] = []
        failures: list[LifelineError] = []
        verdict, error = Verdict.FAIL, ""
        try:
            for number, step in enumerate(self.steps, 1):
                try:
                    results.append(self._one(step, f"[{number}/{len(self.steps)}]", journal, waive))
                except LifelineError as failure:
                    if not self.survey:
                        raise
                    failures.append(failure)
            if failures:
                raise failures[0]
            verdict = Verdict.PASS
        except BaseException as stopped:
            error = stopped.message if isinstance(stopped, LifelineError) else f"{type(stopped).__name__}: {stopped}"
            verdict = Verdict.UNKNOWN if isinstance(stopped, Unproven) else Verdict.FAIL
            raise
        finally:
            seconds = self.clock.monotonic() - begun
            journal.write(RUN_FINISHED, verdict, started, seconds, {"error": error} if error else {})
            self._close(journal, verdict, self._publish(journal, publish))
        outcome = Outcome(journal.run_id, tuple(results), seconds)
        if self.summary is not None:
            self._say(self.summary(outcome))
        return outcome

    def plan(self) -> list[Planned]:
        """Probe every step, change nothing; says what is so now and what would be done."""
        planned = []
        for number, step in enumerate(self.steps, 1):
            try:
                finding = _look(step, peek=True)
            except LifelineError as error:
                finding = Finding.failed(error.message)
            entry = Planned(step, finding, _would(step, finding))
            self._say(f"[{number}/{len(self.steps)}] {step.name}")
            self._say(f"      now:   {_NOW[finding.verdict]}{f': {finding.says}' if finding.says else ''}")
            self._say(f"      would: {entry.would}")
            planned.append(entry)
        self._say("Dry run: nothing was changed.")
        return planned

    def _one(self, step: Step, label: str, journal: Journal, waive: frozenset[str]) -> Result:
        started, begun = self.clock.utc(), self.clock.monotonic()
        self._say(f"{label} {step.name} … ", end="")
        acted = _Acted()
        try:
            finding = self._pursue(step, begun, waive, acted)
        except BaseException as error:
            seconds = self.clock.monotonic() - begun
            self._say(f"{'interrupted' if isinstance(error, KeyboardInterrupt) else 'FAIL'} {seconds:.1f} s")
            if isinstance(error, LifelineError):
                error.hint = error.hint or step.hint
            broken = Result(step, Verdict.FAIL, seconds, Finding.failed(_words(error)), acted.done)
            self._record(journal, broken, started)
            self._warn(journal)
            raise
        waived = finding.verdict is Verdict.UNKNOWN and step.waiver in waive
        result = Result(step, finding.verdict, self.clock.monotonic() - begun, finding, acted.done, waived)
        self._record(journal, result, started)
        shown = "" if finding.verdict is Verdict.PASS else f"{finding.verdict} "
        note = f", waived by {step.waiver}" if waived else ""
        self._say(f"{shown}{result.seconds:.1f} s  {finding.says}{note}".rstrip())
        self._warn(journal)
        stops = finding.verdict is Verdict.UNKNOWN and not (waived or step.advisory)
        if finding.verdict is Verdict.FAIL or stops:
            raise _stop(step, finding, acted.error)
        return result

    def _pursue(self, step: Step, begun: float, waive: frozenset[str], acted: _Acted) -> Finding:
        """Probe; act once if it doesn't hold; probe again until it does or the time is up."""
        finding = _look(step)
        if finding.verdict is not Verdict.FAIL:
            return finding
        if step.do is not None:
            acted.done = True
            try:
                step.do()
            except NotDone:
                raise  # nothing is going on that would be worth waiting for
            except Unavailable as error:
                # It may have taken effect all the same: the probe decides, not the answer that got lost.
                acted.error = error
            finding = _look(step)
        last_known = self.clock.monotonic()
        while finding.verdict in (Verdict.FAIL, Verdict.UNKNOWN):
            now = self.clock.monotonic()
            if finding.verdict is Verdict.FAIL:
                last_known = now
            # A long deadline is for work that is going on; what can't be seen any more isn't waited for that long.
            left = min(begun + step.within, last_known + UNKNOWN_S) - now
            if left <= 0:
                break
            self.clock.sleep(min(step.poll, left))
            finding = _look(step)
        return finding

    def _record(self, journal: Journal, result: Result, started: datetime) -> None:
        evidence: dict[str, object] = {"acted": result.acted, **result.finding.evidence}
        if result.finding.says:
            evidence["says"] = result.finding.says
        if result.step.advisory:
            evidence["advisory"] = True
        waiver = result.step.waiver if result.waived else None
        journal.write(result.step.name, result.verdict, started, result.seconds, evidence, waiver)

    def _warn(self, journal: Journal) -> None:
        """Once: an outage doesn't wait for a disk."""
        if journal.trouble and not self._warned:
            self._warned = True
            why = f"The journal can't be written here ({journal.trouble})"
            self._say(f"      {why}: the run goes on, and keeps its lines.")

    def _publish(self, journal: Journal, publish: Callable[[Journal], None] | None) -> bool:
        """Is it in the vault?"""
        if publish is None:
            return False
        try:
            publish(journal)
        except Exception as error:
            self._say(f"The journal could not be copied to the vault ({_words(error)}); it is at {journal.path}")
            return False
        return True

    def _close(self, journal: Journal, verdict: Verdict, published: bool) -> None:
        """What became of a journal that found no room."""
        path = journal.path
        if not journal.trouble:
            if self._warned:
                self._say(f"There was room again: the journal is whole, {path}")
            return
        rest = "the vault has all of it" if published else "nobody else has them: keep what this terminal shows"
        then = f"df -h {path.parent}"
        if verdict is Verdict.PASS and path.suffix != ENDED:
            then += (
                f"; mv {path} {path}{ENDED} once that can be written: else the next {self.name} goes on with this one"
            )
        why = f"The journal here is incomplete ({journal.trouble})"
        self._say(f"{why}: {path} lacks its last {journal.lacking} lines; {rest}.\n  next: {then}")

    def _say(self, text: str, end: str = "\n") -> None:
        # A terminal that went away must not stop a failover half way.
        with contextlib.suppress(OSError, ValueError):
            print(text, end=end, file=self.out, flush=True)


@dataclass
class _Acted:
    done: bool = False
    error: LifelineError | None = None


def check_waivers(given: Sequence[str], known: Sequence[str]) -> frozenset[str]:
    """The waivers asked for, as a set; BadInput for one that waives nothing here."""
    for name in given:
        if name not in known:
            raise BadInput(f'there is no waiver "{name}" here; known: {", ".join(sorted(set(known))) or "none"}')
    return frozenset(given)


def _look(step: Step, *, peek: bool = False) -> Finding:
    """Probe; what can't be reached is not known."""
    try:
        return step.peek() if peek and step.peek is not None else step.until()
    except Unavailable as error:
        return Finding.unknown(error.message)


def _would(step: Step, finding: Finding) -> str:
    if finding.verdict is Verdict.PASS:
        return "nothing, it holds already"
    if finding.verdict is Verdict.SKIPPED:
        return "nothing, skipped"
    if finding.verdict is Verdict.UNKNOWN and step.advisory:
        return "say so, and go on"
    if finding.verdict is Verdict.UNKNOWN:
        return f"stop here{f', unless --waive {step.waiver}' if step.waiver else ''}"
    return step.would or ("wait for it" if step.do is None else "act")


def _stop(step: Step, finding: Finding, error: LifelineError | None) -> LifelineError:
    because = f": {finding.says}" if finding.says else ""
    if finding.verdict is Verdict.UNKNOWN:
        waiver = f" (to go on without this proof: --waive {step.waiver})" if step.waiver else ""
        return Unproven(f"not known whether {step.name}{because}{waiver}", hint=step.unsure or step.hint)
    if error is not None:
        return Unavailable(f"{step.name}: no{because}; {error.message}", hint=step.hint or error.hint)
    waited = f" within {step.within:g} s" if step.within else ""
    return step.wrong(f"not so{waited}: {step.name}{because}", hint=step.hint)


def _words(error: BaseException) -> str:
    return error.message if isinstance(error, LifelineError) else f"{type(error).__name__}: {error}"
