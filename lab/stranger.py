"""A drill on a stack that is no scenario's: a stranger writes through the public name, and what he met is the measure.

What the users of a stack have is not asked for, and its books aren't read: a stranger's own writes tell how long nobody
got through, and what of the last ones can be read afterwards.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab import environment, index, report
from lab.conduct import EXIT, INTERRUPTED, note_defect, say
from lab.outsiders import poll
from lab.scenarios.criteria import Criterion, criterion, worst
from lifeline import objectives
from lifeline.errors import LifelineError, Refused
from lifeline.journal import stamp
from lifeline.model import PUBLIC_API, Finding, Inventory, Verdict
from lifeline.outside import Outside
from lifeline.service import Service
from runbooks.evidence import seal, vaults
from runbooks.site import Site

EVERY_S = 0.2
FIRST_S, LEAST = 15.0, 10  # so many writes come first, or nobody gets through as it is
AFTER_S = 20.0
LOOKED_FOR = 100  # of the last writes before; a service may keep no more of them


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

    def gets_through(self) -> bool:
        """Some writes in a row, before anything is broken."""
        return poll(lambda: len(self.acks) >= LEAST, FIRST_S)

    def reaches(self, address: str, since: int) -> bool:
        """Is a write read back from there, among those after the first ``since``?  Waits for it."""
        return poll(lambda: any(ack.address == address and ack.whole for ack in self.acks[since:]), AFTER_S)


def can_write_to(service: Service) -> None:
    """Refused where he can't."""
    if service.probe is None:
        raise Refused("service.toml has no [probe]: nobody could tell what users meet", hint="less docs/service.md")


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


@dataclass(frozen=True)
class Story:
    """What is rehearsed.  ``command``: what an operator would type; ``goes_on``: what to type where it broke off."""

    scenario: str
    title: str
    story: str
    command: str
    fault: str
    goes_on: str


@dataclass
class Course:
    """A drill as it goes on.  ``site``: the stack that it is of, to which its evidence belongs; ``inventory``: of the
    hosts that it is held on."""

    story: Story
    site: Site
    inventory: Inventory
    old: str = ""
    new: str = ""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    begun: float = field(default_factory=time.monotonic)
    wall: float | None = None  # when the trouble began: what came before was asking and making ready
    took_s: float = 0.0
    measured: Measured | None = None
    acks: tuple[Ack, ...] = ()
    code: int = 0
    error: str = ""

    @property
    def folder(self) -> Path:
        return self.site.root / "drills" / f"{self.started:%Y%m%dT%H%M%SZ}-{self.story.scenario}"

    def met(self, stranger: Stranger, outside: Outside, service: Service) -> None:
        """What he met, once he has ended."""
        self.acks = tuple(stranger.acks)
        old = self.inventory.host(self.old).address
        self.measured = measure(self.acks, old, lambda marks: outside.still_has(service, marks))

    def broke_off(self, error: BaseException) -> None:
        """Why, in words, and the exit code, which goes before the verdict's."""
        if isinstance(error, KeyboardInterrupt):
            self.error, self.code = f"interrupted; {self.story.goes_on}", INTERRUPTED
        elif isinstance(error, LifelineError):
            self.error, self.code = str(error), error.exit_code
        else:
            note_defect(self.folder / "logs" / "drill-traceback.txt")
            self.error, self.code = f"a defect in the drill: {error!r}; {self.story.goes_on}", 1

    def criteria(self) -> list[Criterion]:
        """What must be shown by any of them."""
        found, hosts = self.measured, {host.address: host.name for host in self.inventory.hosts}
        if found is None:
            return [criterion("the drill was held", None, self.error or "not measured")]
        within = None if found.outage_s is None else found.outage_s <= self.inventory.targets.rto_max_s
        kept = None if found.lost is None else found.lost == 0
        lost = "UNKNOWN" if found.lost is None else found.lost
        return [
            criterion("the runbook ended well", not self.error, self.error or self.story.command),
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


def finish(
    course: Course, criteria: Sequence[Criterion], steps: Sequence[Mapping[str, Any]], more: Mapping[str, float | None]
) -> int:
    """Write the report, show it, seal it; the exit code.  ``steps``: as report.runbook_step has them; ``more``: seconds
    of other components of the procedures' tables."""
    folder = course.folder
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(ack)) + "\n" for ack in course.acks]
    (folder / "ledger.jsonl").write_text("".join(lines), encoding="utf-8")
    document = _document(course, criteria, steps, more)
    report.write(folder, document)
    say(report.summary(document, folder))
    index.refresh(folder.parent, say)
    try:
        seal(course.site, vaults(course.site.inventory))
    except LifelineError as error:
        say(f"The report is not sealed yet: {error.message}; fab evidence seal")
    return course.code or EXIT[Verdict(document["verdict"])]


def _document(
    course: Course, criteria: Sequence[Criterion], steps: Sequence[Mapping[str, Any]], more: Mapping[str, float | None]
) -> report.Document:
    """The report, of the form that all drills' have."""
    found, targets, stack = course.measured, course.inventory.targets, course.site.inventory
    outage, rpo = (found.outage_s, found.rpo_s) if found else (None, None)
    names = {host.address: host.name for host in course.inventory.hosts}
    judged = {**more, "complete failover": outage, "trades": rpo}
    ledger: dict[str, Any] | None = None
    if found is not None:
        kept = None if found.lost is None else len(found.before) - found.lost
        # A stranger's writes alone: what was done twice isn't looked for.
        ledger = {"acknowledged": len(found.before), "survived": kept, "lost": found.lost, "examples": {}}
    return {
        **{"scenario": course.story.scenario, "title": course.story.title, "story": course.story.story},
        **{"stack": stack.stack, "verdict": str(worst(criteria))},
        "reasons": report.complaints(criteria),
        "criteria": report.told(criteria),
        "started": stamp(course.started),
        "seconds": round(time.monotonic() - course.begun, 1),
        "fault_at": stamp(datetime.fromtimestamp(course.wall, UTC)) if course.wall else None,
        "fault": {"fault": course.story.fault, "host": course.old},
        "rto": {
            **{"target_s": targets.rto_target_s, "max_s": targets.rto_max_s, "measured_s": outage},
            "beyond_ttl_s": None,
        },
        "rpo": {"target_s": targets.rpo_target_s, "max_s": targets.rpo_max_s, "measured_s": rpo},
        "objectives": [one.to_json() for one in objectives.judge_all(judged, tuple(judged))],
        "dns": {},
        "ledger": ledger,
        "primary": {"before": course.old, "after": [names.get(found.last, found.last)] if found else []},
        "operator": {
            **{"command": course.story.command, "exit_code": course.code},
            "seconds": round(course.took_s, 3),
        },
        "steps": list(steps),
        "writes": [],
        "environment": environment.in_production(course.site.root, "real" if stack.cloud_api == PUBLIC_API else "lab"),
        "logs": str(course.folder / "logs"),
    }
