"""Local commands on a host: argv in, result out. The one place where host-side code starts a process.

`hosts.py` is the door to *other* machines and needs Fabric; a droplet has neither Fabric nor a need for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lifeline.errors import StepFailed

# A CA bundle in the environment is fatal to Litestream, and a droplet must never wait for the metadata service for
# credentials.
_UNSET = ("AWS_CA_BUNDLE",)
_SET = {"AWS_EC2_METADATA_DISABLED": "true"}
GENTLE = ("nice", "-n", "10", "ionice", "-c", "3")  # before a command that must give way to the service


@dataclass(frozen=True)
class Done:
    """A finished command. `stderr` is what an operator should see when `code` isn't 0."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    @property
    def reason(self) -> str:
        """The last words of the command: one line, never empty."""
        lines = [line.strip() for line in (self.stderr or self.stdout).splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}"


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every child: ours, less what breaks Litestream, plus `extra`."""
    env = {key: value for key, value in os.environ.items() if key not in _UNSET}
    return {**env, **_SET, **(extra or {})}


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    line: Callable[[str], None] | None = None,
) -> Done:
    """Run to the end or to the deadline (seconds). A non-zero exit is a result, not an exception; a missing program
    or a deadline is one. `line`: gets each line of stdout as it comes (and there is no stdin then)."""
    try:
        if line:
            return _run_by_line(argv, timeout, env, line)
        done = subprocess.run(
            list(argv),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=child_environment(env),
            check=False,
        )
    except FileNotFoundError:
        raise StepFailed(f"{argv[0]} is not installed on this host", hint="fab provision") from None
    except subprocess.TimeoutExpired:
        raise StepFailed(f"{argv[0]} ran longer than {timeout:.0f} s and was stopped") from None
    return Done(tuple(argv), done.returncode, done.stdout, done.stderr)


def _run_by_line(
    argv: Sequence[str], timeout: float, env: Mapping[str, str] | None, line: Callable[[str], None]
) -> Done:
    said: list[str] = []
    late = threading.Event()
    with (
        tempfile.TemporaryFile() as err,  # a file never fills up
        subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, env=child_environment(env)
        ) as process,
    ):

        def stop() -> None:
            late.set()
            process.kill()

        alarm = threading.Timer(timeout, stop)
        alarm.start()
        try:
            assert process.stdout is not None
            for raw in process.stdout:
                said.append(raw.decode(errors="replace"))
                line(said[-1])
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            alarm.cancel()
        if late.is_set():
            raise subprocess.TimeoutExpired(list(argv), timeout)
        err.seek(0)
        return Done(tuple(argv), code, "".join(said), err.read().decode(errors="replace"))


def check(
    argv: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None, stdin: str | None = None
) -> Done:
    """Like `run`, but a non-zero exit raises StepFailed with the command's last words."""
    done = run(argv, timeout=timeout, env=env, stdin=stdin)
    if not done.ok:
        raise StepFailed(f"{argv[0]}: {done.reason}")
    return done


@dataclass(frozen=True)
class Running:
    """A command that runs beside us, in a process group of its own: it ends with all that it started."""

    argv: tuple[str, ...]
    process: subprocess.Popen[bytes]
    out: IO[bytes]
    err: IO[bytes]

    def done(self) -> Done | None:
        """How it ended; None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        texts = []
        for file in (self.out, self.err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return Done(self.argv, code, *texts)

    def stop(self, within: float = 5.0) -> None:
        """End it and all that it started, and wait until they are gone."""
        _signal_group(self.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(within)
        _signal_group(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start(argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Running:
    """Start a command and go on. Raises StepFailed when it isn't there."""
    # Files, not pipes: nobody reads while it runs, and a full pipe would stop it.
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - they stay open while it runs
    try:
        process = subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=child_environment(env), process_group=0
        )
    except FileNotFoundError:
        raise StepFailed(f"{argv[0]} is not installed on this host", hint="fab provision") from None
    return Running(tuple(argv), process, out, err)


class Conversation:
    """A command that is spoken with: JSON objects, one a line, in and out. Its stderr goes where ours goes. In a
    session of its own: it outlives us if it must."""

    def __init__(self, argv: Sequence[str]) -> None:
        try:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=child_environment(),
                start_new_session=True,
            )
        except FileNotFoundError:
            raise StepFailed(f"{argv[0]} is not installed on this host", hint="fab provision") from None
        self._said: Mapping[str, Any] = {}
        self._reader = threading.Thread(target=self._listen, daemon=True, name="conversation")
        self._reader.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):
                if isinstance(found := json.loads(line), dict):
                    self._said = found

    def tell(self, order: Mapping[str, Any]) -> None:
        """One object to its stdin; one that is gone by now hears nothing, and `code` tells."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def said(self) -> Mapping[str, Any]:
        """Its newest object; empty when it said nothing yet."""
        return self._said

    def code(self) -> int | None:
        """Its exit code, None while it runs or while its last words are being read."""
        code = self._process.poll()
        return None if code is None or self._reader.is_alive() else code

    def stop(self, within: float = 2.0) -> None:
        """End it with all that it started."""
        _signal_group(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(within)
        _signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()


def began(pid: int) -> str | None:
    """What tells a process from a later one with its number: when it began, in ticks since boot. None: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def end_orphans(pid: int, begun: str, within: float = 5.0) -> bool:
    """Kill what is left of a process group whose leader began then, and wait for it. False: nothing was left."""
    if began(pid) not in (None, begun):
        return False  # the number is another's by now
    if not _signal_group(pid, signal.SIGKILL):
        return False
    deadline = time.monotonic() + within
    while _signal_group(pid, 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    return True


def _signal_group(pid: int, number: int) -> bool:
    """False when there is no such group."""
    try:
        os.killpg(pid, number)
    except OSError:
        return False
    return True
