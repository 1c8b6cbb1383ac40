"""The one door to object storage: DigitalOcean Spaces and AWS S3, by boto3.

Every call has deadlines, and every failure says which bucket, what happened and what to do next. Secrets stay inside.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.utils import parse_timestamp

from lifeline.errors import BadConfig, Unavailable
from lifeline.model import Key, StoreRef
from lifeline.reading import one_word
from lifeline.store import PAGE, Conflict, Denied, Info, Missing, Object, Progress, Version

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# At debug level botocore logs signed headers and bodies.
logging.getLogger("botocore").setLevel(logging.WARNING)

_PART_BYTES = 16 << 20
# Descriptions of AWS' services, read once: 12 MB for every store that reads its own.
_DESCRIPTIONS = botocore.loaders.create_loader()
# Who looks for the next key behind another (points.py) reads a few; a full page costs a store tens of milliseconds.
_FIRST_PAGE, _PAGE = 50, 1000
_CONFLICTS = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_MISSING = frozenset({"NoSuchKey", "NotFound", "404"})
_PLACE = "an endpoint is https://HOST, a region one word: check LIFELINE_VAULT_* or LIFELINE_OFFSITE_*, or the stack's"
_CHECK = "fab status; is the store up, and may this machine reach it?"


def open_store(
    ref: StoreRef,
    key: Key,
    *,
    connect_s: float = 3.0,
    read_s: float = 20.0,
    attempts: int = 3,
    direct: bool = False,
) -> S3Store:
    """The bucket, as the holder of ``key``. Does no I/O yet.

    A call gives up after ``attempts`` times (connect_s + read_s) seconds; conditional writes are tried once, as a retry
    couldn't tell its own first try from somebody else. Proxies are taken from the environment unless ``direct``.
    """
    # A session of our own: the default one is shared, and reads profiles that don't concern us.
    core = botocore.session.Session()
    core.register_component("data_loader", _DESCRIPTIONS)
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
    core.set_credentials(key.access_key, key.secret_key)

    def client(tries: int) -> S3Client:
        settings = Config(
            connect_timeout=connect_s,
            read_timeout=read_s,
            retries={"total_max_attempts": tries, "mode": "standard"},
            s3={"addressing_style": "path" if ref.path_style else "virtual"},
            # Stores that only resemble S3 don't all know the newer checksum trailers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            proxies={} if direct else None,
        )
        try:
            made = core.create_client("s3", region_name=ref.region, endpoint_url=ref.endpoint, config=settings)
        except (ValueError, BotoCoreError) as error:
            raise BadConfig(f"bucket {ref.bucket}, at {ref.endpoint or 'AWS'}: {error}", hint=_PLACE) from None
        made.meta.events.register("before-sign.s3.DeleteObjects", _digested)
        return cast("S3Client", made)

    once = client(1)
    return S3Store(ref, once if attempts == 1 else client(attempts), once)


def _moment(text: Any) -> datetime:
    """As stores write it in listings; botocore's own parser takes two thirds of the time that a listing costs."""
    if isinstance(text, str) and text.endswith("Z"):
        with suppress(ValueError):
            return datetime.fromisoformat(text)
    return parse_timestamp(text)


def _digested(request: Any, **_: Any) -> None:
    """A deletion of many must carry a digest, and MD5 is the one that every store knows."""
    request.headers["Content-MD5"] = _md5(request.body)


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def key_from_environment(prefix: str, environment: Mapping[str, str] = os.environ) -> Key:
    """The operator's own key: ``prefix`` is SPACES or AWS. BadConfig names the variable that is missing."""
    names = (f"{prefix}_ACCESS_KEY_ID", f"{prefix}_SECRET_ACCESS_KEY")
    for name in names:
        if not environment.get(name):
            raise BadConfig(f"{name} is not set", hint=f'export {name}=…; for the lab: eval "$(fab lab.env)"')
        if not one_word(environment[name]):
            raise BadConfig(f"{name} isn't one word of ASCII: it was not copied whole", hint=f"export {name}=…")
    return Key(environment[names[0]], environment[names[1]])


