"""What a former primary wrote and the vault never got: set aside, told row by row, merged by nobody, thrown away never.

A fork lies beside its database, `.lifeline/NAME/fork-NNNN/`: the files as they were when their epoch was over, with
`report.json` once they were compared with that epoch's replica, as far as history went on from it. That needn't be its
end: what was on its way into the vault when a line was cut may arrive once the line is whole again, behind the point
that the new primary had begun from. Only a fork that holds no row of its own is removed: then the vault has all of it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw

from lifeline import continuation, points, rebuild
from lifeline.backups import quoted
from lifeline.errors import LifelineError, StepFailed
from lifeline.extract import literal
from lifeline.layout import Config, Layout, read_json, read_role, write_file
from lifeline.sentinel import TABLE as SENTINEL
from lifeline.service import Database
from lifeline.store import Store
from lifeline.verify import connect, rows

SHOWN = 1000  # rows of a table and side in a report; all of them are in the files that are kept
Report = dict[str, Any]


def compare_all(config: Config, store: Store) -> list[Report]:
    """Compare every fork that wasn't yet, and tell of all there are: what is only here, and what only the vault has."""
    found = []
    for database, folder in _folders(config.layout, config):
        report = read_json(folder / "report.json")
        if report is None:
            report = _compared(config, store, database, folder)
            if report["verdict"] == "PASS" and not report["tables"]:
                shutil.rmtree(folder)
                continue
            write_file(folder / "report.json", json.dumps(report, indent=1))
            _publish(config, store, report)
        found.append(report)
    return found


def known(layout: Layout, config: Config) -> list[Report]:
    """The forks there are, without their rows; no I/O beyond this disk. Not compared yet: verdict UNKNOWN."""
    found = []
    for database, folder in _folders(layout, config):
        report = read_json(folder / "report.json") or {"verdict": "UNKNOWN", "tables": {}}
        counts = {name: [table["here"], table["vault"]] for name, table in report["tables"].items()}
        brief = {"folder": str(folder), "database": database.name, "verdict": report["verdict"], "tables": counts}
        found.append({**brief, "settled": bool(report.get("settled"))})
    return found


def settle(config: Config, folder: str) -> Report:
    """A person has dealt with it: no alert any more. The files stay."""
    for _, path in _folders(config.layout, config):
        if str(path) == folder and (report := read_json(path / "report.json")):
            settled = {**report, "settled": datetime.now(UTC).isoformat(timespec="seconds")}
            write_file(path / "report.json", json.dumps(settled, indent=1))
            return settled
    raise StepFailed(f"there is no compared fork {folder} on {config.name}", hint="fab forks")


def _folders(layout: Layout, config: Config) -> Iterator[tuple[Database, Path]]:
    for database in config.service.databases:
        for folder in sorted(layout.beside(database).glob("fork-*")):
            yield database, folder


def _compared(config: Config, store: Store, database: Database, folder: Path) -> Report:
    epoch = int(folder.name.split("-")[1])
    about = {"host": config.name, "database": database.name, "epoch": epoch, "folder": str(folder)}
    told = {**about, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="compare-") as work:
            plan = _kept(config, store, database, epoch)
            rebuild.rebuild(store, plan, Path(work) / "vault.db")
            # SQLite would fold the log into the very files that are evidence: it gets copies.
            for path in folder.iterdir():
                if path.is_file():
                    shutil.copy2(path, Path(work) / path.name)
            tables = difference(Path(work) / config.layout.live(database).name, Path(work) / "vault.db")
        return {**told, "verdict": "PASS", "txid": plan.txid, "tables": tables}
    except (LifelineError, OSError, apsw.Error) as error:
        why = error.message if isinstance(error, LifelineError) else str(error)
        return {**told, "verdict": "UNKNOWN", "says": why, "txid": None, "tables": {}}


def _kept(config: Config, store: Store, database: Database, epoch: int) -> points.Plan:
    """What history kept of an epoch: all of it, but for what came too late."""
    service, newest = config.service.name, read_role(config.layout).epoch
    plan = points.plan(store, service, epoch, database.name)
    base = continuation.of_next(store, service, epoch, newest)
    if base and plan.txid > base.txids.get(database.name, plan.txid):
        return points.plan(store, service, epoch, database.name, txid=base.txids[database.name])
    return plan


def difference(here: Path, vault: Path) -> dict[str, Report]:
    """By table: how many rows only one of two databases has, and the first of them. Equal tables are left out. A row
    that was changed is one on each side."""
    with connect(here, write=True) as connection:
        connection.execute(f"ATTACH {literal(str(vault))} AS vault")
        names = [_tables(connection, schema) for schema in ("main", "vault")]
        found = {}
        for name in sorted(names[0] | names[1]):
            sides = (_only(connection, name, "main", "vault", names), _only(connection, name, "vault", "main", names))
            counts = {"here": sides[0][0], "vault": sides[1][0]}
            if any(counts.values()):
                found[name] = {**counts, "only_here": sides[0][1], "only_vault": sides[1][1]}
        return found


def _tables(connection: Any, schema: str) -> frozenset[str]:
    found = rows(connection, f"SELECT name FROM {schema}.sqlite_schema WHERE type = 'table'")
    names = (str(row[0]) for row in found)
    return frozenset(name for name in names if not name.startswith("sqlite_") and name != SENTINEL)


def _only(
    connection: Any, table: str, one: str, other: str, names: list[frozenset[str]]
) -> tuple[int, list[dict[str, Any]]]:
    has = {"main": names[0], "vault": names[1]}
    if table not in has[one]:
        return 0, []
    query = f"SELECT * FROM {one}.{quoted(table)}"
    if table in has[other]:
        query += f" EXCEPT SELECT * FROM {other}.{quoted(table)}"
    cursor = connection.execute(query)
    count, shown, columns = 0, [], list[str]()
    for row in cursor:
        columns = columns or [str(one[0]) for one in cursor.getdescription()]
        count += 1
        if count <= SHOWN:
            shown.append({name: _plain(value) for name, value in zip(columns, row, strict=True)})
    return count, shown


def _plain(value: Any) -> Any:
    return f"X'{value.hex()}'" if isinstance(value, bytes) else value


def _publish(config: Config, store: Store, report: Report) -> None:
    key = f"forks/{config.service.name}/{config.name}-{Path(report['folder']).name}-{report['database']}.json"
    store.put(key, json.dumps(report, indent=1).encode(), content_type="application/json")
