"""TLS for the simulated API: a certificate authority per lab, and a bundle of authorities for the operator's shell.

Some clients send a token over HTTPS only. The authority can speak for the addresses it was drawn for and nothing else
(name constraints), and its key is forgotten once it has signed: there is nothing to guard but the server's own key.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey as Key

VALID = timedelta(weeks=6)
RENEW = timedelta(weeks=1)  # what has less left is drawn anew
# Clients are told of one file; whoever had others in force keeps them. AWS_CA_BUNDLE isn't among them, on purpose:
# Litestream refuses to start where it is set.
VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_SYSTEM = "/etc/ssl/certs/ca-certificates.crt"
_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class TlsFiles:
    """What is on disk, all PEM. ``bundle`` holds the authorities of this machine, then the lab's own."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        return self.folder / "server.key"

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle.pem"


def ensure(files: TlsFiles, addresses: Sequence[str], now: datetime | None = None) -> bool:
    """Draw authority, certificate and bundle unless they are there and good for another week; True when drawn.

    ``addresses``: the IPv4 addresses that the server answers at.
    """
    now = now or datetime.now(UTC)
    if _good(files, now):
        return False
    files.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    authority, certificate, key = _draw(addresses, now)
    _write(files.key, key, 0o600)
    _write(files.certificate, certificate, 0o644)
    _write(files.bundle, bundle([*known_authorities(os.environ, files.folder), authority]), 0o644)
    _write(files.authority, authority, 0o644)  # the last one: with it, all are there
    return True


def known_authorities(env: Mapping[str, str], ours: Path) -> list[str]:
    """What is trusted on this machine: the files the environment names, the system's, and requests' own (certifi)."""
    import certifi

    named = [env.get(name, "") for name in VARIABLES]
    system = [ssl.get_default_verify_paths().openssl_cafile, _SYSTEM, certifi.where()]
    files = [Path(name) for name in [*named, *system] if name]
    return [file.read_text(errors="replace") for file in files if file.is_file() and not file.is_relative_to(ours)]


def bundle(texts: Iterable[str]) -> str:
    """The certificates of all texts, each once, in order."""
    blocks = dict.fromkeys(block for text in texts for block in _BLOCK.findall(text))
    return "".join(f"{block}\n" for block in blocks)


def _good(files: TlsFiles, now: datetime) -> bool:
    from cryptography import x509

    paths = (files.authority, files.certificate, files.key, files.bundle)
    if not all(path.exists() for path in paths):
        return False
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    return certificate.not_valid_after_utc - now > RENEW


def _draw(addresses: Sequence[str], now: datetime) -> tuple[str, str, str]:
    """(authority, certificate, the certificate's key), PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import ExtendedKeyUsageOID

    authority_key, key = ec_key(), ec_key()
    only = [x509.IPAddress(ipaddress.IPv4Network(address)) for address in addresses]
    authority = (
        _certificate("Lifeline lab", "Lifeline lab", key=authority_key, issuer=authority_key, now=now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        # An address constraint says nothing about names: those are permitted below .invalid only, which nobody has.
        .add_extension(x509.NameConstraints([*only, x509.DNSName("invalid")], None), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    names = [x509.IPAddress(ipaddress.IPv4Address(address)) for address in addresses]
    certificate = (
        _certificate("DigitalOcean API (lab)", "Lifeline lab", key=key, issuer=authority_key, now=now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return _pem(authority), _pem(certificate), pem.decode()


def ec_key() -> Key:
    """A new key on P-256, which every client knows."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _certificate(subject: str, issued_by: str, *, key: Key, issuer: Key, now: datetime) -> x509.CertificateBuilder:
    """All that both have. An hour back, for clocks that differ."""
    from cryptography import x509

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issued_by))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()


def _write(path: Path, text: str, mode: int) -> None:
    """Whole or not at all, and never readable by more than it should be."""
    partial = path.with_suffix(".new")
    partial.unlink(missing_ok=True)
    partial.touch(mode=mode)
    partial.write_text(text)
    partial.replace(path)
