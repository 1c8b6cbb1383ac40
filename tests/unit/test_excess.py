"""What may go from the off-site vault, and that everything that is promised still restores from what is left."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifeline import catalogue, excess, points, retention
from lifeline.errors import Refused, StepFailed
from lifeline.model import BackupPolicy
from lifeline.points import Piece
from lifeline.store import keys
from runbooks.prune_offsite import Copies, prune_offsite
from tests.unit.test_offsite import Dated, key, write
from tests.unit.world import World

NOW = datetime(2026, 6, 1, tzinfo=UTC)
MONTH, POLICY = timedelta(days=30), BackupPolicy()


class Vaults:
    """A vault that lets go by itself of what is old, and its off-site copy, which doesn't."""

    def __init__(self) -> None:
        self.vault, self.away = Dated("vault", NOW), Dated("away", NOW)

    def both(self, days: float, level: int, first: int, last: int, epoch: int = 1) -> None:
        """A file of that age; the vault holds it if it is younger than 31 days."""
        for store in (self.away, *([self.vault] if days < 31 else [])):
            store.now = NOW - timedelta(days=days)
            write(store, level, first, last, epoch)
            store.now = NOW

    def snapshot(self, name: str, days: float) -> None:
        self.away.now = NOW - timedelta(days=days)
        self.away.put(f"snapshots/genesis/snapshots/{name}", b"sealed")
        entry = {"version": 2, "copies": {"vault": {"snapshot": f"v-{name}"}, "offsite": {"snapshot": name}}}
        at = self.away.now
        self.away.put(catalogue.entry_key("genesis", "full", at), json.dumps(entry).encode())
        if days < 365:
            self.vault.put(catalogue.entry_key("genesis", "full", at), json.dumps(entry).encode())
        self.away.now = NOW

    def proved(
        self, *, epoch: int | None = None, snapshot_of_days: float | None = None, source: str = "offsite"
    ) -> None:
        point: dict[str, Any] = {"source": source, "verdict": "PASS", "says": "", "epoch": epoch, "txid": epoch and 99}
        if snapshot_of_days is not None:
            point["entry"] = catalogue.entry_key("genesis", "full", NOW - timedelta(days=snapshot_of_days))
        document = {"version": 1, "at": NOW.isoformat(), "verdict": "PASS", "points": [point]}
        at = NOW - timedelta(hours=1, seconds=len(self.vault._objects))
        self.vault.put(catalogue.verified_key("genesis", at), json.dumps(document).encode())

    def survey(self, newest: int = 1) -> excess.Excess:
        return excess.survey(self.vault, self.away, "genesis", POLICY, newest, NOW)


@pytest.fixture
def vaults() -> Vaults:
    return Vaults()


def test_snapshots_go_after_their_time_once_one_from_there_is_proved(vaults: Vaults) -> None:
    for name, days in (("a", 500), ("b", 400), ("c", 100), ("d", 1)):
        vaults.snapshot(name, days)
    vaults.proved(snapshot_of_days=100, source="snapshot")  # the vault's copy proves nothing of this one
    assert not vaults.survey() and vaults.survey().proved == frozenset()
    vaults.proved(snapshot_of_days=100)
    found = vaults.survey()
    assert found.snapshots == ("a", "b") and found.proved == {"snapshots"}
    assert [catalogue.time_of(note) for note in found.notes] == [NOW - timedelta(days=d) for d in (400, 500)]
    assert found.overdue == timedelta(days=135)


def test_the_newest_proved_snapshot_and_the_newest_stay_at_any_age(vaults: Vaults) -> None:
    for name, days in (("a", 900), ("b", 800), ("c", 700)):
        vaults.snapshot(name, days)
    vaults.proved(snapshot_of_days=800)
    vaults.vault.put(catalogue.entry_key("genesis", "full", NOW - timedelta(days=800)), b"")  # damaged in the vault
    assert not vaults.survey()


def test_an_epoch_goes_whole_when_nothing_needs_it_and_the_vault_has_let_it_go(vaults: Vaults) -> None:
    vaults.both(90, 9, 1, 10, epoch=1)
    vaults.both(60, 9, 1, 20, epoch=2)
    vaults.both(40, 9, 1, 30, epoch=3)
    assert not vaults.survey(3)
    vaults.proved(epoch=3, source="vault")
    assert not vaults.survey(3)
    vaults.proved(epoch=3)
    assert vaults.survey(3).epochs == (1, 2)
    write(vaults.vault, 2, 11, 12, epoch=1)
    assert vaults.survey(3).epochs == (2,)
    vaults.away.put(
        "replica/genesis/epoch-0003/owner.json", b'{"continues": {"epoch": 2, "databases": {"trades": 20}}}'
    )
    assert vaults.survey(3).epochs == (2,)  # epoch 3 has a snapshot of its own that is old enough


