"""Rebuild: what is refused, what is decided, and a site made anew around its vault, killed after every action.

The real thing is `fab drill --scenario rebuild`; Pulumi's part is in tests/contract/test_pulumi.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pulumi
import pytest

from infra import adopt
from lab.providers.digitalocean import configure
from lifeline import inventory as inventories
from lifeline import standing
from lifeline.errors import BadConfig, BadInput, LifelineError, Refused, Unavailable
from lifeline.inventory import Loaded
from lifeline.model import ADOPT, Finding, Inventory, Lease
from lifeline.runbook import Step
from lifeline.service import Service
from lifeline.standing import BUCKET, RECORD, SPACES, Address, Standing
from lifeline.store import MemoryStore
from runbooks import break_glass
from runbooks import rebuild as runbook
from runbooks.infrastructure import Data, newest_prefix
from runbooks.rebuild import another, decide, our_records, rebuild, refuse_the_living
from tests.unit.world import NEW, OLD, SERVICE_TOML, HostState, Killed, World, inventory_json

AT = datetime(2025, 12, 31, 23, 59, 58, tzinfo=UTC)
DATA = Data("vault", 1, {"trades": 7}, AT)
LOST = Inventory.from_json(inventory_json())
ACTIONS = ["lease", "key", "aws-key", "bring-up", "restore", "start-primary", "record", "start-standby", "backup"]


@dataclass
class Clouds:
    """The infrastructure as a rebuild meets it: nothing but the buckets, until it is brought up."""

    world: World
    there: Standing = field(default_factory=lambda: {SPACES: {"v": "ams3,v"}, BUCKET: {"l": "l", "o": "o"}})
    records: list[Address] = field(default_factory=list)
    found: Data = DATA
    state: list[tuple[str, str]] = field(default_factory=list)
    aws_keys: set[str] = field(default_factory=lambda: {"OK1", "OK2"})
    taken_over: list[Standing] = field(default_factory=list)
    made: Callable[[dict[str, Any]], None] = lambda document: None  # what is otherwise in what is made

    def known(self) -> list[tuple[str, str]]:
        return list(self.state)

    def standing(self) -> Standing:
        return self.there

    def addresses(self, domain: str) -> list[Address]:
        return self.records

    def bring_up(self, take_over: Standing, say: Callable[[str], None]) -> None:
        self.taken_over.append(take_over)
        if not self.state:
            self.world.act("bring-up", self._make)

    def _make(self) -> None:
        document = inventory_json()
        for number, host in enumerate(document["hosts"], 1):
            host |= {"droplet_id": f"2{number}", "address": f"198.18.{number}.20"}
            host["vault_key"] = {"access_key": f"NEW{number}", "secret_key": "new"}
        self.made(document)
        world = self.world
        world.inventory = Inventory.from_json(document)
        world.power = {host.droplet_id: "active" for host in world.inventory.hosts}
        world.hosts = {OLD: HostState(empty=True), NEW: HostState(empty=True)}
        self.state = [("t", "n")]

    def inventory(self) -> Inventory:
        return self.world.inventory

    def data(self, service: Service) -> Data:
        assert service.name == "genesis"
        return self.found

    def owner(self, access_key: str) -> str | None:
        return "a-user" if access_key in self.aws_keys else None

    def revoke(self, access_key: str) -> None:
        self.world.act("aws-key", lambda: self.aws_keys.discard(access_key))


class Provisioned:
    """Hosts are as they must be: tests/unit/test_provision.py has the real steps."""

    def __init__(self, world: World) -> None:
        self.world = world

    def steps(self) -> list[Step]:
        return [Step(f"provisioned {number}", lambda: Finding.passed("so")) for number in range(10)]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Both droplets are gone."""
    phrase = tmp_path / "phrase"
    phrase.write_text("correct horse")
    monkeypatch.setenv("LIFELINE_PASSPHRASE_FILE", str(phrase))
    world = World(tmp_path)
    prepare(world.root)
    world.power.clear()
    monkeypatch.setattr(runbook, "_provisioning", lambda site, token: Provisioned(world))
    return world


