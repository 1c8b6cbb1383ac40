"""A new epoch that goes on from the last one: with Litestream itself, against S3 on loopback."""

from __future__ import annotations

import json
import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from lifeline import continuation, forks, replica
from lifeline.continuation import Continues
from lifeline.host_stores import open_vault_store
from lifeline.layout import DataFile, read_data, write_role
from lifeline.service import Database
from tests.contract.replica_store import S3, Site, store, wait
from tests.contract.test_replica import Host, ids, insert, restore, writer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with store(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, s3: S3, request: pytest.FixtureRequest) -> Site:
    return Site(tmp_path / "a", s3, f"svc{zlib.crc32(request.node.name.encode()):08x}", 1)


class Next(Site):
    """Epoch 2, on another host, Litestream's local state where that host has it."""

    @property
    def database(self) -> Database:
        return Database("trades", self.folder / "root/var/lib/x/trades.db")  # type: ignore[arg-type]

    def write_config(self) -> Path:
        path = super().write_config()
        state = self.folder / "root/var/lib/lifeline/litestream"
        path.write_text(path.read_text().replace(str(self.folder / "state"), str(state)))
        return path


def promoted(site: Site, tmp_path: Path, big: int = 0) -> tuple[Host, Next]:
    """Epoch 1 written and ended, its data on host b; epoch 2 prepared."""
    with site.replicating():
        database = writer(site.path)
        for number in range(1, 6):
            insert(database, number)
        if big:
            database.execute("CREATE TABLE ballast (blob BLOB)")
            with database:
                for _ in range(big):
                    database.execute("INSERT INTO ballast VALUES (randomblob(100000))")
        site.control.sync(site.path, 60)
        database.close()
    host = Host(tmp_path / "b" / "root", site)
    host.finalize(1)
    continues = continuation.origin(host.config, read_data(host.config.layout))
    assert continues == Continues(1, {"trades": site.newest()})
    assert continuation.begin(host.config, site.store, 2, continues) == continues
    return host, Next(tmp_path / "b", site.store, site.service, 2)


def objects(site: Site) -> list[tuple[int, int, int]]:
    """(level, first, last) of everything in the epoch's prefix."""
    prefix = replica.replica_prefix(site.service, site.epoch, "trades") + "/"
    found = []
    for key in site.store.keys(prefix):
        level, name = key.removeprefix(prefix).split("/")
        first, last = name.removesuffix(".ltx").split("-")
        found.append((int(level, 16), int(first, 16), int(last, 16)))
    return sorted(found)


def test_the_first_transaction_of_the_new_epoch_is_the_next_one_and_no_full_copy_is_waited_for(
    site: Site, tmp_path: Path
) -> None:
    host, going = promoted(site, tmp_path, big=600)  # 60 MB
    end = site.newest()
    with going.replicating():
        database = writer(host.live)
        begun = time.monotonic()
        insert(database, 6)
        synced = going.control.sync(host.live, 30)
        assert time.monotonic() - begun < 1.0
        assert synced.txid in (end + 1, end + 2)  # the log's opening may be a transaction of its own
        assert all(first >= end for level, first, last in objects(going) if level == 0)
        assert max(len(site.store.read(key) or b"") for key in l0(going)) < 1_000_000
        wait(lambda: any(level == 9 for level, _, _ in objects(going)), 60, "Litestream's snapshot of the new epoch")
        insert(database, 7)
        going.control.sync(host.live, 30)
        database.close()
    restore(going, tmp_path / "two.db")
    assert ids(tmp_path / "two.db") == [1, 2, 3, 4, 5, 6, 7]
    assert whole(tmp_path / "two.db")


def l0(site: Site) -> list[str]:
    return list(site.store.keys(f"{replica.replica_prefix(site.service, site.epoch, 'trades')}/0000/"))


