"""A series' own eyes: who acknowledges writes, which machines run what, what lies in the vault, who wrote there.

None of it asks Lifeline, but for the agents' /health, which says when the next run can begin.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import apsw

from lab import config, find
from lab.config import LabConfig
from lab.machines import group_of
from lab.outsiders import resolve
from lab.processes import Group
from lab.proxy import NOTED
from lab.series.verdict import Ack
from lifeline.errors import LifelineError
from lifeline.layout import AGENT_PORT, Layout
from lifeline.lease import Leases
from lifeline.model import Host, Inventory, Lease
from lifeline.service import Service
from lifeline.store import Store
from lifeline.store import find as find_object
from lifeline.vault import key_from_environment, open_store

EVERY_S = 0.1
CONNECT_S, ANSWER_S = 0.5, 2.0
PROGRAMS = {"genesis": "bin/genesis serve", "litestream": "litestream replicate"}


# -- this machine


def busy(seconds: float) -> float:
    """The share of all its cores that was in use, looked at for so long."""
    before = _counted()
    time.sleep(seconds)
    now = _counted()
    return 1 - (now[0] - before[0]) / max(1, now[1] - before[1])


def _counted() -> tuple[int, int]:
    """(idle, all), in ticks since the kernel began."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


# -- who acknowledges


class Observer(threading.Thread):
    """A stranger who writes a probe ten times a second: to one host, or to whomever the name leads to at that moment.

    Whoever acknowledges it has served; by name it counts when it was read back as well.
    """

    def __init__(self, way: Literal["name", "direct"], where: str, port: int) -> None:
        super().__init__(name=f"observer-{where}", daemon=True)
        self.way, self._where, self._port = way, where, port
        self._ended = threading.Event()
        self._connection: http.client.HTTPConnection | None = None
        self._prefix = f"{way}-{os.urandom(4).hex()}"
        self.acks: list[Ack] = []
        self._tokens: list[tuple[Ack, str]] = []
        self.asked: list[tuple[float, str]] = []
        """(begun, token), also of those that nobody acknowledged."""

    def run(self) -> None:
        number = 0
        while not self._ended.wait(EVERY_S):
            number += 1
            self._write(f"{self._prefix}-{number}")
        self._drop()

    def last(self, host: str, seconds: float) -> list[str]:
        """The probes that a host acknowledged in its last seconds."""
        acks = [(ack.at, token) for ack, token in list(self._tokens) if ack.host == host]
        return [token for at, token in acks if at > acks[-1][0] - seconds]

    def unanswered(self, since: float) -> set[str]:
        """The probes asked for since then that nobody acknowledged."""
        return {token for began, token in list(self.asked) if began > since} - {token for _, token in self._tokens}

    def end(self) -> None:
        self._ended.set()
        self.join(CONNECT_S + ANSWER_S + 2.0)

    def _write(self, token: str) -> None:
        began = time.monotonic()
        try:
            address = resolve(self._where) if self.way == "name" else self._where
            if address is None:
                return
            self.asked.append((began, token))
            status, answer = self._call(address, "POST", "/probe", json.dumps({"token": token}))
            if status != 201:
                return
            ack = Ack(str(answer["served_by"]), began, time.monotonic(), "direct")
            self.acks.append(ack)
            self._tokens.append((ack, token))
            if self.way == "name" and self._call(address, "GET", f"/probe/{token}", None)[0] == 200:
                self.acks.append(replace(ack, at=time.monotonic(), way="name"))
        except (OSError, http.client.HTTPException, ValueError):
            self._drop()

    def _call(self, address: str, method: str, path: str, body: str | None) -> tuple[int, Any]:
        if self._connection is not None and self._connection.host != address:
            self._drop()
        if self._connection is None:
            self._connection = http.client.HTTPConnection(
                address, self._port, timeout=CONNECT_S, source_address=(config.CLIENT_ADDRESS, 0)
            )
            self._connection.connect()
            self._connection.sock.settimeout(ANSWER_S)
        self._connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = self._connection.getresponse()
        answer = json.loads(response.read())
        if response.will_close:
            self._drop()
        return response.status, answer

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def has_probe(host: Host, port: int, token: str) -> bool | None:
    """Does that host's database hold the probe? None: it doesn't say."""
    status = _get(host.address, port, f"/probe/{token}")[0]
    return {200: True, 404: False}.get(status or 0)


def health(host: Host) -> dict[str, Any]:
    """What its agent says of itself; empty when it says nothing."""
    answer = _get(host.address, AGENT_PORT, "/health")[1]
    return answer if isinstance(answer, dict) else {}


def said(host: Host) -> str:
    """The same in a line, for a message."""
    found = health(host)
    if not found:
        return "its agent doesn't answer"
    return f"role {found.get('role')}, epoch {found.get('epoch')}, {found.get('reason')}; {found.get('pilot')}"


def _get(address: str, port: int, path: str) -> tuple[int | None, Any]:
    connection = http.client.HTTPConnection(address, port, timeout=1.0)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError):
        return None, None
    finally:
        connection.close()


# -- machines


def power(host: Host) -> str:
    """The machine itself: active, off or absent."""
    return find.machines().status(int(host.droplet_id))


def frozen(host: Host) -> bool:
    """Does every process of it stand still?"""
    with contextlib.suppress(OSError):
        return "frozen 1" in (Group(group_of(int(host.droplet_id))).path / "cgroup.events").read_text()
    return False


