"""What name servers and resolvers say: the one door to the DNS.

Three kinds of server are asked, each for what it alone knows: those of the parent zone to whom a domain is delegated,
the domain's own what a record says, and resolvers what people get, and for how long they will still get it.

A resolver is asked for a record only after it was changed. Asked before, it would fetch the old answer and keep it for
another TTL: the look would make the outage longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from lifeline.errors import Unavailable
from lifeline.model import PUBLIC_RESOLVERS

if TYPE_CHECKING:
    from dns.message import Message

T = TypeVar("T")
S = TypeVar("S")
WITHIN_S = 1.0
PORT = 53
_PARENT_SERVERS = 3  # of the parent's, asked at once


@dataclass(frozen=True)
class Answer:
    """What one server says of a name.  ``ttl``: for how long it may be kept, in seconds.  ``problem``: why it says
    nothing, "" if it answered; without addresses too, when there are none."""

    server: str
    addresses: tuple[str, ...] = ()
    ttl: int | None = None
    problem: str = ""

    @property
    def says(self) -> str:
        return self.problem or ", ".join(self.addresses) or "no address"


@dataclass(frozen=True)
class Delegation:
    """To whom the parent zone delegates a domain: names of servers, and the addresses of those that have any."""

    domain: str
    parent: str
    servers: tuple[str, ...]
    addresses: tuple[tuple[str, str], ...]


class Names:
    """A domain as the world sees it, through these resolvers.  Every question ends in a second, whatever hangs."""

    def __init__(self, domain: str, resolvers: Sequence[str] = PUBLIC_RESOLVERS, port: int = PORT) -> None:
        self.domain = domain
        self.resolvers = tuple(resolvers)
        self._port = port
        self._known: Delegation | None = None

    def delegation(self) -> Delegation:
        """Asked anew, of the parent's own servers: no cache has a say.  Unavailable when that can't be found out."""
        end = _end()
        parent, names = self._parent(end)
        hosts = _first(lambda name: self._addresses(name, end), names, end)
        if not hosts:
            raise Unavailable(f"the name servers of {parent} have no address that can be found")
        reply = _first(lambda host: self._ask(host, self.domain, "NS", end), hosts, end)
        if reply is None:
            raise Unavailable(f"the name servers of {parent} don't answer")
        servers = _targets(reply, self.domain)
        found = _every(lambda name: self._addresses(name, end), servers)
        pairs = tuple((name, hosts[0]) for name, hosts in zip(servers, found, strict=True) if hosts)
        self._known = Delegation(self.domain, parent, servers, pairs)
        return self._known

    def authoritative(self, name: str) -> tuple[Answer, ...]:
        """What each server that the domain is delegated to says of ``name``; Unavailable when nobody knows these."""
        known = self._known or self.delegation()
        end = _end()
        hosts = dict(known.addresses)

        def of(server: str) -> Answer:
            if server not in hosts:
                return Answer(server, problem="has no address")
            return self._answer(server, hosts[server], name, end, own=True)

        return _every(of, known.servers)

    def cached(self, name: str, resolvers: Iterable[str] | None = None) -> tuple[Answer, ...]:
        """What each resolver gives its users.  Only after a change: see above."""
        end = _end()
        asked = self.resolvers if resolvers is None else tuple(resolvers)
        return _every(lambda server: self._answer(server, server, name, end), asked)

    def _parent(self, end: float) -> tuple[str, tuple[str, ...]]:
        """The zone above the domain, and its name servers."""
        labels = self.domain.rstrip(".").split(".")
        for start in range(1, len(labels) + 1):
            zone = ".".join(labels[start:]) + "."
            reply = self._recursive(zone, "NS", end)
            if reply is None:
                raise Unavailable(f"no resolver answers ({', '.join(self.resolvers) or 'none is configured'})")
            if names := _targets(reply, zone):
                return zone.rstrip(".") or "the root", names[:_PARENT_SERVERS]
        raise Unavailable(f"the zone above {self.domain} can't be found")

    def _addresses(self, name: str, end: float) -> tuple[str, ...] | None:
        reply = self._recursive(name, "A", end)
        return _values(reply, "A")[0] if reply is not None else None

    def _recursive(self, name: str, kind: str, end: float) -> Message | None:
        """From whichever resolver answers first."""
        return _first(lambda server: self._ask(server, name, kind, end, recursive=True), self.resolvers, end)

    def _answer(self, label: str, address: str, name: str, end: float, *, own: bool = False) -> Answer:
        """``own``: from a server of the domain's own; an answer that isn't authoritative is none."""
        import dns.exception
        import dns.flags
        import dns.rcode

        try:
            reply = self._query(address, name, "A", end, recursive=not own)
        except dns.exception.Timeout:
            return Answer(label, problem="doesn't answer")
        except (dns.exception.DNSException, OSError) as error:
            return Answer(label, problem=f"can't be asked ({error})")
        code = reply.rcode()
        if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return Answer(label, problem=f"answers {dns.rcode.to_text(code)}")
        if own and not reply.flags & dns.flags.AA:
            return Answer(label, problem="doesn't serve the domain")
        addresses, ttl = _values(reply, "A")
        return Answer(label, addresses, ttl)

    def _ask(self, address: str, name: str, kind: str, end: float, *, recursive: bool = False) -> Message | None:
        """None: no answer worth going on with."""
        import dns.exception
        import dns.rcode

        try:
            reply = self._query(address, name, kind, end, recursive=recursive)
        except (dns.exception.DNSException, OSError):
            return None
        return reply if reply.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) else None

    def _query(self, address: str, name: str, kind: str, end: float, *, recursive: bool) -> Message:
        import dns.exception
        import dns.flags
        import dns.message
        import dns.query

        left = end - time.monotonic()
        if left <= 0:
            raise dns.exception.Timeout
        flags = dns.flags.RD if recursive else 0
        query = dns.message.make_query(name, kind, use_edns=0, payload=1232, flags=flags)
        return dns.query.udp_with_fallback(query, address, timeout=left, port=self._port)[0]


def _end() -> float:
    """When a question that begins now is over. What it needs is loaded first: that may take long, once."""
    import dns.message
    import dns.query  # noqa: F401

    return time.monotonic() + WITHIN_S


def _values(reply: Message, kind: str) -> tuple[tuple[str, ...], int | None]:
    """The answer's values, sorted, and the least TTL on the way to them (a CNAME has one too)."""
    import dns.rdatatype

    wanted = [rrset for rrset in reply.answer if rrset.rdtype == dns.rdatatype.from_text(kind)]
    ttl = min((rrset.ttl for rrset in reply.answer), default=None)
    return tuple(sorted(str(item) for rrset in wanted for item in rrset)), ttl


