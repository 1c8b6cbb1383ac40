"""The door to SSH, against a real SSH server in this process: pinning, quoting, deadlines, errors."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from lifeline.errors import BadConfig, DataBad, LifelineError, NotDone, Refused, StepFailed, Unavailable
from lifeline.hosts import Hosts, Result, SshRemote, local, read_answer, watched
from lifeline.model import Host


def ed25519(path: Path) -> paramiko.Ed25519Key:
    private = Ed25519PrivateKey.generate()
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    return paramiko.Ed25519Key(filename=str(path))


class Sshd(paramiko.ServerInterface):  # type: ignore[misc]
    """Lets one key in and runs what it is told, by a shell, as sshd does."""

    def __init__(self, allowed: paramiko.PKey) -> None:
        self.allowed = allowed

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        good = username == "operator" and key == self.allowed
        return int(paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED)

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=execute, args=(channel, command.decode()), daemon=True).start()
        return True


def execute(channel: paramiko.Channel, command: str) -> None:
    sent = b""
    if command.startswith("cat"):
        while chunk := channel.recv(65536):
            sent += chunk
    if command == "drop":
        channel.get_transport().close()
        return
    with contextlib.suppress(OSError, EOFError), tempfile.TemporaryFile() as stdin:
        stdin.write(sent)
        stdin.seek(0)
        shell, pipe = ["/bin/sh", "-c", command], subprocess.PIPE
        process = subprocess.Popen(shell, stdin=stdin, stdout=pipe, stderr=pipe)
        assert process.stdout and process.stderr
        errors = threading.Thread(target=forward, args=(process.stderr, channel.sendall_stderr))
        errors.start()
        forward(process.stdout, channel.sendall)
        errors.join()
        channel.send_exit_status(process.wait())
        channel.close()


def forward(source: IO[bytes], send: Callable[[bytes], object]) -> None:
    """Line by line, as they come."""
    with contextlib.suppress(OSError, EOFError):
        for line in source:
            send(line)


class Server:
    """One sshd on a free port of loopback."""

    def __init__(self, folder: Path) -> None:
        self.host_key = ed25519(folder / "host")
        self.user_key = folder / "user"
        allowed = ed25519(self.user_key)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        self.allowed = allowed
        threading.Thread(target=self.serve, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            transport = paramiko.Transport(connection)
            transport.add_server_key(self.host_key)
            with contextlib.suppress(paramiko.SSHException, EOFError):
                transport.start_server(server=Sshd(self.allowed))

    def host(self, key: paramiko.PKey | None = None, name: str = "h", port: int | None = None) -> Host:
        pinned = f"ssh-ed25519 {(key or self.host_key).get_base64()} comment"
        where = f"127.0.0.1:{port or self.port}"
        return Host(name, "primary", "r", "1", where, "", "h.test", "operator", pinned, None, None, None)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    yield found
    found.listener.close()


@pytest.fixture
def remote(server: Server) -> Iterator[SshRemote]:
    found = SshRemote(server.host(), server.user_key)
    yield found
    found.close()


def test_argv_arrives_as_it_was_and_the_connection_is_reused(server: Server, remote: SshRemote) -> None:
    nasty = ["a b", "$HOME", "`id`", "'", '"', ";", "*", ""]
    result = remote.run(["printf", "%s\\n", *nasty])
    assert result.text.split("\n")[:-1] == nasty
    assert remote.run(["true"]).code == 0 and server.connections == 1


def test_bytes_go_in_and_out(remote: SshRemote) -> None:
    data = bytes(range(256)) * 5000
    assert remote.run(["cat"], input=data).stdout == data


def test_a_failure_is_told_in_the_command_s_last_words(remote: SshRemote) -> None:
    argv = ["sh", "-c", "echo first >&2; echo disk full >&2; exit 3"]
    with pytest.raises(StepFailed, match="h: sh failed: disk full"):
        remote.run(argv)
    assert remote.run(argv, check=False).code == 3


def test_a_deadline_is_kept(remote: SshRemote) -> None:
    begun = time.monotonic()
    with pytest.raises(Unavailable, match=r"did not finish sleep within 0\.3 s"):
        remote.run(["sleep", "5"], timeout=0.3)
    assert time.monotonic() - begun < 4


def test_a_lost_connection_is_unavailable_and_opened_again(server: Server, remote: SshRemote) -> None:
    with pytest.raises(Unavailable):
        remote.run(["drop"])
    assert remote.run(["echo", "back"]).text == "back\n" and server.connections == 2


def test_another_host_key_is_refused_whatever_the_address(server: Server, tmp_path: Path) -> None:
    other = ed25519(tmp_path / "other")
    with pytest.raises(Refused, match="isn't the inventory's"):
        SshRemote(server.host(other), server.user_key).run(["true"])


def test_a_key_that_is_not_let_in(server: Server, tmp_path: Path) -> None:
    ed25519(tmp_path / "stranger")
    with pytest.raises(Unavailable, match="refuses our key"):
        SshRemote(server.host(), tmp_path / "stranger").run(["true"])


def test_without_a_key_the_operator_s_own_is_tried(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    server.user_key.rename(tmp_path / ".ssh" / "id_ed25519")
    remote = SshRemote(server.host(), None)
    assert remote.run(["echo", "in"]).text == "in\n"
    remote.close()


def test_without_any_key_the_operator_is_told_so(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(BadConfig, match="no SSH key to log in with"):
        SshRemote(server.host(), None).run(["true"])


def test_a_key_that_is_not_there_is_no_fault_of_the_host(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"LIFELINE_SSH_KEY: .*nowhere can't be read") as caught:
        SshRemote(server.host(), tmp_path / "nowhere").run(["true"])
    assert "LIFELINE_SSH_KEY" in caught.value.hint and server.connections == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"hello\n", b"-----BEGIN OPENSSH PRIVATE KEY-----", b"\xff\xfe" * 100, b"ssh-ed25519 AAAA me\n", None],
    ids=["empty", "garbage", "begun", "binary", "public", "folder"],
)
def test_what_is_no_key_is_told_before_a_host_is_asked(server: Server, tmp_path: Path, content: bytes | None) -> None:
    key = tmp_path / "wrong"
    if content is None:
        key.mkdir()
    else:
        key.write_bytes(content)
    with pytest.raises(BadConfig, match=f"LIFELINE_SSH_KEY: {key}"):
        SshRemote(server.host(), key).run(["true"])
    assert server.connections == 0


def test_half_a_key_and_one_with_a_passphrase(server: Server, tmp_path: Path) -> None:
    half, secret = tmp_path / "half", tmp_path / "secret"
    half.write_bytes(server.user_key.read_bytes()[:200])
    with pytest.raises(BadConfig, match="no whole private key"):
        SshRemote(server.host(), half).run(["true"])
    private = Ed25519PrivateKey.generate()
    secret.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(b"pw")))
    with pytest.raises(BadConfig, match="passphrase") as caught:
        SshRemote(server.host(), secret).run(["true"])
    assert caught.value.hint.startswith("ssh-add") and server.connections == 0


@pytest.mark.parametrize("wrong", [{"host_key": "ssh-ed25519 AAAA…"}, {"host_key": "ssh-rsa AAAA"}, {"address": "a:b"}])
def test_an_inventory_that_names_no_host_that_can_be_asked(server: Server, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadConfig, match="h: "):
        SshRemote(replace(server.host(), **wrong), server.user_key).run(["true"])


def test_nobody_listens(server: Server) -> None:
    server.listener.close()
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="can't be reached over SSH: Unable to connect"):
        SshRemote(server.host(port=1), server.user_key).run(["true"])
    assert time.monotonic() - begun < 4


def test_a_host_that_accepts_and_says_nothing_costs_seconds(tmp_path: Path, server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        with pytest.raises(Unavailable):
            SshRemote(server.host(port=silent.getsockname()[1]), server.user_key, connect_timeout=1.0).run(["true"])
        assert time.monotonic() - begun < 10  # paramiko's own patience is 15 s


def test_what_a_verb_says_of_its_progress_is_heard_while_it_works(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verb goes on only when its first line was heard; and nothing but progress is."""
    go, tool, sudo = tmp_path / "go", tmp_path / "lifeline-host", tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    tool.write_text(
        "#!/bin/sh\necho 'progress: restoring' >&2; echo a warning >&2\n"
        f"while [ ! -e {go} ]; do sleep 0.01; done\n"
        "printf 'progress: veri' >&2; echo fying >&2; echo '{\"verified\": true}'\n"
    )
    for program in (sudo, tool):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("lifeline.hosts.HOST_TOOL", str(tool))
    lines: list[tuple[str, str]] = []

    def hear(name: str, text: str) -> None:
        lines.append((name, text))
        go.touch()

    remote = SshRemote(server.host(), server.user_key, hear=hear)
    assert remote.verb("restore", timeout=10) == {"verified": True}
    assert lines == [("h", "restoring"), ("h", "verifying")]
    remote.close()


