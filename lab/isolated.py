"""`fab drill --isolated`: a failover on an isolated copy of a stack, made for it out of the stack's vault.

Nobody's traffic moves, and the stack's own hosts are not touched: the primary that is powered off is the copy's. What
costs money is torn down, whatever happens: at the end of the drill, by a guard that outlives it where it is killed, and
where the machine died by the next drill, or `fab drill --tear-down`.
"""

from __future__ import annotations

import fcntl
import functools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lab import report, stranger
from lab.conduct import ending_in_order, say, undisturbed
from lab.outsiders import poll
from lab.scenarios.criteria import Criterion, criterion
from lab.stage import journal_lines
from lab.stranger import Course, Story, Stranger
from lifeline import inventory as inventories
from lifeline.accounts import Accounts
from lifeline.cloud import DigitalOcean
from lifeline.duties import ISOLATED
from lifeline.errors import LifelineError, Refused, StepFailed
from lifeline.inventory import Loaded
from lifeline.journal import SystemClock
from lifeline.objectives import OBJECTIVES
from lifeline.service import Service
from lifeline.vault import key_from_environment, open_store
from runbooks import isolated as copies
from runbooks.doors import site_of
from runbooks.failover import failover
from runbooks.isolated import AGAIN, Copy, copy_of, stack_of
from runbooks.isolating import NAME, Making, make
from runbooks.site import Site, confirm
from runbooks.stack import Stack

COMMAND, RECOVERY = "fab drill --isolated", "fab failover --yes"
OFF_S = 60.0
FULL = "full disaster recovery"
STORY = Story(
    ISOLATED,
    "Failover on an isolated copy",
    "Out of the stack's vault a copy is made, with hosts, buckets and names of its own. Its primary is powered off "
    "while a stranger writes, and an operator types one command. Nothing of it is left afterwards.",
    RECOVERY,
    fault="the copy's primary is powered off by the cloud's API",
    goes_on=COMMAND,
)


@dataclass
class Isolated:
    """What is known of one drill beside its course."""

    copy: Copy
    stack: Stack
    cloud: DigitalOcean
    making: Making | None = None
    full_s: float | None = None  # from the command to a stranger's first write on the copy
    before: tuple[object, ...] = ()  # the stack's lease and record
    left: str = ""  # what could not be torn down

    def criteria(self, course: Course) -> list[Criterion]:
        """What must be shown beside what any stranger's drill shows."""
        making, limit = self.making, OBJECTIVES[FULL].max_s
        served = bool(making and making.plans) and self.full_s is not None
        full = None if self.full_s is None else self.full_s <= limit
        alone = _untouched(course.site, self.before)
        return [
            criterion("the copy served what the stack's vault holds", served or None, self._data()),
            criterion("it was made within the maximum of a full recovery", full, report.seconds(self.full_s)),
            *course.criteria(),
            criterion(
                "the stack's vault was only read",
                bool(making and making.only_reads) or None,
                "by a key whose write was refused",
            ),
            criterion("the stack itself was left alone", alone, "its lease and its name are as they were"),
            criterion("nothing of the copy is left", not self.left, self.left or "by Pulumi, and the account's lists"),
        ]

    def _data(self) -> str:
        if self.making is None or not self.making.plans:
            return "nothing was copied"
        data = self.making.data()
        return f"epoch {data.epoch}, {data.points}"


