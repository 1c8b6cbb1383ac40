"""What one run showed: measured values in, criteria and a record out.  Pure.

A run that can't be judged is UNKNOWN, and counts as a failure of its series.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from lab.scenarios.criteria import Criterion, Recovery, command_succeeded, criterion, worst
from lifeline.model import Verdict

Expects = Literal["failover", "switchover", "nothing"]
LEAST_WRITES = 20


@dataclass(frozen=True)
class Ack:
    """A write that a host acknowledged: begun and answered on the monotonic clock.  ``way``: "clients", who keep a DNS
    answer for its TTL; "name", a stranger's who asks for it each time, read back; "direct", an observer's."""

    host: str
    began: float
    at: float
    way: Literal["clients", "name", "direct"]


@dataclass(frozen=True)
class Zombie:
    """The old primary after it came back.  None: not known.

    wrote: what it wrote below a prefix of the present epoch or a later one; ran_s: for how long after its return its
    service or Litestream were seen running; follows_s: until it was a standby of the present epoch, close behind;
    alone: rows that only its disk had before it returned; told: those of them in its fork's report.
    """

    way: str
    wrote: tuple[str, ...] | None = None
    ran_s: float | None = None
    follows_s: float | None = None
    role: str = ""
    alone: int | None = None
    told: int | None = None
    fork: str = ""


@dataclass(frozen=True)
class Seen:
    """All that was seen of one run.  Times on the monotonic clock unless they end in _s; None: not known.

    began, done: of the trouble; taken: when somebody else took the lease; ended: of the look at whether anything came
    of it, before the line was mended.
    owner: whom the prefix of the present epoch names as its writer.  rto_s: until clients who keep DNS answers wrote.
    """

    expects: Expects
    old: str
    new: str
    began: float = 0.0
    done: float = 0.0
    ended: float = 0.0
    taken: float | None = None
    fault_seen: bool | None = None
    acks: tuple[Ack, ...] = ()
    rto_s: float | None = None
    epoch_before: int | None = None
    epoch_after: int | None = None
    holder: str | None = None
    owner: str | None = None
    lost: int | None = None
    duplicated: int | None = None
    command: Recovery | None = None
    zombie: Zombie | None = None
    returns: bool = False
    error: str = ""

    @property
    def outside_s(self) -> float | None:
        """From the fault to the first outside write: begun after it by a stranger who asked for the name, and read
        back.  In a switchover the old primary still answers after the command was typed: the first of the new one."""
        served = [ack for ack in self.acks if ack.way == "name" and ack.began > self.done and ack.host == self.new]
        return round(min(ack.at for ack in served) - self.began, 3) if served else None

    @property
    def outage_s(self) -> float | None:
        """From the last write that the old primary acknowledged to a stranger until the first of the new one."""
        by_name = [ack for ack in self.acks if ack.way == "name"]
        new = [ack.at for ack in by_name if ack.host == self.new and ack.began > self.began]
        old = [ack.at for ack in by_name if ack.host == self.old and (not new or ack.at < min(new))]
        return round(min(new) - max(old), 3) if new and old else None

    @property
    def promotion_s(self) -> float | None:
        """From the lease's take-over to the new primary's first acknowledgement."""
        at = [ack.at for ack in self.acks if ack.host == self.new and ack.way == "direct" and ack.began > self.began]
        return None if self.taken is None or not at else round(min(at) - self.taken, 3)

    @property
    def pause_s(self) -> float | None:
        """The longest time without an acknowledgement at the old primary after the fault."""
        direct = (ack.at for ack in self.acks if ack.host == self.old and ack.way == "direct")
        times = sorted(at for at in direct if self.began < at < self.ended)
        gaps = [later - earlier for earlier, later in pairwise([self.began, *times, self.ended])]
        return round(max(gaps), 3) if times else None

    @property
    def overlap_s(self) -> float | None:
        """For how long two hosts can have been acknowledging at once: from the beginning of the new one's first write
        to the answer of the old one's last.  0 for never; negative is the silence between them, told by outage_s."""
        new = [ack.began for ack in self.acks if ack.host != self.old]
        old = [ack.at for ack in self.acks if ack.host == self.old]
        if not old:
            return None
        return round(max(0.0, max(old) - min(new)), 3) if new else 0.0

    @property
    def failovers(self) -> int | None:
        if self.epoch_before is None or self.epoch_after is None:
            return None
        return self.epoch_after - self.epoch_before


