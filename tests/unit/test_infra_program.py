"""The whole program with Pulumi's mocks: what it declares, with which options, and what it exports."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks as mocking
from pulumi.runtime import stack as stacks

from infra.config import ConfigError, StackConfig, parse
from infra.program import declare
from infra.sources import Endpoints, Port
from lifeline.model import Inventory
from tests.unit.infra_stack import PUBLIC_KEY, SEED, raw

ENDPOINTS = Endpoints("http://ams3.spaces.test", "http://198.18.0.20", "http://198.18.0.10")


@dataclass
class Declared:
    """What a run of the program made of a configuration."""

    resources: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # (type's last part, name) → inputs
    options: dict[tuple[str, str], pulumi.ResourceOptions] = field(default_factory=dict)
    inventory: dict[str, Any] = field(default_factory=dict)
    secret_keys: bool = False

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        return {name: inputs for (type_, name), inputs in self.resources.items() if type_ == kind}

    def opts(self, kind: str) -> dict[str, pulumi.ResourceOptions]:
        return {name: options for (type_, name), options in self.options.items() if type_ == kind}


class _Cloud(pulumi.runtime.Mocks):
    """Answers as the providers would, as far as the program looks."""

    def __init__(self, declared: Declared) -> None:
        self._declared = declared

    def call(self, args: pulumi.runtime.MockCallArgs) -> Any:
        raise AssertionError(f"the program calls {args.token}: a preview without the cloud would not work")

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        kind = args.typ.rpartition(":")[2]
        self._declared.resources[kind, args.name] = dict(args.inputs)
        number = len(self._declared.resources)
        outputs = dict(args.inputs)
        if kind == "Droplet":
            outputs |= {"ipv4Address": f"198.18.0.{number}", "ipv4AddressPrivate": f"10.0.0.{number}"}
            outputs["dropletUrn"] = f"do:droplet:{number}"
        if kind == "SpacesKey":
            outputs |= {"accessKey": f"DO{number}", "secretKey": f"spaces-secret-{number}"}
        if kind == "AccessKey":
            outputs["secret"] = f"aws-secret-{number}"
        if kind == "SpacesBucket":
            outputs["bucketUrn"] = "do:space:vault"
        if kind == "Domain":
            outputs["domainUrn"] = "do:domain:genesis.test"
        return str(number), outputs


async def _plain(value: Any) -> tuple[Any, bool]:
    """A value without outputs in it, and whether any of it is secret."""
    if isinstance(value, pulumi.Output):
        return await _resolved(value)
    if isinstance(value, dict):
        pairs = {key: await _plain(item) for key, item in value.items()}
        return {key: pair[0] for key, pair in pairs.items()}, False
    if isinstance(value, list):
        return [(await _plain(item))[0] for item in value], False
    return value, False


async def _resolved(output: pulumi.Output[Any]) -> tuple[Any, bool]:
    return await output.future(), await output.is_secret()


def run(config: StackConfig, where: Endpoints = ENDPOINTS) -> Declared:
    """The program under mocks, in an event loop of its own."""
    declared = Declared()

    async def program() -> None:
        mocking.set_mocks(_Cloud(declared), project="lifeline", stack=config.stack, preview=False)

        def watch(args: pulumi.ResourceTransformationArgs) -> None:
            declared.options[args.type_.rpartition(":")[2], args.name] = args.opts

        def declare_all() -> None:
            pulumi.runtime.register_stack_transformation(watch)
            exported.update(declare(config, Port(8080, "/health"), where))

        exported: dict[str, Any] = {}
        await stacks.run_pulumi_func(declare_all)
        declared.inventory = (await _plain(exported))[0]
        keys = [host[key]["secret_key"] for host in exported["hosts"] for key in ("vault_key", "offsite_key")]
        declared.secret_keys = all([(await _resolved(key))[1] for key in keys])

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(program())
    finally:
        loop.close()
        asyncio.set_event_loop(asyncio.new_event_loop())
    return declared


@pytest.fixture(scope="module")
def declared() -> Declared:
    return run(parse(raw(), "test", "stacks/Pulumi.test.yaml"))


def test_the_two_hosts_differ_in_name_place_and_home_role_only(declared: Declared) -> None:
    primary, backup = (declared.of("Droplet")[name] for name in ("primary-newyork", "backup-singapore"))
    assert {key for key in primary if primary[key] != backup.get(key)} == {
        *("name", "region", "tags", "userData", "vpcUuid"),
    }


def test_the_inventory_is_valid_and_its_keys_are_secrets(declared: Declared) -> None:
    inventory = Inventory.from_json(declared.inventory)
    assert [host.name for host in inventory.hosts] == ["primary-newyork", "backup-singapore"]
    assert inventory.offsite.endpoint == "http://198.18.0.20" and inventory.offsite.path_style
    assert inventory.record.fqdn == "trade.genesis.test"
    assert declared.secret_keys
    assert SEED not in json.dumps(declared.inventory)


def test_against_the_lab_the_aws_provider_asks_for_its_account_and_for_nothing_that_only_aws_has(
    declared: Declared,
) -> None:
    """Without the account's number its calls about tags have no address."""
    provider = declared.of("aws")["offsite-region"]
    assert provider.get("skipRequestingAccountId") in (None, "false", False)
    for setting in ("s3UsePathStyle", "skipCredentialsValidation", "skipMetadataApiCheck"):
        assert provider[setting] in ("true", True), setting


