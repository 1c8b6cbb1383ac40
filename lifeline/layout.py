"""Where things are on a host, and the small files that hold its state. Every path hangs below `root`, so tests need
no droplet."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from lifeline.errors import BadConfig, Refused
from lifeline.model import ROLES, Inventory, Role
from lifeline.replica import Destination
from lifeline.service import Database, Service

AGENT_PORT = 8008
LOCK_POLL_S = 0.1
OURS = ".lifeline"  # the folder beside what is protected, on the same file system: what is swapped in, and what was


@dataclass(frozen=True)
class Layout:
    """The table "On a host" of docs/design.md."""

    root: Path = Path("/")

    @property
    def etc(self) -> Path:
        return self.root / "etc/lifeline"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/lifeline"

    @property
    def staging(self) -> Path:
        """Where a backup is put together: so restic has its parts under this path, whichever host took it."""
        return self.root / "var/lib/lifeline/backup"

    @property
    def restic_cache(self) -> Path:
        return self.root / "var/cache/lifeline/restic"

    @property
    def run(self) -> Path:
        return self.root / "run/lifeline"

    @property
    def opt(self) -> Path:
        return self.root / "opt/lifeline"

    @property
    def current(self) -> Path:
        return self.opt / "current"

    @property
    def bin(self) -> Path:
        return self.current / "bin"

    @property
    def litestream(self) -> Path:
        return self.bin / "litestream"

    @property
    def service_dir(self) -> Path:
        return self.current / "service"

    @property
    def litestream_yml(self) -> Path:
        return self.etc / "litestream.yml"

    @property
    def follower_yml(self) -> Path:
        return self.etc / "follower.yml"

    @property
    def restic_password(self) -> Path:
        return self.etc / "restic.password"

    @property
    def pilot_token(self) -> Path:
        """The cloud's token of a host that may fail over by itself; empty where it may not."""
        return self.etc / "pilot.token"

    @property
    def peer_key(self) -> Path:
        """With which the two agents sign what they promise each other."""
        return self.etc / "peer.key"

    @property
    def agent_socket(self) -> Path:
        return self.run / "agent.sock"

    @property
    def control_socket(self) -> Path:
        return self.run / "litestream.sock"

    @property
    def role_file(self) -> Path:
        """What this host was last told to be."""
        return self.state / "role.json"

    @property
    def supervisor_socket(self) -> Path:
        return self.root / "run/supervisor.sock"

    @property
    def supervisor_conf(self) -> Path:
        return self.root / "etc/supervisor/conf.d"

    @property
    def supervisor_group(self) -> Path:
        """The control group of supervisor and all that it runs."""
        return self.root / "sys/fs/cgroup/system.slice/supervisor.service"

    @property
    def deadman_group(self) -> Path:
        return self.supervisor_group.with_name("lifeline-deadman.service")

    @property
    def units(self) -> Path:
        return self.root / "etc/systemd/system"

    @property
    def host_lock(self) -> Path:
        """Held by the verb that changes this host, and for a moment by the agent while it starts what serves."""
        return self.run / "host.lock"

    @property
    def deadman(self) -> Path:
        """Outside the release: it must run when that can't be read."""
        return self.root / "usr/local/lib/lifeline/deadman.py"

    def live(self, database: Database) -> Path:
        """The file the service uses."""
        return self.root / str(database.path).lstrip("/")

    def beside(self, database: Database) -> Path:
        """Root's own folder for a database beside the live one: on the same file system, so that a swap is a rename.
        One each: databases may share a folder, and what is done to one must not touch another's copies."""
        return self.live(database).parent / OURS / database.name

    def private(self, database: Database) -> Path:
        """The same, made if it isn't there, for root alone: the service must not reach what will be swapped in."""
        path = self.beside(database)
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def following(self, database: Database, epoch: int) -> Path:
        """The standby's warm copy."""
        return self.beside(database) / f"follower-{epoch:04d}" / f"{database.name}.db"

    def kept(self, database: Database, epoch: int) -> Path:
        """The warm copy of before, while a follower that began anew isn't as far."""
        return self.beside(database) / f"kept-{epoch:04d}" / f"{database.name}.db"

    def staged(self, database: Database) -> Path:
        """A restored copy before it is swapped in."""
        return self.beside(database) / "restored" / f"{database.name}.db"


@dataclass(frozen=True)
class Visitor(Layout):
    """A machine that is no host: paths have the names they have on one, and all that is written lies below `folder`."""

    folder: Path = Path("/nowhere")

    @property
    def etc(self) -> Path:
        return self.folder / "etc"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def restic_cache(self) -> Path:
        return self.folder / "cache"

    @property
    def run(self) -> Path:
        return self.folder / "run"


@dataclass(frozen=True)
class RoleFile:
    """role.json: what this host was last told to be.  fenced: it was told nothing, and stopped itself."""

    role: Role
    epoch: int
    fenced: bool = False


def read_role(layout: Layout) -> RoleFile:
    """The role; "none" when it was never told, or the file is damaged: then it may serve nothing."""
    data = read_json(layout.role_file) or {}
    role, epoch = data.get("role"), data.get("epoch")
    if role in ROLES and isinstance(epoch, int):
        return RoleFile(cast(Role, role), epoch, data.get("fenced") is True)
    return RoleFile("none", 0)


