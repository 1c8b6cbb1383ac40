"""The DigitalOcean resource types in use, one row each, and the few that don't fit a row."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from lab.providers.kind import Created, Kind, Live, Prop, ProviderError, Values
from lab.providers.rest import Api, Rest, Spec, wait_until
from lab.providers.spaces import SpacesBucket, SpacesStore

DROPLET_WITHIN_S = 120.0
PROJECT_WITHIN_S = 60.0


def configure(settings: Values, env: Mapping[str, str] | None = None) -> dict[str, Kind]:
    """Resource types by token; settings win over the environment, as with the real provider."""
    env = os.environ if env is None else env
    token = settings.get("token") or env.get("DIGITALOCEAN_TOKEN") or env.get("DIGITALOCEAN_ACCESS_TOKEN")
    base = settings.get("apiEndpoint") or env.get("DIGITALOCEAN_API_URL")
    if not token or not base:
        raise ProviderError("DIGITALOCEAN_TOKEN and DIGITALOCEAN_API_URL must be set: the stand-in only knows the lab")
    api = Api(str(base), str(token))
    store = SpacesStore(
        template=str(settings.get("spacesEndpoint") or env.get("SPACES_ENDPOINT_URL") or ""),
        access_key=str(settings.get("spacesAccessId") or env.get("SPACES_ACCESS_KEY_ID") or ""),
        secret_key=str(settings.get("spacesSecretKey") or env.get("SPACES_SECRET_ACCESS_KEY") or ""),
    )
    kinds: list[Kind] = [
        *(Rest(api, spec) for spec in ROWS),
        Droplet(api, DROPLET),
        Project(api, PROJECT),
        SpacesBucket(store),
    ]
    return {kind.token: kind for kind in kinds}


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


class Droplet(Rest):
    """Waits until it is active; resizes by power off, resize, power on."""

    def settle(self, identity: str, inputs: Values) -> None:
        def active() -> bool:
            droplet = self._droplet(identity)
            if droplet["status"] not in ("new", "active"):
                raise ProviderError(f"droplet {identity} became {droplet['status']} instead of active")
            return droplet["status"] == "active" and not droplet["locked"]

        wait_until(f"droplet {identity} active", active, DROPLET_WITHIN_S)

    def update(self, identity: str, old: Values, new: Values, changed: Collection[str]) -> None:
        if "size" in changed:
            self._act(identity, {"type": "power_off"})
            self._act(identity, {"type": "resize", "size": new["size"], "disk": bool(new.get("resizeDisk", True))})
            self._act(identity, {"type": "power_on"})
        if "name" in changed:
            self._act(identity, {"type": "rename", "name": new["name"]})
        for name in ("backups", "ipv6"):
            if name in changed:
                self._act(identity, {"type": f"{'enable' if new.get(name) else 'disable'}_{name}"})
        if "tags" in changed:
            self._retag(identity, set(old.get("tags") or ()), set(new.get("tags") or ()))

    def delete(self, identity: str, state: Values) -> None:
        self.api.delete(f"/v2/droplets/{identity}")
        wait_until(
            f"droplet {identity} gone", lambda: self.api.get(f"/v2/droplets/{identity}") is None, DROPLET_WITHIN_S
        )

    def _droplet(self, identity: str) -> Values:
        answer = self.api.get(f"/v2/droplets/{identity}")
        if answer is None:
            raise ProviderError(f"droplet {identity} vanished while it was waited for")
        return self._item(answer)

    def _act(self, identity: str, action: Values) -> None:
        started = self.api.post(f"/v2/droplets/{identity}/actions", action)["action"]

        def completed() -> bool:
            answer = self.api.get(f"/v2/actions/{started['id']}")
            status = answer["action"]["status"] if answer else "errored"
            if status == "errored":
                raise ProviderError(f"droplet {identity}: {action['type']} failed")
            return bool(status == "completed")

        wait_until(f"droplet {identity}: {action['type']}", completed, DROPLET_WITHIN_S)

    def _retag(self, identity: str, old: set[str], new: set[str]) -> None:
        droplet = {"resources": [{"resource_id": identity, "resource_type": "droplet"}]}
        for tag in sorted(old - new):
            self.api.delete(f"/v2/tags/{tag}/resources", droplet)
        for tag in sorted(new - old):
            self.api.post("/v2/tags", {"name": tag})  # there already: fine
            self.api.post(f"/v2/tags/{tag}/resources", droplet)


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


class Project(Rest):
    """Its resources are assigned one request apart; what leaves it goes to the default project."""

    def create(self, inputs: Values) -> Created:
        answer = self.api.post("/v2/projects", self._own(inputs))
        return Created(str(self._item(answer)["id"]))

    def settle(self, identity: str, inputs: Values) -> None:
        self._assign(identity, inputs.get("resources") or [])

    def read(self, identity: str, state: Values) -> Live | None:
        live = super().read(identity, state)
        if live is None:
            return None
        answer = self.api.get(f"/v2/projects/{identity}/resources?page=1&per_page=200") or {}
        urns = [resource["urn"] for resource in answer.get("resources", [])]
        return Live({**live.inputs, "resources": urns}, live.computed)

    def update(self, identity: str, old: Values, new: Values, changed: Collection[str]) -> None:
        if set(changed) - {"resources"}:
            self.api.patch(f"/v2/projects/{identity}", self._own(new))
        before, after = set(old.get("resources") or ()), set(new.get("resources") or ())
        self._release([urn for urn in sorted(before - after) if self._has(identity, urn)])
        self._assign(identity, sorted(after - before))

    def delete(self, identity: str, state: Values) -> None:
        live = self.read(identity, state)
        if live is None:
            return
        self._release(list(live.inputs["resources"]))
        wait_until(f"project {identity} empty", lambda: not self._resources(identity), PROJECT_WITHIN_S)
        self.api.delete(f"/v2/projects/{identity}")

    def _own(self, inputs: Values) -> Values:
        return {key: value for key, value in self.body(inputs).items() if key != "resources"}

    def _resources(self, identity: str) -> list[str]:
        answer = self.api.get(f"/v2/projects/{identity}/resources?page=1&per_page=200") or {}
        return [resource["urn"] for resource in answer.get("resources", [])]

    def _has(self, identity: str, urn: str) -> bool:
        return urn in self._resources(identity)

    def _assign(self, identity: str, urns: list[str]) -> None:
        if urns:
            self.api.post(f"/v2/projects/{identity}/resources", {"resources": urns})

    def _release(self, urns: list[str]) -> None:
        default = self.api.get("/v2/projects/default")
        if urns and default is not None:
            self._assign(str(self._item(default)["id"]), urns)