def test_everything_that_can_be_named_is_named(declared: Declared) -> None:
    """An omitted name gets a random suffix: a DNS record `trade-1a2b3c4` that nobody asks for."""
    without_names = {"MonitorAlert", "AccessKey", "aws", "Stack"}
    for (kind, name), inputs in declared.resources.items():
        own = "bucket" if kind.startswith("Bucket") else "name"
        component = not inputs
        assert component or kind in without_names or inputs.get(own), f"{kind} {name} has no {own}"


def test_what_changes_without_pulumi_is_ignored(declared: Declared) -> None:
    assert declared.opts("DnsRecord")["service-record"].ignore_changes == ["value", "ttl"]
    for name in ("primary-newyork-record", "backup-singapore-record"):
        assert not declared.opts("DnsRecord")[name].ignore_changes
    for options in declared.opts("Droplet").values():
        assert set(options.ignore_changes or []) == {"ssh_keys", "user_data", "image"}


def test_unique_names_are_free_before_they_are_taken_again(declared: Declared) -> None:
    for kind in ("Vpc", "Tag", "Firewall", "Domain", "SpacesBucket", "Bucket", "User", "UserPolicy"):
        for name, options in declared.opts(kind).items():
            assert options.delete_before_replace, f"{kind} {name}"


def test_replacements_that_the_provider_does_not_know_of_are_asked_for(declared: Declared) -> None:
    assert declared.opts("SpacesBucket")["vault-bucket"].replace_on_changes == ["name"]
    assert all(options.replace_on_changes == ["check_id"] for options in declared.opts("UptimeAlert").values())


@pytest.mark.parametrize("protect", [True, False])
def test_buckets_are_protected_unless_the_stack_says_otherwise(protect: bool) -> None:
    made = run(parse(raw(protect=protect), "test", "stacks/Pulumi.test.yaml"))
    for kind, names in (("SpacesBucket", {"vault-bucket"}), ("Bucket", {"offsite-bucket", "lease-bucket"})):
        assert set(made.of(kind)) == names
        for name in names:
            assert bool(made.opts(kind)[name].protect) is protect
            assert made.of(kind)[name]["forceDestroy"] is not protect


@pytest.mark.parametrize("protect", [True, False])
def test_hosts_networks_and_zone_are_protected_unless_the_stack_says_otherwise(protect: bool) -> None:
    made = run(parse(raw(protect=protect), "test", "stacks/Pulumi.test.yaml"))
    for kind, count in (("Droplet", 2), ("Vpc", 2), ("Domain", 1)):
        found = made.opts(kind)
        assert len(found) == count
        assert all(bool(one.protect) is protect for one in found.values()), kind