def prepare(root: Path) -> None:
    (root / "services/genesis").mkdir(parents=True)
    (root / "services/genesis/service.toml").write_text(SERVICE_TOML)
    (root / "services/genesis/lab.env").write_text("A=b\n")


def run(world: World, clouds: Clouds, **options: Any) -> str:
    """One operator's process, over the lost inventory; what it said."""
    site = world.process()
    site.loaded = Loaded(LOST, "the safe")
    fresh = StringIO()

    def reopen(loaded: Loaded) -> Any:
        made = world.process()
        made.loaded, made.out = loaded, fresh
        return made

    rebuild(site, clouds, reopen, **{"yes": True, **options})
    assert isinstance(site.out, StringIO)
    return site.out.getvalue() + fresh.getvalue()


def test_the_site_comes_back_around_its_vault(world: World) -> None:
    clouds = Clouds(world)
    said = run(world, clouds)
    assert set(world.actions) == set(ACTIONS) and list(world.actions)[:3] == ["lease", "key", "aws-key"]
    assert world.lease is not None and (world.lease.holder, world.lease.epoch) == (OLD, 2)
    assert world.hosts[OLD].role == "primary" and world.hosts[OLD].live_epoch == 2
    assert world.address == "198.18.1.20" and world.keys == set() and clouds.aws_keys == set()
    assert clouds.taken_over == [clouds.there]
    assert world.words == [("--epoch", "1")]  # what it restored: the end of the old epoch, from the freshest source
    assert "Newest data: vault, epoch 1: trades to transaction 7, written 2025-12-31 23:59:58 UTC, 2 s ago" in said
    assert f"{OLD} serves genesis as epoch 2; {NEW} follows" in said and "next: fab validate" in said
    assert "Recovery time:" in said and "Not brought back" in said and "RPO: 0, as nothing" in said
    assert inventories.from_cache(world.root, "lab").inventory.hosts[0].droplet_id == "21"


def test_a_host_of_old_has_the_time_to_stop_itself(world: World) -> None:
    run(world, Clouds(world))
    assert world.clock.now >= world.inventory.policy.self_fence_s


@pytest.mark.parametrize("crash_after", range(1, len(ACTIONS) + 2))
def test_killed_after_any_action_it_resumes_also_from_another_keyboard(
    world: World, tmp_path: Path, crash_after: int
) -> None:
    clouds = Clouds(world)
    world.crash_after = crash_after
    with pytest.raises(Killed):
        run(world, clouds)
    world.crash_after, world.root = None, tmp_path / "elsewhere"
    prepare(world.root)
    run(world, clouds)
    assert world.lease is not None and (world.lease.holder, world.lease.epoch) == (OLD, 2)
    assert world.hosts[OLD].live_epoch == 2 and world.address == "198.18.1.20"
    once = {name: count for name, count in world.actions.items() if name not in ("key", "aws-key", "backup")}
    assert set(once.values()) == {1}, once


def test_a_dry_run_changes_nothing(world: World) -> None:
    said = run(world, Clouds(world), dry_run=True)
    assert not world.actions and "Then, on the new hosts" in said and "Kept as it is: bucket v." in said


def test_nothing_is_rebuilt_beside_a_host_that_lives(world: World) -> None:
    world.power["2"] = "off"
    with pytest.raises(Refused, match=r"backup-singapore \(droplet 2\) is off: lab isn't lost") as refused:
        run(world, Clouds(world))
    assert "fab failover" in refused.value.hint and not world.actions


