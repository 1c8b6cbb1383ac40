"""On real hosts, with nobody at the keyboard: a lost primary is taken over, a cut line alone moves nothing, and what
comes back serves nobody and follows.

The lease is short here, so that a silence doesn't take half a minute.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import httpx
import pytest

from lab import config, faults, find, harm, lifecycle
from lab.series import ballast
from lifeline import inventory as inventories
from runbooks.doors import site_of
from tests.drills.kit import CHECKOUT, Env, eventually, missing, provisioned, run, status, write

pytestmark = [pytest.mark.lab, pytest.mark.slow]

TTL_S, MARGIN_S = 10.0, 2.0
POLICY = (
    "{leaseTtlS: 10, leaseMarginS: 2, fenceRequired: [power-off], maxLagS: 60, mode: automatic, partitionS: 10, "
    "settleS: 0, serviceDownS: 5, powerOnAfterS: 5, checkEveryS: 0}"
)
TAKEN_OVER_S, DAMAGED_S = 60.0, 150.0
BALLAST_MB = 16
LOOK_S = TTL_S + MARGIN_S + 4.0  # by then a wrong take-over would have begun
ADDRESSES = {"primary-newyork": "198.18.1.10", "backup-singapore": "198.18.2.10"}
REGIONS = {"primary-newyork": "nyc3", "backup-singapore": "sgp1"}


@pytest.fixture(scope="module")
def env(lab_session: Any) -> Iterator[Env]:
    with provisioned(dict(lab_session.env), POLICY) as env, mock.patch.dict("os.environ", env):
        yield env


def health(host: str) -> dict[str, Any]:
    """What its agent says of itself; empty when it says nothing."""
    connection = http.client.HTTPConnection(ADDRESSES[host], 8008, timeout=1.0)
    try:
        connection.request("GET", "/health")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return {}
    finally:
        connection.close()
    return found


def serves(host: str) -> bool:
    return health(host).get("judgement") == "serve"


class Pair:
    """Who is primary now and who isn't, and two that may not be so at one time."""

    def __init__(self, env: Env) -> None:
        eventually(
            lambda: sorted(health(host).get("role", "") for host in ADDRESSES) == ["primary", "standby"], 90, "a pair"
        )
        self.old = next(host for host in ADDRESSES if health(host)["role"] == "primary")
        self.new = next(host for host in ADDRESSES if host != self.old)
        self.epoch = int(health(self.old)["epoch"])
        eventually(lambda: health(self.new)["pilot"]["lease"] == "kept", 30, "the standby watches the lease")
        eventually(lambda: near(health(self.new)), 60, "the standby is close behind")

    def acknowledged(self, prefix: str, count: int = 20) -> list[str]:
        tokens = [f"{prefix}-{number}" for number in range(count)]
        assert all(write(ADDRESSES[self.old], token) for token in tokens)
        return tokens

    def taken_over(self, tokens: list[str]) -> float:
        """Until the other host serves the next epoch and the name leads to it; nothing is lost. Seconds."""
        took = eventually(lambda: serves(self.new), TAKEN_OVER_S, f"{self.new} takes over")
        assert health(self.new)["epoch"] == self.epoch + 1
        eventually(lambda: write(ADDRESSES[self.new], f"after-{self.epoch}"), 10, "it acknowledges writes")
        assert missing(ADDRESSES[self.new], tokens) == []
        return took

    def follows_again(self) -> None:
        """The one that came back has served nobody, and becomes a standby of the new epoch by itself."""
        eventually(lambda: health(self.old).get("role") == "standby", 90, f"{self.old} follows")
        assert health(self.old)["epoch"] == self.epoch + 1 and serves(self.new)


def near(seen: dict[str, Any]) -> bool:
    return all(found["lag_s"] == 0.0 for found in seen["databases"].values()) and bool(seen["databases"])


