"""The lab's name server: authoritative for the simulated API's domains and for the lab's stores, nothing else.

Stores are ``<region>.spaces.test``, ``s3-control.aws.test`` and every name below these.

    python -m lab.dns --config /var/lib/lifeline-lab/lab.json

It keeps no copy that could go stale: every query is answered from the API's state file, re-read when that changed.
It is three servers, as DigitalOcean's are, each with an address of its own and the same answers.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler

from lab import config, zones
from lab.api.store import records
from lab.config import LabConfig
from lab.zones import Zones

SPACES_TTL = 60
_SERVERS = tuple(f"{name}." for name in config.NAME_SERVERS)
_TICK_S = 0.1


def answer(request: DNSRecord, served: Zones) -> DNSRecord:
    """The reply to one query. Pure."""
    reply = zones.reply_to(request)
    if reply.header.rcode != RCODE.NOERROR:
        return reply
    name = str(request.q.qname).lower()
    if spaces_region(name) or name == f"{config.SPACES_SUFFIX}.":
        _answer_spaces(reply, name, request.q.qtype)
    elif f".{name}".endswith(f".{config.S3_CONTROL_NAME}."):
        _answer_store(reply, name, request.q.qtype, config.AWS_S3_ADDRESS, config.S3_CONTROL_NAME)
    else:
        zones.answer(reply, served)
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
        reply.add_auth(zones.soa(f"{apex}.", _SERVERS))


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
                self._zones = Zones.of(records(self._database), config.NAME_SERVERS)
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lab.dns", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the lab's lab.json")
    lab = LabConfig.load(parser.parse_args(argv).config)
    return zones.serve_until_told(_Resolver(lab.api_database), list(config.NAME_SERVERS.values()), config.DNS_PORT)


if __name__ == "__main__":
    sys.exit(main())
