"""A drill: PASS needs evidence for every criterion; whatever happens there is a report, and no lab left."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest

from lab import conduct, pair, report, scenarios, stage
from lab import drill as drills
from lab.conduct import Command, Record, everything
from lab.drill import Drill, Fault, Options
from lab.outsiders import Client
from lab.rehearsal import Held, table
from lab.scenarios import Situation, criteria
from lab.scenarios.criteria import Facts, Recovery
from lab.stage import Stage
from lifeline import inventory as inventories
from lifeline.errors import BadInput, StepFailed, Unproven
from lifeline.journal import RUN_STARTED, Journal
from lifeline.ledger import Acknowledged, Survivor, judge
from lifeline.model import Targets, Verdict
from lifeline.objectives import OBJECTIVES
from runbooks import stack as pulumi_stack

TARGETS = Targets(600, 1800, 0, 60)
KEPT = judge([Acknowledged("a", 1.0)], [Survivor("a")], fault_at=2.0, outside=[Survivor("a")])
GOOD = Facts(
    targets=TARGETS,
    primary="primary-newyork",
    before=500,
    fault_seen=True,
    recovery=Recovery("fab failover --yes", 0, 12.0, steps=8),
    rto_s=20.0,
    served_after=frozenset({"backup-singapore"}),
    judgement=KEPT,
    component="complete failover",
)


def verdict(facts: Facts) -> Verdict:
    return criteria.worst(scenarios.every()["complete-failure"].judge(facts))


def test_everything_shown_is_a_pass() -> None:
    assert verdict(GOOD) is Verdict.PASS


@pytest.mark.parametrize(
    "missing",
    [
        {"primary": None},
        {"before": 3},
        {"fault_seen": None},
        {"fault_seen": False},
        {"recovery": None},
        {"recovery": Recovery("fab failover --yes", 0, 12.0, steps=0)},
        {"served_after": None},
        {"judgement": None},
        {"judgement": judge([Acknowledged("a", 1.0)], None, fault_at=2.0)},
        {"judgement": judge([Acknowledged("a", 1.0)], [Survivor("a")], fault_at=2.0)},
        {"judgement": judge([], [], fault_at=2.0, outside=[])},
    ],
)
def test_without_evidence_there_is_no_pass(missing: dict[str, Any]) -> None:
    assert verdict(replace(GOOD, **missing)) is Verdict.UNKNOWN


@pytest.mark.parametrize(
    "wrong",
    [
        {"recovery": Recovery("fab failover --yes", 6, 12.0, steps=3, failed=("data is final",))},
        {"recovery": Recovery("fab failover --yes", 0, 12.0, steps=8, waived=("old primary is fenced",))},
        {"rto_s": None},
        {"rto_s": 1801.0},
        {"served_after": frozenset({"primary-newyork"})},
        {"served_after": frozenset({"primary-newyork", "backup-singapore"})},
        {"judgement": judge([Acknowledged("a", 1.0)], [], fault_at=2.0, outside=[])},
        {"judgement": judge([Acknowledged("a", 1.0)], [Survivor("a")] * 2, fault_at=2.0, outside=[Survivor("a")])},
        {
            "judgement": judge(
                [Acknowledged("a", 1.0)], [Survivor("a")], fault_at=2.0, outside=[Survivor("a"), Survivor("b")]
            )
        },
    ],
)
def test_what_went_wrong_is_a_failure(wrong: dict[str, Any]) -> None:
    assert verdict(replace(GOOD, **wrong)) is Verdict.FAIL


def test_nothing_shown_is_not_a_pass() -> None:
    assert criteria.worst([]) is Verdict.UNKNOWN
    assert verdict(Facts(targets=TARGETS)) is Verdict.UNKNOWN


def test_scenarios_are_found_by_their_files() -> None:
    assert "complete-failure" in scenarios.every()
    with pytest.raises(BadInput, match="complete-failure"):
        drills.named("meteorite")
    assert "complete-failure" in drills.listing()


# -- steps and commands


def test_a_step_that_fails_is_recorded_with_its_reason() -> None:
    record = Record(lambda text: None)
    with pytest.raises(StepFailed), record.step("one"):
        raise StepFailed("it broke")
    with pytest.raises(Unproven), record.step("two"):
        raise Unproven("who knows")
    with record.step("three") as step:
        step.evidence["n"] = 1
    assert [str(step.verdict) for step in record.steps] == ["FAIL", "UNKNOWN", "PASS"]
    assert record.steps[0].evidence == {"error": "it broke"}


def command(tmp_path: Path, code: str, shown: list[str]) -> Command:
    argv = [sys.executable, "-c", code]
    return Command(argv, tmp_path / "logs" / "c.log", dict(os.environ), tmp_path, shown.append, everything)


def test_a_commands_output_is_logged_and_shown(tmp_path: Path) -> None:
    shown: list[str] = []
    done = command(tmp_path, "print('hello'); print('there')", shown)
    done.check(10)
    assert done.log.read_text() == "hello\nthere\n"
    assert [line.strip() for line in shown] == ["hello", "there"]


def test_a_command_that_fails_says_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match=r"exit code 3\n(.|\n)*no luck"):
        command(tmp_path, "import sys; print('no luck'); sys.exit(3)", []).check(10)


def test_a_command_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of pytest's ignores an interrupt, and so does what it starts: each patience is waited for."""
    monkeypatch.setattr(conduct, "STOP_S", 0.3)
    slow = command(tmp_path, "import time; time.sleep(60)", [])
    with pytest.raises(StepFailed, match="did not end"):
        slow.wait(0.3)
    assert slow.code not in (None, 0)


