"""The frozen values that every room speaks in.  No I/O, nothing outside the standard library.

JSON shapes are those of docs/design.md; ``from_json`` raises ``BadConfig`` naming the path of what is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal, cast

from lifeline.contacts import Contacts
from lifeline.schema import At

INVENTORY_VERSION = 1
HomeRole = Literal["primary", "backup"]
HOME_ROLES: tuple[HomeRole, ...] = ("primary", "backup")
Role = Literal["primary", "standby", "none"]
ROLES: tuple[Role, ...] = ("primary", "standby", "none")
ModeName = Literal["automatic", "manual", "paused"]
MODES: tuple[ModeName, ...] = ("automatic", "manual", "paused")

# The rungs of the fencing ladder, strongest first (docs/design.md, decision 3).
FENCE_RUNGS = ("power-off", "vault-key", "firewall", "self-fence")
NEVER_ALONE = ("firewall",)  # what is connected already it may leave connected

PUBLIC_API = "https://api.digitalocean.com"
ADOPT = "LIFELINE_ADOPT"  # by which `fab rebuild` tells infra what stands already (infra/adopt.py)

Evidence = Mapping[str, Any]
"""What a probe saw: plain JSON values, no secrets."""


class Verdict(StrEnum):
    """What is known about a claim.  UNKNOWN is not a kind of PASS: it stops a run."""

    PASS = "PASS"
    FAIL = "FAIL"
    UNKNOWN = "UNKNOWN"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True)
class Finding:
    """A probe's answer: a verdict, one line in words, and the evidence for it."""

    verdict: Verdict
    says: str = ""
    evidence: Evidence = field(default_factory=dict)

    @classmethod
    def passed(cls, says: str = "", **evidence: Any) -> Finding:
        return cls(Verdict.PASS, says, evidence)

    @classmethod
    def failed(cls, says: str = "", **evidence: Any) -> Finding:
        return cls(Verdict.FAIL, says, evidence)

    @classmethod
    def unknown(cls, says: str = "", **evidence: Any) -> Finding:
        return cls(Verdict.UNKNOWN, says, evidence)


@dataclass(frozen=True)
class Key:
    """An access key of an object store.  The secret never shows in a repr."""

    access_key: str
    secret_key: str = field(repr=False)

    @classmethod
    def read(cls, at: At) -> Key:
        return cls(at.text("access_key"), at.text("secret_key"))


@dataclass(frozen=True)
class Host:
    """A droplet as the stack declares it.  ``home_role`` is where it started; who is primary now is the lease's to say.

    Keys are None where they aren't this reader's business: a host's own inventory holds only its own.
    """

    name: str
    home_role: HomeRole
    region: str
    droplet_id: str
    address: str
    private_address: str
    fqdn: str
    user: str
    host_key: str
    vault_key: Key | None
    offsite_key: Key | None
    uptime_check: str | None

    @classmethod
    def read(cls, at: At) -> Host:
        return cls(
            name=at.text("name"),
            home_role=cast(HomeRole, at.choice("home_role", HOME_ROLES)),
            region=at.text("region"),
            droplet_id=_id(at, "droplet_id"),
            address=at.text("address"),
            private_address=at.text("private_address", ""),
            fqdn=at.text("fqdn"),
            user=at.text("user"),
            host_key=at.text("host_key"),
            vault_key=Key.read(at.at("vault_key")) if at.has("vault_key") else None,
            offsite_key=Key.read(at.at("offsite_key")) if at.has("offsite_key") else None,
            uptime_check=at.optional_text("uptime_check"),
        )


@dataclass(frozen=True)
class Record:
    """The DNS record that traffic follows."""

    fqdn: str
    domain: str
    name: str
    id: str
    ttl: int

    @classmethod
    def read(cls, at: At) -> Record:
        return cls(
            at.text("fqdn"), at.text("domain"), at.text("name"), _id(at, "id"), at.integer("ttl", least=30, most=86400)
        )


# Asked whether a moved record has arrived, unless the stack names others.
PUBLIC_RESOLVERS = ("1.1.1.1", "8.8.8.8", "9.9.9.9")


@dataclass(frozen=True)
class SecondName:
    """The service's name at Route 53, which follows the lease by health checks of ``/primary``.

    settles_s: how long its checkers take to agree that a host became, or stopped being, primary.
    """

    fqdn: str
    zone: str
    ttl: int
    settles_s: float

    @classmethod
    def read(cls, at: At) -> SecondName:
        return cls(
            at.text("fqdn"), at.text("zone"), at.integer("ttl", least=1, most=86400), at.number("settles_s", least=0)
        )


