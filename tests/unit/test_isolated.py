"""An isolated copy: how it is called, what its stack file says, what is copied for it, and that nothing of it is left.

The real thing is in tests/drills/test_isolated.py, also with the drill killed amid `pulumi up`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import config
from lab.isolated import held
from lifeline import ltx
from lifeline.errors import BadConfig, Refused, StepFailed
from lifeline.model import Inventory, Key
from lifeline.service import Service
from lifeline.store import MemoryStore, Missing
from runbooks import isolated
from runbooks.isolated import Copy, admit, copy_of, derive, free_ranges, noted, tear_down, write_note
from runbooks.isolating import take
from runbooks.stack import Locked
from tests.unit.world import SERVICE_TOML, FakeClock, World, inventory_json

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LAB = Inventory.from_json(inventory_json())
COPY = copy_of(LAB, NOW)
CHECKOUT = Path(__file__).resolve().parents[2]


def settings(stack: str = "lab") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHECKOUT / f"stacks/Pulumi.{stack}.yaml").read_text())["config"]
    return found


def test_its_names_are_its_own_and_no_other_stacks() -> None:
    assert (COPY.stack, COPY.of, COPY.domain) == ("lab-drill", "lab", "lab-drill.genesis.test")
    assert not set(COPY.hosts) & {host.name for host in LAB.hosts}
    assert COPY.owns("genesis-lab-drill") and COPY.owns("genesis-lab-drill: disk above 85 %")
    assert COPY.owns(f"genesis-lab-drill-{COPY.hosts[0]}") and COPY.owns("genesis-lab-drill-operator")
    for other in (
        "genesis-lab",
        "genesis-lab-operator",
        "genesis-lab-drill-2-operator",
        "genesis.test",
        LAB.hosts[0].name,
    ):
        assert not COPY.owns(other)
    with pytest.raises(Refused, match="as an isolated copy"):
        copy_of(replace(LAB, stack="lab-drill"), NOW)


@pytest.mark.parametrize("stack", ["lab", "prod"])
def test_its_stack_file_is_one_that_infra_takes_and_calls_nobody(stack: str) -> None:
    of = {**settings(stack), "lifeline:seed": "x", "lifeline:alerting": {"webhook": {"url": "https://x"}}}
    found = derive(of, COPY, ["10.254.1.0/24", "10.254.2.0/24"], "ssh-ed25519 AAAA")["config"]
    raw = {key.removeprefix("lifeline:"): value for key, value in found.items()} | {"seed": "a" * 64}
    parsed = config.parse(raw, COPY.stack, "x")
    assert [host.name for host in parsed.hosts] == list(COPY.hosts) and parsed.domain == COPY.domain
    assert [host.vpc_range for host in parsed.hosts] == ["10.254.1.0/24", "10.254.2.0/24"]
    assert parsed.own_zone, "its zone goes with it"
    assert (parsed.protect, parsed.offsite.lock_mode, parsed.offsite.lock_days) == (False, "governance", 1)
    assert (parsed.policy.mode, parsed.route53, parsed.seed) == ("manual", None, "a" * 64)
    assert parsed.prefix == COPY.label and "alerting" not in raw
    was = config.parse(
        {**{key.removeprefix("lifeline:"): value for key, value in settings(stack).items()}, **_drawn()}, stack, "x"
    )
    assert [host.size for host in parsed.hosts] == [host.size for host in was.hosts]
    assert replace(parsed.policy, mode="") == replace(was.policy, mode="")


def _drawn() -> dict[str, str]:
    return {"seed": "a" * 64, "sshPublicKey": "ssh-ed25519 AAAA"}


def test_a_configuration_that_hides_what_is_needed_is_told() -> None:
    of = settings()
    del of["lifeline:primary"]
    with pytest.raises(BadConfig, match="lifeline:primary can't be read"):
        derive(of, COPY, ["10.254.1.0/24", "10.254.2.0/24"], "")


def test_its_networks_overlap_none_of_the_accounts() -> None:
    assert free_ranges(["10.254.0.0/16", "10.253.1.0/24"], 2) == ["10.253.2.0/24", "10.252.1.0/24"]
    with pytest.raises(Refused, match="leave no room"):
        free_ranges(["10.0.0.0/8"], 2)


# -- the data


SERVICE = Service.parse(SERVICE_TOML, "test")
NAME = SERVICE.databases[0].name
PREFIX = f"replica/{SERVICE.name}/epoch-0003"


def piece(first: int, last: int, level: int = 0) -> str:
    return f"{PREFIX}/{NAME}/{level:04x}/{first:016x}-{last:016x}.ltx"


def vault() -> MemoryStore:
    """Epoch 3 in two files; an older one."""
    store = MemoryStore("the stack's")
    store.put(f"replica/{SERVICE.name}/epoch-0002/{NAME}/0000/{1:016x}-{1:016x}.ltx", b"older")
    store.put(f"{PREFIX}/owner.json", b"{}")
    store.put(piece(1, 1), b"one")
    store.put(piece(2, 2), b"two")
    return store


@dataclass
class Compacting(MemoryStore):
    """Takes a file away while it is copied, as Litestream's compaction does: another has the same."""

    inner: MemoryStore = field(default_factory=vault)

    def __post_init__(self) -> None:
        super().__init__("compacting")
        self._objects = self.inner._objects
        self.left = 1

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if self.left and start == 0 and length != ltx.HEADER:
            self.left -= 1
            for gone in (piece(1, 1), piece(2, 2)):
                self.delete(gone)
            self.put(piece(1, 2, level=1), b"both")
            raise Missing("gone")
        return super().get_range(key, start, length)


