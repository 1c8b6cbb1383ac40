"""Every input and every trouble in docs/refusals.md, caused for real: the exit code, the words, and the live data as it
was. Real Litestream and restic, S3 on loopback; a full disk is a small file system."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lifeline import catalogue, points, room
from lifeline.errors import BadInput, LifelineError
from lifeline.host_stores import open_vault_store
from lifeline.layout import Config
from lifeline.model import Key
from lifeline.restores import Doors, Want, inspect, outline, restore, wanted
from lifeline.store import MemoryStore, Store
from lifeline.vault import open_store
from runbooks import restore as runbook
from runbooks.wanted import one_way
from tests.contract.replica_store import S3, store
from tests.contract.test_backups import Primary, ids, made
from tests.contract.test_restores import History, lived, prefix
from tests.unit.hostkit import FakeSupervisor
from tests.unit.world import World

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("restic") is None, reason="restic is not installed")]
PAGE = Path(__file__).resolve().parents[2] / "docs/refusals.md"
ROW = re.compile(r"^\| ([^|]+) \| (\d+) \| `([^`]+)` \|$", re.MULTILINE)


@dataclass(frozen=True)
class Said:
    """What the page says of one trouble."""

    code: int
    words: str

    def assert_says(self, error: LifelineError) -> None:
        pattern = ".*".join(map(re.escape, self.words.split("…")))
        assert re.search(pattern, error.message), f"{error.message!r} is not {self.words!r}"
        assert error.exit_code == self.code and error.hint


TABLE = {label.strip(): Said(int(code), words) for label, code, words in ROW.findall(PAGE.read_text())}


@dataclass
class Case:
    """A host whose database holds 1..30, and what is wanted of it in this trouble."""

    history: History
    folder: Path
    world: World
    monkeypatch: pytest.MonkeyPatch

    @property
    def primary(self) -> Primary:
        return self.history.primary

    @property
    def host(self) -> Config:
        return self.primary.host()

    def doors(self, vault: Callable[[], Store] | None = None) -> Doors:
        empty = MemoryStore("off-site")
        return Doors(vault or (lambda: open_vault_store(self.host)), lambda: empty)

    def restore(self, want: Want, config: Config | None = None, vault: Callable[[], Store] | None = None) -> Any:
        return restore(config or self.host, FakeSupervisor(), self.doors(vault), want)  # type: ignore[arg-type]

    def impatient(self, endpoint: str | None = None, key: Key | None = None) -> Store:
        vault = self.host.inventory.vault
        known = self.host.inventory.host("a").vault_key
        where = replace(vault, endpoint=endpoint or vault.endpoint)
        found = key or known
        assert found
        return open_store(where, found, direct=True, connect_s=1.0, read_s=0.5, attempts=1)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with store(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def history(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> History:
    return lived(made(s3, "refusals", tmp_path_factory))


@pytest.fixture
def case(history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(history, tmp_path, World(tmp_path / "world"), monkeypatch)


def never_comes(case: Case) -> None:
    wanted(1, "2999-01-01 00:00:00", None, None)


def nonsense(case: Case) -> None:
    for at in ("0001-01-01T00:00:00+14:00", "1969-12-31", "yesterday"):
        with pytest.raises(LifelineError):
            wanted(1, at, None, None)
    wanted(1, "yesterday", None, None)


def before_everything(case: Case) -> None:
    """And the moment that is named is one that can be had."""
    for source in (None, "vault", "local"):
        with pytest.raises(BadInput) as caught:
            case.restore(wanted(1, "2001-01-01 00:00:00", None, source))
        named = re.search(r"to be had is ([0-9: -]+) UTC", caught.value.message)
        assert named and named[1] in caught.value.hint
        found = inspect(case.host, case.doors(), wanted(1, named[1], None, source), case.folder / f"first-{source}")
        assert ids(Path(found["paths"]["trades"])) in ([], list(range(1, 11)))
    outline(case.host, case.doors(), wanted(1, "2001-01-01 00:00:00", None, None))


def before_what_answers(case: Case) -> None:
    """The vault may hold older data: nobody can say."""
    case.restore(wanted(1, "2001-01-01 00:00:00", None, None), vault=lambda: case.impatient("http://127.0.0.1:9"))


def unknown_host(case: Case) -> None:
    runbook.inspect(case.world.process(), "nobody:/var/tmp/copy")


def two_ways(case: Case) -> None:
    for more in ({"salvage": True}, {"before-corruption": True}, {"table": "trades", "dry-run": True}):
        with pytest.raises(LifelineError):
            one_way({"only": ["state"], **more})
    one_way({"table": "trades", "only": ["state"]})


def unknown_transaction(case: Case) -> None:
    case.restore(wanted(1, None, "99999999", "vault"))


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def full_disk(case: Case) -> None:
    if os.geteuid():
        pytest.skip("a file system can be mounted by root only")
    with small_disk(case.primary.path.parent / ".lifeline", "1m"):
        for want in (Want(1), wanted(1, None, None, "local"), wanted(1, None, None, "local", ["state"])):
            with pytest.raises(room.NoRoom):
                case.restore(want)
        assert outline(case.host, case.doors(), Want(1))["free_bytes"] <= 1 << 20
        case.restore(Want(1))


def no_memory(case: Case) -> None:
    case.monkeypatch.setattr(room, "memory_available", lambda: 150 << 20)
    case.restore(Want(1))


def with_key(config: Config, key: Key) -> Config:
    hosts = tuple(replace(host, vault_key=key) for host in config.inventory.hosts)
    return replace(config, inventory=replace(config.inventory, hosts=hosts))


def revoked_key(case: Case) -> None:
    gone = Key("revoked", "secret")
    with pytest.raises(LifelineError, match="refused this host's key"):
        case.restore(wanted(1, None, None, "snapshot"), with_key(case.host, gone))
    case.restore(Want(1, source="vault"), vault=lambda: case.impatient(key=gone))


def wrong_password(case: Case) -> None:
    password = case.host.layout.restic_password
    kept = password.read_text()
    password.write_text("another")
    try:
        case.restore(wanted(1, None, None, "local"))
    finally:
        password.write_text(kept)


class Busy(http.server.BaseHTTPRequestHandler):
    """A store that has too much to do."""

    def do_GET(self) -> None:
        body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def answers_503(case: Case) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            case.restore(
                Want(1, source="vault"), vault=lambda: case.impatient(f"http://127.0.0.1:{server.server_port}")
            )
        finally:
            server.shutdown()


def hangs(case: Case) -> None:
    with case.primary.store.outage():
        case.restore(Want(1, source="vault"), vault=case.impatient)


def vault_gone(case: Case) -> None:
    """What an operator's restore in place asks first."""
    outline(case.host, case.doors(lambda: case.impatient("http://127.0.0.1:9")), Want(1, source="local"))


