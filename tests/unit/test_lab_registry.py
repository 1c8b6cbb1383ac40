"""The lab's root: referrals, the addresses of name servers, and what isn't there."""

from __future__ import annotations

from pathlib import Path

import pytest
from dnslib import RCODE, DNSRecord

from lab import registry
from lab.api.store import Store
from lab.config import LabConfig
from lab.registry import answer
from tests.unit.test_lab_dns import row

DELEGATED = {"genesis.test": ("ns1.digitalocean.com", "ns9.parked.test"), "lost.test": ()}


def ask(name: str, kind: str = "A") -> DNSRecord:
    return answer(DNSRecord.question(name, kind), DELEGATED)


@pytest.mark.parametrize("name", ["genesis.test", "trade.genesis.test"])
def test_a_domain_is_referred_with_the_addresses_it_takes(name: str) -> None:
    reply = ask(name)
    assert (RCODE[reply.header.rcode], reply.header.aa, reply.rr) == ("NOERROR", 0, [])
    assert [f"{rr.rname} {rr.rdata}" for rr in reply.auth] == [
        "genesis.test. ns1.digitalocean.com.",
        "genesis.test. ns9.parked.test.",
    ]
    assert [f"{rr.rname} {rr.rdata}" for rr in reply.ar] == ["ns1.digitalocean.com. 198.18.0.53"]


def test_name_servers_have_addresses() -> None:
    assert [str(rr.rdata) for rr in ask("ns3.digitalocean.com").rr] == ["198.18.0.55"]
    assert [str(rr.rdata) for rr in ask("test", "NS").rr] == ["a.registry.test."]


@pytest.mark.parametrize(
    ("name", "rcode"),
    [("test", "NOERROR"), ("digitalocean.com", "NOERROR"), ("lost.test", "NXDOMAIN"), ("example.org", "NXDOMAIN")],
)
def test_resolvers_that_walk_label_by_label_find_the_way(name: str, rcode: str) -> None:
    reply = ask(name)
    assert RCODE[reply.header.rcode] == rcode
    assert not reply.rr and str(reply.auth[0].rname) == "."


def test_a_domain_goes_where_the_cloud_says_until_it_is_led_astray(tmp_path: Path) -> None:
    lab = LabConfig.ensure(tmp_path)
    assert not registry.delegations(lab)
    lab.api_database.parent.mkdir()
    store = Store(lab.api_database)
    store.put("record", 1, row("trade", "A", "198.18.1.10")._asdict())
    store.close()
    assert registry.delegations(lab) == {
        "genesis.test": ("ns1.digitalocean.com", "ns2.digitalocean.com", "ns3.digitalocean.com")
    }
    registry.astray(lab, "Genesis.test", ["a.parked.test"])
    assert registry.delegations(lab) == {"genesis.test": ["a.parked.test"]}
    registry.mended(lab)
    assert len(registry.delegations(lab)["genesis.test"]) == 3
