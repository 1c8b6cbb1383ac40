"""Route 53's control plane in the lab: moto's, with names for its actions and a file for its data plane."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from moto.route53.models import Route53Backend, route53_backends

from lab.objectstore import AWS_ACCOUNT

NAMESPACE = "https://route53.amazonaws.com/doc/2013-04-01/"
# What the lab's Route 53 can do: Pulumi's provider and its stand-in need no more.
_ACTIONS = (
    ("POST", r"/hostedzone", "CreateHostedZone"),
    ("GET", r"/hostedzonesbyname", "ListHostedZonesByName"),
    ("GET", r"/hostedzone/[^/]+", "GetHostedZone"),
    ("POST", r"/hostedzone/[^/]+", "UpdateHostedZoneComment"),
    ("DELETE", r"/hostedzone/[^/]+", "DeleteHostedZone"),
    ("GET", r"/hostedzone/[^/]+/rrset", "ListResourceRecordSets"),
    ("POST", r"/hostedzone/[^/]+/rrset", "ChangeResourceRecordSets"),
    ("GET", r"/hostedzone/[^/]+/dnssec", "GetDNSSEC"),
    ("GET", r"/change/[^/]+", "GetChange"),
    ("POST", r"/healthcheck", "CreateHealthCheck"),
    ("GET", r"/healthcheck/[^/]+", "GetHealthCheck"),
    ("POST", r"/healthcheck/[^/]+", "UpdateHealthCheck"),
    ("DELETE", r"/healthcheck/[^/]+", "DeleteHealthCheck"),
    ("GET", r"/tags/(?:hostedzone|healthcheck)/[^/]+", "ListTagsForResource"),
    ("POST", r"/tags/(?:hostedzone|healthcheck)/[^/]+", "ChangeTagsForResource"),
)


def backend() -> Route53Backend:
    """moto's state."""
    found: Route53Backend = route53_backends[AWS_ACCOUNT]["aws"]
    return found


def action_of(method: str, path: str) -> str:
    """The action's name, which policies go by; "" for what the lab can't do. A REST API names none itself."""
    found = (name for verb, known, name in _ACTIONS if verb == method and re.fullmatch(rf"/2013-04-01{known}/?", path))
    return next(found, "")


def changes(action: str) -> bool:
    return not action.startswith(("Get", "List"))


def publish(state: Route53Backend, file: Path) -> None:
    """Leave what is to be answered and checked for the data plane (lab/route53.py)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".new")
    partial.write_text(json.dumps(document(state)))
    partial.replace(file)


def document(state: Route53Backend) -> dict[str, Any]:
    zones = {
        zone.name.rstrip(".").lower(): [_record(record) for record in zone.rrsets] for zone in state.zones.values()
    }
    checks = {
        check.id: {
            "address": check.ip_address,
            "port": int(check.port or 80),
            "path": check.resource_path or "/",
            "interval": int(check.request_interval),
            "threshold": int(check.failure_threshold),
        }
        for check in state.health_checks.values()
        if check.type_ == "HTTP" and check.ip_address
    }
    return {"zones": zones, "checks": checks}


def _record(record: Any) -> dict[str, Any]:
    return {
        "name": record.name.rstrip(".").lower(),
        "type": record.type,
        "ttl": int(record.ttl or 0),
        "values": [str(value) for value in record.records or ()],
        "failover": record.failover,
        "check": record.health_check_id,
    }
