"""A Pulumi CLI with its Python language host: the one on PATH, or one built from pinned Go modules.

No package registry carries the CLI as a binary; the Go module proxy carries its source. Two modules, because the two
programs can't share one: ``cli/`` pins the CLI; ``language/`` pins the language host of the last sdk release that
contains it (later ones moved it to a module that can't be required from outside: it replaces its own dependencies by
relative paths). The host speaks the same protocol to every 3.x CLI; the Python program that it starts,
``pulumi-language-python-exec``, comes from the sdk of the CLI's version.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from lifeline.errors import BadConfig
from toolchain import cache, golang
from toolchain.golang import Go, Version
from toolchain.progress import cpus, run, say

MINIMUM: Version = (3, 256)
HERE = Path(__file__).parent
CLI = HERE / "cli"
LANGUAGE = HERE / "language"
SDK = "github.com/pulumi/pulumi/sdk/v3"
COMMANDS = {
    CLI: "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
    LANGUAGE: f"{SDK}/python/cmd/pulumi-language-python",
}
PROGRAMS = ("pulumi", "pulumi-language-python", "pulumi-language-python-exec")
DEADLINE_S = 1800
BUILD_GIB = 6.0  # modules and object files; removed afterwards where Go isn't the machine's own


def pinned(module: Path) -> str:
    """The sdk's version in ``module``/go.mod, without the v: for cli/ that is the CLI's own."""
    found = re.search(rf"^\s*{re.escape(SDK)} v(\S+)", (module / "go.mod").read_text(), re.MULTILINE)
    if not found:
        raise BadConfig(f"{module}/go.mod doesn't pin {SDK}", hint=f"git checkout {module}/go.mod")
    return found[1]


def path() -> Path:
    """Where the built programs are, or will be."""
    return cache.root() / "pulumi" / pinned(CLI) / "bin"


def ensure() -> Path:
    """The folder to put on PATH: that of a usable pulumi already there, else that of the built one."""
    return on_path() or _built()


def on_path() -> Path | None:
    """The folder of a ``pulumi`` on PATH that is new enough and has its Python language host; None without one."""
    found = [shutil.which(program) for program in PROGRAMS]
    if found[0] is None or None in found:
        return None
    env = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "1"}
    done = subprocess.run([found[0], "version"], check=False, capture_output=True, text=True, env=env)
    return Path(found[0]).parent if usable(done.stdout) else None


def usable(version: str) -> bool:
    """Whether the answer of ``pulumi version`` is one that the project works with: 3.256 or newer, and still 3."""
    found = re.match(r"v(\d+)\.(\d+)\.\d+", version.strip())
    return found is not None and found[1] == "3" and (int(found[1]), int(found[2])) >= MINIMUM


def expected_s() -> int:
    """How long ``ensure`` will take: nothing, or what the build took on one and on two processors."""
    if on_path() or path().is_dir():
        return 0
    return 600 if cpus() == 1 else 300


def _built() -> Path:
    if not path().is_dir():
        minutes = expected_s() // 60
        say(f"building the Pulumi CLI {pinned(CLI)} from source: about {minutes} min on {cpus()} processors, once")
        say(f"it is kept in {path()}; a pulumi >= 3.256 on PATH would be used instead")
        cache.require_space(BUILD_GIB, "building the Pulumi CLI")
    return cache.make_once(path().parent, _build) / "bin"


def _build(folder: Path) -> None:
    go = golang.ensure(max(golang.required(CLI), golang.required(LANGUAGE)))
    log = path().parent.parent / f"build-{pinned(CLI)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    programs = folder / "bin"
    programs.mkdir()
    for module, command in COMMANDS.items():
        _compile(go, module, command, programs, log)
    # The Python half of the host, at the CLI's version. Copied as it is: Go keeps its modules read-only.
    executor = _sdk_folder(go) / "python" / "cmd" / PROGRAMS[2]
    shutil.copyfile(executor, programs / PROGRAMS[2])
    (programs / PROGRAMS[2]).chmod(0o755)
    if go.caches is not None:
        say("removing the build's caches")
        cache.remove_tree(
            go.caches
        )  # 5 GB that nothing else uses; a killed build keeps them, and so goes on where it was


def _compile(go: Go, module: Path, command: str, programs: Path, log: Path) -> None:
    """One program. The version is stamped in: ``pulumi version`` is what others, ``on_path`` too, decide by."""
    flags = f"-s -w -X {SDK}/go/common/version.Version=v{pinned(module)}"
    argv = [str(go.command), "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", f"{programs}/", command]
    name = command.rpartition("/")[2]
    run(argv, what=f"building {name}", log=log, deadline_s=DEADLINE_S, env=go.environment(), cwd=module)


def _sdk_folder(go: Go) -> Path:
    argv = [str(go.command), "list", "-m", "-f", "{{.Dir}}", SDK]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=CLI, env=go.environment())
    return Path(done.stdout.strip())
