"""A primary that stopped itself and that nobody replaced serves again: the same epoch, its own data, once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lifeline.errors import Refused
from lifeline.model import Lease
from runbooks.serve_again import serve_again
from tests.unit.world import NEW, OLD, HostState, Killed, World


def stopped(root: Path, crash_after: int | None = None) -> World:
    world = World(root, crash_after)
    world.hosts[OLD] = HostState("none", 1, live_epoch=1)
    return world


def test_it_serves_its_epoch_again_and_the_name_leads_to_it(tmp_path: Path) -> None:
    world = stopped(tmp_path)
    world.address = "198.18.2.10"
    serve_again(world.process(), OLD)
    assert (world.hosts[OLD].role, world.hosts[OLD].epoch) == ("primary", 1)
    assert dict(world.actions) == {"start-primary": 1, "record": 1}
    assert world.lease is not None and world.lease.epoch == 1
    serve_again(world.process(), OLD)
    assert dict(world.actions) == {"start-primary": 1, "record": 1}


def test_killed_it_goes_on(tmp_path: Path) -> None:
    world = stopped(tmp_path, crash_after=1)
    with pytest.raises(Killed):
        serve_again(world.process(), OLD)
    world.crash_after = None
    serve_again(world.process(), OLD)
    assert dict(world.actions) == {"start-primary": 1}


@pytest.mark.parametrize("change", [{"holder": NEW, "epoch": 2}, {"ttl_s": 0.0}])
def test_a_lease_that_has_moved_or_was_given_back_is_none_to_serve_on(
    tmp_path: Path, change: dict[str, object]
) -> None:
    world = stopped(tmp_path)
    assert world.lease is not None
    moved: Lease = replace(world.lease, **change)  # type: ignore[arg-type]
    world.lease = moved
    with pytest.raises(Refused, match="doesn't hold the lease any more"):
        serve_again(world.process(), OLD)
    assert not world.actions


def test_a_copy_is_not_its_own_data(tmp_path: Path) -> None:
    world = stopped(tmp_path)
    world.hosts[OLD].live_epoch = None
    with pytest.raises(Refused, match="isn't that of epoch 1"):
        serve_again(world.process(), OLD)
    assert not world.actions
