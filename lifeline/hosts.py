"""The one door to SSH, and to processes on the operator's machine.  Alone imports Fabric.

Host keys are pinned: the inventory says which key a host has (it is derived, docs/design.md decision 11), nothing is
learnt on first sight and the user's known_hosts is neither read nor written.  A dead host costs three seconds.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from lifeline import errors
from lifeline.errors import BadConfig, LifelineError, NotDone, Refused, StepFailed, Unavailable
from lifeline.model import Host
from lifeline.progress import heard

if TYPE_CHECKING:
    import paramiko
    from fabric import Connection

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""
Hear = Callable[[str, str], None]
"""Called with a host's name and a line of progress, as it comes. Must not block: the host's work would wait for it."""

CONNECT_S = 3.0
KEEPALIVE_S = 5
END_S = 60.0  # for a program here that was told to stop, and ends in order
HOST_TOOL = "/opt/lifeline/current/bin/lifeline-host"
_BY_CODE: Mapping[int, type[LifelineError]] = {
    kind.exit_code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, LifelineError) and kind is not LifelineError
} | {NotDone.exit_code: NotDone}  # Unavailable to the host, which says so: nothing is under way there


@dataclass(frozen=True)
class Result:
    """A finished command."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")

    @property
    def last_words(self) -> str:
        """The last line it said, stderr first: what an operator should see of a failure."""
        errors = [line for line in self.stderr.splitlines() if line.strip() and heard(line) is None]
        said = errors or [line for line in self.stdout.splitlines() if line.strip()]
        return said[-1].decode(errors="replace").strip() if said else f"exit code {self.code}"


class Remote(Protocol):
    """A host, as runbooks use it."""

    @property
    def host(self) -> Host: ...
    def run(
        self, argv: Sequence[str], *, input: bytes | None = None, timeout: float = 60.0, check: bool = True
    ) -> Result: ...
    def verb(self, verb: str, *args: str, timeout: float = 60.0) -> dict[str, Any]: ...
    def put(self, local: Path, remote: str, progress: Progress | None = None) -> None: ...
    def get(self, remote: str, local: Path, progress: Progress | None = None) -> None: ...


class SshRemote:
    """A Remote over one SSH connection: opened when needed, reused (a command costs 50 ms), reopened when lost."""

    def __init__(
        self, host: Host, key: Path | None = None, connect_timeout: float = CONNECT_S, hear: Hear | None = None
    ) -> None:
        self._host = host
        self._hear = hear
        self._key = key
        self._connect_timeout = connect_timeout
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    @property
    def host(self) -> Host:
        return self._host

    def run(
        self, argv: Sequence[str], *, input: bytes | None = None, timeout: float = 60.0, check: bool = True
    ) -> Result:
        """Run argv on the host (quoted, no shell syntax).  Seconds; Unavailable when the host doesn't answer in time.

        With ``check``, a non-zero exit is StepFailed with the command's last words.
        """
        result = self._run(argv, input, timeout)
        if check and result.code != 0:
            raise StepFailed(f"{self._host.name}: {argv[0]} failed: {result.last_words}")
        return result

    def verb(self, verb: str, *args: str, timeout: float = 60.0) -> dict[str, Any]:
        """``lifeline-host VERB …`` as root: its JSON answer, or the LifelineError that its exit code stands for.

        What it says of its progress is told while it works.
        """
        result = self._run(["sudo", "-n", HOST_TOOL, verb, *args], None, timeout, self._told)
        return read_answer(self._host.name, verb, result)

    def _told(self, line: bytes) -> None:
        if self._hear and (text := heard(line)):
            self._hear(self._host.name, text)

    def _run(
        self, argv: Sequence[str], input: bytes | None, timeout: float, line: Callable[[bytes], None] | None = None
    ) -> Result:
        """``line``: gets each line of stderr as it comes."""
        import paramiko

        deadline = time.monotonic() + timeout
        transport = self._transport()
        try:
            channel = transport.open_session(timeout=min(timeout, 10.0))
            with contextlib.closing(channel):
                channel.exec_command(shlex.join(argv))
                return _converse(channel, tuple(argv), input, deadline, line)
        except TimeoutError as error:
            raise Unavailable(f"{self._host.name} did not finish {argv[0]} within {timeout:g} s") from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            self.close()
            raise Unavailable(f"lost the connection to {self._host.name} during {argv[0]}: {_why(error)}") from error

    def put(self, local: Path, remote: str, progress: Progress | None = None) -> None:
        """Copy a file to the host: to a name beside it, then renamed, so that no reader ever sees half of it."""
        with self._sftp() as sftp:
            sftp.put(str(local), remote + ".part", callback=progress)
            sftp.posix_rename(remote + ".part", remote)

    def get(self, remote: str, local: Path, progress: Progress | None = None) -> None:
        """Copy a file from the host, likewise."""
        part = local.with_name(local.name + ".part")
        with self._sftp() as sftp:
            sftp.get(remote, str(part), callback=progress)
        part.replace(local)

    def open(self) -> None:
        """Connect now (for a head start)."""
        self._transport()

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextlib.contextmanager
    def _sftp(self) -> Any:
        import paramiko

        try:
            with contextlib.closing(paramiko.SFTPClient.from_transport(self._transport())) as sftp:
                yield sftp
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise Unavailable(f"copying files with {self._host.name} failed: {_why(error)}") from error

    def _transport(self) -> paramiko.Transport:
        with self._lock:
            if self._connection is None or not self._connection.is_connected:
                self._connection = _connect(self._host, self._key, self._connect_timeout)
            transport: paramiko.Transport = self._connection.client.get_transport()
            return transport


