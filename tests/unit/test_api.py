"""The simulated API over HTTP, with machines and object stores in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from lab.api.memory import InMemoryMachines, InMemorySpaces
from lab.api.store import records
from lab.ports import FirewallRule
from tests.contract.digitalocean_lab import TOKEN, served
from tests.contract.digitalocean_tour import KEY, Tour

pytestmark = pytest.mark.slow  # servers and their clients: for make test

CLIENT = httpx.Client(trust_env=False, timeout=20, verify=False)  # loading certificates would take most of the time
DROPLET = {"name": "a", "region": "nyc3", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}


@dataclass
class Lab:
    """A client of a served API, and what stands behind it."""

    state: Path
    machines: InMemoryMachines = field(default_factory=InMemoryMachines)
    spaces: InMemorySpaces = field(default_factory=InMemorySpaces)
    url: str = ""
    token: str = TOKEN

    def send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return CLIENT.request(method, self.url + path, json=body, headers={"authorization": f"Bearer {self.token}"})

    @property
    def tour(self) -> Tour:
        def send(method: str, path: str, body: Any) -> tuple[int, Any]:
            answer = self.send(method, path, body)
            return answer.status_code, answer.json() if answer.content else None

        return Tour(send)

    def __call__(self, method: str, path: str, body: Any = None, *, expect: int = 200) -> Any:
        return self.tour.call(method, path, body, expect=expect)

    def refused(self, method: str, path: str, body: Any = None, *, status: int = 422) -> str:
        return str(self(method, path, body, expect=status)["message"])

    def droplet(self, **changes: Any) -> dict[str, Any]:
        """A droplet that is up."""
        made = self("POST", "/v2/droplets", {**DROPLET, **changes}, expect=202)
        assert self.tour.finished(made["links"]["actions"][0]["id"])["status"] == "completed"
        return dict(self("GET", f"/v2/droplets/{made['droplet']['id']}")["droplet"])

    def act(self, droplet_id: int, **body: Any) -> dict[str, Any]:
        return dict(self.tour.act(droplet_id, **body))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    with served(tmp_path, made.machines, made.spaces) as made.url:
        yield made


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One API for everything that is refused: it stays empty, or the refusal left something behind."""
    made = Lab(tmp_path_factory.mktemp("refusing"))
    with served(made.state, made.machines, made.spaces) as made.url:
        made("POST", "/v2/domains", {"name": "d.test"}, expect=201)
        made("POST", "/v2/domains/d.test/records", {"type": "A", "name": "taken", "data": "127.0.0.1"}, expect=201)
        yield made


# --- the door ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic xyz", f"Token {TOKEN}"])
def test_without_a_known_token_nothing_is_said(refusing: Lab, header: str | None) -> None:
    headers = {"authorization": header} if header else {}
    for path in ("/v2/droplets", "/v2/nothing", "/_lab/faults"):
        answer = CLIENT.get(refusing.url + path, headers=headers)
        assert (answer.status_code, answer.json()["id"]) == (401, "Unauthorized")
        assert answer.json()["message"] == "Unable to authenticate you"


def test_a_body_that_is_no_json_object_is_a_bad_request(lab: Lab) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    for content in ("{", "[]", '"x"'):
        answer = CLIENT.post(lab.url + "/v2/tags", content=content, headers=headers)
        assert (answer.status_code, answer.json()["id"]) == (400, "bad_request")


def test_pages_link_to_their_neighbours_and_count_everything(lab: Lab) -> None:
    for number in range(5):
        lab("POST", "/v2/tags", {"name": f"t{number}"}, expect=201)
    first = lab("GET", "/v2/tags?per_page=2")
    assert [tag["name"] for tag in first["tags"]] == ["t0", "t1"]
    assert (set(first["links"]["pages"]), first["meta"]) == ({"next", "last"}, {"total": 5})
    second = lab("GET", first["links"]["pages"]["next"].removeprefix(lab.url))
    assert set(second["links"]["pages"]) == {"first", "prev", "next", "last"}
    last = lab("GET", second["links"]["pages"]["last"].removeprefix(lab.url))
    assert [tag["name"] for tag in last["tags"]] == ["t4"]
    assert set(last["links"]["pages"]) == {"first", "prev"}
    assert lab("GET", "/v2/tags")["links"] == {"pages": {}}
    assert lab("GET", "/v2/tags?page=9")["tags"] == []
    assert len(lab("GET", "/v2/tags?per_page=100000")["tags"]) == 5


