"""The autopilot: sees, decides, and has a pilot do it once; what fails is told and tried again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lifeline.autopilot import Autopilot, Doors, Own
from lifeline.damage import Damage
from lifeline.errors import LifelineError, Unavailable
from lifeline.journal import RUN_FINISHED, RUN_STARTED, Journal
from lifeline.layout import RoleFile
from lifeline.model import Lease, Mode, Verdict
from lifeline.watching import Watched
from tests.unit.hostkit import config, lease

READY = {"judgement": "idle", "role": "standby", "databases": {"trades": {"lag_s": 0.1, "stalled": False}}}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class FakePilot:
    orders: list[Mapping[str, Any]] = field(default_factory=list)
    words: Mapping[str, Any] = field(default_factory=dict)
    ended: int | None = None
    stopped: bool = False

    def tell(self, order: Mapping[str, Any]) -> None:
        self.orders.append(order)

    def said(self) -> Mapping[str, Any]:
        return self.words

    def code(self) -> int | None:
        return self.ended

    def stop(self) -> None:
        self.stopped = True


class Standby:
    """A standby whose world the test moves; time passes by looking."""

    def __init__(self, root: Path, mode: str = "automatic") -> None:
        self.clock, self.lease, self.error = 1000.0, lease(), None
        self.lease = replace(self.lease, mode=Mode(mode, "x"))  # type: ignore[arg-type]
        self.peer: Mapping[str, Any] | None = {"judgement": "serve", "role": "primary"}
        self.role, self.serves, self.trouble = RoleFile("standby", 1), False, ""
        self.damage: Damage | None = None
        self.pilots: list[FakePilot] = []
        near = {"trades": Watched(7, 7, 1, 1, lag_s=0.1)}
        doors = Doors(self.read, lambda: self.peer, self.new_pilot)
        self.autopilot = Autopilot(
            config(root, "backup-singapore"),
            lambda: Own(self.role, self.serves, self.lease, near, 0.0, 0.0, self.trouble, self.damage),
            doors,
            lambda: self.clock,
            lambda: NOW + timedelta(seconds=self.clock),
        )

    error: LifelineError | None

    def read(self) -> Lease:
        if self.error:
            raise self.error
        return self.lease

    def new_pilot(self) -> FakePilot:
        self.pilots.append(FakePilot())
        return self.pilots[-1]

    def pass_(self, seconds: float) -> str:
        for _ in range(round(seconds)):
            self.clock += 1
            self.autopilot.ask_peer()
            self.autopilot.look()
        return str(self.autopilot.decision.act)


@pytest.fixture
def standby(tmp_path: Path) -> Standby:
    return Standby(tmp_path)


def test_a_lost_primary_is_taken_over_once_by_a_pilot_that_stood_by(standby: Standby) -> None:
    assert standby.pass_(5) == "hold" and not standby.pilots
    standby.peer = None
    assert standby.pass_(20) == "watch"
    assert len(standby.pilots) == 1 and not standby.pilots[0].orders
    assert standby.pass_(20) == "promote"
    standby.pass_(30)
    (order,) = standby.pilots[0].orders
    assert order["take_over"]["lease"]["renewal"] == standby.lease.renewal
    assert order["take_over"]["quiet_since"] == 1001.0


def test_what_the_pilot_sees_in_the_cloud_makes_it_faster(standby: Standby) -> None:
    standby.pass_(5)
    standby.peer = None
    standby.pass_(6)
    standby.pilots[0].words = {"seen": {"power": "off", "uptime": None}}
    assert standby.pass_(3) == "promote"


def test_old_news_from_the_cloud_is_none(standby: Standby) -> None:
    standby.pass_(5)
    standby.peer = None
    standby.pass_(4)
    standby.pilots[0].words = {"seen": {"power": "off", "uptime": None}}
    standby.lease = replace(standby.lease, renewal=1)
    standby.pass_(1)
    assert standby.pass_(14) == "watch"  # late by now, but what was seen is as old


def test_a_pilot_isnt_needed_when_the_primary_is_back(standby: Standby) -> None:
    standby.pass_(5)
    standby.peer = None
    standby.pass_(10)
    standby.peer = {"judgement": "serve", "role": "primary"}
    standby.lease = replace(standby.lease, renewal=1)
    assert standby.pass_(2) == "hold"
    assert standby.pilots[0].stopped


def test_a_failed_pilot_is_told_and_tried_again_later_and_later(standby: Standby) -> None:
    standby.pass_(2)
    standby.peer = None
    standby.pass_(38)
    pilot = standby.pilots[-1]
    pilot.words, pilot.ended = {"error": "the fence isn't proved", "hint": "fab failover"}, 5
    standby.pass_(2)
    alert = next(a for a in standby.autopilot.status()["alerts"] if a["name"] == "failover-stuck")
    assert "the fence isn't proved" in alert["says"] and alert["next"] == "fab failover"
    assert sum(len(one.orders) for one in standby.pilots) == 1
    standby.pass_(14)
    assert sum(len(one.orders) for one in standby.pilots) == 2


def test_half_a_take_over_of_its_own_goes_on(standby: Standby) -> None:
    standby.lease = replace(standby.lease, holder="backup-singapore", epoch=2, taken_by="pilot:backup-singapore")
    assert standby.pass_(1) == "resume"
    assert standby.pilots[0].orders == [
        {"take_over": {"reason": standby.autopilot.decision.reason, "lease": None, "quiet_since": 1001.0}}
    ]


def journal(standby: Standby, minute: int = 0) -> Journal:
    """As the pilot of this host begins one."""
    made = Journal.start(standby.autopilot._journals, "failover")
    made.write(RUN_STARTED, Verdict.PASS, NOW + timedelta(minutes=minute), 0.0, {"target": "backup-singapore"})
    return made


def test_a_take_over_that_serves_and_isnt_finished_goes_on_until_it_is(tmp_path: Path) -> None:
    """The cloud's API refused to move the record: the pilot ended, and users get nothing. Whatever is restarted."""
    begun = journal(Standby(tmp_path))
    primary = Standby(tmp_path)  # another agent, of the same host
    primary.role, primary.serves, primary.peer = RoleFile("primary", 2), True, READY
    primary.lease = replace(
        primary.lease, holder="backup-singapore", epoch=2, taken_by="pilot:backup-singapore", run_id=begun.run_id
    )
    begun.write(RUN_FINISHED, Verdict.FAIL, NOW, 20.0, {"error": "429"})
    assert primary.pass_(1) == "resume"
    assert primary.pilots[0].orders[0]["take_over"]["lease"] is None
    primary.pilots[0].ended = 7
    primary.pass_(10)
    assert len(primary.pilots) == 1
    primary.pass_(10)
    assert len(primary.pilots) == 2  # after 15 s, then less and less often
    again = journal(primary, minute=1)
    again.write(RUN_FINISHED, Verdict.PASS, NOW, 3.0, {})
    primary.pilots[1].ended = 0
    assert primary.pass_(2) == "hold"
    assert "and well" in primary.autopilot.decision.reason


