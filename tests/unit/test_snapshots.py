"""restic's commands and answers, and a consistent copy of a live database."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lifeline import backups, snapshots
from lifeline.errors import BadInput, StepFailed
from lifeline.replica import Destination
from tests.unit.hostkit import FakeVault, config

VAULT = Destination("http://ams3.spaces.test/", "vault", False, "AK", "very-secret")
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_no_secret_is_in_any_command() -> None:
    commands = [
        snapshots.init_argv(VAULT),
        snapshots.exists_argv(VAULT),
        snapshots.backup_argv(VAULT, [Path("/x")], host="a", kind="full", epoch=3),
        snapshots.restore_argv(VAULT, "abc", Path("/y")),
        snapshots.forget_argv(VAULT, days=365),
    ]
    assert not any("very-secret" in word for argv in commands for word in argv)
    assert snapshots.environment("genesis", VAULT)["AWS_SECRET_ACCESS_KEY"] == "very-secret"


def test_the_repository_is_in_the_vault_and_addressed_as_the_vault_is() -> None:
    assert snapshots.repository("genesis", VAULT) == "s3:http://ams3.spaces.test/vault/snapshots/genesis"
    assert "s3.bucket-lookup=dns" in snapshots.init_argv(VAULT)


def test_a_full_backup_trusts_no_file_time() -> None:
    full = snapshots.backup_argv(VAULT, [Path("/x")], host="a", kind="full", epoch=3)
    quick = snapshots.backup_argv(VAULT, [Path("/x")], host="a", kind="incremental", epoch=3)
    assert "--force" in full and "--force" not in quick
    assert full[-2:] == ["--", "/x"] and "epoch-0003" in full


def test_the_summary_is_found_among_the_noise() -> None:
    summary = {"message_type": "summary", "snapshot_id": "abc", "total_files_processed": 2, "total_bytes_processed": 9}
    text = "\n".join(['{"message_type": "status"}', "warning", json.dumps({**summary, "data_added": 4}), ""])
    assert snapshots.parse_backup(text) == snapshots.Saved("abc", 2, 9, 4)
    with pytest.raises(StepFailed):
        snapshots.parse_backup('{"message_type": "status"}')


def test_a_copy_has_what_was_committed_and_not_what_was_not(tmp_path: Path) -> None:
    live = tmp_path / "it's live.db"
    writer = sqlite3.connect(live)
    writer.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (v); INSERT INTO t VALUES (1);")
    writer.execute("INSERT INTO t VALUES (2)")  # open transaction
    target = tmp_path / "copies" / "it's a copy.db"
    size = snapshots.copy_database(live, target)
    writer.close()
    assert size == target.stat().st_size > 0
    copy = sqlite3.connect(target)
    assert copy.execute("SELECT v FROM t").fetchall() == [(1,)]
    copy.close()


def test_the_catalogue_sorts_by_time_and_knows_the_newest() -> None:
    full, quick = snapshots.catalogue_key("g", "full", AT), snapshots.catalogue_key("g", "incremental", AT)
    assert full == "catalogue/g/20260102T030405Z-full.json"
    older = snapshots.catalogue_key("g", "full", AT.replace(year=2025))
    assert snapshots.newest_backup([quick, older, "catalogue/g/other.txt"]) == (AT, "incremental")
    assert snapshots.newest_backup([]) is None


def test_a_standby_says_it_is_none_of_its_business(tmp_path: Path) -> None:
    vault = FakeVault()
    assert "skipped" in backups.backup(config(tmp_path), vault, "full")
    assert vault.objects == {}


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        (None, None),
        ("2024-01-15 14:00:00", "2024-01-15T14:00:00.000000Z"),
        ("2024-01-15T15:00:00+01:00", "2024-01-15T14:00:00.000000Z"),
        ("2024-01-15", "2024-01-15T00:00:00.000000Z"),
    ],
)
def test_times_to_restore_to(text: str | None, utc: str | None) -> None:
    assert backups.normalise_time(text) == utc


@pytest.mark.parametrize("text", ["yesterday", "2024-13-01", "2999-01-01 00:00:00", ""])
def test_no_time_or_a_future_one_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput):
        backups.normalise_time(text)
