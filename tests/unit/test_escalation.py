"""The ladder and the incident, look by look: pure, with a clock of the test's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lifeline import escalation, incidents
from lifeline.alerts import Alert
from lifeline.contacts import Contacts, Email, PagerDuty, Webhook
from lifeline.escalation import Memory, Outgoing, Seen
from lifeline.incidents import Event, Incident

START = datetime(2026, 1, 15, 3, 14, 0, tzinfo=UTC)
STALE = Alert("replica-stale", "nothing has reached the vault for 70 s", "fab status", "2026-01-15T03:13:00Z")
WANTED = Alert("failover-wanted", "the primary is silent; the hosts wait for a person's word", "fab failover --yes")
LATE = Alert("late-verify", "verify has not been done", "fab verify")
CONTACTS = Contacts(
    PagerDuty({"on-call": "a" * 32, "senior": "b" * 32, "cto": "c" * 32}),
    Webhook("https://hook.test/x"),
    Email("mail.test", 25, "none", "lifeline@test", {"on-call": ("one@test",), "cto": ("boss@test",)}),
)


class Host:
    """A host's looks: what it remembers, and what came of it."""

    def __init__(self, name: str = "primary-newyork", vault: list[Event] | None = None) -> None:
        self.name, self.vault = name, [] if vault is None else vault
        self.memory, self.alerts = Memory(), []  # type: ignore[var-annotated]
        self.decision = ("hold", "all is well")
        self.by, self.sent, self.salt = "", [], 0  # type: ignore[var-annotated]

    def look(self, seconds: float, *, vault: bool = True) -> list[Outgoing]:
        self.salt += 1
        at = START + timedelta(seconds=seconds)
        shared = tuple(self.vault) if vault else ()
        salt = f"{self.salt:04x}{len(self.name) % 256:02x}"
        seen = Seen(self.name, "prod", "genesis", at, self.alerts, self.decision, shared, self.by, salt)
        told = escalation.look(self.memory, seen, CONTACTS)
        self.memory = Memory.parse(json.loads(json.dumps(told.memory.to_json())))  # as after a restart
        self.vault += [Event.parse(event.body()) for event in told.events]
        self.sent += told.messages
        return list(told.messages)

    @property
    def incident(self) -> Incident:
        (found,) = incidents.by_incident(self.vault)
        return found


def actions(messages: Sequence[Outgoing], channel: str) -> list[str]:
    return [str(one.message["action"]) for one in messages if one.channel == channel]


def channels(messages: Sequence[Outgoing]) -> set[str]:
    return {one.channel for one in messages}


def test_the_ladder_climbs_by_the_procedures_times() -> None:
    host = Host()
    host.alerts = [STALE]
    assert channels(host.look(0)) == {"webhook"}  # level 1: what happens by itself; nobody is called
    assert host.incident.title == STALE.says
    host.look(299)
    assert not host.incident.paged
    assert channels(host.look(300)) == {"pagerduty-on-call", "email", "webhook"}
    assert host.look(301) == []
    host.look(899)
    assert host.incident.paged == {"on-call"}
    assert channels(host.look(900)) == {"pagerduty-senior", "email", "webhook"}
    host.look(1799)
    assert host.incident.paged == {"on-call", "senior"}
    assert channels(host.look(1800)) == {"pagerduty-cto", "email", "webhook"}
    assert host.look(99999) == []


def test_it_is_one_alert_at_the_pager_whoever_sends_it() -> None:
    host = Host()
    host.alerts = [STALE]
    for seconds in (0, 300, 900, 1800):
        host.look(seconds)
    keys = {one.message["dedup"] for one in host.sent}
    assert keys == {f"lifeline/prod/{host.incident.id}"}


