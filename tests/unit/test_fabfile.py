"""The operator's verbs: exit codes, errors that end with the next command, and what is on the list."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from invoke.config import Config
from invoke.context import Context
from invoke.parser import Parser

import fabfile
from lifeline.errors import BadInput, LifelineError, Refused, StepFailed

ROOT = Path(__file__).resolve().parents[2]
VERBS = {"backup", "drill", "failover", "inventory", "provision", "reprotect", "restore", "status", "validate"}


def failing(error: BaseException) -> int:
    """The exit code of a verb that ends with ``error``."""

    @fabfile.verb()
    def broken(_: Context) -> None:
        """For the test."""
        raise error

    with pytest.raises(SystemExit) as stopped:
        broken(Context())
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.mark.parametrize("kind", LifelineError.__subclasses__(), ids=lambda kind: str(kind.__name__))
def test_every_error_has_its_exit_code(kind: type[LifelineError]) -> None:
    try:
        error = kind("what happened")
    except TypeError:
        pytest.skip("needs more than words")
    assert failing(error) == kind.exit_code


def test_errors_end_with_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    failing(Refused("it is primary already", hint="fab status"))
    assert capsys.readouterr().err.endswith("Refused: it is primary already\n  next: fab status\n")


@pytest.mark.parametrize(
    ("error", "following"), [(BadInput("no such host"), "fab --help broken"), (StepFailed("it broke"), "fab status")]
)
def test_an_error_that_names_no_next_command_gets_one(
    error: LifelineError, following: str, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error)
    assert capsys.readouterr().err.endswith(f"\n  next: {following}\n")


def test_an_interrupt_and_a_defect() -> None:
    assert failing(KeyboardInterrupt()) == 130
    assert failing(ZeroDivisionError()) == 1


def test_the_verbs_and_that_listing_them_is_quick() -> None:
    assert set(fabfile.namespace.task_names) >= VERBS | {"lab.up", "lab.down", "lab.env", "lab.status"}
    code = "import sys, fabfile; print([m for m in ('pulumi', 'boto3', 'httpx', 'lab', 'moto') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_from_the_shell_without_a_stack(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "fabric", "-r", str(ROOT), "status"]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "LIFELINE_STACK isn't set" in done.stderr and 'next: for the lab: eval "$(fab lab.env)"' in done.stderr


@pytest.mark.parametrize("name", ["failover", "restore"])
def test_waivers_arrive_whole_and_may_be_several(name: str) -> None:
    given = ["--waive", "standby-lag", "--waive", "unfenced-primary"]
    [parsed] = Parser(contexts=fabfile.namespace.to_contexts()).parse_argv([name, *given])
    assert parsed.as_kwargs["waive"] == ["standby-lag", "unfenced-primary"]


class Shell:
    """`fab …` as it is typed, up to the runbook: ``opened`` says that a verb went on to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.opened = False
        for room in ("runbooks.doors.open_site", "lab.drill.main", "lab.almanac.almanac", "runbooks.break_glass.renew"):
            monkeypatch.setattr(room, self.open)

    def open(self, *_: object, **__: object) -> Any:
        self.opened = True
        raise Refused("a runbook was reached", hint="fab status")

    def types(self, line: str, dry: bool = False) -> int:
        """The exit code."""
        words = shlex.split(line)
        self.monkeypatch.setattr("sys.argv", ["fab", *words])
        [parsed] = Parser(contexts=fabfile.namespace.to_contexts()).parse_argv(words)
        with pytest.raises(SystemExit) as stopped:
            fabfile.namespace[parsed.name](Context(Config({"run": {"dry": dry}})), **parsed.as_kwargs)
        assert isinstance(stopped.value.code, int)
        return stopped.value.code


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(monkeypatch)


@pytest.mark.parametrize(
    ("line", "following"),
    [
        ("failover --yes", "fab failover --dry-run"),
        ("validate", "fab --help validate"),
        ("lab.down", "fab --help lab."),
    ],
)
def test_fab_s_own_dry_run_is_none_and_is_refused(
    shell: Shell, line: str, following: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell.types(line, dry=True) == 2 and not shell.opened
    said = capsys.readouterr().err
    assert "--dry-run" in said and f"next: {following}" in said


def test_fab_s_own_dry_run_is_seen_wherever_it_is_typed(tmp_path: Path) -> None:
    for words in (["-R", "failover", "--yes"], ["failover", "--yes", "--dry"]):
        argv = [sys.executable, "-m", "fabric", "-r", str(ROOT), *words]
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "nothing was done" in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        *("restore --at '' --yes", "restore --at= --yes", "restore --at ' ' --yes", "restore --from '' --yes"),
        *("restore --only --yes", "restore --yes --only", "restore --only --from local --yes", "restore --only= --yes"),
        *("restore --only config --only --yes", "failover --waive --yes", "failover --target '' --yes"),
        *("dns --target= --yes", "switchover --waive --yes", "rebuild --waive= --yes", "forks --settle ''"),
        *("pause --for ''", "mode ''", "incident note ''", "incident report --id ''", "inventory --from-host ''"),
        *("drill --scenario ''", "drill --ical ''", "drill --runs ''"),
    ],
)
def test_an_empty_or_forgotten_value_is_no_other_act(shell: Shell, line: str) -> None:
    assert shell.types(line) == 2 and not shell.opened


@pytest.mark.parametrize(
    "line",
    [
        *("drill --scenario rebuild --dry-run", "drill --dry-run", "drill --production --dry-run", "drill --yes"),
        *("drill --production --list", "drill --production --due", "drill --production --yes", "drill --list --keep"),
        *("drill --isolated --scenario rebuild", "drill --tear-down --isolated", "drill --due --dry-run"),
        *("drill --runs x", "drill --ttl 1e3", "incident close --id 1", "incident open x --as cause"),
    ],
)
def test_an_option_that_means_nothing_there_is_refused(shell: Shell, line: str) -> None:
    assert shell.types(line) == 2 and not shell.opened


@pytest.mark.parametrize(
    "line",
    [
        *("restore --at '2026-01-15 14:00:00' --yes", "restore --only config --only state --yes", "incident list"),
        *("failover --waive standby-lag --yes", "drill --scenario rebuild --keep", "drill --isolated --dry-run --yes"),
        *("drill --due --ical drills.ics --index", "drill --scenario power-cut --runs 3 --ttl 10 --mb 0 --page"),
        *(
            "drill --list",
            "incident note 'what I saw' --as cause",
            "incident report --id 1 --publish",
            "pause --for 2h",
        ),
    ],
)
def test_what_is_meant_goes_on(shell: Shell, line: str) -> None:
    assert shell.types(line) == 4 and shell.opened