def test_several_at_once_and_one_that_is_down_hides_no_other(server: Server) -> None:
    up, down = server.host(name="up"), server.host(name="down", port=1)
    with Hosts([up, down], server.user_key) as hosts:
        answers = hosts.each(["up", "down"], lambda remote: remote.run(["echo", "hi"]).text)
    assert answers["up"] == "hi\n" and isinstance(answers["down"], Unavailable)


def answer(code: int, out: object = None, err: bytes = b"") -> Result:
    return Result(("x",), code, b"" if out is None else json.dumps(out).encode(), err)


def test_a_verb_s_answer_or_the_error_that_it_stands_for() -> None:
    assert read_answer("h", "observe", answer(0, {"role": "none"})) == {"role": "none"}
    with pytest.raises(NotDone, match="h: the vault is away"):  # it answered: nothing is under way there
        read_answer("h", "finalize", answer(7, {"error": "the vault is away"}))
    with pytest.raises(DataBad, match="h: books differ") as caught:
        read_answer("h", "verify", answer(8, {"error": "books differ", "hint": "fab restore"}))
    assert caught.value.hint == "fab restore"
    with pytest.raises(StepFailed, match="has no Lifeline on it") as missing:
        read_answer("h", "observe", answer(1, err=b"sudo: /opt/x: command not found"))
    assert missing.value.hint == "fab provision"
    with pytest.raises(StepFailed, match="gave no answer: Killed"):
        read_answer("h", "finalize", answer(137, err=b"Killed\nprogress: restoring: 5 s so far"))
    for code in range(2, 9):
        with pytest.raises(LifelineError) as mapped:
            read_answer("h", "v", answer(code, {"error": "e"}))
        assert mapped.value.exit_code == code