def isolated(
    site: Site, *, yes: bool = False, dry_run: bool = False, ask: Callable[[str], str] = input
) -> tuple[Path | None, int]:
    """Hold it; its folder and the exit code, no folder for a dry run.  Raises what is wrong before anything is made."""
    root, cloud = site.root, DigitalOcean.from_environment(site.inventory.cloud_api)
    copy = copy_of(site.inventory, datetime.now(UTC))
    if not dry_run:
        clear(root, cloud)
    stack = stack_of(root, copy)
    service = Service.load(root / "services" / copy.service / "service.toml")
    stranger.can_write_to(service)
    copies.admit(site, copy, stack, cloud)
    settings = Stack(root, copy.of, COMMAND).settings()
    warning = _warning(site, copy, copies.price(settings, cloud))
    if dry_run:
        site.say(warning)
        return None, 0
    confirm(site, warning, yes, ask)
    drill = Isolated(copy, stack, cloud)
    course = Course(STORY, site, site.inventory)
    with held(root, copy.stack):
        copies.write_note(root, copy)
        guard(root, copy)
        try:
            with ending_in_order():
                _hold(drill, course, service, settings)
        except BaseException as error:
            course.broke_off(error)
        with undisturbed():
            try:
                tear_down(root, copy, cloud)
            except LifelineError as error:
                drill.left = str(error)
            return course.folder, _finish(drill, course)


def _warning(site: Site, copy: Copy, price: str) -> str:
    return (
        f"This makes an isolated copy of {copy.of}: {' and '.join(copy.hosts)}, three buckets, {copy.domain} and a "
        f"lease of its own, by pulumi up as the stack {copy.stack}. It reads {site.inventory.vault.bucket} by a key "
        f"that can do nothing else, powers the copy's primary off, fails over, and destroys all of the copy again. "
        f"{copy.of} itself is not touched. Its alerts about the copy's hosts may reach {copy.of}'s mailbox.\n"
        f"It costs {price}\nIs this machine lost meanwhile, it goes on costing until: {AGAIN}"
    )


# -- the course of it


def _hold(drill: Isolated, course: Course, service: Service, settings: dict[str, object]) -> None:
    site, root, began = course.site, course.site.root, course.begun
    drill.before = _standing(site)
    drill.making = Making(
        site=site,
        copy=drill.copy,
        stack=drill.stack,
        cloud=drill.cloud,
        service=service,
        settings=settings,
        open_store=open_store,
        operator=key_from_environment("SPACES"),
        reopen=functools.partial(_opened, root),
    )
    drill.full_s = make(drill.making, began)
    fresh = drill.making.fresh
    assert fresh is not None
    course.inventory, course.old = fresh.inventory, drill.making.home
    course.new = fresh.inventory.other(course.old).name
    writer = Stranger(fresh.outside, service)
    writer.start()
    try:
        if not writer.gets_through():
            raise StepFailed(
                f"a stranger can't write through {fresh.inventory.record.fqdn}: {writer.said}", hint=COMMAND
            )
        _strike(course, drill.cloud, fresh, writer)
    finally:
        writer.end()
        if course.wall is not None:
            course.took_s = time.time() - course.wall
            course.met(writer, fresh.outside, service)
        fresh.close()


def _strike(course: Course, cloud: DigitalOcean, fresh: Site, writer: Stranger) -> None:
    """Off with the primary, and the operator's command, as from a keyboard that knew of nothing before."""
    old = fresh.inventory.host(course.old)
    say(f"── disaster: {old.name} is powered off")
    course.wall = time.time()
    cloud.power_off(old.droplet_id)
    if not poll(lambda: cloud.power_state(old.droplet_id) == "off", OFF_S):
        raise StepFailed(f"the cloud has not powered {old.name} off within {OFF_S:.0f} s", hint=COMMAND)
    with _opened(course.site.root, fresh.loaded) as anew:
        failover(anew, yes=True)
    writer.reaches(fresh.inventory.host(course.new).address, since=len(writer.acks))


def _opened(root: Path, loaded: Loaded) -> Site:
    return site_of(root, loaded, ssh_key=copies.key_path(root, loaded.inventory.stack))


def _standing(site: Site) -> tuple[object, ...]:
    """The stack's lease and name: what must be the same afterwards."""
    lease, record = site.leases.read(), site.cloud.record(site.inventory.record)
    return (lease.holder, lease.epoch, record.address) if lease else (None, 0, record.address)


