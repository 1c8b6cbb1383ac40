"""What of the lab's lifecycle can be told without a lab: configuration, the shell, status, refusals."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from lab import drill, faults, lifecycle, network, shell
from lab.config import LabConfig
from lab.lifecycle import DropletStatus, PartStatus, Status
from lifeline.errors import BadConfig, BadInput, Unavailable


def test_credentials_are_drawn_once_and_are_private(tmp_path: Path) -> None:
    first = LabConfig.ensure(tmp_path / "lab")
    assert LabConfig.ensure(tmp_path / "lab") == first
    assert LabConfig.ensure(tmp_path / "other").token != first.token
    assert stat.S_IMODE(first.file.stat().st_mode) == 0o600


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen here: make setup-lab")
def test_what_the_operator_holds_is_drawn_once_and_private(tmp_path: Path) -> None:
    lab = LabConfig.ensure(tmp_path)
    shell.prepare(lab)
    held = (lab.seed_file, lab.passphrase_file, lab.ssh_key)
    before = [file.read_text() for file in held]
    shell.prepare(lab)
    assert [file.read_text() for file in held] == before
    assert {stat.S_IMODE(file.stat().st_mode) for file in held} == {0o600}
    assert len(before[0]) == 64


def test_the_salt_in_the_stack_file_is_the_one_for_the_passphrase() -> None:
    text = (shell.CHECKOUT / "stacks" / "Pulumi.lab.yaml").read_text()
    assert f"passphrase {shell.PULUMI_PASSPHRASE}" in text
    assert "encryptionsalt: v1:" in text


def test_the_shell_script_survives_any_value_and_is_idempotent(tmp_path: Path) -> None:
    lab = LabConfig.ensure(tmp_path)
    variables = {**shell.environment(lab, tmp_path / "pulumi"), "LIFELINE_TEST": 'a\'b $(touch owned) "c"'}
    script = shell.script(lab, variables)
    check = 'eval "$1"; eval "$1"; printf %s "$LIFELINE_TEST|$SPACES_ENDPOINT_URL"; type -t dig ssh'
    done = subprocess.run(
        ["bash", "-euc", check, "-", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PULUMI_DEBUG_PROVIDERS": "stale:1"},
    )
    assert done.stdout == 'a\'b $(touch owned) "c"|http://{{.Region}}.spaces.testfunction\nfunction\n'
    assert not (tmp_path / "owned").exists()


def test_a_path_entry_is_not_doubled_when_env_is_evaluated_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = LabConfig.ensure(tmp_path)
    once = shell.environment(lab, tmp_path / "pulumi")["PATH"]
    monkeypatch.setenv("PATH", once)
    assert shell.environment(lab, tmp_path / "pulumi")["PATH"] == once


def test_without_a_lab_every_verb_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELINE_LAB", str(tmp_path))
    with pytest.raises(BadConfig) as refused:
        lifecycle.env()
    assert refused.value.hint == "fab lab.up"


def test_status_is_healthy_only_when_every_part_answers() -> None:
    up, hanging = PartStatus("api", "up", "http://198.18.0.10", 50.0), PartStatus("dns", "not answering", "", 10.0)
    droplet = DropletStatus(1, "primary", "nyc3", "198.18.1.10", "off", 0.0)
    assert Status(Path("/x"), (up,), (droplet,), (), "lab").healthy
    broken = Status(Path("/x"), (up, hanging), (), ("nyc3 from aws",), "lab")
    assert not broken.healthy
    assert not Status(Path("/x"), (), (), (), "lab").healthy
    assert "not answering" in str(broken)
    assert "cut off: nyc3 from aws" in str(broken)
    assert broken.memory_mb == 60.0


def test_down_removes_only_what_a_lab_makes(tmp_path: Path) -> None:
    for name in ("machines/d1/disk", "logs", "precious"):
        (tmp_path / name).mkdir(parents=True)
    lifecycle._remove_state(tmp_path, keep_logs=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["logs", "precious"]


def test_faults_name_what_there_is_when_they_are_given_what_there_is_not() -> None:
    with pytest.raises(BadInput) as refused:
        faults.cut_region("mars")
    assert "nyc3" in refused.value.hint
    with pytest.raises(BadInput) as refused:
        faults.cut_region("nyc3", "sun")
    assert "everything" in refused.value.hint


def test_every_fault_is_listed_with_what_it_does() -> None:
    listed = faults.all_faults()
    assert {"cut_region", "heal", "power_cut", "freeze", "thaw", "api_down", "spaces_down", "dns_down"} <= set(listed)
    assert all(fault.__doc__ for fault in listed.values())


def test_every_address_of_the_lab_is_on_exactly_one_bridge() -> None:
    addresses = [address for group in network.BRIDGES.values() for address in group]
    assert len(addresses) == len(set(addresses))
    assert all(address.startswith("198.18.") for address in addresses)
    assert all(name.startswith(network.PREFIX) and len(name) <= 15 for name in network.BRIDGES)


def test_without_root_everybody_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LabConfig.ensure(tmp_path)
    monkeypatch.setenv("LIFELINE_LAB", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(drill, "run", lambda *_: pytest.fail("the drill began"))
    for verb in (lifecycle.up, lifecycle.down, lifecycle.status, drill.main):
        with pytest.raises(Unavailable, match="needs root") as caught:
            verb()
        assert caught.value.hint == "the same command as root"


def test_another_user_s_lab_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(BadConfig, match="by root only"):
        LabConfig.load(tmp_path / "lab.json")
