"""When a primary checks its data, what it makes of what was found, and whose word it takes for a clean copy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lifeline.damage import SHARE, SOON_SHARE, Checks, Damage, Proof, proof_for, sign_in

HOUR = 3600.0


def test_by_the_clock_it_costs_a_small_share_of_a_core_whatever_the_size() -> None:
    checks = Checks(since=0.0)
    assert not checks.due(HOUR - 1, HOUR) and checks.due(HOUR, HOUR)
    assert not checks.due(1e9, 0)  # off
    large = checks.after(HOUR, 120.0, "PASS", "", "a")
    assert not large.due(HOUR + 120 / SHARE - 1, HOUR) and large.due(HOUR + 120 / SHARE, HOUR)
    assert SHARE < 0.01


def test_what_points_at_damage_is_looked_into_at_once_and_not_over_and_over() -> None:
    checks = Checks(since=0.0).pointed("malformed").pointed("something later")
    assert checks.sign == "malformed" and checks.due(1, HOUR) and checks.due(1, 0)
    checks = checks.begun().pointed("again").after(10, 4.0, "PASS", "", "a")
    assert checks.sign == "again" and not checks.due(39, HOUR) and checks.due(10 + 4.0 / SOON_SHARE, HOUR)


def test_only_a_check_finds_damage_and_only_a_check_ends_it() -> None:
    checks = Checks(since=0.0).pointed("malformed")
    assert checks.found is None
    checks = checks.begun().after(10, 1, "FAIL", "page 7", "a")
    assert checks.found == Damage("a", "page 7")
    assert checks.after(50, 1, "FAIL", "page 7 and 8", "b").found == Damage("a", "page 7 and 8")
    assert checks.after(50, 1, "UNKNOWN", "ran out of time", "b").found == Damage("a", "page 7")
    assert checks.after(50, 1, "PASS", "", "b").found is None


def test_a_disk_that_cant_be_read_is_damage_what_wasnt_checked_is_not() -> None:
    checks = Checks(since=0.0)
    torn = checks.after(1, 1, "UNKNOWN", "could not be checked: IOError: disk I/O error", "a")
    assert torn.found is not None
    assert checks.after(1, 1, "UNKNOWN", "the check did not end within 300 s", "a").found is None


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        (b"level=ERROR msg=sync error=database disk image is malformed", "database disk image is malformed"),
        (b"apsw.IOError: IOError: disk I/O error", "disk i/o error"),
        (b"SQLITE_CORRUPT (11)", "sqlite_corrupt"),
        (b'{"event": "filled", "symbol": "BTC"}', ""),
        (b"", ""),
    ],
)
def test_words_that_point_at_damage(text: bytes, sign: str) -> None:
    assert sign_in(text) == sign


def test_a_proof_is_of_this_very_finding() -> None:
    found = Damage("a", "page 7")
    said = {"id": "a", "verdict": "PASS"}
    assert proof_for(found, said) is Proof.CLEAN
    assert proof_for(found, {**said, "verdict": "FAIL"}) is Proof.DAMAGED
    for other in (None, "PASS", {**said, "verdict": "UNKNOWN"}, {**said, "id": "b"}, {"verdict": "PASS"}):
        assert proof_for(found, other) is Proof.NONE
    assert proof_for(None, said) is Proof.NONE
    assert proof_for(replace(found, id="b"), said) is Proof.NONE
