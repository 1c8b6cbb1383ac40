"""The lab's name server: authoritative for the simulated API's domains and for the lab's stores, nothing else.

Stores are ``<region>.spaces.test``, ``s3-control.aws.test`` and every name below these.

    python -m lab.dns --config /var/lib/lifeline-lab/lab.json

It keeps no copy that could go stale: every query is answered from the API's state file, re-read when that changed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dnslib import AAAA, CAA, CLASS, CNAME, MX, NS, QTYPE, RCODE, RD, RR, SOA, SRV, TXT, A, DNSHeader, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer

from lab import config
from lab.api.store import Record, records
from lab.config import LabConfig

SPACES_TTL = 60
_NAME_SERVERS = ("ns1.digitalocean.com.", "ns2.digitalocean.com.", "ns3.digitalocean.com.")
_NEGATIVE_TTL = 30
_TICK_S = 0.1
_CHAIN = 8  # CNAMEs followed before giving up


@dataclass(frozen=True)
class Zones:
    """What is served at one moment: a zone's apex to its records, all names absolute and in lower case."""

    zones: dict[str, list[tuple[str, Record]]]

    @classmethod
    def of(cls, rows: Iterable[Record]) -> Zones:
        zones: dict[str, list[tuple[str, Record]]] = {}
        for row in rows:
            apex = _absolute(row.domain)
            name = apex if row.name in ("@", "") else f"{row.name.lower().rstrip('.')}.{apex}"
            zones.setdefault(apex, []).append((name, row))
        return cls(zones)

    def apex_of(self, name: str) -> str | None:
        """The most specific zone that ``name`` is in."""
        labels = name.split(".")
        candidates = (".".join(labels[start:]) for start in range(len(labels)))
        return next((candidate for candidate in candidates if candidate in self.zones), None)


def answer(request: DNSRecord, zones: Zones) -> DNSRecord:
    """The reply to one query. Pure.

    NXDOMAIN when the name isn't there, an empty NOERROR when it has no record of that type; both with the zone's SOA.
    """
    reply = DNSRecord(DNSHeader(id=request.header.id, qr=1, aa=1, rd=request.header.rd), q=request.q)
    if len(request.questions) != 1 or request.q.qclass != CLASS.IN:
        reply.header.rcode = RCODE.REFUSED
        return reply
    name = str(request.q.qname).lower()
    if spaces_region(name) or name == f"{config.SPACES_SUFFIX}.":
        _answer_spaces(reply, name, request.q.qtype)
    elif f".{name}".endswith(f".{config.S3_CONTROL_NAME}."):
        _answer_store(reply, name, request.q.qtype, config.AWS_S3_ADDRESS, config.S3_CONTROL_NAME)
    elif zones.apex_of(name) is None:
        reply.header.rcode, reply.header.aa = RCODE.REFUSED, 0
    else:
        _answer_zone(reply, name, request.q.qtype, zones)
    return reply


def spaces_region(name: str) -> str | None:
    """Slug of the region whose Spaces ``name`` (absolute) is at: its own name and any name below it."""
    for slug, region in config.REGIONS.items():
        if name == f"{region.spaces_name}." or name.endswith(f".{region.spaces_name}."):
            return slug
    return None


def _answer_spaces(reply: DNSRecord, name: str, qtype: int) -> None:
    slug = spaces_region(name)
    _answer_store(reply, name, qtype, config.REGIONS[slug].spaces if slug else None, config.SPACES_SUFFIX)


def _answer_store(reply: DNSRecord, name: str, qtype: int, address: str | None, apex: str) -> None:
    if address and qtype in (QTYPE.A, QTYPE.ANY):
        reply.add_answer(RR(name, QTYPE.A, ttl=SPACES_TTL, rdata=A(address)))
    else:
        reply.add_auth(_soa(f"{apex}."))


def _answer_zone(reply: DNSRecord, name: str, qtype: int, zones: Zones) -> None:
    apex = zones.apex_of(name)
    for _ in range(_CHAIN):
        if apex is None:  # a CNAME that leads out of what is served here: the client goes on
            return
        here = _at(name, zones.zones[apex])
        alias = next((row for row in here if row.type == "CNAME"), None)
        if alias and qtype not in (QTYPE.CNAME, QTYPE.ANY):
            target = _absolute(alias.data, apex)
            reply.add_answer(RR(name, QTYPE.CNAME, ttl=alias.ttl, rdata=CNAME(target)))
            name, apex = target, zones.apex_of(target)
            continue
        found = [_to_rr(name, row, apex) for row in here]
        found += _own(name, apex, here)
        wanted = [rr for rr in found if rr is not None and qtype in (rr.rtype, QTYPE.ANY)]
        for rr in wanted:
            reply.add_answer(rr)
        if not wanted:
            exists = bool(found) or any(known.endswith(f".{name}") for known, _ in zones.zones[apex])
            reply.header.rcode = RCODE.NOERROR if exists else RCODE.NXDOMAIN
            reply.add_auth(_soa(apex))
        return


