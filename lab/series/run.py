"""One run of a series: from a healthy pair through the trouble, and back to a healthy pair.

Waits for conditions, never for a time, but for one random moment: the lease's phase at which the trouble comes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

from lab.conduct import Command, say
from lab.outsiders import poll
from lab.pair import mend, pair
from lab.scenarios.trials import Scene, Trial
from lab.series import eyes
from lab.series.verdict import LEAST_WRITES, Ack, Run, Seen, Zombie, record
from lab.stage import Stage
from lifeline.errors import LifelineError, StepFailed, Unavailable
from lifeline.journal import stamp
from lifeline.layout import Layout
from lifeline.ledger import acknowledged, first_round_trip, judge
from lifeline.model import FailoverPolicy, Host

COMMAND_S = 180.0
DNS_GRACE_S = 15.0
REST_S, REST_LOOK_S, REST_SHARE = 900.0, 10.0, 0.4
LAST_S = 2.0  # the probes of the old primary's last seconds are looked for one by one; the service keeps 1000


@dataclass
class Site:
    """What all runs of a series share. ``back_s``: how long a host may take to be what it must be. ``rests``: each run
    begins on a machine at rest. ``counted``: lost or done twice in an earlier run, and told there."""

    stage: Stage
    trial: Trial
    stores: eyes.Stores
    back_s: float
    rests: bool = False
    counted: set[str] = field(default_factory=set)

    @property
    def hosts(self) -> tuple[Host, ...]:
        assert self.stage.inventory
        return self.stage.inventory.hosts

    @property
    def policy(self) -> FailoverPolicy:
        assert self.stage.inventory
        return self.stage.inventory.policy

    @property
    def port(self) -> int:
        assert self.stage.service
        return self.stage.service.port

    @property
    def silence_s(self) -> float:
        """The longest after which hosts that wrongly promote would have begun to."""
        return self.policy.lease_ttl_s + self.policy.lease_margin_s + 4.0

    def pair(self) -> Scene | None:
        """Primary and standby, when the standby could take over; else None."""
        return pair(self.hosts)

    def flows(self, host: Host, since: float) -> bool:
        """Do clients write there, by a DNS answer that they have?"""
        assert self.stage.client
        late = takewhile(lambda event: event.mono > since, reversed(self.stage.client.read()))
        acks = (event for event in late if event.kind == "acknowledged")
        return sum(str(event.fields["served_by"]) == host.name for event in acks) >= LEAST_WRITES

    def paired(self) -> Scene:
        """As soon as there is a pair; StepFailed when there is none in time."""
        return self._await(lambda scene: True, "a standby")

    def await_writes(self, host: Host) -> None:
        """Until it acknowledges writes as ever: after much was written at once its log is folded in first."""
        observer = eyes.Observer("direct", host.address, self.port)
        observer.start()
        try:
            if not poll(lambda: len(observer.acks) >= LEAST_WRITES, self.back_s):
                raise StepFailed(f"{host.name} acknowledges nothing within {self.back_s:.0f} s: {eyes.said(host)}")
        finally:
            observer.end()

    def ready(self) -> Scene:
        """The same, and clients write: then a run can begin."""
        began = time.monotonic()
        return self._await(lambda scene: self.flows(scene.old, began), "a standby and clients")

    def rest(self) -> None:
        """Until what a change of roles left to do is done, with the clients held: a large database is uploaded, backed
        up and proved for minutes, and both hosts and all stores share this machine's cores."""
        assert self.stage.client
        with self.stage.record.step("the machine comes to rest"), self.stage.client.held():
            if not poll(lambda: eyes.busy(REST_LOOK_S) < REST_SHARE, REST_S):
                raise StepFailed(f"more than {REST_SHARE:.0%} of this machine is in use after {REST_S:.0f} s")

    def _await(self, good: Callable[[Scene], bool], what: str) -> Scene:
        scenes: list[Scene] = []

        def there() -> bool:
            scene = self.pair()
            if scene is not None and good(scene):
                scenes.append(scene)
            return bool(scenes)

        if not poll(there, self.back_s):
            said = "; ".join(f"{host.name}: {eyes.said(host)}" for host in self.hosts)
            raise StepFailed(f"no primary with {what} within {self.back_s:.0f} s: {said}")
        return scenes[0]

    def mend(self) -> None:
        """After a run that left no pair."""
        mend(self.stage, self.back_s)


