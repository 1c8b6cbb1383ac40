"""Configuration, state and logs of the primary out of an independent copy: beside, held to their digests, swapped in.

Databases stay as they are. State and configuration replace what is there, which is kept; the service stands still for
that moment. Logs are never put in place: they are laid beside, to be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from lifeline import room
from lifeline.errors import Refused
from lifeline.model import Evidence, Finding
from lifeline.runbook import Outcome, Runbook, Step
from runbooks.backups import age, size
from runbooks.site import Site, confirm
from runbooks.wanted import STAGE_S, Asked, both_clocks

NAME = "restore-files"
SHOWN = 40
_SIGN = {"added": "+", "changed": "~", "same": "=", "beside": ">"}


def restore_files(
    site: Site,
    want: Asked,
    *,
    yes: bool = False,
    dry_run: bool = False,
    short_of_memory: bool = False,
    ask: Callable[[str], str] = input,
) -> Outcome | None:
    """Bring files of the lease's holder back.  None for a dry run, and where all of them are as in the backup."""
    lease = site.leases.read()
    if lease is None:
        raise Refused("nobody ever held the lease: there is no primary to restore", hint="fab provision")
    if want.at:
        site.say(f"As of {both_clocks(want.at)}.")
    epoch, host = ["--epoch", str(lease.epoch)], lease.holder
    plan = site.hosts[host].verb("restore", *epoch, *want.arguments(), "--plan", timeout=STAGE_S)
    site.say(outline(plan, site.clock.utc()))
    work = FileRestore(site, host, epoch, want.pinned(plan["snapshot_at"], plan["source"]), plan)
    work.flags = ["--low-memory"] if short_of_memory else []
    if dry_run:
        work.runbook().plan()
        return None
    if not work.moved:
        site.say("Everything is as it was in that backup: there is nothing to restore.\n  next: fab validate")
        return None
    room.admit(host, plan, short_of_memory=short_of_memory)
    if work.replaced:
        confirm(site, work.warning(), yes, ask)
    context = {"host": host, **want.context(), "snapshot": plan["snapshot"]}
    return work.runbook().run(site.journal(NAME), context, publish=site.publish)


class FileRestore:
    """Files of ``host`` out of the backup that ``plan`` found; ``want`` names exactly that one."""

    def __init__(self, site: Site, host: str, epoch: list[str], want: Asked, plan: Mapping[str, Any]) -> None:
        self.site, self.host, self.epoch, self.want, self.plan = site, host, epoch, want, plan
        self.moved = [one for one in plan["files"] if one["change"] != "same"]
        self.replaced = [one for one in self.moved if one["change"] != "beside"]
        self.done: dict[str, Any] = {}
        self.flags: list[str] = []

    def warning(self) -> str:
        """What the operator is asked to agree to."""
        changed = sum(one["change"] == "changed" for one in self.replaced)
        return (
            f"This replaces {changed} files on {self.host} and adds {len(self.replaced) - changed}; what was there is "
            "kept. Its databases stay as they are. The service stands still for that moment."
        )

    def runbook(self) -> Runbook:
        steps = [
            Step(
                "the files are beside, each as its backup noted it",
                until=self.staged,
                within=0,
                peek=lambda: Finding.failed("not looked at in a dry run"),
                would=f"unpack {len(self.plan['files'])} files on {self.host} and hold them to their digests",
                hint="fab backups; the same with --at another time, or --from another place",
            )
        ]
        if self.replaced:
            steps.append(
                Step(
                    "they are in place, and the service runs with them",
                    until=self.placed,
                    do=self.place,
                    within=STAGE_S,
                    would="stop the service if it runs, swap, keep what was there, apply the configuration, start it",
                    hint=f"fab validate; then {self.want.command()}",
                )
            )
        return Runbook(NAME, steps, self.summary, self.site.clock, self.site.out)

    def _restore(self, *flags: str) -> dict[str, Any]:
        words = [*self.epoch, *self.want.arguments(), *self.flags, *flags]
        return self.site.hosts[self.host].verb("restore", *words, timeout=STAGE_S)

    def staged(self) -> Finding:
        """Making them is the proof: they are verified where they lie."""
        answer = self._restore("--stage")
        self.done = answer["files"]
        return Finding.passed(f"{len(self.plan['files'])} files, from {answer['source']}", **answer)

    def placed(self) -> Finding:
        if "changed" not in self.done:
            return Finding.failed("what is there is that of before")
        return Finding.passed(f"{len(self.done['changed'])} files", **self.done)

    def place(self) -> Evidence:
        self.done = self._restore()["files"]
        return self.done

    def summary(self, outcome: Outcome) -> str:
        return "\n".join(told(self.host, self.done))


def told(host: str, done: Mapping[str, Any]) -> list[str]:
    """What became of the files, for the operator."""
    lines = [f"{len(done.get('changed') or ())} files of {host} are as they were in that backup."]
    lines.extend(f"What they replaced is in {folder} on {host}." for folder in done.get("kept") or ())
    if done.get("beside"):
        lines.append(f"To look at, not put in place: {done['beside']} on {host} (root's; sudo ls -R).")
    lines.extend(done.get("remarks") or ())
    if "/etc/lifeline/service.env" in (done.get("changed") or ()):
        lines.append(
            "fab provision ships .lifeline/<stack>/service.env to both hosts again: bring that up to date first."
        )
    return [*lines, "  next: fab validate"]


def outline(plan: Mapping[str, Any], now: datetime) -> str:
    """Which backup, how old, what it means, and file by file what would change."""
    lines = [f"not from {one['from']}: {one['why']}" for one in plan.get("tried") or ()]
    lines.append(which(plan, now))
    lines.extend(plan.get("remarks") or ())
    shown = sorted(plan["files"], key=lambda one: one["change"] == "same")
    lines.extend(
        f"  {_SIGN[one['change']]} {one['change']:8} {size(one['bytes']):>9}  {one['path']}" for one in shown[:SHOWN]
    )
    if len(shown) > SHOWN:
        more = sum(one["change"] != "same" for one in shown[SHOWN:])
        lines.append(f"  … and {len(shown) - SHOWN} more, {more} of them to change")
    if not shown:
        lines.append("  that backup holds none of these files")
    lines.extend(f"  . stays    {'':>9}  {path} (not in that backup)" for path in plan["others"][:SHOWN])
    lines.append(f"{size(plan['bytes'])} to read.")
    return "\n".join([*lines, *room.shown(plan)])


def which(plan: Mapping[str, Any], now: datetime) -> str:
    """The backup a plan found, and its age, in a sentence."""
    return f"From {backup_of(plan, now)}: what was changed since then is not in it."


def backup_of(plan: Mapping[str, Any], now: datetime) -> str:
    """The backup a plan found, and its age."""
    old = age(now - datetime.fromisoformat(str(plan["backup_at"])))
    found = f"the {plan['kind']} backup of {both_clocks(plan['backup_at'])}"
    return f"{found}, {old} old, of {plan['host']} ({plan['place']})"
