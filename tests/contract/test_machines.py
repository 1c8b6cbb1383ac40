"""Droplets are real hosts: what the port promises, on Debian under nspawn."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from lab import disks, network
from lab.api.icmp import echo
from lab.machines import NspawnMachines, group_of
from lab.ports import FirewallRule, MachineSpec
from lab.processes import Group
from tests.contract.lab_hosts import ANYWHERE, Bench, eventually
from toolchain import image

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("lab")]

SSH = FirewallRule("in", "tcp", "22", ("198.18.100.1/32",))


@pytest.fixture(scope="module")
def host(hosts: Bench) -> MachineSpec:
    """One host that tests share; each leaves it on and open."""
    spec = hosts.spec(1, "nyc3")
    hosts.machines.create(spec)
    hosts.wait_ready(spec)
    return spec


def test_a_new_droplet_is_debian_that_ran_its_user_data(hosts: Bench, host: MachineSpec) -> None:
    assert hosts.answer(host, "hostname") == "bench1"
    assert hosts.answer(host, "cat /etc/from-user-data; echo; ls /ran").split() == ["written", "/ran"]
    assert 'VERSION_ID="13"' in hosts.answer(host, "cat", "/etc/os-release")
    assert hosts.answer(host, "systemctl", "is-system-running") == "running"


def test_a_droplet_cant_touch_its_network(hosts: Bench, host: MachineSpec) -> None:
    assert hosts.ssh(host, "ip", "link", "set", "eth0", "down").returncode != 0
    assert hosts.ssh(host, "ip", "addr", "add", "198.18.1.99/24", "dev", "eth0").returncode != 0


def test_create_again_changes_nothing(hosts: Bench, host: MachineSpec) -> None:
    before = hosts.answer(host, "cat", "/proc/sys/kernel/random/boot_id", ";", "cat", "/proc/1/stat")
    hosts.machines.create(host)
    assert hosts.answer(host, "cat", "/proc/sys/kernel/random/boot_id", ";", "cat", "/proc/1/stat")[:36] == before[:36]


def test_power_cut_kills_everything_at_once_and_keeps_the_disk(hosts: Bench, host: MachineSpec) -> None:
    hosts.answer(host, "systemd-run --unit=witness -p ExecStop='/bin/touch /stopped-cleanly' sleep infinity")
    hosts.answer(host, "echo precious > /kept")
    hosts.machines.power_off(host.id)
    assert hosts.machines.status(host.id) == "off"
    assert Group(group_of(host.id)).pids() == []
    hosts.machines.power_off(host.id)  # again: nothing to do
    hosts.machines.power_on(host.id)
    hosts.wait_ready(host)
    assert hosts.answer(host, "cat", "/kept") == "precious"
    assert hosts.ssh(host, "ls", "/stopped-cleanly").returncode != 0


def test_without_power_a_host_is_silent_and_connections_to_it_hang(hosts: Bench, host: MachineSpec) -> None:
    """Its namespace outlives the power cut, and a kernel would answer echoes and refuse connections."""
    address = host.interfaces[0].address

    async def answers() -> bool:
        try:
            async with asyncio.timeout(0.5):
                await echo(address)
        except (TimeoutError, OSError):
            return False
        return True

    assert asyncio.run(answers())
    with socket.create_connection((address, 22), timeout=2) as connection:
        assert connection.recv(3) == b"SSH"
        connection.recv(4096)
        hosts.machines.power_off(host.id)
        assert not asyncio.run(answers())
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):  # and no word of a connection closed or reset
            connection.recv(4096)
    with pytest.raises(OSError) as silence, socket.create_connection((address, 22), timeout=0.5):
        pass
    assert not isinstance(silence.value, ConnectionRefusedError)
    hosts.machines.power_on(host.id)
    hosts.wait_ready(host)
    assert asyncio.run(answers())


def test_shutdown_lets_services_end(hosts: Bench, host: MachineSpec) -> None:
    hosts.answer(host, "systemd-run --unit=witness -p ExecStop='/bin/touch /stopped-cleanly' sleep infinity")
    hosts.machines.shutdown(host.id)
    assert hosts.machines.status(host.id) == "off"
    hosts.machines.power_on(host.id)
    hosts.wait_ready(host)
    assert hosts.answer(host, "ls", "/stopped-cleanly")


def test_a_reboot_from_inside_comes_back_with_its_disk(hosts: Bench, host: MachineSpec) -> None:
    def boot() -> str:
        return hosts.ssh(host, "cat", "/proc/1/stat").stdout.split(")")[-1]  # holds init's start time

    hosts.answer(host, "echo precious > /kept; systemctl is-active ssh")
    before = boot()
    hosts.ssh(host, "systemctl", "reboot")
    eventually(lambda: boot() not in ("", before), 40, "the droplet back after its reboot")
    hosts.wait_ready(host)
    assert hosts.answer(host, "cat", "/kept") == "precious"
    assert hosts.machines.status(host.id) == "active"
    hosts.machines.shutdown(host.id)  # still one that can be asked to stop
    assert hosts.machines.status(host.id) == "off"
    hosts.machines.power_on(host.id)
    hosts.wait_ready(host)


def test_status_is_what_the_machine_does_not_what_was_asked(hosts: Bench, host: MachineSpec) -> None:
    hosts.ssh(host, "systemctl", "poweroff")
    eventually(lambda: hosts.machines.status(host.id) == "off", 30, "a droplet that powers itself off is off")
    hosts.machines.power_on(host.id)
    hosts.wait_ready(host)


def test_machines_outlive_the_process_that_made_them(hosts: Bench, host: MachineSpec) -> None:
    again = NspawnMachines(hosts.key.parent, image.path())
    assert again.status(host.id) == "active"
    assert again.spec(host.id) == host


def test_a_snapshot_boots_as_another_droplet(hosts: Bench, host: MachineSpec) -> None:
    hosts.answer(host, "echo shared > /from-origin")
    assert hosts.machines.snapshot(host.id, "9500") > 0
    copy = hosts.spec(2, "nyc3", boots="snapshot:9500")
    hosts.machines.create(copy)
    hosts.wait_ready(copy)
    assert hosts.answer(copy, "hostname") == "bench2"
    assert hosts.answer(copy, "cat", "/from-origin") == "shared"
    both = [hosts.answer(spec, "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub") for spec in (host, copy)]
    assert both[0] != both[1]
    hosts.machines.destroy(copy.id)
    hosts.machines.delete_snapshot("9500")
    assert not list(hosts.key.parent.glob("snapshots/*"))


def test_rebuild_wipes_the_disk_and_keeps_the_identity(hosts: Bench, host: MachineSpec) -> None:
    hosts.answer(host, "touch /old")
    hosts.machines.rebuild(host)
    hosts.wait_ready(host)
    assert hosts.ssh(host, "ls", "/old").returncode != 0
    assert hosts.answer(host, "hostname") == "bench1"


def test_firewall_is_enforced_for_both_directions_from_boot_on(hosts: Bench) -> None:
    walled = hosts.spec(3, "nyc3", firewall=[SSH])
    hosts.machines.create(walled)
    hosts.wait_ready(walled)
    ask = ("getent", "hosts", "nyc3.spaces.test")
    assert hosts.ssh(walled, *ask, within_s=8).returncode != 0  # DNS must be allowed like anything else
    hosts.machines.set_firewall(walled.id, [SSH, FirewallRule("out", "udp", "53", ANYWHERE)])
    assert "198.18.1.2" in hosts.answer(walled, *ask)
    hosts.machines.set_firewall(walled.id, [FirewallRule("in", "tcp", "80", ANYWHERE)])
    assert hosts.ssh(walled, "true").returncode == 255
    hosts.machines.power_off(walled.id)
    hosts.machines.power_on(walled.id)
    eventually(lambda: bool(network.namespace_of(walled.id) in network.namespaces()), 5, "it boots")
    assert hosts.ssh(walled, "true").returncode == 255  # still closed after a boot
    hosts.machines.set_firewall(walled.id, None)
    hosts.wait_ready(walled)
    hosts.machines.destroy(walled.id)


def test_destroy_leaves_nothing(hosts: Bench) -> None:
    spec = hosts.spec(4, "sgp1")
    hosts.machines.create(spec)
    assert "ll-vt2" in network.links()
    hosts.machines.destroy(spec.id)
    hosts.machines.destroy(spec.id)
    assert hosts.machines.status(spec.id) == "absent"
    namespace = network.namespace_of(spec.id)
    assert namespace not in network.namespaces()
    assert not [name for name in network.links() if name.startswith((namespace, "ll-vt2"))]
    assert not Group(group_of(spec.id)).path.exists()
    assert not list(Path(hosts.key.parent).glob(f"machines/d{spec.id}"))
    assert not [where for where in disks.all_mounts() if f"/d{spec.id}/" in where]


def test_what_isnt_there_cant_be_started(hosts: Bench) -> None:
    with pytest.raises(RuntimeError, match="no disk"):
        hosts.machines.power_on(9999)
    with pytest.raises(RuntimeError, match="no such snapshot"):
        hosts.machines.create(hosts.spec(5, "nyc3", boots="snapshot:0"))
    hosts.machines.destroy(9005)
