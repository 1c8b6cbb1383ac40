"""Checking AWS Signature Version 4 on a request, as a service does."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

from werkzeug.wrappers import Request

_AUTHORIZATION = re.compile(
    r"^AWS4-HMAC-SHA256\s+Credential=(?P<key>[^/]+)/(?P<date>\d{8})/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request,"
    r"\s*SignedHeaders=(?P<headers>[^,]+),\s*Signature=(?P<signature>[0-9a-f]{64})$"
)
_MAX_SKEW = timedelta(minutes=15)


class BadSignature(Exception):
    """The signature doesn't prove the claim."""


@dataclass(frozen=True)
class Claim:
    """What an Authorization header claims; nothing of it is proved."""

    access_key: str
    date: str
    region: str
    service: str
    headers: tuple[str, ...]
    signature: str


def signer(authorization: str) -> Claim | None:
    """Parse an Authorization header; None when it isn't a SigV4 one."""
    match = _AUTHORIZATION.match(authorization.strip())
    if not match:
        return None
    return Claim(
        match["key"],
        match["date"],
        match["region"],
        match["service"],
        tuple(match["headers"].lower().split(";")),
        match["signature"],
    )


def verify(request: Request, body: bytes, claim: Claim, secret: str) -> None:
    """Raise BadSignature unless the holder of ``secret`` signed this request within the last 15 minutes."""
    stamp = request.headers.get("X-Amz-Date", "")
    try:
        signed_at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise BadSignature("X-Amz-Date is missing or malformed") from None
    if abs(datetime.now(UTC) - signed_at) > _MAX_SKEW or not stamp.startswith(claim.date):
        raise BadSignature(f"Signature expired: {stamp} is not within 15 minutes of the server's time")
    if "host" not in claim.headers:
        raise BadSignature("'Host' must be a signed header")
    scope = f"{claim.date}/{claim.region}/{claim.service}/aws4_request"
    digest = hashlib.sha256(canonical_request(request, body, claim.headers, claim.service).encode()).hexdigest()
    key = f"AWS4{secret}".encode()
    for part in (*scope.split("/"), "\n".join(("AWS4-HMAC-SHA256", stamp, scope, digest))):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(key.hex(), claim.signature):
        raise BadSignature("The request signature we calculated does not match the signature you provided.")


def canonical_request(request: Request, body: bytes, headers: tuple[str, ...], service: str) -> str:
    """The text that was signed."""
    values = [f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in headers]
    path = quote(request.path, safe="/-_.~")
    if service != "s3":  # every other one encodes twice
        path = quote(path, safe="/-_.~")
    pairs = (pair.partition("=") for pair in request.query_string.decode().split("&") if pair)
    query = "&".join(sorted(f"{_encode(name)}={_encode(value)}" for name, _, value in pairs))
    return "\n".join(
        (request.method, path, query, "".join(values), ";".join(headers), hashlib.sha256(body).hexdigest())
    )


def _encode(text: str) -> str:
    return quote(unquote(text.replace("+", " ")), safe="-_.~")
