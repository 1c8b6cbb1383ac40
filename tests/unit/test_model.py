"""Inventory, lease and observation: they round-trip, keep their secrets, and name the path of what is wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from lifeline.errors import BadConfig
from lifeline.model import BackupPolicy, FailoverPolicy, Inventory, Lease, Observation
from lifeline.schema import At
from tests.unit.world import NEW, OLD, inventory_json

DNS_DEFAULT = {"resolvers": ["1.1.1.1", "8.8.8.8", "9.9.9.9"], "route53": None}


def test_the_inventory_round_trips() -> None:
    document = inventory_json()
    inventory = Inventory.from_json(json.dumps(document))
    defaults = {
        "mode": "manual",
        "partition_s": 30,
        "service_down_s": 300,
        "settle_s": 900,
        "check_every_s": 3600,
        "power_on_after_s": 0,
    }
    whole = {
        **document,
        "policy": {**document["policy"], **defaults},
        "backups": asdict(BackupPolicy()),
        "dns": DNS_DEFAULT,
        "thresholds": {"disk_percent": 85},
        "alerting": {
            **dict.fromkeys(("pagerduty", "webhook", "email", "heartbeat")),
            "after_s": {"on-call": 300, "senior": 900, "cto": 1800},
        },
    }
    assert inventory.to_json() == whole
    assert inventory.host(NEW).region == "sgp1" and inventory.other(NEW).name == OLD
    assert inventory.lease_store.bucket == "l" and inventory.offsite.bucket == "o"
    with pytest.raises(KeyError):
        inventory.host("paris")


def test_numbers_are_accepted_for_ids() -> None:
    document = inventory_json()
    document["hosts"][0]["droplet_id"] = 77
    document["record"]["id"] = 9
    inventory = Inventory.from_json(document)
    assert (inventory.home_primary.droplet_id, inventory.record.id) == ("77", "9")


def test_a_host_keeps_no_secrets_but_its_own() -> None:
    inventory = Inventory.from_json(inventory_json())
    kept = json.dumps(inventory.for_host(NEW))
    assert "vault-secret-2" in kept and "secret-1" not in kept
    again = Inventory.from_json(kept)
    assert again.host(OLD).vault_key is None and again.host(NEW).vault_key is not None


def test_secrets_do_not_show() -> None:
    inventory = Inventory.from_json(inventory_json())
    assert set(inventory.secrets()) == {f"{kind}-secret-{n}" for kind in ("vault", "offsite") for n in (1, 2)}
    assert "secret-1" not in repr(inventory)


Damage = Callable[[dict[str, Any]], object]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "another version": (lambda d: d.update(version=2), r"inventory: version: 2 is not allowed"),
    "no hosts": (lambda d: d.pop("hosts"), r"hosts: is missing"),
    "one host": (lambda d: d["hosts"].pop(), r"hosts: must be exactly one host per home role"),
    "roles swapped": (lambda d: d["hosts"].reverse(), r"the primary first"),
    "two of one name": (lambda d: d["hosts"][1].update(name=OLD), r"names must differ"),
    "no address": (lambda d: d["hosts"][1].pop("address"), r"hosts\[1\]\.address: is missing"),
    "an address that isn't text": (lambda d: d["hosts"][1].update(address=1), r"hosts\[1\]\.address: must be"),
    "half a key": (
        lambda d: d["hosts"][0]["vault_key"].pop("secret_key"),
        r"hosts\[0\]\.vault_key\.secret_key: is missing",
    ),
    "a TTL below the cloud's": (lambda d: d["record"].update(ttl=5), r"record\.ttl: 5 is not allowed; at least 30"),
    "an unknown rung": (lambda d: d["policy"].update(fence_required=["prayer"]), r"fence_required\[0\]: 'prayer'"),
    "no fence": (lambda d: d["policy"].update(fence_required=[]), r"fence_required: must name at least one rung"),
    "a margin too wide": (lambda d: d["policy"].update(lease_margin_s=15), r"lease_margin_s: 15 is not allowed"),
    "a target above its maximum": (
        lambda d: d["targets"].update(rto_target_s=9999),
        r"rto_target_s: is above rto_max_s",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_errors_name_the_path(case: str) -> None:
    damage, says = DAMAGES[case]
    document = copy.deepcopy(inventory_json())
    damage(document)
    with pytest.raises(BadConfig, match=says) as caught:
        Inventory.from_json(document)
    assert caught.value.exit_code == 3 and "pulumi" in caught.value.hint


def test_not_json_is_said() -> None:
    with pytest.raises(BadConfig, match="cache: is not JSON"):
        Inventory.from_json(b"{", "cache")


def test_a_fence_is_one_alternative_in_full() -> None:
    policy = FailoverPolicy(30, 5, ("power-off", "vault-key+self-fence"), 60)
    assert policy.alternatives() == (frozenset({"power-off"}), frozenset({"vault-key", "self-fence"}))
    assert policy.self_fence_s == 35


def test_the_lease_round_trips() -> None:
    lease = Lease("genesis", NEW, 7, 30, 5, 3, "operator:ada", "run")
    assert Lease.from_json(json.dumps(lease.to_json())) == lease
    with pytest.raises(BadConfig, match="lease: epoch: 0 is not allowed"):
        Lease.from_json({**lease.to_json(), "epoch": 0})


OBSERVED: dict[str, Any] = {
    "host": NEW,
    "role": "standby",
    "epoch": 1,
    "bundle": None,
    "finalized": None,
    "service": {"running": False, "healthy": None},
    "databases": [{"name": "a", "exists": True, "txid": 4, "lag_s": 0.2}, {"name": "b", "exists": True, "lag_s": 3}],
    "litestream": {"running": False, "last_sync_at": None},
    "follower": {"running": True, "stalled": None},
    "agent": {"running": True},
}


def test_an_observation_knows_what_it_does_not_know() -> None:
    seen = Observation.from_json(OBSERVED)
    assert seen.lag_s == 3 and seen.databases[1].txid is None and not seen.service_healthy
    dark = {**OBSERVED, "databases": [OBSERVED["databases"][0], {"name": "b", "exists": True, "lag_s": None}]}
    assert Observation.from_json(dark).lag_s is None  # one unknown lag makes the whole unknown, never 0
    assert Observation.from_json({**OBSERVED, "databases": []}).lag_s is None
    healthy = {**OBSERVED, "service": {"running": True, "healthy": True}}
    assert Observation.from_json(healthy).service_healthy  # older releases don't speak of a reconciliation
    owes = Observation.from_json({**OBSERVED, "service": {**healthy["service"], "reconciled": False}})
    assert not owes.service_healthy and not owes.reconciled
    with pytest.raises(BadConfig, match='role: "boss" is not allowed; one of: primary, standby, none'):
        Observation.from_json({**OBSERVED, "role": "boss"})


def test_a_copy_of_unknown_origin_is_told_from_a_host_that_doesnt_say() -> None:
    assert Observation.from_json(OBSERVED).origin_noted
    assert Observation.from_json({**OBSERVED, "origin_epoch": 3}).origin_noted
    assert not Observation.from_json({**OBSERVED, "origin_epoch": None}).origin_noted


def test_a_cursor_tells_a_number_from_a_flag() -> None:
    at = At({"n": True, "f": 1}, "doc")
    with pytest.raises(BadConfig, match="doc: n: must be a whole number"):
        at.integer("n")
    with pytest.raises(BadConfig, match="doc: f: must be true or false"):
        at.flag("f")
