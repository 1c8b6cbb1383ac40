"""A whole cloud on loopback, for `pulumi` to work on: the API with machines in memory, two object stores, IAM, and
the stand-ins.

Needs no root and none of the lab's addresses. The stores' S3 gateway takes absolute request URIs, so it serves as its
own `http_proxy`: that is how `bucket.ams3.spaces.test` reaches it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import aws as lab_aws
from lab.config import KeyPair, LabConfig
from lab.objectstore import AWS_ACCOUNT, SPACES_ACCOUNT, SeaweedSpaces, StoreSpec, specs
from lab.objectstore import server as store_server
from lab.ports import Spaces
from lab.servers import prepare, tidy

ROOT = Path(__file__).resolve().parents[2]
SPACES_DOMAIN = "ams3.spaces.test"
INSIDE = "127.78.0.1"  # the lab's own stores use 127.77
READY_WITHIN_S = 30.0
API_TOKEN = "dop_v1_" + "0" * 64


@dataclass
class MemoryMachines:
    """The port `Machines`, remembered and nothing else."""

    power: dict[int, str] = field(default_factory=dict)

    def create(self, spec: Any) -> None:
        self.power[spec.id] = "active"

    def destroy(self, droplet_id: int) -> None:
        self.power.pop(droplet_id, None)

    def power_on(self, droplet_id: int) -> None:
        self.power[droplet_id] = "active"

    def power_off(self, droplet_id: int) -> None:
        self.power[droplet_id] = "off"

    shutdown = power_off

    def rebuild(self, spec: Any) -> None:
        self.power[spec.id] = "active"

    def resize(self, spec: Any) -> None:
        return None

    def snapshot(self, droplet_id: int, snapshot_id: str) -> int:
        return 1 << 20

    def delete_snapshot(self, snapshot_id: str) -> None:
        return None

    def status(self, droplet_id: int) -> Any:
        return self.power.get(droplet_id, "absent")

    def set_firewall(self, droplet_id: int, rules: Any) -> None:
        return None


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, ready: Callable[[], bool], within_s: float = READY_WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within_s:g} s")
        time.sleep(0.05)


@contextlib.contextmanager
def process(argv: list[str], log: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs until the block ends; killed, as nothing here needs a clean end."""
    with log.open("wb") as output:
        started = subprocess.Popen(argv, stdout=output, stderr=output, env=dict(env), start_new_session=True)
        try:
            yield started
        finally:
            started.kill()
            started.wait()


def stores(env: Mapping[str, str]) -> dict[str, StoreSpec]:
    """The two stores that the stack's buckets are in, `ams3` and `aws`: of the lab, or of a loopback cloud."""
    if "LIFELINE_LAB" in env:
        return {spec.name: spec for spec in specs(LabConfig.load(Path(env["LIFELINE_LAB"]) / "lab.json"))}
    admins = (KeyPair(env[f"{who}_ACCESS_KEY_ID"], env[f"{who}_SECRET_ACCESS_KEY"]) for who in ("SPACES", "AWS"))
    where = ((28100, SPACES_DOMAIN), (28110, None))
    return {
        name: _spec(name, Path("/nonexistent"), port, domain, admin)
        for name, (port, domain), admin in zip(("ams3", "aws"), where, admins, strict=True)
    }


def _spec(name: str, directory: Path, inside_port: int, domain: str | None, admin: KeyPair) -> StoreSpec:
    account = SPACES_ACCOUNT if domain else AWS_ACCOUNT
    return StoreSpec(
        name=name,
        directory=directory / name,
        address="127.0.0.1",
        port=free_port(),
        inside_port=inside_port,
        domain=domain,
        admin=admin,
        account=account,
        region="ams3" if domain else "us-east-2",
        inside=INSIDE,
    )


@contextlib.contextmanager
def object_store(
    name: str, directory: Path, inside_port: int, domain: str | None, admin: KeyPair
) -> Iterator[StoreSpec]:
    spec = _spec(name, directory, inside_port, domain, admin)
    server = store_server(spec)
    prepare(server)
    with process(list(server.argv), directory / f"{name}.log", server.env):
        wait_for(f"store {name}", server.ready)
        yield spec
    tidy(server)


@contextlib.contextmanager
def iam(directory: Path, store: StoreSpec) -> Iterator[str]:
    """In a process of its own: moto keeps its accounts in global variables, and another test may have used them."""
    where = lab_aws.AwsSpec(directory / "iam", store, "127.0.0.1", free_port())
    server = multiprocessing.get_context("spawn").Process(target=_serve_iam, args=(where,), daemon=True)
    server.start()
    try:
        wait_for("IAM", lambda: _answers(where.address, where.port))
        yield f"http://127.0.0.1:{where.port}"
    finally:
        server.kill()
        server.join()


def _serve_iam(where: lab_aws.AwsSpec) -> None:
    listener, _ = lab_aws.listen(where)
    listener.serve_forever()


