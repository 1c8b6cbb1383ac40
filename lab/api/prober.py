"""Uptime checks that really probe: from the lab's machine, every period, each region of each enabled check.

`observe` and `evaluate` are pure: what a probe's result does to a check's state, and when an alert fires or resolves.
Nobody is mailed; fired and resolved alerts are rows that `GET /_lab/alerts` lists.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

import dns.asyncresolver
import dns.exception
import httpx
from fastapi import APIRouter

from lab.api import icmp
from lab.api.cloud import Cloud, CloudDep, now, parse_stamp
from lab.api.pages import PageDep
from lab.api.store import Doc
from lab.api.uptime import PERIODS_S, alerts_of

log = logging.getLogger("lab.api.prober")
router = APIRouter()
_AT_ONCE = 16
_ECHO_S = 1.0
_AGAIN_S = 1.0  # a target that didn't answer is asked once more: one lost packet is no outage


@dataclass(frozen=True)
class Result:
    """One probe: did the target answer, and after how long."""

    up: bool
    latency_ms: float
    detail: str = ""


def observe(state: Doc | None, region: str, result: Result, at: str) -> Doc:
    """A check's state after one more probe. An outage ends when the region is up again."""
    state = state or {"regions": {}}
    before = state["regions"].get(region) or {"status": "CHECKING", "status_changed_at": at, "probes": 0, "up": 0}
    status = "UP" if result.up else "DOWN"
    changed = status != before["status"]
    probes, up = before["probes"] + 1, before["up"] + int(result.up)
    after = {
        "status": status,
        "status_changed_at": at if changed else before["status_changed_at"],
        "thirty_day_uptime_percentage": round(100 * up / probes, 3),
        "latency_ms": round(result.latency_ms, 1),
        "probes": probes,
        "up": up,
    }
    ended = changed and before["status"] == "DOWN"
    outage = _outage(region, before["status_changed_at"], at) if ended else state.get("previous_outage")
    return {"regions": {**state["regions"], region: after}, "previous_outage": outage}


def _outage(region: str, started: str, ended: str) -> Doc:
    seconds = int((parse_stamp(ended) - parse_stamp(started)).total_seconds())
    return {"region": region, "started_at": started, "ended_at": ended, "duration_seconds": seconds}


def holds(alert: Doc, check: Doc, state: Doc) -> bool:
    """Is the condition true right now? down: in any region; down_global: in all; latency: beyond it in any."""
    seen = [state["regions"][region] for region in check["regions"] if region in state["regions"]]
    down = [region["status"] == "DOWN" for region in seen]
    if alert["type"] == "down":
        return any(down)
    if alert["type"] == "down_global":
        return len(down) == len(check["regions"]) and all(down)
    if alert["type"] == "latency":
        above = alert.get("comparison", "greater_than") == "greater_than"
        values = [region["latency_ms"] for region in seen if region["status"] == "UP"]
        return any(value > alert["threshold"] if above else value < alert["threshold"] for value in values)
    return False  # ssl_expiry: the lab has no certificates


def evaluate(alert: Doc, check: Doc, state: Doc, before: Doc | None, at: datetime) -> Doc:
    """The alert's own state: since when its condition holds, and whether it is firing (only after its whole period)."""
    before = before or {"since": None, "firing": False}
    if not holds(alert, check, state):
        return {"since": None, "firing": False}
    since = before["since"] or at.isoformat()
    lasted = (at - datetime.fromisoformat(since)).total_seconds()
    return {"since": since, "firing": lasted >= PERIODS_S[alert["period"]]}


class Resolver:
    """Names to addresses: by the lab's DNS server, or the machine's resolver when none is configured.

    Asks anew every time: a failed-over name must be seen at once, not after a cache's time.
    """

    def __init__(self, server: str | None) -> None:
        self._resolver: dns.asyncresolver.Resolver | None = None
        if server:
            host, _, port = server.partition(":")
            self._resolver = dns.asyncresolver.Resolver(configure=False)
            self._resolver.nameservers = [host]
            self._resolver.port = int(port or 53)
            self._resolver.lifetime = 3.0

    async def address(self, host: str) -> str:
        """One IPv4 address; OSError when there is none."""
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            pass
        if self._resolver is None:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
            return str(found[0][4][0])
        try:
            answer = await self._resolver.resolve(host, "A")
        except dns.exception.DNSException as error:
            raise OSError(f"{host}: {error}") from error
        return str(answer[0])


