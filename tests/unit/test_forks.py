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
from tests.unit.hostkit import config

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