def judge(seen: Seen) -> list[Criterion]:
    """What a run must have shown."""
    before = sum(ack.began < seen.began for ack in seen.acks if ack.host == seen.old)
    found = [
        criterion(
            "the service was at work when it was hit",
            True if before >= LEAST_WRITES else None,
            f"{before} writes acknowledged by {seen.old} before (at least {LEAST_WRITES})",
        ),
        criterion(
            "the trouble happened", seen.fault_seen or None, "seen by the lab" if seen.fault_seen else "not seen"
        ),
        _epochs(seen),
        _never_two(seen),
        _count("nothing acknowledged is lost", seen.lost, "lost"),
        _count("nothing was done twice", seen.duplicated, "duplicates"),
    ]
    if seen.expects == "nothing":
        found.append(_goes_on(seen))
    else:
        found += [_written(seen), _owned(seen)]
    if seen.command is not None:
        found.append(command_succeeded(seen.command))
    if seen.returns:
        found += _zombie(seen.zombie)
    if seen.error:
        found.append(criterion("the run came to its end", None, seen.error))
    return found


def _epochs(seen: Seen) -> Criterion:
    wanted = 0 if seen.expects == "nothing" else 1
    name = "one promotion, and to the other host" if wanted else "nobody was promoted"
    if seen.failovers is None or seen.holder is None:
        return criterion(name, None, "the lease could not be read")
    holder = seen.new if wanted else seen.old
    says = f"epoch {seen.epoch_before} to {seen.epoch_after}, held by {seen.holder}"
    return criterion(name, seen.failovers == wanted and seen.holder == holder, says)


def _never_two(seen: Seen) -> Criterion:
    name = "two hosts never acknowledged at one time"
    if seen.overlap_s is None:
        return criterion(name, None, "nothing was acknowledged before")
    return criterion(name, not seen.overlap_s, f"together for {seen.overlap_s:g} s" if seen.overlap_s else "never")


def _count(name: str, count: int | None, what: str) -> Criterion:
    return criterion(name, None if count is None else not count, f"{'not known' if count is None else count} {what}")


def _written(seen: Seen) -> Criterion:
    """Failover or switchover: an outside write, and clients with old DNS answers too."""
    name = "an outside write reads back, and clients write again"
    if seen.outside_s is None:
        return criterion(name, False, "no stranger could write")
    if seen.rto_s is None:
        return criterion(name, False, f"a stranger after {seen.outside_s:.1f} s; clients never")
    return criterion(name, True, f"a stranger after {seen.outside_s:.1f} s, clients after {seen.rto_s:.1f} s")


def _goes_on(seen: Seen) -> Criterion:
    """The primary went on through it: its last acknowledgement is later than any wrong take-over could have been."""
    name = "the primary went on"
    if seen.pause_s is None:
        return criterion(name, False, "it acknowledged nothing after the cut")
    return criterion(name, seen.pause_s < MOST_PAUSE_S, f"at most {seen.pause_s:.1f} s without an acknowledgement")


MOST_PAUSE_S = 5.0


def _owned(seen: Seen) -> Criterion:
    name = "the present epoch's prefix is the new primary's"
    if seen.owner is None:
        return criterion(name, None, "the vault could not be read")
    return criterion(name, seen.owner == seen.new, f"it names {seen.owner}")


def _zombie(zombie: Zombie | None) -> list[Criterion]:
    if zombie is None:
        return [criterion("the old primary came back", None, "not seen")]
    wrote = None if zombie.wrote is None else not zombie.wrote
    kept = None if zombie.alone is None or zombie.told is None else zombie.told >= zombie.alone
    came = (
        f"after {zombie.follows_s:.1f} s" if zombie.follows_s is not None else f"its role is {zombie.role or 'unknown'}"
    )
    return [
        criterion(
            "what came back wrote nothing into a current prefix",
            wrote,
            "not known" if zombie.wrote is None else ", ".join(zombie.wrote[:3]) or "nothing",
        ),
        criterion("it follows as a standby", zombie.follows_s is not None or None, came),
        criterion(
            "what it alone had is kept and told",
            kept and zombie.fork != "UNKNOWN",
            f"{zombie.alone} rows on its disk alone, {zombie.told} of them told; fork: {zombie.fork or 'none'}",
        ),
    ]


