"""Identities derived from the stack's seed: the same seed gives the same host keys and names, today and after a
rebuild.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_KEY_TYPE = b"ssh-ed25519"


@dataclass(frozen=True)
class HostKey:
    """An SSH host key in OpenSSH's formats. `private` is a secret."""

    private: str
    public: str


def derive(seed: str, info: str, length: int = 32) -> bytes:
    """HKDF-SHA256 of the seed (64 hexadecimal digits), no salt."""
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info.encode()).derive(bytes.fromhex(seed))


def host_key(seed: str, droplet: str) -> HostKey:
    """The ed25519 host key of the droplet of this name."""
    scalar = derive(seed, f"host-key/{droplet}")
    point = Ed25519PrivateKey.from_private_bytes(scalar).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    public = _string(_KEY_TYPE) + _string(point)
    return HostKey(
        private=_openssh_private(scalar, point, public, comment=droplet),
        public=f"ssh-ed25519 {base64.b64encode(public).decode()}",
    )


def bucket_name(seed: str, prefix: str, purpose: str) -> str:
    """Bucket names are unique in the world: a suffix of the seed keeps strangers' names away, and says nothing about
    the seed.
    """
    suffix = derive(seed, "bucket-suffix", 5).hex()
    return f"{prefix[:40]}-{purpose}-{suffix}"


def _openssh_private(scalar: bytes, point: bytes, public: bytes, comment: str) -> str:
    """OpenSSH's private key format, unencrypted.

    The usual writers draw the two check integers at random; here they are derived, so that the same seed gives the
    same cloud-init text and a preview shows no change.
    """
    check = hashlib.sha256(public).digest()[:4]
    private = check + check + _string(_KEY_TYPE) + _string(point) + _string(scalar + point) + _string(comment.encode())
    private += bytes(range(1, 1 + -len(private) % 8))
    blob = b"openssh-key-v1\0" + _string(b"none") + _string(b"none") + _string(b"") + struct.pack(">I", 1)
    blob += _string(public) + _string(private)
    text = base64.b64encode(blob).decode()
    lines = [text[start : start + 70] for start in range(0, len(text), 70)]
    return "\n".join(["-----BEGIN OPENSSH PRIVATE KEY-----", *lines, "-----END OPENSSH PRIVATE KEY-----", ""])


def _string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value
