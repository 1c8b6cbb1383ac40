"""A stack's configuration as Pulumi hands it over, for the tests of infra."""

from __future__ import annotations

import copy
from typing import Any

SEED = "5e" * 32
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl operator"

_RAW: dict[str, Any] = {
    "name": "genesis",
    "service": "services/genesis/service.toml",
    "domain": "genesis.test",
    "record": "trade",
    "seed": SEED,
    "sshPublicKey": PUBLIC_KEY,
    "alertEmail": "oncall@genesis.test",
    "operatorCidrs": ["198.51.100.7/32"],
    "primary": {"name": "primary-newyork", "region": "nyc3", "size": "s-1vcpu-1gb", "vpcRange": "10.10.1.0/24"},
    "backup": {"name": "backup-singapore", "region": "sgp1", "size": "s-1vcpu-1gb", "vpcRange": "10.10.2.0/24"},
    "vault": {"region": "ams3"},
    "offsite": {"region": "us-east-2"},
    "targets": {},
    "policy": {},
    "thresholds": {},
}


def raw(**changes: Any) -> dict[str, Any]:
    """The configuration with changes: `primary__region="ams3"` reaches into a section, None removes a key."""
    values = copy.deepcopy(_RAW)
    for key, value in changes.items():
        outer, _, inner = key.partition("__")
        where, name = (values[outer], inner) if inner else (values, outer)
        if value is None:
            del where[name]
        else:
            where[name] = value
    return values
