"""The off-site vault, its mirror and its pruning: real Litestream and restic, an S3 store under Object Lock, and hosts
with no more rights there than the stack gives them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from infra.offsite import policy
from lab import ageing
from lab.config import KeyPair
from lab.identities import Identity
from lifeline import backups, catalogue, offsite, points, proc, proving, prune, rebuild, sentinel, snapshots
from lifeline.errors import Refused, Unavailable
from lifeline.layout import Config, write_role
from lifeline.model import Key, Lease, StoreRef
from lifeline.store import Info, MemoryStore, Store
from lifeline.vault import open_store
from runbooks.provision import restic_password
from runbooks.prune_offsite import copies, prune_offsite
from tests.contract.replica_store import S3, store, wait
from tests.contract.stores import OPERATOR, Running, aws_spec, outcome, running
from tests.contract.test_backups import Hammer, Primary, ids, primary  # noqa: F401
from tests.contract.test_proving import prove
from tests.unit.world import World

pytestmark = pytest.mark.slow
BUCKET, HOST_KEY = "offsite", KeyPair("AKIAHOST", "host-secret")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with store(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """As the stack declares it: versions, and a lock of 30 days on each."""
    with running(aws_spec(tmp_path_factory.mktemp("aws")), "us-east-2") as made:
        retention: Any = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 30}}
        made.client().create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
        made.client().put_object_lock_configuration(
            Bucket=BUCKET, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": retention}
        )
        yield made


@dataclass(frozen=True)
class Away:
    """The off-site vault as this primary's host may use it."""

    aws: Running
    config: Config

    @property
    def store(self) -> Store:
        return open_store(self.aws.ref(BUCKET), Key(HOST_KEY.access_key, HOST_KEY.secret_key), direct=True)

    @property
    def repository(self) -> snapshots.Repository:
        return backups.repositories(self.config)["offsite"]


@pytest.fixture
def away(aws: Running, primary: Primary) -> Away:  # noqa: F811
    rights = json.loads(policy(BUCKET, "lease", primary.service))
    aws.spec.identities().apply([Identity("host", (HOST_KEY,), {"lifeline": rights})], within_s=10)
    return Away(aws, with_offsite(primary.host(), aws.ref(BUCKET)))


def with_offsite(config: Config, ref: StoreRef) -> Config:
    key = Key(HOST_KEY.access_key, HOST_KEY.secret_key)
    hosts = tuple(replace(host, offsite_key=key) for host in config.inventory.hosts)
    return replace(config, inventory=replace(config.inventory, hosts=hosts, offsite=ref))


def opened(s3: S3) -> Store:
    to = s3.destination
    ref = StoreRef(to.bucket, "us-east-1", to.endpoint, True)
    return open_store(ref, Key(to.access_key, to.secret_key), direct=True)


def lived(primary: Primary, config: Config | None = None) -> list[int]:  # noqa: F811
    """A replica with compacted levels and a backup; returns its rows."""
    sentinel.write(config or primary.host())
    with primary.replicating(), Hammer(primary):
        wait(primary.newest, 20, "a replica")
        backups.backup(config or primary.host(), primary.store, "full", progress=lambda _: None)
        wait(lambda: any(True for _ in primary.store.keys(f"{replica_of(primary)}/0009/")), 20, "a snapshot")
    return ids(primary.path)


def replica_of(primary: Primary) -> str:  # noqa: F811
    return f"replica/{primary.service}/epoch-{primary.epoch:04d}/trades"


def restores(primary: Primary, copy: Store, folder: Path) -> list[int]:  # noqa: F811
    """A replica's end, read from that store alone."""
    plan = points.plan(copy, primary.service, primary.epoch, "trades")
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "copy.db"
    output.unlink(missing_ok=True)
    rebuild.rebuild(copy, plan, output)
    return ids(output)


def test_what_is_off_site_restores_from_there_alone(primary: Primary, away: Away, tmp_path: Path) -> None:  # noqa: F811
    """Under Object Lock, with the rights of a host."""
    rows = lived(primary, away.config)
    vault = opened(primary.store)
    report = offsite.mirror(away.config, vault, away.store, 1)
    assert report["objects"] >= 2 and len(report["snapshots"]) == 1
    assert report["replica"]["databases"]["trades"]["txid"] > 0 and report["checked"]["holes"] == []
    got = restores(primary, away.store, tmp_path)
    assert got and got == rows[: len(got)]
    done = proc.run(snapshots.check_argv(away.repository, 100), timeout=120, env=away.repository.environment)
    assert done.ok, done.reason
    again = offsite.mirror(away.config, vault, away.store, 1)
    assert again["objects"] == 0 and again["requests"]["offsite"] == {}
    note = catalogue.parse("x", primary.store.read(catalogue.offsite_key(primary.service)) or b"")
    assert note["snapshots"] == report["snapshots"]
    for key in (f"{replica_of(primary)}/0009/", f"{snapshots.prefix(primary.service)}data/", "catalogue/"):
        there = next(info.key for info in away.store.list(key))
        assert outcome(aws_client(away, HOST_KEY).delete_object, Bucket=BUCKET, Key=there) == "AccessDenied"


