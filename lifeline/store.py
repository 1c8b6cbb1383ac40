"""What a bucket can do for us, and an in-memory one for tests.  No network here: `vault.py` is the door to real ones.

Every implementation passes one conformance suite (tests/conformance.py).
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from lifeline.errors import LifelineError, Unavailable

PAGE = 1000  # keys that one request lists or deletes
Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while a file is on its way; the total is -1 when it isn't known."""


class Missing(LifelineError):
    """The object isn't there."""

    exit_code = 7


class Conflict(LifelineError):
    """A conditional write found another object than it expected: somebody else was first. Nothing was written."""

    exit_code = 6


class Denied(Unavailable):
    """The store answered, and refused us. ``code`` is its word for it."""

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code

    @property
    def key_unknown(self) -> bool:
        """It doesn't know the key at all: deleted, or never made."""
        return self.code == "InvalidAccessKeyId"


@dataclass(frozen=True, slots=True)  # there are lists of a hundred thousand
class Info:
    """An object's listing. ``etag`` with its quotes, as conditional writes need it; ``modified`` in UTC."""

    key: str
    size: int
    etag: str
    modified: datetime


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object, as a bucket with versioning keeps it; ``marker``: it says that it was deleted."""

    key: str
    etag: str
    modified: datetime
    marker: bool = False


@dataclass(frozen=True)
class Object:
    """A whole object in memory."""

    body: bytes
    info: Info


class Store(Protocol):
    """One bucket. Every call has a deadline, and raises Unavailable, Denied (an Unavailable), Missing or Conflict.

    After Unavailable from a write, the write may have happened or not: read again to know. `asked`: how many requests
    were sent, by S3's names for them; they have a price.
    """

    asked: Counter[str]

    @property
    def where(self) -> str:
        """The bucket and its endpoint, for messages."""

    def get(self, key: str) -> Object:
        """The object; Missing when it isn't there."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Up to `length` bytes of the object from `start` on; Missing when it isn't there."""

    def head(self, key: str) -> Info | None:
        """Its listing, or None."""

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Info]:
        """Objects under a prefix in the order of their keys, those behind the key ``after`` only."""

    def versions(self, prefix: str) -> Iterator[Version]:
        """Every version under a prefix that the bucket still keeps, in no order. Without versioning, the objects."""

    def put(self, key: str, body: bytes, *, content_type: str = "application/octet-stream") -> str:
        """Write whatever is there; returns the ETag."""

    def put_if_absent(self, key: str, body: bytes) -> str:
        """Write if there is no such object, else Conflict. Of racing writers exactly one wins."""

    def put_if_match(self, key: str, body: bytes, etag: str) -> str:
        """Write if the object still has this ETag, else Conflict (also when it is gone)."""

    def delete(self, key: str) -> None:
        """Remove the object; nothing there is fine."""

    def delete_all(self, keys: Iterable[str]) -> int:
        """Remove many, a thousand a request, in no order; nothing there is fine. How many keys that were."""

    def upload(self, source: BinaryIO, key: str, *, size: int = -1, progress: Progress | None = None) -> None:
        """Write a stream of any length; whole or not at all."""


def keys(store: Store, prefix: str, *, after: str = "") -> Iterator[str]:
    """Keys under a prefix, in order."""
    return (info.key for info in store.list(prefix, after=after))


def find(store: Store, key: str) -> Object | None:
    """The object, or None when it isn't there."""
    try:
        return store.get(key)
    except Missing:
        return None


def upload_file(store: Store, path: Path, key: str, *, progress: Progress | None = None) -> None:
    """A file into the store."""
    with path.open("rb") as source:
        store.upload(source, key, size=path.stat().st_size, progress=progress)


class MemoryStore:
    """A bucket in memory with the conditional semantics of AWS S3. Safe for threads."""

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self._objects: dict[str, Object] = {}
        self._versions: list[Version] = []
        self._lock = threading.Lock()
        self.asked: Counter[str] = Counter()

    @property
    def where(self) -> str:
        return f"bucket {self._name} (in memory)"

    def get(self, key: str) -> Object:
        self.asked["GetObject"] += 1
        with self._lock:
            if key not in self._objects:
                raise Missing(f"{key} is not in {self.where}")
            return self._objects[key]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.get(key).body[start : start + length]

    def head(self, key: str) -> Info | None:
        self.asked["HeadObject"] += 1
        with self._lock:
            found = self._objects.get(key)
        return found.info if found else None

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Info]:
        with self._lock:
            found = sorted(key for key in self._objects if key.startswith(prefix) and key > after)
            infos = [self._objects[key].info for key in found]
        self.asked["ListObjectsV2"] += 1 + max(0, len(infos) - 1) // PAGE
        yield from infos

    def versions(self, prefix: str) -> Iterator[Version]:
        self.asked["ListObjectVersions"] += 1
        with self._lock:
            found = [version for version in self._versions if version.key.startswith(prefix)]
        yield from found

    def put(self, key: str, body: bytes, *, content_type: str = "application/octet-stream") -> str:
        with self._lock:
            return self._write(key, body)

    def put_if_absent(self, key: str, body: bytes) -> str:
        with self._lock:
            if key in self._objects:
                raise Conflict(f"{key} is in {self.where} already")
            return self._write(key, body)

    def put_if_match(self, key: str, body: bytes, etag: str) -> str:
        with self._lock:
            if key not in self._objects or self._objects[key].info.etag != etag:
                raise Conflict(f"{key} in {self.where} was changed by somebody else")
            return self._write(key, body)

    def delete(self, key: str) -> None:
        self.asked["DeleteObject"] += 1
        with self._lock:
            self._hide(key)

    def delete_all(self, keys: Iterable[str]) -> int:
        wanted = list(keys)
        self.asked["DeleteObjects"] += -(-len(wanted) // PAGE)
        with self._lock:
            for key in wanted:
                self._hide(key)
        return len(wanted)

    def upload(self, source: BinaryIO, key: str, *, size: int = -1, progress: Progress | None = None) -> None:
        body = source.read()
        self.put(key, body)
        if progress:
            progress(len(body), size)

    def _write(self, key: str, body: bytes) -> str:
        self.asked["PutObject"] += 1
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        self._objects[key] = Object(bytes(body), info := Info(key, len(body), etag, datetime.now(UTC)))
        self._versions.append(Version(key, etag, info.modified))
        return etag

    def _hide(self, key: str) -> None:
        if self._objects.pop(key, None) is not None:
            self._versions.append(Version(key, "", datetime.now(UTC), marker=True))
