"""Restore: the primary's databases from the vault, beside, verified, swapped; then served under a new epoch.

For data that is wrong or damaged while the primary's host is well.  The databases that were there are kept on the host.
The restored data begins a new epoch: a replica that goes back in time isn't a continuation of the old one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lifeline import admission, room
from lifeline.errors import BadInput, LifelineError, NotDone, Refused, Unavailable
from lifeline.journal import Begun, unfinished
from lifeline.model import Finding, Lease
from lifeline.runbook import Outcome, Runbook, Step, check_waivers
from runbooks.fence import fence_of, fence_step
from runbooks.files import backup_of, outline, restore_files, told
from runbooks.here import HERE, copy_here
from runbooks.promotion import FINALIZE_S, Promotion, outside_step, reprotect_step, serve_step, traffic_step
from runbooks.site import Site, confirm
from runbooks.wanted import STAGE_S, Asked, asked, both_clocks

NAME = "restore"
PLAN_S = 300.0
WAIVE_OLDER = "older-source"
WAIVERS = (admission.WAIVE_FENCE, admission.WAIVE_TRAFFIC, admission.WAIVE_WRITE, WAIVE_OLDER, room.WAIVER)


def restore(
    site: Site,
    at: str | None = None,
    *,
    txid: str | None = None,
    source: str | None = None,
    only: Sequence[str] = (),
    yes: bool = False,
    dry_run: bool = False,
    waive: tuple[str, ...] = (),
    ask: Callable[[str], str] = input,
) -> Outcome | None:
    """Bring the primary's databases back to ``at`` (default: the end of its replica); ``only`` other parts of a backup,
    or those too.  None for a dry run."""
    waived = check_waivers(waive, WAIVERS)
    want, short_of_memory = asked(at, txid, source, only), room.WAIVER in waived
    if not want.databases:
        return restore_files(site, want, yes=yes, dry_run=dry_run, short_of_memory=short_of_memory, ask=ask)
    if want.at:
        site.say(f"As of {both_clocks(want.at)}.")
    work = prepare(site, want, waived)
    runbook = work.runbook()
    if work.plan:
        site.say(work.outline())
    if dry_run:
        runbook.plan()
        return None
    if work.plan:
        room.admit(work.host, work.plan, short_of_memory=short_of_memory)
        work.admit()
    confirm(site, work.warning(), yes, ask)
    journal = site.journal(NAME)
    work.promotion.run_id = journal.run_id
    return runbook.run(journal, work.context(), waived, publish=site.publish)


def inspect(
    site: Site,
    to: str,
    at: str | None = None,
    *,
    txid: str | None = None,
    source: str | None = None,
    only: Sequence[str] = (),
    waive: tuple[str, ...] = (),
) -> dict[str, Any]:
    """A verified copy into HOST:PATH, to be looked at; nothing else is touched, and no lease is needed. The host "here"
    is this machine."""
    waived, want = check_waivers(waive, (room.WAIVER,)), asked(at, txid, source, only)
    host, colon, path = to.partition(":")
    names = [known.name for known in site.inventory.hosts]
    if not colon or not path.startswith("/"):
        hint = f"fab restore --to {names[-1]}:/var/tmp/copy; or {HERE}:/srv/copy, this machine"
        raise BadInput(f'"{to}" is no HOST:PATH', hint=hint)
    if host not in (*names, HERE):
        known = ", ".join((*names, HERE))
        raise BadInput(f'"{host}" is no host of this stack; known: {known}', hint="fab status")
    if want.at:
        site.say(f"As of {both_clocks(want.at)}.")
    epoch = _newest_epoch(site, want)
    if host == HERE:
        found = copy_here(site.root, site.inventory, want, Path(path), epoch, bool(waived), site.say)
    else:
        flags = ["--low-memory"] if waived else []
        words = ["--epoch", str(epoch), *want.arguments(), "--to", path, *flags]
        found = site.hosts[host].verb("restore", *words, timeout=STAGE_S)
    _tell(site, host, path, want, found)
    return found


def _newest_epoch(site: Site, want: Asked) -> int:
    """By the lease; what restic has is found without it."""
    try:
        lease = site.leases.read()
    except Unavailable:
        if want.source not in ("snapshot", "local"):
            raise
        return 1
    return lease.epoch if lease else 1


def _tell(site: Site, host: str, path: str, want: Asked, found: Mapping[str, Any]) -> None:
    for one in found["tried"]:
        site.say(f"not from {one['from']}: {one['why']}")
    for name, copy in found["paths"].items():
        txid_says = f", transaction {found['txids'][name]}" if found["txids"].get(name) else ""
        site.say(f"{name}: {host}:{copy}, from {found['source']}{txid_says}, verified, after {found['seconds']:.1f} s.")
    if want.only != ("database",):
        as_of = f" as of {both_clocks(found['at'])}" if found["at"] else ""
        site.say(f"{found['files']} files{as_of}: below {host}:{path}, from {found['source']}, verified.")
    for remark in found.get("remarks") or ():
        site.say(remark)
    whose = f"yours alone: ls -R {path}" if host == HERE else f"root's: sudo ls -R {path}"
    site.say(f"All of it is {whose}. Nothing of it is served; remove it when you have looked.")


def prepare(site: Site, want: Asked, waived: frozenset[str] = frozenset()) -> Restoration:
    """Look and decide, without touching anything; raises the refusal if it is one: also the host's own, of what it
    could begin and not end."""
    lease = site.leases.read()
    if lease is None:
        raise Refused("nobody ever held the lease: there is no primary to restore", hint="fab provision")
    begun = unfinished(site.journals, NAME)
    took = begun is not None and begun.took(lease)
    source = _source(lease, want, begun if took else None)
    observed = site.observe(lease.holder)
    if observed.role == "standby":
        why = f"{lease.holder} holds the lease and is still a standby: a failover to it is half done"
        raise Refused(why, hint="fab failover")
    promotion = Promotion(site, lease.holder, lease, site.service(lease.holder), observed)
    # A restore that took its lease already goes on with it; a new one takes the next.
    promotion.epoch = lease.epoch if took else lease.epoch + 1
    resumed = begun.context if begun and _is_this(begun, promotion, want) else None
    work = Restoration(promotion, source, want, fenced=_needs_fence(promotion, resumed), waived=waived)
    if resumed is None and (work.in_place() or work.of_no_epoch()):
        raise _half_done(begun, promotion)
    if not work.in_place():
        work.look()
    return work


class Restoration:
    """The primary's databases, restored in place as was ``asked``, from epoch ``source`` or before."""

    def __init__(
        self,
        promotion: Promotion,
        source: int,
        want: Asked,
        fenced: bool = False,
        waived: frozenset[str] = frozenset(),
    ) -> None:
        self.fenced = fenced
        self.promotion = promotion
        self.site = promotion.site
        self.host = promotion.new.name
        self.source = source
        self.want = want
        self.waived = waived
        self.kept: list[str] = []
        self.came = "swapped"
        self.exactly = want
        self.plan: dict[str, Any] = {}
        self.files: dict[str, Any] = {}

    def look(self) -> None:
        """What it takes, as the host sees it. A backup is found now, and exactly that one meant from here on: another
        may be taken meanwhile."""
        self.plan = self.site.hosts[self.host].verb("restore", *self._arguments, "--plan", timeout=PLAN_S)
        if self.want.from_backup:
            self.exactly = self.want.pinned(self.plan["snapshot_at"], self.plan["source"])

    @property
    def _older(self) -> str:
        """What is had instead, where the newest data can't be; "": it can."""
        plan = self.plan
        if not plan.get("tried"):
            return ""
        if "backup_at" in plan:
            return backup_of(plan, self.site.clock.utc())
        points = ", ".join(f"{name} up to transaction {txid}" for name, txid in plan["txids"].items())
        return f"the replica ({plan['source']}), {points}"

    def admit(self) -> None:
        """Refuse older data than what was asked for; the host itself would, at a swap, when nobody serves any more."""
        if not self._older or WAIVE_OLDER in self.waived:
            return
        tried = "; ".join(f"{one['from']}: {one['why']}" for one in self.plan["tried"])
        back = "" if self.promotion.observed.service_running else self._back()
        raise Refused(
            f"the newest data can't be restored ({tried}). What can be: {self._older}; everything after that is lost. "
            f"Nothing was touched{f'; {self.promotion.service.name} was stopped before' if back else ''}",
            hint=f"to take it: the same command with --waive {WAIVE_OLDER}{back}",
        )

    def _back(self) -> str:
        """Behind a hint: what serves again the data that a stopped primary has; "" where it isn't its own."""
        own = self.promotion.observed.live_epoch == self.promotion.lease.epoch
        return f"; to serve again what is on {self.host}, as it is: fab provision" if own else ""

    @property
    def _arguments(self) -> list[str]:
        flags = {WAIVE_OLDER: "--older", room.WAIVER: "--low-memory"}
        waived = [flag for name, flag in flags.items() if name in self.waived]
        return ["--epoch", str(self.source), *self.exactly.arguments(), *waived]

    @property
    def _when(self) -> str:
        want = self.exactly
        what = f"as of {both_clocks(want.at)}" if want.at else f"as of transaction {want.txid}" if want.txid else ""
        where = f"from {want.source}" if want.source else ""
        return " ".join(filter(None, (what, where))) or f"to the end of epoch {self.source}"

    def context(self) -> dict[str, object]:
        """For the journal's first line; ``prepare`` reads it when it resumes."""
        lease = self.promotion.lease
        return {
            "host": self.host,
            **self.want.context(),
            "source_epoch": self.source,
            "epoch": self.promotion.epoch,
            "fenced": self.fenced,
            "lease_run_id": lease.run_id if lease.epoch == self.promotion.epoch else self.promotion.run_id,
        }

    def warning(self) -> str:
        """What the operator is asked to agree to."""
        lost = "Everything written after it is undone" if self.want.fixed else "Nothing that is in the vault is undone"
        by = f"copies {self._when}"
        if self._older:
            by, lost = self._older, "EVERYTHING WRITTEN AFTER THAT IS LOST: the newest data can't be restored"
        host, files = self.host, sum(one["change"] in ("added", "changed") for one in self._files())
        also = f", and {files} files of the same moment" if files and self.want.from_backup else ""
        return (
            f"This stops {self.promotion.service.name} on {host}, replaces its databases by {by}{also},"
            f" and serves them as epoch {self.promotion.epoch}. {lost}; what is there now is kept on the host."
        )

    def _files(self) -> Sequence[Mapping[str, Any]]:
        """Of a backup; a replica's plan only counts its own."""
        return self.plan["files"] if "backup_at" in self.plan else ()

    def runbook(self) -> Runbook:
        steps = self.steps(again="fab restore")
        # To a time: most of the work is done while the service goes on.  To the end: the end must stand still first.
        ordered = [self._beside(), *steps] if self.want.fixed else steps
        if self.fenced:
            ordered.insert(0, fence_step(fence_of(self.promotion)))
        return Runbook(NAME, ordered, self.summary, self.site.clock, self.site.out)

    def _beside(self) -> Step:
        return Step(
            f"a copy {self._when} is restored beside and verified",
            until=self.staged,
            within=0,
            peek=lambda: Finding.failed("not looked at in a dry run"),
            would=f"restore beside the live databases of {self.host} and verify, while {self.promotion.service.name} "
            "goes on",
            hint="fab restore --at another time",
        )

    def steps(self, again: str) -> list[Step]:
        """From the stop to the standby.  ``again``: the command that resumes it."""
        promotion, epoch = self.promotion, self.promotion.epoch
        service = promotion.service.name
        return [
            Step(
                f"{service} is stopped on {self.host}",
                until=self.stopped,
                do=self.stop,
                within=120,
                would="bring its last writes into the vault, stop it and Litestream",
            ),
            Step(
                "the restored databases are in place",
                until=self.swapped,
                do=self.swap,
                within=STAGE_S,
                would="restore beside and verify if that wasn't done, swap, keep the old ones",
                hint=again,
            ),
            Step(
                f"{self.host} holds the lease, epoch {epoch}",
                until=self.leased,
                do=promotion.take_lease,
                within=10,
                would=f"take epoch {epoch}",
            ),
            Step("data is verified", until=promotion.data_verified, within=0, peek=_later, hint="fab restore --at"),
            serve_step(promotion, again=again),
            traffic_step(promotion.traffic, again=again),
            outside_step(promotion),
            reprotect_step(promotion),
        ]

    def staged(self) -> Finding:
        """Making the copy is the proof: it is verified where it lies, and the verb does nothing the second time."""
        if self.in_place():
            return Finding.passed("in place already")
        answer = self.site.hosts[self.host].verb("restore", *self._arguments, "--stage", timeout=STAGE_S)
        return Finding.passed(_from(answer), databases=answer["databases"], tried=answer.get("tried"))

    def stopped(self) -> Finding:
        seen = self.promotion.observed = self.site.observe(self.host)
        if self.in_place():
            return Finding.passed("the restored data is in place already")
        if seen.role == "primary" or seen.service_running or seen.litestream_running:
            return Finding.failed(f"its role is {seen.role}", role=seen.role)
        return Finding.passed("nothing runs")

    def stop(self) -> None:
        """A damaged database may not let its last writes be flushed; going back in time doesn't need them."""
        flags = ["--no-flush"] if self.want.fixed else []
        self.site.hosts[self.host].verb("stop-service", *flags, timeout=FINALIZE_S)

    def swapped(self) -> Finding:
        self.promotion.observed = self.site.observe(self.host)
        if self.in_place():
            return Finding.passed(f"{self.came}{'; the old ones are kept' if self.kept else ''}", kept=self.kept)
        return Finding.failed("the live databases are those of before")

    def swap(self) -> None:
        try:
            answer = self.site.hosts[self.host].verb("restore", *self._arguments, timeout=STAGE_S)
        except LifelineError as error:
            self._tell_stopped(error)
            raise
        self.came, self.files = _from(answer), answer.get("files") or {}
        self.kept = [str(item["kept"]) for item in answer["databases"] if item.get("kept")]

    def _tell_stopped(self, error: LifelineError) -> None:
        """What only the swap found out has stopped the service: say so, and what serves again. Not where the answer may
        have been lost: then it may be in place."""
        if isinstance(error, Unavailable) and not isinstance(error, NotDone):
            return
        with contextlib.suppress(LifelineError):
            self.promotion.observed = self.site.observe(self.host)
            if not self.in_place():
                service = self.promotion.service.name
                error.message += f". {service} IS STOPPED on {self.host}; its databases are those of before, untouched"
                error.hint = f"{error.hint or 'fab status'}{self._back()}"

    def leased(self) -> Finding:
        lease = self.site.leases.read()
        if lease is None or lease.holder != self.host or lease.epoch > self.promotion.epoch:
            raise Refused("somebody else took the lease meanwhile", hint="fab status")
        self.promotion.lease = lease
        says = f"{lease.holder} holds epoch {lease.epoch}"
        return Finding.passed(says) if lease.epoch == self.promotion.epoch else Finding.failed(says)

    def outline(self) -> str:
        """What it takes, for the operator."""
        seen = self.plan
        refused = f"THE DATA IS OLDER: it is refused, unless --waive {WAIVE_OLDER}."
        older = [refused] if self._older and WAIVE_OLDER not in self.waived else []
        if "backup_at" in seen:
            return "\n".join([outline(seen, self.site.clock.utc()), *older])
        lines = [f"not from {one['from']}: {one['why']}" for one in seen.get("tried") or ()]
        points = ", ".join(f"{name} at transaction {txid}" for name, txid in seen["txids"].items())
        lines.append(f"From {seen['source']}, epoch {seen['epoch']}: {points}; {seen['files']} files.")
        lines.append(f"{seen['bytes'] / 1e6:.1f} MB to read, about {seen['expected_s']:.0f} s.")
        lines.append(f"Transactions behind that point in the replica, undone by it: {seen['transactions_lost']}.")
        return "\n".join([*lines, *room.shown(seen), *older])

    def in_place(self) -> bool:
        """Swapped in: the live databases belong to no epoch, or to the new one already. What an interrupted swap left,
        old or new or some of each, has no origin: it is swapped again."""
        seen = self.promotion.observed
        if seen.live_epoch is not None:
            return seen.live_epoch == self.promotion.epoch
        return self.of_no_epoch() and seen.origin_noted

    def of_no_epoch(self) -> bool:
        """Are there databases of no epoch, as a restore leaves them? Those that a failover brought to an epoch's end
        belong to none either: `finalized` tells them apart."""
        seen = self.promotion.observed
        there = bool(seen.databases) and all(copy.exists for copy in seen.databases)
        return there and (seen.role, seen.live_epoch, seen.finalized) == ("none", None, None)

    def summary(self, outcome: Outcome) -> str:
        lines = [f"{self.host} serves epoch {self.promotion.epoch}, after {outcome.seconds:.1f} s."]
        lines.extend(f"The old database is at {path} on {self.host}." for path in self.kept)
        if self.files.get("changed") or self.files.get("beside"):
            lines.extend(told(self.host, self.files))
        lines.append(f"  next: {'fab reprotect' if self.promotion.missing else 'fab validate'}")
        return "\n".join(lines)