def _at(name: str, zone: list[tuple[str, Record]]) -> list[Record]:
    """Records at ``name``; those of the closest wildcard when the name itself has none."""
    exact = [row for known, row in zone if known == name]
    if exact or any(known.endswith(f".{name}") for known, _ in zone):
        return exact
    labels = name.split(".")
    for start in range(1, len(labels)):
        wildcard = "*." + ".".join(labels[start:])
        matching = [row for known, row in zone if known == wildcard]
        if matching:
            return matching
    return []


def _own(name: str, apex: str, here: list[Record]) -> list[RR]:
    """What every zone has at its apex without being told."""
    if name != apex:
        return []
    own = [_soa(apex)] if not any(row.type == "SOA" for row in here) else []
    if not any(row.type == "NS" for row in here):
        own += [RR(apex, QTYPE.NS, ttl=1800, rdata=NS(server)) for server in _NAME_SERVERS]
    return own


def _soa(apex: str) -> RR:
    times = (1, 10800, 3600, 604800, _NEGATIVE_TTL)
    return RR(apex, QTYPE.SOA, ttl=_NEGATIVE_TTL, rdata=SOA(_NAME_SERVERS[0], f"hostmaster.{apex}", times))


def _to_rr(name: str, row: Record, apex: str) -> RR | None:
    make = _RDATA.get(row.type)
    return RR(name, getattr(QTYPE, row.type), ttl=row.ttl, rdata=make(row, apex)) if make else None


def _txt(row: Record, _apex: str) -> RD:
    data = row.data.encode()
    return TXT([data[start : start + 255] for start in range(0, len(data), 255)] or [b""])


_RDATA: dict[str, Callable[[Record, str], RD]] = {
    "A": lambda row, apex: A(row.data),
    "AAAA": lambda row, apex: AAAA(row.data),
    "CNAME": lambda row, apex: CNAME(_absolute(row.data, apex)),
    "NS": lambda row, apex: NS(_absolute(row.data, apex)),
    "MX": lambda row, apex: MX(_absolute(row.data, apex), row.priority or 0),
    "TXT": _txt,
    "SRV": lambda row, apex: SRV(row.priority or 0, row.weight or 0, row.port or 0, _absolute(row.data, apex)),
    "CAA": lambda row, apex: CAA(row.flags or 0, row.tag or "issue", row.data),
}


def _absolute(name: str, apex: str = "") -> str:
    return apex if name == "@" else f"{name.lower().rstrip('.')}."


# --- the server ------------------------------------------------------------------------------------------------------


class _Resolver(BaseResolver):  # type: ignore[misc]
    """Answers from the state file; SERVFAIL while it can't be read, because "no such name" would be a lie."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._seen: object = None
        self._zones = Zones({})

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        try:
            return answer(request, self._current())
        except (sqlite3.Error, OSError) as error:
            print(f"state can't be read: {error}", file=sys.stderr, flush=True)
            reply: DNSRecord = request.reply(aa=1, ra=0)
            reply.header.rcode = RCODE.SERVFAIL
            return reply

    def _current(self) -> Zones:
        with self._lock:
            if not self._database.exists():  # the API hasn't started yet: it has no domains
                return Zones({})
            now = [_fingerprint(self._database.with_name(self._database.name + end)) for end in ("", "-wal")]
            if now != self._seen:
                self._zones = Zones.of(records(self._database))
                # A file's clock ticks in milliseconds: a write right after this read may not move it.
                self._seen = now if _older_than(now, _TICK_S) else None
            return self._zones


def _fingerprint(file: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)  # noqa: PTH116 - on the path of every query
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _older_than(fingerprints: Iterable[tuple[int, int, int] | None], seconds: float) -> bool:
    newest = max((status[0] for status in fingerprints if status), default=0)
    return abs(time.time_ns() - newest) > seconds * 1e9


class _Handler(DNSHandler):  # type: ignore[misc]
    """Answers that don't fit a datagram everywhere are truncated; the client asks again over TCP."""

    udplen = 1232


def serve(database: Path, address: str, port: int) -> list[DNSServer]:
    """Start answering over UDP and TCP in threads; returns once both are bound."""
    resolver = _Resolver(database)
    quiet = DNSLogger(log="-request,-reply,-truncated", prefix=False)
    servers = [
        DNSServer(resolver, port=port, address=address, tcp=tcp, logger=quiet, handler=_Handler)
        for tcp in (False, True)
    ]
    for server in servers:
        server.start_thread()
    return servers


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lab.dns", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the lab's lab.json")
    lab = LabConfig.load(parser.parse_args(argv).config)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    serve(lab.api_database, config.DNS_ADDRESS, config.DNS_PORT)
    print(f"answering at {config.DNS_ADDRESS}:{config.DNS_PORT}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    sys.exit(main())
