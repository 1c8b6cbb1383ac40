"""The deadman: as a program of its own, on a real clock; what it reads, and what it does when things fail."""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lifeline import deadman


@pytest.fixture
def host(tmp_path: Path) -> tuple[Path, Path]:
    """(run, group): a control group in which a kill is a mark."""
    run, group = tmp_path / "run", tmp_path / "group"
    for folder in (run, group):
        folder.mkdir()
    (group / "cgroup.kill").touch()
    return run, group


@contextlib.contextmanager
def running(host: tuple[Path, Path], notify: Path) -> Iterator[subprocess.Popen[str]]:
    """As systemd starts it: alone, with no library but Python's own."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", deadman.__file__, *map(str, host)],
        env={"NOTIFY_SOCKET": str(notify)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def systemd(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(10)
        yield listener


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_it_kills_once_the_deadline_is_over_and_not_before(host: tuple[Path, Path], tmp_path: Path) -> None:
    run, group = host
    mark = group / "cgroup.kill"
    with systemd(tmp_path / "notify") as listener, running(host, tmp_path / "notify") as process:
        assert listener.recv(100) == b"READY=1"
        until = deadman.boottime() + 1.0
        deadman.arm(run, until)
        assert listener.recv(100) == b"WATCHDOG=1"
        assert within(5, lambda: mark.read_text() == "1")
        assert 0 <= deadman.boottime() - until < 1.0
        assert within(1, lambda: not deadman.due(run, 1e12))  # once, not for ever
        assert process.stdout is not None and "killed all that supervisor ran" in process.stdout.readline()


def test_a_renewal_moves_the_deadline(host: tuple[Path, Path]) -> None:
    run, group = host
    deadman.arm(run, 100.0)
    assert not deadman.due(run, 99.9) and deadman.due(run, 100.0)
    deadman.arm(run, 110.0)
    assert not deadman.due(run, 109.9) and deadman.due(run, 110.0)
    deadman.disarm(run)
    deadman.disarm(run)
    deadman.look(run, group)
    assert (group / "cgroup.kill").read_text() == ""


def test_a_deadline_that_can_not_be_read_is_over(host: tuple[Path, Path]) -> None:
    run, _ = host
    (run / "deadline").write_text("soon\n")
    assert deadman.due(run, 0.0)


def test_a_kill_that_fails_is_tried_again(
    host: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, group = host
    deadman.arm(run, 0.0)
    with monkeypatch.context() as broken:

        def fails(_: Path) -> None:
            raise PermissionError("no")

        broken.setattr(deadman, "cut", fails)
        deadman.look(run, group)
    assert "killing failed" in capsys.readouterr().out
    deadman.look(run, group)
    assert (group / "cgroup.kill").read_text() == "1" and not deadman.due(run, 1e12)


def test_without_supervisor_there_is_nothing_to_kill(host: tuple[Path, Path]) -> None:
    run, group = host
    deadman.arm(run, 0.0)
    deadman.look(run, group / "gone")
    assert not deadman.due(run, 1e12)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a control group of its own")
def test_the_kernel_kills_a_group_whole(tmp_path: Path) -> None:
    """The real thing: stopped processes, and those that ignore everything else."""
    with contextlib.ExitStack() as cleanup:
        group = _cgroup(cleanup)
        script = f"echo $$ > {group}/cgroup.procs; trap '' TERM HUP INT; sleep 60 & wait"
        process = subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True)
        cleanup.callback(process.wait)
        cleanup.callback(process.kill)
        assert within(5, lambda: len((group / "cgroup.procs").read_text().split()) == 2)
        process.send_signal(signal.SIGSTOP)
        deadman.cut(group)
        assert process.wait(5) == -signal.SIGKILL
        assert within(5, lambda: "populated 0" in (group / "cgroup.events").read_text())


def _cgroup(cleanup: contextlib.ExitStack) -> Path:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    if root is None:
        pytest.skip("no cgroup v2 here")
    group = root / f"lifeline-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    cleanup.callback(group.rmdir)
    return group


def test_it_needs_nothing_that_could_be_missing() -> None:
    """The file alone is copied to hosts: the standard library, and no clock that anybody can set."""
    tree = ast.parse(Path(deadman.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names
