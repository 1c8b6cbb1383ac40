"""What stands in the clouds under this account, whether or not a Pulumi state knows of it: by type and label, with the
id by which Pulumi imports it.

A lost state leaves it behind, and names that exist once an account can't be made a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Call = Callable[..., Any]
Doc = Mapping[str, Any]
Standing = dict[str, dict[str, str]]  # {type: {label: id}}; what infra/adopt.py reads
PER_PAGE = 200
RECORD = "digitalocean:index/dnsRecord:DnsRecord"
BUCKET, SPACES = "aws:s3/bucket:Bucket", "digitalocean:index/spacesBucket:SpacesBucket"
USER, ZONE, SET = "aws:iam/user:User", "aws:route53/zone:Zone", "aws:route53/record:Record"
# type, where it is listed, the answer's key, its label, its id
_LISTED = (
    ("domain:Domain", "/v2/domains", "domains", "name", "name"),
    ("sshKey:SshKey", "/v2/account/keys", "ssh_keys", "name", "id"),
    ("tag:Tag", "/v2/tags", "tags", "name", "name"),
    ("vpc:Vpc", "/v2/vpcs", "vpcs", "name", "id"),
    ("firewall:Firewall", "/v2/firewalls", "firewalls", "name", "id"),
    ("project:Project", "/v2/projects", "projects", "name", "id"),
    ("uptimeCheck:UptimeCheck", "/v2/uptime/checks", "checks", "name", "id"),
    ("monitorAlert:MonitorAlert", "/v2/monitoring/alerts", "policies", "description", "uuid"),
)
_LAST = {"vpcs": 1, "tags": 2, "projects": 3}  # these go when nothing is in them any more
# What tells two of a type apart, where that isn't their name; as a state writes it.
_LABELS = {BUCKET: "bucket", SET: "setIdentifier", "digitalocean:index/monitorAlert:MonitorAlert": "description"}


@dataclass(frozen=True)
class Address:
    """An A record: its name within the domain, where it leads, and its id."""

    name: str
    value: str
    id: str


def listed(call: Call, path: str, key: str, **params: str) -> list[Doc]:
    """All pages of a list."""
    found: list[Doc] = []
    while True:
        page = {**params, "per_page": str(PER_PAGE), "page": str(len(found) // PER_PAGE + 1)}
        got = call("GET", path, params=page)[key]
        found += got
        if len(got) < PER_PAGE:
            return found


def in_account(call: Call) -> Standing:
    """What DigitalOcean has, but for droplets, records, keys of Spaces and buckets."""
    found: Standing = {}
    for kind, path, key, label, identity in _LISTED:
        found[f"digitalocean:index/{kind}"] = {str(one[label]): str(one[identity]) for one in listed(call, path, key)}
    checks = found["digitalocean:index/uptimeCheck:UptimeCheck"].values()
    found["digitalocean:index/uptimeAlert:UptimeAlert"] = {
        str(alert["name"]): f"{check},{alert['id']}"
        for check in checks
        for alert in listed(call, f"/v2/uptime/checks/{check}/alerts", "alerts")
    }
    return found


def sweep(call: Call, ours: Callable[[str], bool]) -> list[str]:
    """Remove what is ours by its label, of what an account lists, in an order in which nothing hangs on another; what
    that was.  What can't be removed is an error."""
    gone = []
    for _, path, key, label, identity in sorted(_LISTED, key=lambda row: _LAST.get(row[2], 0)):
        for one in listed(call, path, key):
            if ours(str(one[label])):
                call("DELETE", f"{path}/{one[identity]}", absent=True)
                gone.append(f"{key}: {one[label]}")
    return gone


def addresses(call: Call, domain: str) -> list[Address]:
    """The domain's A records; none where there is no such domain."""
    if call("GET", f"/v2/domains/{domain}", absent=True) is None:
        return []
    records = listed(call, f"/v2/domains/{domain}/records", "domain_records", type="A")
    return [Address(str(one["name"]), str(one["data"]), str(one["id"])) for one in records if one["type"] == "A"]


def records(domain: str, found: Iterable[Address]) -> Standing:
    """These records as Pulumi imports them."""
    return {RECORD: {one.name: f"{domain},{one.id}" for one in found}}


def label(kind: str, inputs: Mapping[str, Any]) -> str | None:
    """Of a resource in a state, by its inputs; None where it has none."""
    found = inputs.get(_LABELS.get(kind, "name"))
    return found if isinstance(found, str) else None


def without(standing: Standing, known: Iterable[tuple[str, str]]) -> Standing:
    """What no state knows: ``known`` are the (type, label) of those that one does."""
    seen = set(known)
    left = {
        kind: {label: identity for label, identity in ones.items() if (kind, label) not in seen}
        for kind, ones in standing.items()
    }
    return {kind: ones for kind, ones in left.items() if ones}
