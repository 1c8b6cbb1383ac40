"""`fab drill --production`: the switchover of a stack that serves, with its traffic, measured from outside.

Nothing is simulated and nobody is spared: the service stops on the primary and goes on on the standby, in order, by the
runbook that `fab switchover` is. So it is asked twice, and there is no --yes. What counts is what a stranger met who
wrote through the public name all the while, and asked for its address each time.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab import environment, index, report
from lab.conduct import EXIT, INTERRUPTED, ending_in_order, note_defect, say, undisturbed
from lab.outsiders import poll
from lab.scenarios.criteria import Criterion, criterion, worst
from lab.stage import journal_lines
from lifeline import objectives
from lifeline.duties import PRODUCTION
from lifeline.errors import LifelineError, Refused
from lifeline.journal import stamp
from lifeline.model import Finding, Targets, Verdict
from lifeline.outside import Outside
from lifeline.service import Service
from runbooks.evidence import seal, vaults
from runbooks.site import Site
from runbooks.switchover import switchover

TITLE = "Switchover in production"
STORY = "The service moves to the other host, in order, with everybody's traffic. A stranger writes all the while."
COMMAND = "fab switchover"
EVERY_S = 0.2
FIRST_S, LEAST = 15.0, 10  # so many writes come first, or nobody gets through as it is
AFTER_S = 20.0
LOOKED_FOR = 100  # of the last writes before; a service may keep no more of them
API = "https://api.digitalocean.com"


@dataclass(frozen=True)
class Ack:
    """A stranger's write that was acknowledged: when (monotonic), by which address; ``whole``: it was read back."""

    mono: float
    address: str
    mark: str
    whole: bool


@dataclass(frozen=True)
class Measured:
    """What the stranger met. Seconds; None: not known. ``before``: the last writes that the old primary acknowledged,
    ``lost``: how many of these are gone."""

    outage_s: float | None
    before: tuple[Ack, ...]
    lost: int | None
    rpo_s: float | None
    last: str


class Stranger(threading.Thread):
    """Writes through the public name until it is ended."""

    def __init__(self, outside: Outside, service: Service) -> None:
        super().__init__(name="stranger", daemon=True)
        self._outside, self._service = outside, service
        self._ended = threading.Event()
        self.acks: list[Ack] = []
        self.said = "it was not tried"

    def run(self) -> None:
        while not self._ended.wait(EVERY_S):
            found = self._outside.round_trips(self._service)
            self.said = found.says
            if (ack := acknowledged(found, time.monotonic())) is not None:
                self.acks.append(ack)

    def end(self) -> None:
        self._ended.set()
        self.join()


def acknowledged(found: Finding, now: float) -> Ack | None:
    """A round trip as the write that it was, None where nothing was acknowledged. Pure."""
    whole, seen = found.verdict is Verdict.PASS, found.evidence
    if not (whole or seen.get("acknowledged")):
        return None
    return Ack(now, str(seen["address"]), str(seen["mark"]), whole)


def measure(acks: Sequence[Ack], old: str, there: Callable[[Sequence[str]], dict[str, bool | None]]) -> Measured:
    """``old``: the old primary's address; ``there``: which of some marks can still be read. The outage is from its last
    write to the first one elsewhere that was read back."""
    ours = [ack for ack in acks if ack.address == old]
    last = acks[-1].address if acks else ""
    if not ours:
        return Measured(None, (), None, None, last)
    before = tuple(ours[-LOOKED_FOR:])
    back = next((ack.mono for ack in acks if ack.mono > ours[-1].mono and ack.whole), None)
    found = there([ack.mark for ack in before])
    gone = [ack for ack in before if found[ack.mark] is False]
    known = None not in found.values()
    return Measured(
        outage_s=None if back is None else round(back - ours[-1].mono, 3),
        before=before,
        lost=len(gone) if known or gone else None,
        rpo_s=round(ours[-1].mono - gone[0].mono, 3) if gone else 0.0 if known else None,
        last=last,
    )


