"""A droplet's disk: an overlay over the base image, and what DigitalOcean writes into it before the first boot."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import uuid
from pathlib import Path

from lab import config
from lab.network import run
from lab.ports import MachineSpec

MOUNT_NAME = "lifeline-lab"  # the first column of /proc/mounts: finds a disk whose state folder was deleted

# cloud-init runs as on a droplet: keys go to root, the network is there already, and no default user is made.
_CLOUD_CONFIG = """\
# What DigitalOcean's images set; the datasource is read from a seed because a container has no DMI tables.
datasource_list: [ NoCloud, None ]
network: {config: disabled}
disable_root: false
users: []
manage_etc_hosts: false
"""


def mount(image: Path, disk: Path, root: Path) -> None:
    """Mount the overlay of ``disk``/upper over ``image`` at ``root``; mounted already is fine."""
    if is_mounted(root):
        return
    for folder in (disk / "upper", disk / "work", root):
        folder.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={image},upperdir={disk / 'upper'},workdir={disk / 'work'}"
    run(["mount", "-t", "overlay", MOUNT_NAME, "-o", options, str(root)])


def unmount(root: Path) -> None:
    """Unmount whatever is mounted at ``root``, however often."""
    if is_mounted(root):
        status = root.stat()  # nspawn locks the tree by its inode, and leaves the lock's file
        Path(f"/run/systemd/nspawn/locks/inode-{status.st_dev}:{status.st_ino}").unlink(missing_ok=True)
    while is_mounted(root):
        # Lazily: the machine's own mount namespace may take some milliseconds to die after its processes.
        run(["umount", "--lazy", str(root)])


def is_mounted(where: Path) -> bool:
    return str(where) in mounts_below(where)


def mounts_below(folder: Path) -> list[str]:
    """Mount points at or below ``folder``, the deepest first."""
    found = [where for _, where in _mounts() if where == str(folder) or where.startswith(f"{folder}/")]
    return sorted(found, key=len, reverse=True)


def all_mounts() -> list[str]:
    """Mount points of every droplet's disk, of whatever lab."""
    return [where for name, where in _mounts() if name == MOUNT_NAME]


def _mounts() -> list[tuple[str, str]]:
    def unescape(text: str) -> str:
        return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)

    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [(unescape(name), unescape(where)) for name, where, *_ in map(str.split, lines)]


def prepare(root: Path, spec: MachineSpec) -> None:
    """Make a mounted disk this droplet's: name, resolver, cloud-init's seed."""
    instance = str(spec.id)
    _write(root / "etc/hostname", f"{spec.name}\n")
    _write(root / "etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {spec.name}\n::1 localhost ip6-localhost\n")
    _write(root / "etc/resolv.conf", f"nameserver {config.DNS_ADDRESS}\noptions timeout:2 attempts:2\n")
    _write(root / "etc/machine-id", f"{uuid.uuid4().hex}\n")
    _write(root / "etc/cloud/cloud.cfg.d/90-droplet.cfg", _CLOUD_CONFIG)
    # A disk from a snapshot remembers the instance it was; a new seed is what makes cloud-init run again.
    seed = root / "var/lib/cloud/seed/nocloud"
    shutil.rmtree(seed, ignore_errors=True)
    metadata = {"instance-id": instance, "local-hostname": spec.name, "public-keys": list(spec.public_keys)}
    _write(seed / "meta-data", json.dumps(metadata), mode=0o600)
    _write(seed / "user-data", spec.user_data or "#cloud-config\n{}\n", mode=0o600)
    _write(seed / "vendor-data", "")


def trust(root: Path, authority: Path) -> None:
    """Let the droplet trust the lab's authority as it trusts the world's: its cloud has no other API."""
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    if not authority.exists() or not bundle.exists():
        return
    text, own = bundle.read_text(), authority.read_text()
    if own not in text:
        _write(bundle, text + own)


def copy(source: Path, target: Path) -> None:
    """Copy an upper layer with everything overlayfs keeps in it (whiteouts, trusted attributes); all or nothing."""
    partial = target.with_name(target.name + ".partial")
    remove(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    run(["cp", "-a", "--reflink=auto", str(source), str(partial)])
    partial.replace(target)


def size_bytes(folder: Path) -> int:
    return int(run(["du", "-s", "--block-size=1", str(folder)]).split()[0])


def remove(folder: Path) -> None:
    """Remove a folder tree; refuses while something is mounted in it, or a lower layer could be lost."""
    if mounts_below(folder):
        raise RuntimeError(f"{folder} has mounts in it: {', '.join(mounts_below(folder))}")
    # rm, as shutil.rmtree is several times slower on the 10,000 files of a busy disk.
    subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # may be a symbolic link out of the disk
    path.touch(mode=mode)
    path.write_text(text)
