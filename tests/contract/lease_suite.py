"""What the lease must do on any store with conditional writes, the in-memory one and real S3 alike."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from lifeline.errors import Refused
from lifeline.lease import Claim, Leases, LeaseView
from lifeline.store import Store

RACERS = 16


def claim(holder: str = "primary-newyork", run_id: str = "run-1") -> Claim:
    return Claim("genesis", holder, ttl_s=30, margin_s=5, taken_by="operator:ann", run_id=run_id)


class LeaseSuite:
    @pytest.fixture
    def leases(self, store: Store) -> Leases:
        return Leases(store, "genesis")

    def test_nobody_holds_it_at_first(self, leases: Leases):
        assert leases.read() == LeaseView()
        assert leases.read().epoch == 0

    def test_the_first_take_is_epoch_1_and_reads_back(self, leases: Leases):
        view = leases.take(claim())
        assert view.epoch == 1
        assert view.held_by("primary-newyork")
        assert leases.read() == view

    def test_a_run_that_takes_again_gets_its_own_take(self, leases: Leases):
        assert leases.take(claim()) == leases.take(claim())
        leases.renew("primary-newyork", 1)
        assert leases.take(claim()).epoch == 1

    def test_a_take_over_is_the_next_epoch(self, leases: Leases):
        leases.take(claim())
        view = leases.depose(claim("backup-singapore", "run-2"), over=1)
        assert (view.epoch, view.held_by("backup-singapore")) == (2, True)

    def test_a_take_over_of_an_epoch_that_is_gone_is_refused(self, leases: Leases):
        leases.take(claim())
        leases.depose(claim("backup-singapore", "run-2"), over=1)
        with pytest.raises(Refused, match="epoch 2 is backup-singapore's"):
            leases.depose(claim("primary-newyork", "run-3"), over=1)

    def test_a_renewal_changes_the_etag_and_nothing_else(self, leases: Leases):
        before = leases.take(claim())
        after = leases.renew("primary-newyork", 1)
        assert before.lease is not None
        assert after.lease == replace(before.lease, renewal=1)
        assert after.etag != before.etag
        assert leases.read() == after

    def test_the_deposed_holder_learns_it_and_changes_nothing(self, leases: Leases):
        leases.take(claim())
        taken = leases.depose(claim("backup-singapore", "run-2"), over=1)
        assert leases.renew("primary-newyork", 1) == taken
        assert leases.release("primary-newyork", 1) == taken
        assert leases.read() == taken

    def test_released_is_free_and_the_next_epoch_goes_on(self, leases: Leases):
        leases.take(claim())
        assert leases.release("primary-newyork", 1).free
        assert not leases.read().held_by("primary-newyork")
        assert leases.take(claim()).epoch == 2  # the same run, after a release: a new take

    def test_of_racing_operators_exactly_one_deposes(self, leases: Leases):
        leases.take(claim())

        def depose(number: int) -> bool:
            try:
                leases.depose(claim(f"host-{number}", f"race-{number}"), over=1)
            except Refused:
                return False
            return True

        with ThreadPoolExecutor(RACERS) as pool:
            won = [number for number, win in enumerate(pool.map(depose, range(RACERS))) if win]
        assert len(won) == 1
        view = leases.read()
        assert (view.epoch, view.held_by(f"host-{won[0]}")) == (2, True)

    def test_a_renewing_holder_cannot_keep_the_operator_out(self, leases: Leases):
        leases.take(claim())
        with ThreadPoolExecutor(2) as pool:
            renewals = pool.submit(lambda: [leases.renew("primary-newyork", 1) for _ in range(20)])
            taken = leases.depose(claim("backup-singapore", "run-2"), over=1)
            last = renewals.result()[-1]
        assert taken.epoch == 2
        assert last == taken or last.epoch == 1  # all its renewals came before, or it learnt who has it
        assert leases.read() == taken