def test_what_an_operator_took_over_is_his_to_finish(tmp_path: Path) -> None:
    primary = Standby(tmp_path)
    begun = journal(primary)
    primary.role, primary.serves, primary.peer = RoleFile("primary", 2), True, READY
    primary.lease = replace(primary.lease, holder="backup-singapore", epoch=2, run_id=begun.run_id)
    assert primary.pass_(3) == "hold"


@pytest.mark.parametrize("role", ["standby", "none"])
def test_a_failover_by_hand_that_stops_half_way_calls_somebody(standby: Standby, role: Any) -> None:
    """The operator's terminal is gone after the lease was taken: nobody serves, and both hosts wait for him."""
    standby.pass_(3)
    standby.lease, standby.peer = replace(standby.lease, holder="backup-singapore", epoch=2), None
    standby.role = RoleFile(role, 1)
    assert standby.pass_(55) == "hold"
    assert standby.pass_(10) == "alert"
    alert = next(a for a in standby.autopilot.status()["alerts"] if a["name"] == "failover-unfinished")
    assert alert["next"].startswith("fab failover --target backup-singapore") and "NOBODY SERVES" in alert["says"]
    standby.role, standby.serves = RoleFile("primary", 2), True
    assert standby.pass_(1) == "hold"


def test_what_was_given_back_for_nothing_names_the_way_out(standby: Standby) -> None:
    standby.role = RoleFile("none", 1)
    standby.lease = replace(standby.lease, holder="backup-singapore", ttl_s=0.0)
    assert standby.pass_(1) == "alert"
    assert "fab failover --target backup-singapore" in standby.autopilot.decision.next


def test_by_hand_it_asks_and_says_which_command(tmp_path: Path) -> None:
    standby = Standby(tmp_path, "manual")
    standby.pass_(2)
    standby.peer = None
    assert standby.pass_(40) == "ask"
    assert not any(pilot.orders for pilot in standby.pilots)
    alert = next(a for a in standby.autopilot.status()["alerts"] if a["name"] == "failover-wanted")
    assert alert["next"] == "fab failover --yes"