def test_pulumi_is_shown_as_a_count_and_its_errors_in_full() -> None:
    show = pulumi_stack.progress()
    lines = [show(f" +  digitalocean:index:Thing t{n} created (0.1s)") for n in range(25)]
    assert [line for line in lines if line] == ["10 resources …", "20 resources …"]
    assert show("error: it is full") == "error: it is full"


def test_the_ledger_is_read_as_it_grows_and_a_half_line_waits(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    client = Client("n", 1, ledger, tmp_path / "log", 1.0)
    assert client.read() == []
    ledger.write_text('{"event":"sent","wall":1,"mono":1,"id":"a"}\n{"event":"acknow')
    assert [event.kind for event in client.read()] == ["sent"]
    with ledger.open("a") as file:
        file.write('ledged","wall":2,"mono":2,"id":"a"}\n')
    assert [event.kind for event in client.read()] == ["sent", "acknowledged"]


# -- scenarios that differ


def test_a_service_that_is_begun_anew_answers_on_the_same_host() -> None:
    restart = scenarios.every()["service-restart"]
    here = replace(GOOD, recovery=None, served_after=frozenset({"primary-newyork"}), component="service restart")
    assert criteria.worst(restart.judge(here)) is Verdict.PASS
    assert criteria.worst(restart.judge(replace(here, served_after=GOOD.served_after))) is Verdict.FAIL
    assert criteria.worst(restart.judge(replace(here, served_after=None))) is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("rto_s", "component", "verdict"),
    [
        (20.0, "service restart", Verdict.PASS),
        (90.0, "service restart", Verdict.PASS),  # the target missed, the maximum kept: it is told
        (301.0, "service restart", Verdict.FAIL),
        (201.0, "database recovery", Verdict.PASS),
        (None, "database recovery", Verdict.UNKNOWN),
    ],
)
def test_each_scenario_is_held_against_the_procedures_own_row(
    rto_s: float | None, component: str, verdict: Verdict
) -> None:
    found = criteria.within_objectives(replace(GOOD, rto_s=rto_s, component=component))
    assert found.verdict is verdict
    assert ("missed" in found.says) == (rto_s == 90.0)


def test_what_a_scenario_looks_for_itself_counts() -> None:
    bad = criteria.criterion("the books were compared", False, "3 differences")
    assert verdict(replace(GOOD, looked=(bad,))) is Verdict.FAIL


