"""What a droplet is: its document, what the API shows of it, and the machine it asks for. No routes."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import Any

from lab.api import firewall_rules
from lab.api.addresses import free_private, free_public, ipv6, mac
from lab.api.catalog import SIZES, region_view, size_view
from lab.api.cloud import Cloud, stamp
from lab.api.errors import not_found, unprocessable
from lab.api.images import machine_image
from lab.api.store import Doc
from lab.api.vpcs import bridge
from lab.ports import Interface, MachineSpec

_DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")


def get(cloud: Cloud, droplet_id: int | str) -> Doc:
    doc = cloud.store.get("droplet", droplet_id)
    if doc is None:
        raise not_found()
    return doc


def by_tag(cloud: Cloud, tag: str) -> list[Doc]:
    return [droplet for droplet in cloud.store.all("droplet") if tag in droplet["tags"]]


def status(cloud: Cloud, droplet: Doc) -> str:
    """What the machine really is; "new" until it has been up once."""
    if droplet["state"] == "new":
        return "new"
    return "active" if cloud.machines.status(droplet["id"]) == "active" else "off"


def allocate(cloud: Cloud, region: str, vpc: Doc, *, public: bool) -> dict[str, str | None]:
    """Free addresses for one more droplet; to be called inside the transaction that stores it."""
    everyone = cloud.store.all("droplet")
    where = cloud.config.region(region)
    assert where is not None
    network = ipaddress.IPv4Network(vpc["ip_range"])
    inside = free_private(network, {d["private_ip"] for d in everyone if d["vpc_uuid"] == vpc["id"]})
    outside = free_public(where.network, {d["public_ip"] for d in everyone}) if public else None
    if inside is None or (public and outside is None):
        raise unprocessable(f"There are no free addresses left in {region}")
    return {"public_ip": outside, "private_ip": inside}


def features(droplet: Doc) -> list[str]:
    wanted = ("backups", "ipv6", "monitoring")
    return [*(name for name in wanted if droplet[name]), "droplet_agent", "private_networking"]


def view(cloud: Cloud, droplet: Doc) -> Doc:
    """The droplet as the API shows it."""
    size = SIZES[droplet["size"]]
    region = cloud.config.region(droplet["region"])
    assert region is not None
    return {
        "id": droplet["id"],
        "name": droplet["name"],
        "memory": size.memory,
        "vcpus": size.vcpus,
        "disk": droplet["disk"],
        "disk_info": [{"type": "local", "size": {"amount": droplet["disk"], "unit": "gib"}}],
        "locked": droplet["locked"],
        "status": status(cloud, droplet),
        "kernel": None,
        "created_at": droplet["created_at"],
        "features": features(droplet),
        "backup_ids": [],
        "next_backup_window": backup_window(droplet),
        "snapshot_ids": [image["id"] for image in snapshots(cloud, droplet["id"])],
        "image": droplet["image"],
        "volume_ids": volume_ids(cloud, droplet["id"]),
        "size": size_view(cloud.config, size),
        "size_slug": size.slug,
        "networks": _networks(cloud, droplet),
        "region": region_view(cloud.config, region),
        "tags": droplet["tags"],
        "vpc_uuid": droplet["vpc_uuid"],
    }


def snapshots(cloud: Cloud, droplet_id: int) -> list[Doc]:
    return [image for image in cloud.store.all("image") if image["droplet_id"] == droplet_id]


def volume_ids(cloud: Cloud, droplet_id: int) -> list[str]:
    return [volume["id"] for volume in cloud.store.all("volume") if droplet_id in volume["droplet_ids"]]


def _networks(cloud: Cloud, droplet: Doc) -> Doc:
    v4: list[Doc] = []
    v6: list[Doc] = []
    if droplet["private_ip"]:
        network = ipaddress.IPv4Network(droplet["vpc_range"])
        v4.append(_v4(droplet["private_ip"], network, str(network.network_address + 1), "private"))
    region = cloud.config.region(droplet["region"])
    if droplet["public_ip"] and region is not None:
        v4.append(_v4(droplet["public_ip"], region.network, region.gateway, "public"))
        if droplet["ipv6"]:
            number = 1 + cloud.config.regions.index(region)
            address = ipv6(droplet["public_ip"], number)
            v6.append({"ip_address": address, "netmask": 64, "gateway": f"2001:db8:{number:x}::1", "type": "public"})
    return {"v4": v4, "v6": v6}


def _v4(address: str, network: ipaddress.IPv4Network, gateway: str, type_: str) -> Doc:
    return {"ip_address": address, "netmask": str(network.netmask), "gateway": gateway, "type": type_}


def interfaces(cloud: Cloud, droplet: Doc) -> list[Interface]:
    """Public first, so that it is eth0 and holds the default route."""
    found: list[Interface] = []
    region = cloud.config.region(droplet["region"])
    if droplet["public_ip"] and region is not None:
        address = droplet["public_ip"]
        found.append(
            Interface("public", region.bridge, address, region.network.prefixlen, region.gateway, mac(address))
        )
    if droplet["private_ip"]:
        address, prefix = droplet["private_ip"], ipaddress.IPv4Network(droplet["vpc_range"]).prefixlen
        found.append(Interface("private", bridge(droplet["vpc_uuid"]), address, prefix, None, mac(address)))
    return found


def spec(cloud: Cloud, droplet: Doc, *, image: Doc | None = None) -> MachineSpec:
    """The machine this droplet asks for."""
    size = SIZES[droplet["size"]]
    return MachineSpec(
        id=droplet["id"],
        name=droplet["name"],
        region=droplet["region"],
        image=machine_image(image or droplet["image"]),
        interfaces=interfaces(cloud, droplet),
        public_keys=droplet["public_keys"],
        user_data=droplet["user_data"],
        vcpus=size.vcpus,
        memory_mb=size.memory,
        firewall=firewall_rules.for_droplet(cloud.store, droplet),
    )


def backup_policy(raw: Any) -> Doc:
    """A checked backup policy with its defaults: daily at 0 h, as DigitalOcean's."""
    raw = raw or {}
    plan = raw.get("plan") or "daily"
    hour = raw.get("hour") or 0
    weekday = raw.get("weekday") or ("SUN" if plan == "weekly" else None)
    if plan not in ("daily", "weekly"):
        raise unprocessable("backup policy plan is invalid: must be daily or weekly")
    if hour not in (0, 4, 8, 12, 16, 20):
        raise unprocessable("backup policy hour is invalid: must be one of 0, 4, 8, 12, 16, 20")
    if plan == "weekly" and weekday not in _DAYS:
        raise unprocessable(f"backup policy weekday is invalid: must be one of {', '.join(_DAYS)}")
    policy = {
        "plan": plan,
        "hour": hour,
        "window_length_hours": 4,
        "retention_period_days": 7 if plan == "daily" else 28,
    }
    return {**policy, "weekday": weekday} if plan == "weekly" else policy


def backup_window(droplet: Doc) -> Doc | None:
    """When the next backup would be taken; None without backups."""
    policy = droplet["backup_policy"]
    if not droplet["backups"] or not policy:
        return None
    today = datetime.now(UTC)
    start = today.replace(hour=policy["hour"], minute=0, second=0, microsecond=0)
    while start <= today or (policy["plan"] == "weekly" and _DAYS[start.weekday()] != policy["weekday"]):
        start += timedelta(days=1)
    return {"start": stamp(start), "end": stamp(start + timedelta(hours=policy["window_length_hours"]))}
