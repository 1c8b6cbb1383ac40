"""A drill: a lab from nothing, infrastructure, hosts, clients, a disaster, the operator's command, and the truth.

The drill measures with its own eyes: the client's ledger, the exchange's books, the name server's answers. It believes
the runbook nothing but what those confirm.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab import environment, lifecycle, report, scenarios
from lab.conduct import Command, Record, ending_in_order, everything, pulumi_progress, say, undisturbed
from lab.machines import NspawnMachines
from lab.outsiders import CHECKOUT, Client, DnsWatcher, Exchange, poll, survivors
from lab.scenarios import Scenario
from lab.scenarios.criteria import Criterion, Facts, Recovery, worst
from lifeline import inventory as inventories
from lifeline.errors import LifelineError, StepFailed, Unavailable, Unproven
from lifeline.hosts import local
from lifeline.journal import RUN_FINISHED, RUN_STARTED, read_lines
from lifeline.ledger import Event, acknowledged, first_round_trip, judge, per_second, ttl_left
from lifeline.model import Inventory, Targets, Verdict
from lifeline.service import Service
from toolchain import image

STACK = "lab"
PULUMI_S = 300.0
PROVISION_S = 300.0
FIRST_WRITE_S = 30.0
RECOVER_S = 300.0
# When the operator's command failed, this long beyond the TTL clients may still prove that writes flow.
GRACE_S = 15.0
EXIT = {Verdict.PASS: 0, Verdict.UNKNOWN: Unproven.exit_code, Verdict.FAIL: StepFailed.exit_code}
INTERRUPTED = 130


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
    evidence: dict[str, Any]


@dataclass
class Drill:
    """One drill's state; what isn't known yet is None."""

    scenario: Scenario
    options: Options
    root: Path
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    begun: float = field(default_factory=time.monotonic)
    was_up: bool = False
    providers: str = "lab"
    env: dict[str, str] = field(default_factory=dict)
    inventory: Inventory | None = None
    service: Service | None = None
    exchange: Exchange | None = None
    client: Client | None = None
    watcher: DnsWatcher | None = None
    commands: list[Command] = field(default_factory=list)
    fault: Fault | None = None
    recovery: Command | None = None
    facts: Facts = field(default_factory=lambda: Facts(targets=Targets(0, 0, 0, 0)))
    runbook_steps: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    def __post_init__(self) -> None:
        self.record = Record(say)
        self.folder = self.root / "drills" / f"{self.started:%Y%m%dT%H%M%SZ}-{self.scenario.name}"
        self.logs = self.folder / "logs"

    # -- the course of a drill

    def hold(self) -> None:
        """From nothing to the judgement; raises where it can't go on."""
        self.logs.mkdir(parents=True)
        self._prepare()
        primary = self._reach_steady_state()
        self._strike(primary)
        self._recover()
        self._judge()

    def _prepare(self) -> None:
        with self.record.step("the lab is up") as step:
            with contextlib.suppress(LifelineError):
                self.was_up = lifecycle.status().healthy
            lifecycle.up(say=lambda text: say(f"   {text}"))
            self.env = lifecycle.env()
            self.providers = lifecycle.status().providers
            step.evidence.update(found_up=self.was_up, providers=self.providers)
        with self.record.step("infrastructure exists (pulumi up)"):
            up = ["pulumi", "up", "--yes", "--skip-preview", "--suppress-outputs", "--non-interactive", "--color=never"]
            self._command("pulumi-up", up, pulumi_progress()).check(PULUMI_S)
            loaded = inventories.from_pulumi(self.root, STACK, functools.partial(local, env=self.env))
            self.inventory = loaded.inventory
            self.facts = Facts(targets=loaded.inventory.targets)
            self.service = Service.load(self.root / "services" / loaded.inventory.service / "service.toml")
        self.exchange = Exchange(self.folder / "exchange.db", self.logs / "exchange.log")
        with self.record.step("the exchange is open"):
            self.exchange.start()
        with self.record.step("hosts are provisioned (fab provision)"):
            self._command("fab-provision", ["fab", "provision"], everything).check(PROVISION_S)

    def _reach_steady_state(self) -> str:
        """The host that serves, by the word of its acknowledgements."""
        assert self.inventory is not None and self.service is not None
        fqdn = self.inventory.record.fqdn
        self.watcher = DnsWatcher(fqdn)
        self.watcher.start()
        ledger, log = self.folder / "ledger.jsonl", self.logs / "client.log"
        self.client = client = Client(fqdn, self.service.port, ledger, log, self.options.rate)
        with self.record.step("clients trade through the public name") as step:
            client.start()
            if not poll(lambda: any(event.kind == "read_back" for event in client.read()), FIRST_WRITE_S):
                reasons = [event.fields.get("reason") for event in client.read() if event.kind == "failed"]
                last = reasons[-1] if reasons else "the client says nothing"
                raise StepFailed(f"no write through {fqdn} in {FIRST_WRITE_S:.0f} s: {last}", hint=f"less {log}")
            steady = time.monotonic() + self.options.steady_s
            poll(lambda: time.monotonic() > steady, self.options.steady_s + 5)
            acks = [event for event in client.read() if event.kind == "acknowledged"]
            primary = str(acks[-1].fields["served_by"])
            self.inventory.host(primary)
            step.evidence.update(acknowledged=len(acks), served_by=primary, rate=self.options.rate)
        return primary

    def _strike(self, primary: str) -> None:
        with self.record.step(f"disaster: {self.scenario.title.lower()}") as step:
            wall, began = time.time(), time.monotonic()
            evidence = self.scenario.fault(primary)
            self.fault = Fault(wall, began, time.monotonic(), evidence)
            # At once: the operator sits at the keyboard.
            self.recovery = self._command("recovery", self.scenario.recover, everything)
            step.evidence.update(evidence, took_s=round(self.fault.done - began, 3), primary=primary)

    def _recover(self) -> None:
        assert self.fault and self.client and self.recovery and self.inventory
        client, fault, recovery = self.client, self.fault, self.recovery
        give_up = fault.began + RECOVER_S
        with self.record.step("clients write again through the same name") as step:
            while (trip := first_round_trip(client.read(), fault.done)) is None and time.monotonic() < give_up:
                if recovery.code not in (None, 0):
                    give_up = min(give_up, (recovery.ended or fault.done) + self.inventory.record.ttl + GRACE_S)
                poll(lambda: bool(first_round_trip(client.read(), fault.done)), 1.0)
            if trip is None:
                raise StepFailed("no write came through after the fault", hint=f"less {recovery.log}")
            step.evidence.update(after_s=round(trip.mono - fault.began, 3), served_by=trip.fields.get("served_by"))
            say(f"   writes flow again {trip.mono - fault.began:.1f} s after the fault")
        with self.record.step("and go on"):
            poll(lambda: time.monotonic() > trip.mono + self.options.after_s, self.options.after_s + 5)
            recovery.wait(give_up - time.monotonic())

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
        events = self.client.stop() if self.client else []
        fault = self.fault
        acks = [event for event in events if event.kind == "acknowledged"]
        before = [event for event in acks if fault is None or event.mono <= fault.began]
        after = [event for event in acks if fault and float(event.fields["began"]) > fault.done]
        trip = first_round_trip(events, fault.done) if fault else None
        recovery = self._recovery()
        self.facts = Facts(
            targets=self.facts.targets,
            primary=str(before[-1].fields["served_by"]) if before else None,
            before=len(before),
            fault_seen=self._fault_seen() if fault else None,
            recovery=recovery,
            rto_s=round(trip.mono - fault.began, 3) if trip and fault else None,
            served_after=frozenset(str(event.fields["served_by"]) for event in after) if fault else None,
        )
        if fault is None or self.exchange is None:
            return
        there, outside = [self._read(source, final) for source in (self._survivors, self.exchange.executions)]
        judgement = judge(acknowledged(events), there, fault_at=fault.wall, outside=outside)
        self.facts = replace(self.facts, judgement=judgement)

    def _survivors(self) -> list[Any]:
        assert self.service is not None
        address = self.watcher.address if self.watcher else None
        if address is None:
            raise Unavailable("the public name has no address")
        return survivors(address, self.service.port)

    def _read(self, source: Callable[[], list[Any]], final: bool) -> list[Any] | None:
        try:
            return source()
        except Unavailable as error:
            say(f"   {error.message}")
            if final and self.error is None:
                self.error = error.message
            return None

    def _fault_seen(self) -> bool | None:
        """Is the machine that was struck really down, by the lab's own eyes and not the API's?"""
        assert self.fault is not None
        struck = self.fault.evidence.get("host")
        with contextlib.suppress(OSError, RuntimeError, KeyError):
            machines = NspawnMachines(lifecycle.status().state, image.path())
            for droplet_id in machines.ids():
                if machines.spec(droplet_id).name == struck:
                    return machines.status(droplet_id) == "off"
        return None

    def _recovery(self) -> Recovery | None:
        command, fault = self.recovery, self.fault
        if command is None or fault is None:
            return None
        name = self.scenario.recover[1]
        folder = inventories.folder(self.root, STACK) / "journal"
        journals = sorted(p for p in folder.glob(f"*-{name}-*.jsonl") if p.stat().st_mtime >= fault.wall)
        lines = read_lines(journals[-1]) if journals else []
        if journals:
            shutil.copy(journals[-1], self.folder / "journal.jsonl")
        lines = [line for line in lines if line["step"] not in (RUN_STARTED, RUN_FINISHED)]
        self.runbook_steps = lines
        return Recovery(
            command=" ".join(self.scenario.recover),
            code=command.code,
            seconds=command.seconds,
            steps=len(lines),
            failed=tuple(
                line["step"]
                for line in lines
                if line["verdict"] in ("FAIL", "UNKNOWN") and not line["evidence"].get("advisory")
            ),
            waived=tuple(line["step"] for line in lines if line.get("waiver")),
        )

    # -- the end

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
        if self.fault is None or self.client is None or self.inventory is None:
            return {}
        events, began = self.client.events, self.fault.began
        left = ttl_left(events, began)
        changed = self.watcher.changed_after(began) if self.watcher else None
        looked = _first(events, "resolved", changed) if changed else None
        waited = looked.mono - changed if looked and changed else None
        return {
            "ttl_s": self.inventory.record.ttl,
            "ttl_left_at_fault_s": _rounded(left),
            "changed_after_s": _rounded(changed - began if changed else None),
            "waited_for_ttl_s": _rounded(waited),
        }

    def writes(self) -> list[tuple[int, int]]:
        """Acknowledged writes per second, zero at the fault."""
        if self.client is None or not self.client.events:
            return []
        zero = self.fault.began if self.fault else self.client.events[0].mono
        return per_second(self.client.events, zero)

    def stop(self) -> None:
        """End everything that this drill started, the lab included unless it was there before or is to be kept."""
        for command in self.commands:
            command.stop()
        if self.watcher:
            self.watcher.end()
        if self.client:
            self.client.stop()
        if self.exchange:
            self.exchange.stop()
        if self.was_up or self.options.keep:
            say("The lab is still up. It ends with: fab lab.down")
        else:
            lifecycle.down(say=say)

    def save_logs(self) -> None:
        """What a failed drill leaves to read: the lab's logs and the hosts'."""
        with contextlib.suppress(Exception):
            state = lifecycle.status().state
            shutil.copytree(state / "logs", self.logs / "lab", dirs_exist_ok=True)
            machines = NspawnMachines(state, image.path())
            for droplet_id in machines.ids():
                name, root = machines.spec(droplet_id).name, machines.root(droplet_id)
                of_service = [str(path).lstrip("/") for path in self.service.logs] if self.service else []
                for where in ("var/log/supervisor", "var/log/cloud-init-output.log", *of_service):
                    _copy(root / where, self.logs / name / Path(where).name)

    def _command(self, name: str, argv: Sequence[str], show: Callable[[str], str | None]) -> Command:
        command = Command(argv, self.logs / f"{name}.log", self.env, self.root, say, show)
        self.commands.append(command)
        return command


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.exists():
        shutil.copy(source, target)


