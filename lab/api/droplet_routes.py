"""Droplets over HTTP: create, list, read, delete."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request, Response

from lab.api import actions, droplets, fields, firewall_rules, projects, tags, vpcs
from lab.api.account import find_key
from lab.api.catalog import SIZES
from lab.api.cloud import BodyDep, Cloud, CloudDep, now
from lab.api.config import RegionConfig
from lab.api.droplet_work import destroy
from lab.api.errors import not_found, unprocessable
from lab.api.firewalls import firewall_view
from lab.api.images import droplet_snapshot_view, find_image
from lab.api.pages import PageDep
from lab.api.store import Doc

router = APIRouter()
_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,253}[a-zA-Z0-9])?")
_LONGEST_USER_DATA = 64 * 1024
_DROPLET_LIMIT = 25
_MOST_AT_ONCE = 10


def check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise unprocessable("Name Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -)")
    return name


def _names(body: Doc) -> list[str]:
    names = fields.strings(body, "names") or [fields.string(body, "name", required=True)]
    if len(names) > _MOST_AT_ONCE:
        raise unprocessable(f"You may only create up to {_MOST_AT_ONCE} Droplets at once")
    return [check_name(name) for name in names]


def _region(cloud: Cloud, body: Doc) -> RegionConfig:
    """A slug, a prefix of one ("nyc"), or nothing at all: then any region will do."""
    wanted = fields.string(body, "region")
    for region in cloud.config.regions:
        if region.slug == wanted or re.fullmatch(re.escape(wanted) + r"\d*", region.slug) or not wanted:
            return region
    raise unprocessable("You specified an invalid region for Droplet creation.")


def _image(cloud: Cloud, value: Any, region: str | None) -> Doc:
    if isinstance(value, dict):
        value = value.get("id") or value.get("slug")
    image = find_image(cloud, value) if isinstance(value, int | str) else None
    if image is None:
        raise unprocessable("You specified an invalid image for Droplet creation.")
    if region and region not in image["regions"]:
        raise unprocessable("The image is not available in the selected region.")
    return image


def _public_keys(cloud: Cloud, body: Doc) -> list[str]:
    wanted = body.get("ssh_keys") or []
    if not isinstance(wanted, list):
        raise unprocessable("ssh_keys must be an array")
    found, missing = [], []
    for entry in wanted:
        identifier = (entry.get("id") or entry.get("fingerprint")) if isinstance(entry, dict) else entry
        key = find_key(cloud, identifier) if identifier else None
        if key is None:
            missing.append(str(identifier))
        else:
            found.append(str(key["public_key"]))
    if missing:
        raise unprocessable(f"{', '.join(missing)} are invalid key identifiers for Droplet creation.")
    return found


def _vpc(cloud: Cloud, body: Doc, region: str) -> Doc:
    wanted = fields.string(body, "vpc_uuid")
    if not wanted:
        return vpcs.default_vpc(cloud, region)
    doc = cloud.store.get("vpc", wanted)
    if doc is None:
        raise unprocessable("VPC not found: vpc_uuid is invalid")
    if doc["region"] != region:
        raise unprocessable("VPC is not in the same region as the Droplet")
    return doc


def _volumes(cloud: Cloud, body: Doc, region: str) -> list[Doc]:
    found = []
    for entry in body.get("volumes") or []:
        volume = cloud.store.get("volume", entry.get("id", "") if isinstance(entry, dict) else str(entry))
        if volume is None or volume["region"] != region or volume["droplet_ids"]:
            raise unprocessable("volumes: must exist in the same region and not be attached")
        found.append(volume)
    return found


def _plan(cloud: Cloud, body: Doc) -> Doc:
    """Everything of a new droplet but its id, name and addresses. Raises before anything is made."""
    region = _region(cloud, body).slug
    size = SIZES.get(fields.string(body, "size"))
    if size is None:
        raise unprocessable("You specified an invalid size for Droplet creation.")
    image = _image(cloud, body.get("image"), region)
    if image["min_disk_size"] > size.disk:
        raise unprocessable("The image is too large for the selected size's disk.")
    user_data = fields.string(body, "user_data")
    if len(user_data.encode()) > _LONGEST_USER_DATA:
        raise unprocessable("user_data is too long (maximum is 64 KiB)")
    backups = fields.boolean(body, "backups")
    return {
        "region": region,
        "size": size.slug,
        "disk": size.disk,
        "image": image,
        "public_keys": _public_keys(cloud, body),
        "user_data": user_data,
        "backups": backups,
        "backup_policy": droplets.backup_policy(body.get("backup_policy")) if backups else None,
        "ipv6": fields.boolean(body, "ipv6"),
        "monitoring": fields.boolean(body, "monitoring"),
        "tags": tags.checked(fields.strings(body, "tags")),
        "state": "new",
        "locked": True,
        "created_at": now(),
    }


def _make(cloud: Cloud, name: str, plan: Doc, vpc: Doc, volumes: list[Doc], *, public: bool) -> tuple[Doc, Doc]:
    """Keep one droplet and its create action."""
    where = droplets.allocate(cloud, plan["region"], vpc, public=public)
    network = {"vpc_uuid": vpc["id"], "vpc_range": vpc["ip_range"], **where}
    droplet = {"id": cloud.store.next_id("droplet"), "name": name, **plan, **network}
    droplet["tags"] = [tags.ensure(cloud, tag) for tag in plan["tags"]]
    cloud.store.put("droplet", droplet["id"], droplet)
    for volume in volumes:
        cloud.store.update("volume", volume["id"], droplet_ids=[droplet["id"]])
    projects.assign_default(cloud, f"do:droplet:{droplet['id']}")
    return droplet, actions.begin(cloud, "create", droplet)


@router.post("/v2/droplets", status_code=202)
def create_droplets(request: Request, cloud: CloudDep, body: BodyDep) -> Doc:
    names = _names(body)
    with cloud.store.transaction():
        plan = _plan(cloud, body)
        vpc, volumes = _vpc(cloud, body, plan["region"]), _volumes(cloud, body, plan["region"])
        if len(cloud.store.all("droplet")) + len(names) > _DROPLET_LIMIT:
            raise unprocessable("creating this/these droplet(s) will exceed your droplet limit")
        public = fields.boolean(body, "public_networking", default=True)
        made = [_make(cloud, name, plan, vpc, volumes, public=public) for name in names]
    for _, action in made:
        actions.carry_out(cloud, action)
    base = f"{request.base_url}v2/actions"
    links = {"actions": [{"id": a["id"], "rel": "create", "href": f"{base}/{a['id']}"} for _, a in made]}
    shown = [droplets.view(cloud, droplet) for droplet, _ in made]
    return {"droplets": shown, "links": links} if "names" in body else {"droplet": shown[0], "links": links}


@router.get("/v2/droplets")
def list_droplets(cloud: CloudDep, page: PageDep, tag_name: str = "", name: str = "") -> Doc:
    found = droplets.by_tag(cloud, tag_name) if tag_name else cloud.store.all("droplet")
    if name:
        found = [droplet for droplet in found if droplet["name"].lower() == name.lower()]
    return page.answer("droplets", found, lambda droplet: droplets.view(cloud, droplet))


@router.delete("/v2/droplets", status_code=204)
def delete_droplets_by_tag(cloud: CloudDep, tag_name: str = "") -> Response:
    if not tag_name:
        raise unprocessable("tag_name can't be blank")
    found = droplets.by_tag(cloud, tag_name)
    if not found:
        raise not_found()
    for droplet in found:
        destroy(cloud, droplet["id"])
    return Response(status_code=204)


@router.get("/v2/droplets/backups/policies")
def list_backup_policies(cloud: CloudDep, page: PageDep) -> Doc:
    with_backups = [droplet for droplet in cloud.store.all("droplet") if droplet["backups"]]
    answer = page.answer("policies", with_backups)
    answer["policies"] = {str(droplet["id"]): _policy_view(droplet) for droplet in answer["policies"]}
    return answer


@router.get("/v2/droplets/backups/supported_policies")
def list_supported_policies() -> Doc:
    common = {"possible_window_starts": [0, 4, 8, 12, 16, 20], "window_length_hours": 4}
    days = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
    weekly = {"name": "weekly", **common, "retention_period_days": 28, "possible_days": days}
    daily = {"name": "daily", **common, "retention_period_days": 7, "possible_days": []}
    return {"supported_policies": [weekly, daily]}


def _policy_view(droplet: Doc) -> Doc:
    view = {"droplet_id": droplet["id"], "backup_enabled": droplet["backups"]}
    if droplet["backups"]:
        view |= {"backup_policy": droplet["backup_policy"], "next_backup_window": droplets.backup_window(droplet)}
    return view


@router.get("/v2/droplets/{droplet_id}")
def get_droplet(cloud: CloudDep, droplet_id: str) -> Doc:
    return {"droplet": droplets.view(cloud, droplets.get(cloud, droplet_id))}


@router.delete("/v2/droplets/{droplet_id}", status_code=204)
def delete_droplet(cloud: CloudDep, droplet_id: str) -> Response:
    destroy(cloud, droplets.get(cloud, droplet_id)["id"])
    return Response(status_code=204)


@router.get("/v2/droplets/{droplet_id}/backups/policy")
def get_backup_policy(cloud: CloudDep, droplet_id: str) -> Doc:
    return {"policy": _policy_view(droplets.get(cloud, droplet_id))}


@router.get("/v2/droplets/{droplet_id}/backups")
def list_backups(cloud: CloudDep, page: PageDep, droplet_id: str) -> Doc:
    droplets.get(cloud, droplet_id)
    return page.answer("backups", [])


@router.get("/v2/droplets/{droplet_id}/snapshots")
def list_snapshots(cloud: CloudDep, page: PageDep, droplet_id: str) -> Doc:
    droplet = droplets.get(cloud, droplet_id)
    return page.answer("snapshots", droplets.snapshots(cloud, droplet["id"]), droplet_snapshot_view)


@router.get("/v2/droplets/{droplet_id}/firewalls")
def list_firewalls(cloud: CloudDep, page: PageDep, droplet_id: str) -> Doc:
    droplet = droplets.get(cloud, droplet_id)
    covering = [firewall for firewall in cloud.store.all("firewall") if firewall_rules.covers(firewall, droplet)]
    return page.answer("firewalls", covering, firewall_view)