def test_an_acknowledgement_stops_it_from_the_pager_or_by_hand() -> None:
    for by_hand in (True, False):
        host = Host()
        host.alerts = [STALE]
        host.look(0)
        host.look(300)
        if by_hand:
            host.vault.append(Event(host.incident.id, START + timedelta(seconds=400), "operator:ada", "acknowledged"))
        else:
            host.by = "pagerduty:Ada"
        told = host.look(410)
        assert actions(told, "pagerduty-on-call") == ["acknowledge"]
        assert host.look(99999) == []
        assert host.incident.state == "acknowledged" and host.incident.paged == {"on-call"}


def test_acknowledged_before_anybody_was_called_nobody_is() -> None:
    host = Host()
    host.alerts = [STALE]
    host.look(0)
    host.vault.append(Event(host.incident.id, START + timedelta(seconds=100), "operator:ada", "acknowledged"))
    host.look(99999)
    assert not [one for one in host.sent if one.channel.startswith("pagerduty")]


def test_what_waits_for_a_person_skips_level_one() -> None:
    host = Host()
    host.alerts = [WANTED]
    told = host.look(0)
    assert "pagerduty-on-call" in channels(told) and host.incident.paged == {"on-call"}
    (page,) = [one.message for one in told if one.channel == "pagerduty-on-call"]
    assert page["needed"][0] == "fab failover --yes" and page["severity"] == "critical"
    assert "the primary is silent" in page["summary"] and "genesis (prod)" in page["summary"]


def test_a_recovery_that_the_hosts_began_is_an_incident_and_calls_nobody_if_it_is_over_soon() -> None:
    host = Host("backup-singapore")
    host.decision = ("promote", "the primary has been silent for 36 s")
    host.look(0)
    host.decision = ("hold", "I am primary")
    host.look(40)
    host.look(639)
    assert host.incident.state == "recovered"
    told = host.look(640)
    assert not host.incident.open and not host.incident.paged
    assert channels(told) == {"webhook", "email"}  # told all the same, in the morning's mail
    assert [one.kind for one in host.incident.events] == ["opened", "alert", "decision", "over", "decision", "closed"]
    assert host.look(650) == []


def test_what_comes_back_within_ten_minutes_is_the_same_incident_and_goes_on_climbing() -> None:
    host = Host()
    host.alerts = [STALE]
    host.look(0)
    host.alerts = []
    host.look(100)
    assert host.look(400) == []  # nobody is called for what is over
    host.alerts = [STALE]
    assert "pagerduty-on-call" in channels(host.look(500))
    assert len(incidents.by_incident(host.vault)) == 1


def test_closed_by_hand_it_resolves_and_what_still_holds_opens_no_other_until_it_was_over() -> None:
    host = Host()
    host.alerts = [WANTED]
    host.look(0)
    host.vault.append(Event(host.incident.id, START + timedelta(seconds=60), "operator:ada", "closed", "false alarm"))
    assert actions(host.look(70), "pagerduty-on-call") == ["resolve"]
    assert host.look(80) == [] and host.look(90) == []
    host.alerts = []
    host.look(100)
    host.alerts = [WANTED]
    assert "pagerduty-on-call" in channels(host.look(110))
    assert len(incidents.by_incident(host.vault)) == 2


def test_a_vault_that_still_shows_it_open_reopens_nothing() -> None:
    host = Host()
    host.alerts = [STALE]
    host.look(0)
    host.alerts = []
    host.look(10)
    stale = list(host.vault)
    host.look(700)
    assert not host.incident.open
    host.vault[:] = stale  # the event of its end hasn't arrived yet
    assert host.look(710) == [] and host.memory.events == ()


def test_both_hosts_are_in_one_incident_and_either_can_call_when_the_other_is_gone() -> None:
    vault: list[Event] = []
    one, two = Host("primary-newyork", vault), Host("backup-singapore", vault)
    one.alerts = [STALE]
    one.look(0)
    two.look(10)  # sees it, and has no alert of its own
    told = two.look(301)  # the first is silent
    assert "pagerduty-on-call" in channels(told)
    assert len(incidents.by_incident(vault)) == 1
    # Had the first one called, the second would tell the pager too (it knows doubles), and write no second mail.
    told = one.look(310)
    assert channels(told) == {"pagerduty-on-call"}


