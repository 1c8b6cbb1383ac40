"""The lease store is away, and both hosts see each other: the primary goes on, on the standby's word.

The standby promises not to take over for the length of a lease, on its own clock, from when it was asked; the primary
counts from before it asked, so its right ends first. The word is given only by a standby that can't read the store
itself: while it can, the lease says who may serve. Whoever orders a take-over has the word withdrawn first, and waits
for what is left of it.

Both sides sign with a key that both hosts hold, over a number that the asker drew: an answer can't be made up or kept.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lifeline.layout import AGENT_PORT, read_json, write_file
from lifeline.model import Lease

ASK_WITHIN_S = 2.0
SIGNATURE = "X-Lifeline-Signature"


def sign(key: bytes, body: bytes) -> str:
    """HMAC-SHA256 of a body, in hex."""
    return hmac.new(key, body, hashlib.sha256).hexdigest()


def signed(key: bytes, body: bytes, signature: str | None) -> bool:
    """Is it by someone who holds the key? Without a key nobody is."""
    return bool(key) and hmac.compare_digest(sign(key, body), signature or "")


class Promises:
    """A standby's word. On the disk of /run: an agent that is restarted keeps it, a boot forgets it, and watches the
    lease anew for longer than any word lasts."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self._path, self._now = path, now
        kept = read_json(path) or {}
        self._until = float(kept.get("until") or 0.0)
        self._withdrawn = int(kept.get("withdrawn") or 0)

    def left_s(self) -> float:
        """What is left of it, seconds."""
        return max(0.0, self._until - self._now())

    def give(self, epoch: int, ttl_s: float) -> float | None:
        """For ``ttl_s`` from now, to the holder of ``epoch``; None when that epoch's time was called over."""
        if epoch <= self._withdrawn:
            return None
        self._until = max(self._until, self._now() + ttl_s)
        self._keep()
        return ttl_s

    def withdraw(self, epoch: int) -> float:
        """No more to the holder of ``epoch`` or of an earlier one; what is left of the last word, seconds."""
        self._withdrawn = max(self._withdrawn, epoch)
        self._keep()
        return self.left_s()

    def _keep(self) -> None:
        write_file(self._path, json.dumps({"until": self._until, "withdrawn": self._withdrawn}))


def ask(address: str, key: bytes, lease: Lease, port: int = AGENT_PORT) -> float | None:
    """The other host's word, as seconds from now; None when it gives none, or nobody answers."""
    if not key:
        return None
    nonce = secrets.token_hex(16)
    question = {"holder": lease.holder, "epoch": lease.epoch, "ttl_s": lease.ttl_s, "nonce": nonce}
    body = json.dumps(question).encode()
    connection = http.client.HTTPConnection(address, port, timeout=ASK_WITHIN_S)
    try:
        connection.request("POST", "/promise", body, {SIGNATURE: sign(key, body)})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200 or not signed(key, answer, response.headers.get(SIGNATURE)):
            return None
        found = json.loads(answer)
        return float(found["promised_s"]) if found.get("nonce") == nonce else None
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def answer(
    key: bytes, body: bytes, signature: str | None, promise: Callable[[Mapping[str, Any]], float | None]
) -> tuple[int, bytes, str]:
    """(status, body, signature) to a question; ``promise`` decides. What isn't signed changes nothing."""
    if not signed(key, body, signature):
        return 403, b'{"error": "not signed with the key of this stack\'s hosts"}', ""
    try:
        question = json.loads(body)
        promised, nonce = promise(question), str(question["nonce"])
    except (ValueError, KeyError, TypeError):
        return 400, b'{"error": "expected {holder, epoch, ttl_s, nonce}"}', ""
    if promised is None:
        return 409, b'{"error": "no promise: the lease store answers here, or another epoch is due"}', ""
    reply = json.dumps({"promised_s": promised, "nonce": nonce}).encode()
    return 200, reply, sign(key, reply)
