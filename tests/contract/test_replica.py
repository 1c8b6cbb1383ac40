"""Litestream itself, against S3 on loopback: what the design takes for granted is true of what we ship."""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from lifeline import copies, data, replica, roles
from lifeline.barrier import Barrier
from lifeline.errors import DataBad, StepFailed, Unproven
from lifeline.layout import Config, DataFile, Layout, read_data
from lifeline.model import Inventory
from lifeline.service import Service
from lifeline.verify import connect, rows, verify_database
from lifeline.watching import Newest, Position, lag
from tests.contract.replica_store import LITESTREAM, S3, Site, store, wait

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with store(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, s3: S3, request: pytest.FixtureRequest) -> Site:
    return Site(tmp_path / "a", s3, f"svc{zlib.crc32(request.node.name.encode()):08x}", 1)


def writer(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5000)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS trades (id INTEGER PRIMARY KEY, note TEXT)")
    return connection


def insert(connection: apsw.Connection, number: int) -> None:
    connection.execute("INSERT INTO trades VALUES (?, ?)", (number, "x" * 200))


def ids(path: Path) -> list[int]:
    with connect(path) as connection:
        return [row[0] for row in rows(connection, "SELECT id FROM trades ORDER BY id")]


def restore(site: Site, output: Path, txid: int | None = None) -> replica.Restored:
    from lifeline import proc

    argv = replica.restore_argv(LITESTREAM, site.write_config(), site.path, output, txid=txid)
    done = proc.run(argv, timeout=60)
    assert done.ok, done.reason
    return replica.parse_restore(done.stdout)


def test_what_the_barrier_confirmed_survives_a_kill_at_once(site: Site, tmp_path: Path) -> None:
    with site.replicating() as litestream:
        database = writer(site.path)
        barrier = Barrier({"trades": site.path}, site.control.sync, lambda: None)
        confirmed = []
        for number in range(1, 21):
            insert(database, number)
            barrier.wait("trades", 10)
            confirmed.append(number)
        litestream.kill()
    output = tmp_path / "restored.db"
    restored = restore(site, output)
    assert ids(output) == confirmed
    assert restored.txid == site.newest()


