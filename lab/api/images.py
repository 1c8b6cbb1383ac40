"""Images, snapshots, sizes and regions: what a droplet can be made from."""

from __future__ import annotations

from fastapi import APIRouter, Response

from lab.api import fields
from lab.api.catalog import SIZES, base_images, region_view, size_view
from lab.api.cloud import BodyDep, Cloud, CloudDep
from lab.api.errors import forbidden, not_found
from lab.api.pages import PageDep
from lab.api.store import Doc

router = APIRouter()


def machine_image(image: Doc) -> str:
    """What the machines call it: a public image's slug, or the snapshot."""
    return str(image["slug"]) if image["slug"] else f"snapshot:{image['id']}"


def find_image(cloud: Cloud, identifier: int | str) -> Doc | None:
    """By id or by slug; public images and the account's own snapshots."""
    text = str(identifier)
    for image in base_images(cloud.config):
        if text in (image["slug"], str(image["id"])):
            return image
    doc = cloud.store.get("image", text)
    return image_view(doc) if doc else None


def image_view(image: Doc) -> Doc:
    return {key: value for key, value in image.items() if key != "droplet_id"}


def snapshot_doc(id_: int, name: str, droplet: Doc, created_at: str, size_bytes: int) -> Doc:
    """The image a snapshot of a droplet becomes. `created_at` is when its action started: clients find it by that."""
    return {
        "id": id_,
        "name": name,
        "distribution": droplet["image"]["distribution"],
        "slug": None,
        "public": False,
        "regions": [droplet["region"]],
        "created_at": created_at,
        "type": "snapshot",
        "min_disk_size": droplet["disk"],
        "size_gigabytes": round(size_bytes / 1e9, 2),
        "description": "",
        "tags": [],
        "status": "available",
        "error_message": "",
        "droplet_id": droplet["id"],
    }


def _snapshot_view(image: Doc) -> Doc:
    return {
        "id": str(image["id"]),
        "name": image["name"],
        "created_at": image["created_at"],
        "regions": image["regions"],
        "min_disk_size": image["min_disk_size"],
        "size_gigabytes": image["size_gigabytes"],
        "resource_id": str(image["droplet_id"]),
        "resource_type": "droplet",
        "tags": image["tags"],
    }


def droplet_snapshot_view(image: Doc) -> Doc:
    """A snapshot as listed under its droplet."""
    kept = ("id", "name", "distribution", "slug", "public", "regions", "created_at", "min_disk_size", "size_gigabytes")
    return {**{key: image[key] for key in kept}, "type": "snapshot"}


def _own(cloud: Cloud, image_id: str) -> Doc:
    doc = cloud.store.get("image", image_id)
    if doc is not None:
        return doc
    if find_image(cloud, image_id):
        raise forbidden()
    raise not_found()


@router.get("/v2/images")
def list_images(cloud: CloudDep, page: PageDep, type: str = "", private: bool = False, tag_name: str = "") -> Doc:
    own = [image_view(doc) for doc in cloud.store.all("image")]
    if tag_name:
        return page.answer("images", [image for image in own if tag_name in image["tags"]])
    if type == "application":
        return page.answer("images", [])
    if type == "distribution":
        return page.answer("images", base_images(cloud.config))
    return page.answer("images", own if private else base_images(cloud.config) + own)


@router.get("/v2/images/{identifier}")
def get_image(cloud: CloudDep, identifier: str) -> Doc:
    image = find_image(cloud, identifier)
    if image is None:
        raise not_found()
    return {"image": image}


@router.put("/v2/images/{image_id}")
def update_image(cloud: CloudDep, image_id: str, body: BodyDep) -> Doc:
    doc = _own(cloud, image_id)
    for key in ("name", "description"):
        if key in body:
            doc[key] = fields.string(body, key, required=key == "name")
    cloud.store.put("image", image_id, doc)
    return {"image": image_view(doc)}


@router.delete("/v2/images/{image_id}", status_code=204)
def delete_image(cloud: CloudDep, image_id: str) -> Response:
    _delete(cloud, _own(cloud, image_id))
    return Response(status_code=204)


def _delete(cloud: Cloud, image: Doc) -> None:
    cloud.machines.delete_snapshot(str(image["id"]))
    cloud.store.delete("image", image["id"])


@router.get("/v2/snapshots")
def list_snapshots(cloud: CloudDep, page: PageDep, resource_type: str = "") -> Doc:
    found = cloud.store.all("image") if resource_type in ("", "droplet") else []
    return page.answer("snapshots", found, _snapshot_view)


@router.get("/v2/snapshots/{snapshot_id}")
def get_snapshot(cloud: CloudDep, snapshot_id: str) -> Doc:
    doc = cloud.store.get("image", snapshot_id)
    if doc is None:
        raise not_found()
    return {"snapshot": _snapshot_view(doc)}


@router.delete("/v2/snapshots/{snapshot_id}", status_code=204)
def delete_snapshot(cloud: CloudDep, snapshot_id: str) -> Response:
    doc = cloud.store.get("image", snapshot_id)
    if doc is None:
        raise not_found()
    _delete(cloud, doc)
    return Response(status_code=204)


@router.get("/v2/sizes")
def list_sizes(cloud: CloudDep, page: PageDep) -> Doc:
    return page.answer("sizes", list(SIZES.values()), lambda size: size_view(cloud.config, size))


@router.get("/v2/regions")
def list_regions(cloud: CloudDep, page: PageDep) -> Doc:
    return page.answer("regions", cloud.config.regions, lambda region: region_view(cloud.config, region))
