"""What the simulator remembers over a restart, faults, rate limits, the metadata service and the uptime checks."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from lab.api import actions, droplets, icmp
from lab.api.app import create_app, create_cloud
from lab.api.cloud import Cloud
from lab.api.config import Config, Token, parse_config
from lab.api.gateway import RateLimit
from lab.api.memory import InMemoryMachines, InMemorySpaces
from lab.api.metadata import create_metadata_app
from lab.api.prober import Prober, Resolver, Result, evaluate, observe
from lab.api.store import Doc
from lifeline.cloud import PILOT_SCOPES
from lifeline.errors import BadConfig
from tests.contract.digitalocean_lab import TOKEN, config, served
from tests.unit.test_api import DROPLET, Lab

pytestmark = pytest.mark.slow  # servers and their clients: for make test


def _started(state: Path, machines: InMemoryMachines, spaces: InMemorySpaces, **settings: Any) -> Any:
    return served(state, machines, spaces, **settings)


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with _started(tmp_path, lab.machines, lab.spaces) as lab.url:
        droplet = lab.droplet()
        grants = [{"bucket": "b", "permission": "read"}]
        lab("POST", "/v2/spaces/keys", {"name": "k", "grants": grants}, expect=201)
        vpcs = lab("GET", "/v2/vpcs")["vpcs"]
    keys, lab.spaces.keys = dict(lab.spaces.keys), {}
    with _started(tmp_path, lab.machines, lab.spaces) as lab.url:
        assert lab("GET", f"/v2/droplets/{droplet['id']}")["droplet"]["status"] == "active"
        assert lab("GET", "/v2/vpcs")["vpcs"] == vpcs
        assert lab.droplet(name="b")["id"] == droplet["id"] + 1
    assert lab.spaces.keys == keys  # the stores were told again
    assert ("destroy", droplet["id"]) not in lab.machines.calls


@pytest.mark.parametrize(
    ("type_", "params", "ends"),
    [("power_off", {}, "completed"), ("reboot", {}, "errored"), ("rename", {"name": "new"}, "completed")],
)
def test_an_action_cut_short_is_finished_or_ends_errored(tmp_path: Path, type_: str, params: Any, ends: str) -> None:
    lab = Lab(tmp_path)
    with _started(tmp_path, lab.machines, lab.spaces) as lab.url:
        droplet = lab.droplet()
    # As a kill between keeping the action and doing it leaves it.
    cloud = create_cloud(config(tmp_path), lab.machines, lab.spaces)
    action = actions.begin(cloud, type_, droplets.get(cloud, droplet["id"]), params)
    cloud.store.close()
    lab.machines.calls.clear()
    with _started(tmp_path, lab.machines, lab.spaces) as lab.url:
        done = lab.tour.finished(action["id"])
        assert (done["status"], done["completed_at"] is None) == (ends, False)
        assert lab("GET", f"/v2/droplets/{droplet['id']}")["droplet"]["locked"] is False
    if ends == "errored":
        assert not {"shutdown", "power_off", "power_on"} & {call for call, _ in lab.machines.calls}


def test_a_create_and_a_destroy_cut_short_are_finished(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with _started(tmp_path, lab.machines, lab.spaces) as lab.url:
        keeps, goes = lab.droplet(), lab.droplet(name="b")
    cloud = create_cloud(config(tmp_path), lab.machines, lab.spaces)
    cloud.store.update("droplet", keeps["id"], state="new")
    made = actions.begin(cloud, "create", droplets.get(cloud, keeps["id"]))
    cloud.store.update("droplet", goes["id"], state="destroying")
    cloud.store.close()
    lab.machines.specs.pop(keeps["id"])
    lab.machines.running.discard(keeps["id"])
    with _started(tmp_path, lab.machines, lab.spaces) as lab.url:
        assert lab.tour.finished(made["id"])["status"] == "completed"
        assert lab("GET", f"/v2/droplets/{keeps['id']}")["droplet"]["status"] == "active"
    assert lab.machines.status(goes["id"]) == "absent"


# --- faults and limits -----------------------------------------------------------------------------------------------


def test_an_error_after_the_side_effect_makes_duplicates_and_one_before_does_not(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with _started(tmp_path, lab.machines, lab.spaces) as lab.url:
        for kind, droplets_left in (("error_before", 0), ("error_after", 1)):
            order = {"kind": kind, "method": "POST", "path": "/v2/droplets"}
            lab("POST", "/_lab/faults", order, expect=201)
            lab("POST", "/v2/droplets", DROPLET, expect=500)
            assert len(lab("GET", "/v2/droplets")["droplets"]) == droplets_left
        assert lab("GET", "/_lab/faults")["faults"] == []


def test_a_control_plane_that_is_down_answers_503_until_it_is_cleared(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with _started(tmp_path, lab.machines, lab.spaces) as lab.url:
        fault = lab("POST", "/_lab/faults", {"kind": "down"}, expect=201)["fault"]
        for _ in range(3):
            lab("GET", "/v2/account", expect=503)
        lab("DELETE", f"/_lab/faults/{fault['id']}", expect=204)
        lab("GET", "/v2/account")
        lab("DELETE", f"/_lab/faults/{fault['id']}", expect=404)
        lab("POST", "/_lab/faults", {"kind": "rate_limit", "count": 1, "seconds": 3}, expect=201)
        answer = lab.send("GET", "/v2/account")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
        lab("GET", "/v2/account")
        lab("POST", "/_lab/faults", {"kind": "flood"}, expect=422)


def test_the_limit_is_enforced_and_a_reader_may_only_read(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    tokens = (Token(TOKEN), Token("reader", read_only=True))
    with _started(tmp_path, lab.machines, lab.spaces, rate_per_minute=3, tokens=tokens) as lab.url:
        lab.token = "reader"
        lab("GET", "/v2/account")
        lab("POST", "/v2/tags", {"name": "t"}, expect=403)
        lab("GET", "/_lab/faults", expect=403)
        lab.token = TOKEN
        for _ in range(3):
            lab("GET", "/v2/account")
        answer = lab.send("GET", "/v2/account")
        assert (answer.status_code, answer.json()["id"]) == (429, "too_many_requests")
        assert 0 < int(answer.headers["retry-after"]) <= 61


def test_the_windows_of_the_limit_move_on() -> None:
    now = 1000.0
    limit = RateLimit(per_hour=5, per_minute=2, clock=lambda: now)
    assert [limit.use("t")[2] for _ in range(3)] == [0, 0, 61]
    now += 60
    assert [limit.use("t")[2] for _ in range(2)] == [0, 0]
    now += 60
    assert limit.use("t") == (0, 4600, 0)  # the fifth of the hour
    assert limit.use("t")[2] > 3000
    assert limit.use("other")[2] == 0


# --- metadata --------------------------------------------------------------------------------------------------------


def test_a_droplet_learns_about_itself_and_strangers_learn_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    app = create_app(config(tmp_path), lab.machines, lab.spaces)
    metadata = create_metadata_app(app.state.cloud)

    async def ask(path: str, source: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=metadata, client=(source, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://169.254.169.254") as client:
            return await client.get(path)

    with _started(tmp_path, lab.machines, lab.spaces) as lab.url:
        id_ = lab.droplet(user_data="#cloud-config\n", region="sgp1")["id"]

    def get(path: str, source: str = "198.18.2.10") -> httpx.Response:
        return asyncio.run(ask(path, source))

    whole = get("/metadata/v1.json").json()
    assert (whole["droplet_id"], whole["hostname"], whole["region"]) == (id_, "a", "sgp1")
    assert whole["interfaces"]["public"][0]["ipv4"]["ip_address"] == "198.18.2.10"
    assert get("/metadata/v1/user-data").text == "#cloud-config\n"
    assert get("/metadata/v1/interfaces/public/0/ipv4/address").text == "198.18.2.10"
    assert {"id", "hostname", "user-data", "interfaces/"} <= set(get("/metadata/v1/").text.split())
    assert get("/metadata/v1/nothing").status_code == 404
    assert get("/metadata/v1.json", source="198.18.2.99").status_code == 404
    app.state.cloud.store.close()


# --- uptime ----------------------------------------------------------------------------------------------------------

UP, DOWN = Result(True, 12.0), Result(False, 0.0, "refused")
CHECK = {"regions": ["us_east", "eu_west"]}
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def test_an_outage_begins_and_ends_with_the_probes() -> None:
    state = observe(None, "us_east", UP, "2026-01-01T00:00:00Z")
    state = observe(state, "us_east", DOWN, "2026-01-01T00:00:10Z")
    state = observe(state, "us_east", DOWN, "2026-01-01T00:00:20Z")
    assert state["regions"]["us_east"]["status"] == "DOWN"
    assert state["regions"]["us_east"]["status_changed_at"] == "2026-01-01T00:00:10Z"
    assert state["previous_outage"] is None
    state = observe(state, "us_east", UP, "2026-01-01T00:00:30Z")
    assert state["regions"]["us_east"]["thirty_day_uptime_percentage"] == 50.0
    outage = {"started_at": "2026-01-01T00:00:10Z", "ended_at": "2026-01-01T00:00:30Z", "duration_seconds": 20}
    assert state["previous_outage"] == {"region": "us_east", **outage}


@pytest.mark.parametrize(
    ("alert", "results", "fires"),
    [
        ({"type": "down"}, {"us_east": DOWN, "eu_west": UP}, True),
        ({"type": "down"}, {"us_east": UP, "eu_west": UP}, False),
        ({"type": "down_global"}, {"us_east": DOWN, "eu_west": UP}, False),
        ({"type": "down_global"}, {"us_east": DOWN}, False),  # one region hasn't looked yet
        ({"type": "down_global"}, {"us_east": DOWN, "eu_west": DOWN}, True),
        ({"type": "latency", "threshold": 10, "comparison": "greater_than"}, {"us_east": UP}, True),
        ({"type": "latency", "threshold": 20, "comparison": "greater_than"}, {"us_east": UP}, False),
        ({"type": "latency", "threshold": 0, "comparison": "greater_than"}, {"us_east": DOWN}, False),
    ],
)
def test_an_alert_fires_after_its_period_and_resolves_at_once(alert: Any, results: Any, fires: bool) -> None:
    alert = {**alert, "period": "2m"}
    state: Any = None
    for region, result in results.items():
        state = observe(state, region, result, "2026-01-01T00:00:00Z")
    seen = evaluate(alert, CHECK, state, None, T0)
    assert seen["firing"] is False
    seen = evaluate(alert, CHECK, state, seen, T0 + timedelta(seconds=119))
    assert seen["firing"] is False
    seen = evaluate(alert, CHECK, state, seen, T0 + timedelta(seconds=120))
    assert seen["firing"] is fires
    fine = observe(observe(None, "us_east", Result(True, 5), "x"), "eu_west", Result(True, 5), "x")
    assert evaluate({**alert, "threshold": 99}, CHECK, fine, seen, T0)["firing"] is False


def test_checks_really_probe(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with _started(tmp_path, lab.machines, lab.spaces, uptime_period_s=0.05) as lab.url:
        nobody = {"name": "n", "type": "http", "target": "http://127.0.0.1:9/", "regions": ["us_east"]}
        # The API itself answers 401 without a token: reachable, and still down to a check.
        refused = {**nobody, "name": "r", "target": f"{lab.url}/v2/account"}
        for body, expected in ((nobody, "DOWN"), (refused, "DOWN")):
            assert _probed(lab, body) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="an ICMP echo needs root, as the lab does")
def test_a_ping_check_sends_an_echo(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    with _started(tmp_path, lab.machines, lab.spaces, uptime_period_s=0.05) as lab.url:
        host = {"name": "h", "type": "ping", "target": "127.0.0.1", "regions": ["se_asia"]}
        assert _probed(lab, host) == "UP"
        assert _probed(lab, {**host, "name": "n", "target": "255.255.255.255"}) == "DOWN"  # may not be sent to


def _probed(lab: Lab, body: dict[str, Any]) -> str:
    """What a new check of one region says after its first probe."""
    id_ = lab("POST", "/v2/uptime/checks", body, expect=201)["check"]["id"]
    end = datetime.now(UTC) + timedelta(seconds=10)
    while (seen := _state(lab, id_)[body["regions"][0]]["status"]) == "CHECKING":
        assert datetime.now(UTC) < end, "it was never probed"
    return str(seen)


def _state(lab: Lab, check_id: str) -> Any:
    return lab("GET", f"/v2/uptime/checks/{check_id}/state")["state"]["regions"]


def test_an_echo_is_answered_by_its_reply_alone() -> None:
    header, asked = bytes([0x45]) + bytes(19), icmp.request(b"payload-")
    reply = bytes(1) + asked[1:]
    assert icmp.is_reply(header + reply, b"payload-")
    assert icmp.is_reply(bytes([0x46]) + bytes(23) + reply, b"payload-")  # a header with options
    assert not icmp.is_reply(header + asked, b"payload-")  # loopback shows the request too
    assert not icmp.is_reply(header + reply, b"another-")
    total = sum(int.from_bytes(asked[at : at + 2]) for at in range(0, len(asked), 2))
    assert total % 0xFFFF == 0  # RFC 1071: with its checksum, a message adds up to nothing


class Flaky(Prober):
    """Answers as told, then up for ever."""

    def __init__(self, cloud: Cloud, *results: Result) -> None:
        super().__init__(cloud, Resolver(None))
        self.results = list(results)

    async def _probe(self, client: httpx.AsyncClient, check: Doc) -> Result:
        return self.results.pop(0) if self.results else UP


@pytest.mark.parametrize(("results", "status"), [([DOWN], "UP"), ([DOWN, DOWN], "DOWN"), ([UP, DOWN], "UP")])
def test_one_lost_probe_is_no_outage(tmp_path: Path, results: list[Result], status: str) -> None:
    lab = Lab(tmp_path)
    body = {"name": "n", "type": "http", "target": "http://x.test/", "regions": ["us_east"]}
    with _started(tmp_path, lab.machines, lab.spaces) as lab.url:
        id_ = lab("POST", "/v2/uptime/checks", body, expect=201)["check"]["id"]
    cloud = create_cloud(config(tmp_path, uptime_period_s=0.01), lab.machines, lab.spaces)
    try:
        asyncio.run(Flaky(cloud, *results).round(httpx.AsyncClient(), asyncio.Semaphore(1)))
        seen = cloud.store.get("check_state", id_)
        assert seen and seen["regions"]["us_east"]["status"] == status
    finally:
        cloud.store.close()


# --- configuration ---------------------------------------------------------------------------------------------------

NYC3 = {"bridge": "ll-nyc3", "cidr": "198.18.1.0/24", "gateway": "198.18.1.1"}


def test_a_configuration_is_read_and_a_wrong_one_names_its_key() -> None:
    good: dict[str, Any] = {"state_dir": "/x", "tokens": ["t"], "regions": {"nyc3": NYC3}}
    parsed = parse_config(good)
    assert isinstance(parsed, Config) and parsed.regions[0].bridge == "ll-nyc3"
    for wrong, said in (
        ({"tokens": None}, "tokens"),
        ({"colour": "red"}, "colour"),
        ({"regions": {"nyc3": {**NYC3, "gateway": "10.0.0.1"}}}, "gateway 10.0.0.1"),
    ):
        bad = {key: value for key, value in {**good, **wrong}.items() if value is not None}
        with pytest.raises(BadConfig, match=said):
            parse_config(bad)


def test_a_token_with_custom_scopes_may_do_what_a_failover_needs_and_no_more(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    tokens = (Token(TOKEN), Token("pilot", scopes=PILOT_SCOPES))
    with _started(tmp_path, lab.machines, lab.spaces, tokens=tokens) as lab.url:
        lab.token = "pilot"
        lab("GET", "/v2/droplets")
        lab("POST", "/v2/droplets/1/actions", {"type": "power_off"}, expect=404)  # it may, and there is none
        for method, path in (
            ("POST", "/v2/droplets"),
            ("DELETE", "/v2/droplets/1"),
            ("DELETE", "/v2/domains/genesis.test"),
            ("POST", "/v2/spaces/keys"),
            ("GET", "/v2/account/keys"),
            ("GET", "/_lab/faults"),
        ):
            lab(method, path, expect=403)
