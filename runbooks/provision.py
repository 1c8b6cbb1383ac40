"""Provision: hosts that exist become a primary and a standby. Idempotent and resumable: every step looks before it
acts.

Ships a bundle and the host's own configuration to both hosts at once; the lease says who is primary, and when nobody
ever held it, the home primary takes epoch 1. It recovers nothing: a holder of the lease without its data is a case for
failover or restore.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lifeline import inventory as inventories
from lifeline.errors import BadConfig, LifelineError, Refused, Unavailable
from lifeline.hosts import HOST_TOOL, Remote, read_answer
from lifeline.lease import Claim, Leases
from lifeline.model import Finding, Host, Observation
from lifeline.reading import read_text
from lifeline.runbook import Outcome, Runbook, Step
from lifeline.sealing import seal, unseal
from lifeline.store import Store, find, upload_file
from lifeline.vault import key_from_environment, open_store
from runbooks import settings
from runbooks.bundle import RELEASES, Bundle, ensure
from runbooks.shipping import CURRENT, PACKAGES_MISSING, READY_S, UP, booted, install, install_again
from runbooks.site import Site

T = TypeVar("T")
NAME = "provision"
BUNDLE_STEP = "the bundle is made"  # on the operator's disk: no change to any host
SHIP_S = 600.0
CONFIGURE_S = 120.0
ROLE_S = 900.0


def provision(
    site: Site,
    *,
    service: Path | None = None,
    wheelhouse: Callable[[], Path] | None = None,
    take_away: bool = False,
    dry_run: bool = False,
) -> Outcome | None:
    """Provision both hosts of `site`. `service`: the folder with service.toml, by default services/<name of the
    service>. `take_away`: settings go that hosts have and the file here hasn't."""
    folder = service or site.root / "services" / site.inventory.service
    work = Provisioning(site, folder, wheelhouse or _wheelhouse, take_away=take_away)
    runbook = Runbook(NAME, work.steps(), summary=work.summary, clock=site.clock, out=site.out)
    if dry_run:
        runbook.plan()
        return None
    return runbook.run(site.journal(NAME), {"stack": site.inventory.stack}, publish=site.publish)


def _wheelhouse() -> Path:
    from toolchain import wheels

    return wheels.ensure()


def passphrase() -> str:
    """The operator's passphrase: seals the inventory, and is what restic's password is derived from."""
    name = os.environ.get("LIFELINE_PASSPHRASE_FILE")
    if not name:
        raise BadConfig(
            "LIFELINE_PASSPHRASE_FILE is not set", hint="export LIFELINE_PASSPHRASE_FILE=… (a file of mode 0600)"
        )
    text = read_text(Path(name), hint="check LIFELINE_PASSPHRASE_FILE").strip()
    if not text:
        raise BadConfig(f"{name} is empty", hint="check LIFELINE_PASSPHRASE_FILE")
    return text


def restic_password(secret: str, stack: str) -> str:
    """Derived, so that who knows the passphrase can open the snapshots with nothing else left."""
    derived = hashlib.scrypt(secret.encode(), salt=f"lifeline/restic/{stack}".encode(), n=1 << 14, r=8, p=1, dklen=32)
    return derived.hex()


def peer_key(secret: str, stack: str) -> str:
    """With which the hosts' agents sign what they promise each other; derived likewise, so no file of it is kept."""
    return hashlib.scrypt(secret.encode(), salt=f"lifeline/peer/{stack}".encode(), n=1 << 14, r=8, p=1, dklen=32).hex()


def shipped_files(site: Site, host: Host, release: str, secret: str, given: Mapping[str, str]) -> dict[str, str]:
    """The files of mode 0600 that a host gets: its inventory with no secrets but its own, its name, and what it is
    `given` of the operator's (settings.py)."""
    inventory = site.inventory
    return {
        "inventory.json": json.dumps(inventory.for_host(host.name), indent=1, sort_keys=True),
        "host.json": json.dumps({"name": host.name, "release": release}),
        "restic.password": restic_password(secret, inventory.stack) + "\n",
        "peer.key": peer_key(secret, inventory.stack) + "\n",
        **given,
    }


