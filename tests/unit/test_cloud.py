"""The cloud's API: deadlines, retries, absence, errors in an operator's words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from lifeline.cloud import DigitalOcean, ReadOnly, TokenRefused
from lifeline.errors import BadConfig, Refused, Unavailable
from lifeline.model import Record
from tests.unit.world import FakeClock

RECORD = Record("trade.genesis.test", "genesis.test", "trade", "123", 30)
Handler = Callable[[httpx.Request], httpx.Response]


class Api:
    """Answers from a script, the last answer for ever; keeps what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def cloud(api: Handler, clock: FakeClock | None = None) -> DigitalOcean:
    clock = clock or FakeClock()
    return DigitalOcean(
        "http://api.test", "t0ken", transport=httpx.MockTransport(api), monotonic=clock.monotonic, sleep=clock.sleep
    )


def droplet(status: str) -> httpx.Response:
    return httpx.Response(200, json={"droplet": {"id": 1, "status": status}})


ABSENT = httpx.Response(404, json={"id": "not_found", "message": "gone", "request_id": "r"})


def test_power() -> None:
    api = Api(droplet("off"))
    assert cloud(api).power_state("1") == "off"
    assert (api.asked[0].url.path, api.asked[0].headers["authorization"]) == ("/v2/droplets/1", "Bearer t0ken")
    assert cloud(Api(ABSENT)).power_state("1") == "absent"
    api = Api(httpx.Response(201, json={"action": {}}))
    cloud(api).power_off("1")
    assert json.loads(api.asked[0].content) == {"type": "power_off"}


def test_a_rate_limit_is_honoured_within_the_deadline() -> None:
    clock = FakeClock()
    busy = httpx.Response(429, headers={"retry-after": "3"}, json={"message": "slow down"})
    assert cloud(Api(busy, droplet("active")), clock).power_state("1") == "active"
    assert clock.now == 3
    longer = httpx.Response(429, headers={"retry-after": "3600"}, json={"message": "slow down"})
    with pytest.raises(Unavailable, match="429 slow down"):
        cloud(Api(longer), clock).power_state("1")
    assert clock.now == 3  # not worth waiting for


def test_a_broken_control_plane_costs_seconds_not_minutes() -> None:
    for answer in (httpx.Response(503), httpx.ConnectError("refused"), httpx.ReadTimeout("")):
        clock = FakeClock()
        with pytest.raises(Unavailable, match="does not answer GET /v2/droplets/1"):
            cloud(Api(answer), clock).power_state("1")
        assert 4 < clock.now < 9


def test_a_hiccup_is_retried() -> None:
    api = Api(httpx.ConnectError("refused"), httpx.Response(500), droplet("off"))
    assert cloud(api).power_state("1") == "off" and len(api.asked) == 3


def test_refusals_say_why() -> None:
    with pytest.raises(TokenRefused, match="refuses our token"):
        cloud(Api(httpx.Response(401))).power_state("1")
    complaint = httpx.Response(422, json={"message": "Droplet is busy", "request_id": "abc"})
    with pytest.raises(Unavailable, match=r"422 Droplet is busy \(request abc\)"):
        cloud(Api(complaint)).power_off("1")


def test_the_record_is_found_by_id_and_by_name() -> None:
    found = {"id": 123, "type": "A", "name": "trade", "data": "198.18.1.10", "ttl": 30}
    api = Api(httpx.Response(200, json={"domain_record": found}))
    assert cloud(api).record(RECORD).address == "198.18.1.10"
    anew = {**found, "id": 9}
    api = Api(ABSENT, httpx.Response(200, json={"domain_records": [anew]}), httpx.Response(200, json={}))
    cloud(api).set_record(RECORD, "198.18.2.10")
    put = api.asked[-1]
    assert (put.method, put.url.path) == ("PUT", "/v2/domains/genesis.test/records/9")
    assert json.loads(put.content) == {"type": "A", "name": "trade", "data": "198.18.2.10", "ttl": 30}
    with pytest.raises(Unavailable, match=r"no record trade\.genesis\.test"):
        cloud(Api(ABSENT, httpx.Response(200, json={"domain_records": []}))).record(RECORD)


def test_keys_droplets_and_checks() -> None:
    assert cloud(Api(httpx.Response(200, json={"key": {}}))).has_spaces_key("K")
    assert not cloud(Api(ABSENT)).has_spaces_key("K")
    cloud(Api(ABSENT)).delete_spaces_key("K")
    listed = httpx.Response(200, json={"droplets": [{"id": 5, "name": "a"}, {"id": 6, "name": "b"}]})
    assert cloud(Api(listed)).droplet_id("b") == "6" and cloud(Api(listed)).droplet_id("c") is None
    state = httpx.Response(200, json={"state": {"regions": {"eu_west": {"status": "DOWN"}}}})
    assert cloud(Api(state)).uptime("u") == {"eu_west": "DOWN"}


def test_a_dry_run_looks_and_touches_nothing() -> None:
    api = Api(droplet("active"))
    dry = ReadOnly(cloud(api))
    assert dry.power_state("1") == "active"
    touches: list[Callable[[], None]] = [
        lambda: dry.power_off("1"),
        lambda: dry.power_on("1"),
        lambda: dry.set_record(RECORD, "x"),
        lambda: dry.delete_spaces_key("K"),
    ]
    for touch in touches:
        with pytest.raises(Refused, match="a dry run may not"):
            touch()
    assert len(api.asked) == 1


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_file_of_authorities_that_went_with_its_lab_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    bundle = tmp_path / "bundle.pem"
    if text:
        bundle.write_text(text)
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", "t")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with pytest.raises(BadConfig, match=r"bundle\.pem can't be read") as refused:
        DigitalOcean.from_environment("https://198.18.0.10")
    assert "unset SSL_CERT_FILE" in (refused.value.hint or "")


@pytest.mark.parametrize("token", ["dop_v1_…", "dop_v1_a b", "dop_v1_a\n"])
def test_a_token_that_was_not_copied_whole_is_no_cloud_that_is_down(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIGITALOCEAN_TOKEN", token)
    with pytest.raises(BadConfig, match="DIGITALOCEAN_TOKEN isn't one word") as refused:
        DigitalOcean.from_environment("https://198.18.0.10")
    assert "64 more digits" in (refused.value.hint or "")
