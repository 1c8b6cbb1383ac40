"""What an agent does about who is primary: looks at the lease and at the other host, decides (decide.py), and has a
pilot do it.

The pilot is a process of its own (runbooks/pilot.py): it holds the cloud's token and runs the same runbooks that an
operator would. It is started when something is late, and waits for the word: then it has its modules and connections.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from lifeline import lookout
from lifeline.damage import Damage
from lifeline.decide import WORK, Act, Decision, LeaseState, PeerState, View, decide
from lifeline.errors import LifelineError
from lifeline.inventory import folder
from lifeline.journal import unfinished
from lifeline.layout import AGENT_PORT, Config, RoleFile
from lifeline.lookout import LeaseWatch, PeerWatch
from lifeline.model import FailoverPolicy, Lease
from lifeline.watching import Watched

PEER_WITHIN_S = 1.0
SEEN_FRESH_S = 5.0  # what the pilot saw in the cloud
RETRY_S, RETRY_MOST_S = 15.0, 300.0
UNPROTECTED_S = 60.0  # a standby that is made anew needs some seconds
UNSEEN_S = 30.0  # for so long the other host or the lease store may be out of sight before a person is told
_BY_HAND = {Act.HAND_OVER: "switchover", Act.REJOIN: "reprotect", Act.POWER_ON: "reprotect"}
log = logging.getLogger("lifeline.autopilot")


@dataclass(frozen=True)
class Own:
    """What the agent knows of its own host. since: when it took that role. promised_s: its word to the other one.
    live_epoch: the one in which it wrote the databases that it has; None for a copy."""

    role: RoleFile
    serves: bool
    lease: Lease | None
    watched: Mapping[str, Watched]
    since: float
    promised_s: float = 0.0
    trouble: str = ""
    damage: Damage | None = None
    live_epoch: int | None = None


class Pilot(Protocol):
    """A pilot that stands by."""

    def tell(self, order: Mapping[str, Any]) -> None: ...

    def said(self) -> Mapping[str, Any]:
        """Its newest line; empty when it said nothing yet."""

    def code(self) -> int | None:
        """Its exit code, None while it runs."""

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Doors:
    """What is outside: the lease store, the other agent's /health (None: no answer), a new pilot."""

    read_lease: Callable[[], Lease | None]
    ask_peer: Callable[[], Mapping[str, Any] | None]
    pilot: Callable[[], Pilot]


