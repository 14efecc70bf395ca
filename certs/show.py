"""What a certificate says, for people."""

from __future__ import annotations

import base64
import hashlib
import textwrap
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.kinds import KINDS, REVOKED
from certs.renewal import FOLDER, read_chain
from protocols.tls_numbers import readable

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_WIDTH = 80
_PURPOSES = {
    ExtendedKeyUsageOID.SERVER_AUTH: "TLS servers (serverAuth)",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clients (clientAuth)",
}
_SUBTREES = (("{} and below", x509.DNSName), ("{}", x509.IPAddress), ("mail to *{}", x509.RFC822Name),
             ("subjects under {}", x509.DirectoryName))  # fmt: skip


def listing() -> Iterator[str]:
    """All certificates, with what each is for, or its one fault."""
    for title, bad in (("Good:", False), ("Bad, each with one fault:", True)):
        yield title
        yield from (
            f"  {name:16} {kind.fault or kind.about}" for name, kind in KINDS.items() if bool(kind.fault) == bad
        )


def shown(name: str, folder: Path = FOLDER) -> Iterator[str]:
    """A certificate and those that lead from it to its root."""
    kind = KINDS[name]
    yield f"{name}: {kind.about or 'a bad one'}"
    if kind.fault:
        yield f"One fault: {kind.fault}."
    sent = read_chain(name, folder)
    for number, certificate in enumerate(_to_the_root(name, folder), 1):
        yield ""
        yield f"{number}. {_name(certificate.subject)}{'' if certificate in sent else '  (not sent)'}"
        yield from _wrapped(_facts(certificate, _revoked(certificate, folder)))


def shown_all(certificates: Iterable[x509.Certificate]) -> Iterator[str]:
    """Certificates from anywhere, in the order in which they come."""
    for number, certificate in enumerate(certificates, 1):
        if number > 1:
            yield ""
        yield from textwrap.wrap(f"{number}. {_name(certificate.subject)}", _WIDTH, subsequent_indent="   ")
        yield from _wrapped(_facts(certificate))


def _wrapped(facts: Iterable[tuple[str, str]]) -> Iterator[str]:
    for label, text in facts:
        for line in textwrap.wrap(text, _WIDTH - 18, break_on_hyphens=False):
            yield f"   {label:14} {line}"
            label = ""


def _to_the_root(name: str, folder: Path) -> Iterator[x509.Certificate]:
    """The chain as the lab knows it, which may be more than a server sends."""
    signer: str | None = name
    while signer:
        yield read_chain(signer, folder)[0]
        signer = KINDS[signer].signer


def _facts(certificate: x509.Certificate, revoked: str = "") -> Iterator[tuple[str, str]]:
    own = certificate.issuer == certificate.subject
    yield "signed by", "itself" if own else _name(certificate.issuer)
    if names := _find(certificate, x509.SubjectAlternativeName):
        yield "names", ", ".join(map(_plain, names))
    yield "valid", _validity(certificate)
    if revoked:
        yield "revoked", revoked
    yield "key", _key(certificate)
    if usage := _find(certificate, x509.KeyUsage):
        bits = (usage.digital_signature, usage.key_encipherment, usage.key_cert_sign, usage.crl_sign)
        terms = ("digitalSignature", "keyEncipherment", "keyCertSign", "cRLSign")
        yield "key usage", ", ".join(term for term, bit in zip(terms, bits, strict=True) if bit)
    if purposes := _find(certificate, x509.ExtendedKeyUsage):
        yield "good for", " and ".join(_PURPOSES.get(purpose, purpose.dotted_string) for purpose in purposes)
    if (basic := _find(certificate, x509.BasicConstraints)) and basic.ca:
        below = "any number of" if basic.path_length is None else basic.path_length or "no"
        yield "authority", f"yes, with {below} other authorities below it"
    else:
        yield "authority", "no"
    if limits := _find(certificate, x509.NameConstraints):
        for label, trees in (("only for", limits.permitted_subtrees), ("never for", limits.excluded_subtrees)):
            for form, kind in _SUBTREES:
                if found := [_plain(name) for name in trees or [] if isinstance(name, kind)]:
                    yield label, form.format(", ".join(found))
                    label = ""
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.UnrecognizedExtension):
            yield "unknown", f"{extension.oid.dotted_string}{', and critical' if extension.critical else ''}"
    yield "serial", f"{certificate.serial_number:x}"
    digits = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    yield "fingerprint", f"{digits[:48]} {digits[48:]}"
    yield "key pin", pin(certificate)


def pin(certificate: x509.Certificate) -> str:
    """The hash of a certificate's public key, as Chromium's --ignore-certificate-errors-spki-list wants it."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


def _validity(certificate: x509.Certificate) -> str:
    now = datetime.now(UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        when = f"begins in {_days((begin - now).days)}"
    elif end < now:
        when = f"ended {_days((now - end).days)} ago"
    else:
        when = f"{_days((end - now).days)} left"
    return f"{begin:%Y-%m-%d} to {end:%Y-%m-%d}: {when}"


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"


def _key(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "ECDSA, P-256" if key.curve.name == "secp256r1" else f"ECDSA, {key.curve.name}"
    return f"RSA, {key.key_size} bits" if isinstance(key, rsa.RSAPublicKey) else type(key).__name__


def _revoked(certificate: x509.Certificate, folder: Path) -> str:
    for signer in REVOKED:
        crl = x509.load_pem_x509_crl((folder / f"{signer}.crl").read_bytes())
        found = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
        if found and crl.issuer == certificate.issuer:
            reason = found.extensions.get_extension_for_class(x509.CRLReason).value.reason
            words = {x509.ReasonFlags.key_compromise: "its key was in the wrong hands"}
            return f"on {found.revocation_date_utc:%Y-%m-%d}: {words.get(reason, reason.value)} ({signer}.crl)"
    return ""


def _find(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _name(name: x509.Name) -> str:
    """Its common name; all of it, where it has none."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return readable(str(found[0].value) if found else name.rfc4514_string() or "(no subject)")


def _plain(name: x509.GeneralName) -> str:
    return readable(name.value.rfc4514_string() if isinstance(name, x509.DirectoryName) else str(name.value))
