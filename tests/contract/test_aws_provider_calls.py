"""What Pulumi's real AWS plugin asks of the lab's S3, S3 Control, IAM and STS, call by call, through the store's front.

The plugin can't be had everywhere; its calls can. Each test says what the provider (terraform-provider-aws 6, which the
plugin wraps) does with the answer: an unexpected error code fails `pulumi up`, an unexpected value is drift.
"""

from __future__ import annotations

import itertools
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.config import Config as BotoConfig
from botocore.exceptions import ClientError
from dnslib.server import DNSServer

from infra import retention
from lab import bucketguard, front, proxy
from lab.aws import AwsSpec, listen
from lab.config import KeyPair
from lab.objectstore import AWS_ACCOUNT
from lab.proxy import ProxySpec
from lab.servers import prepare
from tests.contract.stores import OPERATOR, aws_spec, free_ports, outcome, running, wait_until
from tests.contract.test_object_store_proxy import Everything

pytestmark = pytest.mark.slow

REGION = "us-east-2"
TAGS = [{"Key": "lifeline", "Value": "genesis: a+b=c"}]
LOCATION = {"LocationConstraint": REGION}
_numbers = itertools.count()


@dataclass(frozen=True)
class Cloud:
    """Endpoints by service, and the proxy that knows their names."""

    endpoints: dict[str, str]
    proxy: str

    def client(self, service: str, key: KeyPair = OPERATOR) -> Any:
        # S3 Control's is a name with the account in front, which only the lab's proxy can look up.
        proxies = {"http": self.proxy} if service == "s3control" else {}
        return boto3.client(
            service,
            endpoint_url=self.endpoints[service],
            aws_access_key_id=key.access_key,
            aws_secret_access_key=key.secret_key,
            region_name=REGION,
            config=BotoConfig(s3={"addressing_style": "path"}, proxies=proxies, retries={"total_max_attempts": 1}),
        )


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("aws")
    spec, guard = aws_spec(folder / "store"), free_ports(1)
    names = free_ports(1)
    dns = DNSServer(Everything(), address="127.0.0.1", port=names)
    dns.start_thread()
    face = front.of(spec, f"127.0.0.1:{guard}")
    nginx = ProxySpec(folder / "nginx", "127.0.0.1", free_ports(1), f"127.0.0.1:{names}", (face,))
    description = proxy.server(nginx)
    prepare(description)
    guarding = bucketguard.start([spec], "127.0.0.1", guard)
    identities, _ = listen(AwsSpec(folder / "iam", spec, "127.0.0.1", free_ports(1)))
    threading.Thread(target=identities.serve_forever, daemon=True).start()
    process = subprocess.Popen(description.argv, env=description.env, stderr=subprocess.DEVNULL)
    try:
        wait_until(description.ready, 10)
        with running(spec, REGION):
            accounts = f"http://127.0.0.1:{identities.server_port}"
            yield Cloud(
                {
                    "s3": f"http://127.0.0.1:{spec.port}",
                    "s3control": f"http://s3-control.aws.test:{spec.port}",
                    "iam": accounts,
                    "sts": accounts,
                },
                f"http://127.0.0.1:{nginx.port}",
            )
    finally:
        process.terminate()
        process.wait()
        for server in (guarding, identities):
            server.shutdown()
        dns.stop()


@pytest.fixture
def s3(cloud: Cloud) -> Any:
    return cloud.client("s3")


@pytest.fixture
def bucket(s3: Any) -> str:
    """Made as the provider makes one that is tagged, with Object Lock."""
    name = f"bucket-{next(_numbers)}"
    s3.create_bucket(
        Bucket=name,
        ACL="private",
        ObjectLockEnabledForBucket=True,
        CreateBucketConfiguration={**LOCATION, "Tags": TAGS},
    )
    return name


# --- the provider itself ----------------------------------------------------------------------------------------------


