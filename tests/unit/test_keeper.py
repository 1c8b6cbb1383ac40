"""The keeper's rounds with a fake clock and a fake lifeline-host, and its alerts."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lifeline import agent_http, alerts, deadman, keeper, logs, proc, roles, room
from lifeline.alerts import Alert, Seen
from lifeline.errors import StepFailed
from lifeline.keeper import Keeper
from lifeline.layout import Config, read_alerts, read_jobs, write_role
from tests.unit.hostkit import config

START = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


class Host:
    """lifeline-host, and a clock that only moves when it is told to."""

    def __init__(self, root: Path, role: Any = "primary") -> None:
        self.config, self.seconds, self.asked = config(root), 0.0, []  # type: ignore[var-annotated]
        self.successes: dict[str, str] = {}
        self.others: list[str] = []
        self.broken: str | None = None
        self.verdict = "PASS"
        self.verification: dict[str, str] | None = None
        self.catalogue_down = self.mirror_broken = False
        self.jumped = timedelta(0)
        self.forced: dict[str, str] = {}
        write_role(self.config.layout, role, 1)
        self.takes, self.stopped, self.together = 0.0, [], 0  # type: ignore[var-annotated]
        self.keeper = self.another()

    def another(self) -> Keeper:
        return Keeper(lambda: self.config, self.ask, self.start, now=self.now, elapsed=lambda: self.seconds)

    def start(self, _: Config, words: tuple[str, ...]) -> Any:
        self.together += 1
        assert self.together == 1, "two jobs at a time"
        return FakeWork(self, words, self.seconds + self.takes)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds) + self.jumped

    def ask(self, *words: str, timeout: float) -> dict[str, Any]:
        if words == ("catalogue",):
            if self.catalogue_down:
                raise StepFailed("the vault doesn't answer")
            return {"successes": {**self.successes, **self.forced}, "verification": self.verification}
        if words[0] in ("offsite", "prune", "logs", "evidence"):
            self.others.append(words[0])
            if words[0] == "offsite" and self.mirror_broken:
                raise StepFailed("the off-site vault doesn't answer")
            return {}
        self.asked.append(" ".join(words))
        if self.broken:
            raise StepFailed(self.broken)
        name = {"backup --full": "backup-full", "backup": "backup-incremental"}.get(self.asked[-1], "verify-weekly")
        if name.startswith("verify"):
            self.proved(self.verdict)
        else:
            self.successes[name] = self.now().isoformat()
        return {"key": "k", "verdict": self.verdict}

    def proved(self, verdict: str) -> None:
        """A verification is in the catalogue; catalogue.summary says what counts."""
        self.verification = {"at": self.now().isoformat(), "verdict": verdict}
        if verdict != "UNKNOWN":
            self.successes["verify-weekly"] = self.now().isoformat()

    def run(self, seconds: float) -> None:
        end, step = (
            self.seconds + seconds,
            2 if seconds <= 300 else 20 if seconds < 3600 else 30 if seconds <= 4 * 3600 else 120,
        )
        while self.seconds < end:
            self.seconds += step
            self.keeper.look(self.config)


class FakeWork:
    """A verb that does nothing until its time is over."""

    def __init__(self, host: Host, words: tuple[str, ...], ends: float) -> None:
        self.host, self.words, self.ends = host, words, ends

    def answer(self) -> dict[str, Any] | None:
        if self.host.seconds < self.ends:
            return None
        self.host.together -= 1
        return self.host.ask(*self.words, timeout=0)

    def stop(self) -> None:
        self.host.together -= 1
        self.host.stopped.append(self.words)


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
    assert host.asked == ["prove --scheduled --weekly"] and host.others.count("prune") == 1  # its own backups
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
    host.keeper = host.another()
    host.run(600)
    assert host.asked == ["backup --full"]


def test_a_job_cut_off_in_its_middle_is_run_again(tmp_path: Path) -> None:
    host = Host(tmp_path)
    keeper.note_job(host.config.layout, "backup-full", {"slot": "2026-01-02T02:00:00Z", "verdict": "RUNNING"})
    host.run(200)
    assert host.asked == ["backup --full"]


@pytest.fixture(autouse=True)
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose deadman runs, and whose agent answers, as it should be."""
    monkeypatch.setattr(deadman, "runs", lambda _: True)
    monkeypatch.setattr(roles, "ask_agent", lambda *_, **__: {"databases": {}})
    # Days of rounds, each with files that are synced: on a busy disk that alone takes minutes.
    monkeypatch.setattr("os.fsync", lambda _: None)


