"""The catalogue: keys, documents, and what became of an entry."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lifeline import catalogue
from lifeline.errors import DataBad
from runbooks.backups import age, table

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FULL = "catalogue/g/20260102T030405Z-full.json"
QUICK = "catalogue/g/20260102T070405Z-incremental.json"


def entry(snapshot: str = "s1", **more: Any) -> dict[str, Any]:
    copies = {"vault": {"snapshot": snapshot}, "local": {"error": "full"}}
    return {"version": 2, "copies": copies, "bytes": 1234, "bytes_added": 10, "seconds": 2.0, **more}


def verification(key: str, verdict: str, at: str = "2026-01-03T03:00:00Z") -> dict[str, Any]:
    point = {"entry": key, "source": "snapshot", "verdict": verdict}
    return {"version": 1, "at": at, "points": [point, {"entry": None, "source": "vault", "verdict": "FAIL"}]}


def test_keys_sort_by_time_and_other_documents_are_no_entries() -> None:
    assert catalogue.entry_key("g", "full", AT) == FULL
    verified, offsite = catalogue.verified_key("g", AT), catalogue.offsite_key("g")
    assert catalogue.entry_keys([FULL, verified, offsite, QUICK, "catalogue/g/x.txt"]) == [QUICK, FULL]
    assert catalogue.verified_keys([FULL, verified, offsite]) == [verified]
    assert (catalogue.time_of(FULL), catalogue.kind_of(QUICK)) == (AT, "incremental")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"version": "x"}', json.dumps(entry()).encode()[:40]])
def test_a_half_written_entry_is_damaged_and_says_what_to_do(body: bytes) -> None:
    with pytest.raises(DataBad) as caught:
        catalogue.parse(FULL, body)
    assert FULL in str(caught.value) and caught.value.hint


def test_an_entry_is_verified_only_by_a_restore_of_its_own() -> None:
    newest_first = [verification(QUICK, "FAIL", "2026-01-04T00:00:00Z"), verification(FULL, "PASS")]
    found = catalogue.joined([(QUICK, entry("s2")), (FULL, entry("s1"))], newest_first, {"snapshots": ["s1"]})
    assert [(one.verdict, one.verified_at, one.where) for one in found] == [
        ("FAIL", "2026-01-04T00:00:00Z", ("vault",)),
        ("PASS", "2026-01-03T03:00:00Z", ("vault", "offsite")),
    ]


def test_one_that_could_not_tell_takes_nothing_from_one_that_could() -> None:
    passed, unknown = verification(FULL, "PASS"), verification(FULL, "UNKNOWN", "2026-01-04T00:00:00Z")
    assert catalogue.verification_of(FULL, [unknown, passed]) == (passed["at"], "PASS")
    assert catalogue.verification_of(FULL, [unknown]) == (unknown["at"], "UNKNOWN")


@pytest.mark.parametrize(
    ("offsite", "where"),
    [
        (None, True),
        ({"listed": "2026-01-01T00:00:00Z", "snapshots": []}, True),  # looked before the backup
        ({"listed": "2027-01-01T00:00:00Z", "snapshots": ["o1ffff"]}, True),
        ({"listed": "2027-01-01T00:00:00Z", "snapshots": ["s1ffff"]}, True),  # mirrored, as it once was
        ({"listed": "2027-01-01T00:00:00Z", "snapshots": ["other"]}, False),  # pruned since
    ],
)
def test_what_was_seen_off_site_counts_and_of_a_newer_backup_its_own_word(offsite: Any, where: bool) -> None:
    made = {**entry("s1"), "at": "2026-06-01T00:00:00Z"}
    made["copies"] = {**made["copies"], "offsite": {"snapshot": "o1"}}
    (found,) = catalogue.joined([(FULL, made)], [], offsite)
    assert ("offsite" in found.where) is where


@pytest.mark.parametrize(
    ("listed", "snapshots", "where"),
    [
        ("2026-01-01T00:00:00.000Z", [], ("vault", "local")),  # looked before the backup
        ("2027-01-01T00:00:00.000Z", ["s1ffff", "l1ffff"], ("vault", "local")),
        ("2027-01-01T00:00:00.000Z", ["s1ffff"], ("vault",)),  # let go of since, or lost with its repository
        ("2027-01-01T00:00:00.000Z", [], ()),
    ],
)
def test_a_backup_lies_where_it_was_last_seen(listed: str, snapshots: list[str], where: tuple[str, ...]) -> None:
    copies = {"vault": {"snapshot": "s1"}, "local": {"snapshot": "l1"}}
    made = {**entry(), "at": "2026-06-01T00:00:00.120Z", "host": "a", "copies": copies}
    seen = {"listed": listed, "snapshots": snapshots}
    holdings = {catalogue.holding_key("g", place, "a"): seen for place in ("vault", "local")}
    other = {catalogue.holding_key("g", "local", "b"): {"listed": listed, "snapshots": []}}
    assert catalogue.joined([(FULL, made)], [], None, {**holdings, **other})[0].where == where
    assert catalogue.joined([(FULL, made)], [], None, other)[0].where == ("vault", "local")


def test_a_repository_begun_anew_is_told_for_some_days() -> None:
    notes = [
        {"repository": "vault", "at": "2026-01-02T03:04:05.000Z"},
        {"repository": "local on a", "at": "2025-01-01"},
    ]
    assert catalogue.told_still(notes, AT + timedelta(days=1)) == {"vault": "2026-01-02T03:04:05.000Z"}


@pytest.mark.parametrize(
    "body",
    [b'{"version": 1, "at": "2026', b'{"version": 1}', b'{"version": 1, "at": "", "verdict": "", "points": [1]}'],
)
def test_a_damaged_verification_is_none(body: bytes) -> None:
    with pytest.raises(DataBad, match="verified"):
        catalogue.parse_verification("catalogue/g/verified/20260102T030405Z.json", body)


def test_the_summary_says_what_the_newest_backup_lacks_and_how_the_offsite_vault_is() -> None:
    newest = {"copies": {"vault": {"snapshot": "s"}, "offsite": {"error": "no answer"}}}
    found = catalogue.summary([FULL], [], newest, {"checked": {"missed": 1}})
    assert found["incomplete"] == {"offsite": "no answer"} and found["offsite"] == {"missed": 1}
    assert catalogue.summary([], [])["incomplete"] == {}


def test_a_damaged_entry_and_a_never_verified_one_are_loud_in_the_table() -> None:
    damaged = DataBad("it is half written")
    found = catalogue.joined([(QUICK, damaged), (FULL, entry())], [], None)
    text = table(found, AT + timedelta(hours=5))
    assert "DAMAGED" in text and QUICK in text and "never" in text and "fab verify" in text
    passed = catalogue.joined([(FULL, entry())], [verification(FULL, "PASS")], None)
    assert "fab verify" not in table(passed, AT)
    failed = table(catalogue.joined([(FULL, entry())], [verification(FULL, "FAIL")], None), AT)
    assert "fab backup --full" in failed and "WAS RESTORED YET" not in failed


def test_an_entry_of_the_first_version_is_still_read() -> None:
    old = {"version": 1, "snapshot": "s1", "bytes": 5}
    (found,) = catalogue.joined([(FULL, old)], [], {"snapshots": ["s1"]})
    assert found.where == ("vault", "offsite")


def test_a_verification_that_could_not_tell_is_none_that_was_made() -> None:
    """The keeper makes it again; damage that was found is found."""

    def restic(verdict: str) -> dict[str, str]:
        return {"name": "restic check", "verdict": verdict, "says": "the vault is away"}

    reports = [
        {"at": f"2026-01-0{day}T03:00:00Z", "verdict": verdict, "checks": [restic(verdict)] * weekly}
        for day, verdict, weekly in ((4, "UNKNOWN", 1), (3, "FAIL", 0), (2, "UNKNOWN", 1), (1, "PASS", 1))
    ]
    summary = catalogue.summary([], reports)
    assert summary["successes"] == {"verify": "2026-01-03T03:00:00Z", "verify-weekly": "2026-01-01T03:00:00Z"}
    assert summary["verification"]["verdict"] == "UNKNOWN"
    assert summary["verification"]["says"] == "restic check: the vault is away"


def test_of_what_a_verification_found_the_damage_is_told_before_what_is_not_known() -> None:
    def found(verdict: str) -> dict[str, str]:
        return {"what": "newest", "verdict": verdict, "says": verdict.lower()}

    told = [*map(found, ("PASS", "UNKNOWN", "SKIPPED", "FAIL"))]
    assert catalogue.worst_of({"points": told}) == found("FAIL")
    assert catalogue.worst_of({"points": [found("PASS"), found("SKIPPED")], "checks": []}) is None


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (119, "119 s"), (7200, "2 h"), (86400 * 3, "3 d")])
def test_ages(seconds: int, text: str) -> None:
    assert age(timedelta(seconds=seconds)) == text
