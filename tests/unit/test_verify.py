"""Is a copy good? Damage, emptiness and violated invariants must never pass, and what can't be checked is UNKNOWN."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from lifeline import verify
from lifeline.model import Finding, Verdict
from lifeline.service import Invariant
from lifeline.verify import verify_database

BALANCED = Invariant("balanced", "t", "SELECT id FROM entries WHERE amount = 0", "no-rows")
SENTINEL = Invariant("sentinel", "t", "SELECT 1 FROM entries WHERE id = 1", "rows")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "t.db"
    connection = sqlite3.connect(path)
    connection.executescript(
        "PRAGMA journal_mode = WAL;"
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY);"
        "CREATE TABLE entries (id INTEGER PRIMARY KEY, account INTEGER REFERENCES accounts(id), amount INTEGER, note);"
        "CREATE INDEX entries_amount ON entries(amount);"
        "INSERT INTO accounts VALUES (1);"
    )
    connection.executemany("INSERT INTO entries VALUES (?, 1, ?, ?)", [(n, n, "x" * 500) for n in range(1, 400)])
    connection.commit()
    connection.close()
    return path


def test_a_good_copy_passes_and_leaves_nothing_beside_it(good: Path) -> None:
    found = verify_database(good, [BALANCED, SENTINEL], "full")
    assert found.verdict is Verdict.PASS
    assert found.evidence["tables"] == 2
    assert [path.name for path in good.parent.iterdir()] == ["t.db"]


def test_a_live_database_is_read_through_its_log(good: Path) -> None:
    writer = sqlite3.connect(good)
    writer.execute("INSERT INTO entries VALUES (1000, 1, 0, 'only in the log')")
    writer.commit()
    found = verify_database(good, [BALANCED])
    writer.close()
    assert found.verdict is Verdict.FAIL and "balanced" in found.says


def test_a_violated_invariant_fails_and_shows_rows(good: Path) -> None:
    sqlite3.connect(good).executescript("UPDATE entries SET amount = 0 WHERE id = 7")
    found = verify_database(good, [BALANCED])
    assert found.verdict is Verdict.FAIL and found.evidence["violations"] == [[7]]


def test_a_missing_sentinel_fails(good: Path) -> None:
    sqlite3.connect(good).executescript("DELETE FROM entries WHERE id = 1")
    assert verify_database(good, [SENTINEL]).verdict is Verdict.FAIL


def test_a_broken_foreign_key_fails(good: Path) -> None:
    sqlite3.connect(good).executescript("PRAGMA foreign_keys = OFF; INSERT INTO entries VALUES (999, 42, 1, '')")
    found = verify_database(good, [])
    assert found.verdict is Verdict.FAIL and "accounts" in found.says


def test_damaged_pages_fail(good: Path) -> None:
    data = bytearray(good.read_bytes())
    data[4096 * 3 : 4096 * 6] = os.urandom(4096 * 3)
    good.write_bytes(data)
    assert verify_database(good, [], "full").verdict is Verdict.FAIL


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\x00", b"not a database at all" * 500])
def test_what_is_no_database_never_passes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.db"
    path.write_bytes(content)
    assert verify_database(path, []).verdict is Verdict.FAIL


def test_litestreams_own_tables_are_no_content(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    sqlite3.connect(path).executescript("CREATE TABLE _litestream_seq (id INTEGER); CREATE TABLE _litestream_lock (id)")
    found = verify_database(path, [])
    assert found.verdict is Verdict.FAIL and "empty" in found.says


def test_a_missing_copy_fails_and_is_not_created(tmp_path: Path) -> None:
    assert verify_database(tmp_path / "no.db", []).verdict is Verdict.FAIL
    assert not (tmp_path / "no.db").exists()


def test_sql_that_does_not_run_is_unknown_not_passed(good: Path) -> None:
    broken = Invariant("broken", "t", "SELECT * FROM nowhere", "no-rows")
    found = verify_database(good, [broken])
    assert found.verdict is Verdict.UNKNOWN and "nowhere" in found.says


def test_a_check_that_takes_too_long_is_unknown(good: Path) -> None:
    endless = Invariant(
        "endless",
        "t",
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0",
        "no-rows",
    )
    assert verify_database(good, [endless], within=0.3).verdict is Verdict.UNKNOWN


def test_the_standard_librarys_sqlite_checks_the_same(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "apsw", None)
    assert verify_database(good, [BALANCED, SENTINEL], "full").verdict is Verdict.PASS
    good.write_bytes(b"not a database at all" * 500)
    assert verify_database(good, []).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("version", "fixed"),
    [
        ("3.46.1", False),
        ("3.51.2", False),
        ("3.51.3", True),
        ("3.54.1", True),
        ("3.50.7", True),
        ("3.50.6", False),
        ("3.44.6", True),
        ("4.0.0", True),
    ],
)
def test_versions_past_the_wal_reset_corruption(version: str, fixed: bool) -> None:
    assert verify.wal_reset_fixed(version) is fixed


def test_failure_outranks_unknown_outranks_pass() -> None:
    one, two, three = Finding.passed("a"), Finding.unknown("b"), Finding.failed("c")
    assert verify.worst({"x": one, "y": two}).verdict is Verdict.UNKNOWN
    assert verify.worst({"x": three, "y": two}).verdict is Verdict.FAIL
    assert verify.worst({"x": one}).verdict is Verdict.PASS
    assert verify.worst({}).verdict is Verdict.UNKNOWN