def test_what_an_earlier_rebuild_made_is_its_own_and_a_stranger_of_that_name_is_not() -> None:
    refuse_the_living(LOST, {OLD: ("21", "active")}, resumed=True)
    for droplet, resumed in (("21", False), ("1", True)):
        with pytest.raises(Refused, match="Nothing was touched"):
            refuse_the_living(LOST, {OLD: (droplet, "active")}, resumed=resumed)


def test_a_record_of_somebody_else_is_not_taken_over(world: World) -> None:
    stale = [Address("trade", "198.18.1.10", "7"), Address("mail", "203.0.113.9", "8")]
    assert our_records(LOST, stale) == stale[:1]
    clouds = Clouds(world, records=[Address("trade", "203.0.113.9", "7")])
    with pytest.raises(Refused, match=r"leads to 203\.0\.113\.9") as refused:
        run(world, clouds)
    assert "doctl compute domain records delete genesis.test 7" in refused.value.hint and not world.actions
    clouds.state = [(RECORD, "trade")]  # by a state it is ours, wherever it leads
    run(world, clouds, dry_run=True)


def test_what_a_state_knows_is_not_taken_over_again(world: World) -> None:
    clouds = Clouds(world, records=[Address(OLD, "198.18.1.10", "7")], state=[(SPACES, "v"), (BUCKET, "l")])
    clouds._make()
    world.power.clear()  # the droplets that it knew are gone: `up --refresh` makes them
    world.inventory = LOST
    clouds.state = [(SPACES, "v"), (BUCKET, "l")]
    with pytest.raises(LifelineError):
        run(world, clouds)
    assert clouds.taken_over == [{BUCKET: {"o": "o"}, RECORD: {OLD: "genesis.test,7"}}]


def lease(holder: str, epoch: int, run_id: str = "", ttl: float = 30) -> Lease:
    return Lease("genesis", holder, epoch, ttl, 5, 9, "operator:me", run_id)


RUN = "20260101T000000Z-rebuild-abc"


@pytest.mark.parametrize(
    ("held", "newest", "alive", "decided"),
    [
        (lease(NEW, 4), 4, False, (OLD, 4, 5, False)),  # home, whoever was primary
        (lease(NEW, 4), 3, False, (OLD, 4, 5, False)),  # the holder never wrote: older epochs are looked through
        (lease(NEW, 4, ttl=0), 4, False, (OLD, 4, 5, False)),
        (lease(OLD, 5, RUN), 4, False, (OLD, 4, 5, True)),  # killed before anything was made
        (lease(OLD, 5, RUN), 4, True, (OLD, 4, 5, True)),
        (lease(OLD, 5, RUN), 5, True, (OLD, 4, 5, True)),  # it served already
        (lease(OLD, 5, RUN), 5, False, (OLD, 5, 6, False)),  # it served, and was lost as well
        (None, 4, False, (OLD, 4, 5, False)),  # the lease went with its bucket
    ],
)
def test_which_epoch_is_restored_and_which_served(
    held: Lease | None, newest: int, alive: bool, decided: tuple[str, int, int, bool]
) -> None:
    assert decide(LOST, held, Data("vault", newest, {}, AT), alive) == decided


def test_without_anything_or_with_what_does_not_fit_it_is_refused() -> None:
    with pytest.raises(Refused, match="nothing to rebuild from: no lease, and the vault is empty"):
        decide(LOST, None, Data(tried=("the vault is empty",)), False)
    with pytest.raises(Refused, match="of epoch 7, and the lease is of epoch 4"):
        decide(LOST, lease(OLD, 4), Data("vault", 7), False)


