"""Block storage volumes: kept, attached, resized as documents. A droplet sees no block device (docs/lab-api.md)."""

from __future__ import annotations

import re
import uuid

from fastapi import APIRouter, Response

from lab.api import actions, fields, projects, tags
from lab.api.catalog import region_view
from lab.api.cloud import BodyDep, Cloud, CloudDep, now
from lab.api.errors import conflict, not_found, unprocessable
from lab.api.pages import PageDep
from lab.api.store import Doc

router = APIRouter()
_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
_LARGEST_GB = 16384


def _volume(cloud: Cloud, volume_id: str) -> Doc:
    doc = cloud.store.get("volume", volume_id)
    if doc is None:
        raise not_found()
    return doc


def _view(cloud: Cloud, volume: Doc) -> Doc:
    region = cloud.config.region(volume["region"])
    assert region is not None
    return {**volume, "region": region_view(cloud.config, region)}


def _size(body: Doc) -> int:
    size = fields.integer(body, "size_gigabytes")
    if size is None or not 1 <= size <= _LARGEST_GB:
        raise unprocessable(f"size_gigabytes must be between 1 and {_LARGEST_GB}")
    return size


@router.get("/v2/volumes")
def list_volumes(cloud: CloudDep, page: PageDep, name: str = "", region: str = "") -> Doc:
    found = [v for v in cloud.store.all("volume") if name in ("", v["name"]) and region in ("", v["region"])]
    return page.answer("volumes", found, lambda volume: _view(cloud, volume))


@router.post("/v2/volumes", status_code=201)
def create_volume(cloud: CloudDep, body: BodyDep) -> Doc:
    name = fields.string(body, "name", required=True)
    if not _NAME.fullmatch(name):
        raise unprocessable("name must be lowercase and alphanumeric, may contain dashes, and must start with a letter")
    region = cloud.config.region(fields.string(body, "region", required=True))
    if region is None:
        raise unprocessable("region is invalid")
    if body.get("snapshot_id"):
        raise unprocessable("snapshot_id: the snapshot could not be found")
    wanted = tags.checked(fields.strings(body, "tags"))
    with cloud.store.transaction():
        if any(v["name"] == name and v["region"] == region.slug for v in cloud.store.all("volume")):
            raise conflict("a volume with this name already exists in the region")
        doc: Doc = {
            "id": str(uuid.uuid4()),
            "region": region.slug,
            "droplet_ids": [],
            "name": name,
            "description": fields.string(body, "description"),
            "size_gigabytes": _size(body),
            "created_at": now(),
            "filesystem_type": fields.string(body, "filesystem_type"),
            "filesystem_label": fields.string(body, "filesystem_label"),
            "tags": [tags.ensure(cloud, tag) for tag in wanted],
        }
        cloud.store.put("volume", doc["id"], doc)
        projects.assign_default(cloud, f"do:volume:{doc['id']}")
    return {"volume": _view(cloud, doc)}


@router.delete("/v2/volumes", status_code=204)
def delete_by_name(cloud: CloudDep, name: str = "", region: str = "") -> Response:
    found = [v for v in cloud.store.all("volume") if (v["name"], v["region"]) == (name, region)]
    if not found:
        raise not_found()
    return _delete(cloud, found[0])


@router.get("/v2/volumes/{volume_id}")
def get_volume(cloud: CloudDep, volume_id: str) -> Doc:
    return {"volume": _view(cloud, _volume(cloud, volume_id))}


@router.delete("/v2/volumes/{volume_id}", status_code=204)
def delete_volume(cloud: CloudDep, volume_id: str) -> Response:
    return _delete(cloud, _volume(cloud, volume_id))


def _delete(cloud: Cloud, volume: Doc) -> Response:
    if volume["droplet_ids"]:
        raise conflict("A volume that's attached to a Droplet cannot be deleted.")
    cloud.store.delete("volume", volume["id"])
    projects.unassign(cloud, f"do:volume:{volume['id']}")
    return Response(status_code=204)


def _attach(cloud: Cloud, volume: Doc, body: Doc) -> None:
    droplet = cloud.store.get("droplet", str(fields.integer(body, "droplet_id") or ""))
    if droplet is None:
        raise not_found()
    if droplet["region"] != volume["region"]:
        raise unprocessable("The volume and the Droplet must be in the same region")
    if volume["droplet_ids"] not in ([], [droplet["id"]]):
        raise unprocessable("The volume is attached to another Droplet already")
    cloud.store.update("volume", volume["id"], droplet_ids=[droplet["id"]])


def _detach(cloud: Cloud, volume: Doc, body: Doc) -> None:
    if fields.integer(body, "droplet_id") not in volume["droplet_ids"]:
        raise unprocessable("The volume is not attached to this Droplet")
    cloud.store.update("volume", volume["id"], droplet_ids=[])


def _resize(cloud: Cloud, volume: Doc, body: Doc) -> None:
    size = _size(body)
    if size <= volume["size_gigabytes"]:
        raise unprocessable("A volume can only become larger")
    cloud.store.update("volume", volume["id"], size_gigabytes=size)


_ACTIONS = {"attach": _attach, "detach": _detach, "resize": _resize}


@router.post("/v2/volumes/{volume_id}/actions", status_code=202)
def post_action(cloud: CloudDep, volume_id: str, body: BodyDep) -> Doc:
    type_ = fields.choice(body, "type", tuple(_ACTIONS))
    with cloud.store.transaction():
        volume = _volume(cloud, volume_id)
        _ACTIONS[type_](cloud, volume, body)
        action = actions.record(cloud, f"{type_}_volume", "volume", None, volume["region"], {"volume": volume_id})
    return {"action": actions.view(cloud, action)}


def _actions_of(cloud: Cloud, volume_id: str) -> list[Doc]:
    _volume(cloud, volume_id)
    return [a for a in actions.newest_first(cloud, "volume") if a["params"]["volume"] == volume_id]


@router.get("/v2/volumes/{volume_id}/actions")
def list_actions(cloud: CloudDep, page: PageDep, volume_id: str) -> Doc:
    return page.answer("actions", _actions_of(cloud, volume_id), lambda action: actions.view(cloud, action))


@router.get("/v2/volumes/{volume_id}/actions/{action_id}")
def get_action(cloud: CloudDep, volume_id: str, action_id: str) -> Doc:
    found = [action for action in _actions_of(cloud, volume_id) if str(action["id"]) == action_id]
    if not found:
        raise not_found()
    return {"action": actions.view(cloud, found[0])}


@router.get("/v2/volumes/{volume_id}/snapshots")
def list_snapshots(cloud: CloudDep, page: PageDep, volume_id: str) -> Doc:
    _volume(cloud, volume_id)
    return page.answer("snapshots", [])
