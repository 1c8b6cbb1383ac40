"""A person's word on automatic failover: what is no length of a pause."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifeline.errors import BadInput
from runbooks.mode import pause
from tests.unit.world import World


@pytest.mark.parametrize("length", ["0m", "8d", "99999999999999d", f"{'9' * 5000}s", "1", "h", "-1h"])
def test_no_length_of_a_pause(length: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(BadInput) as caught:
        pause(world.process(), length)
    assert len(caught.value.message) < 120 and world.lease is not None and world.lease.mode is None