def whole(path: Path) -> bool:
    return apsw.Connection(str(path)).execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_what_came_into_the_vault_after_history_had_gone_on_is_a_fork_all_the_same(site: Site, tmp_path: Path) -> None:
    """A line is whole again, and what its host had begun to send arrives: no epoch goes on from it."""
    host, _ = promoted(site, tmp_path)
    layout, end = host.config.layout, site.newest()
    site.store.write(
        f"{replica.epoch_prefix(site.service, 2)}owner.json",
        json.dumps({"host": "b", "epoch": 2, "continues": Continues(1, {"trades": end}).to_json()}).encode(),
    )
    with site.replicating():
        database = writer(site.path)
        insert(database, 6)
        site.control.sync(site.path, 30)
        database.close()
    assert site.newest() > end
    folder = layout.beside(host.config.service.databases[0]) / "fork-0001"
    folder.mkdir(parents=True)
    for path in site.path.parent.glob(f"{site.path.name}*"):
        if path.is_file():
            shutil.copy(path, folder)
    write_role(layout, "standby", 2)
    (report,) = forks.compare_all(host.config, open_vault_store(host.config))
    assert (report["verdict"], report["txid"]) == ("PASS", end)
    assert [row["id"] for row in report["tables"]["trades"]["only_here"]] == [6]
    write_role(layout, "standby", 1)  # nobody has gone on from it yet, as far as this host knows
    (folder / "report.json").unlink()
    assert forks.compare_all(host.config, open_vault_store(host.config)) == [] and not folder.exists()


def test_after_a_restart_of_litestream_it_still_goes_on(site: Site, tmp_path: Path) -> None:
    host, going = promoted(site, tmp_path)
    database = writer(host.live)
    for number in (6, 7):
        with going.replicating():
            insert(database, number)
            going.control.sync(host.live, 30)
    database.close()
    with going.replicating():
        going.control.sync(host.live, 30)
        wait(lambda: any(level == 9 for level, _, _ in objects(going)), 30, "a snapshot")
    restore(going, tmp_path / "two.db")
    assert ids(tmp_path / "two.db") == [1, 2, 3, 4, 5, 6, 7]


def test_a_log_that_was_reset_before_litestream_saw_it_costs_a_full_copy_and_no_data(
    site: Site, tmp_path: Path
) -> None:
    host, going = promoted(site, tmp_path)
    with writer(host.live) as database:
        insert(database, 6)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    insert(database, 7)
    with going.replicating():
        going.control.sync(host.live, 30)
        wait(lambda: any(level == 9 for level, _, _ in objects(going)), 30, "a snapshot")
    database.close()
    restore(going, tmp_path / "two.db")
    assert ids(tmp_path / "two.db") == [1, 2, 3, 4, 5, 6, 7]


def test_without_its_local_piece_it_goes_on_all_the_same_and_its_owner_says_so(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(continuation, "write_file", full)
    host, going = promoted(site, tmp_path)
    end = site.newest()
    database = writer(host.live)
    with going.replicating():
        insert(database, 6)
        going.control.sync(host.live, 30)
    database.close()
    assert min(first for level, first, _ in objects(going) if level < 9) == end


def test_what_isnt_page_for_page_the_replica_begins_with_a_full_copy(site: Site, tmp_path: Path) -> None:
    host, _ = promoted(site, tmp_path)
    data = DataFile(origin_epoch=1, txids={"trades": 5}, as_replicated=True)
    assert continuation.origin(host.config, data) is not None
    assert continuation.origin(host.config, replace(data, as_replicated=False)) is None
    assert continuation.origin(host.config, replace(data, live_epoch=1)) is None
    assert continuation.origin(host.config, replace(data, txids={})) is None


def test_the_owner_says_what_an_epoch_goes_on_from() -> None:
    continues = Continues(3, {"trades": 7})
    assert continuation.of_owner(json.dumps({"host": "b", "continues": continues.to_json()}).encode()) == continues
    assert continuation.of_owner(json.dumps({"host": "b"}).encode()) is None
    assert continuation.of_owner(None) is None


def test_before_its_own_snapshot_is_there_an_epoch_is_restored_through_the_one_before(
    site: Site, tmp_path: Path
) -> None:
    host, going = promoted(site, tmp_path)
    end = site.newest()
    owner = {"host": "b", "epoch": 2, "continues": Continues(1, {"trades": end}).to_json()}
    site.store.write(f"{replica.epoch_prefix(site.service, 2)}owner.json", json.dumps(owner).encode())
    database = writer(host.live)
    with going.replicating():
        insert(database, 6)
        going.control.sync(host.live, 30)
        wait(lambda: any(level == 9 for level, _, _ in objects(going)), 30, "a snapshot")
    database.close()
    for key in list(site.store.keys(f"{replica.replica_prefix(site.service, 2, 'trades')}/0009/")):
        site.store.delete(key)
    third = Host(tmp_path / "c" / "root", site)
    answer = third.finalize(2)
    assert answer["source_epoch"] == 2
    assert ids(third.live) == [1, 2, 3, 4, 5, 6] and whole(third.live)
    before = third.finalize(1)
    assert before["source_epoch"] == 1 and ids(third.live) == [1, 2, 3, 4, 5]
