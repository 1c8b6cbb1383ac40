"""What long work says, how seldom, and what of it reaches a terminal."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from lifeline import progress
from lifeline.progress import Meter, during, heard, say


def test_what_is_said_is_heard_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    say("restoring\nfrom the replica")
    line = capfd.readouterr().err.encode()
    assert heard(line.rstrip(b"\n")) == "restoring from the replica"
    for other in (b"Traceback (most recent call last):", b"lifeline-host: no", b""):
        assert heard(other) is None


def test_a_terminal_gets_no_control_characters_and_no_endless_line() -> None:
    assert heard(b"progress: a\x1b[2Jb\x07\xff") == "a[2Jb�"
    assert len(heard(b"progress: " + b"x" * 5000) or "") == progress.LONGEST


def test_nobody_listens_any_more_and_the_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    say("half way")


def test_a_meter_speaks_seldom_and_says_how_long_it_takes_still() -> None:
    now, said = [0.0], list[str]()
    meter = Meter("restoring trades", said.append, clock=lambda: now[0])
    for second in range(11):
        now[0] = second
        meter(second * 10_000_000, 200_000_000)
    assert said == [
        "restoring trades: 25 %, 50 of 200 MB, about 15 s left",
        "restoring trades: 50 %, 100 of 200 MB, about 10 s left",
    ]
    now[0] = 20
    meter(7_000_000, 0)
    assert said[-1] == "restoring trades: 7 MB"


def test_quick_work_says_nothing_and_slow_work_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with during("verifying", said.append):
        pass
    assert said == []
    monkeypatch.setattr(progress, "FIRST_S", 0.01)
    monkeypatch.setattr(progress, "AGAIN_S", 0.01)

    class Twice(list[str]):
        def append(self, text: str) -> None:
            super().append(text)
            if len(self) == 2:
                enough.set()

    enough, twice = threading.Event(), Twice()
    with during("verifying", twice.append):
        assert enough.wait(10)
    assert twice[0] == "verifying: 0 s so far"
