"""Every row of the DigitalOcean stand-in on the simulated API: made, read without drift, changed, removed, gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from lab.ports import SpacesKey
from lab.providers import digitalocean, lifecycle
from lab.providers.kind import Kind, ProviderError, Values
from lab.providers.rest import Api
from tests.contract.pulumi_cloud import API_TOKEN, digitalocean_api
from tests.unit.infra_stack import PUBLIC_KEY

EMAIL = {"emails": ["oncall@genesis.test"], "slacks": []}
ANYWHERE = ["0.0.0.0/0", "::/0"]


class _Keys:
    """The port `Spaces`, remembered and nothing else."""

    def apply_keys(self, keys: Sequence[SpacesKey]) -> None:
        return None


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Kind]]:
    with digitalocean_api(tmp_path_factory.mktemp("api"), _Keys()) as url:
        made = digitalocean.configure({}, {"DIGITALOCEAN_API_URL": url, "DIGITALOCEAN_TOKEN": API_TOKEN})
        made["digitalocean:index/domain:Domain"].create({"name": "parent.test"})
        yield made


@dataclass(frozen=True)
class Case:
    """A type, inputs for it, and inputs that an update changes."""

    type: str
    inputs: Values
    change: Values


CASES = [
    Case("sshKey:SshKey", {"name": "one", "publicKey": PUBLIC_KEY}, {"name": "two"}),
    Case(
        "vpc:Vpc",
        {"name": "one", "region": "nyc3", "ipRange": "10.77.1.0/24", "description": "first"},
        {"description": "second"},
    ),
    Case(
        "firewall:Firewall",
        {
            "name": "one",
            "inboundRules": [
                {"protocol": "tcp", "portRange": "22", "sourceAddresses": ANYWHERE},
                {"protocol": "icmp", "sourceAddresses": ["10.0.0.0/8"]},
            ],
            "outboundRules": [{"protocol": "udp", "portRange": "1-65535", "destinationAddresses": ANYWHERE}],
        },
        {"inboundRules": [{"protocol": "tcp", "portRange": "8000-9000", "sourceAddresses": ANYWHERE}]},
    ),
    Case("domain:Domain", {"name": "case.test"}, {}),
    Case(
        "dnsRecord:DnsRecord",
        {"domain": "parent.test", "name": "www", "type": "A", "value": "198.18.1.1", "ttl": 30},
        {"value": "198.18.1.2", "ttl": 60},
    ),
    Case(
        "spacesKey:SpacesKey",
        {"name": "one", "grants": [{"bucket": "vault", "permission": "readwrite"}]},
        {"grants": [{"bucket": "vault", "permission": "read"}]},
    ),
    Case(
        "uptimeCheck:UptimeCheck",
        {"name": "one", "type": "ping", "target": "198.18.1.1", "regions": ["us_east", "eu_west"], "enabled": True},
        {"target": "198.18.1.2", "enabled": False},
    ),
    Case(
        "monitorAlert:MonitorAlert",
        {
            **{"type": "v1/insights/droplet/cpu", "description": "cpu", "compare": "GreaterThan", "value": 90},
            **{"window": "5m", "enabled": True, "alerts": EMAIL},
        },
        {"value": 95, "window": "10m"},
    ),
    Case("tag:Tag", {"name": "one"}, {}),
    Case(
        "droplet:Droplet",
        {
            **{"name": "one", "region": "nyc3", "size": "s-1vcpu-1gb", "image": "debian-13-x64", "tags": ["a", "b"]},
            **{"monitoring": True, "ipv6": False, "userData": "#cloud-config\n", "resizeDisk": False},
        },
        {"size": "s-1vcpu-2gb", "tags": ["b", "c"], "name": "two"},
    ),
    Case(
        "project:Project", {"name": "one", "purpose": "Service or API", "environment": "Development"}, {"name": "two"}
    ),
]


def kind_of(kinds: dict[str, Kind], type_: str) -> Kind:
    return kinds[f"digitalocean:index/{type_}"]


def state_of(kind: Kind, identity: str, inputs: Values, state: Values) -> tuple[Values, Values]:
    """Inputs and outputs as a refresh would have them."""
    live = kind.read(identity, {**state, **inputs})
    assert live is not None
    now = lifecycle.inputs_now(kind, inputs, live)
    return now, lifecycle.outputs_now(now, live, state)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.type)
def test_a_resources_whole_life(kinds: dict[str, Kind], case: Case) -> None:
    kind = kind_of(kinds, case.type)
    created = kind.create(case.inputs)
    kind.settle(created.id, case.inputs)
    inputs, outputs = state_of(kind, created.id, case.inputs, dict(created.once))
    assert inputs == case.inputs, "a refresh right after the creation shows drift"
    assert all(outputs.get(name) is not None for name in kind.computed), outputs
    assert state_of(kind, created.id, inputs, outputs) == (inputs, outputs), "a second refresh shows drift"

    wanted = {**inputs, **case.change}
    changed = {change.name for change in lifecycle.diff(kind, inputs, wanted, set())}
    assert changed == set(case.change)
    kind.update(created.id, {**outputs, **inputs}, wanted, changed)
    assert state_of(kind, created.id, wanted, outputs)[0] == wanted

    kind.delete(created.id, {**outputs, **wanted})
    assert kind.read(created.id, {**outputs, **wanted}) is None
    kind.delete(created.id, {**outputs, **wanted})


def test_an_alert_lives_under_its_check(kinds: dict[str, Kind]) -> None:
    check = kind_of(kinds, "uptimeCheck:UptimeCheck")
    parent = check.create({"name": "parent", "type": "ping", "target": "198.18.1.1", "regions": ["us_east"]})
    alert = kind_of(kinds, "uptimeAlert:UptimeAlert")
    inputs = {
        **{"checkId": parent.id, "name": "down", "type": "down", "period": "2m", "threshold": 1},
        **{"comparison": "less_than", "notifications": [EMAIL]},
    }
    created = alert.create(inputs)
    assert state_of(alert, created.id, inputs, {})[0] == inputs
    alert.update(created.id, inputs, {**inputs, "period": "5m"}, {"period"})
    assert state_of(alert, created.id, {**inputs, "period": "5m"}, {})[0]["period"] == "5m"
    check.delete(parent.id, {})
    assert alert.read(created.id, inputs) is None


def test_a_project_takes_resources_in_and_gives_them_back(kinds: dict[str, Kind]) -> None:
    project, domain = kind_of(kinds, "project:Project"), kind_of(kinds, "domain:Domain")
    for name in ("one.test", "two.test"):
        domain.create({"name": name})
    inputs = {"name": "owner", "purpose": "Service or API", "resources": ["do:domain:one.test"]}
    created = project.create(inputs)
    project.settle(created.id, inputs)
    assert state_of(project, created.id, inputs, {})[0] == inputs
    moved = {**inputs, "resources": ["do:domain:two.test"]}
    project.update(created.id, inputs, moved, {"resources"})
    assert state_of(project, created.id, moved, {})[0] == moved
    project.delete(created.id, moved)  # refused by the API for as long as it holds something
    assert project.read(created.id, {}) is None


def test_drift_is_read_as_it_is(kinds: dict[str, Kind]) -> None:
    record = kind_of(kinds, "dnsRecord:DnsRecord")
    inputs = {"domain": "parent.test", "name": "drift", "type": "A", "value": "198.18.1.1", "ttl": 30}
    created = record.create(inputs)
    record.update(created.id, inputs, {**inputs, "value": "198.18.1.9"}, {"value"})
    assert state_of(record, created.id, inputs, {})[0] == {**inputs, "value": "198.18.1.9"}


def test_what_the_api_refuses_is_said_in_its_words(kinds: dict[str, Kind]) -> None:
    droplet = kind_of(kinds, "droplet:Droplet")
    with pytest.raises(ProviderError, match=r"POST /v2/droplets: 422 .*size"):
        droplet.create({"name": "one", "region": "nyc3", "size": "huge", "image": "debian-13-x64"})


def _api(answers: list[Any]) -> tuple[Api, list[httpx.Request]]:
    """A client of which the transport answers from a list: statuses, or exceptions to raise."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        following = answers.pop(0)
        if isinstance(following, Exception):
            raise following
        return httpx.Response(following, json={"message": "no"} if following >= 400 else {"ok": True})

    return Api("http://api.test", "token", transport=httpx.MockTransport(answer), retry_wait_s=0), asked


def test_what_may_pass_is_tried_again() -> None:
    api, asked = _api([429, 503, httpx.ConnectError("refused"), 200])
    assert api.get("/v2/account") == {"ok": True}
    assert len(asked) == 4


@pytest.mark.parametrize(("answers", "calls"), [([500] * 9, 5), ([501], 1), ([422], 1), ([401], 1)])
def test_what_will_not_pass_is_given_up(answers: list[Any], calls: int) -> None:
    api, asked = _api(answers)
    with pytest.raises(ProviderError, match="no"):
        api.post("/v2/droplets", {})
    assert len(asked) == calls
