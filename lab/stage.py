"""The site that a drill is held on: a lab, infrastructure, hosts, and who is outside: exchange, clients, a DNS watcher.

Brought up as an operator would, and taken away again but for what was there before.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab import find, lifecycle
from lab.conduct import Command, Record, everything, say
from lab.outsiders import Client, DnsWatcher, Exchange, poll, survivors
from lab.scenarios.criteria import Recovery
from lifeline import inventory as inventories
from lifeline.errors import LifelineError, StepFailed, Unavailable
from lifeline.hosts import local
from lifeline.journal import RUN_FINISHED, RUN_STARTED, numbered
from lifeline.model import Inventory
from lifeline.service import Service
from runbooks import stack as pulumi_stack

STACK = "lab"
PULUMI_S = 300.0
PROVISION_S = 300.0
FIRST_WRITE_S = 30.0
COMMAND_S = 600.0
TICK_S = 0.02  # files are dated by the kernel's last tick, which may lie before a time that was asked for earlier


class Stage:
    """``name``: what is held there, for its folder below ``drills/``. What isn't there yet is None."""

    def __init__(self, root: Path, name: str, rate: float) -> None:
        self.root, self.name, self.rate = root, name, rate
        self.started, self.begun = datetime.now(UTC), time.monotonic()
        self.folder = root / "drills" / f"{self.started:%Y%m%dT%H%M%SZ}-{name}"
        self.logs = self.folder / "logs"
        self.record = Record(say)
        self.was_up, self.providers = False, "lab"
        self.env: dict[str, str] = {}
        self.commands: list[Command] = []
        self.inventory: Inventory | None = None
        self.service: Service | None = None
        self.exchange: Exchange | None = None
        self.client: Client | None = None
        self.watcher: DnsWatcher | None = None

    def prepare(self, policy: str = "") -> Inventory:
        """From nothing to two provisioned hosts. ``policy``: the stack's, in its own words, instead of its file's."""
        self.logs.mkdir(parents=True)
        with self.record.step("the lab is up") as step:
            self.was_up = lab_is_up()
            lifecycle.up(say=lambda text: say(f"   {text}"))
            self.env = lifecycle.env()
            self.providers = lifecycle.status().providers
            step.evidence.update(found_up=self.was_up, providers=self.providers)
        with self.record.step("infrastructure exists (pulumi up)"):
            up = ["pulumi", "up", "--yes", "--skip-preview", "--suppress-outputs", "--non-interactive", "--color=never"]
            if policy:
                up += ["--config-file", str(stack_file(self.root, self.folder, policy))]
            self.command("pulumi-up", up, pulumi_stack.progress()).check(PULUMI_S)
            self.inventory = inventories.from_pulumi(self.root, STACK, functools.partial(local, env=self.env)).inventory
            self.service = Service.load(self.root / "services" / self.inventory.service / "service.toml")
        self.exchange = Exchange(self._books(self.inventory), self.logs / "exchange.log")
        with self.record.step("the exchange is open"):
            self.exchange.start()
        with self.record.step("hosts are provisioned (fab provision)"):
            self.command("fab-provision", ["fab", "provision"], everything).check(PROVISION_S)
        return self.inventory

    def renew(self) -> None:
        """The hosts are others than they were and know what those knew: the exchange's books go with them."""
        self.inventory = inventories.from_cache(self.root, STACK).inventory
        books = self._books(self.inventory)
        if self.exchange is None or books == self.exchange.data:
            return
        self.exchange.stop()
        for path in books.parent.glob(f"{self.exchange.data.name}*"):
            path.rename(books.parent / path.name.replace(self.exchange.data.name, books.name))
        self.exchange.data = books

    @staticmethod
    def _books(inventory: Inventory) -> Path:
        """The exchange's books go with the pair that trades there: it remembers, and so does the exchange."""
        pair = "-".join(host.droplet_id for host in inventory.hosts)
        path = lifecycle.status().state / "world" / f"exchange-{pair}.db"
        path.parent.mkdir(exist_ok=True)
        return path

    def trade(self, steady_s: float) -> str:
        """Clients trade for that long; the host that serves them, by the word of its acknowledgements."""
        assert self.inventory is not None and self.service is not None
        fqdn = self.inventory.record.fqdn
        self.watcher = DnsWatcher(fqdn)
        self.watcher.start()
        ledger, log = self.folder / "ledger.jsonl", self.logs / "client.log"
        self.client = client = Client(fqdn, self.service.port, ledger, log, self.rate)
        with self.record.step("clients trade through the public name") as step:
            client.start()
            if not poll(lambda: any(event.kind == "read_back" for event in client.read()), FIRST_WRITE_S):
                reasons = [event.fields.get("reason") for event in client.read() if event.kind == "failed"]
                last = reasons[-1] if reasons else "the client says nothing"
                raise StepFailed(f"no write through {fqdn} in {FIRST_WRITE_S:.0f} s: {last}", hint=f"less {log}")
            steady = time.monotonic() + steady_s
            poll(lambda: time.monotonic() > steady, steady_s + 5)
            acks = [event for event in client.read() if event.kind == "acknowledged"]
            primary = str(acks[-1].fields["served_by"])
            self.inventory.host(primary)
            step.evidence.update(acknowledged=len(acks), served_by=primary, rate=self.rate)
        return primary

    def command(self, name: str, argv: Sequence[str], show: Callable[[str], str | None]) -> Command:
        """As an operator types it, in the background."""
        command = Command(argv, self.logs / f"{name}.log", self.env, self.root, say, show)
        self.commands.append(command)
        return command

    def type(self, commands: Sequence[Sequence[str]]) -> Typist:
        """The operator at the keyboard: each command when the one before has succeeded."""
        typist = Typist(self, commands)
        typist.start()
        return typist

    def outcome(self, command: Command | Typist, since: float) -> tuple[Recovery, list[dict[str, Any]]]:
        """How a runbook that was typed went, by its journals of after ``since`` (wall time); and their steps, each with
        the "journal" in the drill's folder and the "line" of it that it is."""
        lines = journal_lines(self.root, STACK, since, self.folder)
        wrong = [line for line in lines if line["verdict"] in ("FAIL", "UNKNOWN")]
        recovery = Recovery(
            command=str(command),
            code=command.code,
            seconds=command.seconds,
            steps=len(lines),
            failed=tuple(line["step"] for line in wrong if not line["evidence"].get("advisory")),
            waived=tuple(line["step"] for line in lines if line.get("waiver")),
        )
        return recovery, lines

    def survivors(self) -> list[Any]:
        """Every trade of whoever the public name leads to; Unavailable when it can't be read in full."""
        assert self.service is not None
        address = self.watcher.address if self.watcher else None
        if address is None:
            raise Unavailable("the public name has no address")
        return survivors(address, self.service.port)

    def stop(self, *, keep: bool) -> None:
        """End everything that was started here, the lab included unless it was there before or is to be kept."""
        for command in self.commands:
            command.stop()
        if self.watcher:
            self.watcher.end()
        if self.client:
            self.client.stop()
        if self.exchange:
            self.exchange.stop()
            for path in self.exchange.data.parent.glob(f"{self.exchange.data.name}*"):
                shutil.copy(path, self.folder / path.name)
        if self.was_up or keep:
            say("The lab is still up. It ends with: fab lab.down")
        else:
            lifecycle.down(say=say)

    def save_logs(self) -> None:
        """What a failed drill leaves to read: the lab's logs and the hosts'."""
        with contextlib.suppress(Exception):
            shutil.copytree(lifecycle.status().state / "logs", self.logs / "lab", dirs_exist_ok=True)
            machines = find.machines()
            for droplet_id in machines.ids():
                name, root = machines.spec(droplet_id).name, machines.root(droplet_id)
                of_service = [str(path).lstrip("/") for path in self.service.logs] if self.service else []
                for where in ("var/log/supervisor", "var/log/cloud-init-output.log", *of_service):
                    _copy(root / where, self.logs / name / Path(where).name)


