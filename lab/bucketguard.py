"""What nginx can't do for a store's front (lab/front.py).

Is this bucket empty? Asked before a bucket is deleted. And what has to do with its tags (lab/buckettags.py).
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import quote

from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.wrappers import Request, Response

from lab import buckettags
from lab.front import GUARD_PORT, STORE_HEADER
from lab.identities import signed_get
from lab.objectstore import INSIDE, StoreSpec

log = logging.getLogger("lab.bucketguard")

_HOLDS = re.compile(rb"<(Version|DeleteMarker)>")


def holds_something(store: StoreSpec, bucket: str) -> bool:
    """Is there any version, delete marker or object in the bucket? A bucket that isn't there holds nothing.

    OSError when it can't be known.
    """
    status, body = signed_get(store.inside_endpoint, f"/{quote(bucket)}", "max-keys=1&versions=", store.admin)
    if status not in (200, 404):
        raise OSError(f"{store.name} answers {status} to a listing of {bucket}")
    return status == 200 and _HOLDS.search(body) is not None


def application(stores: Sequence[StoreSpec]) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    """GET /STORE/BUCKET: 204 it may be deleted, 403 it may not, 500 not known (nginx's auth_request).

    A request that names its store in a header is a client's own, to be answered in the store's place.
    """
    by_name = {store.name: store for store in stores}

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        if named := request.headers.get(STORE_HEADER):
            return buckettags.respond(by_name[named], request)(environ, start_response)
        _, store, bucket = [*request.path.split("/", 2), "", ""][:3]
        try:
            status = 403 if holds_something(by_name[store], bucket) else 204
        except (OSError, KeyError) as error:
            log.warning("can't tell whether %s/%s is empty: %s", store, bucket, error)
            status = 500
        return Response(status=status)(environ, start_response)

    return answer


def start(stores: Sequence[StoreSpec], address: str = INSIDE, port: int = GUARD_PORT) -> BaseWSGIServer:
    """Serve in a thread; ``shutdown`` ends it."""
    listener = make_server(address, port, application(stores), threaded=True)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    return listener
