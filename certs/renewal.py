"""Reads the lab's certificates, and tells which have to be made anew, and why.

A certificate is good when it says what it would say if it were made now. So a new version of the lab renews what
it makes otherwise, and nobody has to think of it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import ocsp

from certs import profile
from certs.kinds import KINDS, REVOKED, STAPLED, Kind

FOLDER = Path(__file__).resolve().parent
_OTHERWISE = "this version of the lab makes it otherwise"

Chains = dict[str, list[x509.Certificate]]


def read_chain(name: str, folder: Path = FOLDER) -> list[x509.Certificate]:
    """What a server with this certificate sends: its own first, then those that lead to the root."""
    return x509.load_pem_x509_certificates((folder / f"{name}.pem").read_bytes())


def read_key(name: str, folder: Path = FOLDER) -> profile.Key:
    data = (folder / f"{name}.key").read_bytes()
    # To check an RSA key's arithmetic takes 30 ms. That it belongs to its certificate is checked below.
    key = load_pem_private_key(data, None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, profile.Key):
        raise ValueError(f"{name}.key is of a kind that the lab does not make")
    return key


def wanting(folder: Path = FOLDER, now: datetime | None = None) -> dict[str, str]:
    """The files that have to be made, in that order, and why: {"server.pem": "it ends on 2027-02-20"}."""
    now = now or datetime.now(UTC)
    found: dict[str, str] = {}
    chains: Chains = {}  # the good ones

    def look(file: str, rests_on: Iterable[str | None], why_not: Callable[[], str]) -> None:
        new = [name for name in rests_on if f"{name}.pem" in found]
        if why := f"{new[0]} is new" if new else _in_words(file, why_not):
            found[file] = why

    for name, kind in KINDS.items():
        look(f"{name}.pem", [kind.signer], partial(_certificate, folder, name, kind, chains, now))
    for signer, names in REVOKED.items():
        look(f"{signer}.crl", [signer, *names], partial(_crl, folder, signer, names, chains, now))
    for name in STAPLED:
        look(f"{name}.ocsp", [name], partial(_ocsp, folder, name, chains, now))
    return found


def _in_words(file: str, why_not: Callable[[], str]) -> str:
    try:
        return why_not()
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        return "it is missing" if missing == file else f"{missing} is missing"
    except PermissionError as error:
        return f"{Path(error.filename).name} belongs to another user"
    except InvalidSignature:
        return "its signature is not its signer's"
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: a key with a passphrase
        return "it cannot be read"


def _certificate(folder: Path, name: str, kind: Kind, chains: Chains, now: datetime) -> str:
    """What is wrong with a certificate or its key; "" when they are good, and then *chains* has it, too."""
    chain, key = read_chain(name, folder), read_key(name, folder)
    certificate = chain[0]
    signer = chains[kind.signer][0] if kind.signer else certificate
    if certificate.public_key() != key.public_key():
        return "its key is another's"
    if _exposed(folder / f"{name}.key"):
        return "others could read its key"  # Maybe they have. To forbid it now makes nobody forget it.
    if certificate.issuer != signer.subject:
        return _OTHERWISE
    certificate.verify_directly_issued_by(signer)

    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    soon = now + timedelta(days=kind.renew)
    if kind.days[1] < 0 and end > now:
        return "it has not ended yet"
    if kind.days[0] > 0 and begin < soon:
        return f"it begins on {begin:%Y-%m-%d}"
    if kind.days[0] <= 0 and begin > now:
        return "it is from the future"  # The clock was wrong, then or now.
    if kind.days[1] > 0 and end < soon:
        return f"it ends on {end:%Y-%m-%d}"

    says = [(extension.value, extension.critical) for extension in certificate.extensions]
    if (
        certificate.subject != profile.subject(kind)
        or says != profile.extensions(kind, certificate.public_key(), signer.public_key())
        or isinstance(key, rsa.RSAPrivateKey) != kind.rsa
        or chain[1:] != [chains[other][0] for other in kind.sends]
    ):
        return _OTHERWISE
    chains[name] = chain
    return ""


def _crl(folder: Path, signer: str, names: tuple[str, ...], chains: Chains, now: datetime) -> str:
    """What is wrong with a list of revoked certificates."""
    crl = x509.load_pem_x509_crl((folder / f"{signer}.crl").read_bytes())
    _key_of(signer, chains).verify(crl.signature, crl.tbs_certlist_bytes, ec.ECDSA(hashes.SHA256()))
    if not {chains[name][0].serial_number for name in names} <= {revoked.serial_number for revoked in crl}:
        return _OTHERWISE
    return _status(crl.last_update_utc, crl.next_update_utc, now)


def _ocsp(folder: Path, name: str, chains: Chains, now: datetime) -> str:
    """What is wrong with an answer about one certificate."""
    answer = ocsp.load_der_ocsp_response((folder / f"{name}.ocsp").read_bytes())
    signer = str(KINDS[name].signer)
    _key_of(signer, chains).verify(answer.signature, answer.tbs_response_bytes, ec.ECDSA(hashes.SHA256()))
    revoked = answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
    if answer.serial_number != chains[name][0].serial_number or revoked != (name in REVOKED[signer]):
        return _OTHERWISE
    return _status(answer.this_update_utc, answer.next_update_utc, now)


def _status(begin: datetime, end: datetime | None, now: datetime) -> str:
    if begin > now:
        return "it is from the future"
    if end is None or end < now + timedelta(days=profile.STATUS_RENEW):
        return f"it ends on {end:%Y-%m-%d}" if end else _OTHERWISE
    return ""


def _key_of(name: str, chains: Chains) -> ec.EllipticCurvePublicKey:
    key = chains[name][0].public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # as all authorities of the lab
    return key


def _exposed(key: Path) -> bool:
    """Could others read it, on a file system that is able to forbid that? (A Windows drive under WSL is not.)"""
    if not key.stat().st_mode & 0o077:
        return False
    with tempfile.NamedTemporaryFile(dir=key.parent) as probe:  # made with 0600
        return not os.fstat(probe.fileno()).st_mode & 0o077
