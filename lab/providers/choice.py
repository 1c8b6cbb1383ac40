"""Real provider or stand-in? The real one wherever it can be had."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Literal

Choice = Literal["real", "lab"]
PACKAGES = {"digitalocean": "pulumi-digitalocean", "aws": "pulumi-aws"}
DOWNLOAD_HOST = "get.pulumi.com"
CONNECT_WITHIN_S = 2.0
INSTALL_WITHIN_S = 180.0
REMEMBER_FAILURE_S = 3600.0


def available(env: Mapping[str, str] | None = None, *, download: bool = True) -> dict[str, Choice]:
    """{"digitalocean": "real" | "lab", "aws": …}.

    Real: `pulumi-resource-NAME` on PATH, installed, or (with `download`) to be had from Pulumi's plugin host. That
    host is asked only when it answers a connection within two seconds, and a failure is remembered for an hour:
    offline machines don't wait for it at every start.
    """
    env = os.environ if env is None else env
    found = {name: _present(name, env) for name in PACKAGES}
    missing = [name for name, there in found.items() if not there]
    if missing and download and _worth_trying(env):
        for name in missing:
            found[name] = _install(name, env)
        if not all(found.values()):
            _remember_failure(env)
    return {name: "real" if there else "lab" for name, there in found.items()}


def label(choices: Mapping[str, Choice]) -> Choice:
    """`environment.provider` of a report: real only when nothing was stood in for."""
    return "real" if all(choice == "real" for choice in choices.values()) else "lab"


def _present(name: str, env: Mapping[str, str]) -> bool:
    if shutil.which(f"pulumi-resource-{name}", path=env.get("PATH")):
        return True
    wanted = version(PACKAGES[name])
    return any(_plugin_home(env).glob(f"resource-{name}-v{wanted}/pulumi-resource-{name}*"))


def _plugin_home(env: Mapping[str, str]) -> Path:
    home = env.get("PULUMI_HOME") or str(Path(env.get("HOME", "/root")) / ".pulumi")
    return Path(home) / "plugins"


def _marker(env: Mapping[str, str]) -> Path:
    cache = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME", "/root")) / ".cache")
    return Path(cache) / "lifeline" / "no-plugin-host.json"


def _worth_trying(env: Mapping[str, str]) -> bool:
    try:
        failed_at = float(json.loads(_marker(env).read_text())["failed_at"])
    except (OSError, ValueError, KeyError, TypeError):
        failed_at = 0.0
    if 0 <= time.time() - failed_at < REMEMBER_FAILURE_S:
        return False
    if _reachable():
        return True
    _remember_failure(env)
    return False


def _reachable() -> bool:
    """In a thread: a connection's timeout doesn't cover the look-up of the name, which can take much longer."""
    answered = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((DOWNLOAD_HOST, 443), timeout=CONNECT_WITHIN_S):
            answered.set()

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(CONNECT_WITHIN_S)
    return answered.is_set()


def _remember_failure(env: Mapping[str, str]) -> None:
    marker = _marker(env)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps({"failed_at": time.time(), "host": DOWNLOAD_HOST}))


def _install(name: str, env: Mapping[str, str]) -> bool:
    pulumi = shutil.which("pulumi", path=env.get("PATH"))
    if pulumi is None:
        return False
    command = [pulumi, "plugin", "install", "resource", name, f"v{version(PACKAGES[name])}"]
    try:
        done = subprocess.run(
            command, env=dict(env), capture_output=True, timeout=INSTALL_WITHIN_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and _present(name, env)