@pytest.mark.parametrize("own", [True, False])
def test_a_zone_that_others_use_outlives_the_stack_protected_or_not(own: bool) -> None:
    made = run(parse(raw(protect=False, ownZone=own), "test", "stacks/Pulumi.test.yaml"))
    assert bool(made.opts("Domain")["domain"].retain_on_delete) is not own


def test_the_service_record_is_short_lived_and_starts_at_the_primarys_home(declared: Declared) -> None:
    record = declared.of("DnsRecord")["service-record"]
    assert (record["name"], record["type"], record["ttl"]) == ("trade", "A", 30)
    assert record["value"] == declared.inventory["hosts"][0]["address"]


def test_strangers_reach_the_service_and_nothing_else(declared: Declared) -> None:
    for firewall in declared.of("Firewall").values():
        rules = {rule.get("portRange", rule["protocol"]): rule for rule in firewall["inboundRules"]}
        assert set(rules) == {"22", "8080", "8008", "icmp"}
        assert rules["22"]["sourceAddresses"] == ["198.51.100.7/32"]
        assert rules["8008"]["sourceAddresses"] == ["198.51.100.7/32"]
        assert rules["8008"]["sourceTags"] == ["genesis-test"]
        assert "0.0.0.0/0" in rules["8080"]["sourceAddresses"]


def test_each_firewall_holds_one_host_and_stands_before_it(declared: Declared) -> None:
    for name, droplet in declared.of("Droplet").items():
        (tag,) = declared.of("Firewall")[f"{name}-firewall"]["tags"]
        assert tag in droplet["tags"] and "genesis-test" in droplet["tags"]
    (first, second) = (firewall["tags"] for firewall in declared.of("Firewall").values())
    assert first != second
    assert all(options.depends_on for options in declared.opts("Droplet").values())


def test_a_hosts_vault_key_opens_the_vault_only(declared: Declared) -> None:
    vault = declared.inventory["vault"]["bucket"]
    for key in declared.of("SpacesKey").values():
        assert key["grants"] == [{"bucket": vault, "permission": "readwrite"}]


def test_a_hosts_aws_rights_are_few_and_never_destroy_a_version(declared: Declared) -> None:
    offsite = declared.inventory["offsite"]
    for policy in declared.of("UserPolicy").values():
        statements = json.loads(policy["policy"])["Statement"]
        actions = {action for statement in statements for action in statement["Action"]}
        assert not any("*" in action for action in actions)
        assert "s3:DeleteObjectVersion" not in actions and "s3:BypassGovernanceRetention" not in actions
        (deletes,) = (one for one in statements if "s3:DeleteObject" in one["Action"])
        assert deletes["Resource"] == [f"arn:aws:s3:::{offsite['bucket']}/snapshots/genesis/locks/*"]
        (lease,) = (one for one in statements if one["Sid"] == "HoldLease")
        assert lease["Resource"] == [f"arn:aws:s3:::{offsite['lease_bucket']}/lease/genesis.json"]


def test_the_offsite_bucket_is_locked_versioned_and_encrypted(declared: Declared) -> None:
    assert declared.of("Bucket")["offsite-bucket"]["objectLockEnabled"] is True
    (lock,) = declared.of("BucketObjectLockConfiguration").values()
    assert lock["rule"]["defaultRetention"] == {"mode": "GOVERNANCE", "days": 30}
    (versioning,) = declared.of("BucketVersioning").values()
    assert versioning["versioningConfiguration"] == {"status": "Enabled"}
    assert len(declared.of("BucketServerSideEncryptionConfiguration")) == 2


def test_at_aws_itself_no_bucket_can_be_made_public() -> None:
    made = run(parse(raw(), "test", "stacks/Pulumi.test.yaml"), replace(ENDPOINTS, offsite=None))
    blocks = made.of("BucketPublicAccessBlock")
    assert {block["bucket"] for block in blocks.values()} == {one["bucket"] for one in made.of("Bucket").values()}
    for block in blocks.values():
        assert all(value is True for name, value in block.items() if name != "bucket")
    assert "s3UsePathStyle" not in made.of("aws")["offsite-region"]


