"""The rung "firewall": a droplet is closed, seen to be, and opened again, by the lab's API; and in the ladder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from lab.api.memory import InMemoryMachines, InMemorySpaces
from lab.api.scopes import required
from lab.ports import FirewallRule
from lifeline import closing
from lifeline.cloud import PILOT_SCOPES, DigitalOcean
from lifeline.errors import BadConfig, LifelineError, Unavailable
from runbooks.failover import failover
from runbooks.reprotect import reprotect
from tests.contract.digitalocean_lab import TOKEN, served
from tests.unit.world import NEW, OLD, World

SSH = FirewallRule("in", "tcp", "22", ("10.0.0.0/8",))


@dataclass
class Api:
    """The lab's API, and a cloud that speaks with it; `lose`: the answers to these calls get lost."""

    url: str
    machines: InMemoryMachines
    asked: list[tuple[str, str]] = field(default_factory=list)
    lose: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._http = httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False)
        self.cloud = DigitalOcean(self.url, TOKEN, transport=httpx.MockTransport(self._pass), sleep=lambda _: None)

    def _pass(self, request: httpx.Request) -> httpx.Response:
        call = (request.method, request.url.path)
        self.asked.append(call)
        answer = self._http.request(request.method, request.url.raw_path.decode(), content=request.content)
        if call in self.lose:
            self.lose.remove(call)
            raise httpx.ReadTimeout("lost")
        return httpx.Response(answer.status_code, content=answer.content)

    def make(self, path: str, body: dict[str, Any], kind: str) -> dict[str, Any]:
        answer = self._http.post(path, json=body)
        assert answer.is_success, answer.text
        return dict(answer.json()[kind])

    def droplet(self, name: str, tags: list[str]) -> str:
        """One behind the firewall of its first tag."""
        plain = {"region": "nyc3", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}
        made = self.make("/v2/droplets", {**plain, "name": name, "tags": tags}, "droplet")
        while self._http.get(f"/v2/droplets/{made['id']}").json()["droplet"]["status"] == "new":
            pass
        return str(made["id"])

    def rules(self, droplet_id: str) -> tuple[FirewallRule, ...] | None:
        return self.machines.firewalls.get(int(droplet_id))

    def tags(self, droplet_id: str) -> list[str]:
        return sorted(self._http.get(f"/v2/droplets/{droplet_id}").json()["droplet"]["tags"])


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    machines = InMemoryMachines()
    with served(tmp_path, machines, InMemorySpaces()) as url:
        found = Api(url, machines)
        for tag in ("own", "shared"):
            found.make("/v2/tags", {"name": tag}, "tag")
        rule = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["10.0.0.0/8"]}}
        found.make("/v2/firewalls", {"name": "own", "inbound_rules": [rule], "tags": ["own"]}, "firewall")
        yield found


def test_closed_nothing_gets_in_or_out_and_opened_all_is_as_it_was(api: Api) -> None:
    droplet, other = api.droplet("old", ["own", "shared"]), api.droplet("new", ["shared"])
    assert "isn't behind lifeline-fence-old" in api.cloud.not_closed(droplet, "old")
    api.cloud.close(droplet, "old")
    assert api.cloud.not_closed(droplet, "old") == "" and api.cloud.has_closing("old")
    assert api.rules(droplet) == () and api.rules(other) is None
    assert api.tags(droplet) == ["shared"]  # what monitors go by stays
    api.cloud.close(droplet, "old")
    assert api.cloud.not_closed(droplet, "old") == ""
    assert api.cloud.reopen(droplet, "old") and not api.cloud.has_closing("old")
    assert api.rules(droplet) == (SSH,) and api.tags(droplet) == ["own", "shared"]
    assert not api.cloud.reopen(droplet, "old")


def test_at_no_moment_is_it_without_a_firewall(api: Api) -> None:
    """A droplet that has none is open to all."""
    droplet = api.droplet("old", ["own"])
    seen: list[Any] = []
    enforce = api.machines.set_firewall
    api.machines.set_firewall = lambda id_, rules: (seen.append(rules), enforce(id_, rules))  # type: ignore[assignment, func-returns-value, method-assign]
    api.cloud.close(droplet, "old")
    api.cloud.reopen(droplet, "old")
    assert seen and None not in seen


