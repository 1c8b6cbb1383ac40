"""DigitalOcean's API as the providers speak it: a client with godo's retries, and a table-driven resource type."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from lab.providers.kind import Created, Kind, Live, Prop, ProviderError, Values

RETRIES = 4
RETRY_WAIT_S = 0.25  # godo waits 1 s; a simulator needs no mercy
TIMEOUT_S = 60.0
POLL_S = 0.1  # the real provider polls every 3 s, at first after 10 s


class Api:
    """JSON in, JSON out; 404 is None. Safe to use from many threads."""

    def __init__(
        self,
        base: str,
        token: str,
        *,
        transport: httpx.BaseTransport | None = None,
        retry_wait_s: float = RETRY_WAIT_S,
    ) -> None:
        self._retry_wait_s = retry_wait_s
        self._http = httpx.Client(
            base_url=base,
            timeout=TIMEOUT_S,
            transport=transport,
            headers={"authorization": f"Bearer {token}", "user-agent": "lifeline-lab-provider"},
        )

    def get(self, path: str) -> Values | None:
        return self._send("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Values:
        return self._send("POST", path, body, missing_is_none=False) or {}

    def put(self, path: str, body: Mapping[str, Any]) -> Values:
        return self._send("PUT", path, body, missing_is_none=False) or {}

    def patch(self, path: str, body: Mapping[str, Any]) -> Values:
        return self._send("PATCH", path, body, missing_is_none=False) or {}

    def delete(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        self._send("DELETE", path, body)

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, *, missing_is_none: bool = True
    ) -> Values | None:
        response = self._attempts(method, path, body)
        if response.status_code == 404 and missing_is_none:
            return None
        if response.is_success:
            return dict(response.json()) if response.content else {}
        raise ProviderError(f"{method} {path}: {response.status_code} {_message(response)}")

    def _attempts(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        """429, 5xx but 501, and refused connections are tried again, as godo does."""
        for attempt in range(RETRIES + 1):
            last = attempt == RETRIES
            try:
                response = self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                if last:
                    raise ProviderError(f"{method} {self._http.base_url.join(path)}: {error}") from error
            else:
                retriable = response.status_code == 429 or (response.status_code >= 500 and response.status_code != 501)
                if last or not retriable:
                    return response
            time.sleep(self._retry_wait_s * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json().get("message", response.text))
    except ValueError:
        return response.text[:300]


def wait_until(what: str, done: Callable[[], bool], within_s: float) -> None:
    """Poll to a deadline on the monotonic clock; `ProviderError` when it passes."""
    deadline = time.monotonic() + within_s
    while not done():
        if time.monotonic() > deadline:
            raise ProviderError(f"{what}: not within {within_s:g} s")
        time.sleep(POLL_S)


@dataclass(frozen=True)
class Spec:
    """One row: where a type lives in the API and how its properties are called there."""

    token: str
    path: str  # "/v2/vpcs"; may hold {input} of a parent: "/v2/domains/{domain}/records"
    item: str  # the key of the object in the API's answers
    props: tuple[Prop, ...]
    computed: Mapping[str, Callable[[Values], Any]] = field(default_factory=dict)  # from the API's object
    once: Mapping[str, str] = field(default_factory=dict)  # told by the creation only: output → key
    id_key: str = "id"
    update_without: frozenset[str] = frozenset()  # keys that the update's body must not have
    autonamed: bool = True
    always: Mapping[str, Any] = field(default_factory=dict)  # keys that are sent even when nobody set them


class Rest(Kind):
    """A resource type by its row alone: POST, GET, PUT, DELETE."""

    def __init__(self, api: Api, spec: Spec) -> None:
        self.api = api
        self.spec = spec
        self.token = spec.token
        self.props = spec.props
        self.computed = (*spec.computed, *spec.once)
        self.autonamed = spec.autonamed

    def imported(self, identity: str) -> tuple[str, Values]:
        """`PARENT,ID` of what lives under another resource, as the real provider wants it."""
        parents = re.findall(r"\{(\w+)\}", self.spec.path)
        *given, own = identity.split(",", len(parents))
        if len(given) != len(parents):
            raise ProviderError(f"{self.token}: {identity!r} is not {','.join([*parents, 'id'])}")
        return own, dict(zip(parents, given, strict=True))

    def create(self, inputs: Values) -> Created:
        answer = self._item(self.api.post(self._collection(inputs), self.body(inputs)))
        return Created(str(answer[self.spec.id_key]), {out: answer.get(key) for out, key in self.spec.once.items()})

    def read(self, identity: str, state: Values) -> Live | None:
        answer = self.api.get(self._one(identity, state))
        return None if answer is None else self.live(self._item(answer), state)

    def update(self, identity: str, old: Values, new: Values, changed: Collection[str]) -> None:
        if any(prop.api for prop in self.props if prop.name in changed):
            body = {key: value for key, value in self.body(new).items() if key not in self.spec.update_without}
            self.api.put(self._one(identity, {**old, **new}), body)

    def delete(self, identity: str, state: Values) -> None:
        self.api.delete(self._one(identity, state))

    def body(self, inputs: Values) -> Values:
        """Inputs as the API calls them."""
        given = {p.api: p.to_api(inputs[p.name]) for p in self.props if p.api and inputs.get(p.name) is not None}
        return {**self.spec.always, **given}

    def live(self, item: Values, state: Values) -> Live:
        """The API's object as properties. `once` values stay None: the state keeps them."""
        parents = {p.name: state[p.name] for p in self.props if not p.api and p.required and p.name in state}
        inputs = {
            p.name: p.from_api(item[p.api]) for p in self.props if p.api and p.reads and item.get(p.api) is not None
        } | parents
        computed = {name: pick({**state, **item}) for name, pick in self.spec.computed.items()}
        return Live(inputs, {**computed, **dict.fromkeys(self.spec.once)})

    def _item(self, answer: Values) -> Values:
        item = answer.get(self.spec.item)
        if not isinstance(item, dict):
            raise ProviderError(f"{self.token}: the API's answer has no {self.spec.item!r}: {sorted(answer)}")
        return item

    def _collection(self, values: Values) -> str:
        try:
            return self.spec.path.format(**values)
        except KeyError as error:
            raise ProviderError(f"{self.token}: the stand-in can't import what lives under a {error}") from error

    def _one(self, identity: str, values: Values) -> str:
        return f"{self._collection(values)}/{identity}"
