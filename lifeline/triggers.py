"""When a service's own figures call for a failover. Pure: scrapes in Prometheus' text format in, a judgement with its
reason out.

A trigger is a threshold over a window. It fires on evidence only: a counter that began anew isn't taken for one that
fell, what grew while nobody looked isn't taken for what grew in the window, and no figures are UNKNOWN, not a zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

# Looks further apart leave a hole in what is known; the newest look may be this old. Seconds.
GAP_S = 30.0
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\\n]|\\.)*)"\s*(,|(?=\}))')
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


@dataclass(frozen=True, order=True)
class Series:
    """A metric's name and its labels, in the order of their names."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        inner = ",".join(f'{name}="{value}"' for name, value in self.labels)
        return f"{self.name}{{{inner}}}" if inner else self.name

    def covers(self, other: Series) -> bool:
        """Is the other one of this name, with these labels among its own?"""
        return self.name == other.name and set(self.labels) <= set(other.labels)


Scrape = Mapping[Series, float]


@dataclass(frozen=True)
class Trigger:
    """Exactly one threshold. `increase`: a counter that rose by at least so much in the last `within_s` seconds;
    `above`: a gauge that was higher all that time. The series that `metric` covers are added up."""

    name: str
    metric: Series
    within_s: float
    increase: float | None = None
    above: float | None = None


@dataclass(frozen=True)
class Judgement:
    """`fired` None: not known. `value`: what was held against the threshold."""

    fired: bool | None
    says: str
    value: float | None = None


@dataclass(frozen=True)
class Look:
    """What one scrape showed: the sum of the series, None where there was none, and how much they grew since the look
    before (`since`)."""

    at: float
    since: float
    value: float | None
    grown: float


@dataclass(frozen=True)
class Watch:
    """A trigger with the looks that matter to it. Times are seconds on one clock that never goes back.

    It is of one service's life on one host: a new role begins with a new one.
    """

    trigger: Trigger
    looks: tuple[Look, ...] = ()
    last: Scrape = field(default_factory=dict)
    blind: str = "nobody has looked yet"

    def seen(self, at: float, scrape: Scrape | None, why: str = "its metrics don't answer") -> Watch:
        """After a look; `scrape` None: there was no answer, and why."""
        if scrape is None:
            return replace(self, blind=why)
        found = {series: value for series, value in scrape.items() if self.trigger.metric.covers(series)}
        before = self.looks[-1] if self.looks else None
        if before and at <= before.at:
            return self
        grown = sum(_growth(self.last.get(series), value) for series, value in found.items()) if before else 0.0
        look = Look(at, before.at if before else at, sum(found.values()) if found else None, grown)
        begin = at - self.trigger.within_s
        # The last one before the window says how things stood when it began.
        older = sum(known.at <= begin for known in self.looks)
        return replace(self, looks=(*self.looks[max(0, older - 1) :], look), last=found, blind="")

    def judge(self, now: float) -> Judgement:
        """Fired or not, and why."""
        judge = _rises if self.trigger.increase is not None else _stays_above
        return judge(self, now)


def _growth(before: float | None, value: float) -> float:
    """Of a counter; one that is lower, or new, began at 0."""
    return value - before if before is not None and value >= before else value


def _rises(watch: Watch, now: float) -> Judgement:
    trigger, begin = watch.trigger, now - watch.trigger.within_s
    assert trigger.increase is not None
    window = [look for look in watch.looks if look.at > begin]
    sure = sum(look.grown for look in window if look.since >= begin - GAP_S)
    unseen = sum(look.grown for look in window) - sure
    rose = f"{trigger.metric} rose by {sure:g} in the last {trigger.within_s:g} s"
    if sure >= trigger.increase:
        return Judgement(True, f"{rose}; {trigger.increase:g} or more is too much", sure)
    if (blind := _blind(watch, now)) is not None:
        return blind
    if sure + unseen >= trigger.increase:
        return Judgement(None, f"{rose}, and by {unseen:g} while nobody looked: perhaps before that", sure)
    known = now - watch.looks[0].at
    partly = "" if known >= trigger.within_s else f", of which {known:.0f} s are known"
    return Judgement(False, f"{rose}{partly}", sure)


def _stays_above(watch: Watch, now: float) -> Judgement:
    trigger = watch.trigger
    assert trigger.above is not None
    if (blind := _blind(watch, now)) is not None:
        return blind
    value, since = watch.looks[-1].value, None
    for look in reversed(watch.looks):
        if look.value is None or look.value <= trigger.above or (since is not None and since - look.at > GAP_S):
            break
        since = look.at
    assert value is not None
    if since is None:
        return Judgement(False, f"{trigger.metric} is {value:g}, not above {trigger.above:g}", value)
    says = f"{trigger.metric} is {value:g}, above {trigger.above:g} for {now - since:.0f} s"
    if now - since >= trigger.within_s:
        return Judgement(True, says, value)
    return Judgement(False, f"{says}; {trigger.within_s:g} s are too long", value)


def _blind(watch: Watch, now: float) -> Judgement | None:
    """Why nothing can be said now; None: there are figures."""
    if not watch.looks:
        return Judgement(None, f"{watch.trigger.metric} is not known: {watch.blind}")
    age = now - watch.looks[-1].at
    if age > GAP_S:
        return Judgement(None, f"{watch.trigger.metric} has not been seen for {age:.0f} s: {watch.blind or 'no look'}")
    if watch.looks[-1].value is None:
        return Judgement(None, f"the service reports no {watch.trigger.metric}")
    return None


# --- Prometheus' text format -----------------------------------------------------------------------------------------


def parse(text: str) -> dict[Series, float]:
    """Every series of an exposition with its value. One that is NaN has none. ValueError names the line."""
    found = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            series, rest = _series(line)
            value = _value(rest)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if not math.isnan(value):
            found[series] = value
    return found


def selector(text: str) -> Series:
    """`name` or `name{label="value",…}`. ValueError says what is wrong with it."""
    series, rest = _series(text.strip())
    if rest:
        raise ValueError(f'"{rest}" after the metric')
    return series


def _series(text: str) -> tuple[Series, str]:
    """The series that a text begins with, and what comes after it."""
    name = _NAME.match(text)
    if not name:
        raise ValueError(f'"{text[:40]}" is not a metric; name or name{{label="value"}}')
    end, labels = name.end(), {}
    if text[end : end + 1] == "{":
        end += 1
        while text[end : end + 1] != "}":
            label = _LABEL.match(text, end)
            if not label or label[1] in labels:
                raise ValueError(
                    f'labels of {name[0]}: "{text[end : end + 40]}" is not label="value", or is there twice'
                )
            labels[label[1]] = re.sub(r"\\.", lambda found: _ESCAPES.get(found[0], found[0]), label[2])
            end = label.end()
        end += 1
    return Series(name[0], tuple(sorted(labels.items()))), text[end:].strip()


def _value(text: str) -> float:
    words = text.split()
    if not 1 <= len(words) <= 2:  # a time may follow
        raise ValueError(f'"{text[:40]}" is not a value')
    try:
        return float(words[0])
    except ValueError:
        raise ValueError(f'"{words[0][:40]}" is not a value') from None
