"""On real hosts: a backup is taken, proved by restores on the standby, and the primary goes back in time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import apsw
import pytest

from lab import faults, lifecycle
from lab.outsiders import Exchange
from lifeline import inventory as inventories
from lifeline import ltx
from lifeline.vault import key_from_environment, open_store
from runbooks.doors import site_of
from runbooks.site import Site
from tests.drills.kit import CHECKOUT, Env, backed_up, eventually, missing, provisioned, run, status, write

pytestmark = [pytest.mark.lab, pytest.mark.slow]


@pytest.fixture(scope="module")
def env(lab_session: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Env]:
    """With the exchange open: validation holds the books against it."""
    folder = tmp_path_factory.mktemp("exchange")
    exchange = Exchange(folder / "book.db", folder / "log")
    with provisioned(dict(lab_session.env)) as env, mock.patch.dict("os.environ", env):
        exchange.start()
        try:
            yield env
        finally:
            exchange.stop()


def site() -> Site:
    return site_of(CHECKOUT, inventories.load(CHECKOUT, "lab"))


def primary(env: Env) -> dict[str, Any]:
    seen = status(env)
    found: dict[str, Any] = seen["hosts"][seen["lease"]["holder"]]
    return found


def written(address: str, name: str, count: int = 20) -> list[str]:
    tokens = [f"{name}-{number}" for number in range(count)]
    assert all(write(address, token) for token in tokens)
    return tokens


def test_backed_up_proved_and_back_in_time_from_every_source(env: Env) -> None:
    address = primary(env)["address"]
    before = written(address, "before")
    backed_up(env, "--full")
    with (
        site() as at
    ):  # the keeper does so two minutes after a role was taken; the weekly verification restores from there
        mirrored = at.hosts[status(env)["lease"]["holder"]].verb("offsite", timeout=120)
    assert mirrored["replica"]["databases"]["genesis"]["txid"] and mirrored["checked"]["holes"] == []
    run(env, "fab", "verify", "--weekly")
    assert "beyond its policy" not in run(env, "fab", "status").stdout
    assert "nothing goes" in run(env, "fab", "prune", "--offsite", "--dry-run").stdout
    (listed,) = json.loads(run(env, "fab", "backups", "--json").stdout)
    assert listed["verdict"] == "PASS" and listed["where"] == ["vault", "local", "offsite"]
    entry = listed["entry"]
    assert entry["databases"]["genesis"]["txid"] and entry["files"]["state"] and entry["files"]["configuration"]
    assert entry["marker"]["held_ms"] < 1000
    assert status(env)["verification"]["rpo_measured_s"] < 30

    until = written(address, "until")
    then = datetime.now(UTC).isoformat()
    after = written(address, "after")

    # A copy to look at, on the standby: nothing else changes.
    standby = next(name for name in status(env)["hosts"] if name != status(env)["lease"]["holder"])
    run(env, "fab", "restore", "--to", f"{standby}:/var/tmp/look", "--at", then)
    run(env, "fab", "restore", "--to", f"{standby}:/var/tmp/look", code=2)
    run(env, "fab", "restore", "--to", "nobody:/var/tmp/look", code=2)
    assert status(env)["lease"]["epoch"] == 1 and missing(address, after) == []

    plan = run(env, "fab", "restore", "--at", then, "--dry-run").stdout
    assert "UTC" in plan and "Free disk" in plan and "Transactions behind that point" in plan

    run(env, "fab", "restore", "--at", then, "--yes")
    assert missing(address, before + until) == [] and missing(address, after) == after
    assert status(env)["lease"]["epoch"] == 2
    goes_on_from_the_epoch_before(2)

    # The independent copy: what was written since the backup is undone, and it begins an epoch with a copy of its own.
    run(env, "fab", "restore", "--from", "snapshot", "--yes")
    assert missing(address, before) == [] and missing(address, until) == until
    assert status(env)["lease"]["epoch"] == 3
    late = written(address, "late")
    run(env, "fab", "restore", "--yes")
    assert missing(address, before + late) == []
    eventually(lambda: status(env)["hosts"][standby]["role"] == "standby", 60, "a standby")
    run(env, "fab", "validate")


def test_rows_of_one_table_and_what_can_be_salvaged(env: Env, tmp_path: Path) -> None:
    holder = status(env)["lease"]["holder"]
    written(primary(env)["address"], "row", 3)
    run(env, "fab", "restore", "--table", "probes", "--format", "csv", "--to", str(tmp_path / "probes.csv"))
    assert "row-2" in (tmp_path / "probes.csv").read_text()
    assert "probes" in run(env, "fab", "restore", "--table", "nothing", code=2).stderr
    said = run(env, "fab", "restore", "--salvage", "--to", f"{holder}:/var/lib/lifeline/salvaged").stdout
    assert "PASS" in said and "rows came back" in said
    run(env, "fab", "restore", "--salvage", "--to", f"{holder}:/var/lib/lifeline/salvaged", code=2)


def test_a_wrong_update_is_gone_back_behind(env: Env) -> None:
    """The primary's own data is made wrong, under its service: nobody knows but the check that the operator gives."""
    address, holder = primary(env)["address"], status(env)["lease"]["holder"]
    good = written(address, "good", 10)
    update = "UPDATE probes SET token = 'oops-' || token"
    wrong = f"import apsw; apsw.Connection('/var/lib/genesis/genesis.db').execute({update!r})"
    with site() as at:
        at.hosts[holder].run(["sudo", "-n", "/opt/lifeline/current/venv/bin/python", "-c", wrong])
    assert missing(address, good) == good
    epoch = status(env)["lease"]["epoch"]
    check = "SELECT 1 FROM probes WHERE token LIKE 'oops-%'"
    said = run(env, "fab", "restore", "--before-corruption", "--check", check, "--yes").stdout
    assert "Last good point" in said and "The next one that could be restored fails" in said
    assert missing(address, good) == [] and status(env)["lease"]["epoch"] == epoch + 1
    said = run(env, "fab", "restore", "--before-corruption", "--check", check, "--yes").stdout
    assert "no corruption" in said


