"""Triggers: what fires, what doesn't, and what isn't known; by table, and against a recount of random histories."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lifeline.triggers import GAP_S, Judgement, Series, Trigger, Watch, parse, selector

FAILED = Series("failed_total")
THREE_IN_TEN_MINUTES = Trigger("failed trades", FAILED, 600, increase=3)
MEMORY = Trigger("memory", Series("memory_bytes"), 60, above=100)


def watch(trigger: Trigger, values: Sequence[tuple[float, float | None]]) -> Watch:
    """After looks at (time, value); None: no answer."""
    found = Watch(trigger)
    for at, value in values:
        found = found.seen(at, None if value is None else {trigger.metric: value}, "connection refused")
    return found


def steady(begin: float, end: float, value: float, every: float = 10) -> list[tuple[float, float | None]]:
    count = int((end - begin) // every)
    return [(begin + number * every, value) for number in range(count)]


JUDGED: dict[str, tuple[Trigger, list[tuple[float, float | None]], float, bool | None, str]] = {
    "nobody looked": (THREE_IN_TEN_MINUTES, [], 0, None, "not known: nobody has looked yet"),
    "no answer ever": (THREE_IN_TEN_MINUTES, [(0, None)], 5, None, "not known: connection refused"),
    "what was counted before the first look": (THREE_IN_TEN_MINUTES, [(0, 7), (10, 7)], 10, False, "rose by 0"),
    "a short history says so": (THREE_IN_TEN_MINUTES, [(0, 0), (10, 1)], 10, False, "of which 10 s are known"),
    "two": (THREE_IN_TEN_MINUTES, [*steady(0, 600, 0), (600, 2)], 600, False, "rose by 2 in the last 600 s"),
    "three at once": (THREE_IN_TEN_MINUTES, [*steady(0, 600, 0), (600, 3)], 600, True, "3 or more is too much"),
    "three one by one": (THREE_IN_TEN_MINUTES, [(0, 0), (10, 1), (20, 2), (30, 3)], 30, True, "rose by 3"),
    "three, but the first is over": (
        THREE_IN_TEN_MINUTES,
        [(0, 0), (10, 1), *steady(20, 600, 1), (600, 2), (615, 3), (650, 3)],
        650,
        False,
        "rose by 2",
    ),
    "a restart begins at 0": (THREE_IN_TEN_MINUTES, [(0, 50), (10, 51), (20, 2)], 20, True, "rose by 3"),
    "a restart that counted nothing": (THREE_IN_TEN_MINUTES, [(0, 50), (10, 0), (20, 0)], 20, False, "rose by 0"),
    "fired, and then it died": (
        THREE_IN_TEN_MINUTES,
        [(0, 0), (10, 3), (20, None), (30, None), (100, None)],
        100,
        True,
        "rose by 3",
    ),
    "died before": (
        THREE_IN_TEN_MINUTES,
        [(0, 0), (10, 1), (50, None)],
        50,
        None,
        "not been seen for 40 s: connection",
    ),
    "a short silence": (THREE_IN_TEN_MINUTES, [(0, 0), (10, 1), (20, None)], 20, False, "rose by 1"),
    "grown while nobody looked, in the window": (
        THREE_IN_TEN_MINUTES,
        [(0, 0), (10, 0), (300, 3)],
        300,
        True,
        "rose by 3",
    ),
    "grown while nobody looked, perhaps before the window": (
        THREE_IN_TEN_MINUTES,
        [(0, 0), (10, 0), (700, 3)],
        700,
        None,
        "by 3 while nobody looked",
    ),
    "the doubt is over when the window is": (
        THREE_IN_TEN_MINUTES,
        [(0, 0), (700, 3), *steady(710, 1310, 3), (1310, 3)],
        1310,
        False,
        "rose by 0",
    ),
    "below": (MEMORY, steady(0, 100, 99), 90, False, "is 99, not above 100"),
    "exactly at it": (MEMORY, steady(0, 100, 100), 90, False, "not above 100"),
    "above, not for long": (MEMORY, [*steady(0, 60, 1), (60, 101), (70, 101)], 70, False, "above 100 for 10 s"),
    "above for long": (MEMORY, [(0, 1), *steady(10, 80, 101)], 70, True, "is 101, above 100 for 60 s"),
    "above, with a dip": (MEMORY, [*steady(0, 60, 101), (60, 99), (70, 101)], 70, False, "for 0 s"),
    "above on both sides of a silence": (MEMORY, [(0, 101), (10, 101), (50, 101), (60, 101)], 70, False, "for 20 s"),
    "above, then silence": (MEMORY, [*steady(0, 70, 101), (105, None)], 105, None, "not been seen for 45 s"),
}


@pytest.mark.parametrize("case", JUDGED)
def test_judged(case: str) -> None:
    trigger, values, now, fired, says = JUDGED[case]
    judgement = watch(trigger, values).judge(now)
    assert judgement.fired is fired and says in judgement.says, judgement


def test_a_metric_that_is_not_there_is_not_zero() -> None:
    found = Watch(THREE_IN_TEN_MINUTES).seen(0, {Series("other"): 1.0})
    assert found.judge(0) == Judgement(None, "the service reports no failed_total")
    assert Watch(MEMORY).seen(0, {}).judge(0).fired is None


def test_a_counter_that_appears_with_its_first_event_has_counted_it() -> None:
    found = Watch(THREE_IN_TEN_MINUTES).seen(0, {}).seen(10, {FAILED: 3.0})
    assert found.judge(10).fired


def test_series_that_the_metric_covers_are_added_up_each_with_its_own_restart() -> None:
    a, b = selector('failed_total{reason="barrier",x="1"}'), selector('failed_total{reason="database"}')
    found = Watch(THREE_IN_TEN_MINUTES).seen(0, {a: 5.0, b: 9.0}).seen(10, {a: 1.0, b: 11.0, Series("no"): 50.0})
    assert found.judge(10).value == 1 + 2
    only = Trigger("b", b, 600, increase=1)
    assert Watch(only).seen(0, {a: 0.0, b: 0.0}).seen(10, {a: 9.0, b: 0.0}).judge(10).value == 0


def test_a_clock_that_stands_still_counts_nothing_twice() -> None:
    found = Watch(THREE_IN_TEN_MINUTES).seen(0, {FAILED: 0.0}).seen(10, {FAILED: 2.0})
    assert found.seen(10, {FAILED: 2.0}) == found and found.seen(5, {FAILED: 9.0}) == found


@given(
    st.lists(
        st.tuples(st.floats(1, 100), st.integers(0, 3), st.sampled_from(["count", "count", "restart", "silence"])),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 5),
    st.floats(10, 300),
)
def test_it_fires_only_on_what_happened_and_stays_quiet_only_on_what_was_seen(
    history: list[tuple[float, int, str]], threshold: int, within: float
) -> None:
    """`events`: when things truly happened (at the end of their step). A restart that nobody saw may hide some, never
    add any."""
    found, now, counter = Watch(Trigger("t", FAILED, within, increase=threshold)), 0.0, 0
    found = found.seen(now, {FAILED: 0.0})
    events: list[float] = []
    looks, restarted = [0.0], False
    for passed, count, what in history:
        now += passed
        if what == "restart":
            counter, restarted = 0, True
        counter += count
        events += [now] * count
        if what == "silence":
            found = found.seen(now, None)
        else:
            found = found.seen(now, {FAILED: float(counter)})
            looks.append(now)
        judgement = found.judge(now)
        # The window's edge is as sharp as the looks are close.
        most = sum(at > now - within - GAP_S for at in events)
        least = sum(now - within < at <= looks[-1] for at in events)
        if judgement.fired:
            assert most >= threshold
        if judgement.fired is False:
            assert now - looks[-1] <= GAP_S
            assert restarted or least < threshold


@given(st.lists(st.tuples(st.floats(1, 60), st.integers(90, 110)), min_size=1, max_size=40))
def test_above_means_at_every_look(history: list[tuple[float, int]]) -> None:
    found, now, since, last = Watch(MEMORY), 0.0, None, -math.inf
    for passed, value in history:
        now += passed
        found = found.seen(now, {MEMORY.metric: float(value)})
        if value <= 100:
            since = None
        elif since is None or now - last > GAP_S:
            since = now
        last = now
        assert found.judge(now).fired is (since is not None and now - since >= MEMORY.within_s)


@given(st.lists(st.floats(0.5, 40), min_size=1, max_size=200))
def test_no_more_is_kept_than_the_window_needs(pauses: list[float]) -> None:
    found, now = Watch(MEMORY), 0.0
    for pause in pauses:
        now += pause
        found = found.seen(now, {MEMORY.metric: 101.0})
        assert sum(look.at <= now - MEMORY.within_s for look in found.looks) <= 1


# -- the text format


def test_prometheus_own_example() -> None:
    text = """# HELP http_requests_total The total number of HTTP requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="post",code="400"}    3 1395066363000

