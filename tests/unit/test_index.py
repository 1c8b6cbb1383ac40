"""The page over all drills."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lab import index
from lab.trend import Point, trend_chart
from lifeline.duties import CALENDAR, Held

NOW = datetime(2026, 6, 15, 12, 0, tzinfo=UTC)
EVIL = '<script>alert("x")</script>'


def drill(days_ago: float, scenario: str = "complete-failure", **changes: object) -> Held:
    at = NOW - timedelta(days=days_ago)
    whole = Held(scenario, at, "PASS", f"{at:%Y%m%dT%H%M%SZ}-{scenario}", 21.4, 0.0, 600, 1800, 0, 60, 0, scenario)
    return replace(whole, **changes)  # type: ignore[arg-type]


def held_in_time() -> list[Held]:
    """One drill for each duty."""
    return [drill(3, duty.scenarios[0]) for duty in CALENDAR]


def verdict(drills: list[Held]) -> str:
    found = re.search(r'class="verdict (\w+)"', index.html(drills, [], NOW))
    assert found
    return found[1]


def test_the_page_is_green_only_with_evidence_for_everything() -> None:
    assert verdict(held_in_time()) == "PASS"
    assert verdict([]) == "UNKNOWN"
    assert verdict([one for one in held_in_time() if one.scenario != "rebuild"]) == "UNKNOWN"  # never rebuilt
    assert verdict([drill(40, "service-restart"), *held_in_time()[1:]]) == "UNKNOWN"  # overdue
    assert verdict([*held_in_time(), drill(1, verdict="FAIL")]) == "FAIL"
    assert verdict([*held_in_time(), drill(1, verdict="UNKNOWN")]) == "UNKNOWN"
    assert verdict([*held_in_time(), drill(1, verdict="FAIL"), drill(0.5)]) == "PASS"  # the newest counts


def test_the_page_says_what_is_overdue_and_what_to_type() -> None:
    page = index.html([drill(70), drill(40)], [], NOW)
    assert "OVERDUE since" in page and "fab drill --scenario complete-failure" in page


def test_it_needs_nothing_but_itself_and_escapes_what_comes_from_reports() -> None:
    evil = drill(1, EVIL, title=EVIL, name=EVIL, verdict=EVIL)
    page = index.html([*held_in_time(), evil], [EVIL], NOW)
    assert "<script" not in page
    assert not re.search(r"<link|@import|src=|https?://(?!www\.w3\.org)", page)


def test_what_is_not_known_is_no_dot_at_nought() -> None:
    page = index.html([drill(2, rto_s=None, rpo_s=None, lost=None)], [], NOW)
    assert "UNKNOWN" in page and "<circle" not in page and page.count('<path class="mark unknown"') == 2


def test_charts_are_sound_and_keep_within_themselves() -> None:
    points = [
        Point(NOW - timedelta(days=days), value, "good", "a & b") for days, value in ((9, 20.0), (5, None), (1, 700.0))
    ]
    chart = trend_chart(points, 600, 1800, "RTO & more")
    root = ElementTree.fromstring(chart)
    dots = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in root.iter("circle")]
    assert len(dots) == 2 and all(0 <= x <= 460 and 0 <= y <= 150 for x, y in dots)
    assert dots[0][0] < dots[1][0] and dots[0][1] > dots[1][1]  # later to the right, longer further up
    assert len(list(root.iter("polyline"))) == 1
    assert {line.get("class") for line in root.iter("line")} >= {"limit target", "limit maximum"}


def test_a_target_far_away_doesnt_press_the_points_to_the_floor() -> None:
    root = ElementTree.fromstring(trend_chart([Point(NOW, 20.0, "good", "")], 600, 1800, ""))
    assert float(next(iter(root.iter("circle"))).get("cy", "")) < 60
    assert trend_chart([], 1, 2, "") == ""
    ElementTree.fromstring(trend_chart([Point(NOW, 0.0, "good", "")], 0, 60, ""))


def test_it_is_written_from_the_reports_that_are_there(tmp_path: Path) -> None:
    folder = tmp_path / "20260614T120000Z-complete-failure"
    folder.mkdir()
    figures = {"target_s": 600, "max_s": 1800, "measured_s": 21.4}
    document = {"scenario": "complete-failure", "verdict": "PASS", "started": "2026-06-14T12:00:00Z", "rto": figures}
    (folder / "report.json").write_text(json.dumps({**document, "rpo": {**figures, "measured_s": 0.0}}))
    path = index.write(tmp_path, NOW)
    assert path == tmp_path / "index.html"
    page = path.read_text()
    assert f'href="{folder.name}/report.html"' in page and "21 s" in page


def test_after_a_drill_it_is_written_or_said_why_not(tmp_path: Path) -> None:
    said: list[str] = []
    index.refresh(tmp_path, said.append)
    (tmp_path / "file").write_text("")
    index.refresh(tmp_path / "file", said.append)
    assert str(tmp_path / "index.html") in said[0] and "can't be written" in said[1]


@pytest.mark.parametrize("rule", ["prefers-color-scheme: dark", "@media print", "width=device-width"])
def test_it_is_readable_by_day_by_night_on_paper_and_on_a_phone(rule: str) -> None:
    assert rule in index.html(held_in_time(), [], NOW)
