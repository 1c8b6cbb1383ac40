"""`lifeline-host logs`: a service's logs are set aside, compressed, brought into the vault, and deleted here when they
are old. Nothing is deleted that isn't read back from the vault first.

live `audit.jsonl` → set aside `audit.jsonl-20260102T030405Z` → packed `….gz` → `logs/SERVICE/HOST/….gz` in the vault,
with a line in that day's `catalogue-YYYYMMDD.jsonl` beside it. A pass may be cut off anywhere: from what it finds in
between, the next one goes on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import gzip
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from lifeline import backups
from lifeline.errors import LifelineError, StepFailed
from lifeline.layout import Config, replacing, sync_directory
from lifeline.store import Store, find

KEEP = timedelta(days=7)
PART = 1 << 20
READ_BACK = IN_MEMORY = 8 << 20
STAMP = "%Y%m%dT%H%M%SZ"
_ASIDE = re.compile(r"^(?P<name>.+)-(?P<at>\d{8}T\d{6}Z)(?P<packed>\.gz)?$")
_UNFINISHED = ".lifeline-"
Opened = Mapping[str, Callable[[], Store]]


@dataclass(frozen=True)
class Log:
    """A log file. `name` is what it is called in the vault; `at`: when it was set aside, None for a live one."""

    path: Path
    name: str
    size: int
    at: datetime | None = None
    packed: bool = False

    def key(self, config: Config) -> str:
        assert self.at is not None
        return f"{prefix(config)}{self.name}-{self.at:{STAMP}}.gz"


@dataclass
class Pass:
    """What a pass did, or would do; `still_open`: set aside, and somebody writes to them still."""

    dry_run: bool
    set_aside: list[str] = field(default_factory=list)
    packed: list[str] = field(default_factory=list)
    shipped: dict[str, list[str]] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    still_open: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def prefix(config: Config) -> str:
    """Where this host's logs lie in the vault."""
    return f"logs/{config.service.name}/{config.name}/"


def keep(config: Config, stores: Opened, now: datetime, *, dry_run: bool = False) -> dict[str, Any]:
    """One pass. A store or a file that fails is told in `errors`, and the rest goes on."""
    done = Pass(dry_run)
    with backups.one_at_a_time(config, "logs"):
        before = disk_percent(config)
        # First, so that a full disk has room for what is to be packed.
        _expire(config, stores, now, done)
        for log in [log for log in find_logs(config) if log.at is None and log.size]:
            with _telling(done, log.path):
                _set_aside(config, log, now, done)
        aside = [log for log in find_logs(config) if log.at is not None and not log.packed]
        for log in sorted(aside, key=lambda log: log.size):  # the small ones make room for the large ones
            with _telling(done, log.path):
                _pack(log, done)
        archives = [log for log in find_logs(config) if log.packed]
        for place, opened in stores.items():
            with _telling(done, place):
                done.shipped[place] = []
                _ship(config, opened(), archives, now, done.shipped[place], done)
        if not dry_run:  # what was shipped only now
            _expire(config, stores, now, done)
    return {**vars(done), "disk_percent": {"before": before, "after": disk_percent(config)}}


def disk_percent(config: Config) -> float | None:
    """How full the fullest disk is that holds the service's data or its logs, as `df` counts; None: there is none."""
    layout = config.layout
    places = {layout.live(database).parent for database in config.service.databases}
    places |= {root if root.is_dir() else root.parent for root in _roots(config)}
    found = [os.statvfs(place) for place in places if place.is_dir()]
    used = [100 * (1 - fs.f_bavail / (fs.f_blocks - fs.f_bfree + fs.f_bavail)) for fs in found if fs.f_blocks]
    return round(max(used), 1) if used else None


@contextlib.contextmanager
def _telling(done: Pass, what: object) -> Iterator[None]:
    try:
        yield
    except LifelineError as error:
        done.errors.append(f"{what}: {error.message}")
    except OSError as error:
        done.errors.append(f"{what}: {error.strerror or error}")