def test_a_lease_that_went_with_its_bucket_goes_on_behind_the_last_epoch(world: World) -> None:
    world.lease = None
    clouds = Clouds(world, there={SPACES: {"v": "ams3,v"}}, found=replace(DATA, epoch=6))
    said = run(world, clouds)
    assert "GONE, and made anew, empty: bucket l." in said
    assert list(world.actions).index("bring-up") < list(world.actions).index("lease")
    assert world.lease is not None and world.lease.epoch == 7 and world.hosts[OLD].live_epoch == 7


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda made: made["vault"].update(bucket="other"), "its vault is other, not v"),
        (lambda made: made["offsite"].update(lease_bucket="m"), "its lease is in m"),
        (lambda made: made["hosts"][1].update(name="x"), f"its hosts are {OLD}, x"),
        (lambda made: made["hosts"][0].update(host_key="ssh-ed25519 BBBB"), f"{OLD} has another host key"),
    ],
)
def test_another_seed_makes_another_site_and_that_is_no_rebuild(
    world: World, change: Callable[[dict[str, Any]], None], why: str
) -> None:
    document = inventory_json()
    change(document)
    assert why in another(LOST, Inventory.from_json(document))
    with pytest.raises(Refused, match=why):
        run(world, Clouds(world, made=change))
    assert "restore" not in world.actions and not inventories.cache_path(world.root, "lab").exists()


def test_the_lease_store_away_means_nothing_is_begun(world: World) -> None:
    world.down.add("lease")
    with pytest.raises(Unavailable):
        run(world, Clouds(world))
    assert not world.actions


def test_an_unknown_waiver_is_refused(world: World) -> None:
    with pytest.raises(BadInput, match="no waiver"):
        run(world, Clouds(world), waive=("fence",))


# -- settings that only a backup has


def test_settings_are_fetched_where_only_a_backup_has_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.root / "services/genesis/lab.env").unlink()

    def copy(root: Path, inventory: Inventory, want: Any, target: Path, *_: Any) -> dict[str, Any]:
        assert want.only == ("configuration",)
        (target / "etc/lifeline").mkdir(parents=True)
        (target / "etc/lifeline/service.env").write_text("KEY=of the backup\n")
        return {}

    monkeypatch.setattr(runbook, "copy_here", copy)
    assert not runbook.saved_settings(world.process())
    noted = {"/etc/lifeline/service.env": {"bytes": 12}}
    entry = {"version": 2, "kind": "full", "at": "2026-01-01T02:00:00Z", "files": {"configuration": noted}}
    world.vault["catalogue/genesis/20260101T020000Z-full.json"] = json.dumps(entry).encode()
    run(world, Clouds(world))
    kept = inventories.folder(world.root, "lab") / "service.env"
    assert kept.read_text() == "KEY=of the backup\n" and kept.stat().st_mode & 0o777 == 0o600


# -- what stands


def test_what_stands_is_listed_to_the_last_page() -> None:
    names = [f"t{number}" for number in range(450)]

    def call(method: str, path: str, *, params: dict[str, str]) -> Any:
        assert (method, path) == ("GET", "/v2/tags")
        size, page = int(params["per_page"]), int(params["page"])
        return {"tags": [{"name": name} for name in names[(page - 1) * size : page * size]]}

    assert [one["name"] for one in standing.listed(call, "/v2/tags", "tags")] == names


def test_what_no_state_knows_by_type_and_label() -> None:
    there: Standing = {"a:b:C": {"x": "1", "y": "2"}, "a:b:D": {"x": "3"}}
    assert standing.without(there, [("a:b:C", "x"), ("a:b:D", "x")]) == {"a:b:C": {"y": "2"}}
    assert standing.label(BUCKET, {"bucket": "l", "name": "n"}) == "l"
    assert standing.label("a:b:C", {"name": {"secret": 1}}) is None


def test_a_resource_that_stands_is_imported_as_it_is_and_others_are_made() -> None:
    transform = adopt.taking_over(adopt.standing({ADOPT: json.dumps({BUCKET: {"l": "the-id"}})}))

    def options(type_: str, props: dict[str, Any]) -> pulumi.ResourceOptions | None:
        given = pulumi.ResourceOptions(protect=True)
        args = pulumi.ResourceTransformationArgs(None, type_, "r", props, given)  # type: ignore[arg-type]
        found = transform(args)
        return found.opts if found else None

    found = options(BUCKET, {"bucket": "l", "tags": None})
    assert found is not None and found.import_ == "the-id" and found.protect
    assert found.ignore_changes == ["bucket", "tags"]
    assert options(BUCKET, {"bucket": "m"}) is None
    assert options("other:index:Thing", {"bucket": "l"}) is None
    assert adopt.standing({}) == {}