def _answers(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def digitalocean_api(directory: Path, spaces: Spaces) -> Iterator[str]:
    """The API on a loopback port, with machines in memory."""
    import uvicorn

    from lab.api.app import create_app
    from lab.api.config import Config, RegionConfig, Token

    regions = [
        RegionConfig(slug, f"ll-{slug}", f"198.18.{n}.0/24", f"198.18.{n}.1")
        for n, slug in enumerate(("nyc3", "sgp1", "ams3"), 1)
    ]
    port = free_port()
    config = Config(
        state_dir=directory / "api",
        tokens=(Token(API_TOKEN),),
        regions=tuple(regions),
        listen=f"127.0.0.1:{port}",
        uptime_period_s=3600.0,
    )
    config.state_dir.mkdir(parents=True, exist_ok=True)
    app = create_app(config, MemoryMachines(), spaces)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for("the API", lambda: server.started)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


@contextlib.contextmanager
def stand_ins(directory: Path, env: Mapping[str, str], packages: list[str]) -> Iterator[str]:
    """The value of PULUMI_DEBUG_PROVIDERS."""
    ports = directory / "providers.ports"
    argv = [sys.executable, "-m", "lab.providers", "--port-file", str(ports), *packages]
    with process(argv, directory / "providers.log", env):
        wait_for("the stand-ins", ports.exists)
        yield ports.read_text().strip()


@contextlib.contextmanager
def loopback_cloud(directory: Path, plugin: Path | None = None) -> Iterator[dict[str, str]]:
    """Yields the environment of a shell that works on it, the stack `lab` not yet made.

    `plugin`: the real DigitalOcean provider, to be used instead of its stand-in.
    """
    directory.mkdir(parents=True, exist_ok=True)
    spaces_admin, aws_admin = KeyPair("DO00TEST", "spaces-admin-secret"), KeyPair("AKIATEST", "aws-admin-secret")
    with contextlib.ExitStack() as stack:
        with ThreadPoolExecutor(2) as pool:  # each takes two seconds to answer
            starts = [
                pool.submit(stack.enter_context, object_store("ams3", directory, 28100, SPACES_DOMAIN, spaces_admin)),
                pool.submit(stack.enter_context, object_store("aws", directory, 28110, None, aws_admin)),
            ]
            spaces, store = (start.result() for start in starts)
        env = {
            **{name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ},
            "PATH": os.pathsep.join([str(pulumi_bin()), str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
            "VIRTUAL_ENV": str(Path(sys.executable).parent.parent),
            "PYTHONPATH": str(ROOT),
            "DIGITALOCEAN_TOKEN": API_TOKEN,
            "DIGITALOCEAN_API_URL": stack.enter_context(digitalocean_api(directory, SeaweedSpaces([spaces]))),
            "SPACES_ENDPOINT_URL": "http://{{.Region}}.spaces.test",
            "SPACES_ACCESS_KEY_ID": spaces_admin.access_key,
            "SPACES_SECRET_ACCESS_KEY": spaces_admin.secret_key,
            "AWS_ACCESS_KEY_ID": aws_admin.access_key,
            "AWS_SECRET_ACCESS_KEY": aws_admin.secret_key,
            "AWS_REGION": "us-east-2",
            "AWS_ENDPOINT_URL_S3": store.inside_endpoint,
            "AWS_ENDPOINT_URL_IAM": stack.enter_context(iam(directory, store)),
            "http_proxy": spaces.inside_endpoint,
            "no_proxy": f"127.0.0.1,{INSIDE}",
            "PULUMI_BACKEND_URL": f"file://{directory / 'state'}",
            "PULUMI_CONFIG_PASSPHRASE": "lifeline-lab",  # fits the salt in the stack file
            "PULUMI_HOME": str(directory / "pulumi-home"),
            "PULUMI_SKIP_UPDATE_CHECK": "1",
            "PULUMI_STACK": "lab",
            "LIFELINE_SEED_FILE": str(directory / "seed"),
            "LIFELINE_SSH_KEY": str(directory / "operator"),
        }
        env["AWS_ENDPOINT_URL_STS"] = env["AWS_ENDPOINT_URL_ROUTE_53"] = env["AWS_ENDPOINT_URL_IAM"]
        (directory / "state").mkdir(exist_ok=True)
        (directory / "seed").write_text("5e" * 32 + "\n")
        (directory / "operator.pub").write_text(
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl test\n"
        )
        packages = ["aws"] if plugin else ["digitalocean", "aws"]
        if plugin:
            env["PATH"] = os.pathsep.join([str(plugin.parent), env["PATH"]])
        env["PULUMI_DEBUG_PROVIDERS"] = stack.enter_context(stand_ins(directory, env, packages))
        yield env


def pulumi_bin() -> Path:
    """The folder of the CLI: on PATH, or where the toolchain builds it."""
    found = shutil.which("pulumi")
    if found:
        return Path(found).parent
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return next((cache / "lifeline" / "pulumi").glob("*/bin"), Path("/nonexistent"))


@dataclass(frozen=True)
class Pulumi:
    """The CLI on a checkout, as an operator types it."""

    env: Mapping[str, str]
    root: Path = ROOT
    within_s: float = 120.0

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["pulumi", *arguments, "--non-interactive"],
            cwd=self.root,
            env=dict(self.env),
            capture_output=True,
            text=True,
            timeout=self.within_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode:
            raise AssertionError(f"pulumi {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def inventory(self) -> dict[str, Any]:
        return dict(json.loads(self("stack", "output", "inventory", "--json", "--show-secrets").stdout))
