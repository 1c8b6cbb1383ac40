"""What can go wrong inside of a droplet, and with the exchange; see lab/faults.py, which lists these too."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import httpx

from lab import config
from lab.find import command_line, init, running, within
from lifeline.errors import BadInput, StepFailed


def kill_service(droplet: str, program: str = "bin/genesis serve") -> None:
    """SIGKILL to the service, or to whatever has these words in its command line; supervisor begins it anew."""
    for pid in _processes(droplet, program):
        os.kill(pid, signal.SIGKILL)


def spoil_database(droplet: str, path: str) -> None:
    """A disk that rots: the beginning of every eighth page of a SQLite file's older half is another one now, under the
    service that has it open. (In the middle of a page there may be nothing but a row's own bytes, which nobody checks.)
    """
    database = within(droplet, path)
    size = int.from_bytes(_read(database, 16, 2)) or 1
    page = 65536 if size == 1 else size
    pages = database.stat().st_size // page
    with database.open("r+b") as file:
        for number in range(max(4, pages // 8), max(5, pages // 2), 8):
            file.seek(number * page)
            file.write(os.urandom(64))


def truncate_database(droplet: str, path: str) -> None:
    """A file system that lost its end: the second half of a SQLite file is gone after a crash of who had it open."""
    writers = [pid for words in ("bin/genesis serve", "litestream replicate") for pid in _processes(droplet, words)]
    for pid in writers:  # none of them writes between the crash and the loss
        os.kill(pid, signal.SIGSTOP)
    database = within(droplet, path)
    os.truncate(database, database.stat().st_size // 2)
    for pid in writers:
        os.kill(pid, signal.SIGKILL)


def leak(address: str, mb_per_s: str = "100") -> None:
    """The service at an address leaks memory, really, until it ends; only where GENESIS_ADMIN_FAULTS=1."""
    _post(f"http://{address}:8080/admin/faults", {"leak_mb_per_s": float(mb_per_s)})


def exchange(main: str = "", backup: str = "") -> None:
    """What the exchange's two connections do: down, slow, or nothing wrong. `exchange` alone ends it."""
    moods: dict[str, dict[str, object]] = {"": {}, "down": {"down": True}, "slow": {"latency_s": 5.0}}
    for address, mood in zip(config.EXCHANGE_ADDRESSES, (main, backup), strict=True):
        if mood not in moods:
            raise BadInput(f'an exchange can\'t be "{mood}"', hint="down, slow, or nothing")
        _post(f"http://{address}:8080/admin/faults", moods[mood])


def small_disk(droplet: str, path: str, mb: str = "64") -> None:
    """A folder gets a small disk of its own, with what is in it now: something that can really be filled."""
    kept, status = _files(droplet, path), within(droplet, path).stat()
    owner = f"uid={status.st_uid},gid={status.st_gid},mode={status.st_mode & 0o7777:o}"
    _inside(droplet, "mount", "-t", "tmpfs", "-o", f"size={mb}m,{owner}", "tmpfs", path)
    _put(droplet, path, kept)


def small_disk_gone(droplet: str, path: str) -> None:
    """End `small_disk`; what it holds goes back to the large one."""
    kept = _files(droplet, path)
    _inside(droplet, "umount", "--lazy", path)
    _put(droplet, path, kept)


# --- how -------------------------------------------------------------------------------------------------------------


def _processes(droplet: str, words: str) -> list[int]:
    found = [pid for pid in running(droplet).pids() if words in command_line(pid)]
    if not found:
        raise BadInput(f"nothing like {words!r} runs on {droplet}", hint="fab status")
    return found


def _files(droplet: str, path: str) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in within(droplet, path).iterdir() if one.is_file()}


def _put(droplet: str, path: str, files: Mapping[str, bytes]) -> None:
    """As its folder's owner."""
    folder = within(droplet, path)
    status = folder.stat()
    for name, data in files.items():
        (folder / name).write_bytes(data)
        os.chown(folder / name, status.st_uid, status.st_gid)


def _inside(droplet: str, *argv: str) -> None:
    done = subprocess.run(
        ["nsenter", "-t", str(init(droplet)), "-m", "-p", *argv], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise StepFailed(f"{' '.join(argv)} on {droplet}: {done.stderr.strip()}")


def _read(path: Path, at: int, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(count)


def _post(url: str, document: Mapping[str, object]) -> None:
    with httpx.Client(trust_env=False, timeout=10.0) as client:
        client.post(url, json=document).raise_for_status()