@dataclass
class Provisioning:
    """The steps' probes and actions. What a probe has seen is kept for the action that follows it."""

    site: Site
    service: Path
    wheelhouse: Callable[[], Path]
    token: Callable[[], str | None] = settings.pilot_token
    take_away: bool = False  # settings that hosts have and the file here hasn't
    bundle: Bundle | None = None
    store: Store | None = None
    leases: Leases | None = None
    secret: str = ""
    given: Mapping[str, str] | None = None
    changed: dict[str, list[str]] = field(default_factory=dict)

    def steps(self) -> list[Step]:
        return [
            Step(BUNDLE_STEP, self.bundle_made, self.make_bundle, within=120, would="make it"),
            Step(
                "both hosts are up", self.hosts_ready, self.boot, within=READY_S, poll=1.0, hint="pulumi up --refresh"
            ),
            Step("what they are to keep is known", self.kept),
            Step("both hosts have the bundle", self.shipped, self.ship, within=SHIP_S, would="ship it"),
            Step(
                "both hosts are configured", self.configured, self.configure, within=CONFIGURE_S, would="configure them"
            ),
            Step("the lease is held", self.lease_held, self.take_lease, would="take epoch 1 for the home primary"),
            Step("its holder serves", self.primary_serves, self.start_primary, within=ROLE_S, would="start it"),
            Step(
                "the other host follows",
                self.standby_follows,
                self.start_standby,
                within=120,
                would="start the follower",
            ),
            # Only what can take over is a standby: a failover right after this must find one.
            Step("it is close behind", self.standby_ready, within=ROLE_S, poll=0.5, would="wait", hint="fab status"),
            Step(
                "bundle and inventory are in the vault",
                self.vaulted,
                self.fill_vault,
                within=SHIP_S,
                would="put them there",
            ),
        ]

    def summary(self, outcome: Outcome) -> str:
        """What changed, in one line."""
        acted = [result.step.name for result in outcome.results if result.acted and result.step.name != BUNDLE_STEP]
        lease = self._lease().read().lease
        holder = lease.holder if lease else "nobody"
        words = f"changed: {', '.join(acted)}" if acted else "no change"
        return f"{holder} is primary; {words}; {outcome.seconds:.1f} s. Next: fab status"

    # The bundle

    def bundle_made(self) -> Finding:
        if self.bundle is None:
            return Finding.failed("not looked for yet")
        size = self.bundle.path.stat().st_size
        return Finding.passed(f"{self.bundle.digest}, {size / 1e6:.0f} MB", digest=self.bundle.digest, bytes=size)

    def make_bundle(self) -> None:
        self.secret = passphrase()
        self.bundle = ensure(self.wheelhouse(), self.service)

    # Both hosts at once

    def hosts_ready(self) -> Finding:
        seen = {name: str(found) for name, found in self._each(booted, patient=True).items()}
        waiting = {name: found for name, found in seen.items() if found != UP}
        for name in waiting:
            state = self._power(name)
            if state not in ("active", "new", "unknown"):
                hint = "pulumi up --refresh" if state == "absent" else "fab reprotect, or pulumi up --refresh"
                raise Refused(f"{name} is {state}: it must be on to be provisioned", hint=hint)
        if waiting:
            says = "; ".join(f"{name}: {found}" for name, found in waiting.items())
            return Finding.failed(f"still booting, or not reachable: {says}", hosts=waiting)
        return Finding.passed("cloud-init is done, supervisor runs")

    def boot(self) -> None:
        """Wait for cloud-init, which installs packages once and never again: where a mirror failed it, once more."""
        clock = self.site.clock
        end = clock.monotonic() + READY_S / 2
        while clock.monotonic() < end:
            seen = self._each(booted, patient=True).values()
            if PACKAGES_MISSING in seen:
                self._each(install_again, patient=True)
                return
            if all(found == UP for found in seen):
                return
            clock.sleep(1.0)

    def _power(self, name: str) -> str:
        try:
            return self.site.cloud.power_state(self.site.inventory.host(name).droplet_id)
        except LifelineError:
            return "unknown"  # the cloud's word is only to spare a wait

    def kept(self) -> Finding:
        """A file that isn't here is the hosts' own; one that is may lack what they run with."""
        inventory, here = self.site.inventory, self._here()
        held = self._each(settings.on_host)
        lost = {} if here[settings.ENV] is None else settings.taken_away(str(here[settings.ENV]), held)
        if lost and not self.take_away:
            host, names = next(iter(lost.items()))
            copy = settings.copy_command(inventory.host(host), inventory.stack)
            raise Refused(
                f"{settings.ENV} here lacks what the service runs with on {host}: {', '.join(names)}",
                hint=f"to keep them: {copy}   to take them away: fab provision --take-away",
            )
        self.given = settings.shipped(here, held, inventory.stack)
        theirs = [name for name, text in here.items() if text is None and self.given[name]]
        says = f"{' and '.join(theirs)}: not on this machine, the hosts keep theirs" if theirs else "as on this machine"
        if lost:
            says += "; taken away: " + "; ".join(f"{', '.join(names)} ({host})" for host, names in lost.items())
        return Finding.passed(f"{says}{self._helpless()}")

    def _here(self) -> dict[str, str | None]:
        site = self.site
        return {
            settings.ENV: settings.service_env(site.root, site.inventory.stack, self.service),
            settings.TOKEN: self.token(),
        }

    def _helpless(self) -> str:
        if self.site.inventory.policy.mode != "automatic" or (self.given or {}).get(settings.TOKEN):
            return ""
        return (
            f"; mode is automatic, but hosts without the cloud's token can fence nobody: export {settings.TOKEN_FILE}=…"
        )

    def shipped(self) -> Finding:
        digest = self._bundle().digest

        def current(remote: Remote) -> str:
            return remote.run(["readlink", CURRENT], timeout=20, check=False).text.strip()

        seen = {name: str(found) for name, found in self._each(current).items()}
        missing = [name for name, found in seen.items() if found != f"{RELEASES}/{digest}"]
        if missing:
            return Finding.failed(f"not on {', '.join(missing)}", current=seen)
        return Finding.passed(digest, release=digest)

    def ship(self) -> None:
        bundle = self._bundle()
        self._each(lambda remote: install(remote, bundle))

    def configured(self) -> Finding:
        pending = {
            name: answer["changed"] for name, answer in self._each(lambda remote: self._send(remote, "--check")).items()
        }
        if any(pending.values()):
            return Finding.failed("differs from what it should be", differs=pending)
        return Finding.passed("as it should be")

    def configure(self) -> None:
        self.changed = {name: answer["changed"] for name, answer in self._each(self._send).items()}

    def _send(self, remote: Remote, *flags: str) -> dict[str, Any]:
        given = self.given or {name: text or "" for name, text in self._here().items()}
        files = shipped_files(self.site, remote.host, self._bundle().digest, self.secret, given)
        argv = ["sudo", "-n", HOST_TOOL, "configure", *flags]
        result = remote.run(argv, input=json.dumps({"files": files}).encode(), timeout=CONFIGURE_S, check=False)
        return read_answer(remote.host.name, "configure", result)

    # Roles

    def lease_held(self) -> Finding:
        view = self._lease().read()
        if view.lease is None:
            return Finding.failed("nobody ever held it")
        if view.free:
            way_out = f"fab failover; if the other host is lost: fab failover --target {view.lease.holder}"
            raise Refused(f"the lease of epoch {view.epoch} was released: nobody is primary", hint=way_out)
        return Finding.passed(
            f"{view.lease.holder} holds epoch {view.epoch}", holder=view.lease.holder, epoch=view.epoch
        )

    def take_lease(self) -> None:
        inventory = self.site.inventory
        claim = Claim(
            service=inventory.service,
            holder=inventory.home_primary.name,
            ttl_s=inventory.policy.lease_ttl_s,
            margin_s=inventory.policy.lease_margin_s,
            taken_by=f"operator:{getpass.getuser()}",
            run_id="provision",
        )
        self._lease().take(claim, over=0)

    def primary_serves(self) -> Finding:
        holder, epoch = self._holder()
        seen = self._observe(holder)
        if (seen.role, seen.epoch) == ("primary", epoch) and seen.service_healthy and seen.litestream_running:
            return Finding.passed(f"{holder}, epoch {epoch}", last_sync_at=seen.last_sync_at)
        return Finding.failed(
            f"{holder} is {seen.role}, healthy: {seen.service_healthy}", role=seen.role, epoch=seen.epoch
        )

    def start_primary(self) -> None:
        holder, epoch = self._holder()
        self.site.hosts[holder].verb("start-primary", "--epoch", str(epoch), timeout=ROLE_S)

    def standby_follows(self) -> Finding:
        holder, epoch = self._holder()
        other = self.site.inventory.other(holder).name
        seen = self._observe(other)
        if (seen.role, seen.epoch) == ("standby", epoch) and seen.follower_running:
            return Finding.passed(f"{other}, epoch {epoch}", lag_s=seen.lag_s)
        return Finding.failed(f"{other} is {seen.role}", role=seen.role, epoch=seen.epoch)

    def start_standby(self) -> None:
        holder, epoch = self._holder()
        other = self.site.inventory.other(holder).name
        self.site.hosts[other].verb("start-standby", "--epoch", str(epoch), timeout=120)

    def standby_ready(self) -> Finding:
        """Its lag is known, and one that a failover would accept."""
        holder, _ = self._holder()
        other, limit = self.site.inventory.other(holder).name, self.site.inventory.policy.max_lag_s
        seen = self._observe(other)
        if seen.lag_s is None:
            return Finding.failed(f"how far {other} lags isn't known yet")
        says = f"{other} lags {seen.lag_s:.1f} s, policy allows {limit:g} s"
        if seen.follower_stalled or seen.lag_s > limit:
            return Finding.failed(f"{says}{'; it stalls' if seen.follower_stalled else ''}", lag_s=seen.lag_s)
        return Finding.passed(says, lag_s=seen.lag_s)

    def _holder(self) -> tuple[str, int]:
        lease = self._lease().read().lease
        if lease is None:
            raise Unavailable("the lease is gone")
        return lease.holder, lease.epoch

    def _observe(self, name: str) -> Observation:
        return self.site.observe(name)

    # The vault

    def vaulted(self) -> Finding:
        bundle, vault = self._bundle(), self._vault()
        current = find(vault, "bundle/current.json")
        if current is None or json.loads(current.body).get("digest") != bundle.digest or vault.head(bundle.key) is None:
            return Finding.failed("the bundle isn't there")
        sealed = find(vault, inventories.sealed_key(self.site.inventory.stack))
        if sealed is None or not self._is_current(sealed.body):
            return Finding.failed("the inventory isn't there")
        return Finding.passed(f"{bundle.key} and the sealed inventory")

    def _is_current(self, sealed: bytes) -> bool:
        try:
            return bool(
                json.loads(unseal(sealed, self.secret)) == json.loads(json.dumps(self.site.inventory.to_json()))
            )
        except (LifelineError, ValueError):
            return False  # sealed with another passphrase, or damaged: replaced by one that can be opened

    def fill_vault(self) -> None:
        bundle, vault, inventory = self._bundle(), self._vault(), self.site.inventory
        if vault.head(bundle.key) is None:
            upload_file(vault, bundle.path, bundle.key)
        note = {"digest": bundle.digest, "key": bundle.key, "service": inventory.service}
        vault.put("bundle/current.json", json.dumps(note).encode(), content_type="application/json")
        sealed = seal(json.dumps(inventory.to_json()).encode(), self.secret)
        vault.put(inventories.sealed_key(inventory.stack), sealed)

    # Doors

    def _bundle(self) -> Bundle:
        if self.bundle is None:
            self.make_bundle()
        assert self.bundle is not None
        return self.bundle

    def _vault(self) -> Store:
        if self.store is None:
            self.store = open_store(self.site.inventory.vault, key_from_environment("SPACES"))
        return self.store

    def _lease(self) -> Leases:
        if self.leases is None:
            store = open_store(self.site.inventory.lease_store, key_from_environment("AWS"))
            self.leases = Leases(store, self.site.inventory.service)
        return self.leases

    def _each(self, job: Callable[[Remote], T], *, patient: bool = False) -> Mapping[str, T]:
        """Both hosts at once. The first host's error is raised, naming the host; with `patient` it is an answer like
        another."""
        names = [host.name for host in self.site.inventory.hosts]
        answers = self.site.hosts.each(names, job)
        if not patient:
            for answer in answers.values():
                if isinstance(answer, LifelineError):
                    raise answer
        return answers  # type: ignore[return-value]