class Trying:
    """One run, as it goes on; what was seen so far is in ``seen``."""

    def __init__(self, site: Site, number: int) -> None:
        self.site, self.number = site, number
        self.started, self.begun = datetime.now(UTC), time.monotonic()
        self.scene: Scene | None = None
        self.seen = Seen(site.trial.expects, "", "", returns=bool(site.trial.way))
        self.command: Command | None = None
        self.probes_lost: set[str] | None = set()

    def hold(self) -> Run:
        """Never raises but for an interruption: what went wrong is in the record."""
        try:
            self.scene = self.site.ready()
            if self.site.rests:
                self.site.rest()
                self.scene = self.site.ready()
            self._go(self.scene)
        except (LifelineError, RuntimeError, OSError) as error:
            self._note(error=getattr(error, "message", str(error)))
        return record(self.number, stamp(self.started), time.monotonic() - self.begun, self.seen)

    def _note(self, **changes: Any) -> None:
        self.seen = replace(self.seen, **changes)

    def _go(self, scene: Scene) -> None:
        trial, stage = self.site.trial, self.site.stage
        assert stage.inventory and stage.client
        lease = self.site.stores.lease()
        self._note(old=scene.old.name, new=scene.new.name, epoch_before=lease.epoch if lease else None)
        self.notes = eyes.Notes()
        by_name = eyes.Observer("name", stage.inventory.record.fqdn, self.site.port)
        direct = {host.name: eyes.Observer("direct", host.address, self.site.port) for host in self.site.hosts}
        observers = (by_name, *direct.values())
        with ExitStack() as stack:
            for observer in observers:
                observer.start()
                stack.callback(observer.end)
            poll(lambda: len(direct[scene.old.name].acks) >= LEAST_WRITES, 10.0)
            if trial.before is not None:
                trial.before(scene)
            time.sleep(random.uniform(0.0, self.site.policy.renew_s))  # the random moment itself
            self._strike(scene)
            if trial.expects == "nothing":
                self._hold_still(scene)
            else:
                self._await_write(by_name)
                self._look_for_probes(scene, observers)
                self._return(scene, direct[scene.old.name])
                self._await_clients()
        self._end(observers)

    def _strike(self, scene: Scene) -> None:
        trial = self.site.trial
        self.wall, began = time.time(), time.monotonic()
        self._note(began=began, done=began)
        seen = trial.trouble(scene)
        self._note(done=time.monotonic() if trial.expects == "failover" else began, fault_seen=seen)
        if trial.types is not None:
            self.command = self.site.stage.command(f"run-{self.number}", trial.types(scene.old), lambda line: None)

    def _hold_still(self, scene: Scene) -> None:
        """For as long as a wrong take-over would need, and nothing may be seen of one; then all is mended."""
        end = time.monotonic() + self.site.silence_s
        poll(lambda: time.monotonic() > end, self.site.silence_s + 5)
        self._note(ended=time.monotonic())
        if self.site.trial.after is not None:
            self.site.trial.after(scene)
        self.site.paired()

    def _await_write(self, by_name: eyes.Observer) -> None:
        within = 3 * self.site.silence_s + COMMAND_S

        def written() -> bool:
            self._note(acks=tuple(by_name.acks))
            return self.seen.outside_s is not None

        if not poll(written, within):
            raise StepFailed(f"no stranger could write within {within:.0f} s")

    def _look_for_probes(self, scene: Scene, observers: Sequence[eyes.Observer]) -> None:
        """The last that the old primary acknowledged, on the new one while that still keeps it."""
        last = [token for o in observers for token in o.last(scene.old.name, LAST_S)]
        found = {token: eyes.has_probe(scene.new, self.site.port, token) for token in last}
        self.probes_lost = None if None in found.values() else {token for token, has in found.items() if not has}

    def _return(self, scene: Scene, at_old: eyes.Observer) -> None:
        """The old primary comes back, and what it does is watched."""
        trial = self.site.trial
        if not trial.way or trial.after is None:
            return
        alone = self._alone(scene, at_old)
        watch = eyes.RunWatch(scene.old)
        back = time.monotonic()
        trial.after(scene)
        watch.start()
        follows = poll(lambda: self.site.pair() == Scene(scene.new, scene.old), self.site.back_s)
        follows_s = round(time.monotonic() - back, 1) if follows else None
        fork, told = self._told(scene.old) if follows else ("UNKNOWN", set[str]())
        self._note(
            zombie=Zombie(
                trial.way,
                ran_s=watch.end(),
                follows_s=follows_s,
                role=str(eyes.health(scene.old).get("role", "")),
                alone=None if alone is None else len(alone),
                told=None if alone is None else len(told & alone),
                fork=fork,
            )
        )

    def _alone(self, scene: Scene, at_old: eyes.Observer) -> set[str] | None:
        """Which of our own probes the old primary comes back with that nobody else has, before it can do anything.

        What it acknowledged was looked for before: the new primary keeps 1000, and may have let go of it since."""
        assert self.site.stage.service
        suspects = at_old.unanswered(self.seen.began - LAST_S)
        files = Layout(scene.returns_from) if scene.returns_from else eyes.disk(scene.old)
        on_disk = eyes.probes_in(files, self.site.stage.service, self.site.stage.folder / "disk")
        if on_disk is None:
            return None
        there = {token: eyes.has_probe(scene.new, self.site.port, token) for token in suspects & on_disk}
        return None if None in there.values() else {token for token, has in there.items() if has is False}

    def _told(self, old: Host) -> tuple[str, set[str]]:
        """The verdict on what it set aside, once that was compared ("" when there is nothing), and the probes in it."""
        assert self.site.stage.service is not None and self.seen.epoch_before is not None
        reports: list[dict[str, Any] | None] = []

        def compared() -> bool:
            assert self.site.stage.service is not None and self.seen.epoch_before is not None
            reports.append(eyes.fork(old, self.site.stage.service, self.seen.epoch_before))
            return reports[-1] is None or reports[-1]["verdict"] != "UNKNOWN"

        poll(compared, self.site.back_s)
        if (report := reports[-1]) is None:
            return "", set()
        rows = report["tables"].get("probes", {}).get("only_here", [])
        return str(report["verdict"]), {str(row["token"]) for row in rows}

    def _await_clients(self) -> None:
        """Until those who keep a DNS answer for its TTL write again, and the operator's command has ended."""
        stage = self.site.stage
        assert stage.client and stage.inventory
        within = stage.inventory.record.ttl + DNS_GRACE_S

        def written() -> bool:
            assert stage.client
            trips = [event for event in stage.client.read() if event.fields.get("served_by") == self.seen.new]
            trip = first_round_trip(trips, self.seen.done)
            if trip is not None:
                self._note(rto_s=round(trip.mono - self.seen.began, 3))
            return trip is not None

        poll(written, within)
        if self.command is not None:
            self.command.wait(COMMAND_S)
            self._note(command=stage.outcome(self.command, self.wall)[0])

    def _end(self, observers: Sequence[eyes.Observer]) -> None:
        """The books, the lease, the vault: what is so now."""
        stage, site = self.site.stage, self.site
        assert stage.client and stage.service and stage.exchange
        events = [event for event in stage.client.read() if event.kind == "acknowledged" and event.mono > self.begun]
        clients = [Ack(str(e.fields["served_by"]), float(e.fields["began"]), e.mono, "clients") for e in events]
        acks = (*clients, *(ack for observer in observers for ack in observer.acks))
        lease = site.stores.lease()
        self._note(
            acks=tuple(acks),
            epoch_after=lease.epoch if lease else None,
            holder=lease.holder if lease else None,
            owner=site.stores.owner(lease.epoch) if lease else None,
        )
        self._note(**self._books())
        noted, old = self.notes.read(), next(host for host in site.hosts if host.name == self.seen.old)
        taken = eyes.lease_taken(noted, self.wall, old.address)
        self._note(taken=None if taken is None else self.seen.began + taken - self.wall)
        if self.seen.zombie is not None and self.seen.epoch_before is not None and lease is not None:
            epochs = range(self.seen.epoch_before + 1, lease.epoch + 1)
            wrote = eyes.written_by(noted, old.address, stage.service.name, epochs)
            self._note(zombie=replace(self.seen.zombie, wrote=wrote))

    def _books(self) -> dict[str, int | None]:
        """Everything that clients were ever told is done, against what is there now; and the last probes."""
        stage = self.site.stage
        assert stage.client and stage.exchange
        owed = acknowledged(stage.client.read())
        try:
            found = judge(owed, stage.survivors(), fault_at=self.wall, outside=stage.exchange.executions())
        except Unavailable as error:
            say(f"   {error.message}")
            return {"lost": None, "duplicated": None}
        lost = {*(found.lost or ()), *(self.probes_lost or ())} - self.site.counted
        twice = set(found.duplicated or ()) - self.site.counted
        self.site.counted |= lost | twice
        return {"lost": None if self.probes_lost is None else len(lost), "duplicated": len(twice)}
