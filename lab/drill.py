"""A drill: a lab from nothing, infrastructure, hosts, clients, a disaster, the operator's command, and the truth.

The drill measures with its own eyes: the client's ledger, the exchange's books, the name server's answers. It believes
the runbook nothing but what those confirm.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from lab import environment, index, lifecycle, report, scenarios
from lab.conduct import EXIT, INTERRUPTED, Record, broke_off, note_defect, say, undisturbed
from lab.outsiders import CHECKOUT, poll
from lab.pair import holder, mend, settle
from lab.scenarios import Scenario, Situation
from lab.scenarios.criteria import Criterion, Facts, Recovery, worst
from lab.scenarios.trials import TRIALS
from lab.series import campaign
from lab.series.page import Plan
from lab.stage import Stage, Typist
from lifeline.errors import BadInput, LifelineError, StepFailed, Unavailable, Unproven
from lifeline.ledger import Event, acknowledged, first_round_trip, judge, longest_gap, per_second, ttl_left
from lifeline.model import Targets, Verdict
from lifeline.objectives import OBJECTIVES

# When the operator's command failed, this long beyond the TTL clients may still prove that writes flow.
GRACE_S = 15.0
MIN_TTL_S, TTL_S = 10, 30
SCENARIO = "complete-failure"
# `fab drill` goes one of several ways; the first that is asked for, and the options that mean something on it.
WAYS: Mapping[str, tuple[str, ...]] = {
    "production": (),  # asked twice; there is no --yes
    "isolated": ("yes", "dry-run"),
    "tear-down": ("yes", "dry-run"),
    "due": ("ical", "index"),
    "ical": ("index",),
    "index": (),
    "list": (),
    "": ("scenario", "keep", "runs", "ttl", "mb", "page"),
}
PAIR_S = 60.0


@dataclass(frozen=True)
class Options:
    """How a drill is held. Times in seconds, rate in orders a second."""

    keep: bool = False
    steady_s: float = 8.0
    after_s: float = 5.0
    rate: float = 60.0


@dataclass
class Fault:
    """When it happened. RTO counts from ``began``; only writes begun after ``done`` can end it."""

    wall: float
    began: float
    done: float
    seen: bool | None
    evidence: dict[str, Any]


@dataclass
class Drill:
    """One drill's state; what isn't known yet is None."""

    scenario: Scenario
    options: Options
    root: Path
    fault: Fault | None = None
    situation: Situation | None = None
    recovery: Typist | None = None
    looked: tuple[Criterion, ...] = ()
    facts: Facts = field(default_factory=lambda: Facts(targets=Targets(0, 0, 0, 0)))
    runbook_steps: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    def __post_init__(self) -> None:
        self.stage = Stage(self.root, self.scenario.name, self.options.rate)
        self.record: Record = self.stage.record

    # -- the course of a drill

    def hold(self) -> None:
        """From nothing to the judgement; raises where it can't go on."""
        inventory = self.stage.prepare()
        self.facts = Facts(targets=self._targets(inventory.targets))
        primary = holder(inventory.hosts)
        self.situation = situation = Situation(self.stage, primary, inventory.other(primary.name))
        if self.scenario.ready:
            with self.record.step("made ready"):
                self.scenario.ready(situation)
        serves = self.stage.trade(self.options.steady_s)
        if serves != primary.name:
            raise Unproven(f"{primary.name} says that it is primary, and {serves} serves")
        self._strike(situation)
        self._recover(situation)
        self._judge()

    def _targets(self, of_stack: Targets) -> Targets:
        """The stack's, but for the recovery time of a scenario that the procedures give one of its own."""
        goal = OBJECTIVES.get(self.scenario.component)
        return replace(of_stack, rto_target_s=goal.target_s, rto_max_s=goal.max_s) if goal else of_stack

    def _strike(self, situation: Situation) -> None:
        with self.record.step(f"disaster: {self.scenario.title.lower()}") as step:
            wall, began = time.time(), time.monotonic()
            evidence = dict(self.scenario.fault(situation))
            done = time.monotonic()
            # At once: the operator sits at the keyboard.
            self.recovery = self.stage.type(self.scenario.commands(situation)) if self.scenario.types else None
            self.fault = Fault(wall, began, done, self.scenario.seen(situation), evidence)
            step.evidence.update(evidence, took_s=round(done - began, 3), primary=situation.primary.name)

    def _recover(self, situation: Situation) -> None:
        assert self.fault and self.stage.client and self.stage.inventory
        client, fault, recovery = self.stage.client, self.fault, self.recovery
        give_up = fault.began + self.scenario.within_s
        if self.scenario.settled is not None:
            with self.record.step("it is over") as step:
                if not poll(lambda: self.scenario.settled(situation), self.scenario.within_s):  # type: ignore[misc]
                    raise StepFailed(f"it isn't over after {self.scenario.within_s:.0f} s", hint=f"less {client.log}")
                step.evidence.update(after_s=round(time.monotonic() - fault.began, 3))
        else:
            self._await_write(give_up)
        with self.record.step("and go on"):
            ends = time.monotonic() + self.options.after_s
            poll(lambda: time.monotonic() > ends, self.options.after_s + 5)
            if recovery is not None:
                recovery.wait(give_up - time.monotonic())
        if self.scenario.looks is not None:
            with self.record.step("what else must be shown"):
                self.looked = tuple(self.scenario.looks(situation))

    def _await_write(self, give_up: float) -> None:
        assert self.fault and self.stage.client and self.stage.inventory
        client, fault, recovery = self.stage.client, self.fault, self.recovery
        with self.record.step("clients write again through the same name") as step:
            while (trip := first_round_trip(client.read(), fault.done)) is None and time.monotonic() < give_up:
                if recovery is not None and recovery.code not in (None, 0):
                    give_up = min(give_up, (recovery.ended or fault.done) + self.stage.inventory.record.ttl + GRACE_S)
                poll(lambda: bool(first_round_trip(client.read(), fault.done)), 1.0)
            if trip is None:
                log = recovery.log if recovery else client.log
                raise StepFailed("no write came through after the fault", hint=f"less {log}")
            step.evidence.update(after_s=round(trip.mono - fault.began, 3), served_by=trip.fields.get("served_by"))
            say(f"   writes flow again {trip.mono - fault.began:.1f} s after the fault")

    def _judge(self) -> None:
        with self.record.step("the ledger is compared with what survived") as step:
            self.measure(final=True)
            judgement = self.facts.judgement
            if judgement is None or judgement.lost is None:
                raise Unproven("what survived could not be read")
            step.evidence.update(judgement.to_json())

    # -- measuring: also after a failure, with what there is

    def measure(self, *, final: bool = False) -> None:
        """Bring ``facts`` up to what can be known now. ``final``: an export that can't be read is an error."""
        events = self.stage.client.stop() if self.stage.client else []
        fault = self.fault
        acks = [event for event in events if event.kind == "acknowledged"]
        before = [event for event in acks if fault is None or event.mono <= fault.began]
        after = [event for event in acks if fault and float(event.fields["began"]) > fault.done]
        self.facts = Facts(
            targets=self.facts.targets,
            primary=str(before[-1].fields["served_by"]) if before else None,
            before=len(before),
            fault_seen=fault.seen if fault else None,
            recovery=self._recovery(),
            rto_s=self._rto(events),
            served_after=frozenset(str(event.fields["served_by"]) for event in after) if fault else None,
            component=self.scenario.component,
            looked=self.looked,
        )
        if fault is None or self.stage.exchange is None:
            return
        there, outside = [
            self._read(source, final) for source in (self.stage.survivors, self.stage.exchange.executions)
        ]
        judgement = judge(acknowledged(events), there, fault_at=fault.wall, outside=outside)
        self.facts = replace(self.facts, judgement=judgement)

    def _read(self, source: Callable[[], list[Any]], final: bool) -> list[Any] | None:
        try:
            return source()
        except Unavailable as error:
            say(f"   {error.message}")
            if final and self.error is None:
                self.error = error.message
            return None

    def _rto(self, events: Sequence[Event]) -> float | None:
        """Until the first write begun after the fault was read back; for a fault that stops nobody, the longest that
        clients were without an answer."""
        if self.fault is None:
            return None
        if self.scenario.settled is not None:
            return longest_gap(events, self.fault.began)
        trip = first_round_trip(events, self.fault.done)
        return round(trip.mono - self.fault.began, 3) if trip else None

    def _recovery(self) -> Recovery | None:
        command, fault = self.recovery, self.fault
        if command is None or fault is None:
            return None
        recovery, self.runbook_steps = self.stage.outcome(command, fault.wall)
        return recovery

    # -- the end

    def mend(self) -> None:
        """End the fault, and wait for a pair of hosts where the lab goes on; what can't be mended is told."""
        if self.fault is None or self.situation is None:
            return
        try:
            if self.scenario.mend is not None:
                self.scenario.mend(self.situation)
            if not (self.stage.was_up or self.options.keep):
                return
            if not mend(self.stage, PAIR_S):
                say("There is no healthy pair of hosts: fab status")
            settle(self.stage)
        except (LifelineError, OSError, RuntimeError, subprocess.SubprocessError, httpx.HTTPError) as error:
            say(f"What the drill broke could not be mended: {error}; fab status")

    def criteria(self) -> list[Criterion]:
        """The scenario's judgement of what was measured."""
        return self.scenario.judge(self.facts)

    @property
    def verdict(self) -> Verdict:
        """The worst of the criteria; a drill that broke off, or whose steps failed, has not passed."""
        verdict = worst(self.criteria())
        broken = self.error is not None or any(step.verdict is not Verdict.PASS for step in self.record.steps)
        return Verdict.UNKNOWN if broken and verdict is Verdict.PASS else verdict

    def timing(self) -> dict[str, Any]:
        """DNS across the fault. ``waited_for_ttl_s``: from the change at the name server to the client's next look."""
        if self.fault is None or self.stage.client is None or self.stage.inventory is None:
            return {}
        events, began = self.stage.client.events, self.fault.began
        left = ttl_left(events, began)
        changed = self.stage.watcher.changed_after(began) if self.stage.watcher else None
        looked = _first(events, "resolved", changed) if changed else None
        waited = looked.mono - changed if looked and changed else None
        return {
            "ttl_s": self.stage.inventory.record.ttl,
            "ttl_left_at_fault_s": _rounded(left),
            "changed_after_s": _rounded(changed - began if changed else None),
            "waited_for_ttl_s": _rounded(waited),
        }

    def writes(self) -> list[tuple[int, int]]:
        """Acknowledged writes per second, zero at the fault."""
        if self.stage.client is None or not self.stage.client.events:
            return []
        zero = self.fault.began if self.fault else self.stage.client.events[0].mono
        return per_second(self.stage.client.events, zero)


