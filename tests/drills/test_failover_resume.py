"""On real hosts: `fab failover` killed after a step and typed again ends where one that wasn't killed would have."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lifeline.journal import read_lines

pytestmark = [pytest.mark.lab, pytest.mark.slow]
CHECKOUT = Path(__file__).resolve().parents[2]
JOURNALS = CHECKOUT / ".lifeline/lab/journal"
# The steps after which the next one acts: lease, fence, data, service, traffic.
KILLED_AFTER = (1, 2, 3, 5, 6)


@pytest.fixture(scope="module")
def site(lab_session: Any) -> Iterator[dict[str, str]]:
    """Two provisioned hosts, a primary and a standby; taken away at the end."""
    env: dict[str, str] = lab_session.env
    run(env, "pulumi", "up", "--yes", "--skip-preview", "--non-interactive")
    run(env, "fab", "provision")
    yield env
    run(env, "pulumi", "destroy", "--yes", "--skip-preview", "--non-interactive", check=False)


def run(env: dict[str, str], *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=600, check=False)
    assert not check or done.returncode == 0, f"{' '.join(argv)}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def status(env: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(env, "fab", "status", "--json").stdout)
    return found


def await_standby(env: dict[str, str]) -> dict[str, Any]:
    """Until the standby knows its lag: before, a failover to it is refused, and rightly."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        seen = status(env)
        hosts = {host["name"]: host for host in seen["hosts"]}
        other = next(name for name in hosts if name != seen["lease"]["holder"])
        if hosts[other].get("role") == "standby" and hosts[other]["lag_s"] is not None:
            return seen
        time.sleep(0.5)
    raise AssertionError("the standby doesn't follow")


def kill_after(env: dict[str, str], steps: int) -> int:
    """Start `fab failover --yes`, SIGKILL it when its journal holds ``steps`` steps; how many it holds in the end."""
    before = set(JOURNALS.glob("*-failover-*.jsonl"))
    process = subprocess.Popen(
        ["fab", "failover", "--yes", "--waive", "serving-primary"],  # nothing ails it
        env=env,
        cwd=CHECKOUT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    lines: list[dict[str, Any]] = []
    while process.poll() is None and len(lines) <= steps and time.monotonic() < deadline:
        fresh = set(JOURNALS.glob("*-failover-*.jsonl")) - before
        lines = read_lines(fresh.pop()) if fresh else []
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return len(lines) - 1


@pytest.mark.parametrize("steps", KILLED_AFTER)
def test_killed_after_a_step_it_resumes(site: dict[str, str], steps: int) -> None:
    before = await_standby(site)
    old = before["lease"]["holder"]
    assert kill_after(site, steps) >= steps
    resumed = run(site, "fab", "failover", "--yes")
    after = status(site)
    hosts = {host["name"]: host for host in after["hosts"]}
    new = after["lease"]["holder"]
    assert new != old
    assert after["lease"]["epoch"] == before["lease"]["epoch"] + 1, resumed.stdout
    assert (hosts[new]["role"], hosts[new]["epoch"]) == ("primary", after["lease"]["epoch"])
    assert after["traffic"]["resolves_to"] == [hosts[new]["address"]]
    assert hosts[old]["power"] == "off"
    run(site, "fab", "reprotect", "--yes")
    assert await_standby(site)["lease"]["epoch"] == after["lease"]["epoch"]
