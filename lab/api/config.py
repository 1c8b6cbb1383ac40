"""What the simulator is told when it starts: where it listens, who may call it, and which networks its regions are.

The file is JSON or TOML, by its suffix. Keys are the field names below; `docs/lab-api.md` has an example.
"""

from __future__ import annotations

import ipaddress
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifeline.errors import BadConfig

REGION_NAMES = {
    "nyc1": "New York 1", "nyc2": "New York 2", "nyc3": "New York 3", "ams3": "Amsterdam 3", "sgp1": "Singapore 1",
    "fra1": "Frankfurt 1", "lon1": "London 1", "sfo2": "San Francisco 2", "sfo3": "San Francisco 3",
    "tor1": "Toronto 1", "blr1": "Bangalore 1", "syd1": "Sydney 1",
}  # fmt: skip


@dataclass(frozen=True)
class RegionConfig:
    """One datacenter: the bridge its droplets' public interfaces hang on, and the range they get addresses from."""

    slug: str
    bridge: str
    cidr: str
    gateway: str

    @property
    def name(self) -> str:
        return REGION_NAMES.get(self.slug, self.slug)

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(self.cidr)


@dataclass(frozen=True)
class Token:
    """An API token. A read-only one may only GET; one with custom scopes what they say (lab.api.scopes)."""

    value: str
    read_only: bool = False
    scopes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Tls:
    """A second address, where the API speaks TLS. The files are PEM; ``certificate`` may be a chain."""

    listen: str
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Config:
    """Everything the simulator is told. Seconds are in `*_s`; addresses to listen on are "host:port"."""

    state_dir: Path
    tokens: tuple[Token, ...]
    regions: tuple[RegionConfig, ...]
    listen: str = "198.18.0.10:80"
    tls: Tls | None = None  # pydo, for one, sends no token over plain HTTP
    metadata_listen: str = "198.18.0.10:8169"
    images: tuple[str, ...] = ("debian-13-x64",)
    default_vpc_range: str = "198.19.0.0/16"
    dns: str | None = None  # the server uptime checks resolve names with; None: the machine's own
    uptime_period_s: float = 10.0
    uptime_timeout_s: float = 5.0
    rate_per_hour: int = 60_000
    rate_per_minute: int = 3_000
    machines: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of the Machines implementation
    spaces: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of the Spaces implementation

    @property
    def database(self) -> Path:
        return self.state_dir / "state.sqlite3"

    def region(self, slug: str) -> RegionConfig | None:
        return next((region for region in self.regions if region.slug == slug), None)


def load_config(path: Path) -> Config:
    """Read and check a configuration file; BadConfig names the key that is wrong."""
    try:
        text = path.read_text()
        raw: dict[str, Any] = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise BadConfig(f"{path}: cannot be read: {error}", hint="fab lab.up writes it") from error
    return parse_config(raw, source=str(path))


def parse_config(raw: Mapping[str, Any], *, source: str = "configuration") -> Config:
    """Build a Config from plain data."""
    values = dict(raw)
    try:
        regions = values.pop("regions")
        tokens = values.pop("tokens")
        values["state_dir"] = Path(values["state_dir"])
        values["regions"] = tuple(RegionConfig(slug=slug, **settings) for slug, settings in regions.items())
        values["tokens"] = tuple(Token(t) if isinstance(t, str) else Token(**t) for t in tokens)
        if "tls" in values:
            tls = values["tls"]
            values["tls"] = Tls(tls["listen"], Path(tls["certificate"]), Path(tls["key"]))
        if "images" in values:
            values["images"] = tuple(values["images"])
        config = Config(**values)
        for region in config.regions:
            _check_region(region)
        ipaddress.IPv4Network(config.default_vpc_range)
    except KeyError as error:
        raise BadConfig(f"{source}: {error.args[0]} is missing", hint="docs/lab-api.md has an example") from error
    except (TypeError, ValueError) as error:
        raise BadConfig(f"{source}: {error}", hint="docs/lab-api.md has an example") from error
    return config


def _check_region(region: RegionConfig) -> None:
    if ipaddress.IPv4Address(region.gateway) not in region.network:
        raise ValueError(f"region {region.slug}: gateway {region.gateway} is not in {region.cidr}")
