"""AWS's IAM and STS of the lab: moto's, made strict, and enforced on the lab's AWS S3.

moto keeps users, keys and policies and answers as AWS does, but lets anyone in and knows nothing of our S3. So here
each request's signature and permission are checked first, and after a change every active key and its policy documents
go to the store, which evaluates them itself (lab/identities.py), before the caller gets the answer. The same process
tells the stores' fronts which buckets are empty (lab/bucketguard.py).

    python -m lab.aws --config /var/lib/lifeline-lab/lab.json
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import pickle
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.iam.models import IAMBackend, User, iam_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.route53.models import Route53Backend
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.wrappers import Request, Response

from lab import bucketguard, config, zonebook
from lab.config import KeyPair, LabConfig
from lab.identities import Identity
from lab.objectstore import AWS_ACCOUNT, StoreSpec, aws_spec, specs
from lab.servers import HttpProbe, Server
from lab.sigv4 import BadSignature, signer, verify

log = logging.getLogger("lab.aws")

ADMINISTRATOR = "operator"
_EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
_APPLY_WITHIN_S = 10.0
_RETRY_S = 1.0
_HEALTH = "/-/health"
_READ_ONLY = ("Get", "List", "Simulate", "Generate", "Decode")
_NAMESPACES = {
    "iam": "https://iam.amazonaws.com/doc/2010-05-08/",
    "sts": "https://sts.amazonaws.com/doc/2011-06-15/",
    "route53": zonebook.NAMESPACE,
}


@dataclass(frozen=True)
class AwsSpec:
    """Where IAM and STS listen, where they keep their state, and the store that enforces what they say."""

    directory: Path
    store: StoreSpec
    address: str = config.AWS_IAM_ADDRESS
    port: int = 80


def spec(lab: LabConfig) -> AwsSpec:
    """The lab's, at the standard address."""
    return AwsSpec(lab.state / "aws", aws_spec(lab))


def server(lab: LabConfig) -> Server:
    """How to run IAM and STS. They start before or after the store: what the store missed it gets when it answers."""
    where = spec(lab)
    return Server(
        name="aws",
        argv=(sys.executable, "-m", "lab.aws", "--config", str(lab.file)),
        env={"PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1", "MOTO_ACCOUNT_ID": AWS_ACCOUNT},
        ready=HttpProbe(where.address, where.port, _HEALTH),
        directories=(where.directory,),
    )


class Aws:
    """IAM and STS as a WSGI application."""

    def __init__(self, where: AwsSpec, state: IAMBackend) -> None:
        self._where = where
        self._names = zonebook.backend()
        self._state = state
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.RLock()  # moto isn't made for threads, and a change and its enforcement belong together
        self._unenforced = threading.Event()
        threading.Thread(target=self._retry, daemon=True).start()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        if request.path == _HEALTH:
            return Response("ok\n")(environ, start_response)
        with self._lock:
            return self._answer(request)(environ, start_response)

    def enforce(self) -> None:
        """Bring the store up to date; when it doesn't answer, go on trying in the background."""
        try:
            self._where.store.identities().apply(identities(self._state), within_s=_APPLY_WITHIN_S)
            self._unenforced.clear()
        except RuntimeError as error:
            log.warning("keys and policies are not enforced yet: %s", error)
            self._unenforced.set()

    @property
    def enforced(self) -> bool:
        """Does the store know everything that IAM says?"""
        return not self._unenforced.is_set()

    def enforce_soon(self) -> None:
        """The same in the background."""
        self._unenforced.set()

    def _answer(self, request: Request) -> Response:
        body = request.get_data()  # kept: the form, the signature and moto each need it
        names = _service_of(request) == "route53"
        if names:  # its actions are methods and paths
            action = zonebook.action_of(request.method, request.path)
        else:
            action = request.form.get("Action") or request.args.get("Action") or ""
        try:
            authorize(request, body, action, self._state)
        except Denied as denied:
            return denied.response
        if names and not action:
            return Denied("route53", "InvalidAction", "The lab's Route 53 can't do this.", 400).response
        if action == "ListServiceSpecificCredentials":
            return no_service_credentials(request.form.get("UserName", ""), self._state)
        request.environ["wsgi.input"] = io.BytesIO(body)
        try:
            response = Response.from_app(self._moto, request.environ, buffered=True)
        except NotImplementedError as missing:  # an error of the client's: no one should try again
            return Denied("iam", "InvalidAction", f"The lab's IAM can't do this: {missing}", 400).response
        if response.status_code >= 400:
            return response
        if names and zonebook.changes(action):
            keep_zones(self._names, self._where.directory)
        elif not names and not action.startswith(_READ_ONLY):
            save(self._state, self._where.directory)
            self.enforce()
        return response

    def _retry(self) -> None:
        while True:
            self._unenforced.wait()
            with self._lock:
                self.enforce()
            if self._unenforced.is_set():
                time.sleep(_RETRY_S)


