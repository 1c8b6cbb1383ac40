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
from collections.abc import Iterator, Sequence
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

_SIGN = {"main": 1, "vault": -1}
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
            # A folder each: the service's own file may have any name.
            here, vault = Path(work) / "here", Path(work) / "vault"
            here.mkdir()
            vault.mkdir()
            plan = _kept(config, store, database, epoch)
            rebuild.rebuild(store, plan, vault / "vault.db")
            # SQLite would fold the log into the very files that are evidence: it gets copies.
            for path in folder.iterdir():
                if path.is_file():
                    shutil.copy2(path, here / path.name)
            tables = difference(here / config.layout.live(database).name, vault / "vault.db")
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
        names = {schema: _tables(connection, schema) for schema in ("main", "vault")}
        found = {}
        for name in sorted(names["main"] | names["vault"]):
            columns = {schema: _columns(connection, schema, name) for schema in names if name in names[schema]}
            # Of other columns, every row is one that the other side hasn't.
            apart = [[schema] for schema in columns] if len(set(columns.values())) > 1 else [list(columns)]
            table: Report = {"here": 0, "vault": 0, "only_here": [], "only_vault": []}
            for schemas in apart:
                _add_differing(connection, name, schemas, columns[schemas[0]], table)
            if table["here"] or table["vault"]:
                found[name] = table
        return found


def _tables(connection: Any, schema: str) -> frozenset[str]:
    found = rows(connection, f"SELECT name FROM {schema}.sqlite_schema WHERE type = 'table'")
    names = (str(row[0]) for row in found)
    return frozenset(name for name in names if not name.startswith("sqlite_") and name != SENTINEL)


def _columns(connection: Any, schema: str, table: str) -> tuple[str, ...]:
    """Those of `SELECT *`, generated ones among them."""
    query = f"SELECT name FROM pragma_table_xinfo({literal(table)}, {literal(schema)}) WHERE hidden <> 1 ORDER BY cid"
    return tuple(str(row[0]) for row in rows(connection, query))


def _add_differing(connection: Any, name: str, schemas: Sequence[str], columns: Sequence[str], table: Report) -> None:
    """The rows that one schema has more often than the other. They are told apart byte for byte and by type, whatever
    the table's own collations take for the same; a table without a key may hold a row several times."""
    each = range(len(columns))
    asked = ", ".join(
        f"t.{quoted(column)} AS v{n}, typeof(t.{quoted(column)}) AS t{n}" for n, column in enumerate(columns)
    )
    sides = (
        f"SELECT {asked}, {_SIGN[schema]} AS side FROM {schema}.{quoted(name)} AS t"
        f"{_but_the_same(connection, name, schemas, schema, columns)}"
        for schema in schemas
    )
    query = (
        f"SELECT {', '.join(f'v{n}' for n in each)}, sum(side) FROM ({' UNION ALL '.join(sides)}) "
        f"GROUP BY {', '.join(f'v{n} COLLATE BINARY, t{n}' for n in each)} HAVING sum(side) <> 0"
    )
    for *row, more in connection.execute(query):
        side = "here" if more > 0 else "vault"
        table[side] += abs(more)
        only = table[f"only_{side}"]
        told = {column: _plain(value) for column, value in zip(columns, row, strict=True)}
        only += [told] * min(abs(more), SHOWN - len(only))


def _but_the_same(connection: Any, name: str, schemas: Sequence[str], one: str, columns: Sequence[str]) -> str:
    """Leaves out rows that both sides have under the same rowid, nearly all of them: to group a large table takes many
    times as long. Whatever the rowids mean, as many are left out on either side."""
    taken = {column.lower() for column in columns}
    rowid = next((key for key in ("rowid", "oid", "_rowid_") if key not in taken), None)
    query = f"SELECT count(*) FROM pragma_table_list WHERE name = {literal(name)} AND type = 'table' AND NOT wr"
    if len(schemas) < 2 or rowid is None or rows(connection, query)[0][0] < 2:
        return ""
    (other,) = {*schemas} - {one}
    ours = ", ".join(f"t.{quoted(column)} COLLATE BINARY, typeof(t.{quoted(column)})" for column in columns)
    theirs = ", ".join(f"o.{quoted(column)}, typeof(o.{quoted(column)})" for column in columns)
    same = f"o.{rowid} = t.{rowid} AND ({ours}) IS ({theirs})"
    return f" WHERE NOT EXISTS (SELECT 1 FROM {other}.{quoted(name)} AS o WHERE {same})"


def _plain(value: Any) -> Any:
    return f"X'{value.hex()}'" if isinstance(value, bytes) else value


def _publish(config: Config, store: Store, report: Report) -> None:
    key = f"forks/{config.service.name}/{config.name}-{Path(report['folder']).name}-{report['database']}.json"
    store.put(key, json.dumps(report, indent=1).encode(), content_type="application/json")
