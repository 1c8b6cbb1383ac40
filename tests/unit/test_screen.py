"""A runbook's lines and its hosts' on one terminal or on two; and a terminal that takes nothing."""

from __future__ import annotations

import io
import threading
import time

from runbooks.screen import KEPT, Screen


def settle(screen: Screen) -> None:
    assert screen._quiet.wait(10)


def test_on_one_terminal_a_step_s_line_goes_on_below_what_hosts_said() -> None:
    terminal = io.StringIO()
    screen = Screen(terminal, terminal)
    print("[1/2] data is final … ", end="", file=screen)
    screen.hear("backup-singapore", "restoring trades: 25 %")
    screen.hear("backup-singapore", "verifying trades: 2 s so far")
    settle(screen)
    print("4.0 s  at the end", file=screen)
    print("[2/2] quick … ", end="", file=screen)
    print("0.1 s", file=screen)
    screen.hear("backup-singapore", "late")
    settle(screen)
    assert terminal.getvalue().splitlines() == [
        "[1/2] data is final … ",
        "      backup-singapore: restoring trades: 25 %",
        "      backup-singapore: verifying trades: 2 s so far",
        "      … 4.0 s  at the end",
        "[2/2] quick … 0.1 s",
        "      backup-singapore: late",
    ]


def test_stdout_stays_a_program_s_where_it_is_another() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out, err)
    print("[1/1] saved … ", end="", file=screen)
    screen.hear("h", "copying")
    settle(screen)
    print("1.0 s", file=screen)
    assert out.getvalue() == "[1/1] saved … 1.0 s\n" and err.getvalue() == "      h: copying\n"
    screen.aside()
    print("no JSON", file=screen)
    assert "no JSON" not in out.getvalue() and "no JSON" in err.getvalue()


def test_a_line_of_its_own_breaks_none() -> None:
    out = io.StringIO()
    screen = Screen(out, io.StringIO())
    print("[1/1] restored … ", end="", file=screen)
    screen.line("      PASS newest")
    print("1.0 s", file=screen)
    assert out.getvalue() == "[1/1] restored … \n      PASS newest\n      … 1.0 s\n"


def test_no_secret_is_shown() -> None:
    err = io.StringIO()
    screen = Screen(io.StringIO(), err, ["s3cret", ""])
    screen.hear("h", "refused: key s3cret")
    settle(screen)
    assert err.getvalue() == "      h: refused: key ***\n"


def test_a_terminal_that_takes_nothing_holds_nobody_up() -> None:
    stuck = threading.Event()

    class Stopped(io.StringIO):
        def write(self, text: str) -> int:
            stuck.wait(30)
            return super().write(text)

    out, err = io.StringIO(), Stopped()
    screen = Screen(out, err)
    begun = time.monotonic()
    for number in range(5 * KEPT):
        screen.hear("h", f"line {number}")
    print("[1/1] saved", file=screen)
    assert time.monotonic() - begun < 5 and out.getvalue() == "[1/1] saved\n"
    stuck.set()
    settle(screen)
    assert len(err.getvalue().splitlines()) <= KEPT + 1
