"""Never two primaries, never a promotion without lease, fence and final data, always progress: random sequences of
failures through a model of both hosts (pairmodel.py). A failure prints the seed it began with and what happened."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lifeline.fence import Judgement, Known, judge
from lifeline.layout import RoleFile
from runbooks.fence import Fence
from tests.unit.pairmodel import OTHER, PLACES, A, B, Violation, World

pytestmark = pytest.mark.usefixtures("quiet")
SEEDS = int(os.environ.get("LIFELINE_SEEDS", "6"))
EVENTS = 40
LASTING = ["cloud", "lease", f"{A} | lease", f"{B} | lease", f"{A} | {B}"]  # some of it for a whole sequence
PAIRS = [(A, B), *((host, place) for host in (A, B) for place in PLACES)]


@pytest.fixture
def quiet() -> Iterator[None]:
    """What agents log by the thousand lines is in the world's own history, if it is needed."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def happen(world: World, draw: random.Random) -> str:
    """One more thing."""
    host, (one, other) = draw.choice((A, B)), draw.choice(PAIRS)
    node, wire = world.hosts[host], frozenset((one, other))
    events: dict[str, Callable[[], object]] = {
        f"{host}: power cut": lambda: world.power(host, False),
        f"{host}: power back": lambda: world.power(host, True),
        f"{host}: frozen": lambda: setattr(node, "frozen", True),
        f"{host}: thawed": lambda: setattr(node, "frozen", False),
        f"{host}: its agent stops": lambda: setattr(node, "agent_stopped", True),
        f"{host}: its agent is killed": lambda: node.start_agent() if node.answers else None,
        f"{host}: its pilot is killed": lambda: setattr(node, "pilot", None) if not node.pilot else node.pilot.die(),
        f"{host}: its date jumps": lambda: setattr(node, "skew_s", draw.choice((-1e6, -400.0, 400.0, 1e6))),
        f"{host}: its date is right": lambda: setattr(node, "skew_s", 0.0),
        f"{host}: its service is in trouble": lambda: setattr(node, "trouble", "three failed trades"),
        f"{host}: its service is well": lambda: setattr(node, "trouble", ""),
        f"{one} | {other}": lambda: world.wires.cut.add(wire),
        f"{one} - {other}": lambda: world.wires.cut.discard(wire),
        "all wires whole": world.wires.cut.clear,
        f"{draw.choice(PLACES)} away": lambda: world.down.add(draw.choice(PLACES)),
        "all places there": world.down.clear,
        "answers get lost": lambda: setattr(world, "lossy", True),
        "answers arrive": lambda: setattr(world, "lossy", False),
        "fab pause": lambda: world.set_mode("paused", draw.choice((5.0, 60.0))),
        "fab resume": lambda: world.set_mode("automatic"),
        f"fab failover --target {host}": lambda: world.failover(host),
    }
    what = draw.choice(list(events))
    world.tell(what)
    events[what]()
    return what


def heal(world: World) -> None:
    """Everything works again, and nobody sits at the keyboard."""
    world.tell("all is healed")
    world.wires.cut.clear()
    world.down.clear()
    world.lossy = False
    world.set_mode("automatic")
    for name, node in world.hosts.items():
        world.power(name, True)
        node.frozen, node.skew_s, node.trouble, node.operator = False, 0.0, "", None


def until(world: World, condition: Callable[[], bool], within_s: float, what: str) -> None:
    end = world.now + within_s
    while not condition():
        if world.now >= end:
            raise Violation(f"not within {within_s:g} s: {what}: {world.history()} {world.state()}")
        world.run(1)


def paired(world: World) -> bool:
    """One serves, the other one follows it; an operator powers on what a fence has powered off, and
    goes on with his own failover."""
    for name in world.hosts:
        world.power(name, True)
    world.go_on()
    serving = world.serving()
    return serving is not None and world.follows(OTHER[serving])


