"""The project's virtual environment, from the lock file. Runs with whatever Python the machine has."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from lifeline.errors import Unavailable
from toolchain import apt, cache
from toolchain.progress import run, say

PROJECT = Path(__file__).resolve().parent.parent
VENV = PROJECT / ".venv"
LOCK = PROJECT / "requirements.lock"
MINIMUM = (3, 11)
EXPECTED_S = 40
DEADLINE_S = 1200


def ensure() -> Path:
    """The venv, with exactly the locked packages and the project itself (editable)."""
    if sys.version_info < MINIMUM:
        found = ".".join(map(str, sys.version_info[:2]))
        raise Unavailable(
            f"Python 3.11 or newer is needed; {sys.executable} is {found}", hint="make PYTHON=python3.12 setup"
        )
    with cache.locked(cache.root() / f".venv-{cache.digest(str(PROJECT))}.lock"):
        return _install()


def _install() -> Path:
    python = VENV / "bin" / "python"
    log = VENV.with_name(".venv.log")
    log.unlink(missing_ok=True)
    if not (python.exists() and python.with_name("pip").exists()):  # absent, killed half-way, or its Python is gone
        say(f"making the virtual environment: about {EXPECTED_S} s; output in {log}")
        _require_ensurepip()
        run([sys.executable, "-m", "venv", "--clear", str(VENV)], what="python -m venv", log=log, deadline_s=120)
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-compile"]
    locked = [*pip, "--require-hashes", "--no-deps", "--requirement", str(LOCK)]
    run(locked, what="locked dependencies", log=log, deadline_s=DEADLINE_S, env=env, hint="make setup")
    # Its dependencies are in by now, and its build backend too: this asks no registry.
    itself = [*pip, "--no-deps", "--no-build-isolation", "--editable", str(PROJECT)]
    run(itself, what="the project itself", log=log, deadline_s=120, env=env, hint="make clean setup")
    log.unlink(missing_ok=True)
    return VENV


def _require_ensurepip() -> None:
    """Debian's Python comes without the part of venv that installs pip; the package that has it may be missing."""
    if importlib.util.find_spec("ensurepip") is not None:
        return
    package = f"python3.{sys.version_info[1]}-venv"
    hint = f"sudo apt-get install {package}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Unavailable(f"{sys.executable} can't make virtual environments: ensurepip is missing", hint=hint)
    apt.install([package])
