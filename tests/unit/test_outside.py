"""The stranger's eye: what counts as a round trip, and what doesn't."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from lifeline.errors import BadConfig
from lifeline.model import Verdict
from lifeline.outside import Outside, resolve
from lifeline.service import Service
from tests.unit.world import SERVICE_TOML

SERVICE = Service.parse(SERVICE_TOML)


class Engine:
    """A service that keeps tokens; ``lies`` makes it acknowledge and forget."""

    def __init__(self, *, lies: bool = False, status: int = 200) -> None:
        self.tokens: set[str] = set()
        self.lies = lies
        self.status = status
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if self.status != 200:
            return httpx.Response(self.status, text="no barrier")
        if request.method == "POST":
            if not self.lies:
                self.tokens.add(request.content.decode().split('"')[3])
            return httpx.Response(201)
        token = request.url.path.rpartition("/")[2]
        return httpx.Response(200, text=token) if token in self.tokens or token == "health" else httpx.Response(404)


def outside(engine: Callable[[httpx.Request], httpx.Response], addresses: list[str] | None = None) -> Outside:
    found = ["198.18.2.10"] if addresses is None else addresses
    return Outside("trade.genesis.test", resolve=lambda name: found, transport=httpx.MockTransport(engine))


def test_a_write_that_reads_back() -> None:
    engine = Engine()
    finding = outside(engine).round_trips(SERVICE)
    assert finding.verdict is Verdict.PASS and finding.evidence["address"] == "198.18.2.10"
    assert {request.headers["host"] for request in engine.asked} == {"trade.genesis.test:8080"}
    assert finding.evidence["mark"] in engine.tokens
    outside(engine).round_trips(SERVICE)
    assert len(engine.tokens) == 2  # a fresh token each time: an old one proves nothing about now


def test_an_acknowledgement_alone_is_no_proof() -> None:
    finding = outside(Engine(lies=True)).round_trips(SERVICE)
    assert finding.verdict is Verdict.FAIL and "can't be read back: 404" in finding.says


def test_what_is_not_acknowledged_says_why() -> None:
    finding = outside(Engine(status=503)).round_trips(SERVICE)
    assert finding.verdict is Verdict.FAIL and "503 no barrier" in finding.says


def test_nobody_there() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    assert "Connection refused" in outside(refuse).round_trips(SERVICE).says
    assert outside(refuse).answers(SERVICE).verdict is Verdict.FAIL
    assert "can't be resolved" in outside(Engine(), []).round_trips(SERVICE).says


def test_looking_leaves_no_trace() -> None:
    engine = Engine()
    assert outside(engine).answers(SERVICE).verdict is Verdict.PASS
    assert [request.method for request in engine.asked] == ["GET"] and not engine.tokens


def test_a_service_without_a_probe_is_said_to_be_unproved() -> None:
    service = Service.parse(SERVICE_TOML.split("[probe]")[0])
    finding = outside(Engine()).round_trips(service)
    assert finding.verdict is Verdict.SKIPPED and "no write proved" in finding.says
    down = outside(Engine(status=503)).round_trips(service)
    assert down.verdict is Verdict.FAIL


@pytest.mark.parametrize("name", ["no.such.name.invalid"])
def test_a_name_that_does_not_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    from lifeline.outside import resolve

    def nothing(*_: object) -> list[object]:
        raise socket.gaierror("Name or service not known")

    monkeypatch.delenv("LIFELINE_DNS", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    assert resolve(name) == []


def test_a_name_server_that_is_none_is_a_mistake_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELINE_DNS", "nonsense")
    with pytest.raises(BadConfig, match="LIFELINE_DNS=nonsense"):
        resolve("trade.genesis.test")