# Escaping in label values:
msdos_file_access_time_seconds{path="C:\\\\DIR\\\\FILE.TXT",error="Cannot find file:\\n\\"FILE.TXT\\""} 1.458255915e9
metric_without_timestamp_and_labels 12.47
something_weird{problem="division by zero"} +Inf -3982045
rpc_duration_seconds{quantile="0.01",} NaN
empty{} 1
"""
    found = parse(text)
    assert found[selector('http_requests_total{code="200", method="post"}')] == 1027
    (path,) = [dict(series.labels) for series in found if series.name.startswith("msdos")]
    assert path == {"path": "C:\\DIR\\FILE.TXT", "error": 'Cannot find file:\n"FILE.TXT"'}
    assert found[Series("metric_without_timestamp_and_labels")] == 12.47
    assert found[selector('something_weird{problem="division by zero"}')] == math.inf
    assert found[Series("empty")] == 1 and len(found) == 6  # what is NaN has no value


@pytest.mark.parametrize(
    "line",
    ["9 1", "a", "a b", 'a{b="c" 1', 'a{b="c",b="d"} 1', "a{b=c} 1", "a 1 2 3", '{b="c"} 1', "<html>", 'a{b="c}'],
)
def test_what_is_no_exposition_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(ValueError, match="line 2: "):
        parse(f"fine 1\n{line}\n")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.builds(
            lambda name, labels: Series(name, tuple(sorted(labels.items()))),
            st.sampled_from(["up", "a_total", "ns:b"]),
            st.dictionaries(st.sampled_from(["x", "y", "_z1"]), st.text(max_size=6), max_size=2),
        ),
        st.floats(allow_nan=False),
        max_size=3,
    )
)
def test_what_was_written_is_read(scrape: dict[Series, float]) -> None:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    lines = []
    for series, value in scrape.items():
        labels = ",".join(f'{key}="{escaped(text)}"' for key, text in series.labels)
        lines.append(f"{series.name}{{{labels}}} {value}\n")
    assert parse("".join(lines)) == scrape


@pytest.mark.parametrize("text", ["", "a b", "a{", 'a{b="c"} 1', "1a"])
def test_a_selector_is_a_metric_and_nothing_else(text: str) -> None:
    with pytest.raises(ValueError):
        selector(text)
