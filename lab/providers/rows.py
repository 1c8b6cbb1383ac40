"""The DigitalOcean resource types in use, one row each: how their properties are called in the API."""

from __future__ import annotations

from typing import Any

from lab.providers.kind import Prop, Values
from lab.providers.rest import Spec


def _rules_to_api(side: str, peer: str) -> Any:
    """Firewall rules: flat in Pulumi (`sourceAddresses`), nested in the API (`sources.addresses`)."""
    names = {f"{side}Addresses": "addresses", f"{side}Tags": "tags", f"{side}DropletIds": "droplet_ids"}

    def convert(rules: list[Values]) -> list[Values]:
        return [
            {
                "protocol": rule["protocol"],
                "ports": rule.get("portRange", ""),
                peer: {api: rule[name] for name, api in names.items() if rule.get(name)},
            }
            for rule in rules
        ]

    return convert


def _rules_from_api(side: str, peer: str) -> Any:
    names = {"addresses": f"{side}Addresses", "tags": f"{side}Tags", "droplet_ids": f"{side}DropletIds"}

    def convert(rules: list[Values]) -> list[Values]:
        converted = []
        for rule in rules:
            flat = {name: rule.get(peer, {}).get(api) for api, name in names.items() if rule.get(peer, {}).get(api)}
            flat["protocol"] = rule["protocol"]
            ports = str(rule.get("ports", ""))
            if rule["protocol"] != "icmp" and ports:
                flat["portRange"] = "1-65535" if ports in ("0", "all") else ports
            converted.append(flat)
        return converted

    return convert


def _notify_to_api(alerts: Any) -> Values:
    entry = (alerts[0] if alerts else {}) if isinstance(alerts, list) else alerts
    return {"email": entry.get("emails", []), "slack": entry.get("slacks", [])}


def _notify_from_api(alerts: Values) -> Values:
    return {"emails": alerts.get("email") or [], "slacks": alerts.get("slack") or []}


ROWS = (
    Spec(
        token="digitalocean:index/sshKey:SshKey",
        path="/v2/account/keys",
        item="ssh_key",
        props=(Prop("name", "name"), Prop("publicKey", "public_key", required=True, replaces=True, from_api=str.strip)),
        computed={"fingerprint": lambda key: key["fingerprint"]},
        update_without=frozenset({"public_key"}),
    ),
    Spec(
        token="digitalocean:index/vpc:Vpc",
        path="/v2/vpcs",
        item="vpc",
        props=(
            Prop("name", "name"),
            Prop("region", "region", required=True, replaces=True),
            Prop("description", "description"),
            Prop("ipRange", "ip_range", replaces=True),
        ),
        computed={
            "vpcUrn": lambda vpc: vpc["urn"],
            "default": lambda vpc: vpc["default"],
            "createdAt": lambda vpc: vpc["created_at"],
        },
        update_without=frozenset({"region", "ip_range"}),
    ),
    Spec(
        token="digitalocean:index/firewall:Firewall",
        path="/v2/firewalls",
        item="firewall",
        props=(
            Prop("name", "name"),
            Prop("dropletIds", "droplet_ids"),
            Prop("tags", "tags"),
            Prop(
                "inboundRules",
                "inbound_rules",
                to_api=_rules_to_api("source", "sources"),
                from_api=_rules_from_api("source", "sources"),
            ),
            Prop(
                "outboundRules",
                "outbound_rules",
                to_api=_rules_to_api("destination", "destinations"),
                from_api=_rules_from_api("destination", "destinations"),
            ),
        ),
        computed={"createdAt": lambda firewall: firewall["created_at"]},
        always={"droplet_ids": [], "tags": [], "inbound_rules": [], "outbound_rules": []},
    ),
    Spec(
        token="digitalocean:index/domain:Domain",
        path="/v2/domains",
        item="domain",
        id_key="name",
        props=(
            Prop("name", "name", required=True, replaces=True),
            Prop("ipAddress", "ip_address", replaces=True, reads=False),
        ),
        computed={"domainUrn": lambda domain: f"do:domain:{domain['name']}", "ttl": lambda domain: domain["ttl"]},
        autonamed=False,
    ),
    Spec(
        token="digitalocean:index/dnsRecord:DnsRecord",
        path="/v2/domains/{domain}/records",
        item="domain_record",
        props=(
            Prop("domain", required=True, replaces=True),
            Prop("name", "name"),
            Prop("type", "type", required=True, replaces=True),
            Prop("value", "data", required=True),
            Prop("ttl", "ttl"),
            Prop("port", "port"),
            Prop("priority", "priority"),
            Prop("weight", "weight"),
            Prop("flags", "flags"),
            Prop("tag", "tag"),
        ),
        computed={
            "fqdn": lambda record: record["domain"] if record["name"] == "@" else f"{record['name']}.{record['domain']}"
        },
        update_without=frozenset({"type"}),
        always={"priority": 0, "port": 0, "weight": 0, "flags": 0},
    ),
    Spec(
        token="digitalocean:index/spacesKey:SpacesKey",
        path="/v2/spaces/keys",
        item="key",
        id_key="access_key",
        props=(Prop("name", "name"), Prop("grants", "grants")),
        computed={"accessKey": lambda key: key["access_key"], "createdAt": lambda key: key["created_at"]},
        once={"secretKey": "secret_key"},
        always={"grants": []},
    ),
    Spec(
        token="digitalocean:index/uptimeCheck:UptimeCheck",
        path="/v2/uptime/checks",
        item="check",
        props=(
            Prop("name", "name"),
            Prop("type", "type"),
            Prop("target", "target", required=True),
            Prop("regions", "regions"),
            Prop("enabled", "enabled"),
        ),
        always={"type": "https", "enabled": True},
    ),
    Spec(
        token="digitalocean:index/uptimeAlert:UptimeAlert",
        path="/v2/uptime/checks/{checkId}/alerts",
        item="alert",
        props=(
            Prop("checkId", required=True),  # not a replacement, as in the real provider: the program must ask for it
            Prop("name", "name"),
            Prop("type", "type", required=True),
            Prop("threshold", "threshold"),
            Prop("comparison", "comparison"),
            Prop("period", "period"),
            Prop(
                "notifications",
                "notifications",
                required=True,
                to_api=_notify_to_api,
                from_api=lambda alerts: [_notify_from_api(alerts)],
            ),
        ),
    ),
    Spec(
        token="digitalocean:index/monitorAlert:MonitorAlert",
        path="/v2/monitoring/alerts",
        item="policy",
        id_key="uuid",
        props=(
            Prop("type", "type", required=True),
            Prop("description", "description", required=True),
            Prop("compare", "compare", required=True),
            Prop("value", "value", required=True),
            Prop("window", "window", required=True),
            Prop("entities", "entities"),
            Prop("tags", "tags"),
            Prop("enabled", "enabled"),
            Prop("alerts", "alerts", required=True, to_api=_notify_to_api, from_api=_notify_from_api),
        ),
        computed={"uuid": lambda policy: policy["uuid"]},
        always={"entities": [], "tags": [], "enabled": True},
        autonamed=False,
    ),
    Spec(
        token="digitalocean:index/tag:Tag",
        path="/v2/tags",
        item="tag",
        id_key="name",
        props=(Prop("name", "name", replaces=True),),
        # Counts of what carries the tag are left out: they change with every droplet, and a refresh would call that
        # drift.
        computed={},
    ),
)

