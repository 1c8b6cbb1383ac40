"""Backups by the real restic, into S3 on loopback and onto the host: what is saved is one moment, and comes back."""

from __future__ import annotations

import functools
import json
import shutil
import signal
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest

from lifeline import backups, catalogue, marker, points, proc, rebuild, snapshots
from lifeline.errors import BadConfig, BadInput, StepFailed
from lifeline.host_stores import open_vault_store
from lifeline.layout import Config, Layout, write_role
from lifeline.service import Database, Service
from tests.contract.replica_store import LITESTREAM, S3, Site, store, wait
from tests.contract.test_replica import inventory

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("restic") is None, reason="restic is not installed")]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with store(tmp_path_factory.mktemp("s3")) as running:
        yield running


class Primary(Site):
    """A primary below a folder: its database, its state file, its Litestream."""

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def path(self) -> Path:
        return self.root / "var/lib/x/trades.db"

    @property
    def database(self) -> Database:
        return Database("trades", self.path)  # type: ignore[arg-type]

    @property
    def socket(self) -> Path:
        return self.host().layout.control_socket

    @property
    def state_file(self) -> Path:
        return self.root / "var/lib/x/state/positions.json"

    def host(self) -> Config:
        made = Config(Layout(self.root), "a", "digest", inventory(self), self.service_toml())
        return made

    def service_toml(self) -> Service:
        return Service.parse(
            f"""
name = "{self.service}"
user = "nobody"
command = ["run"]
port = 8080
health = "/"
durability = "async"
[[databases]]
name = "trades"
path = "/var/lib/x/trades.db"
[paths]
configuration = ["/etc/lifeline/service.env"]
state = ["/var/lib/x/state"]
logs = ["/var/log/x"]
[[invariants]]
name = "no negative ids"
sql = "SELECT id FROM trades WHERE id < 0"
"""
        )