def test_every_aws_resource_uses_the_stacks_region(declared: Declared) -> None:
    assert declared.of("aws")["offsite-region"]["region"] == "us-east-2"
    for kind in ("Bucket", "User", "AccessKey", "UserPolicy", "BucketLifecycleConfiguration"):
        for name, options in declared.opts(kind).items():
            assert options.provider is not None, f"{kind} {name}"


def test_host_and_service_are_watched_and_the_thresholds_are_the_stacks(declared: Declared) -> None:
    checks = declared.of("UptimeCheck")
    assert {check["type"] for check in checks.values()} == {"ping", "http"}
    assert checks["service-check"]["target"] == "http://trade.genesis.test:8080/health"
    assert all(check["regions"] for check in checks.values())
    assert len(declared.of("UptimeAlert")) == len(checks) == 3
    alerts = declared.of("MonitorAlert")
    assert {name: alert["value"] for name, alert in alerts.items()} == {
        **{"disk-alert": 85, "memory-alert": 85, "cpu-alert": 90},
    }
    assert all(alert["tags"] == ["genesis-test"] for alert in alerts.values())


def test_user_data_is_a_secret_that_names_the_operator(declared: Declared) -> None:
    for droplet in declared.of("Droplet").values():
        data = droplet["userData"]
        text = data["value"] if isinstance(data, dict) else data
        assert PUBLIC_KEY in text and "OPENSSH PRIVATE KEY" in text


def test_without_a_second_name_nothing_of_route_53_is_declared(declared: Declared) -> None:
    assert not declared.of("Zone") and not declared.of("HealthCheck")
    assert declared.inventory["dns"]["route53"] is None
    (agent,) = (rule for rule in declared.of("Firewall")["primary-newyork-firewall"]["inboundRules"] if agents(rule))
    assert agent["sourceAddresses"] == ["198.51.100.7/32"]


def agents(rule: dict[str, Any]) -> bool:
    return bool(rule.get("portRange") == "8008")


def test_the_second_name_follows_who_answers_on_primary() -> None:
    second = {
        "zone": "genesis.example",
        "requestIntervalS": 10,
        "failureThreshold": 3,
        "checkerCidrs": ["192.0.2.0/26"],
    }
    made = run(parse(raw(route53=second), "test", "stacks/Pulumi.test.yaml"))
    droplets = {"primary-newyork": "PRIMARY", "backup-singapore": "SECONDARY"}
    records = made.of("Record")
    for name, place in droplets.items():
        check, record = made.of("HealthCheck")[f"{name}-lease-check"], records[f"{name}-second-record"]
        assert (check["type"], check["port"], check["resourcePath"]) == ("HTTP", 8008, "/primary")
        assert record["failoverRoutingPolicies"] == [{"type": place}]
        assert record["records"] == [check["ipAddress"]] and record["setIdentifier"] == name
        assert record["name"] == "trade.genesis.example"
        (agent,) = (rule for rule in made.of("Firewall")[f"{name}-firewall"]["inboundRules"] if agents(rule))
        assert agent["sourceAddresses"] == ["198.51.100.7/32", "192.0.2.0/26"]
    assert made.opts("Zone")["second-zone"].protect
    found = Inventory.from_json(made.inventory).dns.route53
    assert found is not None
    assert (found.fqdn, found.zone, found.ttl, found.settles_s) == ("trade.genesis.example", "genesis.example", 30, 30)
    assert Inventory.from_json(Inventory.from_json(made.inventory).to_json()).dns.route53 == found


def test_where_route_53s_checkers_come_from_must_be_said() -> None:
    with pytest.raises(ConfigError, match=r"lifeline:route53\.checkerCidrs is missing"):
        parse(raw(route53={"zone": "genesis.example"}), "test", "stacks/Pulumi.test.yaml")


def test_the_second_name_is_not_in_the_zone_that_it_stands_in_for() -> None:
    second = {"zone": "genesis.test", "checkerCidrs": ["192.0.2.0/26"]}
    with pytest.raises(ConfigError, match=r"route53\.zone is 'genesis\.test', the domain that DigitalOcean serves"):
        parse(raw(route53=second), "test", "stacks/Pulumi.test.yaml")
