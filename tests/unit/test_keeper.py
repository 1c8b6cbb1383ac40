"""The keeper's rounds with a fake clock and a fake lifeline-host, and its alerts."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lifeline import alerts, keeper
from lifeline.alerts import Alert, Seen
from lifeline.errors import StepFailed
from lifeline.keeper import Keeper
from lifeline.layout import read_alerts, read_jobs, write_role
from tests.unit.hostkit import config

START = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


class Host:
    """lifeline-host, and a clock that only moves when it is told to."""

    def __init__(self, root: Path, role: Any = "primary") -> None:
        self.config, self.seconds, self.asked = config(root), 0.0, []  # type: ignore[var-annotated]
        self.successes: dict[str, str] = {}
        self.others: list[str] = []
        self.broken: str | None = None
        self.catalogue_down = False
        write_role(self.config.layout, role, 1)
        self.keeper = Keeper(lambda: self.config, self.ask, now=self.now, elapsed=lambda: self.seconds, settle_s=120)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def ask(self, *words: str, timeout: float) -> dict[str, Any]:
        if words == ("catalogue",):
            if self.catalogue_down:
                raise StepFailed("the vault doesn't answer")
            return {"successes": dict(self.successes), "verification": None}
        if words[0] in ("offsite", "prune"):
            self.others.append(words[0])
            return {}
        self.asked.append(" ".join(words))
        if self.broken:
            raise StepFailed(self.broken)
        name = {"backup --full": "backup-full", "backup": "backup-incremental"}.get(self.asked[-1], "verify-weekly")
        self.successes[name] = self.now().isoformat()
        return {"key": "k", "verdict": "PASS"}

    def run(self, seconds: float) -> None:
        end = self.seconds + seconds
        while self.seconds < end:
            self.seconds += 2
            self.keeper.look(self.config)


def test_a_new_primary_settles_then_makes_its_first_backup_once(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.run(110)
    assert host.asked == []
    host.run(60)
    assert host.asked == ["backup --full"]
    host.run(3600)
    assert host.asked == ["backup --full"]
    host.run(3 * 3600)
    assert host.asked == ["backup --full", "backup"]
    # Every minute the mirror, once a day the pruning; neither leaves anything in the catalogue.
    assert 230 <= host.others.count("offsite") <= 250 and host.others.count("prune") == 1
    assert read_jobs(host.config.layout)["backup-full"]["verdict"] == "PASS"


def test_a_standby_verifies_and_a_host_without_a_role_does_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path, "standby")
    host.run(300)
    assert host.asked == ["prove --scheduled --weekly"]
    write_role(host.config.layout, "none", 1)
    host.run(48 * 3600)
    assert len(host.asked) == 1


def test_a_failing_job_alerts_is_tried_again_with_pauses_and_the_alert_ends(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.broken = "the disk is full"
    host.run(150)
    assert host.asked == ["backup --full", "backup"]  # where the full one fails, the other may not
    host.run(3600)
    assert 3 <= host.asked.count("backup --full") <= 5
    (alert,) = [one for one in read_alerts(host.config.layout) if one["name"] == "failed-backup-full"]
    assert "the disk is full" in alert["says"] and alert["next"] and alert["since"]
    host.broken = None
    host.run(3600)
    assert [one for one in read_alerts(host.config.layout) if one["name"].startswith("failed")] == []


def test_while_the_catalogue_cant_be_read_nothing_runs_and_that_is_said(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.catalogue_down = True
    host.run(600)
    assert host.asked == []
    assert "catalogue-unreadable" in [one["name"] for one in read_alerts(host.config.layout)]
    host.catalogue_down = False
    host.run(200)
    assert host.asked == ["backup --full"]
    assert "catalogue-unreadable" not in [one["name"] for one in read_alerts(host.config.layout)]


def test_a_keeper_that_is_restarted_knows_from_the_catalogue_what_was_done(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.run(200)
    host.keeper = Keeper(lambda: host.config, host.ask, now=host.now, elapsed=lambda: host.seconds, settle_s=120)
    host.run(600)
    assert host.asked == ["backup --full"]


def test_a_job_cut_off_in_its_middle_is_run_again(tmp_path: Path) -> None:
    host = Host(tmp_path)
    keeper.note_job(host.config.layout, "backup-full", {"slot": "2026-01-02T02:00:00Z", "verdict": "RUNNING"})
    host.run(200)
    assert host.asked == ["backup --full"]


def test_late_jobs_are_told(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.successes = {"backup-full": "2026-01-02T02:00:00+00:00", "backup-incremental": "2026-01-02T12:00:00+00:00"}
    host.run(130)
    host.broken = "no"
    host.run(16 * 3600)
    names = [one["name"] for one in read_alerts(host.config.layout)]
    assert "late-backup-full" in names


def test_lifeline_hosts_own_words_are_the_jobs_failure(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text(f"#!{sys.executable}\nprint('{json.dumps({'error': 'no room'})}')\nraise SystemExit(6)\n")
    tool.chmod(0o755)
    with pytest.raises(StepFailed, match="no room"):
        keeper.ask_host(tool, "backup", timeout=20)


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        (Seen("primary", disk_free=100 << 20), "disk-short"),
        (Seen("primary", largest_database=10 << 30, disk_free=12 << 30), "disk-short"),
        (Seen("standby", memory_available=50 << 20), "memory-short"),
        (Seen("primary", replica_age_s=61), "replica-stale"),
        (Seen("standby", verification={"verdict": "FAIL", "at": "x"}), "verification"),
        (Seen("standby", verification={"verdict": "UNKNOWN", "at": "x"}), "verification"),
        (Seen("primary", late=[("backup-full", START)]), "late-backup-full"),
        (Seen("primary", failed={"backup": "why"}), "failed-backup"),
        (Seen("primary", keeper_error="why"), "catalogue-unreadable"),
    ],
)
def test_each_reason_for_an_alert(seen: Seen, name: str) -> None:
    (alert,) = alerts.judge(seen)
    assert alert.name == name and alert.says and alert.next


def test_nothing_wrong_is_no_alert() -> None:
    fine = Seen("primary", (), {}, 1 << 20, 10 << 30, 1 << 30, 1.0, {"verdict": "PASS", "at": "x"}, None)
    assert alerts.judge(fine) == []
    assert alerts.judge(Seen("standby", replica_age_s=1000)) == []  # a standby's lag is the failover's business


def test_an_alert_keeps_its_beginning_and_is_told_once() -> None:
    first = [Alert("a", "x", "n"), Alert("b", "x", "n")]
    current, new, over = alerts.merged([], first, "t1")
    assert len(new) == 2 and over == []
    current, new, over = alerts.merged(current, [Alert("a", "worse", "n")], "t2")
    assert [(one.since, one.says) for one in current] == [("t1", "worse")] and new == [] and over[0].name == "b"
