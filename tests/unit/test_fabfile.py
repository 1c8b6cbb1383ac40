"""The operator's verbs: exit codes, errors that end with the next command, and what is on the list."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
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
