"""A host takes a role, and leaves it: primary, standby, none. Called by `lifeline-host`; the agent decides nothing
here, it confirms the lease.

Order matters everywhere: the role is on the disk before a program starts, and programs are gone before the role is.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lifeline import continuation, copies, data, hooks, loopback, replica
from lifeline.apply import follower_programs
from lifeline.barrier import ControlSocket, UnixConnection
from lifeline.deadman import disarm
from lifeline.errors import LifelineError, Refused, StepFailed, Unproven
from lifeline.layout import Config, DataFile, read_data, read_role, write_data, write_file, write_role
from lifeline.model import Lease
from lifeline.progress import during
from lifeline.supervisor import Supervisor, states_when_up

POLL_S = 0.05
LEASE_WITHIN_S = 15.0
LITESTREAM_WITHIN_S = 20.0
REPLICATE_WITHIN_S = 600.0  # a new epoch begins with a full copy: about 100 MB/s


class Vault(Protocol):
    """What roles need of the vault."""

    def keys(self, prefix: str) -> Iterable[str]: ...
    def read(self, key: str) -> bytes | None: ...
    def write(self, key: str, body: bytes) -> None: ...


@dataclass(frozen=True)
class Prefix:
    """What epoch N's place in the vault holds: its owner's name, whether there is a replica, and the newest earlier
    epoch with one."""

    owner: str | None
    written: bool
    newest_before: int | None


def promotion_refusal(me: str, epoch: int, have: DataFile, databases_exist: bool, prefix: Prefix) -> str | None:
    """Why this host must not become primary of `epoch`, or None. Pure.

    Two rules: a prefix has one writer for one life; and nobody serves data that an earlier epoch has gone beyond.
    """
    if prefix.owner not in (None, me):
        return f"epoch {epoch} was written by {prefix.owner}: a prefix has one writer; take the next epoch"
    if prefix.written and prefix.owner is None:
        return f"epoch {epoch} has been written by an unknown host; take the next epoch"
    if have.live_epoch == epoch:
        return (
            None
            if databases_exist
            else f"the databases of epoch {epoch} are gone from {me}; finalize, then take the next epoch"
        )
    if have.live_epoch is not None:
        return (
            f"the databases on {me} are those it wrote in epoch {have.live_epoch}; finalize --epoch {epoch - 1} first"
        )
    if prefix.written:
        return f"epoch {epoch} is in use already, and these databases are not its own; take the next epoch"
    if have.origin_epoch is None:
        if prefix.newest_before is not None:
            return f"the vault holds data of epoch {prefix.newest_before}; finalize --epoch {epoch - 1} first"
        return None  # the first primary ever: the service makes its databases, or they are adopted as they are
    if not databases_exist:
        return f"a database is missing on {me}; finalize --epoch {epoch - 1} first"
    newer = prefix.newest_before
    if have.finalized is not None and newer is not None and newer > have.origin_epoch:
        return f"the databases on {me} end with epoch {have.origin_epoch}, epoch {newer} has newer data; finalize first"
    return None


def look_at_prefix(config: Config, vault: Vault, epoch: int) -> Prefix:
    """Read what `promotion_refusal` needs from the vault."""
    service = config.service
    body = vault.read(_owner_key(config, epoch))
    owner = None if body is None else str(json.loads(body).get("host"))
    before = (e for e in range(epoch - 1, 0, -1) if _written(vault, replica.epoch_prefix(service.name, e)))
    return Prefix(owner, _written(vault, replica.epoch_prefix(service.name, epoch)), next(before, None))


def _written(vault: Vault, prefix: str) -> bool:
    return any(replica.txid_of(key) for key in vault.keys(prefix))


def _owner_key(config: Config, epoch: int) -> str:
    return f"{replica.epoch_prefix(config.service.name, epoch)}owner.json"


def start_primary(config: Config, supervisor: Supervisor, vault: Vault, epoch: int) -> dict[str, Any]:
    """Become primary of `epoch`: the lease confirmed by the agent, Litestream on a prefix of its own, the service
    healthy."""
    layout, service = config.layout, config.service
    role, have = read_role(layout), read_data(layout)
    states = supervisor.states()
    if role.role == "primary" and role.epoch > epoch:
        raise Refused(f"{config.name} is primary of epoch {role.epoch}, a later one", hint="fab status")
    running = all(name in states and states[name].running for name in ("litestream", service.name))
    if (role.role, role.epoch, have.live_epoch) == ("primary", epoch, epoch) and running:
        owed = hooks.owes_reconcile(config)
        _await_agreement(config, supervisor)
        _await_replication(config)
        return _primary_answer(epoch, changed=owed)
    exist = all(layout.live(database).exists() for database in service.databases)
    refusal = promotion_refusal(config.name, epoch, have, exist, look_at_prefix(config, vault, epoch))
    if refusal:
        raise Refused(
            f"{config.name} can't be primary of epoch {epoch}: {refusal}",
            hint="fab status; then fab failover or fab restore",
        )
    supervisor.stop_all([*follower_programs(service), "litestream", service.name], within=service.stop_within_s + 30)
    continues = continuation.origin(config, have)
    if have.live_epoch != epoch:
        vault.write(_owner_key(config, epoch), continuation.owner(config.name, epoch, continues, continues))
    write_file(layout.litestream_yml, data.render(config, epoch))
    write_data(layout, DataFile(live_epoch=epoch))
    hooks.owe_reconcile(config, epoch)
    write_role(layout, "primary", epoch)
    try:
        _await_lease(config, epoch)
    except BaseException:
        # One that had stopped itself is so still, and serves again by itself.
        write_role(layout, "none", epoch, fenced=role.fenced and role.epoch == epoch)
        raise
    if continues:
        _go_on(config, vault, epoch, continues)
    supervisor.start("litestream", wait=False)
    supervisor.start(service.name, wait=False)
    _await_agreement(config, supervisor)
    with during(f"bringing everything into the vault under epoch {epoch}"):
        _await_replication(config)
    _tidy(config, epoch)
    return _primary_answer(epoch, changed=True)


def _go_on(config: Config, vault: Vault, epoch: int, continues: continuation.Continues) -> None:
    """Have the epoch go on from the last one, and take back what its owner said of databases that don't. A note that
    can't be mended now holds nobody up: whoever reads it looks at the files too (points.py)."""
    done = continuation.begin(config, vault, epoch, continues)
    if done != continues:
        with contextlib.suppress(LifelineError):
            vault.write(_owner_key(config, epoch), continuation.owner(config.name, epoch, continues, done))


