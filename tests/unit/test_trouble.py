"""A service that doesn't answer is trouble when it lasts, and when nobody stopped it on purpose."""

from __future__ import annotations

from lifeline.trouble import Health, looked, of


def test_what_lasts_is_trouble_and_is_over_at_the_first_answer() -> None:
    health = looked(Health(), 100, "refused", False)
    health = looked(health, 350, "refused", False)
    assert of("genesis", health, 399, 300) == ""
    assert "genesis has been down for 300 s" in of("genesis", health, 400, 300)
    assert of("genesis", looked(health, 405, "", False), 405, 300) == ""


def test_what_a_person_stopped_is_none() -> None:
    health = looked(Health(), 100, "refused", True)
    assert of("genesis", health, 1000, 300) == ""
