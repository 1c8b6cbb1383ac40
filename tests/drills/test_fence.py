"""On real hosts: a lost primary that isn't dead. Whatever it does, and whichever rung fenced it, it serves nobody and
writes into nobody's history; and nothing that was acknowledged is lost.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest

from lab import config, faults, lifecycle
from lab.config import LabConfig, state_dir
from lab.machines import NspawnMachines, group_of
from lab.processes import Group
from lifeline import inventory as inventories
from runbooks.doors import site_of
from runbooks.site import Site
from tests.drills.kit import CHECKOUT, Env, eventually, missing, provisioned, run, status, write
from toolchain import image

pytestmark = [pytest.mark.lab, pytest.mark.slow]

TTL_S, MARGIN_S = 12.0, 2.0
STOP_S = 4.0  # a fenced service gets 3 s to end by itself


@pytest.fixture(scope="module")
def env(lab_session: Any) -> Iterator[Env]:
    with provisioned(dict(lab_session.env)) as env, mock.patch.dict("os.environ", env):
        yield env


class Pair:
    """Who is primary now, who isn't, and what can be seen of both."""

    def __init__(self, env: Env) -> None:
        seen = status(env)
        self.env = env
        self.epoch = int(seen["lease"]["epoch"])
        self.old = seen["hosts"][seen["lease"]["holder"]]
        self.new = next(host for host in seen["hosts"].values() if host is not self.old)

    @property
    def site(self) -> Site:
        return site_of(CHECKOUT, inventories.load(CHECKOUT, "lab"))

    def written(self, epoch: int) -> set[str]:
        """What is in an epoch's prefix."""
        return {key for key, _ in self.site.vault.keys(f"replica/genesis/epoch-{epoch:04d}/")}

    def acknowledged(self, prefix: str, count: int = 20) -> list[str]:
        tokens = [f"{prefix}-{number}" for number in range(count)]
        assert all(write(self.old["address"], token) for token in tokens)
        return tokens

    def serves_nobody(self, seconds: float) -> None:
        """The old primary, over some time: a write to it is never acknowledged."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert not write(self.old["address"], "zombie", timeout=1.0)
            time.sleep(0.1)


def policy(*required: str) -> None:
    """What a failover takes for a fence from now on, and a lease short enough to wait for: in the cached inventory."""
    path = CHECKOUT / ".lifeline/lab/inventory.json"
    found = json.loads(path.read_text())
    found["policy"].update(lease_ttl_s=TTL_S, lease_margin_s=MARGIN_S, fence_required=list(required))
    path.write_text(json.dumps(found))


def service_runs(host: str) -> bool:
    """Seen from the machine, not from the network."""
    lab = LabConfig.load(state_dir() / "lab.json")
    machines = NspawnMachines(lab.state, image.path())
    droplet = next(number for number in machines.ids() if machines.spec(number).name == host)
    return any("bin/genesis serve" in _command(pid) for pid in Group(group_of(droplet)).pids())


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:
        return ""  # it ended while we looked


def _await_stop(host: str, since: float, stopped: list[float]) -> None:
    eventually(lambda: not service_runs(host), 60, f"{host} stops itself")
    stopped.append(time.monotonic() - since)


def _write_on(address: str, tokens: list[str], end: threading.Event) -> None:
    """Writes, one after the other, from the world outside; the acknowledged ones are kept."""
    number = 0
    while not end.is_set():
        number += 1
        if write(address, f"load-{number}", source=config.CLIENT_ADDRESS):
            tokens.append(f"load-{number}")
        else:
            end.wait(0.1)


def test_a_zombie_serves_and_writes_nothing_follows_again_and_comes_home(env: Env) -> None:
    policy("power-off")
    pair = Pair(env)
    tokens = pair.acknowledged("before")
    assert service_runs(pair.old["name"])
    faults.power_cut(pair.old["name"])
    run(env, "fab", "failover", "--yes")
    assert missing(pair.new["address"], tokens) == []
    final = pair.written(pair.epoch)

    pair.site.cloud.power_on(pair.site.inventory.host(pair.old["name"]).droplet_id)
    eventually(lambda: status(env)["hosts"][pair.old["name"]].get("role") == "none", 40, "the zombie knows its place")
    pair.serves_nobody(1.0)
    assert not service_runs(pair.old["name"])
    assert pair.written(pair.epoch) == final
    assert status(env)["lease"]["holder"] == pair.new["name"]

    run(env, "fab", "reprotect", "--yes")
    back = Pair(env)
    tokens += back.acknowledged("away")
    # Two operators at once: one does it, or one resumes what the other began; never two epochs, never two primaries.
    again = ("fab", "failover", "--yes", "--waive", "serving-primary")
    both = [subprocess.Popen([*again], env=env, cwd=CHECKOUT) for _ in range(2)]
    codes = sorted(process.wait(120) for process in both)
    assert codes[0] == 0 and codes[1] in (0, 4), codes
    after = Pair(env)
    assert (after.old["name"], after.epoch) == (pair.old["name"], back.epoch + 1)
    assert missing(pair.old["address"], tokens) == []
    run(env, "fab", "reprotect", "--yes")


def test_with_the_clouds_api_down_the_primary_fences_itself_and_policy_says_if_that_will_do(env: Env) -> None:
    pair = Pair(env)
    tokens = pair.acknowledged("cut")
    policy("power-off", "vault-key+self-fence")
    faults.cut_region(pair.old["region"])
    faults.api_down()
    cut = time.monotonic()
    stopped: list[float] = []
    watch = threading.Thread(target=_await_stop, args=(pair.old["name"], cut, stopped))
    watch.start()
    try:
        refused = run(env, "fab", "failover", "--yes", code=5)
        assert "--waive unfenced-primary" in refused.stderr
        watch.join(60)
        assert stopped and stopped[0] <= TTL_S - MARGIN_S + STOP_S

        policy("power-off", "self-fence")
        # The record can't be set without the API: that is said, and the service runs already.
        half = run(env, "fab", "failover", "--yes", code=5)
        assert "--waive traffic" in half.stderr
        assert missing(pair.new["address"], tokens) == [] and write(pair.new["address"], "meanwhile")
        final = pair.written(pair.epoch)
        faults.heal()
        pair.serves_nobody(3.0)
        assert not service_runs(pair.old["name"]) and pair.written(pair.epoch) == final
    finally:
        faults.heal()
        lifecycle.up()
    run(env, "fab", "failover", "--yes")
    after = Pair(env)
    assert (after.old["name"], after.epoch) == (pair.new["name"], pair.epoch + 1)
    run(env, "fab", "reprotect", "--yes")


def test_a_primary_that_slept_through_its_own_failover_acknowledges_nothing_when_it_wakes(env: Env) -> None:
    pair = Pair(env)
    policy("self-fence")
    tokens: list[str] = []
    end = threading.Event()
    load = threading.Thread(target=_write_on, args=(pair.old["address"], tokens, end))
    load.start()
    try:
        eventually(lambda: len(tokens) > 20, 20, "writes are acknowledged")
        faults.freeze(pair.old["name"])
        run(env, "fab", "failover", "--yes", code=None)  # its last step finds a host that doesn't answer
        assert missing(pair.new["address"], tokens) == []
        asleep = len(tokens)
        faults.thaw(pair.old["name"])
        eventually(lambda: not service_runs(pair.old["name"]), STOP_S + 2, "it stops when it wakes")
        pair.serves_nobody(1.0)
    finally:
        end.set()
        load.join()
    assert len(tokens) == asleep
    after = Pair(env)
    assert (after.old["name"], after.old["role"], after.epoch) == (pair.new["name"], "primary", pair.epoch + 1)
    run(env, "fab", "reprotect", "--yes")


def test_a_primary_behind_a_closed_firewall_is_spoken_with_again_when_it_follows(env: Env) -> None:
    """The rung that never stands alone: what was connected stays so until the lease has run out."""
    pair = Pair(env)
    policy("firewall+self-fence")
    faults.cut_region(pair.old["region"], "operator")
    tokens: list[str] = []
    end = threading.Event()
    load = threading.Thread(target=_write_on, args=(pair.old["address"], tokens, end))
    load.start()
    try:
        eventually(lambda: len(tokens) > 20, 20, "writes are acknowledged")
        run(env, "fab", "failover", "--yes")
    finally:
        end.set()
        load.join()
        faults.heal()
    assert missing(pair.new["address"], tokens) == []
    assert pair.site.cloud.has_closing(pair.old["name"]) and not service_runs(pair.old["name"])
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{pair.old['address']}:8008/health", timeout=1.0, trust_env=False)
    run(env, "fab", "reprotect", "--yes")
    assert not pair.site.cloud.has_closing(pair.old["name"])
    eventually(lambda: status(env)["hosts"][pair.old["name"]].get("role") == "standby", 30, "it follows")


def test_a_primary_whose_key_is_deleted_loses_nothing_it_acknowledged(env: Env) -> None:
    """It is alive, serves, and reaches everything but the operator: fenced by its key and its lease alone.

    Last of all: without a key it follows nobody, until Pulumi makes it another one."""
    pair = Pair(env)
    policy("vault-key+self-fence")
    faults.cut_region(pair.old["region"], "operator")
    tokens: list[str] = []
    end = threading.Event()
    load = threading.Thread(target=_write_on, args=(pair.old["address"], tokens, end))
    load.start()
    try:
        eventually(lambda: len(tokens) > 20, 20, "writes are acknowledged")
        run(env, "fab", "failover", "--yes")
    finally:
        end.set()
        load.join()
        faults.heal()
    assert missing(pair.new["address"], tokens) == []
    final = pair.written(pair.epoch)
    pair.serves_nobody(2.0)
    assert pair.written(pair.epoch) == final and not service_runs(pair.old["name"])