def _await_agreement(config: Config, supervisor: Supervisor) -> None:
    """Until the service is healthy, and has agreed with the world outside where it owes that."""
    if hooks.owes_reconcile(config):
        # It may well be unhealthy until then; the hook talks to it while it is.
        await_service(config, supervisor, healthy=False)
        hooks.run(config, "reconcile", within=config.service.start_within_s)
    await_service(config, supervisor)


def _primary_answer(epoch: int, *, changed: bool) -> dict[str, Any]:
    return {"changed": changed, "role": "primary", "epoch": epoch, "healthy": True, "replicating": True}


def stop_service(config: Config, supervisor: Supervisor, *, flush: bool = True) -> dict[str, Any]:
    """Stop the service, bring its last transactions into the vault, stop Litestream, and be nothing.

    Raises Unproven when the last transactions can't be proved to be in the vault: service and Litestream are stopped
    even then.
    """
    layout, service = config.layout, config.service
    role = read_role(layout)
    states = supervisor.states()
    was_running = [name for name in ("litestream", service.name) if name in states and states[name].running]
    supervisor.stop_all([service.name], within=service.stop_within_s + 10)
    with during("bringing the last transactions into the vault"):
        txids, reason = _flush(config) if flush and "litestream" in was_running else ({}, None)
    if flush and role.role == "primary" and "litestream" not in was_running and _has_data(config):
        reason = "Litestream didn't run"
    supervisor.stop_all(["litestream"], within=40)
    if role.role == "primary":
        write_role(layout, "none", role.epoch)
        poke_agent(layout.agent_socket)
    disarm(layout.run)
    if reason:
        raise Unproven(
            f"{service.name} is stopped, but its last transactions are not proved to be in the vault: {reason}",
            hint="fab status; the databases are untouched on this host: fab provision starts it again",
        )
    return {"changed": bool(was_running) or role.role == "primary", "running": False, "flushed": txids or None}