class Autopilot:
    """State and rounds. ``own`` asks the agent; ``now`` is CLOCK_BOOTTIME, ``utc`` only ends a pause."""

    def __init__(
        self,
        config: Config,
        own: Callable[[], Own],
        doors: Doors,
        now: Callable[[], float],
        utc: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.me = config.name
        self.policy: FailoverPolicy = config.inventory.policy
        self._own, self._doors, self._now, self._utc = own, doors, now, utc
        self.lease = LeaseWatch()
        self.peer = PeerWatch()
        self.decision = Decision(Act.HOLD, "nothing was looked at yet")
        self._started_at = self._protected_at = now()
        self._held_since: float | None = None  # the lease is ours, and we don't serve
        self._journals = folder(config.layout.state / "pilot", config.inventory.stack) / "journal"
        self._unended, self._came_to_its_end = False, 0  # our own take-over; the epoch of the last one that did
        self._pilot: Pilot | None = None
        self._order: Act | None = None
        self._failed, self._problem, self._retry_at = 0, {"error": "", "hint": ""}, 0.0
        self._heard: tuple[Mapping[str, Any], float] = ({}, float("-inf"))

    # -- looking

    def ask_peer(self) -> None:
        """One question to the other agent; a failed one leaves its last answer to grow old."""
        if (answer := self._doors.ask_peer()) is not None:
            self.peer = PeerWatch(answer, self._now())

    def look(self) -> None:
        """One round: see, decide, act."""
        own = self._own()
        if own.role.role != "primary":
            self._read_lease()
        self._look_back(own)
        view = self.view(own)
        if view.role != "primary" or view.peer is PeerState.STANDBY:
            self._protected_at = self._now()
        decision = decide(view, self.policy)
        if decision != self.decision:
            level = logging.INFO if decision.act is Act.HOLD else logging.WARNING
            log.log(level, "%s: %s", decision.act, decision.reason)
        self.decision = decision
        self._attend()
        self._act(decision)

    def _read_lease(self) -> None:
        try:
            lease = self._doors.read_lease()
        except LifelineError as error:
            self.lease = lookout.unread(self.lease, error.message)
            return
        # A few looks may be slow; more than that is a gap, in which the holder may have lived or not.
        self.lease = lookout.read(self.lease, lease, self._now(), 4 * self.policy.watch_s + 6.0)

    def _look_back(self, own: Own) -> None:
        """How long is the lease ours without being served; and did our own take-over come to its end? That is in the
        pilot's journal, which outlives pilot and agent."""
        primary = own.role.role == "primary"
        mine = not primary and lookout.lease_state(self.lease, self.me, self.policy) is LeaseState.MINE
        self._held_since = (self._now() if self._held_since is None else self._held_since) if mine else None
        self._unended, lease = False, own.lease
        if not primary or lease is None or lease.epoch == self._came_to_its_end or not self._ours(lease):
            return
        with contextlib.suppress(OSError):
            begun = unfinished(self._journals, "failover")
            self._unended = begun is not None and begun.took(lease)
            self._came_to_its_end = self._came_to_its_end if self._unended else lease.epoch

    def _ours(self, lease: Lease | None) -> bool:
        return lease is not None and lease.taken_by == f"pilot:{self.me}"

    def view(self, own: Own) -> View:
        """What is known now, for ``decide``."""
        now, role = self._now(), own.role
        primary = role.role == "primary"
        lease = own.lease if primary else self.lease.lease
        state = lookout.lease_state(self.lease, self.me, self.policy)
        if primary:
            state = LeaseState.MINE if own.serves else LeaseState.UNREAD
        heard, at = self._heard
        fresh = heard if now - at <= SEEN_FRESH_S else {}
        return View(
            me=self.me,
            role=role.role,
            lease=state,
            holder=lease.holder if lease else "",
            epoch=lease.epoch if lease else 0,
            silent_s=0.0 if primary else self.lease.silent_s,
            peer=lookout.peer_state(self.peer, now),
            copy=lookout.copy_state(own.watched, self.policy),
            off=None if fresh.get("power") is None else fresh["power"] in ("off", "absent", "archive"),
            witness=lookout.witness(fresh.get("uptime")),
            mode=lookout.mode_now(lease, self.policy, self._utc()),
            promised_s=own.promised_s,
            own_take=self._ours(lease),
            own_data=role.fenced and lease is not None and lease.epoch == own.live_epoch,
            wrote=lease is not None and lease.epoch == own.live_epoch,
            held_s=0.0 if self._held_since is None else now - self._held_since,
            unended=self._unended,
            trouble=own.trouble,
            settled=now - own.since >= self.policy.settle_s,
            primary_s=now - own.since if primary else 0.0,
            damage=own.damage.says if own.damage else "",
            proof=lookout.peer_proof(self.peer, own.damage, now),
        )

    # -- acting

    def _attend(self) -> None:
        """What the pilot saw, and whether it has ended."""
        if (pilot := self._pilot) is None:
            return
        said = pilot.said()
        if (seen := said.get("seen")) is not None and seen is not self._heard[0]:
            self._heard = (seen, self._now())
        if (code := pilot.code()) is None:
            return
        if self._order is not None:
            self._note_end(code, said)
        self._pilot, self._order = None, None

    def _note_end(self, code: int, said: Mapping[str, Any]) -> None:
        if code == 0:
            self._failed, self._problem = 0, {"error": "", "hint": ""}
            log.warning("the pilot is done (%s)", self._order)
            return
        self._failed += 1
        self._retry_at = self._now() + min(RETRY_MOST_S, RETRY_S * 2 ** (self._failed - 1))
        error = str(said.get("error") or f"the pilot ended with exit code {code}")
        self._problem = {"error": error, "hint": str(said.get("hint") or "fab status")}
        log.error("the pilot failed (%s, exit code %d): %s", self._order, code, error)

    def _act(self, decision: Decision) -> None:
        if self._order is not None:
            return  # it is at work: a runbook half way isn't called back
        if decision.act is Act.WATCH:
            self._stand_by()
        elif decision.act in WORK:
            if self._now() >= self._retry_at and (pilot := self._stand_by()) is not None:
                self._order = decision.act
                log.warning("the pilot is told to %s: %s", decision.act, decision.reason)
                pilot.tell(self._words(decision))
        elif self._pilot is not None:
            self._pilot.stop()
            self._pilot = None

    def _stand_by(self) -> Pilot | None:
        if self._pilot is None:
            try:
                self._pilot = self._doors.pilot()
            except LifelineError as error:
                self._failed += 1
                self._problem = {"error": error.message, "hint": error.hint or "fab provision"}
                self._retry_at = self._now() + RETRY_S
        return self._pilot

    def _words(self, decision: Decision) -> dict[str, Any]:
        if decision.act is Act.HAND_OVER:
            return {"hand_over": {"reason": decision.reason}}
        if decision.act in (Act.REJOIN, Act.SERVE_AGAIN, Act.POWER_ON):
            return {str(decision.act).replace("-", "_"): {"reason": decision.reason}}
        watched = self.lease.lease
        resumed = decision.act is Act.RESUME or watched is None
        lease = None if resumed or watched is None else watched.to_json()
        return {"take_over": {"reason": decision.reason, "lease": lease, "quiet_since": self.lease.since}}

    # -- what others ask

    def status(self) -> dict[str, Any]:
        """For /health, `observe` and `fab status`: no I/O."""
        own, now = self._own(), self._now()
        view = self.view(own)
        age = self.peer.age_s(now)
        return {
            "mode": view.mode,
            "act": str(self.decision.act),
            "reason": self.decision.reason,
            "lease": str(view.lease),
            "silent_s": round(view.silent_s, 1),
            "peer": str(view.peer),
            "peer_age_s": None if age is None else round(age, 1),
            "pilot": str(self._order) if self._order else "stands by" if self._pilot else None,
            "problem": self._problem["error"] or None,
            "alerts": self.alerts(view, now),
        }

    def alerts(self, view: View, now: float) -> list[dict[str, str]]:
        """What a person must know: name, what it means, the next command."""
        found = []
        if self.decision.act is Act.ASK:
            verb = _BY_HAND.get(self.decision.wanted or Act.PROMOTE, "failover")
            says = f"{self.decision.reason}; the hosts wait for a person's word"
            found.append({"name": f"{verb}-wanted", "says": says, "next": f"fab {verb} --yes"})
        if self.decision.act is Act.ALERT:
            left = self.decision.half_done
            name = "data-damaged" if view.damage else "failover-unfinished" if left else "failover-impossible"
            found.append({"name": name, "says": self.decision.reason, "next": self.decision.next})
        if self._problem["error"]:
            says = f"this host's take-over or hand-over stopped: {self._problem['error']}"
            found.append({"name": "failover-stuck", "says": says, "next": self._problem["hint"]})
        return [*found, *self._unseen(view, now)]

    def _unseen(self, view: View, now: float) -> list[dict[str, str]]:
        found = []
        age = now - (self._started_at if self.peer.at is None else self.peer.at)
        if view.role == "primary" and now - self._protected_at > UNPROTECTED_S:
            found.append(self._unprotected(view, now - self._protected_at))
        elif view.role != "none" and age > UNSEEN_S:
            says = (
                f"the other host's agent hasn't answered for {age:.0f} s: no standby, or the line between them is cut"
            )
            found.append({"name": "peer-unseen", "says": says, "next": "fab status"})
        read = self._started_at if self.lease.read_at is None else self.lease.read_at
        if view.role == "standby" and now - read > UNSEEN_S:
            says = f"the lease store can't be read ({self.lease.error}): this host could take nothing over"
            found.append({"name": "lease-unread", "says": says, "next": "fab status"})
        word = self.lease.lease.mode if self.lease.lease else None
        if word is not None and word.until is not None and self._utc() >= datetime.fromisoformat(word.until):
            says = f"the pause by {word.by} ended at {word.until} and was never taken back; the hosts act again"
            found.append({"name": "pause-forgotten", "says": says, "next": "fab resume"})
        return found

    def _unprotected(self, view: View, since_s: float) -> dict[str, str]:
        why = {
            PeerState.SILENT: "the other host doesn't answer" + (", and is off" if view.off else ""),
            PeerState.IDLE: "the other host answers, and isn't a standby that is near",
        }.get(view.peer, "the other host serves")
        says = (
            f"NOT PROTECTED for {since_s:.0f} s: {why}. {self.me} goes on; if it is lost too, everything must be "
            "restored from the vault"
        )
        return {"name": "not-protected", "says": says, "next": "fab reprotect --yes"}


class PeerDoor:
    """The other agent's /health, over a connection that is kept."""

    def __init__(self, address: str, port: int = AGENT_PORT) -> None:
        self._connection = http.client.HTTPConnection(address, port, timeout=PEER_WITHIN_S)

    def __call__(self) -> Mapping[str, Any] | None:
        try:
            self._connection.request("GET", "/health")
            answer = json.loads(self._connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            self._connection.close()
            return None
        return answer if isinstance(answer, dict) else None