@dataclass(frozen=True)
class DnsRef:
    """How the world finds the service, beside the record: through which resolvers that is proved, and a second name."""

    resolvers: tuple[str, ...] = PUBLIC_RESOLVERS
    route53: SecondName | None = None

    @classmethod
    def read(cls, at: At) -> DnsRef:
        """Whatever the inventory leaves out has its default."""
        return cls(
            at.texts("resolvers", PUBLIC_RESOLVERS), SecondName.read(at.at("route53")) if at.has("route53") else None
        )


@dataclass(frozen=True)
class StoreRef:
    """A bucket and how to reach it.  ``endpoint`` None: AWS's own for the region."""

    bucket: str
    region: str
    endpoint: str | None
    path_style: bool

    @classmethod
    def read(cls, at: At, bucket: str = "bucket") -> StoreRef:
        return cls(at.text(bucket), at.text("region"), at.optional_text("endpoint"), at.flag("path_style", False))


@dataclass(frozen=True)
class Targets:
    """What the business asked for, in seconds."""

    rto_target_s: float
    rto_max_s: float
    rpo_target_s: float
    rpo_max_s: float

    @classmethod
    def read(cls, at: At) -> Targets:
        values = cls(*(at.number(key, least=0) for key in ("rto_target_s", "rto_max_s", "rpo_target_s", "rpo_max_s")))
        if values.rto_target_s > values.rto_max_s:
            at.at("rto_target_s").fail("is above rto_max_s")
        if values.rpo_target_s > values.rpo_max_s:
            at.at("rpo_target_s").fail("is above rpo_max_s")
        return values


@dataclass(frozen=True)
class FailoverPolicy:
    """What a failover may take for granted.

    ``fence_required`` lists what suffices: any one entry, once proved, is a fence.  An entry is a rung, or rungs joined
    by "+" that must all be proved: ("power-off", "vault-key+self-fence").

    ``mode``: do the hosts fail over by themselves, or ask?  ``partition_s``: a silence shorter than that is waited out.
    ``service_down_s``: so long a primary tries to recover its service before it hands over.  ``settle_s``: so long
    after a promotion it hands nothing over: trouble that came along isn't the host's.  ``check_every_s``: so often it
    checks its own databases for damage; 0: only when something points at it.
    ``power_on_after_s``: so long after its own take-over a host powers on the other one, if that is off; 0: never.
    """

    lease_ttl_s: float
    lease_margin_s: float
    fence_required: tuple[str, ...]
    max_lag_s: float
    mode: ModeName = "manual"
    partition_s: float = 30.0
    service_down_s: float = 300.0
    settle_s: float = 900.0
    check_every_s: float = 3600.0
    power_on_after_s: float = 0.0

    @classmethod
    def read(cls, at: At) -> FailoverPolicy:
        for entry in (required := list(at.each("fence_required"))):
            if not isinstance(entry.value, str) or not set(entry.value.split("+")) <= set(FENCE_RUNGS):
                entry.fail(f'{entry.value!r} is not allowed; rungs: {", ".join(FENCE_RUNGS)}, joined by "+" for "both"')
            if set(entry.value.split("+")) <= set(NEVER_ALONE):
                entry.fail(f"{entry.value!r} is no fence alone: it may leave open what is connected; join self-fence")
        if not required:
            at.at("fence_required").fail("must name at least one rung: a failover without a fence is two primaries")
        ttl, margin = at.number("lease_ttl_s", least=1), at.number("lease_margin_s", least=0)
        if margin * 2 >= ttl:
            at.at("lease_margin_s").fail(f"{margin:g} is not allowed; less than half of lease_ttl_s ({ttl:g})")
        return cls(
            lease_ttl_s=ttl,
            lease_margin_s=margin,
            fence_required=tuple(entry.value for entry in required),
            max_lag_s=at.number("max_lag_s", least=0),
            mode=cast(ModeName, at.choice("mode", ("automatic", "manual"), cls.mode)),
            partition_s=at.number("partition_s", cls.partition_s, least=0),
            service_down_s=at.number("service_down_s", cls.service_down_s, least=1),
            settle_s=at.number("settle_s", cls.settle_s, least=0),
            check_every_s=at.number("check_every_s", cls.check_every_s, least=0),
            power_on_after_s=at.number("power_on_after_s", cls.power_on_after_s, least=0),
        )

    def alternatives(self) -> tuple[frozenset[str], ...]:
        """The sets of rungs of which one must be proved in full."""
        return tuple(frozenset(entry.split("+")) for entry in self.fence_required)

    @property
    def self_fence_s(self) -> float:
        """How long after the lease was taken from it a primary has certainly stopped itself."""
        return self.lease_ttl_s + self.lease_margin_s

    @property
    def renew_s(self) -> float:
        """A holder renews so often.  Late is seen sooner, and a store that is away for a moment is outlasted."""
        return self.lease_ttl_s / 6

    @property
    def watch_s(self) -> float:
        """A standby looks so often."""
        return self.lease_ttl_s / 15