# --- droplets ---------------------------------------------------------------------------------------------------------


def test_a_droplet_is_new_until_its_machine_is_up(lab: Lab) -> None:
    lab.machines.gate = threading.Event()
    made = lab("POST", "/v2/droplets", DROPLET, expect=202)
    id_ = made["droplet"]["id"]
    seen = lab("GET", f"/v2/droplets/{id_}")["droplet"]
    assert (seen["status"], seen["locked"]) == ("new", True)
    assert "pending event" in lab.refused("POST", f"/v2/droplets/{id_}/actions", {"type": "power_off"})
    lab.machines.gate.set()
    lab.tour.finished(made["links"]["actions"][0]["id"])
    seen = lab("GET", f"/v2/droplets/{id_}")["droplet"]
    assert (seen["status"], seen["locked"]) == ("active", False)


def test_the_machine_is_what_was_asked_for(lab: Lab) -> None:
    key = lab("POST", "/v2/account/keys", {"name": "k", "public_key": KEY}, expect=201)["ssh_key"]
    vpc = lab("POST", "/v2/vpcs", {"name": "v", "region": "sgp1", "ip_range": "10.9.0.0/24"}, expect=201)["vpc"]
    droplet = lab.droplet(
        region="sgp1",
        ssh_keys=[key["fingerprint"]],
        vpc_uuid=vpc["id"],
        user_data="#cloud-config\n",
        size="s-2vcpu-2gb",
    )
    spec = lab.machines.specs[droplet["id"]]
    assert (spec.name, spec.region, spec.image, spec.vcpus, spec.memory_mb) == ("a", "sgp1", "debian-13-x64", 2, 2048)
    assert (list(spec.public_keys), spec.user_data, spec.firewall) == ([KEY], "#cloud-config\n", None)
    public, private = spec.interfaces
    assert (public.bridge, public.address, public.prefix, public.gateway) == (
        "ll-sgp1",
        "198.18.2.10",
        24,
        "198.18.2.1",
    )
    assert (private.address, private.prefix, private.gateway) == ("10.9.0.2", 24, None)
    assert private.bridge.startswith("ll-v") and len(private.bridge) <= 15
    assert public.mac != private.mac
    shown = {network["type"]: network["ip_address"] for network in droplet["networks"]["v4"]}
    assert shown == {"public": "198.18.2.10", "private": "10.9.0.2"}


def test_addresses_are_free_again_after_a_droplet_is_gone_and_ids_are_not(lab: Lab) -> None:
    first, second = lab.droplet(), lab.droplet(name="b")
    assert [spec.interfaces[0].address for spec in lab.machines.specs.values()] == ["198.18.1.10", "198.18.1.11"]
    lab("DELETE", f"/v2/droplets/{first['id']}", expect=204)
    third = lab.droplet(name="c")
    assert lab.machines.specs[third["id"]].interfaces[0].address == "198.18.1.10"
    assert third["id"] > second["id"] > first["id"]


def test_status_is_what_the_machine_is_not_what_was_asked(lab: Lab) -> None:
    droplet = lab.droplet()
    lab.machines.running.clear()  # it died by itself
    assert lab("GET", f"/v2/droplets/{droplet['id']}")["droplet"]["status"] == "off"
    lab.act(droplet["id"], type="power_on")
    assert lab("GET", f"/v2/droplets/{droplet['id']}")["droplet"]["status"] == "active"


