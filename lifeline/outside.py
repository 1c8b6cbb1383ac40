"""The service as someone outside meets it: the public name resolved, then HTTP to whatever address that gave.

Asks LIFELINE_DNS when it is set (the lab's name server), else the system's resolver.  No proxy: the proof is the path.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lifeline.errors import BadConfig
from lifeline.model import Finding, Verdict
from lifeline.names import Names
from lifeline.service import Probe, Service

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 3.0
Resolve = Callable[[str], list[str]]


def resolve(name: str) -> list[str]:
    """The name's IPv4 addresses as of now; empty when there are none or nobody answers."""
    server = os.environ.get("LIFELINE_DNS")
    if not server:
        try:
            found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
        except OSError:
            return []
        return sorted({str(entry[4][0]) for entry in found})
    import dns.exception
    import dns.resolver

    resolver = dns.resolver.Resolver(configure=False)
    try:
        resolver.nameservers = [server]
    except ValueError:
        says = f"LIFELINE_DNS={server} is no address of a name server"
        raise BadConfig(says, hint='eval "$(fab lab.env)" when a lab is up, else unset LIFELINE_DNS') from None
    try:
        return sorted(str(answer) for answer in resolver.resolve(name, "A", lifetime=TIMEOUT_S))
    except dns.exception.DNSException:
        return []


@dataclass
class Outside:
    """A stranger with the service's public name.  ``names``: a domain as name servers and resolvers show it."""

    name: str
    names: Callable[[str], Names] = Names
    resolve: Resolve = resolve
    transport: httpx.BaseTransport | None = None

    def answers(self, service: Service) -> Finding:
        """Does the health URL answer through the public name?  Leaves no trace."""
        address, problem = self._address()
        return Finding.failed(problem) if problem else self.answers_at(address, service)

    def answers_at(self, address: str, service: Service) -> Finding:
        """The same at an address, wherever the name leads."""
        with self._client(address, service.port) as client:
            code, body = _ask(client, "GET", service.health)
        says = f"{self.name} ({address}) answers {service.health} with {code or body}"
        return Finding.passed(says, address=address) if code == 200 else Finding.failed(says, address=address)

    def round_trips(self, service: Service) -> Finding:
        """Write a fresh token through the public name and read it back: an outside write that counts."""
        if service.probe is None:
            found = self.answers(service)
            # It answers, which is not a proof of a write: skipped, not passed.
            verdict = Verdict.SKIPPED if found.verdict is Verdict.PASS else found.verdict
            return Finding(verdict, f"{found.says}; service.toml has no [probe]: no write proved", found.evidence)
        address, problem = self._address()
        if problem:
            return Finding.failed(problem)
        with self._client(address, service.port) as client:
            return self._round_trip(client, service.probe, address)

    def still_has(self, service: Service, marks: Sequence[str]) -> dict[str, bool | None]:
        """Which of the tokens that were written before can be read through the public name; None: it can't be told."""
        address, problem = self._address()
        if problem or service.probe is None:
            return dict.fromkeys(marks)
        found: dict[str, bool | None] = {}
        with self._client(address, service.port) as client:
            for mark in marks:
                code, body = _ask(client, "GET", service.probe.read_path.replace("{token}", mark))
                found[mark] = mark in body if code in (200, 404) else None
        return found

    def _round_trip(self, client: httpx.Client, probe: Probe, address: str) -> Finding:
        mark = f"lifeline-{secrets.token_hex(8)}"

        def fill(text: str) -> str:
            return text.replace("{token}", mark)

        seen = {"address": address, "mark": mark}
        code, body = _ask(client, probe.write_method, fill(probe.write_path), fill(probe.write_body))
        if not 200 <= code < 300:
            return Finding.failed(f"the write was not acknowledged: {code or ''} {body[:200]}".strip(), **seen)
        code, body = _ask(client, "GET", fill(probe.read_path))
        if code != 200 or mark not in body:
            says = f"acknowledged, but can't be read back: {code or ''} {body[:200]}".strip()
            return Finding.failed(says, **seen, acknowledged=True)
        return Finding.passed(f"written and read back through {self.name} ({address})", **seen)

    def _address(self) -> tuple[str, str]:
        addresses = self.resolve(self.name)
        if not addresses:
            return "", f"{self.name} can't be resolved"
        return addresses[0], ""

    def _client(self, address: str, port: int) -> httpx.Client:
        import httpx

        return httpx.Client(
            base_url=f"http://{address}:{port}",
            headers={"Host": f"{self.name}:{port}"},
            timeout=httpx.Timeout(TIMEOUT_S, connect=1.0),
            trust_env=False,
            transport=self.transport,
        )


def _ask(client: httpx.Client, method: str, path: str, body: str = "") -> tuple[int, str]:
    """(status, body); (0, why) when there was no answer."""
    import httpx

    try:
        headers = {"Content-Type": "application/json"} if body else {}
        response = client.request(method, path, content=body.encode() or None, headers=headers)
    except httpx.HTTPError as error:
        return 0, str(error) or type(error).__name__
    return response.status_code, response.text