ALERTS_STALE_S = 120.0  # the keeper looks every ten seconds
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True)
class BackupPolicy:
    """When backups and verifications are made, and how long what is kept. Times of day are UTC, as "HH:MM".

    settle_s: for so long after a host took a role nothing is begun; a failover has other things to do.
    """

    full_at: str = "02:00"
    every_hours: int = 4
    local_days: int = 30
    vault_days: int = 365
    offsite_days: int = 365
    fine_points_hours: int = 24
    points_days: int = 30
    offsite_every_s: int = 60
    verify_at: str = "03:00"
    check_on: str = "sunday"
    check_percent: int = 10
    settle_s: int = 120

    @classmethod
    def read(cls, at: At) -> BackupPolicy:
        """Whatever the inventory leaves out has its default."""
        default = cls()
        for key in ("full_at", "verify_at"):
            if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", at.text(key, getattr(default, key))):
                at.at(key).fail("is no time of day; HH:MM in UTC")
        return cls(
            full_at=at.text("full_at", default.full_at),
            every_hours=at.integer("every_hours", default.every_hours, least=1, most=24),
            local_days=at.integer("local_days", default.local_days, least=1),
            vault_days=at.integer("vault_days", default.vault_days, least=1),
            offsite_days=at.integer("offsite_days", default.offsite_days, least=1),
            fine_points_hours=at.integer("fine_points_hours", default.fine_points_hours, least=1),
            points_days=at.integer("points_days", default.points_days, least=1),
            offsite_every_s=at.integer("offsite_every_s", default.offsite_every_s, least=1),
            verify_at=at.text("verify_at", default.verify_at),
            check_on=at.choice("check_on", WEEKDAYS, default.check_on),
            check_percent=at.integer("check_percent", default.check_percent, least=1, most=100),
            settle_s=at.integer("settle_s", default.settle_s, least=0),
        )


@dataclass(frozen=True)
class Thresholds:
    """Above these a host helps itself, or calls for help."""

    disk_percent: int = 85

    @classmethod
    def read(cls, at: At) -> Thresholds:
        return cls(at.integer("disk_percent", cls().disk_percent, least=1, most=99))


