"""restic's repositories, commands and answers. What restic really does is in tests/contract/test_backups.py."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lifeline import backups, restores, snapshots
from lifeline.errors import BadConfig, BadInput, StepFailed, Unavailable
from lifeline.replica import Destination
from tests.unit.hostkit import FakeVault, config

VAULT = Destination("http://ams3.spaces.test/", "vault", False, "AK", "very-secret")
AT = datetime(2026, 1, 2, 3, 4, 5, 1, tzinfo=UTC)
REPOSITORY = snapshots.in_bucket("vault", "genesis", VAULT, Path("/etc/p"), Path("/c"))


def test_no_secret_is_in_any_command_or_in_what_is_printed_of_a_repository() -> None:
    commands = [
        snapshots.backup_argv(REPOSITORY, [Path("/x")], host="a", kind="full", epoch=3, at=AT),
        snapshots.restore_argv(REPOSITORY, "abc", Path("/y"), ["/a"]),
        snapshots.forget_argv(REPOSITORY, ["abc"]),
        snapshots.check_argv(REPOSITORY, 10),
        snapshots.list_argv(REPOSITORY),
    ]
    assert not any("very-secret" in word for argv in commands for word in argv)
    assert "very-secret" not in repr(REPOSITORY)
    assert REPOSITORY.environment["AWS_SECRET_ACCESS_KEY"] == "very-secret"


def test_the_repository_is_in_the_vault_and_addressed_as_the_vault_is() -> None:
    assert REPOSITORY.environment["RESTIC_REPOSITORY"] == "s3:http://ams3.spaces.test/vault/snapshots/genesis"
    assert "s3.bucket-lookup=dns" in snapshots.list_argv(REPOSITORY)


def test_a_full_backup_trusts_no_file_time() -> None:
    full = snapshots.backup_argv(REPOSITORY, [Path("/x")], host="a", kind="full", epoch=3, at=AT)
    quick = snapshots.backup_argv(REPOSITORY, [Path("/x")], host="a", kind="incremental", epoch=3, at=AT)
    assert "--force" in full and "--force" not in quick
    assert full[-2:] == ["--", "/x"] and "epoch-0003" in full


def test_a_snapshot_is_dated_by_its_moment_and_never_before_it() -> None:
    argv = snapshots.backup_argv(REPOSITORY, [Path("/x")], host="a", kind="full", epoch=3, at=AT)
    assert argv[argv.index("--time") + 1] == "2026-01-02 03:04:06" and REPOSITORY.environment["TZ"] == "UTC"


def test_the_summary_is_found_among_the_noise() -> None:
    summary = {"message_type": "summary", "snapshot_id": "abc", "total_files_processed": 2, "total_bytes_processed": 9}
    text = "\n".join(['{"message_type": "status"}', "warning", json.dumps({**summary, "data_added": 4}), ""])
    assert snapshots.parse_backup(text) == snapshots.Saved("abc", 2, 9, 4)
    with pytest.raises(StepFailed):
        snapshots.parse_backup('{"message_type": "status"}')


def test_the_list_of_snapshots_is_ordered_by_time() -> None:
    rows = [
        {"id": "b", "time": "2026-01-02T03:04:05.123456789Z", "tags": ["full"]},
        {"id": "a", "time": "2026-01-01T03:04:05.1+01:00"},
        {"id": "c", "time": "2026-01-03T00:00:00Z"},
    ]
    found = snapshots.parse_list(json.dumps(rows))
    assert [one.id for one in found] == ["a", "b", "c"] and found[1].tags == ("full",)
    assert found[1].at == datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)
    assert snapshots.parse_list("null") == []
    with pytest.raises(StepFailed):
        snapshots.parse_list('[{"id": "a"}]')


def test_how_far_it_is_as_restic_says_it() -> None:
    saving = '{"message_type":"status","percent_done":0.5,"total_files":2,"total_bytes":200,"bytes_done":100}'
    unpacking = '{"message_type":"status","total_bytes":300,"bytes_restored":30}'
    assert (snapshots.parse_status(saving), snapshots.parse_status(unpacking)) == ((100, 200), (30, 300))
    assert [snapshots.parse_status(text) for text in ('{"message_type":"summary"}', "no JSON", "[]")] == [None] * 3


@pytest.mark.parametrize(
    ("code", "stderr", "kind", "words"),
    [
        (12, "Fatal: wrong password or no key found", BadConfig, "password"),
        (1, "Fatal: wrong password or no key found", BadConfig, "password"),
        (1, "Fatal: unable to open config file: Access Denied.", Unavailable, "refused"),
        (1, "write /x: no space left on device", StepFailed, "space"),
        (1, "", Unavailable, "exit code 1"),
    ],
)
def test_restics_failures_in_an_operators_words(code: int, stderr: str, kind: type[Exception], words: str) -> None:
    error = snapshots.failure("vault", "save a backup", code, stderr)
    assert isinstance(error, kind) and words in str(error) and error.hint


def test_a_repository_is_missing_only_when_restic_says_so() -> None:
    assert snapshots.is_missing(10, "")
    asks = "\nIs there a repository at the following location?\ns3:http://v/x\n"
    opening = "Fatal: unable to open config file: Stat: "  # of restic before 0.17, whatever keeps it from that
    assert snapshots.is_missing(1, f"{opening}The specified key does not exist.{asks}")
    assert snapshots.is_missing(1, f"{opening}stat /x/config: no such file or directory{asks}")
    assert not snapshots.is_missing(1, f'{opening}Get "http://v/": dial tcp 10.0.0.9:80: connection refused{asks}')
    assert not snapshots.is_missing(1, f'{opening}Get "http://v/": dial tcp: lookup v: no such host{asks}')
    assert not snapshots.is_missing(1, "Fatal: unable to open config file: Access Denied.")
    assert not snapshots.is_missing(1, "Fatal: wrong password or no key found")
    assert not snapshots.is_missing(1, "dial tcp: connection refused")


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
    assert restores.normalise_time(text) == utc


@pytest.mark.parametrize("text", ["yesterday", "2024-13-01", "2999-01-01 00:00:00", ""])
def test_no_time_or_a_future_one_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput):
        restores.normalise_time(text)
