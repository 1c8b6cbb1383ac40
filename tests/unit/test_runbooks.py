"""Backup, restore, status, validate and reprotect against the fake world of test_failover."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifeline.errors import BadInput, DataBad, LifelineError, Refused, StepFailed, Unavailable, Unproven
from lifeline.model import DnsRef, SecondName, Verdict
from runbooks.backup import backup
from runbooks.clean_point import before_corruption
from runbooks.failback import failback
from runbooks.failover import failover
from runbooks.provision import Provisioning
from runbooks.reprotect import power_on, reprotect
from runbooks.restore import restore
from runbooks.site import Site
from runbooks.status import gather, status
from runbooks.switchover import switchover
from runbooks.validate import validate
from runbooks.verify import verify
from tests.unit.world import AGREE, NEW, OLD, FakeRemote, Killed, World

RESTORE_LATEST = ["stop-service", "restore", "lease", "start-primary", "start-standby"]
RESTORE_AT = ["stage", *RESTORE_LATEST]
THEN = "2026-01-01T00:00:00"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.vault["replica/genesis/epoch-0001/trades/ltx/0/a.ltx"] = b""
    return world


def said(site: Site) -> str:
    assert isinstance(site.out, StringIO)
    return site.out.getvalue()


def test_backup_is_seen_in_the_catalogue(world: World) -> None:
    site = world.process()
    backup(site)
    assert world.actions == {"backup": 1}
    assert "Backup catalogue/genesis/" in said(site)


def test_backup_of_a_sick_primary_fails_and_a_dry_run_makes_none(world: World) -> None:
    backup(world.process(), dry_run=True)
    assert not world.actions
    world.hosts[OLD].role = "none"
    with pytest.raises(StepFailed, match="primary and healthy"):
        backup(world.process())


def test_what_is_verified_is_the_epoch_of_the_lease_whatever_the_host_knows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former primary, on again, knows of the epoch before alone."""
    assert world.lease is not None
    world.lease = replace(world.lease, epoch=5)
    world.hosts[NEW].role, world.hosts[NEW].epoch = "none", 4
    site, asked = world.process(), list[tuple[str, ...]]()
    report = {"verdict": "PASS", "points": [], "checks": [], "rpo_measured_s": 0.1, "key": "catalogue/x"}
    remote = type(site.hosts[NEW])
    real = remote.verb

    def verb(self: Any, name: str, *words: str, **more: Any) -> Any:
        if name not in ("prove", "sentinel"):
            return real(self, name, *words, **more)
        asked.append((self.host.name, name, *words))
        return report

    monkeypatch.setattr(remote, "verb", verb)
    verify(site, weekly=True)
    assert (NEW, "prove", "--epoch", "5", "--weekly") in asked


def test_restore_latest(world: World) -> None:
    site = world.process()
    restore(site, yes=True)
    assert list(world.actions) == RESTORE_LATEST
    assert world.lease is not None and (world.lease.holder, world.lease.epoch) == (OLD, 2)
    assert (world.hosts[OLD].role, world.hosts[OLD].epoch) == ("primary", 2)
    assert (world.hosts[NEW].role, world.hosts[NEW].epoch) == ("standby", 2)
    assert "The old database is at /old/trades.db" in said(site)


def test_restore_to_a_time_stages_while_the_service_goes_on(world: World) -> None:
    restore(world.process(), THEN, yes=True)
    assert list(world.actions) == RESTORE_AT


@pytest.mark.parametrize(
    ("at", "actions", "crash_after"),
    [(None, RESTORE_LATEST, n) for n in range(1, len(RESTORE_LATEST))]
    + [(THEN, RESTORE_AT, n) for n in range(2, len(RESTORE_AT))],
)
def test_restore_killed_after_any_action_resumes(
    world: World, at: str | None, actions: list[str], crash_after: int
) -> None:
    world.crash_after = crash_after
    with pytest.raises(Killed):
        restore(world.process(), at, yes=True)
    world.crash_after = None
    restore(world.process(), at, yes=True)
    once = {name: count for name, count in world.actions.items() if name != "stage"}  # staging twice is one staging
    assert once == dict.fromkeys([name for name in actions if name != "stage"], 1)
    assert world.lease is not None and world.lease.epoch == 2