def _first(events: Sequence[Event], kind: str, after: float) -> Event | None:
    return next((event for event in events if event.kind == kind and event.mono >= after), None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def run(scenario: Scenario, options: Options | None = None, root: Path = CHECKOUT) -> tuple[Path, int]:
    """Hold a drill. Returns its folder (report.json, report.html, ledger, logs) and the exit code. Never raises."""
    drill = Drill(scenario, options or Options(), root)
    say(f"Drill: {scenario.title}. {scenario.story}")
    interrupted = False
    try:
        with ending_in_order():
            drill.hold()
    except KeyboardInterrupt:
        interrupted, drill.error = True, "interrupted"
    except LifelineError as error:
        drill.error = str(error)
    except Exception as error:
        drill.error = f"a defect in the drill: {error!r}"
        _note_defect(drill)
    with undisturbed():
        code = _finish(drill)
    return drill.folder, INTERRUPTED if interrupted else code


def _note_defect(drill: Drill) -> None:
    import traceback

    drill.logs.mkdir(parents=True, exist_ok=True)
    (drill.logs / "drill-traceback.txt").write_text(traceback.format_exc())


def _finish(drill: Drill) -> int:
    """Report first (it asks what still runs), then tear down; neither keeps the other from happening."""
    code = EXIT[Verdict.UNKNOWN]
    try:
        if drill.error is not None:
            say(f"The drill broke off: {drill.error}")
            drill.measure()
        if drill.verdict is not Verdict.PASS:
            drill.save_logs()
        document = report.document(drill, environment.describe(drill.root, drill.providers))
        report.write(drill.folder, document)
        say(report.summary(document, drill.folder))
        code = EXIT[Verdict(document["verdict"])]
    except Exception as error:
        _note_defect(drill)
        say(f"There is no report: {error!r}; the logs are in {drill.logs}")
        code = 1
    finally:
        drill.stop()
    return code


def listing() -> str:
    """The scenarios, one a line."""
    return "\n".join(
        f"{scenario.name:<20} {scenario.title}. {scenario.story}" for scenario in scenarios.every().values()
    )


def main(scenario: str = "complete-failure", *, keep: bool = False, list_only: bool = False) -> int:
    """``fab drill``: hold the drill of that name (or list them); the exit code. BadInput for an unknown name."""
    if list_only:
        print(listing())
        return 0
    wanted = scenarios.named(scenario)
    lifecycle.require_root()
    return run(wanted, Options(keep=keep))[1]