def test_concurrent_commits_share_round_trips_and_each_survives(site: Site, tmp_path: Path) -> None:
    with site.replicating() as litestream:
        writer(site.path).close()
        barrier = Barrier({"trades": site.path}, site.control.sync, lambda: None)
        confirmed: list[int] = []

        def work(base: int) -> None:
            connection = writer(site.path)
            for number in range(base, base + 10):
                insert(connection, number)
                barrier.wait("trades", 20)
                confirmed.append(number)

        threads = [threading.Thread(target=work, args=(base,)) for base in range(100, 900, 100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        litestream.kill()
    output = tmp_path / "restored.db"
    restore(site, output)
    assert ids(output) == sorted(confirmed) and len(confirmed) == 80
    assert barrier.stats.passed == 80 and barrier.stats.syncs < 80


def test_the_barrier_keeps_its_deadline_through_an_outage_and_recovers(site: Site) -> None:
    with site.replicating():
        database = writer(site.path)
        barrier = Barrier({"trades": site.path}, site.control.sync, lambda: None)
        insert(database, 1)
        barrier.wait("trades", 10)
        with site.store.outage():
            insert(database, 2)
            begun = time.monotonic()
            with pytest.raises(StepFailed):
                barrier.wait("trades", 1.0)
            assert time.monotonic() - begun < 5
        assert barrier.wait("trades", 30) > 0


def test_a_second_epoch_begins_whole_at_its_own_prefix(site: Site, tmp_path: Path) -> None:
    with site.replicating():
        database = writer(site.path)
        insert(database, 1)
        site.control.sync(site.path, 10)
    second = Site(site.folder, site.store, site.service, 2)
    with second.replicating():
        insert(database, 2)
        second.control.sync(second.path, 10)
    restore(site, tmp_path / "one.db")
    restore(second, tmp_path / "two.db")
    assert (ids(tmp_path / "one.db"), ids(tmp_path / "two.db")) == ([1], [1, 2])


def test_a_follower_reaches_the_newest_transaction_and_its_file_says_so(site: Site, tmp_path: Path) -> None:
    output = tmp_path / "follower" / "trades.db"
    with site.replicating():
        database = writer(site.path)
        insert(database, 1)
        site.control.sync(site.path, 10)
        with site.following(output):
            wait(lambda: copies.read_follower(output) == site.newest() > 0, 15, "the follower has the first copy")
            for number in range(2, 12):
                insert(database, number)
                site.control.sync(site.path, 10)
            wait(lambda: copies.read_follower(output) == site.newest(), 10, "the follower catches up")
    data.set_wal(output)
    assert ids(output) == list(range(1, 12))
    assert verify_database(output, [], "full").verdict == "PASS"


def test_plan_says_whether_there_is_something_to_follow(site: Site) -> None:
    from lifeline import proc

    plan = replica.plan_argv(LITESTREAM, site.write_config(), site.path)
    assert not proc.run(plan, timeout=30).ok
    with site.replicating():
        insert(writer(site.path), 1)
        site.control.sync(site.path, 10)
    assert proc.run(plan, timeout=30).ok


# -- finalize, on a host below a folder


class Host:
    """A provisioned host below `root`, its follower started by hand where a droplet has supervisor."""

    def __init__(self, root: Path, site: Site) -> None:
        self.site = site
        layout = Layout(root)
        layout.bin.mkdir(parents=True)
        (layout.bin / "litestream").symlink_to(LITESTREAM)
        self.config = Config(layout, "b", "digest", inventory(site), service(site))
        layout.live(self.config.service.databases[0]).parent.mkdir(parents=True)
        self.live = layout.live(self.config.service.databases[0])

    def finalize(self, epoch: int, stop: object = None, running: bool = False) -> dict[str, object]:
        stop_followers = stop if callable(stop) else lambda: None
        return data.finalize(
            self.config, self.site.store, epoch, stop_followers=stop_followers, running=lambda: running, within=60
        )


def service(site: Site) -> Service:
    return Service.parse(
        f"""
name = "{site.service}"
user = "nobody"
command = ["run"]
port = 8080
health = "/"
durability = "vault"
[[databases]]
name = "trades"
path = "/var/lib/x/trades.db"
[[invariants]]
name = "no negative ids"
sql = "SELECT id FROM trades WHERE id < 0"
"""
    )


def inventory(site: Site) -> Inventory:
    destination = site.store.destination
    key = {"access_key": destination.access_key, "secret_key": destination.secret_key}

    def host(name: str, role: str) -> dict[str, object]:
        return {
            **{"name": name, "home_role": role, "region": "nyc3", "droplet_id": "1", "address": "127.0.0.1"},
            **{"private_address": "", "fqdn": f"{name}.test", "user": "operator", "host_key": "ssh-ed25519 AAAA"},
            **{"vault_key": key, "offsite_key": None, "uptime_check": None},
        }

    document = {
        **{"version": 1, "stack": "test", "service": site.service},
        "record": {"fqdn": "t.test", "domain": "test", "name": "t", "id": "1", "ttl": 30},
        "hosts": [host("a", "primary"), host("b", "backup")],
        "vault": {"bucket": destination.bucket, "region": "ams3", "endpoint": destination.endpoint, "path_style": True},
        "offsite": {"bucket": "o", "lease_bucket": "l", "region": "us-east-2", "endpoint": None, "path_style": True},
        "cloud": {"api": "http://127.0.0.1"},
        "checks": {},
        "targets": {"rto_target_s": 1, "rto_max_s": 2, "rpo_target_s": 0, "rpo_max_s": 1},
        "policy": {"lease_ttl_s": 30, "lease_margin_s": 5, "fence_required": ["power-off"], "max_lag_s": 60},
    }
    return Inventory.from_json(json.dumps(document))


def fill(site: Site, numbers: range) -> None:
    with site.replicating():
        database = writer(site.path)
        for number in numbers:
            insert(database, number)
        site.control.sync(site.path, 10)
        database.close()


def test_finalize_restores_where_there_is_no_follower(site: Site, tmp_path: Path) -> None:
    fill(site, range(1, 6))
    host = Host(tmp_path / "b", site)
    answer = host.finalize(1)
    assert answer["databases"][0]["method"] == "restore"  # type: ignore[index]
    assert ids(host.live) == [1, 2, 3, 4, 5]
    assert read_data(host.config.layout).finalized == 1
    assert host.finalize(1)["changed"] is False


def test_finalize_takes_the_follower_that_is_there_and_sets_wal_again(site: Site, tmp_path: Path) -> None:
    fill(site, range(1, 6))
    host = Host(tmp_path / "b", site)
    output = host.config.layout.following(host.config.service.databases[0], 1)
    with site.following(output) as follower:
        wait(lambda: copies.read_follower(output) == site.newest(), 15, "the follower is there")

        def stop() -> None:
            follower.terminate()
            follower.wait(10)

        answer = host.finalize(1, stop, running=True)
    assert answer["databases"][0]["method"] == "follower"  # type: ignore[index]
    assert answer["databases"][0]["seconds"] < 1  # type: ignore[index]
    assert host.live.read_bytes()[18:20] == b"\x02\x02"  # the header's word for WAL
    assert ids(host.live) == [1, 2, 3, 4, 5]


def test_finalize_restores_when_the_follower_has_stalled_short_of_the_end(site: Site, tmp_path: Path) -> None:
    fill(site, range(1, 4))
    host = Host(tmp_path / "b", site)
    output = host.config.layout.following(host.config.service.databases[0], 1)
    with site.following(output):
        wait(lambda: copies.read_follower(output) == site.newest(), 15, "the follower is there")
    fill(site, range(4, 8))
    answer = host.finalize(1, running=True)
    assert answer["databases"][0]["method"] == "restore"  # type: ignore[index]
    assert ids(host.live) == [1, 2, 3, 4, 5, 6, 7]


def test_finalize_keeps_the_old_database_and_lets_no_old_log_near_the_new_one(site: Site, tmp_path: Path) -> None:
    fill(site, range(1, 4))
    host = Host(tmp_path / "b", site)
    old = writer(host.live)
    insert(old, 99)  # in the log, not in the file
    host.finalize(1)
    assert ids(host.live) == [1, 2, 3]
    aside = next((host.live.parent / ".lifeline" / "trades" / "previous").iterdir())
    assert {path.name for path in aside.iterdir()} >= {"trades.db", "trades.db-wal"}


def test_finalize_goes_back_to_the_newest_epoch_that_has_data(site: Site, tmp_path: Path) -> None:
    fill(site, range(1, 4))
    host = Host(tmp_path / "b", site)
    answer = host.finalize(3)
    assert (answer["epoch"], answer["source_epoch"]) == (3, 1)


def test_finalize_without_any_replica_is_an_error_and_makes_no_database(site: Site, tmp_path: Path) -> None:
    host = Host(tmp_path / "b", site)
    with pytest.raises(Unproven, match="no replica"):
        host.finalize(2)
    assert not host.live.exists()


def test_damage_in_the_vault_stops_finalize_and_leaves_the_live_database_alone(site: Site, tmp_path: Path) -> None:
    fill(site, range(1, 4))
    host = Host(tmp_path / "b", site)
    host.live.write_bytes(b"the old one")
    for key in list(site.store.keys(f"replica/{site.service}/")):
        site.store.write(key, b"damaged")
    with pytest.raises(DataBad):
        host.finalize(1)
    assert host.live.read_bytes() == b"the old one"


def test_a_followers_lag_is_seen_in_what_litestream_really_writes(site: Site) -> None:
    """The layout of its keys is Litestream's own: looked for in the wrong place, every lag would be none."""
    for number in range(1, 4):
        fill(site, range(number, number + 1))
    newest = site.newest()
    assert newest >= 3
    for applied in (1, newest - 1, newest):
        seen = lag(Newest(site.store, site.service), 1, "trades", lambda applied=applied: applied, lambda _: None)  # type: ignore[misc]
        assert seen == Position(applied, newest)


def follow_to_the_end(site: Site, output: Path) -> None:
    """A follower that has everything, and was stopped."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with site.following(output) as follower:
        wait(lambda: copies.read_follower(output) == site.newest() > 0, 15, "the follower is there")
        follower.terminate()
        follower.wait(10)


def logs(site: Site) -> list[str]:
    """The keys of single transactions' objects, oldest first."""
    return sorted(key for key in site.store.keys(f"replica/{site.service}/") if "/0000/" in key)


@pytest.mark.parametrize("left", [-1, 0], ids=["all but the newest objects", "nothing"])
def test_a_follower_that_is_further_than_a_vault_that_lost_objects_is_taken(
    site: Site, tmp_path: Path, left: int
) -> None:
    fill(site, range(1, 4))
    fill(site, range(4, 8))
    host = Host(tmp_path / "b", site)
    follow_to_the_end(site, host.config.layout.following(host.config.service.databases[0], 1))
    newest = site.newest()
    keys = list(site.store.keys(f"replica/{site.service}/"))
    for key in keys if left == 0 else [key for key in keys if replica.txid_of(key) == newest]:
        site.store.delete(key)
    answer = host.finalize(1)
    assert answer["databases"][0]["txid"] == newest  # type: ignore[index]
    assert ids(host.live) == [1, 2, 3, 4, 5, 6, 7]
    assert host.finalize(1)["changed"] is False  # killed here and run again: not set back to what the vault has
    assert ids(host.live) == [1, 2, 3, 4, 5, 6, 7]


def test_a_copy_kept_from_an_interrupted_follower_is_no_data_to_lose_in_silence(site: Site, tmp_path: Path) -> None:
    fill(site, range(1, 8))
    host = Host(tmp_path / "b", site)
    database = host.config.service.databases[0]
    follow_to_the_end(site, host.config.layout.following(database, 1))
    copies.keep_follower(host.config, database, 1)
    kept = host.config.layout.kept(database, 1)
    assert ids(kept) == [1, 2, 3, 4, 5, 6, 7]
    newest = site.newest()
    for key in [key for key in site.store.keys(f"replica/{site.service}/") if replica.txid_of(key) == newest]:
        site.store.delete(key)
    with pytest.raises(DataBad, match=str(kept)):
        host.finalize(1)
    assert not host.live.exists() and kept.exists()


def test_a_gap_in_the_vault_is_bad_data_and_starts_nothing(site: Site, tmp_path: Path) -> None:
    for number in range(1, 6):
        fill(site, range(number, number + 1))
    site.store.delete(logs(site)[-2])
    host = Host(tmp_path / "b", site)
    with pytest.raises(DataBad, match="gap"):
        host.finalize(1)
    assert not host.live.exists()


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_flipped_bytes_are_bad_data_wherever_they_are(site: Site, tmp_path: Path, at: float) -> None:
    fill(site, range(1, 40))
    key = logs(site)[-1]
    body = bytearray(site.store.read(key) or b"")
    for place in range(int(len(body) * at), int(len(body) * at) + 8):
        body[place] ^= 0xFF
    site.store.write(key, bytes(body))
    host = Host(tmp_path / "b", site)
    with pytest.raises(DataBad):
        host.finalize(1)
    assert not host.live.exists()


def test_a_prefix_that_was_written_is_refused_to_another_host(site: Site, tmp_path: Path) -> None:
    fill(site, range(1, 3))
    host = Host(tmp_path / "b", site)
    seen = roles.look_at_prefix(host.config, site.store, 1)
    assert seen.written and seen.owner is None
    reason = roles.promotion_refusal("b", 1, DataFile(), False, seen)
    assert reason is not None and "unknown host" in reason
    assert roles.look_at_prefix(host.config, site.store, 2) == roles.Prefix(None, False, 1)


def test_a_running_litestream_reports_when_it_last_reached_the_vault(site: Site) -> None:
    with site.replicating():
        insert(writer(site.path), 1)
        site.control.sync(site.path, 10)
        listed = site.control.list()
    assert listed[0].path == str(site.path) and listed[0].last_sync_at is not None