def goes_on_from_the_epoch_before(epoch: int) -> None:
    """The first transaction of the epoch is the one after the last of the epoch before."""
    with site() as at:
        vault = open_store(at.inventory.vault, key_from_environment("SPACES"))
        prefix = f"replica/genesis/epoch-{epoch:04d}/"
        owner = json.loads(vault.get(f"{prefix}owner.json").body)
        base = owner["continues"]["databases"]["genesis"]
        levels = [found for info in vault.list(prefix) if (found := ltx.parse_key(info.key))]
        assert min(first for level, first, _ in levels if level != 9) >= base > 1


def test_bad_input_changes_nothing(env: Env) -> None:
    epoch, address = status(env)["lease"]["epoch"], primary(env)["address"]
    kept = written(address, "kept", 3)
    for words, code in (
        (("--at", "yesterday"), 2),
        (("--at", "2999-01-01 00:00:00"), 2),
        (("--at", "2001-01-01 00:00:00", "--yes"), 2),
        (("--table", "probes", "--only", "state"), 2),
        (("--salvage", "--at", "2026-01-01", "--to", "nobody:/x"), 2),
        (("--txid", "none"), 2),
        (("--txid", "99999999", "--yes"), 2),
        (("--from", "attic"), 2),
        (("--waive", "everything"), 2),
    ):
        run(env, "fab", "restore", *words, code=code)
    seen = status(env)
    assert seen["lease"]["epoch"] == epoch and missing(address, kept) == []


def test_a_wrong_password_and_a_half_written_catalogue_are_told(env: Env) -> None:
    holder = status(env)["lease"]["holder"]
    with site() as at:
        vault = open_store(at.inventory.vault, key_from_environment("SPACES"))
        vault.put("catalogue/genesis/20200101T000000Z-full.json", b'{"version": 2, "at"')
        password = "/etc/lifeline/restic.password"
        kept = at.hosts[holder].run(["sudo", "-n", "cat", password]).text
        at.hosts[holder].run(["sudo", "-n", "tee", password], input=b"another")
        try:
            said = backed_up(env, code=3)
            assert "password" in said.stderr
        finally:
            at.hosts[holder].run(["sudo", "-n", "tee", password], input=kept.encode())
        assert "DAMAGED" in run(env, "fab", "backups").stdout
        vault.delete("catalogue/genesis/20200101T000000Z-full.json")
    backed_up(env)


def rows_of(copy: Path) -> set[str]:
    database = apsw.Connection(str(copy), flags=apsw.SQLITE_OPEN_READONLY)
    return {str(row[0]) for row in database.execute("SELECT token FROM probes")}


