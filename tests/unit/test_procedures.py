"""docs/procedures.md names verbs and scenarios; each must exist, and each scenario leads to its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab import scenarios
from tests.unit.typed import parsed

PAGE = (Path(__file__).resolve().parents[2] / "docs/procedures.md").read_text()


def test_every_verb_and_option_exists() -> None:
    commands = re.findall(r"`(fab [a-z][^`]*)`", PAGE)
    assert len(commands) > 15
    for command in commands:
        parsed(command)


@pytest.mark.parametrize("command", ["fab fail-over", "fab failover --targets x", "fab restore --at", "fab"])
def test_a_command_that_fab_would_not_take_is_found(command: str) -> None:
    with pytest.raises(ValueError, match="fab"):
        parsed(command)


def test_every_scenario_exists_and_every_one_that_exists_is_there() -> None:
    named = re.findall(r"\| \[`([a-z-]+)`\]\(runbooks/([a-z-]+)\.md\) \|$", PAGE, re.MULTILINE)
    known = {(name, name) for name in scenarios.every()}
    assert set(named) == known, set(named) ^ known
