"""`pulumi up`, `preview`, `refresh` and `destroy` hold: on a loopback cloud with the stand-ins and with the real
DigitalOcean plugin (where it is on PATH), and on the lab with its real hosts.

One stack per cloud, taken through its life in the order below; each test leaves it as the next one expects it: up and
unchanged.
"""

from __future__ import annotations

import json
import shutil
import ssl
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config

from infra import retention
from lab import ageing
from lab.config import KeyPair
from lab.objectstore import StoreSpec
from lifeline import standing
from lifeline.cloud import DigitalOcean
from lifeline.model import Inventory
from runbooks import infrastructure
from tests.contract.pulumi_cloud import ROOT, Pulumi, loopback_cloud, stores
from tests.contract.stores import outcome

# Without root the loopback half would run anywhere; both need the Pulumi CLI, which `make test` brings.
pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.xdist_group("pulumi")]

LISTED = (
    "/v2/domains/genesis.test/records",
    "/v2/firewalls",
    "/v2/vpcs",
    "/v2/tags",
    "/v2/uptime/checks",
    "/v2/projects",
)
# What Pulumi, program and API do among themselves has nothing to do with what a droplet is: not on real hosts again.
HOSTS_DONT_MATTER = pytest.mark.parametrize("cloud", ["loopback", "real-plugin"], indirect=True, scope="module")
PROTECTED = ('protect: "false"', 'protect: "true"')  # as a real stack is
UP_WITHIN_S = 30.0  # two droplets in parallel and some fifty resources; about 5 s on loopback, 10 s with real hosts


class Cloud:
    """A cloud with the stack `lab` in it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.pulumi = Pulumi(env)

    def api(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """A call behind Pulumi's back."""
        headers = {"authorization": f"Bearer {self.env['DIGITALOCEAN_TOKEN']}"}
        trusted = ssl.create_default_context(cafile=self.env.get("SSL_CERT_FILE"))
        with httpx.Client(
            base_url=self.env["DIGITALOCEAN_API_URL"], headers=headers, trust_env=False, verify=trusted
        ) as client:
            response = client.request(method, path, json=body, timeout=30)
        response.raise_for_status()
        return response.json() if response.content else None

    def resources(self) -> list[dict[str, Any]]:
        exported = json.loads(self.pulumi("stack", "export").stdout)
        return list(exported["deployment"].get("resources", []))

    def droplets(self) -> dict[str, str]:
        """Ids by name."""
        return {one["name"]: str(one["id"]) for one in self.api("GET", "/v2/droplets?per_page=200")["droplets"]}

    def wait_gone(self, droplet: str) -> None:
        deadline = time.monotonic() + 60
        while any(str(one["id"]) == droplet for one in self.api("GET", "/v2/droplets?per_page=200")["droplets"]):
            assert time.monotonic() < deadline, f"droplet {droplet} is still there"
            time.sleep(0.1)


def changed_stack(directory: Path, *changes: tuple[str, str]) -> str:
    """Another file, the lab's stack with these changes: its path."""
    text = (ROOT / "stacks" / "Pulumi.lab.yaml").read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (directory / "Pulumi.lab.yaml").write_text(text)
    return str(directory / "Pulumi.lab.yaml")


