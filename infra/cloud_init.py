"""The user data of a host: what makes a bare Debian image reachable and identifiable.

Everything else is provisioned over SSH.
"""

from __future__ import annotations

import json

from infra.identity import HostKey

PACKAGES = ("supervisor", "sqlite3", "python3-venv", "restic", "zstd", "ca-certificates", "sudo", "curl")
FIRST_BOOT = "/usr/local/sbin/lifeline-first-boot"
FIRST_BOOT_FAILED = "/var/lib/lifeline-first-boot.failed"  # there while packages are missing; says why
TRIES, PAUSE_S = 10, 30

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


def first_boot(packages: tuple[str, ...], failed: str = FIRST_BOOT_FAILED) -> str:
    """A script that installs what is missing; it may run at any time, any number of times.

    An image that has everything needs no package registry: a rebuild must not wait for one. Where one is needed,
    cloud-init runs this once and never again, while the image's own timers hold apt's locks and mirrors fail: so it
    waits and tries again, and what failed for good is in `failed`, with the command for it.
    """
    return f"""\
#!/bin/sh
set -u
export DEBIAN_FRONTEND=noninteractive
missing() {{
    for package in {" ".join(packages)}; do
        status=$(dpkg-query --show --showformat='${{db:Status-Status}}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || printf '%s ' "$package"
    done
}}
apt() {{
    apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=5 "$@"
}}
attempt=0
while [ -n "$(missing)" ]; do
    attempt=$((attempt + 1))
    said=$({{ dpkg --configure -a; apt update && apt install --no-install-recommends $(missing); }} 2>&1)
    echo "$said"
    [ -n "$(missing)" ] || break
    if [ $attempt -ge {TRIES} ]; then
        {{
            echo "not installed after {TRIES} attempts, $(date -u): $(missing)"
            echo "again: sudo {FIRST_BOOT}"
            echo "$said" | tail -n 20
        }} | tee {failed} >&2
        exit 1
    fi
    sleep {PAUSE_S}
done
rm -f {failed}
"""