# --- who may call -----------------------------------------------------------------------------------------------------


class Denied(Exception):
    """The request is refused; ``response`` is what AWS would say."""

    def __init__(self, service: str, code: str, message: str, status: int = 403) -> None:
        super().__init__(message)
        self.response = Response(
            f'<ErrorResponse xmlns="{_NAMESPACES.get(service, "")}"><Error><Type>Sender</Type><Code>{code}</Code>'
            f"<Message>{message}</Message></Error><RequestId>lab</RequestId></ErrorResponse>",
            status=status,
            content_type="text/xml",
        )


def authorize(request: Request, body: bytes, action: str, state: IAMBackend) -> None:
    """Raise Denied unless the request is signed by an active key whose user's policies allow the action."""
    claimed = signer(request.headers.get("Authorization", ""))
    if claimed is None:
        raise Denied("", "MissingAuthenticationToken", "Request is missing Authentication Token")
    if claimed.service not in _NAMESPACES:
        raise Denied("", "SignatureDoesNotMatch", f"Credential is scoped to '{claimed.service}'; iam, sts, route53")
    user, secret = _user_of(claimed.access_key, state)
    if user is None:
        raise Denied(claimed.service, "InvalidClientTokenId", "The security token included in the request is invalid.")
    try:
        verify(request, body, claimed, secret)
    except BadSignature as bad:
        raise Denied(claimed.service, "SignatureDoesNotMatch", str(bad)) from None
    wanted = f"{claimed.service}:{action}"
    if wanted != "sts:GetCallerIdentity" and not _allowed(wanted, user, state):
        raise Denied(claimed.service, "AccessDenied", f"User: {user.arn} is not authorized to perform: {wanted}")


def no_service_credentials(user: str, state: IAMBackend) -> Response:
    """The answer to ListServiceSpecificCredentials, of which moto knows nothing and AWS's provider deletes users by."""
    if user not in {known.name for known in state.users.values()}:
        return Denied("iam", "NoSuchEntity", f"The user with name {user} cannot be found.", 404).response
    name = "ListServiceSpecificCredentials"
    return Response(
        f'<{name}Response xmlns="{_NAMESPACES["iam"]}"><{name}Result><ServiceSpecificCredentials/>'
        f"<IsTruncated>false</IsTruncated></{name}Result>"
        f"<ResponseMetadata><RequestId>lab</RequestId></ResponseMetadata></{name}Response>",
        content_type="text/xml",
    )


def _service_of(request: Request) -> str:
    claimed = signer(request.headers.get("Authorization", ""))
    return claimed.service if claimed else ""


def _user_of(access_key: str, state: IAMBackend) -> tuple[User | None, str]:
    for user in state.users.values():
        for key in user.access_keys:
            if key.access_key_id == access_key and key.status == "Active":
                return user, key.secret_access_key
    return None, ""


def _allowed(action: str, user: User, state: IAMBackend) -> bool:
    policies = [IAMPolicy(json.dumps(document)) for document in documents(user, state).values()]
    results = [policy.is_action_permitted(action) for policy in policies]
    return PermissionResult.PERMITTED in results and PermissionResult.DENIED not in results


# --- what the store enforces ------------------------------------------------------------------------------------------


