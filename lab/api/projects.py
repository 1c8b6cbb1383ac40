"""Projects, and what is in them. What is in no other project is in the default one."""

from __future__ import annotations

import re
import uuid

from fastapi import APIRouter, Response

from lab.api import fields
from lab.api.cloud import BodyDep, Cloud, CloudDep, now
from lab.api.errors import conflict, not_found, precondition_failed, unprocessable
from lab.api.pages import PageDep
from lab.api.store import Doc

router = APIRouter()
_ENVIRONMENTS = ("Development", "Staging", "Production")
_PURPOSES = (
    "Just trying out DigitalOcean",
    "Class project / Educational purposes",
    "Website or blog",
    "Web Application",
    "Service or API",
    "Mobile Application",
    "Machine learning / AI / Data processing",
    "IoT",
    "Operational / Developer tooling",
)
_URN = re.compile(r"do:([a-z]+):(.+)")
# URN type → (kind in the store, path of its resource). Buckets live in the object store, not here.
_RESOURCES = {
    "droplet": ("droplet", "droplets"),
    "domain": ("domain", "domains"),
    "volume": ("volume", "volumes"),
    "vpc": ("vpc", "vpcs"),
    "reservedip": ("reserved_ip", "reserved_ips"),
    "floatingip": ("reserved_ip", "floating_ips"),
}


def ensure_default(cloud: Cloud) -> None:
    with cloud.store.transaction():
        if not any(project["is_default"] for project in cloud.store.all("project")):
            body = {"name": "first-project", "purpose": _PURPOSES[0], "environment": "Development"}
            _store(cloud, {**_content(cloud, body), "is_default": True})


def assign_default(cloud: Cloud, urn: str) -> None:
    cloud.store.put("assignment", urn, {"urn": urn, "project_id": default(cloud)["id"], "assigned_at": now()})


def unassign(cloud: Cloud, urn: str) -> None:
    cloud.store.delete("assignment", urn)


def default(cloud: Cloud) -> Doc:
    return next(project for project in cloud.store.all("project") if project["is_default"])


def _store(cloud: Cloud, content: Doc) -> Doc:
    stamp = now()
    owner = {"owner_uuid": "b6fc48dbf6d9906cace5f3c78dc9851e757381ef", "owner_id": 1}
    doc = {"id": str(uuid.uuid4()), **owner, "created_at": stamp, "updated_at": stamp, "is_default": False, **content}
    cloud.store.put("project", doc["id"], doc)
    return doc


def _project(cloud: Cloud, project_id: str) -> Doc:
    if project_id == "default":
        return default(cloud)
    doc = cloud.store.get("project", project_id)
    if doc is None:
        raise not_found()
    return doc


def _content(cloud: Cloud, body: Doc, own_id: str | None = None) -> Doc:
    name = fields.string(body, "name", required=True, longest=175)
    if any(project["name"] == name and project["id"] != own_id for project in cloud.store.all("project")):
        raise conflict("name is already in use")
    purpose = fields.string(body, "purpose", required=True, longest=255)
    if purpose not in _PURPOSES and not purpose.startswith("Other: "):
        purpose = f"Other: {purpose}"
    description = fields.string(body, "description", longest=255)
    environment = fields.string(body, "environment")
    if environment:
        by_lower = {value.lower(): value for value in _ENVIRONMENTS}
        environment = by_lower.get(environment.lower(), "")
        if not environment:
            raise unprocessable(f"environment is invalid: must be one of {', '.join(_ENVIRONMENTS)}")
    content = {"name": name, "description": description, "purpose": purpose}
    return {**content, "environment": environment} if environment else content


@router.get("/v2/projects")
def list_projects(cloud: CloudDep, page: PageDep) -> Doc:
    return page.answer("projects", cloud.store.all("project"))


@router.post("/v2/projects", status_code=201)
def create_project(cloud: CloudDep, body: BodyDep) -> Doc:
    with cloud.store.transaction():
        return {"project": _store(cloud, _content(cloud, body))}


@router.get("/v2/projects/{project_id}")
def get_project(cloud: CloudDep, project_id: str) -> Doc:
    return {"project": _project(cloud, project_id)}


@router.put("/v2/projects/{project_id}")
@router.patch("/v2/projects/{project_id}")
def update_project(cloud: CloudDep, project_id: str, body: BodyDep) -> Doc:
    with cloud.store.transaction():
        doc = _project(cloud, project_id)
        merged = {**doc, **{key: value for key, value in body.items() if value is not None}}
        doc.update(_content(cloud, merged, own_id=doc["id"]), updated_at=now())
        if fields.boolean(body, "is_default") and not doc["is_default"]:
            cloud.store.update("project", default(cloud)["id"], is_default=False)
            doc["is_default"] = True
        cloud.store.put("project", doc["id"], doc)
    return {"project": doc}


@router.delete("/v2/projects/{project_id}", status_code=204)
def delete_project(cloud: CloudDep, project_id: str) -> Response:
    with cloud.store.transaction():
        doc = _project(cloud, project_id)
        if doc["is_default"]:
            raise conflict("the default project cannot be deleted")
        if _assignments(cloud, doc["id"]):
            raise precondition_failed("cannot delete a project with resources. move or remove the resources first")
        cloud.store.delete("project", doc["id"])
    return Response(status_code=204)


def _assignments(cloud: Cloud, project_id: str) -> list[Doc]:
    return [a for a in cloud.store.all("assignment") if a["project_id"] == project_id]


def _resource_view(assignment: Doc, status: str = "ok") -> Doc:
    urn, links = assignment["urn"], {}
    match = _URN.fullmatch(urn)
    if match and match[1] in _RESOURCES:
        links = {"self": f"https://api.digitalocean.com/v2/{_RESOURCES[match[1]][1]}/{match[2]}"}
    elif match and match[1] == "space":
        links = {"self": f"https://{match[2]}.digitaloceanspaces.com"}
    return {"urn": urn, "assigned_at": assignment["assigned_at"], "links": links, "status": status}


@router.get("/v2/projects/{project_id}/resources")
def list_resources(cloud: CloudDep, page: PageDep, project_id: str) -> Doc:
    project = _project(cloud, project_id)
    return page.answer("resources", _assignments(cloud, project["id"]), _resource_view)


@router.post("/v2/projects/{project_id}/resources")
def assign_resources(cloud: CloudDep, project_id: str, body: BodyDep) -> Doc:
    with cloud.store.transaction():
        project = _project(cloud, project_id)
        urns = fields.strings(body, "resources")
        return {"resources": [_assign(cloud, project, urn) for urn in urns], "links": {}, "meta": {"total": len(urns)}}


def _assign(cloud: Cloud, project: Doc, urn: str) -> Doc:
    match = _URN.fullmatch(urn)
    if not match:
        raise unprocessable(f"resource {urn} is not a valid URN")
    type_, id_ = match.groups()
    # A bucket is the object store's to know; everything else must exist here.
    if type_ != "space" and (type_ not in _RESOURCES or cloud.store.get(_RESOURCES[type_][0], id_) is None):
        raise not_found()
    before = cloud.store.get("assignment", urn)
    if before is not None and before["project_id"] == project["id"]:
        return _resource_view(before, "already_assigned")
    cloud.store.delete("assignment", urn)
    after = {"urn": urn, "project_id": project["id"], "assigned_at": now()}
    cloud.store.put("assignment", urn, after)
    return _resource_view(after, "assigned")
