"""The lab's certificate: what accepts it, what it may speak for, and that a shell loses no authority it had."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from lab import config, shell, tls
from lab.api.config import parse_config
from lab.config import LabConfig
from lab.tls import TlsFiles
from lifeline.errors import BadConfig

HERE = "127.0.0.1"


def drawn(folder: Path, *addresses: str) -> TlsFiles:
    files = TlsFiles(folder / "tls")
    assert tls.ensure(files, addresses or (HERE,))
    return files


def shake_hands(files: TlsFiles, client: ssl.SSLContext, name: str = HERE) -> None:
    """A TLS handshake over a socket pair; raises what the client says of the certificate."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(files.certificate, files.key)
    there, here = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(there, server_side=True) as secure:
                secure.recv(1)
        except OSError:
            there.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        with client.wrap_socket(here, server_hostname=name) as secure:
            secure.send(b"x")
    finally:
        here.close()
        thread.join(timeout=5)


@pytest.mark.parametrize("cafile", ["authority", "bundle"])
def test_who_trusts_the_authority_accepts_the_server_also_when_strict(tmp_path: Path, cafile: str) -> None:
    files = drawn(tmp_path)
    client = ssl.create_default_context(cafile=getattr(files, cafile))
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    shake_hands(files, client)


def test_another_address_and_another_labs_authority_are_refused(tmp_path: Path) -> None:
    files, other = drawn(tmp_path), drawn(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        shake_hands(files, ssl.create_default_context(cafile=files.authority), "127.0.0.2")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(files, ssl.create_default_context(cafile=other.authority))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(files, ssl.create_default_context(cafile=certifi.where()))


@pytest.mark.parametrize(
    ("forged", "asked"),
    [
        ([x509.DNSName("api.digitalocean.com")], "api.digitalocean.com"),
        ([x509.IPAddress(IPv4Address("192.0.2.1"))], "192.0.2.1"),
    ],
)
def test_the_authority_cant_speak_for_anyone_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forged: list[x509.GeneralName], asked: str
) -> None:
    """Even with its key, which nobody has."""
    draw = tls.ec_key
    authority_key = draw()
    keys = [draw(), authority_key]
    monkeypatch.setattr(tls, "ec_key", keys.pop)
    files = drawn(tmp_path)
    mine = draw()
    certificate = (
        tls._certificate("x", "Lifeline lab", key=mine, issuer=authority_key, now=datetime.now(UTC))
        .add_extension(x509.SubjectAlternativeName(forged), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = mine.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files.certificate.write_text(tls._pem(certificate))
    files.key.write_bytes(pem)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        shake_hands(files, ssl.create_default_context(cafile=files.authority), asked)


def test_only_the_servers_key_is_kept_and_it_is_private(tmp_path: Path) -> None:
    files = drawn(tmp_path)
    private = [path for path in files.folder.iterdir() if "PRIVATE KEY" in path.read_text()]
    assert private == [files.key]
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600


def test_it_is_drawn_once_and_again_before_it_expires_or_when_a_file_is_lost(tmp_path: Path) -> None:
    files = drawn(tmp_path)
    before = files.certificate.read_text()
    now = datetime.now(UTC)
    assert not tls.ensure(files, (HERE,), now + tls.VALID - tls.RENEW - timedelta(minutes=1))
    assert files.certificate.read_text() == before
    assert tls.ensure(files, (HERE,), now + tls.VALID - tls.RENEW + timedelta(minutes=1))
    assert files.certificate.read_text() != before
    files.bundle.unlink()
    assert tls.ensure(files, (HERE,))
    shake_hands(files, ssl.create_default_context(cafile=files.bundle))


def test_the_bundle_keeps_whom_the_shell_trusted_and_not_an_earlier_labs_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    firm = drawn(tmp_path / "firm").authority.read_text()  # an authority that only the environment knows
    (tmp_path / "firm.pem").write_text(f"# of the firm\n{firm}")
    ours = TlsFiles(tmp_path / "tls")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "firm.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ours.bundle))  # a shell of the lab's; the file comes and goes
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "nothing"))
    tls.ensure(ours, (HERE,))
    first = ours.authority.read_text().strip()
    ours.authority.unlink()
    tls.ensure(ours, (HERE,))
    text = ours.bundle.read_text()
    assert firm.strip() in text and ours.authority.read_text().strip() in text and first not in text
    public = tls._BLOCK.findall(Path(certifi.where()).read_text())
    assert len(public) > 100 and set(public) <= set(tls._BLOCK.findall(text))
    assert text.count(firm.strip()) == 1


def test_the_labs_shell_uses_https_and_trusts_it(tmp_path: Path) -> None:
    lab = LabConfig.ensure(tmp_path)
    env = shell.environment(lab, tmp_path / "pulumi")
    assert env["DIGITALOCEAN_API_URL"] == f"https://{config.API_ADDRESS}"
    assert {env[name] for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")} == {str(lab.tls.bundle)}
    assert "AWS_CA_BUNDLE" not in env  # Litestream refuses to start with it
    assert config.API_ADDRESS in env["no_proxy"].split(",")


def test_the_simulators_configuration_takes_tls(tmp_path: Path) -> None:
    raw = {"state_dir": str(tmp_path), "tokens": ["t"], "regions": {}}
    secure = {"listen": "127.0.0.1:18443", "certificate": "/c.pem", "key": "/k.pem"}
    made = parse_config({**raw, "tls": secure}).tls
    assert made is not None and (made.listen, made.key) == ("127.0.0.1:18443", Path("/k.pem"))
    with pytest.raises(BadConfig, match="certificate is missing"):
        parse_config({**raw, "tls": {"listen": "127.0.0.1:18443"}})
