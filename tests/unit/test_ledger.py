"""The judgement: what it says is lost is what is gone, whatever the histories."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from lifeline.ledger import (
    Acknowledged,
    Survivor,
    acknowledged,
    first_round_trip,
    judge,
    per_second,
    read_event,
    ttl_left,
)

FAULT = 1000.0
ids = st.text("abcd", min_size=1, max_size=2)
acks = st.dictionaries(ids, st.floats(0, 999, allow_nan=False)).map(
    lambda by: [Acknowledged(identity, at, f"v{identity}") for identity, at in by.items()]
)
survivors = st.lists(ids.map(lambda identity: Survivor(identity, f"v{identity}")))


@given(acks, survivors)
def test_every_acknowledged_write_either_survived_or_is_lost(acked: list[Acknowledged], found: list[Survivor]) -> None:
    judgement = judge(acked, found, fault_at=FAULT)
    there = {survivor.id for survivor in found}
    assert judgement.lost is not None and judgement.survived is not None
    assert set(judgement.lost) == {write.id for write in acked} - there
    assert judgement.survived + len(judgement.lost) == judgement.acknowledged == len(acked)
    assert judgement.unacknowledged_survivors == len(there - {write.id for write in acked})


@given(acks, survivors)
def test_the_rpo_is_zero_if_and_only_if_nothing_acknowledged_before_the_fault_is_lost(
    acked: list[Acknowledged], found: list[Survivor]
) -> None:
    judgement = judge(acked, found, fault_at=FAULT)
    gone = [write.at for write in acked if write.id not in {survivor.id for survivor in found}]
    assert judgement.rpo_measured_s == (round(FAULT - min(gone), 3) if gone else 0.0)


@given(acks, survivors, st.randoms())
def test_the_order_of_the_histories_does_not_matter(
    acked: list[Acknowledged], found: list[Survivor], dice: object
) -> None:
    mixed_acks, mixed_found = list(acked), list(found)
    dice.shuffle(mixed_acks)  # type: ignore[attr-defined]
    dice.shuffle(mixed_found)  # type: ignore[attr-defined]
    assert judge(acked, found, fault_at=FAULT) == judge(mixed_acks, mixed_found, fault_at=FAULT)


@given(acks, survivors)
def test_one_survivor_less_never_makes_it_better(acked: list[Acknowledged], found: list[Survivor]) -> None:
    more, less = judge(acked, found, fault_at=FAULT), judge(acked, found[1:], fault_at=FAULT)
    assert more.lost is not None and less.lost is not None
    assert set(more.lost) <= set(less.lost)
    assert (more.rpo_measured_s or 0) <= (less.rpo_measured_s or 0)


@given(survivors)
def test_what_is_there_twice_is_a_duplicate_on_either_side(found: list[Survivor]) -> None:
    twice = {survivor.id for survivor in found if found.count(survivor) > 1}
    assert set(judge([], found, fault_at=FAULT).duplicated or ()) == twice
    assert set(judge([], [], fault_at=FAULT, outside=found).duplicated or ()) == twice


@given(acks)
def test_survivors_that_are_not_known_prove_nothing(acked: list[Acknowledged]) -> None:
    judgement = judge(acked, None, fault_at=FAULT)
    assert judgement.acknowledged == len(acked)
    assert (judgement.survived, judgement.lost, judgement.duplicated, judgement.rpo_measured_s) == (None,) * 4


def test_another_value_under_the_same_id_is_a_loss() -> None:
    judgement = judge([Acknowledged("a", 990.0, "X1")], [Survivor("a", "X2")], fault_at=FAULT)
    assert (judgement.lost, judgement.altered, judgement.survived) == (("a",), ("a",), 0)
    assert judgement.rpo_measured_s == 10.0


def test_the_other_partys_books_show_what_was_done_and_not_booked_and_booked_and_not_done() -> None:
    judgement = judge([], [Survivor("a"), Survivor("b")], fault_at=FAULT, outside=[Survivor("b"), Survivor("c")])
    assert (judgement.unbooked, judgement.invented) == (("c",), ("a",))


def test_a_loss_after_the_fault_is_counted_but_is_no_negative_window() -> None:
    judgement = judge([Acknowledged("a", 1005.0)], [], fault_at=FAULT)
    assert judgement.lost == ("a",) and judgement.rpo_measured_s == 0.0


def test_the_report_counts_and_gives_examples() -> None:
    document = judge([Acknowledged("a", 990.0), Acknowledged("b", 1.0)], [Survivor("b")], fault_at=FAULT).to_json()
    assert (document["acknowledged"], document["survived"], document["lost"], document["duplicated"]) == (2, 1, 1, 0)
    assert document["examples"] == {"lost": ["a"]}


# -- events


def line(event: str, mono: float, **fields: object) -> str:
    return json.dumps({"event": event, "wall": 500 + mono, "mono": mono, **fields})


LINES = [
    line("resolved", 0.0, address="198.18.1.10", until=30.0),
    line("acknowledged", 1.2, id="a", value="X1", began=1.1),
    line("acknowledged", 1.9, id="b", value="X2", began=1.8),
    line("read_back", 1.95, id="a", began=1.1),
    line("read_back", 10.2, id="c", began=9.9),
    line("acknowledged", 12.1, id="c", value="X3", began=12.0),
    line("read_back", 12.3, id="c", began=12.0),
    '{"event": "ackn',
]
EVENTS = [event for event in map(read_event, LINES) if event]


def test_a_torn_last_line_is_left_out() -> None:
    assert len(EVENTS) == len(LINES) - 1
    assert [(write.id, write.at) for write in acknowledged(EVENTS)] == [("a", 501.2), ("b", 501.9), ("c", 512.1)]


def test_the_rto_ends_with_a_write_begun_after_the_fault() -> None:
    trip = first_round_trip(EVENTS, after_mono=10.0)  # the one at 10.2 was on its way before
    assert trip is not None and trip.mono == 12.3
    assert first_round_trip(EVENTS, after_mono=13.0) is None


def test_the_ttl_left_is_that_of_the_last_answer() -> None:
    assert ttl_left(EVENTS, 10.0) == 20.0
    assert ttl_left(EVENTS, 40.0) == 0.0
    assert ttl_left([], 1.0) is None


def test_an_outage_is_a_row_of_zeros() -> None:
    assert per_second(EVENTS, 10.5) == [(-10, 1), (-9, 1), *((second, 0) for second in range(-8, 1)), (1, 1)]
