"""What is derived from the seed, what cloud-init gets of it, and which objects may expire."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from infra import retention
from infra.cloud_init import FIRST_BOOT, PACKAGES, first_boot, user_data
from infra.identity import bucket_name, host_key
from tests.unit.infra_stack import PUBLIC_KEY, SEED


def test_a_host_key_is_the_same_for_the_same_seed_and_name_and_no_other() -> None:
    assert host_key(SEED, "primary-newyork") == host_key(SEED, "primary-newyork")
    assert host_key(SEED, "primary-newyork") != host_key(SEED, "backup-singapore")
    assert host_key(SEED, "primary-newyork") != host_key("ab" * 32, "primary-newyork")


def test_the_derivation_never_changes() -> None:
    """A pin that existing fleets rely on: a change here locks operators out of their hosts."""
    public = host_key("00" * 32, "primary-newyork").public
    assert public == "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAdcislelQcCsNcFIw4wU5pHmKKL7jaYRcDMjBNMso+l"


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen here: make setup-lab")
def test_other_tools_read_the_private_key(tmp_path: Path) -> None:
    key = host_key(SEED, "primary-newyork")
    loaded = load_ssh_private_key(key.private.encode(), password=None).public_key()
    assert loaded.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() == key.public
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text(key.private)
    shown = subprocess.run(["ssh-keygen", "-y", "-f", str(file)], capture_output=True, text=True, check=True).stdout
    assert shown.split()[:2] == key.public.split()


def test_bucket_names_are_legal_and_do_not_show_the_seed() -> None:
    name = bucket_name(SEED, "a" * 60, "offsite")
    assert len(name) <= 63
    assert SEED[:10] not in name
    assert bucket_name(SEED, "genesis-lab", "vault") != bucket_name("ab" * 32, "genesis-lab", "vault")


def test_cloud_init_gets_one_host_key_one_operator_and_no_password() -> None:
    key = host_key(SEED, "primary-newyork")
    text = user_data("operator", PUBLIC_KEY, key)
    assert text.startswith("#cloud-config\n")
    document = json.loads(text.partition("\n")[2])
    assert document["ssh_keys"] == {"ed25519_private": key.private, "ed25519_public": key.public}
    assert document["ssh_deletekeys"] and not document["ssh_pwauth"]
    (operator,) = document["users"]
    assert (operator["name"], operator["ssh_authorized_keys"]) == ("operator", [PUBLIC_KEY])
    assert operator["lock_passwd"]
    assert document["runcmd"] == [[FIRST_BOOT]]
    sshd = next(file for file in document["write_files"] if "sshd" in file["path"])["content"]
    assert "PasswordAuthentication no" in sshd and "PermitRootLogin no" in sshd
    assert len(text) < 64 * 1024  # DigitalOcean takes no more


def _first_boot(tmp_path: Path, installed: tuple[str, ...], refusals: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the script with stand-ins for the tools; "calls" holds apt-get's and sleep's. apt-get refuses so many times,
    as with a lock that is held or a mirror that fails, and then installs what it is told to."""
    (tmp_path / "installed").write_text(" ".join(installed))
    (tmp_path / "refusals").write_text(str(refusals))
    (tmp_path / "calls").touch()
    tools = {
        "dpkg": "exit 0",
        "dpkg-query": 'for last; do :; done\ngrep -qw -- "$last" installed && printf installed',
        "sleep": 'echo "sleep $1" >> calls',
        "apt-get": (
            'echo "$@" >> calls\nleft=$(cat refusals)\n'
            'if [ $left -gt 0 ]; then echo $((left - 1)) > refusals; echo "E: Could not get lock" >&2; exit 100; fi\n'
            'case "$*" in *" install "*) echo "$@" >> installed;; esac'
        ),
    }
    for name, body in tools.items():
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\n{body}\n")
        tool.chmod(0o755)
    argv, env = ["sh", "-c", first_boot(PACKAGES, "failed")], {"PATH": f"{tmp_path}:/bin:/usr/bin"}
    return subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)


def _calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


def test_first_boot_asks_no_registry_when_nothing_is_missing(tmp_path: Path) -> None:
    assert _first_boot(tmp_path, PACKAGES).returncode == 0
    assert _calls(tmp_path) == []


def test_first_boot_installs_what_is_missing_and_only_that(tmp_path: Path) -> None:
    assert _first_boot(tmp_path, tuple(name for name in PACKAGES if name not in ("restic", "zstd"))).returncode == 0
    update, install = _calls(tmp_path)
    assert update.endswith(" update")
    assert install.endswith(" install --no-install-recommends restic zstd")
    assert all("DPkg::Lock::Timeout=" in call and "Acquire::Retries=" in call for call in (update, install))


def test_first_boot_tries_again_while_apt_fails(tmp_path: Path) -> None:
    """cloud-init runs it once: what ends it leaves a host that nothing can be put on."""
    assert _first_boot(tmp_path, (), refusals=3).returncode == 0
    assert _calls(tmp_path).count("sleep 30") == 3
    assert not (tmp_path / "failed").exists()


def test_first_boot_that_failed_for_good_says_why_and_works_when_it_is_run_again(tmp_path: Path) -> None:
    ended = _first_boot(tmp_path, ("sudo",), refusals=1000)
    assert ended.returncode == 1
    mark = (tmp_path / "failed").read_text()
    assert mark in ended.stderr
    assert "restic" in mark and f"sudo {FIRST_BOOT}" in mark and "E: Could not get lock" in mark
    assert len(_calls(tmp_path)) < 25
    assert _first_boot(tmp_path, ("sudo",)).returncode == 0
    assert not (tmp_path / "failed").exists()


def test_nothing_expires_by_age_that_something_else_is_built_on() -> None:
    rules = retention.rules(365, 30, 1)
    expiring = {rule.prefix for rule in rules if rule.expire_days is not None}
    assert expiring == set(retention.EXPIRING)
    assert not any(
        never.startswith(prefix) or prefix.startswith(never)
        for prefix in expiring
        for never in retention.NEVER_EXPIRING
    )
    (whole,) = (rule for rule in rules if rule.prefix == "")
    assert (whole.expire_days, whole.noncurrent_days, whole.abort_upload_days) == (None, 30, 1)
    assert whole.clear_markers
    assert all(rule.expire_days == 365 for rule in rules if rule.prefix)
