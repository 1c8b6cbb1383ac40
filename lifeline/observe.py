"""`lifeline-host observe`: all that can be seen from this host, in one quick call. Asks nobody beyond the machine.

What can't be seen is null. Positions in the vault are known from the agent, which watches them anyway.
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.parse
from pathlib import Path
from typing import Any

from lifeline import deadman, forks, hooks, loopback, roles
from lifeline.apply import follower_programs
from lifeline.barrier import ControlSocket, UnixConnection
from lifeline.copies import read_follower
from lifeline.errors import LifelineError
from lifeline.layout import Config, Layout, RoleFile, read_alerts, read_data, read_jobs, read_role
from lifeline.service import Database
from lifeline.supervisor import State, Supervisor
from lifeline.verify import sqlite_version, wal_reset_fixed

QUICK_S = 1.0
_OF_THE_AGENT = ("lease_age_s", "judgement", "reason", "last_fence", "failsafe", "pilot", "herald")


def observe(config: Config) -> dict[str, Any]:
    """The answer of docs/design.md, "What the verbs answer"."""
    layout, role, data = config.layout, read_role(config.layout), read_data(config.layout)
    states = _states(layout.supervisor_socket)
    agent = roles.ask_agent(layout.agent_socket, "GET", "/status", timeout=QUICK_S)
    watched = (agent or {}).get("databases") or {}
    healthy = loopback.why_not(config.service.port, config.service.health, QUICK_S) == ""
    followers = list(follower_programs(config.service))
    return {
        **{"host": config.name, "role": role.role, "epoch": role.epoch or None, "bundle": config.release or None},
        **{"finalized": data.finalized, "live_epoch": data.live_epoch, "origin_epoch": data.origin_epoch},
        # Whatever supervisor says or doesn't: a service that answers runs.
        "service": {
            **{"running": healthy or _running(states, config.service.name), "healthy": healthy},
            "reconciled": not hooks.owes_reconcile(config),
        },
        "databases": [
            _database(config, role, database, watched.get(database.name) or {}) for database in config.service.databases
        ],
        "litestream": {"running": _running(states, "litestream"), "last_sync_at": _last_sync(config, states)},
        "follower": {
            "running": all(_running(states, name) for name in followers),
            "stalled": any(found.get("stalled") for found in watched.values())
            if role.role == "standby" and watched
            else None,
        },
        "agent": {
            "running": agent is not None,
            **{key: (agent or {}).get(key) for key in _OF_THE_AGENT},
            "deadman": deadman.runs(layout.deadman_group),
        },
        "sqlite": {"version": sqlite_version(), "wal_reset_fixed": wal_reset_fixed(sqlite_version())},
        "disk_free_bytes": _disk_free(config),
        "keeper": {"running": _running(states, "lifeline-keeper"), "looked_age_s": _alerts_age(layout)},
        "forks": forks.known(layout, config),
        "jobs": read_jobs(layout),
        "alerts": read_alerts(layout),
    }


def _alerts_age(layout: Layout) -> float | None:
    """Seconds since the keeper last judged what its alerts are about."""
    path = layout.state / "alerts.json"
    return round(max(0.0, time.time() - path.stat().st_mtime), 1) if path.exists() else None


def _states(socket: Path) -> dict[str, State] | None:
    try:
        return Supervisor(socket, timeout=QUICK_S).states()
    except LifelineError:
        return None


def _running(states: dict[str, State] | None, name: str) -> bool:
    return states is not None and name in states and states[name].running


def _database(config: Config, role: RoleFile, database: Database, watched: dict[str, Any]) -> dict[str, Any]:
    layout = config.layout
    txid: int | None
    if role.role == "standby":
        copy = layout.following(database, role.epoch)
        exists, txid = copy.exists(), read_follower(copy) or None
    else:
        live = layout.live(database)
        exists = live.exists()
        txid = (
            _local_txid(layout.control_socket, live)
            if role.role == "primary"
            else read_data(layout).txids.get(database.name)
        )
    return {
        **{"name": database.name, "exists": exists, "txid": txid},
        **{"lag_s": watched.get("lag_s"), "newest_txid": watched.get("newest_txid")},
    }


def _local_txid(socket: Path, live: Path) -> int | None:
    connection = UnixConnection(socket, QUICK_S)
    try:
        connection.request("GET", f"/txid?path={urllib.parse.quote(str(live))}")
        response = connection.getresponse()
        return int(json.loads(response.read())["txid"]) if response.status == 200 else None
    except Exception:  # whatever it is, the position is not known
        return None
    finally:
        connection.close()


def _last_sync(config: Config, states: dict[str, State] | None) -> str | None:
    """The oldest of the databases' last successes; null when one of them has none."""
    if not _running(states, "litestream"):
        return None
    try:
        stamps = [entry.last_sync_at for entry in ControlSocket(config.layout.control_socket).list(QUICK_S)]
    except LifelineError:
        return None
    known = [stamp for stamp in stamps if stamp is not None]
    return min(known) if known and len(known) == len(stamps) else None


def _disk_free(config: Config) -> int | None:
    folder = config.layout.live(config.service.databases[0]).parent
    return shutil.disk_usage(folder).free if folder.is_dir() else None
