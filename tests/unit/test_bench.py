"""The page of benchmarks: sections are replaced one by one, and a promise that isn't kept is said to be missed."""

from __future__ import annotations

from lab.bench import page
from lab.bench.__main__ import ORDER
from lab.bench.page import Row, Section

SLOW = Row("a thing", "3 s", 3.0, 2.5, because="it is slow")


def test_a_promise_is_kept_up_to_its_limit_and_what_has_none_is_stated() -> None:
    assert [Row("x", "", number, 2.5).verdict for number in (2.4, 2.5, 2.6)] == ["PASS", "PASS", "MISSED"]
    assert [Row("x", "", number, 0.95, at_least=True).verdict for number in (0.94, 0.95)] == ["MISSED", "PASS"]
    assert Row("x", "1 s", 7.0).verdict == "stated"
    assert not Section("x", "", (SLOW,)).kept


def test_a_missed_promise_says_why() -> None:
    text = page.render(Section("Restores", "how", (SLOW, Row("another", "1 s", 1.0, 2.5, because="never shown"))))
    assert "| a thing | 3 s | 3.00 | ≤ 2.5 | MISSED |" in text
    assert "- MISSED, a thing: it is slow" in text and "never shown" not in text


def test_a_section_replaces_its_own_and_leaves_the_others_as_they_are() -> None:
    order, empty = ("One", "Two", "Three"), ""
    text = page.merge(page.merge(empty, "Three", "## Three\n\nold\n", order), "One", "## One\n\nfirst\n", order)
    again = page.merge(text, "Three", "## Three\n\nnew\n", order)
    assert again == page.HEAD + "\n## One\n\nfirst\n\n## Three\n\nnew\n"


def test_the_page_has_known_sections_only_in_their_order() -> None:
    titles = [line[3:] for line in page.PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("## ")]
    assert titles == [title for title in ORDER if title in titles]
