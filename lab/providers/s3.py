"""What Spaces and S3 have in common: lifecycle rules and the emptying of a bucket."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from lab.providers.kind import ProviderError, Values

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
MISSING = frozenset({"404", "NoSuchBucket", "NotFound", "NoSuchEntity"})


def call(what: str, do: Callable[[], T]) -> T:
    """`do`, with the SDK's errors as one line."""
    try:
        return do()
    except (ClientError, BotoCoreError) as error:
        raise ProviderError(f"{what}: {error}") from error


def or_none(what: str, do: Callable[[], T], absent: frozenset[str] | set[str]) -> T | None:
    """`do`, or None when the answer is one of the `absent` error codes."""
    try:
        return do()
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in absent:
            return None
        raise ProviderError(f"{what}: {error}") from error
    except BotoCoreError as error:
        raise ProviderError(f"{what}: {error}") from error


def exists(client: S3Client, bucket: str) -> bool:
    """HEAD says so."""
    return or_none(f"bucket {bucket}", lambda: client.head_bucket(Bucket=bucket), MISSING) is not None


def expiration_to_s3(expiration: Values) -> Values:
    """An expiration of a lifecycle rule as S3 has it: an age, or the markers of what was deleted."""
    names = {"days": "Days", "expiredObjectDeleteMarker": "ExpiredObjectDeleteMarker"}
    return {names[key]: value for key, value in expiration.items() if value}


def expiration_from_s3(expiration: Values) -> Values:
    """The same, read."""
    names = {"Days": "days", "ExpiredObjectDeleteMarker": "expiredObjectDeleteMarker"}
    return {names[key]: value for key, value in expiration.items() if key in names and value}


def delete_bucket(client: S3Client, bucket: str, *, force: bool) -> None:
    """Delete it; with `force` every version in it first. Gone already is fine."""
    what = f"delete bucket {bucket}"
    try:
        client.delete_bucket(Bucket=bucket)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code")
        if code in MISSING:
            return
        if code != "BucketNotEmpty" or not force:
            raise ProviderError(f"{what}: {error}") from error
        _empty(client, bucket)
        call(what, lambda: client.delete_bucket(Bucket=bucket))
    except BotoCoreError as error:
        raise ProviderError(f"{what}: {error}") from error


def _empty(client: S3Client, bucket: str) -> None:
    """Every version and delete marker; a governance lock is bypassed, a compliance lock isn't."""
    what = f"empty bucket {bucket}"
    for upload in call(what, lambda: client.list_multipart_uploads(Bucket=bucket)).get("Uploads", []):
        key, number = upload["Key"], upload["UploadId"]
        call(what, lambda k=key, n=number: client.abort_multipart_upload(Bucket=bucket, Key=k, UploadId=n))  # type: ignore[misc]
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
        found: list[Any] = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        if not found:
            continue
        objects: Any = [{"Key": version["Key"], "VersionId": version["VersionId"]} for version in found]
        answer = call(
            what,
            lambda objs=objects: client.delete_objects(  # type: ignore[misc]
                Bucket=bucket, Delete={"Objects": objs, "Quiet": True}, BypassGovernanceRetention=True
            ),
        )
        if answer.get("Errors"):
            raise ProviderError(f"{what}: {answer['Errors'][0]}")
