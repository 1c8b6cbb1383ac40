"""Where the raw configuration comes from:

Pulumi's values, two files named by the environment, and service.toml. No cloud, no Pulumi engine.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.config import NAMESPACE, ConfigError, StackConfig
from infra.reader import structured
from lifeline.model import PUBLIC_API

SEED_FILE = "LIFELINE_SEED_FILE"
SSH_KEY = "LIFELINE_SSH_KEY"
SPACES_ENDPOINT = "SPACES_ENDPOINT_URL"
SPACES_TEMPLATE = "https://{{.Region}}.digitaloceanspaces.com"
AWS_S3_ENDPOINT = "AWS_ENDPOINT_URL_S3"
API_ENDPOINT = "DIGITALOCEAN_API_URL"


def own_values(everything: Mapping[str, object]) -> dict[str, object]:
    """The `lifeline:` keys of a stack's whole configuration, decoded, without their namespace."""
    start = f"{NAMESPACE}:"
    return {key.removeprefix(start): structured(value) for key, value in everything.items() if key.startswith(start)}


def with_files(raw: Mapping[str, object], env: Mapping[str, str]) -> dict[str, object]:
    """Fill in what a checked-in stack file must not hold, from the files that the environment names.

    A value in the stack file wins.
    """
    filled = dict(raw)
    for key, variable, suffix in (("seed", SEED_FILE, ""), ("sshPublicKey", SSH_KEY, ".pub")):
        if filled.get(key) is None and env.get(variable):
            path = Path(env[variable] + suffix).expanduser()
            try:
                filled[key] = path.read_text().strip()
            except OSError as error:
                raise ConfigError(
                    f"{NAMESPACE}:{key}: {variable} names {path}, which can't be read: {error.strerror}"
                ) from error
    return filled


@dataclass(frozen=True)
class Port:
    """Where the service listens and what answers there: all that infra needs of a service.toml."""

    number: int
    health_path: str


def service_port(config: StackConfig, root: Path) -> Port:
    """Read `port` and `health` from the stack's service.toml, whose `name` must be the stack's.

    `root`: the checkout.
    """
    path = root / config.service
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{NAMESPACE}:service: {path} can't be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{NAMESPACE}:service: {path} is not TOML: {error}") from error
    port, health = document.get("port"), document.get("health")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise ConfigError(f"{path}: port is {port!r} (allowed: a whole number from 1 to 65535)")
    if not isinstance(health, str) or not health.startswith("/"):
        raise ConfigError(f"{path}: health is {health!r} (allowed: a path such as /health)")
    if document.get("name") != config.name:
        raise ConfigError(
            f"{NAMESPACE}:name is {config.name!r}, but {path} describes {document.get('name')!r} "
            "(allowed: the same name in both)"
        )
    return Port(port, health)


@dataclass(frozen=True)
class Endpoints:
    """Addresses of the cloud's services.

    Never taken from a provider's `bucket_domain_name`: that is hard-coded to the public cloud.
    """

    vault: str
    offsite: str | None
    api: str


def endpoints(config: StackConfig, everything: Mapping[str, object], env: Mapping[str, str]) -> Endpoints:
    """The same precedence as the providers' own: configuration, then environment, then the public cloud."""
    template = str(everything.get("digitalocean:spacesEndpoint") or env.get(SPACES_ENDPOINT) or SPACES_TEMPLATE)
    api = str(everything.get("digitalocean:apiEndpoint") or env.get(API_ENDPOINT) or PUBLIC_API)
    return Endpoints(
        vault=template.replace("{{.Region}}", config.vault.region),
        offsite=env.get(AWS_S3_ENDPOINT) or None,
        api=api.rstrip("/"),
    )
