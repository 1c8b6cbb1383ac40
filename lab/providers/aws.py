"""The AWS resource types in use: buckets, their sub-configurations (one row each), and IAM."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config

from lab.providers import s3
from lab.providers.iam import AccessKey, User, UserPolicy
from lab.providers.kind import Created, Kind, Live, Prop, ProviderError, Values
from lab.providers.route53 import HealthCheck, Record, Zone

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
LOCK_HOLDS_VERSIONING = "InvalidBucketState"


def configure(settings: Values, env: Mapping[str, str] | None = None) -> dict[str, Kind]:
    """Resource types by token.

    Endpoints come from the environment, region and credentials from settings or the environment.
    """
    env = os.environ if env is None else env
    store, identity = env.get("AWS_ENDPOINT_URL_S3"), env.get("AWS_ENDPOINT_URL_IAM")
    region = str(settings.get("region") or env.get("AWS_REGION") or "")
    if not store or not identity or not region:
        raise ProviderError(
            "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL_IAM and a region must be set: the stand-in only knows the lab"
        )
    common: Values = {
        "region_name": region,
        "aws_access_key_id": settings.get("accessKey") or env.get("AWS_ACCESS_KEY_ID"),
        "aws_secret_access_key": settings.get("secretKey") or env.get("AWS_SECRET_ACCESS_KEY"),
    }
    config = Config(
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"total_max_attempts": 5, "mode": "standard"},
    )
    buckets = boto3.client("s3", endpoint_url=store, config=config, **common)
    users = boto3.client("iam", endpoint_url=identity, config=config, **common)
    kinds: list[Kind] = [
        Bucket(buckets, region),
        *(SubConfiguration(buckets, region, row) for row in ROWS),
        *(kind(users) for kind in (User, UserPolicy, AccessKey)),
    ]
    if names := env.get("AWS_ENDPOINT_URL_ROUTE_53"):
        zones = boto3.client("route53", endpoint_url=names, config=config, **common)
        kinds += [kind(zones) for kind in (Zone, HealthCheck, Record)]
    return {kind.token: kind for kind in kinds}


class Bucket(Kind):
    """The bucket itself, its tags and whether it was made for Object Lock."""

    token = "aws:s3/bucket:Bucket"
    props = (
        Prop("bucket", replaces=True, required=True),
        Prop("objectLockEnabled", replaces=True),
        Prop("forceDestroy", reads=False),
        Prop("tags"),
    )
    computed = ("arn", "region", "bucketRegion", "bucketDomainName", "bucketRegionalDomainName", "tagsAll")

    def __init__(self, client: S3Client, region: str) -> None:
        self._client = client
        self._region = region

    def create(self, inputs: Values) -> Created:
        name = inputs["bucket"]
        arguments: Values = {"Bucket": name}
        if self._region != "us-east-1":  # which is the one that must not be named
            arguments["CreateBucketConfiguration"] = {"LocationConstraint": self._region}
        if inputs.get("objectLockEnabled"):
            arguments["ObjectLockEnabledForBucket"] = True
        s3.call(f"create bucket {name}", lambda: self._client.create_bucket(**arguments))
        return Created(name)

    def settle(self, identity: str, inputs: Values) -> None:
        if inputs.get("tags"):
            self._tag(identity, inputs["tags"])

    def read(self, identity: str, state: Values) -> Live | None:
        if not s3.exists(self._client, identity):
            return None
        what = f"bucket {identity}"
        tagging = s3.or_none(what, lambda: self._client.get_bucket_tagging(Bucket=identity), {"NoSuchTagSet"})
        lock = s3.or_none(
            what,
            lambda: self._client.get_object_lock_configuration(Bucket=identity),
            {"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"},
        )
        tags = {tag["Key"]: tag["Value"] for tag in tagging["TagSet"]} if tagging else {}
        enabled = lock is not None and lock["ObjectLockConfiguration"].get("ObjectLockEnabled") == "Enabled"
        return Live(
            inputs={"bucket": identity, "objectLockEnabled": enabled, "tags": tags},
            computed={
                "arn": f"arn:aws:s3:::{identity}",
                "region": self._region,
                "bucketRegion": self._region,
                "bucketDomainName": f"{identity}.s3.amazonaws.com",
                "bucketRegionalDomainName": f"{identity}.s3.{self._region}.amazonaws.com",
                "tagsAll": tags,
            },
        )

    def update(self, identity: str, old: Values, new: Values, changed: Collection[str]) -> None:
        if "tags" in changed:
            self._tag(identity, new.get("tags") or {})

    def delete(self, identity: str, state: Values) -> None:
        s3.delete_bucket(self._client, identity, force=bool(state.get("forceDestroy")))

    def _tag(self, bucket: str, tags: Mapping[str, str]) -> None:
        tag_set: Any = [{"Key": key, "Value": value} for key, value in tags.items()]
        s3.call(f"tag {bucket}", lambda: self._client.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tag_set}))


@dataclass(frozen=True)
class Row:
    """A sub-configuration of a bucket:

    `put`, `get` and `remove` work on (client, bucket); `get` answers None when there is none.
    """

    token: str
    props: tuple[Prop, ...]
    put: Callable[[S3Client, str, Values], Any]
    get: Callable[[S3Client, str], Values | None]
    remove: Callable[[S3Client, str], Any]
    optional: bool = False  # a store that answers NotImplemented is taken at the state's word


class SubConfiguration(Kind):
    """Its id is the bucket's name; it always is written whole."""

    computed = ("region",)

    def __init__(self, client: S3Client, region: str, row: Row) -> None:
        self._client, self._region, self._row = client, region, row
        self.token = row.token
        self.props = (Prop("bucket", required=True, replaces=True), *row.props)

    def create(self, inputs: Values) -> Created:
        bucket = str(inputs["bucket"])
        self._put(bucket, inputs)
        return Created(bucket)

    def read(self, identity: str, state: Values) -> Live | None:
        if not s3.exists(self._client, identity):
            return None
        found: Values | None = {prop.name: state.get(prop.name) for prop in self._row.props}
        with contextlib.suppress(_NotImplemented):
            found = self._try("read", identity, lambda: self._row.get(self._client, identity))
        return None if found is None else Live({"bucket": identity, **found}, {"region": self._region})

    def update(self, identity: str, old: Values, new: Values, changed: Collection[str]) -> None:
        self._put(identity, new)

    def delete(self, identity: str, state: Values) -> None:
        absent = s3.MISSING | {LOCK_HOLDS_VERSIONING}  # Object Lock never lets versioning be suspended
        with contextlib.suppress(_NotImplemented):
            self._try(
                "remove",
                identity,
                lambda: s3.or_none(self.token, lambda: self._row.remove(self._client, identity), absent),
            )

    def _put(self, bucket: str, inputs: Values) -> None:
        with contextlib.suppress(_NotImplemented):
            self._try("write", bucket, lambda: self._row.put(self._client, bucket, inputs))

    def _try(self, verb: str, bucket: str, do: Callable[[], T]) -> T:
        try:
            return s3.call(f"{verb} {self.token} of {bucket}", do)
        except ProviderError as error:
            if self._row.optional and "NotImplemented" in str(error):
                raise _NotImplemented from error
            raise


