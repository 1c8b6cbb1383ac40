"""Tags: names on droplets, images and volumes. Firewalls follow them."""

from __future__ import annotations

import re

from fastapi import APIRouter, Response

from lab.api import fields, firewalls
from lab.api.cloud import BodyDep, Cloud, CloudDep
from lab.api.errors import not_found, unprocessable
from lab.api.pages import PageDep
from lab.api.store import Doc

router = APIRouter()
_NAME = re.compile(r"[a-zA-Z0-9_\-:]{1,255}")
# As the API names them in a tag's counts, and as the store does.
_KINDS = {"droplets": "droplet", "images": "image", "volumes": "volume"}
_NEVER_ANY = ("volume_snapshots", "databases")


def checked(names: list[str]) -> list[str]:
    """Valid tag names, each once."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise unprocessable("tag name is invalid: only letters, numbers, colons, dashes, and underscores")
    return list(dict.fromkeys(names))


def find(cloud: Cloud, name: str) -> Doc | None:
    """Tags keep the case they were made with, and are found in any."""
    return cloud.store.get("tag", name.lower())


def ensure(cloud: Cloud, name: str) -> str:
    """Make the tag if there is none; returns its name as it is spelled."""
    doc = find(cloud, name)
    if doc is None:
        doc = {"name": name}
        cloud.store.put("tag", name.lower(), doc)
    return str(doc["name"])


def _tag(cloud: Cloud, name: str) -> Doc:
    doc = find(cloud, name)
    if doc is None:
        raise not_found()
    return doc


def _view(cloud: Cloud, tag: Doc) -> Doc:
    counts: Doc = {name: {"count": 0} for name in _NEVER_ANY}
    last = ""
    for name, kind in _KINDS.items():
        tagged = [doc for doc in cloud.store.all(kind) if tag["name"] in doc["tags"]]
        counts[name] = {"count": len(tagged)}
        if tagged:
            last = f"https://api.digitalocean.com/v2/{name}/{tagged[-1]['id']}"
            counts[name]["last_tagged_uri"] = last
    total: Doc = {"count": sum(counts[name]["count"] for name in counts)}
    if last:
        total["last_tagged_uri"] = last
    return {"name": tag["name"], "resources": {**total, **counts}}


@router.get("/v2/tags")
def list_tags(cloud: CloudDep, page: PageDep) -> Doc:
    return page.answer("tags", cloud.store.all("tag"), lambda tag: _view(cloud, tag))


@router.post("/v2/tags", status_code=201)
def create_tag(cloud: CloudDep, body: BodyDep) -> Doc:
    (name,) = checked([fields.string(body, "name", required=True)])
    with cloud.store.transaction():
        ensure(cloud, name)
    return {"tag": _view(cloud, _tag(cloud, name))}


@router.get("/v2/tags/{name}")
def get_tag(cloud: CloudDep, name: str) -> Doc:
    return {"tag": _view(cloud, _tag(cloud, name))}


@router.delete("/v2/tags/{name}", status_code=204)
def delete_tag(cloud: CloudDep, name: str) -> Response:
    with cloud.store.transaction():
        tag = _tag(cloud, name)
        for kind in (*_KINDS.values(), "firewall"):
            for doc in cloud.store.all(kind):
                if tag["name"] in doc["tags"]:
                    cloud.store.update(kind, doc["id"], tags=[t for t in doc["tags"] if t != tag["name"]])
        cloud.store.delete("tag", name.lower())
    firewalls.enforce(cloud)
    return Response(status_code=204)


def _retag(cloud: Cloud, name: str, body: Doc, *, add: bool) -> Response:
    with cloud.store.transaction():
        tag = _tag(cloud, name)["name"]
        for resource in fields.objects(body, "resources"):
            kind = fields.choice(resource, "resource_type", tuple(_KINDS.values()))
            doc = cloud.store.get(kind, str(resource.get("resource_id", "")))
            if doc is None:
                raise not_found()
            others = [t for t in doc["tags"] if t != tag]
            cloud.store.update(kind, doc["id"], tags=[*others, tag] if add else others)
    firewalls.enforce(cloud)
    return Response(status_code=204)


@router.post("/v2/tags/{name}/resources", status_code=204)
def tag_resources(cloud: CloudDep, name: str, body: BodyDep) -> Response:
    return _retag(cloud, name, body, add=True)


@router.delete("/v2/tags/{name}/resources", status_code=204)
def untag_resources(cloud: CloudDep, name: str, body: BodyDep) -> Response:
    return _retag(cloud, name, body, add=False)