class Leases(Protocol):
    """What roles need of the lease."""

    def read(self) -> Lease | None: ...
    def release(self, holder: str, epoch: int) -> None: ...


def release(config: Config, supervisor: Supervisor, leases: Leases, epoch: int) -> dict[str, Any]:
    """Give the lease back: this host's word that it has stopped, on which another one starts at once."""
    role, states = read_role(config.layout), supervisor.states()
    running = [name for name in ("litestream", config.service.name) if name in states and states[name].running]
    if role.role == "primary" or running:
        says = f"{config.name} is {role.role}" + (f", and {', '.join(running)} runs" if running else "")
        raise Refused(f"{says}: it must have stopped before it gives its lease back", hint="fab switchover")
    leases.release(config.name, epoch)
    lease = leases.read()
    if lease is None or lease.epoch > epoch or not (lease.released and lease.holder == config.name):
        who = f"{lease.holder}'s, epoch {lease.epoch}" if lease else "nobody's"
        raise Refused(f"the lease is {who}: {config.name} has none of epoch {epoch} to give back", hint="fab status")
    return {"epoch": epoch, "released": True}


def leave(config: Config, supervisor: Supervisor, leases: Leases, epoch: int) -> dict[str, Any]:
    """`stop_service`, and at once `release`: the other host waits for both.

    Nothing is stopped when the lease store doesn't answer. When it goes away in between, the answer says that the lease
    wasn't given back: the data is in the vault, and `release` can be tried again.
    """
    leases.read()
    if (role := read_role(config.layout)).role != "primary":
        raise Refused(
            f"{config.name} isn't primary (its role is {role.role}): whether the vault has its last writes can't be "
            "proved by stopping it, and its lease stays",
            hint="fab provision, which starts it again; or fab failover",
        )
    answer = stop_service(config, supervisor)
    try:
        release(config, supervisor, leases, epoch)
    except LifelineError as error:
        return {**answer, "released": False, "says": error.message}
    return {**answer, "released": True}


def withdraw(config: Config, epoch: int) -> dict[str, Any]:
    """Promise the holder of that epoch nothing more; {"promised_s": what is left of the last promise}."""
    answer = ask_agent(config.layout.agent_socket, "POST", "/withdraw", body={"epoch": epoch})
    if answer is None or "promised_s" not in answer:
        raise Unproven(f"the agent of {config.name} doesn't answer: what it promised isn't known", hint="fab status")
    return answer


def _has_data(config: Config) -> bool:
    return any(config.layout.live(database).exists() for database in config.service.databases)


def _flush(config: Config) -> tuple[dict[str, int], str | None]:
    control = ControlSocket(config.layout.control_socket)
    txids: dict[str, int] = {}
    deadline = time.monotonic() + 30
    for database in config.service.databases:
        path = config.layout.live(database)
        if not path.exists():
            continue
        while database.name not in txids:
            try:
                txids[database.name] = control.sync(path, max(1.0, deadline - time.monotonic())).txid
            except StepFailed as error:
                if time.monotonic() > deadline:
                    return txids, error.message
                time.sleep(POLL_S)
    return txids, None


def start_standby(config: Config, supervisor: Supervisor, epoch: int) -> dict[str, Any]:
    """Serve nothing, and follow the replica of `epoch`. Databases that this host wrote are set aside: they may hold
    what nobody else has."""
    layout, service = config.layout, config.service
    role, states = read_role(layout), states_when_up(supervisor)
    followers = follower_programs(service)
    following = all(name in states and states[name].running for name in followers)
    if (role.role, role.epoch) == ("standby", epoch) and following:
        return {"changed": False, "role": "standby", "epoch": epoch, "following": True}
    if role.role == "primary" and role.epoch >= epoch:
        raise Refused(
            f"{config.name} is primary of epoch {role.epoch}; it can't follow epoch {epoch}",
            hint="fab status; fab failover to the other host takes the role from this one",
        )
    supervisor.stop_all([*followers, "litestream", service.name], within=service.stop_within_s + 40)
    write_file(layout.follower_yml, data.render(config, epoch))
    forks = data.set_aside(config)
    have = read_data(layout)
    if have.finalized is not None:
        write_data(layout, DataFile(origin_epoch=have.origin_epoch, txids=have.txids))
    write_role(layout, "standby", epoch)
    poke_agent(layout.agent_socket)
    disarm(layout.run)
    for name in followers:
        supervisor.start(name, wait=False)
    return {"changed": True, "role": "standby", "epoch": epoch, "following": True, "set_aside": forks}


