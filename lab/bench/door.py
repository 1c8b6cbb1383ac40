"""The agent's own barrier and its door, in a process of their own, as on a host; of the lease it says that it holds.

python -m lab.bench.door FOLDER NAME DATABASE LITESTREAM-SOCKET      (SIGTERM ends it)
"""

from __future__ import annotations

import os
import pwd
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lifeline import agent_http
from lifeline.barrier import Barrier, ControlSocket
from lifeline.layout import Layout


def main(argv: Sequence[str]) -> int:
    folder, name, database, litestream = argv
    # Root's socket goes to the service's user: here that is us.
    user = pwd.getpwuid(os.geteuid()).pw_name
    agent: Any = SimpleNamespace(
        layout=Layout(Path(folder)),
        config=SimpleNamespace(service=SimpleNamespace(user=user)),
        barrier=Barrier({name: Path(database)}, ControlSocket(Path(litestream)).sync, lambda: None),
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with agent_http.serve(agent, 0):
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