class Typist(threading.Thread):
    """Commands typed one after the other until one fails. ``code``: of the last one typed; None while they run."""

    def __init__(self, stage: Stage, commands: Sequence[Sequence[str]]) -> None:
        super().__init__(name="typist", daemon=True)
        self._stage, self._argvs = stage, commands
        self.begun = time.monotonic()
        self.ended: float | None = None
        self.code: int | None = None
        self.log = stage.logs / "recovery-1.log"

    def run(self) -> None:
        for number, argv in enumerate(self._argvs, 1):
            command = self._stage.command(f"recovery-{number}", argv, everything)
            self.log = command.log
            code = command.wait(COMMAND_S)
            if code != 0:
                break
        self.code, self.ended = code, time.monotonic()

    def __str__(self) -> str:
        return "; ".join(" ".join(argv) for argv in self._argvs)

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.begun

    def wait(self, within_s: float) -> None:
        """StepFailed when they aren't done in time."""
        self.join(max(0.1, within_s))
        if self.is_alive():
            raise StepFailed(f"{self} did not end within {within_s:.0f} s", hint=f"less {self.log}")


def journal_lines(root: Path, stack: str, since: float, into: Path) -> list[dict[str, Any]]:
    """The steps of the stack's journals of after ``since`` (wall time), which are copied ``into`` a folder: each with
    its "journal" there and its "line"."""
    found = (inventories.folder(root, stack) / "journal").glob("*.jsonl")
    journals = sorted(path for path in found if path.stat().st_mtime >= since - TICK_S)
    lines = []
    for path in journals:
        name = path.name if len(journals) > 1 else "journal.jsonl"
        shutil.copy(path, into / name)
        lines += [{**line, "journal": name, "line": number} for number, line in numbered(into / name).items()]
    return [line for line in lines if line["step"] not in (RUN_STARTED, RUN_FINISHED)]


def lab_is_up() -> bool:
    """Whole, before anything is asked of it."""
    with contextlib.suppress(LifelineError):
        return lifecycle.status().healthy
    return False


def stack_file(root: Path, folder: Path, policy: str) -> Path:
    """The lab's stack file with another policy, beside what else a drill keeps; the checkout's stays as it is."""
    source = root / "stacks" / f"Pulumi.{STACK}.yaml"
    text, count = re.subn(r"(?m)^(  lifeline:policy: )\{.*\}$", rf"\g<1>{policy}", source.read_text())
    if count != 1:
        raise StepFailed(f"{source} doesn't have its policy on one line", hint=f"git diff {source}")
    path = folder / source.name
    path.write_text(text)
    return path


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.exists():
        shutil.copy(source, target)
