"""What both ends of TLS are set to: who they are, whom they trust, what they speak. All else is OpenSSL's default.

TLS 1.2 and 1.3 only (RFC 8996 ends 1.0 and 1.1), in 1.2 only what has forward secrecy and authenticated encryption
(RFC 9325 §4.2), no compression (CRIME), no renegotiation, and an end without close_notify is an error (RFC 8446 §6.1).
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import certs
from certs.channel import Object
from protocols.tls_numbers import Alert

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; 1.3 has only good ones
TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
WANTED = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


@cache
def ensure(folder: Path) -> None:
    """Once for a process: it looks into every file."""
    is_first = not (folder / "root.pem").exists()
    if folder / "root.pem" in certs.ensure(folder) and not is_first:
        what = f"The lab's root is new. Where you trust the old one, put this one in its place: {folder / 'root.pem'}"
        print(what, file=sys.stderr)


def server_context(
    *names: str,
    alpn: Sequence[str] = (),
    clients: Literal["none", "optional", "required"] = "none",
    minimum: ssl.TLSVersion = TLS_1_2,
    maximum: ssl.TLSVersion = TLS_1_3,
    by_name: Mapping[str, str] | None = None,
    tickets: int = 2,
    key_log: Path | None = None,
    folder: Path = certs.FOLDER,
) -> ssl.SSLContext:
    """For servers: certificates of certs/, by name. They are made if need be.

    names    of the certificates, one for each kind of key (default: server and server-rsa); the client's offer decides
    alpn     protocols above, the best first. A client that offers others only gets no_application_protocol; one that
             offers none is served
    clients  does a client need a certificate? The lab's authority must have signed it
    by_name  the certificate for a name that the client asks for (SNI, RFC 6066 §3), where it is another one
    tickets  that a client gets in TLS 1.3, to resume with
    key_log  a file for the secrets (default: SSLKEYLOGFILE): who has it can read everything
    """
    ensure(folder)
    context = _context(ssl.PROTOCOL_TLS_SERVER, alpn, minimum, maximum, key_log)
    _identify(context, names or ("server", "server-rsa"), folder)
    others = {}
    for host, name in (by_name or {}).items():
        others[host.lower()] = other = _context(ssl.PROTOCOL_TLS_SERVER, alpn, minimum, maximum, key_log)
        _identify(other, (name,), folder)
    for one in (context, *others.values()):  # What is asked of clients is asked under every name.
        one.num_tickets = tickets
        one.verify_mode = WANTED[clients]
        if clients != "none":
            one.load_verify_locations(folder / "root.pem")

    def greet(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        """The client's hello is here, and nothing is answered yet."""
        if name and (other := others.get(name.lower())):
            connection.context = other
        hello = connection.hello if isinstance(connection, Object) else None
        if alpn and hello and hello.alpn and not set(hello.alpn) & set(alpn):
            return Alert.NO_APPLICATION_PROTOCOL  # Python would go on, with none (RFC 7301 §3.2: SHALL send this).
        return None

    context.sslobject_class = Object
    context.sni_callback = greet  # It is called without a name, too.
    return context


def client_context(
    *,
    trust: Path | None = certs.FOLDER / "root.pem",
    certificate: str | None = None,
    alpn: Sequence[str] = (),
    minimum: ssl.TLSVersion = TLS_1_2,
    maximum: ssl.TLSVersion = TLS_1_3,
    revocation: bool = False,
    key_log: Path | None = None,
    folder: Path = certs.FOLDER,
) -> ssl.SSLContext:
    """For clients: they check the server's chain and name.

    trust        a file with the authorities to trust (default: the lab's); None: those of this machine
    certificate  of certs/, by name, for a server that asks for one
    revocation   look whether the authority has revoked a certificate of the chain: it says so in its lists (CRL)
    """
    if trust == certs.FOLDER / "root.pem" or certificate or revocation:
        try:
            ensure(folder)
        except OSError:
            if certificate or not os.access(folder / "root.pem", os.R_OK):
                raise  # else they are another user's, and the root is all that we need
    context = _context(ssl.PROTOCOL_TLS_CLIENT, alpn, minimum, maximum, key_log)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as RFC 5280 says, without mercy for old mistakes
    context.hostname_checks_common_name = False  # RFC 9525 §2: the name is in subjectAltName, or nowhere.
    if trust is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(trust)
    if revocation:
        for name in ("root.crl", "intermediate.crl"):
            context.load_verify_locations(folder / name)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if certificate:
        _identify(context, (certificate,), folder)
    return context


def _context(
    kind: int, alpn: Sequence[str], minimum: ssl.TLSVersion, maximum: ssl.TLSVersion, key_log: Path | None
) -> ssl.SSLContext:
    context = ssl.SSLContext(kind)
    context.minimum_version, context.maximum_version = minimum, maximum
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if secrets := key_log or os.environ.get("SSLKEYLOGFILE"):
        try:
            Path(secrets).touch(0o600)  # Python would make it readable for all.
        except OSError as error:
            raise OSError(error.errno, f"no key log can be written: {error.strerror}", str(secrets)) from None
        context.keylog_filename = str(secrets)
    return context


def _identify(context: ssl.SSLContext, names: Sequence[str], folder: Path) -> None:
    for name in names:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