def test_commands_name_the_hosts_and_every_scenario_has_its_row() -> None:
    known = scenarios.every()
    situation = Situation(
        SimpleNamespace(),  # type: ignore[arg-type]
        SimpleNamespace(name="primary-newyork"),  # type: ignore[arg-type]
        SimpleNamespace(name="backup-singapore"),  # type: ignore[arg-type]
    )
    assert known["manual-failover"].commands(situation) == (
        ("fab", "failover", "--target", "backup-singapore", "--yes"),
    )
    assert {scenario.component for scenario in known.values()} <= set(OBJECTIVES)


def test_the_table_of_all_scenarios_says_unknown_for_what_was_not_measured(tmp_path: Path) -> None:
    rows = tuple(one.to_json() for one in GOOD.objectives())
    held = Held("complete-failure", "Complete failure", Verdict.PASS, rows, 61.0, tmp_path)
    lost = Held("rebuild", "Everything gone", Verdict.UNKNOWN, (), 0.0, tmp_path)
    lines = table([held, lost]).splitlines()
    assert "| 20 s | complete failover, < 10 min: PASS | 0 s: PASS | PASS | 61 s |" in lines[2]
    assert "| UNKNOWN | UNKNOWN | UNKNOWN | UNKNOWN | 0 s |" in lines[3]


def test_the_operator_stops_typing_when_a_command_failed(tmp_path: Path) -> None:
    bench = Stage(tmp_path, "x", 1.0)
    bench.env = dict(os.environ)
    typist = bench.type([("true",), ("false",), ("touch", str(tmp_path / "never"))])
    typist.wait(30)
    assert (typist.code, (tmp_path / "never").exists()) == (1, False)
    assert typist.log.name == "recovery-2.log" and "touch" in str(typist)


def test_each_step_of_the_command_knows_its_line_in_the_journal_that_is_kept(tmp_path: Path) -> None:
    """A line that a kill tore counts as a line, and so does one whose text holds a line separator of Unicode's."""
    bench, then = Stage(tmp_path, "x", 1.0), datetime(2026, 1, 1, tzinfo=UTC)
    bench.folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(inventories.folder(tmp_path, stage.STACK) / "journal" / "run-1.jsonl", "run-1")
    for step in (RUN_STARTED, "the lease is ours", "data is final"):
        journal.write(step, Verdict.PASS, then, 1.0, {"says": "a\u2028b"})
    begun = journal.path.read_bytes()
    journal.write("data is verified", Verdict.PASS, then, 1.0, {})
    journal.path.write_bytes(begun + b"{torn\n" + journal.path.read_bytes().removeprefix(begun))
    command = cast("Command", SimpleNamespace(code=0, seconds=3.0))
    recovery, lines = bench.outcome(command, 0.0)
    assert recovery.steps == 3
    assert [(one["journal"], one["line"]) for one in lines] == [("journal.jsonl", number) for number in (2, 3, 5)]
    kept = (bench.folder / "journal.jsonl").read_text().split("\n")
    assert all(json.loads(kept[one["line"] - 1])["step"] == one["step"] for one in lines)
    shown = report.runbook_step(lines[0], "fab failover", None)
    assert (shown["journal"], shown["line"]) == ("journal.jsonl", 2)


# -- the whole, with everything that costs root replaced


