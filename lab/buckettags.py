"""Bucket tags as AWS's newer clients handle them, on a store that only knows the old way (``?tagging``).

| call | SeaweedFS | here |
|---|---|---|
| CreateBucket with ``Tags`` in its body | leaves them out, silently | sets them on the new bucket |
| S3 Control's ListTagsForResource, TagResource, UntagResource | none | the bucket's tags |

Terraform's AWS provider (from 6.23 on), and so Pulumi's, reads and writes the tags of buckets by these calls alone.
The store's front sends them here (lab/front.py), in the process of ``lab.bucketguard``.
"""

from __future__ import annotations

import http.client
import logging
import re
from collections.abc import Mapping
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from werkzeug.wrappers import Request, Response

from lab.front import CONTROL_PATH, STORE_HEADER
from lab.identities import signed_call
from lab.objectstore import StoreSpec
from lab.sigv4 import BadSignature, signer, verify

log = logging.getLogger("lab.buckettags")

_TAGS_OF_BUCKET = re.compile(r"^/v20180820/tags/arn:aws:s3:::(?P<bucket>[a-z0-9][a-z0-9.-]+)$")
_CONTROL = "http://awss3control.amazonaws.com/doc/2018-08-20/"
_MAX_BODY = 1 << 16
_TIMEOUT_S = 30.0
_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", STORE_HEADER.lower()}


def respond(store: StoreSpec, request: Request) -> Response:
    """The answer to a CreateBucket, or to a call of S3 Control."""
    body = request.get_data()
    if len(body) > _MAX_BODY:
        return _error(400, "MalformedXML", "The XML you provided is too large")
    handle = _control if request.path.startswith(CONTROL_PATH) else _create
    try:
        return handle(store, request, body)
    except ElementTree.ParseError:
        return _error(400, "MalformedXML", "The XML you provided was not well-formed")
    except (OSError, http.client.HTTPException) as error:
        log.warning("%s %s of %s: %s", request.method, request.path, store.name, error)
        return _error(503, "ServiceUnavailable", "The service is unavailable. Please retry.")


def tags_in(document: bytes) -> dict[str, str]:
    """Every ``Tag`` of an XML document, whatever it is wrapped in; ``ElementTree.ParseError`` when it isn't XML."""
    if not document.strip():
        return {}
    tags = ElementTree.fromstring(document).iter()
    return {
        tag.findtext("{*}Key") or "": tag.findtext("{*}Value") or ""
        for tag in tags
        if tag.tag.rpartition("}")[2] == "Tag"
    }


# --- a bucket that is made with tags ----------------------------------------------------------------------------------


def _create(store: StoreSpec, request: Request, body: bytes) -> Response:
    response = _pass_on(store, request, body)
    if response.status_code != 200 or not (tags := tags_in(body)):
        return response
    bucket = request.path.strip("/")
    status, refusal = _write(store, bucket, tags)
    if status < 300:
        return response
    signed_call(store.inside_endpoint, "DELETE", f"/{quote(bucket)}", "", store.admin)  # with its tags, or not at all
    return Response(refusal, status, content_type="application/xml")


def _pass_on(store: StoreSpec, request: Request, body: bytes) -> Response:
    """The request as it came, to the store, which checks its signature; and the store's answer."""
    where = urlsplit(store.inside_endpoint)
    connection = http.client.HTTPConnection(where.hostname or "", where.port or 80, timeout=_TIMEOUT_S)
    try:
        connection.putrequest(request.method, request.environ["RAW_URI"], skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            if name.lower() not in _OF_THE_CONNECTION:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    headers = {
        name: value for name, value in answer.getheaders() if name.lower() in ("location", "x-amz-request-id", "etag")
    }
    return Response(content, answer.status, headers, content_type=answer.getheader("Content-Type"))


# --- S3 Control -------------------------------------------------------------------------------------------------------


def _control(store: StoreSpec, request: Request, body: bytes) -> Response:
    refused = _unauthorized(store, request, body)
    if refused:
        return refused
    named = _TAGS_OF_BUCKET.match(request.path)
    tags = _read(store, named["bucket"]) if named else None
    if named is None or tags is None:
        return _error(404, "NoSuchResource", "The specified resource doesn't exist.")
    if request.method == "GET":
        listed = f'<ListTagsForResourceResult xmlns="{_CONTROL}">{_xml("Tags", tags)}</ListTagsForResourceResult>'
        return Response(listed, 200, content_type="application/xml")
    if request.method == "POST":
        wanted = {**tags, **tags_in(body)}
    elif request.method == "DELETE":
        gone = request.args.getlist("tagKeys")
        wanted = {key: value for key, value in tags.items() if key not in gone}
    else:
        return _error(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
    status, refusal = _write(store, named["bucket"], wanted)
    if status < 300:
        return Response(status=204)
    return _error(status, "InvalidTag", refusal.decode(errors="replace"))


def _unauthorized(store: StoreSpec, request: Request, body: bytes) -> Response | None:
    """The refusal of a caller who isn't the operator: no one else has a right to tags."""
    claim = signer(request.headers.get("Authorization", ""))
    if claim is None or claim.service != "s3" or claim.access_key != store.admin.access_key:
        return _error(403, "AccessDenied", f"The caller is not authorized to perform: s3:{request.method} of tags")
    try:
        verify(request, body, claim, store.admin.secret_key)
    except BadSignature as bad:
        return _error(403, "SignatureDoesNotMatch", str(bad))
    return None


# --- the store's own tagging ------------------------------------------------------------------------------------------


def _read(store: StoreSpec, bucket: str) -> dict[str, str] | None:
    """None when there is no such bucket."""
    status, body = signed_call(store.inside_endpoint, "GET", f"/{quote(bucket)}", "tagging=", store.admin)
    if status == 200:
        return tags_in(body)
    if status == 404:
        return {} if b"<Code>NoSuchTagSet</Code>" in body else None
    raise OSError(f"{store.name} answers {status} to a question for the tags of {bucket}")


def _write(store: StoreSpec, bucket: str, tags: Mapping[str, str]) -> tuple[int, bytes]:
    """The store's status and answer: 400 when a tag isn't allowed."""
    method, body = ("PUT", f"<Tagging>{_xml('TagSet', tags)}</Tagging>".encode()) if tags else ("DELETE", b"")
    return signed_call(store.inside_endpoint, method, f"/{quote(bucket)}", "tagging=", store.admin, body)


def _xml(name: str, tags: Mapping[str, str]) -> str:
    inner = "".join(
        f"<Tag><Key>{escape(key)}</Key><Value>{escape(value)}</Value></Tag>" for key, value in sorted(tags.items())
    )
    return f"<{name}>{inner}</{name}>"


def _error(status: int, code: str, message: str) -> Response:
    return Response(
        f"<ErrorResponse><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        "<RequestId>lab</RequestId></ErrorResponse>",
        status,
        content_type="application/xml",
    )
