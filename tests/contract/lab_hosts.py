"""Hosts for the lab's own tests: made directly, beside whatever the simulated API has."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import config
from lab.machines import NspawnMachines
from lab.ports import FirewallRule, Interface, MachineSpec
from toolchain import image

ANYWHERE = ("0.0.0.0/0",)
USER_DATA = """#cloud-config
write_files:
- path: /etc/from-user-data
  content: written
runcmd:
- touch /ran
"""


@dataclass(frozen=True)
class Bench:
    """Machines with their own state folder, on the running lab's network."""

    machines: NspawnMachines
    key: Path

    def spec(
        self, number: int, region: str, *, firewall: list[FirewallRule] | None = None, boots: str = "debian-13-x64"
    ) -> MachineSpec:
        """Droplet 9000 + number at .200 + number; a private interface on a VPC of the region."""
        where = config.REGIONS[region]
        net, mac = where.number, f"02:00:00:00:9{{}}:{number:02x}"
        address = f"198.18.{net}.{200 + number}"
        public = Interface("public", where.bridge, address, 24, where.gateway, mac.format(0))
        private = Interface("private", f"ll-vt{net}", f"10.99.{net}.{number}", 24, None, mac.format(1))
        keys = [self.key.with_suffix(".pub").read_text().strip()]
        return MachineSpec(
            9000 + number, f"bench{number}", region, boots, [public, private], keys, USER_DATA, firewall=firewall
        )

    def ssh(self, spec: MachineSpec, *argv: str, within_s: float = 5) -> subprocess.CompletedProcess[str]:
        """One command as root; exit code 255 when it can't be reached."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=2"]
        flags = [flag for option in options for flag in ("-o", option)]
        target = f"root@{spec.interfaces[0].address}"
        command = ["ssh", "-F", "/dev/null", "-i", str(self.key), *flags, target, *argv]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=False, timeout=within_s)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 255, "", "timeout")

    def answer(self, spec: MachineSpec, *argv: str) -> str:
        """stdout of a command that must succeed."""
        done = self.ssh(spec, *argv, within_s=30)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def wait_ready(self, spec: MachineSpec, within_s: float = 40) -> None:
        """sshd answers and cloud-init is through."""
        eventually(lambda: self.ssh(spec, "true").returncode == 0, within_s, f"ssh to {spec.name}")
        done = self.ssh(spec, "cloud-init", "status", "--wait", within_s=within_s)
        assert "status: done" in done.stdout, done


def bench(folder: Path) -> Bench:
    """A bench in an empty folder."""
    key = folder / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return Bench(NspawnMachines(folder, image.ensure()), key)


def eventually(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Poll until true; AssertionError with ``what`` after the deadline."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.05)