@pytest.mark.parametrize(
    ("type_", "calls"),
    [
        ("reboot", ["shutdown", "power_on"]),
        ("power_cycle", ["power_off", "power_on"]),
        ("shutdown", ["shutdown"]),
        ("power_off", ["power_off"]),
        ("password_reset", ["power_off", "power_on"]),
    ],
)
def test_an_action_does_to_the_machine_what_it_says(lab: Lab, type_: str, calls: list[str]) -> None:
    droplet = lab.droplet()
    lab.machines.calls.clear()
    action = lab.act(droplet["id"], type=type_)
    assert [call for call, _ in lab.machines.calls] == calls
    assert action["completed_at"] >= action["started_at"]


def test_an_action_the_machine_fails_is_errored_and_the_droplet_unlocked(lab: Lab) -> None:
    droplet = lab.droplet()
    lab.machines.failing.add("power_off")
    action = lab("POST", f"/v2/droplets/{droplet['id']}/actions", {"type": "power_off"}, expect=201)["action"]
    done = lab.tour.finished(action["id"])
    assert (done["status"], done["completed_at"] is None) == ("errored", False)
    seen = lab("GET", f"/v2/droplets/{droplet['id']}")["droplet"]
    assert (seen["status"], seen["locked"]) == ("active", False)


def test_a_droplet_whose_machine_cannot_be_made_is_not_active(lab: Lab) -> None:
    lab.machines.failing.add("create")
    made = lab("POST", "/v2/droplets", DROPLET, expect=202)
    assert lab.tour.finished(made["links"]["actions"][0]["id"])["status"] == "errored"
    assert lab("GET", f"/v2/droplets/{made['droplet']['id']}")["droplet"]["status"] == "off"


def test_a_snapshot_can_be_restored_and_outlives_its_droplet(lab: Lab) -> None:
    droplet = lab.droplet()
    action = lab.act(droplet["id"], type="snapshot", name="before")
    (snapshot,) = lab("GET", f"/v2/droplets/{droplet['id']}/snapshots")["snapshots"]
    assert (snapshot["name"], snapshot["created_at"]) == ("before", action["started_at"])
    lab.act(droplet["id"], type="restore", image=snapshot["id"])
    assert lab.machines.specs[droplet["id"]].image == f"snapshot:{snapshot['id']}"
    lab("DELETE", f"/v2/droplets/{droplet['id']}", expect=204)
    again = lab.droplet(image=snapshot["id"])
    assert lab.machines.specs[again["id"]].image == f"snapshot:{snapshot['id']}"
    lab("DELETE", f"/v2/snapshots/{snapshot['id']}", expect=204)
    assert lab.machines.snapshots == set()


def test_a_resize_needs_the_power_off_and_a_disk_that_is_not_smaller(lab: Lab) -> None:
    droplet = lab.droplet()
    path = f"/v2/droplets/{droplet['id']}/actions"
    assert "powered off" in lab.refused("POST", path, {"type": "resize", "size": "s-2vcpu-2gb"})
    lab.act(droplet["id"], type="power_off")
    assert "smaller disk" in lab.refused("POST", path, {"type": "resize", "size": "s-1vcpu-512mb-10gb"})
    lab.act(droplet["id"], type="resize", size="s-2vcpu-2gb", disk=False)
    seen = lab("GET", f"/v2/droplets/{droplet['id']}")["droplet"]
    assert (seen["size_slug"], seen["vcpus"], seen["disk"], seen["status"]) == ("s-2vcpu-2gb", 2, 25, "off")
    assert lab.machines.specs[droplet["id"]].memory_mb == 2048


