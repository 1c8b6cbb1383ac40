"""``python -m services.genesis.exchange --listen 198.18.100.10:8080 --data FILE``"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from services.genesis.exchange.book import Book
from services.genesis.exchange.server import Exchange


def main(argv: list[str]) -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="exchange", description="The exchange that Genesis trades on.")
    parser.add_argument("--listen", default="127.0.0.1:8090", help="ADDRESS:PORT")
    parser.add_argument("--data", type=Path, required=True, help="the SQLite file of its truth")
    args = parser.parse_args(argv)
    host, _, port = args.listen.rpartition(":")
    book = Book(args.data)
    server = Exchange((host, int(port)), book)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True).start()
    print(f"exchange: listening on {args.listen}", flush=True)
    stop.wait()
    server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
