"""Every answer of every endpoint the simulator serves, against DigitalOcean's published OpenAPI description.

The description isn't ours to carry: LIFELINE_DO_OPENAPI names its folder (`specification` of digitalocean/openapi).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Match

from lab.api.app import ROUTED
from tests.contract.digitalocean_lab import TOKEN, served
from tests.contract.digitalocean_tour import Tour


def _routes() -> list[APIRoute]:
    found = [route for module in ROUTED for route in module.router.routes]
    return [route for route in found if isinstance(route, APIRoute) and route.path.startswith("/v2/")]


def _template(method: str, path: str) -> str:
    """The first route that takes this call: that is the one the application chose."""
    scope = {"type": "http", "method": method, "path": path}
    return next(route.path for route in _routes() if route.matches(scope)[0] is Match.FULL)


def _tour(state: Path, see: Any) -> set[tuple[str, str]]:
    """Walk through the API; `see` gets every answer. Returns the routes that answered."""
    visited: set[tuple[str, str]] = set()
    headers = {"authorization": f"Bearer {TOKEN}"}
    with served(state) as url, httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=20) as client:

        def send(method: str, path: str, body: Any) -> tuple[int, Any]:
            answer = client.request(method, path, json=body)
            parsed = answer.json() if answer.content else None
            bare = path.partition("?")[0]
            visited.add((method, _template(method, bare)))
            see(method, bare, answer.status_code, parsed, answer.headers)
            return answer.status_code, parsed

        Tour(send).everything()
    return visited


def test_the_tour_visits_every_route_and_every_answer_has_its_headers(tmp_path: Path) -> None:
    def see(method: str, path: str, status: int, body: Any, headers: Any) -> None:
        assert {"x-request-id", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"} <= set(headers)
        if status >= 400:
            assert set(body) == {"id", "message", "request_id"}
            assert body["request_id"] == headers["x-request-id"]

    visited = _tour(tmp_path, see)
    assert visited == {(method, route.path) for route in _routes() for method in route.methods or ()}


def test_every_answer_is_as_digitalocean_describes_it(tmp_path: Path) -> None:
    where = os.environ.get("LIFELINE_DO_OPENAPI")
    if not where:
        pytest.skip("LIFELINE_DO_OPENAPI is not set: the folder `specification` of github.com/digitalocean/openapi")
    from tests.contract.openapi import Description

    description = Description(Path(where))
    problems: list[str] = []

    def see(method: str, path: str, status: int, body: Any, headers: Any) -> None:
        problems.extend(p for p in description.problems(method, path, status, body) if p not in problems)

    _tour(tmp_path, see)
    assert not problems, "\n" + "\n".join(problems)
