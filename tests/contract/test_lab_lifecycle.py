"""Up repairs, down leaves nothing: from every state the lab can be found in."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from lab import config, faults, lifecycle, parts
from lab.config import LabConfig
from lab.machines import NspawnMachines, group_of
from lab.processes import Group, groups
from lifeline.errors import BadConfig, StepFailed
from tests.conftest import RunningLab
from tests.contract.lab_hosts import eventually
from toolchain import image

pytestmark = pytest.mark.lab


def silent(_: str) -> None:
    pass


def api(env: dict[str, str]) -> httpx.Client:
    headers = {"Authorization": f"Bearer {env['DIGITALOCEAN_TOKEN']}"}
    trusted = ssl.create_default_context(cafile=env["SSL_CERT_FILE"])
    url = env["DIGITALOCEAN_API_URL"]
    return httpx.Client(base_url=url, headers=headers, trust_env=False, verify=trusted, timeout=30)


def make_droplet(env: dict[str, str], name: str) -> int:
    """A droplet through the API, active."""
    wanted = {"name": name, "region": "nyc3", "size": "s-1vcpu-1gb", "image": "debian-13-x64"}
    with api(env) as cloud:
        made = int(cloud.post("/v2/droplets", json=wanted).json()["droplet"]["id"])
    eventually(lambda: droplet_status(env, made) == "active", 30, "droplet is active")
    return made


def droplet_status(env: dict[str, str], droplet_id: int) -> str:
    with api(env) as cloud:
        return str(cloud.get(f"/v2/droplets/{droplet_id}").json()["droplet"]["status"])


@pytest.fixture
def droplet(lab: dict[str, str], request: pytest.FixtureRequest) -> Iterator[int]:
    """A droplet of the API named like the test."""
    made = make_droplet(lab, request.node.name[:60].replace("_", "-"))
    yield made
    lifecycle.up(silent)
    with api(lab) as cloud:
        cloud.delete(f"/v2/droplets/{made}")
        eventually(lambda: cloud.get(f"/v2/droplets/{made}").status_code == 404, 30, "droplet is gone")


def test_up_again_restarts_nothing(lab: dict[str, str]) -> None:
    before = {group.name: group.pids() for group in groups()}
    lifecycle.up(silent)
    assert {group.name: group.pids() for group in groups()} == before


@pytest.mark.parametrize("part", ["api", "dns", "store-nyc3", "providers"])
def test_up_repairs_what_died(lab: dict[str, str], part: str) -> None:
    faults.service_down(part)
    assert not lifecycle.status().healthy
    lifecycle.up(silent)
    assert lifecycle.status().healthy


def test_up_replaces_what_hangs(lab: dict[str, str]) -> None:
    faults.service_hang("dns")
    lifecycle.up(silent)
    assert lifecycle.status().healthy


def test_droplets_live_through_a_crash_of_the_api_and_their_power_is_told_as_it_is(
    lab: dict[str, str], droplet: int
) -> None:
    init = Group(group_of(droplet)).pids()[0]
    faults.api_down()
    lifecycle.up(silent)
    assert Group(group_of(droplet)).pids()[0] == init
    assert droplet_status(lab, droplet) == "active"
    faults.power_cut(str(droplet))
    assert droplet_status(lab, droplet) == "off"
    faults.power_back(str(droplet))
    assert droplet_status(lab, droplet) == "active"


def test_a_frozen_droplet_keeps_its_connections_and_goes_on_when_thawed(lab: dict[str, str], droplet: int) -> None:
    lab_config = LabConfig.load(Path(lab["LIFELINE_LAB"]) / "lab.json")
    address = NspawnMachines(lab_config.state, image.path()).spec(droplet).interfaces[0].address

    def banner() -> bool:
        command = ["ssh-keyscan", "-T", "1", "-t", "ed25519", address]
        return b"ssh-ed25519" in subprocess.run(command, capture_output=True, check=False).stdout

    eventually(banner, 30, "sshd answers")
    faults.freeze(str(droplet))
    assert not banner()
    assert droplet_status(lab, droplet) == "active"
    faults.thaw(str(droplet))
    eventually(banner, 10, "sshd answers again")


def test_env_is_a_shell_script_that_gives_the_promised_names(lab: dict[str, str]) -> None:
    promised = """
        PATH DIGITALOCEAN_TOKEN DIGITALOCEAN_API_URL SPACES_ENDPOINT_URL SPACES_ACCESS_KEY_ID SPACES_SECRET_ACCESS_KEY
        AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_REGION AWS_ENDPOINT_URL_S3 AWS_ENDPOINT_URL_IAM
        AWS_ENDPOINT_URL_STS AWS_ENDPOINT_URL_ROUTE_53 AWS_ENDPOINT_URL_S3_CONTROL http_proxy no_proxy
        PULUMI_BACKEND_URL PULUMI_CONFIG_PASSPHRASE_FILE PULUMI_STACK
        PULUMI_HOME PULUMI_SKIP_UPDATE_CHECK LIFELINE_STACK LIFELINE_SSH_KEY LIFELINE_PASSPHRASE_FILE LIFELINE_DNS
        SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
    """.split()  # noqa: SIM905 - one name a word reads better than thirty quotes
    check = 'eval "$1"; shift; for name; do [ -n "${!name}" ] || echo "$name"; done; dig +short ams3.spaces.test'
    argv = ["bash", "-euc", check, "-", lifecycle.env_script(), *promised]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]})
    assert done.stdout.split() == [config.REGIONS["ams3"].spaces]


PYDO = """
import os
import re
from pydo import Client
client = Client(token=os.environ["DIGITALOCEAN_TOKEN"], endpoint=os.environ["DIGITALOCEAN_API_URL"])
print(client.account.get()["account"]["status"], isinstance(client.droplets.list()["droplets"], list))
"""


def test_pydo_and_curl_work_in_the_operators_shell_as_they_are(lab: dict[str, str]) -> None:
    check = 'eval "$1"; python -c "$2"; curl -s -o /dev/null -w %{http_code} "$DIGITALOCEAN_API_URL/v2/account"'
    argv = ["bash", "-euc", check, "-", lifecycle.env_script(), PYDO]
    # Like a shell with settings of its own, which the script's must win over.
    other = {"PATH": os.environ["PATH"], "CURL_CA_BUNDLE": "/dev/null", "REQUESTS_CA_BUNDLE": "/dev/null"}
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=other)
    assert done.stdout.split() == ["active", "True", "401"]


def test_the_operators_shell_reaches_a_bucket_by_its_virtual_host_name(lab: dict[str, str]) -> None:
    url = "http://any-bucket.ams3.spaces.test/"
    argv = [sys.executable, "-c", f"import httpx; print(httpx.get({url!r}).status_code)"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=lab)
    assert done.stdout.strip() in ("403", "404")  # an answer of the store, not of a resolver


def test_a_part_that_fails_is_named_with_the_end_of_its_log(lab: dict[str, str]) -> None:
    lab_config = LabConfig.load(Path(lab["LIFELINE_LAB"]) / "lab.json")
    broken = replace(parts.dns(lab_config), name="broken", argv=("sh", "-c", "echo because of this; exit 3"))
    try:
        with pytest.raises(StepFailed, match=r"(?s)broken: it exited.*because of this"):
            parts.start(replace(broken, ready=lambda: False), parts.log_of(lab_config, "broken"))
    finally:
        Group("broken").remove()


# --- the end ---------------------------------------------------------------------------------------------------------


def machine_view() -> dict[str, object]:
    """What a lab must leave as it found it."""
    run_folders = [Path("/run/netns"), *Path("/run/systemd/nspawn").glob("*")]
    return {
        "links": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "mounts": sorted(line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()),
        "nft": subprocess.check_output(["nft", "list", "tables"], text=True),
        "rules": subprocess.check_output(["ip", "route", "show", "table", "all"], text=True),
        "forward": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "run": sorted(str(entry) for folder in run_folders if folder.is_dir() for entry in folder.iterdir()),
        "sockets": sorted(str(path) for path in Path("/tmp").glob("seaweedfs-*-181*.sock")),
    }


def no_process_of(state: Path) -> bool:
    """No living process mentions the lab's folder or runs in it."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_text()
            if re.search(rf"{re.escape(str(state))}(?![\w-])", words) and int(entry.name) != os.getpid():
                return False
        except OSError:
            continue
    return True