def test_an_epoch_stays_whole_while_the_next_one_has_no_old_snapshot_of_its_own(vaults: Vaults) -> None:
    vaults.both(90, 9, 1, 10, epoch=1)
    vaults.both(80, 2, 11, 12, epoch=1)
    vaults.both(60, 9, 1, 12, epoch=1)
    vaults.away.put(
        "replica/genesis/epoch-0002/owner.json", b'{"continues": {"epoch": 1, "databases": {"trades": 12}}}'
    )
    vaults.both(20, 9, 1, 30, epoch=2)
    vaults.proved(epoch=2)
    assert not vaults.survey(2)


chain = st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=60)


@settings(max_examples=40, deadline=None)
@given(chain, st.integers(1, 50))
def test_every_point_younger_than_the_policy_restores_from_what_is_left(
    days: list[tuple[int, bool]], last: int
) -> None:
    """A file of half a minute every few days, a snapshot beside some of them."""
    vaults, txid, age = Vaults(), 0, float(last + sum(step for step, _ in days))
    young: list[int] = []
    for step, with_snapshot in days:
        txid, age = txid + 1, age - step
        vaults.both(age, 2, txid, txid)
        if with_snapshot:
            vaults.both(age, 9, 1, txid)
        if age < 30:
            young.append(txid)
    vaults.proved(epoch=1)
    before = {point for point in young if restores(vaults.away, point)}
    assert before == set(young)
    newest = points.plan(vaults.away, "genesis", 1, "trades").txid
    found = vaults.survey()
    assert not set(found.files) & set(keys(vaults.vault, ""))
    excess.remove(vaults.away, "genesis", found, lambda _: None)
    assert {point for point in young if restores(vaults.away, point)} == before
    assert points.plan(vaults.away, "genesis", 1, "trades").txid == newest
    assert points.walk(vaults.away, "genesis", 1, "trades").holes == ()
    assert not vaults.survey()


def restores(store: Dated, txid: int) -> bool:
    return points.plan(store, "genesis", 1, "trades", txid=txid).txid == txid


def test_without_an_old_snapshot_nothing_of_a_chain_is_superseded() -> None:
    def piece(level: int, first: int, last: int, days: float) -> Piece:
        return Piece(key(level, first, last), level, first, last, 1, NOW - timedelta(days=days))

    chain = [piece(9, 1, 5, 29), piece(2, 1, 5, 90), piece(2, 6, 9, 80)]
    assert retention.superseded(chain, MONTH, NOW) == []
    across = [*chain, piece(9, 1, 7, 40)]
    assert retention.superseded(across, MONTH, NOW) == [chain[0], chain[1]]  # 6 to 9 reaches beyond the snapshot


# --- the operator's verb ----------------------------------------------------------------------------------------------


class Forgets:
    """restic, which lets go of what it is told to."""

    def __init__(self, vaults: Vaults) -> None:
        self.vaults, self.asked = vaults, list[str]()

    def __call__(self, ids: Any) -> None:
        self.asked += ids
        for one in ids:
            self.vaults.away.delete(f"snapshots/genesis/snapshots/{one}")


@pytest.fixture
def full(vaults: Vaults) -> Vaults:
    for name, days in (("a", 500), ("b", 1)):
        vaults.snapshot(name, days)
    vaults.both(90, 9, 1, 10)
    vaults.both(80, 2, 11, 12)
    vaults.both(70, 9, 1, 12)
    vaults.proved(epoch=1, snapshot_of_days=1)
    return vaults


def run(tmp_path: Path, vaults: Vaults, forget: Any, **options: Any) -> str:
    site = World(tmp_path).process()
    prune_offsite(site, Copies(vaults.vault, vaults.away, forget), **options)
    assert isinstance(site.out, StringIO)
    return site.out.getvalue()


def test_a_dry_run_says_what_would_go_and_removes_nothing(tmp_path: Path, full: Vaults) -> None:
    before = set(keys(full.away, ""))
    text = run(tmp_path, full, Forgets(full), dry_run=True)
    assert "1 snapshots" in text and "2 files of replicas" in text and "would go" in text
    assert set(keys(full.away, "")) == before


def test_it_asks_and_a_no_changes_nothing(tmp_path: Path, full: Vaults) -> None:
    before = set(keys(full.away, ""))
    with pytest.raises(Refused, match="not confirmed"):
        run(tmp_path, full, Forgets(full), ask=lambda _: "no")
    assert set(keys(full.away, "")) == before


def test_it_removes_looks_again_and_has_nothing_to_do_the_second_time(tmp_path: Path, full: Vaults) -> None:
    forget = Forgets(full)
    assert "are gone" in run(tmp_path, full, forget, yes=True)
    assert forget.asked == ["a"]
    assert set(keys(full.away, "replica/")) == {key(9, 1, 12)}
    assert "nothing goes" in run(tmp_path, full, forget, yes=True)


def test_what_is_still_there_afterwards_is_told(tmp_path: Path, full: Vaults) -> None:
    with pytest.raises(StepFailed, match="still there"):
        run(tmp_path, full, lambda ids: None, yes=True)


def test_with_nothing_proved_it_says_so(tmp_path: Path, vaults: Vaults) -> None:
    vaults.snapshot("a", 900)
    text = run(tmp_path, vaults, Forgets(vaults), yes=True)
    assert "none was restored from there yet" in text and "fab verify --weekly" in text