DROPLET = Spec(
    token="digitalocean:index/droplet:Droplet",
    path="/v2/droplets",
    item="droplet",
    props=(
        Prop("name", "name"),
        Prop("region", "region", replaces=True, from_api=lambda region: region["slug"]),
        Prop("size", "size", required=True, from_api=lambda size: size["slug"] if isinstance(size, dict) else size),
        Prop("image", "image", required=True, replaces=True, reads=False),
        Prop("sshKeys", "ssh_keys", replaces=True, reads=False),
        Prop("userData", "user_data", replaces=True, reads=False),
        Prop("vpcUuid", "vpc_uuid", replaces=True),
        Prop("monitoring", "monitoring", replaces=True, reads=False),
        Prop("ipv6", "ipv6", reads=False),
        Prop("backups", "backups", reads=False),
        Prop("tags", "tags"),
        Prop("resizeDisk"),
        Prop("gracefulShutdown"),
    ),
    computed={
        "dropletUrn": lambda droplet: f"do:droplet:{droplet['id']}",
        "ipv4Address": lambda droplet: _address(droplet, "public"),
        "ipv4AddressPrivate": lambda droplet: _address(droplet, "private"),
        "createdAt": lambda droplet: droplet["created_at"],
        "disk": lambda droplet: droplet["disk"],
        "memory": lambda droplet: droplet["memory"],
        "vcpus": lambda droplet: droplet["vcpus"],
        "locked": lambda droplet: droplet["locked"],
        "status": lambda droplet: droplet["status"],
        "priceHourly": lambda droplet: droplet["size"]["price_hourly"],
        "priceMonthly": lambda droplet: droplet["size"]["price_monthly"],
    },
)


def _address(droplet: Values, kind: str) -> str | None:
    networks = droplet.get("networks", {}).get("v4", [])
    return next((str(network["ip_address"]) for network in networks if network["type"] == kind), None)


PROJECT = Spec(
    token="digitalocean:index/project:Project",
    path="/v2/projects",
    item="project",
    props=(
        Prop("name", "name"),
        Prop("description", "description"),
        Prop("purpose", "purpose", from_api=lambda purpose: purpose.removeprefix("Other: ")),
        Prop("environment", "environment"),
        Prop("isDefault", "is_default"),
        Prop("resources", "resources"),
    ),
    # `updatedAt` is left out: it changes with every resource that comes or goes.
    computed={
        "createdAt": lambda project: project["created_at"],
        "ownerId": lambda project: project["owner_id"],
        "ownerUuid": lambda project: project["owner_uuid"],
    },
)
