"""The one export: what recovery needs to know about what exists. Schema version 1, in docs/design.md."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pulumi

from infra import alerting
from infra.config import StackConfig
from infra.front_door import FrontDoor
from infra.offsite import Offsite
from infra.route53 import SecondName
from infra.service_host import ServiceHost
from infra.sources import Endpoints
from infra.vault import Vault
from infra.watch import Watched
from lifeline.model import INVENTORY_VERSION


def inventory(
    config: StackConfig,
    where: Endpoints,
    hosts: list[ServiceHost],
    vault: Vault,
    offsite: Offsite,
    door: FrontDoor,
    checks: dict[str, Watched],
    second: SecondName | None,
) -> dict[str, Any]:
    """Plain values and outputs; secrets stay secret leaves, so that the rest can be read without the passphrase.

    `checks`: by host name, and "service".
    """
    targets, policy = asdict(config.targets), asdict(config.policy)
    return {
        "version": INVENTORY_VERSION,
        "stack": config.stack,
        "service": config.name,
        "record": {
            "fqdn": door.fqdn,
            "domain": config.domain,
            "name": config.record,
            "id": door.record.id,
            "ttl": config.record_ttl,
        },
        "hosts": [_host(config, host, vault, offsite, checks[host.config.name]) for host in hosts],
        "vault": {
            "bucket": vault.bucket.name,
            "region": config.vault.region,
            "endpoint": where.vault,
            "path_style": False,
        },
        "offsite": {
            "bucket": offsite.bucket.bucket,
            "lease_bucket": offsite.lease_bucket.bucket,
            "region": config.offsite.region,
            "endpoint": where.offsite,
            "path_style": where.offsite is not None,
        },
        "cloud": {"api": where.api},
        "checks": {"service": checks["service"].check.id},
        "targets": targets,
        "policy": {**policy, "fence_required": list(config.policy.fence_required)},
        "backups": {
            **asdict(config.backups),
            "vault_days": config.vault.retention_days,
            "offsite_days": config.offsite.retention_days,
        },
        "dns": {"resolvers": list(config.resolvers), "route53": _second(config, second)},
        "thresholds": {"disk_percent": config.thresholds.disk_percent},
        "alerting": alerting.inventory(config.alerting, pulumi.Output.secret),
    }


def _second(config: StackConfig, second: SecondName | None) -> dict[str, Any] | None:
    if second is None or config.route53 is None:
        return None
    zone, settles = config.route53.zone, config.route53.settles_s
    return {"fqdn": second.fqdn, "zone": zone, "ttl": config.record_ttl, "settles_s": settles}


def _host(config: StackConfig, host: ServiceHost, vault: Vault, offsite: Offsite, watched: Watched) -> dict[str, Any]:
    name = host.config.name
    vault_key, offsite_key = vault.keys[name], offsite.keys[name]
    return {
        "name": name,
        "home_role": host.config.home_role,
        "region": host.config.region,
        "droplet_id": host.droplet.id,
        "address": host.droplet.ipv4_address,
        "private_address": host.droplet.ipv4_address_private,
        "fqdn": host.fqdn,
        "user": config.operator_user,
        "host_key": host.host_key,
        "vault_key": {"access_key": vault_key.access_key, "secret_key": pulumi.Output.secret(vault_key.secret_key)},
        "offsite_key": {"access_key": offsite_key.id, "secret_key": pulumi.Output.secret(offsite_key.secret)},
        "uptime_check": watched.check.id,
    }