def test_what_a_restore_takes_is_copied_under_the_same_keys_and_nothing_else() -> None:
    target = MemoryStore("the copy's")
    (plan,) = take(vault(), target, SERVICE, print)
    assert (plan.epoch, plan.txid) == (3, 2)
    assert [info.key for info in target.list()] == sorted([piece(1, 1), piece(2, 2), f"{PREFIX}/owner.json"])
    assert target.get(piece(2, 2)).body == b"two"


def test_files_that_compaction_takes_away_meanwhile_are_found_in_others() -> None:
    target = MemoryStore("the copy's")
    (plan,) = take(Compacting(), target, SERVICE, print)
    assert plan.txid == 2 and target.get(piece(1, 2, level=1)).body == b"both"


def test_a_vault_without_a_replica_is_told() -> None:
    with pytest.raises(Refused, match="holds no replica"):
        take(MemoryStore("empty"), MemoryStore(), SERVICE, print)


# -- what it needs, and its end


@dataclass
class Account:
    """DigitalOcean and AWS, and what stands there."""

    droplets: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)  # access key: name
    things: list[str] = field(default_factory=list)
    users: set[str] = field(default_factory=set)
    stuck: bool = False

    def add_spaces_key(self, name: str, bucket: str, permission: str) -> Key:
        self.keys[name] = name
        return Key(name, "secret")

    def spaces_keys(self, name: str) -> list[str]:
        return [key for key, known in self.keys.items() if known == name]

    def delete_spaces_key(self, access_key: str) -> None:
        del self.keys[access_key]

    def prices(self) -> dict[str, float]:
        return {"s-1vcpu-1gb": 0.01}

    def private_ranges(self) -> list[str]:
        return []

    def droplet_id(self, name: str) -> str | None:
        return self.droplets.get(name)

    def destroy(self, droplet_id: str) -> None:
        if not self.stuck:
            self.droplets = {name: one for name, one in self.droplets.items() if one != droplet_id}

    def sweep(self, ours: Callable[[str], bool]) -> list[str]:
        gone = [one for one in self.things if ours(one)]
        self.things = [one for one in self.things if not ours(one)]
        return gone

    def remove(self, user: str) -> bool:
        there = user in self.users
        self.users.discard(user)
        return there


@dataclass
class FakeStack:
    """Pulumi's part; ``fails``: what each destroy raises, None for one that ends well."""

    there: bool = True
    fails: list[Exception | None] = field(default_factory=list)
    did: list[str] = field(default_factory=list)

    def exists(self) -> bool:
        return self.there

    def destroy(self, say: Callable[[str], None], *flags: str) -> None:
        self.did.append(" ".join(("destroy", *flags)))
        if self.fails and (error := self.fails.pop(0)):
            raise error

    def unlock(self) -> None:
        self.did.append("unlock")

    def remove(self) -> None:
        self.did.append("remove")
        self.there = False


def end(root: Path, stack: FakeStack, account: Account) -> list[str]:
    said: list[str] = []
    tear_down(root, COPY, stack, account, account, FakeClock(), said.append)  # type: ignore[arg-type]
    return said


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_note(tmp_path, COPY)
    (tmp_path / "stacks").mkdir()
    isolated.draw(tmp_path, COPY.stack)
    return tmp_path


def test_it_is_written_down_and_forgotten_when_nothing_of_it_is_left(root: Path) -> None:
    assert noted(root) == [COPY]
    assert isolated.key_path(root, COPY.stack).stat().st_mode & 0o777 == 0o600
    assert isolated.seed_path(root, COPY.stack).stat().st_mode & 0o777 == 0o600
    stack = FakeStack()
    end(root, stack, Account())
    assert stack.did == ["destroy", "remove"] and noted(root) == []
    assert not (root / ".lifeline/lab-drill").exists()


