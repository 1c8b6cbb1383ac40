"""Configuration → components → the inventory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pulumi
import pulumi_digitalocean as digitalocean

from infra import adopt
from infra.config import ConfigError, StackConfig, parse
from infra.front_door import FrontDoor
from infra.inventory import inventory
from infra.offsite import Offsite
from infra.route53 import SecondName
from infra.service_host import ServiceHost, Shared
from infra.sources import Endpoints, Port, endpoints, own_values, service_port, with_files
from infra.vault import Vault
from infra.watch import HostLoad, Watched

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """What `pulumi up` runs."""
    everything = pulumi.runtime.get_config_env()
    try:
        config, port, where = read(everything, pulumi.get_stack(), dict(os.environ))
    except ConfigError as error:
        # RunError is shown without a traceback: the message is for the person at the keyboard.
        raise pulumi.RunError(str(error)) from None
    if found := adopt.standing(os.environ):
        pulumi.runtime.register_stack_transformation(adopt.taking_over(found))
    pulumi.export("inventory", declare(config, port, where))


def read(everything: dict[str, Any], stack: str, env: dict[str, str]) -> tuple[StackConfig, Port, Endpoints]:
    """Everything that can be wrong before anything is declared. Raises `ConfigError`."""
    config = parse(with_files(own_values(everything), env), stack, f"stacks/Pulumi.{stack}.yaml")
    return config, service_port(config, ROOT), endpoints(config, everything, env)


def declare(config: StackConfig, port: Port, where: Endpoints) -> dict[str, Any]:
    """Declare every resource; returns the inventory."""
    alone = pulumi.ResourceOptions(delete_before_replace=True)
    domain = digitalocean.Domain(
        "domain",
        name=config.domain,
        # A zone holds more than the records of this program: mail, web, whatever else has the domain.
        opts=pulumi.ResourceOptions.merge(
            alone, pulumi.ResourceOptions(protect=config.protect, retain_on_delete=not config.own_zone)
        ),
    )
    shared = Shared(
        # Not deleted first: the hosts depend on it, and a new key must not become a reason to replace them.
        ssh_key=digitalocean.SshKey("operator-key", name=f"{config.prefix}-operator", public_key=config.ssh_public_key),
        domain=domain,
        tag=digitalocean.Tag("host-tag", name=config.prefix, opts=alone),
        service_port=port.number,
    )
    hosts = [ServiceHost(config, host, shared) for host in config.hosts]
    vault = Vault(config)
    offsite = Offsite(config, where.offsite)
    door = FrontDoor(config, domain, hosts[0].droplet.ipv4_address)
    second = SecondName(config, config.route53, hosts, offsite.provider) if config.route53 else None
    # A host is watched by ping: it must show as up while nothing runs on it yet, and its agent's port is nobody's
    # business.
    checks = {host.config.name: Watched(host.config.name, "ping", host.droplet.ipv4_address, config) for host in hosts}
    checks["service"] = Watched("service", "http", f"http://{door.fqdn}:{port.number}{port.health_path}", config)
    HostLoad(config, shared.tag.name)
    digitalocean.Project(
        "project",
        name=config.prefix,
        description=f"{config.name}, protected by Lifeline",
        purpose="Service or API",
        environment="Production" if config.protect else "Development",
        resources=[domain.domain_urn, vault.bucket.bucket_urn, *(host.droplet.droplet_urn for host in hosts)],
    )
    return inventory(config, where, hosts, vault, offsite, door, checks, second)
