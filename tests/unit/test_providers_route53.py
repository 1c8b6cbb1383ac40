"""The stand-in for Pulumi's Route 53: what is declared is there, what is there is seen, what has gone is gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from lab.providers.kind import Kind, ProviderError
from lab.providers.route53 import HealthCheck, Record, Zone

CHECK = {
    **{"type": "HTTP", "ipAddress": "198.18.1.10", "port": 8008, "resourcePath": "/primary"},
    **{"requestInterval": 10, "failureThreshold": 2, "tags": {"Name": "genesis-lab-primary"}},
}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with mock_aws():
        yield boto3.client("route53", region_name="us-east-1")


def made(kind: Kind, inputs: dict[str, Any]) -> str:
    identity = str(kind.create(inputs).id)
    kind.settle(identity, inputs)
    return identity


def seen(kind: Kind, identity: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """What a refresh would find of what was declared; "" for what has gone."""
    live = kind.read(identity, inputs)
    return {} if live is None else {key: live.inputs.get(key) for key in inputs}


@pytest.fixture
def zone(client: Any) -> str:
    return made(Zone(client), {"name": "genesis-aws.test", "comment": "a second name"})


def a_record(zone: str, place: str, address: str, check: str) -> dict[str, Any]:
    return {
        **{"zoneId": zone, "name": "trade.genesis-aws.test", "type": "A", "ttl": 30, "records": [address]},
        **{"setIdentifier": place.lower(), "failoverRoutingPolicies": [{"type": place}], "healthCheckId": check},
    }


def test_a_zone_is_as_declared_and_names_its_servers(client: Any, zone: str) -> None:
    kind, declared = Zone(client), {"name": "genesis-aws.test", "comment": "a second name"}
    assert "/" not in zone and seen(kind, zone, declared) == declared
    live = kind.read(zone, declared)
    assert live is not None and live.computed["zoneId"] == zone
    assert len(live.computed["nameServers"]) >= 2 and live.computed["primaryNameServer"] in live.computed["nameServers"]
    kind.update(zone, declared, {**declared, "comment": "another"}, ["comment"])
    assert seen(kind, zone, declared)["comment"] == "another"
    kind.delete(zone, declared)
    assert kind.read(zone, declared) is None
    kind.delete(zone, declared)  # gone is gone


def test_a_check_is_as_declared_and_changes_what_changed(client: Any) -> None:
    kind = HealthCheck(client)
    check = made(kind, CHECK)
    assert seen(kind, check, CHECK) == CHECK
    changed = {**CHECK, "ipAddress": "198.18.2.10", "tags": {"Owner": "ada"}}
    kind.update(check, CHECK, changed, ["ipAddress", "tags"])
    assert seen(kind, check, changed) == changed
    kind.delete(check, CHECK)
    assert kind.read(check, CHECK) is None
    kind.delete(check, CHECK)


def test_a_failover_pair_is_two_records_of_one_name_each_its_own(client: Any, zone: str) -> None:
    kind, check = Record(client), made(HealthCheck(client), CHECK)
    first, second = a_record(zone, "PRIMARY", "198.18.1.10", check), a_record(zone, "SECONDARY", "198.18.2.10", check)
    ids = [made(kind, first), made(kind, second)]
    assert ids == [f"{zone}_trade.genesis-aws.test_A_{place}" for place in ("primary", "secondary")]
    assert (seen(kind, ids[0], first), seen(kind, ids[1], second)) == (first, second)
    kind.update(ids[0], first, {**first, "ttl": 60}, ["ttl"])
    assert seen(kind, ids[0], first)["ttl"] == 60 and seen(kind, ids[1], second) == second
    kind.delete(ids[0], first)
    assert kind.read(ids[0], first) is None and seen(kind, ids[1], second) == second
    kind.delete(ids[0], first)


def test_what_was_removed_behind_its_back_has_gone(client: Any, zone: str) -> None:
    kind, check = Record(client), made(HealthCheck(client), CHECK)
    declared = a_record(zone, "PRIMARY", "198.18.1.10", check)
    identity = made(kind, declared)
    kind.delete(identity, declared)
    Zone(client).delete(zone, {})
    assert kind.read(identity, declared) is None
    kind.delete(identity, declared)


def test_a_plain_record_has_no_policy_and_no_check(client: Any, zone: str) -> None:
    kind = Record(client)
    plain = {"zoneId": zone, "name": "www.genesis-aws.test", "type": "A", "ttl": 30, "records": ["198.18.1.10"]}
    identity = made(kind, plain)
    assert identity == f"{zone}_www.genesis-aws.test_A" and seen(kind, identity, plain) == plain
    live = kind.read(identity, plain)
    assert live is not None and (live.inputs["failoverRoutingPolicies"], live.inputs["healthCheckId"]) == ([], None)


def test_a_refusal_says_what_was_tried(client: Any) -> None:
    with pytest.raises(ProviderError, match="CREATE record www"):
        Record(client).create(
            {"zoneId": "ZNONE", "name": "www.genesis-aws.test", "type": "A", "ttl": 30, "records": ["198.18.1.10"]}
        )
