"""A series: what a run showed is judged alone, what isn't known is no success, and every series keeps its own row."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import pytest

from lab import drill as drills
from lab.scenarios.criteria import Criterion
from lab.scenarios.trials import TRIALS
from lab.series import campaign, costs, eyes, page
from lab.series.campaign import Series
from lab.series.eyes import read_noted, written_by
from lab.series.page import Plan
from lab.series.verdict import Ack, Run, Seen, Zombie, judge, record
from lab.stage import STACK, Stage, stack_file
from lifeline.errors import BadInput, StepFailed
from lifeline.layout import Layout
from lifeline.model import FailoverPolicy, Verdict
from lifeline.schema import At
from lifeline.service import Service

OLD, NEW = "primary-newyork", "backup-singapore"
BEFORE = tuple(Ack(OLD, 100.0 + n / 10, 100.05 + n / 10, "direct") for n in range(30))
AFTER = (Ack(NEW, 118.0, 118.1, "name"), Ack(NEW, 118.2, 118.3, "direct"))
SAFE = Zombie("power restored", wrote=(), ran_s=0.0, follows_s=9.0, role="standby", alone=0, told=0)
GOOD = Seen(
    expects="failover",
    old=OLD,
    new=NEW,
    began=104.0,
    done=104.2,
    fault_seen=True,
    acks=(*BEFORE, *AFTER),
    rto_s=31.0,
    epoch_before=3,
    epoch_after=4,
    holder=NEW,
    owner=NEW,
    lost=0,
    duplicated=0,
    zombie=SAFE,
    returns=True,
)
STILL = replace(
    GOOD,
    expects="nothing",
    ended=109.0,
    acks=(*BEFORE, *(Ack(OLD, 104.0 + n / 5, 104.1 + n / 5, "direct") for n in range(24))),
    rto_s=None,
    epoch_after=3,
    holder=OLD,
    zombie=None,
    returns=False,
)


def held(seen: Seen, number: int = 1) -> Run:
    return record(number, "2026-01-01T00:00:00.000Z", 41.0, seen)


def test_a_failover_in_which_everything_was_shown_passes_with_its_times() -> None:
    run = held(GOOD)
    assert run.verdict is Verdict.PASS, run.reasons
    assert (run.outside_s, run.rto_s, run.failovers, run.overlap_s, run.zombie_safe) == (14.1, 31.0, 1, 0.0, True)
    assert "outside write 14.1 s" in run.line() and "power restored" in run.line()


@pytest.mark.parametrize(
    "missing",
    [
        {"acks": AFTER},
        {"fault_seen": None},
        {"fault_seen": False},
        {"epoch_before": None},
        {"epoch_after": None},
        {"holder": None},
        {"owner": None},
        {"lost": None},
        {"duplicated": None},
        {"zombie": None},
        {"zombie": replace(SAFE, wrote=None)},
        {"zombie": replace(SAFE, follows_s=None, role="none")},
        {"zombie": replace(SAFE, alone=None)},
        {"zombie": replace(SAFE, told=None)},
        {"error": "it broke off"},
    ],
)
def test_without_evidence_a_run_is_unknown(missing: dict[str, Any]) -> None:
    assert held(replace(GOOD, **missing)).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    "wrong",
    [
        {"lost": 1},
        {"duplicated": 1},
        {"epoch_after": 5},
        {"epoch_after": 3},
        {"holder": OLD},
        {"owner": OLD},
        {"rto_s": None},
        {"acks": BEFORE},
        {"acks": (*BEFORE, *AFTER, Ack(OLD, 118.3, 118.4, "direct"))},
        {"zombie": replace(SAFE, wrote=("PUT /replica/genesis/epoch-0004/x (200)",))},
        {"zombie": replace(SAFE, alone=2, told=1, fork="PASS")},
        {"zombie": replace(SAFE, alone=2, told=2, fork="UNKNOWN")},
    ],
)
def test_what_was_seen_to_be_wrong_fails_a_run(wrong: dict[str, Any]) -> None:
    assert held(replace(GOOD, **wrong)).verdict is Verdict.FAIL


def test_two_that_acknowledge_at_one_time_are_told_with_how_long() -> None:
    late = Ack(OLD, 103.9, 119.0, "clients")  # begun before the trouble, answered by a host that woke up
    run = held(replace(GOOD, acks=(*BEFORE, *AFTER, late)))
    assert (run.overlap_s, run.verdict, run.zombie_safe) == (1.0, Verdict.FAIL, False)


def test_a_zombie_is_safe_only_when_that_was_seen() -> None:
    assert held(replace(GOOD, zombie=None)).zombie_safe is False
    assert held(replace(GOOD, zombie=replace(SAFE, wrote=None))).zombie_safe is False
    # Left for a person to rebuild: safe, and yet no run that passed.
    run = held(replace(GOOD, zombie=replace(SAFE, follows_s=None, role="none")))
    assert (run.zombie_safe, run.verdict) == (True, Verdict.UNKNOWN)
    assert held(STILL).zombie_safe is None


def test_where_nothing_may_happen_the_primary_went_on_and_nobody_else_did() -> None:
    run = held(STILL)
    assert run.verdict is Verdict.PASS, run.reasons
    assert run.pause_s == pytest.approx(0.3) and run.outside_s is None
    assert held(replace(STILL, epoch_after=4, holder=NEW)).verdict is Verdict.FAIL
    assert held(replace(STILL, acks=(*STILL.acks, Ack(NEW, 105.0, 105.1, "direct")))).verdict is Verdict.FAIL
    # It stopped in the middle and never went on: the silence lasts until the end of the look.
    stopped = replace(STILL, ended=112.0)
    assert held(stopped).pause_s == pytest.approx(3.3)
    assert held(replace(STILL, ended=120.0)).verdict is Verdict.FAIL
    assert held(replace(STILL, acks=BEFORE)).verdict is Verdict.FAIL


def test_a_switchovers_outage_is_what_a_stranger_missed() -> None:
    by_name = (Ack(OLD, 104.4, 104.5, "name"), Ack(NEW, 107.0, 107.2, "name"), Ack(NEW, 107.3, 107.4, "name"))
    seen = replace(GOOD, expects="switchover", done=104.0, acks=(*BEFORE, *by_name), returns=False, zombie=None)
    run = held(seen)
    assert run.verdict is Verdict.PASS, run.reasons
    assert (run.outage_s, run.outside_s) == (2.7, 3.2)


def test_a_record_is_a_line_of_json() -> None:
    document = json.loads(json.dumps(held(replace(GOOD, lost=2)).to_json()))
    assert (document["verdict"], document["lost"], document["zombie_safe"]) == ("FAIL", 2, True)
    assert [c["name"] for c in document["criteria"] if c["verdict"] == "FAIL"] == ["nothing acknowledged is lost"]


def test_every_trial_has_a_policy_that_the_stack_takes_and_a_way_to_be_judged() -> None:
    for trial in TRIALS.values():
        for ttl in (drills.MIN_TTL_S, 30):
            words = dict(pair.split(": ") for pair in trial.policy(ttl).strip("{}").split(", "))
            found = FailoverPolicy.read(
                At(
                    {
                        **{"lease_ttl_s": int(words["leaseTtlS"]), "lease_margin_s": int(words["leaseMarginS"])},
                        **{"fence_required": [words["fenceRequired"].strip("[]")], "max_lag_s": 60},
                        "mode": words["mode"],
                    },
                    "policy",
                )
            )
            assert (found.lease_ttl_s, found.mode) == (ttl, "automatic")
        assert bool(trial.way) == (trial.expects == "failover")
        assert judge(replace(GOOD, expects=trial.expects))


def test_the_stack_file_keeps_all_but_its_policy(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    made = stack_file(root, tmp_path, "{leaseTtlS: 10}").read_text().splitlines()
    was = (root / "stacks" / f"Pulumi.{STACK}.yaml").read_text().splitlines()
    differ = [line for line, before in zip(made, was, strict=True) if line != before]
    assert differ == ["  lifeline:policy: {leaseTtlS: 10}"]
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / f"Pulumi.{STACK}.yaml").write_text("config: {}\n")
    with pytest.raises(StepFailed, match="one line"):
        stack_file(tmp_path, tmp_path, "{}")


def test_who_wrote_below_a_prefix_is_known_by_address() -> None:
    line = "1700000000.123\t198.18.1.10\t198.18.3.2\t{}\t/replica/genesis/epoch-{:04d}/genesis/ltx/0/a.ltx\t200\n"
    lines = [line.format("PUT", 4), line.format("GET", 4), line.format("PUT", 3), "torn\tline", "a\tb\tc\td\te\tf"]
    noted = read_noted(lines)
    assert len(noted) == 3
    assert len(written_by(noted, "198.18.1.10", "genesis", range(4, 5))) == 1
    assert written_by(noted, "198.18.2.10", "genesis", range(4, 5)) == ()
    assert written_by(noted, "198.18.1.10", "genesis", range(5, 6)) == ()


# -- the page


def test_a_series_replaces_its_own_row_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "measured", lambda: "now, here")
    path = tmp_path / "failover.md"
    path.write_text("# Failover\n\n## What the agent costs\n\nkept\n")
    power, cut = TRIALS["power-cut"], TRIALS["hosts-cut"]
    page.put(path, cut, Plan(1, 30), [held(STILL)])
    page.put(path, power, Plan(1, 10), [held(GOOD)])
    page.put(path, power, Plan(2, 30), [held(GOOD), held(replace(GOOD, lost=None))])
    page.put(path, power, Plan(1, 10), [held(replace(GOOD, rto_s=12.0))])
    rows = page.rows_of(path.read_text())
    assert [row[:4] for row in rows] == [
        ("power-cut", "30", "2", "1"),
        ("power-cut", "10", "1", "1"),
        ("hosts-cut", "30", "1", "1"),
    ]
    assert rows[0][page.HEADS.index("lost")] == "0, 1 UNKNOWN"
    assert rows[1][page.HEADS.index("kept answers, s")] == "12.0 / 12.0"
    assert rows[2][page.HEADS.index("zombies safe")] == "-"
    assert "in whatever way: 3 of 3 safe" in path.read_text()
    assert "kept" in path.read_text()


def test_a_promise_is_kept_only_by_every_run() -> None:
    def promised(*outside: float | None) -> str:
        runs = [replace(held(GOOD, n), outside_s=value) for n, value in enumerate(outside)]
        return page.row(TRIALS["power-cut"], Plan(len(outside), 30), runs)[page.HEADS.index("promised")]

    assert promised(20.0, 30.0, 50.0) == "< 45 / < 60: PASS"
    assert promised(20.0, 30.0, 60.0).endswith("MISSED")
    assert promised(50.0, 50.0, 30.0).endswith("MISSED")
    assert promised(20.0, None, 30.0).endswith("MISSED")


def test_series_that_end_together_both_keep_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "measured", lambda: "now, here")
    path = tmp_path / "failover.md"
    threads = [
        threading.Thread(target=page.put, args=(path, trial, Plan(1, ttl), [held(GOOD)]))
        for trial in TRIALS.values()
        for ttl in (10, 30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(page.rows_of(path.read_text())) == 2 * len(TRIALS)


def test_bad_input_is_told_before_anything_starts() -> None:
    with pytest.raises(BadInput, match="power-cut"):
        drills.main("meteorite", runs=2)
    with pytest.raises(BadInput, match="no series"):
        drills.main("complete-failure", runs=2)
    with pytest.raises(BadInput, match="--ttl"):
        drills.main("power-cut", runs=2, ttl=3)
    assert "power-cut (series)" in drills.listing()


# -- costs


def test_the_agents_share_and_memory_are_read_from_proc() -> None:
    stat = "12 (lifeline-agent (x) y) S 1 12 12 0 -1 4194560 100 200 0 0 300 50 40 10 20 0 9 0 100 1000 500"
    assert costs.processor_s(stat, 100) == 4.0
    assert costs.resident_mb("Name:\tx\nVmRSS:\t   40960 kB\n") == 40.96
    assert costs.resident_mb("Name:\tx\n") == 0.0


def test_a_months_price_is_computed_from_the_requests_of_the_hosts_alone() -> None:
    line = "1700000000.0\t{}\t198.18.0.20\t{}\t/bucket/lease/genesis.json\t200\n"
    lines = [
        line.format(who, how) for who, how in (("198.18.1.10", "PUT"), ("198.18.2.10", "GET"), ("198.18.100.1", "GET"))
    ]
    counted = costs.lease_requests(read_noted(lines), ["198.18.1.10", "198.18.2.10"])
    assert counted == {"PUT": 1, "GET": 1}
    section = costs.lease_section(counted, 60.0, 30)
    assert [row.measured for row in section.rows] == ["43,200 (1 in 60 s)", "43,200 (1 in 60 s)", "$0.23"]


def test_an_agent_above_its_promise_is_missed() -> None:
    kept = costs.agent_section({"primary, idle": costs.Used(0.6, 41.0)}, 30)
    assert kept.kept and [row.verdict for row in kept.rows] == ["PASS", "PASS"]
    assert not costs.agent_section({"primary, idle": costs.Used(1.2, 41.0)}, 30).kept


def test_the_largest_database_is_held_against_the_smallest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "measured", lambda: "now, here")
    path, power = tmp_path / "failover.md", TRIALS["power-cut"]
    small = [replace(held(GOOD), promotion_s=2.0)]
    page.put(path, power, Plan(1, 10, mb=2000), [replace(held(GOOD), promotion_s=2.5)])
    assert "2000 MB over" not in path.read_text()
    page.put(path, power, Plan(1, 10, mb=10), small)
    page.put(path, power, Plan(1, 10), small)
    assert "2000 MB over 10 MB, medians: 1.25; promised < 1.3: PASS." in path.read_text()
    assert [row[0] for row in page.rows_of(path.read_text(), page.SIZES, page.SIZE_HEADS)] == ["10", "2000"]
    page.put(path, power, Plan(1, 10, mb=2000), [replace(held(GOOD), promotion_s=2.7)])
    assert "1.35; promised < 1.3: MISSED." in path.read_text()


# -- the course of a series, with everything that costs root replaced


def series_of(
    tmp_path: Path, verdicts: Sequence[Seen], monkeypatch: pytest.MonkeyPatch, *, back: bool = True
) -> tuple[Series, int]:
    """A series whose runs show these."""
    left = iter(verdicts)

    class FakeSite:
        def mend(self) -> None:
            if not back:
                raise StepFailed("nobody answers")

        def ready(self) -> None: ...

    stage = Stage(tmp_path, "x", 1.0)
    inventory = SimpleNamespace(hosts=())
    fake = {"prepare": lambda policy: inventory, "trade": lambda seconds: OLD, "stop": lambda keep: None}
    for name, value in fake.items():
        monkeypatch.setattr(stage, name, value)
    monkeypatch.setattr(campaign, "Site", lambda *_: FakeSite())
    monkeypatch.setattr("lab.series.eyes.Stores", lambda *_: None)
    monkeypatch.setattr(campaign, "Trying", lambda site, number: SimpleNamespace(hold=lambda: held(next(left), number)))
    monkeypatch.setattr(Series, "_final_books", lambda self: Criterion("books", Verdict.PASS, "they agree"))
    monkeypatch.setattr(campaign, "Stage", lambda *_: stage)
    monkeypatch.setattr("lab.lifecycle.require_root", lambda: None)
    stage.folder.mkdir(parents=True, exist_ok=True)
    return campaign.hold(TRIALS["power-cut"], Plan(3, 10), tmp_path)


def test_a_series_goes_on_after_a_run_that_failed_and_its_exit_code_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    series, code = series_of(tmp_path, [GOOD, replace(GOOD, lost=2), GOOD], monkeypatch)
    assert (code, len(series.runs)) == (6, 3)
    lines = (series.stage.folder / "runs.jsonl").read_text().splitlines()
    assert [json.loads(line)["verdict"] for line in lines] == ["PASS", "FAIL", "PASS"]
    assert "2 of 3 runs" in capsys.readouterr().out


def test_one_that_could_not_be_judged_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert series_of(tmp_path, [GOOD, replace(GOOD, lost=None), GOOD], monkeypatch)[1] == 5
    assert series_of(tmp_path, [GOOD, GOOD, GOOD], monkeypatch)[1] == 0


def test_a_site_that_does_not_come_back_ends_the_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    series, code = series_of(tmp_path, [GOOD, replace(GOOD, owner=None), GOOD], monkeypatch, back=False)
    assert (code, len(series.runs)) == (5, 2)
    assert "after run 2 the site could not be brought back: nobody answers" in capsys.readouterr().out


def test_a_defect_is_told_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series, code = series_of(tmp_path, [GOOD], monkeypatch)  # the second run raises StopIteration
    assert code == 5 and "a defect" in series.ended
    assert "StopIteration" in (series.stage.logs / "traceback.txt").read_text()


# -- what lies on a disk


def test_what_a_killed_primary_left_on_its_disk_is_read_from_a_copy(tmp_path: Path) -> None:
    service = Service.load(Path(__file__).resolve().parents[2] / "services/genesis/service.toml")
    files = Layout(tmp_path / "disk")
    live = files.live(service.databases[0])
    assert eyes.probes_in(files, service, tmp_path / "work") is None
    live.parent.mkdir(parents=True)
    with contextlib.closing(apsw.Connection(str(live))) as connection:
        assert list(connection.execute("PRAGMA journal_mode = WAL")) == [("wal",)]
        connection.execute("CREATE TABLE probes (token TEXT PRIMARY KEY, written_at TEXT)")
        connection.execute("INSERT INTO probes VALUES ('one', ''), ('two', '')")
        before = {path.name: path.read_bytes() for path in live.parent.iterdir()}
        assert f"{live.name}-wal" in before  # a log that was never folded in, as a power cut leaves it
        assert eyes.probes_in(files, service, tmp_path / "work") == {"one", "two"}
        assert {path.name: path.read_bytes() for path in live.parent.iterdir()} == before
    assert not (tmp_path / "work").exists()


def test_a_fork_on_a_disk_is_known_once_it_was_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service.load(Path(__file__).resolve().parents[2] / "services/genesis/service.toml")
    files, host = Layout(tmp_path), SimpleNamespace(name=OLD)
    monkeypatch.setattr(eyes, "disk", lambda host: files)
    assert eyes.fork(host, service, 3) is None  # type: ignore[arg-type]
    folder = files.beside(service.databases[0]) / "fork-0003"
    folder.mkdir(parents=True)
    assert eyes.fork(host, service, 3) == {"verdict": "UNKNOWN", "tables": {}}  # type: ignore[arg-type]
    (folder / "report.json").write_text('{"verdict": "PASS", "tables": {}}')
    assert eyes.fork(host, service, 3) == {"verdict": "PASS", "tables": {}}  # type: ignore[arg-type]


def test_what_the_old_primary_may_have_alone_is_what_nobody_acknowledged() -> None:
    observer = eyes.Observer("direct", "198.18.1.10", 8080)
    observer.asked = [(1.0, "early"), (2.0, "acknowledged"), (3.0, "in the air")]
    observer._tokens = [(Ack("primary-newyork", 2.0, 2.1, "direct"), "acknowledged")]
    assert observer.unanswered(1.5) == {"in the air"}