def running(host: Host) -> set[str]:
    """Which of the programs that write run there."""
    return {
        name
        for pid in Group(group_of(int(host.droplet_id))).pids()
        for name, words in PROGRAMS.items()
        if words in find.command_line(pid)
    }


class RunWatch(threading.Thread):
    """For how long after its return a host ran what writes."""

    def __init__(self, host: Host) -> None:
        super().__init__(name=f"run-watch-{host.name}", daemon=True)
        self._host, self._ended, self._began = host, threading.Event(), time.monotonic()
        self.last_s = 0.0

    def run(self) -> None:
        while not self._ended.wait(EVERY_S):
            if running(self._host):
                self.last_s = time.monotonic() - self._began

    def end(self) -> float:
        self._ended.set()
        self.join(3.0)
        return round(self.last_s, 1)


def disk(host: Host) -> Layout:
    """Its files: while it is off, what it wrote over its image, as a power cut left it."""
    machines = find.machines()
    root = machines.root(int(host.droplet_id))
    return Layout(root if machines.status(int(host.droplet_id)) == "active" else root.parent / "disk" / "upper")


def probes_in(files: Layout, service: Service, work: Path) -> set[str] | None:
    """Every probe in the database among a host's files, read from a copy; None where there is none to be read."""
    live = files.live(service.databases[0])
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        for path in live.parent.glob(f"{live.name}*"):
            if path.is_file() and not path.name.endswith("-shm"):
                shutil.copyfile(path, work / path.name)
        with contextlib.closing(apsw.Connection(str(work / live.name))) as connection:
            return {str(row[0]) for row in connection.execute("SELECT token FROM probes")}
    except (OSError, apsw.Error):
        return None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def fork(host: Host, service: Service, epoch: int) -> dict[str, Any] | None:
    """The report beside what that host set aside of an epoch, as it lies on its disk; None: it set nothing aside."""
    folder = disk(host).beside(service.databases[0]) / f"fork-{epoch:04d}"
    if not folder.is_dir():
        return None
    try:
        found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    except (OSError, ValueError):
        return {"verdict": "UNKNOWN", "tables": {}}
    return found


# -- stores


@dataclass(frozen=True)
class Noted:
    """A line of the stores' front: who asked for what, and when (seconds since 1970)."""

    at: float
    from_: str
    to: str
    method: str
    path: str
    status: int


def read_noted(lines: Iterable[str]) -> list[Noted]:
    """Lines of the front's notes; a torn one is left out."""
    found = []
    for line in lines:
        fields = line.rstrip("\n").split("\t")
        with contextlib.suppress(ValueError):
            at, from_, to, method, path, status = fields
            found.append(Noted(float(at), from_, to, method, path, int(status)))
    return found


class Notes:
    """The front's notes from here on."""

    def __init__(self) -> None:
        self._path = LabConfig.load(config.state_dir() / "lab.json").state / "proxy" / NOTED
        self._from = self._path.stat().st_size

    def read(self) -> list[Noted]:
        with self._path.open("rb") as file:
            file.seek(self._from)
            return read_noted(file.read().decode(errors="replace").splitlines())


def written_by(noted: Sequence[Noted], address: str, service: str, epochs: range) -> tuple[str, ...]:
    """What an address wrote, or tried to, below the prefixes of these epochs."""
    prefixes = tuple(f"/replica/{service}/epoch-{epoch:04d}/" for epoch in epochs)
    return tuple(
        f"{one.method} {one.path} ({one.status})"
        for one in noted
        if one.from_ == address
        and one.method in ("PUT", "POST", "DELETE")
        and any(prefix in one.path for prefix in prefixes)
    )


def lease_taken(noted: Sequence[Noted], after: float, old: str) -> float | None:
    """When somebody at another address than the old primary's first wrote the lease; None: not seen."""
    return next(
        (one.at for one in noted if _takes(one) and one.at > after and one.from_ != old),
        None,
    )


def _takes(one: Noted) -> bool:
    return one.method == "PUT" and "/lease/" in one.path and one.status == 200


def vault(inventory: Inventory, env: Mapping[str, str]) -> Store:
    """With the operator's key, past every proxy."""
    of = inventory.vault
    straight = replace(of, endpoint=f"http://{config.REGIONS[of.region].spaces}", path_style=True)
    return open_store(straight, key_from_environment("SPACES", env), read_s=5.0, direct=True)


class Stores:
    """Lease and vault, read with the operator's keys, past every proxy."""

    def __init__(self, inventory: Inventory, env: dict[str, str]) -> None:
        self._vault = vault(inventory, env)
        lease = open_store(inventory.lease_store, key_from_environment("AWS", env), read_s=5.0, direct=True)
        self._leases, self._service = Leases(lease, inventory.service), inventory.service

    def lease(self) -> Lease | None:
        """None: it can't be read."""
        with contextlib.suppress(LifelineError):
            return self._leases.read().lease
        return None

    def owner(self, epoch: int) -> str | None:
        """Whom the prefix of an epoch names as its writer; None: not known."""
        with contextlib.suppress(LifelineError, ValueError, KeyError):
            found = find_object(self._vault, f"replica/{self._service}/epoch-{epoch:04d}/owner.json")
            return None if found is None else str(json.loads(found.body)["host"])
        return None