@dataclass(frozen=True)
class Inventory:
    """The stack's one output: all that recovery needs to know about what exists."""

    stack: str
    service: str
    record: Record
    hosts: tuple[Host, ...]
    vault: StoreRef
    offsite: StoreRef
    lease_store: StoreRef
    cloud_api: str
    service_check: str | None
    targets: Targets
    policy: FailoverPolicy
    backups: BackupPolicy = BackupPolicy()
    dns: DnsRef = DnsRef()
    thresholds: Thresholds = Thresholds()
    contacts: Contacts = field(default_factory=Contacts)

    @classmethod
    def from_json(cls, document: str | bytes | Mapping[str, Any], source: str = "inventory") -> Inventory:
        """Parse and validate schema version 1; BadConfig names the path of what is wrong."""
        at = At(_load(document, source), source, hint="pulumi up, then: pulumi stack output inventory --json")
        version = at.integer("version")
        if version != INVENTORY_VERSION:
            at.at("version").fail(f"{version} is not allowed; this Lifeline reads {INVENTORY_VERSION}")
        hosts = tuple(Host.read(item) for item in at.each("hosts"))
        if tuple(host.home_role for host in hosts) != HOME_ROLES:
            at.at("hosts").fail("must be exactly one host per home role, the primary first")
        if len({host.name for host in hosts}) != len(hosts):
            at.at("hosts").fail("names must differ")
        offsite = at.at("offsite")
        return cls(
            stack=at.text("stack"),
            service=at.text("service"),
            record=Record.read(at.at("record")),
            hosts=hosts,
            vault=StoreRef.read(at.at("vault")),
            offsite=StoreRef.read(offsite),
            lease_store=StoreRef.read(offsite, "lease_bucket"),
            cloud_api=at.at("cloud").text("api"),
            service_check=at.at("checks", {}).optional_text("service"),
            targets=Targets.read(at.at("targets")),
            policy=FailoverPolicy.read(at.at("policy")),
            backups=BackupPolicy.read(at.at("backups", {})),
            dns=DnsRef.read(at.at("dns", {})),
            thresholds=Thresholds.read(at.at("thresholds", {})),
            contacts=Contacts.read(at.at("alerting", {})),
        )

    def to_json(self) -> dict[str, Any]:
        """The document again; holds secrets, see ``for_host``."""
        policy = asdict(self.policy)
        policy["fence_required"] = list(self.policy.fence_required)
        return {
            "version": INVENTORY_VERSION,
            "stack": self.stack,
            "service": self.service,
            "record": asdict(self.record),
            "hosts": [asdict(host) for host in self.hosts],
            "vault": asdict(self.vault),
            "offsite": {**asdict(self.offsite), "lease_bucket": self.lease_store.bucket},
            "cloud": {"api": self.cloud_api},
            "checks": {"service": self.service_check},
            "targets": asdict(self.targets),
            "policy": policy,
            "backups": asdict(self.backups),
            "dns": {**asdict(self.dns), "resolvers": list(self.dns.resolvers)},
            "thresholds": asdict(self.thresholds),
            "alerting": self.contacts.to_json(),
        }

    def host(self, name: str) -> Host:
        """The host of that name; KeyError when there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    def other(self, name: str) -> Host:
        """The one that isn't ``name``."""
        return next(host for host in self.hosts if host.name != name)

    @property
    def home_primary(self) -> Host:
        return self.hosts[0]

    @property
    def home_backup(self) -> Host:
        return self.hosts[1]

    def secrets(self) -> Iterator[str]:
        """Every secret string, for redaction."""
        for host in self.hosts:
            for key in (host.vault_key, host.offsite_key):
                if key is not None:
                    yield key.secret_key
        yield from self.contacts.secrets()

    def for_host(self, name: str) -> dict[str, Any]:
        """The document that host ``name`` may keep: no other host's secrets."""
        document = self.to_json()
        for host in document["hosts"]:
            if host["name"] != name:
                host["vault_key"] = host["offsite_key"] = None
        return document


@dataclass(frozen=True)
class Mode:
    """A person's word on automatic failover, above the stack's policy.  ``until``: RFC 3339 UTC, when a pause ends."""

    name: ModeName
    by: str
    until: str | None = None

    @classmethod
    def read(cls, at: At) -> Mode:
        return cls(cast(ModeName, at.choice("name", MODES)), at.text("by", ""), at.optional_text("until"))


@dataclass(frozen=True)
class Lease:
    """Who is primary, and by whose leave: the mode is here because whoever could promote reads this anyway.

    ``renewal`` counts up with each renewal, and with nothing else: a holder that lives counts.  Whoever decided on an
    older one loses the race.  ``over_released``: the holder before this one had stopped in order and given it back.
    """

    service: str
    holder: str
    epoch: int
    ttl_s: float
    margin_s: float
    renewal: int
    taken_by: str
    run_id: str
    mode: Mode | None = None
    over_released: bool = False

    @classmethod
    def from_json(cls, document: str | bytes | Mapping[str, Any], source: str = "lease") -> Lease:
        at = At(_load(document, source), source)
        return cls(
            service=at.text("service"),
            holder=at.text("holder"),
            epoch=at.integer("epoch", least=1),
            ttl_s=at.number("ttl_s", least=0),
            margin_s=at.number("margin_s", least=0),
            renewal=at.integer("renewal", least=0),
            taken_by=at.text("taken_by"),
            run_id=at.text("run_id", ""),
            mode=Mode.read(at.at("mode")) if at.has("mode") else None,
            over_released=at.flag("over_released", False),
        )

    @property
    def released(self) -> bool:
        """Its holder stopped in order and gave it back."""
        return self.ttl_s == 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Copy:
    """One database on a host.  ``lag_s`` None: not known, which is not 0."""

    name: str
    exists: bool
    txid: int | None
    lag_s: float | None
    newest_txid: int | None = None


