"""On real hosts, one night: the primary dies, the standby waits for a person's word, the pager rings and stops ringing,
the failover is done, the report is written, and the evidence of all of it is whole until somebody touches it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from lab import config, faults, pager
from lab.pager import Paged, Pager
from lifeline import evidence, incidents
from lifeline import inventory as inventories
from lifeline.model import Inventory
from lifeline.store import Store
from lifeline.vault import key_from_environment, open_store
from tests.drills.kit import CHECKOUT, Env, eventually, provisioned, run, status

pytestmark = [pytest.mark.lab, pytest.mark.slow]

KEY, SENIOR, TOKEN = "a" * 32, "b" * 32, "u+readonlytoken"
POLICY = "{leaseTtlS: 12, leaseMarginS: 2, fenceRequired: [power-off], maxLagS: 60, partitionS: 0}"


@pytest.fixture(scope="module")
def phone(lab_session: Any) -> Iterator[Pager]:
    with pager.serve(Pager(frozenset({KEY, SENIOR}), TOKEN), config.OPERATOR_ADDRESS) as served:
        yield served


@pytest.fixture(scope="module")
def env(lab_session: Any, phone: Pager) -> Iterator[Env]:
    where = f"eventsUrl: {phone.url}/v2/enqueue, apiUrl: {phone.url}"
    alerting = f"{{pagerduty: {{onCallKey: {KEY}, seniorKey: {SENIOR}, apiToken: {TOKEN}, {where}}}}}"
    with provisioned(dict(lab_session.env), POLICY, alerting) as env, mock.patch.dict("os.environ", env):
        yield env


def stores(env: Env) -> tuple[Inventory, Store, Store]:
    found = inventories.load(CHECKOUT, "lab").inventory
    vault = open_store(found.vault, key_from_environment("SPACES", env))
    return found, vault, open_store(found.offsite, key_from_environment("AWS", env))


def critical(phone: Pager) -> list[Paged]:
    """What calls people; a new site has alerts of the quiet kind too."""
    return [one for one in phone.alerts if one.log[0]["payload"]["severity"] == "critical"]


def test_a_night(env: Env, phone: Pager) -> None:
    phone.faults = [500, 429]  # the provider isn't well either
    faults.power_cut(status(env)["lease"]["holder"])
    took = eventually(lambda: bool(critical(phone)), 60, "the on-call is called")
    print(f"called {took:.1f} s after the power was cut")
    (alert,) = critical(phone)
    details = alert.log[0]["payload"]["custom_details"]
    assert alert.routing_key == KEY and "fab failover --yes" in details["needed"]

    phone.acknowledge("Ada")
    eventually(lambda: "acknowledged" in run(env, "fab", "incident", "list").stdout, 60, "that is heard")
    run(env, "fab", "incident", "note", "the power supply burnt", "--as", "cause")
    run(env, "fab", "failover", "--yes")
    run(env, "fab", "incident", "close")
    eventually(lambda: alert.status == "resolved", 60, "the pager hears that it is over")
    assert [one.routing_key for one in critical(phone)] == [KEY]

    said = run(env, "fab", "incident", "report").stdout
    text = next(CHECKOUT.glob(".lifeline/lab/incidents/genesis/*.md")).read_text()
    for words in ("acknowledged after", "pagerduty:Ada", "the power supply burnt", "fab failover: PASS"):
        assert words in text, f"{words!r} is not in\n{text}"
    assert "places need a person" in said


def test_a_drill_in_production_moves_everybody_and_is_evidence(env: Env) -> None:
    run(env, "fab", "reprotect", "--yes")
    before = status(env)["lease"]["holder"]
    run(env, "fab", "drill", "--production", code=4, typed="lab\nno\n")
    assert status(env)["lease"]["holder"] == before

    said = run(env, "fab", "drill", "--production", typed="lab\nyes\n").stdout
    report = json.loads((CHECKOUT / "drills/latest/report.json").read_text())
    after = status(env)["lease"]["holder"]
    assert after != before and (report["verdict"], report["primary"]) == ("PASS", {"before": before, "after": [after]})
    assert report["ledger"]["lost"] == 0 and 0 < report["rto"]["measured_s"] < 60
    assert "newly sealed" in said


def test_the_evidence_is_whole_until_somebody_touches_it(env: Env) -> None:
    inventory, vault, offsite = stores(env)
    run(env, "fab", "evidence", "seal")
    proof = json.loads(run(env, "fab", "evidence", "verify", "--json").stdout)
    assert (proof["verdict"], proof["bad"]) == ("PASS", []) and proof["documents"] > 5
    sealed = [
        one.key
        for link in evidence.read_chain(offsite, inventory.service)
        for one in evidence.Entry.parse(link.body).documents
    ]
    journal = next(key for key in sealed if key.startswith("journal/") and "failover" in key)
    assert any(incidents.id_of(key, inventory.service) for key in sealed)
    assert any(key.startswith("drills/") and key.endswith("-production-switchover/report.json") for key in sealed)

    body = offsite.get(journal).body
    offsite.put(journal, body.replace(b"PASS", b"FAIL", 1))
    offsite.put(journal, body)  # and put back: the store's own versions tell all the same
    run(env, "fab", "evidence", "verify", code=8)
    vault.put(journal, b"")
    said = run(env, "fab", "evidence", "verify", code=8)
    assert f"{journal} in the vault was cut off" in said.stdout and f"{journal} was overwritten" in said.stdout