def test_a_deleted_droplet_is_gone_everywhere(lab: Lab) -> None:
    droplet = lab.droplet()
    rule = {"protocol": "tcp", "ports": "22", "sources": {"addresses": ["198.18.100.1"]}}
    body = {"name": "f", "inbound_rules": [rule], "droplet_ids": [droplet["id"]]}
    firewall = lab("POST", "/v2/firewalls", body, expect=202)["firewall"]
    lab("DELETE", f"/v2/droplets/{droplet['id']}", expect=204)
    assert lab.machines.status(droplet["id"]) == "absent"
    assert lab("GET", f"/v2/firewalls/{firewall['id']}")["firewall"]["droplet_ids"] == []
    assert lab("GET", "/v2/projects/default/resources")["resources"] == []
    lab("DELETE", f"/v2/droplets/{droplet['id']}", expect=404)


def test_a_droplet_that_cannot_be_destroyed_stays(lab: Lab) -> None:
    droplet = lab.droplet()
    lab.machines.failing.add("destroy")
    lab("DELETE", f"/v2/droplets/{droplet['id']}", expect=500)
    assert lab("GET", f"/v2/droplets/{droplet['id']}")["droplet"]["locked"] is False


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"region": "mars1"}, "invalid region"),
        ({"size": "huge"}, "invalid size"),
        ({"image": "windows"}, "invalid image"),
        ({"image": 424242}, "invalid image"),
        ({"ssh_keys": [99]}, "99 are invalid key identifiers"),
        ({"name": "under_score"}, "hostname characters"),
        ({"name": ""}, "blank"),
        ({"tags": ["no spaces"]}, "tag name is invalid"),
        ({"vpc_uuid": "none"}, "VPC"),
        ({"user_data": "x" * 65537}, "user_data"),
        ({"backups": True, "backup_policy": {"plan": "hourly"}}, "plan"),
    ],
)
def test_what_cannot_be_made_is_refused_and_leaves_nothing(refusing: Lab, change: dict[str, Any], said: str) -> None:
    assert said in refusing.refused("POST", "/v2/droplets", {**DROPLET, **change})
    assert refusing("GET", "/v2/droplets")["droplets"] == []
    assert refusing("GET", "/v2/tags")["tags"] == []
    assert refusing.machines.calls == []


# --- networks and firewalls -------------------------------------------------------------------------------------------


def test_vpcs_do_not_overlap_and_stay_while_they_have_members(lab: Lab) -> None:
    body = {"name": "v", "region": "nyc3", "ip_range": "10.1.0.0/20"}
    vpc = lab("POST", "/v2/vpcs", body, expect=201)["vpc"]
    assert "overlaps" in lab.refused("POST", "/v2/vpcs", {**body, "name": "w", "ip_range": "10.1.1.0/24"})
    assert "already exists" in lab.refused("POST", "/v2/vpcs", {**body, "ip_range": "10.2.0.0/24"})
    for bad in ("8.8.8.0/24", "10.0.0.0/8", "10.0.0.0/29", "10.3.0.1/24", "nonsense"):
        lab.refused("POST", "/v2/vpcs", {**body, "name": "w", "ip_range": bad})
    free = lab("POST", "/v2/vpcs", {"name": "w", "region": "nyc3"}, expect=201)["vpc"]
    assert free["ip_range"] == "198.19.48.0/20"  # after the default VPCs of three regions
    droplet = lab.droplet(vpc_uuid=vpc["id"])
    assert "members" in lab.refused("DELETE", f"/v2/vpcs/{vpc['id']}", status=403)
    lab("DELETE", f"/v2/droplets/{droplet['id']}", expect=204)
    lab("DELETE", f"/v2/vpcs/{vpc['id']}", expect=204)
    default = next(v for v in lab("GET", "/v2/vpcs")["vpcs"] if v["default"])
    lab.refused("DELETE", f"/v2/vpcs/{default['id']}", status=403)


def _ssh_from(**sources: Any) -> dict[str, Any]:
    return {"name": "f", "inbound_rules": [{"protocol": "tcp", "ports": "22", "sources": sources}]}


