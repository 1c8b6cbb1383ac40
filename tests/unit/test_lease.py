"""The lease on the in-memory store, with everything that can go wrong between a write and its answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifeline.errors import LifelineError, Unavailable
from lifeline.lease import Leases, LeaseView, describe
from lifeline.model import Lease
from lifeline.store import MemoryStore, Object
from tests.contract.lease_suite import LeaseSuite, claim


class TestLeaseInMemory(LeaseSuite):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class Killed(BaseException):
    """The process died here."""


class Unreliable(MemoryStore):
    """A store whose conditional writes go wrong on order: ``before`` or ``after`` they happened."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[BaseException] = []
        self.after: list[BaseException] = []
        self.between: Callable[[], object] | None = None
        self.written: list[Lease] = []

    def put_if_absent(self, key: str, body: bytes) -> str:
        return self._unreliably(lambda: super(Unreliable, self).put_if_absent(key, body))

    def put_if_match(self, key: str, body: bytes, etag: str) -> str:
        return self._unreliably(lambda: super(Unreliable, self).put_if_match(key, body, etag))

    def _unreliably(self, write: Callable[[], str]) -> str:
        if self.before:
            raise self.before.pop(0)
        if self.between:
            act, self.between = self.between, None
            act()
        etag = write()
        self.written.append(Lease.from_json(self.get("lease/genesis.json").body))
        if self.after:
            raise self.after.pop(0)
        return etag


def test_a_take_killed_before_its_answer_came_is_recognised_when_run_again():
    store = Unreliable()
    store.after = [Killed()]
    with pytest.raises(Killed):
        Leases(store, "genesis").take(claim())
    view = Leases(store, "genesis").take(claim())
    assert (view.epoch, len(store.written)) == (1, 1)


def test_a_take_whose_answer_is_lost_is_settled_by_reading():
    store = Unreliable()
    store.after = [Unavailable("timed out")]
    assert Leases(store, "genesis").take(claim()).epoch == 1
    assert len(store.written) == 1


def test_a_take_that_never_arrived_is_an_error_and_may_be_run_again():
    store = Unreliable()
    store.before = [Unavailable("timed out")]
    leases = Leases(store, "genesis")
    with pytest.raises(Unavailable, match="timed out"):
        leases.take(claim())
    assert leases.read() == LeaseView()
    assert leases.take(claim()).epoch == 1


def test_a_renewal_between_read_and_write_costs_the_take_over_one_more_try():
    store = Unreliable()
    leases = Leases(store, "genesis")
    leases.take(claim())
    store.between = lambda: Leases(store, "genesis").renew("primary-newyork", 1)
    assert leases.depose(claim("backup-singapore", "run-2"), over=1).epoch == 2


def test_a_lost_renewal_is_an_error_for_the_holder_even_if_it_was_written():
    store = Unreliable()
    leases = Leases(store, "genesis")
    leases.take(claim())
    store.after = [Unavailable("timed out")]
    with pytest.raises(Unavailable):
        leases.renew("primary-newyork", 1)
    assert leases.renew("primary-newyork", 1).held_by("primary-newyork")


