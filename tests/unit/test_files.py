"""Files out of a backup: held to their digests, put in place by renames, nothing lost; and what has no place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from lifeline import files, loopback, marker
from lifeline.errors import DataBad, StepFailed
from lifeline.files import Noted
from lifeline.layout import Config, write_role
from lifeline.service import Service
from tests.unit.hostkit import SERVICE, FakeSupervisor, config

PATHS = """
[paths]
configuration = ["/etc/lifeline/service.env"]
state = ["/var/lib/genesis/state"]
logs = ["/var/log/genesis"]
"""
KINDS = files.KINDS


@pytest.fixture
def host(tmp_path: Path) -> Config:
    made = config(tmp_path, service=SERVICE + PATHS)
    for name, text in {
        "etc/lifeline/service.env": "KEY=1\n",
        "var/lib/genesis/state/positions.json": "[1]",
        "var/lib/genesis/state/deep/orders.json": "[]",
        "var/log/genesis/audit.jsonl": "line 1\n",
        "var/lib/genesis/trades.db": "a database",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "var/lib/genesis/state/positions.json").chmod(0o640)
    return made


def saved(host: Config, folder: Path) -> list[Noted]:
    """A backup of what is there now, unpacked below a folder."""
    notes: dict[str, Any] = {
        kind: marker._take(host, files.declared(host.service, kind), folder)
        for kind in ("configuration", "state", "logs")
    }
    for note in notes["logs"].values():  # of logs a backup notes size and digest alone
        for key in ("uid", "gid", "user", "group", "mode"):
            del note[key]
    return files.noted({"files": notes}, KINDS)


def unpacked(folder: Path) -> Callable[[Noted], Path]:
    return lambda file: folder / file.below


def text(host: Config, name: str) -> str:
    return (host.layout.root / name).read_text()


def put(host: Config, found: list[Noted], folder: Path, supervisor: FakeSupervisor | None = None) -> dict[str, Any]:
    placed = [file for file in found if files.has_place(host, file)]
    copy = folder.with_name("unpacked")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    files.take(placed, unpacked(copy), lambda file: files.staged(host, file))
    return files.put(host, supervisor or FakeSupervisor(), placed)  # type: ignore[arg-type]


def test_what_changed_comes_back_as_it_was_and_what_it_replaced_is_kept(host: Config, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    found = saved(host, backup)
    state = host.layout.root / "var/lib/genesis/state"
    (state / "positions.json").write_text("[1, 2]")
    (state / "positions.json").chmod(0o600)
    shutil.rmtree(state / "deep")
    (state / "new.json").write_text("{}")
    changes = {str(file.path): change for file, change in files.compare(host, found)}
    assert changes == {
        "/etc/lifeline/service.env": "same",
        "/var/lib/genesis/state/positions.json": "changed",
        "/var/lib/genesis/state/deep/orders.json": "added",
        "/var/log/genesis/audit.jsonl": "same",
    }
    assert files.others(host, found, ("state",)) == ["/var/lib/genesis/state/new.json"]
    answer = put(host, found, backup)
    assert sorted(answer["changed"]) == [
        "/var/lib/genesis/state/deep/orders.json",
        "/var/lib/genesis/state/positions.json",
    ]
    assert text(host, "var/lib/genesis/state/positions.json") == "[1]"
    assert (state / "positions.json").stat().st_mode & 0o777 == 0o640
    assert (state / "deep/orders.json").exists() and (state / "new.json").exists()
    (kept,) = answer["kept"]
    assert (Path(kept) / "var/lib/genesis/state/positions.json").read_text() == "[1, 2]"
    # What is kept beside is no state of the service: the next backup doesn't take it.
    assert {str(path) for path, _ in marker.files_below(host, host.service.state)} == {
        f"/var/lib/genesis/state/{name}" for name in ("positions.json", "deep/orders.json", "new.json")
    }


def test_a_file_that_is_not_what_was_saved_is_never_put_in_place(host: Config, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    found = saved(host, backup)
    (backup / "var/lib/genesis/state/positions.json").write_text("[9]")
    with pytest.raises(DataBad, match="not what was saved"):
        put(host, found, backup)
    (backup / "var/lib/genesis/state/positions.json").unlink()
    with pytest.raises(DataBad, match="lacks"):
        put(host, found, backup)
    assert text(host, "var/lib/genesis/state/positions.json") == "[1]"


def test_a_log_is_held_to_what_was_noted_of_it_and_never_put_in_place(host: Config, tmp_path: Path) -> None:
    backup, to = tmp_path / "backup", tmp_path / "to"
    found = [file for file in saved(host, backup) if file.kind == "logs"]
    assert not any(files.has_place(host, file) for file in found)
    with (backup / "var/log/genesis/audit.jsonl").open("a") as log:
        log.write("written while it was saved\n")
    assert files.take(found, unpacked(backup), unpacked(to)) == []
    (backup / "var/log/genesis/audit.jsonl").write_text("rotated\n")
    assert files.take(found, unpacked(backup), unpacked(to)) == ["/var/log/genesis/audit.jsonl"]
    # It had gone when restic came to it, and there was no new one yet.
    assert files.take(found, unpacked(backup), unpacked(to)) == ["/var/log/genesis/audit.jsonl"]


def test_the_service_stands_still_while_its_files_are_swapped_and_no_longer(
    host: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loopback, "why_not", lambda *_: "")
    write_role(host.layout, "primary", 1)
    backup, supervisor = tmp_path / "backup", FakeSupervisor()
    found = saved(host, backup)
    supervisor.running["genesis"] = True
    assert put(host, found, backup, supervisor) == {"changed": [], "kept": []}
    assert "stop genesis" not in supervisor.calls
    (host.layout.root / "etc/lifeline/service.env").write_text("KEY=2\n")
    applied = list[bool]()
    monkeypatch.setattr(files, "apply", lambda *_: applied.append(supervisor.running["genesis"]))
    put(host, found, backup, supervisor)
    assert text(host, "etc/lifeline/service.env") == "KEY=1\n" and applied == [False]
    assert [call for call in supervisor.calls if "genesis" in call] == ["stop genesis", "start genesis"]


def test_a_service_that_does_not_run_with_them_gets_back_what_it_had(
    host: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    health = {"[1]": "HTTP 500", "[1, 2]": ""}
    monkeypatch.setattr(loopback, "why_not", lambda *_: health[text(host, "var/lib/genesis/state/positions.json")])
    write_role(host.layout, "primary", 1)
    backup, supervisor = tmp_path / "backup", FakeSupervisor()
    found = saved(host, backup)
    (host.layout.root / "var/lib/genesis/state/positions.json").write_text("[1, 2]")
    object.__setattr__(host.service, "start_within_s", 0.1)
    with pytest.raises(StepFailed, match="what was there before is back"):
        put(host, found, backup, supervisor)
    assert text(host, "var/lib/genesis/state/positions.json") == "[1, 2]" and supervisor.running["genesis"]


@pytest.fixture
def serving(host: Config, monkeypatch: pytest.MonkeyPatch) -> FakeSupervisor:
    """A healthy primary, unless a file `halt` lies there."""
    halt = host.layout.root / "var/lib/genesis/state/halt"
    monkeypatch.setattr(loopback, "why_not", lambda *_: "HTTP 500" if halt.exists() else "")
    object.__setattr__(host.service, "start_within_s", 0.1)
    write_role(host.layout, "primary", 1)
    supervisor = FakeSupervisor()
    supervisor.running["genesis"] = True
    return supervisor


def test_a_folder_that_became_a_file_stops_nothing_and_is_named(
    host: Config, tmp_path: Path, serving: FakeSupervisor
) -> None:
    backup, state = tmp_path / "backup", host.layout.root / "var/lib/genesis/state"
    found = saved(host, backup)
    shutil.rmtree(state / "deep")
    (state / "deep").write_text("a file by now")
    (state / "positions.json").write_text("[1, 2]")
    with pytest.raises(StepFailed, match=r"state/deep.*nothing is replaced.*and genesis runs"):
        put(host, found, backup, serving)
    assert serving.running["genesis"] and text(host, "var/lib/genesis/state/positions.json") == "[1, 2]"


def test_an_added_file_with_which_the_service_does_not_run_is_taken_away_again(
    host: Config, tmp_path: Path, serving: FakeSupervisor
) -> None:
    backup, halt = tmp_path / "backup", host.layout.root / "var/lib/genesis/state/halt"
    halt.write_text("x")
    found = saved(host, backup)
    halt.unlink()
    with pytest.raises(StepFailed, match="what was there before is back, and genesis runs"):
        put(host, found, backup, serving)
    assert serving.running["genesis"] and not halt.exists()


def test_a_configuration_that_can_not_be_applied_is_undone(
    host: Config, tmp_path: Path, serving: FakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup, live = tmp_path / "backup", host.layout.root / "etc/lifeline/service.env"
    found = saved(host, backup)
    live.write_text("KEY=2\n")

    def applied(*_: Any) -> None:
        if live.read_text() == "KEY=1\n":
            raise KeyError("KEY")

    monkeypatch.setattr(files, "apply", applied)
    with pytest.raises(StepFailed, match=r"KeyError: 'KEY'.*what was there before is back"):
        put(host, found, backup, serving)
    assert serving.running["genesis"] and live.read_text() == "KEY=2\n"


def test_a_service_that_was_ill_before_keeps_the_files_that_were_asked_for_and_is_started(
    host: Config, tmp_path: Path, serving: FakeSupervisor
) -> None:
    backup, state = tmp_path / "backup", host.layout.root / "var/lib/genesis/state"
    found = saved(host, backup)
    (state / "positions.json").write_text("[1, 2]")
    (state / "halt").write_text("x")
    with pytest.raises(StepFailed, match=r"the files are in place.*1 are kept"):
        put(host, found, backup, serving)
    assert serving.running["genesis"] and text(host, "var/lib/genesis/state/positions.json") == "[1]"


def test_a_swap_that_fails_midway_undoes_its_part(
    host: Config, tmp_path: Path, serving: FakeSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup, state = tmp_path / "backup", host.layout.root / "var/lib/genesis/state"
    found = saved(host, backup)
    (state / "positions.json").write_text("[1, 2]")
    (state / "deep/orders.json").unlink()
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self.name == "positions.json":
            raise OSError(5, "Input/output error", str(target))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(StepFailed, match=r"Input/output error.*nothing is replaced"):
        put(host, found, backup, serving)
    assert serving.running["genesis"] and not (state / "deep/orders.json").exists()
    assert text(host, "var/lib/genesis/state/positions.json") == "[1, 2]"


def test_what_leads_elsewhere_or_is_not_declared_any_more_has_no_place(host: Config, tmp_path: Path) -> None:
    orders = next(file for file in saved(host, tmp_path / "backup") if file.path.name == "orders.json")
    assert files.has_place(host, orders)
    stranger = Noted("state", PurePosixPath("/etc/passwd"), "0", 1, 0o644)
    assert not files.has_place(host, stranger)
    if os.geteuid() == 0:
        deep = host.layout.root / "var/lib/genesis/state/deep"
        shutil.rmtree(deep)
        deep.symlink_to("/etc")
        os.lchown(deep, 65534, 65534)  # the service made it: root must not follow
        assert not files.has_place(host, orders)


@pytest.mark.parametrize(
    "note",
    [{"sha256": "x"}, {"sha256": "x", "bytes": "many"}, "nothing"],
)
def test_a_damaged_note_is_told(note: Any) -> None:
    with pytest.raises(DataBad):
        files.noted({"files": {"state": {"/x": note}}}, ("state",))
    with pytest.raises(DataBad, match="notes a file at"):
        files.noted({"files": {"state": {"/x/../../etc/passwd": {}}}}, ("state",))


def test_a_database_below_a_state_folder_is_no_file(host: Config) -> None:
    service = Service.parse(SERVICE + PATHS.replace("/var/lib/genesis/state", "/var/lib/genesis"))
    object.__setattr__(host, "service", service)
    assert "/var/lib/genesis/trades.db" not in {str(path) for path, _ in marker.files_below(host, service.state)}
