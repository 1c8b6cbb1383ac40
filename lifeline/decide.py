"""What a host does about who is primary, by itself: pure, from what it sees and what the policy says.  No I/O.

``decide`` is total: every state has an answer with its reason in words, and what isn't known is never taken for good
news.  It promises nothing that it can't keep alone: a promotion is only *begun* here, and goes on behind a lease taken
over as it was watched, a proved fence and final data (runbooks/failover.py).

Safety: PROMOTE is said only by a standby that could read the lease store to the end, of a holder that released its
lease, or was silent for as long as no holder may be without having stopped itself, or is off by its cloud's word.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lifeline.damage import Proof
from lifeline.model import FailoverPolicy, ModeName, Role

LATE_RENEWALS = 2.5  # so many intervals without a renewal are no hiccup
UNSERVED_S = 60.0  # a failover by hand takes seconds from the lease to the service
CLEAN_POINT = "fab restore --before-corruption"


class Act(StrEnum):
    """HOLD: nothing.  WATCH: the pilot gets ready, and asks the cloud.  PROMOTE: this host takes over.  RESUME: it goes
    on with its own take-over.  SERVE_AGAIN: it had to stop itself, and goes on where it ended.  HAND_OVER: it stops in
    order, and releases the lease.  REJOIN: a host without a role becomes a standby again.  ASK: it would act, and needs
    a person's word.  ALERT: it can't act, and a person must know.  POWER_ON: a primary without a standby switches on
    the host that it took over from."""

    HOLD = "hold"
    WATCH = "watch"
    PROMOTE = "promote"
    RESUME = "resume"
    SERVE_AGAIN = "serve-again"
    HAND_OVER = "hand-over"
    REJOIN = "rejoin"
    POWER_ON = "power-on"
    ASK = "ask"
    ALERT = "alert"


WORK = (Act.PROMOTE, Act.RESUME, Act.SERVE_AGAIN, Act.HAND_OVER, Act.REJOIN, Act.POWER_ON)  # what a pilot does


class LeaseState(StrEnum):
    """The lease as this host sees it.  LATE: no renewal for longer than a hiccup.  EXPIRED: watched unchanged for ttl +
    margin.  UNREAD: the store can't be read now."""

    NOBODY = "nobody"
    MINE = "mine"
    KEPT = "kept"
    LATE = "late"
    EXPIRED = "expired"
    RELEASED = "released"
    UNREAD = "unread"


class PeerState(StrEnum):
    """The other host's agent, asked directly.  IDLE: it answers, and doesn't serve."""

    SERVES = "serves"
    STANDBY = "standby"
    IDLE = "idle"
    SILENT = "silent"


class CopyState(StrEnum):
    """This host's databases.  UNSEEN: the vault can't be read, so nobody can bring them to the end."""

    READY = "ready"
    BEHIND = "behind"
    UNSEEN = "unseen"


class Witness(StrEnum):
    """What the cloud's uptime check says of the holder: one more vote, and a slow one."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class View:
    """What one host knows.

    holder: the lease's.  silent_s: for how long its renewals were *seen* not to come, on this host's clock.
    off: the cloud says that the holder's droplet is off or gone; None: not known.  promised_s: what is left of
    this host's word not to take over.  own_take: the lease was taken for this host by its own pilot.  own_data:
    it stopped itself, and its databases are those that it wrote in the lease's epoch.  wrote: the latter alone.
    held_s: for so long the lease is seen to be this host's, which doesn't serve.  unended: its own take-over didn't
    come to its end, as far as it serves.  trouble: what is wrong
    with this host's own service, "" for nothing.  settled: it has been primary long enough that the trouble
    isn't what it was promoted into.  damage: what is wrong with its data, "" for nothing; proof: what the other
    host found of the vault's copy since.  primary_s: for so long it has been primary.
    """

    me: str
    role: Role
    lease: LeaseState
    holder: str = ""
    epoch: int = 0
    silent_s: float = 0.0
    peer: PeerState = PeerState.SILENT
    copy: CopyState = CopyState.READY
    off: bool | None = None
    witness: Witness = Witness.UNKNOWN
    mode: ModeName = "manual"
    promised_s: float = 0.0
    own_take: bool = False
    own_data: bool = False
    wrote: bool = False
    held_s: float = 0.0
    unended: bool = False
    trouble: str = ""
    settled: bool = True
    damage: str = ""
    proof: Proof = Proof.NONE
    primary_s: float = 0.0


@dataclass(frozen=True)
class Decision:
    """``wanted``: with ASK, what it would do.  ``next``: with ALERT, the command that helps; ``half_done``: a
    person's own command is what it is about."""

    act: Act
    reason: str
    wanted: Act | None = None
    next: str = "fab status"
    half_done: bool = False


