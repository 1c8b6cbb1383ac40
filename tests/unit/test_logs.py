"""Logs: nothing written is lost, nothing is deleted that isn't in the vault, whatever fails in between."""

from __future__ import annotations

import errno
import gzip
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lifeline import backups, logs
from lifeline.errors import Refused, Unavailable
from lifeline.layout import Config
from lifeline.store import Info, MemoryStore
from services.genesis.engine.audit import Audit
from tests.unit.hostkit import SERVICE, config

NOW = datetime(2026, 1, 20, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
PATHS = '\n[paths]\nlogs = ["/var/log/genesis"]\n'


class Host:
    """A host with a service's logs, a vault and an off-site vault."""

    def __init__(self, root: Path, paths: str = PATHS) -> None:
        self.config: Config = config(root, service=SERVICE + paths)
        self.folder = root / "var/log/genesis"
        self.folder.mkdir(parents=True)
        self.vault, self.offsite = Vault("vault"), Vault("offsite")
        self.now = NOW

    def run(self, **options: Any) -> dict[str, Any]:
        self.now += HOUR
        return logs.keep(
            self.config, {"vault": lambda: self.vault, "offsite": lambda: self.offsite}, self.now, **options
        )

    def write(self, text: str, name: str = "audit.jsonl") -> None:
        with (self.folder / name).open("a") as file:
            file.write(text)

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def archived(self, store: MemoryStore, name: str = "audit.jsonl") -> str:
        """All that the store has of a log, in order."""
        keys = [info.key for info in store.list(f"logs/genesis/primary-newyork/{name}-")]
        return "".join(gzip.decompress(store.get(key).body).decode() for key in keys)


class Vault(MemoryStore):
    """A store that can be down, and damage what it is given."""

    down = damages = False

    def put(self, key: str, body: bytes, *, content_type: str = "application/octet-stream") -> str:
        self._up()
        return super().put(key, body[:-1] + b"?" if self.damages else body, content_type=content_type)

    def head(self, key: str) -> Info | None:
        self._up()
        return super().head(key)

    def _up(self) -> None:
        if self.down:
            raise Unavailable("the vault doesn't answer")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_log_is_set_aside_packed_shipped_and_noted(host: Host) -> None:
    host.write("one\n")
    answer = host.run()
    assert host.files() == ["audit.jsonl-20260120T130000Z.gz"]
    key = "logs/genesis/primary-newyork/audit.jsonl-20260120T130000Z.gz"
    assert answer["shipped"] == {"vault": [key], "offsite": [key]} and answer["errors"] == []
    for store in (host.vault, host.offsite):
        assert gzip.decompress(store.get(key).body) == b"one\n"
        (line,) = store.get("logs/genesis/primary-newyork/catalogue-20260120.jsonl").body.splitlines()
        noted = json.loads(line)
        assert noted["key"] == key and noted["bytes"] == len(store.get(key).body)
        assert (noted["set_aside"], noted["shipped"]) == ("2026-01-20T13:00:00Z", "2026-01-20T13:00:00Z")


def test_nothing_new_does_nothing(host: Host) -> None:
    host.write("one\n")
    host.run()
    host.write("")
    answer = host.run()
    assert not any(answer[part] for part in ("set_aside", "packed", "deleted", "still_open", "errors"))
    assert answer["shipped"] == {"vault": [], "offsite": []}


def test_a_dry_run_says_it_all_and_changes_nothing(host: Host) -> None:
    host.write("old\n")
    host.run()
    host.now += timedelta(days=8)
    host.write("new\n")
    host.write("aside\n", "audit.jsonl-20260121T000000Z")
    before = host.files(), [info.key for info in host.vault.list()]
    answer = host.run(dry_run=True)
    assert (host.files(), [info.key for info in host.vault.list()]) == before
    assert [Path(path).name for path in answer["set_aside"]] == ["audit.jsonl"]
    assert [Path(path).name for path in answer["packed"]] == ["audit.jsonl-20260121T000000Z"]
    assert [Path(path).name for path in answer["deleted"]] == ["audit.jsonl-20260120T130000Z.gz"]
    assert answer["freed_bytes"] > 0


def test_old_logs_go_when_they_are_in_the_vault_and_young_ones_stay(host: Host) -> None:
    host.write("old\n")
    host.run()
    host.now += timedelta(days=6)
    host.write("young\n")
    assert host.run()["deleted"] == []
    host.now += timedelta(days=1)
    answer = host.run()
    assert [Path(path).name for path in answer["deleted"]] == ["audit.jsonl-20260120T130000Z.gz"]
    assert len(host.files()) == 1 and answer["freed_bytes"] > 0
    assert host.archived(host.vault) == "old\nyoung\n" == host.archived(host.offsite)


def test_with_the_vault_away_nothing_goes_and_what_waited_is_shipped_later(host: Host) -> None:
    host.vault.down = True
    for number in range(3):
        host.write(f"{number}\n")
        host.now += timedelta(days=9)
        answer = host.run()
        assert any("the vault doesn't answer" in error for error in answer["errors"])
        assert answer["deleted"] == [] and len(host.files()) == number + 1
    assert host.archived(host.offsite) == "0\n1\n2\n"
    host.vault.down = False
    answer = host.run()
    assert answer["errors"] == [] and host.archived(host.vault) == "0\n1\n2\n"
    assert len(answer["deleted"]) == 2 and len(host.files()) == 1


def test_a_copy_that_does_not_read_back_is_no_copy(host: Host) -> None:
    host.vault.damages = True
    host.write("one\n")
    answer = host.run()
    assert any("is another log" in error for error in answer["errors"]) and answer["shipped"]["vault"] == []
    host.vault.damages = False
    host.now += timedelta(days=9)
    answer = host.run()  # nor is it overwritten, nor the local one deleted
    assert answer["deleted"] == [] and len(host.files()) == 1 and answer["errors"]


@pytest.mark.parametrize("harm", ["gone", "damaged", "shorter"])
def test_what_the_vault_lost_since_is_not_deleted_here(host: Host, harm: str) -> None:
    host.write("one\n")
    host.run()
    (key,) = [info.key for info in host.vault.list() if info.key.endswith(".gz")]
    body = host.vault.get(key).body
    host.vault.delete(key)
    if harm != "gone":
        MemoryStore.put(host.vault, key, body[:-1] + (b"?" if harm == "damaged" else b""))
    host.now += timedelta(days=9)
    assert host.run()["deleted"] == [] and len(host.files()) == 1


def test_a_pass_cut_off_anywhere_is_gone_on_with(host: Host) -> None:
    """Each state that a kill may leave: set aside; packed and not yet removed; in the vault and not yet noted."""
    host.write("aside\n", "audit.jsonl-20260120T100000Z")
    host.write("both\n", "audit.jsonl-20260120T110000Z")
    (host.folder / "audit.jsonl-20260120T110000Z.gz").write_bytes(gzip.compress(b"torn")[:9])
    (host.folder / ".lifeline-xyz").write_bytes(b"half")
    answer = host.run()
    assert answer["errors"] == []
    assert host.archived(host.vault) == "aside\nboth\n"
    host.vault.delete("logs/genesis/primary-newyork/catalogue-20260120.jsonl")
    assert len(host.run()["shipped"]["vault"]) == 2
    assert len(host.vault.get("logs/genesis/primary-newyork/catalogue-20260120.jsonl").body.splitlines()) == 2


def test_a_full_disk_first_lets_go_of_what_is_old(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.write("old\n")
    host.run()
    host.now += timedelta(days=9)
    host.write("new\n")
    real = logs._compress

    def full(*arguments: Any) -> str:
        if any(name.startswith("audit.jsonl-20260120") for name in host.files()):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(logs, "_compress", full)
    answer = host.run()
    assert answer["errors"] == [] and len(answer["deleted"]) == 1 and host.archived(host.vault) == "old\nnew\n"


def test_no_room_to_pack_loses_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    host.write("one\n")
    with monkeypatch.context() as patched:
        patched.setattr(logs, "_compress", full)
        answer = host.run()
    assert any("No space left" in error for error in answer["errors"])
    assert host.files() == ["audit.jsonl-20260120T130000Z"]
    assert host.run()["errors"] == [] and host.archived(host.vault) == "one\n"


def test_what_reads_back_otherwise_is_not_packed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    real = logs._compress
    monkeypatch.setattr(logs, "_compress", lambda *arguments: real(*arguments)[:-1] + "x")
    host.write("one\n")
    answer = host.run()
    assert any("doesn't read back" in error for error in answer["errors"])
    assert host.files() == ["audit.jsonl-20260120T130000Z"]


def test_the_service_writes_on_while_its_log_is_set_aside(host: Host) -> None:
    """Genesis' own audit log: every line, once, in order."""
    audit, stop, count = Audit(host.folder), threading.Event(), 0

    def work() -> None:
        nonlocal count
        while not stop.is_set():
            audit("event", number=count)
            count += 1

    writer = threading.Thread(target=work)
    writer.start()
    for _ in range(15):
        assert host.run()["errors"] == []
    stop.set()
    writer.join()
    host.run()
    host.run()  # what was still open is packed now
    assert host.files() == [name for name in host.files() if name.endswith(".gz")]
    assert [json.loads(line)["number"] for line in host.archived(host.vault).splitlines()] == list(range(count))


def test_a_log_that_is_held_open_is_packed_when_it_is_let_go(host: Host) -> None:
    with (host.folder / "audit.jsonl").open("a") as file:
        file.write("before\n")
        file.flush()
        answer = host.run()
        assert [Path(path).name for path in answer["still_open"]] == ["audit.jsonl-20260120T130000Z"]
        file.write("after\n")
    assert host.run()["still_open"] == []
    assert host.archived(host.vault) == "before\nafter\n"


def test_a_reader_is_no_writer(host: Host) -> None:
    host.write("one\n")
    with (host.folder / "audit.jsonl").open():
        assert host.run()["still_open"] == []


def test_truncate_is_for_a_service_that_never_opens_its_log_again(tmp_path: Path) -> None:
    host = Host(tmp_path, PATHS + 'log_rotation = "truncate"\n')
    with (host.folder / "audit.jsonl").open("a") as file:
        for text in ("one\n", "two\n"):
            file.write(text)
            file.flush()
            assert host.run()["errors"] == []
        assert (host.folder / "audit.jsonl").stat().st_size == 0
    assert host.archived(host.vault) == "one\ntwo\n"


def test_links_are_not_followed(host: Host, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("shadow")
    (host.folder / "a.log").symlink_to(secret)
    (host.folder / "b.log-20260120T100000Z").symlink_to(secret)
    (host.folder / "sub").symlink_to(tmp_path)
    answer = host.run()
    assert answer["set_aside"] == answer["packed"] == [] and secret.read_text() == "shadow"
    assert [info.key for info in host.vault.list()] == []


def test_a_single_file_and_folders_below_and_two_roots(tmp_path: Path) -> None:
    host = Host(tmp_path, '\n[paths]\nlogs = ["/var/log/genesis", "/var/log/other/one.log"]\n')
    (host.folder / "sub").mkdir()
    host.write("deep\n", "sub/deep.log")
    other = tmp_path / "var/log/other"
    other.mkdir()
    (other / "one.log").write_text("one\n")
    (other / "two.log").write_text("not ours\n")
    assert host.run()["errors"] == []
    assert host.archived(host.vault, "genesis.sub/deep.log") == "deep\n"
    assert host.archived(host.vault, "other.one.log") == "one\n"
    (other / "one.log").write_text("more\n")
    host.run()
    assert host.archived(host.vault, "other.one.log") == "one\nmore\n"
    assert (other / "two.log").read_text() == "not ours\n"


def test_a_large_log_is_streamed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "IN_MEMORY", 10)
    monkeypatch.setattr(logs, "READ_BACK", 7)
    host.write("".join(f"{number}\n" for number in range(1000)))
    assert host.run()["errors"] == []
    assert host.archived(host.vault).splitlines()[-1] == "999"


def test_two_passes_at_a_time_are_one_too_many(host: Host) -> None:
    with backups.one_at_a_time(host.config, "logs"), pytest.raises(Refused, match="another logs"):
        host.run()


def test_a_pass_that_may_wait_begins_when_the_other_ends(host: Host) -> None:
    running, over = threading.Event(), threading.Event()

    def other() -> None:
        with backups.one_at_a_time(host.config, "mirror"):
            running.set()
            over.wait(10)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(other)
        assert running.wait(10)
        with pytest.raises(Refused), backups.one_at_a_time(host.config, "mirror", wait_s=0.3):
            pass
        over.set()
        with backups.one_at_a_time(host.config, "mirror", wait_s=10):
            first.result(10)


def test_the_fullest_disk_counts(host: Host) -> None:
    fs = os.statvfs(host.folder)
    used = 100 * (1 - fs.f_bavail / (fs.f_blocks - fs.f_bfree + fs.f_bavail))
    found = logs.disk_percent(host.config)
    assert found is not None and abs(found - used) < 2