@contextmanager
def hammered(*hosts: str) -> Iterator[list[tuple[str, float]]]:
    """Writes to every one of these, all the time: (who acknowledged, when)."""
    end, heard = threading.Event(), list[tuple[str, float]]()

    def hammer(host: str) -> None:
        number = 0
        while not end.is_set():
            number += 1
            begun = time.monotonic()
            if write(ADDRESSES[host], f"{host}-{number}", timeout=1.0, source=config.CLIENT_ADDRESS):
                heard.append((host, begun))
            end.wait(0.05)

    threads = [threading.Thread(target=hammer, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    try:
        yield heard
    finally:
        end.set()
        for thread in threads:
            thread.join()


def never_both(heard: list[tuple[str, float]], old: str, new: str) -> None:
    """Every acknowledgement of the old primary is of a write begun before the first of the new one."""
    first = min((at for host, at in heard if host == new), default=float("inf"))
    assert [at for host, at in heard if host == old and at > first] == []


def test_a_power_cut_is_taken_over_and_what_comes_back_follows(env: Env) -> None:
    pair = Pair(env)
    tokens = pair.acknowledged("cut")
    with hammered(pair.old, pair.new) as heard:
        faults.power_cut(pair.old)
        pair.taken_over(tokens)
        pair.follows_again()  # the new primary powers it on, as the policy says
    never_both(heard, pair.old, pair.new)
    seen = status(env)
    assert seen["lease"]["holder"] == pair.new and seen["lease"]["taken_by"] == f"pilot:{pair.new}"
    assert seen["traffic"]["record"]["address"] == ADDRESSES[pair.new]
    assert seen["mode"]["name"] == "automatic"


def test_a_frozen_primary_is_taken_over_and_thaws_into_a_standby(env: Env) -> None:
    pair = Pair(env)
    tokens = pair.acknowledged("ice")
    with hammered(pair.old, pair.new) as heard:
        faults.freeze(pair.old)
        pair.taken_over(tokens)
        faults.power_back(pair.old)  # the fence was power-off
        pair.follows_again()
    never_both(heard, pair.old, pair.new)


def test_a_cut_line_between_the_hosts_or_to_the_standby_moves_nothing(env: Env) -> None:
    pair = Pair(env)
    with hammered(pair.old, pair.new) as heard:
        faults.cut_region(REGIONS[pair.old], REGIONS[pair.new])
        eventually(lambda: health(pair.new)["pilot"]["act"] == "watch", 20, "the standby sees the silence")
        end = time.monotonic() + LOOK_S
        while time.monotonic() < end:
            assert serves(pair.old) and health(pair.new)["role"] == "standby"
            time.sleep(0.5)
        faults.heal()
        faults.cut_region(REGIONS[pair.new])
        end = time.monotonic() + LOOK_S
        while time.monotonic() < end:
            assert serves(pair.old)
            time.sleep(0.5)
        faults.heal()
    eventually(lambda: health(pair.new).get("role") == "standby", 20, "the standby answers again")
    assert health(pair.old)["epoch"] == pair.epoch
    assert {host for host, _ in heard} == {pair.old}


def test_with_the_lease_store_away_the_primary_goes_on_and_nobody_is_promoted(env: Env) -> None:
    pair = Pair(env)
    faults.aws_down()
    try:
        eventually(lambda: health(pair.old)["failsafe"], 30, "the standby gives its word")
        end = time.monotonic() + LOOK_S
        while time.monotonic() < end:
            assert write(ADDRESSES[pair.old], f"away-{time.monotonic()}") and health(pair.new)["role"] == "standby"
            time.sleep(0.5)
    finally:
        lifecycle.up()
    eventually(lambda: not health(pair.old)["failsafe"] and serves(pair.old), 30, "it renews again")
    assert health(pair.old)["epoch"] == pair.epoch


def test_a_region_that_is_cut_off_is_left_by_its_primary_before_the_other_one_begins(env: Env) -> None:
    pair = Pair(env)
    tokens = pair.acknowledged("region")
    with hammered(pair.old, pair.new) as heard:
        for place in ("aws", "spaces", "api", REGIONS[pair.new]):
            faults.cut_region(REGIONS[pair.old], place)  # users still reach it
        pair.taken_over(tokens)
        faults.heal()
        faults.power_back(pair.old)
        pair.follows_again()
    never_both(heard, pair.old, pair.new)
    # Users still reached it: what it wrote and could not acknowledge is kept, and told by row; the rest is no fork.
    forks = [fork for fork in json.loads(run(env, "fab", "forks", "--json").stdout) if fork["epoch"] == pair.epoch]
    assert [(fork["host"], fork["verdict"]) for fork in forks] == [(pair.old, "PASS")]
    probes = forks[0]["tables"]["probes"]
    only_here = {row["token"] for row in probes["only_here"]}
    assert probes["here"] == len(only_here) > 0
    assert not only_here & set(tokens)
    where = f"{pair.old}:{forks[0]['folder']}"
    assert any(where.partition(":")[2] in str(one) for one in status(env)["hosts"][pair.old]["forks"])
    run(env, "fab", "forks", "--settle", where)


def test_a_primary_whose_service_doesnt_recover_hands_over_in_order(env: Env) -> None:
    pair = Pair(env)
    tokens = pair.acknowledged("down")
    broken = site_of(CHECKOUT, inventories.load(CHECKOUT, "lab")).hosts[pair.old]
    program = "/opt/lifeline/current/service/bin/genesis"
    broken.run(["sudo", "-n", "chmod", "000", program])
    try:
        broken.run(["sudo", "-n", "supervisorctl", "restart", "genesis"], check=False, timeout=60)
        pair.taken_over(tokens)
        pair.follows_again()
    finally:
        broken.run(["sudo", "-n", "chmod", "755", program])
    assert status(env)["lease"]["over_released"]


def test_a_primary_whose_data_rots_hands_over_once_the_vaults_copy_is_proved_clean(env: Env) -> None:
    pair = Pair(env)
    site = site_of(CHECKOUT, inventories.load(CHECKOUT, "lab"))
    database = str(site.service(pair.old).databases[0].path)
    ballast.fill(site.hosts[pair.old], site.service(pair.old), BALLAST_MB)
    file = find.within(pair.old, database)
    # What is still in the log is read from there, whatever the disk says.
    eventually(lambda: file.stat().st_size >= BALLAST_MB * 1_000_000, 90, "the log is in the file")
    tokens = pair.acknowledged("rot", 100)
    harm.spoil_database(pair.old, database)
    said = "sqlite3.DatabaseError: database disk image is malformed"  # as the service would, when it reads there
    site.hosts[pair.old].run(["sudo", "-n", "tee", "-a", "/var/log/supervisor/genesis.log"], input=f"{said}\n".encode())
    eventually(lambda: serves(pair.new), DAMAGED_S, f"{pair.new} takes over from damaged data")
    pair.taken_over(tokens)
    pair.follows_again()
    assert status(env)["lease"]["over_released"]


def order(host: str, identity: str) -> bool:
    """A trade that a user asks for: was it acknowledged?"""
    wanted = {"client_order_id": identity, "symbol": "BTC", "side": "buy", "qty": 1}
    try:
        return httpx.post(f"http://{ADDRESSES[host]}:8080/orders", json=wanted, timeout=30, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def trigger(host: str) -> dict[str, Any]:
    seen = (health(host).get("symptoms") or {}).get("triggers") or [{"fired": None}]
    return dict(seen[0])


def test_three_failed_trades_make_a_primary_hand_over_in_order(env: Env) -> None:
    pair = Pair(env)
    tokens = pair.acknowledged("trades")
    old = site_of(CHECKOUT, inventories.load(CHECKOUT, "lab")).hosts[pair.old]
    eventually(lambda: trigger(pair.old)["fired"] is False, 20, "its figures are known")
    old.run(["sudo", "-n", "supervisorctl", "signal", "STOP", "litestream"])  # nothing reaches the vault from here
    try:
        with ThreadPoolExecutor(3) as pool:
            assert not any(pool.map(partial(order, pair.old), ["fails-1", "fails-2", "fails-3"]))
    finally:
        old.run(["sudo", "-n", "supervisorctl", "signal", "CONT", "litestream"])
    eventually(lambda: "failed trades" in health(pair.old).get("pilot", {}).get("reason", ""), 20, "it says why")
    pair.taken_over(tokens)
    pair.follows_again()
    assert status(env)["lease"]["over_released"]


def test_an_agent_that_hangs_is_replaced_and_one_that_hangs_for_ever_is_taken_over_from(env: Env) -> None:
    pair = Pair(env)
    old = site_of(CHECKOUT, inventories.load(CHECKOUT, "lab")).hosts[pair.old]
    stop = ["sudo", "-n", "systemctl", "kill", "--kill-whom=main", "--signal=STOP", "lifeline-agent"]
    with hammered(pair.old, pair.new) as heard:
        old.run(stop)
        eventually(lambda: not health(pair.old), 5, "it hangs")
        eventually(lambda: serves(pair.old), 15, "systemd has replaced it, in time to renew")
        assert health(pair.old)["epoch"] == pair.epoch
        tokens = pair.acknowledged("hung")
        # Each successor hangs as well: nobody renews, and the deadman ends the service with the lease.
        again = f"while :; do {' '.join(stop[2:])}; sleep 0.1; done"
        old.run(["sudo", "-n", "systemd-run", "--unit=stopper", "/bin/sh", "-c", again])
        pair.taken_over(tokens)
        faults.power_back(pair.old)  # the fence was power-off
        pair.follows_again()
    never_both(heard, pair.old, pair.new)


def test_by_hand_the_hosts_ask_and_paused_they_do_not(env: Env) -> None:
    pair = Pair(env)
    run(env, "fab", "pause", "--for", "10m")
    assert "PAUSED until" in run(env, "fab", "status").stdout
    run(env, "fab", "switchover", "--yes")
    pair = Pair(env)
    run(env, "fab", "mode", "manual")
    faults.power_cut(pair.old)
    eventually(lambda: health(pair.new)["pilot"]["act"] == "ask", 40, "the standby asks")
    assert "fab failover --yes" in json.dumps(health(pair.new)["pilot"]["alerts"])
    run(env, "fab", "resume")
    pair.taken_over([])
