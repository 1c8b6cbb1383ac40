"""`aws:iam` over the IAM API: a user, its inline policy, its access key."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from lab.providers import s3
from lab.providers.kind import Created, Kind, Live, Prop, Values

if TYPE_CHECKING:
    from mypy_boto3_iam import IAMClient


class _Iam(Kind):
    def __init__(self, client: IAMClient) -> None:
        self._client = client


class User(_Iam):
    """Its id is its name."""

    token = "aws:iam/user:User"
    props = (Prop("name"), Prop("path"), Prop("tags"), Prop("forceDestroy", reads=False))
    computed = ("arn", "uniqueId", "tagsAll")
    autonamed = True

    def create(self, inputs: Values) -> Created:
        name, tags = inputs["name"], _tags(inputs.get("tags") or {})
        path = inputs.get("path", "/")
        s3.call(f"create user {name}", lambda: self._client.create_user(UserName=name, Path=path, Tags=tags))
        return Created(name)

    def read(self, identity: str, state: Values) -> Live | None:
        what = f"user {identity}"
        answer = s3.or_none(what, lambda: self._client.get_user(UserName=identity), s3.MISSING)
        if answer is None:
            return None
        user = answer["User"]
        listed = s3.call(what, lambda: self._client.list_user_tags(UserName=identity))
        tags = {tag["Key"]: tag["Value"] for tag in listed["Tags"]}
        return Live(
            inputs={"name": user["UserName"], "path": user["Path"], "tags": tags},
            computed={"arn": user["Arn"], "uniqueId": user["UserId"], "tagsAll": tags},
        )

    def update(self, identity: str, old: Values, new: Values, changed: Collection[str]) -> None:
        what = f"update user {identity}"
        if "tags" in changed:
            gone = sorted(set(old.get("tags") or {}) - set(new.get("tags") or {}))
            s3.call(what, lambda: self._client.untag_user(UserName=identity, TagKeys=gone))
            s3.call(what, lambda: self._client.tag_user(UserName=identity, Tags=_tags(new.get("tags") or {})))
        if "path" in changed:
            s3.call(what, lambda: self._client.update_user(UserName=identity, NewPath=new.get("path", "/")))
        if "name" in changed:
            s3.call(what, lambda: self._client.update_user(UserName=identity, NewUserName=new["name"]))

    def delete(self, identity: str, state: Values) -> None:
        what = f"delete user {identity}"
        keys = s3.or_none(what, lambda: self._client.list_access_keys(UserName=identity), s3.MISSING)
        for key in keys["AccessKeyMetadata"] if keys and state.get("forceDestroy") else []:
            number = key["AccessKeyId"]
            s3.call(what, lambda n=number: self._client.delete_access_key(UserName=identity, AccessKeyId=n))  # type: ignore[misc]
        s3.or_none(what, lambda: self._client.delete_user(UserName=identity), s3.MISSING)


class UserPolicy(_Iam):
    """An inline policy; its id is `user:name`."""

    token = "aws:iam/userPolicy:UserPolicy"
    props = (Prop("user", required=True, replaces=True), Prop("name", replaces=True), Prop("policy", required=True))
    computed = ()
    autonamed = True

    def create(self, inputs: Values) -> Created:
        self._put(inputs)
        return Created(f"{inputs['user']}:{inputs['name']}")

    def read(self, identity: str, state: Values) -> Live | None:
        user, _, name = identity.partition(":")
        answer = s3.or_none(
            f"policy {identity}", lambda: self._client.get_user_policy(UserName=user, PolicyName=name), s3.MISSING
        )
        if answer is None:
            return None
        document: Any = answer["PolicyDocument"]
        found = json.loads(unquote(document)) if isinstance(document, str) else document
        recorded = state.get("policy")
        # Compared as documents: how JSON is spaced is nobody's drift.
        text = recorded if recorded and json.loads(recorded) == found else json.dumps(found)
        return Live({"user": user, "name": name, "policy": text}, {})

    def update(self, identity: str, old: Values, new: Values, changed: Collection[str]) -> None:
        self._put(new)

    def delete(self, identity: str, state: Values) -> None:
        user, _, name = identity.partition(":")
        s3.or_none(
            f"delete policy {identity}",
            lambda: self._client.delete_user_policy(UserName=user, PolicyName=name),
            s3.MISSING,
        )

    def _put(self, inputs: Values) -> None:
        user, name, policy = inputs["user"], inputs["name"], inputs["policy"]
        s3.call(
            f"policy {user}:{name}",
            lambda: self._client.put_user_policy(UserName=user, PolicyName=name, PolicyDocument=policy),
        )


class AccessKey(_Iam):
    """Its id is the access key id; the secret is told once and kept by the state."""

    token = "aws:iam/accessKey:AccessKey"
    props = (Prop("user", required=True, replaces=True), Prop("status"))
    computed = ("secret", "createDate")

    def create(self, inputs: Values) -> Created:
        user = inputs["user"]
        key = s3.call(f"access key of {user}", lambda: self._client.create_access_key(UserName=user))["AccessKey"]
        return Created(key["AccessKeyId"], {"secret": key["SecretAccessKey"]})

    def settle(self, identity: str, inputs: Values) -> None:
        if inputs.get("status", "Active") != "Active":
            self._set_status(identity, inputs)

    def read(self, identity: str, state: Values) -> Live | None:
        user = str(state["user"])
        listed = s3.or_none(f"access keys of {user}", lambda: self._client.list_access_keys(UserName=user), s3.MISSING)
        keys = listed["AccessKeyMetadata"] if listed else []
        for key in keys:
            if key["AccessKeyId"] == identity:
                return Live(
                    inputs={"user": user, "status": key["Status"]},
                    computed={"createDate": key["CreateDate"].isoformat(), "secret": None},
                )
        return None

    def update(self, identity: str, old: Values, new: Values, changed: Collection[str]) -> None:
        self._set_status(identity, new)

    def delete(self, identity: str, state: Values) -> None:
        user = str(state["user"])
        s3.or_none(
            f"delete access key of {user}",
            lambda: self._client.delete_access_key(UserName=user, AccessKeyId=identity),
            s3.MISSING,
        )

    def _set_status(self, identity: str, inputs: Values) -> None:
        user, status = str(inputs["user"]), inputs.get("status", "Active")
        s3.call(
            f"access key of {user}",
            lambda: self._client.update_access_key(UserName=user, AccessKeyId=identity, Status=status),
        )


def _tags(tags: Values) -> Any:
    return [{"Key": key, "Value": value} for key, value in tags.items()]
