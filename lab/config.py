"""What every part of the lab must agree on: addresses, paths and the generated credentials.

Addresses are constants: 198.18.0.0/15 is reserved for benchmarks, so no real network is shadowed and nothing
needs to be configured. Credentials are drawn once per lab and kept in ``lab.json`` (0600) in the lab's state folder.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.tls import TlsFiles
from lifeline.errors import BadConfig

LAB_NET = "198.18.0.0/15"

CLOUD_BRIDGE = "ll-cloud"
API_ADDRESS = "198.18.0.10"
API_PORT = 80
API_TLS_PORT = 443  # the same, for clients that send a token over HTTPS only
METADATA_PORT = 8169  # a droplet's 169.254.169.254:80 arrives here; the droplet is known by its source address
AWS_S3_ADDRESS = "198.18.0.20"
AWS_IAM_ADDRESS = "198.18.0.21"
AWS_REGION = "us-east-2"
DNS_ADDRESS = "198.18.0.53"
DNS_PORT = 53
# DigitalOcean's, to which the registry delegates its domains.
NAME_SERVERS = {
    "ns1.digitalocean.com": DNS_ADDRESS,
    "ns2.digitalocean.com": "198.18.0.54",
    "ns3.digitalocean.com": "198.18.0.55",
}
# Route 53's: each is a name server, and a place that health checks come from.
ROUTE53_ADDRESSES = ("198.18.0.61", "198.18.0.62", "198.18.0.63")
REGISTRY_ADDRESS = "198.18.0.50"  # the root, and test.: who runs which domain
# What people ask: a resolver as it should be, and one that keeps answers longer than it may.
RESOLVER_ADDRESS = "198.18.0.57"
BAD_RESOLVER_ADDRESS = "198.18.0.58"
PROXY_ADDRESS = "198.18.0.80"
PROXY_PORT = 3128

WORLD_BRIDGE = "ll-world"
OPERATOR_ADDRESS = "198.18.100.1"
EXCHANGE_ADDRESSES = ("198.18.100.10", "198.18.100.11")
CLIENT_ADDRESS = "198.18.100.20"

METADATA_ADDRESS = "169.254.169.254"
SPACES_SUFFIX = "spaces.test"
# A name, because clients of S3 Control put the account in front of it: 123456789012.s3-control.aws.test
S3_CONTROL_NAME = "s3-control.aws.test"


@dataclass(frozen=True)
class Region:
    """A region is a network: one bridge, one gateway, one Spaces, and droplets from .10 on."""

    slug: str
    number: int

    @property
    def bridge(self) -> str:
        return f"ll-{self.slug}"

    @property
    def subnet(self) -> str:
        return f"198.18.{self.number}.0/24"

    @property
    def gateway(self) -> str:
        return f"198.18.{self.number}.1"

    @property
    def spaces(self) -> str:
        """Address of the region's Spaces (port 80)."""
        return f"198.18.{self.number}.2"

    @property
    def spaces_name(self) -> str:
        """``<region>.spaces.test``; buckets are names below it."""
        return f"{self.slug}.{SPACES_SUFFIX}"


REGIONS: dict[str, Region] = {r.slug: r for r in (Region("nyc3", 1), Region("sgp1", 2), Region("ams3", 3))}


def state_dir() -> Path:
    """$LIFELINE_LAB or /var/lib/lifeline-lab."""
    return Path(os.environ.get("LIFELINE_LAB") or "/var/lib/lifeline-lab")


def cache_dir() -> Path:
    """$XDG_CACHE_HOME/lifeline or ~/.cache/lifeline: pulumi/, images/, wheels/."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lifeline"


@dataclass(frozen=True)
class KeyPair:
    """An S3 key."""

    access_key: str
    secret_key: str


@dataclass(frozen=True)
class LabConfig:
    """One lab: where it lives, and the credentials drawn for it."""

    state: Path
    token: str
    pilot_token: str
    spaces_admin: KeyPair
    aws_admin: KeyPair

    @property
    def file(self) -> Path:
        """What ``--config`` of the lab's processes takes."""
        return self.state / "lab.json"

    @property
    def api_database(self) -> Path:
        """The simulated API's SQLite state; DNS reads it too."""
        return self.state / "api" / "state.sqlite3"

    @property
    def tls(self) -> TlsFiles:
        """The API's certificate, and what makes clients accept it."""
        return TlsFiles(self.state / "tls")

    @property
    def machines(self) -> Path:
        return self.state / "machines"

    @property
    def snapshots(self) -> Path:
        return self.state / "snapshots"

    @property
    def stores(self) -> Path:
        """One folder per object store below it."""
        return self.state / "stores"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def ssh_key(self) -> Path:
        """The operator's private key; its public half is beside it with .pub."""
        return self.state / "operator" / "id_ed25519"

    @property
    def ssh_config(self) -> Path:
        return self.state / "operator" / "ssh_config"

    @property
    def passphrase_file(self) -> Path:
        """What seals the inventory in the vault."""
        return self.state / "operator" / "passphrase"

    @property
    def pilot_token_file(self) -> Path:
        """What the hosts may ask of the cloud by themselves: LIFELINE_PILOT_TOKEN_FILE."""
        return self.state / "operator" / "pilot-token"

    @property
    def pulumi_passphrase_file(self) -> Path:
        """Fits the salt in stacks/Pulumi.lab.yaml (see lab.shell)."""
        return self.state / "operator" / "pulumi-passphrase"

    @property
    def seed_file(self) -> Path:
        """The stack's secret `seed`: 64 hexadecimal digits. Kept out of the stack file, which is in the checkout."""
        return self.state / "operator" / "seed"

    @property
    def pulumi_backend(self) -> Path:
        return self.state / "pulumi-backend"

    def save(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True, mode=0o711)
        text = json.dumps({**asdict(self), "state": str(self.state)}, indent=1)
        partial = self.file.with_suffix(".new")
        partial.touch(mode=0o600)
        partial.write_text(text)
        partial.replace(self.file)

    @classmethod
    def load(cls, file: Path) -> LabConfig:
        """The lab that is up; BadConfig when none is."""
        try:
            raw = json.loads(file.read_text())
        except FileNotFoundError:
            raise BadConfig(f"no lab is up in {file.parent}", hint="fab lab.up") from None
        except PermissionError:
            raise BadConfig(f"{file} can be read by root only", hint="the same command as root") from None
        return cls(
            state=Path(raw["state"]),
            token=raw["token"],
            pilot_token=raw["pilot_token"],
            spaces_admin=KeyPair(**raw["spaces_admin"]),
            aws_admin=KeyPair(**raw["aws_admin"]),
        )

    @classmethod
    def ensure(cls, state: Path | None = None) -> LabConfig:
        """The lab's configuration; drawn on first use, the same from then on."""
        state = (state or state_dir()).absolute()
        file = state / "lab.json"
        if file.exists():
            return cls.load(file)
        config = cls(
            state=state,
            token="dop_v1_" + secrets.token_hex(32),
            pilot_token="dop_v1_" + secrets.token_hex(32),
            spaces_admin=KeyPair("DO00" + secrets.token_hex(8).upper(), secrets.token_urlsafe(32)),
            aws_admin=KeyPair("AKIA" + secrets.token_hex(8).upper(), secrets.token_urlsafe(30)),
        )
        config.save()
        return config
