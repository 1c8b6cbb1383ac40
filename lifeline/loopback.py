"""What this host's service answers over HTTP.

No proxies, no TLS: an opener of urllib reads every certificate of the system, 2 MB and some milliseconds a question.
"""

from __future__ import annotations

import http.client
from contextlib import closing

MOST = 4 << 20


def ask(port: int, path: str, timeout: float) -> tuple[int, bytes]:
    """The status and up to 4 MB of the body of ``GET path``; ``timeout`` in seconds, for each wait. A redirect isn't
    followed. Raises OSError (TimeoutError, ConnectionRefusedError) or http.client.HTTPException."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(MOST)


def why_not(port: int, path: str, timeout: float = 2.0) -> str:
    """Empty when it answers 200, else why it doesn't."""
    try:
        status, _ = ask(port, path, timeout)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    return "" if status == 200 else f"HTTP {status}"