def test_local_programs() -> None:
    assert local(["cat"], input=b"x").stdout == b"x"
    assert local(["sh", "-c", "exit 4"]).code == 4
    with pytest.raises(Unavailable, match="not installed"):
        local(["no-such-program"])
    with pytest.raises(Unavailable, match=r"within 0\.1 s"):
        local(["sleep", "5"], timeout=0.1)


def test_a_long_program_here_is_heard_while_it_works_and_is_given_time_to_end() -> None:
    heard: list[str] = []
    done = watched(["sh", "-c", "echo one; echo two >&2; exit 3"], heard.append, timeout=5.0)
    assert (done.code, heard, done.last_words) == (3, ["one", "two"], "two")
    with pytest.raises(Unavailable, match="not installed"):
        watched(["no-such-program"], heard.append, timeout=1.0)
    script = "trap 'echo in order; exit 0' INT; echo begun; while :; do sleep 0.05; done"
    with interruptible(), pytest.raises(Unavailable, match=r"did not finish within 0\.3 s"):
        watched(["sh", "-c", script], heard.append, timeout=0.3)
    assert heard[-1] == "in order"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Tests in the background of a shell ignore SIGINT, and so would all that they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_long_program_here_that_does_not_end_in_order_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeline.hosts.END_S", 0.3)
    with pytest.raises(Unavailable, match=r"did not finish within 0\.2 s"):
        watched(["sh", "-c", "trap '' INT; while :; do sleep 0.05; done"], list[str]().append, timeout=0.2)