def _untouched(site: Site, before: tuple[object, ...]) -> bool | None:
    """None: it can't be told; also where they moved, which need not have been this drill."""
    try:
        return True if before and _standing(site) == before else None
    except LifelineError:
        return None


def _finish(drill: Isolated, course: Course) -> int:
    course.folder.mkdir(parents=True, exist_ok=True)
    lines = journal_lines(course.site.root, drill.copy.stack, course.started.timestamp(), course.folder)
    steps = [report.runbook_step(line, COMMAND if NAME in line["run_id"] else RECOVERY, course.wall) for line in lines]
    code = stranger.finish(course, drill.criteria(course), steps, {FULL: drill.full_s})
    if drill.left:
        say(f"  STILL THERE, and it costs money: {drill.left}\n  next: {AGAIN}")
        return code or StepFailed.exit_code
    return code


# -- its end, also after a crash


@contextmanager
def held(root: Path, stack: str, *, wait: bool = False) -> Iterator[None]:
    """One process at a time has to do with a copy; the kernel lets go for one that is killed.  Refused while another
    has, unless this ``wait`` s for it."""
    path = inventories.folder(root, stack) / "lock"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Refused(f"a drill with {stack} is on, or it is being torn down", hint="wait for its end") from None
        yield


def guard(root: Path, copy: Copy) -> None:
    """A process that waits for this one's end, and tears down what it has left."""
    log = inventories.folder(root, copy.stack) / "guard.log"
    with log.open("ab") as file:
        subprocess.Popen(
            [sys.executable, "-m", "lab.isolated", copy.stack],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def tear_down(root: Path, copy: Copy, cloud: DigitalOcean) -> None:
    """By whoever holds its lock."""
    say(f"── {copy.stack} is torn down")
    accounts = Accounts(key_from_environment("AWS"))
    copies.tear_down(root, copy, stack_of(root, copy), cloud, accounts, SystemClock(), lambda line: say(f"   {line}"))
    say("   nothing of it is left")


def clear(root: Path, cloud: DigitalOcean) -> None:
    """What drills of before have left: nobody else is going to."""
    for copy in copies.noted(root):
        with held(root, copy.stack):
            say(f"A drill of {copy.since} has left its copy of {copy.of}.")
            tear_down(root, copy, cloud)


def end(site: Site, *, yes: bool = False, dry_run: bool = False, ask: Callable[[str], str] = input) -> None:
    """`fab drill --tear-down`: of the copies that were begun here, and the stack's own, wherever it was begun."""
    root, cloud = site.root, DigitalOcean.from_environment(site.inventory.cloud_api)
    found = {copy.stack: copy for copy in copies.noted(root)}
    own = copy_of(site.inventory, datetime.now(UTC))
    if own.stack not in found and _stands(own, root, cloud):
        found[own.stack] = own
    if not found:
        site.say("There is no isolated copy: nothing to tear down.")
        return
    for copy in found.values():
        what = (
            f"This destroys {copy.stack}, the isolated copy of {copy.of}: {', '.join(copy.hosts)}, its buckets, names"
        )
        if dry_run:
            site.say(f"{what} and keys. Its journals stay.")
            continue
        confirm(
            site, f"{what} and keys. Its journals stay. If a drill with it is on elsewhere, that breaks off.", yes, ask
        )
        with held(root, copy.stack):
            tear_down(root, copy, cloud)


def _stands(copy: Copy, root: Path, cloud: DigitalOcean) -> bool:
    return stack_of(root, copy).exists() or any(cloud.droplet_id(name) for name in copy.hosts)


def main(stack: str, root: Path) -> int:
    """The guard: the lock is its when the drill has ended, or was killed."""
    with held(root, stack, wait=True):
        if not copies.note_path(root, stack).exists():
            return 0
        copy = copies.read_note(copies.note_path(root, stack))
        loaded = inventories.load(root, copy.of)
        try:
            tear_down(root, copy, DigitalOcean.from_environment(loaded.inventory.cloud_api))
        except LifelineError as error:
            say(str(error))
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], inventories.project_root()))
