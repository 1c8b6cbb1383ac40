"""A copy on the operator's machine: what it asks for, and what it works without. The real thing is in
tests/drills/test_backups.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifeline.errors import BadConfig, BadInput, Refused, Unavailable
from lifeline.inventory import Loaded
from runbooks import break_glass
from runbooks.doors import site_of
from runbooks.here import visitor
from runbooks.restore import inspect
from runbooks.wanted import WAYS, one_way
from tests.unit.world import World

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_no_token_is_needed_where_the_cloud_is_not_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    site = site_of(world.root, Loaded(world.inventory, "the test"), read_only=True, with_cloud=False)
    with pytest.raises(Refused, match="works without the cloud"):
        site.cloud.power_state("1")
    with pytest.raises(BadConfig, match="DIGITALOCEAN_TOKEN"):
        site_of(world.root, Loaded(world.inventory, "the test"), read_only=True)


def test_what_lies_on_the_hosts_is_not_looked_for_here(world: World) -> None:
    with pytest.raises(BadInput, match="lie on the hosts"):
        inspect(world.process(), f"here:{world.root}/copy", source="local")
    with pytest.raises(BadInput, match="no HOST:PATH"):
        inspect(world.process(), "here:copy", source="offsite")
    for nowhere in ("/", "/proc/self/copy"):
        with pytest.raises(BadInput, match=r"no new folder|can be written") as caught:
            inspect(world.process(), f"here:{nowhere}", source="offsite")
        assert "fab restore --to here:" in caught.value.hint
    world.down.add("lease")
    with pytest.raises(Unavailable):  # which epoch counts isn't known
        inspect(world.process(), f"here:{world.root}/copy", source="offsite")


def test_everything_it_writes_is_below_one_folder(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text("correct horse")
    monkeypatch.setenv("LIFELINE_PASSPHRASE_FILE", str(phrase))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "operator's")
    for name in ("SPACES_ACCESS_KEY_ID", "SPACES_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    config = visitor(ROOT, world.inventory, tmp_path / "scratch")
    layout, me = config.layout, config.inventory.host(config.name)
    for path in (layout.etc, layout.state, layout.run, layout.restic_cache, layout.restic_password):
        assert tmp_path / "scratch" in path.parents
    assert layout.restic_password.stat().st_mode & 0o777 == 0o600
    # What restic saved has the names it had on a host.
    assert (str(layout.staging), str(layout.live(config.service.databases[0]))[:9]) == (
        "/var/lib/lifeline/backup",
        "/var/lib/",
    )
    assert me.vault_key is None and me.offsite_key is not None and me.offsite_key.access_key == "operator's"


def test_where_the_off_site_vault_is_must_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELINE_STACK", "lab")
    monkeypatch.delenv("LIFELINE_OFFSITE_BUCKET", raising=False)
    with pytest.raises(BadConfig, match="where is the off-site vault"):
        break_glass.renew(from_offsite=True)
    with pytest.raises(BadInput, match="only one of them"):
        break_glass.renew(from_offsite=True, from_vault=True)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_takes_its_own_options_and_no_other(way: str) -> None:
    mine = {name: "x" for name in (way, *WAYS[way]) if name and not (way == "" and name in WAYS)}
    assert one_way(mine) == (way if way in mine else "")
    others = {name for names in WAYS.values() for name in names} - set(WAYS[way]) - set(WAYS)
    for name in others if way else {"format", "check"}:
        with pytest.raises(BadInput):
            one_way({**mine, name: "x"})
