"""Uptime checks, their alerts and their state. lab/api/prober.py does the probing."""

from __future__ import annotations

import uuid
from urllib.parse import urlsplit

from fastapi import APIRouter, Response

from lab.api import fields
from lab.api.cloud import BodyDep, Cloud, CloudDep
from lab.api.errors import not_found, unprocessable
from lab.api.monitoring import notifications
from lab.api.pages import PageDep
from lab.api.store import Doc

router = APIRouter()
REGIONS = ("us_east", "us_west", "eu_west", "se_asia")
_DEFAULT_REGIONS = ["us_east", "us_west"]
_ALERT_TYPES = ("latency", "down", "down_global", "ssl_expiry")
PERIODS_S = {"2m": 120, "3m": 180, "5m": 300, "10m": 600, "15m": 900, "30m": 1800, "1h": 3600}


def _check(cloud: Cloud, check_id: str) -> Doc:
    doc = cloud.store.get("check", check_id)
    if doc is None:
        raise not_found()
    return doc


def _alert(cloud: Cloud, check_id: str, alert_id: str) -> Doc:
    _check(cloud, check_id)
    doc = cloud.store.get("uptime_alert", alert_id)
    if doc is None or doc["check_id"] != check_id:
        raise not_found()
    return doc


def _alert_view(alert: Doc) -> Doc:
    return {key: value for key, value in alert.items() if key != "check_id"}


def alerts_of(cloud: Cloud, check_id: str) -> list[Doc]:
    return [alert for alert in cloud.store.all("uptime_alert") if alert["check_id"] == check_id]


def _forget_alert(cloud: Cloud, alert_id: str) -> None:
    cloud.store.delete("uptime_alert", alert_id)
    cloud.store.delete("alert_state", alert_id)


def _check_content(body: Doc) -> Doc:
    type_ = fields.choice(body, "type", ("ping", "http", "https"))
    target = fields.string(body, "target", required=True)
    if type_ != "ping" and (urlsplit(target).scheme != type_ or not urlsplit(target).hostname):
        raise unprocessable(f"target must be a URL that starts with {type_}://")
    regions = fields.strings(body, "regions") or _DEFAULT_REGIONS
    if set(regions) - set(REGIONS):
        raise unprocessable(f"regions is invalid: must be among {', '.join(REGIONS)}")
    name = fields.string(body, "name", required=True)
    enabled = fields.boolean(body, "enabled", default=True)
    return {"name": name, "type": type_, "target": target, "regions": regions, "enabled": enabled}


def _alert_content(body: Doc) -> Doc:
    type_ = fields.choice(body, "type", _ALERT_TYPES)
    content: Doc = {
        "name": fields.string(body, "name", required=True),
        "type": type_,
        "notifications": notifications(body.get("notifications")),
        "period": fields.choice(body, "period", PERIODS_S, default="2m"),
    }
    threshold, comparison = fields.integer(body, "threshold"), body.get("comparison") or None
    if type_ in ("latency", "ssl_expiry") and threshold is None:
        raise unprocessable(f"threshold is required for {type_} alerts")
    if threshold is not None:
        content["threshold"] = threshold
    if comparison is not None:
        content["comparison"] = fields.choice(body, "comparison", ("greater_than", "less_than"))
    return content


@router.get("/v2/uptime/checks")
def list_checks(cloud: CloudDep, page: PageDep) -> Doc:
    return page.answer("checks", cloud.store.all("check"))


@router.post("/v2/uptime/checks", status_code=201)
def create_check(cloud: CloudDep, body: BodyDep) -> Doc:
    doc = {"id": str(uuid.uuid4()), **_check_content(body)}
    cloud.store.put("check", doc["id"], doc)
    return {"check": doc}


@router.get("/v2/uptime/checks/{check_id}")
def get_check(cloud: CloudDep, check_id: str) -> Doc:
    return {"check": _check(cloud, check_id)}


@router.put("/v2/uptime/checks/{check_id}")
def update_check(cloud: CloudDep, check_id: str, body: BodyDep) -> Doc:
    with cloud.store.transaction():
        before = _check(cloud, check_id)
        doc = {**before, **_check_content({**before, **body})}
        cloud.store.put("check", check_id, doc)
        if (before["type"], before["target"]) != (doc["type"], doc["target"]):
            cloud.store.delete("check_state", check_id)  # what was seen was another target
    return {"check": doc}


@router.delete("/v2/uptime/checks/{check_id}", status_code=204)
def delete_check(cloud: CloudDep, check_id: str) -> Response:
    with cloud.store.transaction():
        _check(cloud, check_id)
        for alert in alerts_of(cloud, check_id):
            _forget_alert(cloud, alert["id"])
        cloud.store.delete("check_state", check_id)
        cloud.store.delete("check", check_id)
    return Response(status_code=204)


@router.get("/v2/uptime/checks/{check_id}/state")
def get_state(cloud: CloudDep, check_id: str) -> Doc:
    check = _check(cloud, check_id)
    state = cloud.store.get("check_state", check_id) or {"regions": {}}
    unseen = {"status": "CHECKING", "status_changed_at": "", "thirty_day_uptime_percentage": 0.0}
    regions = {}
    for region in check["regions"]:
        seen = state["regions"].get(region)
        regions[region] = {key: seen[key] for key in unseen} if seen else unseen
    answer: Doc = {"regions": regions}
    # Always there, empty before the first outage: clients read its fields without asking.
    answer["previous_outage"] = state.get("previous_outage") or {
        "region": "", "started_at": "", "ended_at": "", "duration_seconds": 0,
    }  # fmt: skip
    return {"state": answer}


@router.get("/v2/uptime/checks/{check_id}/alerts")
def list_alerts(cloud: CloudDep, page: PageDep, check_id: str) -> Doc:
    _check(cloud, check_id)
    return page.answer("alerts", alerts_of(cloud, check_id), _alert_view)


@router.post("/v2/uptime/checks/{check_id}/alerts", status_code=201)
def create_alert(cloud: CloudDep, check_id: str, body: BodyDep) -> Doc:
    _check(cloud, check_id)
    doc = {"id": str(uuid.uuid4()), **_alert_content(body), "check_id": check_id}
    cloud.store.put("uptime_alert", doc["id"], doc)
    return {"alert": _alert_view(doc)}


@router.get("/v2/uptime/checks/{check_id}/alerts/{alert_id}")
def get_alert(cloud: CloudDep, check_id: str, alert_id: str) -> Doc:
    return {"alert": _alert_view(_alert(cloud, check_id, alert_id))}


@router.put("/v2/uptime/checks/{check_id}/alerts/{alert_id}")
def update_alert(cloud: CloudDep, check_id: str, alert_id: str, body: BodyDep) -> Doc:
    before = _alert(cloud, check_id, alert_id)
    doc = {**_alert_content({**before, **body}), "id": alert_id, "check_id": check_id}
    cloud.store.put("uptime_alert", alert_id, doc)
    return {"alert": _alert_view(doc)}


@router.delete("/v2/uptime/checks/{check_id}/alerts/{alert_id}", status_code=204)
def delete_alert(cloud: CloudDep, check_id: str, alert_id: str) -> Response:
    _forget_alert(cloud, _alert(cloud, check_id, alert_id)["id"])
    return Response(status_code=204)