class Hosts:
    """The hosts of an inventory by name, each with one connection.  Close it, or use it as a context."""

    def __init__(self, hosts: Iterable[Host], key: Path | None = None, hear: Hear | None = None) -> None:
        key = key or ssh_key()
        self._remotes = {host.name: SshRemote(host, key, hear=hear) for host in hosts}
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="hosts")

    def __getitem__(self, name: str) -> Remote:
        return self._remotes[name]

    def each(self, names: Iterable[str], job: Callable[[Remote], T]) -> dict[str, T | LifelineError]:
        """Do a job on several hosts at once.  A host that fails is answered by its error, and hides no other."""
        futures = {name: self._pool.submit(job, self._remotes[name]) for name in names}
        answers: dict[str, T | LifelineError] = {}
        for name, future in futures.items():
            try:
                answers[name] = future.result()
            except LifelineError as error:
                answers[name] = error
        return answers

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for remote in self._remotes.values():
            remote.close()

    def __enter__(self) -> Hosts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def ssh_key() -> Path | None:
    """LIFELINE_SSH_KEY; None (not set): the operator's agent and own keys are tried."""
    name = os.environ.get("LIFELINE_SSH_KEY")
    return Path(name) if name else None


def connect(host: Host, key: Path | None = None) -> SshRemote:
    """One host, outside a pool."""
    return SshRemote(host, key or ssh_key())