def chaos(root: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> World:
    draw = random.Random(seed)
    world = World(root, seed, monkeypatch)
    lasting = draw.sample(LASTING, draw.choice((0, 1, 2)))
    for _ in range(EVENTS):
        happen(world, draw)
        for party in lasting:
            world.down.add(party) if party in PLACES else world.wires.cut.add(frozenset(party.split(" | ")))
        world.run(draw.choice((0.5, 2, 5, 16)))
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happens_there_are_never_two_and_in_the_end_there_is_one(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = chaos(tmp_path, seed, monkeypatch)
    heal(world)
    until(world, lambda: paired(world), 400, "a primary and a standby")
    world.run(10)  # until each has seen the lease as it is now: a standby that didn't gives no word
    lost = world.random.choice((A, B, "lease"))
    world.tell(f"{lost} is lost")
    if lost == "lease":
        world.down.add(lost)
    else:
        world.power(lost, False)
    until(world, lambda: world.serving() is not None, 90, f"two of three work ({lost} doesn't), and nobody serves")
    world.run(30)
    assert world.serving() is not None, world.history()


# -- the model finds what it looks for: each guard, taken away, is missed in the story that needs it


def hasty_operator(world: World) -> None:
    """The primary lives and doesn't hear that it was deposed: only the window keeps another from starting beside it."""
    world.down.add("cloud")
    for other in (B, "lease"):
        world.wires.cut.add(frozenset((A, other)))
    world.failover(B)
    world.run(40)


def lonely_primary(world: World) -> None:
    """It reaches neither lease store nor standby; its clients reach it."""
    world.down.add("cloud")
    for other in (B, "lease"):
        world.wires.cut.add(frozenset((A, other)))
    world.run(60)


def flapping_store(world: World) -> None:
    """The standby reads the lease store now and then, and gives its word when it can't; the primary lives on that."""
    world.down.add("cloud")
    world.wires.cut.add(frozenset((A, "lease")))
    for _ in range(4):
        world.wires.cut.add(frozenset((B, "lease")))
        world.run(3)
        world.wires.cut.discard(frozenset((B, "lease")))
        world.wires.cut.add(frozenset((A, B)))
        world.run(7)
        world.wires.cut.discard(frozenset((A, B)))


def lost_primary(world: World) -> None:
    world.power(A, False)
    world.run(60)


def no_window(patch: pytest.MonkeyPatch) -> None:
    """The taker doesn't wait until the old primary has stopped itself."""
    patch.setattr(Fence, "window_s", property(lambda _: -1e9))


def no_self_fence(patch: pytest.MonkeyPatch) -> None:
    """A primary goes on when it can't renew, and its deadman sleeps."""

    def judged(role: RoleFile, me: str, known: Known, now: float) -> Judgement:
        return judge(role, me, known if known.lease is None else Known(known.lease, now + 1), now)

    patch.setattr("lifeline.agent.judge", judged)
    patch.setattr("tests.unit.pairmodel.due", lambda run, now: False)


def no_word(patch: pytest.MonkeyPatch) -> None:
    """The standby forgets its word."""
    patch.setattr("lifeline.failsafe.Promises.left_s", lambda self: 0.0)


def no_final_data(patch: pytest.MonkeyPatch) -> None:
    """A host is promoted on the copy it has."""
    patch.setattr("tests.unit.pairmodel.Node.finalize", lambda self, end: None)


@pytest.mark.parametrize(
    ("story", "mutate", "what"),
    [
        (hasty_operator, no_window, "is promoted beside"),
        (lonely_primary, no_self_fence, "is promoted beside"),
        (flapping_store, no_word, "is promoted beside"),
        (lost_primary, no_final_data, "is promoted without"),
    ],
)
def test_a_guard_that_is_taken_away_is_missed(
    tmp_path: Path,
    story: Callable[[World], None],
    mutate: Callable[[pytest.MonkeyPatch], None],
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    story(World(tmp_path / "as it is", 1, monkeypatch))
    mutate(monkeypatch)
    with pytest.raises(Violation, match=what):
        story(World(tmp_path / "without it", 1, monkeypatch))
