"""Real provider or stand-in? The real one wherever it can be had, unless ``LIFELINE_PROVIDERS`` says otherwise."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Literal, cast, get_args

from lifeline.errors import BadConfig, Unavailable

Choice = Literal["real", "lab"]
Mode = Literal["auto", "real", "lab"]
MODE_VARIABLE = "LIFELINE_PROVIDERS"
PACKAGES = {"digitalocean": "pulumi-digitalocean", "aws": "pulumi-aws"}
DOWNLOAD_HOST = "get.pulumi.com"
CONNECT_WITHIN_S = 2.0
# The AWS plugin is some 200 MB: five minutes at 700 kB/s.
INSTALL_WITHIN_S = {"digitalocean": 180.0, "aws": 300.0}
REMEMBER_FAILURE_S = 3600.0


def mode(env: Mapping[str, str] | None = None) -> Mode:
    """What ``LIFELINE_PROVIDERS`` asks for, "auto" if nothing; BadConfig when it is no mode."""
    asked = (os.environ if env is None else env).get(MODE_VARIABLE) or "auto"
    if asked not in get_args(Mode):
        raise BadConfig(f"{MODE_VARIABLE}={asked} is none of auto, real, lab", hint=f"unset {MODE_VARIABLE}")
    return cast(Mode, asked)


def available(
    env: Mapping[str, str] | None = None,
    *,
    wanted: Mode = "auto",
    download: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Choice]:
    """{"digitalocean": "real" | "lab", "aws": …}.

    Real: `pulumi-resource-NAME` on PATH, installed, or (with `download`) to be had from Pulumi's plugin host. That
    host is asked only when it answers a connection within two seconds, and a failure is remembered for an hour:
    offline machines don't wait for it at every start.

    `wanted`: with "lab" nothing real is used; with "real" the host is asked in any case, and Unavailable is raised
    when a plugin can't be had.
    """
    env = os.environ if env is None else env
    if wanted == "lab":
        return dict.fromkeys(PACKAGES, "lab")
    found = {name: _present(name, env) for name in PACKAGES}
    missing = [name for name, there in found.items() if not there]
    if missing and download and (wanted == "real" or _worth_trying(env)):
        for name in missing:
            found[name] = _install(name, env, say)
        if not all(found.values()):
            _remember_failure(env)
    missing = [name for name, there in found.items() if not there]
    if missing and wanted == "real":
        commands = "; ".join(f"pulumi plugin install resource {name} {_version(name)}" for name in missing)
        raise Unavailable(
            f"{MODE_VARIABLE}=real, but the Pulumi plugins {', '.join(missing)} can't be had here",
            hint=f"{commands}; or put pulumi-resource-{missing[0]} on PATH; or {MODE_VARIABLE}=lab for stand-ins",
        )
    return {name: "real" if there else "lab" for name, there in found.items()}


def label(choices: Mapping[str, Choice]) -> Choice:
    """`environment.provider` of a report: real only when nothing was stood in for."""
    return "real" if all(choice == "real" for choice in choices.values()) else "lab"


def _present(name: str, env: Mapping[str, str]) -> bool:
    if shutil.which(f"pulumi-resource-{name}", path=env.get("PATH")):
        return True
    return any(_plugin_home(env).glob(f"resource-{name}-{_version(name)}/pulumi-resource-{name}*"))


def _version(name: str) -> str:
    """The plugin that fits the installed SDK."""
    return f"v{version(PACKAGES[name])}"


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


def _install(name: str, env: Mapping[str, str], say: Callable[[str], None]) -> bool:
    """Once it is there it stays. What went wrong is said, not raised: there are stand-ins."""
    pulumi = shutil.which("pulumi", path=env.get("PATH"))
    if pulumi is None:
        return False
    within = INSTALL_WITHIN_S[name]
    say(
        f"lab: downloading Pulumi's plugin {name} {_version(name)}, once, for {within / 60:.0f} minutes at most "
        f"({MODE_VARIABLE}=lab does without)"
    )
    command = [pulumi, "plugin", "install", "resource", name, _version(name)]
    try:
        done = subprocess.run(
            command,
            env=dict(env),
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        why = f"not done after {within:.0f} s"
    except OSError as error:
        why = str(error)
    else:
        if done.returncode == 0 and _present(name, env):
            return True
        why = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    say(f"lab: no plugin {name}: {why}")
    return False