def decide(view: View, policy: FailoverPolicy) -> Decision:
    """The answer of this moment."""
    rule = {"standby": _standby, "primary": _primary, "none": _none}[view.role]
    return _by_mode(view, rule(view, policy))


def _by_mode(view: View, found: Decision) -> Decision:
    """A person's word stands above all: in manual mode it is asked for, while paused nothing is done."""
    if found.act not in WORK or view.mode == "automatic":
        return found
    if view.mode == "paused":
        return Decision(Act.HOLD, f"paused, else: {found.reason}")
    if found.act in (Act.RESUME, Act.SERVE_AGAIN):
        return found  # it was approved when it was begun; half a failover, or a primary at rest, serves nobody
    return Decision(Act.ASK, found.reason, found.act)


def _standby(view: View, policy: FailoverPolicy) -> Decision:
    lease, who = view.lease, view.holder
    if lease is LeaseState.UNREAD:
        return Decision(Act.HOLD, "the lease store can't be read: nobody is promoted without it")
    if lease is LeaseState.NOBODY:
        return Decision(Act.HOLD, "nobody ever held the lease: there is no primary to take over from")
    if lease is LeaseState.MINE:
        if view.own_take:
            return Decision(Act.RESUME, f"this host's own take-over, epoch {view.epoch}, isn't finished")
        holds = f"an operator promotes this host, epoch {view.epoch}: fab failover goes on with it"
        return _unserved(view, holds)
    if lease is LeaseState.KEPT and view.peer is PeerState.SILENT:
        return Decision(Act.WATCH, f"{who} doesn't answer; its lease, epoch {view.epoch}, isn't late yet")
    if lease is LeaseState.KEPT:
        return Decision(Act.HOLD, f"{who} renews its lease, epoch {view.epoch}")
    if view.promised_s > 0:
        return Decision(Act.HOLD, f"{who} was promised {view.promised_s:.0f} s more while the lease store was away")
    if lease is LeaseState.RELEASED:
        return _promote(view, f"{who} stopped in order and released its lease, epoch {view.epoch}")
    return _lost(view, policy)


def _lost(view: View, policy: FailoverPolicy) -> Decision:
    """The holder doesn't renew.  Is it lost, or late?"""
    who, silence = view.holder, f"{view.holder} hasn't renewed its lease for {view.silent_s:.0f} s"
    if view.peer is PeerState.SERVES:
        if view.lease is LeaseState.LATE:
            return Decision(Act.WATCH, f"{silence}, but it answers and serves")
        says = f"{silence}, and says that it serves all the same: it must be fenced by hand"
        return Decision(Act.ALERT, says)
    if view.off and view.peer is PeerState.SILENT:
        return _promote(view, f"{silence}, doesn't answer, and is off by its cloud's word")
    if view.silent_s < policy.partition_s:
        return Decision(Act.WATCH, f"{silence}; a cut line shorter than {policy.partition_s:g} s is waited out")
    if view.lease is LeaseState.EXPIRED:
        answer = "doesn't answer" if view.peer is PeerState.SILENT else "doesn't serve"
        return _promote(view, f"{silence}, longer than it may serve without, and {answer}")
    if view.peer is PeerState.SILENT and view.witness is Witness.DOWN:
        return _promote(view, f"{silence}, doesn't answer, and is down by its uptime check")
    return Decision(Act.WATCH, f"{silence}; {who} may serve until it has expired")


def _promote(view: View, why: str) -> Decision:
    if view.copy is CopyState.UNSEEN:
        return Decision(Act.ALERT, f"{why}; but the vault can't be read, so {view.me} can't know the newest data")
    slower = "; its copy is behind, and is brought up from the vault first" if view.copy is CopyState.BEHIND else ""
    return Decision(Act.PROMOTE, f"{why}{slower}")