def test_journals_and_a_persons_settings_stay(root: Path) -> None:
    kept = root / ".lifeline/lab-drill/service.env"
    kept.write_text("A=b")
    end(root, FakeStack(there=False), Account())
    assert kept.exists() and not isolated.seed_path(root, COPY.stack).exists()


def test_what_a_killed_pulumi_never_wrote_down_goes_too_and_nothing_of_others(root: Path) -> None:
    host = COPY.hosts[0]
    account = Account(
        droplets={host: "7", LAB.hosts[0].name: "1"},
        keys={"K1": COPY.reader, "K2": f"{COPY.label}-{host}", "K3": "genesis-lab-primary"},
        things=["genesis-lab-drill", "genesis-lab"],
        users={f"{COPY.label}-{host}", "genesis-lab-primary"},
    )
    stack = FakeStack(fails=[StepFailed("error: must delete policies first")])
    said = end(root, stack, account)
    assert stack.did == ["destroy", "destroy --refresh", "remove"] and noted(root) == []
    assert account == Account(
        {LAB.hosts[0].name: "1"}, {"K3": "genesis-lab-primary"}, ["genesis-lab"], {"genesis-lab-primary"}
    )
    assert any("not all of it went: error: must delete" in line for line in said)


def test_the_lock_of_a_killed_pulumi_is_broken_after_a_while(root: Path) -> None:
    stack = FakeStack(fails=[Locked("locked")] * 14)
    end(root, stack, Account())
    assert "unlock" in stack.did and stack.did[-1] == "remove"


def test_the_lock_of_a_pulumi_that_is_somebody_elses_is_not(root: Path) -> None:
    isolated.note_path(root, COPY.stack).unlink()
    stack = FakeStack(fails=[Locked("locked")])
    with pytest.raises(Locked):
        end(root, stack, Account())
    assert stack.did == ["destroy"]


def test_a_droplet_that_does_not_go_is_told_and_not_forgotten(root: Path) -> None:
    with pytest.raises(StepFailed, match="cost money") as stopped:
        end(root, FakeStack(), Account(droplets={COPY.hosts[0]: "7"}, stuck=True))
    assert stopped.value.hint == "fab drill --tear-down" and noted(root) == [COPY]


def site(tmp_path: Path, files: Mapping[str, str]) -> Any:
    world = World(tmp_path)
    for path, text in files.items():
        (world.root / path).parent.mkdir(parents=True, exist_ok=True)
        (world.root / path).write_text(text)
    return world.process()


REAL, OWN = "services/genesis/lab.env", "services/genesis/lab-drill.env"


def test_the_stacks_own_settings_are_never_the_copys(tmp_path: Path) -> None:
    stack = FakeStack(there=False)
    with pytest.raises(Refused, match="what these lead to is real") as refused:
        admit(site(tmp_path, {REAL: "EXCHANGE=real"}), COPY, stack, Account())  # type: ignore[arg-type]
    assert OWN in refused.value.hint
    admit(site(tmp_path, {REAL: "EXCHANGE=real", OWN: ""}), COPY, stack, Account())  # type: ignore[arg-type]


@pytest.mark.parametrize(("there", "droplets"), [(True, {}), (False, {COPY.hosts[1]: "9"})])
def test_a_copy_that_stands_already_is_not_built_upon(tmp_path: Path, there: bool, droplets: dict[str, str]) -> None:
    with pytest.raises(Refused, match="already") as refused:
        admit(site(tmp_path, {}), COPY, FakeStack(there), Account(droplets=droplets))  # type: ignore[arg-type]
    assert refused.value.hint == "fab drill --tear-down"


def test_it_says_what_it_costs() -> None:
    assert "$0.0200 an hour" in isolated.price(settings(), Account())
    assert "doesn't say" in isolated.price({**settings(), "lifeline:backup": {"size": "s-new"}}, Account())


def test_a_note_that_can_not_be_read_is_told(root: Path) -> None:
    path = isolated.note_path(root, COPY.stack)
    path.write_text(json.dumps({"stack": "x"}))
    with pytest.raises(BadConfig, match="can't be read"):
        noted(root)
    assert isinstance(COPY, Copy)


def test_one_process_at_a_time_has_to_do_with_a_copy(tmp_path: Path) -> None:
    with held(tmp_path, "lab-drill"), pytest.raises(Refused, match="is on"), held(tmp_path, "lab-drill"):
        pass
    with held(tmp_path, "lab-drill", wait=True):
        pass
