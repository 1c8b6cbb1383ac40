"""The lab's Route 53: what checkers agree on, what is answered by it, and what the control plane leaves to answer."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from dnslib import DNSRecord

from lab import route53, zonebook, zones
from lab.route53 import Checkers, View, agreed, chosen


def record(kind: str, value: str, failover: str | None = None, check: str | None = None) -> dict[str, Any]:
    name = "aws.test" if kind == "NS" else "trade.aws.test"
    return {"name": name, "type": kind, "ttl": 30, "values": [value], "failover": failover, "check": check}


PAIR = [record("A", "198.18.1.10", "PRIMARY", "a"), record("A", "198.18.2.10", "SECONDARY", "b")]
SERVERS = record("NS", "ns-2048.awsdns-64.com")


@pytest.mark.parametrize(
    ("healthy", "address"),
    [({"a"}, "198.18.1.10"), ({"b"}, "198.18.2.10"), ({"a", "b"}, "198.18.1.10"), (set(), "198.18.1.10")],
)
def test_the_healthy_one_is_answered_and_the_primary_when_none_is(healthy: set[str], address: str) -> None:
    assert [record["values"] for record in chosen([*PAIR, SERVERS], healthy.__contains__)][1:] == [[address]]
    document = {"zones": {"aws.test": [*PAIR, SERVERS]}, "checks": {}}
    reply = zones.reply_to(DNSRecord.question("trade.aws.test"))
    zones.answer(reply, route53.served(document, healthy.__contains__))
    assert [(rr.ttl, str(rr.rdata)) for rr in reply.rr] == [(30, address)]


def test_a_checker_changes_its_mind_after_the_threshold_and_not_before() -> None:
    mind = View()
    for up, healthy in ((False, True), (True, True), (False, True), (False, False), (True, False), (True, True)):
        mind = mind.after(up, 2)
        assert mind.healthy is healthy


def test_some_of_the_checkers_are_enough() -> None:
    assert agreed([])
    assert agreed([View(True), View(False), View(False)])
    assert not agreed([View(False)] * 3)


@pytest.fixture
def host() -> Iterator[int]:
    class Agent(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/primary" else 503)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Agent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_health_is_asked_for_real(host: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.config.ROUTE53_ADDRESSES", ("127.0.0.1", "127.0.0.2"))
    check = {"address": "127.0.0.1", "port": host, "interval": 10, "threshold": 1}
    document = {"zones": {}, "checks": {"good": {**check, "path": "/primary"}, "bad": {**check, "path": "/standby"}}}
    checkers = Checkers(lambda: document)
    for moment in (0.0, 6.0):  # the second checker is half an interval behind
        with ThreadPoolExecutor() as pool:
            checkers.look(pool, moment)
    assert len(checkers.views) == 4
    assert checkers.healthy("good") and not checkers.healthy("bad")
    document["checks"].clear()
    with ThreadPoolExecutor() as pool:
        checkers.look(pool, 7.0)
    assert not checkers.views


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("POST", "/2013-04-01/hostedzone", "CreateHostedZone"),
        ("POST", "/2013-04-01/hostedzone/Z1/rrset/", "ChangeResourceRecordSets"),
        ("GET", "/2013-04-01/healthcheck/abc", "GetHealthCheck"),
        ("GET", "/2013-04-01/healthcheck/abc/status", ""),  # moto's answer would be made up
        ("DELETE", "/2013-04-01/change/C1", ""),
    ],
)
def test_actions_have_the_names_that_policies_go_by(method: str, path: str, action: str) -> None:
    assert zonebook.action_of(method, path) == action