def test_a_firewall_is_enforced_on_its_droplets_and_follows_its_tags(lab: Lab) -> None:
    lab("POST", "/v2/tags", {"name": "web"}, expect=201)
    lab("POST", "/v2/tags", {"name": "admin"}, expect=201)
    web, admin = lab.droplet(tags=["web"]), lab.droplet(name="b")
    firewall = lab("POST", "/v2/firewalls", {**_ssh_from(tags=["admin"]), "tags": ["web"]}, expect=202)["firewall"]
    assert firewall["status"] == "succeeded"
    assert lab.machines.firewalls == {web["id"]: (), admin["id"]: None}  # nobody is tagged yet: nothing is allowed
    resource = {"resources": [{"resource_id": str(admin["id"]), "resource_type": "droplet"}]}
    lab("POST", "/v2/tags/admin/resources", resource, expect=204)
    private = next(n["ip_address"] for n in admin["networks"]["v4"] if n["type"] == "private")
    expected = FirewallRule("in", "tcp", "22", ("198.18.1.11/32", f"{private}/32"))
    assert lab.machines.firewalls[web["id"]] == (expected,)
    lab("POST", f"/v2/firewalls/{firewall['id']}/droplets", {"droplet_ids": [admin["id"]]}, expect=204)
    assert lab.machines.firewalls[admin["id"]] == (expected,)
    lab("DELETE", f"/v2/firewalls/{firewall['id']}", expect=204)
    assert lab.machines.firewalls == {web["id"]: None, admin["id"]: None}


def test_a_droplet_is_never_up_without_the_firewall_of_its_tag(lab: Lab) -> None:
    lab("POST", "/v2/tags", {"name": "web"}, expect=201)
    lab("POST", "/v2/firewalls", {**_ssh_from(addresses=["10.0.0.0/8", "::/0"]), "tags": ["web"]}, expect=202)
    droplet = lab.droplet(tags=["web"])
    assert lab.machines.specs[droplet["id"]].firewall == (FirewallRule("in", "tcp", "22", ("10.0.0.0/8",)),)


def test_a_firewall_that_cannot_be_enforced_says_so_until_it_is(lab: Lab) -> None:
    droplet = lab.droplet()
    lab.machines.failing.add("set_firewall")
    body = {**_ssh_from(addresses=["10.0.0.0/8"]), "droplet_ids": [droplet["id"]]}
    firewall = lab("POST", "/v2/firewalls", body, expect=202)["firewall"]
    assert firewall["status"] == "failed"
    lab.machines.failing.clear()
    assert lab("PUT", f"/v2/firewalls/{firewall['id']}", body)["firewall"]["status"] == "succeeded"
    assert lab.machines.firewalls[droplet["id"]] == (FirewallRule("in", "tcp", "22", ("10.0.0.0/8",)),)


@pytest.mark.parametrize(
    "rule",
    [
        {"protocol": "tcp", "ports": "22"},
        {"protocol": "tcp", "ports": "", "sources": {"addresses": ["10.0.0.0/8"]}},
        {"protocol": "tcp", "ports": "9-8", "sources": {"addresses": ["10.0.0.0/8"]}},
        {"protocol": "tcp", "ports": "70000", "sources": {"addresses": ["10.0.0.0/8"]}},
        {"protocol": "gre", "ports": "1", "sources": {"addresses": ["10.0.0.0/8"]}},
        {"protocol": "tcp", "ports": "1", "sources": {"addresses": ["everywhere"]}},
        {"protocol": "tcp", "ports": "1", "sources": {"tags": ["unknown"]}},
        {"protocol": "tcp", "ports": "1", "sources": {"droplet_ids": [1]}},
    ],
)
def test_a_rule_that_means_nothing_is_refused(refusing: Lab, rule: dict[str, Any]) -> None:
    refusing.refused("POST", "/v2/firewalls", {"name": "f", "inbound_rules": [rule]})
    assert refusing("GET", "/v2/firewalls")["firewalls"] == []


# --- names ------------------------------------------------------------------------------------------------------------