def stop_followers(config: Config, supervisor: Supervisor) -> list[str]:
    """Stop the followers, and make sure that a boot doesn't start them again: a copy being finalized has no second
    writer."""
    role = read_role(config.layout)
    if role.role == "standby":
        write_role(config.layout, "none", role.epoch)
        poke_agent(config.layout.agent_socket)
    return supervisor.stop_all(follower_programs(config.service), within=20)


def _tidy(config: Config, epoch: int) -> None:
    """What earlier epochs left: copies that followed, and Litestream's local positions."""
    for state in (config.layout.state / "litestream").glob("epoch-*"):
        if state.name != f"epoch-{epoch:04d}":
            shutil.rmtree(state, ignore_errors=True)
    for database in config.service.databases:
        copies.drop_followers(config, database)


def _await_lease(config: Config, epoch: int) -> None:
    """Until the agent says that the lease is this host's, for this epoch."""
    deadline = time.monotonic() + LEASE_WITHIN_S
    poke_agent(config.layout.agent_socket)
    reason = "the agent does not answer"
    while time.monotonic() < deadline:
        answer = ask_agent(config.layout.agent_socket, "GET", "/lease")
        if answer is not None:
            if answer.get("confirmed") and answer.get("epoch") == epoch:
                return
            reason = str(answer.get("reason") or f"the lease is of epoch {answer.get('epoch')}")
        time.sleep(POLL_S)
    raise Refused(f"{config.name} does not hold the lease of epoch {epoch}: {reason}", hint="fab status")


def await_service(config: Config, supervisor: Supervisor, *, healthy: bool = True) -> None:
    """Until the service's health URL answers 200; answers at all, if not `healthy`."""
    service = config.service
    deadline = time.monotonic() + service.start_within_s
    reason = "no answer"
    while time.monotonic() < deadline:
        reason = loopback.why_not(service.port, service.health)
        if not reason or (not healthy and reason.startswith("HTTP")):
            return
        state = supervisor.states().get(service.name)
        if state is None or state.state == "FATAL":
            break
        time.sleep(POLL_S)
    raise StepFailed(
        f"{service.name} is not healthy: {service.health} on port {service.port} says {reason}",
        hint=f"read /var/log/supervisor/{service.name}.log on {config.name}",
    )


def _await_replication(config: Config) -> None:
    """Until Litestream has brought everything to this epoch's prefix once: from then on the data is protected again."""
    control = ControlSocket(config.layout.control_socket)
    begun = time.monotonic()
    for database in config.service.databases:
        while True:
            try:
                control.sync(config.layout.live(database), REPLICATE_WITHIN_S)
                break
            except StepFailed as error:
                # Litestream answers at once while it is starting, or when the service hasn't made the database yet.
                if time.monotonic() - begun > LITESTREAM_WITHIN_S:
                    raise StepFailed(
                        f"{database.name} does not reach the vault: {error.message}",
                        hint=f"read /var/log/supervisor/litestream.log on {config.name}",
                    ) from None
                time.sleep(POLL_S)


def poke_agent(socket: Path) -> None:
    """Tell the agent that the role changed. It looks by itself every second; this saves the second."""
    ask_agent(socket, "POST", "/poke")


def ask_agent(
    socket: Path, method: str, path: str, timeout: float = 1.0, body: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """The agent's answer, or None when it doesn't give one."""
    connection = UnixConnection(socket, timeout)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else None
