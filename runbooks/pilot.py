"""`lifeline-pilot`, on a host: does what the agent decided, by the same runbooks that an operator would run.

A process of its own: a failover that crashes or hangs takes no agent with it, and the agent's lease, guard and barrier
go on beside it. It decides nothing. While it stands by it says what the cloud says of the other host; then it is told
once what to do. What it may take for granted it is told, and checks again: the lease must still be the very renewal
that the agent watched run out.

On stdin and stdout JSON objects, one a line. In: {"take_over": {"reason", "lease": as watched or null, "quiet_since"}},
or one of hand_over, rejoin, serve_again and power_on with {"reason"}. Out: {"seen": {"power", "uptime"}} while it
stands by; at the end {"done": run id, "seconds"} or {"error", "hint"}. Its exit code is the runbook's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lifeline import data
from lifeline.admission import WAIVE_LAG, WAIVE_SERVING
from lifeline.cloud import sees
from lifeline.errors import BadInput, LifelineError, Refused
from lifeline.layout import Config, Layout, alone, load_config
from lifeline.model import Lease
from lifeline.runbook import Outcome
from runbooks.failover import failover
from runbooks.onhost import site_on
from runbooks.reprotect import power_on, rejoin
from runbooks.serve_again import serve_again
from runbooks.site import Site
from runbooks.switchover import hand_over

AHEAD_S = 0.5
BUSY = "a pilot is at work on this host already"
LOOK_S, PATIENT_AFTER_S, PATIENT_LOOK_S = 1.0, 60.0, 20.0  # the cloud counts the questions of an hour


def main(argv: Sequence[str] | None = None) -> int:
    """Console script."""
    argparse.ArgumentParser(prog="lifeline-pilot", description=__doc__.partition("\n\n")[0]).parse_args(argv)
    layout = Layout()
    try:
        config = load_config(layout)
        with alone(layout.run / "pilot.lock", Refused(BUSY, hint="fab status")):
            order = _stand_by(config)
            outcome = None if order is None else fly(config, order)
    except LifelineError as error:
        _say({"error": error.message, "hint": error.hint})
        return error.exit_code
    if outcome is not None:
        _say({"done": outcome.run_id, "seconds": round(outcome.seconds, 3)})
    return 0


def fly(config: Config, order: Mapping[str, Any]) -> Outcome:
    """Do what was ordered."""
    if (wanted := order.get("take_over")) is not None:
        return take_over(config, _watched(wanted.get("lease")), wanted.get("quiet_since"))
    if (wanted := order.get("hand_over")) is not None:
        with _site(config) as site:
            return hand_over(site, config.name, str(wanted.get("reason") or "told to"))
    if "rejoin" in order:
        with _site(config) as site:
            return rejoin(site, config.name)
    if "serve_again" in order:
        with _site(config) as site:
            return serve_again(site, config.name)
    if "power_on" in order:
        with _site(config) as site:
            return power_on(site, config.name)
    raise BadInput(f"a pilot knows take_over, hand_over, rejoin, serve_again and power_on, not {', '.join(order)}")


def take_over(config: Config, watched: Lease | None, quiet_since: float | None) -> Outcome:
    """Fail over to this host, or go on with a failover to it that didn't end.

    A copy that is behind is waived: the vault has what it lacks, and to wait for a person would take longer. Whether
    the old primary answers isn't asked: its lease is over.
    """
    with _site(config, watched, quiet_since) as site:
        outcome = failover(site, config.name, yes=True, waive=(WAIVE_LAG, WAIVE_SERVING))
    assert outcome is not None  # no dry run
    return outcome


def _site(config: Config, watched: Lease | None = None, quiet_since: float | None = None) -> Site:
    site = site_on(config, watched, quiet_since)
    site.out = sys.stderr  # stdout is the agent's
    return site


def _stand_by(config: Config) -> Mapping[str, Any] | None:
    """Until an order comes; None when nobody is left to give one. The cloud is asked beside: it may be slow."""
    done = threading.Event()
    threading.Thread(target=_look, args=(config, done), daemon=True).start()
    threading.Thread(target=_check_ahead, args=(config, done), daemon=True).start()
    try:
        line = sys.stdin.readline()
    finally:
        done.set()
    if not line.strip():
        return None
    try:
        order = json.loads(line)
    except ValueError:
        order = None
    if not isinstance(order, dict):
        raise BadInput("an order is a JSON object on one line")
    return order


def _look(config: Config, done: threading.Event) -> None:
    other, begun = config.inventory.other(config.name), time.monotonic()
    with site_on(config) as site:
        while True:
            seen: dict[str, Any] = {"power": None, "uptime": None}
            with contextlib.suppress(LifelineError):
                power = site.cloud.power_state(other.droplet_id)
                if power != "absent" or sees(site.cloud, config.inventory.host(config.name)):
                    seen["power"] = power
            if other.uptime_check and not done.is_set():
                with contextlib.suppress(LifelineError):
                    seen["uptime"] = dict(site.cloud.uptime(other.uptime_check))
            if done.is_set():
                return
            _say({"seen": seen})
            if done.wait(LOOK_S if time.monotonic() - begun < PATIENT_AFTER_S else PATIENT_LOOK_S):
                return


def _check_ahead(config: Config, done: threading.Event) -> None:
    """The copy that may have to serve soon, again whenever it has grown: a large one takes seconds to read."""
    while not done.wait(AHEAD_S):
        data.check_ahead(config)


def _say(words: Mapping[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(words), flush=True)


def _watched(document: object) -> Lease | None:
    if document is None:
        return None
    if not isinstance(document, dict):
        raise BadInput("the lease of an order is an object")
    try:
        return Lease.from_json(document, "the lease as watched")
    except LifelineError as error:
        raise BadInput(error.message) from None


if __name__ == "__main__":
    sys.exit(main())
