"""Some of the kills of `make kills`, each kind among them: real Litestream, SeaweedFS, engine, agent and restores."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from lab.kills.campaign import run
from lab.kills.plan import KINDS, draw

pytestmark = pytest.mark.slow
SEED = 7


def test_every_restore_is_what_the_ledger_says() -> None:
    kills = draw(8, SEED)
    assert {kill.kind for kill in kills} == set(KINDS)
    told: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ll-") as folder:  # short: it holds sockets
        records = run(kills, Path(folder), lambda record: told.append(record.line()))
    assert len(records) == len(kills) and all(record.passed for record in records), "\n".join(told)
    assert sum(record.acknowledged for record in records) > 0
