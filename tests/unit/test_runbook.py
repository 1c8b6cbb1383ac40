"""Step, Runbook, Journal: probe first, act once, poll to the deadline, UNKNOWN stops."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lifeline.errors import BadConfig, BadInput, DataBad, StepFailed, Unavailable, Unproven
from lifeline.journal import ENDED, RUN_FINISHED, RUN_STARTED, Begun, Journal, read_lines, redact, unfinished
from lifeline.model import Finding, Lease, Verdict
from lifeline.runbook import Runbook, Step, check_waivers
from tests.unit.world import FakeClock


class World:
    """One claim: false until acted upon (and then ``delay`` more probes)."""

    def __init__(self, true: bool = False, delay: int = 0) -> None:
        self.true, self.delay, self.acts = true, delay, 0

    def probe(self) -> Finding:
        if self.true and self.delay > 0:
            self.delay -= 1
            return Finding.failed("not yet")
        return Finding.passed("it is so", seen=1) if self.true else Finding.failed("it isn't")

    def act(self) -> None:
        self.acts += 1
        self.true = True


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def journal(tmp_path: Path, clock: FakeClock) -> Journal:
    return Journal.start(tmp_path, "test", clock=clock)


def book(clock: FakeClock, *steps: Step) -> Runbook:
    return Runbook("test", steps, clock=clock, out=io.StringIO())


def test_a_claim_that_holds_is_recorded_and_not_acted_on(clock: FakeClock, journal: Journal) -> None:
    world = World(true=True)
    outcome = book(clock, Step("it holds", world.probe, world.act)).run(journal)
    assert world.acts == 0
    assert [line["step"] for line in journal.read()] == ["run started", "it holds", "run finished"]
    assert outcome.result("it holds").verdict is Verdict.PASS and not outcome.result("it holds").acted


def test_a_claim_that_fails_is_acted_on_once_and_polled(clock: FakeClock, journal: Journal) -> None:
    world = World(delay=5)
    book(clock, Step("it holds", world.probe, world.act, within=10)).run(journal)
    assert world.acts == 1 and 0.5 < clock.now < 2
    line = journal.read()[1]
    assert (line["verdict"], line["evidence"]["acted"], line["evidence"]["seen"]) == ("PASS", True, 1)
    assert line["seconds"] == pytest.approx(clock.now) and line["started"] == "2026-01-01T00:00:00.000Z"


def test_the_deadline_ends_the_polling_and_the_run(clock: FakeClock, journal: Journal) -> None:
    after = World()
    with pytest.raises(StepFailed, match="within 3 s: it holds: never") as caught:
        book(
            clock,
            Step("it holds", lambda: Finding.failed("never"), lambda: None, within=3, hint="fab status"),
            Step("later", after.probe, after.act),
        ).run(journal)
    assert clock.now == pytest.approx(3) and after.acts == 0
    assert caught.value.exit_code == 6 and caught.value.hint == "fab status"
    assert [(line["step"], line["verdict"]) for line in journal.read()[1:]] == [
        ("it holds", "FAIL"),
        ("run finished", "FAIL"),
    ]


def test_unknown_stops_before_acting_and_names_the_waiver(clock: FakeClock, journal: Journal) -> None:
    world = World()
    step = Step("it is fenced", lambda: Finding.unknown("nobody answers"), world.act, waiver="unfenced")
    with pytest.raises(Unproven, match="--waive unfenced") as caught:
        book(clock, step).run(journal)
    assert world.acts == 0 and caught.value.exit_code == 5
    assert journal.read()[-1]["verdict"] == "UNKNOWN"


def test_a_waived_unknown_goes_on_and_the_journal_keeps_the_waiver(clock: FakeClock, journal: Journal) -> None:
    after = World()
    step = Step("it is fenced", lambda: Finding.unknown(), waiver="unfenced")
    book(clock, step, Step("later", after.probe, after.act)).run(journal, waive=frozenset({"unfenced"}))
    line = journal.read()[1]
    assert (line["verdict"], line["waiver"]) == ("UNKNOWN", "unfenced") and after.acts == 1


def test_a_waiver_does_not_make_a_failure_pass(clock: FakeClock, journal: Journal) -> None:
    step = Step("it is fenced", lambda: Finding.failed("it writes"), within=1, waiver="unfenced")
    with pytest.raises(StepFailed):
        book(clock, step).run(journal, waive=frozenset({"unfenced"}))


def test_a_probe_that_cannot_reach_is_unknown_and_one_that_breaks_is_an_error(
    clock: FakeClock, journal: Journal
) -> None:
    def unreachable() -> Finding:
        raise Unavailable("no route")

    def bad() -> Finding:
        raise DataBad("invariant broken")

    with pytest.raises(Unproven, match="no route"):
        book(clock, Step("a", unreachable)).run(journal)
    with pytest.raises(DataBad):
        book(clock, Step("b", bad)).run(journal)
    assert [line["verdict"] for line in journal.read() if line["step"] == "b"] == ["FAIL"]


def test_an_action_whose_answer_was_lost_is_judged_by_the_probe(clock: FakeClock, journal: Journal) -> None:
    world = World()

    def act() -> None:
        world.act()
        raise Unavailable("timed out")

    book(clock, Step("it holds", world.probe, act)).run(journal)
    assert world.acts == 1


def test_unknown_after_acting_is_polled_and_then_unproven(clock: FakeClock, journal: Journal) -> None:
    answers = iter([Finding.failed()])
    step = Step("it holds", lambda: next(answers, Finding.unknown("gone")), lambda: None, within=2)
    with pytest.raises(Unproven, match="gone"):
        book(clock, step).run(journal)
    assert clock.now == pytest.approx(2)


def test_a_kill_leaves_a_journal_without_a_last_line(clock: FakeClock, tmp_path: Path) -> None:
    journal = Journal.start(tmp_path, "failover", clock=clock)
    journal.write("run started", Verdict.PASS, clock.utc(), 0, {"target": "b"})
    journal.write("a", Verdict.PASS, clock.utc(), 0, {})
    assert unfinished(tmp_path, "failover") == Begun(journal.run_id, {"target": "b"})
    with journal.path.open("a") as file:
        file.write('{"torn')
    assert len(journal.read()) == 2
    clock.now += 60
    done = Journal.start(tmp_path, "failover", clock=clock)
    book(clock).run(done)
    assert unfinished(tmp_path, "failover") is None


@pytest.mark.parametrize(("taken_by_run", "took"), [("mine", True), ("resumed", True), ("another", False)])
def test_a_run_knows_the_lease_that_it_or_the_run_it_resumed_took(taken_by_run: str, took: bool) -> None:
    begun = Begun("mine", {"lease_run_id": "resumed"})
    assert begun.took(Lease("genesis", "b", 2, 30, 5, 0, "operator:x", taken_by_run)) is took


def test_the_journal_keeps_no_secrets_and_is_private(tmp_path: Path, clock: FakeClock) -> None:
    journal = Journal.start(tmp_path / "new", "test", secrets=["hunter2", ""], clock=clock)
    step = Step("a", lambda: Finding.passed("said hunter2", nested=[{"secret_key": "other"}], url="http://x:hunter2@y"))
    book(clock, step).run(journal)
    text = journal.path.read_text()
    assert "hunter2" not in text and "other" not in text and text.count("***") == 3
    assert journal.path.stat().st_mode & 0o777 == 0o600


def test_redaction_keeps_plain_values() -> None:
    assert redact({"a": 1, "b": None, "c": [True, 1.5]}, frozenset()) == {"a": 1, "b": None, "c": [True, 1.5]}
    assert json.dumps(redact({"p": Path("/x")}, frozenset())) == '{"p": "/x"}'


def test_a_plan_probes_and_changes_nothing(clock: FakeClock) -> None:
    world, out = World(), io.StringIO()
    steps = [
        Step("a", lambda: Finding.passed()),
        Step("b", world.probe, world.act, would="set b"),
        Step("c", lambda: Finding.unknown("?"), waiver="no-c"),
        Step("d", lambda: Finding(Verdict.SKIPPED)),
    ]
    planned = Runbook("test", steps, clock=clock, out=out).plan()
    assert [entry.would for entry in planned] == [
        "nothing, it holds already",
        "set b",
        "stop here, unless --waive no-c",
        "nothing, skipped",
    ]
    assert world.acts == 0 and clock.now == 0 and "nothing was changed" in out.getvalue()


@pytest.mark.parametrize("fails", [True, False])
def test_the_journal_is_published_also_on_failure_and_publishing_never_fails_the_run(
    fails: bool, clock: FakeClock, journal: Journal
) -> None:
    published: list[str] = []

    def publish(kept: Journal) -> None:
        published.append(kept.read()[-1]["step"])
        raise RuntimeError("bucket is gone")

    probe: Callable[[], Finding] = (lambda: Finding.failed()) if fails else (lambda: Finding.passed())
    out = io.StringIO()
    runbook = Runbook("test", [Step("a", probe, within=0)], clock=clock, out=out)
    if fails:
        with pytest.raises(StepFailed):
            runbook.run(journal, publish=publish)
    else:
        runbook.run(journal, publish=publish)
    assert published == ["run finished"] and "bucket is gone" in out.getvalue()


def test_the_terminal_may_go_away(clock: FakeClock, journal: Journal) -> None:
    out = io.StringIO()
    out.close()
    world = World()
    Runbook("test", [Step("a", world.probe, world.act)], clock=clock, out=out).run(journal)
    assert world.acts == 1


def test_unknown_waivers_are_bad_input() -> None:
    assert check_waivers(["x"], ["x", "y"]) == {"x"}
    with pytest.raises(BadInput, match="known: x, y"):
        check_waivers(["z"], ["y", "x"])


def test_an_error_without_a_next_command_takes_its_step_s(clock: FakeClock, journal: Journal) -> None:
    def broken() -> Finding:
        raise DataBad("a page is torn")

    with pytest.raises(DataBad) as caught:
        book(clock, Step("data is good", broken, hint="fab restore")).run(journal)
    assert caught.value.hint == "fab restore"


def test_what_is_not_waited_for_has_no_deadline_to_tell(clock: FakeClock, journal: Journal) -> None:
    with pytest.raises(StepFailed, match=r"^not so: there is a backup: it isn't"):
        book(clock, Step("there is a backup", World().probe, within=0)).run(journal)


def test_an_interrupted_step_is_not_called_a_failure(clock: FakeClock, journal: Journal) -> None:
    def interrupt() -> Finding:
        raise KeyboardInterrupt

    runbook = book(clock, Step("it holds", interrupt))
    with pytest.raises(KeyboardInterrupt):
        runbook.run(journal)
    assert isinstance(runbook.out, io.StringIO) and "it holds … interrupted" in runbook.out.getvalue()


def test_of_two_runs_in_one_second_the_later_counts(tmp_path: Path) -> None:
    """A failover killed and typed again at once: the next one mustn't resume the killed one."""

    def line(run_id: str, step: str, started: str) -> str:
        shown = {"run_id": run_id, "step": step, "verdict": "PASS", "started": started, "evidence": {}, "seconds": 0.0}
        return json.dumps(shown) + "\n"

    killed, done = "20260101T000012Z-failover-ffffff", "20260101T000012Z-failover-000000"
    (tmp_path / f"{killed}.jsonl").write_text(line(killed, RUN_STARTED, "2026-01-01T00:00:12.100Z"))
    ended = line(done, RUN_STARTED, "2026-01-01T00:00:12.900Z") + line(done, RUN_FINISHED, "2026-01-01T00:00:12.900Z")
    (tmp_path / f"{done}.jsonl").write_text(ended)
    assert unfinished(tmp_path, "failover") is None
    (tmp_path / f"{done}.jsonl").unlink()
    begun = unfinished(tmp_path, "failover")
    assert begun is not None and begun.run_id == killed


