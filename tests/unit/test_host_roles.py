"""Who may become primary of which epoch, and in which order a host takes and leaves a role."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import apsw
import pytest

from lifeline import continuation, hooks, observe, roles
from lifeline.errors import Refused, StepFailed, Unavailable, Unproven
from lifeline.layout import DataFile, RoleFile, read_data, read_role, write_data, write_role
from lifeline.model import Lease
from lifeline.replica import Synced
from lifeline.roles import Prefix, promotion_refusal
from tests.unit.hostkit import FakeLeases, FakeSupervisor, FakeVault, config

ME = "primary-newyork"
EMPTY = Prefix(None, False, None)
LEASE = Lease("genesis", ME, 1, 30.0, 5.0, 1, "operator:me", "run")


class Leases(FakeLeases):
    """Whose lease comes back only from a host on which nothing runs."""

    watch: FakeSupervisor | None = None

    def release(self, holder: str, epoch: int) -> None:
        assert self.watch is None or not any(self.watch.running.values())
        super().release(holder, epoch)


@pytest.mark.parametrize(
    ("epoch", "have", "exist", "prefix", "words"),
    [
        # the first primary ever
        (1, DataFile(), False, EMPTY, None),
        (1, DataFile(), True, EMPTY, None),  # databases that were there before are adopted
        # a usual promotion
        (2, DataFile(origin_epoch=1, finalized=1), True, Prefix(None, False, 1), None),
        (2, DataFile(origin_epoch=1, finalized=1), True, Prefix(ME, False, 1), None),  # crashed after it put its name
        (5, DataFile(origin_epoch=2, finalized=4), True, Prefix(None, False, 2), None),  # promotions that never wrote
        # a restart of the same epoch
        (2, DataFile(live_epoch=2), True, Prefix(ME, True, 1), None),
        (2, DataFile(live_epoch=2), False, Prefix(ME, True, 1), "are gone"),
        # a restore to an earlier time, served as the next epoch
        (4, DataFile(origin_epoch=2, at="2026-01-01T00:00:00Z"), True, Prefix(None, False, 3), None),
        # one prefix, one writer, one life
        (2, DataFile(origin_epoch=1, finalized=1), True, Prefix("backup-singapore", False, 1), "backup-singapore"),
        (2, DataFile(live_epoch=2), True, Prefix("backup-singapore", True, 1), "backup-singapore"),
        (2, DataFile(origin_epoch=1, finalized=1), True, Prefix(None, True, 1), "unknown host"),
        (2, DataFile(origin_epoch=1, finalized=1), True, Prefix(ME, True, 1), "in use already"),
        (1, DataFile(), False, Prefix(ME, True, None), "in use already"),  # a rebuilt disk
        # nobody serves what an earlier epoch has gone beyond
        (3, DataFile(live_epoch=1), True, Prefix(None, False, 2), "finalize"),
        (2, DataFile(live_epoch=1), True, Prefix(None, False, 1), "finalize"),
        (2, DataFile(), False, Prefix(None, False, 1), "finalize"),  # never an empty database
        (2, DataFile(), True, Prefix(None, False, 1), "finalize"),
        (4, DataFile(origin_epoch=1, finalized=1), True, Prefix(None, False, 3), "newer data"),
        (2, DataFile(origin_epoch=1, finalized=1), False, Prefix(None, False, 1), "missing"),
    ],
)
def test_promotion(epoch: int, have: DataFile, exist: bool, prefix: Prefix, words: str | None) -> None:
    refusal = promotion_refusal(ME, epoch, have, exist, prefix)
    assert refusal is None if words is None else refusal is not None and words in refusal


def test_a_prefix_is_read_with_its_owner_and_what_came_before(tmp_path: Path) -> None:
    vault = FakeVault({"replica/genesis/epoch-0003/owner.json": b'{"host": "backup-singapore"}'})
    vault.replicate(1, 7)
    assert roles.look_at_prefix(config(tmp_path), vault, 3) == Prefix("backup-singapore", False, 1)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is healthy, and a Litestream that replicates, at once."""
    monkeypatch.setattr(roles, "await_service", lambda *_, **__: None)
    monkeypatch.setattr(roles, "_await_replication", lambda *_: None)


