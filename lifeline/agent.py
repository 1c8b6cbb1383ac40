"""The agent on every host: confirms and renews the lease of a primary, stops it when it can't, watches a standby's
follower, and holds the barrier.

Threads with one job each, so that none can hold up another: `renew` talks to the lease store (and may hang there),
`guard` only looks at the clock and acts, `watch` measures replication, and the autopilot (autopilot.py) decides about a
failover. What may run is decided in `fence.judge`, which is pure.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lifeline import autopilot, failsafe, proc
from lifeline.apply import follower_programs
from lifeline.barrier import Barrier, ControlSocket, Stats
from lifeline.copies import drop_kept, read_follower
from lifeline.deadman import arm, boottime, cut, notify
from lifeline.errors import LifelineError, Refused, Unavailable
from lifeline.fence import Judgement, Known, judge, valid_until
from lifeline.herald import Herald
from lifeline.layout import Config, Layout, RoleFile, alone, load_config, read_data, read_json, read_role, write_role
from lifeline.model import Lease
from lifeline.opinion import Opinion
from lifeline.supervisor import Supervisor
from lifeline.symptoms import Symptoms
from lifeline.watching import Newest, Position, Watched, lag, progress

GUARD_S = 0.25
WATCH_S = 5.0
RETRY_S = 1.0
KILL_AFTER_S = 3.0  # a fenced service gets so long to end by itself
STALLED_S = 20.0
STUCK_S = 60.0  # a thread whose turn takes longer hangs: everything it asks answers or fails sooner
PING_S = 1.0
log = logging.getLogger("lifeline.agent")


class Leases(Protocol):
    """What the agent needs of the lease store. Both calls have short deadlines of their own, and raise
    LifelineError."""

    def renew(self, holder: str, epoch: int) -> Lease:
        """Renew if the lease is `holder`'s for `epoch`; returns the lease as it then is, somebody else's if it is."""

    def read(self) -> Lease | None:
        """The lease now; None when nobody ever took it."""


class Keys(Protocol):
    """What the agent needs of the vault."""

    def keys(self, prefix: str, after: str = "") -> Iterable[str]: ...


class Agent:
    """State and threads. `now` is CLOCK_BOOTTIME; tests put a clock of their own."""

    def __init__(
        self,
        config: Config,
        supervisor: Callable[[], Supervisor],
        leases: Leases,
        vault: Keys,
        now: Callable[[], float] = boottime,
    ) -> None:
        self.config = config
        self.layout = config.layout
        self.now = now
        self._supervisor = supervisor
        self._leases = leases
        self._newest = Newest(vault, config.service.name)
        self._lock = threading.Lock()
        self._known = Known()
        self._role_file, self._supervisor_at = self.layout.role_file, self.layout.supervisor_socket
        self._role_seen = _identity(self._role_file)
        self._role = read_role(self.layout)
        self._renewed_at: float | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._started: tuple[RoleFile, int] | None = None
        self._start_after = 0.0
        self._due: dict[str, float] = {}
        self._last_fence = ""
        self._role_since = now()
        self._watched_role = self._role
        self.symptoms = Symptoms(config, supervisor, now)
        self.opinion = Opinion(config, now)
        self._failsafe = False
        self._peer_address = config.inventory.other(config.name).address
        self.promises = failsafe.Promises(self.layout.run / "promise.json", now)
        doors = autopilot.Doors(leases.read, autopilot.PeerDoor(self._peer_address), self._new_pilot)
        self.autopilot = autopilot.Autopilot(config, self._own, doors, now)
        self.herald: Herald | None = None  # beside: it tells people, and nothing here waits for it
        self.watched: dict[str, Watched] = {}
        self.control = ControlSocket(self.layout.control_socket)
        paths = {database.name: self.layout.live(database) for database in config.service.databases}
        self.barrier = Barrier(paths, self.control.sync, self.refusal)
        self._recall()

    # -- what others ask

    def judgement(self) -> Judgement:
        """May this host serve, now."""
        with self._lock:
            return judge(self._role, self.config.name, self._known, self.now())

    def refusal(self) -> str | None:
        """Why a commit may not be acknowledged here, or None."""
        found = self.judgement()
        return None if found.kind == "serve" else f"this host may not acknowledge: {found.reason}"

    def status(self) -> dict[str, Any]:
        """All that is known, for `observe`, /health and /metrics; no I/O."""
        found = self.judgement()
        with self._lock:
            role, known, renewed = self._role, self._known, self._renewed_at
        return {
            **{
                "host": self.config.name,
                "role": role.role,
                "epoch": role.epoch,
                "judgement": found.kind,
                "reason": found.reason,
            },
            "lease": None if known.lease is None else {"holder": known.lease.holder, "epoch": known.lease.epoch},
            "lease_age_s": None if renewed is None else round(self.now() - renewed, 3),
            "last_fence": self._last_fence,
            "failsafe": self._failsafe,
            "pilot": self.autopilot.status(),
            "herald": self.herald.status() if self.herald else None,
            "symptoms": self.symptoms.to_json() if found.kind == "serve" else None,
            "damage": None if (damage := self.symptoms.damage()) is None else {"id": damage.id, "says": damage.says},
            "opinion": self.opinion.answer,
            "databases": {name: watched.to_json(self.now()) for name, watched in self.watched.items()},
        }

    def stats(self) -> Stats:
        return self.barrier.stats

    def poke(self) -> None:
        """The role has changed: look at once."""
        self._refresh_role()
        self._wake.set()

    def decision(self) -> tuple[str, str]:
        """What the autopilot does now, and why."""
        found = self.autopilot.decision
        return str(found.act), found.reason

    # -- the lease

    def renew_once(self) -> None:
        """One conversation with the lease store. What is learnt is kept even when it is bad news."""
        self._refresh_role()
        with self._lock:
            role = self._role
        if role.role != "primary":
            return
        begun = self.now()
        try:
            lease = self._leases.renew(self.config.name, role.epoch)
        except LifelineError as error:
            with self._lock:
                self._known = replace(self._known, error=error.message)
            if isinstance(error, Unavailable):
                self._on_the_standbys_word(role, error.message)
            return
        with self._lock:
            if self._role != role:
                return  # the role changed meanwhile: this answer is about the past
            if (lease.holder, lease.epoch) == (self.config.name, role.epoch):
                if self._confirmed(lease, begun):
                    self._renewed_at, self._failsafe = begun, False
            else:
                self._known = Known(lease, self._known.valid_until)

    def _confirmed(self, lease: Lease, begun: float) -> bool:
        """A renewal counts once successor and deadman know of it, never before: what serves on it, they can stop.
        False: it couldn't be noted, and doesn't count."""
        note = {"epoch": lease.epoch, "valid_until": valid_until(begun, lease)}
        try:
            arm(self.layout.run, begun + lease.ttl_s)
            path = self.layout.run / "renewed.json"
            path.with_suffix(".new").write_text(json.dumps(note))
            path.with_suffix(".new").replace(path)
        except OSError as error:
            self._known = replace(self._known, error=f"a renewal can't be noted in {self.layout.run}: {error.strerror}")
            return False
        self._known = Known(lease, valid_until(begun, lease))
        return True

    def _on_the_standbys_word(self, role: RoleFile, error: str) -> None:
        """The lease store is away: what was confirmed holds for longer if the other host promises not to take over."""
        with self._lock:
            lease = self._known.lease
        if lease is None or (lease.holder, lease.epoch) != (self.config.name, role.epoch):
            return
        begun = self.now()
        promised = failsafe.ask(self._peer_address, self._peer_key(), lease)
        if promised is None or promised < lease.ttl_s:
            return
        with self._lock:
            if self._role != role or self._known.lease != lease:
                return
            if self._confirmed(lease, begun):
                self._known = replace(self._known, error=error)
                self._failsafe = True

    def promise(self, question: Mapping[str, Any]) -> float | None:
        """The standby's word to the holder that asks, seconds; None when it gives none."""
        watch = self.autopilot.lease
        with self._lock:
            role = self._role
        about = (question["holder"], question["epoch"])
        known = watch.lease is not None and (watch.lease.holder, watch.lease.epoch) == about
        if role.role != "standby" or not watch.error or not known:
            return None
        return self.promises.give(int(question["epoch"]), float(question["ttl_s"]))

    def peer_answer(self, body: bytes, signature: str | None) -> tuple[int, bytes, str]:
        """To the other agent's question for a promise."""
        return failsafe.answer(self._peer_key(), body, signature, self.promise)

    def _peer_key(self) -> bytes:
        try:
            return self.layout.peer_key.read_text().strip().encode()
        except OSError:
            return b""

    def _own(self) -> autopilot.Own:
        serves = self.judgement().kind == "serve"
        with self._lock:
            role, lease = self._role, self._known.lease
        seen = self.symptoms if self._watched_role == role else None  # else it is about the past
        wrong, damage = (seen.trouble(), seen.damage()) if seen else ("", None)
        left, live = self.promises.left_s(), read_data(self.layout).live_epoch
        return autopilot.Own(role, serves, lease, dict(self.watched), self._role_since, left, wrong, damage, live)

    def _new_pilot(self) -> autopilot.Pilot:
        return proc.Conversation([str(self.layout.bin / "lifeline-pilot")])

    def guard_once(self) -> None:
        """Look at the clock, and act: fence, or start what the lease allows."""
        self._refresh_role()
        found = self.judgement()
        with self._lock:
            role = self._role
        if found.kind == "fence":
            self.fence(role, found.reason)
            return
        # A supervisor that died runs nothing of what it ran: the new one has another socket.
        socket = self._supervisor_socket()
        if (
            found.kind in ("serve", "idle")
            and socket
            and self._started != (role, socket)
            and self.now() >= self._start_after
        ):
            try:
                self._start_programs(role)
                self._started = (role, socket)
            except Refused:
                pass  # a verb is at work: the next round
            except (LifelineError, OSError) as error:
                log.error("programs not started: %s", error)
                self._start_after = self.now() + RETRY_S

    def fence(self, role: RoleFile, reason: str) -> None:
        """Stop service and Litestream, within seconds, whatever they are doing; be nothing, also after a boot.

        The deadman stays armed: whatever of them escaped us or supervisor is killed when the lease ends.
        """
        log.error("self-fence: %s", reason)
        self._last_fence = reason
        try:
            write_role(self.layout, "none", role.epoch, fenced=True)
        except OSError as error:
            log.error("the role can't be written (%s): stopping all the same", error.strerror)
        self._refresh_role()
        try:
            self._supervisor().stop_all(self._serving, within=KILL_AFTER_S)
        except LifelineError as error:
            log.error("%s: killing all that supervisor runs", error.message)
            cut(self.layout.supervisor_group)

    @property
    def _serving(self) -> list[str]:
        """What needs the lease."""
        return ["litestream", self.config.service.name]

    def _supervisor_socket(self) -> int:
        try:
            return self._supervisor_at.stat().st_ino
        except OSError:
            return 0

    def _start_programs(self, role: RoleFile) -> None:
        """After a boot, of the machine or of supervisor: what the role calls for, and nobody stopped by hand. Where
        that isn't serving, what a predecessor that died in its fence left running is stopped."""
        if role.role == "primary":
            # The verb that makes a primary holds this lock until all is started. Before that the new epoch's place
            # isn't ready: Litestream would begin it anew, and what is prepared for it then would be its ruin.
            with alone(self.layout.host_lock, Refused("a verb is at work on this host")):
                self._refresh_role()
                if self._role != role:
                    raise Refused("a verb has changed the role meanwhile")
                self._start(self._serving)
            return
        self._supervisor().stop_all(self._serving, within=KILL_AFTER_S)
        if role.role == "standby":
            self._start(follower_programs(self.config.service))

    def _start(self, names: Iterable[str]) -> None:
        supervisor = self._supervisor()
        states = supervisor.states()
        for name in names:
            if name in states and not states[name].running and not states[name].stopped_by_hand:
                supervisor.start(name, wait=False)

    def _refresh_role(self) -> None:
        """Four times a second for years: the file is read when it is another one."""
        seen = _identity(self._role_file)
        if seen is not None and seen == self._role_seen:
            return
        role = read_role(self.layout)
        with self._lock:
            self._role_seen = seen
            if role != self._role:
                log.info("role: %s, epoch %d", role.role, role.epoch)
                self._role, self._known, self._renewed_at = role, Known(), None
                self._role_since, self._failsafe = self.now(), False

    def _recall(self) -> None:
        """An agent that was restarted goes on with the deadline of its predecessor; /run is empty after a boot."""
        kept = read_json(self.layout.run / "renewed.json") or {}
        if (
            self._role.role == "primary"
            and kept.get("epoch") == self._role.epoch
            and isinstance(kept.get("valid_until"), float)
        ):
            # Only the deadline is taken over: to serve, this process must have heard the lease store itself.
            self._known = Known(None, kept["valid_until"], "the agent was restarted")

    # -- replication

    def watch_once(self) -> None:
        """Measure the copy this host holds against the replica; restart a follower that has stalled."""
        with self._lock:
            role = self._role
        if role.role == "standby":
            self._watch_follower(role.epoch)
            self.opinion.look(self.autopilot.peer.answer, role.epoch)
        elif role.role == "primary":
            self._watch_litestream()
        else:
            self.watched = {}
        if role.role != "standby":
            self.opinion.forget()
        self._watch_service(role)

    def _watch_follower(self, epoch: int) -> None:
        programs = {database: program for program, database in follower_programs(self.config.service).items()}
        watched = {}
        for database in self.config.service.databases:
            copy = self.layout.following(database, epoch)
            position: Position | None
            try:
                position = lag(self._newest, epoch, database.name, partial(read_follower, copy))
            except LifelineError as error:
                log.warning("the vault can't be read: %s", error.message)
                position = None
            drop_kept(self.config, database, epoch)
            found = progress(self.watched.get(database.name), position, self.now(), STALLED_S)
            if found.stalled:
                log.warning(
                    "%s stalls at %s, the replica is at %s: restoring anew", database.name, found.applied, found.newest
                )
                with contextlib.suppress(LifelineError):
                    supervisor = self._supervisor()
                    supervisor.stop(programs[database.name])
                    supervisor.start(programs[database.name], wait=False)
                found = replace(found, moved_at=self.now(), restarts=found.restarts + 1)
            watched[database.name] = found
        self.watched = watched

    def _watch_service(self, role: RoleFile) -> None:
        """Only while this host may serve: what the fence stopped is no trouble of the service's."""
        if self._watched_role != role or self.judgement().kind != "serve":
            self._watched_role = role
            self.symptoms.forget()
        else:
            self.symptoms.look()

    def _watch_litestream(self) -> None:
        try:
            listed = {entry.path: entry for entry in self.control.list()}
        except LifelineError:
            listed = {}
        self.watched = {
            database.name: Watched.of_primary(listed.get(str(self.layout.live(database))))
            for database in self.config.service.databases
        }

    # -- the threads

    def run(self) -> None:
        """Until SIGTERM. A thread that dies takes the agent with it: half an agent is worse than a restarted one."""
        watch_s = self.config.inventory.policy.watch_s
        # The other host is asked beside: its silence slows nothing.
        piloting = ((self.autopilot.look, watch_s), (self.autopilot.ask_peer, min(1.0, watch_s)))
        for job, pause in ((self._renew_loop, None), (self.watch_once, WATCH_S), *piloting):
            threading.Thread(target=self._forever, args=(job, pause), daemon=True, name=job.__name__).start()
        pinged = 0.0
        while not self._stop.wait(GUARD_S):
            self.guard_once()
            # Only work that goes on is reported to systemd: what hangs is killed, and its successor takes over.
            if time.monotonic() - pinged >= PING_S and self.progressing():
                pinged = time.monotonic()
                notify("WATCHDOG=1")

    def stop(self) -> None:
        self._stop.set()

    def progressing(self) -> bool:
        """Has every thread begun its next turn when it should have?"""
        return all(time.monotonic() < due for due in self._due.values())

    def _renew_loop(self) -> None:
        self._wake.clear()
        self.renew_once()
        with self._lock:
            failed, lease = bool(self._known.error), self._known.lease
        pause = RETRY_S if failed or lease is None else self.config.inventory.policy.renew_s
        self._due["_renew_loop"] = time.monotonic() + pause + STUCK_S
        self._wake.wait(pause)

    def _forever(self, job: Callable[[], None], pause: float | None) -> None:
        while not self._stop.is_set():
            self._due[job.__name__] = time.monotonic() + (pause or 0.0) + STUCK_S
            try:
                job()
            except Exception:
                log.exception("%s failed", job.__name__)
                os._exit(1)
            if pause is not None:
                self._stop.wait(pause)


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Differs when the file was replaced or written to; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def main() -> int:
    """Console script `lifeline-agent`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    from lifeline.agent_http import serve
    from lifeline.host_stores import open_leases, open_vault

    config = load_config(Layout())
    vault = open_vault(config, patient=False)
    agent = Agent(config, lambda: Supervisor(config.layout.supervisor_socket, timeout=5.0), open_leases(config), vault)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    agent.herald = Herald(config, vault, agent.decision, agent.progressing)
    with serve(agent):
        notify("READY=1")
        agent.herald.start()
        agent.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
