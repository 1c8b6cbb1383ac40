"""Regions can be cut off from anything else, really; and what a name answers."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from dnslib import RCODE, DNSRecord

from lab import config, faults, network
from lab.ports import MachineSpec
from lifeline.errors import BadInput
from tests.contract.lab_hosts import Bench, eventually

pytestmark = pytest.mark.lab

TWO_HOSTS = dict[str, MachineSpec]


@pytest.fixture(scope="module")
def pair(hosts: Bench) -> TWO_HOSTS:
    """A host in New York and one in Singapore."""
    specs = {"nyc3": hosts.spec(11, "nyc3"), "sgp1": hosts.spec(12, "sgp1")}
    for spec in specs.values():
        hosts.machines.create(spec)
    for spec in specs.values():
        hosts.wait_ready(spec)
    return specs


def reaches(hosts: Bench, spec: MachineSpec, address: str, port: int) -> bool:
    """A TCP connection from inside a droplet."""
    script = f"import socket; socket.create_connection(('{address}', {port}), timeout=1)"
    # Through the namespace and not through ssh, which a partition may cut as well.
    inside = ["ip", "netns", "exec", network.namespace_of(spec.id), "python3", "-I", "-S", "-c", script]
    return subprocess.run(inside, capture_output=True, check=False).returncode == 0


def reaches_the_api(hosts: Bench, spec: MachineSpec) -> bool:
    """By HTTP and by HTTPS, or by neither."""
    plain, secure = (reaches(hosts, spec, config.API_ADDRESS, port) for port in (config.API_PORT, config.API_TLS_PORT))
    assert plain == secure
    return plain


def reached_from(source: str, spec: MachineSpec) -> bool:
    """A TCP connection from outside to a droplet's sshd."""
    try:
        socket.create_connection((spec.interfaces[0].address, 22), timeout=1, source_address=(source, 0)).close()
    except OSError:
        return False
    return True


CUTS = ("sgp1", "api", "aws", "dns", "spaces", "world", "operator")


def view(hosts: Bench, pair: TWO_HOSTS) -> dict[str, bool]:
    """What New York's host has a connection with."""
    here, there = pair["nyc3"], pair["sgp1"]
    return {
        "sgp1": reaches(hosts, here, there.interfaces[0].address, 22),
        "api": reaches_the_api(hosts, here),
        "aws": reaches(hosts, here, config.AWS_S3_ADDRESS, 80),
        "dns": reaches(hosts, here, config.DNS_ADDRESS, 53),
        "spaces": reaches(hosts, here, config.REGIONS["ams3"].spaces, 80),
        "world": reached_from(config.CLIENT_ADDRESS, here),
        "operator": reached_from(config.OPERATOR_ADDRESS, here),
    }


def test_everything_is_connected_when_nothing_is_cut(lab: dict[str, str], hosts: Bench, pair: TWO_HOSTS) -> None:
    assert view(hosts, pair) == dict.fromkeys(CUTS, True)


@pytest.mark.parametrize("place", CUTS)
def test_a_cut_separates_a_region_from_that_place_alone(
    lab: dict[str, str], hosts: Bench, pair: TWO_HOSTS, place: str
) -> None:
    faults.cut_region("nyc3", place)
    assert view(hosts, pair) == {other: other != place for other in CUTS}
    faults.heal("nyc3", place)
    assert network.partitions() == []


def test_a_region_cut_off_from_everything_still_has_itself(lab: dict[str, str], hosts: Bench, pair: TWO_HOSTS) -> None:
    faults.cut_region("nyc3")
    faults.cut_region("nyc3")  # again: nothing to do
    assert not any(view(hosts, pair).values())
    assert reaches(hosts, pair["nyc3"], config.REGIONS["nyc3"].spaces, 80)
    assert reaches(hosts, pair["sgp1"], config.AWS_S3_ADDRESS, 80)  # others don't notice
    faults.heal()
    assert all(view(hosts, pair).values())