@dataclass(frozen=True)
class Observation:
    """What a host says of itself: the answer of ``lifeline-host observe``.  ``service_healthy``: it answers that it is,
    and owes no agreement with the world outside (``reconciled``; older releases don't say)."""

    host: str
    role: Role
    epoch: int | None
    bundle: str | None
    finalized: int | None
    live_epoch: int | None
    service_running: bool
    service_healthy: bool
    databases: tuple[Copy, ...]
    litestream_running: bool
    last_sync_at: str | None
    follower_running: bool
    follower_stalled: bool
    agent_running: bool
    lease_age_s: float | None
    keeper_running: bool = False
    alerts_age_s: float | None = None
    alerts: tuple[Mapping[str, Any], ...] = ()
    jobs: Mapping[str, Any] = field(default_factory=dict)
    failsafe: bool = False
    pilot: Mapping[str, Any] = field(default_factory=dict)
    herald: Mapping[str, Any] = field(default_factory=dict)
    forks: tuple[Mapping[str, Any], ...] = ()
    reconciled: bool = True
    # Of a copy at rest: is it noted what it was made from? Not amid a swap. Older releases don't say.
    origin_noted: bool = True

    @classmethod
    def from_json(cls, document: Mapping[str, Any], source: str = "observe") -> Observation:
        at = At(document, source)
        service, litestream = at.at("service"), at.at("litestream")
        follower, agent, keeper = at.at("follower", {}), at.at("agent", {}), at.at("keeper", {})
        reconciled = service.flag("reconciled", True)
        return cls(
            host=at.text("host"),
            role=cast(Role, at.choice("role", ROLES)),
            epoch=at.integer("epoch") if at.has("epoch") else None,
            bundle=at.optional_text("bundle"),
            finalized=at.integer("finalized") if at.has("finalized") else None,
            live_epoch=at.integer("live_epoch") if at.has("live_epoch") else None,
            service_running=service.flag("running"),
            service_healthy=service.flag("healthy", False) and reconciled,
            databases=tuple(_copy(item) for item in at.each("databases")),
            litestream_running=litestream.flag("running"),
            last_sync_at=litestream.optional_text("last_sync_at"),
            follower_running=follower.flag("running", False),
            follower_stalled=follower.flag("stalled", False),
            agent_running=agent.flag("running", False),
            lease_age_s=agent.number("lease_age_s") if agent.has("lease_age_s") else None,
            keeper_running=keeper.flag("running", False),
            alerts_age_s=keeper.number("looked_age_s") if keeper.has("looked_age_s") else None,
            alerts=tuple(item.value for item in at.each("alerts", [])),
            jobs=dict(at.at("jobs", {}).value),
            failsafe=agent.flag("failsafe", False),
            pilot=dict(agent.at("pilot", {}).value),
            herald=dict(agent.at("herald", {}).value),
            forks=tuple(item.value for item in at.each("forks", [])),
            reconciled=reconciled,
            origin_noted="origin_epoch" not in document or at.has("origin_epoch"),
        )

    @property
    def lag_s(self) -> float | None:
        """The lag of the copy furthest behind; None if any isn't known."""
        lags = [copy.lag_s for copy in self.databases]
        return None if not lags or None in lags else max(lag for lag in lags if lag is not None)

    @property
    def watched(self) -> bool:
        """Does somebody look there?  Without, no alert says nothing."""
        return self.keeper_running and self.alerts_age_s is not None and self.alerts_age_s < ALERTS_STALE_S


def _copy(at: At) -> Copy:
    return Copy(
        name=at.text("name"),
        exists=at.flag("exists"),
        txid=at.integer("txid") if at.has("txid") else None,
        lag_s=at.number("lag_s") if at.has("lag_s") else None,
        newest_txid=at.integer("newest_txid") if at.has("newest_txid") else None,
    )


def _load(document: str | bytes | Mapping[str, Any], source: str) -> Any:
    if isinstance(document, Mapping):
        return document
    try:
        return json.loads(document)
    except ValueError as error:
        At(None, source).fail(f"is not JSON ({error})")


def _id(at: At, key: str) -> str:
    """Ids are strings here; the cloud writes some of them as numbers."""
    value = at.at(key).value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else at.text(key)
