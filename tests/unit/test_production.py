"""A drill in production: what is asked, what a stranger's writes prove, and what the report says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lab import stranger
from lab.production import production
from lab.stranger import Ack, Measured, acknowledged, measure
from lifeline import duties
from lifeline.errors import Refused, Unavailable, Unproven
from lifeline.model import Finding
from lifeline.service import Service
from tests.unit.world import NEW, OLD, FakeOutside, World

AT_OLD, AT_NEW = "198.18.1.10", "198.18.2.10"


def acks(*told: tuple[float, str]) -> list[Ack]:
    return [Ack(at, address, f"m{at:g}", whole=True) for at, address in told]


def all_there(marks: Sequence[str]) -> dict[str, bool | None]:
    return dict.fromkeys(marks, True)


def test_the_outage_is_from_the_last_write_there_to_the_first_one_elsewhere_that_was_read_back() -> None:
    found = measure(
        [*acks((1, AT_OLD), (2, AT_OLD)), Ack(5, AT_NEW, "torn", whole=False), *acks((6, AT_NEW))], AT_OLD, all_there
    )
    assert (found.outage_s, found.lost, found.rpo_s, found.last) == (4, 0, 0, AT_NEW)


@pytest.mark.parametrize(
    ("gone", "lost", "rpo_s"),
    [
        ({"m2": False}, 1, 1.0),
        ({"m1": False, "m2": False}, 2, 2.0),
        ({"m2": None}, None, None),
        ({"m1": None, "m2": False}, 1, 1.0),  # that one is lost is known, whatever else is
    ],
)
def test_what_can_not_be_read_any_more_is_lost_and_what_was_not_answered_is_not_known(
    gone: dict[str, bool | None], lost: int | None, rpo_s: float | None
) -> None:
    found = measure(acks((1, AT_OLD), (2, AT_OLD), (3, AT_OLD), (9, AT_NEW)), AT_OLD, lambda m: all_there(m) | gone)
    assert (found.lost, found.rpo_s) == (lost, rpo_s)


def test_a_name_that_never_led_elsewhere_has_no_end_of_the_outage_and_none_was_measured_without_writes() -> None:
    assert measure(acks((1, AT_OLD), (2, AT_OLD)), AT_OLD, all_there).outage_s is None
    assert measure([], AT_OLD, all_there) == Measured(None, (), None, None, "")


def test_a_write_that_was_acknowledged_and_not_read_back_counts_as_owed() -> None:
    seen = {"address": AT_OLD, "mark": "m"}
    assert acknowledged(Finding.passed("", **seen), 1.0) == Ack(1.0, AT_OLD, "m", whole=True)
    assert acknowledged(Finding.failed("", **seen, acknowledged=True), 1.0) == Ack(1.0, AT_OLD, "m", whole=False)
    assert acknowledged(Finding.failed("", **seen), 1.0) is None


class Marked(FakeOutside):
    """A stranger whose writes are kept, but for those that ``loses`` says."""

    def __init__(self, world: World, loses: Callable[[str], bool | None]) -> None:
        super().__init__(world)
        self.count, self.loses = 0, loses

    def round_trips(self, service: Service) -> Finding:
        found = super().round_trips(service)
        self.count += 1
        return replace(found, evidence={**found.evidence, "mark": f"mark-{self.count}"})

    def still_has(self, service: Service, marks: Sequence[str]) -> dict[str, bool | None]:
        return {mark: self.loses(mark) for mark in marks}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(stranger, "EVERY_S", 0.005)
    monkeypatch.setattr(stranger, "FIRST_S", 0.5)
    monkeypatch.setattr(stranger, "vaults", lambda inventory: None)

    def away(*_: object) -> None:
        raise Unavailable("the vault is away")

    monkeypatch.setattr(stranger, "seal", away)
    return World(tmp_path)


def held(
    world: World, *answers: str, loses: Callable[[str], bool | None] = lambda mark: True
) -> tuple[dict[str, object], int, list[str]]:
    """(report, exit code, what was asked)."""
    site, asked, given = world.process(), [], iter(answers)
    site.outside = Marked(world, loses)

    def ask(text: str) -> str:
        asked.append(text)
        return next(given)

    folder, code = production(site, ask)
    return json.loads((folder / "report.json").read_text()), code, asked


def test_it_asks_twice_moves_and_reports(world: World) -> None:
    stack = world.inventory.stack
    report, code, asked = held(world, stack, "yes")
    assert (code, report["verdict"]) == (0, "PASS")
    assert stack in asked[0] and "yes" in asked[1]
    assert world.hosts[NEW].role == "primary"
    assert report["primary"] == {"before": OLD, "after": [NEW]}
    assert duties.of_report(report).scenario in duties.CALENDAR[1].scenarios
    assert any(step["name"].startswith("old primary") for step in report["steps"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("answers", [("another",), ("", "yes"), ("STACK", "no")])
def test_without_both_answers_nothing_is_touched_and_nothing_is_on_record(
    world: World, answers: tuple[str, ...]
) -> None:
    first, *rest = answers
    with pytest.raises(Refused, match="not confirmed"):
        held(world, world.inventory.stack if rest == ["no"] else first, *rest)
    assert not world.actions and not (world.root / "drills").exists()


def test_where_users_do_not_get_through_it_is_no_drill(world: World) -> None:
    world.address = "198.18.9.9"
    with pytest.raises(Refused, match="an incident, not a drill"):
        held(world, world.inventory.stack)
    assert not world.actions


@pytest.mark.parametrize(("there", "verdict", "code"), [(False, "FAIL", 6), (None, "UNKNOWN", 5)])
def test_a_write_that_is_gone_fails_it_and_one_that_can_not_be_asked_for_leaves_it_unknown(
    world: World, there: bool | None, verdict: str, code: int
) -> None:
    report, found, _ = held(world, world.inventory.stack, "yes", loses=lambda mark: there)
    assert (report["verdict"], found) == (verdict, code)


def test_a_runbook_that_broke_off_is_on_record_with_its_own_exit_code(world: World) -> None:
    def answers() -> Iterator[str]:
        yield world.inventory.stack
        world.down.add("lease")
        yield "yes"

    site, given = world.process(), answers()
    site.outside = Marked(world, lambda mark: True)
    folder, code = production(site, lambda text: next(given))
    report = json.loads((folder / "report.json").read_text())
    assert (report["verdict"], code) == ("FAIL", Unproven.exit_code)
    assert any("lease is down" in reason for reason in report["reasons"])
