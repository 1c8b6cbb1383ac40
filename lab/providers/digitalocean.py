"""The DigitalOcean stand-in: the rows, and what doesn't fit a row."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from lab.providers.kind import Created, Kind, Live, ProviderError, Values
from lab.providers.rest import Api, Rest, wait_until
from lab.providers.rows import DROPLET, PROJECT, ROWS
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
