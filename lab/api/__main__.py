"""`python -m lab.api --config FILE`: the simulator as one process, with real machines and real object stores.

FILE is the lab's own (`lab.json`: the standard addresses), or a whole configuration of its own (lab/api/config.py).
FILE is the lab's own (`lab.json`: the standard addresses), or a whole configuration (lab/api/config.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from lab import config as addresses
from lab.api.app import create_app
from lab.api.config import Config, RegionConfig, Tls, Token, load_config
from lab.api.memory import InMemoryMachines, InMemorySpaces
from lab.api.metadata import create_metadata_app
from lab.config import LabConfig
from lab.ports import Machines, Spaces
from lifeline.cloud import PILOT_SCOPES
from lifeline.errors import BadConfig

_KEEP_ALIVE_S = 75  # clients poll every few seconds over one connection
_STOP_S = 5  # for open requests; an operation on a machine is waited for


def lab_config(lab: LabConfig) -> Config:
    """The simulator's configuration in a lab with the standard addresses."""
    regions = addresses.REGIONS.values()
    return Config(
        state_dir=lab.api_database.parent,
        tokens=(Token(lab.token), Token(lab.pilot_token, scopes=PILOT_SCOPES)),
        regions=tuple(RegionConfig(r.slug, r.bridge, r.subnet, r.gateway) for r in regions),
        listen=f"{addresses.API_ADDRESS}:{addresses.API_PORT}",
        tls=Tls(f"{addresses.API_ADDRESS}:{addresses.API_TLS_PORT}", lab.tls.certificate, lab.tls.key),
        metadata_listen=f"{addresses.API_ADDRESS}:{addresses.METADATA_PORT}",
        dns=f"{addresses.DNS_ADDRESS}:{addresses.DNS_PORT}",
    )


class _Server(uvicorn.Server):
    """Several share a process, so neither may own its signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(app: ASGIApp, listen: str, *, lifespan: bool = False, tls: Tls | None = None) -> _Server:
    host, _, port = listen.rpartition(":")
    settings = uvicorn.Config(
        app,
        host=host,
        port=int(port),
        lifespan="on" if lifespan else "off",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_STOP_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
        server_header=False,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    return _Server(settings)


async def serve(config: Config, machines: Machines, spaces: Spaces) -> None:
    """Serve the API and the metadata service until SIGTERM or SIGINT. Machines are left running."""
    app = create_app(config, machines, spaces)
    servers = [
        _server(app, config.listen, lifespan=True),
        _server(create_metadata_app(app.state.cloud), config.metadata_listen),
    ]
    if config.tls:
        servers.append(_server(app, config.tls.listen, tls=config.tls))

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_, stop)
    await asyncio.gather(*(_until_stopped(server, stop) for server in servers))


async def _until_stopped(server: _Server, stop: object) -> None:
    try:
        await server.serve()
    except SystemExit as error:  # uvicorn's answer to an address it can't listen on
        raise RuntimeError(f"cannot listen on {server.config.host}:{server.config.port}") from error
    finally:
        if callable(stop):
            stop()


def _lab_parts(lab: LabConfig) -> tuple[Config, Machines, Spaces]:
    from lab.machines import NspawnMachines  # only where the lab is real: they need root and Linux
    from lab.objectstore import SeaweedSpaces, spaces_spec
    from toolchain import image

    stores = [spaces_spec(lab, slug) for slug in addresses.REGIONS]
    return lab_config(lab), NspawnMachines(lab.state, image.path()), SeaweedSpaces(stores)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.api", description="A simulated DigitalOcean API")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--in-memory", action="store_true", help="no machines, no object stores: to try clients")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    config, machines, spaces = _parts(options.config, in_memory=options.in_memory)
    asyncio.run(serve(config, machines, spaces))
    return 0


def _parts(file: Path, *, in_memory: bool) -> tuple[Config, Machines, Spaces]:
    if not _is_lab(file):
        config = load_config(file)
        if not in_memory:
            raise BadConfig(f"{file} names no lab", hint="give the lab's lab.json, or --in-memory")
        return config, InMemoryMachines(), InMemorySpaces()
    lab = LabConfig.load(file)
    return (lab_config(lab), InMemoryMachines(), InMemorySpaces()) if in_memory else _lab_parts(lab)


def _is_lab(file: Path) -> bool:
    try:
        return "spaces_admin" in json.loads(file.read_text())
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    raise SystemExit(main())
