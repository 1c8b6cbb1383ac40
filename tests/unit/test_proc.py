"""Commands on a host: what they say while they run, and how they end."""

from __future__ import annotations

import time

import pytest

from lifeline import proc
from lifeline.errors import StepFailed


def test_each_line_comes_when_it_is_said_and_all_of_it_at_the_end() -> None:
    lines: list[tuple[str, float]] = []
    argv = ["sh", "-c", "echo one; echo err >&2; sleep 0.3; echo two; exit 3"]
    done = proc.run(argv, timeout=10, line=lambda text: lines.append((text, time.monotonic())))
    assert (done.code, done.stdout, done.reason) == (3, "one\ntwo\n", "err")
    assert [text for text, _ in lines] == ["one\n", "two\n"] and lines[1][1] - lines[0][1] > 0.2


def test_with_lines_a_deadline_is_kept_and_a_missing_program_told_as_without() -> None:
    begun = time.monotonic()
    with pytest.raises(StepFailed, match="longer than"):
        proc.run(["sleep", "30"], timeout=0.2, line=print)
    assert time.monotonic() - begun < 10
    with pytest.raises(StepFailed, match="not installed"):
        proc.run(["no-such-program"], timeout=1, line=print)


def test_lots_on_stderr_blocks_nothing() -> None:
    argv = ["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x >&2; echo done"]
    assert proc.run(argv, timeout=10, line=lambda _: None).stdout == "done\n"
