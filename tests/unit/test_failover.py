"""Failover against a fake world: order, refusals, waivers, and a kill after every action in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from lifeline.errors import (
    BadConfig,
    BadInput,
    DataBad,
    LifelineError,
    NotDone,
    Refused,
    StepFailed,
    Unavailable,
    Unproven,
)
from lifeline.journal import read_lines
from lifeline.model import Finding
from runbooks import failover as runbook
from runbooks.dns import dns
from runbooks.failover import failover, prepare
from runbooks.reprotect import reprotect
from tests.unit.world import NEW, OLD, FakeOutside, FakeRemote, HostState, Killed, World

ACTIONS = ["lease", "power-off", "finalize", "start-primary", "record"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def run(world: World, target: str | None = None, **options: Any) -> str:
    """One operator's process; what it said."""
    site = world.process()
    failover(site, target, **{"yes": True, **options})
    assert isinstance(site.out, StringIO)
    return site.out.getvalue()


def policy(world: World, *required: str) -> None:
    world.inventory = replace(world.inventory, policy=replace(world.inventory.policy, fence_required=required))


def test_the_standby_becomes_primary(world: World) -> None:
    said = run(world)
    assert list(world.actions) == ACTIONS and set(world.actions.values()) == {1}
    assert world.lease is not None and (world.lease.holder, world.lease.epoch) == (NEW, 2)
    assert world.hosts[NEW].role == "primary" and world.address == "198.18.2.10"
    assert f"{NEW} is primary of genesis, epoch 2" in said
    assert f"THERE IS NO STANDBY: {OLD} is off" in said and "next: fab reprotect" in said


def test_the_old_primary_is_never_spoken_to(world: World) -> None:
    run(world)
    assert OLD not in world.asked


