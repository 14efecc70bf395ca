"""The lab's own certificate authority. Nothing it signs is good for anything but the lab.

The root carries name constraints (RFC 5280 §4.2.1.10): it can vouch for localhost, for names under .lab and
for the addresses of the lab, so that trusting it is harmless elsewhere. Keys are made on this machine,
readable by their owner only, and never committed.

    root ── intermediate ──┬── server, server-rsa, www, client      NAME.pem is what a server sends:
     │           │         └── expired, revoked, wrong-name …       its certificate, then the intermediate
    root.crl   intermediate.crl                                     NAME.key is its private key

`kinds.py` is the table of all, `profile.py` what they say, this page makes and renews them.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from certs import profile
from certs.kinds import KINDS, REVOKED, Kind

FOLDER = Path(__file__).resolve().parent


def ensure(folder: Path = FOLDER) -> list[Path]:
    """Make whatever is missing, broken, exposed or near its end.

    Returns the files that were written, none when all is well. OSError where the folder refuses. Several
    processes may call this at once: one makes, the others wait for it.
    """
    if not wanting(folder):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        return _make(folder, wanting(folder))  # looked at again: who was here before us may have made it


def wanting(folder: Path = FOLDER) -> dict[str, str]:
    """What has to be made, in that order, and why: {"server.pem": "it ends on 2027-02-20"}."""
    now = datetime.now(UTC)
    found: dict[str, str] = {}
    chains: dict[str, list[x509.Certificate]] = {}
    for name, kind in KINDS.items():
        if f"{kind.signer}.pem" in found:
            why = f"{kind.signer}, which signs it, is new"
        else:
            why = _why_not(folder, name, kind, chains, now)
        if why:
            found[f"{name}.pem"] = why
    for signer, names in REVOKED.items():
        if new := [name for name in (signer, *names) if f"{name}.pem" in found]:
            why = f"{new[0]} is new"
        else:
            why = _why_not_crl(folder, signer, names, chains, now)
        if why:
            found[f"{signer}.crl"] = why
    return found


def read_chain(name: str, folder: Path = FOLDER) -> list[x509.Certificate]:
    """What a server with this certificate sends, its own first."""
    return x509.load_pem_x509_certificates((folder / f"{name}.pem").read_bytes())


def read_key(name: str, folder: Path = FOLDER) -> profile.Key:
    data = (folder / f"{name}.key").read_bytes()
    # An RSA key's arithmetic takes 30 ms to check. That it belongs to the certificate is checked below.
    key = load_pem_private_key(data, None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, profile.Key):
        raise ValueError(f"{name}.key is of a kind that the lab does not make")
    return key


def _why_not(folder: Path, name: str, kind: Kind, chains: dict[str, list[x509.Certificate]], now: datetime) -> str:
    """What is wrong with a certificate or its key; "" when they are good, and then *chains* has it, too."""
    try:
        chain, key = read_chain(name, folder), read_key(name, folder)
        certificate = chain[0]
        signer = chains[kind.signer][0] if kind.signer else certificate
        if certificate.public_key() != key.public_key():
            return "its key is another's"
        if _exposed(folder / f"{name}.key"):
            return "others could read its key"  # Maybe they have. To forbid it now makes nobody forget it.
        certificate.verify_directly_issued_by(signer)
        says = [(extension.value, extension.critical) for extension in certificate.extensions]
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except PermissionError as error:
        return f"{Path(error.filename).name} belongs to another user"
    except InvalidSignature:
        return f"{kind.signer or name} did not sign it"
    except (ValueError, TypeError):  # TypeError: a key with a passphrase
        return "it cannot be read"
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
    if (
        certificate.subject != profile.subject(kind)
        or says != profile.extensions(kind, certificate.public_key(), signer.public_key())
        or isinstance(key, rsa.RSAPrivateKey) != kind.rsa
        or chain[1:] != [chains[other][0] for other in kind.sends]
    ):
        return "this version of the lab makes it otherwise"
    chains[name] = chain
    return ""


def _why_not_crl(
    folder: Path, signer: str, names: tuple[str, ...], chains: dict[str, list[x509.Certificate]], now: datetime
) -> str:
    """What is wrong with a list of revoked certificates; "" when it is good."""
    try:
        crl = x509.load_pem_x509_crl((folder / f"{signer}.crl").read_bytes())
        serials = {revoked.serial_number for revoked in crl}
    except FileNotFoundError:
        return "it is missing"
    except ValueError:
        return "it cannot be read"
    begin, end = crl.last_update_utc, crl.next_update_utc
    if not crl.is_signature_valid(chains[signer][0].public_key()):  # type: ignore[arg-type]
        return f"{signer} did not sign it"
    if begin > now:
        return "it is from the future"
    if end is None or end < now + timedelta(days=profile.CRL_RENEW):
        return f"the next one is due on {end:%Y-%m-%d}"
    if not serials >= {chains[name][0].serial_number for name in names}:
        return "this version of the lab makes it otherwise"
    return ""


def _exposed(key: Path) -> bool:
    """Could others read it, where the file system is able to forbid that? (Windows' drives are not.)"""
    if not key.stat().st_mode & 0o077:
        return False
    with tempfile.NamedTemporaryFile(dir=key.parent) as probe:  # made with 0600
        return not os.fstat(probe.fileno()).st_mode & 0o077


def _make(folder: Path, files: Iterable[str]) -> list[Path]:
    now = datetime.now(UTC)
    written = []
    for file in files:
        name, ending = file.split(".")
        if ending == "crl":
            revoked = [read_chain(other, folder)[0] for other in REVOKED[name]]
            crl = profile.sign_crl(revoked, read_chain(name, folder)[0], read_key(name, folder), now)
            written.append(_write(folder / file, crl.public_bytes(Encoding.PEM), 0o644))
            continue
        kind = KINDS[name]
        key = profile.new_key(kind)
        if kind.signer:
            signer, signer_key = read_chain(kind.signer, folder)[0], read_key(kind.signer, folder)
            certificate = profile.sign(kind, key.public_key(), signer.subject, signer_key, now)
        else:
            certificate = profile.sign(kind, key.public_key(), profile.subject(kind), key, now)
        chain = [certificate, *(read_chain(other, folder)[0] for other in kind.sends)]
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public = b"".join(one.public_bytes(Encoding.PEM) for one in chain)
        written.append(_write(folder / f"{name}.key", private, 0o600))
        written.append(_write(folder / file, public, 0o644))
    return written


def _write(path: Path, data: bytes, mode: int) -> Path:
    """Write a file that is never, not for a moment, readable by others; replace the old one whole."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)  # somebody's who was killed
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    return new.replace(path)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until nobody else makes certificates in this folder. The kernel frees the lock of who is killed."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