@pytest.mark.parametrize("at", [None, THEN])
@pytest.mark.parametrize("missing", [False, True])
def test_a_restore_killed_within_its_swap_swaps_again(world: World, at: str | None, missing: bool) -> None:
    world.crash_after = 1 if at is None else 2
    with pytest.raises(Killed):
        restore(world.process(), at, yes=True)
    world.crash_after = None
    # The note of what was there is gone, and its files are there still, or aside already.
    world.hosts[OLD].live_epoch, world.hosts[OLD].empty = None, missing
    if not missing:
        with pytest.raises(Refused, match="another restore is half done"):
            restore(world.process(), "2025-12-31 22:00:00", yes=True)
    restore(world.process(), at, yes=True)
    assert world.actions["restore"] == 1 and world.actions["power-off"] == 0 and world.hosts[OLD].live_epoch == 2


def test_half_a_restore_is_not_finished_by_another_one(world: World) -> None:
    world.crash_after = 4
    with pytest.raises(Killed):
        restore(world.process(), THEN, yes=True)
    world.crash_after = None
    with pytest.raises(Refused, match="something else is half done"):
        restore(world.process(), yes=True)


def test_after_a_failover_to_bad_data_an_earlier_time_is_served(world: World) -> None:
    """Exit 8 of a failover isn't the end: the lease is the new host's, the old one is fenced, the data goes back."""
    world.bad_data = True
    with pytest.raises(DataBad):
        failover(world.process(), yes=True)
    world.bad_data = False
    restore(world.process(), THEN, yes=True)
    assert (world.hosts[NEW].role, world.hosts[NEW].epoch) == ("primary", 3)
    assert world.address == "198.18.2.10" and world.actions["restore"] == 1 and world.actions["power-off"] == 1


def test_a_restore_is_no_way_around_the_fence(world: World) -> None:
    world.down.add("cloud")
    with pytest.raises(Unproven, match="unfenced-primary"):
        failover(world.process(), yes=True)
    with pytest.raises(Refused, match="half done"):
        restore(world.process(), yes=True)
    world.hosts[NEW].role, world.hosts[NEW].finalized = "none", 1
    with pytest.raises(Unproven, match="unfenced-primary"):
        restore(world.process(), yes=True)
    assert world.actions["start-primary"] == 0 and world.actions["restore"] == 0


def test_half_a_restore_of_another_machine_says_where_it_goes_on_and_what_if_that_is_gone(
    world: World, tmp_path: Path
) -> None:
    world.crash_after = 2  # swapped, and not served yet
    with pytest.raises(Killed):
        restore(world.process(), yes=True)
    world.crash_after = None
    with pytest.raises(Refused, match="half done there, and nobody serves") as here:
        restore(world.process(), THEN, yes=True)
    assert here.value.hint == "fab restore"
    world.root = tmp_path / "another"
    with pytest.raises(Refused, match="wasn't begun from this machine") as refused:
        restore(world.process(), yes=True)
    assert "on that machine the same fab restore" in refused.value.hint and "fab failover" in refused.value.hint
    assert world.actions == {"stop-service": 1, "restore": 1}
    failover(world.process(), yes=True)
    assert world.hosts[NEW].role == "primary"


HOLE: dict[str, Any] = {"tried": [{"from": "the replica (vault)", "why": "transactions 6 to 7 are missing"}]}


@pytest.mark.parametrize("backup", [True, False])
def test_older_data_is_refused_while_the_service_goes_on(world: World, backup: bool, monkeypatch: Any) -> None:
    plan = FakeRemote._outline_backup if backup else FakeRemote._outline
    monkeypatch.setattr(FakeRemote, "_outline", lambda *given, plan=plan: {**plan(*given), **HOLE})
    what = "full backup of 2025-12-31 22:00:00 UTC, 119 min old" if backup else "trades up to transaction 5"
    with pytest.raises(Refused, match=r"6 to 7 are missing.*Nothing was touched\n") as refused:
        restore(world.process(), yes=True)
    assert what in refused.value.message and "--waive older-source" in refused.value.hint
    assert not world.actions and world.hosts[OLD].role == "primary"
    site = world.process()
    restore(site, dry_run=True)
    assert "THE DATA IS OLDER: it is refused, unless --waive older-source" in said(site)
    site = world.process()
    restore(site, yes=True, waive=("older-source",))
    assert f"{what}" in said(site) and "EVERYTHING WRITTEN AFTER THAT IS LOST" in said(site)
    assert "Nothing that is in the vault is undone" not in said(site) and "--older" in world.words[-1]