# --- what there is ---------------------------------------------------------------------------------------------------


def _roots(config: Config) -> list[Path]:
    return [config.layout.root / str(path).lstrip("/") for path in config.service.logs]


def find_logs(config: Config) -> list[Log]:
    """Every log file, the oldest of each name first. Only regular files: these folders are the service's, and a link in
    them may point anywhere."""
    roots, found = _roots(config), []
    for root in roots:
        base = root if root.is_dir() else root.parent
        for path in _files(root):
            relative = str(path.relative_to(base))
            if path.name.startswith(_UNFINISHED):
                continue
            found.append(_log(path, f"{base.name}.{relative}" if len(roots) > 1 else relative))
    return sorted(found, key=lambda log: (log.name, log.at or datetime.max.replace(tzinfo=UTC)))


def _files(root: Path) -> Iterator[Path]:
    """The files below a folder; of a file, it and what was set aside of it."""
    if root.is_dir():
        candidates: Iterable[Path] = (Path(at) / name for at, _, names in os.walk(root) for name in names)
    else:
        candidates = (path for path in root.parent.glob(f"{glob.escape(root.name)}*") if _is_of(path.name, root.name))
    for path in candidates:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def _is_of(name: str, live: str) -> bool:
    aside = _ASIDE.match(name)
    return name == live or (aside is not None and aside["name"] == live)


def _log(path: Path, name: str) -> Log:
    size = path.lstat().st_size
    aside = _ASIDE.match(name)
    if not aside:
        return Log(path, name, size)
    at = datetime.strptime(aside["at"], STAMP).replace(tzinfo=UTC)
    return Log(path, aside["name"], size, at, bool(aside["packed"]))


# --- on this host ----------------------------------------------------------------------------------------------------


def _set_aside(config: Config, log: Log, now: datetime, done: Pass) -> None:
    aside = log.path.with_name(f"{log.path.name}-{now.astimezone(UTC):{STAMP}}")
    done.set_aside.append(str(log.path))
    if done.dry_run or os.path.lexists(aside):  # of this very second: the next pass takes what came after
        return
    if config.service.log_rotation == "rename":
        log.path.rename(aside)
        sync_directory(aside.parent)
    else:
        _copy_and_truncate(log.path, aside)


def _copy_and_truncate(path: Path, aside: Path) -> None:
    """For a service that never opens its log again. What it writes between the last read and the truncation is lost."""
    with _open(path, os.O_RDWR) as source, _beside(aside, source) as copy:
        shutil.copyfileobj(source, copy, PART)
        copy.flush()
        os.fsync(copy.fileno())
        shutil.copyfileobj(source, copy, PART)  # what came while the disk was busy
        os.ftruncate(source.fileno(), 0)


def _pack(log: Log, done: Pass) -> None:
    """Compressed beside, read back, and only then in its place."""
    with _open(log.path, os.O_RDONLY) as source:
        if _written_to(source):
            done.still_open.append(str(log.path))
            return
        done.packed.append(str(log.path))
        if done.dry_run:
            return
        target = log.path.with_name(f"{log.path.name}.gz")
        with _beside(target, source) as packed:
            digest = _compress(source, packed, log.at)
            packed.seek(0)
            with gzip.open(packed, "rb") as again:
                if _digest(iter(lambda: again.read(PART), b"")) != digest:
                    raise StepFailed("what was compressed doesn't read back the same; nothing was deleted")
    log.path.unlink()
    sync_directory(target.parent)


def _compress(source: BinaryIO, packed: BinaryIO, at: datetime | None) -> str:
    digest = hashlib.sha256()
    with gzip.GzipFile("", "wb", 6, packed, at.timestamp() if at else 0) as out:
        while part := source.read(PART):
            digest.update(part)
            out.write(part)
    return digest.hexdigest()


