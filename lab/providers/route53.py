"""`aws:route53` over the Route 53 API: a zone, a health check, a record."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from typing import Any

from lab.providers import s3
from lab.providers.kind import Created, Kind, Live, Prop, Values

GONE = frozenset({"NoSuchHostedZone", "NoSuchHealthCheck"})


class _Route53(Kind):
    def __init__(self, client: Any) -> None:
        self._client = client


class Zone(_Route53):
    """Its id is the cloud's, without `/hostedzone/`."""

    token = "aws:route53/zone:Zone"
    props = (Prop("name", required=True, replaces=True), Prop("comment"))
    computed = ("zoneId", "nameServers", "primaryNameServer", "arn", "tagsAll")

    def create(self, inputs: Values) -> Created:
        name, comment = inputs["name"], inputs.get("comment", "")
        made = s3.call(
            f"create zone {name}",
            lambda: self._client.create_hosted_zone(
                Name=name, CallerReference=str(uuid.uuid4()), HostedZoneConfig={"Comment": comment}
            ),
        )
        return Created(_plain(made["HostedZone"]["Id"]))

    def read(self, identity: str, state: Values) -> Live | None:
        found = s3.or_none(f"zone {identity}", lambda: self._client.get_hosted_zone(Id=identity), GONE)
        if found is None:
            return None
        zone, servers = found["HostedZone"], found["DelegationSet"]["NameServers"]
        return Live(
            inputs={"name": zone["Name"].rstrip("."), "comment": zone.get("Config", {}).get("Comment", "")},
            computed={
                "zoneId": identity,
                "nameServers": sorted(servers),
                "primaryNameServer": servers[0],
                "arn": f"arn:aws:route53:::hostedzone/{identity}",
                "tagsAll": {},
            },
        )

    def update(self, identity: str, old: Values, new: Values, changed: Collection[str]) -> None:
        comment = new.get("comment", "")
        s3.call(f"zone {identity}", lambda: self._client.update_hosted_zone_comment(Id=identity, Comment=comment))

    def delete(self, identity: str, state: Values) -> None:
        s3.or_none(f"delete zone {identity}", lambda: self._client.delete_hosted_zone(Id=identity), GONE)