def test_a_forgotten_pause_is_told(standby: Standby) -> None:
    until = (NOW + timedelta(seconds=1010)).strftime("%Y-%m-%dT%H:%M:%SZ")
    standby.lease = replace(standby.lease, mode=Mode("paused", "ada", until))
    standby.pass_(5)
    assert standby.autopilot.status()["mode"] == "paused" and not standby.autopilot.status()["alerts"]
    standby.pass_(10)
    assert [alert["name"] for alert in standby.autopilot.status()["alerts"]] == ["pause-forgotten"]


def test_a_store_that_cant_be_read_takes_nothing_over_and_is_told(standby: Standby) -> None:
    standby.pass_(2)
    standby.peer, standby.error = None, Unavailable("timed out")
    assert standby.pass_(60) == "hold"
    names = {alert["name"] for alert in standby.autopilot.status()["alerts"]}
    assert names == {"peer-unseen", "lease-unread"}


def test_a_primary_in_trouble_hands_over_to_a_standby(tmp_path: Path) -> None:
    primary = Standby(tmp_path)
    primary.role, primary.serves, primary.trouble = RoleFile("primary", 1), True, "genesis is down for 300 s"
    primary.lease = replace(primary.lease, holder="backup-singapore")
    primary.peer = READY
    assert primary.pass_(1) == "hand-over"
    assert primary.pilots[0].orders == [{"hand_over": {"reason": "genesis is down for 300 s"}}]


def test_a_zombie_follows_whoever_serves(standby: Standby) -> None:
    standby.role = RoleFile("none", 1)
    assert standby.pass_(1) == "rejoin"
    assert "rejoin" in standby.pilots[0].orders[0]


def test_damaged_data_is_handed_over_only_when_the_vaults_copy_was_proved_clean_since(tmp_path: Path) -> None:
    primary = Standby(tmp_path)
    primary.role, primary.serves, primary.damage = RoleFile("primary", 1), True, Damage("now", "page 7 is torn")
    primary.lease = replace(primary.lease, holder="backup-singapore")
    for opinion in (None, {"id": "earlier", "verdict": "PASS"}, {"id": "now", "verdict": "UNKNOWN"}):
        primary.peer = {**READY, "opinion": opinion}
        assert primary.pass_(1) == "alert"
    (alert,) = primary.autopilot.status()["alerts"]
    assert alert["name"] == "data-damaged" and alert["next"] == "fab restore --before-corruption"
    assert "page 7 is torn" in alert["says"] and not primary.pilots
    primary.peer = {**READY, "opinion": {"id": "now", "verdict": "FAIL"}}
    assert primary.pass_(1) == "alert" and "vault's newest copy" in primary.autopilot.decision.reason
    primary.peer = {**READY, "opinion": {"id": "now", "verdict": "PASS"}}
    assert primary.pass_(1) == "hand-over"
    assert "hand_over" in primary.pilots[0].orders[0]


def test_a_primary_without_a_standby_says_so_loudly_and_with_the_command(tmp_path: Path) -> None:
    primary = Standby(tmp_path)
    primary.role, primary.serves = RoleFile("primary", 1), True
    primary.lease = replace(primary.lease, holder="backup-singapore")
    primary.peer = READY
    assert primary.pass_(90) == "hold" and not primary.autopilot.status()["alerts"]
    primary.peer = {**READY, "role": "none"}
    primary.pass_(59)
    assert not primary.autopilot.status()["alerts"]
    primary.pass_(3)
    (alert,) = primary.autopilot.status()["alerts"]
    assert alert["name"] == "not-protected" and alert["next"] == "fab reprotect --yes"
    assert "isn't a standby" in alert["says"] and "NOT PROTECTED" in alert["says"]
    primary.peer = None
    primary.pass_(5)
    (alert,) = primary.autopilot.status()["alerts"]
    assert "doesn't answer" in alert["says"]
    primary.peer = READY
    primary.pass_(1)
    assert not primary.autopilot.status()["alerts"]


def test_it_has_its_pilot_power_the_other_host_on_when_policy_says_so(tmp_path: Path) -> None:
    primary = Standby(tmp_path)
    primary.autopilot.policy = replace(primary.autopilot.policy, power_on_after_s=60)
    primary.role, primary.serves, primary.peer = RoleFile("primary", 1), True, None
    primary.lease = replace(primary.lease, holder="backup-singapore", taken_by="pilot:backup-singapore")
    primary.clock = 0.0
    assert primary.pass_(55) == "hold" and not primary.pilots
    assert primary.pass_(10) == "watch"
    primary.pilots[0].words = {"seen": {"power": "off", "uptime": None}}
    assert primary.pass_(2) == "power-on"
    assert "power_on" in primary.pilots[0].orders[0]
