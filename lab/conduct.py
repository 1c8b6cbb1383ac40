"""How a drill is conducted: commands as an operator would type them, logged in full and shown in short; the record of
steps; signals.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from lifeline.errors import LifelineError, StepFailed, Unproven
from lifeline.journal import stamp
from lifeline.model import Verdict

STOP_S = 10.0
TAIL_LINES = 12
Show = Callable[[str], str | None]


EXIT = {Verdict.PASS: 0, Verdict.UNKNOWN: Unproven.exit_code, Verdict.FAIL: StepFailed.exit_code}
INTERRUPTED = 130


@dataclass
class Step:
    """One step of a drill. ``mono`` places it on the timeline."""

    name: str
    started: datetime
    mono: float
    verdict: Verdict = Verdict.UNKNOWN
    seconds: float = 0.0
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_json(self, zero_mono: float | None) -> dict[str, Any]:
        """The report's form; ``at_s`` is seconds after the fault, negative before."""
        at = None if zero_mono is None else round(self.mono - zero_mono, 3)
        return {
            **{"name": self.name, "verdict": str(self.verdict), "seconds": round(self.seconds, 3)},
            **{"started": stamp(self.started), "at_s": at, "evidence": self.evidence},
        }


@dataclass
class Record:
    """The steps so far, said aloud as they happen."""

    say: Callable[[str], None]
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """PASS when the block ends; with an error the step is FAIL (UNKNOWN for Unproven, or an interruption)."""
        step = Step(name, datetime.now(UTC), time.monotonic())
        self.steps.append(step)
        self.say(f"── {name}")
        try:
            yield step
            step.verdict = Verdict.PASS
        except BaseException as error:
            unknown = isinstance(error, Unproven) or not isinstance(error, Exception)
            step.verdict = Verdict.UNKNOWN if unknown else Verdict.FAIL
            step.evidence["error"] = error.message if isinstance(error, LifelineError) else repr(error)
            raise
        finally:
            step.seconds = time.monotonic() - step.mono
            self.say(f"   {step.verdict}  {step.seconds:.1f} s")


class Command:
    """A running command: its output goes to a log, and to the screen as far as ``show`` lets it.

    In a session of its own: Ctrl-C at the drill reaches the drill, which decides what becomes of the command.
    """

    def __init__(
        self, argv: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path, say: Callable[[str], None], show: Show
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.argv, self.log = tuple(argv), log
        self._say, self._show = say, show
        self.begun = time.monotonic()
        self.ended: float | None = None
        self._process = subprocess.Popen(
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, lines: IO[str] | None) -> None:
        assert lines is not None
        with self.log.open("w", encoding="utf-8") as log:
            for line in lines:
                log.write(line)
                log.flush()
                shown = self._show(line.rstrip())
                if shown:
                    self._say(f"   {shown}")
        self.ended = time.monotonic()

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.begun

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return self._process.poll()

    def wait(self, within_s: float) -> int:
        """The exit code; StepFailed when it isn't done in time, and it is stopped then."""
        try:
            code = self._process.wait(max(0.1, within_s))
        except subprocess.TimeoutExpired:
            self.stop()
            raise StepFailed(f"{self} did not end within {within_s:.0f} s", hint=f"less {self.log}") from None
        # A grandchild may hold the pipe for longer than the command lives.
        self._reader.join(2.0)
        return code

    def check(self, within_s: float) -> None:
        """StepFailed with its last words unless it exits with 0 in time."""
        code = self.wait(within_s)
        if code != 0:
            raise StepFailed(f"{self}: exit code {code}\n{self.tail()}", hint=f"less {self.log}")

    def tail(self) -> str:
        """The last lines of its output."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return "\n".join(lines[-TAIL_LINES:])

    def stop(self) -> None:
        """SIGINT, as Ctrl-C would; then SIGKILL. To its whole session."""
        for number in (signal.SIGINT, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            os.killpg(self._process.pid, number)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                continue

    def __str__(self) -> str:
        return " ".join(Path(word).name if index == 0 else word for index, word in enumerate(self.argv))


def everything(line: str) -> str | None:
    """Show a command's output as it is."""
    return line or None


def say(text: str) -> None:
    """To the screen, at once; a terminal that went away must not end a drill."""
    try:
        print(text, flush=True)
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for the rest of the process


def broke_off(work: Callable[[], object], what: str, trace: Path) -> tuple[bool, str]:
    """Do it, and end in order whatever comes: was it interrupted, and why did it break off ("": it didn't)? Of a defect
    the traceback is kept in ``trace``."""
    try:
        with ending_in_order():
            work()
    except KeyboardInterrupt:
        return True, "interrupted"
    except LifelineError as error:
        return False, str(error)
    except Exception as error:
        note_defect(trace)
        return False, f"a defect in the {what}: {error!r}"
    return False, ""


def note_defect(trace: Path) -> None:
    """Keep the traceback of what is being handled."""
    trace.parent.mkdir(parents=True, exist_ok=True)
    trace.write_text(traceback.format_exc())


@contextmanager
def ending_in_order() -> Iterator[None]:
    """SIGTERM ends a drill as Ctrl-C does: in order."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not stop the tearing down half way."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