@pytest.fixture(scope="module", params=["loopback", "real-plugin", "lab"])
def cloud(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """The stack is up when a test begins."""
    if request.param == "lab":
        lab = request.getfixturevalue("lab_session")
        if not lab.ours:
            pytest.skip("a lab was up before the tests: its stack isn't theirs to destroy (fab lab.down)")
        made = Cloud(lab.env)
        made.pulumi("up", "--yes", "--skip-preview")
        yield made
        return
    plugin = shutil.which("pulumi-resource-digitalocean") if request.param == "real-plugin" else None
    if request.param == "real-plugin" and not plugin:
        pytest.skip("the real DigitalOcean plugin is not on PATH")
    with loopback_cloud(tmp_path_factory.mktemp("pulumi"), Path(plugin) if plugin else None) as env:
        made = Cloud(env)
        made.pulumi("stack", "init", "lab")
        made.pulumi("up", "--yes", "--skip-preview")
        yield made


def test_a_second_up_finds_nothing_to_do_and_soon(cloud: Cloud) -> None:
    started = time.monotonic()
    cloud.pulumi("up", "--yes", "--skip-preview", "--expect-no-changes")
    assert time.monotonic() - started < UP_WITHIN_S


@HOSTS_DONT_MATTER
def test_preview_and_refresh_find_no_change(cloud: Cloud) -> None:
    cloud.pulumi("preview", "--expect-no-changes")
    cloud.pulumi("refresh", "--yes", "--skip-preview", "--expect-no-changes")
    cloud.pulumi("preview", "--expect-no-changes")


@HOSTS_DONT_MATTER
def test_the_checkout_stays_as_it_was(cloud: Cloud) -> None:
    """A stack file that Pulumi rewrites would be a change to commit after every lab."""
    text = (ROOT / "stacks" / "Pulumi.lab.yaml").read_text()
    cloud.pulumi("preview")
    assert (ROOT / "stacks" / "Pulumi.lab.yaml").read_text() == text
    assert "secure:" not in text


def test_the_inventory_is_what_the_library_reads(cloud: Cloud) -> None:
    inventory = Inventory.from_json(cloud.pulumi.inventory())
    assert [host.home_role for host in inventory.hosts] == ["primary", "backup"]
    assert inventory.record.fqdn == "trade.genesis.test"
    assert all(host.vault_key and host.offsite_key for host in inventory.hosts)
    assert inventory.vault.endpoint == "http://ams3.spaces.test"
    assert inventory.cloud_api == cloud.env["DIGITALOCEAN_API_URL"]


@HOSTS_DONT_MATTER
def test_secrets_are_secrets_everywhere(cloud: Cloud) -> None:
    """Not in the output without --show-secrets, not in the state in the clear."""
    inventory = cloud.pulumi.inventory()
    secrets = [host[key]["secret_key"] for host in inventory["hosts"] for key in ("vault_key", "offsite_key")]
    seed = Path(cloud.env["LIFELINE_SEED_FILE"]).read_text().strip()
    shown = cloud.pulumi("stack", "output", "--json").stdout + cloud.pulumi("stack", "export").stdout
    assert all(secret and secret not in shown for secret in secrets)
    assert seed not in shown
    assert "PRIVATE KEY" not in shown


def test_a_droplet_deleted_behind_its_back_is_rebuilt_with_its_identity(cloud: Cloud) -> None:
    before = Inventory.from_json(cloud.pulumi.inventory()).home_primary
    cloud.api("DELETE", f"/v2/droplets/{before.droplet_id}")
    cloud.wait_gone(before.droplet_id)
    cloud.pulumi("up", "--refresh", "--yes", "--skip-preview")
    after = Inventory.from_json(cloud.pulumi.inventory()).home_primary
    assert after.droplet_id != before.droplet_id
    assert (after.name, after.host_key, after.vault_key) == (before.name, before.host_key, before.vault_key)
    records = cloud.api("GET", "/v2/domains/genesis.test/records?per_page=200")["domain_records"]
    assert [one["data"] for one in records if one["name"] == after.name and one["type"] == "A"] == [after.address]
    cloud.pulumi("preview", "--expect-no-changes")
    cloud.pulumi("refresh", "--yes", "--skip-preview", "--expect-no-changes")


@HOSTS_DONT_MATTER
def test_a_failover_of_the_record_is_no_change_even_after_a_refresh(cloud: Cloud) -> None:
    inventory = Inventory.from_json(cloud.pulumi.inventory())
    path = f"/v2/domains/genesis.test/records/{inventory.record.id}"
    record = {"type": "A", "name": "trade", "ttl": 30, "data": inventory.home_backup.address}
    cloud.api("PUT", path, record)
    cloud.pulumi("preview", "--expect-no-changes")
    cloud.pulumi("up", "--refresh", "--yes", "--skip-preview")
    assert cloud.api("GET", path)["domain_record"]["data"] == inventory.home_backup.address
    cloud.api("PUT", path, {**record, "data": inventory.home_primary.address})
    cloud.pulumi("refresh", "--yes", "--skip-preview")


@HOSTS_DONT_MATTER
def test_another_ttl_after_a_failover_leaves_the_record_where_it_is(cloud: Cloud, tmp_path: Path) -> None:
    """A provider writes all of a record when a part of it changes, with the address that it knew."""
    inventory = Inventory.from_json(cloud.pulumi.inventory())
    path = f"/v2/domains/genesis.test/records/{inventory.record.id}"
    record = {"type": "A", "name": "trade", "ttl": 30, "data": inventory.home_backup.address}
    cloud.api("PUT", path, record)
    cloud.pulumi(
        "up",
        "--yes",
        "--skip-preview",
        "--config-file",
        changed_stack(tmp_path, ('recordTtl: "30"', 'recordTtl: "60"')),
    )
    assert cloud.api("GET", path)["domain_record"]["data"] == inventory.home_backup.address
    assert Inventory.from_json(cloud.pulumi.inventory()).record.ttl == 60
    cloud.api("PUT", path, {**record, "data": inventory.home_primary.address})
    cloud.pulumi("up", "--yes", "--skip-preview")


@HOSTS_DONT_MATTER
def test_a_fenced_key_is_made_anew(cloud: Cloud) -> None:
    """Fencing deletes a host's Spaces key; the next `up --refresh` gives the host another one."""
    before = Inventory.from_json(cloud.pulumi.inventory()).home_primary.vault_key
    assert before is not None
    cloud.api("DELETE", f"/v2/spaces/keys/{before.access_key}")
    cloud.pulumi("up", "--refresh", "--yes", "--skip-preview")
    after = Inventory.from_json(cloud.pulumi.inventory()).home_primary.vault_key
    assert after is not None and after.access_key != before.access_key
    assert after.secret_key != before.secret_key


def test_drift_is_seen_and_put_right(cloud: Cloud) -> None:
    firewalls = cloud.api("GET", "/v2/firewalls?per_page=200")["firewalls"]
    changed = next(one for one in firewalls if one["name"] == "genesis-lab-nyc3")
    closed = [rule for rule in changed["inbound_rules"] if rule["ports"] != "8080"]
    cloud.api("PUT", f"/v2/firewalls/{changed['id']}", {**changed, "inbound_rules": closed})
    refused = cloud.pulumi("preview", "--refresh", "--expect-no-changes", check=False)
    assert refused.returncode != 0
    cloud.pulumi("up", "--refresh", "--yes", "--skip-preview")
    mended = cloud.api("GET", f"/v2/firewalls/{changed['id']}")["firewall"]
    assert "8080" in [rule["ports"] for rule in mended["inbound_rules"]]


def test_a_host_may_do_with_the_stores_what_it_needs_and_no_more(cloud: Cloud) -> None:
    inventory = Inventory.from_json(cloud.pulumi.inventory())
    host = inventory.home_primary
    assert host.offsite_key is not None
    s3 = boto3.client(
        "s3",
        endpoint_url=inventory.offsite.endpoint,
        region_name=inventory.offsite.region,
        aws_access_key_id=host.offsite_key.access_key,
        aws_secret_access_key=host.offsite_key.secret_key,
        config=Config(s3={"addressing_style": "path"}, proxies={}, request_checksum_calculation="when_required"),
    )
    lease = inventory.lease_store.bucket
    s3.put_object(Bucket=lease, Key="lease/genesis.json", Body=b"{}")
    stored = s3.put_object(Bucket=inventory.offsite.bucket, Key="snapshots/genesis/config", Body=b"x")
    object_ = {"Bucket": inventory.offsite.bucket, "Key": "snapshots/genesis/config"}
    for call, arguments in (
        (s3.put_object, {"Bucket": lease, "Key": "lease/other.json", "Body": b"{}"}),
        (s3.delete_object, {"Bucket": lease, "Key": "lease/genesis.json"}),
        (s3.delete_object, object_),
        (s3.delete_object, {**object_, "VersionId": stored["VersionId"]}),
    ):
        with pytest.raises(s3.exceptions.ClientError, match="AccessDenied"):
            call(**arguments)


def test_what_the_rules_say_expires_and_nothing_else_at_any_age(cloud: Cloud) -> None:
    """Objects of both buckets grow old in their stores, and the stores apply the rules that Pulumi has put there."""
    inventory = Inventory.from_json(cloud.pulumi.inventory())
    vault = Aged(stores(cloud.env)["ams3"], inventory.vault.bucket)
    offsite = Aged(stores(cloud.env)["aws"], inventory.offsite.bucket)
    before = {bucket.name: bucket.current() for bucket in (vault, offsite)}  # other tests' objects never expire either
    assert not [key for keys in before.values() for key in keys if key.startswith(retention.EXPIRING)]
    for bucket in (vault, offsite):
        for prefix in (*retention.EXPIRING, *retention.NEVER_EXPIRING):
            bucket.put(f"{prefix}old")
        bucket.put("replica/twice")
        bucket.put("replica/twice")
        bucket.put("replica/gone")
        bucket.client.delete_object(Bucket=bucket.name, Key="replica/gone")
        bucket.client.create_multipart_upload(Bucket=bucket.name, Key="replica/unfinished")
    ours = {f"{prefix}old" for prefix in (*retention.EXPIRING, *retention.NEVER_EXPIRING)} | {"replica/twice"}
    for bucket in (vault, offsite):
        everything = ours | before[bucket.name]
        chains = {key for key in everything if not key.startswith(retention.EXPIRING)}
        assert bucket.versions() == {**dict.fromkeys(everything, 1), "replica/twice": 2, "replica/gone": 2}
        bucket.grow(days=2)  # abortUploadDays is 1
        assert bucket.uploads() == [] and bucket.versions()["replica/twice"] == 2
        bucket.grow(days=29)  # noncurrentDays is 30, and so is lockDays
        assert bucket.versions() == dict.fromkeys(everything, 1)  # and no marker of what was deleted
        bucket.grow(days=335)  # retentionDays is 365
        assert bucket.current() == chains
        bucket.put("journal/new")
        bucket.grow(days=31)
        assert bucket.versions() == dict.fromkeys(chains | {"journal/new"}, 1)
        bucket.grow(days=3650)
        assert bucket.current() == chains


class Aged:
    """A bucket that time passes for, as the operator sees it."""

    def __init__(self, store: StoreSpec, name: str) -> None:
        self.store, self.name = store, name
        self.client = boto3.client(
            "s3",
            endpoint_url=store.inside_endpoint,
            region_name=store.region,
            aws_access_key_id=store.admin.access_key,
            aws_secret_access_key=store.admin.secret_key,
            config=Config(s3={"addressing_style": "path"}, proxies={}),
        )

    def put(self, key: str) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=b"x")

    def grow(self, days: int) -> None:
        ageing.age(self.store, self.name, days)
        ageing.run_lifecycle(self.store)

    def current(self) -> set[str]:
        return {one["Key"] for one in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])}

    def versions(self) -> dict[str, int]:
        """How many there are of each key, the markers of deletions among them."""
        answer = self.client.list_object_versions(Bucket=self.name)
        found = [*answer.get("Versions", []), *answer.get("DeleteMarkers", [])]
        return dict(Counter(one["Key"] for one in found))

    def uploads(self) -> list[str]:
        return [one["Key"] for one in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])]