def _open(path: Path, how: int) -> BinaryIO:
    handle = os.open(path, how | os.O_NOFOLLOW | os.O_CLOEXEC)
    return os.fdopen(handle, "rb" if how == os.O_RDONLY else "rb+")


@contextlib.contextmanager
def _beside(target: Path, like: BinaryIO) -> Iterator[BinaryIO]:
    """A new file that takes its name when it is whole and on the disk; the group may read it, as it may its like."""
    with replacing(target, _UNFINISHED) as file:
        if os.geteuid() == 0:
            os.fchown(file.fileno(), 0, os.fstat(like.fileno()).st_gid)
        os.fchmod(file.fileno(), 0o640)
        yield file


def _written_to(file: BinaryIO) -> bool:
    """Does anybody still have it open for writing? The kernel says so when a lease is refused."""
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return True
        raise
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _expire(config: Config, stores: Opened, now: datetime, done: Pass) -> None:
    """Delete what is old enough, each after its copy in the vault was read back and is the same."""
    old = [log for log in find_logs(config) if log.packed and log.at and log.at < now - KEEP]
    for log in old:
        with _telling(done, log.path):
            if not _holds(stores["vault"](), log.key(config), log):
                continue  # not shipped yet: it is, in this pass or a later one
            done.deleted.append(str(log.path))
            done.freed_bytes += log.size
            if not done.dry_run:
                log.path.unlink()


# --- in the vault ----------------------------------------------------------------------------------------------------


def _ship(config: Config, store: Store, archives: list[Log], now: datetime, shipped: list[str], done: Pass) -> None:
    """What the store's catalogue doesn't have yet: written, read back, noted."""
    for day in sorted({_day(log) for log in archives}):
        key = f"{prefix(config)}catalogue-{day}.jsonl"
        noted = _noted(store, key)
        known = len(noted)
        for log in archives:
            if _day(log) != day or log.key(config) in noted:
                continue
            with _telling(done, log.path):
                noted[log.key(config)] = _bring(config, store, log, now) if not done.dry_run else {}
                shipped.append(log.key(config))
        if len(noted) > known and not done.dry_run:
            body = "".join(json.dumps(line) + "\n" for line in noted.values())
            store.put(key, body.encode(), content_type="application/jsonl")


def _day(log: Log) -> str:
    return f"{log.at:%Y%m%d}"


def _bring(config: Config, store: Store, log: Log, now: datetime) -> dict[str, Any]:
    """Into the store, and read back; its line in the catalogue."""
    key = log.key(config)
    if store.head(key) is None:
        with _open(log.path, os.O_RDONLY) as source:
            if log.size <= IN_MEMORY:
                store.put(key, source.read(), content_type="application/gzip")
            else:
                store.upload(source, key, size=log.size)
    if not _holds(store, key, log):
        raise StepFailed(f"{key} in {store.where} is another log; nothing was overwritten, nothing deleted")
    return {
        **{"key": key, "bytes": log.size, "sha256": _digest(_parts(log.path))},
        **{"set_aside": f"{log.at:%Y-%m-%dT%H:%M:%SZ}", "shipped": f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"},
    }


def _noted(store: Store, key: str) -> dict[str, dict[str, Any]]:
    """A day's lines by the key they are about."""
    found = find(store, key)
    lines = [json.loads(line) for line in found.body.decode().splitlines()] if found else []
    return {str(line["key"]): line for line in lines}


def _holds(store: Store, key: str, log: Log) -> bool:
    """Is it there, of this size and with this content? Read back in full."""
    info = store.head(key)
    if info is None or info.size != log.size:
        return False
    starts = range(0, log.size, READ_BACK)
    return _digest(store.get_range(key, start, READ_BACK) for start in starts) == _digest(_parts(log.path))


def _parts(path: Path) -> Iterator[bytes]:
    with _open(path, os.O_RDONLY) as file:
        while part := file.read(PART):
            yield part


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
