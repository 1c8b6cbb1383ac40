"""What a primary sees of its own service: real scrapes over HTTP, real logs, a real damaged database; and the standby's
second opinion of it."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from lifeline import host
from lifeline.layout import Config
from lifeline.opinion import AGAIN_S, Opinion
from lifeline.proc import Done
from lifeline.symptoms import Symptoms, Tail
from tests.unit.hostkit import SERVICE, FakeSupervisor, config

TRIGGERS = """
[paths]
logs = ["/var/log/genesis"]
[metrics]
path = "/metrics"
[[triggers]]
name = "failed trades"
metric = "failed_total"
increase = 3
within_s = 600
"""


class Verbs:
    """Verbs of the host, run when the test says so; what they answer is what the real ones print."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.result: Done | None = None
        self.stopped = 0

    def __call__(self, _: Config, *words: str) -> Verbs:
        self.asked.append(words)
        return self

    def done(self) -> Done | None:
        return self.result

    def stop(self) -> None:
        self.stopped += 1


def answered(code: int, **answer: Any) -> Done:
    return Done(("lifeline-host",), code, json.dumps(answer), "")


@contextmanager
def service(port_of: dict[str, Any]) -> Iterator[int]:
    """A service with figures: `port_of["failed"]` trades have failed; None: /metrics is out of order."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            failed = port_of["failed"]
            body = b"ok" if self.path == "/health" else b"{{{" if failed is None else f"failed_total {failed}".encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


class Primary:
    """A primary whose clock the test moves."""

    def __init__(self, root: Path, port: int = 8080) -> None:
        self.clock, self.verbs = 1000.0, Verbs()
        self.config = config(root, service=SERVICE.replace("8080", str(port)) + TRIGGERS)
        self.log = root / "var/log/genesis/audit.jsonl"
        self.log.parent.mkdir(parents=True)
        self.log.write_text("database disk image is malformed: long ago\n")
        supervisor: Any = FakeSupervisor
        self.symptoms = Symptoms(self.config, supervisor, lambda: self.clock, self.verbs)
        self.symptoms.look()

    def look(self, seconds: float = 5.0) -> None:
        self.clock += seconds
        self.symptoms.look()


def test_three_failed_trades_in_ten_minutes_are_trouble_until_the_window_is_over(tmp_path: Path) -> None:
    figures: dict[str, Any] = {"failed": 7}  # of before
    with service(figures) as port:
        primary = Primary(tmp_path, port)
        figures["failed"] = 9
        primary.look()
        assert primary.symptoms.trouble() == ""
        figures["failed"] = 10
        primary.look()
        assert "failed trades: failed_total rose by 3 in the last 600 s" in primary.symptoms.trouble()
        for _ in range(61):
            primary.look(10)
        assert primary.symptoms.trouble() == ""


def test_figures_that_cant_be_read_are_not_known_and_no_trouble(tmp_path: Path) -> None:
    figures: dict[str, Any] = {"failed": None}
    with service(figures) as port:
        primary = Primary(tmp_path, port)
        primary.look(60)
        assert primary.symptoms.trouble() == ""
        (trigger,) = primary.symptoms.to_json()["triggers"]
        assert trigger["fired"] is None and "not known" in trigger["says"]


def test_a_new_role_forgets_what_was_seen_and_ends_the_check(tmp_path: Path) -> None:
    figures: dict[str, Any] = {"failed": 0}
    with service(figures) as port:
        primary = Primary(tmp_path, port)
        figures["failed"] = 9
        primary.look(3600)
        primary.look()
        assert primary.verbs.asked == [("verify",)]
        primary.symptoms.forget()
        assert primary.symptoms.trouble() == "" and primary.verbs.stopped == 1


def test_what_a_log_says_is_looked_into_at_once_and_proves_nothing(tmp_path: Path) -> None:
    primary = Primary(tmp_path)
    primary.look()
    assert not primary.verbs.asked  # what stood there before is about the past
    with primary.log.open("a") as log:
        log.write('{"reason": "CorruptError: database disk image is malformed"}\n')
    primary.look()
    assert primary.verbs.asked == [("verify",)] and primary.symptoms.damage() is None
    primary.verbs.result = answered(0, verdict="PASS")
    primary.look()
    assert primary.symptoms.damage() is None
    assert primary.symptoms.to_json()["data"]["verdict"] == "PASS"
    primary.look(600)
    assert len(primary.verbs.asked) == 1


def test_damage_that_a_check_saw_is_damage_until_one_passes(tmp_path: Path) -> None:
    primary = Primary(tmp_path)
    primary.look(3600)
    primary.verbs.result = answered(8, error="primary-newyork: quick_check found damage", verdict="FAIL")
    primary.look()
    found = primary.symptoms.damage()
    assert found is not None and "found damage" in found.says
    primary.look(60)
    primary.verbs.result = answered(1, error="a defect")
    primary.look()
    assert primary.symptoms.damage() == found
    primary.look(60)
    primary.verbs.result = answered(0, verdict="PASS")
    primary.look()
    assert primary.symptoms.damage() is None


def test_the_verb_that_is_asked_finds_a_torn_page_of_a_live_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the check stands on, for real: a database in WAL mode that a service has open, one page overwritten."""
    found = config(tmp_path)
    live = found.layout.live(found.service.databases[0])
    monkeypatch.setattr(host, "Layout", lambda: found.layout)
    monkeypatch.setattr(host, "load_config", lambda _: found)
    writer = sqlite3.connect(live, isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
    writer.executemany("INSERT INTO t (text) VALUES (?)", [("x" * 500,)] * 200)
    assert host.main(["verify"]) == 0
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with live.open("r+b") as file:
        file.seek(4096 * 5)
        file.write(os.urandom(4096))
    capsys.readouterr()
    assert host.main(["verify"]) == 8
    assert json.loads(capsys.readouterr().out)["verdict"] == "FAIL"
    writer.close()


def test_a_log_is_read_on_behind_a_rotation_and_a_link_is_not_followed(tmp_path: Path) -> None:
    log, aside, link = tmp_path / "a.log", tmp_path / "a.log-1", tmp_path / "link"
    log.write_text("old: sqlite_corrupt\n")
    tail = Tail()
    assert tail.sign(iter([log])) == ""
    log.rename(aside)
    log.write_text("new: SQLITE_NOTADB\n")
    assert tail.sign(iter([log])) == '"sqlite_notadb" in a.log'
    assert tail.sign(iter([log])) == ""
    log.write_text("")
    link.symlink_to(aside)
    assert tail.sign(iter([log, link, tmp_path / "none"])) == ""


# -- the standby's second opinion


def test_the_standby_restores_the_vaults_copy_beside_when_it_is_asked_and_says_what_it_found(tmp_path: Path) -> None:
    clock, verbs = [0.0], Verbs()
    opinion = Opinion(config(tmp_path, "backup-singapore"), lambda: clock[0], verbs)
    well: dict[str, Any] = {"epoch": 4, "damage": None}
    asks = {"epoch": 4, "damage": {"id": "a", "says": "page 7"}}
    for peer in (None, well, {**asks, "epoch": 3}):
        opinion.look(peer, 4)
    assert not verbs.asked
    opinion.look(asks, 4)
    opinion.look(None, 4)  # it dies meanwhile: the work goes on
    folder = str(tmp_path / "var/lib/lifeline/opinion")
    assert verbs.asked == [("restore", "--epoch", "4", "--from", "vault", "--to", folder)]
    verbs.result = answered(6, error="the vault is away")
    opinion.look(asks, 4)
    assert opinion.answer == {"id": "a", "verdict": "UNKNOWN", "says": "the vault is away"}
    opinion.look(asks, 4)
    assert len(verbs.asked) == 1
    clock[0] += AGAIN_S
    opinion.look(asks, 4)
    verbs.result = answered(0, verified=True)
    opinion.look(asks, 4)
    assert opinion.answer is not None and opinion.answer["verdict"] == "PASS" and len(verbs.asked) == 2
    clock[0] += 1e6
    opinion.look(asks, 4)
    assert len(verbs.asked) == 2
    opinion.look({**asks, "damage": {"id": "b", "says": "page 8"}}, 4)
    assert len(verbs.asked) == 3
    opinion.forget()
    assert opinion.answer is None and verbs.stopped == 1


def test_a_copy_that_fails_its_verification_is_damaged(tmp_path: Path) -> None:
    verbs = Verbs()
    opinion = Opinion(config(tmp_path, "backup-singapore"), lambda: 0.0, verbs)
    asks = {"epoch": 4, "damage": {"id": "a", "says": "page 7"}}
    opinion.look(asks, 4)
    verbs.result = answered(8, error="the vault: trades.db: quick_check found damage")
    opinion.look(asks, 4)
    assert opinion.answer is not None and opinion.answer["verdict"] == "FAIL"
