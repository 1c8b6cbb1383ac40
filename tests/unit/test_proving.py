"""Verification of what is damaged: the finding is of the backup it was made on, and it is written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest

from lifeline import catalogue, ltx, points, proving, sources
from lifeline.errors import DataBad
from lifeline.proving import Answer
from lifeline.sources import Copy
from lifeline.store import MemoryStore
from tests.unit.hostkit import SERVICE, config
from tests.unit.test_offsite import ltx_file

KEY = "catalogue/genesis/20260102T020000Z-full.json"
PAGE = 4096
Spoil = Callable[[bytearray], None]


class World:
    """A vault with one backup, whose restores are made here: `spoil` damages what the replica gives, `snapshot` is what
    restic's restore raises."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, service: str = SERVICE) -> None:
        self.config, self.store = config(folder, service=service), MemoryStore()
        self.spoil: Spoil = lambda _: None
        self.snapshot: Exception | None = None
        entry = {
            **{"version": 2, "epoch": 1, "at": "2026-01-02T02:00:00Z", "kind": "full", "files": {}},
            **{"databases": {"trades": {"txid": 7, "rows": {"trades": 400}}}},
            **{"copies": {"vault": {"snapshot": "s1"}}},
        }
        self.store.put(KEY, json.dumps(entry).encode())
        monkeypatch.setattr(sources, "from_replica", self._from_replica)
        monkeypatch.setattr(sources, "from_restic", self._from_restic)
        monkeypatch.setattr(sources, "newest_epoch", lambda *_: 1)
        monkeypatch.setattr(points, "points", self._points)

    def _points(self, store: Any, service: str, epoch: int, database: str, **_: Any) -> list[points.Point]:
        return [points.Point(1, 7, datetime.now(UTC))] if database == "trades" else []

    def _made(self, source: Any, path: Path, as_replicated: bool) -> Copy:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        connection = apsw.Connection(str(path))
        connection.execute("CREATE TABLE trades (id INTEGER PRIMARY KEY, note TEXT)")
        connection.execute("BEGIN")
        for number in range(400):
            connection.execute("INSERT INTO trades VALUES (?, hex(randomblob(300)))", (number,))
        connection.execute("COMMIT")
        connection.close()
        if as_replicated:
            body = bytearray(path.read_bytes())
            self.spoil(body)
            path.write_bytes(body)
        return Copy(source, 1, {"trades": path}, {"trades": 7}, None, 1, 0.1, as_replicated)

    def _from_replica(
        self, config: Any, store: Any, source: Any, epoch: Any, txids: Any, output_of: Any, **_: Any
    ) -> Copy:
        return self._made(source, output_of(self.config.service.databases[0]), True)

    def _from_restic(self, config: Any, repository: Any, source: Any, snapshot: Any, folder: Path, **_: Any) -> Copy:
        if self.snapshot:
            raise self.snapshot
        return self._made(source, folder / "trades.db", False)

    def write(self, key: str, body: bytes) -> None:
        self.store.put(key, body)

    def prove(self) -> Answer:
        proof = proving.Proof(self.store, {"vault": None}, 1)  # type: ignore[dict-item]
        return proving.prove(self.config, self, proof, progress=lambda _: None)

    def verdict(self) -> str | None:
        """What `fab backups` says of the backup, by what was noted."""
        keys = catalogue.verified_keys(info.key for info in self.store.list(catalogue.root("genesis")))
        return catalogue.verification_of(KEY, [catalogue.parse(key, self.store.get(key).body) for key in keys])[1]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def found(report: Answer) -> dict[tuple[str, str], str]:
    return {(one["what"], one["source"]): one["verdict"] for one in report["points"]}


def test_a_backup_that_restores_is_verified(world: World) -> None:
    assert world.prove()["verdict"] == "PASS" and world.verdict() == "PASS"


def test_a_backup_whose_snapshot_is_damaged_is_not_called_verified_because_the_replica_is_good(world: World) -> None:
    world.snapshot = DataBad("trades in snapshot s1 is not what was saved")
    report = world.prove()
    assert found(report)["entry", "vault"] == "PASS" and found(report)["entry", "snapshot"] == "FAIL"
    assert [one["entry"] for one in report["points"] if one["what"] == "entry"] == [KEY, KEY]
    assert world.verdict() == "FAIL"


def _root_page(body: bytearray) -> None:
    body[PAGE : 2 * PAGE] = b"\xff" * PAGE


def _schema(body: bytearray) -> None:
    body[100:300] = b"\xff" * 200


@pytest.mark.parametrize("spoil", [_root_page, _schema])
def test_damage_that_no_row_can_be_counted_in_is_written_down_as_a_failure(world: World, spoil: Spoil) -> None:
    world.spoil = spoil
    report = world.prove()
    assert report["verdict"] == "FAIL" and "damage" in report["points"][0]["says"]
    assert world.store.get(report["key"]).body
    assert found(report)["entry", "snapshot"] == "PASS" == world.verdict()


def test_what_breaks_a_restore_or_a_count_is_not_known_and_the_other_points_are_proved(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.snapshot = ValueError("a defect")
    report = world.prove()
    assert found(report)["entry", "snapshot"] == "UNKNOWN" and found(report)["newest", "vault"] == "PASS"
    assert "ValueError: a defect" in report["points"][3]["says"] and world.verdict() == "UNKNOWN"
    monkeypatch.setattr(proving, "_sentinel", lambda _: [][0])
    assert set(found(world.prove()).values()) == {"UNKNOWN"}


def test_a_database_without_a_point_of_that_time_is_not_known_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = SERVICE + '[[databases]]\nname = "more"\npath = "/var/lib/genesis/more.db"\n'
    report = World(tmp_path, monkeypatch, more).prove()
    assert found(report)["random", "vault"] == "UNKNOWN" and "more has no point" in report["points"][1]["says"]


def test_a_sentinel_that_is_no_time_measures_nothing() -> None:
    assert proving._age({"sentinel_at": "yesterday"}, datetime.now(UTC)) is None
    assert proving._age({"sentinel_at": "2026-01-01T00:00:00"}, datetime.now(UTC)) is None


def test_a_file_of_the_replica_whose_date_is_damaged_is_torn() -> None:
    body = bytearray(ltx_file(1, 2))
    body[32:40] = b"\x01" + b"\xff" * 7
    with pytest.raises(ltx.Torn, match="date"):
        ltx.parse_header(bytes(body))
