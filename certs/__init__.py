"""The lab's own certificate authority. Nothing it signs is good for anything but the lab.

The root carries name constraints (RFC 5280 §4.2.1.10): it can vouch for localhost, for names under .lab and
for the addresses of the lab, so that trusting it is harmless elsewhere. Keys are made on this machine,
readable by their owner only, and never committed.

    root ── intermediate ──┬── server, server-rsa, www, client      NAME.pem is what a server sends:
     │           │         └── expired, revoked, wrong-name …       its certificate, then the intermediate
    root.crl   intermediate.crl: what each has taken back           NAME.key is its private key

`kinds.py` is the table of all, `profile.py` what each says, `renewal.py` which have to be made anew; this page makes
them. `.venv/bin/python -m certs show server` explains one.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

try:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from certs import profile
    from certs.kinds import KINDS, REVOKED
    from certs.renewal import FOLDER, read_chain, read_key, wanting
except ImportError:
    if sys.argv[0] != "-m":
        raise
    print("certs: this Python has no cryptography, or one that is too old.", file=sys.stderr)
    print("The lab's own has it:  .venv/bin/python -m certs", file=sys.stderr)
    sys.exit(2)

__all__ = ["FOLDER", "KINDS", "ensure", "known", "read_chain", "read_key", "wanting"]


def known(name: str) -> str:
    """For argparse: the name of a certificate. A list of all would make the message longer than the screen."""
    if name not in KINDS:
        raise argparse.ArgumentTypeError(f"none is called {name!r}. All:\n  .venv/bin/python -m certs list")
    return name


def ensure(folder: Path = FOLDER, now: datetime | None = None) -> list[Path]:
    """Make whatever is missing, broken, exposed or near its end (at *now*, which is now).

    Returns the files that were written, none when all is well. OSError where the folder refuses. Several
    processes may call this at once: one makes, the others wait for it.
    """
    now = now or datetime.now(UTC)
    if not wanting(folder, now):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        return _make(folder, wanting(folder, now), now)  # looked at again: who was here before us may have made it


def _make(folder: Path, files: Iterable[str], now: datetime) -> list[Path]:
    written = []
    for file in files:
        name, ending = file.split(".")
        if ending == "pem":
            key, data = _new_certificate(folder, name, now)
            written.append(_write(folder / f"{name}.key", key, 0o600))
        elif ending == "crl":
            data = _new_crl(folder, name, now)
        else:
            data = _new_ocsp(folder, name, now)
        written.append(_write(folder / file, data, 0o644))
    return written


def _new_certificate(folder: Path, name: str, now: datetime) -> tuple[bytes, bytes]:
    kind = KINDS[name]
    key = profile.new_key(kind)
    if kind.signer:
        signer, signer_key = read_chain(kind.signer, folder)[0].subject, read_key(kind.signer, folder)
    else:
        signer, signer_key = profile.subject(kind), key
    certificate = profile.sign(kind, key.public_key(), signer, signer_key, now)
    chain = [certificate, *(read_chain(other, folder)[0] for other in kind.sends)]
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private, b"".join(one.public_bytes(Encoding.PEM) for one in chain)


def _new_crl(folder: Path, name: str, now: datetime) -> bytes:
    revoked = [read_chain(other, folder)[0] for other in REVOKED[name]]
    crl = profile.sign_crl(revoked, read_chain(name, folder)[0], read_key(name, folder), now)
    return crl.public_bytes(Encoding.PEM)


def _new_ocsp(folder: Path, name: str, now: datetime) -> bytes:
    certificate, signer = read_chain(name, folder)
    signer_name = str(KINDS[name].signer)
    revoked = name in REVOKED[signer_name]
    answer = profile.sign_ocsp(certificate, signer, read_key(signer_name, folder), now, revoked=revoked)
    return answer.public_bytes(Encoding.DER)


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
