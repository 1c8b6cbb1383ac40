"""What stands before every call: request id, token, rate limit, faults. Plain ASGI, so that it sees every answer."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from lab.api.config import Config, Token
from lab.api.errors import ApiError, forbidden
from lab.api.faults import Fault, Faults
from lab.api.scopes import required

Scope = MutableMapping[str, Any]
Asgi = Callable[..., Any]
_HOUR, _MINUTE = 3600, 60


class RateLimit:
    """So many calls an hour and a minute per token, in fixed windows that begin with their first call."""

    def __init__(self, per_hour: int, per_minute: int, clock: Callable[[], float] = time.time) -> None:
        self._limits = ((_HOUR, per_hour), (_MINUTE, per_minute))
        self._clock = clock
        self._windows: dict[tuple[str, int], tuple[float, int]] = {}
        self.per_hour = per_hour

    def use(self, token: str) -> tuple[int, int, int]:
        """Count one call → (left this hour, epoch second of its end, seconds to wait: 0 if it may go on)."""
        now = self._clock()
        current = {length: self._window(token, length, now) for length, _ in self._limits}
        waits = [current[length][0] + length - now for length, limit in self._limits if current[length][1] >= limit]
        if not waits:
            for length, (start, used) in current.items():
                self._windows[token, length] = (start, used + 1)
        start, used = self._windows.get((token, _HOUR), (now, 0))
        remaining = max(0, self.per_hour - used)
        return remaining, int(start + _HOUR), max(1, int(max(waits)) + 1) if waits else 0

    def _window(self, token: str, length: int, now: float) -> tuple[float, int]:
        start, used = self._windows.get((token, length), (now, 0))
        return (now, 0) if now >= start + length else (start, used)


@dataclass
class Gateway:
    """ASGI middleware around the application."""

    app: Asgi
    config: Config
    faults: Faults
    limit: RateLimit

    async def __call__(self, scope: Scope, receive: Asgi, send: Asgi) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        headers = {"x-request-id": request_id}
        try:
            faults = self._admit(scope, headers)
            if any(fault.kind == "error_after" for fault in faults):
                await self._hide_answer(scope, receive)
            await self._strike(faults)
            await self.app(scope, receive, _with_headers(send, headers))
        except ApiError as error:
            await _refuse(send, error, headers)

    def _admit(self, scope: Scope, headers: dict[str, str]) -> list[Fault]:
        """Who is it, and may they? Returns the faults that hit this call."""
        path, method = scope["path"], scope["method"]
        admin = path.startswith("/_lab/")
        # A control plane that is down doesn't look at tokens first. The faults' own door stays open.
        faults = [] if admin else self.faults.take(method, path)
        down = next((fault for fault in faults if fault.kind == "down"), None)
        if down is not None:
            raise ApiError(down.status, "service_unavailable", "The service is temporarily unavailable.")
        token = self._token(scope)
        if token is None:
            raise ApiError(401, "Unauthorized", "Unable to authenticate you")
        if not _may(token, method, path, admin):
            raise forbidden("You are not authorized to perform this operation")
        if not admin:
            self._count(token, headers)
        return faults

    def _token(self, scope: Scope) -> Token | None:
        sent = next((value for key, value in scope["headers"] if key == b"authorization"), b"").decode("latin-1")
        scheme, _, value = sent.partition(" ")
        if scheme.lower() != "bearer":
            return None
        known = (
            token for token in self.config.tokens if hmac.compare_digest(token.value.encode(), value.strip().encode())
        )
        return next(known, None)

    def _count(self, token: Token, headers: dict[str, str]) -> None:
        remaining, reset, wait = self.limit.use(token.value)
        headers["ratelimit-limit"] = str(self.limit.per_hour)
        headers["ratelimit-remaining"] = str(remaining)
        headers["ratelimit-reset"] = str(reset)
        if wait:
            raise _too_many(wait)

    async def _strike(self, faults: list[Fault]) -> None:
        for fault in faults:
            if fault.kind == "latency" or (fault.kind == "error_before" and fault.seconds):
                await asyncio.sleep(fault.seconds)
            if fault.kind == "rate_limit":
                raise _too_many(max(1, int(fault.seconds)))
            if fault.kind in ("error_before", "error_after"):
                raise ApiError(fault.status, "server_error", "Unexpected server-side error")

    async def _hide_answer(self, scope: Scope, receive: Asgi) -> None:
        """Let the call do all it does, and lose its answer."""

        async def nowhere(message: MutableMapping[str, Any]) -> None:
            return None

        await self.app(scope, receive, nowhere)


def _too_many(wait: int) -> ApiError:
    return ApiError(429, "too_many_requests", "API Rate limit exceeded.", {"retry-after": str(wait)})


def _with_headers(send: Asgi, headers: dict[str, str]) -> Asgi:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            extra = [(key.encode(), value.encode()) for key, value in headers.items()]
            message["headers"] = [*message.get("headers", []), *extra]
        await send(message)

    return sending


async def _refuse(send: Asgi, error: ApiError, headers: dict[str, str]) -> None:
    body = {"id": error.id, "message": error.message, "request_id": headers["x-request-id"]}
    raw = json.dumps(body).encode()
    sent = {
        "content-type": "application/json; charset=utf-8",
        "content-length": str(len(raw)),
        **headers,
        **error.headers,
    }
    start = [(key.encode(), value.encode()) for key, value in sent.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": start})
    await send({"type": "http.response.body", "body": raw})


def _may(token: Token, method: str, path: str, admin: bool) -> bool:
    if admin:  # the faults' own door
        return not token.read_only and token.scopes is None
    if token.scopes is not None:
        return required(method, path) in token.scopes
    return not token.read_only or method in ("GET", "HEAD")
