"""The user data of a host: what makes a bare Debian image reachable and identifiable.

Everything else is provisioned over SSH.
"""

from __future__ import annotations

import json

from infra.identity import HostKey

PACKAGES = ("supervisor", "sqlite3", "python3-venv", "restic", "zstd", "ca-certificates", "sudo", "curl")
FIRST_BOOT = "/usr/local/sbin/lifeline-first-boot"

# One host key, no passwords, no root: what isn't offered can't be attacked, and can't be pinned wrongly.
SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
X11Forwarding no
"""


def user_data(operator: str, public_key: str, identity: HostKey) -> str:
    """cloud-config text (JSON is YAML, and needs no escaping rules of its own).

    Holds the private host key: a secret.
    """
    document = {
        "ssh_pwauth": False,
        "disable_root": True,
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": identity.private, "ed25519_public": identity.public},
        "users": [
            {
                "name": operator,
                "gecos": "Lifeline operator",
                "primary_group": operator,  # Debian ships a group "operator": without this useradd refuses the name
                "shell": "/bin/bash",
                "lock_passwd": True,
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": [public_key],
            }
        ],
        "write_files": [
            {"path": "/etc/ssh/sshd_config.d/10-lifeline.conf", "permissions": "0644", "content": SSHD},
            {"path": FIRST_BOOT, "permissions": "0755", "content": first_boot(PACKAGES)},
        ],
        "runcmd": [[FIRST_BOOT]],
    }
    return "#cloud-config\n" + json.dumps(document, indent=1, sort_keys=True) + "\n"


def first_boot(packages: tuple[str, ...]) -> str:
    """A script that installs what is missing.

    An image that has everything needs no package registry: a rebuild must not wait for one.
    """
    names = " ".join(packages)
    return f"""\
#!/bin/sh
set -eu
missing=
for package in {names}; do
    status=$(dpkg-query --show --showformat='${{db:Status-Status}}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends $missing
fi
"""