@dataclass
class Production:
    """The drill as it goes on."""

    site: Site
    service: Service
    old: str
    new: str
    ask: Callable[[str], str]
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    begun: float = field(default_factory=time.monotonic)
    wall: float | None = None  # when the switchover began: what came before was asking
    took_s: float = 0.0
    measured: Measured | None = None
    acks: tuple[Ack, ...] = ()
    code: int = 0
    error: str = ""

    @property
    def folder(self) -> Path:
        return self.site.root / "drills" / f"{self.started:%Y%m%dT%H%M%SZ}-{PRODUCTION}"

    def hold(self) -> None:
        """From the questions to the measurement. Refused where it isn't one to hold."""
        inventory = self.site.inventory
        ask_for_the_stack(self.site, self.old, self.new, self.ask)
        stranger = Stranger(self.site.outside, self.service)
        stranger.start()
        try:
            if not poll(lambda: len(stranger.acks) >= LEAST, FIRST_S):
                says = f"a stranger can't write through {inventory.record.fqdn}: {stranger.said}"
                raise Refused(f"{says}. That is an incident, not a drill", hint="fab status")
            self._move(stranger)
        finally:
            stranger.end()
            if self.wall is not None:
                self.took_s, self.acks = time.time() - self.wall, tuple(stranger.acks)
                old = inventory.host(self.old).address
                self.measured = measure(
                    stranger.acks, old, lambda marks: self.site.outside.still_has(self.service, marks)
                )

    def _move(self, stranger: Stranger) -> None:
        def ask(text: str) -> str:
            answer = self.ask(text)
            if answer.strip().lower() == "yes":
                self.wall = time.time()
            return answer

        switchover(self.site, self.new, ask=ask)
        new, so_far = self.site.inventory.host(self.new).address, len(stranger.acks)
        poll(lambda: any(ack.address == new and ack.whole for ack in stranger.acks[so_far:]), AFTER_S)

    def criteria(self) -> list[Criterion]:
        """What must be shown."""
        found, hosts = self.measured, {host.address: host.name for host in self.site.inventory.hosts}
        if found is None:
            return [criterion("the switchover was held", None, self.error or "not measured")]
        targets = self.site.inventory.targets
        within = None if found.outage_s is None else found.outage_s <= targets.rto_max_s
        kept = None if found.lost is None else found.lost == 0
        lost = "UNKNOWN" if found.lost is None else found.lost
        return [
            criterion("the runbook ended well", not self.error, self.error or COMMAND),
            criterion(f"{self.new} serves", hosts.get(found.last) == self.new, hosts.get(found.last, found.last)),
            criterion(
                "writes flowed again within the maximum", within, f"{report.seconds(found.outage_s)} without a write"
            ),
            criterion(
                "nothing that was acknowledged is lost",
                kept,
                f"{lost} of the last {len(found.before)} before, read through the name",
            ),
        ]


def ask_for_the_stack(site: Site, old: str, new: str, ask: Callable[[str], str]) -> None:
    """The first question; the runbook asks the second one. Refused unless the stack's name is typed."""
    stack = site.inventory.stack
    site.say(
        f"This moves {site.inventory.record.fqdn}, with everybody who uses it. {site.inventory.service} stops on {old} "
        f"and goes on on {new}, and stays there: fab failback brings it home. Users are without it for some seconds; "
        "who keeps a DNS answer, until that has run out."
    )
    try:
        answer = ask(f"Type the stack's name ({stack}) to go on: ")
    except EOFError:
        answer = ""
    if answer.strip() != stack:
        raise Refused("not confirmed: nothing was changed", hint="fab drill --production, and type the stack's name")


