"""Incidents for the person in one: their verbs, their records here and in the vault, and the report made of them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lifeline import incidents, postmortem
from lifeline.errors import BadInput, Refused
from lifeline.incidents import Event, Kind
from lifeline.journal import Journal
from lifeline.model import Verdict
from runbooks import incident as verbs
from runbooks import status
from runbooks.records import Records
from runbooks.site import Site
from tests.unit.world import World

ROOT = Path(__file__).resolve().parents[2]
START = datetime(2026, 1, 1, tzinfo=UTC)  # the world's clock begins here
ID = "20260101T000000Z-abc123"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def said(site: Site) -> str:
    assert isinstance(site.out, io.StringIO)
    return site.out.getvalue()


def event(seconds: float, kind: Kind, says: str = "", who: str = "primary-newyork", **data: Any) -> Event:
    return Event(ID, START + timedelta(seconds=seconds), who, kind, says, data)


def test_from_open_to_closed(world: World) -> None:
    site = world.process()
    opened = verbs.open_incident(site, "customers complain")
    assert (opened.state, opened.title) == ("acknowledged", "customers complain")  # whoever opens it has it
    with pytest.raises(Refused, match="customers complain"):
        verbs.open_incident(site, "again")
    world.clock.now = 60
    verbs.note(site, "the exchange is up")
    verbs.note(site, "a cable", "cause")
    world.clock.now = 125
    closed = verbs.close(site)
    assert closed.state == "closed" and "closed after 2 min 5 s" in said(site)
    assert [one.kind for one in closed.events] == ["opened", "acknowledged", "note", "note", "closed"]
    with pytest.raises(BadInput, match="no incident is open"):
        verbs.note(site, "too late")
    assert verbs.note(site, "check cables", "action").id == opened.id  # what is learnt afterwards belongs to it
    assert [one.id for one in verbs.show(site)] == [opened.id]


def test_what_hosts_wrote_is_taken_up_and_an_acknowledgement_is_there_for_them(world: World) -> None:
    site = world.process()
    for one in (event(0, "opened", "silent"), event(0, "alert", "silent", alert="failover-wanted")):
        site.vault.put(one.key("genesis", "00"), one.body())
    found = verbs.acknowledge(site)
    assert (found.id, found.state) == (ID, "acknowledged")
    there = [Event.parse(site.vault.get(key) or b"") for key, _ in site.vault.keys("incidents/genesis/")]
    assert [one.kind for one in incidents.told(there).events] == ["opened", "alert", "acknowledged"]
    verbs.acknowledge(site)
    assert len(list(site.vault.keys("incidents/genesis/"))) == 3
    verbs.close(site)
    assert "failover-wanted on primary-newyork is still raised" in said(site)


def test_with_the_vault_away_everything_works_and_is_brought_there_later(world: World) -> None:
    site = world.process()
    world.down.add("vault")
    opened = verbs.open_incident(site, "the vault is away")
    assert "not yet in the vault" in said(site)
    verbs.note(site, "still away")
    world.down.remove("vault")
    assert [one.id for one in verbs.show(site)] == [opened.id]
    assert len(list(site.vault.keys("incidents/genesis/"))) == 3


def test_a_note_holds_no_secret_and_says_something(world: World) -> None:
    site = world.process()
    verbs.open_incident(site, "x")
    found = verbs.note(site, "its key is vault-secret-1, isn't it?")
    assert found.events[-1].says == "its key is ***, isn't it?"
    for text in ("", "  \n "):
        with pytest.raises(BadInput):
            verbs.note(site, text)
    with pytest.raises(BadInput, match="no part of a report"):
        verbs.note(site, "x", "weather")


def test_records_that_are_damaged_or_elsewhere_are_told_and_stop_nothing(world: World) -> None:
    site = world.process()
    verbs.open_incident(site, "x")
    records = Records(world.root / ".lifeline" / "lab", "genesis", site.vault)
    other = Event("20260101T000000Z-ffffff", START, "x", "note", "y")
    for name, body in ((f"{ID}/torn.json", b"{"), (f"{ID}/moved.json", other.body())):
        path = records.here / "incidents/genesis" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(body)
    found, problems = records.events()
    assert len(found) == 2 and len(problems) == 2


# -- the report


def journal(
    site: Site, seconds: float, *steps: tuple[str, Verdict, float, dict[str, Any]], finished: bool = True
) -> None:
    """A run of `fab failover` that began so many seconds after the incident."""
    at = START + timedelta(seconds=seconds)
    run = f"{at:%Y%m%dT%H%M%SZ}-failover-0000{int(seconds) % 90 + 10}"
    written = Journal(site.journals / f"{run}.jsonl", run)
    written.write("run started", Verdict.PASS, at, 0, {"runbook": "failover"})
    for step, verdict, took, evidence in steps:
        written.write(step, verdict, at, took, evidence)
    if finished:
        written.write("run finished", Verdict.PASS, at, 40.0, {})


def disaster(site: Site) -> None:
    records = Records(site.root / ".lifeline" / "lab", "genesis", site.vault)
    lost = {"alert": "failover-wanted", "since": "2025-12-31T23:59:50Z", "next": "fab failover --yes"}
    for one in (
        event(0, "opened", "the primary is silent", "backup-singapore"),
        event(0, "alert", "the primary is silent", "backup-singapore", **lost),
        event(0, "paged", "L2 on-call engineer", "backup-singapore", level="on-call"),
        event(90, "acknowledged", "", "pagerduty:Ada"),
        event(500, "over", "", "backup-singapore", alert="failover-wanted"),
    ):
        records.add(one)
    acted = {"acted": True, "says": "it is off"}
    journal(
        site,
        120,
        ("the old primary is fenced", Verdict.PASS, 4.0, acted),
        ("data is final", Verdict.PASS, 1.0, {}),
        ("an outside write round-trips", Verdict.PASS, 30.0, {"says": "through trade.genesis.test"}),
    )
    journal(site, -7200, ("long ago", Verdict.PASS, 1.0, {"acted": True}))


def test_the_report_follows_the_template_and_knows_what_can_be_known(world: World) -> None:
    site = world.process()
    disaster(site)
    world.clock.now = 600
    path = verbs.report(site)
    text = path.read_text()
    headings = ["**Date**", "**Duration**", "**Impact**", "### Timeline", "### Root Cause", "### Resolution"]
    places = [text.index(heading) for heading in [*headings, "### Action Items", "### Lessons Learned"]]
    assert places == sorted(places)
    assert "**Date**: 2026-01-01" in text and "2025-12-31 23:59:50 UTC - **[A PERSON: it isn't closed" in text
    # From the alert's own beginning to the end of the step that proved a write: 10 s before, 120 s and 30 s after.
    assert "2 min 40 s (target < 10 min" not in text and "2 min 40 s (target 10 min, maximum 30 min: PASS)" in text
    assert "called: on-call; acknowledged after 1 min 30 s by pagerduty:Ada" in text
    assert "fab failover: PASS after 40 s" in text and "the old primary is fenced, PASS, 4.0 s: it is off" in text
    assert "data is final" not in text and "long ago" not in text  # what did nothing is no event
    times = [line[2:10] for line in text.splitlines() if line.startswith("- 0") and line[4] == ":"]
    assert times == sorted(times) and len(times) >= 8
    assert "were acknowledged writes lost" in text  # never assumed
    assert text.count("**[A PERSON:") == int(said(site).split(" places need")[0].split()[-1])


def test_notes_take_the_place_of_questions(world: World) -> None:
    site = world.process()
    disaster(site)
    world.clock.now = 600
    before = verbs.report(site).read_text().count("**[A PERSON:")
    for part in ("impact", "cause", "resolution", "action", "lesson"):
        verbs.note(site, f"about {part} <b> | x", part)
    world.clock.now = 700
    verbs.close(site)
    text = verbs.report(site).read_text()
    assert before - text.count("**[A PERSON:") == 5  # impact, cause, action, lesson, and that it isn't closed
    assert "- [ ] about action &lt;b> \\| x" in text and "700" not in text


def test_a_report_that_was_worked_on_stays_and_is_what_is_published(world: World) -> None:
    site = world.process()
    disaster(site)
    path = verbs.report(site)
    path.write_text("## worked on")
    fresh = verbs.report(site)
    assert fresh != path and path.read_text() == "## worked on"
    verbs.report(site, publish=True)
    (key,) = [key for key, _ in site.vault.keys("incidents/") if key.endswith(".md")]
    assert site.vault.get(key) == b"## worked on"


def test_a_report_is_due_24_hours_after_the_end_until_it_is_published(world: World) -> None:
    site = world.process()
    opened = verbs.open_incident(site, "customers complain")
    world.clock.now = 86400 * 2
    assert not status.gather(site)["reports_due"]  # it isn't over
    verbs.close(site)
    world.clock.now += 86399
    assert not status.gather(site)["reports_due"]
    world.clock.now += 1
    status.status(site)
    assert f"DUE of incident {opened.id}, which ended 2026-01-03" in said(site)
    verbs.report(site)
    assert status.gather(site)["reports_due"]
    verbs.report(site, publish=True)
    assert not status.gather(site)["reports_due"]


def test_an_incident_that_joined_another_needs_no_report_of_its_own() -> None:
    ended = [event(0, "opened"), event(60, "joined", into="another"), event(61, "closed")]
    keys = [one.key("genesis", "0a1b") for one in ended]
    assert incidents.reports_due(keys, "genesis", START + timedelta(days=3)) == {}
    assert list(incidents.reports_due(keys[2:], "genesis", START + timedelta(days=3))) == [ID]
    assert incidents.reports_due(["incidents/genesis/notes.txt"], "genesis", START) == {}


def test_a_report_needs_an_incident_and_a_name_that_is_one_s(world: World) -> None:
    site = world.process()
    with pytest.raises(BadInput, match="no incident is on record"):
        verbs.report(site)
    disaster(site)
    with pytest.raises(BadInput, match="names 0 incidents"):
        verbs.report(site, "1999")
    with pytest.raises(BadInput, match="to publish"):
        verbs.report(site, publish=True)


def test_a_run_that_was_killed_and_an_outage_without_an_end_are_told(world: World) -> None:
    site = world.process()
    records = Records(site.root / ".lifeline" / "lab", "genesis", site.vault)
    records.add(event(0, "opened", "x"))
    world.clock.now = 100
    journal(site, 10, ("the old primary is fenced", Verdict.UNKNOWN, 4.0, {}), finished=False)
    text = verbs.report(site).read_text()
    assert "was begun and never ended" in text and "from when to when could clients not write?" in text
    assert "the old primary is fenced, UNKNOWN" in text


def test_a_journal_with_nonsense_in_it_stops_no_report() -> None:
    runs: list[list[dict[str, Any]]] = [[], [{"step": 3}], [{"started": "2026-01-01T00:00:00Z"}, {"started": "never"}]]
    text = postmortem.report(incidents.told([event(0, "opened", "x")]), runs, START, "genesis")
    assert "## Incident Post-Mortem: x" in text


# -- in `fab status`


def test_status_begins_with_the_incident_and_with_ways_that_lead_nowhere() -> None:
    down = {"waiting": 3, "oldest_s": 9.0, "problem": "HTTP 500", "refused": None}
    fine = {"waiting": 0, "oldest_s": None, "problem": None, "refused": None}
    hosts: list[dict[str, Any]] = [
        {"name": "a", "herald": {"incident": ID, "state": "open", "queues": {"webhook": down, "email": fine}}},
        {"name": "b", "herald": {"incident": ID, "state": "open", "queues": {}}},
        {"name": "c", "error": "doesn't answer"},
    ]
    first, way = status._incident(hosts)
    assert ID in first and "next: fab incident ack" in first
    assert way.strip() == "a can't reach webhook: HTTP 500; 3 messages wait"
    assert status._incident([{"name": "a", "herald": {}}]) == []


# -- the command line


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["note"], 1, "did not receive required positional arguments: 'words'"),
        (["note", "a text", "--as", "cause"], 3, "LIFELINE_STACK"),
        (["list"], 3, "LIFELINE_STACK"),
        (["bogus"], 2, "fab --help incident"),
    ],
)
def test_words_are_taken_where_they_are_called_for(words: list[str], code: int, says: str, tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").write_text("")
    fab = [sys.executable, "-m", "fabric", "--search-root", str(ROOT), "incident", *words]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(fab, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (done.returncode, says in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr


def test_json_for_programs(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    site = world.process()
    disaster(site)
    verbs.show(site, as_json=True)
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["id"], found["state"], len(found["events"])) == (ID, "recovered", 5)
