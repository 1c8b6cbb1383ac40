"""docs/procedures.md names verbs and scenarios; each must exist."""

from __future__ import annotations

import re
from pathlib import Path

import fabfile
from lab import scenarios

PAGE = (Path(__file__).resolve().parents[2] / "docs/procedures.md").read_text()


def test_every_verb_and_option_exists() -> None:
    words = re.findall(r"`fab ([a-z]+)((?: [^`]*)?)`", PAGE)
    assert len(words) > 15
    for verb, rest in words:
        task = fabfile.namespace[verb]
        known = {option.name.replace("_", "-").rstrip("-") for option in task.get_arguments()}
        options = set(re.findall(r"--([a-z-]+)", rest))
        assert options <= known, f"fab {verb}: {options - known}"


def test_every_scenario_exists_and_every_one_that_exists_is_there() -> None:
    named = set(re.findall(r"\| `([a-z-]+)` \|$", PAGE, re.MULTILINE))
    known = set(scenarios.every())
    assert named == known, named ^ known