class _NotImplemented(Exception):
    """The lab's store doesn't know this sub-configuration."""


def _put_versioning(client: S3Client, bucket: str, inputs: Values) -> None:
    status = inputs["versioningConfiguration"]["status"]
    if status != "Disabled":  # a state that only a bucket which never had versioning is in
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


def _get_versioning(client: S3Client, bucket: str) -> Values:
    status = client.get_bucket_versioning(Bucket=bucket).get("Status", "Disabled")
    return {"versioningConfiguration": {"status": status}}


def _put_lock(client: S3Client, bucket: str, inputs: Values) -> None:
    configuration: Any = {"ObjectLockEnabled": "Enabled"}
    retention = (inputs.get("rule") or {}).get("defaultRetention")
    if retention:
        names = {"mode": "Mode", "days": "Days", "years": "Years"}
        configuration["Rule"] = {"DefaultRetention": {names[key]: value for key, value in retention.items()}}
    client.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=configuration)


def _get_lock(client: S3Client, bucket: str) -> Values | None:
    answer = s3.or_none(
        bucket,
        lambda: client.get_object_lock_configuration(Bucket=bucket),
        {"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"},
    )
    if answer is None:
        return None
    retention = answer["ObjectLockConfiguration"].get("Rule", {}).get("DefaultRetention")
    if not retention:
        return {"rule": None}
    return {"rule": {"defaultRetention": {key.lower(): value for key, value in retention.items()}}}


def _remove_lock(client: S3Client, bucket: str) -> None:
    client.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"})


def _put_lifecycle(client: S3Client, bucket: str, inputs: Values) -> None:
    rules: Any = [_rule_to_s3(rule) for rule in inputs["rules"]]
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})


def _get_lifecycle(client: S3Client, bucket: str) -> Values | None:
    answer = s3.or_none(
        bucket, lambda: client.get_bucket_lifecycle_configuration(Bucket=bucket), {"NoSuchLifecycleConfiguration"}
    )
    return None if answer is None else {"rules": [_rule_from_s3(dict(rule)) for rule in answer["Rules"]]}


