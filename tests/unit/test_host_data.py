"""Data comes to a host beside, verified, swapped; an interruption leaves old or new, and calling again resumes."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from lifeline import copies, data, observe, replica
from lifeline.copies import Target
from lifeline.errors import Refused, Unproven
from lifeline.layout import Config, DataFile, read_data, write_data
from lifeline.model import Observation
from runbooks.restore import Restoration
from tests.unit.hostkit import SERVICE, FakeVault, config

TWO = SERVICE + '\n[[databases]]\nname = "orders"\npath = "/var/lib/genesis/orders.db"\n'


def make(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript(f"CREATE TABLE t (v); INSERT INTO t VALUES ({value});")
    connection.close()


def value(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT v FROM t").fetchone()[0])
    finally:
        connection.close()


def staged_over_old(tmp_path: Path) -> Config:
    made = config(tmp_path, service=TWO)
    for database in made.service.databases:
        make(made.layout.live(database), 1)
        make(made.layout.staged(database), 2)
    return made


def test_a_swap_keeps_the_old_and_notes_where_the_new_is_from(tmp_path: Path) -> None:
    made = staged_over_old(tmp_path)
    kept = data.swap_all(made, DataFile(origin_epoch=3, finalized=3, txids={"trades": 7, "orders": 9}))
    for database in made.service.databases:
        assert value(made.layout.live(database)) == 2
        assert value(Path(kept[database.name]) / made.layout.live(database).name) == 1
    assert read_data(made.layout).finalized == 3


@pytest.mark.parametrize("crash_at", range(1, 5))
def test_a_swap_killed_between_any_two_renames_never_claims_to_be_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    made = staged_over_old(tmp_path)
    write_data(made.layout, DataFile(origin_epoch=2, finalized=2))
    rename, done = Path.rename, 0

    def counted(self: Path, target: Path) -> Path:
        nonlocal done
        if self.suffix == ".db":
            done += 1
            if done == crash_at:
                raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", counted)
    with pytest.raises(KeyboardInterrupt):
        data.swap_all(made, DataFile(origin_epoch=3, finalized=3))
    monkeypatch.undo()
    assert read_data(made.layout) == DataFile()  # neither the old origin nor the new one
    for database in made.service.databases:  # the run that follows stages anew
        make_anew(made.layout.staged(database))
    data.swap_all(made, DataFile(origin_epoch=3, finalized=3))
    assert [value(made.layout.live(database)) for database in made.service.databases] == [2, 2]


STEPS = 12  # of a swap of two databases: a note before it and one after, and of each its owner, two renames, the
# folder's sync, and what is too old


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("crash_at", range(1, STEPS + 1))
def test_a_restore_killed_at_any_step_of_its_swap_is_in_place_or_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int, late: bool
) -> None:
    """Before each step, and after it: what the next `fab restore` sees on the host is new data, or not in place."""
    made = staged_over_old(tmp_path)
    write_data(made.layout, DataFile(live_epoch=1))
    new, steps = DataFile(origin_epoch=1, txids={"trades": 7, "orders": 9}), 0

    def counted(module: object, name: str) -> None:
        real = getattr(module, name)

        def step(*arguments: object) -> object:
            nonlocal steps
            steps += 1
            if steps == crash_at and not late:
                raise KeyboardInterrupt
            answer = real(*arguments)
            if steps == crash_at:
                raise KeyboardInterrupt
            return answer

        monkeypatch.setattr(module, name, step)

    for name in ("write_data", "sync_directory", "_prune_previous", "own"):
        counted(data, name)
    counted(Path, "rename")
    with pytest.raises(KeyboardInterrupt):
        data.swap_all(made, new)
    monkeypatch.undo()
    live = [made.layout.live(database) for database in made.service.databases]
    if not in_place(made):
        for database in made.service.databases:
            make_anew(made.layout.staged(database))
        data.swap_all(made, new)
    assert in_place(made) and [value(path) for path in live] == [2, 2]
    assert read_data(made.layout) == new


def in_place(made: Config) -> bool:
    """As the runbook judges it, by what the host says of itself."""
    seen = Observation.from_json(observe.observe(made))
    work = Restoration.__new__(Restoration)
    work.promotion = SimpleNamespace(observed=seen, epoch=2)  # type: ignore[assignment]
    return work.in_place()


def make_anew(path: Path) -> None:
    path.unlink(missing_ok=True)
    make(path, 2)


def test_an_old_log_leaves_with_its_database(tmp_path: Path) -> None:
    made = staged_over_old(tmp_path)
    live = made.layout.live(made.service.databases[0])
    for sidecar in replica.sidecars(live):
        sidecar.write_bytes(b"of the old one")
    kept = data.swap_all(made, DataFile())
    assert not any(sidecar.exists() for sidecar in replica.sidecars(live))
    assert {path.name for path in Path(kept["trades"]).iterdir()} == {
        *("trades.db", "trades.db-wal", "trades.db-shm", "trades.db-journal")
    }


def test_only_the_last_two_old_ones_are_kept(tmp_path: Path) -> None:
    made = config(tmp_path)
    database = made.service.databases[0]
    for number in range(5):
        make(made.layout.staged(database), number)
        data.swap_all(made, DataFile())
    previous = sorted((made.layout.beside(database) / "previous").iterdir())
    assert [value(path / "trades.db") for path in previous] == [2, 3]


def test_set_wal_brings_a_copy_back_and_leaves_no_log(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    make(path, 1)
    data.set_wal(path)
    assert path.read_bytes()[18:20] == b"\x02\x02"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.db"]


def test_the_target_is_the_newest_epoch_that_has_every_database(tmp_path: Path) -> None:
    made, vault = config(tmp_path, service=TWO), FakeVault()
    for name, txid in (("trades", 7), ("orders", 9)):
        vault.replicate(2, txid, name)
    assert copies.find_target(made, vault, 4) == Target(2, {"trades": 7, "orders": 9})
    vault.replicate(3, 1, "trades")
    with pytest.raises(Unproven, match="lacks orders"):
        copies.find_target(made, vault, 4)


def test_no_replica_is_an_error_never_an_empty_database(tmp_path: Path) -> None:
    with pytest.raises(Unproven, match="no replica"):
        copies.find_target(config(tmp_path), FakeVault(), 3)


def follower(made: Config, epoch: int, txid: str) -> None:
    copy = made.layout.following(made.service.databases[0], epoch)
    make(copy, 1)
    replica.txid_file(copy).write_text(txid)


@pytest.mark.parametrize(("text", "txid"), [(f"{7:016x}\n", 7), ("", 0), ("damaged", 0)])
def test_a_followers_position(tmp_path: Path, text: str, txid: int) -> None:
    made = config(tmp_path)
    follower(made, 1, text)
    assert copies.read_follower(made.layout.following(made.service.databases[0], 1)) == txid


def test_a_position_without_its_copy_is_none(tmp_path: Path) -> None:
    made = config(tmp_path)
    follower(made, 1, f"{7:016x}\n")
    copy = made.layout.following(made.service.databases[0], 1)
    copy.unlink()
    assert copies.read_follower(copy) == 0


def test_waiting_for_a_follower_ends_when_it_is_there_stands_still_or_is_gone(tmp_path: Path) -> None:
    made = config(tmp_path)
    follower(made, 1, f"{7:016x}\n")

    def wait(txid: int, running: bool, clock: list[float]) -> dict[str, int]:
        def tick() -> float:
            clock[0] += 0.5
            return clock[0]

        target = Target(1, {"trades": txid})
        return copies.await_followers(made, target, within=60, running=lambda: running, clock=tick)

    there, gone, still = [0.0], [0.0], [0.0]
    assert wait(7, True, there) == {"trades": 7} and there[0] < 2
    assert wait(9, False, gone) == {"trades": 7} and gone[0] < 4
    assert wait(9, True, still) == {"trades": 7} and 2 < still[0] < 8


def test_what_a_later_epoch_wrote_is_not_gone_back_behind(tmp_path: Path) -> None:
    """A promotion that is begun again, after its host has served and stopped."""
    made, vault = config(tmp_path), FakeVault()
    live = made.layout.live(made.service.databases[0])
    make(live, 2)
    vault.replicate(1, 40)
    write_data(made.layout, DataFile(live_epoch=2))
    with pytest.raises(Refused, match="it wrote in epoch 2"):
        data.finalize(made, vault, 1, stop_followers=lambda: None, running=lambda: False)
    assert value(live) == 2 and read_data(made.layout) == DataFile(live_epoch=2)
