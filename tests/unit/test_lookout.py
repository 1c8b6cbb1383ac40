"""What a host makes of what it sees: silences are what was seen, and a gap breaks them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from lifeline.decide import CopyState, LeaseState, PeerState, Witness
from lifeline.lookout import (
    LeaseWatch,
    PeerWatch,
    copy_state,
    lease_state,
    mode_now,
    peer_state,
    read,
    unread,
    witness,
)
from lifeline.model import FailoverPolicy, Lease, Mode
from lifeline.watching import Watched

POLICY = FailoverPolicy(30, 5, ("power-off",), 60)
LEASE = Lease("genesis", "a", 4, 30, 5, 17, "operator:x", "run")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def watched(*times: float, gap: float = 10.0, lease: Lease = LEASE) -> LeaseWatch:
    found = LeaseWatch()
    for at in times:
        found = read(found, lease, at, gap)
    return found


def test_a_silence_runs_from_the_first_read_to_the_last() -> None:
    assert watched(100, 105, 110).silent_s == 10
    assert watched(100).silent_s == 0


def test_a_renewal_begins_it_anew_and_so_does_a_release_or_another_epoch() -> None:
    for changed in (replace(LEASE, renewal=18), replace(LEASE, ttl_s=0), replace(LEASE, epoch=5)):
        assert read(watched(100, 105), changed, 110, 10).silent_s == 0


def test_a_word_on_the_mode_is_no_sign_of_life() -> None:
    assert read(watched(100, 105), replace(LEASE, mode=Mode("paused", "x")), 110, 10).silent_s == 10


def test_what_could_not_be_read_was_not_seen() -> None:
    """A store that was away for both: the holder gets its time to renew."""
    assert watched(100, 105, 200, 204).silent_s == 4
    assert unread(watched(100, 105), "timed out").silent_s == 5


def test_the_states_of_a_lease() -> None:
    def state(found: LeaseWatch, me: str = "b") -> LeaseState:
        return lease_state(found, me, POLICY)

    assert state(LeaseWatch()) is LeaseState.UNREAD
    assert state(unread(watched(100), "no")) is LeaseState.UNREAD
    assert state(read(LeaseWatch(), None, 1, 10)) is LeaseState.NOBODY
    assert state(watched(100, 112)) is LeaseState.KEPT
    assert state(watched(100, 106, 112.6)) is LeaseState.LATE
    assert state(watched(100, 110, 120, 130, 134.9)) is LeaseState.LATE
    assert state(watched(100, 110, 120, 130, 135)) is LeaseState.EXPIRED
    assert state(watched(100, 110, 120, 130, 135), me="a") is LeaseState.MINE
    assert state(watched(100, lease=replace(LEASE, ttl_s=0)), me="a") is LeaseState.RELEASED


def test_an_old_answer_is_none() -> None:
    said = PeerWatch({"judgement": "serve", "role": "primary"}, 100)
    assert peer_state(said, 102) is PeerState.SERVES
    assert peer_state(said, 104) is PeerState.SILENT
    assert peer_state(PeerWatch(), 0) is PeerState.SILENT
    standby = {"judgement": "idle", "role": "standby", "databases": {"t": {"stalled": False, "lag_s": 0.2}}}
    assert peer_state(PeerWatch(standby, 100), 100) is PeerState.STANDBY
    blind = {**standby, "databases": {"t": {"stalled": False, "lag_s": None}}}
    for unready in (blind, {**standby, "databases": {}}):
        assert peer_state(PeerWatch(unready, 100), 100) is PeerState.IDLE
    stalled = {**standby, "databases": {"t": {"stalled": True}}}
    assert peer_state(PeerWatch(stalled, 100), 100) is PeerState.IDLE


def test_a_copy_is_behind_or_its_end_isnt_known() -> None:
    near = Watched(7, 7, 1, 1, lag_s=0.4)
    assert copy_state({"t": near}, POLICY) is CopyState.READY
    assert copy_state({"t": near, "u": replace(near, lag_s=61)}, POLICY) is CopyState.BEHIND
    assert copy_state({"t": replace(near, stalled=True)}, POLICY) is CopyState.BEHIND
    assert copy_state({"t": replace(near, lag_s=None)}, POLICY) is CopyState.BEHIND
    assert copy_state({"t": replace(near, newest=None)}, POLICY) is CopyState.UNSEEN
    assert copy_state({}, POLICY) is CopyState.UNSEEN


def test_the_witness_speaks_for_the_regions_that_see_it() -> None:
    assert witness({"eu": "DOWN", "us": "DOWN"}) is Witness.DOWN
    assert witness({"eu": "DOWN", "us": "UP"}) is Witness.UP
    assert witness({"eu": "CHECKING"}) is witness({}) is witness(None) is Witness.UNKNOWN


def test_a_pause_ends_by_itself() -> None:
    until = (NOW + timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    automatic = replace(POLICY, mode="automatic")
    paused = replace(LEASE, mode=Mode("paused", "x", until))
    assert mode_now(paused, automatic, NOW) == "paused"
    assert mode_now(paused, automatic, NOW + timedelta(minutes=6)) == "automatic"
    assert mode_now(LEASE, automatic, NOW) == mode_now(None, automatic, NOW) == "automatic"
    assert mode_now(replace(LEASE, mode=Mode("automatic", "x")), POLICY, NOW) == "automatic"