def test_the_account_is_learned(cloud: Cloud) -> None:
    """By GetUser, else by GetCallerIdentity. Without it no call of S3 Control has an address."""
    assert f":{AWS_ACCOUNT}:" in cloud.client("iam").get_user()["User"]["Arn"]
    assert cloud.client("sts").get_caller_identity()["Account"] == AWS_ACCOUNT


# --- Bucket -----------------------------------------------------------------------------------------------------------

# Whatever a bucket doesn't have, the provider accepts under these codes only.
ABSENT = {
    "get_bucket_policy": {"NoSuchBucketPolicy"},
    "get_bucket_acl": {"ok"},
    "get_bucket_cors": {"NoSuchCORSConfiguration"},
    "get_bucket_website": {"NoSuchWebsiteConfiguration"},
    "get_bucket_versioning": {"ok"},
    "get_bucket_accelerate_configuration": {"ok"},
    "get_bucket_request_payment": {"ok"},
    "get_bucket_logging": {"ok"},
    "get_bucket_lifecycle_configuration": {"NoSuchLifecycleConfiguration"},
    "get_bucket_replication": {"ReplicationConfigurationNotFoundError"},
    "get_bucket_encryption": {"ServerSideEncryptionConfigurationNotFoundError"},
    "get_object_lock_configuration": {"ObjectLockConfigurationNotFoundError"},
}


@pytest.mark.parametrize("setting", ABSENT)
def test_what_a_bucket_does_not_have_is_told_by_a_code_that_is_understood(s3: Any, setting: str) -> None:
    plain = f"plain-{next(_numbers)}"
    s3.create_bucket(Bucket=plain, ACL="private", CreateBucketConfiguration=LOCATION)
    assert outcome(getattr(s3, setting), Bucket=plain) in ABSENT[setting] | {"NotImplemented"}


def test_a_bucket_says_its_region_and_when_it_is_gone(s3: Any, bucket: str) -> None:
    assert s3.head_bucket(Bucket=bucket)["BucketRegion"] == REGION
    s3.delete_bucket(Bucket=bucket)
    with pytest.raises(ClientError) as gone:
        s3.head_bucket(Bucket=bucket)
    assert gone.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404
    assert outcome(s3.delete_bucket, Bucket=bucket) == "NoSuchBucket"


def test_tags_given_at_creation_are_there(s3: Any, cloud: Cloud, bucket: str) -> None:
    """The provider doesn't set them again: lost ones would be drift at the next preview."""
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == TAGS
    assert s3.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]["ObjectLockEnabled"] == "Enabled"
    assert listed(cloud, bucket) == TAGS


def listed(cloud: Cloud, bucket: str, key: KeyPair = OPERATOR) -> Any:
    about = {"AccountId": AWS_ACCOUNT, "ResourceArn": f"arn:aws:s3:::{bucket}"}
    return cloud.client("s3control", key).list_tags_for_resource(**about)["Tags"]


def test_a_bucket_whose_tags_are_refused_is_not_made(s3: Any) -> None:
    configuration = {**LOCATION, "Tags": [{"Key": "lifeline", "Value": "<&>"}]}
    assert outcome(s3.create_bucket, Bucket="mistagged", CreateBucketConfiguration=configuration) == "InvalidTag"
    assert outcome(s3.head_bucket, Bucket="mistagged") == "404"


def test_creation_is_still_for_those_who_may(s3: Any, cloud: Cloud) -> None:
    stranger = cloud.client("s3", KeyPair("AKIASTRANGER", "secret"))
    tagged = {**LOCATION, "Tags": TAGS}
    assert outcome(stranger.create_bucket, Bucket="stolen", CreateBucketConfiguration=tagged) == "InvalidAccessKeyId"
    assert outcome(s3.head_bucket, Bucket="stolen") == "404"