CAUSES: dict[str, Callable[[Case], None]] = {
    "a time in the future": never_comes,
    "what is no time": nonsense,
    "a time before all there is": before_everything,
    "the same, and a source can't be asked": before_what_answers,
    "an unknown host": unknown_host,
    "options that don't go together": two_ways,
    "a transaction that isn't there": unknown_transaction,
    "a full disk": full_disk,
    "memory short": no_memory,
    "a revoked key": revoked_key,
    "a wrong restic password": wrong_password,
    "a store that answers 503": answers_503,
    "a store that hangs": hangs,
    "the vault gone, and a restore in place": vault_gone,
}


@pytest.mark.parametrize("label", TABLE)
def test_it_is_told_as_the_page_says_and_changes_nothing(case: Case, label: str) -> None:
    before = case.primary.path.read_bytes(), case.primary.state_file.read_bytes()
    with pytest.raises(LifelineError) as caught:
        CAUSES[label](case)
    TABLE[label].assert_says(caught.value)
    assert (case.primary.path.read_bytes(), case.primary.state_file.read_bytes()) == before
    assert case.history.live() == list(range(1, 31)) and not case.world.actions
    assert not case.host.layout.staged(case.host.service.databases[0]).exists()


def test_the_page_has_them_all() -> None:
    assert set(CAUSES) == set(TABLE)


# What is no refusal: it works, and says what it met.


def test_a_half_written_catalogue_is_gone_round_and_told(case: Case) -> None:
    primary = case.primary
    (key,) = catalogue.entry_keys(primary.store.keys(catalogue.root(primary.service)))
    whole = primary.store.read(key) or b""
    primary.store.write(key, whole[: len(whole) // 2])
    try:
        plan = outline(case.host, case.doors(), wanted(1, None, None, "local", ["state"]))
        assert "can't be read" in plan["remarks"][0]
        found = inspect(
            case.host, case.doors(), wanted(1, None, None, "local", ["state", "database"]), case.folder / "a"
        )
        assert ids(Path(found["paths"]["trades"])) == list(range(1, 11)) and found["files"] == 1
    finally:
        primary.store.write(key, whole)


def test_a_torn_upload_of_a_large_object_is_no_object(case: Case) -> None:
    """Parts of a multipart upload that never ended, where the next file and the next snapshot would be."""
    client, bucket = case.primary.store.client, case.primary.store.destination.bucket
    before = points.plan(open_vault_store(case.host), case.primary.service, 1, "trades")
    following = f"{before.txid + 1:016x}"
    begun = []
    for level, first in (("0000", following), ("0009", f"{1:016x}")):
        key = f"{prefix(case.primary, level)}/{first}-{following}.ltx"
        upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"LTX1" + bytes(5 << 20))
        begun.append({"Bucket": bucket, "Key": key, "UploadId": upload})
    try:
        assert points.plan(open_vault_store(case.host), case.primary.service, 1, "trades") == before
        found = inspect(case.host, case.doors(), Want(1), case.folder / "look")
        assert found["txids"]["trades"] == before.txid and ids(Path(found["paths"]["trades"])) == list(range(1, 31))
    finally:
        for one in begun:
            client.abort_multipart_upload(**one)


def test_a_log_that_is_gone_takes_nothing_that_was_replicated(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> None:
    history = lived(made(s3, "no-wal", tmp_path_factory))
    for name in ("trades.db-wal", "trades.db-shm"):
        history.primary.path.with_name(name).unlink()
    try:
        left = history.live()
    except Exception:  # not even a table is left of it
        left = []
    assert len(left) < 30
    history.restore(Want(1))
    assert history.live() == list(range(1, 31))


def test_the_earliest_moment_is_told_by_the_second_that_has_it(case: Case) -> None:
    first = points.first(open_vault_store(case.host), case.primary.service, 1, "trades")
    assert first and datetime.now(UTC) - first < timedelta(minutes=30)
    found = points.at(open_vault_store(case.host), case.primary.service, 1, "trades", first)
    assert points.plan(open_vault_store(case.host), case.primary.service, 1, "trades", txid=found.txid).bytes
    with pytest.raises(points.NothingOldEnough):
        points.at(open_vault_store(case.host), case.primary.service, 1, "trades", first - timedelta(milliseconds=1))
