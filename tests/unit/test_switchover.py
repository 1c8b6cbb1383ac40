"""Switchover: the other host starts only behind the proof that the vault has all of the first one's data."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from lifeline.errors import Refused, StepFailed, Unavailable
from runbooks.switchover import hand_over, switchover
from tests.unit.world import NEW, OLD, FakeRemote, HostState, Killed, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.mute = 0  # nothing ails it
    return made


def run(world: World) -> str:
    site = world.process()
    switchover(site, yes=True)
    assert isinstance(site.out, StringIO)
    return site.out.getvalue()


def test_in_order_nobody_loses_power(world: World) -> None:
    assert "its last transactions are in the vault" in run(world)
    assert world.hosts[NEW].role == "primary" and world.actions["power-off"] == 0


def test_one_that_stopped_before_proves_nothing_by_having_stopped(world: World) -> None:
    """Its stop ended unproved and nobody heard it, or it fenced itself: the vault may lack its last writes."""
    world.hosts[OLD] = HostState("none", 1, live_epoch=1)
    with pytest.raises(Refused, match="whether the vault has its last writes isn't known") as caught:
        run(world)
    assert "fab provision" in caught.value.hint and "fab failover" in caught.value.hint
    assert not world.actions and world.lease is not None and not world.lease.released


def test_what_doesnt_reach_the_vault_is_served_on(world: World) -> None:
    world.down.add("vault")
    with pytest.raises(StepFailed, match=f"{OLD} serves again"):
        run(world)
    assert world.hosts[OLD].role == "primary" and world.lease is not None and world.lease.holder == OLD


def test_an_answer_that_got_lost_is_no_proof(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: FakeRemote, state: HostState, epoch: int) -> dict[str, Any]:
        self._stop_service(state, 0)
        raise Unavailable("lost the connection")

    monkeypatch.setattr(FakeRemote, "_leave", lost)
    with pytest.raises(Unavailable, match="whether the vault has its last writes isn't known") as caught:
        run(world)
    assert "fab provision" in caught.value.hint
    assert "release" not in world.actions and world.hosts[NEW].role == "standby"


def test_a_lease_that_was_given_back_is_its_word_and_is_gone_on_with(world: World) -> None:
    world.crash_after = 2
    with pytest.raises(Killed):
        run(world)
    assert list(world.actions) == ["stop-service", "release"]
    world.crash_after = None
    run(world)
    assert world.actions["stop-service"] == 1 and world.hosts[NEW].role == "primary"


def test_a_primary_in_trouble_leaves_even_what_it_cant_bring_out(world: World) -> None:
    """By itself: to go on serving would not bring it into the vault either."""
    world.down.add("vault")
    site = world.process()
    hand_over(site, OLD, "three failed trades")
    assert world.lease is not None and world.lease.released
    assert isinstance(site.out, StringIO) and "not proved to be in the vault" in site.out.getvalue()
