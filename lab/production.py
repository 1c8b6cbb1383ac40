"""`fab drill --production`: the switchover of a stack that serves, with its traffic, measured from outside.

Nothing is simulated and nobody is spared: the service stops on the primary and goes on on the standby, in order, by the
runbook that `fab switchover` is. So it is asked twice, and there is no --yes. What counts is what a stranger met who
wrote through the public name all the while, and asked for its address each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from lab import report, stranger
from lab.conduct import ending_in_order, say, undisturbed
from lab.stage import journal_lines
from lab.stranger import Course, Story, Stranger
from lifeline.duties import PRODUCTION
from lifeline.errors import Refused
from lifeline.service import Service
from runbooks.site import Site
from runbooks.switchover import switchover

COMMAND = "fab switchover"
STORY = Story(
    PRODUCTION,
    "Switchover in production",
    "The service moves to the other host, in order, with everybody's traffic. A stranger writes all the while.",
    COMMAND,
    fault="none: a switchover in order",
    goes_on=f"{COMMAND} goes on with it",
)


def production(site: Site, ask: Callable[[str], str] = input) -> tuple[Path, int]:
    """Hold it; its folder and the exit code. Before anything is touched it raises what is wrong, afterwards that is in
    the report."""
    lease = site.leases.read()
    if lease is None or lease.released:
        raise Refused("nobody is primary: that is no drill", hint="fab status")
    service = site.service(lease.holder)
    stranger.can_write_to(service)
    course = Course(STORY, site, site.inventory, lease.holder, site.inventory.other(lease.holder).name)
    try:
        with ending_in_order():
            _hold(course, service, ask)
    except BaseException as error:
        if course.wall is None:
            raise
        course.broke_off(error)
    with undisturbed():
        course.folder.mkdir(parents=True, exist_ok=True)
        lines = journal_lines(site.root, site.inventory.stack, course.wall or 0.0, course.folder)
        steps = [report.runbook_step(line, COMMAND, course.wall) for line in lines]
        code = stranger.finish(course, course.criteria(), steps, {})
        say(f"  next: fab status{'' if course.error else '; home again: fab failback'}")
    return course.folder, code


def _hold(course: Course, service: Service, ask: Callable[[str], str]) -> None:
    """From the questions to the measurement. Refused where it isn't one to hold."""
    site = course.site
    ask_for_the_stack(site, course.old, course.new, ask)
    writer = Stranger(site.outside, service)
    writer.start()
    try:
        if not writer.gets_through():
            says = f"a stranger can't write through {site.inventory.record.fqdn}: {writer.said}"
            raise Refused(f"{says}. That is an incident, not a drill", hint="fab status")
        _move(course, writer, ask)
    finally:
        writer.end()
        if course.wall is not None:
            course.took_s = time.time() - course.wall
            course.met(writer, site.outside, service)


def _move(course: Course, writer: Stranger, ask: Callable[[str], str]) -> None:
    def answered(text: str) -> str:
        answer = ask(text)
        if answer.strip().lower() == "yes":
            course.wall = time.time()
        return answer

    switchover(course.site, course.new, ask=answered)
    writer.reaches(course.inventory.host(course.new).address, since=len(writer.acks))


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
