"""`python -m lab.series.costs [--ttl S] [--page]`: what the agent costs its host, and what the lease costs at AWS.

A minute with nobody trading, then a minute under load, on a provisioned pair; processor and memory from /proc, requests
from the notes of the stores' front.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import config, lifecycle
from lab.bench import page as bench
from lab.bench.page import Row, Section
from lab.conduct import ending_in_order, say
from lab.machines import group_of
from lab.outsiders import CHECKOUT, poll
from lab.processes import Group
from lab.scenarios.trials import TRIALS
from lab.series import eyes, page
from lab.series.campaign import BACK_S, STEADY_S
from lab.series.run import Site
from lab.stage import Stage
from lifeline.errors import LifelineError, StepFailed
from lifeline.model import Host

AGENT, LEASE = "What the agent costs", "What the lease store costs"
RATE = 60.0
LOOK_S = 60.0
AGENT_NAME = "lifeline-agent"
MOST_PERCENT, MOST_MB = 1.0, 60.0
MISSED = 6
MONTH_S = 30 * 86400
# AWS's list prices as of writing, S3 Standard, us-east-2, in dollars a request.
PRICES = {"PUT": 0.005 / 1000, "GET": 0.0004 / 1000, "HEAD": 0.0004 / 1000}


@dataclass(frozen=True)
class Used:
    """What a host's agent used over a look: share of one core, and the most of memory that was its own or shared."""

    percent: float
    mb: float


def agent_pids(host: Host) -> list[int]:
    """The agent's process; a pilot that stands by beside it is another program."""
    found = []
    for pid in Group(group_of(int(host.droplet_id))).pids():
        words = _read(f"/proc/{pid}/cmdline").split("\0")
        if any(Path(word).name == AGENT_NAME for word in words):
            found.append(pid)
    return found


def alone(hosts: Sequence[Host]) -> bool:
    """Has no agent a child? It starts a pilot beside it until it has seen the lease renewed, and what an ended one used
    is counted as its own."""
    tasks = (task for host in hosts for pid in agent_pids(host) for task in Path(f"/proc/{pid}/task").glob("*"))
    return not any(_read(f"{task}/children").strip() for task in tasks)


def processor_s(stat: str, ticks: int) -> float:
    """Seconds of processor, its ended children's too, from the text of /proc/PID/stat."""
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / ticks


