"""What drills are due, from those that were held; and the calendar file."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from lifeline import duties, held
from lifeline.duties import CALENDAR, Duty, Held, ical, standings
from lifeline.store import MemoryStore

NOW = datetime(2026, 6, 15, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
MONTHLY = Duty("failover", "Failover", 1, ("complete-failure", "network-partition"))


def drill(days_ago: float, verdict: str = "PASS", scenario: str = "complete-failure") -> Held:
    return Held(scenario, NOW - DAY * days_ago, verdict)


def standing(*drills: Held, since: datetime | None = None) -> duties.Standing:
    (found,) = standings(drills, NOW, since, [MONTHLY])
    return found


@pytest.mark.parametrize(
    ("drills", "state"),
    [
        ([drill(1)], "held"),
        ([drill(23)], "held"),
        ([drill(25)], "due"),  # a week ahead it is told
        ([drill(30.9)], "due"),
        ([drill(31)], "overdue"),
        ([drill(40), drill(2, "FAIL")], "overdue"),  # only a drill that passed is one
        ([drill(40), drill(2, "UNKNOWN")], "overdue"),
        ([drill(40), drill(2, scenario="memory-leak")], "overdue"),  # another duty's scenario serves nothing here
        ([drill(40), drill(2, scenario="network-partition")], "held"),
        ([drill(40), drill(-3)], "overdue"),  # from the future: a clock was wrong
        ([], "never"),
    ],
)
def test_what_is_due(drills: list[Held], state: str) -> None:
    assert standing(*drills).state == state


def test_a_deployment_has_one_period_for_its_first_drill() -> None:
    assert standing(since=NOW - 3 * DAY).state == "due"
    found = standing(since=NOW - 32 * DAY)
    assert (found.state, found.last) == ("overdue", None)
    assert "never passed" in found.says and found.command == "fab drill --scenario complete-failure"


def test_months_end_where_they_end() -> None:
    january = datetime(2026, 1, 31, tzinfo=UTC)
    assert [f"{duties.months_later(january, count):%Y-%m-%d}" for count in (1, 2, 3, 12)] == [
        *("2026-02-28", "2026-03-31", "2026-04-30", "2027-01-31")
    ]
    assert f"{duties.months_later(datetime(2028, 2, 29, tzinfo=UTC), 12):%Y-%m-%d}" == "2029-02-28"


def test_the_calendar_is_that_of_the_procedures() -> None:
    assert {duty.name: duty.months for duty in CALENDAR} == {"restart": 1, "failover": 1, "recovery": 3, "rebuild": 12}
    assert len(standings([], NOW)) == 4
    assert duties.table(standings([], NOW)).count("next: fab drill --scenario") == 4


# -- reports, where they lie


def report(scenario: str, at: datetime, verdict: str = "PASS") -> dict[str, object]:
    return {
        **{"scenario": scenario, "verdict": verdict, "started": at.isoformat(), "title": scenario.title()},
        "rto": {"target_s": 600, "max_s": 1800, "measured_s": 21.4},
        "rpo": {"target_s": 0, "max_s": 60, "measured_s": None},
        "ledger": {"lost": 0},
    }


def test_reports_are_read_from_a_folder_and_damaged_ones_told(tmp_path: Path) -> None:
    for number, text in enumerate([json.dumps(report("x", NOW)), "{torn", json.dumps({"scenario": "y"}), "[]"]):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "report.json").write_text(text)
    (tmp_path / "latest").symlink_to("0")
    found, problems = held.in_folder(tmp_path)
    assert [(one.scenario, one.rto_s, one.rpo_s, one.lost, one.name) for one in found] == [("x", 21.4, None, 0, "0")]
    assert len(problems) == 3
    assert held.in_folder(tmp_path / "nothing") == ([], [])


def test_a_store_tells_the_newest_pass_of_each_scenario_and_what_was_held_since() -> None:
    store = MemoryStore()
    for days, scenario, verdict in ((40, "a", "PASS"), (9, "a", "PASS"), (3, "a", "FAIL"), (5, "b", "UNKNOWN")):
        at = NOW - DAY * days
        store.put(
            f"drills/{at:%Y%m%dT%H%M%SZ}-{scenario}/report.json", json.dumps(report(scenario, at, verdict)).encode()
        )
    store.put(f"drills/{NOW:%Y%m%dT%H%M%SZ}-a/report.json", b"{torn")
    store.put(f"drills/{NOW:%Y%m%dT%H%M%SZ}-a/report.html", b"<p>")
    found = {(one.scenario, one.verdict, (NOW - one.at).days) for one in held.in_store(store)}
    assert found == {("a", "PASS", 9), ("a", "FAIL", 3), ("b", "UNKNOWN", 5)}


def test_what_is_read_of_a_store_is_bounded() -> None:
    store = MemoryStore()
    for number in range(60):
        at = NOW - timedelta(minutes=number)
        for kind, verdict in (("power-cut-ttl10", "PASS"), ("frozen-ttl10", "FAIL")):
            key = f"drills/{at:%Y%m%dT%H%M%SZ}-{kind}/report.json"
            store.put(key, json.dumps(report(kind[:-6], at, verdict)).encode())
    before = store.asked["GetObject"]
    held.in_store(store)
    assert store.asked["GetObject"] - before == held.ENOUGH + 1


def test_a_deployment_begins_with_its_first_journal() -> None:
    store = MemoryStore()
    assert held.first_run(store) is None
    for key in ("journal/20260203T101112Z-provision-ab12cd.jsonl", "journal/20260301T000000Z-failover-ab12cd.jsonl"):
        store.put(key, b"")
    store.put("journal/0-not-a-run", b"")
    assert held.first_run(store) == datetime(2026, 2, 3, 10, 11, 12, tzinfo=UTC)


# -- the calendar file


def components(text: str) -> list[dict[str, str]]:
    """Its events, by a reader of its own: unfolded, then NAME[;PARAMS]:VALUE."""
    assert text.endswith("\r\n") and "\n" not in text.replace("\r\n", "")
    assert all(len(line.encode()) <= 75 for line in text.split("\r\n"))
    lines = text.replace("\r\n ", "").split("\r\n")[:-1]
    assert (lines[0], lines[-1]) == ("BEGIN:VCALENDAR", "END:VCALENDAR")
    open_: list[str] = []
    events: list[dict[str, str]] = []
    for line in lines:
        name, _, value = line.partition(":")
        if name == "BEGIN":
            open_.append(value)
            if value == "VEVENT":
                events.append({})
        elif name == "END":
            assert open_.pop() == value
        elif open_[-1] == "VEVENT":
            assert name not in events[-1]
            events[-1][name] = value
    assert not open_
    return events


def test_the_file_has_an_event_for_each_duty() -> None:
    events = components(ical(standings([drill(10)], NOW), "prod", NOW))
    assert len(events) == 4 and len({event["UID"] for event in events}) == 4
    by_uid = {event["UID"].partition("@")[0]: event for event in events}
    assert by_uid["failover"]["DTSTART;VALUE=DATE"] == "20260705"
    assert by_uid["failover"]["RRULE"] == "FREQ=MONTHLY;INTERVAL=1"
    assert by_uid["recovery"]["RRULE"] == "FREQ=MONTHLY;INTERVAL=3"
    assert by_uid["rebuild"]["RRULE"] == "FREQ=YEARLY"
    assert by_uid["rebuild"]["DTSTAMP"] == "20260615T120000Z"
    assert "fab drill --scenario rebuild" in by_uid["rebuild"]["DESCRIPTION"].replace("\\,", ",")


def test_what_is_overdue_is_for_today_and_the_file_stays_the_same_event() -> None:
    before, after = (components(ical(standings(past, NOW), "prod", NOW))[1] for past in ([drill(99)], [drill(1)]))
    assert before["DTSTART;VALUE=DATE"] == "20260615"
    assert before["UID"] == after["UID"]  # an import again moves it


def test_a_day_that_not_every_month_has_becomes_the_last_there_is() -> None:
    event = components(ical(standings([drill(15)], NOW, None, [MONTHLY]), "s", NOW))[0]
    assert (event["DTSTART;VALUE=DATE"], event["RRULE"]) == (
        *("20260630", "FREQ=MONTHLY;INTERVAL=1;BYMONTHDAY=28,29,30;BYSETPOS=-1"),
    )
    yearly = Duty("rebuild", "Rebuild", 12, ("rebuild",))
    leap = [Held("rebuild", datetime(2028, 2, 29, tzinfo=UTC), "PASS")]
    now = datetime(2028, 2, 29, tzinfo=UTC)
    found = standings(leap, now, None, [yearly])
    assert components(ical(found, "s", now))[0]["RRULE"] == "FREQ=YEARLY"  # due on 28 February 2029
    assert found[0].due_at is not None and found[0].due_at.date() == date(2029, 2, 28)


def test_texts_are_escaped_and_folded_between_characters() -> None:
    odd = Duty("odd", "Ünïcode; with, everything\\ and\nmore " + "ü" * 60, 1, ("x",))
    text = ical(standings([], NOW, NOW, [odd]), 'a"b c/\r\nEVIL:1', NOW)
    (event,) = components(text)
    assert event["SUMMARY"].startswith("Drill: Ünïcode\\; with\\, everything\\\\ and\\nmore ü")
    assert "ü" * 60 in event["SUMMARY"]
    assert not re.search(r"^EVIL", text, re.MULTILINE)