def test_records_are_what_dns_reads(lab: Lab) -> None:
    lab("POST", "/v2/domains", {"name": "genesis.test"}, expect=201)
    path = "/v2/domains/genesis.test/records"
    body = {"type": "A", "name": "trade", "data": "198.18.1.10", "ttl": 30, "priority": 0, "port": 0, "weight": 0}
    made = lab("POST", path, body, expect=201)["domain_record"]
    assert (made["priority"], made["port"], made["weight"]) == (None, None, None)
    lab("POST", path, {"type": "CNAME", "name": "www", "data": "trade.genesis.test."}, expect=201)
    lab("PUT", f"{path}/{made['id']}", {"name": "trade", "data": "198.18.2.10", "ttl": 30})
    found = {(row.type, row.name): (row.data, row.ttl) for row in records(lab.state / "state.sqlite3")}
    assert found["A", "trade"] == ("198.18.2.10", 30)
    assert found["CNAME", "www"] == ("trade.genesis.test", 1800)
    assert {("SOA", "@"), ("NS", "@")} < set(found)
    lab("DELETE", "/v2/domains/genesis.test", expect=204)
    assert records(lab.state / "state.sqlite3") == []


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"type": "CNAME", "name": "w", "data": "x.test"}, "Data needs to end with a dot (.)"),
        ({"type": "MX", "name": "@", "data": "x.test", "priority": 1}, "Data needs to end with a dot (.)"),
        ({"type": "A", "name": "w", "data": "::1"}, "IPv4"),
        ({"type": "AAAA", "name": "w", "data": "127.0.0.1"}, "IPv6"),
        ({"type": "A", "name": "w", "data": "127.0.0.1", "ttl": 29}, "Ttl"),
        ({"type": "A", "name": "", "data": "127.0.0.1"}, "blank"),
        ({"type": "A", "name": "a b", "data": "127.0.0.1"}, "hostname"),
        ({"type": "A", "name": "other.example.", "data": "127.0.0.1"}, "within the domain"),
        ({"type": "CNAME", "name": "taken", "data": "x.test."}, "CNAME records cannot share a name"),
        ({"type": "LOC", "name": "w", "data": "x"}, "Type"),
        ({"type": "CAA", "name": "@", "data": "x.test.", "flags": 0, "tag": "nope"}, "tag"),
    ],
)
def test_records_that_dns_could_not_serve_are_refused(refusing: Lab, record: dict[str, Any], said: str) -> None:
    before = refusing("GET", "/v2/domains/d.test/records")
    assert said in refusing.refused("POST", "/v2/domains/d.test/records", record)
    assert refusing("GET", "/v2/domains/d.test/records") == before


def test_records_of_one_name_and_type_share_their_ttl(lab: Lab) -> None:
    lab("POST", "/v2/domains", {"name": "d.test"}, expect=201)
    path = "/v2/domains/d.test/records"
    first = lab("POST", path, {"type": "A", "name": "w", "data": "127.0.0.1", "ttl": 30}, expect=201)["domain_record"]
    lab("POST", path, {"type": "A", "name": "w", "data": "127.0.0.2", "ttl": 90}, expect=201)
    assert lab("GET", f"{path}/{first['id']}")["domain_record"]["ttl"] == 90


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_a_key_is_known_once(lab: Lab) -> None:
    lab("POST", "/v2/account/keys", {"name": "k", "public_key": KEY}, expect=201)
    same = {"name": "again", "public_key": KEY.replace("tour", "another comment")}
    assert "already in use" in lab.refused("POST", "/v2/account/keys", same)
    for bad in ("ssh-ed25519", "ssh-ed25519 !!!", "ssh-rsa " + KEY.split()[1], "hello world"):
        lab.refused("POST", "/v2/account/keys", {"name": "b", "public_key": bad})


