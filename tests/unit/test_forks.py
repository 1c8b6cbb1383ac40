"""Forks: what a former primary alone has is set aside by rename, told by row, and stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from lifeline import alerts, data, forks
from lifeline.errors import StepFailed
from lifeline.layout import Config, DataFile, read_data, write_data
from lifeline.points import Plan
from lifeline.store import MemoryStore
from tests.unit.hostkit import SERVICE, config

ROWS = "CREATE TABLE trades (id INTEGER PRIMARY KEY, qty INT, note BLOB); CREATE TABLE same (x);"


def database(path: Path, sql: str, *, log: bool = False) -> None:
    """With ``log``, what was written last lies in the write-ahead log alone."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.execute(f"{ROWS} INSERT INTO same VALUES (1); {'' if log else sql}").fetchall()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    if log:
        copy = path.with_name("copy")
        connection.execute(sql)
        for suffix in ("", "-wal"):
            copy.with_name(f"copy{suffix}").write_bytes(path.with_name(path.name + suffix).read_bytes())
        connection.close()
        for suffix in ("", "-wal"):
            copy.with_name(f"copy{suffix}").replace(path.with_name(path.name + suffix))
    else:
        connection.close()


@pytest.fixture
def former(tmp_path: Path) -> Iterator[Config]:
    """A host that was primary of epoch 3, its newest row in the log."""
    made = config(tmp_path)
    live = made.layout.live(made.service.databases[0])
    database(live, "INSERT INTO trades VALUES (1, 10, NULL), (2, 20, x'00ff')", log=True)
    write_data(made.layout, DataFile(live_epoch=3))
    yield made


def test_what_was_written_here_is_moved_aside_with_its_log(former: Config) -> None:
    (folder,) = data.set_aside(former)
    assert sorted(path.name for path in Path(folder).iterdir()) == ["trades.db", "trades.db-wal"]
    assert folder.endswith("fork-0003") and read_data(former.layout) == DataFile()
    assert data.set_aside(former) == []


def test_a_second_one_of_an_epoch_replaces_nothing(former: Config) -> None:
    (first,) = data.set_aside(former)
    database(former.layout.live(former.service.databases[0]), "")
    write_data(former.layout, DataFile(live_epoch=3))
    (second,) = data.set_aside(former)
    assert Path(first).is_dir() and second == f"{first}-2"


def test_a_copy_is_no_fork(former: Config) -> None:
    write_data(former.layout, DataFile(origin_epoch=3, txids={"trades": 7}))
    assert data.set_aside(former) == []
    assert former.layout.live(former.service.databases[0]).exists()


def test_the_difference_is_told_by_row_and_side(tmp_path: Path) -> None:
    here, vault = tmp_path / "here.db", tmp_path / "vault.db"
    database(here, "INSERT INTO trades VALUES (1, 10, NULL), (2, 99, NULL), (3, 30, x'00ff'); CREATE TABLE mine (y)")
    database(vault, "INSERT INTO trades VALUES (1, 10, NULL), (2, 20, NULL)")
    found = forks.difference(here, vault)
    assert set(found) == {"trades"}
    assert (found["trades"]["here"], found["trades"]["vault"]) == (2, 1)
    assert {"id": 3, "qty": 30, "note": "X'00ff'"} in found["trades"]["only_here"]
    assert found["trades"]["only_vault"] == [{"id": 2, "qty": 20, "note": None}]


@pytest.mark.parametrize(
    ("table", "here", "vault", "counts"),
    [
        ("fills (sym, qty)", "('X', 1), ('X', 1), ('X', 1), ('Y', 2)", "('Y', 2), ('X', 1)", (2, 0)),
        ("users (id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE)", "(1, 'ABC')", "(1, 'abc')", (1, 1)),
        ("users (name TEXT COLLATE NOCASE PRIMARY KEY) WITHOUT ROWID", "('ABC')", "('abc')", (1, 1)),
        ("notes (x)", "(1), ('a')", "(1.0), ('a')", (1, 1)),
        ("notes (x)", "(NULL)", "(NULL), (NULL)", (0, 1)),
        ("odd (rowid TEXT, oid, _rowid_)", "('a', 1, 2), ('a', 1, 2)", "('a', 1, 2)", (1, 0)),
        ("moved (x, y AS (x || x))", "('a'), ('b')", "('b'), ('a')", (0, 0)),
    ],
)
def test_rows_are_told_apart_whatever_the_table_takes_for_the_same(
    tmp_path: Path, table: str, here: str, vault: str, counts: tuple[int, int]
) -> None:
    paths = {side: tmp_path / f"{side}.db" for side in ("here", "vault")}
    for side, values in (("here", here), ("vault", vault)):
        (name, *_) = table.split()
        columns = "(x)" if name == "moved" else ""
        database(paths[side], f"CREATE TABLE {table}; INSERT INTO {name} {columns} VALUES {values}")
    found = forks.difference(paths["here"], paths["vault"])
    assert tuple(sum(one[side] for one in found.values()) for side in ("here", "vault")) == counts
    assert all(len(one[f"only_{side}"]) == one[side] for one in found.values() for side in ("here", "vault"))


def test_of_a_table_with_other_columns_every_row_counts(tmp_path: Path) -> None:
    here, vault = tmp_path / "here.db", tmp_path / "vault.db"
    database(here, "INSERT INTO trades VALUES (1, 10, NULL); ALTER TABLE trades ADD COLUMN fee")
    database(vault, "INSERT INTO trades VALUES (1, 10, NULL)")
    found = forks.difference(here, vault)["trades"]
    assert (found["here"], found["vault"]) == (1, 1) and "fee" in found["only_here"][0]


def test_a_database_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(tmp_path, service=SERVICE.replace("trades.db", "vault.db"))
    live = made.layout.live(made.service.databases[0])
    database(live, "INSERT INTO trades VALUES (1, 10, NULL)")
    write_data(made.layout, DataFile(live_epoch=3))
    (folder,) = data.set_aside(made)
    monkeypatch.setattr(forks, "_kept", lambda *_: Plan("genesis", 3, "trades", 7, ()))
    monkeypatch.setattr("lifeline.forks.rebuild.rebuild", lambda store, plan, output: database(output, ""))
    (report,) = forks.compare_all(made, MemoryStore())
    assert report["tables"]["trades"]["here"] == 1 and (Path(folder) / "vault.db").exists()


def test_an_alert_lasts_until_a_person_settles_it(former: Config) -> None:
    (folder,) = data.set_aside(former)
    (unknown,) = alerts.judge(alerts.Seen("standby", forks=forks.known(former.layout, former)))
    assert "not compared yet" in unknown.says
    table = {"here": 2, "vault": 0, "only_here": [], "only_vault": []}
    report = {"verdict": "PASS", "epoch": 3, "folder": folder, "tables": {"trades": table}}
    (Path(folder) / "report.json").write_text(json.dumps(report))
    (told,) = alerts.judge(alerts.Seen("standby", forks=forks.known(former.layout, former)))
    assert "2 rows of trades" in told.says and told.next == "fab forks"
    forks.settle(former, folder)
    assert alerts.judge(alerts.Seen("standby", forks=forks.known(former.layout, former))) == []
    assert (Path(folder) / "trades.db").exists()
    with pytest.raises(StepFailed):
        forks.settle(former, folder + "-nowhere")
