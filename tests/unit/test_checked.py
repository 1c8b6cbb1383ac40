"""A copy that was found good isn't read again; no other copy, no later write and no other day counts as the same."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest

from lifeline import checked, data, replica
from lifeline.copies import Target
from lifeline.layout import Config, write_role
from lifeline.model import Finding, Verdict
from lifeline.verify import verify_database
from tests.unit.hostkit import config


@pytest.fixture
def host(tmp_path: Path) -> Config:
    made = config(tmp_path)
    make(made.layout.live(made.service.databases[0]))
    return made


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every time a database was really read."""
    seen: list[Path] = []

    def counted(path: Path, *rest: Any, **options: Any) -> Finding:
        seen.append(path)
        return verify_database(path, *rest, **options)

    monkeypatch.setattr("lifeline.checked.verify_database", counted)
    return seen


def make(path: Path, mode: str = "delete") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", mode)
    connection.execute("CREATE TABLE IF NOT EXISTS trades (id INTEGER PRIMARY KEY, qty INT)").fetchall()
    connection.close()


def quick(host: Config, path: Path | None = None) -> Finding:
    database = host.service.databases[0]
    return checked.quick(host, database, path or host.layout.live(database))


def test_what_was_found_good_is_not_read_again_wherever_it_is_moved(host: Config, looks: list[Path]) -> None:
    live = host.layout.live(host.service.databases[0])
    first = quick(host)
    live.rename(moved := live.with_name("moved.db"))
    second = quick(host, moved)
    assert (first.verdict, second.verdict, looks) == (Verdict.PASS, Verdict.PASS, [live])
    assert second.evidence["bytes"] == first.evidence["bytes"]


def test_a_write_another_file_or_time_is_reason_to_look(
    host: Config, looks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = host.layout.live(host.service.databases[0])
    quick(host)
    os.utime(live, ns=(0, live.stat().st_mtime_ns + 1))
    quick(host)
    assert len(looks) == 2
    (copy := live.with_name("copy.db")).write_bytes(live.read_bytes())
    quick(host, copy)
    quick(host)
    assert len(looks) == 4
    monkeypatch.setattr(checked, "FRESH_S", 0.0)
    quick(host)
    assert len(looks) == 5


def test_what_has_a_log_is_read_always(host: Config, looks: list[Path]) -> None:
    live = host.layout.live(host.service.databases[0])
    make(live, "wal")
    connection = apsw.Connection(str(live))
    connection.execute("INSERT INTO trades VALUES (1, 1)").fetchall()
    quick(host)
    quick(host)
    connection.close()
    assert len(looks) == 2


def test_damage_is_never_noted(host: Config, looks: list[Path]) -> None:
    live = host.layout.live(host.service.databases[0])
    live.write_bytes(b"no database at all" * 1000)
    assert [quick(host).verdict for _ in range(2)] == [Verdict.FAIL] * 2 and len(looks) == 2


def test_a_follower_at_rest_is_looked_over_ahead_and_its_promotion_reads_nothing(
    host: Config, looks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = host.service.databases[0]
    write_role(host.layout, "standby", 3)
    follower = host.layout.following(database, 3)
    make(follower)
    replica.txid_file(follower).write_text(replica.format_txid(7))
    data.check_ahead(host)
    assert looks == []  # it was written to a moment ago
    monkeypatch.setattr(data, "AT_REST_S", 0.0)
    data.check_ahead(host)
    assert looks == [follower]
    made = data._bring(host, database, Target(3, {"trades": 7}), {"trades": 7}, time.monotonic() + 60)
    assert made["method"] == "follower"
    assert quick(host, host.layout.staged(database)).verdict is Verdict.PASS and looks == [follower]


def test_who_comes_while_another_one_looks_waits_for_its_answer(host: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(path: Path, *rest: Any, **options: Any) -> Finding:
        assert not begun.is_set(), "read twice"
        begun.set()
        go_on.wait(10)
        return verify_database(path, *rest, **options)

    monkeypatch.setattr("lifeline.checked.verify_database", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(quick, host)
        assert begun.wait(10)
        second = pool.submit(quick, host)
        go_on.set()
        assert (first.result(10).verdict, second.result(10).verdict) == (Verdict.PASS, Verdict.PASS)