class Bench:
    """Replaces lab and commands; notes whether the lab was torn down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.downs = 0
        self.root = tmp_path
        fake = SimpleNamespace(
            up=lambda say: None,
            down=self._down,
            env=lambda: dict(os.environ),
            status=lambda: SimpleNamespace(healthy=False, providers="lab", state=tmp_path / "lab"),
        )
        monkeypatch.setattr(stage, "lifecycle", fake)

    def _down(self, say: Any) -> None:
        self.downs += 1

    def run(self, **options: Any) -> tuple[dict[str, Any], int]:
        folder, code = drills.run(scenarios.every()["complete-failure"], Options(**options), self.root)
        return json.loads((folder / "report.json").read_text()), code


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    return Bench(monkeypatch, tmp_path)


def breaking(error: BaseException) -> Any:
    def broken(self: Stage) -> None:
        with self.record.step("infrastructure exists (pulumi up)"):
            raise error

    return broken


def test_a_drill_that_breaks_off_reports_unknown_with_the_reason_and_leaves_no_lab(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stage, "prepare", breaking(StepFailed("pulumi up: exit code 255")))
    report, code = bench.run()
    assert (report["verdict"], code, bench.downs) == ("UNKNOWN", 5, 1)
    assert any("exit code 255" in reason for reason in report["reasons"])
    assert report["steps"][0]["verdict"] == "FAIL"
    assert report["rpo"]["measured_s"] is None and report["ledger"] is None


def test_ctrl_c_tears_down_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stage, "prepare", breaking(KeyboardInterrupt()))
    report, code = bench.run()
    assert (report["verdict"], code, bench.downs) == ("UNKNOWN", 130, 1)


def test_a_defect_of_the_drill_is_no_verdict_on_the_recovery(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stage, "prepare", breaking(ZeroDivisionError("oops")))
    report, code = bench.run()
    assert (report["verdict"], code, bench.downs) == ("UNKNOWN", 5, 1)
    assert "oops" in (Path(report["logs"]) / "drill-traceback.txt").read_text()


def test_keep_leaves_the_lab(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stage, "prepare", breaking(StepFailed("no")))
    bench.run(keep=True)
    assert bench.downs == 0


def test_the_clients_wait_for_the_ttl_is_told_from_the_recoverys_own_time(tmp_path: Path) -> None:
    """Fault at 100, DNS changed at 107; the answer ran out at 105 and was renewed, to the old address, until 135."""
    drill = Drill(scenarios.every()["complete-failure"], Options(), tmp_path)
    ledger = tmp_path / "ledger.jsonl"
    lines = [
        {"event": "resolved", "mono": 75.0, "address": "1", "until": 105.0},
        {"event": "resolved", "mono": 105.1, "address": "1", "until": 135.1},
        {"event": "resolved", "mono": 135.2, "address": "2", "until": 165.2},
    ]
    ledger.write_text("".join(json.dumps({**line, "wall": 0.0}) + "\n" for line in lines))
    drill.stage.client = Client("n", 1, ledger, tmp_path / "log", 1.0)
    drill.stage.client.read()
    drill.fault = Fault(0.0, 100.0, 100.1, True, {})
    drill.stage.inventory = SimpleNamespace(record=SimpleNamespace(ttl=30))  # type: ignore[assignment]
    drill.stage.watcher = SimpleNamespace(changed_after=lambda mono: 107.0)  # type: ignore[assignment]
    assert drill.timing() == {
        **{"ttl_s": 30, "ttl_left_at_fault_s": 5.0, "changed_after_s": 7.0, "waited_for_ttl_s": 28.2}
    }


def test_forks_are_settled_once_they_are_compared_and_no_other_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork(folder: str, verdict: str, **more: str) -> dict[str, Any]:
        return {"host": "a", "folder": folder, "verdict": verdict, **more}

    looks = iter([[fork("one", "UNKNOWN")]])
    compared = [fork("one", "PASS"), fork("two", "PASS", settled="2026-01-01T00:00:00+00:00")]
    monkeypatch.setattr(pair, "_forks", lambda stage: next(looks, compared))
    stage = mock.Mock()
    pair.settle(stage)
    assert [call.args[1] for call in stage.command.call_args_list] == [["fab", "forks", "--settle", "a:one"]]

    monkeypatch.setattr(pair, "COMPARED_S", 0.0)
    monkeypatch.setattr(pair, "_forks", lambda stage: [{"host": "a", "error": "away"}])
    with pytest.raises(StepFailed, match="isn't compared"):
        pair.settle(stage)
