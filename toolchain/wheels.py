"""The droplets' wheelhouse: every wheel a host needs, for Debian 13's Python, fetched by exact hash.

A rebuild must not depend on a package registry being up, so hosts never ask one: provisioning ships these.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from toolchain import cache
from toolchain.progress import run, say

LOCK = Path(__file__).parent / "host-requirements.txt"
PYTHON = "3.13"
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in (41, 34, 28, 17)), "manylinux2014_x86_64")
EXPECTED_S = 10
DEADLINE_S = 300


def path() -> Path:
    """Where the wheelhouse is, or will be: its name changes with the lock and the target platform."""
    return cache.root() / "wheels" / f"host-{cache.digest(LOCK.read_text(), PYTHON, *PLATFORMS)}"


def ensure() -> Path:
    """A folder that holds the locked wheels for a host and nothing else."""
    if not path().is_dir():
        say(f"fetching the hosts' wheels: about {EXPECTED_S} s, once; kept in {path()}")
    return cache.make_once(path(), _download)


def _download(folder: Path) -> None:
    log = path().parent / f"{path().name}.log"
    log.unlink(missing_ok=True)
    argv = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--require-hashes", "--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"),
        *(f"--platform={platform}" for platform in PLATFORMS),
        *("--requirement", str(LOCK), "--dest", str(folder)),
    ]
    env = {**os.environ, "PIP_NO_INPUT": "1"}
    run(argv, what="wheels for the hosts", log=log, deadline_s=DEADLINE_S, env=env, hint="make setup")
