"""The barrier's one rule: a caller waits for a sync that starts after it arrived."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lifeline.barrier import Barrier, ControlSocket
from lifeline.errors import StepFailed
from lifeline.replica import Synced

PATH = Path("/data/trades.db")
WITHIN_S = 5.0


class Vault:
    """A sync that takes a snapshot of what is committed when it *starts*, and ends when it is let go."""

    def __init__(self) -> None:
        self.committed = 0
        self.safe = 0
        self.started = 0
        self.failures: list[str] = []
        self.changed = threading.Condition()
        self.gate: threading.Semaphore | None = None

    def sync(self, path: Path, timeout: float) -> Synced:
        assert path == PATH
        with self.changed:
            self.started += 1
            seen = self.committed
            self.changed.notify_all()
        if self.gate is not None:
            assert self.gate.acquire(timeout=WITHIN_S)
        with self.changed:
            if self.failures:
                raise StepFailed(self.failures.pop(0))
            self.safe = max(self.safe, seen)
        return Synced(seen, seen)

    def until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, WITHIN_S)


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run `work`, keep what it returned or raised."""
    kept: list[object] = []

    def run() -> None:
        try:
            kept.append(work())
        except StepFailed as error:
            kept.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, kept


def test_a_caller_that_arrives_during_a_sync_waits_for_the_next_one() -> None:
    vault = Vault()
    vault.gate = threading.Semaphore(0)
    barrier = Barrier({"trades": PATH}, vault.sync, lambda: None)
    vault.committed = 1
    first, _ = in_thread(lambda: barrier.wait("trades", WITHIN_S))
    vault.until(lambda: vault.started == 1)
    vault.committed = 2  # the running sync doesn't have it
    second, result = in_thread(lambda: barrier.wait("trades", WITHIN_S))
    vault.gate.release()
    first.join(WITHIN_S)
    vault.until(lambda: vault.started == 2)
    assert second.is_alive() and vault.safe == 1
    vault.gate.release()
    second.join(WITHIN_S)
    assert result == [2] and vault.safe == 2


def test_callers_that_wait_together_share_one_sync() -> None:
    vault = Vault()
    vault.gate = threading.Semaphore(0)
    barrier = Barrier({"trades": PATH}, vault.sync, lambda: None)
    leader, _ = in_thread(lambda: barrier.wait("trades", WITHIN_S))
    vault.until(lambda: vault.started == 1)
    arrived = threading.Barrier(11)

    def call() -> int:
        arrived.wait(WITHIN_S)
        return barrier.wait("trades", WITHIN_S)

    callers = [in_thread(call) for _ in range(10)]
    arrived.wait(WITHIN_S)
    wait_until(lambda: waiting(barrier) == 10)
    vault.gate.release(100)
    for thread, _ in [(leader, None), *callers]:
        thread.join(WITHIN_S)
    assert vault.started == 2
    assert all(isinstance(kept[0], int) for _, kept in callers)


def waiting(barrier: Barrier) -> int:
    group = barrier._groups["trades"]
    with group.condition:
        return len(group.condition._waiters)  # type: ignore[attr-defined]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_failed_sync_is_tried_again_within_the_deadline() -> None:
    vault = Vault()
    vault.failures = ["blip"]
    barrier = Barrier({"trades": PATH}, vault.sync, lambda: None)
    vault.committed = 7
    assert barrier.wait("trades", WITHIN_S) == 7
    assert vault.started == 2


def test_a_sync_that_goes_on_failing_is_told_with_its_reason() -> None:
    vault = Vault()
    vault.failures = ["the vault is down"] * 1000
    barrier = Barrier({"trades": PATH}, vault.sync, lambda: None)
    with pytest.raises(StepFailed, match="the vault is down"):
        barrier.wait("trades", 0.2)
    assert barrier.stats.failed == 1 and barrier.stats.passed == 0


def test_a_caller_behind_a_sync_that_hangs_keeps_its_own_deadline() -> None:
    vault = Vault()
    vault.gate = threading.Semaphore(0)
    barrier = Barrier({"trades": PATH}, vault.sync, lambda: None)
    in_thread(lambda: barrier.wait("trades", WITHIN_S))
    vault.until(lambda: vault.started == 1)
    begun = time.monotonic()
    with pytest.raises(StepFailed):
        barrier.wait("trades", 0.2)
    assert time.monotonic() - begun < WITHIN_S / 2  # else it would be the leader's
    vault.gate.release(10)


def test_a_host_that_may_not_serve_acknowledges_nothing() -> None:
    vault = Vault()
    barrier = Barrier({"trades": PATH}, vault.sync, lambda: "the lease is somebody else's")
    with pytest.raises(StepFailed, match="somebody else's"):
        barrier.wait("trades", WITHIN_S)
    assert vault.started == 0


def test_a_lease_that_ends_while_the_vault_answers_is_noticed() -> None:
    reasons: list[str | None] = [None]
    vault = Vault()

    def sync(path: Path, timeout: float) -> Synced:
        reasons[0] = "the lease ended"
        return vault.sync(path, timeout)

    barrier = Barrier({"trades": PATH}, sync, lambda: reasons[0])
    with pytest.raises(StepFailed, match="the lease ended"):
        barrier.wait("trades", WITHIN_S)


@pytest.mark.parametrize(("asked", "ok"), [(None, True), ("trades", True), ("orders", False)])
def test_the_only_database_needs_no_name(asked: str | None, ok: bool) -> None:
    barrier = Barrier({"trades": PATH}, Vault().sync, lambda: None)
    if ok:
        barrier.wait(asked, WITHIN_S)
    else:
        with pytest.raises(StepFailed, match="orders"):
            barrier.wait(asked, WITHIN_S)


def test_with_two_databases_a_name_is_needed() -> None:
    barrier = Barrier({"a": PATH, "b": PATH}, Vault().sync, lambda: None)
    with pytest.raises(StepFailed, match="a, b"):
        barrier.wait(None, WITHIN_S)


def test_any_exception_of_a_sync_reaches_those_who_wait() -> None:
    def sync(path: Path, timeout: float) -> Synced:
        raise ValueError("not JSON")

    with pytest.raises(StepFailed, match="not JSON"):
        Barrier({"trades": PATH}, sync, lambda: None).wait("trades", 0.2)


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([(48, 48)], 48),
        ([(49, 48), (53, 51)], 49),  # others write all the time: what was committed before is in
        ([(49, 48), (53, 48)], "transaction 49 is not in the vault yet"),
        ([(49, 0)], "transaction 49 is not in the vault yet"),  # a replica that lost its place
    ],
)
def test_an_answer_that_others_writes_outran_is_proved_by_the_next(
    tmp_path: Path, answers: list[tuple[int, int]], says: int | str
) -> None:
    left = list(answers)

    class Litestream(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(dict(zip(("txid", "replicated_txid"), left.pop(0), strict=True))).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

    path = tmp_path / "litestream.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Litestream) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            if isinstance(says, int):
                assert ControlSocket(path).sync(PATH, 5).txid == says
            else:
                with pytest.raises(StepFailed, match=says):
                    ControlSocket(path).sync(PATH, 5)
        finally:
            server.shutdown()
    assert not left