def resident_mb(status: str) -> float:
    """From the text of /proc/PID/status."""
    return next((int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmRSS:")), 0.0)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def look(hosts: Sequence[Host]) -> dict[str, Used]:
    """Every host's agent over a minute; StepFailed when one of them isn't there, or was another at the end."""
    ticks = os.sysconf("SC_CLK_TCK")
    pids = {host.name: agent_pids(host) for host in hosts}
    before = {name: _processor(found, ticks) for name, found in pids.items()}
    begun, most = time.monotonic(), dict.fromkeys(pids, 0.0)
    while time.monotonic() < begun + LOOK_S:
        for name, found in pids.items():
            most[name] = max(most[name], sum(resident_mb(_read(f"/proc/{pid}/status")) for pid in found))
        time.sleep(1.0)
    took = time.monotonic() - begun
    for host in hosts:
        if len(pids[host.name]) != 1 or agent_pids(host) != pids[host.name]:
            raise StepFailed(f"{host.name} didn't run one agent all the time", hint="fab status")
    return {
        name: Used(100 * (_processor(found, ticks) - before[name]) / took, most[name]) for name, found in pids.items()
    }


def _processor(pids: Sequence[int], ticks: int) -> float:
    return sum(processor_s(stat, ticks) for pid in pids if (stat := _read(f"/proc/{pid}/stat")))


def _most(what: str) -> float | None:
    """What the agent costs whoever doesn't ask it. Under load a primary's waits with every write for the vault, at the
    service's wish: that is stated."""
    return None if what == "primary, under load" else MOST_PERCENT


def agent_section(used: Mapping[str, Used], ttl: int) -> Section:
    """``used``: by role and load, in words."""
    rows = [
        row
        for what, one in used.items()
        for row in (
            Row(f"{what}: share of a core", f"{one.percent:.2f} %", one.percent, _most(what), " %"),
            Row(f"{what}: memory", f"{one.mb:.1f} MB", one.mb, MOST_MB, " MB"),
        )
    ]
    how = (
        f"The process `{AGENT_NAME}` alone, lease ttl {ttl} s, from /proc over a minute each: nobody trades; then "
        f"{RATE:g} orders a second, each waited for at the primary's commit barrier until the vault has it: what that "
        "takes is stated, not judged. Memory is the most that was resident."
    )
    return Section(AGENT, how, tuple(rows))


def lease_section(counted: Counter[str], seconds: float, ttl: int) -> Section:
    """``counted``: requests for the lease by method, over that time."""
    month = {method: round(count / seconds * MONTH_S) for method, count in sorted(counted.items())}
    price = sum(PRICES[method] * count for method, count in month.items())
    rows = [Row(f"{name}s a month", f"{count:,} ({counted[name]} in {seconds:.0f} s)") for name, count in month.items()]
    rows.append(Row("price a month", f"${price:.2f}", price, unit=" $"))
    how = (
        f"Requests of both hosts for the lease over a minute in which nothing happened, lease ttl {ttl} s, times a "
        "month of 30 days, at AWS's list prices as of writing: S3 Standard, us-east-2, $0.005 per 1000 PUT, $0.0004 "
        "per 1000 GET. What is stored is one object; with a shorter ttl the price grows as the ttl shrinks."
    )
    return Section(LEASE, how, tuple(rows))


def lease_requests(noted: Sequence[eyes.Noted], addresses: Sequence[str]) -> Counter[str]:
    """The hosts' own requests for the lease, by method."""
    return Counter(
        one.method
        for one in noted
        if one.from_ in addresses and one.to == config.AWS_S3_ADDRESS and "/lease/" in one.path
    )


def measure(stage: Stage, ttl: int) -> tuple[Section, Section]:
    """Both sections, from a site that is brought up for it."""
    trial = TRIALS["power-cut"]
    inventory = stage.prepare(trial.policy(ttl))
    os.environ.update(stage.env)
    scene = Site(stage, trial, eyes.Stores(inventory, stage.env), BACK_S).paired()
    roles = {scene.old.name: "primary", scene.new.name: "standby"}
    used: dict[str, Used] = {}
    if not poll(lambda: alone(inventory.hosts), BACK_S):
        raise StepFailed(
            f"a pilot still runs on a host that nothing happened to after {BACK_S:.0f} s", hint="fab status"
        )
    notes, begun = eyes.Notes(), time.monotonic()
    with stage.record.step("a minute with nobody trading"):
        used |= {f"{roles[name]}, idle": one for name, one in look(inventory.hosts).items()}
    seconds = time.monotonic() - begun
    counted = lease_requests(notes.read(), [host.address for host in inventory.hosts])
    stage.trade(STEADY_S)
    with stage.record.step("a minute under load"):
        used |= {f"{roles[name]}, under load": one for name, one in look(inventory.hosts).items()}
    return agent_section(used, ttl), lease_section(counted, seconds, ttl)


def main(argv: Sequence[str]) -> int:
    """Exit code 0 when every promise is kept."""
    parser = argparse.ArgumentParser(prog="lab.series.costs", description="Measures the agent's and the lease's cost.")
    parser.add_argument("--ttl", type=int, default=30, help="of the lease, in seconds (default 30)")
    parser.add_argument("--page", action="store_true", help="put the sections into docs/failover.md")
    arguments = parser.parse_args(argv)
    lifecycle.require_root()
    stage = Stage(CHECKOUT, "costs", RATE)
    try:
        with ending_in_order():
            sections = measure(stage, arguments.ttl)
    except LifelineError as error:
        say(f"{type(error).__name__}: {error}")
        return error.exit_code
    finally:
        stage.stop(keep=False)
    for section in sections:
        say(bench.render(section))
        if arguments.page:
            page.put_section(page.PAGE, section.title, bench.render(section))
    return 0 if all(section.kept for section in sections) else MISSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
