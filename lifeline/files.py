"""Configuration, state and logs out of a backup: held to the digests it noted, put beside, swapped in by renames.

What is replaced is kept. What is there and isn't in the backup stays. Logs are never put in place: they are evidence,
and what was written since would be lost.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from lifeline import loopback, marker, roles
from lifeline.apply import apply
from lifeline.errors import DataBad, LifelineError, StepFailed
from lifeline.layout import OURS, Config, read_role, sync_directory
from lifeline.service import Service
from lifeline.supervisor import Supervisor
from lifeline.systemd import Systemd

Kind = Literal["configuration", "state", "logs"]
KINDS: tuple[Kind, ...] = ("configuration", "state", "logs")
FOLDER = "_files"  # beside the databases' own folders, whose names have no underscore
Change = Literal["added", "changed", "same"]
Answer = dict[str, Any]


@dataclass(frozen=True)
class Noted:
    """A file as its backup noted it. Owner and mode are None for logs, which aren't put in place."""

    kind: Kind
    path: PurePosixPath
    sha256: str
    bytes: int
    mode: int | None = None
    user: str = ""
    uid: int = 0
    group: str = ""
    gid: int = 0

    @property
    def below(self) -> str:
        """Its path without the leading slash."""
        return str(self.path).lstrip("/")


def noted(entry: Mapping[str, Any], kinds: Iterable[Kind]) -> list[Noted]:
    """The files of these kinds, as a catalogue's entry has them. DataBad when it isn't understood."""
    found = []
    for kind in kinds:
        for path, note in sorted(((entry.get("files") or {}).get(kind) or {}).items()):
            where = PurePosixPath(path)
            if not where.is_absolute() or ".." in where.parts:
                raise DataBad(f"the backup notes a file at {path!r}", hint="fab backups: take another")
            try:
                own = {key: note[key] for key in ("mode", "uid", "gid", "user", "group") if key in note}
                found.append(Noted(kind, where, str(note["sha256"]), int(note["bytes"]), **own))
            except (KeyError, TypeError, ValueError) as error:
                raise DataBad(f"the backup's note of {path} is damaged: {error}", hint="fab backups") from None
    return found


def compare(config: Config, files: Iterable[Noted]) -> list[tuple[Noted, Change]]:
    """What putting them in place would do; a file of other owner or mode is changed too."""
    return [(file, _change(config, file)) for file in files]


def _change(config: Config, file: Noted) -> Change:
    live = here(config, file.path)
    if not os.path.lexists(live):
        return "added"
    if live.is_symlink() or not live.is_file() or live.stat().st_size != file.bytes:
        return "changed"
    same = marker.noted(live)["sha256"] == file.sha256
    return "same" if same and (file.mode is None or _owned(live) == (*_owner(file), file.mode)) else "changed"


def others(config: Config, files: Iterable[Noted], kinds: Iterable[Kind]) -> list[str]:
    """Files of these kinds that are there and not in the backup: they stay."""
    known = {file.path for file in files}
    return [
        str(path)
        for kind in kinds
        for path, _ in marker.files_below(config, declared(config.service, kind))
        if PurePosixPath(path) not in known
    ]


def declared(service: Service, kind: Kind) -> tuple[PurePosixPath, ...]:
    """Where the service keeps files of a kind."""
    return {"configuration": service.configuration, "state": service.state, "logs": service.logs}[kind]


def here(config: Config, path: PurePosixPath) -> Path:
    """Where a path of the service is on this host."""
    return config.layout.root / str(path).lstrip("/")


def take(files: Iterable[Noted], unpacked: Callable[[Noted], Path], target: Callable[[Noted], Path]) -> list[str]:
    """Move unpacked files to where `target` says, each held to its digest; what is to be put in place gets its owner
    and mode. DataBad for one that isn't what the backup noted.

    A log grew while it was saved: only what was noted of it is held to. Returns those for which that isn't so, or which
    aren't there under that name, as they were rotated at that moment.
    """
    rotated = []
    for file in files:
        found, to = unpacked(file), target(file)
        if not found.is_file():
            if file.kind == "logs":
                rotated.append(str(file.path))
                continue
            raise DataBad(f"the backup lacks {file.path}", hint="fab backups: take another")
        if marker.noted(found, file.bytes if file.kind == "logs" else None)["sha256"] != file.sha256:
            if file.kind != "logs":
                raise DataBad(f"{file.path} in the backup is not what was saved", hint="fab backups: take another")
            rotated.append(str(file.path))
        to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.move(found, to)
        if file.mode is not None and os.geteuid() == 0:
            os.chown(to, *_owner(file))
        to.chmod(0o600 if file.mode is None else file.mode)
        _sync(to)
    return rotated


