"""Identities of a SeaweedFS store: written through its filer, enforced live by its S3 gateway.

The gateway follows changes below /etc/iam of the filer and loads everything anew at each one. So the way to know that a
change is enforced is to write a marker identity last, and ask the gateway with the marker's key until it is known: what
was written, or deleted, before the marker is enforced by then.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from lab.config import KeyPair

_IDENTITIES = "/etc/iam/identities/"
_POLICIES = "/etc/iam/policies/"
_MARKER = "lifeline:generation"  # neither cloud allows a colon in a name
_TIMEOUT_S = 5.0
_POLL_S = 0.02
_PAGE = 1000


@dataclass(frozen=True)
class Identity:
    """Who may do what: keys, and IAM policy documents by name. ``admin``: everything, and policies don't matter."""

    name: str
    keys: tuple[KeyPair, ...]
    policies: Mapping[str, Any] = field(default_factory=dict)
    admin: bool = False


@dataclass(frozen=True)
class IdentityStore:
    """The identities of one store.

    ``filer`` and ``endpoint`` (of the S3 gateway) are base URLs; ``account`` owns the buckets.
    """

    name: str
    filer: str
    endpoint: str
    account: str

    def apply(self, wanted: Sequence[Identity], *, within_s: float) -> None:
        """Replace all identities by these; returns once the gateway enforces it. RuntimeError says why it doesn't."""
        deadline = time.monotonic() + within_s
        policies, identities = render(wanted, self.account)
        marker = KeyPair("GENERATION" + secrets.token_hex(8).upper(), secrets.token_urlsafe(24))
        try:
            with _Filer(self.filer) as filer:
                # Policies before the identities that name them, and removed after: nobody is ever without limits.
                stale_policies = _write_changed(filer, _POLICIES, policies)
                stale = _write_changed(filer, _IDENTITIES, identities)
                for name in sorted(stale - {f"{_MARKER}.json"}):
                    filer.delete(_IDENTITIES + name)
                for name in sorted(stale_policies):
                    filer.delete(_POLICIES + name)
                filer.put(f"{_IDENTITIES}{_MARKER}.json", _document(Identity(_MARKER, (marker,)), self.account))
        except (OSError, http.client.HTTPException) as error:
            raise RuntimeError(f"its filer at {self.filer} doesn't answer ({error})") from None
        while not knows_key(self.endpoint, marker):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the gateway at {self.endpoint} doesn't enforce the keys within {within_s:g} s")
            time.sleep(_POLL_S)


def render(wanted: Sequence[Identity], account: str) -> tuple[dict[str, str], dict[str, str]]:
    """The files (name → text) of the policies and of the identities."""
    policies = {
        f"{_policy_name(identity, name)}.json": json.dumps(document, sort_keys=True)
        for identity in wanted
        for name, document in identity.policies.items()
        if not identity.admin
    }
    return policies, {f"{identity.name}.json": _document(identity, account) for identity in wanted}


def _policy_name(identity: Identity, policy: str) -> str:
    """The store's name of a policy: it allows letters, digits, _ and - only, so what is lost is made up by a digest."""
    full = f"{identity.name}/{policy}"
    return f"{re.sub('[^A-Za-z0-9_-]', '-', full)}-{hashlib.sha256(full.encode()).hexdigest()[:12]}"


def _document(identity: Identity, account: str) -> str:
    body: dict[str, Any] = {
        "name": identity.name,
        "credentials": [{"access_key": key.access_key, "secret_key": key.secret_key} for key in identity.keys],
        # One account for all: a bucket made with one key belongs to the others' account too, as in the real clouds.
        "account": {"id": account, "display_name": account},
    }
    if identity.admin:
        body["actions"] = ["Admin"]
    elif identity.policies:
        body["policy_names"] = sorted(_policy_name(identity, name) for name in identity.policies)
    return json.dumps(body, sort_keys=True)


def knows_key(endpoint: str, key: KeyPair) -> bool:
    """Does the S3 gateway know this key? What it allows doesn't matter."""
    try:
        status, body = signed_get(endpoint, "/", "", key)
    except (OSError, http.client.HTTPException):
        return False
    return status in (200, 403) and b"InvalidAccessKeyId" not in body


def signed_get(endpoint: str, path: str, query: str, key: KeyPair) -> tuple[int, bytes]:
    """GET ``path?query`` (both encoded already) as the holder of ``key``: status and body."""
    return signed_call(endpoint, "GET", path, query, key)


def signed_call(
    endpoint: str, method: str, path: str, query: str, key: KeyPair, body: bytes = b""
) -> tuple[int, bytes]:
    """The same with any method and body."""
    target = f"{path}?{query}" if query else path
    request = AWSRequest(method=method, url=endpoint + target, data=body)
    S3SigV4Auth(Credentials(key.access_key, key.secret_key), "s3", "us-east-1").add_auth(request)
    where = urlsplit(endpoint)
    connection = http.client.HTTPConnection(where.hostname or "", where.port or 80, timeout=_TIMEOUT_S)
    try:
        connection.request(method, target, body or None, headers=dict(request.headers.items()))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _write_changed(filer: _Filer, folder: str, files: Mapping[str, str]) -> set[str]:
    """Write the files that differ; returns the names of those there that are not wanted."""
    present = filer.names(folder)
    for name, text in files.items():
        if name not in present or filer.get(folder + name) != text.encode():
            filer.put(folder + name, text)
    return present - files.keys()


class _Filer:
    """Small files over the filer's HTTP interface, one kept connection."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._connection = http.client.HTTPConnection(where.hostname or "", where.port or 80, timeout=_TIMEOUT_S)

    def __enter__(self) -> _Filer:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def names(self, folder: str) -> set[str]:
        """Names of the files in a folder; empty when there is none."""
        found: set[str] = set()
        last = ""
        while True:
            status, body = self._call("GET", f"{quote(folder)}?limit={_PAGE}&lastFileName={quote(last)}")
            if status == 404:
                return found
            entries = json.loads(body).get("Entries") or []
            found.update(entry["FullPath"].rsplit("/", 1)[1] for entry in entries)
            if len(entries) < _PAGE:
                return found
            last = entries[-1]["FullPath"].rsplit("/", 1)[1]

    def get(self, path: str) -> bytes:
        return self._call("GET", quote(path))[1]

    def put(self, path: str, text: str) -> None:
        # As a form: below /etc the filer keeps forms inside the entry, and the gateway reads identities nowhere else.
        boundary = secrets.token_hex(16)
        folder, name = path.rsplit("/", 1)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        form = f"{head}{text}\r\n--{boundary}--\r\n".encode()
        self._call("POST", quote(folder) + "/", form, f"multipart/form-data; boundary={boundary}")

    def delete(self, path: str) -> None:
        self._call("DELETE", quote(path))

    def _call(self, method: str, target: str, body: bytes | None = None, kind: str = "") -> tuple[int, bytes]:
        headers = {"Accept": "application/json", **({"Content-Type": kind} if kind else {})}
        self._connection.request(method, target, body, headers)
        response = self._connection.getresponse()
        content = response.read()
        if response.status >= 400 and response.status != 404:
            raise OSError(f"{method} {target}: {response.status} {content[:200].decode(errors='replace')}")
        return response.status, content
