"""``genesis serve | quiesce | resume | reconcile | compare``: the engine's process, and the hooks of service.toml."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import apsw

from . import memory
from .audit import Audit
from .barrier import AgentBarrier, no_barrier
from .breaker import Breaker
from .compare import compare
from .config import BadSetting, Config
from .courier import Courier, compare_beside
from .desk import QUIESCED, STOPPING, Desk
from .model import NotAcknowledged
from .state import note_stop, read_stop, write_state
from .store import Store
from .venue import Venue
from .web import Api, Server

TICK_S = 0.2
STATE_EVERY_S = 1.0
RECONCILE_AGAIN_S = 15.0
DRAIN_S = 6.0
COURIER_S = 2.0
HOOK_WITHIN_S = 30.0
EX_CONFIG = 78


def main(argv: Sequence[str]) -> int:
    """Exit codes: 0 done, 1 not done in time, 2 usage, 78 wrong configuration or role."""
    verbs: dict[str, Callable[[Config], int]] = {
        "serve": serve,
        "quiesce": quiesce,
        "resume": resume,
        "reconcile": await_reconciled,
        "compare": show_comparison,
    }
    if len(argv) != 1 or argv[0] not in verbs:
        print(f"usage: genesis {' | '.join(verbs)}", file=sys.stderr)
        return 2
    try:
        return verbs[argv[0]](Config.load(os.environ))
    except BadSetting as error:
        print(f"genesis: {error}", file=sys.stderr)
        return EX_CONFIG


class Stop(threading.Event):
    """Set once, with the reason."""

    why = ""

    def because(self, why: str) -> None:
        if not self.is_set():
            self.why = why
            self.set()


def serve(config: Config) -> int:
    """Serve until SIGTERM, or until memory runs out: then supervisor begins anew."""
    if config.role != "primary":
        # On a standby the follower writes the database: not even opening it is safe.
        print(f"genesis: LIFELINE_ROLE is {config.role}; it runs on the primary only", file=sys.stderr)
        return EX_CONFIG
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stop.because(signal.Signals(number).name))
    config.database.parent.mkdir(parents=True, exist_ok=True)
    # Under Lifeline Litestream checkpoints, whatever the durability.
    store = Store(config.database, epoch=config.epoch, checkpoints=config.epoch == 0 and config.barrier_socket is None)
    audit = Audit(config.logs, host=config.host, epoch=config.epoch)
    barrier = AgentBarrier(config.barrier_socket, config.barrier_timeout_s) if config.barrier_socket else no_barrier
    venue = _open_venue(config, audit)
    desk = Desk(store, venue, barrier, audit, queue_limit=config.queue_limit)
    courier = Courier(desk, venue, audit, lambda: compare_beside([sys.executable, sys.argv[0], "compare"]))
    _obey_flag(desk, config)
    server = Server(config.listen, Api(desk, venue, courier, config))
    threading.Thread(target=server.serve_forever, args=(TICK_S,), name="http", daemon=True).start()
    audit("started", role=config.role, after=read_stop(config.state))
    threading.Thread(target=_keep_reconciled, args=(desk, audit, stop), name="reconcile", daemon=True).start()
    delivering = threading.Thread(target=courier.run, args=(stop,), name="courier", daemon=True)
    delivering.start()
    _keep_house(desk, config, audit, stop)
    desk.gate.close(STOPPING)
    drained = desk.gate.wait_empty(DRAIN_S)
    server.shutdown()
    delivering.join(COURIER_S)
    write_state(store, config.state)
    note_stop(config.state, stop.why)
    audit("stopped", reason=stop.why, drained=drained)
    print(f"genesis: stopped: {stop.why}", file=sys.stderr, flush=True)
    if drained and not delivering.is_alive():
        store.close()
    return 0


def _open_venue(config: Config, audit: Audit) -> Venue:
    def changed(name: str, breaker: Breaker) -> None:
        audit(f"exchange circuit {breaker.state}", exchange=name, reason=breaker.why or None)

    return Venue(config.exchanges, config.exchange_timeout_s, changed=changed)


def _keep_reconciled(desk: Desk, audit: Audit, stop: threading.Event) -> None:
    """Until it was through once, orders are refused, or queued where the exchange is away; after that, now and then,
    for answers that got lost."""
    pause, said = 0.0, ""
    while not stop.wait(pause):
        try:
            desk.reconcile()
            pause, said = RECONCILE_AGAIN_S, ""
        except NotAcknowledged as error:
            if str(error) != said:
                audit("reconciliation failed", reason=str(error))
            pause, said = TICK_S, str(error)
        except Exception as error:
            audit("reconciliation failed", reason=repr(error))
            pause = 1.0


def _keep_house(desk: Desk, config: Config, audit: Audit, stop: Stop) -> None:
    """Until it is time to stop: memory and the quiesce flag every tick, an operator waits for it; state files once a
    second."""
    written = float("-inf")
    used = memory.read(config.memory_limit)
    watched = used.share < memory.LIMIT_SHARE
    if not watched:  # it would stop as soon as it has begun, again and again
        audit("memory is not watched", reason=f"the start alone takes {used}")
    while not stop.wait(TICK_S):
        _obey_flag(desk, config)
        if watched and (used := memory.read(config.memory_limit)).share >= memory.LIMIT_SHARE:
            stop.because(f"memory: {used}")
        if time.monotonic() - written >= STATE_EVERY_S:
            written = time.monotonic()
            try:
                write_state(desk.store, config.state)
            except Exception as error:  # a full disk must not end the service: health says so
                print(f"genesis: state files: {error!r}", file=sys.stderr, flush=True)


# -- hooks: other processes on the same host, run as the same user


def _obey_flag(desk: Desk, config: Config) -> None:
    if _flagged(config):
        desk.gate.close(QUIESCED)
    else:
        desk.gate.open(QUIESCED)


def _flagged(config: Config) -> bool:
    """Quiesced in this epoch? A flag left over from before a promotion means nothing."""
    try:
        return (config.state / "quiesced").read_text(encoding="utf-8").strip() == str(config.epoch)
    except FileNotFoundError:
        return False


def quiesce(config: Config) -> int:
    """Take no more orders, and wait until those begun are done."""
    config.state.mkdir(parents=True, exist_ok=True)
    (config.state / "quiesced").write_text(f"{config.epoch}\n", encoding="utf-8")
    return _await(config, lambda health: QUIESCED in health["closed_for"] and health["in_flight"] == 0, "still at work")


def resume(config: Config) -> int:
    """Take orders again."""
    (config.state / "quiesced").unlink(missing_ok=True)
    return _await(config, lambda health: QUIESCED not in health["closed_for"], "still quiesced")


def await_reconciled(config: Config) -> int:
    """Wait until the engine has agreed with the exchange on every order that was in flight."""
    return _await(config, lambda health: bool(health["accepting"]), "not taking orders")


def show_comparison(config: Config) -> int:
    """Our books against the exchange's, as JSON; changes nothing. 1: it can't be told."""
    try:
        venue = Venue(config.exchanges, config.exchange_timeout_s)
        # By then the engine has had its answer, or has asked again for what got lost.
        print(json.dumps(compare(config.database, venue, RECONCILE_AGAIN_S + 2 * config.exchange_timeout_s)))
    except (NotAcknowledged, apsw.Error) as error:
        print(f"genesis: not compared: {error}", file=sys.stderr)
        return 1
    return 0


def _await(config: Config, reached: Callable[[dict[str, Any]], bool], otherwise: str) -> int:
    deadline, last = time.monotonic() + HOOK_WITHIN_S, "no answer from the engine"
    while time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", config.listen[1], timeout=2)
            connection.request("GET", "/health")
            health = json.loads(connection.getresponse().read())
            connection.close()
            if reached(health):
                print(json.dumps(health))
                return 0
            last = f"{otherwise}: {json.dumps(health)}"
        except (OSError, ValueError, http.client.HTTPException) as error:
            last = f"no answer from the engine: {error!r}"
        time.sleep(TICK_S)
    print(f"genesis: {last}", file=sys.stderr)
    return 1