def test_a_service_that_was_stopped_before_is_not_left_without_a_way_back(world: World, monkeypatch: Any) -> None:
    world.crash_after = 1
    with pytest.raises(Killed):
        restore(world.process(), yes=True)
    world.crash_after, plan = None, FakeRemote._outline
    monkeypatch.setattr(FakeRemote, "_outline", lambda *given: {**plan(*given), **HOLE})
    with pytest.raises(Refused, match="genesis was stopped before") as refused:
        restore(world.process(), yes=True)
    assert "fab provision" in refused.value.hint


def test_what_only_the_swap_finds_out_says_that_nobody_serves_and_what_does_again(
    world: World, monkeypatch: Any
) -> None:
    def refuse(*_: Any) -> dict[str, Any]:
        raise Refused("the newest data can't be restored", hint="--waive older-source")

    monkeypatch.setattr(FakeRemote, "_restore", refuse)
    with pytest.raises(Refused, match=f"genesis IS STOPPED on {OLD}; its databases are those of before") as refused:
        restore(world.process(), yes=True)
    assert "--waive older-source; to serve again what is on" in refused.value.hint
    assert refused.value.hint.endswith("fab provision") and world.hosts[OLD].role == "none"
    lease: Any = SimpleNamespace(read=lambda: SimpleNamespace(lease=world.lease))
    provisioning = Provisioning(world.process(), Path(), Path, leases=lease)
    provisioning.start_primary()
    assert provisioning.primary_serves().verdict is Verdict.PASS and world.hosts[OLD].epoch == 1


def test_databases_of_no_epoch_are_not_taken_for_ours(world: World) -> None:
    world.hosts[OLD].role, world.hosts[OLD].live_epoch = "none", None
    with pytest.raises(Refused, match="half done"):
        restore(world.process(), THEN, yes=True)
    assert not world.actions


def test_restore_asks_refuses_and_shows(world: World) -> None:
    site = world.process()
    with pytest.raises(Refused, match="nothing was changed"):
        restore(site, ask=lambda _: "no")
    assert "replaces its databases" in said(site)
    with pytest.raises(BadInput, match="is not a time"):
        restore(world.process(), "yesterday")
    restore(world.process(), dry_run=True)
    assert not world.actions


@pytest.mark.parametrize("words", [{}, {"at": THEN}, {"source": "local"}, {"only": ("state",)}])
def test_a_host_without_room_is_told_before_anything_is_touched(world: World, words: dict[str, Any]) -> None:
    world.room = {"free_bytes": 1 << 10}
    with pytest.raises(Refused, match=r"1 MB of free disk .* 0 MB; nothing was touched"):
        restore(world.process(), yes=True, waive=("low-memory",), **words)
    world.room = {"memory_bytes": 200 << 20, "memory_free_bytes": 150 << 20}
    with pytest.raises(Refused, match="low-memory"):
        restore(world.process(), yes=True, **words)
    site = world.process()
    restore(site, dry_run=True, **words)
    assert "MEMORY IS SHORT" in said(site) and not world.actions
    restore(world.process(), yes=True, waive=("low-memory",), **words)
    assert world.actions and "--low-memory" in world.words[-1]


@pytest.mark.parametrize("words", [{}, {"at": THEN}])
def test_a_restore_that_could_not_end_is_not_begun(world: World, words: dict[str, Any]) -> None:
    """The host says so itself, of the vault that it needs to serve."""
    world.down.add("vault")
    with pytest.raises(Unavailable):
        restore(world.process(), yes=True, **words)
    assert not world.actions


def test_files_come_back_without_a_new_epoch(world: World) -> None:
    site = world.process()
    restore(site, only=("state",), yes=True)
    assert list(world.actions) == ["stage", "put"] and world.lease is not None and world.lease.epoch == 1
    text = said(site)
    assert "From the full backup of 2025-12-31 22:00:00 UTC" in text and "119 min old" in text and "a remark" in text
    assert "~ changed" in text and "= same" in text and "new.json (not in that backup)" in text
    assert "What they replaced is in /kept/" in text
    # What was looked at is what is put in place, whatever is backed up meanwhile.
    assert all("2025-12-31T22:00:01Z" in words for words in world.words if "--plan" not in words)


def test_files_are_asked_about_shown_and_left_alone_where_they_are_as_in_the_backup(world: World) -> None:
    with pytest.raises(Refused, match="nothing was changed"):
        restore(world.process(), only=("state",), ask=lambda _: "no")
    restore(world.process(), only=("config", "state", "logs"), dry_run=True)
    world.as_in_the_backup = True
    site = world.process()
    restore(site, only=("state",), yes=True)
    assert "nothing to restore" in said(site) and not world.actions