def _later() -> Finding:
    return Finding.failed("only restored data can be verified")


def _from(answer: Mapping[str, Any]) -> str:
    epoch = f", epoch {answer['source_epoch']}" if answer.get("source_epoch") else ""
    failed = "".join(f"; not from {one['from']}: {one['why']}" for one in answer.get("tried") or ())
    return f"from {answer.get('source', 'the replica')}{epoch}{failed}"


def _source(lease: Lease, want: Asked, begun: Begun | None) -> int:
    """The newest epoch to restore from; the host goes back from there as far as it must.

    ``begun``: our unfinished restore that took the lease; Refused if it is of something else.
    """
    if begun is None:
        return lease.epoch
    if _asked_by(begun) != want:
        why = f"a restore of something else is half done on {lease.holder}: finish it first"
        raise Refused(why, hint=_asked_by(begun).command())
    return int(begun.context["source_epoch"])


def _half_done(begun: Begun | None, promotion: Promotion) -> Refused:
    """Swapped in by another restore than the one that is asked for; nobody serves."""
    host, lease = promotion.new.name, promotion.lease
    why = f"the databases on {host} belong to no epoch: another restore is half done there, and nobody serves"
    if begun and (begun.context["host"], begun.context["epoch"]) == (host, promotion.epoch):
        return Refused(why, hint=_asked_by(begun).command())
    return Refused(
        f"{why}. It wasn't begun from this machine: its journal is on the one where it was, and if it was killed "
        "nowhere else",
        hint="on that machine the same fab restore again: it goes on. If that machine is gone: fab failover --dry-run "
        f"(serves the standby's copy, the end of epoch {lease.epoch}, with what the restore was to undo)",
    )


def _asked_by(begun: Begun) -> Asked:
    return Asked.of_context(begun.context)


def _is_this(begun: Begun, promotion: Promotion, want: Asked) -> bool:
    """Databases without an epoch are our unfinished restore's own, if it is this one."""
    context = begun.context
    return (context["host"], _asked_by(begun), context["epoch"]) == (promotion.new.name, want, promotion.epoch)


def _needs_fence(promotion: Promotion, resumed: Mapping[str, Any] | None) -> bool:
    """A holder of the lease that never served its epoch is a failover half done: the other host may still serve."""
    if resumed is not None:
        return bool(resumed.get("fenced"))
    return promotion.observed.live_epoch != promotion.lease.epoch
