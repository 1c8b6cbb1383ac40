"""The circuit breaker of one connection to the exchange. Pure: outcomes and times in, states out.

closed: orders go through. It opens after too many failures in a row, or when too many of the last calls timed out.
open: nothing goes through, for a while; half-open: trials only, one after the other. So many good ones in a row close
it, a bad one opens it again. Orders are no trials: nobody's order waits for an exchange that is known to be ill.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

State = Literal["closed", "open", "half-open"]
STATES: tuple[State, ...] = ("closed", "open", "half-open")
Outcome = Literal["answered", "failed", "timed out"]
OUTCOMES: tuple[Outcome, ...] = ("answered", "failed", "timed out")


@dataclass(frozen=True)
class Rules:
    """Times in seconds."""

    failures: int = 5  # in a row, timeouts among them
    window: int = 20  # calls looked back upon …
    enough: int = 10  # … of which there must be so many
    timeouts: float = 0.5  # … for this share of timeouts to open it
    rest_s: float = 3.0
    trials: int = 3


RULES = Rules()


@dataclass(frozen=True)
class Breaker:
    """`why` says in words why it isn't closed."""

    rules: Rules = RULES
    state: State = "closed"
    since: float = 0.0
    failures: int = 0
    recent: tuple[bool, ...] = ()  # of the last calls, the newest last: did it time out?
    good: int = 0
    why: str = ""

    @property
    def lets_through(self) -> bool:
        """May an order go this way?"""
        return self.state == "closed"

    def trial_due(self, now: float) -> bool:
        """Is it time to try whether it is well again?"""
        return self.state == "half-open" or (self.state == "open" and now - self.since >= self.rules.rest_s)

    def trying(self, now: float) -> Breaker:
        """A trial begins."""
        return replace(self, state="half-open", since=now, good=0) if self.state == "open" else self

    def after(self, outcome: Outcome, now: float) -> Breaker:
        """A call has ended. One that was on its way when the circuit opened changes nothing any more."""
        if self.state == "open":
            return self
        if self.state == "half-open":
            return self._after_trial(outcome, now)
        failures = 0 if outcome == "answered" else self.failures + 1
        recent = (*self.recent, outcome == "timed out")[-self.rules.window :]
        late = sum(recent)
        if failures >= self.rules.failures:
            return self._open(now, f"{failures} failures in a row, the last one {outcome}")
        if len(recent) >= self.rules.enough and late / len(recent) >= self.rules.timeouts:
            return self._open(now, f"{late} of the last {len(recent)} calls timed out")
        return replace(self, failures=failures, recent=recent)

    def _after_trial(self, outcome: Outcome, now: float) -> Breaker:
        if outcome != "answered":
            return self._open(now, f"a trial {outcome}")
        if self.good + 1 >= self.rules.trials:
            return Breaker(self.rules, since=now)
        return replace(self, good=self.good + 1)

    def _open(self, now: float, why: str) -> Breaker:
        return Breaker(self.rules, "open", now, why=why)
