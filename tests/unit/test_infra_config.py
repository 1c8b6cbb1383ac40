"""The stack's configuration: what is taken, what is refused, and how it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import alerting
from infra.config import ConfigError, parse
from infra.sources import Endpoints, endpoints, own_values, service_port, with_files
from lifeline.contacts import Contacts
from lifeline.schema import At
from tests.unit.infra_stack import PUBLIC_KEY, SEED, raw

ROOT = Path(__file__).resolve().parents[2]
FILE = "stacks/Pulumi.lab.yaml"


def problems(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(values, "lab", FILE)
    first, *rest = str(caught.value).splitlines()
    assert first.startswith(FILE)
    return [line.removeprefix("  - ") for line in rest]


def test_a_sparse_configuration_gets_the_documented_defaults() -> None:
    config = parse(raw(), "lab", FILE)
    assert (config.record_ttl, config.operator_user, config.protect) == (30, "operator", True)
    assert not config.own_zone, "what else is in the zone is not ours to delete"
    assert config.primary.image == "debian-13-x64"
    assert (config.vault.retention_days, config.vault.noncurrent_days, config.vault.abort_upload_days) == (365, 30, 1)
    assert (config.offsite.lock_days, config.offsite.lock_mode) == (30, "governance")
    assert (config.targets.rto_target_s, config.targets.rpo_max_s) == (600, 60)
    assert (config.policy.lease_ttl_s, config.policy.fence_required) == (30, ("power-off",))
    assert config.thresholds.memory_percent == 85
    assert config.prefix == "genesis-lab"


@pytest.mark.parametrize(
    ("change", "key", "allowed"),
    [
        ({"domain": None}, "lifeline:domain is missing", "a domain name"),
        ({"recordTtl": 10}, "lifeline:recordTtl is 10", "from 30 to 86400"),
        ({"recordTtl": True}, "lifeline:recordTtl is True", "a whole number"),
        ({"record": "Trade!"}, "lifeline:record is 'Trade!'", "a name within the domain"),
        ({"alertEmail": "nobody"}, "lifeline:alertEmail is 'nobody'", "an email address"),
        ({"operatorCidrs": []}, "lifeline:operatorCidrs is []", "a list of networks"),
        ({"operatorCidrs": ["10.0.0.1/8"]}, "lifeline:operatorCidrs has '10.0.0.1/8'", "a list of networks"),
        ({"protect": "maybe"}, "lifeline:protect is 'maybe'", "true or false"),
        ({"sshPublicKey": "/home/me/id"}, "lifeline:sshPublicKey is '/home/me/id'", "LIFELINE_SSH_KEY"),
        ({"primary": None}, "lifeline:primary is missing", "a mapping"),
        ({"primary": "nyc3"}, "lifeline:primary is 'nyc3'", "a mapping"),
        ({"primary__region": "New York"}, "lifeline:primary.region is 'New York'", "nyc3"),
        ({"primary__vpcRange": "8.8.8.0/24"}, "lifeline:primary.vpcRange is '8.8.8.0/24'", "private"),
        ({"primary__zone": "a"}, "lifeline:primary.zone is not a key", "image, name, region, size, vpcRange"),
        ({"vault__region": "moon1"}, "lifeline:vault.region is 'moon1'", "nyc3, sfo2"),
        ({"offsite__lockMode": "strict"}, "lifeline:offsite.lockMode is 'strict'", "governance, compliance"),
        ({"policy__fenceRequired": ["hope"]}, "lifeline:policy.fenceRequired has 'hope'", "power-off, vault-key"),
        ({"retention": 3}, "lifeline:retention is not a key", "alertEmail"),
    ],
)
def test_one_wrong_value_is_one_problem_with_key_and_what_is_allowed(
    change: dict[str, Any], key: str, allowed: str
) -> None:
    found = problems(raw(**change))
    assert len(found) == 1, found
    assert found[0].startswith(key)
    assert allowed in found[0].partition("(allowed: ")[2]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"backup__region": "nyc3"}, "backup.region"),
        ({"backup__name": "primary-newyork"}, "backup.name"),
        ({"vault__region": "nyc3"}, "vault.region"),
        ({"policy__leaseMarginS": 15}, "policy.leaseMarginS"),
        ({"targets__rtoMaxS": 60}, "targets.rtoMaxS"),
        ({"offsite__lockDays": 400}, "offsite.retentionDays"),
    ],
)
def test_values_that_contradict_each_other_are_refused(change: dict[str, Any], key: str) -> None:
    assert [line.split()[0] for line in problems(raw(**change))] == [f"lifeline:{key}"]


def test_every_problem_is_reported_at_once() -> None:
    found = problems(raw(domain=None, recordTtl=1, vault__region="moon1", typo=1))
    assert [line.split()[0] for line in found] == [
        "lifeline:domain",
        "lifeline:recordTtl",
        "lifeline:vault.region",
        "lifeline:typo",
    ]


def test_a_wrong_seed_is_never_shown() -> None:
    (found,) = problems(raw(seed="hunter2"))
    assert "hunter2" not in found
    assert "LIFELINE_SEED_FILE" in found


def test_alternative_fences_may_be_joined() -> None:
    config = parse(raw(policy__fenceRequired=["power-off", "vault-key+self-fence"]), "lab", FILE)
    assert config.policy.fence_required == ("power-off", "vault-key+self-fence")


def test_own_values_are_decoded_and_others_left_out() -> None:
    everything = {"lifeline:vault": '{"region":"ams3"}', "lifeline:name": "genesis", "digitalocean:token": "x"}
    assert own_values(everything) == {"vault": {"region": "ams3"}, "name": "genesis"}


def test_seed_and_key_come_from_files_that_the_environment_names(tmp_path: Path) -> None:
    (tmp_path / "seed").write_text(f"{SEED}\n")
    (tmp_path / "id.pub").write_text(f"{PUBLIC_KEY}\n")
    env = {"LIFELINE_SEED_FILE": str(tmp_path / "seed"), "LIFELINE_SSH_KEY": str(tmp_path / "id")}
    config = parse(with_files(raw(seed=None, sshPublicKey=None), env), "lab", FILE)
    assert (config.seed, config.ssh_public_key) == (SEED, PUBLIC_KEY)
    assert with_files({"seed": "stays", "sshPublicKey": "stays"}, env) == {"seed": "stays", "sshPublicKey": "stays"}


def test_a_file_that_cannot_be_read_is_named_with_its_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"LIFELINE_SEED_FILE names {tmp_path}/none"):
        with_files({}, {"LIFELINE_SEED_FILE": str(tmp_path / "none")})


def test_the_service_port_is_read_from_the_service(tmp_path: Path) -> None:
    config = parse(raw(service="service.toml"), "lab", FILE)
    (tmp_path / "service.toml").write_text('name = "genesis"\nport = 8080\nhealth = "/health"\n')
    assert service_port(config, tmp_path).number == 8080


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('name = "genesis"\nhealth = "/health"\nport = "http"', "port is 'http'"),
        ('name = "genesis"\nport = 80', "health is None"),
        ('name = "other"\nport = 80\nhealth = "/"', "describes 'other'"),
        ("name =", "is not TOML"),
    ],
)
def test_a_service_that_cannot_be_used_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "service.toml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        service_port(parse(raw(service="service.toml"), "lab", FILE), tmp_path)


def test_endpoints_are_the_public_clouds_unless_something_else_is_said() -> None:
    config = parse(raw(), "lab", FILE)
    public = Endpoints("https://ams3.digitaloceanspaces.com", None, "https://api.digitalocean.com")
    assert endpoints(config, {}, {}) == public
    env = {
        "SPACES_ENDPOINT_URL": "http://{{.Region}}.spaces.test",
        "AWS_ENDPOINT_URL_S3": "http://198.18.0.20",
        "DIGITALOCEAN_API_URL": "http://198.18.0.10/",
    }
    assert endpoints(config, {}, env) == Endpoints(
        "http://ams3.spaces.test", "http://198.18.0.20", "http://198.18.0.10"
    )
    stack = {"digitalocean:spacesEndpoint": "https://{{.Region}}.example"}
    assert endpoints(config, stack, env).vault == "https://ams3.example"


@pytest.mark.parametrize("stack", ["lab", "prod"])
def test_the_stack_files_that_are_shipped_are_valid_and_hold_no_secret(stack: str) -> None:
    document = yaml.safe_load((ROOT / "stacks" / f"Pulumi.{stack}.yaml").read_text())
    everything = {
        key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in document["config"].items()
    }
    values = own_values(everything)
    assert "seed" not in values
    assert parse({"sshPublicKey": PUBLIC_KEY, **values, "seed": SEED}, stack, FILE).stack == stack


# -- whom the hosts call

KEY = "a" * 32
ALERTING = {
    "pagerduty": {"onCallKey": KEY, "seniorKey": "b" * 32, "apiToken": "u+token"},
    "webhook": {"url": "https://hooks.example.com/SECRET", "secret": "hush-hush"},
    "email": {
        "server": "smtp.example.com:587",
        "from": "dr@example.com",
        "onCall": ["a@example.com"],
        "password": "pw",
    },
    "heartbeat": {"url": "https://ping.example.com/{host}", "everyS": "30"},
    "ctoAfterS": 3600,
}


def test_alerting_reaches_the_hosts_with_its_secrets_marked() -> None:
    config = parse(raw(alerting=ALERTING), "test", "Pulumi.test.yaml")
    shown: list[str] = []

    def secret(value: str) -> str:
        shown.append(value)
        return value

    document = alerting.inventory(config.alerting, secret)
    found = Contacts.read(At(json.loads(json.dumps(document)), "inventory"))
    assert found.channels == ("pagerduty-on-call", "pagerduty-senior", "webhook", "email")
    assert set(found.secrets()) == set(shown)
    assert (found.after_s["on-call"], found.after_s["cto"]) == (300, 3600)
    assert found.email is not None and (found.email.port, found.email.tls) == (587, "starttls")
    assert found.heartbeat is not None and found.heartbeat.every_s == 30
    again = Contacts.read(At(json.loads(json.dumps(found.to_json())), "inventory"))
    assert again == found


def test_without_alerting_nobody_is_called() -> None:
    config = parse(raw(), "test", "Pulumi.test.yaml")
    found = Contacts.read(At(alerting.inventory(config.alerting, str), "inventory"))
    assert found == Contacts() and found.channels == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pagerduty": {"seniorKey": KEY}}, "alerting.pagerduty.onCallKey is missing"),
        ({"pagerduty": {"onCallKey": "SHORT-KEY"}}, "alerting.pagerduty.onCallKey has an unusable value"),
        ({"pagerduty": {"onCallkey": KEY}}, "alerting.pagerduty.onCallkey is not a key"),
        ({"webhook": {"url": "ftp://SHORT-KEY"}}, "alerting.webhook.url has an unusable value"),
        ({"email": {"server": "smtp", "from": "x", "onCall": ["y"]}}, "alerting.email.server is 'smtp'"),
        ({"email": {"server": "smtp:25", "from": "a@b"}}, "alerting.email.onCall is missing"),
        ({"seniorAfterS": 60}, "alerting.seniorAfterS is out of order"),
        ({"pager": {}}, "alerting.pager is not a key"),
    ],
)
def test_mistakes_in_alerting_are_told_without_their_secrets(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as problem:
        parse(raw(alerting=changes), "test", "Pulumi.test.yaml")
    assert says in str(problem.value) and "SHORT-KEY" not in str(problem.value)