def write_role(layout: Layout, role: Role, epoch: int, *, fenced: bool = False) -> None:
    """Atomically, and on the disk before this returns: a role must survive a power cut."""
    note = {"role": role, "epoch": epoch, **({"fenced": True} if fenced else {})}
    write_file(layout.role_file, json.dumps(note), mode=0o644)


@dataclass(frozen=True)
class DataFile:
    """data.json: where the databases at their live paths come from.

    `live_epoch` is the epoch in which this host writes (or wrote) them; None while they are a copy at rest, made
    from the replica of `origin_epoch` up to `txids`, and untouched since. `finalized` is the epoch whose end that is
    (its own promotion may never have written); None after a restore, where `at` is the time restored to, or None for
    "the latest". `as_replicated`: the files are page for page what the replica holds at `txids`, so that the next epoch
    can go on from there (continuation.py); never so for what SQLite or restic copied.
    """

    live_epoch: int | None = None
    origin_epoch: int | None = None
    finalized: int | None = None
    txids: Mapping[str, int] = field(default_factory=dict)
    at: str | None = None
    as_replicated: bool = False


def read_data(layout: Layout) -> DataFile:
    """What is known of the data; all None on a new host."""
    data = read_json(layout.state / "data.json") or {}
    return DataFile(
        data.get("live_epoch"),
        data.get("origin_epoch"),
        data.get("finalized"),
        data.get("txids") or {},
        data.get("at"),
        data.get("as_replicated") is True,
    )


def write_data(layout: Layout, data: DataFile) -> None:
    """Atomically and durably."""
    write_file(layout.state / "data.json", json.dumps(asdict(data)), mode=0o644)


@dataclass(frozen=True)
class Config:
    """What a host knows of itself after provisioning."""

    layout: Layout
    name: str
    release: str
    inventory: Inventory
    service: Service

    @property
    def destination(self) -> Destination:
        """The vault, with this host's own key."""
        key = self.inventory.host(self.name).vault_key
        if key is None:
            raise BadConfig(f"the inventory on {self.name} holds no vault key for it", hint="fab provision")
        return Destination.of(self.inventory.vault, key)

    @property
    def offsite_destination(self) -> Destination | None:
        """The off-site vault, with this host's own key; None when it was given none."""
        offsite, key = self.inventory.offsite, self.inventory.host(self.name).offsite_key
        return None if key is None else Destination.of(offsite, key, region=offsite.region)


def load_config(layout: Layout) -> Config:
    """Read what provisioning shipped. Raises BadConfig when this host isn't provisioned."""
    me = read_json(layout.etc / "host.json")
    if me is None:
        raise BadConfig("this host is not provisioned", hint="fab provision")
    inventory_file = layout.etc / "inventory.json"
    try:
        inventory = Inventory.from_json(inventory_file.read_bytes(), str(inventory_file))
    except OSError as error:
        raise BadConfig(f"{inventory_file}: {error.strerror}", hint="fab provision") from None
    return Config(
        layout, str(me["name"]), str(me.get("release", "")), inventory, Service.load(layout.etc / "service.toml")
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None when it isn't there or isn't one."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


@contextmanager
def alone(path: Path, busy: Refused, within_s: float = 0.0) -> Iterator[None]:
    """One process at a time in here: a lock that ends with it, however it ends. ``busy`` is raised when another one has
    it still, after so many seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + within_s
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise busy from None
                time.sleep(LOCK_POLL_S)
        yield


def write_file(path: Path, content: str | bytes, *, mode: int = 0o600) -> bool:
    """Write through a temporary file and a rename, synced. False when the file had this content and mode already."""
    data = content.encode() if isinstance(content, str) else content
    try:
        if path.read_bytes() == data and path.stat().st_mode & 0o7777 == mode:
            return False
    except OSError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, f".{path.name}.") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)
    return True


@contextmanager
def replacing(path: Path, prefix: str) -> Iterator[BinaryIO]:
    """A new file beside `path`, its name begun with `prefix` and for its owner alone, that takes the name when
    it is whole and on the disk; it is gone again when anything fails before."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix)  # created with mode 0600
    try:
        with os.fdopen(handle, "wb+") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and removals in a folder durable."""
    with directory(path) as handle:
        os.fsync(handle)


@contextmanager
def directory(path: Path) -> Iterator[int]:
    """An open folder."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)


def own(path: Path, user: str) -> None:
    """Give a file to the service's user; without root (in tests) it stays ours."""
    if os.geteuid() == 0:
        account = pwd.getpwnam(user)
        os.chown(path, account.pw_uid, account.pw_gid)
        path.chmod(0o640)


def read_jobs(layout: Layout) -> dict[str, dict[str, Any]]:
    """jobs.json: what each of the keeper's jobs did last on this host."""
    return {name: job for name, job in (read_json(layout.state / "jobs.json") or {}).items() if isinstance(job, dict)}


def read_alerts(layout: Layout) -> list[dict[str, Any]]:
    """alerts.json: the alerts that hold, as the keeper left them."""
    return list((read_json(layout.state / "alerts.json") or {}).get("alerts") or ())
