"""What a restore needs of a host, and what there is: free disk on each file system it writes to, and memory.

A full disk under a live service is a disaster of its own, so there is no waiver for it. Memory is an estimate, and what
is in use may be given back: an operator who knows better says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifeline.alerts import MEMORY_NEEDED
from lifeline.errors import Refused

FACTOR = 1.2  # of a database's size: it is verified, and set to WAL, where it lies
EXTRA = 64 << 20
WAIVER = "low-memory"


class NoRoom(Refused):
    """The disk or the memory is too small. Another source would need the same."""


@dataclass(frozen=True)
class Disk:
    """One file system: a path on it, bytes that will be written there, bytes that are free."""

    path: Path
    need: int
    free: int


def disks(needs: Mapping[Path, int], spare: int = EXTRA) -> list[Disk]:
    """What is needed below each path, added up by file system, with something to spare; the tightest first. A path may
    not be there yet."""
    found: dict[int, Disk] = {}
    for path, need in needs.items():
        here = _there(path)
        before = found.get(device := _device(path)) or Disk(here, spare, shutil.disk_usage(here).free)
        found[device] = Disk(before.path, before.need + need, before.free)
    return sorted(found.values(), key=lambda disk: disk.free - disk.need)


def moved(scratch: Path, targets: Iterable[tuple[Path, int]]) -> dict[Path, int]:
    """What it takes to unpack into `scratch` and then move each to its target: twice its bytes only where that is
    another file system."""
    needs: dict[Path, int] = {}
    for target, size in targets:
        needs[scratch] = needs.get(scratch, 0) + size
        if _device(target) != _device(scratch):
            needs[target] = needs.get(target, 0) + size
    return needs or {scratch: 0}


def _there(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _device(path: Path) -> int:
    return _there(path).stat().st_dev


def require_disk(host: str, needs: Mapping[Path, int], spare: int = EXTRA) -> None:
    """Raise NoRoom, with the numbers, before anything is written."""
    disk = disks(needs, spare)[0]
    if disk.free < disk.need:
        raise _disk_short(host, str(disk.path), disk.need, disk.free)


def require_memory(host: str) -> None:
    """Raise NoRoom when a restore could make the kernel kill something. A kernel that doesn't say is no reason."""
    free = memory_available()
    if free is not None and free < MEMORY_NEEDED:
        raise _memory_short(host, MEMORY_NEEDED, free)


def shown(plan: Mapping[str, Any]) -> list[str]:
    """What a plan of a restore needs and there is, for an operator."""
    memory, free = plan.get("memory_bytes") or 0, plan.get("memory_free_bytes")
    there = "not known" if free is None else f"{free >> 20} MB"
    lines = [
        f"Free disk {plan['free_bytes'] >> 20} MB, needed {plan['need_bytes'] >> 20} MB; "
        f"memory available {there}, needed {memory >> 20} MB."
    ]
    if plan["free_bytes"] < plan["need_bytes"]:
        lines.append("THE DISK IS TOO SMALL: it is refused.")
    if free is not None and free < memory:
        lines.append(f"MEMORY IS SHORT: it is refused, unless --waive {WAIVER}.")
    return lines


def admit(host: str, plan: Mapping[str, Any], *, short_of_memory: bool) -> None:
    """Raise NoRoom where the host hasn't what a plan needs."""
    if plan["free_bytes"] < plan["need_bytes"]:
        raise _disk_short(host, str(plan.get("disk") or "/var/lib"), plan["need_bytes"], plan["free_bytes"])
    memory, free = plan.get("memory_bytes") or 0, plan.get("memory_free_bytes")
    if free is not None and free < memory and not short_of_memory:
        raise _memory_short(host, memory, free)


def _disk_short(host: str, path: str, need: int, free: int) -> NoRoom:
    says = f"a restore needs {need >> 20} MB of free disk at {path} on {host}, there are {free >> 20} MB"
    return NoRoom(f"{says}; nothing was touched", hint=f"df -h {path} on {host}; free some space, then the same again")


def _memory_short(host: str, need: int, free: int) -> NoRoom:
    says = f"a restore needs {need >> 20} MB of memory on {host}, {free >> 20} MB are available"
    return NoRoom(
        f"{says}: the kernel might kill the service for it; nothing was touched (all the same: --waive {WAIVER})",
        hint=f"free -m; ps aux --sort=-rss | head, on {host}",
    )


def memory_available(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that can be had without swapping; None where the kernel doesn't say."""
    for line in meminfo.read_text().splitlines() if meminfo.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