@dataclass(frozen=True)
class Run:
    """One run's record: a line of runs.jsonl."""

    number: int
    verdict: Verdict
    started: str
    seconds: float
    old: str
    outside_s: float | None
    rto_s: float | None
    outage_s: float | None
    promotion_s: float | None
    pause_s: float | None
    lost: int | None
    duplicated: int | None
    overlap_s: float | None
    failovers: int | None
    zombie: dict[str, Any] | None
    criteria: tuple[Criterion, ...] = field(default_factory=tuple)

    @property
    def reasons(self) -> list[str]:
        return [f"{c.name}: {c.verdict}, {c.says}" for c in self.criteria if c.verdict is not Verdict.PASS]

    @property
    def zombie_safe(self) -> bool | None:
        """None: none came back in this run."""
        if self.zombie is None:
            return None
        return self.overlap_s == 0.0 and bool(self.zombie["safe"])

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "criteria"}
        criteria = [{"name": c.name, "verdict": str(c.verdict), "says": c.says} for c in self.criteria]
        return {**values, "verdict": str(self.verdict), "zombie_safe": self.zombie_safe, "criteria": criteria}

    def line(self) -> str:
        """For the terminal."""
        told = "  ".join(reason.splitlines()[0] for reason in self.reasons)
        named = {"outside write": self.outside_s, "kept answers": self.rto_s, "outage": self.outage_s}
        named |= {"promotion": self.promotion_s, "pause": self.pause_s}
        times = ", ".join(f"{name} {_s(value)}" for name, value in named.items() if value is not None) or "no write"
        counts = f"lost {_n(self.lost)}, twice {_n(self.duplicated)}, epochs {_n(self.failovers)}"
        two = "two primaries UNKNOWN" if self.overlap_s is None else f"two primaries {self.overlap_s:g} s"
        zombie = "" if self.zombie is None else f", {self.zombie['says']}"
        head = f"{self.verdict:7} {self.number:3}  {self.seconds:5.1f} s from {self.old}:"
        return f"{head} {times}; {counts}, {two}{zombie}" + (f"  ! {told}" if told else "")


def record(number: int, started: str, seconds: float, seen: Seen) -> Run:
    """Judge a run."""
    criteria = tuple(judge(seen))
    return Run(
        number=number,
        verdict=worst(criteria),
        started=started,
        seconds=round(seconds, 1),
        old=seen.old,
        outside_s=seen.outside_s if seen.expects != "nothing" else None,
        rto_s=seen.rto_s,
        outage_s=seen.outage_s if seen.expects != "nothing" else None,
        promotion_s=seen.promotion_s if seen.expects != "nothing" else None,
        pause_s=seen.pause_s if seen.expects == "nothing" else None,
        lost=seen.lost,
        duplicated=seen.duplicated,
        overlap_s=seen.overlap_s,
        failovers=seen.failovers,
        zombie=_told(seen) if seen.returns else None,
        criteria=criteria,
    )


def _told(seen: Seen) -> dict[str, Any]:
    zombie = seen.zombie
    if zombie is None:
        return {"safe": False, "says": "its return was not seen"}
    wrote, _, kept = _zombie(zombie)
    safe = worst([wrote, kept]) is Verdict.PASS
    ran = "ran nothing" if not zombie.ran_s else f"ran for {zombie.ran_s:.1f} s"
    says = f"{zombie.way}: {ran}, follows after {_s(zombie.follows_s)}, {_n(zombie.alone)} rows alone"
    return {
        **{"safe": safe, "says": says, "way": zombie.way, "ran_s": zombie.ran_s},
        **{"follows_s": zombie.follows_s, "wrote": None if zombie.wrote is None else list(zombie.wrote)},
        **{"alone": zombie.alone, "told": zombie.told, "fork": zombie.fork},
    }


def _s(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _n(value: int | None) -> str:
    return "UNKNOWN" if value is None else str(value)


def acks_of(acks: Iterable[Ack], begun: float, ended: float) -> Sequence[Ack]:
    """Those of one run."""
    return [ack for ack in acks if begun <= ack.began <= ended]
