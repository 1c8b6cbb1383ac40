"""Kills at random moments: drawn evenly from a seed, and judged without mercy."""

from __future__ import annotations

from collections import Counter

from lab.kills.plan import A_SITE, KINDS, Kill, draw
from lab.kills.verdict import Books, Record, compare, disagreements, page, summary
from lifeline.ledger import Acknowledged, Survivor


def test_a_seed_draws_the_same_kills_evenly() -> None:
    kills = draw(200, 7)
    assert kills == draw(200, 7) != draw(200, 8)
    assert Counter((kill.durability, kill.kind) for kill in kills) == {
        (durability, kind): 25 for durability in ("vault", "async") for kind in KINDS
    }
    for kill in kills:
        first = kill is next(other for other in kills if other.site == kill.site)
        assert not (first and kill.at_once) and 0 <= kill.after_s <= 1.5
        assert (kill.outage_s is not None) or kill.kind != "store"
        assert kill.amid is None or kill.kind == "store"
    assert max(Counter(kill.site for kill in kills).values()) == A_SITE
    assert {kill.label for kill in kills} == {*KINDS, "host and store", "store, amid a restore"}


def kill(durability: str = "vault", kind: str = "host") -> Kill:
    return Kill(1, 1, durability, kind, False, 0.5)  # type: ignore[arg-type]


ACKNOWLEDGED = [Acknowledged("a", 10.0, "X1"), Acknowledged("b", 11.0, "X2"), Acknowledged("c", 12.4, "X3")]


def books(*trades: tuple[str, str], orders: str = "abc", executed: str = "") -> Books:
    return Books(
        [Survivor(*trade) for trade in trades], frozenset(orders), [Survivor(name, f"X-{name}") for name in executed]
    )


def test_under_vault_everything_is_owed() -> None:
    whole = compare(kill(), 12.0, ACKNOWLEDGED, books(("a", "X1"), ("b", "X2"), ("c", "X3")))
    assert whole.passed and whole.acknowledged == 3
    lacking = compare(kill(), 12.0, ACKNOWLEDGED, books(("a", "X1"), ("b", "X2")))
    assert not lacking.passed and lacking.lost == ("c",)
    altered = compare(kill(), 12.0, ACKNOWLEDGED, books(("a", "X1"), ("b", "X9"), ("c", "X3")))
    assert "came back as others" in str(altered.problems)
    unknown = compare(kill(), 12.0, [], books(orders="a", executed="ab"))
    assert "no intent in the vault" in str(unknown.problems)


def test_under_async_what_was_acknowledged_before_the_kill_may_be_a_little_behind() -> None:
    record = compare(kill("async"), 12.0, ACKNOWLEDGED, books(("a", "X1")))
    assert record.passed and record.lost == ("b",) and record.behind_s == 1.0
    assert not compare(kill("async"), 12.0, ACKNOWLEDGED, books()).passed  # two seconds are too many
    twice = compare(kill("async"), 12.0, [], books(("a", "X1"), ("a", "X1")))
    assert "twice" in str(twice.problems)


def test_in_the_end_the_books_agree_but_for_what_was_told() -> None:
    settled = Books([Survivor("a", "X-a")], frozenset("a"), [Survivor("a", "X-a"), Survivor("b", "X-b")])
    owed = [Acknowledged("a", 1.0, "X-a")]
    assert disagreements(owed, settled, {"b"}) == []
    assert "not booked" in str(disagreements(owed, settled, set()))
    assert "never made" in str(disagreements([], Books([Survivor("z", "1")], frozenset("z"), []), set()))
    assert "missing" in str(disagreements([Acknowledged("c", 1.0, "X3")], settled, {"b"}))


def test_the_page_says_what_failed() -> None:
    records = [Record(kill(), (), 10), Record(kill("async"), ("what is lost goes back 3.000 s",), 5, ("a",), 3.0)]
    text = page(records, seed=4, seconds=60, environment={"when": "w", "commit": "c", "machine": "m"})
    assert "1 of 2 kills passed" in text and "What failed" in text and "seed 4" in text
    assert "| vault | host | 1 | 1 | 10 | 0 |" in text
    assert "3.000 s" in summary(records)[2]
