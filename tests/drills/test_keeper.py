"""On real hosts: what the calendar missed is caught up, once, and what fails is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from lifeline import inventory as inventories
from lifeline.store import keys
from lifeline.vault import key_from_environment, open_store
from runbooks.doors import site_of
from tests.drills.kit import CHECKOUT, Env, backed_up, eventually, provisioned, status

pytestmark = [pytest.mark.lab, pytest.mark.slow]
KEEPER = "[b]in/lifeline-keeper"  # a pattern that doesn't match the command that looks for it
AT_ONCE = '{fullAt: "02:00", everyHours: 4, verifyAt: "03:00", checkOn: sunday, settleS: 0}'


@pytest.fixture(scope="module")
def env(lab_session: Any) -> Iterator[Env]:
    with provisioned(dict(lab_session.env), backups=AT_ONCE) as env, mock.patch.dict("os.environ", env):
        yield env


def test_a_keeper_that_is_killed_amid_a_backup_makes_it_once_and_one_that_fails_is_told(env: Env) -> None:
    """The catalogue says what is due: with nothing in it the slot was missed, as after an outage."""
    holder, password = status(env)["lease"]["holder"], "/etc/lifeline/restic.password"
    backed_up(env, "--full")
    with site_of(CHECKOUT, inventories.load(CHECKOUT, "lab")) as at:
        remote = at.hosts[holder]
        vault = open_store(at.inventory.vault, key_from_environment("SPACES"))

        def shell(*words: str, check: bool = True) -> str:
            return remote.run(["sudo", "-n", *words], timeout=20, check=check).text.strip()

        def made() -> list[str]:
            return list(keys(vault, "catalogue/genesis/2"))

        def forgotten() -> None:
            """Another keeper, which has nothing but the catalogue to know what was done by."""
            vault.delete_all(made())
            shell("rm", "-f", "/var/lib/lifeline/jobs.json")
            shell("pkill", "-9", "-f", KEEPER)

        def running() -> int:
            return len(shell("pgrep", "-f", "[l]ifeline-host backup", check=False).split())

        def at_work() -> bool:
            """By the keeper that is to be killed: one that was killed before leaves its backup to the next to end."""
            return running() > 0 and bool(shell("pgrep", "-f", KEEPER, check=False))

        kept = shell("cat", password)
        remote.run(["sudo", "-n", "tee", password], input=b"another")
        try:
            forgotten()
            eventually(lambda: "failed-backup" in json.dumps(status(env)), 200, "that it fails is told")
        finally:
            remote.run(["sudo", "-n", "tee", password], input=kept.encode() + b"\n")
        assert not made()

        forgotten()
        eventually(at_work, 200, "what was missed is caught up")
        shell("pkill", "-9", "-f", KEEPER)
        most = [0]

        def caught_up() -> bool:
            most[0] = max(most[0], running())
            return bool(made())

        eventually(caught_up, 200, "the next keeper makes it")
        eventually(lambda: not running(), 60, "and no other")
    assert len(made()) == 1 and most[0] <= 2, (made(), most)  # sudo's own process, where there is one, and the verb's
    eventually(lambda: "failed-backup" not in json.dumps(status(env)), 90, "the alert ends")
