"""Litestream's configuration, names and answers, without Litestream."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest
import yaml

from lifeline import replica
from lifeline.errors import StepFailed
from lifeline.replica import Destination
from lifeline.service import Database

NASTY = 'a"b\\c$d: #e'
DESTINATION = Destination("http://ams3.spaces.test", "vault", False, "KEY", NASTY)
TRADES = Database("trades", PurePosixPath("/var/lib/x/trades.db"))
LITESTREAM, CONFIG = Path("/opt/litestream"), Path("/etc/litestream.yml")


def rendered(epoch: int = 3) -> dict[str, object]:
    text = replica.render_config("genesis", epoch, DESTINATION, [TRADES], state=Path("/state"), socket=Path("/run/s"))
    loaded: dict[str, object] = yaml.safe_load(text)
    return loaded


def test_the_configuration_names_this_epochs_prefix_and_keeps_any_secret_whole() -> None:
    database = rendered()["dbs"][0]  # type: ignore[index]
    assert database["path"] == "/var/lib/x/trades.db"
    assert database["replica"]["path"] == "replica/genesis/epoch-0003/trades"
    assert database["replica"]["secret-access-key"] == NASTY
    assert database["replica"]["force-path-style"] is False
    assert rendered()["socket"] == {"enabled": True, "path": "/run/s", "permissions": 0o600}


def test_local_state_is_kept_apart_by_epoch() -> None:
    states = {rendered(epoch)["dbs"][0]["meta-path"] for epoch in (1, 2)}  # type: ignore[index]
    assert states == {"/state/epoch-0001/trades", "/state/epoch-0002/trades"}


def test_commands_never_expand_the_environment_in_a_secret() -> None:
    live, out = Path("/x.db"), Path("/y.db")
    for argv in (
        replica.replicate_argv(LITESTREAM, CONFIG),
        replica.restore_argv(LITESTREAM, CONFIG, live, out),
        replica.follow_argv(LITESTREAM, CONFIG, live, out),
        replica.plan_argv(LITESTREAM, CONFIG, live),
    ):
        assert "-no-expand-env" in argv and not any(NASTY in word for word in argv)


def test_a_restore_aims_at_one_thing() -> None:
    argv = replica.restore_argv(LITESTREAM, CONFIG, Path("/x.db"), Path("/y.db"), txid=26)
    assert argv[argv.index("-txid") + 1] == "000000000000001a"
    with pytest.raises(ValueError, match="not both"):
        replica.restore_argv(LITESTREAM, CONFIG, Path("/x.db"), Path("/y.db"), txid=1, timestamp="2026-01-01T00:00:00Z")


def test_the_newest_transaction_is_read_from_names_of_any_level() -> None:
    prefix = "replica/genesis/epoch-0003/trades/"
    keys = [
        f"{prefix}0/000000000000000a-000000000000000a.ltx",
        f"{prefix}9/0000000000000001-000000000000000c.ltx",
        f"{prefix}owner.json",
        f"{prefix}0/000000000000000a-00000000000000ff.ltx.tmp",
    ]
    assert replica.newest_txid(keys) == 12
    assert replica.newest_txid([]) == 0


@pytest.mark.parametrize("text", ["", "12", "000000000000001G", "00000000000000010"])
def test_a_damaged_position_is_no_position(text: str) -> None:
    with pytest.raises(ValueError, match="transaction id"):
        replica.parse_txid(text)


def test_position_round_trips() -> None:
    assert replica.parse_txid(replica.format_txid(4711) + "\n") == 4711


@pytest.mark.parametrize(
    ("txid", "replicated", "complete"), [(5, 5, True), (5, 6, True), (5, 4, False), (5, 0, False), (0, 0, False)]
)
def test_a_sync_is_complete_only_when_the_vault_has_it(txid: int, replicated: int, complete: bool) -> None:
    body = json.dumps({"status": "synced", "path": "/x", "txid": txid, "replicated_txid": replicated}).encode()
    assert replica.parse_sync(body).complete is complete


def test_list_without_a_first_success_says_so() -> None:
    body = b'{"databases": [{"path": "/x", "status": "replicating"}]}'
    assert replica.parse_list(body) == [replica.Listed("/x", "replicating", None)]


def test_restore_answer() -> None:
    text = 'noise\n{"db_path": "/y", "replica": "s3", "txid": "000000000000001a", "duration_ms": 1500}'
    assert replica.parse_restore(text) == replica.Restored(26, 1.5)
    with pytest.raises(StepFailed):
        replica.parse_restore("nothing")


def test_a_prefix_holds_the_epoch() -> None:
    assert replica.replica_prefix("genesis", 12, "trades") == "replica/genesis/epoch-0012/trades"
    assert replica.epoch_prefix("genesis", 12) == "replica/genesis/epoch-0012/"
