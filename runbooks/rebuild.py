"""Rebuild: both hosts are gone, and whatever else; what is left is a vault, the secrets in the safe and this checkout.

The vault is taken over as it is, never made anew nor emptied: its data is restored, verified, and served as a new
epoch. To run it again is to resume it, from any keyboard: the lease says that a rebuild is under way, and the vault's
sealed inventory names the lost droplets until all is done.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from lifeline import admission, room, standing
from lifeline import inventory as inventories
from lifeline.errors import Refused, Unavailable
from lifeline.inventory import Loaded
from lifeline.model import Finding, Inventory, Lease, Observation
from lifeline.runbook import Outcome, Runbook, Step, check_waivers
from lifeline.service import Service
from lifeline.standing import BUCKET, RECORD, SPACES, ZONE, Address, Standing
from runbooks.backup import Backup
from runbooks.catalogue import newest_backup
from runbooks.here import copy_here
from runbooks.infrastructure import Data, Infrastructure
from runbooks.promotion import Promotion, outside_step, resolvers_step
from runbooks.provision import Provisioning, passphrase
from runbooks.restore import WAIVE_OLDER, Restoration
from runbooks.settings import pilot_token, service_env
from runbooks.site import Site, confirm
from runbooks.stack import UP_S
from runbooks.wanted import Asked

NAME = "rebuild"
AGAIN = "fab rebuild"
WAIVERS = (admission.WAIVE_TRAFFIC, admission.WAIVE_WRITE, WAIVE_OLDER, room.WAIVER)
SETTINGS = "/etc/lifeline/service.env"
Reopen = Callable[[Loaded], Site]


@dataclass(frozen=True)
class Found:
    """What is left, and what follows from it.  ``source``: the epoch to restore from; ``epoch``: the one to serve;
    ``host``: where; ``resumed``: an earlier run took the lease for that."""

    host: str
    source: int
    epoch: int
    resumed: bool
    lease: Lease | None
    data: Data
    known: int  # resources in the stack's state
    buckets: frozenset[str] = frozenset()  # of the lost inventory's, that are there
    take_over: Standing = field(default_factory=dict)


def rebuild(
    site: Site,
    infrastructure: Infrastructure,
    reopen: Reopen,
    *,
    yes: bool = False,
    dry_run: bool = False,
    waive: tuple[str, ...] = (),
    ask: Callable[[str], str] = input,
) -> Outcome | None:
    """Bring the service back from its vault.  ``site``: over what is left of the inventory; ``reopen``: over the one
    that is made.  None for a dry run."""
    waived = check_waivers(waive, WAIVERS)
    began = site.clock.monotonic()
    service = Service.load(_folder(site) / "service.toml")
    passphrase()  # missing, it would stop a later step
    found = look(site, infrastructure, service)
    work = Rebuild(site, infrastructure, found)
    site.say(outline(site, found))
    first = Runbook(NAME, work.steps(), clock=site.clock, out=site.out)
    if dry_run:
        first.plan()
        site.say(f"Then, on the new hosts: {_then(site, found)}")
        return None
    confirm(site, _warning(site, found), yes, ask)
    journal = site.journal(NAME)
    work.run_id = journal.run_id
    first.run(journal, work.context(), waived, publish=site.publish)
    assert work.made is not None
    with reopen(Loaded(work.made, "what was made")) as fresh:
        hosts = Hosts(fresh, service, found, work.taken_at, began, waived)
        second = Runbook(NAME, hosts.steps(), hosts.summary, site.clock, site.out)
        return second.run(fresh.journal(NAME), work.context(), waived, publish=fresh.publish)


# -- what is left


def look(site: Site, infrastructure: Infrastructure, service: Service) -> Found:
    """Look and decide, without touching anything; raises the refusal if it is one."""
    inventory = site.inventory
    there = infrastructure.standing()
    lease = _lease(site, inventory.lease_store.bucket in there.get(BUCKET, {}))
    data = infrastructure.data(service)
    alive = _droplets(site)
    host, source, epoch, resumed = decide(inventory, lease, data, bool(alive))
    refuse_the_living(inventory, alive, resumed)
    known = infrastructure.known()
    found = [one for one in infrastructure.addresses(inventory.record.domain) if (RECORD, one.name) not in known]
    ours = our_records(inventory, found)
    take_over = standing.without({**there, **standing.records(inventory.record.domain, ours)}, known)
    buckets = frozenset({**there.get(SPACES, {}), **there.get(BUCKET, {})})
    return Found(host, source, epoch, resumed, lease, data, len(known), buckets, take_over)


def decide(inventory: Inventory, lease: Lease | None, data: Data, alive: bool) -> tuple[str, int, int, bool]:
    """(host, epoch to restore from, epoch to serve, resumed).  Pure.  ``alive``: some droplet of the names is there."""
    home = inventory.home_primary.name
    if lease is None:
        if not data.epoch:
            why = f"there is nothing to rebuild from: no lease, and {'; '.join(data.tried) or 'no data'}"
            raise Refused(why, hint="pulumi up, then fab provision, for a service that begins")
        return home, data.epoch, data.epoch + 1, False
    if data.epoch > lease.epoch:
        why = f"{data.source} holds data of epoch {data.epoch}, and the lease is of epoch {lease.epoch}: not the same"
        raise Refused(f"{why} service's, or one of them was put back from a copy", hint="fab status")
    begun = "-rebuild-" in lease.run_id and not lease.released
    # What it served before it was lost as well is no longer its beginning: that is restored, and the next epoch served.
    if begun and (alive or data.epoch < lease.epoch):
        return lease.holder, lease.epoch - 1, lease.epoch, True
    return home, lease.epoch, lease.epoch + 1, False


def refuse_the_living(inventory: Inventory, alive: Mapping[str, tuple[str, str]], resumed: bool) -> None:
    """Nothing is rebuilt beside hosts that are there.  ``alive``: {name: (droplet's id, what it is)}.  Pure."""
    for host in inventory.hosts:
        if host.name not in alive:
            continue
        droplet, state = alive[host.name]
        if resumed and droplet != host.droplet_id:
            continue  # what this rebuild made
        why = f"{host.name} (droplet {droplet}) is {state}: {inventory.stack} isn't lost. Nothing was touched"
        raise Refused(
            why,
            hint="fab status; fab failover, where one host is lost. To give up what is there: destroy both droplets in "
            "the cloud's console, then fab rebuild",
        )


def our_records(inventory: Inventory, found: list[Address]) -> list[Address]:
    """Those of our names, which lead to a lost host; Refused when one is somebody else's.  Pure."""
    names = {inventory.record.name, *(host.name for host in inventory.hosts)}
    lost = {host.address for host in inventory.hosts}
    ours = [one for one in found if one.name in names]
    for one in ours:
        if one.value not in lost:
            domain = inventory.record.domain
            why = f"the record {one.name}.{domain} leads to {one.value}, which was no host of {inventory.stack}"
            hint = f"whose is it? If nobody's: doctl compute domain records delete {domain} {one.id}; then fab rebuild"
            raise Refused(f"{why}. Nothing was touched", hint=hint)
    return ours


def _lease(site: Site, has_store: bool) -> Lease | None:
    """None where nobody ever held it, or it went with its bucket."""
    return site.leases.read() if has_store else None


def _droplets(site: Site) -> dict[str, tuple[str, str]]:
    """Those of our names that are there, or of our ids: (id, state)."""
    alive = {}
    for host in site.inventory.hosts:
        for droplet in (host.droplet_id, site.cloud.droplet_id(host.name)):
            state = site.cloud.power_state(droplet) if droplet else "absent"
            if droplet and state != "absent":
                alive[host.name] = (droplet, str(state))
                break
    return alive


# -- what is said


def outline(site: Site, found: Found) -> str:
    """What is left, for the operator."""
    inventory, data = site.inventory, found.data
    lines = [f"Inventory of {inventory.stack}: from {site.loaded.origin}."]
    lines += [f"not from there: {one}" for one in data.tried]
    if data.epoch:
        lines.append(f"Newest data: {data.source}, epoch {data.epoch}: {data.points}, written {_aged(site, data.at)}.")
    else:
        lines.append("Newest data: no replica is left; the hosts will look among the backups.")
    buckets = [inventory.vault.bucket, inventory.offsite.bucket, inventory.lease_store.bucket]
    if found.known:
        lines.append(
            f"Pulumi's state knows {found.known} resources: they are gone through, and what is missing is made."
        )
    lines += [f"Kept as it is: bucket {name}." for name in buckets if name in found.buckets]
    lines += [f"GONE, and made anew, empty: bucket {name}." for name in buckets if name not in found.buckets]
    if found.resumed:
        lines.append(f"A rebuild has begun, and took the lease of epoch {found.epoch}: this goes on with it.")
    return "\n".join(lines)


def _aged(site: Site, at: datetime | None) -> str:
    if at is None:
        return "at a time that isn't known"
    return f"{at:%Y-%m-%d %H:%M:%S} UTC, {(site.clock.utc() - at).total_seconds():.0f} s ago"


def _warning(site: Site, found: Found) -> str:
    hosts = " and ".join(host.name for host in site.inventory.hosts)
    return (
        f"This makes {hosts} anew by pulumi up, with their network, names and keys; restores onto {found.host} what is "
        f"left and serves it as epoch {found.epoch}. It destroys the lost hosts' keys and nothing else: buckets and "
        "older epochs stay as they are. What was acknowledged and never got into a vault is lost."
    )


def _then(site: Site, found: Found) -> str:
    record = site.inventory.record.fqdn
    return (
        f"fab provision's steps; {found.host} restores epoch {found.source}, verifies it, serves epoch {found.epoch}; "
        f"{record} is pointed there; the other host follows; a first full backup is taken."
    )


def _folder(site: Site) -> Path:
    return site.root / "services" / site.inventory.service


# -- the clouds


class Rebuild:
    """From the lease to an inventory of what was made."""

    def __init__(self, site: Site, infrastructure: Infrastructure, found: Found) -> None:
        self.site, self.infrastructure, self.found = site, infrastructure, found
        self.lost = site.inventory
        self.run_id = ""
        self.taken_at: float | None = None  # since then no lost host can have renewed
        self.up = False
        self.made: Inventory | None = None

    def context(self) -> dict[str, object]:
        """For the journal's first line."""
        found = self.found
        at = found.data.at.isoformat() if found.data.at else None
        return {
            **{"host": found.host, "epoch": found.epoch, "source_epoch": found.source, "resumed": found.resumed},
            **{"data": found.data.source, "data_at": at, "inventory": self.site.loaded.origin},
            "lost": {host.name: host.droplet_id for host in self.lost.hosts},
        }

    def steps(self) -> list[Step]:
        host, epoch = self.found.host, self.found.epoch
        lease = Step(
            f"{host} holds the lease, epoch {epoch}",
            until=self.leased,
            do=self.take_lease,
            within=10,
            would=f"take epoch {epoch}: a host of old that still runs somewhere stops itself",
            hint="fab status",
        )
        keys = Step(
            "the lost hosts' keys are taken back",
            until=self.revoked,
            do=self.revoke,
            within=30,
            would="delete them at DigitalOcean and AWS",
            hint=AGAIN,
        )
        up = Step(
            "the infrastructure stands",
            until=self.stands,
            do=self.bring_up,
            within=UP_S,
            would="pulumi up, which takes over what is there",
            hint=AGAIN,
        )
        written = Step(
            "the inventory is of what was made",
            until=self.written,
            do=self.write,
            within=60,
            would="read it from Pulumi, and hold it to the lost one: the same vault, names and identities",
            hint=AGAIN,
        )
        # Before anything is made; where the lease went with its bucket, as soon as there is one.
        return [lease, keys, up, written] if self.found.lease else [keys, up, lease, written]

    def leased(self) -> Finding:
        host, epoch = self.found.host, self.found.epoch
        if self.found.lease is None and not self.up:
            return Finding.failed("there is no lease yet")
        lease = self.site.leases.read()
        if lease is None:
            return Finding.failed("nobody holds it")
        says = f"{lease.holder} holds epoch {lease.epoch}"
        if lease.epoch > epoch or (lease.epoch == epoch and lease.holder != host):
            raise Refused(f"somebody else took the lease meanwhile: {says}", hint="fab status")
        if lease.epoch < epoch:
            return Finding.failed(says)
        if self.taken_at is None:
            self.taken_at = self.site.clock.monotonic()
        return Finding.passed(says, taken_by=lease.taken_by)

    def take_lease(self) -> None:
        host, leases = self.found.host, self.site.leases
        last = leases.read() or leases.begin_after(host, self.found.source, self.run_id)
        leases.depose(host, last, self.run_id)

    def revoked(self) -> Finding:
        left = [name for name, _ in self._keys()]
        return Finding.failed(f"{', '.join(left)} may still be used") if left else Finding.passed("none is left")

    def revoke(self) -> None:
        for _, revoke in self._keys():
            revoke()

    def _keys(self) -> list[tuple[str, Callable[[], None]]]:
        """Those of the lost hosts that are still good: whose, and how each is taken back."""
        cloud, aws = self.site.cloud, self.infrastructure
        found: list[tuple[str, Callable[[], None]]] = []
        for host in self.lost.hosts:
            vault, offsite = host.vault_key, host.offsite_key
            if vault and cloud.has_spaces_key(vault.access_key):
                found.append((f"{host.name}'s vault key", lambda k=vault.access_key: cloud.delete_spaces_key(k)))  # type: ignore[misc]
            if offsite and aws.owner(offsite.access_key):
                found.append((f"{host.name}'s off-site key", lambda k=offsite.access_key: aws.revoke(k)))  # type: ignore[misc]
        return found

    def stands(self) -> Finding:
        if not self.up:
            return Finding.failed(f"its state knows {self.found.known} resources; not asked yet")
        return Finding.passed(f"{len(self.infrastructure.known())} resources")

    def bring_up(self) -> None:
        self.infrastructure.bring_up(self.found.take_over, lambda line: self.site.say(f"      {line}"))
        self.up = True

    def written(self) -> Finding:
        if self.made is None:
            return Finding.failed("not read yet")
        return Finding.passed(", ".join(f"{host.name} {host.address}" for host in self.made.hosts))

    def write(self) -> None:
        made = self.infrastructure.inventory()
        if why := another(self.lost, made):
            raise Refused(
                f"Pulumi made another site than the one that was lost: {why}. The lost vault was not touched",
                hint="the stack file and its seed must be those of before; pulumi destroy, then fab rebuild with them",
            )
        inventories.save(self.site.root, made)
        self.made = made


def another(lost: Inventory, made: Inventory) -> str:
    """In what the two differ that must be the same; "" when it is the same site.  Pure."""
    if made.vault.bucket != lost.vault.bucket:
        return f"its vault is {made.vault.bucket}, not {lost.vault.bucket}"
    if made.lease_store.bucket != lost.lease_store.bucket:
        return f"its lease is in {made.lease_store.bucket}, not in {lost.lease_store.bucket}"
    before, now = ({host.name: host.host_key for host in one.hosts} for one in (lost, made))
    if set(before) != set(now):
        return f"its hosts are {', '.join(sorted(now))}, not {', '.join(sorted(before))}"
    return next((f"{name} has another host key" for name in before if now[name] != before[name]), "")


# -- the hosts


class Hosts:
    """From bare hosts to a service with a standby and a backup.  ``taken_at``: when the lease was seen taken;
    ``began``: when the operator typed; ``token``: what of the cloud's they may use."""

    def __init__(
        self,
        site: Site,
        service: Service,
        found: Found,
        taken_at: float | None,
        began: float,
        waived: frozenset[str] = frozenset(),
        token: Callable[[], str | None] = pilot_token,
    ) -> None:
        self.site, self.found, self.began = site, found, began
        self.typed = site.clock.utc() - timedelta(seconds=site.clock.monotonic() - began)
        self.taken_at = site.clock.monotonic() if taken_at is None else taken_at
        lease = site.leases.read()
        if lease is None:
            raise Unavailable("the lease is gone", hint=AGAIN)
        self.provisioning = _provisioning(site, token)
        self.promotion = Promotion(site, found.host, lease, service, _bare(found.host))
        self.restoration = Restoration(self.promotion, found.source, Asked(), waived=waived)
        self.backup = Backup(site, found.host, full=True)

    def steps(self) -> list[Step]:
        made, up, kept, shipped, configured, _, _, _, close, vaulted = self.provisioning.steps()
        settings = Step("the service's settings are here", self.settings_here, self.fetch_settings, within=600)
        alone = Step("a host of old has stopped itself", until=self.alone, within=self._window + 5, poll=1.0)
        *restored, follows = self.restoration.steps(again=AGAIN)
        return [
            *(settings, made, up, kept, shipped, configured, alone),
            # The sealed inventory names the lost hosts until here: only then this is no rebuild under way any more.
            *(*restored, follows, close, vaulted),
            replace(self.backup.steps()[1], hint="fab backup --full"),
            resolvers_step(self.promotion.traffic),
        ]

    @property
    def _window(self) -> float:
        """ttl and margin of the lease that was taken: by then whoever held it has stopped, wherever it runs."""
        lease, policy = self.found.lease, self.site.inventory.policy
        held = lease.ttl_s + lease.margin_s if lease else 0.0
        return max(held, policy.self_fence_s)

    def alone(self) -> Finding:
        left = self._window - (self.site.clock.monotonic() - self.taken_at)
        if left > 0:
            return Finding.failed(f"{left:.0f} s of the self-fence window left")
        return Finding.passed("its droplet is gone, and the lease was taken long enough ago")

    def settings_here(self) -> Finding:
        """service.env: the operator's copy went with the operator's machine, perhaps; a backup has it."""
        site = self.site
        if service_env(site.root, site.inventory.stack, _folder(site)):
            return Finding.passed("beside this checkout")
        return Finding.failed("none here") if saved_settings(site) else Finding.passed("none here, none in the backups")

    def fetch_settings(self) -> None:
        site, want = self.site, Asked(only=("configuration",))
        with tempfile.TemporaryDirectory(prefix=".settings-", dir=site.root) as folder:
            target = Path(folder) / "copy"
            copy_here(site.root, site.inventory, want, target, self.found.source, False, site.say)
            kept = inventories.folder(site.root, site.inventory.stack) / "service.env"
            kept.touch(mode=0o600)
            shutil.copyfile(target / SETTINGS.lstrip("/"), kept)

    def summary(self, outcome: Outcome) -> str:
        """What it means, what was measured, what is lost with the hosts, and what to type next."""
        found, site, host = self.found, self.site, self.promotion.new.name
        data, waived = found.data, [result.step.waiver for result in outcome.results if result.waived]
        lines = [f"{host} serves {site.inventory.service} as epoch {found.epoch}; {self.promotion.old.name} follows."]
        lines.append(f"Recovery time: {self.recovery_s(outcome):.0f} s from the command to an outside write.")
        lines.append(f"The data is {self.restoration.came}. {self._lost(data)}")
        lines += [f"Gone on without proof: {', '.join(waived)}."] if waived else []
        lines.append(
            "Not brought back, as it was on the hosts alone: their own backups, logs that were not in the vault yet, "
            "forks that were set aside. State files: fab restore --only state."
        )
        second = site.inventory.dns.route53
        if second is not None and not found.known and ZONE not in found.take_over:
            lines.append(f"The zone {second.zone} was made anew and has other name servers: delegate it to these.")
        lines.append("  next: fab validate")
        return "\n".join(lines)

    def _lost(self, data: Data) -> str:
        """The recovery point, as far as a vault can tell it."""
        if data.at is None:
            return "RPO: UNKNOWN, no replica was left; see the backup's time above."
        age = (self.typed - data.at).total_seconds()
        until = f"its replica ends {data.at:%Y-%m-%d %H:%M:%S} UTC, {age:.0f} s before the command"
        whole = self.restoration.came.startswith("from vault") and "not from" not in self.restoration.came
        if whole and self.promotion.service.durability == "vault":
            return f"RPO: 0, as nothing is acknowledged before the vault has it; {until}."
        return f"RPO: from the loss back to then; {until}."

    def recovery_s(self, outcome: Outcome) -> float:
        """From the command until a stranger's write was read back; what came after that doesn't count."""
        names = [result.step.name for result in outcome.results]
        after = outcome.results[names.index(outside_step(self.promotion).name) + 1 :]
        return self.site.clock.monotonic() - self.began - sum(result.seconds for result in after)


def saved_settings(site: Site) -> bool:
    """Does the newest backup hold a service.env with something in it?"""
    files = (newest_backup(site) or {}).get("files") or {}
    return bool((files.get("configuration") or {}).get(SETTINGS, {}).get("bytes"))


def _provisioning(site: Site, token: Callable[[], str | None]) -> Provisioning:
    from toolchain import wheels

    return Provisioning(site, _folder(site), wheels.ensure, token)


def _bare(host: str) -> Observation:
    """A host that nobody has looked at yet."""
    nothing = {"running": False, "last_sync_at": None}
    document = {
        **{"host": host, "role": "none", "epoch": None, "bundle": None, "finalized": None, "live_epoch": None},
        **{"service": nothing, "databases": [], "litestream": nothing},
    }
    return Observation.from_json(document, host)
