"""Where the inventory comes from: cache, Pulumi, a host, a sealed copy; each stands in for another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lifeline import inventory as inventories
from lifeline.errors import BadConfig, BadInput, LifelineError, Unavailable
from lifeline.hosts import Result
from lifeline.model import Inventory
from runbooks import break_glass
from tests.unit.world import inventory_json


def answering(code: int, out: str = "", err: str = "") -> Any:
    def run(argv: Sequence[str], **_: Any) -> Result:
        assert argv[:3] == ["pulumi", "stack", "output"] and "--show-secrets" in argv
        return Result(tuple(argv), code, out.encode(), err.encode())

    return run


def test_pulumi_s_output_is_cached_privately(tmp_path: Path) -> None:
    inventories.of_pulumi(tmp_path, "lab", answering(0, json.dumps(inventory_json())))
    assert not inventories.cache_path(tmp_path, "lab").exists()  # a rebuild looks first whether it is the same site
    loaded = inventories.from_pulumi(tmp_path, "lab", answering(0, json.dumps(inventory_json())))
    path = inventories.cache_path(tmp_path, "lab")
    assert path.stat().st_mode & 0o777 == 0o600
    assert inventories.from_cache(tmp_path, "lab").inventory == loaded.inventory
    assert [entry.name for entry in path.parent.iterdir()] == ["inventory.json"]  # nothing half-written left


def test_the_cache_works_with_pulumi_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inventories.save(tmp_path, Inventory.from_json(inventory_json()))
    monkeypatch.setattr(inventories, "from_pulumi", _gone)
    assert "the cache" in inventories.load(tmp_path, "lab").origin
    fresh = inventories.load(tmp_path, "lab", fresh=True)
    assert "the cache" in fresh.origin and "the backend is gone" in fresh.origin


def test_without_a_cache_pulumi_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def pulumi(root: Path, stack: str) -> inventories.Loaded:
        asked.append(stack)
        return inventories.Loaded(Inventory.from_json(inventory_json()), "Pulumi")

    monkeypatch.setattr(inventories, "from_pulumi", pulumi)
    assert inventories.load(tmp_path, "lab").origin == "Pulumi" and asked == ["lab"]


def test_nothing_at_all_says_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventories, "from_pulumi", _gone)
    with pytest.raises(BadConfig, match=r"there is no .*; the backend is gone") as caught:
        inventories.load(tmp_path, "lab")
    assert "--from-vault" in caught.value.hint


def test_a_broken_cache_does_not_hide_pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = inventories.cache_path(tmp_path, "lab")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    inventory = Inventory.from_json(inventory_json())
    monkeypatch.setattr(inventories, "from_pulumi", lambda root, stack: inventories.Loaded(inventory, "Pulumi"))
    assert inventories.load(tmp_path, "lab").origin == "Pulumi"


def test_pulumi_s_refusal_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no stack named 'lab' found"):
        inventories.from_pulumi(tmp_path, "lab", answering(255, err="error: no stack named 'lab' found"))


def test_the_sealed_copy(tmp_path: Path) -> None:
    from lifeline.sealing import seal, unseal

    sealed = seal(json.dumps(inventory_json()).encode(), "correct horse")
    loaded = inventories.from_sealed(sealed, lambda body: unseal(body, "correct horse"))
    assert loaded.inventory == Inventory.from_json(inventory_json())
    with pytest.raises(LifelineError, match="another passphrase"):
        inventories.from_sealed(sealed, lambda body: unseal(body, "wrong"))


def test_the_stack_is_named_or_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LIFELINE_STACK", "PULUMI_STACK"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(BadConfig, match="which stack"):
        inventories.stack_name(tmp_path)
    inventories.save(tmp_path, Inventory.from_json(inventory_json()))
    assert inventories.stack_name(tmp_path) == "lab"
    inventories.save(tmp_path, Inventory.from_json({**inventory_json(), "stack": "prod"}))
    with pytest.raises(BadConfig, match="stacks here: lab, prod"):
        inventories.stack_name(tmp_path)
    monkeypatch.setenv("LIFELINE_STACK", "prod")
    assert inventories.stack_name(tmp_path) == "prod"


def test_the_root_is_where_pulumi_yaml_is(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").touch()
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert inventories.project_root(deep) == tmp_path


def _gone(root: Path, stack: str) -> inventories.Loaded:
    raise Unavailable("the backend is gone")


@pytest.mark.parametrize("key", ["", "nonsense", "ssh-rsa AAAA"])
def test_a_host_is_asked_for_the_inventory_only_with_a_key_to_pin(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELINE_STACK", "lab")
    with pytest.raises(BadInput, match="--host-key") as caught:
        break_glass.renew(from_host="127.0.0.1", host_key=key)
    assert "--from-host 127.0.0.1 --host-key" in caught.value.hint


def stack(name: str) -> Inventory:
    return Inventory.from_json({**inventory_json(), "stack": name})


def key_of_a_host() -> str:
    raw = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return raw.decode()


@pytest.mark.parametrize("length", [12, 13, 40, 50, 76, 79])
def test_a_host_s_key_that_was_not_copied_whole_is_no_defect(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELINE_STACK", "lab")
    for key in (key_of_a_host()[:length], "ssh-ed25519 AAAA…", "ssh-ed25519 AAAA"):
        with pytest.raises(BadInput, match="not whole"):
            break_glass.renew(from_host="127.0.0.1", host_key=key)
    with pytest.raises(BadInput, match="--from-host only"):
        break_glass.renew(host_key=key_of_a_host())


@pytest.mark.parametrize(
    "wrong",
    [
        {"LIFELINE_VAULT_ENDPOINT": "ams3.digitaloceanspaces.com"},
        {"LIFELINE_VAULT_REGION": "us east 2"},
        {"SPACES_SECRET_ACCESS_KEY": "abc…"},
        {"SPACES_ACCESS_KEY_ID": "abc "},
    ],
)
def test_what_opens_the_vault_and_is_wrong_is_said_to_be(
    wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"LIFELINE_STACK": "lab", "LIFELINE_VAULT_BUCKET": "b", "LIFELINE_VAULT_ENDPOINT": "https://127.0.0.1:1"}
    good |= {"SPACES_ACCESS_KEY_ID": "a", "SPACES_SECRET_ACCESS_KEY": "b"}
    for name, value in {**good, **wrong}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadConfig) as caught:
        break_glass.renew(from_vault=True)
    assert any(word in str(caught.value) for word in (*wrong, "LIFELINE_VAULT_*"))


def test_what_follows_a_vault_that_cant_be_read_needs_no_inventory(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise Unavailable("it doesn't answer", hint="fab status; is the store up?")

    monkeypatch.setenv("LIFELINE_STACK", "lab")
    monkeypatch.setenv("LIFELINE_VAULT_BUCKET", "b")
    monkeypatch.setenv("LIFELINE_VAULT_ENDPOINT", "https://127.0.0.1:1")
    monkeypatch.setattr(break_glass, "_sealed", away)
    with pytest.raises(Unavailable) as caught:
        break_glass.renew(from_vault=True)
    assert "fab status" not in caught.value.hint and "fab inventory --from-offsite" in caught.value.hint


def test_a_stack_s_name_that_was_mistyped_meets_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventories, "from_pulumi", _gone)
    inventories.save(tmp_path, stack("production"))
    with pytest.raises(BadConfig, match="stacks used here: production") as caught:
        inventories.load(tmp_path, "prodution")
    first, _, rest = caught.value.hint.partition("; ")
    assert first.startswith("export LIFELINE_STACK") and rest.index("--from-vault") < rest.index("pulumi up")


def test_a_folder_in_the_cache_s_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inventories.cache_path(tmp_path, "lab").mkdir(parents=True)
    with pytest.raises(BadConfig, match="can't be read: Is a directory"):
        inventories.from_cache(tmp_path, "lab")
    with pytest.raises(BadConfig, match="can't be cached"):
        inventories.save(tmp_path, stack("lab"))
    assert [path.name for path in (tmp_path / ".lifeline/lab").iterdir()] == ["inventory.json"]