def test_with_the_vault_gone_nothing_is_stopped_and_the_hosts_own_copy_is_had(env: Env) -> None:
    """And Litestream with it: its program can't be started."""
    holder, address = status(env)["lease"]["holder"], primary(env)["address"]
    epoch, tokens = status(env)["lease"]["epoch"], written(address, "vaulted", 5)
    backed_up(env)
    then, program = datetime.now(UTC).isoformat(), "/opt/lifeline/current/bin/litestream"
    with site() as at:
        at.hosts[holder].run(["sudo", "-n", "mv", program, f"{program}.gone"])
        faults.spaces_down("ams3")
        try:
            for words in ((), ("--at", then), ("--from", "local"), ("--from", "offsite", "--dry-run")):
                said = run(env, "fab", "restore", *words, *([] if "--dry-run" in words else ["--yes"]), code=7)
                assert "Nothing was touched" in said.stderr and f"--to {holder}:" in said.stderr
            seen = status(env)
            assert (seen["lease"]["epoch"], seen["hosts"][holder]["role"]) == (epoch, "primary")
            assert missing(address, tokens) == []
            said = run(env, "fab", "restore", "--from", "local", "--to", f"{holder}:/var/tmp/own", "--only", "database")
            assert "verified" in said.stdout
            count = f"import apsw; print(*apsw.Connection('/var/tmp/own/genesis.db').execute({TOKENS!r}))"
            python = ["sudo", "-n", "/opt/lifeline/current/venv/bin/python", "-c", count]
            assert "vaulted-4" in at.hosts[holder].run(python).text
            at.hosts[holder].run(["sudo", "-n", "mv", f"{program}.gone", program])
            # Files come back in place all the same: what serves needs no vault to be started again.
            settings = "/etc/lifeline/service.env"
            at.hosts[holder].run(["sudo", "-n", "tee", "-a", settings], input=b"# by hand\n")
            said = run(env, "fab", "restore", "--only", "config", "--from", "local", "--yes")
            assert "changed" in said.stdout and settings in said.stdout
            assert "by hand" not in at.hosts[holder].run(["sudo", "-n", "cat", settings]).text
        finally:
            at.hosts[holder].run(["sudo", "-n", "mv", "-n", f"{program}.gone", program], check=False)
            lifecycle.up()
    eventually(lambda: write(address, "back-again"), 90, "a write is acknowledged again")


TOKENS = "SELECT token FROM probes"
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "LIFELINE_PASSPHRASE_FILE", "LIFELINE_STACK")


def test_with_everything_of_digitalocean_gone_the_data_is_had_on_this_machine(env: Env, tmp_path: Path) -> None:
    """All that is left: this checkout, and what lay in the safe."""
    tokens = written(primary(env)["address"], "off-site", 5)
    backed_up(env)
    taken = json.loads(run(env, "fab", "backups", "--json").stdout)[0]["entry"]["databases"]["genesis"]["txid"]
    with site() as at:
        host, away = at.hosts[status(env)["lease"]["holder"]], at.inventory.offsite

        def mirrored() -> int:
            return int(host.verb("offsite", timeout=120)["replica"]["databases"]["genesis"]["txid"] or 0)

        # Off-site goes what Litestream has made of the last half minute, not every second's file.
        eventually(lambda: mirrored() >= taken, 60, "the mirror has what the backup has")
    hosts = list(status(env)["hosts"])
    safe = {name: env[name] for name in SECRETS} | {
        "PATH": f"{env['VIRTUAL_ENV']}/bin:/usr/bin:/bin",
        "LIFELINE_OFFSITE_BUCKET": away.bucket,
        "LIFELINE_OFFSITE_REGION": away.region,
        "LIFELINE_OFFSITE_ENDPOINT": str(away.endpoint),
    }
    faults.api_down()
    faults.dns_down()
    for region in ("nyc3", "sgp1", "ams3"):
        faults.spaces_down(region)
    for host in hosts:
        faults.power_cut(host)
    shutil.move(CHECKOUT / ".lifeline/lab", tmp_path / "cache")
    try:
        run(safe, "fab", "restore", "--from", "offsite", "--to", f"here:{tmp_path}/early", code=3)
        assert "sealed copy" in run(safe, "fab", "inventory", "--from-offsite").stdout
        said = run(safe, "fab", "restore", "--from", "offsite", "--to", f"here:{tmp_path}/copy").stdout
        assert "verified" in said and set(tokens) <= rows_of(tmp_path / "copy/genesis.db")
        # The independent copy too, with what isn't in the databases.
        parts = [word for part in ("database", "config", "state", "logs") for word in ("--only", part)]
        run(safe, "fab", "restore", "--from", "offsite", *parts, "--to", f"here:{tmp_path}/all")
        assert set(tokens) <= rows_of(tmp_path / "all/genesis.db")
        assert (tmp_path / "all/etc/lifeline/service.env").exists()
        assert not list(tmp_path.glob(".lifeline*"))
    finally:
        shutil.rmtree(CHECKOUT / ".lifeline/lab", ignore_errors=True)
        shutil.move(tmp_path / "cache", CHECKOUT / ".lifeline/lab")
        lifecycle.up()