def test_database_and_files_of_one_moment(world: World) -> None:
    site = world.process()
    restore(site, source="local", only=("database", "state"), yes=True)
    assert list(world.actions) == RESTORE_AT and world.lease is not None and world.lease.epoch == 2
    assert "and 1 files of the same moment" in said(site)
    swapped = next(words for words in world.words if "--stage" in words)
    assert swapped[2:8] == ("--only", "database", "--only", "state", "--at", "2025-12-31T22:00:01Z")


@pytest.mark.parametrize(
    ("only", "more", "why"),
    [
        (("everything",), {}, "no part of a backup"),
        (("state",), {"txid": "5"}, "have no transactions"),
        (("logs",), {"source": "vault"}, "databases only"),
        (("database", "state"), {}, "say which"),
    ],
)
def test_parts_that_make_no_sense(world: World, only: tuple[str, ...], more: dict[str, str], why: str) -> None:
    with pytest.raises(BadInput, match=why) as caught:
        restore(world.process(), only=only, yes=True, **more)  # type: ignore[arg-type]
    assert caught.value.hint and not world.asked


def test_restored_data_that_is_bad_is_not_served(world: World) -> None:
    world.bad_data = True
    with pytest.raises(DataBad):
        restore(world.process(), yes=True)
    assert world.actions["start-primary"] == 0


def test_with_a_clean_vault_live_files_that_are_damaged_are_restored_from_its_newest_point(world: World) -> None:
    world.rotten = DataBad("integrity: malformed page 7")
    site = world.process()
    before_corruption(site, yes=True)
    assert list(world.actions) == RESTORE_LATEST
    assert "malformed page 7" in said(site) and "undoes nothing that reached the vault" in said(site)


def test_with_a_clean_vault_and_live_files_that_are_well_nothing_is_touched(world: World) -> None:
    site = world.process()
    assert before_corruption(site, yes=True) is None
    assert not world.actions and "next: fab validate" in said(site)


def test_with_a_clean_vault_and_live_files_that_nobody_could_check_it_says_so(world: World) -> None:
    world.rotten = StepFailed("the host doesn't answer")
    with pytest.raises(Unproven, match="couldn't be checked: the host doesn't answer"):
        before_corruption(world.process(), yes=True)
    assert not world.actions


def test_reprotect_after_a_failover(world: World) -> None:
    failover(world.process(), yes=True)
    reprotect(world.process(), yes=True)
    assert world.power["1"] == "active"
    assert (world.hosts[OLD].role, world.hosts[OLD].epoch) == ("standby", 2)
    before = dict(world.actions)
    reprotect(world.process(), yes=True)
    assert dict(world.actions) == before


def test_reprotect_is_no_way_out_of_a_failover_half_done(world: World) -> None:
    world.crash_after = 2
    with pytest.raises(Killed):
        failover(world.process(), yes=True)
    world.crash_after = None
    with pytest.raises(Refused, match="doesn't serve it") as caught:
        reprotect(world.process(), yes=True)
    assert caught.value.hint == f"fab failover --target {NEW}" and world.power["1"] == "off"


@pytest.mark.parametrize(("at", "crash_after"), [(None, 1), (None, 2), (None, 3), (THEN, 2), (THEN, 3), (THEN, 4)])
def test_reprotect_names_the_restore_that_is_half_done(world: World, at: str | None, crash_after: int) -> None:
    world.crash_after = crash_after
    with pytest.raises(Killed):
        restore(world.process(), at, yes=True)
    world.crash_after = None
    with pytest.raises(Refused, match="doesn't serve it") as caught:
        reprotect(world.process(), yes=True)
    assert caught.value.hint == (f"fab restore --at {THEN}.000000Z" if at else "fab restore")
    restore(world.process(), at, yes=True)
    reprotect(world.process(), yes=True)


def test_reprotect_elsewhere_names_both_ways_on(world: World, tmp_path: Path) -> None:
    world.crash_after = 2
    with pytest.raises(Killed):
        restore(world.process(), yes=True)
    world.crash_after, world.root = None, tmp_path / "another machine"
    with pytest.raises(Refused) as caught:
        reprotect(world.process(), yes=True)
    assert f"fab failover --target {OLD}" in caught.value.hint and "fab restore" in caught.value.hint


