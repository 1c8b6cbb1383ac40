"""Debian packages the lab needs on this machine, and how this machine's apt-get is configured."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lifeline.errors import Unavailable
from toolchain import cache
from toolchain.progress import run, say

DEFAULT_MIRROR = "http://deb.debian.org/debian"
EXPECTED_S = 30
DEADLINE_S = 600

# program → package. Programs are looked for, not packages: a machine that got one some other way is left alone.
LAB_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "nft": "nftables",
    "nginx": "nginx-light",
    "unbound": "unbound",
    "dnsmasq": "dnsmasq-base",
    "dig": "dnsutils",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "zstd": "zstd",
    "restic": "restic",
    "mount": "mount",
    "pgrep": "procps",
}
LAB_FILES = {
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
}
# Those of them that come with a service of the machine's own, which the lab must not meet.
SERVICES = ("nginx", "unbound")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class HostSources:
    """Where this machine's apt-get gets Debian from; ``options``: apt.conf lines (proxies, retries, certificates)."""

    mirror: str = DEFAULT_MIRROR
    security: str | None = None
    options: tuple[str, ...] = field(default_factory=tuple)


def which(program: str) -> str | None:
    """Like shutil.which, also in the sbin folders, which a user's PATH often lacks."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")


def missing() -> list[str]:
    """Debian packages that the lab needs and this machine lacks, sorted."""
    programs = {package for program, package in LAB_PROGRAMS.items() if which(program) is None}
    files = {package for file, package in LAB_FILES.items() if not Path(file).exists()}
    return sorted(programs | files)


def require(program: str) -> None:
    """Raise Unavailable, naming the next command, when ``program`` isn't installed."""
    if which(program) is None:
        raise Unavailable(f"{program} is not installed", hint="make setup-lab")


def ensure() -> None:
    """Install what is missing. Raises Unavailable, with the list, where that can't be done from here."""
    packages = missing()
    if not packages:
        return
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise Unavailable(
            f"the lab needs these Debian packages, and this is no Debian-like machine: {names}",
            hint="install what corresponds to them, then: make setup-lab",
        )
    if os.geteuid() != 0:
        raise Unavailable(
            f"the lab needs Debian packages, installed by root: {names}", hint=f"sudo apt-get install {names}"
        )
    with cache.locked(cache.root() / ".apt.lock"), _services_stay_off():
        install(missing())


def install(packages: Sequence[str]) -> None:
    """apt-get install, without questions. Needs root."""
    if not packages:
        return
    say(f"installing Debian packages: {' '.join(packages)} (about {EXPECTED_S} s)")
    log = cache.root() / "apt.log"
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C.UTF-8"}
    env["PATH"] = f"{env.get('PATH', '')}:{SYSTEM_PATH}"
    wait = ["-o", "DPkg::Lock::Timeout=120"]
    hint = "apt-get update, then: make setup-lab"
    run(["apt-get", *wait, "-q", "update"], what="apt-get update", log=log, deadline_s=DEADLINE_S, env=env, hint=hint)
    argv = ["apt-get", *wait, "-q", "-y", "--no-install-recommends", "install", *packages]
    run(argv, what="apt-get install", log=log, deadline_s=DEADLINE_S, env=env, hint=hint)


@contextmanager
def _services_stay_off() -> Iterator[None]:
    """While packages are being installed, none may start a service.

    The lab runs its own; the distribution's nginx would take port 80 of every address. policy-rc.d is Debian's way to
    say so; one that is already there is the administrator's, and is left as it is.
    """
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    new = [name for name in SERVICES if which(name) is None]
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            policy.unlink(missing_ok=True)
        came = [name for name in new if which(name)]
        if came and shutil.which("systemctl"):
            # Not at the next boot either. Fails without systemd, where nothing would start it anyway.
            subprocess.run(["systemctl", "disable", "--quiet", *came], check=False, capture_output=True)


def host_sources() -> HostSources:
    """Read apt-get's configuration; Debian's own mirror where there is none (or this isn't Debian)."""
    if shutil.which("apt-get") is None:
        return HostSources()
    fields = "$(REPO_URI)|$(CODENAME)|$(COMPONENT)|$(ORIGIN)|$(LABEL)"
    targets = _read(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"])
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    codename = release.get("VERSION_CODENAME", "") if release.get("ID") == "debian" else ""
    return parse_sources(targets, codename, _read(["apt-config", "dump"]))


def parse_sources(targets: str, codename: str, config: str) -> HostSources:
    """Pure: the index targets of apt-get (one ``uri|codename|component|origin|label`` a line) and ``apt-config dump``.

    A repository counts as Debian's archive when it says so, or, before the first ``apt-get update``, when it looks so.
    """
    mirror, security = None, None
    for line in targets.splitlines():
        uri, found, component, origin, label = (line.split("|") + [""] * 5)[:5]
        if component != "main" or not uri.startswith(("http://", "https://", "file:")):
            continue
        uri = uri.rstrip("/")
        debian = origin == "Debian" or (not origin and "debian" in uri)
        if debian and found == codename and label in ("Debian", ""):
            mirror = mirror or uri
        elif debian and found == f"{codename}-security":
            security = security or uri
    wanted = ("Acquire::http::", "Acquire::https::", "Acquire::Retries", "Acquire::Check-")
    options = tuple(line for line in config.splitlines() if line.startswith(wanted) and not line.endswith(' "";'))
    return HostSources(mirror or DEFAULT_MIRROR, security, options)


def _read(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""
