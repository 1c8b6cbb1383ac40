"""Monitoring alert policies. They are kept and shown; the lab has no metrics agent, so none of them fires."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Response

from lab.api import fields
from lab.api.cloud import BodyDep, Cloud, CloudDep
from lab.api.errors import not_found, unprocessable
from lab.api.pages import PageDep
from lab.api.store import Doc

router = APIRouter()
_DROPLET = (
    "load_1", "load_5", "load_15", "memory_utilization_percent", "disk_utilization_percent", "cpu", "disk_read",
    "disk_write", "public_outbound_bandwidth", "public_inbound_bandwidth", "private_outbound_bandwidth",
    "private_inbound_bandwidth",
)  # fmt: skip
_TYPES = tuple(f"v1/insights/droplet/{metric}" for metric in _DROPLET)
_REQUIRED = ("type", "description", "compare", "value", "window", "entities", "tags", "alerts", "enabled")


def _content(body: Doc) -> Doc:
    missing = [key for key in _REQUIRED if key not in body]
    if missing:
        raise unprocessable(f"{missing[0]} is required")
    value = body["value"]
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise unprocessable("value must be a number that is not negative")
    return {
        "type": fields.choice(body, "type", _TYPES),
        "description": fields.string(body, "description"),
        "compare": fields.choice(body, "compare", ("GreaterThan", "LessThan")),
        "value": value,
        "window": fields.choice(body, "window", ("5m", "10m", "30m", "1h")),
        "entities": [str(entity) for entity in body["entities"] or []],
        "tags": fields.strings(body, "tags"),
        "alerts": notifications(body.get("alerts")),
        "enabled": fields.boolean(body, "enabled"),
    }


def notifications(raw: object) -> Doc:
    """`{email, slack}`, never null: clients crash on it."""
    value = raw if isinstance(raw, dict) else {}
    slack = fields.objects(value, "slack")
    for entry in slack:
        fields.string(entry, "channel", required=True)
        fields.string(entry, "url", required=True)
    channels = [{"channel": entry["channel"], "url": entry["url"]} for entry in slack]
    return {"email": fields.strings(value, "email"), "slack": channels}


def _policy(cloud: Cloud, uuid_: str) -> Doc:
    doc = cloud.store.get("alert_policy", uuid_)
    if doc is None:
        raise not_found()
    return doc


@router.get("/v2/monitoring/alerts")
def list_policies(cloud: CloudDep, page: PageDep) -> Doc:
    return page.answer("policies", cloud.store.all("alert_policy"))


@router.post("/v2/monitoring/alerts", status_code=200)
def create_policy(cloud: CloudDep, body: BodyDep) -> Doc:
    doc = {"uuid": str(uuid.uuid4()), **_content(body)}
    cloud.store.put("alert_policy", doc["uuid"], doc)
    return {"policy": doc}


@router.get("/v2/monitoring/alerts/{uuid_}")
def get_policy(cloud: CloudDep, uuid_: str) -> Doc:
    return {"policy": _policy(cloud, uuid_)}


@router.put("/v2/monitoring/alerts/{uuid_}")
def update_policy(cloud: CloudDep, uuid_: str, body: BodyDep) -> Doc:
    doc = {**_policy(cloud, uuid_), **_content(body)}
    cloud.store.put("alert_policy", uuid_, doc)
    return {"policy": doc}


@router.delete("/v2/monitoring/alerts/{uuid_}", status_code=204)
def delete_policy(cloud: CloudDep, uuid_: str) -> Response:
    cloud.store.delete("alert_policy", _policy(cloud, uuid_)["uuid"])
    return Response(status_code=204)
