"""The account and its SSH keys."""

from __future__ import annotations

import base64
import binascii
import hashlib

from fastapi import APIRouter, Response

from lab.api import fields
from lab.api.cloud import BodyDep, Cloud, CloudDep
from lab.api.errors import not_found, unprocessable
from lab.api.pages import PageDep
from lab.api.store import Doc

router = APIRouter()

ACCOUNT = {
    "droplet_limit": 25,
    "floating_ip_limit": 3,
    "reserved_ip_limit": 3,
    "volume_limit": 100,
    "email": "operator@lab.test",
    "name": "Lifeline Lab",
    "uuid": "b6fc48dbf6d9906cace5f3c78dc9851e757381ef",
    "email_verified": True,
    "status": "active",
    "status_message": "",
    "team": {"uuid": "5df3e3004a17e242b7c20ca6c9fc25b701a47ece", "name": "Lab"},
}
_ALGORITHMS = ("ssh-rsa", "ssh-ed25519", "ssh-dss", "ecdsa-sha2-", "sk-ssh-ed25519", "sk-ecdsa-sha2-")


@router.get("/v2/account")
def get_account() -> Doc:
    return {"account": ACCOUNT}


def fingerprint(public_key: str) -> str:
    """The MD5 fingerprint DigitalOcean identifies keys by; 422 for what is no public key."""
    parts = public_key.split()
    if len(parts) < 2 or not parts[0].startswith(_ALGORITHMS):
        raise unprocessable("Key invalid, key should be of type 'ssh-rsa', 'ssh-ed25519' or 'ecdsa-sha2-nistp*'")
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except binascii.Error:
        raise unprocessable("Key invalid: the key is not valid base64") from None
    # The blob repeats its algorithm: a cheap check that it is a key at all.
    if parts[0].encode() not in blob[:64]:
        raise unprocessable("Key invalid: the key does not match its type")
    digest = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    return ":".join(digest[i : i + 2] for i in range(0, 32, 2))


def find_key(cloud: Cloud, identifier: int | str) -> Doc | None:
    """By id or by fingerprint."""
    text = str(identifier)
    doc = cloud.store.get("key", text)
    if doc is not None:
        return doc
    return next((key for key in cloud.store.all("key") if key["fingerprint"] == text), None)


def _key(cloud: Cloud, identifier: str) -> Doc:
    doc = find_key(cloud, identifier)
    if doc is None:
        raise not_found()
    return doc


@router.get("/v2/account/keys")
def list_keys(cloud: CloudDep, page: PageDep) -> Doc:
    return page.answer("ssh_keys", cloud.store.all("key"))


@router.post("/v2/account/keys", status_code=201)
def create_key(cloud: CloudDep, body: BodyDep) -> Doc:
    name = fields.string(body, "name", required=True)
    public_key = fields.string(body, "public_key", required=True).strip()
    print_ = fingerprint(public_key)
    with cloud.store.transaction():
        if find_key(cloud, print_):
            raise unprocessable("SSH Key is already in use on your account")
        doc: Doc = {"id": cloud.store.next_id("key"), "fingerprint": print_, "public_key": public_key, "name": name}
        cloud.store.put("key", doc["id"], doc)
    return {"ssh_key": doc}


@router.get("/v2/account/keys/{identifier}")
def get_key(cloud: CloudDep, identifier: str) -> Doc:
    return {"ssh_key": _key(cloud, identifier)}


@router.put("/v2/account/keys/{identifier}")
def rename_key(cloud: CloudDep, identifier: str, body: BodyDep) -> Doc:
    doc = _key(cloud, identifier)
    doc["name"] = fields.string(body, "name", required=True)
    cloud.store.put("key", doc["id"], doc)
    return {"ssh_key": doc}


@router.delete("/v2/account/keys/{identifier}", status_code=204)
def delete_key(cloud: CloudDep, identifier: str) -> Response:
    cloud.store.delete("key", _key(cloud, identifier)["id"])
    return Response(status_code=204)