@dataclass
class Prober:
    """Runs until cancelled."""

    cloud: Cloud
    resolver: Resolver

    async def run(self) -> None:
        limit = asyncio.Semaphore(_AT_ONCE)
        # A redirect counts as an answer, and connections aren't kept: each probe proves the whole way anew.
        async with httpx.AsyncClient(
            timeout=self.cloud.config.uptime_timeout_s,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        ) as client:
            while True:
                began = time.monotonic()
                try:
                    await self.round(client, limit)
                except Exception:
                    log.exception("uptime checks")
                await asyncio.sleep(max(0.0, self.cloud.config.uptime_period_s - (time.monotonic() - began)))

    async def round(self, client: httpx.AsyncClient, limit: asyncio.Semaphore) -> None:
        """Probe every enabled check from each of its regions; down is what fails twice in a row."""

        async def one(check: Doc, region: str) -> None:
            async with limit:
                result = await self._probe(client, check)
                if not result.up:
                    await asyncio.sleep(min(_AGAIN_S, self.cloud.config.uptime_period_s))
                    result = await self._probe(client, check)
            self._keep(check, region, result)

        checks = [check for check in self.cloud.store.all("check") if check["enabled"]]
        await asyncio.gather(*(one(check, region) for check in checks for region in check["regions"]))
        for check in checks:
            self._alert(check)

    async def _probe(self, client: httpx.AsyncClient, check: Doc) -> Result:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.cloud.config.uptime_timeout_s):
                detail = await (self._ping(check) if check["type"] == "ping" else self._get(client, check))
        except (TimeoutError, OSError, httpx.HTTPError, ValueError) as error:
            return Result(False, 0.0, str(error) or type(error).__name__)
        return Result(not detail, 1000 * (time.monotonic() - began), detail)

    async def _get(self, client: httpx.AsyncClient, check: Doc) -> str:
        """Ask the address the name has now, as a fresh client would. Returns why it counts as down, or ""."""
        url = httpx.URL(check["target"])
        address = await self.resolver.address(url.host)
        headers = {"host": url.netloc.decode(), "user-agent": "DigitalOcean Uptime Probe (lab)"}
        # The name is resolved by the lab's DNS, so the connection goes to the address; TLS still checks the name.
        request = client.build_request("GET", url.copy_with(host=address), headers=headers)
        request.extensions["sni_hostname"] = url.host
        response = await client.send(request)
        return "" if response.status_code < 400 else f"HTTP {response.status_code}"

    async def _ping(self, check: Doc) -> str:
        """Up when the host answers an ICMP echo in a second."""
        target = check["target"]
        host = urlsplit(target if "//" in target else f"//{target}").hostname or target
        address = await self.resolver.address(host)
        async with asyncio.timeout(_ECHO_S):
            await icmp.echo(address)
        return ""

    def _keep(self, check: Doc, region: str, result: Result) -> None:
        store = self.cloud.store
        with store.transaction():
            if store.get("check", check["id"]) is not None:  # deleted while it was probed
                state = observe(store.get("check_state", check["id"]), region, result, now())
                store.put("check_state", check["id"], state)

    def _alert(self, check: Doc) -> None:
        store = self.cloud.store
        state = store.get("check_state", check["id"])
        for alert in alerts_of(self.cloud, check["id"]) if state else ():
            before = store.get("alert_state", alert["id"])
            at = parse_stamp(now())
            after = evaluate(alert, check, state or {}, before, at)
            if after == before:
                continue
            with store.transaction():
                store.put("alert_state", alert["id"], after)
                if after["firing"] != (before or {"firing": False})["firing"]:
                    _record(self.cloud, check, alert, "fired" if after["firing"] else "resolved")


def _record(cloud: Cloud, check: Doc, alert: Doc, event: str) -> None:
    id_ = cloud.store.next_id("alert_event")
    names = {"check": check["name"], "alert": alert["name"], "type": alert["type"]}
    doc = {"id": id_, "event": event, "at": now(), "check_id": check["id"], "alert_id": alert["id"], **names}
    cloud.store.put("alert_event", id_, {**doc, "would_notify": alert["notifications"]})


@router.get("/_lab/alerts")
def list_alert_events(cloud: CloudDep, page: PageDep) -> Doc:
    events: Sequence[Doc] = cloud.store.all("alert_event")
    return page.answer("alerts", events)