class HealthCheck(_Route53):
    """Of an address, by HTTP."""

    token = "aws:route53/healthCheck:HealthCheck"
    props = (
        Prop("type", required=True, replaces=True),
        Prop("ipAddress", api="IPAddress"),
        Prop("port", api="Port"),
        Prop("resourcePath", api="ResourcePath"),
        Prop("requestInterval", api="RequestInterval", replaces=True),
        Prop("failureThreshold", api="FailureThreshold"),
        Prop("tags"),
    )
    computed = ("arn", "tagsAll")

    def create(self, inputs: Values) -> Created:
        settings = {"Type": inputs["type"], **self._settings(inputs)}
        made = s3.call(
            "create health check",
            lambda: self._client.create_health_check(CallerReference=str(uuid.uuid4()), HealthCheckConfig=settings),
        )
        return Created(made["HealthCheck"]["Id"])

    def settle(self, identity: str, inputs: Values) -> None:
        self._tag(identity, inputs.get("tags") or {}, [])

    def read(self, identity: str, state: Values) -> Live | None:
        what = f"health check {identity}"
        found = s3.or_none(what, lambda: self._client.get_health_check(HealthCheckId=identity), GONE)
        if found is None:
            return None
        settings = found["HealthCheck"]["HealthCheckConfig"]
        listed = s3.call(
            what, lambda: self._client.list_tags_for_resource(ResourceType="healthcheck", ResourceId=identity)
        )
        tags = {tag["Key"]: tag["Value"] for tag in listed["ResourceTagSet"]["Tags"]}
        seen = {prop.name: settings.get(prop.api) for prop in self.props if prop.api}
        return Live(
            inputs={"type": settings["Type"], **seen, "tags": tags},
            computed={"arn": f"arn:aws:route53:::healthcheck/{identity}", "tagsAll": tags},
        )

    def update(self, identity: str, old: Values, new: Values, changed: Collection[str]) -> None:
        if "tags" in changed:
            gone = sorted(set(old.get("tags") or {}) - set(new.get("tags") or {}))
            self._tag(identity, new.get("tags") or {}, gone)
        settings = {prop.api: new[prop.name] for prop in self.props if prop.api and prop.name in changed}
        if settings:
            what = f"health check {identity}"
            s3.call(what, lambda: self._client.update_health_check(HealthCheckId=identity, **settings))

    def delete(self, identity: str, state: Values) -> None:
        what = f"delete health check {identity}"
        s3.or_none(what, lambda: self._client.delete_health_check(HealthCheckId=identity), GONE)

    def _settings(self, inputs: Values) -> Values:
        return {prop.api: inputs[prop.name] for prop in self.props if prop.api and prop.name in inputs}

    def _tag(self, identity: str, tags: Values, gone: list[str]) -> None:
        about: Values = {"ResourceType": "healthcheck", "ResourceId": identity}
        if tags:
            about["AddTags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
        if gone:
            about["RemoveTagKeys"] = gone
        if tags or gone:
            s3.call(f"tags of health check {identity}", lambda: self._client.change_tags_for_resource(**about))


class Record(_Route53):
    """One set of a failover pair; its id is `ZONE_NAME_TYPE_SET`."""

    token = "aws:route53/record:Record"
    props = (
        Prop("zoneId", required=True, replaces=True),
        Prop("name", required=True, replaces=True),
        Prop("type", required=True, replaces=True),
        Prop("setIdentifier", replaces=True),
        Prop("ttl"),
        Prop("records"),
        Prop("failoverRoutingPolicies"),
        Prop("healthCheckId"),
    )
    computed = ("fqdn",)

    def imported(self, identity: str) -> tuple[str, Values]:
        zone, name, kind, *sets = identity.split("_", 3)
        return identity, {"zoneId": zone, "name": name, "type": kind, "setIdentifier": sets[0] if sets else None}

    def create(self, inputs: Values) -> Created:
        self._change("CREATE", inputs["zoneId"], _to_api(inputs))
        parts = (inputs["zoneId"], inputs["name"], inputs["type"], inputs.get("setIdentifier"))
        return Created("_".join(part for part in parts if part))

    def read(self, identity: str, state: Values) -> Live | None:
        zone, name, kind = str(state["zoneId"]), str(state["name"]), str(state["type"])
        found = self._find(zone, name, kind, state.get("setIdentifier"))
        if found is None:
            return None
        policies = [{"type": found["Failover"]}] if found.get("Failover") else []
        return Live(
            inputs={
                "zoneId": zone,
                "name": found["Name"].rstrip("."),
                "type": found["Type"],
                "setIdentifier": found.get("SetIdentifier"),
                "ttl": found.get("TTL"),
                "records": [record["Value"] for record in found["ResourceRecords"]],
                "failoverRoutingPolicies": policies,
                "healthCheckId": found.get("HealthCheckId"),
            },
            computed={"fqdn": found["Name"].rstrip(".")},
        )

    def update(self, identity: str, old: Values, new: Values, changed: Collection[str]) -> None:
        self._change("UPSERT", new["zoneId"], _to_api(new))

    def delete(self, identity: str, state: Values) -> None:
        zone = str(state["zoneId"])
        found = self._find(zone, str(state["name"]), str(state["type"]), state.get("setIdentifier"))
        if found is not None:
            self._change("DELETE", zone, found)

    def _find(self, zone: str, name: str, kind: str, set_identifier: Any) -> Any:
        what = f"record {name}"
        listed = s3.or_none(
            what,
            lambda: self._client.list_resource_record_sets(
                HostedZoneId=zone, StartRecordName=name, StartRecordType=kind
            ),
            GONE,
        )
        wanted = (f"{name}.", kind, set_identifier)
        for found in listed["ResourceRecordSets"] if listed else ():
            if (found["Name"], found["Type"], found.get("SetIdentifier")) == wanted:
                return found
        return None

    def _change(self, action: str, zone: str, record: Any) -> None:
        batch = {"Changes": [{"Action": action, "ResourceRecordSet": record}]}
        s3.call(
            f"{action} record {record['Name']}",
            lambda: self._client.change_resource_record_sets(HostedZoneId=zone, ChangeBatch=batch),
        )


def _to_api(inputs: Values) -> Values:
    policies = inputs.get("failoverRoutingPolicies") or []
    optional = {
        "SetIdentifier": inputs.get("setIdentifier"),
        "Failover": policies[0]["type"] if policies else None,
        "HealthCheckId": inputs.get("healthCheckId"),
    }
    return {
        "Name": inputs["name"],
        "Type": inputs["type"],
        "TTL": inputs["ttl"],
        "ResourceRecords": [{"Value": value} for value in inputs["records"]],
        **{name: value for name, value in optional.items() if value},
    }


def _plain(identity: str) -> str:
    return identity.removeprefix("/hostedzone/")
