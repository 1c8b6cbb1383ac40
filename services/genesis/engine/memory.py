"""How much memory the process uses, and how much it may: a leak must end in an orderly stop, not by the kernel."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LIMIT_SHARE = 0.85


@dataclass(frozen=True)
class Reading:
    """Bytes in use, of so many allowed by `whose` limit."""

    used: int
    limit: int
    whose: str

    @property
    def share(self) -> float:
        return self.used / self.limit

    def __str__(self) -> str:
        mib = 1 << 20
        return f"{self.share:.0%} of {self.whose} ({self.used // mib} of {self.limit // mib} MB)"


def read(configured: int | None, proc: Path = Path("/proc/self"), cgroups: Path = Path("/sys/fs/cgroup")) -> Reading:
    """The limit that is nearest: configured (bytes), of a control group that we are in, of the process, of the machine.

    Resident memory is held against them, our own: what else a control group holds is not for us to give back. Only the
    limit on address space is held against that.
    """
    pages = (proc / "statm").read_text().split()
    size, resident = (int(count) * resource.getpagesize() for count in pages[:2])
    found = [Reading(resident, limit, whose) for limit, whose in _limits(configured, proc, cgroups)]
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        found.append(Reading(size, address_space, "the limit on address space"))
    return max(found, key=lambda reading: reading.share)


def _limits(configured: int | None, proc: Path, cgroups: Path) -> Iterator[tuple[int, str]]:
    if configured:
        yield configured, "the configured limit"
    yield os.sysconf("SC_PHYS_PAGES") * resource.getpagesize(), "the machine's memory"
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError:
        return
    for path in (line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")):
        for group in (cgroups / path, *(parent for parent in (cgroups / path).parents if cgroups in parent.parents)):
            try:
                yield int((group / "memory.max").read_text()), "the control group's MemoryMax"
            except (OSError, ValueError):
                continue  # "max", or no such controller here
