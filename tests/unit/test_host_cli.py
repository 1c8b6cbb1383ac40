"""lifeline-host: one JSON object on stdout whatever happens, and what `configure` writes and leaves alone."""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from lifeline import apply, host, host_run, host_stores, layout, proving, supervisor
from lifeline.apply import SHIPPED, configure, differing, programs, read_shipped
from lifeline.errors import BadConfig, BadInput, Refused
from lifeline.layout import Layout, load_config, write_role
from lifeline.store import MemoryStore
from lifeline.supervisor import Program
from lifeline.systemd import watchdog_s
from tests.unit.hostkit import SERVICE, FakeSupervisor, FakeSystemd, config, inventory, shipped


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, object]]:
    try:
        code = host.main(argv)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    out = capsys.readouterr().out
    found: dict[str, object] = json.loads(out)
    assert out.count("\n") == 1
    return code, found


@pytest.fixture
def rooted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    made = Layout(tmp_path)
    monkeypatch.setattr(host, "Layout", lambda: made)
    return made


def test_a_host_that_is_not_provisioned_says_so(rooted: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = answer(capsys, "observe")
    assert code == 3 and found["hint"] == "fab provision"


@pytest.mark.parametrize(
    "argv", [["nonsense"], ["finalize"], ["finalize", "--epoch", "0"], ["finalize", "--epoch", "x"]]
)
def test_a_bad_command_line_is_json_too(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    code, found = answer(capsys, *argv)
    assert code == 2 and found["error"]


@pytest.mark.parametrize(("argv", "epoch"), [(["prove"], 1), (["prove", "--epoch", "2"], 2)])
def test_what_is_proved_is_the_epoch_that_was_asked_for_or_the_hosts_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argv: list[str], epoch: int
) -> None:
    made = config(tmp_path)
    write_role(made.layout, "none", 1)
    monkeypatch.setattr(host, "Layout", lambda: made.layout)
    monkeypatch.setattr(host, "load_config", lambda _: made)
    for name in ("open_vault_store", "open_offsite_store"):
        monkeypatch.setattr(host_stores, name, lambda _: MemoryStore())
    monkeypatch.setattr(host, "_vault", lambda _: None)
    monkeypatch.setattr(proving, "prove", lambda config, vault, proof, **_: {"epoch": proof.epoch})
    assert answer(capsys, *argv) == (0, {"epoch": epoch})


def test_a_damaged_verification_is_gone_round_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the catalogue the keepers of both hosts run nothing."""
    made, store = config(tmp_path), MemoryStore()
    good = {"version": 1, "at": "2026-01-01T03:00:00Z", "verdict": "PASS", "points": [], "checks": []}
    store.put("catalogue/genesis/verified/20260101T030000Z.json", json.dumps(good).encode())
    store.put("catalogue/genesis/verified/20260102T030000Z.json", b'{"version": 1, "at": "2026')
    store.put("catalogue/genesis/20260102T020000Z-full.json", b'{"version": 2}')
    monkeypatch.setattr(host, "Layout", lambda: made.layout)
    monkeypatch.setattr(host, "load_config", lambda _: made)
    monkeypatch.setattr(host_stores, "open_vault_store", lambda _: store)
    code, found = answer(capsys, "catalogue")
    assert code == 0 and found["damaged"] == ["catalogue/genesis/verified/20260102T030000Z.json"]
    assert found["successes"] == {"backup-full": "2026-01-02T02:00:00Z", "verify": "2026-01-01T03:00:00Z"}


def test_a_defect_is_json_with_exit_code_1(
    rooted: Layout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "load_config", lambda _: 1 / 0)
    code, found = answer(capsys, "verify")
    assert code == 1 and "ZeroDivisionError" in str(found["error"])


def test_a_full_disk_is_no_defect(
    rooted: Layout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Layout) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/var/lib/x")

    monkeypatch.setattr(host, "load_config", full)
    code, found = answer(capsys, "finalize", "--epoch", "1")
    assert code == 6 and "/var/lib/x" in str(found["error"]) and found["hint"]


def test_verify_of_damage_answers_its_checks_beside_the_error(
    tmp_path: Path, rooted: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    with shipped(tmp_path) as made:
        (made.etc / "service.toml").write_text(SERVICE)
        (tmp_path / "var/lib/genesis/trades.db").write_bytes(b"damaged" * 999)
        code, found = answer(capsys, "verify")
    assert code == 8 and found["verdict"] == "FAIL" and found["error"]
    assert found["hint"] == "fab restore --before-corruption --dry-run"
    assert found["checks"][0]["name"] == "trades"  # type: ignore[index]


def test_observe_of_a_quiet_host_knows_what_it_does_not_know(
    tmp_path: Path, rooted: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    from lifeline.model import Observation

    with shipped(tmp_path) as made:
        (made.etc / "service.toml").write_text(SERVICE)
        code, found = answer(capsys, "observe")
    assert code == 0
    seen = Observation.from_json(found)
    assert (seen.role, seen.epoch, seen.agent_running, seen.lag_s) == ("none", None, False, None)


# -- configure and apply


def files(**changes: str) -> dict[str, str]:
    made = {
        "inventory.json": json.dumps(inventory().for_host("primary-newyork")),
        "host.json": json.dumps({"name": "primary-newyork", "release": "digest"}),
        "service.env": "EXCHANGE=http://x\n",
        "restic.password": "secret\n",
        "pilot.token": "token\n",
        "peer.key": "00ff\n",
    }
    return {**made, **{key.replace("_", "."): text for key, text in changes.items()}}


def test_configure_changes_once_and_keeps_secrets_to_root(tmp_path: Path) -> None:
    with shipped(tmp_path) as made:
        fake = FakeSupervisor()
        assert configure(made, fake, FakeSystemd(), files())  # type: ignore[arg-type]
        assert configure(made, fake, FakeSystemd(), files()) == []  # type: ignore[arg-type]
        assert differing(made, files()) == []
        assert differing(made, files(service_env="EXCHANGE=http://y\n")) == [str(made.etc / "service.env")]
        for name in SHIPPED:
            assert stat.S_IMODE((made.etc / name).stat().st_mode) == 0o600
        for path in made.supervisor_conf.iterdir():
            assert "secret" not in path.read_text()


def test_a_configuration_that_was_interrupted_is_not_taken_for_done(tmp_path: Path) -> None:
    class Broken(FakeSupervisor):
        def reload(self) -> dict[str, list[str]]:
            raise KeyboardInterrupt

    with shipped(tmp_path) as made:
        with pytest.raises(KeyboardInterrupt):
            configure(made, Broken(), FakeSystemd(), files())  # type: ignore[arg-type]
        assert differing(made, files()) != []


def test_a_program_under_an_old_name_does_not_stay_startable(tmp_path: Path) -> None:
    with shipped(tmp_path) as made:
        stale = made.supervisor_conf / "lifeline-oldname.conf"
        stale.write_text("[program:oldname]\n")
        (made.supervisor_conf / "nginx.conf").write_text("not ours")
        configure(made, FakeSupervisor(), FakeSystemd(), files())  # type: ignore[arg-type]
        assert not stale.exists() and (made.supervisor_conf / "nginx.conf").exists()


def test_a_new_release_restarts_what_ran_if_the_role_still_wants_it(tmp_path: Path) -> None:
    class Replacing(FakeSupervisor):
        def reload(self) -> dict[str, list[str]]:
            self.running.update(genesis=False, litestream=False, follower=False)
            return {"added": [], "changed": ["genesis", "litestream", "follower"], "removed": []}

    with shipped(tmp_path) as made:
        write_role(made, "primary", 1)
        fake = Replacing()
        fake.running.update(genesis=True, litestream=True, follower=True)
        configure(made, fake, FakeSystemd(), files())  # type: ignore[arg-type]
    assert fake.running == {"genesis": True, "litestream": True, "follower": False}


def test_supervisor_starts_nothing_at_a_boot_that_needs_a_lease(tmp_path: Path) -> None:
    assert [program.name for program in programs(config(tmp_path)) if program.autostart] == ["lifeline-keeper"]


def test_a_new_release_restarts_the_agent_and_not_the_deadman(tmp_path: Path) -> None:
    units = FakeSystemd()
    with shipped(tmp_path) as made:
        assert str(made.units / "lifeline-agent.service") in configure(made, FakeSupervisor(), units, files())  # type: ignore[arg-type]
        assert units.calls == ["reload", "restart lifeline-deadman.service lifeline-agent.service"]
        configure(made, FakeSupervisor(), units, files())  # type: ignore[arg-type]
        assert len(units.calls) == 2
        newer = json.dumps({"name": "primary-newyork", "release": "newer"})
        configure(made, FakeSupervisor(), units, files(host_json=newer))  # type: ignore[arg-type]
    assert units.calls[2:] == ["reload", "restart lifeline-agent.service"]


def test_an_agent_that_supervisor_ran_makes_way_before_systemds_starts(tmp_path: Path) -> None:
    class Watching(FakeSystemd):
        def restart(self, units: Iterable[str]) -> None:
            assert not fake.running["lifeline-agent"]
            super().restart(units)

    fake, units = FakeSupervisor(["lifeline-agent"]), Watching()
    fake.running["lifeline-agent"] = True
    with shipped(tmp_path) as made:
        configure(made, fake, units, files())  # type: ignore[arg-type]
    assert units.calls


def test_a_restart_that_was_cut_off_is_made_good(tmp_path: Path) -> None:
    class Broken(FakeSystemd):
        def restart(self, units: Iterable[str]) -> None:
            raise KeyboardInterrupt

    units = FakeSystemd()
    with shipped(tmp_path) as made:
        with pytest.raises(KeyboardInterrupt):
            configure(made, FakeSupervisor(), Broken(), files())  # type: ignore[arg-type]
        configure(made, FakeSupervisor(), units, files())  # type: ignore[arg-type]
    assert units.calls == ["reload", "restart lifeline-deadman.service lifeline-agent.service"]


def test_the_agent_may_hang_for_less_than_a_renewal_has_time() -> None:
    for ttl in (10.0, 30.0, 60.0):
        assert 4 <= watchdog_s(ttl) <= ttl / 2


def test_old_releases_are_pruned_but_the_one_before_stays(tmp_path: Path) -> None:
    with shipped(tmp_path) as made:
        made.current.rename(made.opt / "moved")
        releases = made.opt / "releases"
        for name in ("a", "b", "c"):
            (releases / name / "service").mkdir(parents=True)
            (releases / name / "service/service.toml").write_text(SERVICE)
        made.current.symlink_to(releases / "c")
        configure(made, FakeSupervisor(), FakeSystemd(), files())  # type: ignore[arg-type]
        assert sorted(path.name for path in releases.iterdir()) == ["b", "c"]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"files": {}}', b'{"files": {"../../etc/passwd": ""}}'])
def test_only_the_shipped_files_can_be_written(body: bytes) -> None:
    with pytest.raises(BadInput):
        read_shipped(body)


def test_a_host_without_its_key_is_a_clear_error(tmp_path: Path) -> None:
    with shipped(tmp_path, "backup-singapore") as made:
        (made.etc / "service.toml").write_text(SERVICE)
        (made.etc / "inventory.json").write_text(json.dumps(inventory().for_host("primary-newyork")))
        with pytest.raises(BadConfig, match="no vault key"):
            _ = load_config(made).destination


# -- what supervisor starts


def test_nothing_starts_on_a_host_that_is_not_primary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(tmp_path)
    with pytest.raises(Refused, match="not primary"):
        host_run.run_service(made)
    write_role(made.layout, "primary", 1)
    monkeypatch.setattr(host_run, "AGENT_WITHIN_S", 0.1)
    for run in (host_run.run_service, host_run.run_litestream):
        with pytest.raises(Refused, match="not confirmed"):
            run(made)


def test_litestream_does_not_start_on_another_epochs_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(tmp_path)
    monkeypatch.setattr(host_run, "require_lease", lambda _: 2)
    made.layout.litestream_yml.write_text("path: replica/genesis/epoch-0001/trades")
    with pytest.raises(Refused, match="not of epoch 2"):
        host_run.run_litestream(made)


def test_a_follower_begins_anew_and_only_on_a_standby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(tmp_path)
    with pytest.raises(Refused, match="only a standby"):
        host_run.run_follower(made, "trades")
    write_role(made.layout, "standby", 2)
    old = made.layout.following(made.service.databases[0], 1)
    old.parent.mkdir(parents=True)
    old.write_bytes(b"an earlier copy")
    ran: list[list[str]] = []

    class Replaced(BaseException):
        pass

    def become(argv: list[str], environment: dict[str, str]) -> None:
        ran.append(argv)
        raise Replaced

    monkeypatch.setattr(host_run, "_exec", become)
    monkeypatch.setattr(host_run, "_await_replica", lambda *_: None)
    with pytest.raises(Replaced):
        host_run.run_follower(made, "trades")
    assert not old.exists() and "-f" in ran[0]


def test_the_services_environment(tmp_path: Path) -> None:
    made = config(tmp_path)
    write_role(made.layout, "primary", 3)
    (made.layout.etc / "service.env").write_text('# a comment\n\nEXCHANGE=http://x?a=1\nNAME="two words"\nEMPTY=\n')
    found = host_run.service_environment(made, 3)
    assert found["LIFELINE_ROLE"] == "primary" and found["LIFELINE_EPOCH"] == "3"
    assert (found["EXCHANGE"], found["NAME"], found["EMPTY"]) == ("http://x?a=1", "two words", "")


@pytest.mark.parametrize("line", ["no equals", "=x", "A B=x", "A='unclosed"])
def test_a_bad_line_of_the_environment_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "service.env"
    path.write_text(f"GOOD=1\n{line}\n")
    with pytest.raises(BadConfig, match=":2:"):
        host_run.read_env(path)


# -- supervisor's files


def test_a_program_reads_back_as_it_was_meant() -> None:
    import configparser
    import shlex

    program = Program("x", ["/bin/run", "a b", 'q"q', "50%"], environment={"KEY": 'v"1,%2;'}, stop_seconds=7)
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(supervisor.render(program))
    section = parser["program:x"]
    assert shlex.split(section["command"].replace("%%", "%")) == ["/bin/run", "a b", 'q"q', "50%"]
    assert section["environment"] == 'KEY="v\\"1,%%2;"'
    assert (section["autostart"], section["stopwaitsecs"], section["killasgroup"]) == ("false", "7", "true")


def test_a_line_break_cannot_smuggle_a_setting() -> None:
    with pytest.raises(ValueError, match="line break"):
        supervisor.render(Program("x", ["/bin/run"], environment={"A": "x\nuser=root"}))


# -- small files


def test_a_file_is_written_once_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "secret"
    assert layout.write_file(path, "one") and not layout.write_file(path, "one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert layout.write_file(path, "one") and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"role": "king", "epoch": 1}', '{"role": "primary", "epoch": "1"}']
)
def test_a_damaged_role_is_none(tmp_path: Path, content: str) -> None:
    made = config(tmp_path).layout
    (made.state / "role.json").write_text(content)
    assert layout.read_role(made).role == "none"


def test_follower_programs_by_database(tmp_path: Path) -> None:
    two = config(tmp_path, service=SERVICE + '[[databases]]\nname = "orders"\npath = "/x/orders.db"\n').service
    assert apply.follower_programs(two) == {"follower-trades": "trades", "follower-orders": "orders"}
