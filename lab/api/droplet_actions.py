"""Droplet actions over HTTP: what may be asked, and when it is refused."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from lab.api import actions, droplets, fields
from lab.api.catalog import SIZES
from lab.api.cloud import BodyDep, Cloud, CloudDep
from lab.api.droplet_routes import check_name
from lab.api.errors import not_found, unprocessable
from lab.api.images import find_image
from lab.api.pages import PageDep
from lab.api.store import Doc

router = APIRouter()
Check = Callable[[Cloud, Doc, Doc], Doc]  # (cloud, droplet, body) → the action's parameters; raises 422


def _no_parameters(cloud: Cloud, droplet: Doc, body: Doc) -> Doc:
    return {}


def _must_be_off(cloud: Cloud, droplet: Doc, body: Doc) -> Doc:
    if droplets.status(cloud, droplet) != "off":
        raise unprocessable("Droplet is already powered on.")
    return {}


def _image(cloud: Cloud, droplet: Doc, body: Doc) -> Doc:
    wanted = body.get("image")
    image = find_image(cloud, wanted) if isinstance(wanted, int | str) else None
    if image is None:
        raise unprocessable("You specified an invalid image for the Droplet.")
    if droplet["region"] not in image["regions"]:
        raise unprocessable("The image is not available in the Droplet's region.")
    return {"image": image["id"]}


def _size(cloud: Cloud, droplet: Doc, body: Doc) -> Doc:
    size = SIZES.get(fields.string(body, "size"))
    if size is None:
        raise unprocessable("You specified an invalid size for the Droplet.")
    if size.disk < droplet["disk"]:
        raise unprocessable("This size is not available because it has a smaller disk.")
    if size.slug == droplet["size"]:
        raise unprocessable("Droplet is already this size.")
    if droplets.status(cloud, droplet) != "off":
        raise unprocessable("Droplet must be powered off to be resized.")
    return {"size": size.slug, "disk": size.disk if fields.boolean(body, "disk") else droplet["disk"]}


def _new_name(cloud: Cloud, droplet: Doc, body: Doc) -> Doc:
    return {"name": check_name(fields.string(body, "name", required=True))}


def _snapshot(cloud: Cloud, droplet: Doc, body: Doc) -> Doc:
    name = fields.string(body, "name") or f"{droplet['name']}-snapshot"
    return {"name": name, "image_id": cloud.store.next_id("image")}


def _backups_on(cloud: Cloud, droplet: Doc, body: Doc) -> Doc:
    if droplet["backups"]:
        raise unprocessable("Backups are already enabled for this Droplet.")
    return {"backup_policy": droplets.backup_policy(body.get("backup_policy"))}


def _backups_changed(cloud: Cloud, droplet: Doc, body: Doc) -> Doc:
    if not droplet["backups"]:
        raise unprocessable("Backups are not enabled for this Droplet.")
    if not body.get("backup_policy"):
        raise unprocessable("backup_policy can't be blank")
    return {"backup_policy": droplets.backup_policy(body["backup_policy"])}


def _backups_off(cloud: Cloud, droplet: Doc, body: Doc) -> Doc:
    if not droplet["backups"]:
        raise unprocessable("Backups are already disabled for this Droplet.")
    return {"backup_policy": None}


CHECKS: dict[str, Check] = {
    "reboot": _no_parameters,
    "power_cycle": _no_parameters,
    "shutdown": _no_parameters,
    "power_off": _no_parameters,
    "power_on": _must_be_off,
    "password_reset": _no_parameters,
    "enable_ipv6": _no_parameters,
    "restore": _image,
    "rebuild": _image,
    "resize": _size,
    "rename": _new_name,
    "snapshot": _snapshot,
    "enable_backups": _backups_on,
    "change_backup_policy": _backups_changed,
    "disable_backups": _backups_off,
}


def _begin(cloud: Cloud, droplet: Doc, body: Doc) -> Doc:
    """Check and keep one action, inside a transaction."""
    type_ = fields.string(body, "type")
    check = CHECKS.get(type_)
    if check is None:
        raise unprocessable("You specified an invalid action type.")
    if droplet["locked"]:
        raise unprocessable("Droplet already has a pending event.")
    return actions.begin(cloud, type_, droplet, check(cloud, droplet, body))


@router.post("/v2/droplets/{droplet_id}/actions", status_code=201)
def post_action(cloud: CloudDep, droplet_id: str, body: BodyDep) -> Doc:
    with cloud.store.transaction():
        action = _begin(cloud, droplets.get(cloud, droplet_id), body)
    actions.carry_out(cloud, action)
    return {"action": actions.view(cloud, action)}


@router.post("/v2/droplets/actions", status_code=201)
def post_action_by_tag(cloud: CloudDep, body: BodyDep, tag_name: str = "") -> Doc:
    with cloud.store.transaction():
        found = droplets.by_tag(cloud, tag_name)
        if not found:
            raise not_found()
        begun = [_begin(cloud, droplet, body) for droplet in found]
    for action in begun:
        actions.carry_out(cloud, action)
    return {"actions": [actions.view(cloud, action) for action in begun]}


@router.get("/v2/droplets/{droplet_id}/actions")
def list_actions(cloud: CloudDep, page: PageDep, droplet_id: str) -> Doc:
    droplet = droplets.get(cloud, droplet_id)
    found = actions.newest_first(cloud, "droplet", droplet["id"])
    return page.answer("actions", found, lambda action: actions.view(cloud, action))


@router.get("/v2/droplets/{droplet_id}/actions/{action_id}")
def get_action(cloud: CloudDep, droplet_id: str, action_id: str) -> Doc:
    droplet = droplets.get(cloud, droplet_id)
    return {"action": actions.view(cloud, actions.find(cloud, action_id, "droplet", droplet["id"]))}