@pytest.mark.parametrize("mode", ["governance", "compliance"])
def test_nobody_removes_a_locked_version_before_its_time(cloud: Cloud, mode: str) -> None:
    """Not with the host's key, nor with the operator's; governance gives way to the right to bypass it, compliance to
    nobody. With the lock's end it is an object like any other."""
    inventory = Inventory.from_json(cloud.pulumi.inventory())
    assert inventory.home_primary.offsite_key is not None
    locked = Aged(stores(cloud.env)["aws"], inventory.offsite.bucket)
    key = inventory.home_primary.offsite_key
    host = Aged(replace(locked.store, admin=KeyPair(key.access_key, key.secret_key)), locked.name)
    name = f"replica/genesis/epoch-0001/{mode}"
    if mode == "governance":
        host.put(name)
        retained = locked.client.get_object_retention(Bucket=locked.name, Key=name)["Retention"]
        assert retained["Mode"] == "GOVERNANCE"
        assert timedelta(days=29) < retained["RetainUntilDate"] - datetime.now(UTC) <= timedelta(days=30)
    else:
        until = datetime.now(UTC) + timedelta(days=30)
        locked.client.put_object(
            Bucket=locked.name, Key=name, Body=b"x", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until
        )
    (version,) = locked.client.list_object_versions(Bucket=locked.name, Prefix=name)["Versions"]
    object_ = {"Bucket": locked.name, "Key": name, "VersionId": version["VersionId"]}
    sooner = {"Mode": mode.upper(), "RetainUntilDate": datetime.now(UTC) + timedelta(minutes=1)}
    for client in (host.client, locked.client):
        assert outcome(client.delete_object, **object_) == "AccessDenied"
        assert outcome(client.put_object_retention, **object_, Retention=sooner) == "AccessDenied"
    assert outcome(host.client.delete_object, Bucket=locked.name, Key=name) == "AccessDenied"
    assert outcome(host.client.delete_object, **object_, BypassGovernanceRetention=True) == "AccessDenied"
    locked.client.delete_object(Bucket=locked.name, Key=name)  # the operator may hide it: the version is still there
    assert locked.versions()[name] == 2
    assert locked.client.get_object(**object_)["Body"].read() == b"x"
    bypassed = outcome(locked.client.delete_object, **object_, BypassGovernanceRetention=True)
    assert bypassed == ("ok" if mode == "governance" else "AccessDenied")
    if mode == "compliance":
        ageing.age(locked.store, locked.name, 31, name)
        assert outcome(locked.client.delete_object, **object_) == "ok"
    assert locked.versions()[name] == 1  # the marker