def test_half_done_it_is_gone_on_with_and_opened_too(api: Api) -> None:
    droplet = api.droplet("old", ["own"])
    api.lose = [("POST", "/v2/firewalls")]  # made again, and refused as a duplicate
    api.cloud.close(droplet, "old")
    assert api.cloud.not_closed(droplet, "old") == ""
    api.cloud.reopen(droplet, "old")

    def dies(method: str, path: str, *arguments: Any, **options: Any) -> Any:
        if method == "DELETE":
            raise Unavailable("here it ended")
        return api.cloud._call(method, path, *arguments, **options)

    with pytest.raises(Unavailable):
        closing.close(dies, droplet, "old")
    assert "own still lets it be spoken with" in api.cloud.not_closed(droplet, "old")
    api.cloud.close(droplet, "old")
    assert api.cloud.not_closed(droplet, "old") == ""
    api.cloud.reopen(droplet, "old")
    assert api.tags(droplet) == ["own"]


def test_a_firewall_that_isnt_in_force_or_was_changed_is_no_proof(api: Api) -> None:
    droplet = api.droplet("old", ["own"])
    api.machines.failing.add("set_firewall")
    api.cloud.close(droplet, "old")
    assert "not in force yet" in api.cloud.not_closed(droplet, "old")
    api.machines.failing.clear()
    api.cloud.close(droplet, "old")
    own = next(
        one for one in api.cloud._call("GET", "/v2/firewalls")["firewalls"] if one["name"] == "lifeline-fence-old"
    )
    opened = {"protocol": "tcp", "ports": "443", "destinations": {"addresses": ["0.0.0.0/0"]}}
    api.cloud._call("POST", f"/v2/firewalls/{own['id']}/rules", {"outbound_rules": [opened]})
    assert "somebody else's" in api.cloud.not_closed(droplet, "old")


def test_a_droplet_that_is_gone_speaks_with_nobody(api: Api) -> None:
    assert api.cloud.not_closed("4711", "old") == ""
    api.cloud.close("4711", "old")
    assert not api.cloud.has_closing("old")


def test_the_pilots_token_suffices(api: Api) -> None:
    droplet = api.droplet("old", ["own"])
    api.cloud.close(droplet, "old")
    api.cloud.not_closed(droplet, "old")
    api.cloud.reopen(droplet, "old")
    assert {required(*call) for call in api.asked} <= set(PILOT_SCOPES)


# -- in the ladder


def with_policy(root: Path, *required: str) -> World:
    world = World(root)
    policy = replace(world.inventory.policy, fence_required=required)
    world.inventory = replace(world.inventory, policy=policy)
    return world


def test_the_ladder_climbs_it_and_reprotect_takes_it_back(tmp_path: Path) -> None:
    world = with_policy(tmp_path, "firewall+self-fence")
    outcome = failover(world.process(), yes=True)
    assert outcome is not None and world.actions["close"] == 1 and world.actions["power-off"] == 0
    fence = outcome.result(f"old primary {OLD} is fenced").finding
    assert {name: rung["verdict"] for name, rung in fence.evidence.items()} == {
        "firewall": "PASS",
        "self-fence": "PASS",
    }
    assert "lets nothing in or out" in fence.says and world.hosts[NEW].role == "primary"
    reprotect(world.process(), yes=True)
    assert world.closed == set() and world.hosts[OLD].role == "standby"
    reprotect(world.process(), yes=True)
    assert world.actions["reopen"] == 1


def test_with_the_api_away_the_rung_isnt_known_and_the_next_entry_is_tried(tmp_path: Path) -> None:
    world = with_policy(tmp_path, "firewall+self-fence", "self-fence")
    world.down.add("cloud")
    with pytest.raises(LifelineError, match=r"trade\.genesis\.test"):  # the record can't be moved without the API
        failover(world.process(), yes=True)
    assert world.actions["close"] == 0 and world.actions["start-primary"] == 1


def test_alone_it_is_no_choice() -> None:
    from lifeline.model import Inventory
    from tests.unit.world import inventory_json

    document = inventory_json()
    document["policy"]["fence_required"] = ["power-off", "firewall"]
    with pytest.raises(BadConfig, match=r"fence_required\[1\].*no fence alone.*join self-fence"):
        Inventory.from_json(document)
    document["policy"]["fence_required"] = ["firewall+vault-key"]
    assert Inventory.from_json(document).policy.alternatives() == (frozenset({"firewall", "vault-key"}),)
