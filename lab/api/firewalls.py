"""Cloud firewalls: kept here, enforced in the machines' network whenever a rule, a tag or a droplet changes."""

from __future__ import annotations

import ipaddress
import logging
import re
import uuid
from typing import Any

from fastapi import APIRouter, Response

from lab.api import fields, firewall_rules
from lab.api.cloud import BodyDep, Cloud, CloudDep, now
from lab.api.errors import conflict, not_found, unprocessable
from lab.api.pages import PageDep
from lab.api.store import Doc

log = logging.getLogger("lab.api.firewalls")
router = APIRouter()
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.-]*")
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_PEERS = {"inbound_rules": "sources", "outbound_rules": "destinations"}
_PEER_KEYS = ("addresses", "droplet_ids", "tags", "load_balancer_uids", "kubernetes_ids")


def enforce(cloud: Cloud, *, again: int | None = None) -> None:
    """Make every machine enforce what its firewalls say now, and record in their status whether it does.

    A machine that does already is left alone, but for `again`.
    """
    with cloud.firewall_lock:
        if again is not None:
            cloud.firewalls_applied.pop(again, None)
        failed = [droplet for droplet in cloud.store.all("droplet") if not _brought_up_to_date(cloud, droplet)]
        for firewall in cloud.store.all("firewall"):
            status = "failed" if any(firewall_rules.covers(firewall, droplet) for droplet in failed) else "succeeded"
            if firewall["status"] != status:
                cloud.store.update("firewall", firewall["id"], status=status)


def _brought_up_to_date(cloud: Cloud, droplet: Doc) -> bool:
    # A machine that is being made gets its rules with its spec, before its first packet.
    if droplet["state"] == "destroying" or cloud.machines.status(droplet["id"]) == "absent":
        return True
    try:
        _apply_one(cloud, droplet)
    except RuntimeError as error:
        if cloud.machines.status(droplet["id"]) == "absent":
            return True  # destroyed meanwhile
        log.error("firewall of droplet %s: %s", droplet["id"], error)
        return False
    return True


def _apply_one(cloud: Cloud, droplet: Doc) -> None:
    rules = firewall_rules.for_droplet(cloud.store, droplet)
    unknown: Any = object()
    if cloud.firewalls_applied.get(droplet["id"], unknown) != rules:
        cloud.firewalls_applied.pop(droplet["id"], None)
        cloud.machines.set_firewall(droplet["id"], rules)
        cloud.firewalls_applied[droplet["id"]] = rules


def forget(cloud: Cloud, droplet_id: int) -> None:
    with cloud.firewall_lock:
        cloud.firewalls_applied.pop(droplet_id, None)


def firewall_view(firewall: Doc) -> Doc:
    return {**firewall, "pending_changes": []}


def _firewall(cloud: Cloud, firewall_id: str) -> Doc:
    doc = cloud.store.get("firewall", firewall_id)
    if doc is None:
        raise not_found()
    return doc


def _rules(cloud: Cloud, body: Doc, key: str) -> list[Doc]:
    return [_rule(cloud, rule, _PEERS[key]) for rule in fields.objects(body, key)]


def _rule(cloud: Cloud, rule: Doc, peers_key: str) -> Doc:
    protocol = fields.choice(rule, "protocol", ("tcp", "udp", "icmp"))
    return {
        "protocol": protocol,
        "ports": _ports(protocol, rule.get("ports")),
        peers_key: _peers(cloud, rule, peers_key),
    }


def _ports(protocol: str, raw: Any) -> str:
    """ "0" is all ports, and what ICMP always shows."""
    text = str(raw) if raw is not None else ""
    if protocol == "icmp" or text in ("all", "0"):
        return "0"
    match = _PORTS.fullmatch(text)
    if not match:
        raise unprocessable('ports is invalid: a port, a range (8000-9000), or "all"')
    low, high = int(match[1]), int(match[2] or match[1])
    if not 1 <= low <= high <= 65535:
        raise unprocessable("ports is invalid: must be between 1 and 65535, the lower first")
    return text


def _peers(cloud: Cloud, rule: Doc, peers_key: str) -> Doc:
    raw = rule.get(peers_key)
    if raw is not None and not isinstance(raw, dict):
        raise unprocessable(f"{peers_key} must be an object")
    peers = {key: list(raw[key]) for key in _PEER_KEYS if (raw or {}).get(key)} if raw else {}
    if not peers:
        raise unprocessable(f"{peers_key}: at least one of {', '.join(_PEER_KEYS)} must be given")
    for address in peers.get("addresses", ()):
        _check_address(address)
    if "droplet_ids" in peers:
        peers["droplet_ids"] = _droplet_ids(cloud, peers)
    if "tags" in peers:
        peers["tags"] = _tags(cloud, peers)
    return peers


def _check_address(address: Any) -> None:
    try:
        ipaddress.ip_network(str(address), strict=False)
    except ValueError:
        raise unprocessable(f"addresses: {address} is not an IP address or CIDR") from None


def _tags(cloud: Cloud, body: Doc) -> list[str]:
    """The tags named, as they are spelled; 422 for one that doesn't exist."""
    found = []
    for name in fields.strings(body, "tags"):
        tag = cloud.store.get("tag", name.lower())
        if tag is None:
            raise unprocessable(f"tag {name} does not exist")
        found.append(str(tag["name"]))
    return list(dict.fromkeys(found))


