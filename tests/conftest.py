"""Fixtures of every test. The lab's is here because there can be one lab only: its addresses are fixed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_LOCK = Path("/run/lock/lifeline-lab-tests")


@dataclass(frozen=True)
class RunningLab:
    """The lab that tests share. ``env``: all variables of a shell for it. ``ours``: it may be taken down and broken."""

    env: dict[str, str]
    state: Path
    ours: bool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first: several workers end together then."""
    items.sort(key=lambda item: item.get_closest_marker("lab") is None)


@pytest.fixture(scope="session")
def _may_be_taken_down() -> Iterator[bool]:
    """Hold the machine's one lab; what was started meanwhile is taken down. Whether there was none before."""
    _need_lab()
    from lab import lifecycle
    from lab.config import state_dir

    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ours = not (state_dir() / "lab.json").exists()
        try:
            yield ours
        finally:
            if ours:
                lifecycle.down()
    _LOCK.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def lab_session(_may_be_taken_down: bool) -> RunningLab:
    """A lab that is up, whatever the module before it did."""
    from lab import lifecycle

    state = lifecycle.up().state
    return RunningLab(env=lifecycle.env(), state=state, ours=_may_be_taken_down)


@pytest.fixture
def lab(lab_session: RunningLab) -> dict[str, str]:
    """The environment of the operator's shell, with every part of the lab running and no partition in force."""
    from lab import faults, lifecycle

    if not lifecycle.status().healthy:  # an earlier test broke it
        lifecycle.up()
    faults.heal()
    return lab_session.env


@pytest.fixture
def ends_lab(lab_session: RunningLab) -> RunningLab:
    """For tests that take the lab down: only one that these tests started."""
    if not lab_session.ours:
        _skip("a lab was up before the tests: it isn't theirs to take down (fab lab.down)")
    return lab_session


def _need_lab() -> None:
    if os.geteuid() != 0:
        _skip("the lab needs root")
    missing = [tool for tool in ("systemd-nspawn", "ip", "nft") if not shutil.which(tool, path=_SBIN)]
    if missing:
        _skip(f"the lab needs {', '.join(missing)}: make setup-lab")


_SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _skip(reason: str) -> None:
    """A skip that nobody reads is a test that doesn't exist: under CI it is a failure."""
    if os.environ.get("CI") or os.environ.get("LIFELINE_REQUIRE_LAB"):
        pytest.fail(reason)
    pytest.skip(reason)
