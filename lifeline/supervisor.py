"""Supervisor on a host: the programs' configuration (pure), and its XML-RPC door.

XML-RPC over supervisor's own unix socket, not `supervisorctl`: that starts an interpreter per question, which
`observe` can't afford.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifeline.barrier import UnixConnection
from lifeline.errors import StepFailed, Unavailable

SOCKET = Path("/run/supervisor.sock")

_NO_FILE, _BAD_NAME, _ALREADY_STARTED, _NOT_RUNNING = 20, 10, 60, 70
_AT_REST = ("STOPPED", "EXITED", "FATAL")


@dataclass(frozen=True)
class Program:
    """One supervised program. Only the keeper starts at boot: what may run is for the lease to say."""

    name: str
    command: Sequence[str]
    user: str = "root"
    directory: str = "/"
    environment: Mapping[str, str] = field(default_factory=dict)
    autostart: bool = False
    start_seconds: int = 1
    stop_seconds: int = 20

    @property
    def file_name(self) -> str:
        return f"lifeline-{self.name.removeprefix('lifeline-')}.conf"


def render(program: Program) -> str:
    """The [program:x] section. Supervisor expands `%`, so it is doubled."""
    lines = [
        f"[program:{program.name}]",
        f"command={' '.join(_argument(word) for word in program.command)}",
        f"user={program.user}",
        f"directory={_plain(program.directory)}",
        f"autostart={str(program.autostart).lower()}",
        "autorestart=true",
        f"startsecs={program.start_seconds}",
        "startretries=10",
        f"stopwaitsecs={program.stop_seconds}",
        # A service's children hold its port and its database: they go with it.
        "stopasgroup=true",
        "killasgroup=true",
        f"stdout_logfile=/var/log/supervisor/{program.name}.log",
        "redirect_stderr=true",
        "stdout_logfile_maxbytes=5MB",
        "stdout_logfile_backups=3",
    ]
    if program.environment:
        lines.append(
            "environment=" + ",".join(f"{key}={_quoted(value)}" for key, value in sorted(program.environment.items()))
        )
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise ValueError(f"a line break in a supervisor setting: {text!r}")
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    return '"' + _plain(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _argument(word: str) -> str:
    # Supervisor splits a command like a POSIX shell does, but `;` after a blank begins a comment even so.
    return _plain(word) if word and all(c.isalnum() or c in "/._-=:@+," for c in word) else _quoted(word)


@dataclass(frozen=True)
class State:
    """A program as supervisor sees it."""

    name: str
    state: str  # RUNNING, STARTING, STOPPED, FATAL, …
    pid: int
    uptime_s: int
    stopped_by_hand: bool = False  # it ran since supervisor's start, and somebody stopped it

    @property
    def running(self) -> bool:
        return self.state in ("RUNNING", "STARTING")


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__()
        self._path, self._timeout = path, timeout

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return UnixConnection(self._path, self._timeout)


class Supervisor:
    """supervisord on this host. Every call raises Unavailable when it doesn't answer."""

    def __init__(self, socket: Path = SOCKET, timeout: float = 60.0) -> None:
        self._socket = socket
        self._proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_Transport(socket, timeout))

    def states(self) -> dict[str, State]:
        """Every configured program by name."""
        found = self._call("getAllProcessInfo")
        return {
            p["name"]: State(
                p["name"],
                p["statename"],
                p["pid"],
                max(0, p["now"] - p["start"]) if p["pid"] else 0,
                p["statename"] == "STOPPED" and p["start"] > 0,
            )
            for p in found
        }

    def start(self, name: str, *, wait: bool = True) -> bool:
        """Start, and `wait` until it has stayed up for its startsecs. False when it ran already."""
        try:
            self._call("startProcess", name, wait)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == _ALREADY_STARTED:
                return False
            raise StepFailed(
                f"{name} does not start: {fault.faultString}", hint=f"read /var/log/supervisor/{name}.log on this host"
            ) from None
        return True

    def stop(self, name: str) -> bool:
        """Stop and wait until its processes are gone. False when it wasn't running, or isn't configured."""
        try:
            self._call("stopProcess", name, True)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in (_NOT_RUNNING, _BAD_NAME):
                return False
            raise StepFailed(f"{name} does not stop: {fault.faultString}") from None
        return True

    def stop_all(self, names: Iterable[str], within: float) -> list[str]:
        """Stop several, all at once, with all they started; returns those that were running. Raises StepFailed when one
        is still there after `within` seconds."""
        deadline = time.monotonic() + within
        states = self.states()
        running = [name for name in names if name in states and states[name].state not in _AT_REST]
        leaders = [states[name].pid for name in running if states[name].pid]
        for name in running:
            try:
                self._call("stopProcess", name, False)
            except xmlrpc.client.Fault as fault:
                if fault.faultCode != _NOT_RUNNING:
                    raise StepFailed(f"{name} does not stop: {fault.faultString}") from None
        while True:
            states = self.states()
            left = [name for name in running if states[name].state not in _AT_REST]
            if not left:
                for leader in leaders:  # supervisor waits for the first process of a group only
                    with contextlib.suppress(OSError):
                        os.killpg(leader, signal.SIGKILL)
                return running
            if time.monotonic() > deadline:
                raise StepFailed(f"still running after {within:.0f} s: {', '.join(left)}")
            time.sleep(0.05)

    def reload(self) -> dict[str, list[str]]:
        """Take over changed files: programs that changed are stopped and replaced, the new ones that start by
        themselves start."""
        added, changed, removed = self._call("reloadConfig")[0]
        for name in [*changed, *removed]:
            self._ignoring(_BAD_NAME, "stopProcessGroup", name, True)
            self._ignoring(_BAD_NAME, "removeProcessGroup", name)
        for name in [*added, *changed]:
            self._ignoring(90, "addProcessGroup", name)  # 90: already added
        return {"added": list(added), "changed": list(changed), "removed": list(removed)}

    def _ignoring(self, code: int, method: str, *arguments: Any) -> None:
        try:
            self._call(method, *arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != code:
                raise StepFailed(f"supervisor: {method} {arguments[0]}: {fault.faultString}") from None

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault:
            raise
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise Unavailable(
                f"supervisor does not answer at {self._socket}: {error}", hint="systemctl restart supervisor"
            ) from None


def states_when_up(supervisor: Supervisor, within: float = 30.0) -> dict[str, State]:
    """Its programs, as soon as it answers: a host that boots is spoken with before its supervisor runs."""
    deadline = time.monotonic() + within
    while True:
        try:
            return supervisor.states()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
