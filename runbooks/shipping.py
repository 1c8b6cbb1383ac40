"""What provisioning does on one host: ends its first boot, where a mirror failed it, and makes a bundle its release."""

from __future__ import annotations

import hashlib
import shlex

from lifeline.errors import StepFailed
from lifeline.hosts import Remote
from runbooks.bundle import RELEASES, Bundle

CURRENT = "/opt/lifeline/current"
READY_S = 900.0  # a fresh droplet installs packages
UP, PACKAGES_MISSING = "up", "packages are missing"
FIRST_BOOT = "/usr/local/sbin/lifeline-first-boot"  # infra/cloud_init.py


def booted(remote: Remote) -> str:
    """How far a host's first boot is; an error of the connection is its own answer."""
    script = (
        "test -e /var/lib/cloud/instance/boot-finished || { echo booting; exit; }; "
        f"test -S /run/supervisor.sock && test -e /usr/bin/python3.13 && echo '{UP}' || echo '{PACKAGES_MISSING}'"
    )
    return remote.run(["sudo", "-n", "sh", "-c", script], timeout=20).text.strip()


def install_again(remote: Remote) -> None:
    if booted(remote) == PACKAGES_MISSING:
        _sudo(remote, FIRST_BOOT, timeout=READY_S / 2)


def install(remote: Remote, bundle: Bundle) -> None:
    """Put a bundle on a host and make it the current release. Interrupted anywhere, the old one is current and the
    next call goes on."""
    release = f"{RELEASES}/{bundle.digest}"
    if remote.run(["test", "-e", f"{release}/DIGEST"], timeout=20, check=False).code != 0:
        incoming = f"lifeline-{bundle.digest}.tar.gz"  # in the operator's home: in /tmp its name would be anybody's
        remote.put(bundle.path, incoming)
        _check_sum(remote, incoming, bundle)
        fresh = f"{RELEASES}/.new-{bundle.digest}"
        _sudo(remote, "rm", "-rf", fresh, release)
        _sudo(remote, "mkdir", "-p", fresh)
        _sudo(remote, "tar", "-xzf", incoming, "-C", fresh, "--no-same-owner")
        _sudo(remote, "mv", "-T", fresh, release)
        _sudo(remote, f"{release}/bin/lifeline-host", "warm")
        remote.run(["rm", "-f", incoming], timeout=20)
    # A link can't be replaced, but a rename over one is atomic.
    _sudo(remote, "ln", "-sfn", release, f"{CURRENT}.new")
    _sudo(remote, "mv", "-T", f"{CURRENT}.new", CURRENT)


def _check_sum(remote: Remote, path: str, bundle: Bundle) -> None:
    with bundle.path.open("rb") as file:
        wanted = hashlib.file_digest(file, "sha256").hexdigest()
    found = remote.run(["sha256sum", path], timeout=60).text.split(maxsplit=1)[0]
    if found != wanted:
        raise StepFailed(f"{remote.host.name}: the bundle arrived damaged", hint="fab provision")


def _sudo(remote: Remote, *argv: str, timeout: float = 120) -> None:
    result = remote.run(["sudo", "-n", *argv], timeout=timeout, check=False)
    if result.code != 0:
        raise StepFailed(f"{remote.host.name}: {shlex.join(argv)}: {result.last_words}")