def staged(config: Config, file: Noted) -> Path:
    """Where a file waits beside its place, on the same file system, so that a swap is a rename."""
    return _beside(config, file) / "restored" / file.below


def clear(config: Config) -> None:
    """Remove what waits beside and was never swapped in."""
    for kind in KINDS:
        for path in declared(config.service, kind):
            shutil.rmtree(_root(config, path) / "restored", ignore_errors=True)


def has_place(config: Config, file: Noted) -> bool:
    """May it be put in place? Not logs; nor what service.toml no longer names, or whose folders lead elsewhere."""
    root = _declared_root(config, file)
    if root is None or file.kind == "logs":
        return False
    folders = [root, *(path for path in file.path.parents if root in path.parents)] if root != file.path else []
    # The service owns these folders: one that it made a link must not lead root somewhere else.
    return not any(live.is_symlink() and live.lstat().st_uid != 0 for live in (here(config, path) for path in folders))


Swapped = list[tuple[Path, Path | None]]  # (file, where what it replaced is kept, or None: there was nothing)


def swap(config: Config, files: Iterable[Noted]) -> Swapped:
    """Put staged files in place, each by one rename. StepFailed when one can't be, or what is there can't be kept; then
    nothing is replaced."""
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    pairs: list[tuple[Noted, Path, Path | None]] = []
    swapped: Swapped = []
    try:
        for file in files:
            live = here(config, file.path)
            _folder(live.parent, file)
            pairs.append((file, live, _keep(live, _beside(config, file) / "replaced" / stamp / file.below)))
        for file, live, kept in pairs:
            staged(config, file).replace(live)
            swapped.append((live, kept))
        for folder in {live.parent for live, _ in swapped}:
            sync_directory(folder)
    except OSError as error:
        put_back(swapped)
        raise StepFailed(
            f"the files can't be put in place: {error}; nothing is replaced", hint="fab restore … --to HOST:PATH"
        ) from None
    return swapped


def put(config: Config, supervisor: Supervisor, files: Iterable[Noted]) -> Answer:
    """Put staged files in place. On a primary the service is stopped for that moment and started again; where it was
    healthy before and isn't with them, what was there before is put back. StepFailed with what is so then.

    Answers {"changed": [path], "kept": [folder]}.
    """
    changed = [file for file, change in compare(config, files) if change != "same"]
    if not changed:
        return {"changed": [], "kept": []}
    service, serving = config.service, read_role(config.layout).role == "primary"
    healthy = serving and not loopback.why_not(service.port, service.health)
    swapped: Swapped = []
    try:
        if serving:
            supervisor.stop_all([service.name], within=service.stop_within_s + 10)
        swapped = swap(config, changed)
        _go_on(config, supervisor, changed, serving)
    except Exception as error:  # whatever it is, it must not leave a service stopped that ran
        if swapped and not healthy:
            raise _left_in_place(config, supervisor, error, swapped, serving) from error
        raise _undone(config, supervisor, error, changed, swapped, serving) from error
    return {"changed": [str(file.path) for file in changed], "kept": _kept(changed, swapped)}


def _kept(changed: Iterable[Noted], swapped: Swapped) -> list[str]:
    return sorted(
        {str(kept).removesuffix(file.below) for file, (_, kept) in zip(changed, swapped, strict=True) if kept}
    )


def _go_on(config: Config, supervisor: Supervisor, changed: Iterable[Noted], serving: bool) -> None:
    if any(file.kind == "configuration" for file in changed):
        apply(config.layout, supervisor, Systemd())
    if serving:
        supervisor.start(config.service.name, wait=False)
        roles.await_service(config, supervisor)


