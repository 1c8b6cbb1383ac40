"""The service's hooks on a host: what a compare hook must say to be believed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lifeline import hooks
from lifeline.errors import BadConfig, Unproven
from lifeline.layout import Config
from tests.unit.hostkit import SERVICE, config

AGREE = {"agree": True, "compared": {"trades": 3}}
DIFFERENCE = {"what": "position", "key": "BTC", "here": 1, "there": None}
DIFFER = {"agree": False, "compared": {"trades": 3}, "differences": [DIFFERENCE]}


def host(folder: Path, body: str) -> Config:
    """A host whose lifeline-host does nothing but what this hook would."""
    made = config(folder, service=f'{SERVICE}\n[hooks]\ncompare = ["bin/genesis", "compare"]\n')
    made.layout.bin.mkdir(parents=True)
    tool = made.layout.bin / "lifeline-host"
    tool.write_text(f"#!{sys.executable}\nimport sys\nassert sys.argv[1:] == ['run', 'hook', 'compare']\n{body}\n")
    tool.chmod(0o755)
    return made


def printing(answer: Any) -> str:
    return f"print({json.dumps(answer)!r})"


def test_a_hook_that_a_service_does_not_have_is_no_error(tmp_path: Path) -> None:
    assert hooks.run(config(tmp_path), "reconcile") == {"hook": "reconcile", "ran": False}
    assert hooks.compare(config(tmp_path)) == {"ran": False}


def test_books_that_agree_and_books_that_differ(tmp_path: Path) -> None:
    found = hooks.compare(host(tmp_path / "a", printing(AGREE)))
    assert found == {"ran": True, "agree": True, "compared": {"trades": 3}, "differences": [], "more": 0}
    found = hooks.compare(host(tmp_path / "b", printing(DIFFER)))
    assert not found["agree"] and found["differences"] == [DIFFERENCE]


def test_a_hook_that_fails_is_not_known_in_its_own_words(tmp_path: Path) -> None:
    broken = host(tmp_path, "sys.exit('the exchange is down')")
    with pytest.raises(Unproven, match="not compared with the world outside: the exchange is down"):
        hooks.compare(broken)


def test_a_hook_that_hangs_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "COMPARE_WITHIN_S", 0.3)
    with pytest.raises(Unproven, match="ran longer"):
        hooks.compare(host(tmp_path, "import time; time.sleep(60)"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("all well", "not JSON"),
        ([], "must be a table"),
        ({"compared": {"trades": 1}}, "agree: is missing"),
        ({"agree": "yes", "compared": {"trades": 1}}, "agree: must be true or false"),
        ({"agree": True}, "compared: is missing"),
        ({"agree": True, "compared": {}}, "how many were compared"),
        ({**AGREE, "differences": [DIFFERENCE]}, "contradicts"),
        ({**AGREE, "more": 1}, "contradicts"),
        ({"agree": False, "compared": {"trades": 1}}, "contradicts"),
        ({**DIFFER, "differences": [{"key": "BTC"}]}, "what: is missing"),
    ],
)
def test_an_answer_that_proves_nothing_is_told(answer: Any, words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        hooks.read_comparison(answer if isinstance(answer, str) else json.dumps(answer))


def test_an_answer_that_proves_nothing_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(Unproven, match="contradicts"):
        hooks.compare(host(tmp_path, printing({**AGREE, "more": 1})))
