"""The droplets' base image: Debian 13 with what the hosts need, unpacked, ready to be an overlay's lower layer.

Droplets in the lab have no way out to the internet, so everything a host takes from Debian is in here. The folder is
read-only by agreement: each droplet writes to an upper layer of its own.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from lifeline.errors import Unavailable
from toolchain import apt, cache
from toolchain.progress import run, say

EXPECTED_S = 60
DEADLINE_S = 900


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the image holds; its digest names the image."""

    suite: str
    packages: tuple[str, ...]
    masked: tuple[str, ...]
    removed: tuple[str, ...]  # globs, relative to the root
    excluded: tuple[str, ...]  # dpkg path-exclude
    revision: int  # of settle(): bump it when that function changes

    @property
    def digest(self) -> str:
        return cache.digest(json.dumps(asdict(self), sort_keys=True))


RECIPE = Recipe(
    suite="trixie",
    packages=(
        *("systemd", "systemd-sysv", "dbus", "cloud-init", "openssh-server", "sudo", "supervisor", "cron", "logrotate"),
        *("sqlite3", "restic", "zstd", "python3", "python3-venv", "ca-certificates", "curl", "jq"),
        *("iproute2", "nftables", "netbase", "procps", "iputils-ping", "locales", "chrony"),
    ),
    # Timers and jobs that would fire in the middle of a measurement, or wait for a network that isn't theirs to set up.
    masked=(
        *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer", "e2scrub_all.timer"),
        *("systemd-networkd-wait-online.service", "systemd-resolved.service", "systemd-firstboot.service"),
        *("systemd-pcrlock-machine-id.service", "getty@tty1.service", "console-getty.service"),
    ),
    # Identity is a droplet's own: no host key and no random seed may be shared by two machines.
    removed=(
        *("etc/ssh/ssh_host_*", "var/lib/systemd/random-seed", "var/lib/dbus/machine-id", "etc/hostname"),
        *("etc/apt/apt.conf.d/99mmdebstrap", "var/lib/apt/lists/*_*", "var/cache/apt/archives/*.deb", "var/log/*.log"),
    ),
    excluded=("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"),
    revision=1,
)


def path() -> Path:
    """Where the image is, or will be: a root folder owned by root."""
    return cache.root() / "images" / f"debian-13-{RECIPE.digest}"


def ensure() -> Path:
    """The image, bootstrapped if it isn't in the cache (about a minute, once; needs root)."""
    if path().is_dir():
        return path()
    if platform.machine() != "x86_64":
        raise Unavailable(
            f"the lab's droplets are x86-64, as DigitalOcean's are; this machine is {platform.machine()}",
            hint="run the lab on an x86-64 machine; make check runs everywhere",
        )
    if os.geteuid() != 0:
        raise Unavailable("the lab's base image can only be made by root", hint="sudo make lab-image")
    apt.require("mmdebstrap")
    cache.require_space(1.5, "the base image")
    say(f"bootstrapping Debian 13 for the lab's droplets: about {EXPECTED_S} s, once; kept in {path()}")
    return cache.make_once(path(), _bootstrap)


def _bootstrap(folder: Path) -> None:
    """mmdebstrap into ``folder``, from the mirror and with the proxy that this machine's apt-get is configured with."""
    host = apt.host_sources()
    log = path().parent / f"{path().name}.log"
    log.unlink(missing_ok=True)
    options = folder.parent / f"{folder.name}.apt.conf"
    options.write_text("\n".join([*host.options, ""]))
    argv = [
        *("mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase"),
        f"--include={','.join(RECIPE.packages)}",
        f"--aptopt={options}",
        *(f"--dpkgopt=path-exclude={glob}" for glob in RECIPE.excluded),
        *(RECIPE.suite, str(folder), *source_lines(host)),
    ]
    try:
        run(argv, what="Debian 13 base image", log=log, deadline_s=DEADLINE_S, hint="make lab-image")
    finally:
        options.unlink(missing_ok=True)
    settle(folder, RECIPE)


def source_lines(host: apt.HostSources) -> list[str]:
    """apt sources for the image; security updates only where this machine has them: not every mirror carries them."""
    lines = [f"deb {host.mirror} {RECIPE.suite} main", f"deb {host.mirror} {RECIPE.suite}-updates main"]
    if host.security:
        lines.append(f"deb {host.security} {RECIPE.suite}-security main")
    return lines


def settle(root: Path, recipe: Recipe) -> None:
    """Take from the fresh root what must not be shared by droplets or disturb them. Pure file work, repeatable."""
    for glob in recipe.removed:
        for found in root.glob(glob):
            shutil.rmtree(found) if found.is_dir() and not found.is_symlink() else found.unlink()
    # Empty, not absent: systemd then draws an id at boot but doesn't take it for a first boot, which would reset units.
    (root / "etc/machine-id").write_text("")
    units = root / "etc/systemd/system"
    units.mkdir(parents=True, exist_ok=True)
    for unit in recipe.masked:
        mask = units / unit
        mask.unlink(missing_ok=True)
        mask.symlink_to("/dev/null")
    resolv = root / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)  # the bootstrapping machine's, copied in by mmdebstrap
    resolv.write_text("")
    root.chmod(0o755)
