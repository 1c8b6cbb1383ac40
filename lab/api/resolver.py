"""Names to addresses for uptime checks: by the lab's DNS server, or the machine's resolver when none is configured."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import dns.asyncresolver
import dns.exception


class Resolver:
    """Asks anew every time: a failed-over name must be seen at once, not after a cache's time."""

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
