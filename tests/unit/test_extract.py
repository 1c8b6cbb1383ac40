"""Rows out of a copy read back as they were; what can't be had is said."""

from __future__ import annotations

import csv
import io
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lifeline.errors import BadInput
from lifeline.extract import extract, literal

VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
)


@given(VALUES)
def test_a_literal_reads_back_as_the_same_value_of_the_same_type(value: Any) -> None:
    connection = sqlite3.connect(":memory:")
    try:
        (found, kind), (given, wanted) = (
            connection.execute(f"SELECT v, typeof(v) FROM (SELECT {literal(value)} AS v)").fetchone(),
            connection.execute("SELECT v, typeof(v) FROM (SELECT ? AS v)", (value,)).fetchone(),
        )
    finally:
        connection.close()
    assert (found, kind) == (given, wanted)


def database(folder: Path) -> Path:
    path = folder / "copy.db"
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript(
        """
        CREATE TABLE "select" ("from" INTEGER PRIMARY KEY, "a ""quoted"" name" TEXT, twice AS ("from" * 2), data BLOB);
        CREATE TABLE pairs (a TEXT, b REAL, PRIMARY KEY (a, b)) WITHOUT ROWID;
        """
    )
    connection.close()
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), max_size=8))
def test_sql_loads_into_an_equal_table(tmp_path: Path, pairs: list[tuple[Any, Any]]) -> None:
    path = database(tmp_path)
    source = sqlite3.connect(path)
    for number, pair in enumerate(pairs):
        source.execute('INSERT INTO "select" VALUES (?, ?, ?)', (number, *pair))
    source.commit()
    query = 'SELECT "from", "a ""quoted"" name", typeof("a ""quoted"" name"), twice, data, typeof(data) FROM "select"'
    before = source.execute(query).fetchall()
    source.close()
    out = io.StringIO()
    assert extract(path, "select", "sql", out) == len(pairs)
    copy = sqlite3.connect(database(tmp_path))
    copy.executescript(out.getvalue())
    assert copy.execute(query).fetchall() == before
    copy.close()


def test_csv_has_a_header_and_survives_line_breaks_and_quotes(tmp_path: Path) -> None:
    path = database(tmp_path)
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO pairs VALUES ('a \"quote\",\nand more', 1.5)")
    connection.commit()
    connection.close()
    out = io.StringIO()
    assert extract(path, "pairs", "csv", out) == 1
    assert list(csv.reader(io.StringIO(out.getvalue()))) == [["a", "b"], ['a "quote",\nand more', "1.5"]]


def test_a_table_that_isnt_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="pairs, select"):
        extract(database(tmp_path), "trades", "sql", io.StringIO())
