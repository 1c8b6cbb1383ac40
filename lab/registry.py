"""The lab's registry: the root and test. in one. Who runs which domain is asked here, by every resolver.

Delegations follow the clouds, as their owner would have it at a registrar: a domain at DigitalOcean goes to its name
servers, a zone of Route 53's to those that it was given. What ``astray`` was told goes first: an owner who forgot, a
registrar who slipped.

    python -m lab.registry --config /var/lib/lifeline-lab/lab.json
"""

from __future__ import annotations

import argparse
import json
import re
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dnslib import NS, QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler

from lab import config, route53, zones
from lab.api.store import records
from lab.config import LabConfig

OWN_NAME = "a.registry.test"
DELEGATION_TTL = 60
ADDRESS_TTL = 300
_ZONES = (".", "test.")

Delegations = Mapping[str, Sequence[str]]


def delegations(lab: LabConfig) -> Delegations:
    """Domain → name servers, as of now."""
    found: dict[str, Sequence[str]] = dict(route53.delegations(route53.read(route53.file_of(lab))))
    if lab.api_database.exists():
        found |= {row.domain.lower(): tuple(config.NAME_SERVERS) for row in records(lab.api_database)}
    return found | _told(lab)


def astray(lab: LabConfig, domain: str, servers: Sequence[str]) -> None:
    """From now on ``domain`` is delegated to these; to nobody with none."""
    file = _file(lab)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".new")
    partial.write_text(json.dumps({**_told(lab), domain.lower(): list(servers)}))
    partial.replace(file)


def mended(lab: LabConfig) -> None:
    """Everything goes where it should again."""
    _file(lab).unlink(missing_ok=True)


def _file(lab: LabConfig) -> Path:
    return lab.state / "registry" / "astray.json"


def _told(lab: LabConfig) -> dict[str, Sequence[str]]:
    try:
        told: dict[str, Sequence[str]] = json.loads(_file(lab).read_text())
    except FileNotFoundError:
        return {}
    return told


def answer(request: DNSRecord, delegated: Delegations) -> DNSRecord:
    """An address of a name server, a referral, or that there is no such thing. Pure."""
    reply = zones.reply_to(request)
    if reply.header.rcode != RCODE.NOERROR:
        return reply
    name, qtype = str(request.q.qname).lower(), request.q.qtype
    address = address_of(name.rstrip("."))
    domain = next((one for one in delegated if f".{name}".endswith(f".{one}.") and delegated[one]), None)
    if address is not None:
        if qtype in (QTYPE.A, QTYPE.ANY):
            reply.add_answer(RR(name, QTYPE.A, ttl=ADDRESS_TTL, rdata=A(address)))
    elif domain is not None:
        reply.header.aa = 0
        for server in delegated[domain]:
            reply.add_auth(RR(f"{domain}.", QTYPE.NS, ttl=DELEGATION_TTL, rdata=NS(f"{server}.")))
            if glue := address_of(server):
                reply.add_ar(RR(f"{server}.", QTYPE.A, ttl=ADDRESS_TTL, rdata=A(glue)))
        return reply
    elif name in _ZONES and qtype in (QTYPE.NS, QTYPE.ANY):
        reply.add_answer(RR(name, QTYPE.NS, ttl=ADDRESS_TTL, rdata=NS(f"{OWN_NAME}.")))
        reply.add_ar(RR(f"{OWN_NAME}.", QTYPE.A, ttl=ADDRESS_TTL, rdata=A(config.REGISTRY_ADDRESS)))
    if not reply.rr:
        exists = address is not None or _leads_to_something(name, delegated)
        reply.header.rcode = RCODE.NOERROR if exists else RCODE.NXDOMAIN
        reply.add_auth(zones.soa(".", (f"{OWN_NAME}.",)))
    return reply


def address_of(server: str) -> str | None:
    """Where a name server is, by its name."""
    if amazon := re.fullmatch(r"ns-(\d+)\.awsdns-\d+\.[a-z.]+", server):
        return config.ROUTE53_ADDRESSES[int(amazon[1]) % len(config.ROUTE53_ADDRESSES)]
    return {OWN_NAME: config.REGISTRY_ADDRESS, **config.NAME_SERVERS}.get(server)


def _leads_to_something(name: str, delegated: Delegations) -> bool:
    """A name that is only on the way to others exists all the same: a resolver asks label by label."""
    domains = [domain for domain, servers in delegated.items() if servers]
    servers = [server for domain in domains for server in delegated[domain]]
    known = (*domains, *servers, OWN_NAME, *config.NAME_SERVERS)
    return name in _ZONES or any(f".{one}.".endswith(f".{name}") for one in known)


class _Registry(BaseResolver):  # type: ignore[misc]
    def __init__(self, lab: LabConfig) -> None:
        self._lab = lab

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        try:
            return answer(request, delegations(self._lab))
        except (sqlite3.Error, OSError, ValueError) as error:
            print(f"delegations can't be read: {error}", file=sys.stderr, flush=True)
            reply: DNSRecord = request.reply(aa=1, ra=0)
            reply.header.rcode = RCODE.SERVFAIL
            return reply


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lab.registry", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the lab's lab.json")
    lab = LabConfig.load(parser.parse_args(argv).config)
    return zones.serve_until_told(_Registry(lab), [config.REGISTRY_ADDRESS], config.DNS_PORT)


if __name__ == "__main__":
    sys.exit(main())