@HOSTS_DONT_MATTER
@pytest.mark.parametrize("change", ["the operator's key", "the image"])
def test_what_can_wait_for_the_next_rebuild_replaces_no_host(cloud: Cloud, tmp_path: Path, change: str) -> None:
    """Both hosts replaced at once is the disaster, not the recovery."""
    env, text = dict(cloud.env), (ROOT / "stacks" / "Pulumi.lab.yaml").read_text()
    if change == "the image":
        text = text.replace("debian-13-x64", "debian-14-x64")
    else:
        env["LIFELINE_SSH_KEY"] = str(tmp_path / "other")
        (tmp_path / "other.pub").write_text(f"ssh-ed25519 {'A' * 68} other\n")
    (tmp_path / "Pulumi.lab.yaml").write_text(text)
    shown = Pulumi(env)("preview", "--json", "--config-file", str(tmp_path / "Pulumi.lab.yaml")).stdout
    steps = {step["urn"].rpartition("::")[2]: step["op"] for step in json.loads(shown)["steps"]}
    assert set(steps) == {"lifeline-lab", *(["operator-key"] if change == "the operator's key" else [])}, steps


@HOSTS_DONT_MATTER
def test_a_host_is_replaced_on_purpose_only(cloud: Cloud, tmp_path: Path) -> None:
    """Pulumi knows no lease: what would delete a droplet is refused, until a person says which one."""
    cloud.pulumi("up", "--yes", "--skip-preview", "--config-file", changed_stack(tmp_path, PROTECTED))
    before = cloud.droplets()
    network = ("vpcRange: 10.10.1.0/24", "vpcRange: 10.10.7.0/24")
    for change in (
        network,
        ("region: nyc3", "region: fra1"),
        ("name: primary-newyork", "name: primary-elsewhere"),
        ("domain: genesis.test", "domain: other.test"),
    ):
        refused = cloud.pulumi("preview", "--config-file", changed_stack(tmp_path, PROTECTED, change), check=False)
        assert refused.returncode != 0 and "protect" in refused.stdout + refused.stderr, change
    moved = changed_stack(tmp_path, PROTECTED, network)
    refused = cloud.pulumi("up", "--yes", "--skip-preview", "--config-file", moved, check=False)
    assert refused.returncode != 0 and cloud.droplets() == before

    ends = ("Vpc::primary-newyork-vpc", "Droplet::primary-newyork")
    chosen = [one["urn"] for one in cloud.resources() if one["urn"].endswith(ends)]
    assert len(chosen) == 2
    for urn in chosen:
        cloud.pulumi("state", "unprotect", "--yes", urn)
    cloud.pulumi("up", "--yes", "--skip-preview", "--config-file", moved)
    after = cloud.droplets()
    assert after["primary-newyork"] != before["primary-newyork"]
    assert after["backup-singapore"] == before["backup-singapore"]
    assert all(one["protect"] for one in cloud.resources() if one["urn"] in chosen)

    cloud.api("DELETE", f"/v2/droplets/{after['primary-newyork']}")
    cloud.wait_gone(after["primary-newyork"])
    cloud.pulumi("up", "--refresh", "--yes", "--skip-preview", "--config-file", moved)
    assert cloud.droplets()["primary-newyork"] != after["primary-newyork"]
    cloud.pulumi("up", "--yes", "--skip-preview", "--config-file", changed_stack(tmp_path, network))
    cloud.pulumi("up", "--yes", "--skip-preview")