def test_tags_are_changed_through_s3_control(s3: Any, cloud: Cloud, bucket: str) -> None:
    control = cloud.client("s3control")
    about = {"AccountId": AWS_ACCOUNT, "ResourceArn": f"arn:aws:s3:::{bucket}"}
    control.tag_resource(**about, Tags=[{"Key": "a", "Value": "1"}, {"Key": "lifeline", "Value": "new"}])
    assert listed(cloud, bucket) == [{"Key": "a", "Value": "1"}, {"Key": "lifeline", "Value": "new"}]
    control.untag_resource(**about, TagKeys=["lifeline"])
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == [{"Key": "a", "Value": "1"}]
    control.untag_resource(**about, TagKeys=["a"])
    assert listed(cloud, bucket) == []
    assert outcome(s3.get_bucket_tagging, Bucket=bucket) == "NoSuchTagSet"


def test_s3_control_is_the_operators(cloud: Cloud, bucket: str) -> None:
    for key, code in {
        KeyPair("AKIASTRANGER", "secret"): "AccessDenied",
        KeyPair(OPERATOR.access_key, "wrong"): "SignatureDoesNotMatch",
    }.items():
        with pytest.raises(ClientError, match=code):
            listed(cloud, bucket, key)
    with pytest.raises(ClientError, match="NoSuchResource"):
        listed(cloud, "nowhere")


# --- its sub-configurations -------------------------------------------------------------------------------------------


def test_lifecycle_rules_come_back_as_they_were_sent(s3: Any, bucket: str) -> None:
    """The provider waits, three minutes long, until ten answers in a row equal what it sent, the header included."""
    rules = [rule_of(rule) for rule in retention.rules(365, 30, abort_upload_days=1)]
    header = {"TransitionDefaultMinimumObjectSize": "all_storage_classes_128K"}
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules}, **header)
    answers = [s3.get_bucket_lifecycle_configuration(Bucket=bucket) for _ in range(10)]
    assert [answer["Rules"] for answer in answers] == [rules] * 10
    assert {answer["TransitionDefaultMinimumObjectSize"] for answer in answers} == set(header.values())
    s3.delete_bucket_lifecycle(Bucket=bucket)
    assert outcome(s3.get_bucket_lifecycle_configuration, Bucket=bucket) == "NoSuchLifecycleConfiguration"


def rule_of(rule: retention.Rule) -> dict[str, Any]:
    sent: dict[str, Any] = {"ID": rule.id, "Status": "Enabled", "Filter": {"Prefix": rule.prefix}}
    if rule.expire_days:
        sent["Expiration"] = {"Days": rule.expire_days}
    if rule.clear_markers:
        sent["Expiration"] = {"ExpiredObjectDeleteMarker": True}
    if rule.noncurrent_days:
        sent["NoncurrentVersionExpiration"] = {"NoncurrentDays": rule.noncurrent_days}
    if rule.abort_upload_days:
        sent["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": rule.abort_upload_days}
    return sent


def test_versioning_under_object_lock_is_left_alone_in_the_words_of_aws(s3: Any, bucket: str) -> None:
    """Deleting BucketVersioning suspends it. The refusal is taken for success by these words only."""
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    with pytest.raises(ClientError) as refused:
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    error = refused.value.response["Error"]
    assert error["Code"] == "InvalidBucketState"
    words = "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed"
    assert words in error["Message"]


def test_object_lock_loses_its_rule(s3: Any, bucket: str) -> None:
    """That is how BucketObjectLockConfiguration is deleted."""
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 30}}
    wanted = {"ObjectLockEnabled": "Enabled", "Rule": rule}
    s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=wanted)
    assert s3.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"] == wanted
    s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"})
    left = s3.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]
    assert left == {"ObjectLockEnabled": "Enabled"}