def test_a_first_primary_puts_its_name_on_the_prefix_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    made, supervisor, vault = config(tmp_path), FakeSupervisor(), FakeVault()
    seen: dict[str, Any] = {}

    def confirm(*_: object) -> None:
        seen.update(role=read_role(made.layout), running=dict(supervisor.running), owner=dict(vault.objects))

    monkeypatch.setattr(roles, "_await_lease", confirm)
    answer = roles.start_primary(made, supervisor, vault, 1)  # type: ignore[arg-type]
    assert answer == {"changed": True, "role": "primary", "epoch": 1, "healthy": True, "replicating": True}
    assert seen["role"].role == "primary" and not any(seen["running"].values())
    assert json.loads(seen["owner"]["replica/genesis/epoch-0001/owner.json"])["host"] == ME
    assert supervisor.running["litestream"] and supervisor.running["genesis"]
    assert made.layout.litestream_yml.stat().st_mode & 0o777 == 0o600
    assert roles.start_primary(made, supervisor, vault, 1)["changed"] is False  # type: ignore[arg-type]


def test_without_the_lease_nothing_starts_and_the_role_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "LEASE_WITHIN_S", 0.1)
    made, supervisor = config(tmp_path), FakeSupervisor()
    with pytest.raises(Refused, match="the agent does not answer"):
        roles.start_primary(made, supervisor, FakeVault(), 1)  # type: ignore[arg-type]
    assert read_role(made.layout).role == "none" and not any(supervisor.running.values())


def test_one_that_stopped_itself_and_has_no_lease_yet_still_serves_again_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "LEASE_WITHIN_S", 0.1)
    made, vault = config(tmp_path), FakeVault()
    vault.replicate(1, 7)
    vault.write("replica/genesis/epoch-0001/owner.json", json.dumps({"host": ME}).encode())
    made.layout.live(made.service.databases[0]).write_bytes(b"db")
    write_data(made.layout, DataFile(live_epoch=1))
    write_role(made.layout, "none", 1, fenced=True)
    with pytest.raises(Refused):
        roles.start_primary(made, FakeSupervisor(), vault, 1)  # type: ignore[arg-type]
    assert read_role(made.layout) == RoleFile("none", 1, fenced=True)


def test_the_owner_says_at_last_what_really_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    made, vault = config(tmp_path), FakeVault()
    vault.replicate(1, 7)
    made.layout.live(made.service.databases[0]).write_bytes(b"no database")
    write_data(made.layout, DataFile(origin_epoch=1, finalized=1, txids={"trades": 7}, as_replicated=True))
    monkeypatch.setattr(roles, "_await_lease", lambda *_: None)
    roles.start_primary(made, FakeSupervisor(), vault, 2)  # type: ignore[arg-type]
    owner = json.loads(vault.objects["replica/genesis/epoch-0002/owner.json"])
    origin = {"epoch": 1, "databases": {"trades": 7}}
    assert owner == {"host": ME, "epoch": 2, "origin": origin}  # SQLite refused it: it begins with a full copy


def test_a_write_without_an_answer_may_have_arrived_so_the_owner_takes_nothing_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    class Lost(FakeVault):
        def write(self, key: str, body: bytes) -> None:
            super().write(key, body)
            if key.endswith(".ltx"):
                raise Unavailable("no answer")

    made, vault = config(tmp_path), Lost()
    vault.replicate(1, 7)
    database = apsw.Connection(str(made.layout.live(made.service.databases[0])))
    database.execute("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").fetchall()
    database.close()
    write_data(made.layout, DataFile(origin_epoch=1, finalized=1, txids={"trades": 7}, as_replicated=True))
    monkeypatch.setattr(roles, "_await_lease", lambda *_: None)
    monkeypatch.setattr(continuation, "own", lambda *_: None)
    roles.start_primary(made, FakeSupervisor(), vault, 2)  # type: ignore[arg-type]
    owner = json.loads(vault.objects["replica/genesis/epoch-0002/owner.json"])
    assert owner["continues"] == owner["origin"] == {"epoch": 1, "databases": {"trades": 7}}


def test_a_reconciliation_that_failed_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    made = config(tmp_path, service=SLOW + '[hooks]\nreconcile = ["bin/reconcile"]\n')
    supervisor, vault, runs = FakeSupervisor(), FakeVault(), list[str]()
    monkeypatch.setattr(roles, "_await_lease", lambda *_: None)

    def run(argv: list[str], **_: object) -> Done:
        runs.append(argv[-1])
        return Done(len(runs) > 1)

    monkeypatch.setattr("lifeline.hooks.proc.run", run)
    with pytest.raises(StepFailed, match="reconcile failed"):
        roles.start_primary(made, supervisor, vault, 1)  # type: ignore[arg-type]
    assert supervisor.running["genesis"] and hooks.owes_reconcile(made)
    assert roles.start_primary(made, supervisor, vault, 1)["changed"] is True  # type: ignore[arg-type]
    assert runs == ["reconcile", "reconcile"] and not hooks.owes_reconcile(made)
    assert roles.start_primary(made, supervisor, vault, 1)["changed"] is False  # type: ignore[arg-type]
    assert len(runs) == 2


