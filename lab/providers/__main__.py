"""`python -m lab.providers [--port-file FILE] [PACKAGE …]`: serve until SIGTERM or SIGINT.

What is printed, and written to FILE when everything listens, is the value for PULUMI_DEBUG_PROVIDERS. Endpoints and
credentials are those of this process's environment (`fab lab.env`) unless the stack's configuration names others.
"""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from lab.providers.server import STAND_INS, ports_of, serve, write_whole


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m lab.providers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port-file", type=Path, help="written when everything listens")
    parser.add_argument(
        "packages", nargs="*", default=None, metavar="PACKAGE", help=f"of: {', '.join(STAND_INS)} (all)"
    )
    options = parser.parse_args()
    packages = options.packages or list(STAND_INS)
    unknown = sorted(set(packages) - set(STAND_INS))
    if unknown:
        parser.error(f"no stand-in for {', '.join(unknown)}; there are: {', '.join(STAND_INS)}")

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # The ports of a predecessor that died: shells that were told of them go on working.
    kept = options.port_file.read_text() if options.port_file and options.port_file.exists() else ""
    running = serve(packages, ports_of(kept))
    print(running.attach, flush=True)
    if options.port_file:
        write_whole(options.port_file, running.attach + "\n")
    stop.wait()
    running.stop()


if __name__ == "__main__":
    main()
