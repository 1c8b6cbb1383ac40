"""Route 53's data plane in the lab: name servers that answer by health, and the checkers that find out.

The control plane is moto's (lab/aws.py), which leaves what it knows in a file; this goes on without it, as AWS's does.
Each checker asks each health check's address for real, from an address of its own, and changes its mind after the
check's threshold of answers to the contrary. A check is healthy while more than 18 % of the checkers say so.

    python -m lab.route53 --config /var/lib/lifeline-lab/lab.json
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler

from lab import config, zones
from lab.api.store import Record
from lab.config import LabConfig
from lab.zones import Zones

READY_NAME = "ready.route53.test."  # answered whatever zones there are
SHARE = 0.18
_CONNECT_S = 4.0
_LOOK_S = 0.5  # how often it is looked what is due

Document = Mapping[str, Any]


def file_of(lab: LabConfig) -> Path:
    """What the control plane leaves: {"zones": {name: [record, …]}, "checks": {id: check}}."""
    return lab.state / "aws" / "route53.json"


def read(file: Path) -> Document:
    try:
        document: Document = json.loads(file.read_text())
    except FileNotFoundError:
        return {"zones": {}, "checks": {}}
    return document


def delegations(document: Document) -> dict[str, tuple[str, ...]]:
    """Zone → the name servers that it was given."""
    return {
        zone: tuple(value.rstrip(".") for record in records if record["type"] == "NS" for value in record["values"])
        for zone, records in document["zones"].items()
    }


# --- health ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """One checker's mind; a new check is believed healthy. ``against``: answers in a row to the contrary."""

    healthy: bool = True
    against: int = 0

    def after(self, up: bool, threshold: int) -> View:
        if up == self.healthy:
            return View(self.healthy)
        return View(up) if self.against + 1 >= threshold else View(self.healthy, self.against + 1)


def agreed(views: Sequence[View]) -> bool:
    """Healthy, as long as enough of the checkers say so; nobody's mind is known yet: healthy."""
    return not views or sum(view.healthy for view in views) > SHARE * len(views)


@dataclass
class Checkers:
    """All checkers' minds. ``document``: what there is to check, read anew at each look."""

    document: Callable[[], Document]
    views: dict[tuple[str, str], View] = field(default_factory=dict)
    _due: dict[tuple[str, str], float] = field(default_factory=dict)

    def healthy(self, check: str) -> bool:
        return agreed([view for (known, _), view in list(self.views.items()) if known == check])

    def run(self) -> None:
        with ThreadPoolExecutor(max_workers=12) as pool:
            while True:
                self.look(pool, time.monotonic())
                time.sleep(_LOOK_S)

    def look(self, pool: ThreadPoolExecutor, now: float) -> None:
        """Ask what is due; the checkers don't agree on the moment, as AWS's don't."""
        checks = self.document()["checks"]
        for key in [key for key in self.views if key[0] not in checks]:
            del self.views[key]
        for identity, check in checks.items():
            for number, source in enumerate(config.ROUTE53_ADDRESSES):
                key = (identity, source)
                first = now + number * check["interval"] / len(config.ROUTE53_ADDRESSES)
                if now >= self._due.setdefault(key, first):
                    self._due[key] = now + check["interval"]
                    pool.submit(self._ask, key, check)

    def _ask(self, key: tuple[str, str], check: Mapping[str, Any]) -> None:
        up = answers(check["address"], check["port"], check["path"], key[1])
        self.views[key] = self.views.get(key, View()).after(up, check["threshold"])


def answers(address: str, port: int, path: str, source: str) -> bool:
    """Does it answer with 2xx or 3xx?"""
    connection = http.client.HTTPConnection(address, port, timeout=_CONNECT_S, source_address=(source, 0))
    try:
        connection.request("GET", path, headers={"User-Agent": "Amazon-Route53-Health-Check-Service (lab)"})
        return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


# --- answers ---------------------------------------------------------------------------------------------------------


def served(document: Document, healthy: Callable[[str], bool]) -> Zones:
    """The records that are answered now."""
    rows = [row for zone, records in document["zones"].items() for row in _rows(zone, chosen(records, healthy))]
    return Zones.of(rows)


def chosen(records: Iterable[Mapping[str, Any]], healthy: Callable[[str], bool]) -> list[Mapping[str, Any]]:
    """Of a failover pair the PRIMARY, unless only the SECONDARY is healthy; all others as they are. Pure."""
    kept: list[Mapping[str, Any]] = []
    pairs: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for record in records:
        if record.get("failover"):
            pairs.setdefault((record["name"], record["type"]), {})[record["failover"]] = record
        else:
            kept.append(record)
    for pair in pairs.values():
        well = {place: not record.get("check") or healthy(record["check"]) for place, record in pair.items()}
        first = "PRIMARY" if well.get("PRIMARY") or not well.get("SECONDARY") else "SECONDARY"
        kept.append(pair.get(first) or next(iter(pair.values())))
    return kept


def _rows(zone: str, records: Iterable[Mapping[str, Any]]) -> Iterable[Record]:
    apex = zone.rstrip(".")
    for record in records:
        name = record["name"].rstrip(".")
        relative = "@" if name == apex else name.removesuffix(f".{apex}")
        for value in record["values"] if record["type"] != "SOA" else ():
            yield Record(apex, relative, record["type"], value.rstrip("."), record["ttl"], None, None, None, None, None)


class _Resolver(BaseResolver):  # type: ignore[misc]
    def __init__(self, document: Callable[[], Document], checkers: Checkers) -> None:
        self._document = document
        self._checkers = checkers

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        reply = zones.reply_to(request)
        if str(request.q.qname).lower() == READY_NAME:
            reply.add_answer(RR(READY_NAME, QTYPE.A, ttl=0, rdata=A("127.0.0.1")))
        elif reply.header.rcode == RCODE.NOERROR:
            zones.answer(reply, served(self._document(), self._checkers.healthy))
        return reply


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lab.route53", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the lab's lab.json")
    file = file_of(LabConfig.load(parser.parse_args(argv).config))
    checkers = Checkers(lambda: read(file))
    threading.Thread(target=checkers.run, daemon=True).start()
    resolver = _Resolver(lambda: read(file), checkers)
    return zones.serve_until_told(resolver, config.ROUTE53_ADDRESSES, config.DNS_PORT)


if __name__ == "__main__":
    sys.exit(main())
