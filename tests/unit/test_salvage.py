"""`.recover` on databases that were damaged for real."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from lifeline import salvage
from lifeline.errors import BadInput, LifelineError, StepFailed
from tests.unit.hostkit import config


def recovers() -> bool:
    """Some builds of sqlite3 can't (Debian 12's). Hosts have Debian 13's: tests/drills/test_backups.py tries it."""
    if shutil.which("sqlite3") is None:
        return False
    done = subprocess.run(
        ["sqlite3"], input="CREATE TABLE t (v);\n.recover\n", capture_output=True, text=True, check=False
    )
    return done.returncode == 0


pytestmark = pytest.mark.skipif(not recovers(), reason="this sqlite3 has no .recover that works")
ROWS = 3000


def live(root: Path) -> Path:
    path = root / "var/lib/genesis/trades.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE trades (id INTEGER PRIMARY KEY, note TEXT); CREATE INDEX i ON trades (note);"
    )
    connection.executemany(
        "INSERT INTO trades VALUES (?, ?)", ((n, f"note {n} " + "x" * 80) for n in range(1, ROWS + 1))
    )
    connection.commit()
    connection.close()
    return path


def salvaged(root: Path, expected: int | None = ROWS) -> dict[str, object]:
    known = {} if expected is None else {"trades": {"trades": expected}}
    (one,) = salvage.salvage(config(root), root / "out", known)["databases"]
    return dict(one)


@pytest.mark.parametrize("page", [3, 10, 60])
def test_flipped_bytes_in_a_page_cost_what_was_in_it(tmp_path: Path, page: int) -> None:
    path = live(tmp_path)
    body = bytearray(path.read_bytes())
    body[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(bytes(body))
    found = salvaged(tmp_path)
    table = found["tables"]["trades"]  # type: ignore[index]
    assert ROWS - 200 <= table["recovered"] <= ROWS and table["expected"] == ROWS
    assert path.read_bytes() == bytes(body)  # the damaged file was only read


def test_a_truncated_file_gives_what_is_left(tmp_path: Path) -> None:
    path = live(tmp_path)
    body = path.read_bytes()
    path.write_bytes(body[: len(body) // 2 // 4096 * 4096])
    found = salvaged(tmp_path, None)
    table = found["tables"]["trades"]  # type: ignore[index]
    assert 0 < table["recovered"] < ROWS and table["expected"] is None


def test_the_log_beside_the_database_is_used(tmp_path: Path) -> None:
    path = live(tmp_path)
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("PRAGMA wal_autocheckpoint = 0")
    writer.execute("INSERT INTO trades VALUES (99999, 'only in the log')")
    writer.commit()
    assert salvaged(tmp_path)["tables"]["trades"]["recovered"] == ROWS + 1  # type: ignore[index]
    writer.close()


def test_nothing_to_recover_and_a_place_that_is_taken_are_told_and_leave_nothing(tmp_path: Path) -> None:
    path = live(tmp_path)
    path.write_bytes(b"\xff" * 40_000)
    with pytest.raises(StepFailed, match=r"recovered|came back"):
        salvaged(tmp_path)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInput, match="exists already"):
        salvaged(tmp_path)
    path.unlink()
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(LifelineError, match="nothing to salvage"):
        salvaged(tmp_path)