@pytest.fixture
def primary(s3: S3, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Primary:
    return made(s3, request.node.name, tmp_path_factory)


def made(s3: S3, name: str, tmp_path_factory: pytest.TempPathFactory) -> Primary:
    """A primary with an empty table, a state file, a log, and a name of its own in the vault."""
    primary = Primary(tmp_path_factory.mktemp("p"), s3, f"svc{zlib.crc32(name.encode()):08x}", 1)
    layout, logs = primary.host().layout, primary.root / "var/log/x"
    for folder in (layout.etc, layout.state, layout.run, layout.bin, primary.state_file.parent, logs):
        folder.mkdir(parents=True, exist_ok=True)
    (layout.bin / "litestream").symlink_to(LITESTREAM)
    layout.restic_password.write_text("correct horse")
    (layout.etc / "service.env").write_text("KEY=secret\n")
    primary.state_file.write_text("0")
    (logs / "audit.log").write_text("line 1\n")
    write_role(layout, "primary", 1)
    database = apsw.Connection(str(primary.path))
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE trades (id INTEGER PRIMARY KEY, note TEXT)")
    database.close()
    return primary


class Hammer(threading.Thread):
    """Writes rows, and in each transaction the row's number into the state file: both or neither at any moment."""

    def __init__(self, primary: Primary) -> None:
        super().__init__(daemon=True)
        self.primary, self.done, self.written, self.slowest = primary, threading.Event(), 0, 0.0

    def run(self) -> None:
        database = apsw.Connection(str(self.primary.path))
        database.set_busy_timeout(10_000)
        while not self.done.is_set():
            begun = time.monotonic()
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO trades (note) VALUES (hex(randomblob(200)))")
            number = database.last_insert_rowid()
            self.primary.state_file.write_text(str(number))
            database.execute("COMMIT")
            time.sleep(0.002)  # Litestream wants the lock too, once in a while
            self.written, self.slowest = number, max(self.slowest, time.monotonic() - begun)
        database.close()

    def __enter__(self) -> Hammer:
        self.start()
        wait(lambda: self.written > 50, 10, "rows")
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join()


def ids(path: Path) -> list[int]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    return [row[0] for row in connection.execute("SELECT id FROM trades ORDER BY id")]


def restored(primary: Primary, place: snapshots.Place, snapshot: str, target: Path) -> Path:
    repository = backups.repositories(primary.host())[place]
    backups.restic(repository, snapshots.restore_argv(repository, snapshot, target), "restore")
    return target / str(primary.host().layout.state / "backup").lstrip("/")


def test_database_files_and_transaction_are_of_one_moment(primary: Primary, tmp_path: Path) -> None:
    config = primary.host()
    with primary.replicating(), Hammer(primary) as hammer:
        wait(primary.newest, 20, "a replica")
        entries = [backups.backup(config, primary.store, kind) for kind in ("full", "incremental", "full")]
        assert hammer.slowest < marker.HOLD_S
    for number, entry in enumerate(entries):
        for place in ("vault", "local"):
            saved = restored(primary, place, entry["copies"][place]["snapshot"], tmp_path / f"{number}-{place}")
            rows = ids(saved / "trades.db")
            state = saved / "files" / "var/lib/x/state/positions.json"
            assert rows[-1] == int(state.read_text()) == entry["databases"]["trades"]["rows"]["trades"]
            assert (saved / "files/etc/lifeline/service.env").read_text() == "KEY=secret\n"
            assert (tmp_path / f"{number}-{place}" / str(primary.root / "var/log/x/audit.log").lstrip("/")).exists()
        txid = entry["databases"]["trades"]["txid"]
        assert txid
        try:
            plan = points.plan(open_vault_store(config), primary.service, 1, "trades", txid=txid)
        except BadInput:
            continue  # compacted away meanwhile: no file ends there any more
        replica = tmp_path / f"replica-{number}.db"
        rebuild.rebuild(open_vault_store(config), plan, replica)
        assert ids(replica) == rows
    assert entries[0]["marker"]["held_ms"] < 1000
    assert not (config.layout.state / "backup").exists()


def test_the_catalogue_has_it_and_the_listing_shows_it(primary: Primary) -> None:
    entry = backups.backup(primary.host(), primary.store, "full")
    body = primary.store.read(entry["catalogue"])
    document = catalogue.parse(entry["catalogue"], body or b"")
    assert document["databases"]["trades"]["txid"] is None  # no Litestream ran: not known, and said so
    assert document["files"]["logs"]["/var/log/x/audit.log"]["bytes"] == 7
    assert "very-secret" not in json.dumps(document) and "KEY=secret" not in json.dumps(document)


def test_the_vault_away_leaves_the_copy_on_the_host_and_says_so(primary: Primary) -> None:
    config = primary.host()
    gone = replace(config.inventory, vault=replace(config.inventory.vault, endpoint="http://127.0.0.1:9"))
    config = replace(config, inventory=gone)
    with pytest.raises(StepFailed, match=r"was saved, but not everywhere: vault: "):
        backups.backup(config, primary.store, "full")
    (key,) = catalogue.entry_keys(primary.store.keys(catalogue.root(primary.service)))
    document = catalogue.parse(key, primary.store.read(key) or b"")
    assert "error" in document["copies"]["vault"] and document["copies"]["local"]["snapshot"]


def test_a_repository_that_vanished_is_told_and_what_lay_there_is_not_listed_any_more(primary: Primary) -> None:
    config = primary.host()
    first = backups.backup(config, primary.store, "full")
    assert not list(primary.store.keys(catalogue.anew(primary.service)))  # the first one ever
    shutil.rmtree(config.layout.state / "local")
    second = backups.backup(config, primary.store, "full")
    (key,) = primary.store.keys(catalogue.anew(primary.service))
    note = catalogue.parse(key, primary.store.read(key) or b"")
    assert (note["repository"], note["newest"]) == ("local on a", first["catalogue"])
    assert catalogue.told_still([note], datetime.now(UTC)) == {"local on a": note["at"]}
    keys = catalogue.holding_keys(primary.service, primary.store.keys(catalogue.root(primary.service)))
    seen = {one: catalogue.parse(one, primary.store.read(one) or b"") for one in keys}
    entries = [(str(one["catalogue"]), one) for one in (second, first)]
    found = catalogue.joined(entries, [], None, seen)
    assert [set(one.where) - {"offsite"} for one in found] == [{"vault", "local"}, {"vault"}]


def test_a_wrong_password_is_one_clear_error_and_no_new_repository(primary: Primary) -> None:
    config = primary.host()
    backups.backup(config, primary.store, "full")
    config.layout.restic_password.write_text("another")
    with pytest.raises(BadConfig, match="password"):
        backups.backup(config, primary.store, "full")
    assert len(list(catalogue.entry_keys(primary.store.keys(catalogue.root(primary.service))))) == 1


def test_damage_is_not_backed_up(primary: Primary) -> None:
    database = apsw.Connection(str(primary.path))
    database.execute("INSERT INTO trades VALUES (-1, 'bad')")
    database.close()
    with pytest.raises(Exception, match="no negative ids"):
        backups.backup(primary.host(), primary.store, "full")
    assert not list(primary.store.keys(catalogue.root(primary.service)))


def test_a_run_that_was_killed_is_cleaned_up_and_run_again(primary: Primary) -> None:
    """restic and its parent killed while it saves: the lock it leaves in the repository is stale."""
    config = primary.host()
    backups.backup(config, primary.store, "full")
    for place, repository in backups.repositories(config).items():
        bulk = config.layout.state / "bulk"
        with bulk.open("wb") as file:
            for _ in range(200):
                file.write(b"%d" % time.monotonic_ns() * 50_000)
        argv = snapshots.backup_argv(repository, [bulk], host="a", kind="full", epoch=1, at=datetime.now(UTC))
        process = subprocess.Popen(argv, env=proc.child_environment(repository.environment), stdout=subprocess.DEVNULL)
        locks = repository.argv("list", "locks", "--no-lock", "--quiet")
        held = functools.partial(proc.run, locks, timeout=30, env=repository.environment)
        wait(lambda held=held: held().stdout.strip(), 20, f"{place}: a lock")
        process.send_signal(signal.SIGKILL)
        process.wait()
    leftover = config.layout.state / "backup"
    leftover.mkdir()
    (leftover / "trades.db").write_text("half")
    assert backups.backup(config, primary.store, "full")["copies"]["local"]["snapshot"]
    assert not leftover.exists()


def test_two_runs_never_overlap(primary: Primary) -> None:
    with backups.one_at_a_time(primary.host(), "backup"), pytest.raises(Exception, match="another backup is running"):
        backups.backup(primary.host(), primary.store, "full")


def test_a_service_that_never_lets_go_is_told_and_nothing_is_left(
    primary: Primary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marker, "LOCK_TRIES", 1)
    database = apsw.Connection(str(primary.path))
    database.execute("BEGIN IMMEDIATE")
    with pytest.raises(StepFailed, match="locked by its service"):
        backups.backup(primary.host(), primary.store, "full")
    database.execute("ROLLBACK")
    assert not (primary.host().layout.state / "backup").exists()