def _targets(reply: Message, zone: str) -> tuple[str, ...]:
    """The name servers of ``zone`` that a reply names: as its answer, or as a referral."""
    import dns.name
    import dns.rdatatype

    owner = dns.name.from_text(zone)
    found = {
        item.target.to_text(omit_final_dot=True).lower()
        for rrset in (*reply.answer, *reply.authority)
        if rrset.rdtype == dns.rdatatype.NS and rrset.name == owner
        for item in rrset
    }
    return tuple(sorted(found))


def _every(ask: Callable[[S], T], whom: Sequence[S]) -> tuple[T, ...]:
    """All at once; each question ends by itself in time."""
    with ThreadPoolExecutor(max_workers=max(1, len(whom))) as pool:
        return tuple(pool.map(ask, whom))


def _first(ask: Callable[[S], T | None], whom: Sequence[S], end: float) -> T | None:
    """The first answer that is something, without waiting for the others; None when there is none in time."""
    pool = ThreadPoolExecutor(max_workers=max(1, len(whom)))
    try:
        pending = {pool.submit(ask, one) for one in whom}
        while pending:
            done, pending = wait(pending, max(0.0, end - time.monotonic()), FIRST_COMPLETED)
            if not done:
                return None
            for future in done:
                if (found := future.result()) is not None:
                    return found
        return None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
