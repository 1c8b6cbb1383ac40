"""What a series does again and again: the policy the stack gets for it, the trouble, and what ends it.

No more than these tables: lab/series carries them out and judges them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from lab import config, faults, network
from lab.config import LabConfig
from lab.outsiders import poll
from lab.series import eyes
from lab.series.verdict import Expects
from lifeline.errors import StepFailed
from lifeline.model import Host

ACTION_S = 120.0


@dataclass
class Scene:
    """The two hosts of one run, before the trouble: who is primary, who is standby. kept: what a trouble leaves for
    its end. returns_from: the files with which the old primary will come back, None: those on its disk."""

    old: Host
    new: Host
    kept: dict[str, Any] = field(default_factory=dict)
    returns_from: Path | None = None


@dataclass(frozen=True)
class Trial:
    """before: what happens while all is well. trouble: True when the lab sees that it happened. after: what the trouble
    ends with; ``way``: how the old primary comes back, "" when it never was away. types: the operator's command, from
    home and from away; empty: nobody types anything. fence: policy.fenceRequired. promised: for a ttl, the most that
    median and worst may be, in seconds: of the outside write, in a switchover of the outage."""

    name: str
    title: str
    story: str
    expects: Expects
    trouble: Callable[[Scene], bool]
    after: Callable[[Scene], None] | None = None
    way: str = ""
    before: Callable[[Scene], None] | None = None
    types: Callable[[Host], tuple[str, ...]] | None = None
    fence: str = "power-off"
    promised: Mapping[int, tuple[float, float | None]] = field(default_factory=dict)

    def policy(self, ttl: int) -> str:
        """The stack's: hosts that act by themselves, a margin of a sixth, a cut line waited out for a ttl."""
        return (
            f"{{leaseTtlS: {ttl}, leaseMarginS: {max(2, ttl // 6)}, fenceRequired: [{self.fence}], maxLagS: 60, "
            f"mode: automatic, partitionS: {ttl}}}"
        )


# -- the troubles


def _power_cut(scene: Scene) -> bool:
    faults.power_cut(scene.old.name)
    return eyes.power(scene.old) == "off"


def _freeze(scene: Scene) -> bool:
    faults.freeze(scene.old.name)
    return eyes.frozen(scene.old)


def _cut(region: str, place: str = "everything") -> bool:
    faults.cut_region(region, place)
    return f"{region} from {place}" in network.partitions()


def _nothing(scene: Scene) -> bool:
    return True


# -- their ends


def _power_back(scene: Scene) -> None:
    faults.power_back(scene.old.name)


def _thaw(scene: Scene) -> None:
    faults.thaw(scene.old.name)


def _heal(scene: Scene) -> None:
    faults.heal()


def _reboot(scene: Scene) -> None:
    _act(scene.old, type="power_cycle")


def _take_snapshot(scene: Scene) -> None:
    action = _act(scene.old, type="snapshot", name=f"{scene.old.name}-as-primary")
    images = api("GET", f"/v2/droplets/{scene.old.droplet_id}/snapshots")["snapshots"]
    if not images:
        raise StepFailed(f"action {action} left no snapshot")
    scene.kept["image"] = image = max(image["id"] for image in images)
    scene.returns_from = LabConfig.load(config.state_dir() / "lab.json").state / "snapshots" / str(image)


def _restore_snapshot(scene: Scene) -> None:
    image = scene.kept["image"]
    _act(scene.old, type="restore", image=image)
    api("DELETE", f"/v2/images/{image}")


def _act(host: Host, **action: Any) -> int:
    """An action of the cloud's on a droplet, awaited."""
    begun = api("POST", f"/v2/droplets/{host.droplet_id}/actions", action)["action"]["id"]
    path = f"/v2/droplets/{host.droplet_id}/actions/{begun}"
    states: list[str] = []

    def ended() -> bool:
        states.append(api("GET", path)["action"]["status"])
        return states[-1] != "in-progress"

    if not poll(ended, ACTION_S) or states[-1] != "completed":
        raise StepFailed(f"{action['type']} of {host.name} is {states[-1]} after {ACTION_S:.0f} s")
    return int(begun)


def api(method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    token = LabConfig.load(config.state_dir() / "lab.json").token
    with httpx.Client(base_url=f"http://{config.API_ADDRESS}", trust_env=False, timeout=30.0) as client:
        answer = client.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"})
    if answer.status_code >= 400:
        raise StepFailed(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
    return answer.json() if answer.content else {}


def _home_and_back(primary: Host) -> tuple[str, ...]:
    """Away from home, and home again."""
    return ("fab", "switchover" if primary.home_role == "primary" else "failback", "--yes")


_TABLE = (
    Trial(
        name="power-cut",
        title="Power cut of the primary, automatic failover",
        story="The primary loses power under load. Nobody types anything. Later its power is back.",
        expects="failover",
        trouble=_power_cut,
        after=_power_back,
        way="power restored",
        promised={30: (45.0, 60.0), 10: (20.0, None)},
    ),
    Trial(
        name="frozen",
        title="Every process of the primary's host stopped",
        story="A hypervisor's pause: SIGSTOP to all. Fenced by its lease alone; later it goes on where it stood.",
        expects="failover",
        trouble=_freeze,
        after=_thaw,
        way="SIGCONT",
        fence="self-fence",
    ),
    Trial(
        name="region-cut",
        title="The primary's region cut off from everything",
        story="Nothing comes into the region, nothing leaves it. Fenced by its lease alone; later the line is back.",
        expects="failover",
        trouble=lambda scene: _cut(scene.old.region),
        after=_heal,
        way="partition healed",
        fence="self-fence",
    ),
    Trial(
        name="snapshot",
        title="Power cut; what comes back is a snapshot of when it was primary",
        story="An image is taken of the running primary. It loses power, and is later restored from that image.",
        expects="failover",
        before=_take_snapshot,
        trouble=_power_cut,
        after=_restore_snapshot,
        way="snapshot restored",
    ),
    Trial(
        name="rebooted",
        title="Every process of the primary's host stopped; the cloud reboots it",
        story="As frozen; then somebody power-cycles the hung droplet, which boots as the primary that it was.",
        expects="failover",
        trouble=_freeze,
        after=_reboot,
        way="rebooted by the cloud",
        fence="self-fence",
    ),
    Trial(
        name="hosts-cut",
        title="The line between the two hosts cut",
        story="Both go on seeing everybody else. Nothing may happen.",
        expects="nothing",
        trouble=lambda scene: _cut(scene.old.region, scene.new.region),
        after=_heal,
    ),
    Trial(
        name="standby-cut",
        title="The standby's region cut off from everything",
        story="The standby sees nobody. Nothing may happen.",
        expects="nothing",
        trouble=lambda scene: _cut(scene.new.region),
        after=_heal,
    ),
    Trial(
        name="switchover",
        title="Switchover under load, and failback",
        story="An operator types fab switchover --yes, and the next time fab failback --yes.",
        expects="switchover",
        trouble=_nothing,
        types=_home_and_back,
        promised={30: (5.0, None), 10: (5.0, None)},
    ),
)
TRIALS: Mapping[str, Trial] = {trial.name: trial for trial in _TABLE}
