"""On real hosts: the disaster took more than the primary. The vault is away, or has lost objects; Pulumi's state and
the operator's cache are gone. Nothing is served that lacks what was acknowledged, and what comes back is enough.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from lab import faults, lifecycle
from lifeline import inventory as inventories
from lifeline.store import Store
from lifeline.vault import key_from_environment, open_store
from runbooks.doors import site_of
from runbooks.site import Site
from tests.drills.kit import CHECKOUT, Env, missing, provisioned, run, status, write

pytestmark = [pytest.mark.lab, pytest.mark.slow]
_LTX = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.ltx$")


@pytest.fixture(scope="module")
def env(lab_session: Any) -> Iterator[Env]:
    with provisioned(dict(lab_session.env)) as env, mock.patch.dict("os.environ", env):
        yield env


def site() -> Site:
    return site_of(CHECKOUT, inventories.load(CHECKOUT, "lab"))


def holding(vault: Store, prefix: str, txid: int) -> dict[str, bytes]:
    """Every object below a prefix that holds a transaction."""
    found = {}
    for info in vault.list(prefix):
        name = _LTX.search(info.key)
        if name and int(name[1], 16) <= txid <= int(name[2], 16):
            found[info.key] = vault.get(info.key).body
    return found


def test_a_vault_that_is_away_or_lacks_objects_stops_a_failover_and_loses_nothing(env: Env) -> None:
    seen = status(env)
    old = seen["hosts"][seen["lease"]["holder"]]
    new = next(host for host in seen["hosts"].values() if host is not old)
    with site() as at:
        vault = open_store(at.inventory.vault, key_from_environment("SPACES"))
        # The standby must need the vault: its follower misses what comes now.
        at.hosts[new["name"]].run(["sudo", "-n", "supervisorctl", "stop", "follower"])
        tokens = [f"late-{number}" for number in range(10)]
        assert all(write(old["address"], token) for token in tokens)
        faults.power_cut(old["name"])
        prefix = f"replica/genesis/epoch-{seen['lease']['epoch']:04d}/genesis/"
        newest = max(int(name[2], 16) for info in vault.list(prefix) if (name := _LTX.search(info.key)))
        lost = holding(vault, prefix, newest - 2)
        for key in lost:
            vault.delete(key)

    failover = ("fab", "failover", "--yes", "--waive", "standby-lag")
    gap = run(env, *failover, code=8)
    assert "gap" in gap.stderr
    assert not write(new["address"], "too early", timeout=1.0)

    faults.spaces_down("ams3")
    away = run(env, *failover, code=7)
    assert "ams3" in away.stderr or "vault" in away.stderr
    lifecycle.up()

    for key, body in lost.items():
        vault.put(key, body)
    run(env, *failover)
    assert missing(new["address"], tokens) == []
    run(env, "fab", "reprotect", "--yes")


@pytest.mark.parametrize("source", ["vault", "host"])
def test_with_pulumis_state_and_the_cache_gone_a_failover_works(env: Env, tmp_path: Path, source: str) -> None:
    seen = status(env)
    old = seen["hosts"][seen["lease"]["holder"]]
    new = next(host for host in seen["hosts"].values() if host is not old)
    found = site().inventory
    assert write(old["address"], f"before-{source}")
    backend = Path(env["PULUMI_BACKEND_URL"].removeprefix("file://"))
    cache = CHECKOUT / ".lifeline/lab"
    shutil.move(backend, tmp_path / "backend")
    shutil.move(cache, tmp_path / "cache")
    backend.mkdir()
    try:
        faults.power_cut(old["name"])
        run(env, "fab", "failover", "--yes", code=3)  # nothing to go by: said, and nothing done
        if source == "vault":
            where = {"LIFELINE_VAULT_BUCKET": found.vault.bucket, "LIFELINE_VAULT_ENDPOINT": str(found.vault.endpoint)}
            run({**env, **where}, "fab", "inventory", "--from-vault")
        else:
            key = found.host(new["name"]).host_key
            run(env, "fab", "inventory", "--from-host", new["address"], "--host-key", key)
        run(env, "fab", "failover", "--yes")
        assert missing(new["address"], [f"before-{source}"]) == []
        run(env, "fab", "reprotect", "--yes")
    finally:
        shutil.rmtree(backend)
        shutil.move(tmp_path / "backend", backend)