def test_two_that_opened_at_once_become_one() -> None:
    vault: list[Event] = []
    one, two = Host("primary-newyork", vault), Host("backup-singapore", vault)
    one.alerts, two.alerts = [STALE], [WANTED]
    one.look(0, vault=False)
    two.look(1, vault=False)
    assert len(incidents.by_incident(vault)) == 2
    told = two.look(10)
    assert "resolve" in actions(told, "pagerduty-on-call")  # its own call is over; the older one's goes on
    assert "trigger" in actions(told, "pagerduty-on-call")
    one.look(11)
    older, younger = incidents.by_incident(vault)
    assert (older.open, younger.state) == (True, f"joined {older.id}")
    assert older.raised == {("primary-newyork", "replica-stale"), ("backup-singapore", "failover-wanted")}
    one.alerts = two.alerts = []
    for seconds in (100, 800, 810):
        one.look(seconds)
        two.look(seconds)
    assert [found.open for found in incidents.by_incident(vault)] == [False, False]


def test_an_incident_that_a_person_opened_calls_nobody_and_takes_up_what_happens() -> None:
    vault = [
        Event("20260115T031300Z-abc123", START, "operator:ada", "opened", "customers complain"),
        Event("20260115T031300Z-abc123", START, "operator:ada", "acknowledged"),
    ]
    host = Host(vault=vault)
    host.alerts = [STALE]
    host.look(10)
    host.look(99999)
    (found,) = incidents.by_incident(vault)
    assert found.raised == {("primary-newyork", "replica-stale")} and not found.paged


def test_other_alerts_are_told_once_and_once_when_over_and_open_nothing() -> None:
    host = Host()
    host.alerts = [LATE]
    told = host.look(0)
    assert channels(told) == {"pagerduty-on-call", "webhook", "email"}
    assert {one.message["severity"] for one in told} == {"warning"} and host.vault == []
    assert host.look(2) == []
    host.alerts = []
    assert actions(host.look(4), "pagerduty-on-call") == ["resolve"]
    assert host.look(6) == []
    host.alerts = [LATE]
    assert actions(host.look(8), "webhook") == ["trigger"]


def test_without_contacts_incidents_are_recorded_and_nothing_is_sent() -> None:
    seen = Seen("h", "prod", "genesis", START, [STALE], salt="abcdef")
    told = escalation.look(Memory(), seen, Contacts())
    assert [one.kind for one in told.events] == ["opened", "alert"] and told.messages == ()


def test_a_note_that_is_damaged_is_nothing_remembered() -> None:
    whole = Memory().to_json()
    for raw in (None, {}, {"events": 3}, {**whole, "events": [{}]}, {**whole, "told": 7}):
        assert Memory.parse(raw) == Memory()


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'{"version": 2}', b'{"version": 1, "kind": "bomb", "at": "2026-01-01T00:00:00Z"}']
)
def test_what_isnt_an_event_is_none(raw: bytes) -> None:
    with pytest.raises(ValueError):
        Event.parse(raw)


def test_an_event_is_read_back_as_it_was_and_has_a_key_of_its_own() -> None:
    data: dict[str, Any] = {"alert": "x", "next": "fab status"}
    event = Event("20260115T031400Z-abc123", START, "operator:ada/../x", "alert", "sàys", data)
    assert Event.parse(event.body()) == event
    key = event.key("genesis", "ffff")
    assert key.startswith("incidents/genesis/20260115T031400Z-abc123/20260115T031400000Z-operator-ada-..-x-alert")
    assert incidents.id_of(key, "genesis") == event.incident
    assert incidents.id_of(key, "other") == incidents.id_of("journal/x", "genesis") == ""