def names(host: Host) -> set[str]:
    return {str(one["name"]) for one in read_alerts(host.config.layout)}


def test_a_long_job_holds_up_neither_alerts_nor_is_it_run_twice(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.takes = 1800
    host.run(200)
    assert read_jobs(host.config.layout)["backup-full"]["verdict"] == "RUNNING"
    alerts_file = host.config.layout.state / "alerts.json"
    before = alerts_file.stat().st_mtime_ns
    host.run(60)
    assert alerts_file.stat().st_mtime_ns > before and host.asked == []
    host.run(1800)
    assert host.asked == ["backup --full"]


def test_a_job_ends_with_the_role_and_the_slot_is_open_again(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.takes = 1800
    host.run(200)
    write_role(host.config.layout, "none", 1)
    host.run(2)
    assert host.stopped == [("backup", "--full")] and host.together == 0
    assert read_jobs(host.config.layout)["backup-full"]["verdict"] == "STOPPED"
    host.takes = 0
    write_role(host.config.layout, "primary", 3)
    host.run(110)
    assert host.asked == []
    host.run(60)
    assert host.asked == ["backup --full"]


DAYS = [pytest.param(hours, marks=pytest.mark.slow) for hours in (-30, -5, 5, 30)]


@pytest.mark.parametrize("hours", [-1, 1, *DAYS])
def test_a_clock_that_jumps_makes_no_storm(tmp_path: Path, hours: int) -> None:
    host = Host(tmp_path)
    host.run(600)
    assert host.asked == ["backup --full"]
    host.jumped = timedelta(hours=hours)
    host.run(1800)
    host.jumped = timedelta(0)
    host.run(1800)
    # At most one of each kind for the jump, and one for the way back.
    assert len(host.asked) <= 5, host.asked
    host.run(4 * 3600)
    assert host.asked[-1] == "backup" and len(host.asked) <= 7


def test_an_entry_from_the_future_makes_no_storm(tmp_path: Path) -> None:
    host = Host(tmp_path)
    future = dict.fromkeys(("backup-full", "backup-incremental"), "2031-01-01T02:00:00+00:00")
    host.forced = future
    host.run(8 * 3600 + 60)
    assert host.asked == ["backup --full", "backup", "backup", "backup"]


@pytest.mark.slow
@pytest.mark.timeout(240)  # a day and more of looks: a minute on a busy machine
def test_late_jobs_are_told_until_they_are_done(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.successes = {"backup-full": "2026-01-02T02:00:00+00:00", "backup-incremental": "2026-01-02T12:00:00+00:00"}
    host.run(130)
    host.broken = "no"
    host.run(16 * 3600)
    assert "late-backup-full" in names(host)
    for _ in range(8):  # through the next slots: an alert that comes and goes would be told again and again
        host.run(3600)
        assert "late-backup-full" in names(host)
    host.broken = None
    host.run(3600)
    assert "late-backup-full" not in names(host)


def test_a_mirror_that_stands_still_is_late_though_its_slot_is_always_a_new_one(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.run(600)
    assert names(host) & {"late-offsite", "failed-offsite"} == set()
    host.mirror_broken = True
    host.run(300)
    assert "failed-offsite" in names(host)
    host.run(900)
    assert "late-offsite" in names(host)
    host.mirror_broken = False
    host.run(200)
    assert names(host) & {"late-offsite", "failed-offsite"} == set()


def test_logs_are_seen_to_every_half_hour_on_either_host(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.run(4 * 3600)
    assert 8 <= host.others.count("logs") <= 9
    write_role(host.config.layout, "standby", 2)
    host.others.clear()
    host.run(3 * 3600)
    assert 5 <= host.others.count("logs") <= 7 and "offsite" not in host.others


def test_a_disk_above_its_limit_is_relieved_at_once_and_told_when_that_is_not_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, full = Host(tmp_path), 50.0
    monkeypatch.setattr(logs, "disk_percent", lambda _: full)
    host.run(600)
    before = host.others.count("logs")
    full = 86.0
    host.takes = 20
    for _ in range(25):  # the mirror may be at work, and the disk is looked at every ten seconds
        if read_jobs(host.config.layout)["logs"]["verdict"] != "RUNNING":
            host.run(2)
    assert read_jobs(host.config.layout)["logs"]["verdict"] == "RUNNING" and "disk-critical" not in names(host)
    host.run(60)
    assert host.others.count("logs") == before + 1 and "disk-critical" in names(host)
    for _ in range(6):  # it is tried again now and then, and the alert holds all the while
        host.run(300)
        assert "disk-critical" in names(host)
    assert before + 3 <= host.others.count("logs") <= before + 5
    full = 50.0
    host.run(20)
    assert "disk-critical" not in names(host)


def test_a_disk_that_nobody_can_relieve_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, "none")
    monkeypatch.setattr(logs, "disk_percent", lambda _: 99.0)
    host.run(30)
    assert "disk-critical" in names(host)


@pytest.mark.slow
@pytest.mark.timeout(240)  # a day and more of looks: a minute on a busy machine
def test_the_primary_tells_what_a_dead_standby_does_not_do(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.successes = dict.fromkeys(("verify", "verify-weekly"), "2026-01-02T03:00:00+00:00")
    host.run(23 * 3600)
    assert "late-verify" not in names(host)  # 03:00, 6 hours, and 2 of grace: 11:00
    host.run(3600)
    assert "late-verify" in names(host)


def test_a_verification_that_could_not_tell_is_made_again_and_one_that_found_damage_is_not(tmp_path: Path) -> None:
    host = Host(tmp_path, "standby")
    host.verdict = "UNKNOWN"  # no backup was made yet, say
    host.run(150)
    assert names(host) >= {"verification", "failed-verify-weekly"}
    host.verdict = "FAIL"
    host.run(600)
    asked = host.asked.count("prove --scheduled --weekly")
    assert asked == 2 and names(host) & {"verification", "failed-verify-weekly"} == {"verification"}
    host.run(6 * 3600)
    assert host.asked.count("prove --scheduled --weekly") == asked and "verification" in names(host)


def test_what_was_done_by_hand_ends_the_alert_within_a_minute(tmp_path: Path) -> None:
    host = Host(tmp_path, "standby")
    host.verdict = "FAIL"
    host.run(300)
    assert "verification" in names(host)
    host.proved("PASS")
    host.run(44)
    assert names(host) == set()


# Each short thing is made short for real where that harms nobody, at its door where it would.


def a_database_too_large_for_the_disk(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    live = host.config.layout.live(host.config.service.databases[0])
    with live.open("wb") as file:
        file.truncate(shutil.disk_usage(live.parent).free // 2)  # sparse: it takes no room


def memory_that_others_use(_: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "memory_available", lambda: 150 << 20)


def agent_says(monkeypatch: pytest.MonkeyPatch, lag_s: float | None) -> None:
    status = {"databases": {"trades": {"lag_s": lag_s}}}
    monkeypatch.setattr(roles, "ask_agent", lambda _socket, _method, path: status if path == "/status" else None)


def a_vault_that_is_cut_off(_: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    agent_says(monkeypatch, 61.0)


def a_replica_nobody_sees(_: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    agent_says(monkeypatch, None)


def a_verification_with_damage(host: Host, _: pytest.MonkeyPatch) -> None:
    host.proved("FAIL")
    host.keeper._read_at = None


@pytest.mark.parametrize(
    ("cause", "name"),
    [
        (a_database_too_large_for_the_disk, "disk-short"),
        (memory_that_others_use, "memory-short"),
        (a_vault_that_is_cut_off, "replica-stale"),
        (a_replica_nobody_sees, "replica-unseen"),
        (a_verification_with_damage, "verification"),
    ],
)
def test_what_is_short_or_stands_still_raises_its_alert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Any, name: str
) -> None:
    host = Host(tmp_path)
    monkeypatch.setattr(room, "memory_available", lambda: 4 << 30)
    agent_says(monkeypatch, 0.5)
    host.run(300)
    assert names(host) == set()
    with monkeypatch.context() as caused:
        cause(host, caused)
        host.run(30)
        assert names(host) == {name}
    host.proved("PASS")
    host.config.layout.live(host.config.service.databases[0]).unlink(missing_ok=True)
    host.run(60)
    assert names(host) == set()


def test_the_kernel_says_how_much_memory_there_is(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert room.memory_available(meminfo) is None
    meminfo.write_text("MemTotal:  2000 kB\nMemFree:  10 kB\nMemAvailable:     1024 kB\n")
    assert room.memory_available(meminfo) == 1 << 20


def test_what_failed_in_an_earlier_role_is_no_business_of_this_one(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.mirror_broken = True
    host.run(300)
    assert "failed-offsite" in names(host)
    write_role(host.config.layout, "standby", 2)
    host.run(60)
    assert names(host) & {"failed-offsite", "late-offsite", "replica-unseen"} == set()


def test_rubbish_in_its_own_files_stops_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path)
    layout = host.config.layout
    (layout.state / "jobs.json").write_text('{"prune": {"succeeded": "soon", "slot": 1, "ended": "x"}, "offsite": 3}')
    (layout.state / "alerts.json").write_text('{"alerts": [1, {"name": "x"}]}')
    host.successes = {"verify": "yesterday"}
    host.run(200)
    assert host.asked == ["backup --full"] and host.others.count("prune") == 1


def tool_of(path: Path, body: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{body}\n")
    path.chmod(0o755)
    return path


STARTS_ANOTHER = """
import subprocess, sys, time, pathlib
child = subprocess.Popen(["sleep", "600"])
note = pathlib.Path(sys.argv[0]).with_suffix(".pids")
note.with_suffix(".new").write_text(str(child.pid))
note.with_suffix(".new").rename(note)
child.wait()
"""


def awaited(path: Path) -> int:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(path.read_text())


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while proc.began(pid) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_job_that_is_stopped_leaves_nobody_behind(tmp_path: Path) -> None:
    tool = tool_of(tmp_path / "tool", STARTS_ANOTHER)
    work = keeper.start_host(tool, config(tmp_path / "host"), ("backup",))
    child = awaited(tmp_path / "tool.pids")
    assert work.answer() is None
    work.stop()
    assert gone(child)


@pytest.mark.parametrize("whole_job", [True, False], ids=["keeper killed", "keeper and verb killed"])
def test_what_a_killed_keeper_left_running_is_ended_by_the_next(tmp_path: Path, whole_job: bool) -> None:
    tool, here = tool_of(tmp_path / "tool", STARTS_ANOTHER), config(tmp_path / "host")
    work = keeper.start_host(tool, here, ("backup",))
    child = awaited(tmp_path / "tool.pids")
    if not whole_job:
        work.running.process.kill()
        work.running.process.wait()
    # On a host init reaps it; here it is this process's child.
    reaper = threading.Thread(target=work.running.process.wait)
    reaper.start()
    assert keeper.end_left_job(here.layout)
    reaper.join()
    assert gone(child)
    assert not keeper.end_left_job(here.layout)


def test_a_process_that_only_has_the_number_is_left_alone(tmp_path: Path) -> None:
    here = config(tmp_path)
    running = proc.start(["sleep", "600"])
    try:
        note = {"pid": running.process.pid, "began": "1"}
        (here.layout.run / "job.json").write_text(json.dumps(note))
        assert not keeper.end_left_job(here.layout)
        assert running.process.poll() is None
    finally:
        running.stop()


def test_a_verbs_answer_comes_when_it_has_ended(tmp_path: Path) -> None:
    tool = tool_of(tmp_path / "tool", "print('x' * 200000); import sys; sys.exit(3)")
    work = keeper.start_host(tool, config(tmp_path / "host"), ())
    work.running.process.wait(20)
    with pytest.raises(StepFailed):
        work.answer()


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
        (Seen("primary", checkpointed={"trades": 2}), "foreign-checkpoint-trades"),
        (Seen("none", disk_percent=85.0, disk_limit=85), "disk-critical"),
        (Seen("primary", replica_age_s=61), "replica-stale"),
        (Seen("primary", replica_unseen=True), "replica-unseen"),
        (Seen("standby", verification={"verdict": "FAIL", "at": "x"}), "verification"),
        (Seen("standby", verification={"verdict": "UNKNOWN", "at": "x"}), "verification"),
        (Seen("primary", late=[("backup-full", START)]), "late-backup-full"),
        (Seen("primary", failed={"backup": "why"}), "failed-backup"),
        (Seen("primary", keeper_error="why"), "catalogue-unreadable"),
        (Seen("standby", incomplete={"offsite": "no answer"}), "backup-incomplete-offsite"),
        (Seen("primary", offsite={"holes": ["epoch 1, trades, behind transaction 4"]}), "offsite-hole"),
        (Seen("primary", offsite={"missed": 2, "missed_first": "replica/x"}), "offsite-missed"),
        (Seen("primary", offsite={"gone": 2, "gone_first": "snapshots/x"}), "offsite-gone"),
        (Seen("primary", anew={"local on a": "2026-01-01T00:00:00Z"}), "repository-anew-local"),
        (Seen("standby", damaged=["catalogue/genesis/verified/x.json"]), "catalogue-damaged"),
        (Seen("primary", offsite={"beyond": {"overdue_days": 31.0}}), "offsite-grown"),
        (Seen("standby", unguarded=True), "unguarded"),
    ],
)
def test_each_reason_for_an_alert(seen: Seen, name: str) -> None:
    (alert,) = alerts.judge(seen)
    assert alert.name == name and alert.says and alert.next


def test_nothing_wrong_is_no_alert() -> None:
    fine = Seen("primary", (), {}, 1 << 20, 10 << 30, 1 << 30, 1.0, verification={"verdict": "PASS", "at": "x"})
    assert alerts.judge(fine) == []
    assert alerts.judge(Seen("primary", disk_percent=84.9, disk_limit=85)) == []
    assert alerts.judge(Seen("primary", disk_percent=99.0, disk_limit=85, relief_to_come=True)) == []
    mirrored = {"holes": [], "missed": 0, "beyond": {"snapshots": 3, "overdue_days": 29.9}}
    assert alerts.judge(Seen("primary", offsite=mirrored)) == []
    assert alerts.judge(Seen("standby", replica_age_s=1000)) == []  # a standby's lag is the failover's business


def test_an_alert_keeps_its_beginning_and_is_told_once() -> None:
    first = [Alert("a", "x", "n"), Alert("b", "x", "n")]
    current, new, over = alerts.merged([], first, "t1")
    assert len(new) == 2 and over == []
    current, new, over = alerts.merged(current, [Alert("a", "worse", "n")], "t2")
    assert [(one.since, one.says) for one in current] == [("t1", "worse")] and new == [] and over[0].name == "b"


def test_metrics_have_the_ages_and_nothing_that_is_not_known(tmp_path: Path) -> None:
    layout = config(tmp_path).layout
    assert "age_seconds" not in "\n".join(agent_http._of_the_keeper(layout))
    host = Host(tmp_path)
    host.successes = {"verify": "rubbish"}
    host.run(300)
    text = "\n".join(agent_http._of_the_keeper(layout))
    assert "lifeline_backup_age_seconds " in text and "verification_age" not in text
    assert 'lifeline_job_last_success_timestamp_seconds{job="backup-full"} 17673' in text
    assert 'lifeline_alert{name="replica-unseen"} 1' in text
