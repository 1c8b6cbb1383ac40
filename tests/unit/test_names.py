"""What the DNS is asked and how its answers are read, against real servers on this machine's loopback addresses."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from dnslib import NS, QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSLogger, DNSServer

from lifeline.errors import Unavailable
from lifeline.names import Names

RESOLVER, PARENT, FIRST, SECOND, SILENT = "127.5.0.1", "127.5.0.2", "127.5.0.3", "127.5.0.4", "127.5.0.9"
NAME = "trade.genesis.test"


@dataclass
class Zone(BaseResolver):  # type: ignore[misc]
    """Answers by (name, kind); ``referral``: what it delegates instead of answering; ``own``: authoritative."""

    answers: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    referral: dict[str, list[str]] = field(default_factory=dict)
    own: bool = True
    code: int = RCODE.NOERROR
    ttl: int = 30
    asked: list[str] = field(default_factory=list)

    def become(self, other: Zone) -> None:
        for name in other.__dataclass_fields__:
            setattr(self, name, getattr(other, name))

    def resolve(self, request: DNSRecord, handler: object) -> DNSRecord:
        name, kind = str(request.q.qname).rstrip("."), QTYPE[request.q.qtype]
        self.asked.append(f"{name} {kind}")
        reply: DNSRecord = request.reply(aa=int(self.own), ra=0)
        reply.header.rcode = self.code
        make = {"A": A, "NS": NS}[kind]
        for value in self.answers.get((name, kind), []):
            reply.add_answer(RR(name, request.q.qtype, ttl=self.ttl, rdata=make(value)))
        for server in self.referral.get(name, []):
            reply.header.aa = 0
            reply.add_auth(RR(name, QTYPE.NS, ttl=300, rdata=NS(server)))
        return reply


@dataclass
class World:
    port: int
    resolver: Zone
    parent: Zone
    first: Zone
    second: Zone

    def names(self, *resolvers: str) -> Names:
        return Names("genesis.test", resolvers or (RESOLVER,), port=self.port)


@pytest.fixture(scope="module")
def running() -> Iterator[World]:
    """Four servers, which take a moment to stop."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((RESOLVER, 0))
        port = probe.getsockname()[1]
    made = World(port, Zone(), Zone(), Zone(), Zone())
    places = {RESOLVER: made.resolver, PARENT: made.parent, FIRST: made.first, SECOND: made.second}
    quiet = DNSLogger(log="-request,-reply,-truncated,-error", prefix=False)
    servers = [DNSServer(zone, address=place, port=port, logger=quiet) for place, zone in places.items()]
    for server in servers:
        server.start_thread()
    yield made
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda server: server.stop(), servers))
    for server in servers:
        server.server.server_close()


@pytest.fixture
def world(running: World) -> World:
    """genesis.test, delegated by test. to two servers."""
    known = {
        ("test", "NS"): ["ns.registry.test"],
        ("ns.registry.test", "A"): [PARENT],
        ("ns1.digitalocean.com", "A"): [FIRST],
        ("ns2.digitalocean.com", "A"): [SECOND],
        (NAME, "A"): ["198.18.1.10"],
    }
    running.resolver.become(Zone(known, own=False, ttl=17))
    running.parent.become(Zone(referral={"genesis.test": ["ns2.digitalocean.com", "NS1.digitalocean.com"]}))
    for server in (running.first, running.second):
        server.become(Zone({(NAME, "A"): ["198.18.1.10"]}))
    return running


def test_the_delegation_is_asked_of_the_parent_itself(world: World) -> None:
    found = world.names().delegation()
    assert (found.parent, found.servers) == ("test", ("ns1.digitalocean.com", "ns2.digitalocean.com"))
    assert dict(found.addresses) == {"ns1.digitalocean.com": FIRST, "ns2.digitalocean.com": SECOND}
    assert world.parent.asked == ["genesis.test NS"]


def test_looking_before_a_move_fills_no_cache(world: World) -> None:
    """A resolver that is asked for the record keeps the old address for another TTL."""
    names = world.names()
    names.delegation()
    assert [answer.addresses for answer in names.authoritative(NAME)] == [("198.18.1.10",)] * 2
    assert f"{NAME} A" not in world.resolver.asked
    assert f"{NAME} A" in world.first.asked


def test_each_server_has_an_answer_of_its_own(world: World) -> None:
    world.second.answers[NAME, "A"] = ["198.18.2.10"]
    world.second.ttl = 3600
    found = world.names().authoritative(NAME)
    assert [(one.server, one.addresses, one.ttl) for one in found] == [
        ("ns1.digitalocean.com", ("198.18.1.10",), 30),
        ("ns2.digitalocean.com", ("198.18.2.10",), 3600),
    ]


def test_a_server_that_does_not_serve_the_domain_is_told(world: World) -> None:
    world.first.own = False
    world.second.code = RCODE.REFUSED
    assert [one.problem for one in world.names().authoritative(NAME)] == ["doesn't serve the domain", "answers REFUSED"]


def test_a_server_without_an_address_is_told(world: World) -> None:
    del world.resolver.answers["ns2.digitalocean.com", "A"]
    assert [one.says for one in world.names().authoritative(NAME)] == ["198.18.1.10", "has no address"]


def test_resolvers_say_for_how_long_they_keep_it(world: World) -> None:
    good, dead = world.names(RESOLVER, SILENT).cached(NAME)
    assert (good.addresses, good.ttl, good.problem) == (("198.18.1.10",), 17, "")
    assert dead.addresses == () and dead.problem


def test_one_dead_resolver_costs_nothing(world: World) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((SILENT, world.port))  # takes questions, and answers none
        begun = time.monotonic()
        assert world.names(SILENT, RESOLVER).delegation().servers
        assert time.monotonic() - begun < 0.4


def test_nobody_answers_is_over_in_a_second(world: World) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((SILENT, world.port))
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="no resolver answers"):
            world.names(SILENT).delegation()
        assert time.monotonic() - begun < 1.2


def test_a_domain_that_nobody_delegates(world: World) -> None:
    world.parent.referral.clear()
    names = world.names()
    assert names.delegation().servers == ()
    assert names.authoritative(NAME) == ()


def test_the_zone_above_may_be_further_up(world: World) -> None:
    world.parent.referral = {"dr.genesis.test": ["ns1.digitalocean.com"]}
    found = Names("dr.genesis.test", (RESOLVER,), port=world.port).delegation()
    assert (found.parent, found.servers) == ("test", ("ns1.digitalocean.com",))
