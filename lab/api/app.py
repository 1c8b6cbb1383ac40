"""The application: every resource's routes, behind the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lab.api import (
    account,
    actions,
    domains,
    droplet_actions,
    droplet_routes,
    droplet_work,
    faults,
    firewalls,
    images,
    monitoring,
    prober,
    projects,
    reserved_ips,
    spaces,
    tags,
    uptime,
    volumes,
    vpcs,
)
from lab.api.cloud import Cloud
from lab.api.config import Config
from lab.api.errors import ApiError, bad_request, not_found, server_error
from lab.api.faults import Faults
from lab.api.gateway import Gateway, RateLimit
from lab.api.store import Store
from lab.ports import Machines, Spaces

log = logging.getLogger("lab.api")
_WORKERS = 8
_SPACES_RETRY_S = 2.0
# The order matters where a fixed path and a variable one overlap: routes are tried from the first.
ROUTED = (
    account, actions, droplet_actions, droplet_routes, images, vpcs, firewalls, tags, domains, projects, monitoring,
    uptime, spaces, reserved_ips, volumes, faults, prober,
)  # fmt: skip


class App(FastAPI):
    """FastAPI behind the gateway: everything that answers, also an error, carries a request id."""

    def build_middleware_stack(self) -> Any:
        inner = super().build_middleware_stack()
        config: Config = self.state.cloud.config
        return Gateway(inner, config, self.state.faults, RateLimit(config.rate_per_hour, config.rate_per_minute))


def create_cloud(config: Config, machines: Machines, spaces_: Spaces) -> Cloud:
    """The account as it was left, or a new one."""
    workers = ThreadPoolExecutor(max_workers=_WORKERS, thread_name_prefix="machine")
    cloud = Cloud(config, Store(config.database), machines, spaces_, workers)
    projects.ensure_default(cloud)
    vpcs.ensure_defaults(cloud)
    return cloud


def create_app(config: Config, machines: Machines, spaces: Spaces) -> App:
    """The API as an ASGI application. Its `state.cloud` is the account (for the metadata service and for tests)."""
    app = App(title="DigitalOcean API (lab)", lifespan=_lifespan, openapi_url=None, redirect_slashes=False)
    app.state.cloud = create_cloud(config, machines, spaces)
    app.state.faults = Faults()
    for module in ROUTED:
        app.include_router(module.router)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RuntimeError, _port_error)
    app.add_exception_handler(Exception, _defect)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Take up what was left unfinished, and probe. On the way out machines are left as they are."""
    cloud: Cloud = app.state.cloud
    await asyncio.to_thread(_recover, cloud)
    background = [
        asyncio.create_task(prober.Prober(cloud, prober.Resolver(cloud.config.dns)).run()),
        asyncio.create_task(_catch_up_spaces(cloud)),
    ]
    try:
        yield
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        cloud.workers.shutdown(wait=True, cancel_futures=True)
        cloud.store.close()


def _recover(cloud: Cloud) -> None:
    """The ports may have missed what was decided just before a crash: tell them again, then finish what was begun."""
    firewalls.enforce(cloud)
    droplet_work.resume(cloud)
    actions.resume(cloud)


async def _catch_up_spaces(cloud: Cloud) -> None:
    """The object stores may start later than the API, so this is tried until they take the keys."""

    def tell() -> None:
        with cloud.spaces_lock:
            spaces.apply(cloud)

    for attempt in itertools.count(1):
        try:
            await asyncio.to_thread(tell)
            return
        except RuntimeError as error:
            log.warning("object stores don't take the keys yet (attempt %d): %s", attempt, error)
            await asyncio.sleep(_SPACES_RETRY_S)


def _answer(request: Request, error: ApiError) -> JSONResponse:
    request_id = request.scope.get("state", {}).get("request_id", "")
    body = {"id": error.id, "message": error.message, "request_id": request_id}
    return JSONResponse(body, status_code=error.status, headers=error.headers)


def _api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return _answer(request, error)


def _validation_error(request: Request, error: Exception) -> JSONResponse:
    return _answer(request, bad_request("A query parameter is not what it must be"))


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _answer(request, not_found())
    if error.status_code == 405:
        return _answer(request, ApiError(405, "method_not_allowed", "The method is not allowed for this resource."))
    return _answer(request, ApiError(error.status_code, "bad_request", str(error.detail)))


def _defect(request: Request, error: Exception) -> JSONResponse:
    """Whatever else goes wrong; the server logs it."""
    return _answer(request, server_error())


def _port_error(request: Request, error: Exception) -> JSONResponse:
    """A machine or an object store could not do it."""
    log.error("%s %s: %s", request.method, request.url.path, error)
    return _answer(request, server_error())
