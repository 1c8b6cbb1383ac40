"""``python -m services.genesis.engine serve`` (on a host: bin/genesis)."""

import sys

from .cli import main

sys.exit(main(sys.argv[1:]))
