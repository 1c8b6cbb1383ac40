"""VPCs: a bridge each, with a range that overlaps no other."""

from __future__ import annotations

import ipaddress
import re
import uuid

from fastapi import APIRouter, Response

from lab.api import fields
from lab.api.addresses import free_range
from lab.api.cloud import BodyDep, Cloud, CloudDep, now
from lab.api.config import RegionConfig
from lab.api.errors import forbidden, not_found, unprocessable
from lab.api.pages import PageDep
from lab.api.store import Doc

router = APIRouter()
_NAME = re.compile(r"[a-zA-Z0-9\-.]+")
_PRIVATE = [ipaddress.IPv4Network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15")]
_WIDEST, _NARROWEST = 16, 28


def bridge(vpc_id: str) -> str:
    """The VPC's bridge: the kernel allows 15 characters."""
    return "ll-v" + vpc_id.replace("-", "")[:10]


def default_vpc(cloud: Cloud, region: str) -> Doc:
    """The region's default VPC; it exists from the simulator's first start on."""
    return next(vpc for vpc in cloud.store.all("vpc") if vpc["region"] == region and vpc["default"])


def ensure_defaults(cloud: Cloud) -> None:
    """One default VPC per region, drawn from the configured pool."""
    with cloud.store.transaction():
        have = {vpc["region"] for vpc in cloud.store.all("vpc") if vpc["default"]}
        for region in cloud.config.regions:
            if region.slug not in have:
                _store(cloud, region, f"default-{region.slug}", "", _next_range(cloud), default=True)


def _next_range(cloud: Cloud) -> ipaddress.IPv4Network:
    taken = [ipaddress.IPv4Network(vpc["ip_range"]) for vpc in cloud.store.all("vpc")]
    found = free_range(ipaddress.IPv4Network(cloud.config.default_vpc_range), taken)
    if found is None:
        raise unprocessable("There is no free IP range left for another VPC network")
    return found


def _store(
    cloud: Cloud, region: RegionConfig, name: str, description: str, ip_range: ipaddress.IPv4Network, *, default: bool
) -> Doc:
    id_ = str(uuid.uuid4())
    doc = {
        "id": id_,
        "urn": f"do:vpc:{id_}",
        "name": name,
        "description": description,
        "region": region.slug,
        "ip_range": str(ip_range),
        "created_at": now(),
        "default": default,
    }
    cloud.store.put("vpc", id_, doc)
    return doc


def _vpc(cloud: Cloud, vpc_id: str) -> Doc:
    doc = cloud.store.get("vpc", vpc_id)
    if doc is None:
        raise not_found()
    return doc


def members(cloud: Cloud, vpc_id: str) -> list[Doc]:
    return [droplet for droplet in cloud.store.all("droplet") if droplet["vpc_uuid"] == vpc_id]


def _name(cloud: Cloud, body: Doc, *, own_id: str | None = None) -> str:
    name = fields.string(body, "name", required=True, longest=255)
    if not _NAME.fullmatch(name):
        raise unprocessable("name may only contain alphanumeric characters, dashes, and periods")
    if any(vpc["name"] == name and vpc["id"] != own_id for vpc in cloud.store.all("vpc")):
        raise unprocessable("A VPC with that name already exists in your account")
    return name


def _range(cloud: Cloud, text: str) -> ipaddress.IPv4Network:
    if not text:
        return _next_range(cloud)
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        raise unprocessable("ip_range is not a valid CIDR") from None
    if not any(network.subnet_of(private) for private in _PRIVATE):
        raise unprocessable("ip_range must be a private network: 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16")
    if not _WIDEST <= network.prefixlen <= _NARROWEST:
        raise unprocessable(f"ip_range must be between /{_WIDEST} and /{_NARROWEST}")
    if any(network.overlaps(ipaddress.IPv4Network(vpc["ip_range"])) for vpc in cloud.store.all("vpc")):
        raise unprocessable("This range/size overlaps with another VPC network in your account")
    if any(network.overlaps(region.network) for region in cloud.config.regions):
        raise unprocessable("This range/size overlaps with a public network of the region")
    return network


@router.get("/v2/vpcs")
def list_vpcs(cloud: CloudDep, page: PageDep) -> Doc:
    return page.answer("vpcs", cloud.store.all("vpc"))


@router.post("/v2/vpcs", status_code=201)
def create_vpc(cloud: CloudDep, body: BodyDep) -> Doc:
    region = cloud.config.region(fields.string(body, "region", required=True))
    if region is None:
        raise unprocessable("region is invalid")
    description = fields.string(body, "description", longest=255)
    with cloud.store.transaction():
        name = _name(cloud, body)
        network = _range(cloud, fields.string(body, "ip_range"))
        return {"vpc": _store(cloud, region, name, description, network, default=False)}


@router.get("/v2/vpcs/{vpc_id}")
def get_vpc(cloud: CloudDep, vpc_id: str) -> Doc:
    return {"vpc": _vpc(cloud, vpc_id)}


@router.put("/v2/vpcs/{vpc_id}")
@router.patch("/v2/vpcs/{vpc_id}")
def update_vpc(cloud: CloudDep, vpc_id: str, body: BodyDep) -> Doc:
    with cloud.store.transaction():
        doc = _vpc(cloud, vpc_id)
        if "name" in body:
            doc["name"] = _name(cloud, body, own_id=vpc_id)
        if "description" in body:
            doc["description"] = fields.string(body, "description", longest=255)
        if fields.boolean(body, "default"):
            _become_default(cloud, doc)
        cloud.store.put("vpc", vpc_id, doc)
    return {"vpc": doc}


def _become_default(cloud: Cloud, doc: Doc) -> None:
    for other in cloud.store.all("vpc"):
        if other["region"] == doc["region"] and other["default"]:
            cloud.store.update("vpc", other["id"], default=False)
    doc["default"] = True


@router.delete("/v2/vpcs/{vpc_id}", status_code=204)
def delete_vpc(cloud: CloudDep, vpc_id: str) -> Response:
    with cloud.store.transaction():
        doc = _vpc(cloud, vpc_id)
        if doc["default"]:
            raise forbidden("Can not delete default VPCs")
        if members(cloud, vpc_id):
            raise forbidden("Can not delete VPC with members")
        cloud.store.delete("vpc", vpc_id)
    return Response(status_code=204)


@router.get("/v2/vpcs/{vpc_id}/members")
def list_members(cloud: CloudDep, page: PageDep, vpc_id: str, resource_type: str = "") -> Doc:
    _vpc(cloud, vpc_id)
    found = members(cloud, vpc_id) if resource_type in ("", "droplet") else []
    return page.answer("members", found, _member)


def _member(droplet: Doc) -> Doc:
    return {"name": droplet["name"], "urn": f"do:droplet:{droplet['id']}", "created_at": droplet["created_at"]}
