"""`lifeline-pilot`, on a host: does what the agent decided, by the same runbook that an operator would run.

A process of its own: a failover that crashes or hangs takes no agent with it, and the agent's lease, guard and
barrier go on beside it. It decides nothing. What it may take for granted it is told, and checks again: the lease must
still be the very renewal that the agent watched run out.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lifeline.errors import BadInput, LifelineError, Refused
from lifeline.layout import Config, Layout, load_config
from lifeline.model import Lease
from lifeline.runbook import Outcome
from runbooks.failover import failover
from runbooks.onhost import site_on


def main(argv: Sequence[str] | None = None) -> int:
    """Console script. The exit code is that of the runbook; the last line of stdout is JSON: {"outcome" or "error"}."""
    arguments = _parser().parse_args(argv)
    layout = Layout()
    try:
        config = load_config(layout)
        with _alone(layout.run / "pilot.lock"):
            outcome = take_over(config, _watched(arguments.watched), arguments.quiet_since)
    except LifelineError as error:
        print(json.dumps({"error": error.message, "hint": error.hint}), flush=True)
        return error.exit_code
    print(json.dumps({"outcome": "done", "seconds": round(outcome.seconds, 3)}), flush=True)
    return 0


def take_over(config: Config, watched: Lease | None, quiet_since: float | None) -> Outcome:
    """Fail over to this host, or go on with a failover to it that didn't end."""
    with site_on(config, watched, quiet_since) as site:
        outcome = failover(site, config.name, yes=True)
    assert outcome is not None  # no dry run
    return outcome


def _watched(text: str | None) -> Lease | None:
    if text is None:
        return None
    try:
        return Lease.from_json(text, "--watched")
    except LifelineError as error:
        raise BadInput(error.message) from None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One pilot at a time on this host."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("a pilot is at work on this host already", hint="fab status") from None
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lifeline-pilot", description="Make this host the primary, by the failover runbook. The agent calls it."
    )
    parser.add_argument("--watched", help="the lease that ran out, as JSON; without: only go on with our own failover")
    parser.add_argument("--quiet-since", type=float, help="when its last renewal was seen, seconds of CLOCK_BOOTTIME")
    return parser


if __name__ == "__main__":
    sys.exit(main())
