"""`digitalocean:SpacesBucket` over S3."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from lab.providers import s3
from lab.providers.kind import Created, Kind, Live, Prop, ProviderError, Values

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION_IN_TEMPLATE = "{{.Region}}"
SIGNING_REGION = "us-east-1"  # whatever the region, as the real provider does
DEFAULT_REGION = "nyc3"


class SpacesStore:
    """A client per region, by virtual host; `http_proxy` of the environment applies."""

    def __init__(self, template: str, access_key: str, secret_key: str) -> None:
        self._template = template
        self._keys = (access_key, secret_key)
        self._clients: dict[str, S3Client] = {}
        self._lock = threading.Lock()

    def client(self, region: str) -> S3Client:
        """Raises ProviderError when no endpoint or key is set: the stand-in never talks to the public cloud."""
        if not self._template or not all(self._keys):
            raise ProviderError("SPACES_ENDPOINT_URL, SPACES_ACCESS_KEY_ID and SPACES_SECRET_ACCESS_KEY must be set")
        with self._lock:
            if region not in self._clients:
                self._clients[region] = boto3.client(
                    "s3",
                    endpoint_url=self._template.replace(REGION_IN_TEMPLATE, region),
                    region_name=SIGNING_REGION,
                    aws_access_key_id=self._keys[0],
                    aws_secret_access_key=self._keys[1],
                    config=Config(
                        signature_version="s3v4",
                        s3={"addressing_style": "virtual"},
                        request_checksum_calculation="when_required",
                        response_checksum_validation="when_required",
                        retries={"total_max_attempts": 5, "mode": "standard"},
                    ),
                )
            return self._clients[region]


class SpacesBucket(Kind):
    """Bucket, ACL, versioning and lifecycle."""

    token = "digitalocean:index/spacesBucket:SpacesBucket"
    props = (
        Prop("name"),  # not a replacement, as in the real provider: the program must ask for it
        Prop("region", replaces=True),
        Prop("acl", reads=False),
        Prop("versioning"),
        Prop("lifecycleRules"),
        Prop("forceDestroy", reads=False),
    )
    computed = ("bucketUrn", "bucketDomainName", "endpoint")
    autonamed = True

    def __init__(self, store: SpacesStore) -> None:
        self._store = store

    def imported(self, identity: str) -> tuple[str, Values]:
        """`REGION,NAME`, as the real provider wants it."""
        region, _, name = identity.rpartition(",")
        return name, {"region": region or DEFAULT_REGION}

    def create(self, inputs: Values) -> Created:
        name, client = inputs["name"], self._client(inputs)
        acl: Any = inputs.get("acl", "private")
        s3.call(f"create bucket {name}", lambda: client.create_bucket(Bucket=name, ACL=acl))
        return Created(name)

    def settle(self, identity: str, inputs: Values) -> None:
        self._apply(identity, inputs, {"versioning", "lifecycleRules"} & set(inputs))

    def read(self, identity: str, state: Values) -> Live | None:
        client, region = self._client(state), str(state.get("region", DEFAULT_REGION))
        if not s3.exists(client, identity):
            return None
        what = f"bucket {identity}"
        versioning = s3.call(what, lambda: client.get_bucket_versioning(Bucket=identity))
        lifecycle = s3.or_none(
            what, lambda: client.get_bucket_lifecycle_configuration(Bucket=identity), {"NoSuchLifecycleConfiguration"}
        )
        rules: list[Any] = list(lifecycle["Rules"]) if lifecycle else []
        return Live(
            inputs={
                "name": identity,
                "region": region,
                "versioning": {"enabled": versioning.get("Status") == "Enabled"},
                "lifecycleRules": [_from_s3(rule) for rule in rules],
            },
            computed={
                "bucketUrn": f"do:space:{identity}",
                "bucketDomainName": f"{identity}.{region}.digitaloceanspaces.com",
                "endpoint": f"{region}.digitaloceanspaces.com",
            },
        )

    def update(self, identity: str, old: Values, new: Values, changed: Collection[str]) -> None:
        self._apply(identity, new, changed)

    def delete(self, identity: str, state: Values) -> None:
        s3.delete_bucket(self._client(state), identity, force=bool(state.get("forceDestroy")))

    def _client(self, values: Values) -> S3Client:
        return self._store.client(str(values.get("region", DEFAULT_REGION)).lower())

    def _apply(self, bucket: str, inputs: Values, changed: Collection[str]) -> None:
        client, what = self._client(inputs), f"bucket {bucket}"
        if "acl" in changed:
            acl: Any = inputs.get("acl", "private")
            s3.call(what, lambda: client.put_bucket_acl(Bucket=bucket, ACL=acl))
        if "versioning" in changed:
            wanted: Any = "Enabled" if (inputs.get("versioning") or {}).get("enabled") else "Suspended"
            s3.call(
                what, lambda: client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": wanted})
            )
        if "lifecycleRules" in changed:
            rules: Any = [_to_s3(rule) for rule in inputs.get("lifecycleRules") or []]
            if rules:
                s3.call(
                    what,
                    lambda: client.put_bucket_lifecycle_configuration(
                        Bucket=bucket, LifecycleConfiguration={"Rules": rules}
                    ),
                )
            else:
                s3.call(what, lambda: client.delete_bucket_lifecycle(Bucket=bucket))


def _to_s3(rule: Values) -> Values:
    converted: Values = {
        "ID": rule.get("id", ""),
        "Status": "Enabled" if rule["enabled"] else "Disabled",
        "Filter": {"Prefix": rule.get("prefix", "")},
    }
    if rule.get("expiration"):
        converted["Expiration"] = s3.expiration_to_s3(rule["expiration"])
    if rule.get("noncurrentVersionExpiration", {}).get("days"):
        converted["NoncurrentVersionExpiration"] = {"NoncurrentDays": rule["noncurrentVersionExpiration"]["days"]}
    if rule.get("abortIncompleteMultipartUploadDays"):
        converted["AbortIncompleteMultipartUpload"] = {
            "DaysAfterInitiation": rule["abortIncompleteMultipartUploadDays"]
        }
    return converted


def _from_s3(rule: Values) -> Values:
    flat: Values = {"id": rule.get("ID"), "enabled": rule["Status"] == "Enabled"}
    flat["prefix"] = (rule.get("Filter") or {}).get("Prefix") or rule.get("Prefix") or None
    flat["expiration"] = s3.expiration_from_s3(rule["Expiration"]) if rule.get("Expiration") else None
    noncurrent = rule.get("NoncurrentVersionExpiration")
    flat["noncurrentVersionExpiration"] = {"days": noncurrent.get("NoncurrentDays")} if noncurrent else None
    abort = rule.get("AbortIncompleteMultipartUpload")
    flat["abortIncompleteMultipartUploadDays"] = abort.get("DaysAfterInitiation") if abort else None
    return {key: value for key, value in flat.items() if value is not None}