def _first(events: Sequence[Event], kind: str, after: float) -> Event | None:
    return next((event for event in events if event.kind == kind and event.mono >= after), None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def run(scenario: Scenario, options: Options | None = None, root: Path = CHECKOUT) -> tuple[Path, int]:
    """Hold a drill. Returns its folder (report.json, report.html, ledger, logs) and the exit code. Never raises."""
    drill = Drill(scenario, options or Options(), root)
    say(f"Drill: {scenario.title}. {scenario.story}")
    interrupted, why = broke_off(drill.hold, "drill", _trace(drill))
    drill.error = why or drill.error
    with undisturbed():
        code = _finish(drill)
    return drill.stage.folder, INTERRUPTED if interrupted else code


def _trace(drill: Drill) -> Path:
    return drill.stage.logs / "drill-traceback.txt"


def _finish(drill: Drill) -> int:
    """Report first (it asks what still runs), then tear down; neither keeps the other from happening."""
    code = EXIT[Verdict.UNKNOWN]
    try:
        if drill.error is not None:
            say(f"The drill broke off: {drill.error}")
            drill.measure()
        if drill.verdict is not Verdict.PASS:
            drill.stage.save_logs()
        document = report.document(drill, environment.describe(drill.root, drill.stage.providers))
        report.write(drill.stage.folder, document)
        say(report.summary(document, drill.stage.folder))
        code = EXIT[Verdict(document["verdict"])]
        index.refresh(drill.stage.folder.parent, say)
    except Exception as error:
        note_defect(_trace(drill))
        say(f"There is no report: {error!r}; the logs are in {drill.stage.logs}")
        code = 1
    finally:
        drill.mend()
        drill.stage.stop(keep=drill.options.keep)
    return code


def listing() -> str:
    """The scenarios, one a line; of which there can be series."""
    found = [(one.name, f"{one.title}. {one.story}") for one in scenarios.every().values()]
    found += [(f"{one.name} (series)", f"{one.title}. {one.story}") for one in TRIALS.values()]
    return "\n".join(f"{name:<22} {says}" for name, says in found)


def main(
    scenario: str = SCENARIO,
    *,
    keep: bool = False,
    list_only: bool = False,
    runs: int | None = None,
    ttl: int | None = None,
    mb: int | None = None,
    page: bool = False,
) -> int:
    """``fab drill``: hold the drill of that name, or the series (or list them); the exit code. BadInput for an unknown
    name."""
    if list_only:
        print(listing())
        return 0
    if scenario in TRIALS:
        plan = Plan(1 if runs is None else runs, TTL_S if ttl is None else ttl, mb or 0, keep, page)
        if plan.runs < 1 or plan.ttl < MIN_TTL_S or plan.mb < 0:
            raise BadInput(f"--runs is 1 or more, --ttl {MIN_TTL_S} or more, --mb 0 or more", hint="fab --help drill")
        return campaign.hold(TRIALS[scenario], plan)[1]
    of_a_series = [name for name, value in (("runs", runs), ("ttl", ttl), ("mb", mb)) if value is not None]
    if scenario == "all" and not of_a_series:
        from lab import rehearsal  # it holds these drills

        return rehearsal.hold_all(Options(keep=keep), page=page)
    wanted = named(scenario)
    if of_a_series or page:
        raise BadInput(f'there is no series of "{scenario}"; there are: {", ".join(TRIALS)}', hint="fab drill --list")
    lifecycle.require_root()
    return run(wanted, Options(keep=keep))[1]


def named(name: str) -> Scenario:
    """The scenario of that name; BadInput when there is none."""
    known = scenarios.every()
    if name not in known:
        raise BadInput(
            f'there is no scenario "{name}"; there are: {", ".join([*known, *TRIALS])}', hint="fab drill --list"
        )
    return known[name]