def test_an_answer_that_isnt_there_in_time_saves_no_primary(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def answers(*_: object) -> Finding:
        over.wait(10)
        return Finding.passed("200", address="198.18.1.10")

    monkeypatch.setattr("runbooks.failover.SERVES_WITHIN_S", 0.1)
    monkeypatch.setattr(FakeOutside, "answers_at", answers)
    _, promotion = prepare(world.process(), None, frozenset(), "failover")
    over.set()
    assert promotion.new.name == NEW


def test_it_works_with_the_old_droplet_off_or_gone(world: World) -> None:
    world.power["1"] = "off"
    run(world)
    assert world.actions["power-off"] == 0 and world.address == "198.18.2.10"


def test_a_rebuilt_old_primary_is_fenced_under_its_new_id(world: World) -> None:
    del world.power["1"]
    world.power["77"] = "active"
    run(world)
    assert world.power["77"] == "off"


class Tripwire:
    """A door that kills the process before its n-th call, counted over all doors of a run."""

    def __init__(self, door: Any, calls: list[str], fatal: int | None) -> None:
        self._door, self._calls, self._fatal = door, calls, fatal

    def __getitem__(self, name: str) -> Tripwire:
        return Tripwire(self._door[name], self._calls, self._fatal)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._door, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self._calls.append(name)
            if len(self._calls) == self._fatal:
                raise Killed(name)
            return found(*arguments, **options)

        return call


def run_until(world: World, fatal: int | None) -> list[str]:
    """One operator's process that dies before its call number ``fatal``; all calls it made."""
    site, calls = world.process(), list[str]()
    for door in ("hosts", "cloud", "leases", "vault", "outside"):
        setattr(site, door, Tripwire(getattr(site, door), calls, fatal))
    failover(site, yes=True)
    return calls


def test_killed_before_any_call_whatever_it_resumes(tmp_path: Path) -> None:
    """Not only between actions: kill -9 comes at any time, also while it looks."""
    calls = run_until(World(tmp_path / "whole"), None)
    assert len(calls) > 15 and calls[-1] == "put"  # the journal to the vault, when all is done
    for fatal in range(1, len(calls)):
        world = World(tmp_path / str(fatal))
        with pytest.raises(Killed):
            run_until(world, fatal)
        run(world)
        assert dict(world.actions) == dict.fromkeys(ACTIONS, 1), f"killed before call {fatal}, {calls[fatal - 1]}"
        assert world.lease is not None and (world.lease.holder, world.lease.epoch) == (NEW, 2)
        assert world.hosts[NEW].role == "primary" and world.address == "198.18.2.10"


@pytest.mark.parametrize("crash_after", range(1, len(ACTIONS) + 1))
def test_killed_after_any_action_it_resumes_without_repeating_it(world: World, crash_after: int) -> None:
    world.crash_after = crash_after
    with pytest.raises(Killed):
        run(world)
    assert list(world.actions) == ACTIONS[:crash_after]
    world.crash_after = None
    run(world)  # no --target: it must not turn back to the dead primary
    assert dict(world.actions) == dict.fromkeys(ACTIONS, 1)
    assert world.lease is not None and (world.lease.holder, world.lease.epoch) == (NEW, 2)
    assert world.address == "198.18.2.10"


def test_resumed_after_the_new_primary_has_served_and_stopped_it_goes_on_with_what_that_wrote(world: World) -> None:
    world.crash_after = 4
    with pytest.raises(Killed):
        run(world)
    assert list(world.actions)[-1] == "start-primary"
    world.crash_after, world.hosts[NEW].role = None, "none"
    run(world)
    assert world.actions["finalize"] == 1 and world.actions["start-primary"] == 2 and world.hosts[NEW].role == "primary"


def test_what_has_not_agreed_with_the_world_outside_is_not_started_yet(world: World) -> None:
    world.crash_after = 4
    with pytest.raises(Killed):
        run(world)
    world.crash_after, world.hosts[NEW].reconciled = None, False
    run(world)
    assert world.actions["start-primary"] == 2 and world.hosts[NEW].reconciled and world.actions["record"] == 1


@pytest.mark.parametrize("crash_after", range(1, len(ACTIONS)))
def test_killed_it_is_resumed_from_another_keyboard_too(world: World, tmp_path: Path, crash_after: int) -> None:
    """Until it serves, the world itself says that a failover is under way; no journal is needed. Then only the name is
    left, and that could be a hand that slipped."""
    world.crash_after = crash_after
    with pytest.raises(Killed):
        run(world)
    world.crash_after, world.root = None, tmp_path / "elsewhere"
    if world.hosts[NEW].role == "primary":
        with pytest.raises(Refused, match=f"only traffic points at {OLD}") as caught:
            run(world)
        assert caught.value.hint == "fab dns"
        dns(world.process(), yes=True)
    else:
        run(world)
    assert dict(world.actions) == dict.fromkeys(ACTIONS, 1)


def came_through_in_substance(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failover whose last proof couldn't be had; `fab reprotect` mended the rest, and its journal stays open."""
    with monkeypatch.context() as patch:
        patch.setattr(FakeOutside, "round_trips", lambda *_: Finding.failed("the name can't be resolved from here"))
        with pytest.raises(StepFailed):
            run(world)
    reprotect(world.process(), yes=True)
    assert world.power["1"] == "active" and world.hosts[OLD].role == "standby"
    world.actions.clear()


def test_weeks_later_an_open_journal_keeps_nobody_at_a_dead_primary(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    came_through_in_substance(world, monkeypatch)
    world.power["2"] = "off"
    run(world)
    assert world.lease is not None and (world.lease.holder, world.lease.epoch) == (OLD, 3)
    assert world.hosts[OLD].role == "primary"


@pytest.mark.parametrize("target", [None, NEW])
def test_weeks_later_an_open_journal_cuts_no_standby_off(
    world: World, monkeypatch: pytest.MonkeyPatch, target: str | None
) -> None:
    """The primary's users get nothing, and it answers all the same."""
    came_through_in_substance(world, monkeypatch)
    world.mute = 2
    run(world, target)
    assert world.power["1"] == "active"
    assert world.lease is not None and world.lease.holder == (target or OLD)


def test_a_resume_fences_no_standby_of_its_own_epoch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new primary stopped itself meanwhile."""
    came_through_in_substance(world, monkeypatch)
    world.hosts[NEW].role = "none"
    run(world, NEW)
    assert world.power["1"] == "active" and world.hosts[NEW].role == "primary"


def test_half_done_to_a_host_that_is_lost_too_it_names_the_way_out(world: World) -> None:
    world.crash_after = 2
    with pytest.raises(Killed):
        run(world)
    world.crash_after, world.power["2"] = None, "off"
    with pytest.raises(Unavailable, match=f"{NEW} can't take over") as caught:
        run(world)
    assert f"fab failover --target {OLD}" in caught.value.hint


@pytest.mark.parametrize(
    ("address", "hint"), [("198.18.2.10", "fab dns"), ("203.0.113.99", "if only the name leads elsewhere: fab dns")]
)
def test_a_name_that_leads_elsewhere_costs_no_healthy_host_its_power(world: World, address: str, hint: str) -> None:
    assert world.lease is not None
    world.mute, world.address, world.lease = 0, address, replace(world.lease, taken_by="operator:ada")
    for target in (None, NEW) if "203" in address else (None, OLD):
        with pytest.raises(Refused) as caught:
            run(world, target)
        assert hint in caught.value.hint
    assert not world.actions


def test_a_name_that_leads_elsewhere_saves_no_primary_that_hangs(world: World) -> None:
    world.address = "203.0.113.99"
    run(world)
    assert world.lease is not None and world.lease.holder == NEW


@pytest.mark.parametrize("first", range(1, len(ACTIONS) + 1))
def test_killed_twice(world: World, first: int) -> None:
    for crash in (first, first + 1):
        world.crash_after = crash
        try:
            run(world)
        except Killed:
            continue
    world.crash_after = None
    if world.address != "198.18.2.10":
        run(world)
    assert dict(world.actions) == dict.fromkeys(ACTIONS, 1)


def test_a_finished_failover_is_not_repeated(world: World) -> None:
    run(world)
    with pytest.raises(Refused, match=f"{NEW} is primary already"):
        run(world, NEW)
    assert dict(world.actions) == dict.fromkeys(ACTIONS, 1)


def test_the_way_back_is_refused_while_the_old_primary_is_off(world: World) -> None:
    run(world)
    with pytest.raises(Unavailable, match=f"{OLD} can't take over"):
        run(world)
    assert world.lease is not None and world.lease.epoch == 2


def given_back(world: World) -> None:
    """A switchover stopped the primary in order, and the other host is lost before it takes over."""
    assert world.lease is not None
    world.lease = replace(world.lease, ttl_s=0.0)
    world.hosts[OLD] = HostState("none", 1, live_epoch=1)
    world.hosts[NEW].reachable = False


def test_what_was_given_back_its_last_holder_serves_again_when_the_other_host_is_lost(world: World) -> None:
    given_back(world)
    with pytest.raises(Unavailable, match=f"{NEW} can't take over") as caught:
        run(world)
    assert f"fab failover --target {OLD}" in caught.value.hint and not world.actions
    said = run(world, OLD)
    assert f"{OLD} gave the lease back itself, and nobody took it" in said and "power off" not in said
    assert world.lease is not None and (world.lease.holder, world.lease.epoch) == (OLD, 2)
    assert world.hosts[OLD].role == "primary" and world.address == "198.18.1.10"
    assert world.actions["power-off"] == 0  # nobody else had the lease: there is nobody to fence


@pytest.mark.parametrize("crash_after", [1, 2, 3])
def test_killed_on_that_way_it_is_gone_on_with(world: World, crash_after: int) -> None:
    given_back(world)
    world.crash_after = crash_after
    with pytest.raises(Killed):
        run(world, OLD)
    world.crash_after = None
    run(world, OLD)
    assert dict(world.actions) == dict.fromkeys(["lease", "finalize", "start-primary"], 1)
    assert world.lease is not None and (world.lease.holder, world.lease.epoch) == (OLD, 2)


def test_a_last_holder_without_its_data_is_no_better_than_any_other(world: World) -> None:
    given_back(world)
    world.hosts[OLD].live_epoch = None
    with pytest.raises(Refused, match="is no standby"):
        run(world, OLD)
    assert not world.actions


Spoil = Callable[[World], object]
REFUSALS: dict[str, tuple[Spoil, str | None, type[LifelineError], str]] = {
    "unknown target": (lambda w: None, "paris", BadInput, "hosts: primary-newyork, backup-singapore"),
    "primary already": (lambda w: None, OLD, Refused, "primary already"),
    "lease store down": (lambda w: w.down.add("lease"), None, Unavailable, "lease is down"),
    "standby down": (lambda w: setattr(w.hosts[NEW], "reachable", False), None, Unavailable, "can't be reached"),
    "standby lags": (lambda w: setattr(w.hosts[NEW], "lag_s", 90.0), None, Refused, "--waive standby-lag"),
    "lag not known": (lambda w: setattr(w.hosts[NEW], "lag_s", None), None, Unproven, "--waive standby-lag"),
    "follower stalled": (lambda w: setattr(w.hosts[NEW], "stalled", True), None, Refused, "--waive standby-lag"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_before_anything_is_touched(world: World, case: str) -> None:
    spoil, target, error, says = REFUSALS[case]
    spoil(world)
    with pytest.raises(error, match=says):
        run(world, target)
    assert not world.actions


def test_an_unprovable_fence_stops_before_the_data_is_touched(world: World) -> None:
    world.down.add("cloud")
    with pytest.raises(Unproven, match="--waive unfenced-primary") as caught:
        run(world)
    assert caught.value.exit_code == 5
    assert list(world.actions) == ["lease"]
    assert world.hosts[NEW] == HostState("standby", 1, following=True)


@pytest.mark.parametrize("rung", ["power-off", "firewall"])
def test_to_the_token_of_another_account_everything_is_absent_and_that_proves_nothing(
    world: World, rung: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy(world, rung)
    world.down.add("account")
    with pytest.raises(Refused, match=r"another account's.* nothing was touched"):
        run(world)
    assert not world.actions
    monkeypatch.setattr(runbook, "_another_accounts", lambda site: False)  # it is exchanged meanwhile
    with pytest.raises(Unproven, match="another account's") as caught:
        run(world)
    assert caught.value.exit_code == 5 and list(world.actions) == ["lease"]
    assert world.power == {"1": "active", "2": "active"} and world.hosts[NEW].role == "standby"


def test_the_fence_can_be_waived_and_the_journal_keeps_it(world: World) -> None:
    world.down.add("cloud")
    world.fence_waived = True
    with pytest.raises(Unproven, match="--waive traffic"):
        run(world, waive=("unfenced-primary",))
    lines = read_lines(next((world.root / ".lifeline/lab/journal").iterdir()))
    fenced = next(line for line in lines if "fenced" in line["step"])
    assert (fenced["verdict"], fenced["waiver"]) == ("UNKNOWN", "unfenced-primary")
    assert world.hosts[NEW].role == "primary"


def test_with_the_cloud_down_the_self_fence_window_suffices_where_policy_says_so(world: World) -> None:
    policy(world, "power-off", "self-fence")
    world.down.add("cloud")
    with pytest.raises(Unproven, match="--waive traffic"):
        run(world)
    assert world.clock.now >= 35 and world.hosts[NEW].role == "primary"


def test_the_window_is_waited_for_in_full_again_after_a_kill(world: World) -> None:
    policy(world, "self-fence")
    world.crash_after = 1
    with pytest.raises(Killed):
        run(world)
    world.crash_after = None
    begun = world.clock.now
    run(world)
    assert world.clock.now - begun >= 35  # another process saw nothing of the first one's clock


def test_a_key_is_a_fence_only_when_a_write_with_it_was_refused(world: World) -> None:
    policy(world, "vault-key+self-fence")
    run(world)
    assert world.actions["key"] == 1 and world.actions["power-off"] == 0 and world.clock.now >= 35
    # The old primary still runs, so it becomes the standby.
    assert world.actions["start-standby"] == 1 and world.hosts[OLD].role == "standby"


KEY_ACTIONS = ["lease", "key", "finalize", "start-primary", "record", "start-standby"]


@pytest.mark.parametrize("crash_after", range(1, len(KEY_ACTIONS) + 1))
def test_killed_after_any_action_of_the_other_ladder(world: World, crash_after: int) -> None:
    policy(world, "vault-key+self-fence")
    world.crash_after = crash_after
    with pytest.raises(Killed):
        run(world)
    world.crash_after = None
    if world.hosts[OLD].role == "standby":  # it has come through: nothing is left to do
        with pytest.raises(Refused, match="answers its users"):
            run(world)
    else:
        run(world)
    assert dict(world.actions) == dict.fromkeys(KEY_ACTIONS, 1)


@pytest.mark.parametrize("held_ttl_s", [300, 5])
def test_the_self_fence_window_is_that_of_the_lease_that_was_held(world: World, held_ttl_s: float) -> None:
    """Policy was changed since: the old primary stops itself by the lease it has, nobody told it of another."""
    policy(world, "self-fence")
    assert world.lease is not None
    world.lease = replace(world.lease, ttl_s=held_ttl_s)
    run(world)
    assert world.clock.now >= max(held_ttl_s + 5, 35)


def test_a_host_that_cant_reach_the_vault_stops_the_run_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is the end of it: to wait half an hour for data that nobody is bringing helps nobody."""

    def finalize(*_: object) -> None:
        raise NotDone(f"{NEW}: the vault doesn't answer")

    monkeypatch.setattr(FakeRemote, "_finalize", finalize)
    with pytest.raises(Unavailable, match="vault doesn't answer"):
        run(world)
    assert world.clock.now < 60 and "start-primary" not in world.actions
    monkeypatch.undo()
    run(world)
    assert world.hosts[NEW].role == "primary"


def test_bad_data_is_not_served(world: World) -> None:
    world.bad_data = True
    with pytest.raises(DataBad, match="debits equal credits"):
        run(world)
    assert list(world.actions) == ["lease", "power-off", "finalize"] and world.address == "198.18.1.10"


def test_somebody_elses_take_over_stops_ours(world: World) -> None:
    site = world.process()

    def meanwhile(_: str) -> str:
        assert world.lease is not None
        world.lease = replace(world.lease, holder=OLD, epoch=2, taken_by="operator:eve")
        return "yes"

    with pytest.raises(Refused):
        failover(site, ask=meanwhile)
    assert world.actions["power-off"] == 0


def test_it_asks_and_says_what_it_destroys(world: World) -> None:
    site, asked = world.process(), list[str]()

    def no(question: str) -> str:
        asked.append(question)
        return "n"

    with pytest.raises(Refused, match="nothing was changed"):
        failover(site, ask=no)
    assert asked and not world.actions
    assert isinstance(site.out, StringIO) and "power off primary-newyork (droplet 1)" in site.out.getvalue()


def test_a_dry_run_shows_the_plan_and_changes_nothing(world: World) -> None:
    said = run(world, dry_run=True)
    assert not world.actions and not (world.root / ".lifeline").exists()
    assert f"now:   not so: power-off: {OLD} (droplet 1) is active" in said
    assert "would: power off primary-newyork (droplet 1)" in said and "nothing was changed" in said


def test_the_journal_is_in_the_vault_without_secrets(world: World) -> None:
    run(world)
    ((key, body),) = world.vault.items()
    assert key.startswith("journal/") and b'"run finished"' in body and b"secret-" not in body


def test_a_vault_that_is_down_does_not_fail_the_run(world: World) -> None:
    world.down.add("vault")
    assert "could not be copied to the vault" in run(world)


def test_unknown_waivers_are_refused(world: World) -> None:
    with pytest.raises(BadInput, match="unfenced-primary"):
        run(world, waive=("everything",))


def test_a_missing_key_of_ours_is_not_blamed_on_the_target(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def keyless(*_: object, **__: object) -> None:
        raise BadConfig("no SSH key", hint="export LIFELINE_SSH_KEY=…")

    monkeypatch.setattr(FakeRemote, "verb", keyless)
    with pytest.raises(BadConfig, match=r"^no SSH key"):
        run(world)
    assert not world.actions


def test_a_refused_token_is_told_before_the_lease_is_taken(world: World) -> None:
    world.down.add("token")
    with pytest.raises(Refused, match=r"nothing was touched .*--waive unfenced-primary"):
        run(world)
    assert not world.actions and world.lease is not None and world.lease.holder == OLD


@pytest.mark.parametrize(
    ("required", "waive"),
    [(["power-off"], ("unfenced-primary", "traffic")), (["power-off", "self-fence"], ("traffic",))],
)
def test_a_refused_token_stops_nobody_who_can_do_without(
    world: World, required: list[str], waive: tuple[str, ...]
) -> None:
    policy(world, *required)
    world.down.add("token")
    world.fence_waived = "unfenced-primary" in waive
    run(world, waive=waive)
    assert world.lease is not None and world.lease.holder == NEW and world.hosts[NEW].role == "primary"