class S3Store:
    """A bucket by boto3; see ``lifeline.store.Store`` for what its methods promise."""

    def __init__(self, ref: StoreRef, client: S3Client, once: S3Client) -> None:
        self._ref = ref
        self._client = client
        self._once = once
        self.asked: Counter[str] = Counter()
        for one in (client, once):
            one.meta.events.register("before-send.s3", self._count)

    def _count(self, event_name: str, **_: Any) -> None:
        self.asked[event_name.rpartition(".")[2]] += 1

    @property
    def where(self) -> str:
        return f"bucket {self._ref.bucket} at {self._ref.endpoint or f'AWS S3 {self._ref.region}'}"

    def exists(self) -> bool:
        """Is there such a bucket at all?"""
        try:
            with self._errors("look for it", ""):
                self._client.head_bucket(Bucket=self._ref.bucket)
        except Missing:
            return False
        return True

    def get(self, key: str) -> Object:
        with self._errors("read", key):
            answer = self._client.get_object(Bucket=self._ref.bucket, Key=key)
            with closing(answer["Body"]) as stream:
                body = stream.read()
            return Object(body, Info(key, len(body), answer["ETag"], answer["LastModified"]))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        wanted = f"bytes={start}-{start + length - 1}"
        with self._errors("read", key):
            answer = self._client.get_object(Bucket=self._ref.bucket, Key=key, Range=wanted)
            with closing(answer["Body"]) as stream:
                return stream.read()

    def head(self, key: str) -> Info | None:
        try:
            with self._errors("look at", key):
                answer = self._client.head_object(Bucket=self._ref.bucket, Key=key)
        except Missing:
            return None
        return Info(key, answer["ContentLength"], answer["ETag"], answer["LastModified"])

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Info]:
        size, more = _FIRST_PAGE, True
        while more:
            with self._errors("list", prefix):
                page = self._client.list_objects_v2(
                    Bucket=self._ref.bucket, Prefix=prefix, StartAfter=after, MaxKeys=size
                )
            for item in page.get("Contents", []):
                after = item["Key"]
                yield Info(after, item["Size"], item["ETag"], item["LastModified"])
            size, more = _PAGE, page["IsTruncated"]

    def versions(self, prefix: str) -> Iterator[Version]:
        pages = iter(
            self._client.get_paginator("list_object_versions").paginate(Bucket=self._ref.bucket, Prefix=prefix)
        )
        while True:
            with self._errors("list versions of", prefix):
                page = next(pages, None)
            if page is None:
                return
            for item in page.get("Versions", []):
                yield Version(item["Key"], item["ETag"], item["LastModified"])
            for gone in page.get("DeleteMarkers", []):
                yield Version(gone["Key"], "", gone["LastModified"], marker=True)

    def put(self, key: str, body: bytes, *, content_type: str = "application/octet-stream") -> str:
        with self._errors("write", key):
            # Under Object Lock S3 takes nothing without a digest of it.
            answer = self._client.put_object(
                Bucket=self._ref.bucket, Key=key, Body=body, ContentType=content_type, ContentMD5=_md5(body)
            )
            return answer["ETag"]

    def put_if_absent(self, key: str, body: bytes) -> str:
        with self._errors("write", key):
            # With its digest: evidence is written so, under Object Lock.
            answer = self._once.put_object(
                Bucket=self._ref.bucket, Key=key, Body=body, IfNoneMatch="*", ContentMD5=_md5(body)
            )
            return answer["ETag"]

    def put_if_match(self, key: str, body: bytes, etag: str) -> str:
        try:
            with self._errors("write", key):
                return self._once.put_object(Bucket=self._ref.bucket, Key=key, Body=body, IfMatch=etag)["ETag"]
        except Missing:  # AWS says 404 for If-Match on nothing, others 412
            raise Conflict(f"{key} is gone from {self.where}") from None

    def delete(self, key: str) -> None:
        with self._errors("delete", key):
            self._client.delete_object(Bucket=self._ref.bucket, Key=key)

    def delete_all(self, keys: Iterable[str]) -> int:
        left, count = iter(keys), 0
        while batch := list(islice(left, PAGE)):
            with self._errors("delete", f"{batch[0]} and {len(batch) - 1} more"):
                answer = self._client.delete_objects(
                    Bucket=self._ref.bucket, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
                )
            if refused := answer.get("Errors"):
                code, key = refused[0].get("Code", ""), refused[0].get("Key", "")
                says = f"{self.where} refused to delete {key} and {len(refused) - 1} more ({code})"
                raise Denied(says, hint="is the key still valid, and granted this bucket?", code=code)
            count += len(batch)
        return count

    def upload(self, source: BinaryIO, key: str, *, size: int = -1, progress: Progress | None = None) -> None:
        done = 0

        def report(count: int) -> None:
            nonlocal done
            done += count
            if progress:
                progress(done, size)

        with self._errors("write", key):
            # The digest that Object Lock asks for; AWS takes it with each part, stores that only resemble it may not.
            extra = {"ChecksumAlgorithm": "CRC32"} if self._ref.endpoint is None else {}
            # Imported here: memory that an agent, which uploads nothing, doesn't have to pay for.
            from boto3.s3.transfer import ProgressCallbackInvoker, TransferConfig, create_transfer_manager

            config = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=4)
            with create_transfer_manager(self._client, config) as manager:
                told = [ProgressCallbackInvoker(report)]
                manager.upload(source, self._ref.bucket, key, extra_args=extra, subscribers=told).result()

    def _errors(self, verb: str, key: str) -> AbstractContextManager[None]:
        return _translated(f"{verb} {key}" if key else verb, self.where)


@contextmanager
def _translated(what: str, where: str) -> Iterator[None]:
    """boto3's errors as ours."""
    try:
        yield
    except ClientError as error:
        raise _from_answer(error, what, where) from None
    except BotoCoreError as error:
        # Their texts name hosts and timeouts, never credentials.
        raise Unavailable(f"{where} doesn't answer: can't {what} ({error})", hint=_CHECK) from None


def _from_answer(error: ClientError, what: str, where: str) -> Exception:
    answer: Mapping[str, Any] = error.response
    code = str(answer.get("Error", {}).get("Code", ""))
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _MISSING:
        return Missing(f"can't {what}: it is not in {where}", hint="fab status")
    if code in _CONFLICTS:
        return Conflict(f"can't {what} in {where}: somebody else changed it meanwhile", hint="read it again")
    if code == "NoSuchBucket":
        return Unavailable(f"{where} does not exist: can't {what}", hint="pulumi up --refresh")
    if status in (401, 403):
        hint = "is the key still valid, and granted this bucket?"
        return Denied(f"{where} refused to {what} ({code})", hint=hint, code=code)
    return Unavailable(f"{where} can't {what}: {code} (HTTP {status})", hint=_CHECK)