def production(site: Site, ask: Callable[[str], str] = input) -> tuple[Path, int]:
    """Hold it; its folder and the exit code. Before anything is touched it raises what is wrong, afterwards that is in
    the report."""
    lease = site.leases.read()
    if lease is None or lease.released:
        raise Refused("nobody is primary: that is no drill", hint="fab status")
    service = site.service(lease.holder)
    if service.probe is None:
        raise Refused("service.toml has no [probe]: nobody could tell what users meet", hint="less docs/service.md")
    drill = Production(site, service, lease.holder, site.inventory.other(lease.holder).name, ask)
    try:
        with ending_in_order():
            drill.hold()
    except BaseException as error:
        if drill.wall is None:
            raise
        drill.error, drill.code = _why(drill, error)
    with undisturbed():
        judged = _finish(drill)
    return drill.folder, drill.code or judged


def _why(drill: Production, error: BaseException) -> tuple[str, int]:
    """Why it broke off, in words, and the exit code, which goes before the verdict's."""
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted; {COMMAND} goes on with it", INTERRUPTED
    if isinstance(error, LifelineError):
        return str(error), error.exit_code
    note_defect(drill.folder / "logs" / "drill-traceback.txt")
    return f"a defect in the drill: {error!r}; {COMMAND} goes on with it", 1


def _finish(drill: Production) -> int:
    site, folder = drill.site, drill.folder
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(ack)) + "\n" for ack in drill.acks]
    (folder / "ledger.jsonl").write_text("".join(lines), encoding="utf-8")
    document = _document(drill)
    report.write(folder, document)
    say(report.summary(document, folder))
    index.refresh(folder.parent, say)
    try:
        seal(site, vaults(site.inventory))
    except LifelineError as error:
        say(f"The report is not sealed yet: {error.message}; fab evidence seal")
    say(f"  next: fab status{'' if drill.error else '; home again: fab failback'}")
    return EXIT[Verdict(document["verdict"])]


def _document(drill: Production) -> report.Document:
    """The report, of the form that all drills' have."""
    inventory, found, criteria = drill.site.inventory, drill.measured, drill.criteria()
    outage, rpo = (found.outage_s, found.rpo_s) if found else (None, None)
    targets: Targets = inventory.targets
    steps = journal_lines(drill.site.root, inventory.stack, drill.wall or 0.0, drill.folder)
    names = {host.address: host.name for host in inventory.hosts}
    judged = objectives.judge_all({"complete failover": outage, "trades": rpo}, ("complete failover", "trades"))
    providers = "real" if inventory.cloud_api == API else "lab"
    ledger: dict[str, Any] | None = None
    if found is not None:
        kept = None if found.lost is None else len(found.before) - found.lost
        # A stranger's writes alone: what was done twice isn't looked for.
        ledger = {"acknowledged": len(found.before), "survived": kept, "lost": found.lost, "examples": {}}
    return {
        **{"scenario": PRODUCTION, "title": TITLE, "story": STORY, "stack": inventory.stack},
        "verdict": str(worst(criteria)),
        "reasons": [f"{c.name}: {c.verdict}, {c.says}" for c in criteria if c.verdict != "PASS"],
        "criteria": [{"name": c.name, "verdict": str(c.verdict), "says": c.says} for c in criteria],
        "started": stamp(drill.started),
        "seconds": round(time.monotonic() - drill.begun, 1),
        "fault_at": stamp(datetime.fromtimestamp(drill.wall, UTC)) if drill.wall else None,
        "fault": {"fault": "none: a switchover in order", "host": drill.old},
        "rto": {
            **{"target_s": targets.rto_target_s, "max_s": targets.rto_max_s, "measured_s": outage},
            "beyond_ttl_s": None,
        },
        "rpo": {"target_s": targets.rpo_target_s, "max_s": targets.rpo_max_s, "measured_s": rpo},
        "objectives": [one.to_json() for one in judged],
        "dns": {},
        "ledger": ledger,
        "primary": {"before": drill.old, "after": [names.get(found.last, found.last)] if found else []},
        "operator": {"command": COMMAND, "exit_code": drill.code, "seconds": round(drill.took_s, 3)},
        "steps": [report.runbook_step(line, COMMAND, drill.wall) for line in steps],
        "writes": [],
        "environment": environment.in_production(drill.site.root, providers),
        "logs": str(drill.folder / "logs"),
    }