def test_an_advisory_step_tells_what_is_not_known_and_the_run_goes_on(clock: FakeClock, journal: Journal) -> None:
    told = Step("caches followed", lambda: Finding.unknown("one keeps it"), within=0, advisory=True)
    runbook = book(clock, told, Step("the next", World(true=True).probe))
    assert [planned.would for planned in runbook.plan()] == ["say so, and go on", "nothing, it holds already"]
    runbook.run(journal)
    lines = [(line["step"], line["verdict"], line["evidence"].get("advisory")) for line in journal.read()]
    assert lines[1:] == [("caches followed", "UNKNOWN", True), ("the next", "PASS", None), (RUN_FINISHED, "PASS", None)]
    with pytest.raises(StepFailed):  # what is known to be otherwise is no advice
        book(clock, Step("false", World().probe, within=0, advisory=True)).run(journal)


class Disk:
    """Takes so many bytes more, then is full: a last write is cut short before the next one fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free, self._write = 1 << 20, os.write
        monkeypatch.setattr("lifeline.journal.os.write", self.write)

    def write(self, descriptor: int, body: bytes) -> int:
        if not self.free:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(descriptor, body[: self.free])
        self.free -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("free", [0, 20])
def test_a_disk_that_is_full_at_the_start_is_told_before_anything_is_done(
    free: int, clock: FakeClock, tmp_path: Path, disk: Disk
) -> None:
    before = Journal.start(tmp_path, "failover", clock=clock)
    before.write(RUN_STARTED, Verdict.PASS, clock.utc(), 0, {"target": "b"})
    clock.now, disk.free, world = 60, free, World()
    journal = Journal.start(tmp_path, "failover", clock=clock)
    with pytest.raises(BadConfig, match="No space left") as caught:
        book(clock, Step("it holds", world.probe, world.act)).run(journal)
    assert world.acts == 0 and caught.value.exit_code == 3
    assert str(journal.path) in caught.value.message and f"df -h {tmp_path}" in caught.value.hint
    # Nor does it hide a run that was begun before it.
    assert unfinished(tmp_path, "failover") == Begun(before.run_id, {"target": "b"})


def test_a_folder_that_may_not_be_written_is_told_too(clock: FakeClock, tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file where a folder should be")
    with pytest.raises(BadConfig, match="nothing was done") as caught:
        book(clock).run(Journal.start(tmp_path / "journal", "failover", clock=clock))
    assert f"ls -ld {tmp_path / 'journal'}" in caught.value.hint


@pytest.mark.parametrize(("fails", "in_vault"), [(False, True), (False, False), (True, True)])
def test_an_outage_does_not_wait_for_a_disk(
    fails: bool, in_vault: bool, clock: FakeClock, tmp_path: Path, disk: Disk
) -> None:
    half = Journal.start(tmp_path, "failover", clock=clock)
    half.write(RUN_STARTED, Verdict.PASS, clock.utc(), 0, {"target": "b"})
    clock.now = 60
    journal, second, out = Journal.start(tmp_path, "failover", clock=clock), World(), io.StringIO()
    vault: list[bytes] = []

    def fill() -> Finding:
        disk.free = 30
        return Finding.passed()

    def publish(kept: Journal) -> None:
        if not in_vault:
            raise Unavailable("the vault doesn't answer")
        vault.append(kept.text)

    steps = [Step("one", fill), Step("two", second.probe, second.act), Step("…", lambda: Finding.passed())]
    runbook = Runbook("failover", [*steps, Step("last", World(true=not fails).probe, within=0)], clock=clock, out=out)
    if fails:
        with pytest.raises(StepFailed):
            runbook.run(journal, {"target": "c"}, publish=publish)
    else:
        runbook.run(journal, {"target": "c"}, publish=publish)
    said = out.getvalue()
    assert second.acts == 1 and said.count("keeps its lines") == 1
    assert f"{journal.path} lacks its last 5 lines" in said and f"df -h {tmp_path}" in said
    assert ("the vault has all of it" in said) is in_vault and ("nobody else has them" in said) is not in_vault
    if in_vault:
        whole = [json.loads(line)["step"] for line in vault[0].decode().splitlines()]
        assert whole == [RUN_STARTED, "one", "two", "…", "last", RUN_FINISHED]
    assert [line["step"] for line in journal.read()] == [RUN_STARTED]
    # What failed is gone on with; what ended well isn't, and hides the run before it that it ended.
    assert unfinished(tmp_path, "failover") == (Begun(journal.run_id, journal.read()[0]["evidence"]) if fails else None)
    assert (journal.path.suffix == ENDED) is not fails


def test_where_not_even_a_name_can_be_changed_the_operator_is_told_to(
    clock: FakeClock, journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill() -> Finding:
        disk.free = 0
        monkeypatch.setattr(Path, "rename", lambda path, _: disk.write(-1, bytes(path)))
        return Finding.passed()

    out = io.StringIO()
    Runbook("test", [Step("one", fill)], clock=clock, out=out).run(journal)
    assert f"mv {journal.path} {journal.path}{ENDED}" in out.getvalue()


def test_a_disk_with_room_again_has_the_whole_journal(clock: FakeClock, journal: Journal, disk: Disk) -> None:
    def of(free: int) -> Finding:
        disk.free = free
        return Finding.passed("ü")

    out = io.StringIO()
    steps = [Step("one", lambda: of(25)), Step("two", lambda: of(0)), Step("three", lambda: of(1 << 20))]
    Runbook("test", steps, clock=clock, out=out).run(journal)
    assert [line["step"] for line in journal.read()] == [RUN_STARTED, "one", "two", "three", RUN_FINISHED]
    assert journal.path.read_bytes() == journal.text and "There was room again" in out.getvalue()


def test_a_line_torn_inside_a_character_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "20260101T000000Z-failover-abcdef.jsonl"
    whole = {"run_id": "x", "step": RUN_STARTED, "started": "s", "verdict": "PASS", "evidence": {"why": "lost …"}}
    line = json.dumps(whole, ensure_ascii=False).encode()
    path.write_bytes(line + b"\n" + line[: line.index(b"\xe2") + 1])
    assert read_lines(path) == [whole]
    assert unfinished(tmp_path, "failover") == Begun("x", {"why": "lost …"})
