"""One host of a campaign, as a process group: what `lifeline-host`, agent and supervisor do on a droplet.

    python -m lab.kills.host FOLDER --epoch N

It comes up on an empty disk, brings the databases back from the vault (from the second epoch on), becomes primary of
epoch N and keeps service and Litestream running until it is killed. Restore, promotion, agent and barrier are those of
a real host. Stand-ins: supervisor, and a lease that is always confirmed: nobody competes for it here.

It tells a JSON line an event: "started" (program, pid), "restored", "primary", "failed" (and tried again).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifeline import agent_http, host_run, host_stores, proc, replica, restores, roles
from lifeline.agent import Agent
from lifeline.errors import LifelineError, Unavailable
from lifeline.layout import Config, Layout, load_config, read_role
from lifeline.model import Lease
from lifeline.store import Store
from lifeline.supervisor import State, Supervisor

AGAIN_S = 0.2
ENGINE = (sys.executable, "-m", "services.genesis.engine", "serve")


def tell(event: str, **fields: Any) -> None:
    """One line, at once."""
    sys.stdout.write(json.dumps({"event": event, "at": time.time(), **fields}) + "\n")
    sys.stdout.flush()


@dataclass
class Program:
    """A program that is started again whenever it ends, until it is stopped."""

    name: str
    argv: Callable[[], Sequence[str]]
    env: Callable[[], Mapping[str, str]]
    log: Path
    before: Callable[[], None]
    wanted: bool = False
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def keep(self, changed: threading.Condition) -> None:
        """Supervisor's part: `autorestart`."""
        while True:
            with changed:
                changed.wait_for(lambda: self.wanted)
                self.before()
                with self.log.open("ab") as log:
                    self.process = subprocess.Popen(self.argv(), env=dict(self.env()), stdout=log, stderr=log)
                changed.notify_all()
            tell("started", program=self.name, pid=self.process.pid)
            begun = time.monotonic()
            self.process.wait()
            if time.monotonic() - begun < 1.0:
                time.sleep(AGAIN_S)  # it ends as soon as it starts: not in a circle


class Programs(Supervisor):
    """Service and Litestream. The agent and the roles ask it what they ask supervisor on a droplet."""

    def __init__(self, programs: Iterable[Program]) -> None:
        self._programs = {program.name: program for program in programs}
        self._changed = threading.Condition()
        for program in self._programs.values():
            threading.Thread(target=program.keep, args=(self._changed,), daemon=True).start()

    def states(self) -> dict[str, State]:
        return {name: self._state(program) for name, program in self._programs.items()}

    def _state(self, program: Program) -> State:
        up = program.process is not None and program.process.poll() is None
        name = "RUNNING" if up else "BACKOFF" if program.wanted else "STOPPED"
        return State(program.name, name, program.process.pid if up and program.process else 0, 0)

    def start(self, name: str, *, wait: bool = True) -> bool:
        with self._changed:
            if self._programs[name].wanted:
                return False
            self._programs[name].wanted = True
            self._changed.notify_all()
            return True

    def stop(self, name: str) -> bool:
        return bool(self.stop_all([name], 10.0))

    def stop_all(self, names: Iterable[str], within: float) -> list[str]:
        stopped = []
        with self._changed:
            for program in (self._programs[name] for name in names if name in self._programs):
                if program.wanted:
                    program.wanted = False
                    stopped.append(program)
        for program in stopped:
            if program.process is not None:
                program.process.terminate()
                program.process.wait(within)
        return [program.name for program in stopped]

    def kill(self, names: Iterable[str]) -> None:
        for program in (self._programs[name] for name in names if name in self._programs):
            if program.process is not None:
                program.process.kill()


class Confirmed:
    """A lease that is always ours."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def renew(self, holder: str, epoch: int) -> Lease:
        policy = self._config.inventory.policy
        return Lease(
            self._config.service.name, holder, epoch, policy.lease_ttl_s, policy.lease_margin_s, 0, "operator:x", ""
        )

    def read(self) -> Lease | None:
        return self.renew(self._config.name, read_role(self._config.layout).epoch)


def programs(config: Config) -> Programs:
    """Service and Litestream, as supervisor has them on a droplet."""
    layout, service = config.layout, config.service
    logs = layout.root / "var/log"
    return Programs(
        [
            Program(
                "litestream",
                lambda: replica.replicate_argv(layout.litestream, layout.litestream_yml),
                proc.child_environment,
                logs / "litestream.log",
                lambda: host_run.settle(config, read_role(layout).epoch),
            ),
            Program(
                service.name,
                lambda: ENGINE,
                lambda: {**host_run.service_environment(config, read_role(layout).epoch), **_own_python()},
                logs / f"{service.name}.log",
                lambda: host_run.settle(config),
            ),
        ]
    )


def _own_python() -> dict[str, str]:
    return {"PATH": os.environ["PATH"]}


def until_done(what: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """As an operator: what didn't work is told, and typed again."""
    while True:
        try:
            return work()
        except LifelineError as error:
            tell("failed", what=what, error=error.message, code=error.exit_code)
            time.sleep(AGAIN_S)


def vault_alone(config: Config) -> restores.Doors:
    def gone() -> Store:
        raise Unavailable("there is no off-site vault in a campaign")

    return restores.Doors(lambda: host_stores.open_vault_store(config), gone)


def run(config: Config, epoch: int) -> None:
    """Up to "primary", and on, as long as the campaign lives."""
    parent = os.getppid()
    supervisor = programs(config)
    vault = host_stores.open_vault(config)
    agent = Agent(config, lambda: supervisor, Confirmed(config), host_stores.open_vault(config, patient=False))
    threading.Thread(target=agent.run, daemon=True).start()
    with agent_http.serve(agent, port=0):
        if epoch > 1:
            want = restores.Want(epoch - 1, source="vault")
            answer = until_done("restore", lambda: restores.restore(config, supervisor, vault_alone(config), want))
            tell("restored", seconds=answer["seconds"], databases=answer["databases"])
        until_done("promotion", lambda: roles.start_primary(config, supervisor, vault, epoch))
        tell("primary", epoch=epoch)
        while os.getppid() == parent:
            time.sleep(1.0)
    os.killpg(0, signal.SIGKILL)  # nobody is left who would


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="host", description="A host of a campaign, until it is killed.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epoch", type=int, required=True)
    args = parser.parse_args(argv)
    with contextlib.suppress(KeyboardInterrupt):
        run(load_config(Layout(args.folder)), args.epoch)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