def _droplet_ids(cloud: Cloud, body: Doc) -> list[int]:
    ids = list(dict.fromkeys(fields.integers(body, "droplet_ids")))
    for id_ in ids:
        if cloud.store.get("droplet", id_) is None:
            raise unprocessable(f"droplet {id_} does not exist")
    return ids


def _content(cloud: Cloud, body: Doc, own_id: str | None = None) -> Doc:
    """A whole firewall, as POST and PUT take it."""
    name = fields.string(body, "name", required=True, longest=255)
    if not _NAME.fullmatch(name):
        raise unprocessable(
            "name must begin with an alphanumeric character and may contain only alphanumerics, . and -"
        )
    if any(other["name"] == name and other["id"] != own_id for other in cloud.store.all("firewall")):
        raise conflict("duplicate name")
    rules = {key: _rules(cloud, body, key) for key in _PEERS}
    if not any(rules.values()):
        raise unprocessable("at least one inbound or outbound rule is required")
    return {"name": name, **rules, "droplet_ids": _droplet_ids(cloud, body), "tags": _tags(cloud, body)}


def _enforced(cloud: Cloud, firewall_id: str) -> Doc:
    """Enforce, and answer with what became of it."""
    enforce(cloud)
    return firewall_view(_firewall(cloud, firewall_id))


@router.get("/v2/firewalls")
def list_firewalls(cloud: CloudDep, page: PageDep) -> Doc:
    return page.answer("firewalls", cloud.store.all("firewall"), firewall_view)


@router.post("/v2/firewalls", status_code=202)
def create_firewall(cloud: CloudDep, body: BodyDep) -> Doc:
    with cloud.store.transaction():
        id_ = str(uuid.uuid4())
        doc = {"id": id_, "status": "waiting", "created_at": now(), **_content(cloud, body)}
        cloud.store.put("firewall", id_, doc)
    return {"firewall": _enforced(cloud, id_)}


@router.get("/v2/firewalls/{firewall_id}")
def get_firewall(cloud: CloudDep, firewall_id: str) -> Doc:
    return {"firewall": firewall_view(_firewall(cloud, firewall_id))}


@router.put("/v2/firewalls/{firewall_id}")
def update_firewall(cloud: CloudDep, firewall_id: str, body: BodyDep) -> Doc:
    with cloud.store.transaction():
        doc = _firewall(cloud, firewall_id)
        cloud.store.put("firewall", firewall_id, {**doc, **_content(cloud, body, firewall_id)})
    return {"firewall": _enforced(cloud, firewall_id)}


@router.delete("/v2/firewalls/{firewall_id}", status_code=204)
def delete_firewall(cloud: CloudDep, firewall_id: str) -> Response:
    _firewall(cloud, firewall_id)
    cloud.store.delete("firewall", firewall_id)
    enforce(cloud)
    return Response(status_code=204)


def _change(cloud: Cloud, firewall_id: str, key: str, add: list[Any], remove: list[Any]) -> Response:
    """Members are sets: adding one twice or removing one that isn't there changes nothing."""
    with cloud.store.transaction():
        kept = [item for item in _firewall(cloud, firewall_id)[key] if item not in remove]
        cloud.store.update("firewall", firewall_id, **{key: kept + [item for item in add if item not in kept]})
    enforce(cloud)
    return Response(status_code=204)


@router.post("/v2/firewalls/{firewall_id}/droplets", status_code=204)
def add_droplets(cloud: CloudDep, firewall_id: str, body: BodyDep) -> Response:
    return _change(cloud, firewall_id, "droplet_ids", _droplet_ids(cloud, body), [])


@router.delete("/v2/firewalls/{firewall_id}/droplets", status_code=204)
def remove_droplets(cloud: CloudDep, firewall_id: str, body: BodyDep) -> Response:
    return _change(cloud, firewall_id, "droplet_ids", [], fields.integers(body, "droplet_ids"))


@router.post("/v2/firewalls/{firewall_id}/tags", status_code=204)
def add_tags(cloud: CloudDep, firewall_id: str, body: BodyDep) -> Response:
    return _change(cloud, firewall_id, "tags", _tags(cloud, body), [])


@router.delete("/v2/firewalls/{firewall_id}/tags", status_code=204)
def remove_tags(cloud: CloudDep, firewall_id: str, body: BodyDep) -> Response:
    return _change(cloud, firewall_id, "tags", [], fields.strings(body, "tags"))


@router.post("/v2/firewalls/{firewall_id}/rules", status_code=204)
def add_rules(cloud: CloudDep, firewall_id: str, body: BodyDep) -> Response:
    for key in _PEERS:
        _change(cloud, firewall_id, key, _rules(cloud, body, key), [])
    return Response(status_code=204)


@router.delete("/v2/firewalls/{firewall_id}/rules", status_code=204)
def remove_rules(cloud: CloudDep, firewall_id: str, body: BodyDep) -> Response:
    for key in _PEERS:
        _change(cloud, firewall_id, key, [], _rules(cloud, body, key))
    return Response(status_code=204)
