"""Spaces access keys. The object stores enforce a key's creation, change or deletion before it is answered."""

from __future__ import annotations

import secrets
import string

from fastapi import APIRouter, Response

from lab.api import fields
from lab.api.cloud import BodyDep, Cloud, CloudDep, now
from lab.api.errors import not_found, unprocessable
from lab.api.pages import PageDep
from lab.api.store import Doc
from lab.ports import SpacesGrant, SpacesKey

router = APIRouter()
_PERMISSIONS = ("read", "readwrite", "fullaccess")
_ALPHABET = string.ascii_uppercase + string.digits


def apply(cloud: Cloud) -> None:
    """Make the object stores enforce exactly the keys that are kept."""
    cloud.spaces.apply_keys([_port_key(doc) for doc in cloud.store.all("spaces_key")])


def _port_key(doc: Doc) -> SpacesKey:
    grants = tuple(SpacesGrant(grant["bucket"], grant["permission"]) for grant in doc["grants"])
    return SpacesKey(doc["name"], doc["access_key"], doc["secret_key"], grants)


def _view(doc: Doc) -> Doc:
    return {key: value for key, value in doc.items() if key != "secret_key"}


def _key(cloud: Cloud, access_key: str) -> Doc:
    doc = cloud.store.get("spaces_key", access_key)
    if doc is None:
        raise not_found()
    return doc


def _grants(body: Doc) -> list[Doc]:
    """In the order given: clients compare it."""
    grants = []
    for raw in fields.objects(body, "grants"):
        permission = fields.choice(raw, "permission", _PERMISSIONS)
        bucket = fields.string(raw, "bucket")
        if (permission == "fullaccess") != (bucket == ""):
            raise unprocessable("grants: fullaccess takes no bucket, and read and readwrite need one")
        grants.append({"bucket": bucket, "permission": permission})
    if len(grants) > 1 and any(grant["permission"] == "fullaccess" for grant in grants):
        raise unprocessable("grants: fullaccess can't be combined with other grants")
    return grants


def _replace(cloud: Cloud, access_key: str, doc: Doc | None) -> None:
    """Keep a key (None: drop it) and have it enforced; if the stores can't, everything stays as it was."""
    before = cloud.store.get("spaces_key", access_key)
    try:
        _keep(cloud, access_key, doc)
        apply(cloud)
    except Exception:
        _keep(cloud, access_key, before)
        raise


def _keep(cloud: Cloud, access_key: str, doc: Doc | None) -> None:
    if doc is None:
        cloud.store.delete("spaces_key", access_key)
    else:
        cloud.store.put("spaces_key", access_key, doc)


@router.get("/v2/spaces/keys")
def list_keys(cloud: CloudDep, page: PageDep, name: str = "", bucket: str = "", permission: str = "") -> Doc:
    found = [
        doc
        for doc in cloud.store.all("spaces_key")
        if name in ("", doc["name"])
        and (not bucket or any(grant["bucket"] == bucket for grant in doc["grants"]))
        and (not permission or any(grant["permission"] == permission for grant in doc["grants"]))
    ]
    return page.answer("keys", found, _view)


@router.post("/v2/spaces/keys", status_code=201)
def create_key(cloud: CloudDep, body: BodyDep) -> Doc:
    doc: Doc = {
        "name": fields.string(body, "name", required=True),
        "access_key": "DO00" + "".join(secrets.choice(_ALPHABET) for _ in range(16)),
        "secret_key": secrets.token_urlsafe(32),
        "grants": _grants(body),
        "created_at": now(),
    }
    with cloud.spaces_lock:
        _replace(cloud, doc["access_key"], doc)
    return {"key": doc}


@router.get("/v2/spaces/keys/{access_key}")
def get_key(cloud: CloudDep, access_key: str) -> Doc:
    return {"key": _view(_key(cloud, access_key))}


@router.put("/v2/spaces/keys/{access_key}")
@router.patch("/v2/spaces/keys/{access_key}")
def update_key(cloud: CloudDep, access_key: str, body: BodyDep) -> Doc:
    with cloud.spaces_lock:
        doc = _key(cloud, access_key)
        if "name" in body:
            doc["name"] = fields.string(body, "name", required=True)
        if "grants" in body:
            doc["grants"] = _grants(body)
        _replace(cloud, access_key, doc)
    return {"key": _view(doc)}


@router.delete("/v2/spaces/keys/{access_key}", status_code=204)
def delete_key(cloud: CloudDep, access_key: str) -> Response:
    with cloud.spaces_lock:
        _key(cloud, access_key)
        _replace(cloud, access_key, None)
    return Response(status_code=204)
