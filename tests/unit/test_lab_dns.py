"""The name server's answers, as a function of the query and the records."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from dnslib import RCODE, DNSRecord

from lab.api.store import Record, Store
from lab.dns import _Resolver, answer
from lab.zones import Zones


def row(name: str, kind: str, data: str, ttl: int = 1800, **extra: object) -> Record:
    numbers = {"priority": None, "port": None, "weight": None, "flags": None, "tag": None, **extra}
    return Record("genesis.test", name, kind, data, ttl, **numbers)  # type: ignore[arg-type]


ZONES = Zones.of(
    [
        row("trade", "A", "198.18.1.10", ttl=30),
        row("www", "CNAME", "trade.genesis.test", ttl=60),
        row("out", "CNAME", "elsewhere.example"),
        row("@", "MX", "mail.genesis.test", priority=10),
        row("@", "TXT", "x" * 300),
        row("_sip._tcp", "SRV", "trade.genesis.test", priority=1, weight=2, port=5060),
        row("@", "CAA", "letsencrypt.org", flags=0, tag="issue"),
        row("*.any", "A", "198.18.1.77"),
        row("deep.below", "A", "198.18.1.78"),
    ]
)


def ask(name: str, kind: str = "A") -> tuple[str, list[str]]:
    reply = answer(DNSRecord.question(name, kind), ZONES)
    return RCODE[reply.header.rcode], [f"{rr.rname} {rr.ttl} {rr.rdata}" for rr in reply.rr]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("trade.genesis.test", "A", ["trade.genesis.test. 30 198.18.1.10"]),
        ("TRADE.Genesis.Test", "A", ["trade.genesis.test. 30 198.18.1.10"]),
        (
            "www.genesis.test",
            "A",
            ["www.genesis.test. 60 trade.genesis.test.", "trade.genesis.test. 30 198.18.1.10"],
        ),
        ("www.genesis.test", "CNAME", ["www.genesis.test. 60 trade.genesis.test."]),
        ("out.genesis.test", "A", ["out.genesis.test. 1800 elsewhere.example."]),
        ("genesis.test", "MX", ["genesis.test. 1800 10 mail.genesis.test."]),
        ("_sip._tcp.genesis.test", "SRV", ["_sip._tcp.genesis.test. 1800 1 2 5060 trade.genesis.test."]),
        ("genesis.test", "CAA", ['genesis.test. 1800 0 issue "letsencrypt.org"']),
        ("b.any.genesis.test", "A", ["b.any.genesis.test. 1800 198.18.1.77"]),
        ("ams3.spaces.test", "A", ["ams3.spaces.test. 60 198.18.3.2"]),
        ("s3-control.aws.test", "A", ["s3-control.aws.test. 60 198.18.0.20"]),
        ("123456789012.s3-control.aws.test", "A", ["123456789012.s3-control.aws.test. 60 198.18.0.20"]),
        ("bucket.with.dots.nyc3.spaces.test", "A", ["bucket.with.dots.nyc3.spaces.test. 60 198.18.1.2"]),
    ],
)
def test_answers_with_the_records_and_their_ttl(name: str, kind: str, expected: list[str]) -> None:
    assert ask(name, kind) == ("NOERROR", expected)


@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        ("trade.genesis.test", "AAAA", "NOERROR"),
        ("ams3.spaces.test", "AAAA", "NOERROR"),
        ("below.genesis.test", "A", "NOERROR"),  # an empty name with something below it exists
        ("nothing.genesis.test", "A", "NXDOMAIN"),
        ("elsewhere.example", "A", "REFUSED"),
        ("lon1.spaces.test", "A", "REFUSED"),
    ],
)
def test_says_rightly_why_there_is_no_answer(name: str, kind: str, rcode: str) -> None:
    assert ask(name, kind) == (rcode, [])


def test_negative_answers_carry_the_zones_soa_so_that_resolvers_know_how_long_to_believe_them() -> None:
    for name, kind in (("nothing.genesis.test", "A"), ("trade.genesis.test", "AAAA")):
        (authority,) = answer(DNSRecord.question(name, kind), ZONES).auth
        assert str(authority.rname) == "genesis.test."
        assert authority.rdata.times[-1] == 30


def test_long_text_is_split_and_read_back_whole() -> None:
    reply = DNSRecord.parse(answer(DNSRecord.question("genesis.test", "TXT"), ZONES).pack())
    assert b"".join(reply.rr[0].rdata.data) == b"x" * 300


def test_every_committed_change_is_seen_by_the_next_query(tmp_path: Path) -> None:
    database = tmp_path / "state.sqlite3"
    resolver = _Resolver(database)
    question = DNSRecord.question("trade.genesis.test")
    assert RCODE[resolver.resolve(question, None).header.rcode] == "REFUSED"
    store = Store(database)
    for number in range(30):
        doc = row("trade", "A", f"198.18.1.{number}", ttl=30)._asdict()
        store.put("record", 1, doc)
        assert str(resolver.resolve(question, None).rr[0].rdata) == f"198.18.1.{number}"
    store.close()


def test_a_state_file_that_cant_be_read_is_a_server_failure_not_an_absent_name(tmp_path: Path) -> None:
    database = tmp_path / "state.sqlite3"
    sqlite3.connect(database).close()
    database.write_bytes(b"this is not a database" * 100)
    reply = _Resolver(database).resolve(DNSRecord.question("trade.genesis.test"), None)
    assert RCODE[reply.header.rcode] == "SERVFAIL"
