"""A store of the lab keeps S3's promises, from conditional writes to locks, and holds every key to its grants."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lab.config import KeyPair
from lab.objectstore import SeaweedSpaces
from lab.ports import SpacesGrant, SpacesKey
from lifeline.lease import Leases
from lifeline.model import Key
from lifeline.store import Denied, Store
from lifeline.vault import open_store
from tests.contract.lease_suite import LeaseSuite
from tests.contract.store_suite import StoreSuite
from tests.contract.stores import OPERATOR, Running, outcome, running, spaces_spec

pytestmark = pytest.mark.slow

_numbers = itertools.count()


@pytest.fixture(scope="module")
def spaces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(spaces_spec(tmp_path_factory.mktemp("spaces")), "us-east-1") as store:
        yield store


@pytest.fixture
def bucket(spaces: Running) -> str:
    name = f"bucket-{next(_numbers)}"
    spaces.client().create_bucket(Bucket=name)
    return name


@pytest.fixture
def store(spaces: Running, bucket: str) -> Store:
    return open_store(spaces.ref(bucket), Key(OPERATOR.access_key, OPERATOR.secret_key), direct=True)


class TestStore(StoreSuite):
    """The same contract as the in-memory store's."""


class TestLease(LeaseSuite):
    """The same again for the lease."""

    def test_the_lease_lies_where_the_design_says(self, leases: Leases, store: Store):
        assert leases.key == "lease/genesis.json"
        assert store.head(leases.key) is None


# --- keys and grants --------------------------------------------------------------------------------------------------


def key(name: str, *grants: SpacesGrant) -> SpacesKey:
    return SpacesKey(name, f"DO00{name.upper()}", f"secret-of-{name}", grants)


def pair(key: SpacesKey) -> KeyPair:
    return KeyPair(key.access_key, key.secret_key)


@pytest.fixture
def apply(spaces: Running) -> Iterator[Any]:
    port = SeaweedSpaces([spaces.spec])
    yield port.apply_keys
    port.apply_keys([])


def put(client: Any, bucket: str, name: str = "k") -> str:
    return outcome(client.put_object, Bucket=bucket, Key=name, Body=b"1")


def get(client: Any, bucket: str, name: str = "k") -> str:
    return outcome(client.get_object, Bucket=bucket, Key=name)


def test_grants_are_enforced_for_each_bucket(spaces: Running, bucket: str, apply: Any):
    other = f"{bucket}-other"
    spaces.client().create_bucket(Bucket=other)
    reader = key("reader", SpacesGrant(bucket, "read"))
    writer = key("writer", SpacesGrant(bucket, "readwrite"), SpacesGrant(other, "read"))
    apply([reader, writer])
    r, w = spaces.client(pair(reader)), spaces.client(pair(writer))
    assert [put(w, bucket), get(w, bucket), get(r, bucket)] == ["ok", "ok", "ok"]
    assert [put(r, bucket), put(w, other), get(r, other)] == ["AccessDenied"] * 3
    assert [outcome(c.list_objects_v2, Bucket=other) for c in (w, r)] == ["ok", "AccessDenied"]
    assert outcome(r.delete_object, Bucket=bucket, Key="k") == "AccessDenied"
    assert outcome(w.delete_object, Bucket=bucket, Key="k") == "ok"


def test_a_limited_key_has_no_say_over_the_bucket_itself(spaces: Running, bucket: str, apply: Any):
    writer = key("writer", SpacesGrant(bucket, "readwrite"))
    apply([writer])
    client = spaces.client(pair(writer))
    attempts = [
        outcome(client.create_bucket, Bucket=f"{bucket}-new"),
        outcome(client.delete_bucket, Bucket=bucket),
        outcome(client.put_bucket_versioning, Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}),
        outcome(client.put_bucket_lifecycle_configuration, Bucket=bucket, LifecycleConfiguration=RULES),
        outcome(client.delete_bucket_lifecycle, Bucket=bucket),
        outcome(client.put_bucket_policy, Bucket=bucket, Policy="{}"),
    ]
    assert attempts == ["AccessDenied"] * len(attempts)


def test_full_access_makes_and_removes_buckets_and_reaches_what_others_made(spaces: Running, bucket: str, apply: Any):
    full = key("full", SpacesGrant("", "fullaccess"))
    apply([full])
    client = spaces.client(pair(full))
    assert outcome(client.create_bucket, Bucket=f"{bucket}-new") == "ok"
    assert [put(client, bucket), put(spaces.client(), f"{bucket}-new")] == ["ok", "ok"]
    assert outcome(client.put_bucket_acl, Bucket=bucket, ACL="private") == "ok"
    client.delete_object(Bucket=f"{bucket}-new", Key="k")
    assert outcome(client.delete_bucket, Bucket=f"{bucket}-new") == "ok"


