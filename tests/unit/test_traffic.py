"""The record: what is told before it is moved, how it is moved without the provider's API, what caches make of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from lifeline.cloud import NAME_SERVERS
from lifeline.errors import BadInput, LifelineError, Refused, StepFailed, Unavailable, Unproven
from lifeline.journal import read_lines
from lifeline.model import SecondName, Verdict
from runbooks.dns import dns
from runbooks.failover import failover
from runbooks.traffic import Traffic, as_declared
from tests.unit.world import NEW, OLD, FakeCloud, World

HERE, THERE = "198.18.1.10", "198.18.2.10"
GOOD, BAD = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def well(world: World) -> World:
    """Its primary answers its users, as one does where nobody fails over."""
    world.mute = 0
    return world


def traffic(world: World) -> Traffic:
    return Traffic(world.process(), world.inventory.host(NEW))


def run(world: World, verb: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """What it said."""
    site = world.process()
    verb(site, *arguments, **{"yes": True, **options})
    assert isinstance(site.out, StringIO)
    return site.out.getvalue()


# --- before ----------------------------------------------------------------------------------------------------------


def change(**fields: Any) -> Callable[[World], None]:
    def apply(world: World) -> None:
        for name, value in fields.items():
            setattr(world, name, value)

    return apply


DIFFERENCES = {
    "TTL": (change(ttl=3600), "TTL is 3600 s, the stack says 30 s: resolvers may keep the old address for 3600 s"),
    "a name server lags": (change(served={NAME_SERVERS[1]: THERE}), f"{NAME_SERVERS[1]} answers {THERE}"),
    "moved away": (
        change(delegated=("a.parked.test", "b.parked.test")),
        "none of them the provider's: moving the record will move nobody",
    ),
    "half moved away": (change(delegated=(*NAME_SERVERS, "a.parked.test")), "a.parked.test too, which the provider"),
    "forgotten": (change(delegated=()), "delegates genesis.test to nobody"),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_a_difference_is_told_with_its_meaning_and_stops_no_failover(world: World, case: str) -> None:
    apply, meaning = DIFFERENCES[case]
    apply(world)
    found = as_declared(world.process())
    assert found.verdict is Verdict.FAIL and meaning in found.says
    said = run(world, failover)
    assert meaning in said and world.address == THERE


def test_as_declared_is_told_too(world: World) -> None:
    found = as_declared(world.process())
    assert found.verdict is Verdict.PASS
    assert "198.18.1.10, TTL 30 s, at the provider and at 3 name servers, to which test delegates" in found.says


@pytest.mark.parametrize("door", ["names", "cloud"])
def test_what_can_not_be_asked_is_not_known(world: World, door: str) -> None:
    world.down.add(door)
    found = as_declared(world.process())
    assert found.verdict is Verdict.UNKNOWN and "not known" in found.says


def test_what_was_told_is_in_the_journal(world: World) -> None:
    world.ttl = 3600
    run(world, failover)
    lines = read_lines(next(world.process().journals.glob("*-failover-*.jsonl")))
    told = next(line for line in lines if line["step"] == "how the name stood is told")
    assert told["evidence"]["differences"] == [
        "the record's TTL is 3600 s, the stack says 30 s: resolvers may keep the old address for 3600 s"
    ]


# --- the provider's API is down ---------------------------------------------------------------------------------------


def without_api(world: World) -> None:
    """The old primary's plug was pulled, the operator knows, and the API went with it."""
    world.hosts[OLD].reachable = False
    world.down.add("cloud")
    world.fence_waived = True