def documents(user: User, state: IAMBackend) -> dict[str, Any]:
    """Every policy document that holds for a user, by a name of its own: inline, attached, and through groups."""
    found = {f"inline/{name}": text for name, text in user.policies.items()}
    found |= {f"attached/{policy.arn}": _current(policy) for policy in user.managed_policies.values()}
    for group in state.get_groups_for_user(user.name):
        found |= {f"group/{group.name}/inline/{name}": text for name, text in group.policies.items()}
        found |= {f"group/{group.name}/{policy.arn}": _current(policy) for policy in group.managed_policies.values()}
    return {name: json.loads(text) for name, text in found.items()}


def _current(policy: Any) -> str:
    return str(next(version.document for version in policy.versions if version.is_default))


def identities(state: IAMBackend) -> list[Identity]:
    """Users with active keys, as the store needs them. The administrator is the store's own already."""
    return [
        Identity(user.name, keys, documents(user, state))
        for user in state.users.values()
        if user.name != ADMINISTRATOR
        and (
            keys := tuple(
                KeyPair(key.access_key_id, key.secret_access_key) for key in user.access_keys if key.status == "Active"
            )
        )
    ]


# --- state ------------------------------------------------------------------------------------------------------------

# The summary points back at its backend and is computed anew.
_NOT_KEPT = ("account_summary",)


def load(directory: Path, admin: KeyPair) -> IAMBackend:
    """moto's state of IAM as it was last saved, with the administrator in it."""
    state: IAMBackend = iam_backends[AWS_ACCOUNT]["aws"]
    file = _state_file(directory)
    if file.exists():
        state.__dict__.update(pickle.loads(file.read_bytes()))  # our own file, in a folder only root may write
    if ADMINISTRATOR not in state.users:
        state.create_user("us-east-1", ADMINISTRATOR)
        state.put_user_policy(ADMINISTRATOR, "administrator", json.dumps(_EVERYTHING))
        key = state.create_access_key(ADMINISTRATOR)
        del state.access_keys[key.access_key_id]
        key.access_key_id, key.secret_access_key = admin.access_key, admin.secret_key
        state.access_keys[key.access_key_id] = key
    return state


def save(state: IAMBackend, directory: Path) -> None:
    """Keep the state over a restart; a crash while saving leaves the old one."""
    directory.mkdir(parents=True, exist_ok=True)
    partial = _state_file(directory).with_suffix(".new")
    partial.touch(mode=0o600)
    partial.write_bytes(pickle.dumps({name: value for name, value in vars(state).items() if name not in _NOT_KEPT}))
    partial.replace(_state_file(directory))


def load_zones(directory: Path) -> None:
    """The same for Route 53."""
    file = directory / "route53.pickle"
    state = zonebook.backend()
    if file.exists():
        state.__dict__.update(pickle.loads(file.read_bytes()))
    zonebook.publish(state, directory / "route53.json")


def keep_zones(state: Route53Backend, directory: Path) -> None:
    partial = directory / "route53.pickle.new"
    partial.touch(mode=0o600)
    partial.write_bytes(pickle.dumps(vars(state)))
    partial.replace(directory / "route53.pickle")
    zonebook.publish(state, directory / "route53.json")


def _state_file(directory: Path) -> Path:
    return directory / "iam.pickle"


def listen(where: AwsSpec) -> tuple[BaseWSGIServer, Aws]:
    """A server that listens already; ``serve_forever`` is the caller's to call."""
    application = Aws(where, load(where.directory, where.store.admin))
    load_zones(where.directory)
    listener = make_server(where.address, where.port, application, threaded=True, request_handler=MotoRequestHandler)
    return listener, application


def main(argv: list[str] | None = None) -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="lab.aws", description="IAM and STS of the lab's AWS")
    parser.add_argument("--config", type=Path, required=True, help="lab.json")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    lab = LabConfig.load(arguments.config)
    listener, application = listen(spec(lab))
    bucketguard.start(specs(lab))
    application.enforce_soon()  # the store may know keys of before a crash, or nothing yet
    listener.serve_forever()


if __name__ == "__main__":
    main()