def test_nothing_is_owed_by_who_was_primary_before_that_was_noted_or_has_no_such_hook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_hook = config(tmp_path, service=SLOW + '[hooks]\nreconcile = ["bin/reconcile"]\n')
    write_role(with_hook.layout, "primary", 3)
    assert not hooks.owes_reconcile(with_hook)
    hooks.owe_reconcile(with_hook, 2)
    assert not hooks.owes_reconcile(with_hook)  # of an epoch before
    hooks.owe_reconcile(with_hook, 3)
    assert hooks.owes_reconcile(with_hook) and not hooks.owes_reconcile(config(tmp_path))
    assert observe.observe(with_hook)["service"]["reconciled"] is False
    # Somebody ran it by hand.
    monkeypatch.setattr("lifeline.hooks.proc.run", lambda *_, **__: Done(True))
    hooks.run(with_hook, "reconcile")
    assert observe.observe(with_hook)["service"]["reconciled"] is True


class Done:
    """How a program ended."""

    stdout, reason = "", "the exchange does not answer"

    def __init__(self, ok: bool) -> None:
        self.ok = ok


def test_an_epoch_of_another_host_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    vault = FakeVault({"replica/genesis/epoch-0002/owner.json": b'{"host": "backup-singapore"}'})
    made, supervisor = config(tmp_path), FakeSupervisor()
    write_data(made.layout, DataFile(origin_epoch=1, finalized=1))
    with pytest.raises(Refused, match="backup-singapore"):
        roles.start_primary(made, supervisor, vault, 2)  # type: ignore[arg-type]
    assert read_role(made.layout).role == "none" and not made.layout.litestream_yml.exists()


def running_primary(tmp_path: Path) -> tuple[object, FakeSupervisor]:
    made, supervisor = config(tmp_path), FakeSupervisor()
    write_role(made.layout, "primary", 1)
    made.layout.live(made.service.databases[0]).write_bytes(b"db")
    supervisor.running.update(litestream=True, genesis=True)
    return made, supervisor


def test_stopping_brings_the_last_transactions_out_before_litestream_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, supervisor = running_primary(tmp_path)

    def sync(*_: object) -> Synced:
        assert supervisor.running["litestream"] and not supervisor.running["genesis"]
        return Synced(7, 7)

    monkeypatch.setattr("lifeline.roles.ControlSocket.sync", sync)
    answer = roles.stop_service(made, supervisor)  # type: ignore[arg-type]
    assert (answer["changed"], answer["running"], answer["flushed"]) == (True, False, {"trades": 7})
    assert not any(supervisor.running.values())
    assert roles.stop_service(made, supervisor)["changed"] is False  # type: ignore[arg-type]


def test_a_primary_that_leaves_has_stopped_before_it_gives_its_lease_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, supervisor = running_primary(tmp_path)
    monkeypatch.setattr(roles, "_flush", lambda _: ({"trades": 7}, None))
    leases = Leases(LEASE)
    leases.watch = supervisor
    answer = roles.leave(made, supervisor, leases, 1)  # type: ignore[arg-type]
    assert (answer["released"], answer["flushed"]) == (True, {"trades": 7})
    assert leases.lease.released and read_role(made.layout).role == "none"  # type: ignore[attr-defined]


def test_without_litestream_nothing_is_proved_and_the_lease_stays(tmp_path: Path) -> None:
    """It died, or was stopped by hand: what was written since is on this host alone."""
    made, supervisor = running_primary(tmp_path)
    supervisor.running["litestream"] = False
    leases = Leases(LEASE)
    with pytest.raises(Unproven, match="Litestream didn't run") as caught:
        roles.leave(made, supervisor, leases, 1)  # type: ignore[arg-type]
    assert caught.value.exit_code == 5 and not leases.lease.released
    # Nor does a second call, with nothing left to stop, prove what the first one couldn't.
    with pytest.raises(Refused, match="isn't primary"):
        roles.leave(made, supervisor, leases, 1)  # type: ignore[arg-type]
    assert not leases.lease.released


