"""The commit barrier: RPO 0 for a service that asks for it.

A caller returns when everything it had committed before it called is in the vault. Concurrent callers share one
round trip, with one rule that makes it right: a commit may have missed a sync that was already running, so a caller
waits for a sync that *starts after it arrived*.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lifeline.errors import LifelineError, StepFailed
from lifeline.replica import Listed, Synced, parse_list, parse_sync

RETRY_PAUSE_S = 0.05


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class ControlSocket:
    """Litestream's control socket. Every call has a deadline: with the store down, Litestream itself waits in
    silence."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def sync(self, database: Path, timeout: float) -> Synced:
        """Bring everything committed to `database` into the vault. Raises StepFailed when that isn't proved within
        `timeout` seconds."""
        deadline = time.monotonic() + timeout
        synced = self._synced(database, timeout)
        if 0 < synced.replicated_txid < synced.txid:
            # Its own rhythm took another transaction between the sync and the answer. What was committed before this
            # call is no later than what it named: the next answer proves that, however fast others write.
            again = self._synced(database, max(0.05, deadline - time.monotonic()))
            synced = Synced(synced.txid, again.replicated_txid)
        if not synced.complete:
            raise StepFailed(f"transaction {synced.txid} is not in the vault yet (it holds {synced.replicated_txid})")
        return synced

    def _synced(self, database: Path, timeout: float) -> Synced:
        # Litestream counts whole seconds; ours is the deadline that decides, its own only frees its side.
        request = {"path": str(database), "wait": True, "timeout": max(1, int(timeout + 0.999))}
        return parse_sync(self._call("POST", "/sync", timeout, json.dumps(request).encode()))

    def list(self, timeout: float = 1.0) -> list[Listed]:
        """What Litestream replicates, and when each database last reached the vault."""
        return parse_list(self._call("GET", "/list", timeout))

    def _call(self, method: str, path: str, timeout: float, body: bytes | None = None) -> bytes:
        connection = UnixConnection(self._path, timeout)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            answer = response.read()
        except TimeoutError:
            raise StepFailed(f"the vault did not confirm within {timeout:.1f} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise StepFailed(f"Litestream does not answer: {error}") from None
        finally:
            connection.close()
        if response.status != 200:
            raise StepFailed(f"Litestream refused: {answer.decode(errors='replace').strip()[:300]}")
        return answer


@dataclass
class Stats:
    """Counters for /metrics: what callers got, and how many syncs it took."""

    passed: int = 0
    failed: int = 0
    syncs: int = 0
    seconds: float = 0.0  # spent waiting by callers that passed
    slowest: float = 0.0


@dataclass
class _Group:
    """The syncs of one database, numbered from 1."""

    condition: threading.Condition = field(default_factory=threading.Condition)
    started: int = 0
    finished: int = 0
    outcome: Synced | LifelineError | None = None


class Barrier:
    """Groups callers of `wait` per database.

    `sync(database path, timeout)` does the round trip. `refusal()` says why this host may not acknowledge, or None:
    it is asked before
    *and after* the round trip, because the lease may have ended while the vault answered.
    """

    def __init__(
        self,
        databases: dict[str, Path],
        sync: Callable[[Path, float], Synced],
        refusal: Callable[[], str | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._databases = databases
        self._sync = sync
        self._refusal = refusal
        self._clock = clock
        self._groups = {name: _Group() for name in databases}
        self._stats_lock = threading.Lock()
        self.stats = Stats()

    def wait(self, database: str | None, timeout: float) -> int:
        """Block until all that was committed to `database` (None: the only one) is in the vault; return the
        transaction id.

        Raises StepFailed with the reason when that isn't so within `timeout` seconds: then the commit may or may not
        survive a disaster.
        """
        begun = self._clock()
        try:
            name = self._name(database)
            self._check()
            txid = self._wait(self._groups[name], self._databases[name], begun + timeout)
            self._check()
        except LifelineError:
            self._count(passed=False, seconds=0.0)
            raise
        self._count(passed=True, seconds=self._clock() - begun)
        return txid

    def _name(self, database: str | None) -> str:
        if database is None and len(self._databases) == 1:
            return next(iter(self._databases))
        if database in self._databases:
            return str(database)
        raise StepFailed(f"no database {database!r} here; there are: {', '.join(sorted(self._databases)) or 'none'}")

    def _check(self) -> None:
        reason = self._refusal()
        if reason:
            raise StepFailed(reason)

    def _wait(self, group: _Group, path: Path, deadline: float) -> int:
        """Join the first sync that starts from now on, or lead it; after one that failed, try the next until the
        deadline."""
        with group.condition:
            needed = group.started + 1
        while True:
            outcome = self._join(group, path, needed, deadline)
            if isinstance(outcome, Synced):
                return outcome.txid
            if self._clock() + RETRY_PAUSE_S >= deadline or self._refusal():
                raise outcome
            time.sleep(RETRY_PAUSE_S)  # the pause of a retry: a refused connection answers at once
            needed += 1

    def _join(self, group: _Group, path: Path, needed: int, deadline: float) -> Synced | LifelineError:
        """The outcome of a sync numbered `needed` or later. Leads it when nobody is at it."""
        with group.condition:
            while group.finished < needed and group.started > group.finished:
                left = deadline - self._clock()
                if left <= 0 or not group.condition.wait(left):
                    return StepFailed("the vault did not confirm in time")
            if group.finished >= needed and group.outcome is not None:
                return group.outcome
            group.started += 1
            number = group.started
        outcome: Synced | LifelineError
        try:
            outcome = self._sync(path, max(0.05, deadline - self._clock()))
        except LifelineError as error:
            outcome = error
        except Exception as error:  # whatever happens, those who wait must hear of it
            outcome = StepFailed(f"the sync failed: {error}")
        with group.condition:
            group.finished, group.outcome = number, outcome
            group.condition.notify_all()
        with self._stats_lock:
            self.stats.syncs += 1
        return outcome

    def _count(self, *, passed: bool, seconds: float) -> None:
        with self._stats_lock:
            if passed:
                self.stats.passed += 1
                self.stats.seconds += seconds
                self.stats.slowest = max(self.stats.slowest, seconds)
            else:
                self.stats.failed += 1
