"""Rows of one table out of a past copy, as SQL or CSV, written as they are read."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

from lifeline.backups import quoted
from lifeline.errors import BadInput
from lifeline.verify import connect, rows

Format = Literal["sql", "csv"]


def extract(database: Path, table: str, form: Format, out: TextIO) -> int:
    """Write every row of a table to `out`; returns how many. Generated columns are left out: they make themselves.

    SQL: one INSERT a row, that reads back to the same values and types. CSV (RFC 4180, with a header): NULL is empty, a
    blob is X'hex'. BadInput names the tables there are.
    """
    with connect(database) as connection:
        found = rows(connection, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        names = [str(row[0]) for row in found]
        if table not in names:
            known = ", ".join(name for name in names if not name.startswith("sqlite_"))
            raise BadInput(
                f'there is no table "{table}" in that copy; there are: {known}', hint="fab restore --table NAME"
            )
        columns = _columns(connection, table)
        stated = ", ".join(map(quoted, columns))
        everything = connection.execute(f"SELECT {stated} FROM {quoted(table)}")
        if form == "csv":
            return _csv(out, columns, everything)
        return _sql(out, f"INSERT INTO {quoted(table)} ({stated}) VALUES", everything)


def _columns(connection: Any, table: str) -> list[str]:
    """Columns that hold something of their own; hidden is 0 for those, else generated or virtual."""
    return [
        str(row[0])
        for row in rows(connection, f"SELECT name, hidden FROM pragma_table_xinfo({literal(table)})")
        if row[1] == 0
    ]


def _sql(out: TextIO, head: str, everything: Iterator[Sequence[Any]]) -> int:
    count = 0
    for count, row in enumerate(everything, 1):  # noqa: B007 - the number of the last is the answer
        out.write(f"{head} ({', '.join(map(literal, row))});\n")
    return count


def _csv(out: TextIO, columns: Sequence[str], everything: Iterator[Sequence[Any]]) -> int:
    writer, count = csv.writer(out, lineterminator="\r\n"), 0
    writer.writerow(columns)
    for count, row in enumerate(everything, 1):  # noqa: B007 - as above
        writer.writerow([literal(value) if isinstance(value, bytes) else value for value in row])
    return count


def literal(value: Any) -> str:
    """A value as SQL writes it, such that SQLite reads the same value of the same type."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _real(value)
    text = str(value)
    if "\0" in text:  # a literal would end there
        return f"CAST(X'{text.encode().hex()}' AS TEXT)"
    return "'" + text.replace("'", "''") + "'"


def _real(value: float) -> str:
    if value != value:
        return "NULL"  # SQLite keeps no NaN
    if value in (float("inf"), float("-inf")):
        return "9e999" if value > 0 else "-9e999"
    return repr(value) if any(c in repr(value) for c in ".en") else f"{value!r}.0"