def _rule_to_s3(rule: Values) -> Values:
    converted: Values = {
        "ID": rule["id"],
        "Status": rule["status"],
        "Filter": {"Prefix": (rule.get("filter") or {}).get("prefix", "")},
    }
    if rule.get("expiration"):
        converted["Expiration"] = s3.expiration_to_s3(rule["expiration"])
    if rule.get("noncurrentVersionExpiration"):
        days = rule["noncurrentVersionExpiration"]["noncurrentDays"]
        converted["NoncurrentVersionExpiration"] = {"NoncurrentDays": days}
    if rule.get("abortIncompleteMultipartUpload"):
        days = rule["abortIncompleteMultipartUpload"]["daysAfterInitiation"]
        converted["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": days}
    return converted


def _rule_from_s3(rule: Values) -> Values:
    flat: Values = {"id": rule.get("ID"), "status": rule["Status"]}
    flat["filter"] = {"prefix": (rule.get("Filter") or {}).get("Prefix", rule.get("Prefix", ""))}
    if rule.get("Expiration"):
        flat["expiration"] = s3.expiration_from_s3(rule["Expiration"])
    if rule.get("NoncurrentVersionExpiration"):
        flat["noncurrentVersionExpiration"] = {"noncurrentDays": rule["NoncurrentVersionExpiration"]["NoncurrentDays"]}
    if rule.get("AbortIncompleteMultipartUpload"):
        days = rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]
        flat["abortIncompleteMultipartUpload"] = {"daysAfterInitiation": days}
    return flat


_BY_DEFAULT = "applyServerSideEncryptionByDefault"


def _put_encryption(client: S3Client, bucket: str, inputs: Values) -> None:
    rules: Any = [
        {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": rule[_BY_DEFAULT]["sseAlgorithm"]}}
        for rule in inputs["rules"]
    ]
    client.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": rules})


def _get_encryption(client: S3Client, bucket: str) -> Values | None:
    answer = s3.or_none(
        bucket,
        lambda: client.get_bucket_encryption(Bucket=bucket),
        {"ServerSideEncryptionConfigurationNotFoundError", "NoSuchEncryptionConfiguration"},
    )
    if answer is None:
        return None
    rules = answer["ServerSideEncryptionConfiguration"]["Rules"]
    algorithms = [rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] for rule in rules]
    return {"rules": [{_BY_DEFAULT: {"sseAlgorithm": algorithm}} for algorithm in algorithms]}


_BLOCKS = {
    "blockPublicAcls": "BlockPublicAcls",
    "blockPublicPolicy": "BlockPublicPolicy",
    "ignorePublicAcls": "IgnorePublicAcls",
    "restrictPublicBuckets": "RestrictPublicBuckets",
}


def _put_block(client: S3Client, bucket: str, inputs: Values) -> None:
    wanted: Any = {api: bool(inputs.get(name)) for name, api in _BLOCKS.items()}
    client.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=wanted)


def _get_block(client: S3Client, bucket: str) -> Values | None:
    answer = s3.or_none(
        bucket, lambda: client.get_public_access_block(Bucket=bucket), {"NoSuchPublicAccessBlockConfiguration"}
    )
    if answer is None:
        return None
    found: Any = answer["PublicAccessBlockConfiguration"]
    return {name: bool(found.get(api)) for name, api in _BLOCKS.items()}


ROWS = (
    Row(
        "aws:s3/bucketVersioning:BucketVersioning",
        (Prop("versioningConfiguration", required=True),),
        _put_versioning,
        _get_versioning,
        lambda client, bucket: client.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}
        ),
    ),
    Row(
        "aws:s3/bucketObjectLockConfiguration:BucketObjectLockConfiguration",
        (Prop("objectLockEnabled", reads=False, replaces=True), Prop("rule")),
        _put_lock,
        _get_lock,
        _remove_lock,
    ),
    Row(
        "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration",
        (Prop("rules", required=True),),
        _put_lifecycle,
        _get_lifecycle,
        lambda client, bucket: client.delete_bucket_lifecycle(Bucket=bucket),
    ),
    Row(
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
        (Prop("rules", required=True),),
        _put_encryption,
        _get_encryption,
        lambda client, bucket: client.delete_bucket_encryption(Bucket=bucket),
    ),
    Row(
        "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock",
        tuple(Prop(name) for name in _BLOCKS),
        _put_block,
        _get_block,
        lambda client, bucket: client.delete_public_access_block(Bucket=bucket),
        optional=True,  # SeaweedFS has none; without an ACL or a policy nothing in it is public anyhow
    ),
)