def test_a_deleted_key_is_refused_at_once_and_told_apart_from_a_missing_grant(
    spaces: Running, bucket: str, apply: Any, store: Store
):
    doomed, kept = key("doomed", SpacesGrant(bucket, "readwrite")), key("kept", SpacesGrant(bucket, "readwrite"))
    apply([doomed, kept])
    zombie = open_store(spaces.ref(bucket), Key(doomed.access_key, doomed.secret_key), direct=True)
    zombie.put("k", b"while it was primary")
    apply([kept])
    with pytest.raises(Denied) as caught:
        zombie.put("k", b"after the fence")
    assert caught.value.key_unknown
    assert store.get("k").body == b"while it was primary"
    assert put(spaces.client(pair(kept)), bucket) == "ok"


def test_a_changed_grant_holds_at_once_both_ways(spaces: Running, bucket: str, apply: Any):
    one = key("one", SpacesGrant(bucket, "read"))
    apply([one])
    client = spaces.client(pair(one))
    assert put(client, bucket) == "AccessDenied"
    apply([key("one", SpacesGrant(bucket, "readwrite"))])
    assert put(client, bucket) == "ok"
    apply([key("one")])
    assert [put(client, bucket), get(client, bucket)] == ["AccessDenied", "AccessDenied"]


def test_a_wrong_secret_and_an_unknown_key_are_refused(spaces: Running, bucket: str):
    assert get(spaces.client(KeyPair(OPERATOR.access_key, "wrong")), bucket) == "SignatureDoesNotMatch"
    assert get(spaces.client(KeyPair("UNKNOWN", "wrong")), bucket) == "InvalidAccessKeyId"


def test_a_store_that_does_not_answer_is_named(spaces: Running):
    away = replace(spaces.spec, name="sgp1", inside_port=1)
    with pytest.raises(RuntimeError, match="sgp1"):
        SeaweedSpaces([spaces.spec, away]).apply_keys([])


# --- S3 ---------------------------------------------------------------------------------------------------------------

RULES: dict[str, Any] = {
    "Rules": [
        {
            "ID": "backups",
            "Status": "Enabled",
            "Filter": {"Prefix": "snapshots/"},
            "Expiration": {"Days": 365},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        },
        {
            "ID": "uploads",
            "Status": "Disabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
        },
    ]
}


def test_lifecycle_rules_come_back_as_they_were_given(spaces: Running, bucket: str):
    client = spaces.client()
    assert outcome(client.get_bucket_lifecycle_configuration, Bucket=bucket) == "NoSuchLifecycleConfiguration"
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=RULES)
    assert client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"] == RULES["Rules"]
    client.delete_bucket_lifecycle(Bucket=bucket)
    assert outcome(client.get_bucket_lifecycle_configuration, Bucket=bucket) == "NoSuchLifecycleConfiguration"


def test_versions_survive_overwriting_and_deleting(spaces: Running, bucket: str):
    client = spaces.client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    first = client.put_object(Bucket=bucket, Key="k", Body=b"1")["VersionId"]
    client.put_object(Bucket=bucket, Key="k", Body=b"2")
    client.delete_object(Bucket=bucket, Key="k")
    assert get(client, bucket) == "NoSuchKey"
    assert client.get_object(Bucket=bucket, Key="k", VersionId=first)["Body"].read() == b"1"
    listing = client.list_object_versions(Bucket=bucket)
    assert (len(listing["Versions"]), len(listing["DeleteMarkers"])) == (2, 1)


@pytest.mark.parametrize("mode", ["COMPLIANCE", "GOVERNANCE"])
def test_a_locked_version_cannot_be_deleted(spaces: Running, bucket: str, mode: str):
    locked = f"{bucket}-locked"
    client = spaces.client()
    client.create_bucket(Bucket=locked, ObjectLockEnabledForBucket=True)
    until = datetime.now(UTC) + timedelta(days=1)
    retention = {"ObjectLockMode": mode, "ObjectLockRetainUntilDate": until}
    version = client.put_object(Bucket=locked, Key="k", Body=b"1", **retention)["VersionId"]
    assert outcome(client.delete_object, Bucket=locked, Key="k", VersionId=version) == "AccessDenied"
    shorter = {"Mode": mode, "RetainUntilDate": until - timedelta(hours=23)}
    assert outcome(client.put_object_retention, Bucket=locked, Key="k", Retention=shorter) == "AccessDenied"
    assert outcome(client.delete_object, Bucket=locked, Key="k") == "ok"  # a delete marker only
    assert client.get_object(Bucket=locked, Key="k", VersionId=version)["Body"].read() == b"1"


def test_default_retention_locks_what_is_written_without_asking(spaces: Running, bucket: str):
    locked = f"{bucket}-default"
    client = spaces.client()
    client.create_bucket(Bucket=locked, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 30}}
    configuration = {"ObjectLockEnabled": "Enabled", "Rule": rule}
    client.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration=configuration)
    assert client.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"] == configuration
    version = client.put_object(Bucket=locked, Key="k", Body=b"1")["VersionId"]
    assert outcome(client.delete_object, Bucket=locked, Key="k", VersionId=version) == "AccessDenied"
