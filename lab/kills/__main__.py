"""python -m lab.kills --kills 200 [--seed N] [--folder DIR] [--page docs/kills.md]

Exit code 0 when every kill passed, 8 when one didn't; then its files are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.environment import describe
from lab.kills.campaign import run
from lab.kills.plan import draw
from lab.kills.verdict import Record, page, summary
from lifeline.errors import DataBad

ROOT = Path(__file__).resolve().parents[2]


def say(text: str) -> None:
    print(text, flush=True)


def environment() -> dict[str, Any]:
    """The machine and the versions, in words."""
    found = describe(ROOT, "none")
    versions = found["versions"]
    load = os.getloadavg()[0]
    return {
        "when": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": versions["commit"],
        "machine": f"{found['cpus']} CPUs ({platform.machine()}), {found['memory_gib']} GiB, Linux {found['kernel']}, "
        f"load {load:.1f} at the end; Litestream {versions['litestream']}, SQLite by apsw {versions['apsw']}, "
        f"SeaweedFS {versions['seaweedfs']}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="kills", description="Kill at random moments, restore, compare.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, help="the same kills again; drawn, and told, where none is given")
    parser.add_argument("--folder", type=Path, help="a new folder for what happens; short, as it holds sockets")
    parser.add_argument("--page", type=Path, help="write the results there")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if args.seed is None else args.seed
    folder = args.folder or Path(tempfile.mkdtemp(prefix="ll-kills-"))
    say(f"{args.kills} kills, seed {seed}, in {folder}")
    begun = time.monotonic()

    def tell(record: Record) -> None:
        say(f"{time.monotonic() - begun:6.1f} s {record.line()}")

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended with us
    with (folder / "restores.log").open("w") as log, contextlib.redirect_stderr(log):
        records = run(draw(args.kills, seed), folder, tell)
    for sentence in summary(records):
        say(sentence)
    if args.page:
        text = page(records, seed=seed, seconds=time.monotonic() - begun, environment=environment())
        args.page.write_text(text)
    if all(record.passed for record in records):
        shutil.rmtree(folder)
        return 0
    say(f"what happened is kept in {folder}")
    return DataBad.exit_code


if __name__ == "__main__":
    sys.exit(main())
