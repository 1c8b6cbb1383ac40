"""A follower's copy may be the last there is: what is removed, and when."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lifeline import copies, replica
from lifeline.copies import Target
from lifeline.errors import DataBad, Unproven
from lifeline.layout import Config
from tests.unit.hostkit import SERVICE, FakeVault, config

TWO = SERVICE + '\n[[databases]]\nname = "orders"\npath = "/var/lib/genesis/orders.db"\n'


def copy(path: Path, txid: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"a database")
    replica.txid_file(path).write_text(f"{txid:016x}")


def follow(made: Config, epoch: int, **txids: int) -> None:
    for name, txid in txids.items():
        copy(made.layout.following(made.service.database(name), epoch), txid)


@pytest.mark.parametrize(
    ("vault", "followers", "target"),
    [
        ({1: 7}, {}, Target(1, {"trades": 7})),
        ({1: 7}, {1: 5}, Target(1, {"trades": 7})),  # it lags: the vault has the rest
        ({1: 7}, {1: 9}, Target(1, {"trades": 9})),  # the vault has lost 8 and 9
        ({1: 7}, {2: 3}, Target(2, {"trades": 3})),  # the vault has lost all of epoch 2
        ({}, {2: 3}, Target(2, {"trades": 3})),  # and all of epoch 1
        ({1: 7, 2: 4}, {1: 9}, Target(2, {"trades": 4})),  # of an epoch that is history
    ],
)
def test_the_end_is_what_anybody_here_has_seen(
    tmp_path: Path, vault: dict[int, int], followers: dict[int, int], target: Target
) -> None:
    made, store = config(tmp_path), FakeVault()
    for epoch, txid in vault.items():
        store.replicate(epoch, txid)
    for epoch, txid in followers.items():
        follow(made, epoch, trades=txid)
    assert copies.find_end(made, store, 2) == target


def test_each_database_has_its_own_end(tmp_path: Path) -> None:
    made, store = config(tmp_path, service=TWO), FakeVault()
    store.replicate(1, 7, "trades")
    store.replicate(1, 9, "orders")
    follow(made, 1, trades=8, orders=2)
    assert copies.find_end(made, store, 1) == Target(1, {"trades": 8, "orders": 9})


def test_a_follower_of_half_the_databases_is_no_end(tmp_path: Path) -> None:
    made = config(tmp_path, service=TWO)
    follow(made, 2, trades=8)
    with pytest.raises(Unproven):
        copies.find_end(made, FakeVault(), 2)


def test_an_epoch_that_lacks_a_database_is_gone_behind_by_a_command_that_there_is(tmp_path: Path) -> None:
    made, store = config(tmp_path, service=TWO), FakeVault()
    store.replicate(1, 7, "trades")
    with pytest.raises(Unproven) as first:
        copies.find_target(made, store, 1)
    assert first.value.hint == "fab restore --from snapshot"
    store.replicate(1, 9, "orders")
    store.replicate(2, 1, "trades")
    with pytest.raises(Unproven, match="lacks orders") as later:
        copies.find_target(made, store, 2)
    assert later.value.hint.startswith("fab restore --at TIME")


def test_a_follower_that_begins_anew_keeps_what_it_had_until_it_is_as_far(tmp_path: Path) -> None:
    made, store = config(tmp_path), FakeVault()
    database = made.service.databases[0]
    following, kept = made.layout.following(database, 1), made.layout.kept(database, 1)
    follow(made, 1, trades=8)
    copies.keep_follower(made, database, 1)
    assert not following.parent.exists() and copies.read_follower(kept) == 8
    follow(made, 1, trades=3)
    copies.keep_follower(made, database, 1)  # once more, before it was as far: the better copy stays
    assert copies.read_follower(kept) == 8
    store.replicate(1, 7)
    with pytest.raises(DataBad, match=r"transaction 7 of epoch 1.*had 8"):
        copies.find_end(made, store, 1)
    follow(made, 1, trades=7)
    copies.drop_kept(made, database, 1)
    assert kept.exists()
    follow(made, 1, trades=8)
    copies.drop_kept(made, database, 1)
    assert not kept.exists()


def test_where_there_is_no_room_for_two_the_old_copy_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(tmp_path)
    follow(made, 1, trades=8)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5))
    copies.keep_follower(made, made.service.databases[0], 1)
    assert not made.layout.kept(made.service.databases[0], 1).exists()


def test_a_follower_of_a_new_epoch_has_no_use_for_those_of_others(tmp_path: Path) -> None:
    made = config(tmp_path)
    follow(made, 1, trades=8)
    copies.keep_follower(made, made.service.databases[0], 2)
    assert not made.layout.following(made.service.databases[0], 1).exists()


def test_databases_in_one_folder_dont_touch_each_others_copies(tmp_path: Path) -> None:
    made = config(tmp_path, service=TWO)
    follow(made, 1, trades=8, orders=8)
    copies.keep_follower(made, made.service.database("trades"), 1)
    assert copies.read_follower(made.layout.following(made.service.database("orders"), 1)) == 8