class Counted(MemoryStore):
    """Counts the requests that cost money."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[str] = []

    def get(self, key: str) -> Object:
        self.requests.append("GET")
        return super().get(key)

    def put_if_match(self, key: str, body: bytes, etag: str) -> str:
        self.requests.append("PUT")
        return super().put_if_match(key, body, etag)


@pytest.fixture
def counted() -> tuple[Counted, Leases]:
    store = Counted()
    leases = Leases(store, "genesis")
    Leases(store, "genesis").take(claim())
    assert leases.renew("primary-newyork", 1).lease is not None
    store.requests.clear()
    return store, leases


def test_a_renewal_is_one_request_once_the_first_has_read(counted: tuple[Counted, Leases]):
    store, leases = counted
    for number in (2, 3, 4):
        view = leases.renew("primary-newyork", 1)
        assert view == leases.read() and view.lease is not None and view.lease.renewal == number
    assert store.requests == ["PUT", "GET"] * 3  # the GETs are this test's


def test_a_holder_that_wrote_last_still_learns_of_its_deposition_at_once(counted: tuple[Counted, Leases]):
    store, leases = counted
    taken = Leases(store, "genesis").depose(claim("backup-singapore", "run-2"), over=1)
    store.requests.clear()
    assert leases.renew("primary-newyork", 1) == taken
    assert store.requests == ["PUT", "GET"]
    assert leases.read() == taken


def test_a_release_by_another_hand_ends_the_renewals(counted: tuple[Counted, Leases]):
    store, leases = counted
    Leases(store, "genesis").release("primary-newyork", 1)
    assert leases.renew("primary-newyork", 1).free
    assert leases.read().free


def test_what_was_renewed_for_one_epoch_says_nothing_of_the_next(counted: tuple[Counted, Leases]):
    store, leases = counted
    Leases(store, "genesis").depose(claim("primary-newyork", "run-2"), over=1)
    assert leases.renew("primary-newyork", 2).epoch == 2


def test_after_a_lost_answer_the_next_renewal_reads():
    store = Unreliable()
    leases = Leases(store, "genesis")
    leases.take(claim())
    leases.renew("primary-newyork", 1)
    store.after = [Unavailable("timed out")]
    with pytest.raises(Unavailable):
        leases.renew("primary-newyork", 1)
    view = leases.renew("primary-newyork", 1)
    assert view.lease is not None and view.lease.renewal == 3 and view == leases.read()


def test_a_lost_lease_begins_behind_the_last_epoch_and_never_over_one_that_is_there():
    store = MemoryStore()
    leases = Leases(store, "genesis")
    begun = leases.begin_after(claim(), 6)
    assert begun.free and begun.epoch == 6
    assert leases.take(claim(), over=6).epoch == 7
    assert leases.begin_after(claim(), 3).epoch == 7


def test_a_damaged_lease_is_an_error_that_names_it():
    store = MemoryStore()
    store.put("lease/genesis.json", b"{")
    with pytest.raises(LifelineError, match=r"lease/genesis\.json in bucket memory"):
        Leases(store, "genesis").read()


def test_the_lease_in_words():
    leases = Leases(MemoryStore(), "genesis")
    assert describe(leases.read()) == "nobody ever held the lease"
    leases.take(claim())
    assert describe(leases.read()) == "the lease of epoch 1 is primary-newyork's (taken by operator:ann)"
    leases.release("primary-newyork", 1)
    assert describe(leases.read()) == "the lease of epoch 1 was released by primary-newyork"


# --- never two holders of one epoch -----------------------------------------------------------------------------------

HOSTS = ("a", "b", "c")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("take", "depose", "renew", "release")),
        st.sampled_from(HOSTS),
        st.integers(0, 3),  # which run, or which epoch it believes in
        st.sampled_from(("fine", "lost before", "lost after", "killed after", "raced")),
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_an_epoch_never_has_two_holders_and_epochs_only_grow(steps):
    store = Unreliable()
    of = {host: Leases(store, "genesis") for host in HOSTS}  # each remembers what it wrote
    holders: dict[int, str] = {}
    newest = 0
    for verb, host, number, fate in steps:
        store.before = [Unavailable("before")] if fate == "lost before" else []
        fates: dict[str, list[BaseException]] = {"lost after": [Unavailable("after")], "killed after": [Killed()]}
        store.after = fates.get(fate, [])
        if fate == "raced":  # somebody else takes over between this one's read and its write
            store.between = lambda: Leases(store, "genesis").take(claim("rival", f"rival-{len(store.written)}"))
        run, leases = claim(host, f"{host}-{number}"), of[host]
        believed = max(1, newest - number)
        try:
            if verb == "take":
                leases.take(run)
            elif verb == "depose":
                leases.depose(run, over=believed)
            elif verb == "renew":
                assert leases.renew(host, believed) == leases.read()
            else:
                leases.release(host, believed)
        except (LifelineError, Killed):
            pass
        store.before, store.after, store.between = [], [], None
        for lease in store.written:
            assert holders.setdefault(lease.epoch, lease.holder) == lease.holder
        assert newest <= leases.read().epoch == max(holders, default=0)
        newest = leases.read().epoch
