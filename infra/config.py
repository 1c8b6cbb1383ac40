"""The stack's configuration as frozen values.

Pure: a mapping of raw values in, a `StackConfig` out, or one `ConfigError` that names every problem at once: the key,
the stack file and what is allowed. Nothing here knows Pulumi.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from infra import alerting
from infra.alerting import AlertingConfig
from infra.reader import Reader
from lifeline.model import FENCE_RUNGS, NEVER_ALONE, PUBLIC_RESOLVERS, WEEKDAYS, HomeRole

T = TypeVar("T")
NAMESPACE = "lifeline"
SPACES_REGIONS = ("nyc3", "sfo2", "sfo3", "ams3", "sgp1", "fra1", "lon1", "syd1", "blr1", "tor1", "atl1")
LOCK_MODES = ("governance", "compliance")

_SLUG = r"[a-z0-9](?:[a-z0-9-]{0,40}[a-z0-9])?"
_DOMAIN = r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,}"


class ConfigError(Exception):
    """The stack's configuration can't be used; the message lists every problem."""


@dataclass(frozen=True)
class HostConfig:
    """One droplet. `home_role` is where it starts from, not what it is: roles are leases."""

    home_role: HomeRole
    name: str
    region: str
    size: str
    image: str
    vpc_range: str


@dataclass(frozen=True)
class VaultConfig:
    """The Spaces bucket; ages in days."""

    region: str
    retention_days: int
    noncurrent_days: int
    abort_upload_days: int


@dataclass(frozen=True)
class OffsiteConfig:
    """The AWS side; ages in days.

    `lock_mode` compliance can't be shortened by anyone, the account's root included.
    """

    region: str
    retention_days: int
    lock_days: int
    lock_mode: Literal["governance", "compliance"]


@dataclass(frozen=True)
class Targets:
    """Seconds."""

    rto_target_s: int
    rto_max_s: int
    rpo_target_s: int
    rpo_max_s: int


@dataclass(frozen=True)
class PolicyConfig:
    """Rules of failover; seconds."""

    lease_ttl_s: int
    lease_margin_s: int
    fence_required: tuple[str, ...]
    max_lag_s: int
    mode: str
    partition_s: int
    service_down_s: int
    settle_s: int
    check_every_s: int
    power_on_after_s: int


@dataclass(frozen=True)
class BackupsConfig:
    """When backups and verifications are made, and how long what is kept. Times of day are UTC."""

    full_at: str
    every_hours: int
    local_days: int
    fine_points_hours: int
    points_days: int
    offsite_every_s: int
    verify_at: str
    check_on: str
    check_percent: int
    settle_s: int


@dataclass(frozen=True)
class Route53Config:
    """A second name at Route 53. `checker_cidrs`: where its health checks come from."""

    zone: str
    record: str
    request_interval_s: int
    failure_threshold: int
    checker_cidrs: tuple[str, ...]

    @property
    def settles_s(self) -> int:
        """How long its checkers take to change their mind."""
        return self.request_interval_s * self.failure_threshold


@dataclass(frozen=True)
class Thresholds:
    """Monitor alerts fire above these, in percent."""

    disk_percent: int
    memory_percent: int
    cpu_percent: int


@dataclass(frozen=True)
class StackConfig:
    """Everything a stack file says, checked. `seed` is a secret: 32 bytes as 64 hexadecimal digits. `own_zone`: nothing
    but this stack is in the domain's zone, which goes with it."""

    stack: str
    name: str
    service: str
    domain: str
    record: str
    record_ttl: int
    seed: str
    operator_user: str
    ssh_public_key: str
    alert_email: str
    operator_cidrs: tuple[str, ...]
    protect: bool
    own_zone: bool
    primary: HostConfig
    backup: HostConfig
    vault: VaultConfig
    offsite: OffsiteConfig
    targets: Targets
    policy: PolicyConfig
    thresholds: Thresholds
    backups: BackupsConfig
    resolvers: tuple[str, ...]
    route53: Route53Config | None
    alerting: AlertingConfig

    @property
    def hosts(self) -> tuple[HostConfig, HostConfig]:
        """The primary's home first."""
        return (self.primary, self.backup)

    @property
    def prefix(self) -> str:
        """Start of every name that must be unique in an account."""
        return f"{self.name}-{self.stack}"


