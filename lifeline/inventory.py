"""Where the inventory comes from: Pulumi's stack output, the cache of it, the sealed copy in the vault, a host.

An incident reads the cache: it is there at once, and the Pulumi backend may be part of the disaster.  The cache
is renewed by everything that changes what exists (``fab provision``) and by ``fresh=True``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lifeline.errors import BadConfig, LifelineError, Unavailable
from lifeline.hosts import Remote, Result, local
from lifeline.layout import replacing
from lifeline.model import Inventory

PULUMI_S = 30.0
HOST_COPY = "/etc/lifeline/inventory.json"


@dataclass(frozen=True)
class Loaded:
    """An inventory, and where it is from, in words for the operator."""

    inventory: Inventory
    origin: str


def project_root(start: Path | None = None) -> Path:
    """The checkout: the nearest folder upwards with a Pulumi.yaml; where we are if there is none."""
    here = (start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "Pulumi.yaml").exists()), here)


def stack_name(root: Path) -> str:
    """LIFELINE_STACK or PULUMI_STACK; else the only stack with a cache."""
    for variable in ("LIFELINE_STACK", "PULUMI_STACK"):
        if name := os.environ.get(variable):
            return name
    used = cached(root)
    if len(used) == 1:
        return used[0]
    problem = f"stacks here: {', '.join(used)}" if used else "no stack has been used here"
    raise BadConfig(
        f"which stack? LIFELINE_STACK isn't set ({problem})",
        hint='for the lab: eval "$(fab lab.env)"; else export LIFELINE_STACK=…',
    )


def cached(root: Path) -> list[str]:
    """The stacks that were used here: those with a cache."""
    return sorted(path.parent.name for path in root.glob(".lifeline/*/inventory.json"))


def folder(root: Path, stack: str) -> Path:
    """The operator's files of a stack: cache and journals."""
    return root / ".lifeline" / stack


def cache_path(root: Path, stack: str) -> Path:
    return folder(root, stack) / "inventory.json"


def sealed_key(stack: str) -> str:
    """The sealed copy's key in the vault."""
    return f"inventory/{stack}.sealed"


def load(root: Path, stack: str, *, fresh: bool = False) -> Loaded:
    """The inventory: the cache, or with ``fresh`` (and without a cache) Pulumi's; each stands in for the other."""
    problems: list[str] = []
    sources: Sequence[Callable[[], Loaded]] = [lambda: from_cache(root, stack), lambda: from_pulumi(root, stack)]
    for source in reversed(sources) if fresh else sources:
        try:
            loaded = source()
        except LifelineError as error:
            problems.append(error.message)
            continue
        why = f" ({problems[0]})" if problems and fresh else ""
        return Loaded(loaded.inventory, loaded.origin + why)
    others = ", ".join(name for name in cached(root) if name != stack)
    raise BadConfig(
        f"no inventory for stack {stack}: {'; '.join(problems)}; stacks used here: {others or 'no other'}",
        hint="export LIFELINE_STACK=…, if it is another; else fab inventory --from-vault, --from-offsite, or "
        "--from-host ADDRESS --host-key KEY; pulumi up for a stack that never was",
    )


def from_cache(root: Path, stack: str) -> Loaded:
    """The cached copy; BadConfig when there is none or it isn't whole."""
    path = cache_path(root, stack)
    try:
        text = path.read_bytes()
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        raise BadConfig(f"there is no {path}") from None
    except OSError as error:
        raise BadConfig(f"{path} can't be read: {error.strerror}", hint=f"ls -ld {path}") from None
    return Loaded(Inventory.from_json(text, str(path)), f"the cache, {_age(age)} old")


def from_pulumi(root: Path, stack: str, run: Callable[..., Result] = local) -> Loaded:
    """Pulumi's stack output, and the cache renewed with it; Unavailable when the backend doesn't answer in time."""
    inventory = of_pulumi(root, stack, run)
    save(root, inventory)
    return Loaded(inventory, f"Pulumi's stack {stack}")


def of_pulumi(root: Path, stack: str, run: Callable[..., Result] = local) -> Inventory:
    """Pulumi's stack output, with the cache left as it is; Unavailable as above."""
    argv = ["pulumi", "stack", "output", "inventory", "--show-secrets", "--json", "--stack", stack, "--non-interactive"]
    result = run(argv, timeout=PULUMI_S, cwd=root)
    if result.code != 0:
        raise Unavailable(
            f"pulumi stack output: {result.last_words}", hint="pulumi stack ls; or fab inventory --from-vault"
        )
    return Inventory.from_json(result.stdout, "pulumi stack output inventory")


def from_host(remote: Remote) -> Loaded:
    """A host's own copy, which holds no secrets but that host's."""
    result = remote.run(["sudo", "-n", "cat", HOST_COPY], timeout=10)
    return Loaded(
        Inventory.from_json(result.stdout, f"{remote.host.address}:{HOST_COPY}"), f"host {remote.host.address}"
    )


def from_sealed(sealed: bytes, unseal: Callable[[bytes], bytes], where: str = "the vault") -> Loaded:
    """A vault's sealed copy; ``unseal`` knows the passphrase."""
    return Loaded(
        Inventory.from_json(unseal(sealed), f"the sealed inventory in {where}"), f"the sealed copy in {where}"
    )


def save(root: Path, inventory: Inventory) -> Path:
    """Write the cache, whole or not at all, readable by its owner alone."""
    path = cache_path(root, inventory.stack)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # For its owner alone from the beginning: its secrets are never readable by others, not even for a moment.
        with replacing(path, ".inventory-") as file:
            file.write(json.dumps(inventory.to_json(), indent=1).encode())
    except OSError as error:
        says = f"the inventory can't be cached at {path}: {error.strerror}"
        raise BadConfig(says, hint=f"ls -ld {path}; then the same command again") from None
    return path


def _age(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} seconds"
