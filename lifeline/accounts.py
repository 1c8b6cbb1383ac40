"""AWS beside its buckets: which users, access keys and zones stand there, and an access key that is taken back.

With the operator's own key. Endpoints other than AWS's own come from the environment, as for every AWS tool.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from lifeline.errors import Unavailable
from lifeline.model import Key
from lifeline.standing import SET, USER, ZONE, Standing

if TYPE_CHECKING:
    from mypy_boto3_iam import IAMClient

T = TypeVar("T")
PATH = "/lifeline/"  # under which infra puts the hosts' users
REGION = "us-east-1"  # of services that have none
_SETTINGS = Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 3, "mode": "standard"})


class Accounts:
    """One AWS account."""

    def __init__(self, key: Key) -> None:
        self._session = boto3.session.Session(
            aws_access_key_id=key.access_key, aws_secret_access_key=key.secret_key, region_name=REGION
        )

    def standing(self, zone: str | None) -> Standing:
        """The hosts' users; the zone of the second name with its sets, where there is one."""
        found: Standing = {USER: {name: name for name in self._users()}}
        return found if zone is None else {**found, **self._zone(zone)}

    def owner(self, access_key: str) -> str | None:
        """Which of the hosts' users has that key; None: nobody."""
        for user in self._users():
            if access_key in self._keys(user):
                return user
        return None

    def revoke(self, access_key: str) -> None:
        """Delete a host's access key; one that is gone already is as good."""
        if user := self.owner(access_key):
            self._delete_key(user, access_key)

    def remove(self, user: str) -> bool:
        """Delete one of the hosts' users with all that it has; False where there is none."""
        if user not in self._users():
            return False
        iam = self._iam
        for key in self._keys(user):
            self._delete_key(user, key)
        for policy in _asked("list policies", partial(iam.list_user_policies, UserName=user))["PolicyNames"]:
            _asked("delete a policy", partial(iam.delete_user_policy, UserName=user, PolicyName=policy))
        _asked("delete a user", partial(iam.delete_user, UserName=user))
        return True

    @cached_property
    def _iam(self) -> IAMClient:
        made: IAMClient = self._session.client("iam", config=_SETTINGS)
        return made

    def _users(self) -> list[str]:
        pages = self._iam.get_paginator("list_users")
        found = _asked("list users", lambda: list(pages.paginate(PathPrefix=PATH)))
        return [str(user["UserName"]) for page in found for user in page["Users"] if user["Path"] == PATH]

    def _keys(self, user: str) -> list[str]:
        found = _asked("list access keys", partial(self._iam.list_access_keys, UserName=user))
        return [str(one["AccessKeyId"]) for one in found["AccessKeyMetadata"]]

    def _delete_key(self, user: str, key: str) -> None:
        _asked("delete an access key", partial(self._iam.delete_access_key, UserName=user, AccessKeyId=key))

    def _zone(self, zone: str) -> Standing:
        names = self._session.client("route53", config=_SETTINGS)
        listed = _asked("list zones", lambda: names.list_hosted_zones_by_name(DNSName=zone))["HostedZones"]
        number = next((one["Id"].removeprefix("/hostedzone/") for one in listed if one["Name"] == f"{zone}."), None)
        if number is None:
            return {}
        sets = _asked(f"list {zone}", lambda: names.list_resource_record_sets(HostedZoneId=number))
        found = {
            one["SetIdentifier"]: f"{number}_{one['Name'].rstrip('.')}_A_{one['SetIdentifier']}"
            for one in sets["ResourceRecordSets"]
            if one["Type"] == "A" and one.get("SetIdentifier")
        }
        return {ZONE: {zone: number}, SET: found}


def _asked(what: str, call: Callable[[], T]) -> T:
    """boto3's errors as ours."""
    try:
        return call()
    except ClientError as error:
        code: Any = error.response.get("Error", {}).get("Code", "")
        raise Unavailable(f"AWS refused to {what} ({code})", hint="check AWS_ACCESS_KEY_ID: it needs IAM") from None
    except BotoCoreError as error:
        raise Unavailable(f"AWS doesn't answer: can't {what} ({error})", hint="fab status") from None
