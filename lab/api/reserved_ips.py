"""Reserved IPs: allocated and assigned here. The lab's network does not route them to a droplet (docs/lab-api.md)."""

from __future__ import annotations

from fastapi import APIRouter, Response

from lab.api import actions, droplets, fields, projects
from lab.api.addresses import free_reserved
from lab.api.catalog import region_view
from lab.api.cloud import BodyDep, Cloud, CloudDep
from lab.api.errors import not_found, unprocessable
from lab.api.pages import PageDep
from lab.api.store import Doc

router = APIRouter()


def _reserved(cloud: Cloud, ip: str) -> Doc:
    doc = cloud.store.get("reserved_ip", ip)
    if doc is None:
        raise not_found()
    return doc


def _view(cloud: Cloud, reserved: Doc) -> Doc:
    region = cloud.config.region(reserved["region"])
    assert region is not None
    droplet = cloud.store.get("droplet", reserved["droplet_id"]) if reserved["droplet_id"] else None
    assignment = cloud.store.get("assignment", f"do:reservedip:{reserved['ip']}")
    return {
        "ip": reserved["ip"],
        "region": region_view(cloud.config, region),
        "droplet": droplets.view(cloud, droplet) if droplet else None,
        "locked": False,
        "project_id": assignment["project_id"] if assignment else projects.default(cloud)["id"],
    }


def _droplet(cloud: Cloud, body: Doc, region: str | None = None) -> Doc:
    droplet = cloud.store.get("droplet", str(fields.integer(body, "droplet_id") or ""))
    if droplet is None:
        raise unprocessable("The Droplet could not be found.")
    if region not in (None, droplet["region"]):
        raise unprocessable("The reserved IP and the Droplet must be in the same region.")
    return droplet


@router.get("/v2/reserved_ips")
def list_reserved(cloud: CloudDep, page: PageDep) -> Doc:
    return page.answer("reserved_ips", cloud.store.all("reserved_ip"), lambda reserved: _view(cloud, reserved))


@router.post("/v2/reserved_ips", status_code=202)
def create_reserved(cloud: CloudDep, body: BodyDep) -> Doc:
    with cloud.store.transaction():
        droplet = _droplet(cloud, body) if body.get("droplet_id") else None
        region = cloud.config.region(droplet["region"] if droplet else fields.string(body, "region", required=True))
        if region is None:
            raise unprocessable("region is invalid")
        ip = free_reserved(region.network, {doc["ip"] for doc in cloud.store.all("reserved_ip")})
        if ip is None:
            raise unprocessable("There are no free reserved IPs left in the region")
        doc = {"ip": ip, "region": region.slug, "droplet_id": droplet["id"] if droplet else None}
        cloud.store.put("reserved_ip", ip, doc)
        projects.assign_default(cloud, f"do:reservedip:{ip}")
        links: Doc = {"droplets": [], "actions": []}
        if droplet:
            action = actions.record(cloud, "assign_ip", "reserved_ip", _number(ip), region.slug, {"ip": ip})
            links["actions"] = [{"id": action["id"], "rel": "assign_ip", "href": f"/v2/actions/{action['id']}"}]
    return {"reserved_ip": _view(cloud, doc), "links": links}


def _number(ip: str) -> int:
    """Actions name their resource by a number: for a reserved IP it is the address as one."""
    return int.from_bytes(bytes(int(part) for part in ip.split(".")), "big")


@router.get("/v2/reserved_ips/{ip}")
def get_reserved(cloud: CloudDep, ip: str) -> Doc:
    return {"reserved_ip": _view(cloud, _reserved(cloud, ip))}


@router.delete("/v2/reserved_ips/{ip}", status_code=204)
def delete_reserved(cloud: CloudDep, ip: str) -> Response:
    _reserved(cloud, ip)
    cloud.store.delete("reserved_ip", ip)
    projects.unassign(cloud, f"do:reservedip:{ip}")
    return Response(status_code=204)


@router.post("/v2/reserved_ips/{ip}/actions", status_code=201)
def post_action(cloud: CloudDep, ip: str, body: BodyDep) -> Doc:
    type_ = fields.choice(body, "type", ("assign", "unassign"))
    with cloud.store.transaction():
        reserved = _reserved(cloud, ip)
        if type_ == "assign":
            droplet_id = _droplet(cloud, body, reserved["region"])["id"]
        elif reserved["droplet_id"] is None:
            raise unprocessable("The reserved IP is not assigned to a Droplet.")
        else:
            droplet_id = None
        cloud.store.update("reserved_ip", ip, droplet_id=droplet_id)
        action = actions.record(cloud, f"{type_}_ip", "reserved_ip", _number(ip), reserved["region"], {"ip": ip})
    return {"action": _action_view(cloud, action)}


def _action_view(cloud: Cloud, action: Doc) -> Doc:
    assignment = cloud.store.get("assignment", f"do:reservedip:{action['params']['ip']}")
    project = assignment["project_id"] if assignment else projects.default(cloud)["id"]
    return {**actions.view(cloud, action), "project_id": project}


@router.get("/v2/reserved_ips/{ip}/actions")
def list_actions(cloud: CloudDep, page: PageDep, ip: str) -> Doc:
    _reserved(cloud, ip)
    found = actions.newest_first(cloud, "reserved_ip", _number(ip))
    return page.answer("actions", found, lambda action: _action_view(cloud, action))


@router.get("/v2/reserved_ips/{ip}/actions/{action_id}")
def get_action(cloud: CloudDep, ip: str, action_id: str) -> Doc:
    _reserved(cloud, ip)
    return {"action": _action_view(cloud, actions.find(cloud, action_id, "reserved_ip", _number(ip)))}
