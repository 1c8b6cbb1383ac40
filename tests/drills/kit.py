"""A provisioned site in the lab, for tests that break it: commands as operators type them, and what strangers see."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

CHECKOUT = Path(__file__).resolve().parents[2]
Env = dict[str, str]


STACK = CHECKOUT / "stacks/Pulumi.lab.yaml"


@contextmanager
def provisioned(env: Env, policy: str = "", alerting: str = "", backups: str = "") -> Iterator[Env]:
    """Two hosts, a primary and a standby that could take over; taken away at the end. ``policy`` and ``backups``: the
    stack's, in its own words, instead of that of the lab's stack file, which stays as it is; ``alerting``: likewise, in
    addition."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Path(folder) / STACK.name
        text = STACK.read_text()
        for key, words in (("policy", policy), ("backups", backups)):
            found, count = re.subn(rf"(?m)^(  lifeline:{key}: )\{{.*\}}$", rf"\g<1>{words}", text)
            assert count == 1, f"the stack file has its {key} on one line"
            text = found if words else text
        more = f"config:\n  lifeline:alerting: {alerting}\n" if alerting else "config:\n"
        stack.write_text(text.replace("config:\n", more, 1))
        run(env, "pulumi", "up", "--yes", "--skip-preview", "--non-interactive", "--config-file", str(stack))
        run(env, "fab", "provision")
    try:
        yield env
    finally:
        run(env, "pulumi", "destroy", "--yes", "--skip-preview", "--non-interactive", code=None)


def run(env: Env, *argv: str, code: int | None = 0, typed: str = "") -> subprocess.CompletedProcess[str]:
    """A command that must end with this exit code; None: with any. ``typed``: what it reads from its keyboard."""
    done = subprocess.run(
        argv, env=env, cwd=CHECKOUT, input=typed, capture_output=True, text=True, timeout=600, check=False
    )
    said = f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert code is None or done.returncode == code, said
    return done


def backed_up(env: Env, *flags: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """`fab backup`, which must end with this exit code; again, while the keeper's own has it refused."""
    made = []

    def done() -> bool:
        made.append(run(env, "fab", "backup", *flags, code=None))
        return "another backup is running" not in made[-1].stderr

    eventually(done, 120, "no other backup runs")
    assert made[-1].returncode == code, f"{made[-1].stdout[-3000:]}\n{made[-1].stderr[-3000:]}"
    return made[-1]


def status(env: Env) -> dict[str, Any]:
    """`fab status --json`, the hosts by name."""
    found: dict[str, Any] = json.loads(run(env, "fab", "status", "--json").stdout)
    found["hosts"] = {host["name"]: host for host in found["hosts"]}
    return found


def eventually(condition: Callable[[], bool], within_s: float, what: str) -> float:
    """Poll until true; the seconds it took. AssertionError with `what` after the deadline."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < within_s, f"not within {within_s} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - begun


def write(address: str, token: str, timeout: float = 5.0, source: str | None = None) -> bool:
    """A user's write straight to a host, whoever it is, from the address ``source``: was it acknowledged?"""
    transport = httpx.HTTPTransport(local_address=source)
    limits = httpx.Timeout(timeout, connect=1.0)
    with httpx.Client(transport=transport, timeout=limits, trust_env=False) as client:
        try:
            return client.post(f"http://{address}:8080/probe", json={"token": token}).is_success
        except httpx.HTTPError:
            return False


def missing(address: str, tokens: list[str]) -> list[str]:
    """Those of the acknowledged writes that a host doesn't have."""
    with httpx.Client(base_url=f"http://{address}:8080", trust_env=False, timeout=5.0) as client:
        return [token for token in tokens if client.get(f"/probe/{token}").status_code != 200]
