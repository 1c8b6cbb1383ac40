"""IAM and STS of the lab: a real client's users, keys and policies, enforced on the AWS store."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import boto3
import pytest
from botocore.config import Config as BotoConfig

from lab.aws import Aws, AwsSpec, listen, load, save
from lab.config import KeyPair
from tests.contract.stores import OPERATOR, Running, aws_spec, free_ports, outcome, running, wait_until

pytestmark = pytest.mark.slow

_numbers = itertools.count()


@dataclass(frozen=True)
class Cloud:
    """The store, and IAM with STS in front of it."""

    store: Running
    spec: AwsSpec

    def client(self, service: str, key: KeyPair = OPERATOR) -> Any:
        return boto3.client(
            service,
            endpoint_url=f"http://{self.spec.address}:{self.spec.port}",
            aws_access_key_id=key.access_key,
            aws_secret_access_key=key.secret_key,
            region_name=self.store.region,
            config=BotoConfig(retries={"total_max_attempts": 1}, proxies={}),
        )


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("aws")
    with running(aws_spec(folder / "store"), "us-east-2") as store:
        spec = AwsSpec(folder / "iam", store.spec, "127.0.0.1", free_ports(1))
        listener, _ = listen(spec)
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield Cloud(store, spec)
        listener.shutdown()


@dataclass(frozen=True)
class User:
    """An IAM user with a key, and the S3 client that uses it."""

    name: str
    key: KeyPair
    s3: Any


@pytest.fixture
def user(aws: Cloud) -> User:
    name = f"primary-newyork+{next(_numbers)}"
    iam = aws.client("iam")
    iam.create_user(UserName=name, Path="/lifeline/")
    made = iam.create_access_key(UserName=name)["AccessKey"]
    key = KeyPair(made["AccessKeyId"], made["SecretAccessKey"])
    return User(name, key, aws.store.client(key))


@pytest.fixture
def bucket(aws: Cloud) -> str:
    name = f"offsite-{next(_numbers)}"
    aws.store.client().create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "us-east-2"})
    return name


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(actions: list[str], *resources: str, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": list(resources), **more}


def put(s3: Any, bucket: str, key: str) -> str:
    return outcome(s3.put_object, Bucket=bucket, Key=key, Body=b"1")


def test_a_user_without_policies_may_do_nothing(user: User, bucket: str):
    assert put(user.s3, bucket, "k") == "AccessDenied"
    assert outcome(user.s3.list_objects_v2, Bucket=bucket) == "AccessDenied"


def test_a_policy_is_enforced_as_written_when_the_call_returns(aws: Cloud, user: User, bucket: str):
    arn = f"arn:aws:s3:::{bucket}"
    document = policy(
        allow(["s3:PutObject", "s3:GetObject"], f"{arn}/replica/*"),
        allow(["s3:ListBucket"], arn, Condition={"StringLike": {"s3:prefix": ["replica/*"]}}),
        {"Effect": "Deny", "Action": "s3:*", "Resource": f"{arn}/replica/sealed/*"},
    )
    aws.client("iam").put_user_policy(UserName=user.name, PolicyName="off-site.1", PolicyDocument=document)
    assert put(user.s3, bucket, "replica/a") == "ok"
    assert outcome(user.s3.get_object, Bucket=bucket, Key="replica/a") == "ok"
    assert outcome(user.s3.list_objects_v2, Bucket=bucket, Prefix="replica/") == "ok"
    refused = [
        put(user.s3, bucket, "elsewhere"),
        put(user.s3, bucket, "replica/sealed/a"),
        outcome(user.s3.list_objects_v2, Bucket=bucket),
        outcome(user.s3.delete_object, Bucket=bucket, Key="replica/a"),
        outcome(user.s3.put_bucket_versioning, Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}),
        outcome(user.s3.create_bucket, Bucket=f"{bucket}-new"),
    ]
    assert refused == ["AccessDenied"] * len(refused)


def test_managed_policies_and_groups_count_and_stop_counting(aws: Cloud, user: User, bucket: str):
    iam = aws.client("iam")
    document = policy(allow(["s3:PutObject"], f"arn:aws:s3:::{bucket}/*"))
    arn = iam.create_policy(PolicyName=f"{bucket}-writers", PolicyDocument=document)["Policy"]["Arn"]
    iam.attach_user_policy(UserName=user.name, PolicyArn=arn)
    assert put(user.s3, bucket, "k") == "ok"
    iam.detach_user_policy(UserName=user.name, PolicyArn=arn)
    assert put(user.s3, bucket, "k") == "AccessDenied"
    iam.create_group(GroupName=bucket)
    iam.put_group_policy(GroupName=bucket, PolicyName="write", PolicyDocument=document)
    iam.add_user_to_group(GroupName=bucket, UserName=user.name)
    assert put(user.s3, bucket, "k") == "ok"
    iam.remove_user_from_group(GroupName=bucket, UserName=user.name)
    assert put(user.s3, bucket, "k") == "AccessDenied"


def test_a_key_is_refused_while_inactive_and_for_ever_once_deleted(aws: Cloud, user: User, bucket: str):
    iam = aws.client("iam")
    document = policy(allow(["s3:*"], "*"))
    iam.put_user_policy(UserName=user.name, PolicyName="all", PolicyDocument=document)
    seen = [put(user.s3, bucket, "k")]
    for status in ("Inactive", "Active"):
        iam.update_access_key(UserName=user.name, AccessKeyId=user.key.access_key, Status=status)
        seen.append(put(user.s3, bucket, "k"))
    iam.delete_access_key(UserName=user.name, AccessKeyId=user.key.access_key)
    seen.append(put(user.s3, bucket, "k"))
    assert seen == ["ok", "InvalidAccessKeyId", "ok", "InvalidAccessKeyId"]


def test_iam_lets_in_only_who_can_prove_who_they_are(aws: Cloud, user: User):
    assert outcome(aws.client("iam", replace(OPERATOR, secret_key="wrong")).list_users) == "SignatureDoesNotMatch"
    assert outcome(aws.client("iam", KeyPair("AKIAUNKNOWN", "wrong")).list_users) == "InvalidClientTokenId"
    assert outcome(aws.client("iam", user.key).list_users) == "AccessDenied"
    assert outcome(aws.client("iam", user.key).create_access_key, UserName="operator") == "AccessDenied"


def test_nothing_but_iam_and_sts_answers(aws: Cloud):
    for method, path in (("GET", "/moto-api/data.json"), ("POST", "/moto-api/reset"), ("GET", "/")):
        connection = http.client.HTTPConnection(aws.spec.address, aws.spec.port, timeout=5)
        connection.request(method, path)
        assert connection.getresponse().status == 403
        connection.close()


def test_sts_says_who_is_calling(aws: Cloud, user: User):
    mine = aws.client("sts", user.key).get_caller_identity()
    assert mine["Arn"] == f"arn:aws:iam::{mine['Account']}:user/lifeline/{user.name}"


def test_a_malformed_policy_is_refused(aws: Cloud, user: User):
    iam = aws.client("iam")
    assert (
        outcome(iam.put_user_policy, UserName=user.name, PolicyName="p", PolicyDocument="{}")
        == "MalformedPolicyDocument"
    )


def test_users_survive_a_restart(aws: Cloud, user: User):
    state = load(aws.spec.directory, OPERATOR)
    save(state, aws.spec.directory)
    state.users.clear()
    again = load(aws.spec.directory, OPERATOR)
    assert [key.access_key_id for key in again.users[user.name].access_keys] == [user.key.access_key]
    assert again.users["operator"].access_keys[0].access_key_id == OPERATOR.access_key


def test_what_the_store_missed_while_it_was_away_it_gets_when_it_is_back(aws: Cloud, bucket: str):
    """IAM goes on without the store; keys are enforced as soon as it answers again."""
    state = load(aws.spec.directory, OPERATOR)
    away = replace(aws.spec, store=replace(aws.spec.store, inside_port=1))
    application = Aws(away, state)
    application.enforce()
    assert not application.enforced
    application._where = aws.spec
    wait_until(lambda: application.enforced, 10)
