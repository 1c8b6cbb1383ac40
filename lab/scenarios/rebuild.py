"""Everything is gone at once: both hosts, the names, the account's other things, Pulumi's state, the operator's files.

What remains is what no disaster may take: the buckets, this checkout, and the paper in the safe. The hosts' users at
AWS and the second name's zone stay too, so that what stands is met as well as what is missing.
"""

from __future__ import annotations

import contextlib
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from lab import config, faults
from lab.conduct import everything
from lab.config import LabConfig
from lab.outsiders import poll
from lab.pair import pair
from lab.scenarios import Scenario, Situation, criteria
from lab.scenarios.criteria import Criterion, criterion
from lab.scenarios.trials import api
from lab.series import eyes
from lab.stage import STACK
from lifeline import inventory as inventories
from lifeline.errors import LifelineError, StepFailed
from lifeline.standing import listed

GONE_S, PAIR_S, PREVIEW_S = 30.0, 60.0, 120.0
# Where each is listed, the answer's key, and its id: what an account has beside droplets, buckets and what is its own.
_THINGS = (
    ("/v2/domains", "domains", "name"),
    ("/v2/firewalls", "firewalls", "id"),
    ("/v2/uptime/checks", "checks", "id"),
    ("/v2/monitoring/alerts", "policies", "uuid"),
    ("/v2/account/keys", "ssh_keys", "id"),
    ("/v2/tags", "tags", "name"),
    ("/v2/spaces/keys", "keys", "access_key"),
)


def _from_the_safe(situation: Situation) -> None:
    """What a person has written down: where the vaults are."""
    stage, inventory = situation.stage, situation.stage.inventory
    assert inventory and inventory.vault.endpoint and inventory.offsite.endpoint
    stage.env |= {
        **{"LIFELINE_VAULT_BUCKET": inventory.vault.bucket, "LIFELINE_VAULT_ENDPOINT": inventory.vault.endpoint},
        **{"LIFELINE_OFFSITE_BUCKET": inventory.offsite.bucket, "LIFELINE_OFFSITE_REGION": inventory.offsite.region},
        **{"LIFELINE_VAULT_REGION": inventory.vault.region, "LIFELINE_OFFSITE_ENDPOINT": inventory.offsite.endpoint},
    }
    lease = eyes.Stores(inventory, stage.env).lease()
    situation.kept["epoch"] = lease.epoch if lease else 0


def _destroy(situation: Situation) -> dict[str, Any]:
    """Both hosts die in the same moment; then all else goes, whatever still knows of it."""
    inventory = situation.stage.inventory
    assert inventory
    for host in inventory.hosts:
        faults.power_cut(host.name)
    for host in inventory.hosts:
        api("DELETE", f"/v2/droplets/{host.droplet_id}")
    found: dict[str, int] = {}
    for path, key, identity in _THINGS:
        things = listed(_listing, path, key)
        for one in things:
            api("DELETE", f"{path}/{one[identity]}")
        found[key] = len(things)
    shutil.rmtree(_state())
    shutil.rmtree(inventories.folder(situation.stage.root, STACK))
    if not poll(lambda: all(eyes.power(host) == "absent" for host in inventory.hosts), GONE_S):
        raise StepFailed("a droplet that was destroyed is still there")
    return {"fault": "both droplets, names, state and the operator's files destroyed", "with": found}


def _listing(method: str, path: str, params: dict[str, str]) -> Any:
    return api(method, f"{path}?{'&'.join(f'{name}={value}' for name, value in params.items())}")


def _state() -> Path:
    return LabConfig.load(config.state_dir() / "lab.json").pulumi_backend / ".pulumi"


def _seen(situation: Situation) -> bool:
    inventory = situation.stage.inventory
    assert inventory
    domains = {one["name"] for one in listed(_listing, "/v2/domains", "domains")}
    there = any(eyes.power(host) != "absent" for host in inventory.hosts)
    return not there and inventory.record.domain not in domains and situation.kept["epoch"] > 0


def _is_whole(situation: Situation) -> list[Criterion]:
    """The same vault goes on, there is a standby, and Pulumi has nothing left to do."""
    stage, lost = situation.stage, situation.stage.inventory
    assert lost
    made = inventories.from_cache(stage.root, STACK).inventory
    new = all(host.droplet_id not in {one.droplet_id for one in lost.hosts} for host in made.hosts)
    lease, before = eyes.Stores(made, stage.env).lease(), situation.kept["epoch"]
    epoch = lease.epoch if lease else None
    old = f"replica/{lost.service}/epoch-{before:04d}/"
    kept: bool | None = None
    with contextlib.suppress(LifelineError):
        kept = any(True for _ in eyes.vault(made, stage.env).list(old))
    whole = poll(lambda: pair(made.hosts) is not None, PAIR_S)
    preview = stage.command("preview", ["pulumi", "preview", "--expect-no-changes", "--non-interactive"], everything)
    code = preview.wait(PREVIEW_S)
    same = [host.host_key for host in made.hosts] == [host.host_key for host in lost.hosts]
    return [
        criterion(
            "both hosts are other droplets, with the identities of before", new and same, "by their ids and keys"
        ),
        criterion("the vault went on: the next epoch", epoch == before + 1, f"epoch {before}, then {epoch}"),
        criterion("nothing of the epoch before was removed", kept, old),
        criterion("there is a standby that could take over", whole, "by both hosts' agents"),
        criterion("Pulumi has nothing left to change", code == 0, f"pulumi preview: exit code {code}"),
    ]


SCENARIO = Scenario(
    name="rebuild",
    title="Everything is gone but the vaults",
    story="Both droplets, all names, Pulumi's state and the operator's own files are destroyed under load. An operator "
    "with the secrets from the safe types one command.",
    ready=_from_the_safe,
    fault=_destroy,
    seen=_seen,
    types=(("fab", "rebuild", "--yes"), ("fab", "validate")),
    judge=partial(criteria.recovered, elsewhere=None),
    looks=_is_whole,
    component="full disaster recovery",
    within_s=900.0,
    mend=lambda situation: situation.stage.renew(),
)