@HOSTS_DONT_MATTER
def test_a_mistake_in_the_configuration_is_one_message_and_no_traceback(cloud: Cloud, tmp_path: Path) -> None:
    text = (ROOT / "stacks" / "Pulumi.lab.yaml").read_text()
    wrong = tmp_path / "Pulumi.lab.yaml"
    wrong.write_text(text.replace("region: sgp1", "region: nyc3").replace('recordTtl: "30"', 'recordTtl: "5"'))
    refused = cloud.pulumi("preview", "--config-file", str(wrong), check=False)
    said = refused.stdout + refused.stderr
    assert refused.returncode != 0
    assert "lifeline:recordTtl is" in said
    assert "Traceback" not in said


@HOSTS_DONT_MATTER
def test_a_new_state_takes_over_what_the_lost_one_knew(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `fab rebuild` does it, with all but droplets and state still standing: nothing is made twice or emptied."""
    for name, value in cloud.env.items():
        monkeypatch.setenv(name, value)
    lost = Inventory.from_json(cloud.pulumi.inventory())
    before = {path: cloud.api("GET", f"{path}?per_page=200")["meta"]["total"] for path in LISTED}
    for host in lost.hosts:
        cloud.api("DELETE", f"/v2/droplets/{host.droplet_id}")
        cloud.wait_gone(host.droplet_id)
    shutil.rmtree(Path(cloud.env["PULUMI_BACKEND_URL"].removeprefix("file://")) / ".pulumi")
    clouds = infrastructure.Pulumi(ROOT, lost, DigitalOcean.from_environment(lost.cloud_api))
    assert clouds.known() == []
    for host in lost.hosts:
        assert host.vault_key and host.offsite_key
        cloud.api("DELETE", f"/v2/spaces/keys/{host.vault_key.access_key}")
        assert clouds.owner(host.offsite_key.access_key) == f"genesis-lab-{host.name}"
        clouds.revoke(host.offsite_key.access_key)
        assert clouds.owner(host.offsite_key.access_key) is None
    there = {**clouds.standing(), **standing.records("genesis.test", clouds.addresses("genesis.test"))}
    clouds.bring_up(there, lambda line: None)
    made = Inventory.from_json(cloud.pulumi.inventory())
    assert (made.vault, made.offsite, made.lease_store) == (lost.vault, lost.offsite, lost.lease_store)
    assert [host.host_key for host in made.hosts] == [host.host_key for host in lost.hosts]
    assert {path: cloud.api("GET", f"{path}?per_page=200")["meta"]["total"] for path in LISTED} == before
    left = standing.without(there, clouds.known())
    assert not [name for ones in left.values() for name in ones if "genesis" in name]
    cloud.pulumi("preview", "--expect-no-changes")
    cloud.pulumi("refresh", "--yes", "--skip-preview", "--expect-no-changes")


@HOSTS_DONT_MATTER
def test_destroy_stops_at_what_is_protected(cloud: Cloud, tmp_path: Path) -> None:
    protected = changed_stack(tmp_path, PROTECTED)
    cloud.pulumi("up", "--yes", "--skip-preview", "--config-file", protected)
    before, droplets = {one["urn"] for one in cloud.resources()}, cloud.droplets()
    refused = cloud.pulumi("destroy", "--yes", "--config-file", protected, check=False)
    assert refused.returncode != 0 and {one["urn"] for one in cloud.resources()} == before
    refused = cloud.pulumi("destroy", "--yes", "--skip-preview", "--config-file", protected, check=False)
    assert refused.returncode != 0 and cloud.droplets() == droplets
    left = {one["urn"].rpartition("::")[2] for one in cloud.resources()}
    hosts = {f"{name}-{part}" for name in droplets for part in ("vpc", "firewall", "tag")}
    assert left >= {"vault-bucket", "offsite-bucket", "lease-bucket", "domain", "second-zone", *hosts}
    # As docs/infrastructure.md says of --skip-preview.
    assert not left & {"service-record", "primary-newyork-vault-key", "primary-newyork-offsite-key", "offsite-lock"}
    cloud.pulumi("up", "--yes", "--skip-preview")


@HOSTS_DONT_MATTER
def test_destroy_leaves_a_zone_that_is_not_the_stacks_own(cloud: Cloud, tmp_path: Path) -> None:
    """With what others have in it: mail, the web, and whatever else."""
    cloud.api("POST", "/v2/domains/genesis.test/records", {"type": "A", "name": "www", "data": "198.18.9.9"})
    shared = changed_stack(tmp_path, ('ownZone: "true"', 'ownZone: "false"'))
    cloud.pulumi("up", "--yes", "--skip-preview", "--config-file", shared)
    cloud.pulumi("destroy", "--yes", "--skip-preview", "--config-file", shared)
    assert cloud.resources() == []
    records = cloud.api("GET", "/v2/domains/genesis.test/records?per_page=200")["domain_records"]
    assert {one["name"] for one in records if one["type"] == "A"} == {"www"}
    cloud.api("DELETE", "/v2/domains/genesis.test")
    cloud.pulumi("up", "--yes", "--skip-preview")


def test_destroy_leaves_nothing_and_it_comes_up_again(cloud: Cloud) -> None:
    """Last: with objects in its buckets, some of them locked."""
    cloud.pulumi("destroy", "--yes", "--skip-preview")
    assert cloud.resources() == []
    assert cloud.api("GET", "/v2/droplets?per_page=200")["droplets"] == []
    assert cloud.api("GET", "/v2/spaces/keys?per_page=200")["keys"] == []
    cloud.pulumi("up", "--yes", "--skip-preview")
    cloud.pulumi("preview", "--expect-no-changes")
