"""The suites of stores and leases on a real service, when one is named: see docs/lab-stores.md."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import boto3
import pytest

from lifeline.model import StoreRef
from lifeline.store import Store
from lifeline.vault import key_from_environment, open_store
from tests.contract.lease_suite import LeaseSuite
from tests.contract.store_suite import StoreSuite

SERVICE = os.environ.get("LIFELINE_REAL_S3", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERVICE, reason="LIFELINE_REAL_S3 names no real service: see docs/lab-stores.md"),
]


@pytest.fixture
def store() -> Iterator[Store]:
    """A bucket made for one test, removed with all that is in it."""
    region, _, endpoint = SERVICE.partition(",")
    ref = StoreRef(f"lifeline-suite-{secrets.token_hex(8)}", region, endpoint or None, path_style=False)
    key = key_from_environment("AWS")
    client = boto3.client(
        "s3",
        region_name=region,
        endpoint_url=ref.endpoint,
        aws_access_key_id=key.access_key,
        aws_secret_access_key=key.secret_key,
    )
    if region == "us-east-1" or endpoint:
        client.create_bucket(Bucket=ref.bucket)
    else:
        client.create_bucket(Bucket=ref.bucket, CreateBucketConfiguration={"LocationConstraint": region})
    made = open_store(ref, key)
    try:
        yield made
    finally:
        for info in list(made.list()):
            made.delete(info.key)
        client.delete_bucket(Bucket=ref.bucket)


class TestRealStore(StoreSuite):
    """Every promise of a store."""


class TestRealLease(LeaseSuite):
    """Every promise of the lease."""
