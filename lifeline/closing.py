"""A droplet behind a firewall that lets nothing in or out: closed, seen to be closed, opened again.

Firewalls add up: a droplet may do whatever any of its firewalls allows, and one without a firewall may do everything.
So the closed firewall comes first, then the droplet loses the tags by which it has others; opening goes the other way
round. The API keeps the tags in between: the one rule of a closed firewall, without which there can be none, lets port
1 in from the droplets of those tags, of which this host is none any more.

Whether a cloud firewall cuts what is connected already its makers don't say; the lab's doesn't. So this rung never
stands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lifeline.errors import Unavailable
from lifeline.standing import listed

PORT = "1"  # tcpmux: nothing listens there
NOBODY = "192.0.2.1/32"  # an address for documents, routed nowhere
Call = Callable[..., Any]
Doc = Mapping[str, Any]


def name_of(host: str) -> str:
    """The closed firewall of a host."""
    return f"lifeline-fence-{host}"


def covers(firewall: Doc, droplet: Doc) -> bool:
    """By its id, or by one of its tags."""
    by_id = int(droplet["id"]) in (firewall.get("droplet_ids") or ())
    return by_id or not set(firewall.get("tags") or ()).isdisjoint(droplet.get("tags") or ())


def not_closed(firewalls: list[Doc], droplet: Doc, name: str) -> str:
    """Why a droplet may still be spoken with; "" when nothing gets in or out."""
    covering = [firewall for firewall in firewalls if covers(firewall, droplet)]
    own = next((firewall for firewall in covering if firewall["name"] == name), None)
    if own is None:
        return f"it isn't behind {name}"
    if others := sorted(str(firewall["name"]) for firewall in covering if firewall is not own):
        return f"{', '.join(others)} still lets it be spoken with"
    rules = [*(own.get("inbound_rules") or ()), *(own.get("outbound_rules") or ())]
    if own.get("outbound_rules") or any(str(rule.get("ports")) != PORT for rule in rules):
        return f"{name} has a rule of somebody else's"
    if own.get("status") != "succeeded" or own.get("pending_changes"):
        return f"{name} is {own.get('status')}, not in force yet"
    return ""


def remembered(firewall: Doc) -> list[str]:
    """The tags that its droplet had."""
    found = [(rule.get("sources") or {}).get("tags") or () for rule in firewall.get("inbound_rules") or ()]
    return sorted({str(tag) for tags in found for tag in tags})


def look(call: Call, droplet_id: str, host: str) -> str:
    """As ``not_closed``, of what the API says now."""
    droplet = _droplet(call, droplet_id)
    return "" if droplet is None else not_closed(_firewalls(call), droplet, name_of(host))


def close(call: Call, droplet_id: str, host: str) -> None:
    """Ask for it; ``look`` tells whether it is so. May be asked for again."""
    if (droplet := _droplet(call, droplet_id)) is None:
        return
    firewalls, name = _firewalls(call), name_of(host)
    own = next((firewall for firewall in firewalls if firewall["name"] == name), None)
    tags = _tags_that_open(firewalls, droplet, name)
    if own is None or not set(tags) <= set(remembered(own)):
        kept = sorted({*tags, *(remembered(own) if own else ())})
        peers = {"tags": kept} if kept else {"addresses": [NOBODY]}
        rule = {"protocol": "tcp", "ports": PORT, "sources": peers}
        body = {"name": name, "inbound_rules": [rule], "outbound_rules": [], "droplet_ids": [int(droplet["id"])]}
        if own is None:
            _create(call, body)
        else:
            call("PUT", f"/v2/firewalls/{own['id']}", body)
    elif int(droplet["id"]) not in own["droplet_ids"]:
        call("POST", f"/v2/firewalls/{own['id']}/droplets", {"droplet_ids": [int(droplet["id"])]})
    for tag in tags:
        call("DELETE", f"/v2/tags/{tag}/resources", _resources(droplet))


def reopen(call: Call, droplet_id: str, host: str) -> bool:
    """Give a droplet its tags back, then take the closed firewall away. False: it wasn't there."""
    own = next((firewall for firewall in _firewalls(call) if firewall["name"] == name_of(host)), None)
    if own is None:
        return False
    if (droplet := _droplet(call, droplet_id)) is not None:
        for tag in remembered(own):
            call("POST", f"/v2/tags/{tag}/resources", _resources(droplet))
    call("DELETE", f"/v2/firewalls/{own['id']}", absent=True)
    return True


def present(call: Call, host: str) -> bool:
    """Is there a closed firewall of a host, in force or half made?"""
    return any(firewall["name"] == name_of(host) for firewall in _firewalls(call))


def _create(call: Call, body: Doc) -> None:
    """A call whose answer was lost is made again, and refused as a duplicate: then it is there, and that is all."""
    try:
        call("POST", "/v2/firewalls", body)
    except Unavailable:
        if all(firewall["name"] != body["name"] for firewall in _firewalls(call)):
            raise


def _tags_that_open(firewalls: list[Doc], droplet: Doc, name: str) -> list[str]:
    by = {tag for firewall in firewalls if firewall["name"] != name for tag in firewall.get("tags") or ()}
    return sorted(by & set(droplet.get("tags") or ()))


def _resources(droplet: Doc) -> dict[str, Any]:
    return {"resources": [{"resource_id": str(droplet["id"]), "resource_type": "droplet"}]}


def _droplet(call: Call, droplet_id: str) -> Doc | None:
    answer = call("GET", f"/v2/droplets/{droplet_id}", absent=True)
    return answer["droplet"] if answer else None


def _firewalls(call: Call) -> list[Doc]:
    return listed(call, "/v2/firewalls", "firewalls")
