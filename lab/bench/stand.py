"""What every group stands on: a store, Litestream, processes that end with us, and a clock."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lifeline import proc, replica
from lifeline.barrier import ControlSocket
from lifeline.model import Key, StoreRef
from lifeline.replica import Destination
from lifeline.service import Database
from lifeline.store import Store
from lifeline.vault import open_store

BIN = Path(sys.executable).parent
BUCKET = "bench"
KEY = Key("bench", "bench-secret")


@dataclass(frozen=True)
class Vault:
    """A bucket on loopback, by the library's door and as Litestream addresses it."""

    store: Store
    destination: Destination


def say(text: str) -> None:
    print(text, flush=True)


def timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def spread(times: Sequence[float], unit: str = "s", scale: float = 1.0, digits: int = 1) -> str:
    """The median, with the least and the most."""
    middle, least, most = (scale * value for value in (statistics.median(times), min(times), max(times)))
    return f"{middle:.{digits}f} {unit} ({least:.{digits}f} to {most:.{digits}f})"


def wait(condition: Callable[[], object], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {within_s:.0f} s")
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def spawned(
    argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, stop_s: float = 0.0
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone at the end: asked to stop, and killed after `stop_s` seconds."""
    with log.open("ab") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out, env=dict(env or proc.child_environment()))
    try:
        yield process
    finally:
        if stop_s:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(stop_s)
        process.kill()
        process.wait()


@contextlib.contextmanager
def vault(folder: Path) -> Iterator[Vault]:
    """SeaweedFS on loopback with one bucket; killed at the end."""
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    grpc = {name: free_port() for name in ports}
    folder.mkdir(parents=True)
    may = ["Admin", "Read", "Write", "List"]
    credentials = [{"accessKey": KEY.access_key, "secretKey": KEY.secret_key}]
    # Those who don't sign may too: what only fills the store (history.py) needn't take the time.
    identities = [{"name": "bench", "credentials": credentials, "actions": may}, {"name": "anonymous", "actions": may}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    argv = [str(BIN / "weed"), "-logtostderr=true", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    argv += ["-master.peers=none", "-master.electionTimeout=1s", "-master.heartbeatInterval=200ms", "-filer", "-s3"]
    argv += ["-volume.max=1000", "-volume.preStopSeconds=0", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    argv += [f"-s3.config={folder / 's3.json'}", "-s3.autoCreateBucket=true"]
    argv += [f"-{name}.port={port}" for name, port in ports.items()]
    argv += [f"-{name}.port.grpc={port}" for name, port in grpc.items()]
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    with spawned(argv, folder / "log", env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}):
        wait(lambda: _answers(endpoint), 60, "SeaweedFS answers")
        store = open_store(StoreRef(BUCKET, "us-east-1", endpoint, True), KEY, direct=True, read_s=120.0)
        wait(lambda: _writes(store), 60, "SeaweedFS takes a write")
        yield Vault(store, Destination(endpoint, BUCKET, True, KEY.access_key, KEY.secret_key))


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _writes(store: Store) -> bool:
    try:
        store.put("ready", b"")
    except Exception:
        return False
    return True


@dataclass(frozen=True)
class Replicated:
    """A database that Litestream replicates, as a primary's would be. `config`: its litestream.yml."""

    service: str
    name: str
    path: Path
    config: Path
    control: ControlSocket
    socket: Path


@contextlib.contextmanager
def replicating(folder: Path, into: Vault, service: str, name: str, path: Path) -> Iterator[Replicated]:
    """Litestream on epoch 1, with the configuration of a primary, its first copy taken; stopped at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    socket_path, config = folder / "ls.sock", folder / "litestream.yml"
    database = Database(name, path)  # type: ignore[arg-type]
    text = replica.render_config(
        service, 1, into.destination, [database], state=folder / "litestream", socket=socket_path
    )
    config.write_text(text)
    found = Replicated(service, name, path, config, ControlSocket(socket_path), socket_path)
    with spawned(replica.replicate_argv(BIN / "litestream", config), folder / "litestream.log", stop_s=30):
        wait(socket_path.exists, 60, "Litestream's control socket")
        found.control.sync(path, 1200)
        yield found


def take_whole(found: Replicated, into: Vault, touch: Callable[[], object]) -> None:
    """Until the vault holds a snapshot: Litestream makes one once something was written."""
    touch()
    found.control.sync(found.path, 1200)
    prefix = f"{replica.replica_prefix(found.service, 1, found.name)}/0009/"
    wait(lambda: any(True for _ in into.store.list(prefix)), 1200, "a snapshot")