def _primary(view: View, policy: FailoverPolicy) -> Decision:
    if view.lease is not LeaseState.MINE:
        return Decision(Act.HOLD, "this host's right to serve is the fence's business")
    if view.damage:
        return _damaged(view)
    if not view.trouble:
        return _well(view, policy)
    if not view.settled:
        return Decision(Act.ALERT, f"{view.trouble}, soon after it was promoted: to hand over again would not help")
    if view.peer is not PeerState.STANDBY:
        return Decision(Act.ALERT, f"{view.trouble}; there is no standby to hand over to ({view.peer})")
    return Decision(Act.HAND_OVER, view.trouble)


def _well(view: View, policy: FailoverPolicy) -> Decision:
    """Has its own take-over come to its end: do users get there?  Then, is it protected?  What that may have powered
    off it may power on: the lease has moved, so what comes back serves nobody, and follows."""
    says = f"{view.me} is primary, epoch {view.epoch}, and well"
    if view.own_take and view.unended:
        return Decision(Act.RESUME, f"{view.me} serves, but its own take-over, epoch {view.epoch}, isn't finished")
    after = policy.power_on_after_s
    if not (after and view.own_take and view.peer is PeerState.SILENT and view.primary_s >= after):
        return Decision(Act.HOLD, says)
    if view.off:
        return Decision(
            Act.POWER_ON, f"{says}; the other host is off since it was taken over from: there is no standby"
        )
    return Decision(Act.WATCH, f"{says}; the other host doesn't answer: is it off?")


def _damaged(view: View) -> Decision:
    """Litestream copies what SQLite writes: the vault, and so the standby, may have the damage too.  Then to hand over
    would only stop what still answers."""
    says = f"the data of {view.me} is damaged: {view.damage}"
    if not view.settled:
        return Decision(Act.ALERT, f"{says}; soon after it was promoted, so it came along", next=CLEAN_POINT)
    if view.proof is Proof.DAMAGED:
        return Decision(Act.ALERT, f"{says}; and so is the vault's newest copy: go back in time", next=CLEAN_POINT)
    if view.peer is not PeerState.STANDBY:
        return Decision(Act.ALERT, f"{says}; there is no standby to hand over to ({view.peer})", next=CLEAN_POINT)
    if view.proof is Proof.CLEAN:
        return Decision(Act.HAND_OVER, f"{says}; the vault's newest copy was restored on the standby, and is clean")
    return Decision(Act.ALERT, f"{says}; the standby is looking whether the vault's copy is clean", next=CLEAN_POINT)


def _none(view: View, policy: FailoverPolicy) -> Decision:
    if view.lease is LeaseState.MINE and view.own_data:
        says = f"{view.me} stopped itself in epoch {view.epoch}, and nobody has taken over since"
        return Decision(Act.SERVE_AGAIN, says)
    if view.lease is LeaseState.MINE and view.own_take:
        # Its follower was stopped by the take-over, and it isn't primary yet.
        return Decision(Act.RESUME, f"this host's own take-over, epoch {view.epoch}, isn't finished")
    if view.lease is LeaseState.KEPT and view.peer is PeerState.SERVES:
        return Decision(Act.REJOIN, f"{view.me} has no role, and {view.holder} serves, epoch {view.epoch}")
    if view.lease is LeaseState.RELEASED and view.holder == view.me:
        says = f"{view.me} gave its lease back, epoch {view.epoch}, and nobody has taken it over"
        return Decision(Act.ALERT, says, next=f"fab failover; the other host lost: fab failover --target {view.me}")
    return _unserved(view, f"{view.me} has no role: it isn't a standby, and takes nothing over")


def _unserved(view: View, holds: str) -> Decision:
    """Nothing for this host to do; but where the lease is its own, by a command of an operator's, somebody must."""
    if view.lease is not LeaseState.MINE or view.held_s < UNSERVED_S:
        return Decision(Act.HOLD, holds)
    says = f"NOBODY SERVES: {view.me} holds the lease, epoch {view.epoch}, and doesn't serve"
    if view.wrote:
        says, way = f"{says}; it was stopped, and its data is as it wrote it", "fab provision, which starts it again"
    else:
        says = f"{says}; a failover or a restore of it has stopped half way, or takes long"
        way = f"fab failover --target {view.me}; where it was a restore: fab restore"
    return Decision(Act.ALERT, says, next=way, half_done=True)