def aws_client(away: Away, key: KeyPair) -> Any:
    return away.aws.client(key)


def offsite_verdicts(primary: Primary, config: Config) -> list[tuple[str, str, str]]:  # noqa: F811
    """Of the weekly verification, what it restores from there."""
    with_away = open_store(config.inventory.offsite, config.inventory.hosts[0].offsite_key, direct=True)  # type: ignore[arg-type]
    proof = proving.Proof(opened(primary.store), backups.repositories(config), primary.epoch, with_away)
    report = proving.prove(config, primary.store, proof, weekly=True, progress=lambda _: None)
    assert report["rpo_offsite_measured_s"] is not None
    found = [one for one in report["points"] if one["source"] == "offsite"]
    return [(one["what"], one["verdict"], one["says"] if one["verdict"] != "PASS" else "") for one in found]


GOOD = [("newest", "PASS", ""), ("entry", "PASS", "")]


@dataclass(frozen=True)
class Holds:
    """A lease of that epoch."""

    epoch: int

    def read(self) -> Lease:
        return Lease("x", "a", self.epoch, 30.0, 5.0, 1, "operator:x", "run")


def test_the_operator_lets_go_of_what_is_beyond_the_policy_and_the_rest_restores(
    primary: Primary,  # noqa: F811
    away: Away,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An epoch and a backup grow 400 days old, by the store's own dates; then comes a new epoch, with a backup."""
    monkeypatch.setenv("LIFELINE_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    (tmp_path / "passphrase").write_text("correct horse")
    away.config.layout.restic_password.write_text(restic_password("correct horse", "test"))
    vault, service = opened(primary.store), primary.service
    lived(primary, away.config)
    offsite.mirror(away.config, vault, away.store, 1)
    ageing.age(away.aws.spec, BUCKET, 400)
    prune.remove_epoch(vault, service, 1)

    second: Primary = replace(primary, epoch=2)
    write_role(away.config.layout, "primary", 2)
    rows = lived(second, away.config)
    beyond = offsite.mirror(away.config, vault, away.store, 2)["checked"]["beyond"]
    assert beyond["epochs"] == []  # nothing was restored from there yet
    assert offsite_verdicts(second, away.config) == GOOD

    for name, key in (("AWS", OPERATOR), ("SPACES", KeyPair("loopback", "loop$back-secret"))):
        monkeypatch.setenv(f"{name}_ACCESS_KEY_ID", key.access_key)
        monkeypatch.setenv(f"{name}_SECRET_ACCESS_KEY", key.secret_key)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site, inventory = World(tmp_path).process(), replace(away.config.inventory, service=service)
    site.loaded = replace(site.loaded, inventory=inventory)
    site.leases = Holds(2)  # type: ignore[assignment]
    real = copies(inventory)
    before = {info.key for info in away.store.list()}
    with pytest.raises(Refused):
        prune_offsite(site, real, ask=lambda _: "")
    assert {info.key for info in away.store.list()} == before
    found = prune_offsite(site, real, yes=True)
    assert found.epochs == (1,) and len(found.snapshots) == 1
    assert isinstance(site.out, StringIO) and "are gone" in site.out.getvalue()

    left = {info.key for info in away.store.list()}
    assert not any(key.startswith(f"replica/{service}/epoch-0001/") for key in left)
    got = restores(second, away.store, tmp_path)
    assert got and got == rows[: len(got)]
    assert offsite_verdicts(second, away.config) == GOOD
    done = proc.run(snapshots.check_argv(away.repository, 100), timeout=120, env=away.repository.environment)
    assert done.ok, done.reason
    # What it hid last, the packs of the new backup that were repacked among them, is locked still.
    newest = next(info.key for info in away.store.list(f"{replica_of(second)}/0009/"))
    (version,) = aws_client(away, OPERATOR).list_object_versions(Bucket=BUCKET, Prefix=newest)["Versions"]
    removed = outcome(
        aws_client(away, OPERATOR).delete_object, Bucket=BUCKET, Key=newest, VersionId=version["VersionId"]
    )
    assert removed == "AccessDenied"


class Dies(MemoryStore):
    """An off-site vault whose host dies before the n-th write."""

    def __init__(self, writes: int) -> None:
        super().__init__("away")
        self.left = writes

    def _write(self, key: str, body: bytes) -> str:
        if self.left == 0:
            raise Unavailable("the host died")
        self.left -= 1
        return super()._write(key, body)


def test_cut_off_at_any_write_what_is_there_is_whole_and_the_next_pass_ends_it(
    primary: Primary,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(offsite, "COARSE", (*offsite.COARSE, points.FINE))  # a replica of seconds has no coarser ones
    rows = lived(primary)
    config, vault = primary.host(), opened(primary.store)
    for writes in itertools.count():
        (config.layout.state / "offsite-known.json").unlink(missing_ok=True)
        copy = Dies(writes)
        try:
            offsite.mirror(config, vault, copy, 1)
            break
        except Unavailable:
            pass
        try:
            plan = points.plan(copy, primary.service, 1, "trades")
        except Exception:
            plan = None
        if plan is not None:
            output = tmp_path / f"{writes}.db"
            rebuild.rebuild(copy, plan, output)
            assert ids(output) == rows[: len(ids(output))]
        copy.left = 10_000
        offsite.mirror(config, vault, copy, 1)
        assert points.plan(copy, primary.service, 1, "trades").txid > 0
    assert writes > 5


def test_a_vault_that_was_emptied_empties_nothing(primary: Primary) -> None:  # noqa: F811
    lived(primary)
    config, copy = primary.host(), MemoryStore("away")
    offsite.mirror(config, opened(primary.store), copy, 1)
    before = {info.key for info in copy.list()}
    offsite.mirror(config, MemoryStore("emptied"), copy, 1)
    (config.layout.state / "offsite-known.json").unlink()
    offsite.mirror(config, MemoryStore("emptied"), copy, 1)
    assert before <= {info.key for info in copy.list()}


def test_a_big_object_is_streamed_in_parts() -> None:
    source, body = MemoryStore("vault"), bytes(range(256)) * (80 << 10)
    source.put("big", body)
    info: Info = source.head("big")  # type: ignore[assignment]
    copy, tally = MemoryStore("away"), offsite.Tally()
    offsite.copy(source, copy, info, tally)
    assert copy.get("big").body == body and (tally.objects, tally.bytes) == (1, len(body))


def test_pruning_lets_go_of_old_snapshots_once_one_is_proved_and_of_fine_points(primary: Primary) -> None:  # noqa: F811
    config, vault = primary.host(), opened(primary.store)
    assert prune.prune_local(config, vault)["snapshots"] == {}  # a standby that was never primary
    lived(primary)
    first = backups.backup(config, primary.store, "full", progress=lambda _: None)
    later = datetime.now(UTC) + timedelta(days=400)
    assert prune.prune(config, vault, 1, now=later)["snapshots"] == {"vault": [], "local": []}
    backups.backup(config, primary.store, "full", progress=lambda _: None)
    proved = [one for one in prove(primary)["points"] if one["source"] == "snapshot"]  # type: ignore[attr-defined]
    assert proved[0]["verdict"] == "PASS"
    plan = prune.prune(config, vault, 1, now=later, dry_run=True)
    assert len(plan["snapshots"]["vault"]) == 2 and plan["epochs"] == []
    listed = backups.repositories(config)["vault"]
    count = json.loads(backups.restic(listed, snapshots.list_argv(listed), "list"))
    assert len(count) == 3  # a dry run lets go of nothing
    away = prune.prune_local(config, vault, now=later)  # as a standby: its own, and nothing of the vault's
    assert away["snapshots"] == {"local": plan["snapshots"]["local"]} and len(away["snapshots"]["local"]) == 2
    assert len(json.loads(backups.restic(listed, snapshots.list_argv(listed), "list"))) == 3
    done = prune.prune(config, vault, 1, now=later)
    assert any(one.startswith(first["copies"]["vault"]["snapshot"]) for one in done["snapshots"]["vault"])
    assert len(json.loads(backups.restic(listed, snapshots.list_argv(listed), "list"))) == 1
    held = catalogue.holding_keys(primary.service, primary.store.keys(catalogue.root(primary.service)))
    seen = {key: catalogue.parse(key, primary.store.read(key) or b"") for key in held}
    kept = catalogue.joined([(str(first["catalogue"]), first)], [], None, seen)[0].where
    assert len(seen) == 2 and not {"vault", "local"} & {*kept}  # though its entry were still there
    assert len(catalogue.entry_keys(primary.store.keys(catalogue.root(primary.service)))) == 1
    left = [one["verdict"] for one in prove(primary)["points"] if one["source"] == "snapshot"]  # type: ignore[attr-defined]
    assert left == ["PASS"]


def test_fine_points_go_when_the_coarser_level_has_them(primary: Primary, tmp_path: Path) -> None:  # noqa: F811
    rows = lived(primary)
    vault, folder = opened(primary.store), replica_of(primary)
    fine = list(primary.store.keys(f"{folder}/0001/"))
    assert len(fine) > 2
    later = datetime.now(UTC) + timedelta(days=2)
    for key in list(primary.store.keys(f"{folder}/0002/")):  # a half minute may have ended meanwhile
        primary.store.delete(key)
    assert list(points.expired_fine(vault, primary.service, 1, "trades", later)) == []  # nothing coarser has them
    # As the next level would: the same transactions in one file.
    last = fine[-1].rsplit("/", 1)[1][17:33]
    primary.store.write(f"{folder}/0002/{1:016x}-{last}.ltx", b"its content doesn't matter here")
    gone = list(points.expired_fine(vault, primary.service, 1, "trades", later))
    assert gone == fine[:-1]  # Litestream goes on from the last one
    primary.store.delete(f"{folder}/0002/{1:016x}-{last}.ltx")
    assert restores(primary, opened(primary.store), tmp_path)[:1] == rows[:1]
