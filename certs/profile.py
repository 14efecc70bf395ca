"""What the lab's certificates and revocation lists say: RFC 5280, the profile that browsers hold everyone to."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes as PublicKey
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.kinds import DOMAINS, NETWORKS, Kind

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Extensions = list[tuple[x509.ExtensionType, bool]]

STATUS_DAYS, STATUS_RENEW = 30, 7  # of lists of revoked certificates and answers about them
EARLIER = timedelta(hours=1)  # Clocks differ: what is made now was good an hour ago.


def new_key(kind: Kind) -> Key:
    if kind.rsa:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def subject(kind: Kind) -> x509.Name:
    organization = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Networking Lab")]  # of authorities only
    common_name = x509.NameAttribute(NameOID.COMMON_NAME, kind.common_name)
    return x509.Name([*organization, common_name] if kind.use == "authority" else [common_name])


def extensions(kind: Kind, key: PublicKey, signer: PublicKey) -> Extensions:
    """All that a certificate of this kind says besides who, by whom and when; and whether it is critical.

    Critical means: whoever does not understand it must refuse the certificate (§4.2).
    """
    authority = kind.use == "authority"
    found: Extensions = [
        # §4.2.1.9: without this, every owner of a certificate could sign others.
        (x509.BasicConstraints(ca=authority, path_length=kind.path_length), True),
        (_key_usage(kind), True),
    ]
    purposes = {
        "server": [ExtendedKeyUsageOID.SERVER_AUTH],
        "client": [ExtendedKeyUsageOID.CLIENT_AUTH],
        # For an authority below a root: what it may sign for. A root says nothing here, trust in it is set elsewhere.
        "authority": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH] if kind.signer else [],
    }[kind.use]
    if purposes:
        found.append((x509.ExtendedKeyUsage(purposes), False))
    if kind.constrained:
        found.append((_name_constraints(), True))
    if kind.names:
        found.append((x509.SubjectAlternativeName(map(_general_name, kind.names)), False))
    found.append((x509.SubjectKeyIdentifier.from_public_key(key), False))
    of_signer = x509.SubjectKeyIdentifier.from_public_key(signer)
    found.append((x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(of_signer), False))
    return found


def sign(kind: Kind, key: PublicKey, signer_name: x509.Name, signer_key: Key, now: datetime) -> x509.Certificate:
    begin, end = (now + timedelta(days=day) for day in kind.days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject(kind))
        .issuer_name(signer_name)
        .public_key(key)
        .serial_number(x509.random_serial_number())  # 159 random bits: nobody can foresee what will be signed
        .not_valid_before(begin - EARLIER)
        .not_valid_after(end - EARLIER)
    )
    for extension, critical in extensions(kind, key, signer_key.public_key()):
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer_key, hashes.SHA256())


def sign_crl(
    revoked: Iterable[x509.Certificate], signer: x509.Certificate, signer_key: Key, now: datetime
) -> x509.CertificateRevocationList:
    """The list of what *signer* has taken back (§5)."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(signer.subject)
        .last_update(now - EARLIER)
        .next_update(now - EARLIER + timedelta(days=STATUS_DAYS))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()), False)
        .add_extension(x509.CRLNumber(int(now.timestamp())), False)  # Each list has a higher one than the last: §5.2.3.
    )
    for certificate in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial_number)
            .revocation_date(now - EARLIER)
            .add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), False)
            .build()
        )
    return builder.sign(signer_key, hashes.SHA256())


def sign_ocsp(
    certificate: x509.Certificate, signer: x509.Certificate, signer_key: Key, now: datetime, *, revoked: bool
) -> ocsp.OCSPResponse:
    """The answer about one certificate, by who signed it (RFC 6960 §4.2)."""
    builder = ocsp.OCSPResponseBuilder().responder_id(ocsp.OCSPResponderEncoding.HASH, signer)
    builder = builder.add_response(
        cert=certificate,
        issuer=signer,
        algorithm=hashes.SHA1(),  # which certificate is meant; no security rests on it (RFC 5019 §2.1.1)
        cert_status=ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD,
        this_update=now - EARLIER,
        next_update=now - EARLIER + timedelta(days=STATUS_DAYS),
        revocation_time=now - EARLIER if revoked else None,
        revocation_reason=x509.ReasonFlags.key_compromise if revoked else None,
    )
    return builder.sign(signer_key, hashes.SHA256())


def _key_usage(kind: Kind) -> x509.KeyUsage:
    """§4.2.1.3: everybody signs (handshakes, or answers about revocation), authorities also certificates and lists."""
    authority = kind.use == "authority"
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=authority, crl_sign=authority,
        # An RSA key could also encrypt the handshake's secret, in TLS 1.2. Whoever gets the key later reads all then.
        key_encipherment=False, content_commitment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name_constraints() -> x509.NameConstraints:
    """§4.2.1.10: why it does no harm to trust the root. What is below it can name nothing but the lab."""
    permitted: list[x509.GeneralName] = [x509.DNSName(domain) for domain in DOMAINS]
    permitted += [x509.IPAddress(ipaddress.ip_network(network)) for network in NETWORKS]
    permitted.append(x509.RFC822Name(".lab"))  # the mailboxes of every host under it
    return x509.NameConstraints(permitted, None)


def _general_name(text: str) -> x509.GeneralName:
    if "@" in text:
        return x509.RFC822Name(text)
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
