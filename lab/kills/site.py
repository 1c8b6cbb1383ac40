"""One service in a campaign: its host, the exchange it trades on, the load and its ledger, and its vault."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from dnslib import RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSLogger, DNSServer

from lab import outsiders
from lab.kills.host import vault_alone
from lab.kills.plan import Durability
from lab.kills.store import HERE, KEY, Vault, await_, free_ports
from lab.kills.verdict import Books
from lifeline import proc, restores
from lifeline.barrier import ControlSocket
from lifeline.errors import StepFailed, Unavailable
from lifeline.layout import Config, Layout, load_config
from lifeline.ledger import Acknowledged, Event, Survivor, acknowledged, read_event
from lifeline.model import Inventory
from lifeline.verify import connect, rows

CHECKOUT = Path(__file__).resolve().parents[2]
SERVICE_TOML = CHECKOUT / "services/genesis/service.toml"
PROGRAMS = {"service": "genesis", "litestream": "litestream"}
NAME, RATE, WORKERS = "trade.kills.test", 120, 8
DATABASE = "var/lib/genesis/genesis.db"
TRADES = "SELECT client_order_id, exchange_trade_id FROM trades JOIN orders ON orders.id = order_id"


class Moment(NamedTuple):
    """A time, on the clock of the ledger and on the one that never jumps."""

    wall: float
    mono: float


def now() -> Moment:
    return Moment(time.time(), time.monotonic())


class Here(BaseResolver):  # type: ignore[misc]
    """Every name is this machine."""

    def resolve(self, request: DNSRecord, handler: object) -> DNSRecord:
        reply = request.reply()
        reply.add_answer(RR(request.q.qname, ttl=60, rdata=A(HERE)))
        return reply


class Host:
    """A host's process group, from outside."""

    def __init__(self, folder: Path, epoch: int) -> None:
        self.folder, self.epoch = folder, epoch
        self.events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        argv = [sys.executable, "-m", "lab.kills.host", str(folder), "--epoch", str(epoch)]
        with (folder / "host.log").open("ab") as log:
            self._process = subprocess.Popen(
                argv, cwd=CHECKOUT, env=proc.child_environment(), stdout=subprocess.PIPE, stderr=log, process_group=0
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with contextlib.suppress(ValueError), self._changed:  # a line torn by the kill
                self.events.append(json.loads(line))
                self._changed.notify_all()

    def last(self, event: str, **fields: Any) -> dict[str, Any] | None:
        with self._changed:
            matching = (e for e in reversed(self.events) if e["event"] == event and fields.items() <= e.items())
            return next(matching, None)

    def await_event(self, event: str, within_s: float, **fields: Any) -> dict[str, Any]:
        """The last such event, as soon as there is one; StepFailed after the deadline."""
        said = " ".join([event, *(str(value) for value in fields.values())])
        await_(lambda: self.last(event, **fields), within_s, f"{said} (read {self.folder}/host.log)")
        found = self.last(event, **fields)
        assert found
        return found

    def kill(self, kind: str) -> Moment:
        """SIGKILL to the service or to Litestream, as soon as it runs; the host starts it again."""
        pid = self.await_event("started", 30, program=PROGRAMS[kind])["pid"]
        at = now()
        with contextlib.suppress(ProcessLookupError):  # it had ended by itself, and comes back
            os.kill(pid, signal.SIGKILL)
        return at

    def power_cut(self) -> Moment:
        """SIGKILL to all there is, at once; returns when nothing is left."""
        at = now()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        await_(self._gone, 10, "every process of the host is gone")
        return at

    def _gone(self) -> bool:
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return True
        return False


class Site:
    """One service's life in a campaign; what it leaves is below `folder`."""

    def __init__(self, folder: Path, vault: Vault, number: int) -> None:
        self.folder, self.vault = folder, vault
        self.bucket = f"site-{number:02d}"
        self.port, self.exchange_port = free_ports(), free_ports()
        self.exchange_url = f"http://{HERE}:{self.exchange_port}"
        self.ledger, self._read = folder / "ledger.jsonl", 0
        self.events: list[Event] = []
        self.owed: dict[str, Acknowledged] = {}
        self.forgotten: set[str] = set()
        self.executed: list[Survivor] = []
        self._after = 0
        self.epoch = 0
        self.usual_s = 0.5  # what a restore takes; measured as they come
        self._looks = 0

    # -- coming and going

    @contextlib.contextmanager
    def running(self, durability: Durability) -> Iterator[None]:
        """Exchange, first host and load, which flows; all of it gone at the end."""
        self._durability = durability
        self.folder.mkdir(parents=True)
        self.vault.make_bucket(self.bucket)
        resolver = DNSServer(Here(), address=HERE, port=(dns := free_ports()), logger=DNSLogger("pass"))
        resolver.start_thread()
        exchange = self._spawn("exchange", "--listen", f"{HERE}:{self.exchange_port}", "--data", self.folder / "x.db")
        client: subprocess.Popen[bytes] | None = None
        try:
            await_(self._exchange_answers, 20, "the exchange answers")
            self.new_host()
            self.host.await_event("primary", 120)
            client = self._spawn(
                *("client", "--name", NAME, "--port", self.port, "--dns", f"{HERE}:{dns}", "--ledger", self.ledger),
                *("--workers", WORKERS, "--rate", RATE),
            )
            self._client = client
            self.await_load(Moment(0.0, 0.0))
            yield
        finally:
            resolver.stop()
            for process in (client, exchange):
                if process is not None:
                    process.kill()
                    process.wait()
            if self.epoch:
                self.host.power_cut()

    def _spawn(self, module: str, *words: object) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", f"services.genesis.{module}", *map(str, words)]
        with (self.folder / f"{module}.log").open("ab") as log:
            return subprocess.Popen(argv, cwd=CHECKOUT, stdout=log, stderr=log)

    def _exchange_answers(self) -> bool:
        try:
            return bool(outsiders.get_json(f"{self.exchange_url}/health", 1.0))
        except Unavailable:
            return False

    def new_host(self) -> None:
        """A host with an empty disk, to become primary of the next epoch."""
        self.epoch += 1
        folder = self.folder / f"host-{self.epoch}"
        self._provision(folder)
        self.host = Host(folder, self.epoch)

    def lose_host(self) -> Moment:
        """Everything on it dies at once, and its disk is gone."""
        at = self.host.power_cut()
        shutil.rmtree(self.host.folder)
        return at

    def _provision(self, folder: Path) -> None:
        """What `fab provision` ships, with this site's addresses."""
        layout = Layout(folder)
        for path in (layout.etc, layout.state, layout.run, layout.bin, folder / "var/log/genesis"):
            path.mkdir(parents=True)
        (folder / "var/lib/genesis").mkdir()
        (layout.bin / "litestream").symlink_to(Path(sys.executable).with_name("litestream"))
        (layout.etc / "host.json").write_text(json.dumps({"name": "primary-newyork", "release": "kills"}))
        (layout.etc / "inventory.json").write_text(json.dumps(self._inventory().to_json()))
        (layout.etc / "service.toml").write_text(self._service_toml())
        settings = {
            **{"GENESIS_EXCHANGE": self.exchange_url, "GENESIS_DURABILITY": self._durability},
            **{"GENESIS_HOME": folder / "var/lib/genesis", "GENESIS_LOGS": folder / "var/log/genesis"},
            **{"GENESIS_ADDRESS": HERE, "GENESIS_PORT": self.port},
        }
        (layout.etc / "service.env").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))

    def _service_toml(self) -> str:
        """The service's own, invariants and all, but for its user, its port and its hooks, which need a droplet."""
        text, _, rest = SERVICE_TOML.read_text().partition("[hooks]")
        text = text.replace('user = "genesis"', f'user = "{pwd.getpwuid(os.geteuid()).pw_name}"')
        text = text.replace("port = 8080", f"port = {self.port}")
        return text + rest[rest.index("[probe]") :]

    def _inventory(self) -> Inventory:
        key, ref = {"access_key": KEY.access_key, "secret_key": KEY.secret_key}, self.vault.ref(self.bucket)
        store = {"bucket": ref.bucket, "region": ref.region, "endpoint": ref.endpoint, "path_style": True}

        def host(name: str, role: str) -> dict[str, Any]:
            return {
                **{"name": name, "home_role": role, "region": "nyc3", "droplet_id": "1", "address": HERE},
                **{"fqdn": f"{name}.test", "user": "x", "host_key": "x", "vault_key": key, "offsite_key": key},
            }

        return Inventory.from_json(
            {
                **{"version": 1, "stack": "kills", "service": "genesis", "vault": store},
                "offsite": {**store, "lease_bucket": "none"},
                "record": {"fqdn": NAME, "domain": "kills.test", "name": "trade", "id": "1", "ttl": 60},
                "hosts": [host("primary-newyork", "primary"), host("backup-singapore", "backup")],
                "cloud": {"api": f"http://{HERE}"},
                "targets": {"rto_target_s": 600, "rto_max_s": 1800, "rpo_target_s": 0, "rpo_max_s": 60},
                "policy": {"lease_ttl_s": 30, "lease_margin_s": 5, "fence_required": ["power-off"], "max_lag_s": 60},
            }
        )

    # -- what is known of it

    def read_ledger(self) -> list[Acknowledged]:
        """What was acknowledged since the last look; it is owed from now on."""
        new: list[Event] = []
        if self.ledger.exists():
            with self.ledger.open("rb") as file:
                file.seek(self._read)
                chunk = file.read()
            whole = chunk[: chunk.rfind(b"\n") + 1]
            self._read += len(whole)
            new = [event for event in map(read_event, whole.decode().splitlines()) if event]
        self.events += new
        fresh = acknowledged(new)
        self.owed.update((write.id, write) for write in fresh)
        return fresh

    def _late(self, since: float) -> Iterator[Event]:
        """Events after `since`, the newest first."""
        self.read_ledger()
        return takewhile(lambda event: event.mono > since, reversed(self.events))

    def _acknowledged(self, since: float) -> Event | None:
        """The first acknowledgement of an attempt that began after `since`."""
        done = (e for e in self._late(since) if e.kind == "acknowledged" and float(e.fields["began"]) > since)
        return min(done, key=lambda event: event.mono, default=None)

    def await_load(self, since: Moment, within_s: float = 120.0) -> Event:
        """Until something is acknowledged that began after `since`."""
        await_(lambda: self._acknowledged(since.mono), within_s, "the load flows again")
        found = self._acknowledged(since.mono)
        assert found
        return found

    def acknowledged_within(self, begun: float, ended: float) -> int:
        """How many writes were begun and acknowledged between two moments of the monotonic clock."""
        late = self._late(begun)
        return sum(e.kind == "acknowledged" and e.mono < ended and float(e.fields["began"]) > begun for e in late)

    def await_drained(self, since: Moment) -> None:
        """Until every user has met the dead host: then no answer of before is still on its way to the ledger."""

        def met() -> set[str]:
            return {event.fields["id"].split("-")[1] for event in self._late(since.mono) if event.kind == "failed"}

        await_(lambda: len(met()) == WORKERS, 60, "every user meets the dead host")

    def forget(self, books: Books) -> None:
        """The host is lost, and with it what this copy lacks: it was told once."""
        gone = self.owed.keys() - {one.id for one in books.trades}
        self.forgotten |= gone
        self.owed = {identity: write for identity, write in self.owed.items() if identity not in gone}

    def read_exchange(self) -> list[Survivor]:
        """All that the exchange has executed."""
        for trade in outsiders.pages(f"{self.exchange_url}/v1/trades", self._after):
            self.executed.append(Survivor(trade["client_order_id"], trade["trade_id"]))
            self._after = trade["number"]
        return self.executed

    def look(self) -> Look:
        """What a restore that begins now is held against."""
        self.read_ledger()
        self._looks += 1
        folder = self.folder / f"look-{self._looks}"
        return Look(self, folder, self.epoch, tuple(self.owed.values()), tuple(self.read_exchange()))

    def settled(self) -> Look:
        """The load stopped, every order at its end, all of it in the vault: then the books must agree."""
        self._client.terminate()
        self._client.wait(30)
        self.await_caught_up()
        return self.look()

    def await_caught_up(self) -> None:
        """Until the vault has all that was written before; after an outage Litestream takes its time."""
        layout = Layout(self.host.folder)
        await_(lambda: self._synced(layout), 60, "the last transactions reach the vault")

    def _synced(self, layout: Layout) -> bool:
        try:
            ControlSocket(layout.control_socket).sync(layout.root / DATABASE, 5.0)
        except StepFailed:
            return False
        return True

    def onlooker(self) -> Config:
        """The other host, on which copies are looked at."""
        folder = self.folder / "standby"
        if not folder.exists():
            self._provision(folder)
        return load_config(Layout(folder))


@dataclass(frozen=True)
class Look:
    """A restore of the newest state to a place of its own, as `fab restore --to` does; and what must be in it."""

    site: Site
    folder: Path
    epoch: int
    owed: tuple[Acknowledged, ...]
    executed: tuple[Survivor, ...]

    def restore(self) -> Books:
        """Raises what restores raise, and leaves no file."""
        begun, config = time.monotonic(), self.site.onlooker()
        answer = restores.inspect(config, vault_alone(config), restores.Want(self.epoch, source="vault"), self.folder)
        found = read_books(Path(answer["paths"]["genesis"]), self.executed)
        shutil.rmtree(self.folder)
        self.site.usual_s = time.monotonic() - begun
        return found


def read_books(path: Path, executed: Sequence[Survivor]) -> Books:
    """Trades and orders of a database."""
    with connect(path) as connection:
        trades = [Survivor(identity, value) for identity, value in rows(connection, TRADES)]
        orders = frozenset(row[0] for row in rows(connection, "SELECT client_order_id FROM orders"))
    return Books(trades, orders, executed)
