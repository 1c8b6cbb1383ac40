"""Domains and their records. The lab's DNS server answers from what is kept here (lab.api.store.records)."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from fastapi import APIRouter, Response

from lab.api import fields, projects
from lab.api.cloud import BodyDep, Cloud, CloudDep
from lab.api.errors import not_found, unprocessable
from lab.api.pages import PageDep
from lab.api.store import Doc

router = APIRouter()
DEFAULT_TTL = 1800
_LEAST_TTL = 30
_TYPES = ("A", "AAAA", "CAA", "CNAME", "MX", "NS", "SOA", "SRV", "TXT")
_HOST_VALUED = ("CNAME", "MX", "NS", "SRV", "CAA")
# Which numbers a type has; the others are null, whatever was sent (SDKs send zeros).
_NUMBERS = {"MX": ("priority",), "SRV": ("priority", "port", "weight"), "CAA": ("flags",)}
_DOMAIN = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}", re.IGNORECASE)
_RECORD_NAME = re.compile(r"@|\*|(\*\.)?[a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_])?")
_NAMESERVERS = ("ns1.digitalocean.com", "ns2.digitalocean.com", "ns3.digitalocean.com")


def records_of(cloud: Cloud, domain: str) -> list[Doc]:
    return [record for record in cloud.store.all("record") if record["domain"] == domain]


def _domain(cloud: Cloud, name: str) -> Doc:
    doc = cloud.store.get("domain", name.lower())
    if doc is None:
        raise not_found()
    return doc


def _record(cloud: Cloud, domain: str, record_id: str) -> Doc:
    _domain(cloud, domain)
    doc = cloud.store.get("record", record_id)
    if doc is None or doc["domain"] != domain.lower():
        raise not_found()
    return doc


def _record_view(record: Doc) -> Doc:
    return {key: value for key, value in record.items() if key != "domain"}


def _domain_view(cloud: Cloud, domain: Doc) -> Doc:
    return {**domain, "zone_file": _zone_file(domain["name"], records_of(cloud, domain["name"]))}


def _zone_file(domain: str, records: list[Doc]) -> str:
    lines = [f"$ORIGIN {domain}.", f"$TTL {DEFAULT_TTL}"]
    for record in records:
        name = domain if record["name"] == "@" else f"{record['name']}.{domain}"
        lines.append(f"{name}. IN {record['ttl']} {record['type']} {_rdata(domain, record)}")
    return "\n".join(lines) + "\n"


def _rdata(domain: str, record: Doc) -> str:
    if record["type"] == "SOA":
        return f"{_NAMESERVERS[0]}. hostmaster.{domain}. 1 10800 3600 604800 {record['data']}"
    data = f"{record['data']}." if record["type"] in ("CNAME", "MX", "NS", "SRV") else record["data"]
    parts = [record[key] for key in ("priority", "weight", "port", "flags", "tag") if record[key] is not None]
    return " ".join(str(part) for part in [*parts, data])


def _new_record(cloud: Cloud, domain: str, type_: str, name: str, data: str, **more: Any) -> Doc:
    numbers = {key: more.get(key) for key in ("priority", "port", "weight", "flags", "tag")}
    record: Doc = {
        "id": cloud.store.next_id("record"),
        "type": type_,
        "name": name,
        "data": data,
        "priority": numbers["priority"],
        "port": numbers["port"],
        "ttl": more.get("ttl") or DEFAULT_TTL,
        "weight": numbers["weight"],
        "flags": numbers["flags"],
        "tag": numbers["tag"],
        "domain": domain,
    }
    cloud.store.put("record", record["id"], record)
    return record


@router.get("/v2/domains")
def list_domains(cloud: CloudDep, page: PageDep) -> Doc:
    return page.answer("domains", cloud.store.all("domain"), lambda domain: _domain_view(cloud, domain))


@router.post("/v2/domains", status_code=201)
def create_domain(cloud: CloudDep, body: BodyDep) -> Doc:
    name = fields.string(body, "name", required=True).lower()
    if not _DOMAIN.fullmatch(name):
        raise unprocessable("Name is invalid: it must be a valid domain name")
    address = fields.string(body, "ip_address")
    if address:
        _check_ip("A", address)
    with cloud.store.transaction():
        if cloud.store.get("domain", name):
            raise unprocessable("Name already exists")
        doc = {"name": name, "ttl": DEFAULT_TTL}
        cloud.store.put("domain", name, doc)
        _new_record(cloud, name, "SOA", "@", str(DEFAULT_TTL))
        for server in _NAMESERVERS:
            _new_record(cloud, name, "NS", "@", server)
        if address:
            _new_record(cloud, name, "A", "@", address)
        projects.assign_default(cloud, f"do:domain:{name}")
    # The zone file is made a moment later at DigitalOcean: the answer to a creation has none.
    return {"domain": {**doc, "zone_file": None}}


@router.get("/v2/domains/{domain}")
def get_domain(cloud: CloudDep, domain: str) -> Doc:
    return {"domain": _domain_view(cloud, _domain(cloud, domain))}


@router.delete("/v2/domains/{domain}", status_code=204)
def delete_domain(cloud: CloudDep, domain: str) -> Response:
    with cloud.store.transaction():
        name = _domain(cloud, domain)["name"]
        for record in records_of(cloud, name):
            cloud.store.delete("record", record["id"])
        cloud.store.delete("domain", name)
        projects.unassign(cloud, f"do:domain:{name}")
    return Response(status_code=204)


def _check_ip(type_: str, data: str) -> None:
    try:
        (ipaddress.IPv4Address if type_ == "A" else ipaddress.IPv6Address)(data)
    except ValueError:
        version, example = ("IPv4", "127.0.0.1") if type_ == "A" else ("IPv6", "2001:db8::ff00:42:8329")
        raise unprocessable(f"IP address did not match {version} format (e.g. {example}).") from None


def _data(type_: str, body: Doc) -> str:
    """The record's value as it is kept: names without the final dot they must be given with."""
    data = fields.string(body, "data", required=True)
    if type_ in ("A", "AAAA"):
        _check_ip(type_, data)
    if type_ in _HOST_VALUED:
        if data == "@":
            return data
        if not data.endswith("."):
            raise unprocessable("Data needs to end with a dot (.)")
        return data.removesuffix(".")
    return data


