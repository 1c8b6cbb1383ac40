"""Every error an operator can meet, and its exit code.

The table is documented in docs/design.md (Exit codes). An error says what happened; ``hint`` is the next command to
type.
"""

from __future__ import annotations


class LifelineError(Exception):
    """Base: a message for someone woken at 3 a.m., the next step, and an exit code."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.hint}" if self.hint else self.message


class BadInput(LifelineError):
    """The command line, a target or a timestamp is wrong."""

    exit_code = 2


class BadConfig(LifelineError):
    """Configuration or inventory is missing or invalid."""

    exit_code = 3


class Refused(LifelineError):
    """Policy or safety forbids it; the message names the waiver where there is one."""

    exit_code = 4


class Unproven(LifelineError):
    """What must be proved can't be proved: the verdict is UNKNOWN."""

    exit_code = 5


class StepFailed(LifelineError):
    """A step failed or ran out of time."""

    exit_code = 6


class Unavailable(LifelineError):
    """Something outside is unreachable or refused us: cloud, store or host."""

    exit_code = 7


class NotDone(Unavailable):
    """A host that did answer says that something was unreachable for it: what it was asked for is over, without effect.

    Any other Unavailable may be an answer that got lost, and the deed may still be going on.
    """


class DataBad(LifelineError):
    """Data failed verification."""

    exit_code = 8
