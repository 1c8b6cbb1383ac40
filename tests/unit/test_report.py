"""The report: honest about what isn't known, escaped throughout, one file without scripts."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from markupsafe import escape

from lab import report
from lab.chart import Mark, writes_chart
from lifeline.journal import RUN_STARTED, Journal
from lifeline.model import Verdict
from lifeline.objectives import judge_all

EVIL = '<script>alert("x")</script>'
THEN = datetime(2026, 1, 1, tzinfo=UTC)


def document(**changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        **{"scenario": "complete-failure", "title": "Complete failure", "story": "Power is cut.", "stack": "lab"},
        **{"verdict": "PASS", "reasons": [], "started": "2026-01-01T00:00:00.000Z", "seconds": 95.0},
        "criteria": [{"name": "nothing acknowledged is lost", "verdict": "PASS", "says": "600 of 600 survived"}],
        **{"fault_at": "2026-01-01T00:01:00.000Z", "fault": {"host": "primary-newyork"}},
        "rto": {"target_s": 600, "max_s": 1800, "measured_s": 21.4, "beyond_ttl_s": 6.2},
        "rpo": {"target_s": 0, "max_s": 60, "measured_s": 0.0},
        "dns": {"ttl_s": 30, "ttl_left_at_fault_s": 17.0, "changed_after_s": 5.0, "waited_for_ttl_s": 15.2},
        "ledger": {"acknowledged": 600, "survived": 600, "lost": 0, "duplicated": 0, "examples": {}},
        "primary": {"before": "primary-newyork", "after": ["backup-singapore"]},
        "operator": {"command": "fab failover --yes", "exit_code": 0, "seconds": 24.0},
        "steps": [
            {
                **{"name": "the lab is up", "verdict": "PASS", "seconds": 9.0, "started": "", "at_s": -60.0},
                "evidence": {},
            },
            {
                **{"name": "old primary is fenced", "of": "fab failover --yes", "waiver": None, "verdict": "PASS"},
                **{"seconds": 1.5, "started": "", "at_s": 0.9, "evidence": {"says": "it is off", "acted": True}},
            },
        ],
        "writes": [[-2, 58], [-1, 61], *([second, 0] for second in range(21)), [21, 30], [22, 60]],
        "environment": {
            **{"provider": "lab", "cpus": 2, "memory_gib": 7.8, "kernel": "6.1", "machine": "x86_64"},
            **{"versions": {"pulumi": "3.259.0", "apsw": None}, "real": ["hosts"], "simulated": ["the API"]},
        },
        "logs": "/drills/x/logs",
    }
    return {**whole, **changes}


def test_the_page_shows_what_matters() -> None:
    page = report.html(document())
    for text in ("PASS", "21.4 s", "6.2 s beyond the DNS TTL", "old primary is fenced", "it is off", "600 of 600"):
        assert text in page
    assert "<svg" in page and "fault" in page


def test_the_page_holds_it_against_the_procedures_rows() -> None:
    rows = [
        one.to_json() for one in judge_all({"trades": 0.0, "complete failover": 700.0}, ["trades", "complete failover"])
    ]
    page = report.html(document(objectives=rows))
    assert "Against the procedures" in page and "RTO complete failover" in page and "LATE" in page
    assert "Against the procedures" not in report.html(document())  # a report from before that


def test_the_page_needs_nothing_but_itself() -> None:
    page = report.html(document())
    assert not re.search(r"<script|<link|@import|src=|https?://(?!www\.w3\.org)", page)


def journal(folder: Path, *steps: str, name: str = "journal.jsonl") -> Path:
    """A run's, as it is kept beside the report."""
    kept = Journal(folder / name, "run-1")
    kept.write(RUN_STARTED, Verdict.PASS, THEN, 0.0, {})
    for step in steps:
        kept.write(step, Verdict.PASS, THEN, 1.5, {"says": f"seen: {step}", "odd": "a\u2028b"})
    return kept.path


def proved(**place: Any) -> dict[str, Any]:
    found = document()
    found["steps"][1] |= place
    return found


def anchors(page: str) -> tuple[set[str], list[str]]:
    """(the ids there are, the places that links lead to)."""
    return set(re.findall(r' id="([^"]+)"', page)), [unquote(link) for link in re.findall(r'href="#([^"]+)"', page)]


def test_a_step_leads_to_the_line_of_the_journal_that_proves_it(tmp_path: Path) -> None:
    path = journal(tmp_path, "the lease is ours", "old primary is fenced")
    report.write(tmp_path, proved(journal="journal.jsonl", line=3))
    page = (tmp_path / "report.html").read_text()
    ids, links = anchors(page)
    assert ids == {f"journal.jsonl:{number}" for number in (1, 2, 3)} and links == ["journal.jsonl:3"]
    row = page.partition('id="journal.jsonl:3"')[2].partition("</tr>")[0]
    third = path.read_text().split("\n")[2]
    assert "old primary is fenced" in row and escape(third) in row  # word for word
    assert hashlib.sha256(path.read_bytes()).hexdigest() in page