def _name(domain: str, body: Doc) -> str:
    """Relative to the domain, "@" for the apex; a fully qualified one is made relative."""
    name = fields.string(body, "name", required=True, longest=253)
    if name.endswith("."):
        if name.lower() not in (f"{domain}.", f"*.{domain}.") and not name.lower().endswith(f".{domain}."):
            raise unprocessable("Name must be within the domain")
        name = name[: -len(domain) - 2] or "@"
    if not _RECORD_NAME.fullmatch(name) or ".." in name:
        raise unprocessable(
            "Name Only valid hostname characters are allowed. (a-z, A-Z, 0-9, ., _ and -) Or a single record of '@'."
        )
    return name


def _numbers(type_: str, body: Doc) -> Doc:
    """priority, port, weight, flags and tag where the type has them; null elsewhere."""
    values: Doc = dict.fromkeys(("priority", "port", "weight", "flags", "tag"))
    for key in _NUMBERS.get(type_, ()):
        number = fields.integer(body, key, default=0)
        if number is None or not 0 <= number <= (255 if key == "flags" else 65535):
            raise unprocessable(f"{key.capitalize()} is out of range")
        values[key] = number
    if type_ == "CAA":
        values["tag"] = fields.choice(body, "tag", ("issue", "issuewild", "iodef"))
    return values


def _ttl(body: Doc) -> int:
    ttl = fields.integer(body, "ttl") or DEFAULT_TTL
    if not _LEAST_TTL <= ttl <= 2**31 - 1:
        raise unprocessable(f"Ttl must be greater than or equal to {_LEAST_TTL}")
    return ttl


