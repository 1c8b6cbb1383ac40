"""What a host decides, as a table: every state of lease × other host × own copy × cloud × mode has a row."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from lifeline.damage import Proof
from lifeline.decide import Act, CopyState, LeaseState, PeerState, View, Witness, decide
from lifeline.model import FailoverPolicy

POLICY = FailoverPolicy(30, 5, ("power-off",), 60)
L, P, C, W = LeaseState, PeerState, CopyState, Witness
SILENCES = {L.LATE: (14.0, 31.0), L.EXPIRED: (36.0,)}


@dataclass(frozen=True)
class Row:
    """The first row that holds decides. `says` must be in the reason."""

    what: str
    when: Callable[[View], bool]
    act: Act
    says: str


def _gone(view: View) -> bool:
    """The three ways in which a holder counts as lost."""
    off = view.lease in (L.LATE, L.EXPIRED) and view.peer is P.SILENT and view.off is True
    patient = view.silent_s >= POLICY.partition_s and view.peer is not P.SERVES
    down = view.lease is L.LATE and view.peer is P.SILENT and view.witness is W.DOWN
    return view.lease is L.RELEASED or off or (patient and (view.lease is L.EXPIRED or down))


TABLE = (
    Row("a zombie follows again", lambda v: _rejoins(v) and v.mode == "automatic", Act.REJOIN, "a serves, epoch 4"),
    Row("a zombie asks", lambda v: _rejoins(v) and v.mode == "manual", Act.ASK, "a serves, epoch 4"),
    Row("a zombie waits for the end of a pause", lambda v: _rejoins(v), Act.HOLD, "paused, else"),
    Row("it gave its lease back, for nothing", lambda v: v.role == "none" and _given_back(v), Act.ALERT, "nobody has"),
    Row("it stopped itself, while paused", lambda v: _own_data(v) and v.mode == "paused", Act.HOLD, "paused, else"),
    Row("it stopped itself, and goes on", lambda v: _own_data(v), Act.SERVE_AGAIN, "nobody has taken over since"),
    Row("stopped by hand, and left so", lambda v: _left_so(v) and v.wrote, Act.ALERT, "as it wrote it"),
    Row("a failover by hand that stopped half way", lambda v: _left_so(v), Act.ALERT, "NOBODY SERVES: b holds"),
    Row("a host without a role takes nothing over", lambda v: v.role == "none" and not _own(v), Act.HOLD, "no role"),
    Row("half a take-over, while paused", lambda v: _own(v) and v.mode == "paused", Act.HOLD, "paused, else"),
    Row("half a take-over goes on, by hand too", lambda v: _own(v), Act.RESUME, "isn't finished"),
    # The primary
    Row("its right is the fence's", lambda v: v.role == "primary" and v.lease is not L.MINE, Act.HOLD, "fence"),
    Row("damage came along", lambda v: _hurt(v) and not v.settled, Act.ALERT, "soon after it was promoted"),
    Row("damage in the vault too", lambda v: _hurt(v) and v.proof is Proof.DAMAGED, Act.ALERT, "go back in time"),
    Row("damage, and no standby", lambda v: _hurt(v) and v.peer is not P.STANDBY, Act.ALERT, "no standby"),
    Row("damage, the copy not known", lambda v: _hurt(v) and v.proof is Proof.NONE, Act.ALERT, "is looking"),
    Row(
        "damage, paused", lambda v: _hurt(v) and v.mode == "paused", Act.HOLD, "paused, else: the data of b is damaged"
    ),
    Row("damage, by hand", lambda v: _hurt(v) and v.mode == "manual", Act.ASK, "is clean"),
    Row("damage, the copy proved clean", lambda v: _hurt(v), Act.HAND_OVER, "is clean"),
    Row("it serves, and nobody gets there, paused", lambda v: _short(v) and v.mode == "paused", Act.HOLD, "paused"),
    Row("it serves, and nobody gets there", lambda v: _short(v), Act.RESUME, "b serves, but its own take-over"),
    Row("a primary that is well", lambda v: v.role == "primary" and not v.trouble, Act.HOLD, "and well"),
    Row("trouble came along", lambda v: v.role == "primary" and not v.settled, Act.ALERT, "soon after it was promoted"),
    Row("nobody to hand over to", lambda v: v.role == "primary" and v.peer is not P.STANDBY, Act.ALERT, "no standby"),
    Row("trouble, paused", lambda v: v.role == "primary" and v.mode == "paused", Act.HOLD, "paused, else: broken"),
    Row("trouble, by hand", lambda v: v.role == "primary" and v.mode == "manual", Act.ASK, "broken"),
    Row("trouble, by itself", lambda v: v.role == "primary", Act.HAND_OVER, "broken"),
    # The standby
    Row("the store is away", lambda v: v.lease is L.UNREAD, Act.HOLD, "can't be read"),
    Row("nobody ever", lambda v: v.lease is L.NOBODY, Act.HOLD, "nobody ever held"),
    Row("an operator's promotion", lambda v: v.lease is L.MINE, Act.HOLD, "an operator promotes"),
    Row("silent, not late yet", lambda v: v.lease is L.KEPT and v.peer is P.SILENT, Act.WATCH, "isn't late yet"),
    Row("all is well", lambda v: v.lease is L.KEPT, Act.HOLD, "renews its lease"),
    Row("a promise is kept", lambda v: v.promised_s > 0, Act.HOLD, "promised"),
    Row("late, and serves", lambda v: v.lease is L.LATE and v.peer is P.SERVES, Act.WATCH, "answers and serves"),
    Row("expired, and serves", lambda v: v.lease is L.EXPIRED and v.peer is P.SERVES, Act.ALERT, "by hand"),
    Row("a short silence", lambda v: not _gone(v) and v.silent_s < 30, Act.WATCH, "waited out"),
    Row("late, not long enough", lambda v: not _gone(v), Act.WATCH, "until it has expired"),
    Row("lost, and the newest data unknown", lambda v: v.copy is C.UNSEEN, Act.ALERT, "newest data"),
    Row("lost, paused", lambda v: v.mode == "paused", Act.HOLD, "paused, else"),
    Row("lost, by hand", lambda v: v.mode == "manual", Act.ASK, ""),
    Row("lost, copy behind", lambda v: v.copy is C.BEHIND, Act.PROMOTE, "brought up from the vault first"),
    Row("lost", lambda v: True, Act.PROMOTE, ""),
)


def _own_data(view: View) -> bool:
    return view.role == "none" and view.lease is L.MINE and view.own_data


def _left_so(view: View) -> bool:
    """An operator's command made the lease this host's, or left it so, and then nothing came."""
    return view.role != "primary" and view.lease is L.MINE and not view.own_take and view.held_s >= 60


def _short(view: View) -> bool:
    return view.role == "primary" and not view.trouble and view.own_take and view.unended


def _hurt(view: View) -> bool:
    return view.role == "primary" and bool(view.damage)


def _own(view: View) -> bool:
    return view.role != "primary" and view.lease is L.MINE and view.own_take


def _rejoins(view: View) -> bool:
    return view.role == "none" and view.lease is L.KEPT and view.peer is P.SERVES


def _given_back(view: View) -> bool:
    return view.lease is L.RELEASED and view.holder == view.me


def every_view() -> list[View]:
    """All combinations of what is told apart."""
    views = []
    for role, lease, peer, copy, off, witness, mode in itertools.product(
        ("primary", "standby", "none"), L, P, C, (None, False, True), W, ("automatic", "manual", "paused")
    ):
        base = View("b", role, lease, "a", 4, 0.0, peer, copy, off, witness, mode)  # type: ignore[arg-type]
        for silent in SILENCES.get(lease, (0.0,)):
            view = replace(base, silent_s=silent)
            views.append(view)
            if role == "primary":
                views += [replace(view, own_take=True, unended=True), replace(view, unended=True)]
                views += [replace(view, trouble="broken"), replace(view, trouble="broken", settled=False)]
                hurt = [replace(view, damage="page 7", proof=proof) for proof in Proof]
                views += [*hurt, *(replace(one, settled=False) for one in hurt), replace(hurt[0], trouble="broken")]
            elif lease is L.MINE:
                views += [replace(view, own_take=True), replace(view, own_data=True)]
                views += [replace(view, held_s=60.0), replace(view, held_s=59.0)]
                views += [replace(view, held_s=60.0, wrote=True), replace(view, held_s=60.0, own_take=True)]
                views.append(replace(view, own_take=True, own_data=True))
            elif lease in (L.LATE, L.EXPIRED, L.RELEASED):
                views.append(replace(view, promised_s=3.0))
            if role == "none" and lease is L.RELEASED:
                views.append(replace(view, holder="b"))
    return views


def test_every_state_is_decided_as_the_table_says() -> None:
    used = set()
    for view in every_view():
        row = next(row for row in TABLE if row.when(view))
        found = decide(view, POLICY)
        assert found.act is row.act and row.says in found.reason, f"{row.what}: {view} -> {found}"
        used.add(row.what)
    assert used == {row.what for row in TABLE}


def test_nothing_is_promoted_without_a_silent_or_leaving_holder() -> None:
    """The safety of it, said once more without the table."""
    for view in every_view():
        if decide(view, POLICY).act is Act.PROMOTE:
            assert view.role == "standby" and view.mode == "automatic" and view.promised_s == 0
            assert view.lease in (L.RELEASED, L.LATE, L.EXPIRED) and view.copy is not C.UNSEEN
            assert view.lease is L.RELEASED or view.peer is not P.SERVES
            assert view.lease is not L.LATE or (view.peer is P.SILENT and (view.off or view.witness is W.DOWN))


def test_the_witness_alone_promotes_nobody() -> None:
    for view in every_view():
        if view.witness is W.DOWN and view.role == "standby" and decide(view, POLICY).act is Act.PROMOTE:
            quiet = replace(view, witness=W.UNKNOWN)
            assert view.lease is L.RELEASED or view.silent_s > 0, f"only the witness: {quiet}"


@pytest.mark.parametrize(("act", "wanted"), [(Act.PROMOTE, "standby"), (Act.HAND_OVER, "primary")])
def test_by_hand_it_says_what_it_would_do(act: Act, wanted: str) -> None:
    lease = L.EXPIRED if wanted == "standby" else L.MINE
    view = View("b", wanted, lease, "a", 4, 40.0, P.STANDBY, mode="manual", trouble="broken")  # type: ignore[arg-type]
    found = decide(view, POLICY)
    assert (found.act, found.wanted) == (Act.ASK, act)


def test_what_its_own_take_over_powered_off_is_powered_on_when_policy_says_so() -> None:
    """Only with the cloud's word that it is off; and never by a host that an operator made primary."""
    allowed = replace(POLICY, power_on_after_s=60)
    alone = View("b", "primary", L.MINE, "b", 4, peer=P.SILENT, off=True, mode="automatic", own_take=True, primary_s=60)
    assert decide(alone, allowed).act is Act.POWER_ON and "there is no standby" in decide(alone, allowed).reason
    assert decide(alone, POLICY).act is Act.HOLD
    assert decide(replace(alone, off=None), allowed).act is Act.WATCH
    assert decide(replace(alone, off=False), allowed).act is Act.WATCH
    for other in ({"own_take": False}, {"primary_s": 59.0}, {"peer": P.STANDBY}, {"peer": P.IDLE}):
        assert decide(replace(alone, **other), allowed).act is Act.HOLD
    assert decide(replace(alone, mode="manual"), allowed).wanted is Act.POWER_ON
    assert decide(replace(alone, mode="paused"), allowed).act is Act.HOLD
    assert decide(replace(alone, trouble="broken"), allowed).act is Act.ALERT
