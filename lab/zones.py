"""Zones as an authoritative name server answers them, whoever keeps the records."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dnslib import AAAA, CAA, CLASS, CNAME, MX, NS, QTYPE, RCODE, RD, RR, SOA, SRV, TXT, A, DNSHeader, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer

from lab.api.store import Record

_NEGATIVE_TTL = 30
_CHAIN = 8  # CNAMEs followed before giving up


@dataclass(frozen=True)
class Zones:
    """What is served at one moment: a zone's apex to its records, all names absolute and in lower case.

    ``servers``: whom a zone names as its own, unless its records do.
    """

    zones: dict[str, list[tuple[str, Record]]]
    servers: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Iterable[Record], servers: Iterable[str] = ()) -> Zones:
        zones: dict[str, list[tuple[str, Record]]] = {}
        for row in rows:
            apex = absolute(row.domain)
            name = apex if row.name in ("@", "") else f"{row.name.lower().rstrip('.')}.{apex}"
            zones.setdefault(apex, []).append((name, row))
        return cls(zones, tuple(absolute(server) for server in servers))

    def apex_of(self, name: str) -> str | None:
        """The most specific zone that ``name`` is in."""
        labels = name.split(".")
        candidates = (".".join(labels[start:]) for start in range(len(labels)))
        return next((candidate for candidate in candidates if candidate in self.zones), None)


def reply_to(request: DNSRecord) -> DNSRecord:
    """An authoritative answer with nothing in it yet; REFUSED for what isn't one question of the Internet's."""
    reply = DNSRecord(DNSHeader(id=request.header.id, qr=1, aa=1, rd=request.header.rd), q=request.q)
    if len(request.questions) != 1 or request.q.qclass != CLASS.IN:
        reply.header.rcode = RCODE.REFUSED
    return reply


def answer(reply: DNSRecord, zones: Zones) -> None:
    """Fill in the answer to its question.

    NXDOMAIN when the name isn't there, an empty NOERROR when it has no record of that type; both with the zone's SOA.
    """
    name, qtype = str(reply.q.qname).lower(), reply.q.qtype
    apex = zones.apex_of(name)
    if apex is None:
        reply.header.rcode, reply.header.aa = RCODE.REFUSED, 0
        return
    for _ in range(_CHAIN):
        if apex is None:  # a CNAME that leads out of what is served here: the client goes on
            return
        here = _at(name, zones.zones[apex])
        alias = next((row for row in here if row.type == "CNAME"), None)
        if alias and qtype not in (QTYPE.CNAME, QTYPE.ANY):
            target = absolute(alias.data, apex)
            reply.add_answer(RR(name, QTYPE.CNAME, ttl=alias.ttl, rdata=CNAME(target)))
            name, apex = target, zones.apex_of(target)
            continue
        found = [_to_rr(name, row, apex) for row in here]
        found += _own(name, apex, here, zones.servers)
        wanted = [rr for rr in found if rr is not None and qtype in (rr.rtype, QTYPE.ANY)]
        for rr in wanted:
            reply.add_answer(rr)
        if not wanted:
            exists = bool(found) or any(known.endswith(f".{name}") for known, _ in zones.zones[apex])
            reply.header.rcode = RCODE.NOERROR if exists else RCODE.NXDOMAIN
            reply.add_auth(soa(apex, zones.servers))
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


def _own(name: str, apex: str, here: list[Record], servers: Sequence[str]) -> list[RR]:
    """What every zone has at its apex without being told."""
    if name != apex:
        return []
    own = [soa(apex, servers)] if not any(row.type == "SOA" for row in here) else []
    if not any(row.type == "NS" for row in here):
        own += [RR(apex, QTYPE.NS, ttl=1800, rdata=NS(server)) for server in servers]
    return own


def soa(apex: str, servers: Sequence[str]) -> RR:
    """How long an absence may be believed."""
    times = (1, 10800, 3600, 604800, _NEGATIVE_TTL)
    server, mailbox = next(iter(servers), apex), f"hostmaster.{apex if apex != '.' else ''}"
    return RR(apex, QTYPE.SOA, ttl=_NEGATIVE_TTL, rdata=SOA(server, mailbox, times))


def _to_rr(name: str, row: Record, apex: str) -> RR | None:
    make = _RDATA.get(row.type)
    return RR(name, getattr(QTYPE, row.type), ttl=row.ttl, rdata=make(row, apex)) if make else None


def _txt(row: Record, _apex: str) -> RD:
    data = row.data.encode()
    return TXT([data[start : start + 255] for start in range(0, len(data), 255)] or [b""])


_RDATA: dict[str, Callable[[Record, str], RD]] = {
    "A": lambda row, apex: A(row.data),
    "AAAA": lambda row, apex: AAAA(row.data),
    "CNAME": lambda row, apex: CNAME(absolute(row.data, apex)),
    "NS": lambda row, apex: NS(absolute(row.data, apex)),
    "MX": lambda row, apex: MX(absolute(row.data, apex), row.priority or 0),
    "TXT": _txt,
    "SRV": lambda row, apex: SRV(row.priority or 0, row.weight or 0, row.port or 0, absolute(row.data, apex)),
    "CAA": lambda row, apex: CAA(row.flags or 0, row.tag or "issue", row.data),
}


def absolute(name: str, apex: str = "") -> str:
    return apex if name == "@" else f"{name.lower().rstrip('.')}."


# --- servers ---------------------------------------------------------------------------------------------------------


class _Handler(DNSHandler):  # type: ignore[misc]
    """Answers that don't fit a datagram everywhere are truncated; the client asks again over TCP."""

    udplen = 1232


def serve(resolver: BaseResolver, addresses: Iterable[str], port: int) -> list[DNSServer]:
    """Start answering over UDP and TCP in threads; returns once all are bound."""
    quiet = DNSLogger(log="-request,-reply,-truncated", prefix=False)
    servers = [
        DNSServer(resolver, port=port, address=address, tcp=tcp, logger=quiet, handler=_Handler)
        for address in addresses
        for tcp in (False, True)
    ]
    for server in servers:
        server.start_thread()
    return servers


def serve_until_told(resolver: BaseResolver, addresses: Sequence[str], port: int) -> int:
    """The same as a process of the lab: until SIGTERM or SIGINT."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    serve(resolver, addresses, port)
    print(f"answering at {', '.join(addresses)}, port {port}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0
