"""Actions: what was asked of a resource, carried out by a worker, and polled by the client until it is done.

An action is kept before its work begins: a simulator that dies in the middle knows what was promised when it restarts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from lab.api.catalog import region_view
from lab.api.cloud import Cloud, CloudDep, now
from lab.api.errors import not_found
from lab.api.pages import PageDep
from lab.api.store import Doc

log = logging.getLogger("lab.api.actions")
router = APIRouter()

Work = Callable[[Cloud, Doc], None]
# What carries out a droplet's action, by type. Filled by the modules that know how (lab/api/droplet_work.py).
WORK: dict[str, Work] = {}
# After a restart nobody knows whether the power was cut already; doing it again could cut a machine that came back.
_NOT_REPEATABLE = {"reboot", "power_cycle", "password_reset"}


def view(cloud: Cloud, action: Doc) -> Doc:
    region = cloud.config.region(action["region_slug"])
    public = ("id", "status", "type", "started_at", "completed_at", "resource_id", "resource_type", "region_slug")
    return {**{key: action[key] for key in public}, "region": region_view(cloud.config, region) if region else None}


def _new(cloud: Cloud, type_: str, resource_type: str, resource_id: int | None, region: str, params: Doc) -> Doc:
    return {
        "id": cloud.store.next_id("action"),
        "status": "in-progress",
        "type": type_,
        "started_at": now(),
        "completed_at": None,
        "resource_id": resource_id,
        "resource_type": resource_type,
        "region_slug": region,
        "params": params,
        "error": None,
    }


def begin(cloud: Cloud, type_: str, droplet: Doc, params: dict[str, Any] | None = None) -> Doc:
    """Keep an action on a droplet, and lock the droplet. `carry_out` starts it, once the transaction is committed."""
    action = _new(cloud, type_, "droplet", droplet["id"], droplet["region"], params or {})
    cloud.store.put("action", action["id"], action)
    cloud.store.update("droplet", droplet["id"], locked=True)
    return action


def carry_out(cloud: Cloud, action: Doc) -> None:
    """Hand the action to a worker; returns at once."""
    cloud.workers.submit(_run, cloud, action["id"])


def record(
    cloud: Cloud, type_: str, resource_type: str, resource_id: int | None, region: str, params: Doc | None = None
) -> Doc:
    """Keep an action that is done already."""
    action = _new(cloud, type_, resource_type, resource_id, region, params or {})
    action.update(status="completed", completed_at=action["started_at"])
    cloud.store.put("action", action["id"], action)
    return action


def _run(cloud: Cloud, action_id: int) -> None:
    action = cloud.store.get("action", action_id)
    if action is None or action["status"] != "in-progress":
        return
    with cloud.machine_lock(action["resource_id"]):
        error: str | None = None
        try:
            WORK[action["type"]](cloud, action)
        except Exception as problem:
            log.exception("action %s (%s) on droplet %s", action_id, action["type"], action["resource_id"])
            error = str(problem) or type(problem).__name__
        _end(cloud, action, error)


def _end(cloud: Cloud, action: Doc, error: str | None) -> None:
    status = "errored" if error else "completed"
    with cloud.store.transaction():
        cloud.store.update("action", action["id"], status=status, completed_at=now(), error=error)
        cloud.store.update("droplet", action["resource_id"], locked=False)


def resume(cloud: Cloud) -> None:
    """After a restart: go on with what was in progress, or end it `errored` where doing it again could do harm."""
    for action in cloud.store.all("action"):
        if action["status"] != "in-progress":
            continue
        if action["type"] in _NOT_REPEATABLE:
            _end(cloud, action, "interrupted by a restart of the control plane")
        else:
            carry_out(cloud, action)


def find(cloud: Cloud, action_id: str, resource_type: str | None = None, resource_id: int | None = None) -> Doc:
    """The action with this id, of this resource if one is given; 404 otherwise."""
    action = cloud.store.get("action", action_id)
    if action is None or (resource_type and action["resource_type"] != resource_type):
        raise not_found()
    if resource_id is not None and action["resource_id"] != resource_id:
        raise not_found()
    return action


def newest_first(cloud: Cloud, resource_type: str | None = None, resource_id: int | None = None) -> list[Doc]:
    return [
        action
        for action in reversed(cloud.store.all("action"))
        if resource_type in (None, action["resource_type"]) and resource_id in (None, action["resource_id"])
    ]


@router.get("/v2/actions")
def list_actions(cloud: CloudDep, page: PageDep) -> Doc:
    return page.answer("actions", newest_first(cloud), lambda action: view(cloud, action))


@router.get("/v2/actions/{action_id}")
def get_action(cloud: CloudDep, action_id: str) -> Doc:
    return {"action": view(cloud, find(cloud, action_id))}
