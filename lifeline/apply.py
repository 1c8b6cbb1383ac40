"""`lifeline-host apply`: the host's configuration, from the shipped files. Changes only what differs, and says what.

Shipped by provisioning: the release under /opt/lifeline, and the files of SHIPPED in /etc/lifeline.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from lifeline import proc, systemd
from lifeline.errors import BadInput
from lifeline.layout import Config, Layout, load_config, read_role, write_file
from lifeline.service import Service
from lifeline.supervisor import Program, Supervisor, render
from lifeline.systemd import Systemd

SHIPPED = ("inventory.json", "host.json", "service.env", "restic.password", "pilot.token", "peer.key")
RELEASES_KEPT = 2
# /run is empty after a boot.
TMPFILES = "d /run/lifeline 0755 root root\n"


def read_shipped(body: bytes) -> dict[str, str]:
    """What provisioning sends on stdin: `{"files": {name: text}}`. BadInput for anything else."""
    try:
        files = json.loads(body)["files"]
    except (ValueError, KeyError, TypeError):
        raise BadInput('expected {"files": {name: text}} on stdin') from None
    if (
        not isinstance(files, dict)
        or set(files) != set(SHIPPED)
        or not all(isinstance(text, str) for text in files.values())
    ):
        raise BadInput(f"expected exactly these files: {', '.join(SHIPPED)}")
    return files


def differing(layout: Layout, shipped: Mapping[str, str]) -> list[str]:
    """What `configure` would change: files that differ, and a configuration that was never applied to the end."""
    found = [str(layout.etc / name) for name, text in sorted(shipped.items()) if _text(layout.etc / name) != text]
    if not found and _text(layout.state / "applied") != _applied_mark(shipped):
        found.append("the configuration was not applied to its end")
    return found


def configure(layout: Layout, supervisor: Supervisor, units: Systemd, shipped: Mapping[str, str]) -> list[str]:
    """Write the shipped files (0600), apply them, prune old releases; returns what changed."""
    layout.etc.mkdir(parents=True, exist_ok=True, mode=0o700)
    changed = [str(layout.etc / name) for name, text in sorted(shipped.items()) if write_file(layout.etc / name, text)]
    changed += apply(layout, supervisor, units)
    _prune_releases(layout)
    write_file(layout.state / "applied", _applied_mark(shipped))
    return changed


def _applied_mark(shipped: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(shipped, sort_keys=True).encode()).hexdigest()


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _prune_releases(layout: Layout) -> None:
    """The one in use and the one before it stay."""
    releases = layout.opt / "releases"
    if not releases.is_dir():
        return
    current = layout.current.resolve()
    others = sorted((path for path in releases.iterdir() if path != current), key=lambda path: path.stat().st_ctime)
    for path in others[: max(0, len(others) - (RELEASES_KEPT - 1))]:
        shutil.rmtree(path, ignore_errors=True)


def apply(layout: Layout, supervisor: Supervisor, units: Systemd) -> list[str]:
    """Bring the host to its configuration; returns the paths and programs that changed."""
    changed = []
    shipped = layout.service_dir / "service.toml"
    if write_file(layout.etc / "service.toml", shipped.read_bytes()):
        changed.append(str(layout.etc / "service.toml"))
    config = load_config(layout)
    changed += _user(config.service)
    changed += _folders(config)
    for path, content, mode in [
        *((layout.supervisor_conf / program.file_name, render(program), 0o600) for program in programs(config)),
        (layout.root / "etc/tmpfiles.d/lifeline.conf", TMPFILES, 0o644),
    ]:
        if write_file(path, content, mode=mode):
            changed.append(str(path))
    changed += _stale(config)
    if "lifeline-agent" in supervisor.states():
        supervisor.stop("lifeline-agent")  # as releases before ran it: it would hold the door of systemd's
    # The agent first: a release whose agent doesn't start must not stop the service.
    changed += systemd.apply(config, units)
    changed += _reload(config, supervisor)
    return changed


def programs(config: Config) -> list[Program]:
    """Everything supervisor runs. The release is in each environment, so that a new one restarts what runs of the
    old."""
    host = str(config.layout.bin / "lifeline-host")
    environment = {"LIFELINE_RELEASE": config.release}
    followers = [
        Program(name, [host, "run", "follower", database], environment=environment, stop_seconds=10)
        for name, database in follower_programs(config.service).items()
    ]
    service = Program(
        config.service.name,
        [host, "run", "service"],
        environment={**environment, "LIFELINE_ENV": _digest(config.layout.etc / "service.env")},
        stop_seconds=max(1, round(config.service.stop_within_s)),
    )
    return [
        # Does nothing on a host without a role, and asks for the role before everything it does.
        Program(
            "lifeline-keeper", [str(config.layout.bin / "lifeline-keeper")], environment=environment, autostart=True
        ),
        # No start_seconds: the caller polls the control socket, which says more than a second of survival.
        Program("litestream", [host, "run", "litestream"], environment=environment, start_seconds=0),
        *followers,
        service,
    ]


def follower_programs(service: Service) -> dict[str, str]:
    """Supervisor's name of each database's follower → the database."""
    if len(service.databases) == 1:
        return {"follower": service.databases[0].name}
    return {f"follower-{database.name}": database.name for database in service.databases}


def _digest(path: Path) -> str:
    # Never the content: supervisor shows a program's environment to whoever asks it.
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return "none"


def _user(service: Service) -> list[str]:
    try:
        pwd.getpwnam(service.user)
    except KeyError:
        if os.geteuid() != 0:
            return []
        argv = ["useradd", "--system", "--user-group", "--home-dir", "/nonexistent", "--no-create-home"]
        proc.check([*argv, "--shell", "/usr/sbin/nologin", service.user], timeout=30)
        return [f"user {service.user}"]
    return []


def _folders(config: Config) -> list[str]:
    layout, service = config.layout, config.service
    for path in (layout.state, layout.run):
        path.mkdir(parents=True, exist_ok=True)
    layout.etc.chmod(0o700)
    folders = {database.path.parent for database in service.databases}
    # A path with a suffix is a file, whose folder the service needs; one without is a folder of its own.
    folders |= {path.parent if path.suffix else path for path in (*service.state, *service.logs)}
    return [str(folder) for folder in sorted(folders) if _folder(layout, folder, service.user)]


def _folder(layout: Layout, folder: PurePosixPath, user: str) -> bool:
    path = layout.root / str(folder).lstrip("/")
    if path.is_dir():
        return False
    path.mkdir(parents=True)
    path.chmod(0o750)
    if os.geteuid() == 0:
        account = pwd.getpwnam(user)
        os.chown(path, account.pw_uid, account.pw_gid)
    return True


def _stale(config: Config) -> list[str]:
    """Programs of an earlier configuration: a renamed service must not be startable under its old name."""
    wanted = {program.file_name for program in programs(config)}
    stale = [path for path in sorted(config.layout.supervisor_conf.glob("lifeline-*.conf")) if path.name not in wanted]
    for path in stale:
        path.unlink()
    return [str(path) for path in stale]


def _reload(config: Config, supervisor: Supervisor) -> list[str]:
    """Let supervisor take the files over; what ran and was replaced runs again. The service is down for that moment."""
    before = supervisor.states()
    result = supervisor.reload()
    role = read_role(config.layout).role
    for name in result["changed"]:
        belongs = role == "standby" if name.startswith("follower") else role == "primary"
        if name in before and before[name].running and belongs and name != "lifeline-keeper":
            supervisor.start(name, wait=False)
    return [f"program {name}" for name in (*result["added"], *result["changed"], *result["removed"])]