def test_encryption_is_read_back(s3: Any, bucket: str) -> None:
    default = {"SSEAlgorithm": "AES256"}
    rules = [{"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": False}]
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": rules})
    assert s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"] == rules
    s3.delete_bucket_encryption(Bucket=bucket)
    gone = "ServerSideEncryptionConfigurationNotFoundError"
    assert outcome(s3.get_bucket_encryption, Bucket=bucket) == gone
    assert outcome(s3.delete_bucket_encryption, Bucket=bucket) == gone


def test_force_destroy_empties_a_bucket_with_locked_versions(s3: Any, bucket: str) -> None:
    retain = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 30}}}
    s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=retain)
    for key in ("a b/ü", "catalogue/2026-11-23T22:39:12Z.json"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"1")
        s3.delete_object(Bucket=bucket, Key=key)
    assert outcome(s3.delete_bucket, Bucket=bucket) == "BucketNotEmpty"
    held = s3.list_object_versions(Bucket=bucket)
    assert delete(s3, bucket, held["Versions"]) == ["AccessDenied"] * 2
    assert delete(s3, bucket, held["Versions"], BypassGovernanceRetention=True) == []
    assert delete(s3, bucket, held["DeleteMarkers"]) == []
    assert outcome(s3.delete_bucket, Bucket=bucket) == "ok"


def delete(s3: Any, bucket: str, found: list[dict[str, Any]], **how: bool) -> list[str]:
    objects = [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in found]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Quiet": True, "Objects": objects}, **how)
    return [error["Code"] for error in answer.get("Errors", [])]


# --- IAM --------------------------------------------------------------------------------------------------------------

# What a user may have, asked before it is deleted with force_destroy.
BELONGINGS = (
    "list_groups_for_user",
    "list_user_policies",
    "list_attached_user_policies",
    "list_access_keys",
    "list_ssh_public_keys",
    "list_mfa_devices",
    "list_signing_certificates",
    "list_service_specific_credentials",
)


def test_a_user_is_made_and_unmade(cloud: Cloud) -> None:
    iam, tag = cloud.client("iam"), [{"Key": "lifeline", "Value": "genesis"}]
    iam.create_user(UserName="host", Path="/lifeline/", Tags=tag)
    assert iam.get_user(UserName="host")["User"]["Tags"] == iam.list_user_tags(UserName="host")["Tags"] == tag
    policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}]}'
    iam.put_user_policy(UserName="host", PolicyName="lifeline", PolicyDocument=policy)
    assert iam.get_user_policy(UserName="host", PolicyName="lifeline")["PolicyDocument"]["Version"] == "2012-10-17"
    key = iam.create_access_key(UserName="host")["AccessKey"]["AccessKeyId"]
    assert [each["Status"] for each in iam.list_access_keys(UserName="host")["AccessKeyMetadata"]] == ["Active"]
    iam.delete_user_policy(UserName="host", PolicyName="lifeline")
    assert outcome(iam.get_user_policy, UserName="host", PolicyName="lifeline") == "NoSuchEntity"
    for question in BELONGINGS:
        assert outcome(getattr(iam, question), UserName="host") == "ok", question
    assert iam.list_virtual_mfa_devices(AssignmentStatus="Assigned")["VirtualMFADevices"] == []
    assert outcome(iam.delete_login_profile, UserName="host") == "NoSuchEntity"
    iam.delete_access_key(UserName="host", AccessKeyId=key)
    iam.delete_user(UserName="host")
    for question in ("get_user", "list_access_keys", "list_service_specific_credentials", "delete_user"):
        assert outcome(getattr(iam, question), UserName="host") == "NoSuchEntity", question


def test_what_the_labs_iam_can_not_do_is_not_worth_a_second_try(cloud: Cloud) -> None:
    """A 500 is: the provider repeats it 25 times, ever more slowly."""
    report = cloud.client("iam").generate_organizations_access_report
    with pytest.raises(ClientError) as refused:
        report(EntityPath="o-a1b2c3d4e5/r-f6g7h8i9j0example/ou-1a2b3c4d")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert refused.value.response["Error"]["Code"] == "InvalidAction"