def test_spaces_keys_are_enforced_before_they_are_answered(lab: Lab) -> None:
    grants = [{"bucket": "vault", "permission": "readwrite"}, {"bucket": "a", "permission": "read"}]
    key = lab("POST", "/v2/spaces/keys", {"name": "p", "grants": grants}, expect=201)["key"]
    known = lab.spaces.keys[key["access_key"]]
    assert known.secret_key == key["secret_key"]
    assert [(grant.bucket, grant.permission) for grant in known.grants] == [("vault", "readwrite"), ("a", "read")]
    shown = lab("GET", f"/v2/spaces/keys/{key['access_key']}")["key"]
    assert "secret_key" not in shown and shown["grants"] == grants
    lab("DELETE", f"/v2/spaces/keys/{key['access_key']}", expect=204)
    assert lab.spaces.keys == {}


def test_a_spaces_key_the_stores_refuse_is_no_key_and_one_they_keep_is_not_deleted(lab: Lab) -> None:
    grants = [{"bucket": "", "permission": "fullaccess"}]
    lab.spaces.failing = True
    lab("POST", "/v2/spaces/keys", {"name": "p", "grants": grants}, expect=500)
    assert lab("GET", "/v2/spaces/keys")["keys"] == []
    lab.spaces.failing = False
    key = lab("POST", "/v2/spaces/keys", {"name": "p", "grants": grants}, expect=201)["key"]
    lab.spaces.failing = True
    lab("DELETE", f"/v2/spaces/keys/{key['access_key']}", expect=500)
    assert len(lab("GET", "/v2/spaces/keys")["keys"]) == 1


@pytest.mark.parametrize(
    "grants",
    [
        [{"bucket": "b", "permission": "fullaccess"}],
        [{"bucket": "", "permission": "read"}],
        [{"bucket": "b", "permission": "append"}],
        [{"bucket": "", "permission": "fullaccess"}, {"bucket": "b", "permission": "read"}],
    ],
)
def test_grants_that_mean_nothing_are_refused(refusing: Lab, grants: list[dict[str, str]]) -> None:
    refusing.refused("POST", "/v2/spaces/keys", {"name": "p", "grants": grants})
    assert refusing.spaces.keys == {}


def test_a_project_with_resources_is_not_deleted(lab: Lab) -> None:
    droplet = lab.droplet()
    urns = {"resources": [f"do:droplet:{droplet['id']}", "do:space:vault"]}
    project = lab("POST", "/v2/projects", {"name": "p", "purpose": "mine"}, expect=201)["project"]
    assert project["purpose"] == "Other: mine"
    path = f"/v2/projects/{project['id']}"
    assert {r["status"] for r in lab("POST", f"{path}/resources", urns)["resources"]} == {"assigned"}
    assert {r["urn"] for r in lab("GET", f"{path}/resources")["resources"]} == set(urns["resources"])
    lab.refused("DELETE", path, status=412)
    lab.refused("POST", f"{path}/resources", {"resources": ["do:droplet:999999"]}, status=404)
    lab("POST", "/v2/projects/default/resources", urns)
    lab("DELETE", path, expect=204)
    lab.refused("DELETE", f"/v2/projects/{lab('GET', '/v2/projects/default')['project']['id']}", status=409)


def test_uptime_checks_and_alerts_are_validated(lab: Lab) -> None:
    check = {"name": "c", "type": "http", "target": "http://a.test/health", "regions": ["us_east"]}
    for change in ({"type": "tcp"}, {"target": "https://a.test"}, {"regions": ["mars"]}, {"name": ""}):
        lab.refused("POST", "/v2/uptime/checks", {**check, **change})
    id_ = lab("POST", "/v2/uptime/checks", check, expect=201)["check"]["id"]
    alerts = f"/v2/uptime/checks/{id_}/alerts"
    assert "threshold" in lab.refused("POST", alerts, {"name": "a", "type": "latency", "period": "2m"})
    made = lab("POST", alerts, {"name": "a", "type": "down", "period": "2m"}, expect=201)["alert"]
    assert made["notifications"] == {"email": [], "slack": []}
    lab("DELETE", f"/v2/uptime/checks/{id_}", expect=204)
    lab("GET", f"{alerts}/{made['id']}", expect=404)
