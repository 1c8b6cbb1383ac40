"""``python -m services.genesis.exchange --listen 198.18.100.10:8080 --listen 198.18.100.11:8080 --data FILE``

One book, behind as many gateways as it listens at; each misbehaves by itself.
"""

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
    parser.add_argument("--listen", action="append", required=True, help="ADDRESS:PORT of a gateway; may be repeated")
    parser.add_argument("--data", type=Path, required=True, help="the SQLite file of its truth")
    args = parser.parse_args(argv)
    book = Book(args.data)
    gateways = [Exchange(_address(listen), book) for listen in args.listen]
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    for gateway in gateways:
        threading.Thread(target=gateway.serve_forever, args=(0.2,), daemon=True).start()
    print(f"exchange: listening on {', '.join(args.listen)}", flush=True)
    stop.wait()
    for gateway in gateways:
        gateway.shutdown()
    return 0


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
