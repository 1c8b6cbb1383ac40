"""`lifeline-host run …`: what supervisor starts. Each guards its program, then becomes it (exec), so that signals
and exit codes are the program's.

The guard is why nothing serves on a host that isn't primary, whoever types `supervisorctl start`.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lifeline import checkpoints, copies, proc, replica, wal
from lifeline.errors import BadConfig, Refused
from lifeline.layout import Config, read_role
from lifeline.roles import ask_agent

AGENT_WITHIN_S = 20.0
FIRST_DATA_POLL_S = (1.0, 5.0)


def run_service(config: Config) -> NoReturn:
    """The service, as its user, on a confirmed primary only."""
    epoch = require_lease(config)
    settle(config)
    _become_service(config, config.service.command, epoch)


def run_hook(config: Config, name: str) -> NoReturn:
    """One of the service's hooks, as its user, in its environment."""
    argv = getattr(config.service.hooks, name)
    if not argv:
        raise BadConfig(f"{config.service.name} has no hook {name}")
    _become_service(config, argv, read_role(config.layout).epoch)


def run_litestream(config: Config) -> NoReturn:
    """Litestream on this epoch's prefix, on a confirmed primary only: a second writer at a prefix is silent ruin."""
    epoch = require_lease(config)
    yml = config.layout.litestream_yml
    if f"epoch-{epoch:04d}/" not in yml.read_text():
        raise Refused(f"{yml} is not of epoch {epoch}", hint=f"lifeline-host start-primary --epoch {epoch}")
    settle(config, epoch)
    _exec(replica.replicate_argv(config.layout.litestream, yml), proc.child_environment())


def settle(config: Config, epoch: int | None = None) -> None:
    """Before anybody opens the databases who may write: what a killed writer left is put right, and with an `epoch`
    what Litestream's local files of it contradict. See wal.py."""
    for database in config.service.databases:
        live = config.layout.live(database)
        if not live.exists():
            continue
        if wal.enter(live):
            say(f"{live}: a transaction that a killed writer had left unentered is kept")
        if epoch is None:
            continue
        local = config.layout.state / "litestream" / f"epoch-{epoch:04d}" / database.name / "ltx/0"
        if wal.begin_anew(live, local):
            checkpoints.note_anew(config.layout.run)
            say(f"{live}: its log isn't what the replica goes on from; a full copy will be taken")


def say(text: str) -> None:
    """Into the program's log: supervisor collects it."""
    print(f"lifeline: {text}", file=sys.stderr, flush=True)


def run_follower(config: Config, name: str) -> NoReturn:
    """A follower of one database, from the beginning: Litestream's own resumption usually fails, and a copy is cheap
    to make again. The one there was is kept until then."""
    role = read_role(config.layout)
    if role.role != "standby":
        raise Refused(f"this host is {role.role}: only a standby follows")
    database = config.service.database(name)
    output = config.layout.following(database, role.epoch)
    config.layout.private(database)
    copies.keep_follower(config, database, role.epoch)
    output.parent.mkdir(mode=0o700)
    live, yml = config.layout.live(database), config.layout.follower_yml
    _await_replica(config, live, yml)
    _exec(replica.follow_argv(config.layout.litestream, yml, live, output), proc.child_environment())


def _await_replica(config: Config, live: Path, yml: Path) -> None:
    """Until the replica holds something to follow: a new primary's first copy takes its time, and Litestream would
    give up."""
    pause, longest = FIRST_DATA_POLL_S
    plan = replica.plan_argv(config.layout.litestream, yml, live)
    while not proc.run(plan, timeout=60).ok:
        time.sleep(pause)
        pause = min(pause * 1.5, longest)


def require_lease(config: Config) -> int:
    """The epoch this host holds the lease of, as the agent confirms it; Refused otherwise."""
    role = read_role(config.layout)
    if role.role != "primary":
        raise Refused(
            f"this host is {role.role}, not primary: {config.service.name} does not run here", hint="fab status"
        )
    deadline = time.monotonic() + AGENT_WITHIN_S
    reason = "the agent does not answer"
    while time.monotonic() < deadline:
        answer = ask_agent(config.layout.agent_socket, "GET", "/lease")
        if answer and answer.get("confirmed") and answer.get("epoch") == role.epoch:
            return role.epoch
        if answer:
            reason = str(answer.get("reason"))
        if read_role(config.layout) != role:
            break
        time.sleep(0.1)
    raise Refused(f"the lease is not confirmed: {reason}", hint="fab status")


def service_environment(config: Config, epoch: int) -> dict[str, str]:
    """What docs/service.md promises the service, and nothing of ours."""
    layout = config.layout
    return {
        "PATH": f"{layout.current / 'venv/bin'}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "LIFELINE_ROLE": read_role(layout).role,
        "LIFELINE_EPOCH": str(epoch),
        "LIFELINE_AGENT_SOCKET": str(layout.agent_socket),
        "LIFELINE_HOST": config.name,
        **read_env(layout.etc / "service.env"),
    }


def read_env(path: Path) -> dict[str, str]:
    """`KEY=value` lines, quoted like in a shell or not at all; `#` comments. BadConfig names the line."""
    if not path.exists():
        return {}
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals or not key.strip().isidentifier():
            raise BadConfig(f"{path}:{number}: not KEY=value")
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise BadConfig(f"{path}:{number}: {error}") from None
        found[key.strip()] = words[0] if len(words) == 1 else value.strip()
    return found


def _become_service(config: Config, argv: Sequence[str], epoch: int) -> NoReturn:
    environment = service_environment(config, epoch)
    program = config.layout.service_dir / argv[0]  # an absolute program stays as it is
    os.chdir(config.layout.service_dir)
    if os.geteuid() == 0:
        account = pwd.getpwnam(config.service.user)
        groups = [group.gr_gid for group in grp.getgrall() if account.pw_name in group.gr_mem]
        os.setgroups([account.pw_gid, *groups])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    os.umask(0o027)
    _exec([str(program), *argv[1:]], environment)


def _exec(argv: Sequence[str], environment: dict[str, str]) -> NoReturn:
    try:
        os.execve(argv[0], list(argv), environment)
    except OSError as error:
        raise BadConfig(f"{argv[0]}: {error.strerror}", hint="fab provision") from None