def leave_as_is(_: RunningLab) -> None:
    """An orderly down."""


def kill_everything(_: RunningLab) -> None:
    """kill -9 of every process of the lab, droplets included."""
    for group in groups():
        for pid in group.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def delete_the_state(lab: RunningLab) -> None:
    """Someone removed the folder while everything runs (mounted disks resist)."""
    shutil.rmtree(lab.state, ignore_errors=True)


@pytest.mark.parametrize("havoc", [leave_as_is, kill_everything, delete_the_state])
def test_down_leaves_nothing(ends_lab: RunningLab, havoc: Callable[[RunningLab], None]) -> None:
    lifecycle.down(say=silent)
    before = machine_view()
    lifecycle.up(silent)
    make_droplet(lifecycle.env(), "doomed")
    assert machine_view() != before
    havoc(ends_lab)
    lifecycle.down(say=silent)
    assert lifecycle.remains() == []
    assert machine_view() == before
    assert no_process_of(ends_lab.state)
    assert not ends_lab.state.exists()
    lifecycle.down(say=silent)  # again: nothing to do


def test_without_a_lab_env_and_status_say_what_to_type(ends_lab: RunningLab) -> None:
    lifecycle.down(say=silent)
    for verb in (lifecycle.env, lifecycle.status):
        with pytest.raises(BadConfig) as refused:
            verb()
        assert refused.value.hint == "fab lab.up"


def test_down_keeps_logs_when_asked_and_strangers_files_always(ends_lab: RunningLab) -> None:
    lifecycle.up(silent)
    stranger = ends_lab.state / "stranger"
    stranger.touch()
    lifecycle.down(keep_logs=True, say=silent)
    assert sorted(entry.name for entry in ends_lab.state.iterdir()) == ["logs", "stranger"]
    stranger.unlink()
    lifecycle.down(say=silent)
    assert not ends_lab.state.exists()