def local(
    argv: Sequence[str],
    *,
    input: bytes | None = None,
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Result:
    """Run argv here.  A non-zero exit is a result; a missing program or a passed deadline is Unavailable."""
    try:
        done = subprocess.run(
            list(argv), input=input, capture_output=True, timeout=timeout, env=env, cwd=cwd, check=False
        )
    except FileNotFoundError as error:
        raise _not_here(argv[0]) from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{argv[0]} did not finish within {timeout:g} s") from error
    return Result(tuple(argv), done.returncode, done.stdout, done.stderr)


def watched(
    argv: Sequence[str],
    hear: Callable[[str], None],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Result:
    """As ``local``, each line of stdout and stderr told as it comes.  Ctrl-C, and the deadline, let it end in order."""
    try:
        process = subprocess.Popen(
            list(argv), env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except FileNotFoundError as error:
        raise _not_here(argv[0]) from error
    assert process.stdout is not None
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.send_signal(signal.SIGINT)
        last.start()

    # Whoever began in the background of a shell may never hear of it.
    timer, last = threading.Timer(timeout, stop), threading.Timer(END_S, process.kill)
    timer.start()
    said = b""
    try:
        for line in process.stdout:
            said += line
            hear(line.decode(errors="replace").rstrip())
        code = process.wait()
    except KeyboardInterrupt:
        process.wait(END_S)  # the terminal told it too
        raise
    finally:
        timer.cancel()
        last.cancel()
    if late.is_set():
        raise Unavailable(f"{argv[0]} did not finish within {timeout:g} s")
    return Result(tuple(argv), code, said, b"")


def _not_here(program: str) -> Unavailable:
    hint = f'put {program} on PATH; for the lab: eval "$(fab lab.env)"'
    return Unavailable(f"{program} is not installed here", hint=hint)


def read_answer(host: str, verb: str, result: Result) -> dict[str, Any]:
    """A verb's JSON, or the error that it stands for."""
    try:
        answer = json.loads(result.stdout)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        if b"command not found" in result.stderr or b"No such file" in result.stderr:
            raise StepFailed(f"{host} has no Lifeline on it", hint="fab provision")
        raise StepFailed(f"{host}: lifeline-host {verb} gave no answer: {result.last_words}")
    if result.code != 0:
        kind = _BY_CODE.get(result.code, StepFailed)
        raise kind(f"{host}: {answer.get('error', result.last_words)}", hint=str(answer.get("hint") or ""))
    return answer


def host_key(text: str) -> paramiko.PKey:
    """The key that a host must show, of "ssh-ed25519 AAAA… comment". ValueError says what it is instead."""
    import paramiko

    kind, _, encoded = text.partition(" ")
    if kind != "ssh-ed25519":
        raise ValueError(f"of kind {kind[:40]!r}, which can't be pinned; it must be ssh-ed25519")
    try:
        data = base64.b64decode(encoded.split()[0], validate=True)
        key: paramiko.PKey = paramiko.Ed25519Key(data=data)
        whole = bool(key.asbytes() == data)  # it fills up what is too short
    except (IndexError, ValueError, paramiko.SSHException):
        whole = False
    if not whole:
        raise ValueError("not whole, as after copying a part of it")
    return key


def _own_key(path: Path) -> paramiko.PKey:
    """The operator's key, looked at before any host is asked: nobody should look for its fault there."""
    import paramiko

    hint = "export LIFELINE_SSH_KEY=… (a private key)"
    try:
        return paramiko.PKey.from_path(path)
    except OSError as error:
        raise BadConfig(f"LIFELINE_SSH_KEY: {path} can't be read: {error.strerror}", hint=hint) from None
    except (TypeError, paramiko.PasswordRequiredException):  # the former is its library's way to say so
        raise BadConfig(
            f"LIFELINE_SSH_KEY: {path} is protected by a passphrase, which nobody is asked for here",
            hint=f"ssh-add {path} && unset LIFELINE_SSH_KEY",
        ) from None
    except Exception:  # whatever its parsers trip over
        raise BadConfig(
            f"LIFELINE_SSH_KEY: {path} holds no whole private key (a .pub isn't one); no host was asked", hint=hint
        ) from None


def _connect(host: Host, key: Path | None, timeout: float) -> Connection:
    import paramiko
    from fabric import Config, Connection

    # Its threads print traces of what is told better below.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    own = _own_key(key) if key else None
    try:
        pinned = host_key(host.host_key)
    except ValueError as error:
        raise BadConfig(f"{host.name}: the inventory's host key is {error}", hint="fab inventory") from None
    settings = {"look_for_keys": key is None, "allow_agent": key is None}
    settings |= {"pkey": own} if own else {}  # Fabric takes no None here
    try:
        connection = Connection(
            host.address,
            user=host.user,
            config=Config(overrides={"load_ssh_configs": False}, lazy=True),
            connect_timeout=int(timeout),
            connect_kwargs={**settings, "banner_timeout": timeout, "auth_timeout": 2 * timeout},
        )
    except ValueError:
        raise BadConfig(f'{host.name}: "{host.address}" is no address', hint="fab inventory") from None
    # OpenSSH's way of naming a host in known_hosts.
    name = connection.host if connection.port == 22 else f"[{connection.host}]:{connection.port}"
    connection.client.get_host_keys().add(name, pinned.get_name(), pinned)
    connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        connection.open()
    except paramiko.BadHostKeyException as error:
        raise Refused(
            f"{host.name} ({host.address}) shows a host key that isn't the inventory's: is it another machine?",
            hint="pulumi preview --refresh",
        ) from error
    except paramiko.AuthenticationException as error:
        raise Unavailable(f"{host.name} refuses our key for {host.user}", hint="check LIFELINE_SSH_KEY") from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        if "No authentication methods" in str(error):
            raise BadConfig(
                "no SSH key to log in with: LIFELINE_SSH_KEY isn't set, and neither agent nor ~/.ssh has one",
                hint="export LIFELINE_SSH_KEY=… (a private key)",
            ) from error
        raise Unavailable(f"{host.name} ({host.address}) can't be reached over SSH: {_why(error)}") from error
    connection.client.get_transport().set_keepalive(KEEPALIVE_S)
    return connection


def _converse(
    channel: paramiko.Channel,
    argv: tuple[str, ...],
    input: bytes | None,
    deadline: float,
    line: Callable[[bytes], None] | None = None,
) -> Result:
    """Feed stdin, drain stdout and stderr side by side (neither may fill up and block the other), wait for the end."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        feeding = pool.submit(_feed, channel, input)
        errors_read = pool.submit(_drain, channel, channel.recv_stderr, deadline, line)
        try:
            out = _drain(channel, channel.recv, deadline)
            err = errors_read.result()
            feeding.result()
        except BaseException:
            channel.close()  # lets the two threads go
            raise
    if not channel.status_event.wait(max(0.0, deadline - time.monotonic())):
        raise TimeoutError
    code = channel.recv_exit_status()
    if code == -1:
        raise EOFError("the connection ended before the command did")
    return Result(argv, code, out, err)


def _feed(channel: paramiko.Channel, input: bytes | None) -> None:
    if input:
        channel.sendall(input)
    channel.shutdown_write()


def _drain(
    channel: paramiko.Channel,
    receive: Callable[[int], bytes],
    deadline: float,
    line: Callable[[bytes], None] | None = None,
) -> bytes:
    chunks: list[bytes] = []
    begun = b""  # a line whose end hasn't come yet
    while True:
        # The timeout is the channel's; every reader of it shares the one deadline.
        channel.settimeout(max(0.01, deadline - time.monotonic()))
        chunk = receive(65536)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
        if line:
            *whole, begun = (begun + chunk).split(b"\n")
            for one in whole:
                line(one)


def _why(error: BaseException) -> str:
    # paramiko's own OSError has no number, and says so: "[Errno None] Unable to connect …".
    return str(error).removeprefix("[Errno None] ") or type(error).__name__