def _share_ttl(cloud: Cloud, record: Doc) -> None:
    """Records of one name and type share one TTL (RFC 2181, 5.2): the newest decides."""
    for other in records_of(cloud, record["domain"]):
        if (other["name"], other["type"]) == (record["name"], record["type"]) and other["ttl"] != record["ttl"]:
            cloud.store.update("record", other["id"], ttl=record["ttl"])


def _check_conflicts(cloud: Cloud, record: Doc) -> None:
    """A CNAME shares its name with nothing, and no record is there twice."""
    same_name = [
        other
        for other in records_of(cloud, record["domain"])
        if other["name"].lower() == record["name"].lower() and other["id"] != record.get("id")
    ]
    if same_name and "CNAME" in (record["type"], *(other["type"] for other in same_name)):
        raise unprocessable("CNAME records cannot share a name with other records")
    if any((other["type"], other["data"]) == (record["type"], record["data"]) for other in same_name):
        raise unprocessable("Record already exists")


@router.get("/v2/domains/{domain}/records")
def list_records(cloud: CloudDep, page: PageDep, domain: str, name: str = "", type: str = "") -> Doc:
    own = _domain(cloud, domain)["name"]
    relative = "@" if name == own else name.removesuffix(f".{own}")
    found = [
        record
        for record in records_of(cloud, own)
        if type in ("", record["type"]) and (not name or record["name"].lower() == relative.lower())
    ]
    return page.answer("domain_records", found, _record_view)


@router.post("/v2/domains/{domain}/records", status_code=201)
def create_record(cloud: CloudDep, domain: str, body: BodyDep) -> Doc:
    type_ = fields.string(body, "type", required=True).upper()
    if type_ not in _TYPES:
        raise unprocessable(f"Type is invalid: must be one of {', '.join(_TYPES)}")
    with cloud.store.transaction():
        own = _domain(cloud, domain)["name"]
        if type_ == "SOA":
            raise unprocessable("A domain has exactly one SOA record")
        name = _name(own, {"name": "@", **body} if type_ in ("MX", "NS") else body)
        wanted = {"ttl": _ttl(body), **_numbers(type_, body)}
        data = _data(type_, body)
        _check_conflicts(cloud, {"domain": own, "type": type_, "name": name, "data": data})
        record = _new_record(cloud, own, type_, name, data, **wanted)
        _share_ttl(cloud, record)
    return {"domain_record": _record_view(record)}


@router.get("/v2/domains/{domain}/records/{record_id}")
def get_record(cloud: CloudDep, domain: str, record_id: str) -> Doc:
    return {"domain_record": _record_view(_record(cloud, domain, record_id))}


@router.put("/v2/domains/{domain}/records/{record_id}")
@router.patch("/v2/domains/{domain}/records/{record_id}")
def update_record(cloud: CloudDep, domain: str, record_id: str, body: BodyDep) -> Doc:
    """Fields that are not sent stay; the type can't change."""
    with cloud.store.transaction():
        record = _record(cloud, domain, record_id)
        type_ = record["type"]
        if "data" in body:
            record["data"] = str(body["data"]) if type_ == "SOA" else _data(type_, body)
        if "name" in body:
            record["name"] = _name(record["domain"], body)
        if body.get("ttl") is not None:
            record["ttl"] = _ttl(body)
        given = {key: record[key] for key in ("priority", "port", "weight", "flags", "tag") if record[key] is not None}
        record.update(_numbers(type_, {**given, **body}))
        _check_conflicts(cloud, record)
        cloud.store.put("record", record_id, record)
        _share_ttl(cloud, record)
    return {"domain_record": _record_view(record)}


@router.delete("/v2/domains/{domain}/records/{record_id}", status_code=204)
def delete_record(cloud: CloudDep, domain: str, record_id: str) -> Response:
    record = _record(cloud, domain, record_id)
    if record["type"] == "SOA":
        raise unprocessable("The SOA record can't be deleted")
    cloud.store.delete("record", record_id)
    return Response(status_code=204)