def parse(raw: Mapping[str, object], stack: str, stack_file: str) -> StackConfig:
    """Check and type `raw` (keys without the namespace). Raises `ConfigError` with all problems found."""
    reader = Reader(raw, NAMESPACE, stack_file)
    config = StackConfig(
        stack=stack,
        name=reader.text("name", _SLUG, "lower-case letters, digits and dashes"),
        service=reader.text("service", r"\S.*", "the path of a service.toml below the project"),
        domain=reader.text("domain", _DOMAIN, "a domain name such as example.com"),
        record=reader.text("record", r"@|[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", "a name within the domain, or @"),
        record_ttl=reader.integer("recordTtl", 30, 86400, default=30),
        seed=reader.text(
            "seed",
            r"[0-9a-f]{64}",
            "64 hexadecimal digits: `pulumi config set --secret lifeline:seed $(openssl rand -hex 32)`, "
            "or in a file named by LIFELINE_SEED_FILE",
            secret=True,
        ),
        operator_user=reader.text("operatorUser", r"[a-z][a-z0-9_-]{0,30}", "a Linux user name", default="operator"),
        ssh_public_key=reader.text(
            "sshPublicKey",
            r"(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp\d+|sk-ssh-ed25519@openssh\.com) [A-Za-z0-9+/=]+(?: .*)?",
            "an OpenSSH public key, or the private key's path in LIFELINE_SSH_KEY with its .pub beside it",
        ),
        alert_email=reader.text("alertEmail", r"[^@\s]+@[^@\s]+\.[^@\s]+", "an email address"),
        operator_cidrs=reader.cidrs("operatorCidrs"),
        protect=reader.boolean("protect", default=True),
        own_zone=reader.boolean("ownZone", default=False),
        primary=_section(reader, "primary", lambda section: _host(section, "primary")),
        backup=_section(reader, "backup", lambda section: _host(section, "backup")),
        vault=_section(reader, "vault", _vault),
        offsite=_section(reader, "offsite", _offsite),
        targets=_section(reader, "targets", _targets),
        policy=_section(reader, "policy", _policy),
        thresholds=_section(reader, "thresholds", _thresholds),
        backups=_section(reader, "backups", _backups, optional=True),
        resolvers=reader.addresses("resolvers", default=PUBLIC_RESOLVERS),
        route53=_section(reader, "route53", _route53) if reader.has("route53") else None,
        alerting=_section(reader, "alerting", alerting.read, optional=True),
    )
    reader.finish()
    if not reader.problems:
        _check_together(config, reader)
    if reader.problems:
        raise ConfigError(_report(reader.problems, stack_file))
    return config


def _section(reader: Reader, key: str, read: Callable[[Reader], T], *, optional: bool = False) -> T:
    section = reader.section(key, optional=optional)
    value = read(section)
    section.finish()
    return value


def _host(section: Reader, home_role: HomeRole) -> HostConfig:
    return HostConfig(
        home_role=home_role,
        name=section.text("name", _SLUG, "lower-case letters, digits and dashes: it is the host's name in DNS too"),
        region=section.text("region", r"[a-z]{3}\d", "a region's slug such as nyc3"),
        size=section.text("size", r"[a-z0-9][a-z0-9-]+", "a size's slug such as s-1vcpu-1gb"),
        image=section.text("image", r"[a-z0-9][a-z0-9.-]*", "an image's slug or number", default="debian-13-x64"),
        vpc_range=section.cidr("vpcRange", private=True),
    )


def _vault(section: Reader) -> VaultConfig:
    return VaultConfig(
        region=section.choice("region", SPACES_REGIONS),
        retention_days=section.integer("retentionDays", 30, 3650, default=365),
        noncurrent_days=section.integer("noncurrentDays", 1, 3650, default=30),
        abort_upload_days=section.integer("abortUploadDays", 1, 30, default=1),
    )


def _offsite(section: Reader) -> OffsiteConfig:
    mode = section.choice("lockMode", LOCK_MODES, default="governance")
    return OffsiteConfig(
        region=section.text("region", r"[a-z]{2}(?:-[a-z]+)+-\d", "an AWS region such as us-east-2"),
        retention_days=section.integer("retentionDays", 30, 3650, default=365),
        lock_days=section.integer("lockDays", 1, 3650, default=30),
        lock_mode="compliance" if mode == "compliance" else "governance",
    )


def _targets(section: Reader) -> Targets:
    return Targets(
        rto_target_s=section.integer("rtoTargetS", 1, 86400, default=600),
        rto_max_s=section.integer("rtoMaxS", 1, 86400, default=1800),
        rpo_target_s=section.integer("rpoTargetS", 0, 86400, default=0),
        rpo_max_s=section.integer("rpoMaxS", 0, 86400, default=60),
    )