@pytest.mark.parametrize("standby", [{"lag_s": 300.0}, {"lag_s": None}, {"stalled": True}, {"role": "none"}])
def test_a_switchover_names_no_waiver_that_it_does_not_take(world: World, standby: dict[str, Any]) -> None:
    for name, value in standby.items():
        setattr(world.hosts[NEW], name, value)
    with pytest.raises((Refused, Unproven)) as caught:
        switchover(world.process(), yes=True)
    says = str(caught.value)
    assert "--waive" not in says and "nothing was moved" in says and "fab switchover" in says and not world.actions


def test_failback_reads_its_waivers_before_it_acts(world: World) -> None:
    failover(world.process(), yes=True)
    world.actions.clear()
    with pytest.raises(BadInput, match='no waiver "trafic"'):
        failback(world.process(), yes=True, waive=("trafic",))
    assert not world.actions and world.power["1"] == "off"


def test_reprotect_works_with_the_primary_out_of_reach(world: World) -> None:
    failover(world.process(), yes=True)
    world.hosts[NEW].reachable = False
    reprotect(world.process(), yes=True)
    assert (world.hosts[OLD].role, world.hosts[OLD].epoch) == ("standby", 2)


def test_reprotect_says_when_the_droplet_is_gone(world: World) -> None:
    failover(world.process(), yes=True)
    del world.power["1"]
    with pytest.raises(Unproven, match="must be built anew"):
        reprotect(world.process(), yes=True)


def test_there_and_back(world: World) -> None:
    failover(world.process(), yes=True)
    reprotect(world.process(), yes=True)
    with pytest.raises(Refused, match=f"{NEW} is primary and answers its users"):
        failover(world.process(), yes=True)
    assert world.power == {"1": "active", "2": "active"} and world.lease is not None and world.lease.epoch == 2
    failover(world.process(), yes=True, waive=("serving-primary",))
    assert world.lease is not None and (world.lease.holder, world.lease.epoch) == (OLD, 3)
    assert world.address == "198.18.1.10"


def test_validate_looks_at_everything(world: World) -> None:
    world.mute = 0
    site = world.process()
    with pytest.raises(StepFailed, match="there is a verified backup"):
        validate(site)
    backup(world.process())
    site = world.process()
    validate(site)
    assert "Everything holds." in said(site)
    world.hosts[NEW].lag_s = 400
    world.address = "198.18.9.9"
    site = world.process()
    with pytest.raises(StepFailed, match="points at") as failed:
        validate(site)
    assert failed.value.hint == "fab dns"  # a failover would cut the power of the host that serves
    assert "400.0 s behind" in said(site)  # the first failure didn't hide the others


def test_what_validate_does_not_know_it_does_not_have_mended(world: World) -> None:
    world.mute = 0
    backup(world.process())
    world.down |= {"cloud", "names"}
    with pytest.raises(Unproven, match="points at") as unknown:
        validate(world.process())
    assert unknown.value.hint == "fab dns --dry-run"


def validated(world: World) -> Site:
    """A site that was backed up and then validated; its output is said(site)."""
    world.mute = 0
    backup(world.process())
    site = world.process()
    validate(site)
    return site


def refused(world: World, error: type[LifelineError], words: str) -> str:
    backup(world.process())
    site = world.process()
    with pytest.raises(error, match=words):
        validate(site)
    return said(site)


def test_books_that_agree_with_the_world_outside(world: World) -> None:
    text = said(validated(world))
    assert "its books agree with the world outside … 0.0 s  7 trades: no difference" in text
    assert text.endswith("Everything holds.\n")


def test_books_that_differ_are_bad_data_and_are_shown_at_the_end(world: World) -> None:
    difference = {"what": "position that differs", "key": "BTC", "here": 10, "there": None}
    world.books = {**AGREE, "agree": False, "differences": [difference] * 25, "more": 75}
    lines = refused(world, DataBad, "agree with the world outside: 100 differences in 7 trades; nothing").splitlines()
    shown = lines.index(f"{OLD} and the world outside differ:")
    assert lines[shown - 1].startswith("[10/10]")
    assert lines[shown + 1] == "  position that differs: BTC: here 10, there nothing"
    assert lines[shown + 21] == "  and 80 more; the first 25 are in the journal"
    journal = max(world.process().journals.glob("*.jsonl")).read_text()
    assert journal.count("position that differs") == 25


@pytest.mark.parametrize(
    "error", [Unproven("not compared: the exchange did not answer"), Unavailable("primary-newyork can't be reached")]
)
def test_books_that_nobody_could_compare_are_not_known(world: World, error: LifelineError) -> None:
    world.books = error
    assert f"UNKNOWN 0.0 s  {error.message}" in refused(world, Unproven, "not known whether its books agree")


