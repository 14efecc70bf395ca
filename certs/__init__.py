"""The lab's own certificate authority. Nothing it signs is good for anything but the lab.

The authority's certificate carries name constraints (RFC 5280 §4.2.1.10): it can vouch for localhost,
for names under .lab and for the addresses of the lab, so that trusting it is harmless elsewhere. Keys
are made on this machine, readable by their owner only, and never committed.
"""

from __future__ import annotations

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FOLDER = Path(__file__).resolve().parent
RENEW_BEFORE = timedelta(days=7)
_CA_DAYS, _LEAF_DAYS = 3650, 90
_NETWORKS = ("127.0.0.0/8", "10.0.0.0/8")
_SERVER_NAMES = ("localhost", "server.lab", "server")


def ensure(folder: Path = FOLDER) -> list[Path]:
    """Make the authority and the server's certificate where they are missing or near their end.

    Returns the files that were written, none when all is well. OSError where the folder refuses.
    """
    ca_key, ca_certificate = folder / "ca.key", folder / "ca.pem"
    server_key, server_certificate = folder / "server.key", folder / "server.pem"
    written = []
    if not _is_good(ca_certificate, ca_key):
        key, certificate = _make_authority()
        written += [_write(ca_key, _pem(key), 0o600), _write(ca_certificate, _public(certificate), 0o644)]
    if written or not _is_good(server_certificate, server_key):
        issuer_key = serialization.load_pem_private_key(ca_key.read_bytes(), None)
        assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
        issuer = x509.load_pem_x509_certificate(ca_certificate.read_bytes())
        key, certificate = _make_server(issuer_key, issuer)
        written += [_write(server_key, _pem(key), 0o600), _write(server_certificate, _public(certificate), 0o644)]
    return written


def _is_good(certificate: Path, key: Path) -> bool:
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        own = serialization.load_pem_private_key(key.read_bytes(), None).public_key()
    except (OSError, ValueError):
        return False
    return found.public_key() == own and found.not_valid_after_utc - datetime.now(UTC) > RENEW_BEFORE


def _make_authority() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Networking Lab CA")
    networks = [x509.IPAddress(ipaddress.ip_network(network)) for network in _NETWORKS]
    names = [x509.DNSName("localhost"), x509.DNSName("lab"), x509.DNSName("server")]
    builder = (
        _begin(name, name, key.public_key(), _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.NameConstraints([*names, *networks], None), critical=True)
    )
    return key, builder.sign(key, hashes.SHA256())


def _make_server(
    issuer_key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in _SERVER_NAMES]
    names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    builder = (
        _begin(_name("server.lab"), issuer.subject, key.public_key(), _LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return key, builder.sign(issuer_key, hashes.SHA256())


def _begin(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # Clocks differ.
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    """RFC 5280 §4.2.1.3: an authority signs certificates and CRLs, a server signs its handshake."""
    return x509.KeyUsage(
        digital_signature=not sign_certificates, key_cert_sign=sign_certificates, crl_sign=sign_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, data: bytes, mode: int) -> Path:
    """Write a file that is never, not for a moment, readable by others; replace the old one whole."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.replace(temporary, path)
    return path
