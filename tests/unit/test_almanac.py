"""fab drill --due, --ical, --index."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lab import almanac
from lifeline import held
from lifeline.alerts import Seen, judge
from lifeline.duties import CALENDAR
from lifeline.errors import BadInput, Unavailable
from lifeline.store import MemoryStore

NOW = datetime(2026, 6, 15, 12, 0, tzinfo=UTC)


def report(scenario: str, days_ago: float) -> tuple[str, str]:
    at = NOW - timedelta(days=days_ago)
    figures = {"target_s": 600, "max_s": 1800, "measured_s": 21.4}
    document = {"scenario": scenario, "verdict": "PASS", "started": at.isoformat(), "rto": figures, "rpo": figures}
    return f"{at:%Y%m%dT%H%M%SZ}-{scenario}", json.dumps(document)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "Pulumi.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    for name in ("LIFELINE_STACK", "PULUMI_STACK"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def hold(root: Path, scenario: str, days_ago: float) -> None:
    name, text = report(scenario, days_ago)
    (root / "drills" / name).mkdir(parents=True, exist_ok=True)
    (root / "drills" / name / "report.json").write_text(text)


def test_what_is_due_and_what_to_type(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert almanac.almanac(due=True, now=NOW) == 6
    assert "never passed" in capsys.readouterr().out
    for duty in CALENDAR:
        hold(root, duty.scenarios[0], 3)
    assert almanac.almanac(due=True, now=NOW) == 0
    assert almanac.almanac(due=True, now=NOW + timedelta(days=40)) == 6
    shown = capsys.readouterr().out
    assert "OVERDUE since 2026-07-12" in shown and "next: fab drill --scenario service-restart" in shown


def test_drills_in_the_vault_count_and_a_vault_that_is_away_leaves_it_unknown(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = MemoryStore()
    for duty in CALENDAR:
        name, text = report(duty.scenarios[0], 3)
        store.put(f"drills/{name}/report.json", text.encode())
    monkeypatch.setenv("LIFELINE_STACK", "prod")
    monkeypatch.setattr(almanac, "_store", lambda *_: store)
    assert almanac.almanac(due=True, now=NOW) == 0

    def away(*_: object) -> MemoryStore:
        raise Unavailable("the vault doesn't answer")

    monkeypatch.setattr(almanac, "_store", away)
    assert almanac.almanac(due=True, now=NOW) == 5
    assert "the vault of prod can't be read: the vault doesn't answer" in capsys.readouterr().out
    for duty in CALENDAR:
        hold(root, duty.scenarios[0], 3)
    assert almanac.almanac(due=True, now=NOW) == 0  # the reports here suffice


def test_files_are_written_and_a_place_that_cant_be_is_told(root: Path) -> None:
    assert almanac.almanac(ical="drills.ics", index=True, now=NOW) == 0
    assert (root / "drills.ics").read_bytes().startswith(b"BEGIN:VCALENDAR\r\n")
    assert (root / "drills" / "index.html").exists()
    for name in ("nowhere/drills.ics", str(root), "/proc/drills.ics"):
        with pytest.raises(BadInput):
            almanac.almanac(ical=name, now=NOW)


def test_a_host_alerts_when_a_drill_is_overdue_and_not_before() -> None:
    store = MemoryStore()
    store.put(f"journal/{NOW - timedelta(days=40):%Y%m%dT%H%M%SZ}-provision-abcdef.jsonl", b"")
    name, text = report("complete-failure", 3)
    store.put(f"drills/{name}/report.json", text.encode())
    late = held.overdue(store, NOW)
    assert [one["name"] for one in late] == ["restart"]
    (alert,) = judge(Seen(role="primary", drills=late))
    assert alert.name == "drill-overdue-restart" and "never passed" in alert.says
    assert alert.next.startswith("fab drill --scenario service-restart")
    assert judge(Seen(role="standby", drills=late)) == []  # one host tells
    assert held.overdue(store, NOW - timedelta(days=20)) == []
    assert held.overdue(MemoryStore(), NOW) == []