def test_the_stand_ins_import_by_the_real_providers_ids() -> None:
    kinds = configure({"token": "t", "apiEndpoint": "http://127.0.0.1:9"}, {})
    assert kinds[RECORD].imported("genesis.test,7") == ("7", {"domain": "genesis.test"})
    assert kinds["digitalocean:index/tag:Tag"].imported("x") == ("x", {})
    assert kinds[SPACES].imported("ams3,v") == ("v", {"region": "ams3"})
    with pytest.raises(Exception, match="is not domain,id"):
        kinds[RECORD].imported("7")


def test_the_newest_epoch_is_found_whatever_is_in_the_others() -> None:
    store = MemoryStore()
    assert newest_prefix(store, "genesis") == 0
    for epoch, name in ((1, "owner.json"), (1, "trades/0/x"), (3, "owner.json"), (12, "trades/9/y")):
        store.put(f"replica/genesis/epoch-{epoch:04d}/{name}", b"")
    store.put("replica/genesis-two/epoch-0099/owner.json", b"")
    assert newest_prefix(store, "genesis") == 12


def test_typed_again_on_the_machine_that_began_it_a_rebuild_goes_on_from_the_lost_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is of what was made by then; nobody there has named a vault."""
    for name in ("LIFELINE_VAULT_BUCKET", "LIFELINE_OFFSITE_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    made = replace(LOST, hosts=tuple(replace(host, droplet_id=f"2{host.droplet_id}") for host in LOST.hosts))
    inventories.save(tmp_path, made)
    asked: list[tuple[str, str]] = []

    def sealed(stack: str, where: Any, keys: str) -> Loaded:
        asked.append((where.bucket, keys))
        if keys == "SPACES":
            raise Unavailable("it went with its bucket")
        return Loaded(LOST, "off-site")

    monkeypatch.setattr(break_glass, "_sealed", sealed)
    assert break_glass.remaining(tmp_path, "lab").inventory == LOST
    assert asked == [(LOST.vault.bucket, "SPACES"), (LOST.offsite.bucket, "AWS")]
    monkeypatch.setattr(break_glass, "_sealed", no_passphrase)
    assert break_glass.remaining(tmp_path, "lab").inventory == made


def no_passphrase(*_: Any) -> Loaded:
    raise BadConfig("no passphrase here")


def test_the_vaults_inventory_comes_before_the_off_site_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def sealed(stack: str, where: Any, keys: str) -> Loaded:
        asked.append(keys)
        if keys == "SPACES":
            raise Unavailable("the vault is away")
        return Loaded(LOST, "off-site")

    monkeypatch.setattr(break_glass, "_sealed", sealed)
    for name in ("LIFELINE_VAULT_BUCKET", "LIFELINE_VAULT_ENDPOINT", "LIFELINE_OFFSITE_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LifelineError, match="no inventory for stack lab"):
        break_glass.remaining(tmp_path, "lab")
    for name in ("VAULT_BUCKET", "VAULT_ENDPOINT", "OFFSITE_BUCKET", "OFFSITE_REGION"):
        monkeypatch.setenv(f"LIFELINE_{name}", "x")
    assert break_glass.remaining(tmp_path, "lab").origin == "off-site" and asked == ["SPACES", "AWS"]
    monkeypatch.delenv("LIFELINE_OFFSITE_BUCKET")
    with pytest.raises(Unavailable, match="no inventory is left: the vault is away"):
        break_glass.remaining(tmp_path, "lab")
