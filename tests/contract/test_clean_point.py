"""Corruption caused for real, replicated as it is, and found: Litestream on S3 on loopback."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import apsw
import pytest

from lifeline import clean_point, points
from lifeline.errors import BadInput
from lifeline.host_stores import open_vault_store
from tests.contract.replica_store import S3, store, wait
from tests.contract.test_backups import Primary, primary  # noqa: F401

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with store(tmp_path_factory.mktemp("s3")) as running:
        yield running


def search(primary: Primary, check: str | None = None) -> dict[str, object]:  # noqa: F811
    config = primary.host()
    return clean_point.search(config, open_vault_store(config), 1, check, progress=lambda _: None)


def has(primary: Primary, level: str) -> bool:  # noqa: F811
    return any(True for _ in primary.store.keys(f"replica/{primary.service}/epoch-0001/trades/{level}/"))


def lived(primary: Primary, wrong: str) -> int:  # noqa: F811
    """Twenty transactions, then the wrong one, then twenty more; returns the last good transaction."""
    with primary.replicating():
        database = apsw.Connection(str(primary.path))
        database.set_busy_timeout(5000)

        def insert(numbers: range) -> int:
            for number in numbers:
                database.execute("INSERT INTO trades VALUES (?, 'fine')", (number,))
                end = primary.control.sync(primary.path, 20).txid
                time.sleep(0.1)
            return end

        wait(lambda: primary.control.sync(primary.path, 20).txid, 20, "Litestream")
        good = insert(range(1, 21))
        database.execute(wrong)
        primary.control.sync(primary.path, 20)
        insert(range(101, 121))
        wait(lambda: has(primary, "0009"), 20, "files of that level")
        database.close()
    return good


def test_a_broken_invariant_is_gone_back_behind(primary: Primary) -> None:  # noqa: F811
    good = lived(primary, "INSERT INTO trades VALUES (-1, 'wrong')")
    found = search(primary)
    assert found["good"]["txid"] == good and found["bad"]["txid"] == good + 1  # type: ignore[index]
    assert found["tried"] < 12  # type: ignore[operator]
    lost = found["lost"]
    assert lost["rows"] == {"trades": [20, 41]} and lost["transactions"] > 15 and lost["seconds"] > 0  # type: ignore[index]
    # The time it names is one to restore to: exactly that transaction.
    at = datetime.fromisoformat(found["good"]["at"])  # type: ignore[index]
    assert points.at(open_vault_store(primary.host()), primary.service, 1, "trades", at).txid == good


def test_a_wrong_update_that_no_invariant_knows_is_found_by_the_operators_check(primary: Primary) -> None:  # noqa: F811
    good = lived(primary, "UPDATE trades SET note = 'oops' WHERE id % 2 = 0")
    assert search(primary)["bad"] is None  # nothing that Lifeline knows is wrong
    found = search(primary, "SELECT id FROM trades WHERE note = 'oops'")
    assert found["good"]["txid"] == good  # type: ignore[index]


def test_a_check_that_cant_be_run_is_bad_input(primary: Primary) -> None:  # noqa: F811
    lived(primary, "SELECT 1")
    with pytest.raises(BadInput, match="can't be run"):
        search(primary, "SELECT FROM nothing")


def test_flipped_bytes_of_the_primary_that_were_replicated_are_gone_back_behind(primary: Primary) -> None:  # noqa: F811
    """The page is damaged on the primary's disk, and Litestream's next snapshot copies it: integrity_check finds it."""
    with primary.replicating():
        database = apsw.Connection(str(primary.path))
        database.set_busy_timeout(5000)
        for number in range(1, 400):
            database.execute("INSERT INTO trades VALUES (?, hex(randomblob(300)))", (number,))
        database.execute("CREATE INDEX notes ON trades (note)")
        good = primary.control.sync(primary.path, 20).txid
        database.execute("PRAGMA writable_schema = ON")
        # An index that says other than its table: damage that nobody sees until it is checked.
        database.execute("UPDATE sqlite_schema SET sql = replace(sql, '(note)', '(id, note)') WHERE name = 'notes'")
        primary.control.sync(primary.path, 20)
        wait(lambda: has(primary, "0001"), 20, "files of that level")
        database.close()
    found = search(primary)
    assert found["good"]["txid"] <= good and found["bad"] is not None  # type: ignore[index]
