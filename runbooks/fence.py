"""Fence the old primary: a ladder of rungs, each with its own proof; policy says what suffices.

No rung needs the old host to answer: a dead primary is fenced as fast as a live one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lifeline.admission import WAIVE_FENCE
from lifeline.admission import fence as decide_fence
from lifeline.cloud import Cloud, sees
from lifeline.errors import LifelineError, Unavailable
from lifeline.journal import Clock
from lifeline.model import Finding, Host, Inventory, Verdict
from lifeline.runbook import Step
from runbooks.promotion import Promotion

RUNG_S = 20.0
POLL_S = 0.2


class KeyProof(Protocol):
    """Tries a write to the vault with a host's key: True when it was refused, False when it was accepted."""

    def __call__(self, host: Host) -> bool: ...


@dataclass
class Fence:
    """The ladder for one old primary.  ``taken_at``: when, on our clock, we first saw the lease gone from it.

    ``held_s``: ttl + margin of the lease it held, as far as is known: it stops itself by that one, whatever policy has
    become since.
    """

    inventory: Inventory
    old: Host
    cloud: Cloud
    key_refused: KeyProof
    clock: Clock
    taken_at: Callable[[], float | None]
    promised_until: Callable[[], float] = lambda: 0.0
    released: Callable[[], bool] = lambda: False
    held_s: float = 0.0
    _asked: set[str] = field(default_factory=set)
    _droplet: str = ""

    def __post_init__(self) -> None:
        self._droplet = self.old.droplet_id

    @property
    def window_s(self) -> float:
        """How long after the lease was taken from it the old primary has certainly stopped itself."""
        return max(self.held_s, self.inventory.policy.self_fence_s)

    def proven(self) -> Finding:
        """Look at the rungs that policy names; changes nothing."""
        if self.released():
            return Finding.passed(f"{self.old.name} stopped in order and gave its lease back", rung="released")
        names = sorted({name for alternative in self.inventory.policy.alternatives() for name in alternative})
        return decide_fence(self.inventory.policy, {name: self._look(name) for name in names})

    def climb(self) -> None:
        """Act rung by rung, alternative by alternative, until one is proved.  The step's probe has the last word."""
        for alternative in self.inventory.policy.alternatives():
            for name in sorted(alternative):
                self._act(name)
            if self._await(alternative):
                return

    def would(self) -> str:
        """The actions in words, for the plan."""
        words = {
            "power-off": f"power off {self.old.name} (droplet {self.old.droplet_id}) through the cloud's API",
            "vault-key": f"delete the vault key of {self.old.name}",
            "firewall": f"put {self.old.name} behind a firewall that lets nothing in or out",
            "self-fence": f"wait {self.window_s:g} s for {self.old.name} to stop itself",
        }
        alternatives = [" and ".join(words[name] for name in sorted(a)) for a in self.inventory.policy.alternatives()]
        return "; or else ".join(alternatives)

    def _look(self, name: str) -> Finding:
        try:
            return self._probes[name]()
        except Unavailable as error:
            return Finding.unknown(error.message)

    def _act(self, name: str) -> None:
        """Once a run; what can't be asked for is left to the proof."""
        if name in self._asked or self._look(name).verdict is not Verdict.FAIL:
            return
        self._asked.add(name)
        try:
            if name == "power-off":
                self.cloud.power_off(self._droplet)
            elif name == "vault-key" and self.old.vault_key is not None:
                self.cloud.delete_spaces_key(self.old.vault_key.access_key)
            elif name == "firewall":
                self.cloud.close(self._droplet, self.old.name)
        except LifelineError:
            return

    def _await(self, alternative: frozenset[str]) -> bool:
        patience = RUNG_S + (self.window_s if "self-fence" in alternative else 0.0)
        end = self.clock.monotonic() + patience
        while True:
            verdicts = {self._look(name).verdict for name in alternative}
            if verdicts == {Verdict.PASS}:
                return True
            if Verdict.UNKNOWN in verdicts or self.clock.monotonic() >= end:
                return False
            self.clock.sleep(POLL_S)

    @property
    def _probes(self) -> Mapping[str, Callable[[], Finding]]:
        return {
            **{"power-off": self._power, "vault-key": self._key},
            **{"firewall": self._firewall, "self-fence": self._window},
        }

    def _power(self) -> Finding:
        state = self.cloud.power_state(self._droplet)
        if state == "absent" and (other := self.cloud.droplet_id(self.old.name)):
            # A rebuilt droplet keeps the name and has another id: it may well be running.
            self._droplet = other
            state = self.cloud.power_state(other)
        says = f"{self.old.name} (droplet {self._droplet}) is {state}"
        if state == "absent" and (blind := self._blind()):
            return blind
        if state in ("off", "absent", "archive"):
            return Finding.passed(says, droplet_id=self._droplet, power=state)
        return Finding.failed(says, droplet_id=self._droplet, power=state)

    def _blind(self) -> Finding | None:
        """Absent is gone only to who would see it: the other host, which is there, must be."""
        other = self.inventory.other(self.old.name)
        if sees(self.cloud, other):
            return None
        return Finding.unknown(
            f"the cloud's token sees neither {self.old.name} (droplet {self._droplet}) nor {other.name} (droplet "
            f"{other.droplet_id}): it is another account's, or the inventory is an old one (fab inventory)"
        )

    def _key(self) -> Finding:
        if self.old.vault_key is None:
            return Finding.unknown(f"this inventory doesn't hold the vault key of {self.old.name}")
        access_key = self.old.vault_key.access_key
        if self.cloud.has_spaces_key(access_key):
            return Finding.failed(f"{self.old.name} has its vault key", access_key=access_key)
        if not self.key_refused(self.old):
            return Finding.failed(f"the deleted key of {self.old.name} still writes", access_key=access_key)
        return Finding.passed(f"a write with the deleted key of {self.old.name} was refused", access_key=access_key)

    def _firewall(self) -> Finding:
        if why_not := self.cloud.not_closed(self._droplet, self.old.name):
            return Finding.failed(f"the firewall of {self.old.name} isn't closed: {why_not}", droplet_id=self._droplet)
        if self.cloud.power_state(self._droplet) == "absent" and (blind := self._blind()):
            return blind
        says = f"the firewall of {self.old.name} lets nothing in or out"
        return Finding.passed(says, droplet_id=self._droplet)

    def _window(self) -> Finding:
        """No clocks are compared: the window begins when this very process saw the lease gone from the old primary."""
        taken, window = self.taken_at(), self.window_s
        if taken is None:
            return Finding.failed("the lease has not been taken yet", window_s=window)
        try:
            promised = self.promised_until() + self.inventory.policy.lease_margin_s
        except LifelineError as error:
            return Finding.unknown(error.message, window_s=window)
        passed = self.clock.monotonic() - taken
        left = max(window - passed, promised - self.clock.monotonic())
        if left > 0:
            return Finding.failed(f"{left:.0f} s of the self-fence window left", window_s=window)
        return Finding.passed(f"the lease was taken {passed:.0f} s ago, beyond ttl + margin", window_s=window)


def fence_of(promotion: Promotion) -> Fence:
    """The ladder for the host that isn't being promoted."""
    site = promotion.site
    return Fence(
        inventory=site.inventory,
        old=promotion.old,
        cloud=site.cloud,
        key_refused=site.vault.key_refused,
        clock=site.clock,
        taken_at=lambda: promotion.taken_at,
        promised_until=promotion.promised_until,
        released=lambda: promotion.taken_at is not None and promotion.lease.over_released,
        held_s=promotion.lease.ttl_s + promotion.lease.margin_s,
    )


def fence_step(fence: Fence) -> Step:
    """The old primary can't write or serve, or policy says that this is known well enough."""
    return Step(
        f"old primary {fence.old.name} is fenced",
        until=fence.proven,
        do=fence.climb,
        within=2 * RUNG_S + fence.window_s,
        would=fence.would(),
        waiver=WAIVE_FENCE,
        hint=f"power {fence.old.name} off in the cloud's console, then the same command again",
    )
