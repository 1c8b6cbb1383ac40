"""The metadata service: a droplet asks, and is known by the address it asks from."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from lab.api import droplets
from lab.api.addresses import mac
from lab.api.cloud import Cloud
from lab.api.store import Doc

_NAMESERVERS = ["198.18.0.53"]


def document(cloud: Cloud, droplet: Doc) -> Doc:
    """What /metadata/v1.json says of a droplet."""
    v4 = droplets.view(cloud, droplet)["networks"]["v4"]
    interfaces: dict[str, list[Doc]] = {}
    for network in v4:
        ipv4 = {key: network[key] for key in ("ip_address", "netmask", "gateway")}
        entry = {"ipv4": ipv4, "mac": mac(network["ip_address"]), "type": network["type"]}
        interfaces.setdefault(network["type"], []).append(entry)
    server = (cloud.config.dns or _NAMESERVERS[0]).partition(":")[0]
    return {
        "droplet_id": droplet["id"],
        "hostname": droplet["name"],
        "user_data": droplet["user_data"],
        "vendor_data": "",
        "public_keys": droplet["public_keys"],
        "auth_key": "",
        "region": droplet["region"],
        "interfaces": interfaces,
        "floating_ip": {"ipv4": {"active": False}},
        "reserved_ip": {"ipv4": {"active": False}},
        "dns": {"nameservers": [server]},
        "tags": droplet["tags"],
        "features": {"dhcp_enabled": False},
        "vpc": {"id": droplet["vpc_uuid"], "range": droplet["vpc_range"]},
    }


def tree(doc: Doc) -> Doc:
    """The same as paths: /metadata/v1/<path>. Folders are dicts, files are text."""
    return {
        "id": str(doc["droplet_id"]),
        "hostname": doc["hostname"],
        "user-data": doc["user_data"],
        "vendor-data": doc["vendor_data"],
        "public-keys": "\n".join(doc["public_keys"]),
        "region": doc["region"],
        "interfaces": {
            kind: {str(n): _interface(entry) for n, entry in enumerate(entries)}
            for kind, entries in doc["interfaces"].items()
        },
        "reserved_ip": {"ipv4": {"active": "false"}},
        "floating_ip": {"ipv4": {"active": "false"}},
        "dns": {"nameservers": "\n".join(doc["dns"]["nameservers"])},
        "tags": "\n".join(doc["tags"]),
        "features": {"dhcp_enabled": "false"},
    }


def _interface(entry: Doc) -> Doc:
    ipv4 = {key.replace("ip_address", "address"): str(value) for key, value in entry["ipv4"].items()}
    return {"mac": entry["mac"], "type": entry["type"], "ipv4": ipv4}


def lookup(node: Any, path: str) -> str | None:
    """A file's text, a folder's listing (its folders with a final slash), or None."""
    for part in [part for part in path.split("/") if part]:
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    if isinstance(node, dict):
        return "\n".join(key + ("/" if isinstance(value, dict) else "") for key, value in node.items())
    return str(node)


def create_metadata_app(cloud: Cloud) -> Starlette:
    """The second application; droplets reach it as 169.254.169.254."""

    def asking(request: Request) -> Doc | None:
        source = request.client.host if request.client else ""
        return next(
            (d for d in cloud.store.all("droplet") if source in (d["public_ip"], d["private_ip"]) and source), None
        )

    def json(request: Request) -> Response:
        droplet = asking(request)
        return JSONResponse(document(cloud, droplet)) if droplet else PlainTextResponse("not found", 404)

    def text(request: Request) -> Response:
        droplet = asking(request)
        found = lookup(tree(document(cloud, droplet)), request.path_params.get("path", "")) if droplet else None
        return PlainTextResponse("not found", 404) if found is None else PlainTextResponse(found)

    routes = [
        ("/metadata/v1.json", json),
        ("/metadata/v1", text),
        ("/metadata/v1/", text),
        ("/metadata/v1/{path:path}", text),
    ]
    return Starlette(routes=[Route(path, endpoint) for path, endpoint in routes])
