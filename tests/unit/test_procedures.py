"""docs/procedures.md names verbs and scenarios; each must exist, and each scenario leads to its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab import scenarios
from tests.unit.typed import parsed

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/procedures.md").read_text()


def test_every_verb_and_option_exists() -> None:
    commands = re.findall(r"`(fab [a-z][^`]*)`", PAGE)
    assert len(commands) > 15
    for command in commands:
        parsed(command)


@pytest.mark.parametrize("command", ["fab fail-over", "fab failover --targets x", "fab restore --at", "fab"])
def test_a_command_that_fab_would_not_take_is_found(command: str) -> None:
    with pytest.raises(ValueError, match="fab"):
        parsed(command)


def test_every_trigger_has_a_test_that_exists() -> None:
    rows = PAGE.partition("## Automatic failover triggers")[2].partition("\n## ")[0].splitlines()
    rows = [row for row in rows if row.startswith("|")][2:]
    assert len(rows) == 4
    there = (ROOT / "tests/drills/test_autopilot.py").read_text()
    for row in rows:
        proofs = re.findall(r"`(test_\w+)`", row)
        assert proofs and all(f"def {name}(" in there for name in proofs), row


def test_the_example_says_what_is_off_and_whom_people_call() -> None:
    """Whoever copies it must not believe that somebody is called."""
    example = (ROOT / "stacks/Pulumi.prod.yaml").read_text()
    assert "mode: manual" in example and "LIFELINE_PILOT_TOKEN_FILE" in example and "NOBODY" in example
    for who in ("DigitalOcean Support", "Binance API Support"):
        assert who in example and who in (ROOT / "docs/incidents.md").read_text()


def test_every_scenario_exists_and_every_one_that_exists_is_there() -> None:
    named = re.findall(r"\| \[`([a-z-]+)`\]\(runbooks/([a-z-]+)\.md\) \|$", PAGE, re.MULTILINE)
    known = {(name, name) for name in scenarios.every()}
    assert set(named) == known, set(named) ^ known