@pytest.mark.parametrize(
    "place",
    [
        {},  # a report from before that
        {"journal": None, "line": None},
        {"journal": "journal.jsonl", "line": 2},  # another step's
        {"journal": "journal.jsonl", "line": 9},
        {"journal": "gone.jsonl", "line": 3},
    ],
)
def test_no_line_is_shown_that_does_not_prove_the_step(place: dict[str, Any], tmp_path: Path) -> None:
    journal(tmp_path, "the lease is ours", "old primary is fenced")
    report.write(tmp_path, proved(**place))
    assert not anchors((tmp_path / "report.html").read_text())[1]


def test_a_journal_that_a_kill_tore_is_shown_as_it_is(tmp_path: Path) -> None:
    path = journal(tmp_path, EVIL)
    path.write_text(path.read_text() + '{"run_id": "<script>')
    report.write(tmp_path, proved(journal="journal.jsonl", line=3))
    page = (tmp_path / "report.html").read_text()
    assert len(anchors(page)[0]) == 3 and "{&#34;run_id&#34;: &#34;&lt;script&gt;" in page and "<script" not in page


def test_several_commands_journals_are_all_there(tmp_path: Path) -> None:
    found = proved(journal="a.jsonl", line=2)
    found["steps"].append({**found["steps"][1], "journal": "b.jsonl"})
    for name in ("a.jsonl", "b.jsonl"):
        journal(tmp_path, "old primary is fenced", name=name)
    report.write(tmp_path, found)
    ids, links = anchors((tmp_path / "report.html").read_text())
    assert links == ["a.jsonl:2", "b.jsonl:2"] and set(links) < ids


def test_everything_from_outside_is_escaped() -> None:
    evil = document(
        title=EVIL,
        story=EVIL,
        reasons=[EVIL],
        criteria=[{"name": EVIL, "verdict": "FAIL", "says": EVIL}],
        ledger={"acknowledged": 1, "survived": 0, "lost": 1, "duplicated": 0, "examples": {"lost": [EVIL]}},
        primary={"before": EVIL, "after": [EVIL]},
    )
    evil["steps"][1]["evidence"] = {EVIL: EVIL, "says": EVIL}
    evil["steps"][1]["name"] = EVIL
    assert "<script" not in report.html(evil)


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    page = report.html(
        document(
            verdict="UNKNOWN",
            fault_at=None,
            rto={"target_s": 600, "max_s": 1800, "measured_s": None, "beyond_ttl_s": None},
            rpo={"target_s": 0, "max_s": 60, "measured_s": None},
            **{"dns": {}, "ledger": None, "operator": None, "writes": [], "steps": []},
            primary={"before": None, "after": []},
        )
    )
    assert page.count("not known") >= 2
    assert "UNKNOWN" in page
    assert not re.search(r'class="big">0(\.0 s)?<', page)  # never a nought for what nobody measured


@pytest.mark.parametrize(
    ("measured", "state"), [(None, "unknown"), (599.0, "good"), (600.0, "good"), (601.0, "fair"), (1801.0, "bad")]
)
def test_a_gauge_tells_target_from_maximum(measured: float | None, state: str) -> None:
    gauge = report._gauge("t", "RTO", {"measured_s": measured, "target_s": 600, "max_s": 1800})
    assert gauge["state"] == state
    assert 0 <= gauge["filled"] <= 100


def test_a_maximum_of_zero_is_no_division() -> None:
    assert report._gauge("t", "RPO", {"measured_s": 0.0, "target_s": 0, "max_s": 0})["state"] == "good"


def test_both_files_are_written_and_latest_follows_the_newest(tmp_path: Path) -> None:
    for name in ("20260101T000000Z-a", "20260102T000000Z-a"):
        report.write(tmp_path / name, document(scenario=name))
    assert (tmp_path / "latest").resolve() == (tmp_path / "20260102T000000Z-a").resolve()
    read = json.loads((tmp_path / "latest" / "report.json").read_text())
    assert read["scenario"] == "20260102T000000Z-a"
    assert (tmp_path / "latest" / "report.html").stat().st_size > 5000


def test_the_summary_gives_the_numbers_and_the_reasons() -> None:
    text = report.summary(document(verdict="FAIL", reasons=["nothing acknowledged is lost: FAIL, 3 gone"]), Path("/d"))
    assert "FAIL" in text and "21.4 s" in text and "3 gone" in text and "/d/report.html" in text


# -- the chart


def test_the_chart_has_a_bar_for_each_second_with_writes() -> None:
    svg = writes_chart([[-1, 5], [0, 0], [1, 3]], [Mark(0.0, "fault", "bad"), Mark(1.2, "writes again", "good")])
    assert svg.count('class="bar"') == 2
    assert svg.count('class="mark') == 2 and 'class="outage"' in svg


def test_the_chart_is_empty_without_data() -> None:
    assert writes_chart([], []) == ""


def test_bars_stay_inside_and_the_tallest_second_is_the_tallest_bar() -> None:
    svg = writes_chart([[second, second * 7 % 61] for second in range(300)], [])
    bars = [(float(y), float(h)) for y, h in re.findall(r'class="bar".*? y="([\d.]+)" height="([\d.]+)"', svg)]
    assert all(y >= 46 and y + h <= 280 - 34 + 0.1 for y, h in bars)
    assert max(h for _, h in bars) > 150