def _left_in_place(
    config: Config, supervisor: Supervisor, error: Exception, swapped: Swapped, serving: bool
) -> LifelineError:
    """It didn't run before either: the files that were asked for stay."""
    if serving:
        _start_anyway(config, supervisor)
    kept = sum(1 for _, kept in swapped if kept)
    says = f"the files are in place (of what they replaced {kept} are kept), but what comes next failed: {_why(error)}"
    return StepFailed(says, hint="fab status; fab restore … --at another time")


def _undone(
    config: Config,
    supervisor: Supervisor,
    error: Exception,
    changed: Iterable[Noted],
    swapped: Swapped,
    serving: bool,
) -> LifelineError:
    """What was there before is back, and the service runs as it did; or which of that isn't so."""
    service, says = config.service.name, _why(error)
    if swapped:
        says = f"{service} doesn't run with these files ({says}); what was there before is back"
    try:
        put_back(swapped)
        _go_on(config, supervisor, changed if swapped else (), serving)
    except Exception as again:
        if serving:
            _start_anyway(config, supervisor)
        return StepFailed(f"{_why(error)}; and undoing that failed: {_why(again)}", hint="fab status")
    hint = "fab restore … --to HOST:PATH to look at them; --at another time"
    return StepFailed(f"{says}, and {service} runs" if serving else says, hint=hint)


def _start_anyway(config: Config, supervisor: Supervisor) -> None:
    """It is told already that something is wrong; standing still would be worse."""
    with contextlib.suppress(LifelineError, OSError):
        supervisor.start(config.service.name, wait=False)


def _why(error: Exception) -> str:
    return error.message if isinstance(error, LifelineError) else f"{type(error).__name__}: {error}"


def put_back(swapped: Swapped) -> None:
    """Undo a swap: what was replaced is in its place again, and what was added is gone. StepFailed names the first file
    for which that can't be; the others are undone all the same."""
    failed: list[str] = []
    for live, kept in swapped:
        try:
            if kept is None:
                live.unlink(missing_ok=True)
                continue
            again = live.with_name(f"{live.name}.lifeline")
            again.unlink(missing_ok=True)
            os.link(kept, again, follow_symlinks=False)
            again.replace(live)
        except OSError as error:
            failed.append(f"{live} ({'it was not there before' if kept is None else f'kept in {kept}'}): {error}")
    if failed:
        raise StepFailed(f"{len(failed)} files can't be put back, the first {failed[0]}", hint="put them back by hand")


def _keep(live: Path, kept: Path) -> Path | None:
    """A second name for what is about to be replaced: there is no moment without the file."""
    if not os.path.lexists(live):
        return None
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        os.link(live, kept, follow_symlinks=False)
    except OSError as error:
        why = "it lies on a file system of its own" if error.errno == errno.EXDEV else error.strerror
        raise StepFailed(
            f"{live} can't be kept, so it isn't replaced: {why}", hint="fab restore … --to HOST:PATH"
        ) from None
    return kept


def _folder(folder: Path, file: Noted) -> None:
    """Made where it is gone, as its owner's."""
    if folder.is_dir():
        return
    _folder(folder.parent, file)
    folder.mkdir(mode=0o750)
    if os.geteuid() == 0:
        os.chown(folder, *_owner(file))


def _beside(config: Config, file: Noted) -> Path:
    root = _declared_root(config, file)
    assert root is not None, file.path
    found = _root(config, root)
    _folder(found.parent.parent, file)
    for folder in (found.parent, found):
        folder.mkdir(exist_ok=True, mode=0o700)
    return found


def _root(config: Config, path: PurePosixPath) -> Path:
    """Our folder for a declared path: beside it, or in it where it is a file system of its own."""
    live = here(config, path)
    return (live if live.is_dir() and live.is_mount() else live.parent) / OURS / FOLDER


def _declared_root(config: Config, file: Noted) -> PurePosixPath | None:
    paths = declared(config.service, file.kind)
    return next((path for path in paths if path == file.path or path in file.path.parents), None)


def _owner(file: Noted) -> tuple[int, int]:
    """By name where this host knows it: another host may have given it another number."""
    uid, gid = file.uid, file.gid
    with contextlib.suppress(KeyError):
        uid = pwd.getpwnam(file.user).pw_uid if file.user else uid
    with contextlib.suppress(KeyError):
        gid = grp.getgrnam(file.group).gr_gid if file.group else gid
    return uid, gid


def _owned(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, status.st_mode & 0o7777


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
