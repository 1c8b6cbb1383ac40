"""On real hosts: a copy of a stack is made out of its vault, fails over, and goes; also where the drill is killed amid
`pulumi up`, with Pulumi and all.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import pytest

from lifeline import inventory as inventories
from lifeline.accounts import Accounts
from lifeline.cloud import DigitalOcean
from lifeline.standing import USER
from lifeline.vault import key_from_environment
from runbooks.isolated import Copy, copy_of, note_path
from tests.drills.kit import CHECKOUT, Env, eventually, provisioned, run, status

pytestmark = [pytest.mark.lab, pytest.mark.slow]


@pytest.fixture(scope="module")
def env(lab_session: Any) -> Iterator[Env]:
    with provisioned(dict(lab_session.env)) as env, mock.patch.dict("os.environ", env):
        yield env


@pytest.fixture(scope="module")
def copy(env: Env) -> Copy:
    return copy_of(inventories.load(CHECKOUT, "lab").inventory, datetime.now(UTC))


def left(copy: Copy) -> list[str]:
    """What is there of a copy, by the accounts' own lists and Pulumi's."""
    cloud = DigitalOcean.from_environment(inventories.load(CHECKOUT, "lab").inventory.cloud_api)
    found = [label for ones in cloud.standing().values() for label in ones if copy.owns(label)]
    found += [name for name in copy.hosts if cloud.droplet_id(name)]
    found += [name for name in (copy.reader, *copy.users) if cloud.spaces_keys(name)]
    users = Accounts(key_from_environment("AWS")).standing(None)[USER]
    found += [name for name in users if name.startswith(f"{copy.label}-")]
    stacks = json.loads(run(dict(os.environ), "pulumi", "stack", "ls", "--json").stdout)
    return found + [one["name"] for one in stacks if one["name"] == copy.stack]


def test_a_copy_fails_over_and_nothing_of_it_is_left(env: Env, copy: Copy) -> None:
    before = status(env)["lease"]
    refused = run(env, "fab", "drill", "--isolated", code=4, typed="no\n")
    assert "an hour for its droplets" in refused.stdout and not left(copy)

    said = run(env, "fab", "drill", "--isolated", "--yes").stdout
    report = json.loads((CHECKOUT / "drills/latest/report.json").read_text())
    assert (report["scenario"], report["verdict"]) == ("isolated-copy", "PASS"), report["reasons"]
    assert report["primary"] == {"before": copy.hosts[0], "after": [copy.hosts[1]]}
    assert 0 < report["rto"]["measured_s"] < 60 and report["ledger"]["lost"] == 0
    judged = {one["component"]: one["verdict"] for one in report["objectives"]}
    assert judged["full disaster recovery"] == judged["complete failover"] == "PASS"
    assert "newly sealed" in said and not left(copy) and not note_path(CHECKOUT, copy.stack).exists()
    after = status(env)["lease"]
    assert (after["holder"], after["epoch"]) == (before["holder"], before["epoch"])


def test_killed_amid_pulumi_up_its_guard_tears_down_what_no_state_knows(env: Env, copy: Copy) -> None:
    cloud = DigitalOcean.from_environment(inventories.load(CHECKOUT, "lab").inventory.cloud_api)
    drill = subprocess.Popen(
        ["fab", "drill", "--isolated", "--yes"],
        env=env,
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    eventually(lambda: cloud.droplet_id(copy.hosts[1]) is not None, 120, "a droplet is asked for")
    os.killpg(drill.pid, signal.SIGKILL)
    drill.wait()
    assert note_path(CHECKOUT, copy.stack).exists()
    took = eventually(lambda: not note_path(CHECKOUT, copy.stack).exists(), 300, "the guard has torn it down")
    print(f"torn down {took:.0f} s after the kill")
    assert not left(copy), (note_path(CHECKOUT, copy.stack).parent / "guard.log").read_text()
    assert "There is no isolated copy" in run(env, "fab", "drill", "--tear-down").stdout