def _policy(section: Reader) -> PolicyConfig:
    return PolicyConfig(
        lease_ttl_s=section.integer("leaseTtlS", 5, 3600, default=30),
        lease_margin_s=section.integer("leaseMarginS", 1, 600, default=5),
        fence_required=section.choices("fenceRequired", FENCE_RUNGS, default=("power-off",), joined_by="+"),
        max_lag_s=section.integer("maxLagS", 1, 86400, default=60),
        mode=section.choice("mode", ("automatic", "manual"), default="manual"),
        partition_s=section.integer("partitionS", 0, 86400, default=30),
        service_down_s=section.integer("serviceDownS", 1, 86400, default=300),
        settle_s=section.integer("settleS", 0, 86400, default=900),
        check_every_s=section.integer("checkEveryS", 0, 604800, default=3600),
        power_on_after_s=section.integer("powerOnAfterS", 0, 86400, default=0),
    )


def _backups(section: Reader) -> BackupsConfig:
    clock = (r"(?:[01]\d|2[0-3]):[0-5]\d", "a time of day in UTC such as 02:00")
    return BackupsConfig(
        full_at=section.text("fullAt", *clock, default="02:00"),
        every_hours=section.integer("everyHours", 1, 24, default=4),
        local_days=section.integer("localDays", 1, 3650, default=30),
        fine_points_hours=section.integer("finePointsHours", 1, 720, default=24),
        points_days=section.integer("pointsDays", 1, 3650, default=30),
        offsite_every_s=section.integer("offsiteEveryS", 10, 86400, default=60),
        verify_at=section.text("verifyAt", *clock, default="03:00"),
        check_on=section.choice("checkOn", WEEKDAYS, default="sunday"),
        check_percent=section.integer("checkPercent", 1, 100, default=10),
        settle_s=section.integer("settleS", 0, 3600, default=120),
    )


def _route53(section: Reader) -> Route53Config:
    return Route53Config(
        zone=section.text("zone", _DOMAIN, "a domain name such as example.net, whose zone Route 53 is to serve"),
        record=section.text(
            "record", r"@|[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", "a name within the zone, or @", default="trade"
        ),
        request_interval_s=int(section.text("requestIntervalS", "10|30", "10 or 30", default="10") or 10),
        failure_threshold=section.integer("failureThreshold", 1, 10, default=2),
        checker_cidrs=section.cidrs("checkerCidrs"),
    )


def _thresholds(section: Reader) -> Thresholds:
    return Thresholds(
        disk_percent=section.integer("diskPercent", 1, 99, default=85),
        memory_percent=section.integer("memoryPercent", 1, 99, default=85),
        cpu_percent=section.integer("cpuPercent", 1, 99, default=90),
    )


def _check_together(config: StackConfig, reader: Reader) -> None:
    """What can't be seen in one key alone: a disaster must not take two things that stand in for each other."""
    primary, backup = config.hosts
    if primary.name == backup.name:
        reader.problem("backup.name", f"is {backup.name!r}, the primary's name too", "a name of its own")
    if primary.region == backup.region:
        reader.problem(
            "backup.region", f"is {backup.region!r}, the primary's region too", "another region than the primary's"
        )
    if config.vault.region == primary.region:
        reader.problem(
            "vault.region", f"is {config.vault.region!r}, the primary's region too", "another region than the primary's"
        )
    if config.route53 is not None and config.route53.zone == config.domain:
        reader.problem(
            "route53.zone", f"is {config.domain!r}, the domain that DigitalOcean serves", "a domain of its own"
        )
    for entry in config.policy.fence_required:
        if set(entry.split("+")) <= set(NEVER_ALONE):
            reader.problem(
                "policy.fenceRequired",
                f"names {entry!r} alone, which may leave open what is connected",
                f"{entry}+self-fence",
            )
    if config.policy.lease_margin_s * 2 >= config.policy.lease_ttl_s:
        reader.problem(
            "policy.leaseMarginS", f"is {config.policy.lease_margin_s}", "less than half of policy.leaseTtlS"
        )
    for low, high, key in (
        (config.targets.rto_target_s, config.targets.rto_max_s, "targets.rtoMaxS"),
        (config.targets.rpo_target_s, config.targets.rpo_max_s, "targets.rpoMaxS"),
    ):
        if high < low:
            reader.problem(key, f"is {high}, less than the target {low}", "at least the target")
    if config.offsite.retention_days < config.offsite.lock_days:
        reader.problem("offsite.retentionDays", f"is {config.offsite.retention_days}", "at least offsite.lockDays")


def _report(problems: list[str], stack_file: str) -> str:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join([f"{stack_file}: {count} in the configuration", *(f"  - {problem}" for problem in problems)])