def test_a_service_without_a_compare_hook_is_not_said_to_agree(world: World) -> None:
    world.books = {"ran": False}
    last = said(validated(world)).splitlines()[-1]
    assert "Not looked at: its books agree with the world outside: the service has no compare hook" in last


ALERT = {"name": "disk-short", "says": "no room", "since": "2026-01-01T00:00:00Z", "next": "df -h"}


def test_an_alert_fails_validate_and_comes_first_in_status(world: World) -> None:
    world.mute = 0
    backup(world.process())
    world.hosts[NEW].alerts = [ALERT]
    site = world.process()
    with pytest.raises(StepFailed, match="no alert is raised"):
        validate(site)
    site = world.process()
    status(site)
    lines = said(site).splitlines()
    assert lines[1] == "1 ALERT" and f"{NEW}: no room" in lines[2] and "df -h" in lines[3]
    assert "(0 s ago)" in said(site) and "offsite  NEVER" in said(site)


def test_a_keeper_that_doesnt_run_is_not_taken_for_quiet(world: World) -> None:
    world.mute = 0
    backup(world.process())
    world.hosts[NEW].keeper = False
    with pytest.raises(Unproven, match="no alert is raised"):
        validate(world.process())
    site = world.process()
    status(site)
    assert f"NOBODY LOOKS on {NEW}" in said(site)


def test_status_of_everything(world: World) -> None:
    backup(world.process())
    site = world.process()
    status(site)
    text = said(site)
    assert f"lease    {OLD}, epoch 1, taken by agent:{OLD}" in text
    assert f"host     {NEW} (backup at home, 198.18.2.10, active): standby, epoch 1" in text and "lag 0.3 s" in text
    assert "198.18.1.10, TTL 30 s" in text and "verified, catalogue/genesis/" in text


def test_status_hides_nothing_behind_what_is_down(world: World) -> None:
    world.down |= {"cloud", "lease", "vault"}
    world.hosts[OLD].reachable = False
    site = world.process()
    found = gather(site)
    assert found["lease"] == {"error": "lease is down"} and found["backup"] == {"error": "vault is down"}
    assert "can't be reached" in found["hosts"][0]["error"] and found["hosts"][1]["role"] == "standby"
    status(site)
    status(site, as_json=True)
    json.loads(said(site)[said(site).index("{\n") :])


def test_status_of_a_released_lease_and_of_none(world: World) -> None:
    assert world.lease is not None
    world.lease = replace(world.lease, ttl_s=0)
    site = world.process()
    status(site)
    assert "released: nobody is primary" in said(site)
    world.lease = None
    site = world.process()
    status(site)
    assert "nobody ever held it" in said(site)


def test_a_primary_powers_the_other_host_on_and_nobody_else_does(world: World) -> None:
    failover(world.process(), yes=True)
    assert world.power == {"1": "off", "2": "active"}
    with pytest.raises(Refused, match="doesn't hold the lease"):
        power_on(world.process(), OLD)
    power_on(world.process(), NEW)
    assert world.power == {"1": "active", "2": "active"}
    power_on(world.process(), NEW)
    assert world.actions["power-on"] == 1


def test_status_says_who_could_take_over_where_the_second_name_leads_and_when_logs_were_shipped(world: World) -> None:
    second = DnsRef(route53=SecondName("trade.genesis-aws.test", "genesis-aws.test", 30, 40))
    world.inventory = replace(world.inventory, dns=second)
    site = world.process()
    status(site)
    assert f"standby  {NEW}\n" in said(site)
    assert "trade.genesis-aws.test (Route 53) resolves to 198.18.1.10: the primary" in said(site)
    assert f"logs     {OLD} NEVER shipped; {NEW} NEVER shipped" in said(site)
    world.address = "198.18.2.10"
    world.power["2"] = "off"
    site = world.process()
    status(site)
    assert (
        f"standby  NONE, NOT PROTECTED: {NEW} (off): {NEW} can't be reached\n         next: fab reprotect --yes"
        in said(site)
    )
    assert "NOT THE PRIMARY (yet): fab dns" in said(site) and f"{NEW} not known" in said(site)
    world.power["2"], world.hosts[NEW].role = "active", "none"
    site = world.process()
    status(site)
    assert f"NOT PROTECTED: {NEW} (active): its role is none" in said(site)