def test_an_api_that_is_busy_for_a_moment_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers 503 to writes for four seconds: nobody has to type anything for that."""
    whole = FakeCloud.set_record

    def busy(self: FakeCloud, *arguments: Any) -> None:
        if world.clock.now < 4.0:
            raise Unavailable("503")
        whole(self, *arguments)

    monkeypatch.setattr(FakeCloud, "set_record", busy)
    run(world, failover)
    assert world.address == THERE and world.actions["record"] == 1


def test_what_to_do_by_hand_is_printed_exactly(world: World) -> None:
    without_api(world)
    with pytest.raises(Unproven) as stopped:
        run(world, failover, waive=("unfenced-primary",))
    assert "cloud is down" in stopped.value.message and "--waive traffic" in stopped.value.message
    assert "ns1.digitalocean.com answers 198.18.1.10" in stopped.value.message
    for line in (
        "set it by hand, then: fab failover ",
        'https://cloud.digitalocean.com/networking/domains/genesis.test : the A record "trade" to 198.18.2.10, TTL 30',
        "doctl compute domain records update genesis.test --record-id 123 --record-type A --record-name trade "
        "--record-data 198.18.2.10 --record-ttl 30",
        "fab failover --waive traffic",
    ):
        assert line in stopped.value.hint
    assert world.hosts[NEW].role == "primary"  # all but the name is done


def test_a_change_by_hand_is_seen_at_the_name_servers(world: World) -> None:
    without_api(world)
    with pytest.raises(Unproven):
        run(world, failover, waive=("unfenced-primary",))
    world.address = THERE
    said = run(world, failover, waive=("unfenced-primary",))
    assert "ns3.digitalocean.com answers 198.18.2.10; the cloud's API doesn't answer" in said
    assert "waived by traffic" not in said


def test_half_of_the_name_servers_are_no_proof(world: World) -> None:
    world.down.add("cloud")
    world.address = THERE
    world.served[NAME_SERVERS[2]] = HERE
    assert traffic(world).moved().verdict is Verdict.UNKNOWN


def test_with_the_names_down_too_nothing_is_known(world: World) -> None:
    world.down |= {"cloud", "names"}
    found = traffic(world).moved()
    assert found.verdict is Verdict.UNKNOWN and "cloud is down; and names is down" in found.says


def test_an_api_that_can_not_be_read_is_written_to_all_the_same(world: World) -> None:
    world.down.add("cloud")
    moving = traffic(world)
    assert moving.to_move().verdict is Verdict.FAIL
    with pytest.raises(Unavailable):
        moving.move()
    assert moving.to_move().verdict is Verdict.UNKNOWN


# --- caches ----------------------------------------------------------------------------------------------------------


def test_a_cache_is_waited_for_as_long_as_the_ttl(world: World) -> None:
    world.address = THERE
    world.kept[GOOD] = (HERE, 20.0)
    found = traffic(world).followed()
    assert found.verdict is Verdict.PASS and "3 name servers and 2 resolvers lead to 198.18.2.10" in found.says
    after = {server["server"]: server["after_s"] for server in found.evidence["servers"]}
    assert after[GOOD] == 20.0 and after[BAD] == 0.0


def test_a_bad_cache_is_told_and_not_waited_for(world: World) -> None:
    world.address = THERE
    world.kept[BAD] = (HERE, 300.0)
    found = traffic(world).followed()
    assert found.verdict is Verdict.UNKNOWN
    assert f"{BAD} keeps {HERE} for another 300 s: clients that ask there don't come to {THERE} yet" in found.says
    assert world.clock.now == 0


def test_a_dead_resolver_is_not_taken_for_one_that_followed(world: World) -> None:
    world.address = THERE
    world.down.add(GOOD)
    found = traffic(world).followed()
    assert found.verdict is Verdict.UNKNOWN and f"{GOOD} doesn't answer" in found.says
    assert world.clock.now <= 3


def test_resolvers_are_asked_when_the_name_servers_agree(world: World) -> None:
    """Before, a resolver might fetch the old address from the one that lags, and keep it."""
    world.address = THERE
    world.served[NAME_SERVERS[0]] = HERE
    moving = traffic(world)
    names = moving.site.outside.names("genesis.test")
    asked: list[float] = []
    cached = names.cached

    def noted(name: str) -> Any:
        asked.append(world.clock.now)
        return cached(name)

    names.cached = noted  # type: ignore[method-assign,assignment]
    moving.site.outside.names = lambda domain: names
    assert moving.followed().verdict is Verdict.UNKNOWN
    assert asked[0] >= 10


def test_nobody_at_the_keyboard_nobody_waits(world: World) -> None:
    world.address = THERE
    world.kept[GOOD] = (HERE, 20.0)
    moving = traffic(world)
    moving.site.attended = False
    assert moving.followed().verdict is Verdict.UNKNOWN
    assert world.clock.now == 0
    moving.waits = True  # fab dns: to see it is what was asked for
    assert moving.followed().verdict is Verdict.PASS


def test_a_failover_ends_well_whatever_a_cache_keeps(world: World) -> None:
    world.kept[BAD] = (HERE, 10_000.0)
    said = run(world, failover)
    assert f"{BAD} keeps {HERE} for another" in said and f"{NEW} is primary of genesis, epoch 2" in said
    lines = read_lines(next(world.process().journals.glob("*-failover-*.jsonl")))
    assert [line["verdict"] for line in lines[-2:]] == ["UNKNOWN", "PASS"]
    assert lines[-2]["step"] == f"resolvers lead to {NEW}"


def test_a_dry_run_asks_no_resolver(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.world.FakeNames._cached", None)
    for verb in (failover, dns):
        assert "they would keep the answer" in run(world, verb, dry_run=True)


# --- fab dns ---------------------------------------------------------------------------------------------------------


def test_the_name_is_pointed_at_the_primary_and_proved(well: World) -> None:
    well.address = THERE
    said = run(well, dns)
    assert well.address == HERE and dict(well.actions) == {"record": 1}
    assert f"trade.genesis.test leads to {OLD} ({HERE})." in said
    run(well, dns, OLD)
    assert dict(well.actions) == {"record": 1}


def test_it_never_points_at_who_does_not_hold_the_lease(world: World) -> None:
    with pytest.raises(Refused, match=f"{NEW} doesn't hold the lease, {OLD} does") as refused:
        run(world, dns, NEW)
    assert f"fab failover --target {NEW}" in refused.value.hint
    assert not world.actions


REFUSED: dict[str, tuple[Callable[[World], None], type[LifelineError]]] = {
    "no lease": (change(lease=None), Refused),
    "released": (lambda world: setattr(world, "lease", replace(world.lease, ttl_s=0)), Refused),  # type: ignore[type-var]
    "unknown holder": (lambda world: setattr(world, "lease", replace(world.lease, holder="x")), Refused),  # type: ignore[type-var]
    "lease store down": (change(down={"lease"}), Unavailable),
    "it doesn't serve": (lambda world: setattr(world.hosts[OLD], "role", "none"), StepFailed),
    "it can't be asked": (lambda world: setattr(world.hosts[OLD], "reachable", False), Unproven),
}


@pytest.mark.parametrize("case", REFUSED)
def test_without_a_primary_the_record_stays(world: World, case: str) -> None:
    apply, error = REFUSED[case]
    world.address = THERE
    apply(world)
    with pytest.raises(error):
        run(world, dns)
    assert not world.actions


def test_a_host_that_is_not_there(world: World) -> None:
    with pytest.raises(BadInput, match="there is no host"):
        run(world, dns, "paris")
    with pytest.raises(BadInput, match="there is no waiver"):
        run(world, dns, waive=("standby-lag",))


def test_it_asks_before_it_moves_the_name_and_only_then(well: World) -> None:
    well.address = THERE
    asked: list[str] = []

    def refuse(text: str) -> str:
        asked.append(text)
        return "no"

    with pytest.raises(Refused, match="not confirmed"):
        run(well, dns, yes=False, ask=refuse)
    assert asked and not well.actions
    well.address = HERE
    run(well, dns, yes=False, ask=lambda text: pytest.fail("there is nothing to agree to"))


def test_the_stacks_ttl_is_put_on_the_record_and_moves_nobody(well: World) -> None:
    """Pulumi leaves it alone: its provider would write its own idea of the address with it."""
    well.ttl = 3600
    assert "TTL 3600 s, not 30 s" in run(well, dns)
    assert (well.ttl, well.address) == (30, HERE)
    assert any(one.startswith("record") for one in well.actions), well.actions
    well.actions.clear()
    run(well, dns)
    assert not well.actions


def test_a_failover_does_not_wait_for_a_ttl(world: World) -> None:
    world.ttl, world.address = 3600, THERE
    assert traffic(world).moved().verdict is Verdict.PASS


def test_what_is_not_proved_is_no_success_here(well: World) -> None:
    well.kept[BAD] = (THERE, 10_000.0)
    with pytest.raises(Unproven, match=r"keeps 198\.18\.2\.10 for another"):
        run(well, dns)
    assert "Gone on without proof: resolvers" in run(well, dns, waive=("resolvers",))


def with_route53(world: World) -> None:
    second = SecondName("trade.genesis-aws.test", "genesis-aws.test", 30, 30)
    world.inventory = replace(world.inventory, dns=replace(world.inventory.dns, route53=second))


def test_route_53_is_waited_for_as_long_as_its_checkers_take(well: World) -> None:
    with_route53(well)
    assert "trade.genesis-aws.test (Route 53) leads there too" in run(well, dns)
    well.served = dict.fromkeys(NAME_SERVERS, THERE)
    found = Traffic(well.process(), well.inventory.host(OLD)).second_followed()
    assert found.verdict is Verdict.UNKNOWN and well.clock.now == 40


def test_with_a_second_name_the_manual_way_names_it(world: World) -> None:
    with_route53(world)
    assert "trade.genesis-aws.test follows by itself (Route 53)" in traffic(world).by_hand("fab failover")