def test_a_connection_that_is_open_hangs_when_it_is_cut(lab: dict[str, str], hosts: Bench, pair: TWO_HOSTS) -> None:
    address = pair["nyc3"].interfaces[0].address
    with socket.create_connection((address, 22), timeout=2, source_address=(config.CLIENT_ADDRESS, 0)) as connection:
        assert connection.recv(3) == b"SSH"
        connection.recv(4096)
        faults.cut_region("nyc3", "world")
        connection.settimeout(0.5)
        connection.send(b"SSH-2.0-x\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(4096)
        faults.heal()
        connection.settimeout(10)
        assert connection.recv(1)  # retransmission repairs it


def test_what_a_power_cut_kept_from_being_sent_never_arrives(
    lab: dict[str, str], hosts: Bench, pair: TWO_HOSTS
) -> None:
    spec = pair["nyc3"]
    with socket.create_server((config.CLIENT_ADDRESS, 0)) as server:
        host, port = server.getsockname()
        script = f"import socket; s = socket.create_connection(('{host}', {port})); input(); s.send(b'too late')"
        inside = ["ip", "netns", "exec", network.namespace_of(spec.id), "python3", "-I", "-S", "-c", script]
        with subprocess.Popen(inside, stdin=subprocess.PIPE) as sender:
            line, _ = server.accept()
            faults.cut_region("nyc3", "world")
            sender.communicate(b"now\n", timeout=10)  # it has ended: the rest is its kernel's
        hosts.machines.power_off(spec.id)
        faults.heal()
        hosts.machines.power_on(spec.id)
        hosts.wait_ready(spec)
        with line, pytest.raises(TimeoutError):
            line.settimeout(3)
            line.recv(100)


def test_what_cant_be_cut_is_refused_with_what_can(lab: dict[str, str]) -> None:
    with pytest.raises(BadInput, match="no region 'mars'"):
        faults.cut_region("mars")
    with pytest.raises(BadInput, match="can't be cut off from 'sun'"):
        faults.cut_region("nyc3", "sun")


def test_a_droplet_reaches_neither_the_machine_nor_the_world_beyond(
    lab: dict[str, str], hosts: Bench, pair: TWO_HOSTS
) -> None:
    rows = json.loads(subprocess.check_output(["ip", "-j", "-4", "addr"]))
    ours = [row["addr_info"][0]["local"] for row in rows if not row["ifname"].startswith(("ll-", "lo"))]
    for address in ours:
        with socket.create_server((address, 0)) as server:
            assert not reaches(hosts, pair["nyc3"], address, server.getsockname()[1])


def test_the_machines_own_forwarding_is_not_switched_on(lab: dict[str, str]) -> None:
    interfaces = [name for _, name in socket.if_nameindex() if not name.startswith(("ll-", "lo"))]
    for name in interfaces:
        with open(f"/proc/sys/net/ipv4/conf/{name}/forwarding") as setting:  # noqa: PTH123
            assert setting.read() == "0\n" or network_forwards_anyway()


def network_forwards_anyway() -> bool:
    """This machine was a router before."""
    with open("/proc/sys/net/ipv4/ip_forward") as setting:  # noqa: PTH123
        return setting.read() == "1\n"


# --- names and metadata ----------------------------------------------------------------------------------------------


def ask(name: str, kind: str = "A", tcp: bool = False) -> tuple[str, list[tuple[str, int]]]:
    reply = DNSRecord.parse(DNSRecord.question(name, kind).send(config.DNS_ADDRESS, 53, tcp=tcp, timeout=3))
    return RCODE[reply.header.rcode], [(str(rr.rdata), rr.ttl) for rr in reply.rr]


@pytest.fixture
def cloud(lab: dict[str, str]) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {lab['DIGITALOCEAN_TOKEN']}"}
    trusted = ssl.create_default_context(cafile=lab["SSL_CERT_FILE"])
    url = lab["DIGITALOCEAN_API_URL"]
    with httpx.Client(base_url=url, headers=headers, trust_env=False, verify=trusted, timeout=30) as client:
        yield client


@pytest.mark.parametrize("tcp", [False, True])
def test_dns_answers_with_the_apis_records_and_follows_each_change(cloud: httpx.Client, tcp: bool) -> None:
    domain = f"tcp{tcp}.test".lower()
    assert ask(f"www.{domain}", tcp=tcp)[0] == "REFUSED"
    assert cloud.post("/v2/domains", json={"name": domain}).status_code == 201
    record = {"type": "A", "name": "www", "data": "198.18.1.10", "ttl": 30}
    made = cloud.post(f"/v2/domains/{domain}/records", json=record).json()["domain_record"]
    assert ask(f"www.{domain}", tcp=tcp) == ("NOERROR", [("198.18.1.10", 30)])
    cloud.put(f"/v2/domains/{domain}/records/{made['id']}", json={**record, "data": "198.18.2.10"})
    assert ask(f"www.{domain}", tcp=tcp) == ("NOERROR", [("198.18.2.10", 30)])
    assert ask(f"www.{domain}", "AAAA", tcp=tcp) == ("NOERROR", [])
    assert ask(f"ftp.{domain}", tcp=tcp) == ("NXDOMAIN", [])
    cloud.delete(f"/v2/domains/{domain}")
    assert ask(f"www.{domain}", tcp=tcp)[0] == "REFUSED"


def test_spaces_have_names_at_virtual_hosts_too(lab: dict[str, str]) -> None:
    for region in config.REGIONS.values():
        assert ask(f"any-bucket.{region.spaces_name}") == ("NOERROR", [(region.spaces, 60)])


def test_a_droplet_reads_its_own_metadata_also_behind_a_firewall(cloud: httpx.Client, lab: dict[str, str]) -> None:
    wanted = {"name": "meta", "region": "ams3", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}
    made = cloud.post("/v2/droplets", json=wanted).json()["droplet"]["id"]
    try:
        eventually(
            lambda: cloud.get(f"/v2/droplets/{made}").json()["droplet"]["status"] == "active", 30, "droplet is active"
        )
        closed = {"name": "closed", "droplet_ids": [made], "inbound_rules": [], "outbound_rules": []}
        opened = {"protocol": "tcp", "ports": "9", "destinations": {"addresses": ["198.18.1.1"]}}
        firewall = cloud.post("/v2/firewalls", json={**closed, "outbound_rules": [opened]})
        assert firewall.status_code == 202, firewall.text
        inside = ["ip", "netns", "exec", network.namespace_of(made)]
        url = f"http://{config.METADATA_ADDRESS}/metadata/v1.json"
        done = subprocess.run(
            [*inside, "curl", "-s", "--noproxy", "*", "-m", "5", url], capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout)["droplet_id"] == made
        cloud.delete(f"/v2/firewalls/{firewall.json()['firewall']['id']}")
    finally:
        cloud.delete(f"/v2/droplets/{made}")
        eventually(lambda: cloud.get(f"/v2/droplets/{made}").status_code == 404, 30, "droplet is gone")