def test_who_goes_back_in_time_needs_no_flush(tmp_path: Path) -> None:
    made, supervisor = running_primary(tmp_path)
    supervisor.running["litestream"] = False
    assert roles.stop_service(made, supervisor, flush=False)["running"] is False  # type: ignore[arg-type]


def test_without_the_lease_store_nothing_is_stopped(tmp_path: Path) -> None:
    made, supervisor = running_primary(tmp_path)
    leases = Leases(LEASE)
    leases.error = Unavailable("no answer")
    with pytest.raises(Unavailable):
        roles.leave(made, supervisor, leases, 1)  # type: ignore[arg-type]
    assert supervisor.running["genesis"] and read_role(made.layout).role == "primary"  # type: ignore[attr-defined]


def test_a_lease_store_that_goes_away_meanwhile_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, supervisor = running_primary(tmp_path)
    leases = Leases(LEASE)

    def flush(_: object) -> tuple[dict[str, int], None]:
        leases.error = Unavailable("no answer")
        return {"trades": 7}, None

    monkeypatch.setattr(roles, "_flush", flush)
    answer = roles.leave(made, supervisor, leases, 1)  # type: ignore[arg-type]
    assert answer["released"] is False and answer["flushed"] == {"trades": 7}
    assert not any(supervisor.running.values())


def test_what_is_not_proved_to_be_in_the_vault_keeps_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, supervisor = running_primary(tmp_path)
    monkeypatch.setattr(roles, "_flush", lambda _: ({}, "the vault is down"))
    leases = Leases(LEASE)
    with pytest.raises(Unproven, match="the vault is down"):
        roles.leave(made, supervisor, leases, 1)  # type: ignore[arg-type]
    assert not leases.lease.released


def test_a_stop_whose_last_transactions_are_not_proved_says_so_and_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, supervisor = running_primary(tmp_path)
    monkeypatch.setattr(roles, "_flush", lambda _: ({}, "the vault is down"))
    with pytest.raises(Unproven, match="the vault is down"):
        roles.stop_service(made, supervisor)  # type: ignore[arg-type]
    assert not any(supervisor.running.values()) and read_role(made.layout).role == "none"  # type: ignore[attr-defined]


def test_a_standby_stops_everything_else_and_follows(tmp_path: Path) -> None:
    made, supervisor = config(tmp_path, "backup-singapore"), FakeSupervisor()
    supervisor.running.update(litestream=True, genesis=True)
    write_role(made.layout, "primary", 1)
    write_data(made.layout, DataFile(origin_epoch=1, finalized=1, txids={"trades": 7}))
    assert roles.start_standby(made, supervisor, 2)["changed"] is True  # type: ignore[arg-type]
    assert supervisor.running == {"litestream": False, "follower": True, "genesis": False}
    assert read_data(made.layout).finalized is None
    assert roles.start_standby(made, supervisor, 2)["changed"] is False  # type: ignore[arg-type]


def test_a_primary_does_not_become_standby_of_its_own_epoch(tmp_path: Path) -> None:
    made, supervisor = running_primary(tmp_path)
    with pytest.raises(Refused, match="primary of epoch 1"):
        roles.start_standby(made, supervisor, 1)  # type: ignore[arg-type]
    assert supervisor.running["genesis"]


def test_a_follower_that_is_being_finalized_does_not_come_back_at_a_boot(tmp_path: Path) -> None:
    made, supervisor = config(tmp_path), FakeSupervisor()
    write_role(made.layout, "standby", 4)
    supervisor.running["follower"] = True
    roles.stop_followers(made, supervisor)  # type: ignore[arg-type]
    assert read_role(made.layout).role == "none" and not supervisor.running["follower"]


def test_an_unhealthy_service_is_an_error_that_names_its_log(tmp_path: Path) -> None:
    made = config(tmp_path, service=SLOW)
    with pytest.raises(StepFailed, match="not healthy") as caught:
        roles.await_service(made, FakeSupervisor())  # type: ignore[arg-type]
    assert "genesis.log" in caught.value.hint


SLOW = """
name = "genesis"
user = "nobody"
command = ["bin/genesis"]
port = 1999
health = "/health"
durability = "vault"
start_within_s = 1
[[databases]]
name = "trades"
path = "/var/lib/genesis/trades.db"
"""
