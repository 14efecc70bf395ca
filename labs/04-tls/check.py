"""The check of this lab: a verifier of chains and names, first its pieces, then the whole, then on a socket.

Every chain is made here, in memory, and has exactly one fault, or none. What `openssl verify` says of each stands
beside it; tests/test_tls_exercise.py asks openssl and compares.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
import signal
import socket
import ssl
import tempfile
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from labkit.check import Check, step
from protocols import tls

BY_HAND = "server_role"
PATIENCE = 10  # seconds for a step: they take a hundredth of that, but not on a machine that is very busy
MOST = 0.5  # seconds of processor time for one question: they take a thousandth of that, the hostile chains a tenth
PROJECT = Path(__file__).resolve().parents[2]
FILES = PROJECT / "captures" / "tls-check-chain.pem", PROJECT / "captures" / "tls-check-roots.pem"

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
HOST = "server.lab"
UNKNOWN_OID = x509.ObjectIdentifier("1.3.6.1.4.1.32473.1")  # RFC 5612: an enterprise number for examples
SERVER_AUTH, CLIENT_AUTH, EMAIL = (
    ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.EMAIL_PROTECTION,
)  # fmt: skip

NAMES = "RFC 9525 §6.3: labels are compared as ASCII without regard to case, and each must match"
PATH = "RFC 5280 §6.1: each certificate is issued by the next, and the last by a trust anchor"

AFTER = """
You have written what stands between a user and everybody who can sit on the wire. The errors of this exercise were
all made in earnest. Internet Explorer let every certificate issue others, CA or not (CVE-2002-0862), and nine years
later iOS did so again (CVE-2011-0228). When the root AddTrust expired on 30 May 2020, clients that knew only one way
up refused servers that were all right. Go had no limit on the work (CVE-2018-16875), and forgot that a wildcard covers
what is excluded (CVE-2025-61727).

What production verifiers have beside yours: revocation (CRLs, OCSP, short lives), Certificate Transparency (who else
has a certificate for my name?), signatures and keys that are too weak, certificate policies, constraints on other
kinds of names. A certificate that cannot be read makes yours raise a ValueError: so its caller must take every
exception for a refusal. Where verifiers differ: openssl takes the last second for gone, and falls back to the common
name when there is no DNS name beside it, unless it is told not to; neither stands in an RFC that is in force. And they
ask the operating system whom to trust: the weakest of more than a hundred roots vouches for every name there is,
unless it is constrained as the lab's root is. This check reads the chain off the wire, in the clear, which TLS 1.2
allows everybody to do; in TLS 1.3 it is encrypted.
"""


# -- What runs in the learner's own process ------------------------------------------------------------


class TookTooLong(BaseException):
    """No Exception, so that `except Exception` does not catch it."""


def judge_role(exercise: ModuleType, questions: str) -> list[dict[str, Any]]:
    """Call functions of the exercise, each with its arguments as `packed` has packed them; what came of it."""
    return [answered(exercise, name, unpacked(arguments)) for name, arguments in json.loads(questions)]


def answered(exercise: ModuleType, name: str, arguments: Any) -> dict[str, Any]:
    """What came of one call: a value, a refusal, an exception, or no end."""

    def stop(*_: object) -> None:
        raise TookTooLong

    signal.signal(signal.SIGPROF, stop)
    try:
        signal.setitimer(signal.ITIMER_PROF, MOST)
        value = getattr(exercise, name)(*arguments)
        return {"value": packed(list(value) if isinstance(value, tuple) else value)}
    except exercise.Refused as error:
        return {"refused": str(error.args[0]) if error.args else "", "more": ", ".join(map(str, error.args[1:]))}
    except TookTooLong:
        return {"late": True}
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == exercise.__file__]
        place = f" (line {lines[-1]} of your file)" if lines else ""
        return {"raised": f"{type(error).__name__}: {error}"[:200] + place}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def packed(value: Any) -> Any:
    """Certificates and times as JSON can say them."""
    if isinstance(value, x509.Certificate):
        return {"der": value.public_bytes(serialization.Encoding.DER).hex()}
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    if isinstance(value, list | tuple):
        return [packed(one) for one in value]
    return value if isinstance(value, str | bool | int | None) else {"other": repr(value)[:80]}


def unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [unpacked(one) for one in value]
    if isinstance(value, dict) and "der" in value:
        return x509.load_der_x509_certificate(bytes.fromhex(value["der"]))
    if isinstance(value, dict) and "time" in value:
        return datetime.fromisoformat(value["time"])
    return value


def client_role(exercise: ModuleType, address: str, port: str, roots: str, hosts: str) -> list[dict[str, Any]]:
    """Connect once for each host; let the learner judge the chain that came; send a password only if it is good."""
    return [visited(exercise, address, int(port), unpacked(json.loads(roots)), host) for host in json.loads(hosts)]


def visited(exercise: ModuleType, address: str, port: int, roots: list[x509.Certificate], host: str) -> dict[str, Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # Only here: the exercise verifies instead.
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # The chain is in the clear there, so all can see what was judged.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = context.wrap_bio(incoming, outgoing, server_hostname=host)
    received = b""
    with socket.create_connection((address, port), timeout=5) as sock:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                secured.do_handshake()
                break
            sock.sendall(outgoing.read())
            data = sock.recv(65536)
            received += data
            incoming.write(data)
        chain = [x509.load_der_x509_certificate(der) for der in sent_chain(received)]
        said = answered(exercise, "verify", (chain, roots, host, NOW))
        if "value" in said:
            secured.write(f"password for {host}".encode())
        with contextlib.suppress(ssl.SSLWantReadError):
            secured.unwrap()  # close_notify
        sock.sendall(outgoing.read())
        return {**said, "port": sock.getsockname()[1], "chain": len(chain)}


def sent_chain(received: bytes) -> list[bytes]:
    """The certificates in the server's first flight, as anybody on the way reads them. (RFC 5246 §7.4.2)"""
    records, messages = tls.Records(), tls.Messages()
    records.receive_data(received)
    while (record := records.next_event()) and record.type == tls.ContentType.HANDSHAKE:
        messages.receive_data(record.data)
        while message := messages.next_event():
            if message.type == tls.HandshakeType.CERTIFICATE:
                return tls.certificates(message.body, tls.Version.TLS_1_2)
    raise ValueError("no Certificate message in what the server sent")


def server_role(exercise: ModuleType, host: str, port: str) -> None:
    """For a terminal: send PEM, get the verdict. Roots, then a line “chain for HOST at TIME”, then the chain."""
    with socket.create_server((host, int(port))) as listening:
        while True:
            sock, _ = listening.accept()
            with sock, contextlib.suppress(ConnectionError):
                sock.settimeout(0.5)
                text = b""
                with contextlib.suppress(TimeoutError):  # Some nc do not say that their input has ended.
                    while data := sock.recv(65536):
                        text += data
                sock.sendall(f"{verdict_on(exercise, text)}\n".encode())


def verdict_on(exercise: ModuleType, text: bytes) -> str:
    parts = re.split(rb"^chain for (\S+)(?: at (\S+))?.*$", text, maxsplit=1, flags=re.MULTILINE)
    try:
        if len(parts) == 1:  # Only a chain: the lab's root, the lab's server, today.
            parts = [(PROJECT / "certs" / "root.pem").read_bytes(), HOST.encode(), b"", text]
        roots, chain = (x509.load_pem_x509_certificates(parts[i]) for i in (0, 3))
        now = datetime.fromisoformat(parts[2].decode()) if parts[2] else datetime.now(UTC)
    except OSError:
        return "no verdict: there is no certs/root.pem; `make certs` makes it"
    except ValueError:
        return "no verdict: that is no chain of certificates in PEM"
    said = answered(exercise, "verify", (chain, roots, parts[1].decode(), now))
    if "refused" in said:
        return f"refused: {said['refused']} ({said['more']})"
    return "accepted" if "value" in said else f"no verdict: {said.get('raised', 'it took too long')}"


# -- The certificates ----------------------------------------------------------------------------------


class Made(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make(
    name: str,
    by: Made | None = None,
    *,
    names: Sequence[x509.GeneralName | str] = (),
    ca: bool = False,
    path_length: int | None = None,
    may_sign: bool | None = None,
    purposes: Sequence[x509.ObjectIdentifier] | None = None,
    constraints: x509.NameConstraints | None = None,
    start: datetime = NOW - DAY,
    end: datetime = NOW + DAY,
    more: Sequence[tuple[x509.ExtensionType, bool]] = (),
    without: type[x509.ExtensionType] | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
    signed_with: ec.EllipticCurvePrivateKey | None = None,
) -> Made:
    """A certificate, as a good authority makes it unless it is told otherwise; without `by` it is self-signed.

    `signed_with` is another key than the issuer's: what a forger has.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    issuer, issuer_key = (by.certificate.subject, by.key) if by else (subject(name), key)
    alternatives = [x509.DNSName(one) if isinstance(one, str) else one for one in names]
    signs = ca if may_sign is None else may_sign
    usage = x509.KeyUsage(
        digital_signature=not ca, key_cert_sign=signs, crl_sign=ca, content_commitment=False, key_agreement=False,
        key_encipherment=False, data_encipherment=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    extensions: list[tuple[x509.ExtensionType | None, bool]] = [
        (x509.BasicConstraints(ca, path_length), True),
        (usage, True),
        (x509.ExtendedKeyUsage(purposes) if purposes else None, False),
        (x509.SubjectAlternativeName(alternatives) if alternatives else None, not name),
        (constraints, True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False),
        *more,
    ]
    builder = x509.CertificateBuilder(
        issuer, subject(name), key.public_key(), x509.random_serial_number(), start, end
    )  # fmt: skip
    for extension, critical in extensions:
        if extension is not None and not (without and isinstance(extension, without)):
            builder = builder.add_extension(extension, critical)
    return Made(builder.sign(signed_with or issuer_key, hashes.SHA256()), key)


def subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])


def leaf(by: Made | None = None, *names: x509.GeneralName | str, name: str = "a server", **options: Any) -> Made:
    return make(name, by, names=names or (HOST,), **{"purposes": [SERVER_AUTH], **options})


def bare_leaf(by: Made, name: str) -> Made:
    """A leaf that has its names, and no other extension."""
    key, names = ec.generate_private_key(ec.SECP256R1()), x509.SubjectAlternativeName([x509.DNSName(name)])
    builder = x509.CertificateBuilder(
        by.certificate.subject, subject("a server"), key.public_key(), x509.random_serial_number(), NOW - DAY, NOW + DAY
    )
    return Made(builder.add_extension(names, False).sign(by.key, hashes.SHA256()), key)


def authority(name: str = "Intermediate", by: Made | None = None, **options: Any) -> Made:
    return make(name, by, ca=True, **options)


@cache
def root() -> Made:
    return authority("Root")


@cache
def intermediate() -> Made:
    return authority("Intermediate", root())


def ip(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_network(text) if "/" in text else ipaddress.ip_address(text))


@dataclass(frozen=True)
class Case:
    """A path from the leaf to a root, with one fault or none."""

    what: str
    path: tuple[Made, ...]
    why: str
    wanted: tuple[str, ...] = ()  # the reasons to refuse it, of which one is enough; none: it is good
    openssl: str = "OK"  # what `openssl verify` says of it
    at: int = 0  # which certificate of the path the function for a single one is asked about
    host: str = HOST
    now: datetime = NOW
    sent: tuple[Made, ...] = ()  # what the server sends, where that is not the path without its root
    roots: tuple[Made, ...] = ()  # whom the client trusts, where that is not the end of the path alone

    @property
    def chain(self) -> list[x509.Certificate]:
        return [one.certificate for one in self.sent or self.path[:-1] or self.path]

    @property
    def trusted(self) -> list[x509.Certificate]:
        return [one.certificate for one in self.roots or self.path[-1:]]

    def arguments(self, function: str) -> tuple[Any, ...]:
        """What the learner's function is called with to judge this case."""
        certificates = [one.certificate for one in self.path]
        if function == "is_for":
            return certificates[0], self.host
        if function == "check_alone":
            return certificates[self.at], self.now
        if function in ("check_issuer", "check_names"):
            return certificates[self.at], certificates[: self.at]
        return self.chain, self.trusted, self.host, self.now


@cache
def dates_cases() -> list[Case]:
    inclusive = "The validity period includes both its ends (RFC 5280 §4.1.2.5)."
    old: dict[str, Any] = {"end": NOW - SECOND}
    early: dict[str, Any] = {"start": NOW + SECOND}
    old_authority = authority("Intermediate", root(), **old)
    early_authority = authority("Intermediate", root(), **early)
    old_root, good = authority("Root", **old), intermediate()
    expired, not_yet = "certificate has expired", "certificate is not yet valid"
    every = "Every certificate of a path must be valid at that time, and not only the leaf (RFC 5280 §6.1.3 a2)."
    return [
        Case("a leaf that is valid from yesterday to tomorrow", (leaf(good), good, root()), "It is June 1st."),
        Case("a leaf that has expired a second ago", (leaf(good, **old), good, root()),
             "RFC 5280 §6.1.3 (a)(2): the validity period includes the current time.", ("expired",), expired),
        Case("a leaf that will be valid in a second", (leaf(good, **early), good, root()),
             "A validity period has two ends, and before its beginning nobody has vouched for anything.",
             ("not yet valid",), not_yet),
        Case("a leaf in the last second of its validity", (leaf(good, end=NOW), good, root()),
             inclusive + " openssl differs: it takes that second for gone.", openssl=expired),
        Case("a leaf in the first second of its validity", (leaf(good, start=NOW), good, root()), inclusive),
        Case("an intermediate that has expired a second ago", (leaf(old_authority), old_authority, root()), every,
             ("expired",), expired, at=1),
        Case("an intermediate that will be valid in a second", (leaf(early_authority), early_authority, root()), every,
             ("not yet valid",), not_yet, at=1),
        Case("a root that has expired a second ago", (leaf(old_root), old_root), "RFC 5280 leaves to you what a root's "
             "own dates mean; openssl and this lab hold it to them.", ("expired",), expired, at=1),
    ]  # fmt: skip


@cache
def purpose_cases() -> list[Case]:
    good, mail = intermediate(), authority("Intermediate", root(), purposes=[EMAIL])
    wrong = "unsuitable certificate purpose"
    return [
        Case("a leaf for serverAuth", (leaf(good), good, root()), "That is what a server needs (RFC 5280 §4.2.1.12)."),
        Case("a leaf for clientAuth alone", (leaf(good, purposes=[CLIENT_AUTH]), good, root()),
             "Where there is an extended key usage, the key is for these purposes and no others (RFC 5280 §4.2.1.12): "
             "else every client could play the server.", ("purpose",), wrong),
        Case("a leaf for clientAuth and serverAuth", (leaf(good, purposes=[CLIENT_AUTH, SERVER_AUTH]), good, root()),
             "One purpose of the list is enough."),
        Case("a leaf without an extended key usage", (leaf(good, purposes=None), good, root()),
             "What is not there restricts nothing (RFC 5280 §4.2.1.12)."),
        Case("an intermediate for e-mail alone", (leaf(mail), mail, root()), "No RFC says so, but openssl and the "
             "browsers do: an authority restricted to some purposes cannot vouch for others.", ("purpose",), wrong,
             at=1),
    ]  # fmt: skip


@cache
def critical_cases() -> list[Case]:
    unknown, good = x509.UnrecognizedExtension(UNKNOWN_OID, b"\x05\x00"), intermediate()
    strange = authority("Intermediate", root(), more=[(unknown, True)])
    nameless = make("", good, names=[HOST], purposes=None, more=[(x509.ExtendedKeyUsage([SERVER_AUTH]), True)])
    refused = "unhandled critical extension"
    why = "Critical means: who cannot process this MUST refuse the certificate (RFC 5280 §4.2)."
    policy = x509.PolicyConstraints(require_explicit_policy=0, inhibit_policy_mapping=None)
    strict = authority("Intermediate", root(), more=[(policy, True)])
    stapled = x509.TLSFeature([x509.TLSFeatureType.status_request])
    return [
        Case("a leaf with an extension that nobody knows, and not critical",
             (leaf(good, more=[(unknown, False)]), good, root()),
             "What is not critical may be ignored by who does not know it (RFC 5280 §4.2)."),
        Case("a leaf with a critical extension that nobody knows",
             (leaf(good, more=[(unknown, True)]), good, root()), why, ("critical",), refused),
        Case("a leaf with an empty subject, its names and its purpose critical", (nameless, good, root()),
             "What you handle may be critical; with an empty subject the subjectAltName MUST be (RFC 5280 §4.2.1.6)."),
        Case("an intermediate with a critical extension that nobody knows", (leaf(strange), strange, root()), why,
             ("critical",), refused, at=1),
        Case("an intermediate with critical policy constraints", (leaf(strict), strict, root()),
             "`cryptography` can read that one, but do you act on it? A critical extension must be handled, and not "
             "only parsed (RFC 5280 §4.2). openssl knows it, and looks at policies only when told to (-policy_check).",
             ("critical",), at=1),
        Case("a leaf whose key must be stapled (TLS feature), not critical",
             (leaf(good, more=[(stapled, False)]), good, root()), "It is not critical."),
    ]  # fmt: skip


@cache
def authority_cases() -> list[Case]:
    no_ca = make("Intermediate", root(), ca=False, may_sign=True)
    silent = authority("Intermediate", root(), without=x509.BasicConstraints)
    cannot_sign = authority("Intermediate", root(), may_sign=False)
    no_usage = authority("Intermediate", root(), without=x509.KeyUsage)
    high = authority("Upper", root())
    low = make("Lower", high, names=[HOST], ca=False, purposes=[SERVER_AUTH])
    why = "Only what has the CA flag in its basic constraints may issue certificates (RFC 5280 §6.1.4 k)"
    invalid = "invalid CA certificate"
    return [
        Case("an intermediate that is an authority", (leaf(intermediate()), intermediate(), root()),
             "It has the CA flag, and may sign certificates.", at=1),
        Case("an intermediate without the CA flag", (leaf(no_ca), no_ca, root()),
             why + ": else whoever has a certificate could make one for every other name. A key usage with keyCertSign "
             "is not enough.", ("not a CA",), invalid, at=1),
        Case("an intermediate without basic constraints", (leaf(silent), silent, root()),
             why + ". Where the extension is missing, there is no flag.", ("not a CA",), invalid, at=1),
        Case("an intermediate whose key usage lacks keyCertSign", (leaf(cannot_sign), cannot_sign, root()),
             "Where there is a key usage, it must have keyCertSign (RFC 5280 §6.1.4 n).", ("not a CA",), invalid, at=1),
        Case("an intermediate without a key usage", (leaf(no_usage), no_usage, root()),
             "What is not there restricts nothing (RFC 5280 §6.1.4 n).", at=1),
        Case("a server's certificate, two below the root, that has signed another", (leaf(low), low, high, root()),
             why + ".", ("not a CA",), invalid, at=1),
    ]  # fmt: skip


@cache
def path_length_cases() -> list[Case]:
    def under(top: Made, *names: str, **options: Any) -> tuple[Made, ...]:
        """Authorities below one another, and a leaf: the path from the leaf to the top."""
        path = [top]
        for name in names:
            path.insert(0, authority(name, path[0], **options))
        return (leaf(path[0]), *path)

    zero, one, two = (authority("Root", path_length=length) for length in (0, 1, 2))
    old_key = authority("Intermediate", one)
    new_key = authority("Intermediate", old_key)
    tight = authority("Upper", root(), path_length=0)
    long = "path length constraint exceeded"
    why = "It is the most authorities that may stand between it and the leaf (RFC 5280 §4.2.1.9)"
    word = ("path length",)
    return [
        Case("a root with path length 0 and a leaf", under(zero), why + ", and the leaf is none.", at=1),
        Case("a root with path length 0 and an intermediate", under(zero, "A"),
             why + ": 0 is a limit, and not the lack of one.", word, long, at=2),
        Case("a root with path length 1 and an intermediate", under(one, "A"), why + ".", at=2),
        Case("a root with path length 1 and two intermediates", under(one, "A", "B"), why + ".", word, long, at=3),
        Case("a root with path length 2 and two intermediates", under(two, "A", "B"), why + ".", at=3),
        Case("a root without a path length and five intermediates", under(root(), *"ABCDE"),
             "Without a limit there is none (RFC 5280 §4.2.1.9).", at=6),
        Case("an intermediate with path length 0 and another below it", (*under(tight, "Lower"), root()),
             "Every authority's limit counts, not only the root's (RFC 5280 §6.1.4 l, m).", word, long, at=2),
        Case("a root with path length 1 and an intermediate that has certified its own new key",
             (leaf(new_key), new_key, old_key, one),
             "A self-issued certificate, by an authority for itself, does not count (RFC 5280 §6.1.4 l).", at=3),
    ]  # fmt: skip


@cache
def constraint_cases() -> list[Case]:
    permitted, excluded = "permitted subtree violation", "excluded subtree violation"
    word = ("constraints",)

    def limited(*allowed: x509.GeneralName | str, never: Sequence[x509.GeneralName | str] = ()) -> Made:
        trees = ([x509.DNSName(one) if isinstance(one, str) else one for one in some] for some in (allowed, never))
        return authority("Root", constraints=x509.NameConstraints(*(some or None for some in trees)))

    lab = limited("lab", ip("10.0.0.0/8"), ip("127.0.0.0/8"))
    no_secrets = limited("lab", never=["secret.lab", "secret.www.lab", ip("10.6.0.0/16")])

    def directly(what: str, by: Made, names: Sequence[x509.GeneralName | str], why: str, wanted: tuple[str, ...] = (),
                 openssl: str = "OK", **options: Any) -> Case:  # fmt: skip
        return Case(what, (leaf(by, *names), by), why, wanted, openssl, at=1, **options)

    wide = authority("Intermediate", lab, constraints=x509.NameConstraints([x509.DNSName("example")], None))
    narrow = authority("Intermediate", lab, constraints=x509.NameConstraints([x509.DNSName("sub.lab")], None))
    outside = authority("Intermediate", lab, names=["ca.example"])
    between = authority("Intermediate", lab)
    old_key = authority("Intermediate", lab, names=["ca.lab"])
    new_key = authority("Intermediate", old_key, names=["ca.example"])
    organisation = x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Lab")]))
    company = limited(organisation)
    boundary = "A subtree begins at a dot: labels are added on its left, not letters (RFC 5280 §4.2.1.10)."
    all_names = "All names must be permitted, not only the one you have asked for (RFC 5280 §6.1.3 b)."
    each_form = "A form of names that is in no permitted subtree is not restricted by the others (RFC 5280 §4.2.1.10)."
    everyone = "An authority's constraints hold for every certificate below it (RFC 5280 §6.1.3 b, c)."
    return [
        directly("server.lab and 10.1.2.3 under “lab” and 10.0.0.0/8", lab, [HOST, ip("10.1.2.3")], "Both are within."),
        directly("bank.example beside server.lab under “lab”", lab, [HOST, "bank.example"], all_names, word, permitted),
        directly("evillab beside server.lab under “lab”", lab, [HOST, "evillab"], boundary, word, permitted),
        directly("lab.example beside server.lab under “lab”", lab, [HOST, "lab.example"],
                 "A subtree is the end of a name, not its beginning.", word, permitted),
        directly("“lab” itself beside server.lab under “lab”", lab, [HOST, "lab"],
                 "Zero labels may be added, too (RFC 5280 §4.2.1.10)."),
        directly("SERVER.LAB under “lab”", lab, ["SERVER.LAB"], "Case does not matter in DNS names (RFC 5280 §7.2)."),
        directly("a.b.c.server.lab beside server.lab under “lab”", lab, [HOST, "a.b.c.server.lab"],
                 "Any number of labels may be added (RFC 5280 §4.2.1.10)."),
        directly("the wildcard *.www.lab beside server.lab under “lab”", lab, [HOST, "*.www.lab"],
                 "All that the wildcard can stand for is within."),
        directly("the wildcard *.www.lab beside server.lab under “server.lab” and “web.www.lab”",
                 limited(HOST, "web.www.lab"), [HOST, "*.www.lab"],
                 "The wildcard stands for more than is permitted.", word, permitted),
        directly("172.31.0.1 beside server.lab under 172.16.0.0/12", limited(ip("172.16.0.0/12")),
                 [HOST, ip("172.31.0.1")], "A network is a number of bits, and not a text."),
        directly("172.32.0.1 beside server.lab under 172.16.0.0/12", limited(ip("172.16.0.0/12")),
                 [HOST, ip("172.32.0.1")], "A network is a number of bits, and not a text.", word, permitted),
        directly("192.0.2.1 beside server.lab under 10.0.0.0/8", lab, [HOST, ip("192.0.2.1")],
                 "Addresses have subtrees, too: networks (RFC 5280 §4.2.1.10).", word, permitted),
        directly("::1 beside server.lab under 10.0.0.0/8 and 127.0.0.0/8", lab, [HOST, ip("::1")],
                 "IPv4 and IPv6 are one form of names, so the one is not permitted by networks of the other.", word,
                 permitted),
        directly("192.0.2.1 beside server.lab under “lab” alone", limited("lab"), [HOST, ip("192.0.2.1")], each_form),
        directly("server.lab where only e-mail is constrained", limited(x509.RFC822Name("lab")), [HOST], each_form),
        directly("x.secret.lab beside server.lab, and secret.lab is excluded", no_secrets, [HOST, "x.secret.lab"],
                 "What is excluded is excluded, though it be permitted (RFC 5280 §4.2.1.10).", word, excluded),
        directly("verysecret.lab beside server.lab, and secret.lab is excluded", no_secrets, [HOST, "verysecret.lab"],
                 boundary),
        directly("10.6.7.8 beside server.lab, and 10.6.0.0/16 is excluded", no_secrets, [HOST, ip("10.6.7.8")],
                 "Networks can be excluded, too.", word, excluded),
        directly("10.7.7.8 beside server.lab, and 10.6.0.0/16 is excluded", no_secrets, [HOST, ip("10.7.7.8")],
                 "It is not in that network, and no address need be permitted."),
        directly("*.www.lab beside server.lab, and secret.www.lab is excluded", no_secrets, [HOST, "*.www.lab"],
                 "With that wildcard it would be accepted as secret.www.lab, which is excluded. Go forgot this "
                 "(CVE-2025-61727), and so does openssl 3.0.", word),
        directly("x.secret.lab beside server.lab, and secret.lab is excluded and nothing permitted",
                 limited(never=["secret.lab"]), [HOST, "x.secret.lab"], "Each of the two lists may be missing.", word,
                 excluded),
        directly("server.lab, and secret.lab is excluded and nothing permitted", limited(never=["secret.lab"]), [HOST],
                 "Where nothing is permitted expressly, all is that is not excluded."),
        Case("bank.example, permitted by the intermediate, under a root that permits “lab”",
             (leaf(wide, HOST, "bank.example"), wide, lab), "Who is constrained cannot permit more than it may: all "
             "constraints above hold (RFC 5280 §6.1.4 g).", word, permitted, at=2),
        Case("server.lab under an intermediate that permits sub.lab, and a root that permits “lab”",
             (leaf(narrow), narrow, lab), everyone, word, permitted, at=1),
        Case("bank.example beside server.lab, two below a root that permits “lab”",
             (leaf(between, HOST, "bank.example"), between, lab), everyone, word, permitted, at=2),
        Case("an intermediate called ca.example under a root that permits “lab”", (leaf(outside), outside, lab),
             everyone, word, permitted, at=2),
        Case("an authority's new key, self-issued for ca.example, under a root that permits “lab”",
             (leaf(new_key), new_key, old_key, lab),
             "A self-issued certificate is exempt, unless it is the leaf (RFC 5280 §6.1.3 b).", at=3),
        Case("a common name outside “lab”", (leaf(lab, name="bank.example"), lab),
             "The common name is no DNS name: nobody is to take it for one (RFC 9525 §2).", at=1),
        Case("a subject outside of a permitted directoryName", (leaf(company), company),
             "A constraint on a form of names that occurs must be processed, or the certificate rejected (RFC 5280 "
             "§4.2.1.10). A subject is a directoryName.", ("critical", "constraints"), permitted, at=1),
    ]  # fmt: skip


@cache
def name_cases() -> list[Case]:
    wrong, address = "hostname mismatch", "IP address mismatch"
    word = ("name",)
    only_san = "Only the subjectAltName says whom a certificate is for, the common name never does (RFC 9525 §2)."
    numbers = "An address is compared with iPAddress entries, as a number, and with nothing else (RFC 9525 §6.4)."

    def names(what: str, host: str, names: Sequence[x509.GeneralName | str], why: str, wanted: tuple[str, ...] = (),
              openssl: str = "OK", **options: Any) -> Case:  # fmt: skip
        made = make(options.pop("name", "a server"), intermediate(), names=names, purposes=[SERVER_AUTH])
        return Case(what, (made, intermediate(), root()), why, wanted, openssl, host=host, **options)

    page = x509.UniformResourceIdentifier("https://server.lab/")
    v6 = ip("2001:db8::1")
    elsewhere = leaf(intermediate(), "other.lab")
    return [
        names("a leaf for a.lab and server.lab", HOST, ["a.lab", HOST], "One of its names is enough, not the first."),
        names("a leaf for *.www.lab", "a.www.lab", ["*.www.lab"], "The wildcard covers it."),
        names("a leaf for 127.0.0.1 and server.lab", HOST, [ip("127.0.0.1"), HOST], "One of its names is enough."),
        names("a leaf for other.lab", HOST, ["other.lab"], "It is for somebody else.", word, wrong),
        names("a leaf with the common name server.lab, for other.lab", HOST, ["other.lab"], only_san, word, wrong,
              name=HOST),
        names("a leaf with the common name server.lab, and no subjectAltName", HOST, [], only_san + " openssl verify "
              "still takes it for a name, where no DNS name is beside it; browsers have stopped that.", word,
              name=HOST),
        names("a leaf for the URI https://server.lab/ and the URI server.lab", HOST,
              [page, x509.UniformResourceIdentifier(HOST)], "A URI is no DNS name (RFC 9525 §6.2). There are nine "
              "kinds of general names (RFC 5280 §4.2.1.6).", word, wrong),
        names("a leaf for the address 127.0.0.1", "127.0.0.1", [HOST, ip("127.0.0.1")], numbers),
        names("a leaf for the address 10.0.0.1", "10.0.0.10", [ip("10.0.0.1")], numbers, word, address),
        names("a leaf for the address 2001:db8::1", "2001:0DB8:0:0::1", [v6], numbers + " It has many spellings."),
        names("a leaf for the DNS name 127.0.0.1", "127.0.0.1", ["127.0.0.1"], numbers, word, address),
        names("a leaf for the DNS name *.0.0.1", "127.0.0.1", ["*.0.0.1"], numbers, word, address),
        names("a leaf for the DNS name 2001:db8::1", "2001:db8::1", ["2001:db8::1"], numbers, word, address),
        Case("a leaf for other.lab, and behind it one for server.lab", (elsewhere, intermediate(), root()),
             "Only the first certificate is the server's own (RFC 8446 §4.4.2): it need not have the others' keys.",
             word, wrong, sent=(elsewhere, intermediate(), leaf(intermediate()))),
        names("a leaf with the common name 127.0.0.1", "127.0.0.1", [HOST], numbers, word, address, name="127.0.0.1"),
    ]  # fmt: skip


@cache
def trust_cases() -> list[Case]:
    good = intermediate()
    server = leaf(good)
    forger = authority("Root")  # All as the real ones have it, but for the keys.
    forged = authority("Intermediate", forger)
    by_forger = leaf(forged)
    signed_elsewhere = leaf(good, signed_with=forged.key)
    alone = make(HOST, names=[HOST], purposes=[SERVER_AUTH])
    word = ("unknown authority",)
    own_root = "A root is trusted because you have it, and never because it was sent (RFC 8446 §4.4.2)."
    by_key = "A name can be copied; trust is in the key (RFC 5280 §6.1.1 d: an anchor is a name and a public key)."
    broken = leaf(good, "zerver.lab").certificate.public_bytes(serialization.Encoding.DER)
    renamed = x509.load_der_x509_certificate(broken.replace(b"zerver", b"server"))
    elsewhere = leaf(Made(authority("Elsewhere").certificate, good.key))
    missing, chained = "unable to get local issuer certificate", "self-signed certificate in certificate chain"
    forgery = "certificate signature failure"
    return [
        Case("a leaf, its intermediate and a root that you have", (server, good, root()), "It is as it should be."),
        Case("a leaf whose intermediate was not sent", (server, good, root()), "You know nobody who has issued it. "
             "(Some browsers fetch or remember intermediates; openssl, curl and Python do not.)", word, missing,
             sent=(server,)),
        Case("a leaf and its intermediate under a root that you do not have", (by_forger, forged, forger),
             "Nobody you trust vouches for it.", word, missing, roots=(authority("Other root"),)),
        Case("a whole chain with its own root, which you do not have", (by_forger, forged, forger), own_root, word,
             chained, sent=(by_forger, forged, forger), roots=(authority("Other root"),)),
        Case("a whole chain with its own root, of the same name as yours", (by_forger, forged, forger), by_key, word,
             chained, sent=(by_forger, forged, forger), roots=(root(),)),
        Case("a leaf and an intermediate of the right names, under a root that only has the name of yours",
             (by_forger, forged, forger), by_key, word, missing, sent=(by_forger, forged), roots=(root(),)),
        Case("a self-signed leaf", (alone,), own_root, (*word, "not a CA"), "self-signed certificate", sent=(alone,),
             roots=(root(),)),
        Case("a leaf that another key has signed than the intermediate's", (signed_elsewhere, good, root()),
             "The signature is what the issuer has said; all else anybody can write (RFC 5280 §6.1.3 a1).", word,
             forgery),
        Case("a leaf with a letter changed after it was signed: zerver.lab became server.lab",
             (Made(renamed, good.key), good, root()), "Then the signature is not over what you have read (RFC 5280 "
             "§6.1.3 a1).", word, forgery),
        Case("an intermediate that another key has signed than the root's",
             (leaf(forged), authority("Intermediate", root(), key=forged.key, signed_with=forger.key), root()),
             "Every signature counts, not only the leaf's (RFC 5280 §6.1.3 a1).", word, forgery),
        Case("a leaf signed with the intermediate's key, that names another issuer", (elsewhere, good, root()),
             "Issuer and subject must be the same name, too (RFC 5280 §6.1.3 a4).", word, missing),
        Case("the good chain of the beginning, though you trust another root now", (server, good, root()),
             "Nothing may be left of an earlier verdict: whom you trust stands in `roots`, each time.", word, missing,
             roots=(authority("Other root"),)),
    ]  # fmt: skip


@cache
def root_cases() -> list[Case]:
    """What a root says of itself holds for it, too."""
    forger = authority("Forger")
    expired_alone = make(HOST, names=[HOST], purposes=[SERVER_AUTH], end=NOW - SECOND)
    limited = authority("Root", constraints=x509.NameConstraints([x509.DNSName("lab")], None))
    under_limits = authority("Intermediate", limited)
    unlimited = authority("Root", forger, key=limited.key)  # What the real root's key has never said.
    return [
        Case("a leaf for bank.example and server.lab, under your root, which permits “lab”, and a copy of it was sent: "
             "the same name, the same key, and no constraints",
             (leaf(under_limits, HOST, "bank.example"), under_limits, limited),
             "The root is the certificate that you have, with what stands in it, and not whatever has its key.",
             ("unknown authority", "constraints"), "permitted subtree violation",
             sent=(leaf(under_limits, HOST, "bank.example"), under_limits, unlimited, forger)),
        Case("a self-signed leaf that is one of your roots, and has expired", (expired_alone,),
             "Trust does not make it valid.", ("expired",), "certificate has expired", sent=(expired_alone,)),
    ]  # fmt: skip


@cache
def good_cases() -> list[Case]:
    good, server = intermediate(), leaf(intermediate())
    upper = authority("Upper", root())
    lower = authority("Lower", upper)
    deep = leaf(lower)
    any_order = "All but the leaf may come in any order, and more than is needed (RFC 8446 §4.4.2)."
    old_root = authority("Old root", end=NOW - DAY / 2)
    other = authority("Other root")
    cross = authority("Root", other, key=root().key)
    dead_cross = authority("Root", old_root, key=root().key, end=NOW - DAY / 2)
    expired_twin = authority("Intermediate", root(), key=good.key, end=NOW - DAY / 2)
    other_key = authority("Intermediate", root())
    alone = make(HOST, names=[HOST], purposes=[SERVER_AUTH])
    path = (server, good, root())
    bare = bare_leaf(good, HOST)
    several = "One path is enough, though another leads to nothing (RFC 5280 §6: how a path is found is left to you)."
    return [
        Case("a leaf that the root itself has issued", (leaf(root()), root()), "No intermediate is needed."),
        Case("a leaf that has nothing but its names: no key usage, no purposes, no key identifiers",
             (bare, good, root()), "What is not there restricts nothing. Key identifiers help to find an issuer, and "
             "prove nothing (RFC 5280 §4.2.1.1)."),
        Case("a chain with its root", path, "The root may be sent, and is superfluous.", sent=path),
        Case("a chain whose intermediates come in the wrong order", (deep, lower, upper, root()), any_order,
             sent=(deep, upper, lower)),
        Case("a chain with the root in the middle", (deep, lower, upper, root()), any_order,
             sent=(deep, root(), lower, upper)),
        Case("a chain with the leaf twice, and a stranger's certificate", path, any_order,
             sent=(server, server, leaf(root(), "b.lab"), good, leaf(other, "c.lab"))),
        Case("a chain with somebody else's intermediate before its own", path, any_order, sent=(server, upper, good)),
        Case("a chain with an intermediate of the same name and another key before its own", path, any_order,
             sent=(server, other_key, good)),
        Case("a chain with an expired twin (same name, same key) before its intermediate", path, several,
             sent=(server, expired_twin, good)),
        Case("a chain with an expired twin (same name, same key) behind its intermediate", path, several,
             sent=(server, good, expired_twin)),
        Case("a chain whose root is cross-signed by one that you do not have", path, several,
             sent=(server, good, cross)),
        Case("a chain whose root you do not have, cross-signed by one that you have", (server, good, cross, other),
             "A root is an ordinary certificate to who does not have it.", roots=(other,)),
        Case("a chain with an expired cross-certificate (AddTrust, 30 May 2020)", path,
             several + " Clients that knew only the way that was sent refused such servers that day.",
             sent=(server, good, dead_cross, old_root), roots=(root(), old_root)),
        Case("a self-signed leaf that is one of your roots", (alone,), "You have it, so you trust it.", sent=(alone,)),
        Case("a chain, and roots of which two have the same name", path, "An authority may have two keys.",
             roots=(authority("Root"), root(), authority("Root"))),
    ]  # fmt: skip


@cache
def hostile_cases() -> list[Case]:
    """Authorities that have all certified each other, and none of them leads to a root."""

    def mesh(*names: str) -> list[Made]:
        keys = [authority(name) for name in names]
        return [authority(one.certificate.subject.rfc4514_string()[3:], by, key=one.key)
                for one in keys for by in keys if one is not by]  # fmt: skip

    circle, web = mesh("A", "B"), mesh(*"ABCDEF")
    in_circle, in_web = leaf(circle[0]), leaf(web[0])
    word, missing = ("unknown authority",), "unable to get local issuer certificate"
    endless = "Whoever sends the chain must not decide how long you work."
    return [
        Case("a chain of two authorities that have issued each other", (in_circle,), endless, word, missing,
             sent=(in_circle, *circle), roots=(root(),)),
        Case("a chain of six authorities that have all issued each other, in 30 certificates", (in_web,),
             endless + " Tried one by one, the ways through these are more than there is time for (CVE-2018-16875); Go "
             "stops after a hundred signatures, your limit is yours to choose.", word, missing, sent=(in_web, *web),
             roots=(root(),)),
    ]  # fmt: skip


TABLES = {"names": name_cases, "dates": dates_cases, "purposes": purpose_cases, "critical": critical_cases,
          "authorities": authority_cases, "path lengths": path_length_cases, "constraints": constraint_cases,
          "trust": trust_cases, "roots": root_cases, "good": good_cases, "hostile": hostile_cases}  # fmt: skip


# -- How the steps ask and judge -----------------------------------------------------------------------


async def asked(c: Check, questions: Sequence[tuple[str, tuple[Any, ...]]]) -> list[dict[str, Any]]:
    """Put questions, a function and its arguments each, to the learner's program."""
    found: list[dict[str, Any]] = await c.start("judge_role", json.dumps(packed(questions)), host="client").result(
        PATIENCE - 1
    )
    return found


async def judge(c: Check, function: str, cases: Sequence[Case]) -> None:
    """Ask one of the learner's functions about each case; the first answer that is wrong ends the check."""
    for case, said in zip(cases, await asked(c, [(function, case.arguments(function)) for case in cases]), strict=True):
        if wrong := what_is_wrong(function, case, said):
            tell(c, function, case, said)
            by_hand = write_down(c, case)
            what, *compared = wrong
            got, wanted = compared or (None, None)
            c.fail(what, got=got, wanted=wanted, reproduce=by_hand if function == "verify" else "")


def what_is_wrong(function: str, case: Case, said: dict[str, Any]) -> tuple[str, ...]:
    """A sentence, and perhaps what was got and what was wanted; () where the answer is right."""
    mine, refused = f"Your {function}()", said.get("refused")
    if "late" in said:
        return (f"{mine} was still at work after {MOST:g} s, with {case.what}. {case.why}",)
    if "raised" in said:
        return (f"{mine} raised {said['raised']}, and should have judged {case.what}.",)
    if function == "is_for":
        value = said.get("value", f"Refused({refused!r})")
        if not isinstance(value, bool):
            return f"{mine} must return True or False.", str(value), str(not case.wanted)
        if value and case.wanted:
            return f"{mine} takes {case.what} for one for {case.host}. {case.why}", "True", "False"
        if not value and not case.wanted:
            return f"{mine} does not take {case.what} for one for {case.host}. {case.why}", "False", "True"
        return ()
    wanted = "Refused, the reason is " + " or ".join(f"“{word}”" for word in case.wanted)
    got = f"Refused, the reason is “{refused}”"
    if refused is None and case.wanted:
        return f"{mine} accepts {case.what}. {case.why}", "accepted", wanted
    if refused is not None and not case.wanted:
        return f"{mine} refuses {case.what}. {case.why}", got, "accepted"
    if refused is not None and refused not in case.wanted:
        return f"{mine} refuses {case.what}, but for another reason than its one fault. {case.why}", got, wanted
    if refused is None and function == "verify" and (reason := why_no_path(case, said["value"])):
        return (f"{mine} accepts {case.what}, rightly; but it must return the path that convinced you, from the leaf "
                f"up to one of the roots, and {reason}.",)  # fmt: skip
    return ()


def why_no_path(case: Case, value: Any) -> str:
    """What is wrong with a path that was returned, or ""."""
    path = unpacked(value)
    if not isinstance(path, list) or not all(isinstance(one, x509.Certificate) for one in path):
        return "this is no list of certificates"
    if not path or path[0] != case.chain[0]:
        return "this one does not begin with the leaf"
    if path[-1] not in case.trusted:
        return "this one does not end with a root"
    for one, issuer in pairwise(path):
        try:
            one.verify_directly_issued_by(issuer)
        except (ValueError, InvalidSignature):
            return "in this one a certificate is not issued by the next"
    return ""


def tell(c: Check, function: str, case: Case, said: dict[str, Any]) -> None:
    """The story: what was asked, and what the answer was."""
    if function == "verify":
        c.did(f"> verify() for {case.host} at {case.now:%Y-%m-%d %H:%M:%S}, the chain as it was sent:")
        for certificate in case.chain[:6]:
            c.did("    " + in_words(certificate))
        c.did(f"  roots: {', '.join(named(one.subject) for one in case.trusted)}")
    else:
        second = {"is_for": case.host, "check_alone": f"{case.now:%Y-%m-%d %H:%M:%S}"}.get(function)
        c.did(f"> {function}() of   {in_words(case.path[case.at].certificate)}")
        c.did(f"  and {second}" if second else "  with below it, the leaf first:")
        for made in () if second else case.path[: case.at][:6]:
            c.did("    " + in_words(made.certificate))
    said_no = f"! Refused: {said.get('refused')}" + (f" ({said['more']})" if said.get("more") else "")
    if "value" in said:
        c.did(f"< {said['value'] if isinstance(said['value'], bool) else 'accepted'}")
    else:
        c.did(said_no if "refused" in said else f"! {said.get('raised', 'no answer')}")


def in_words(certificate: x509.Certificate) -> str:
    """A certificate in a line."""
    names: Iterable[x509.GeneralName] = ()
    with contextlib.suppress(x509.ExtensionNotFound):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    shown = ", ".join(str(getattr(name, "value", name)) for name in names)
    return (f"{named(certificate.subject)}{f' for {shown}' if shown else ''}, issued by {named(certificate.issuer)}, "
            f"{certificate.not_valid_before_utc:%m-%d %H:%M:%S} to {certificate.not_valid_after_utc:%m-%d %H:%M:%S}"
            )  # fmt: skip


def named(name: x509.Name) -> str:
    return name.rfc4514_string() or "(no subject)"


def write_down(c: Check, case: Case) -> str:
    """Write the chain to files, and tell the line that asks openssl about it; return the one that asks the learner's.

    The line that names host and time means nothing to openssl, and all to `server_role`.
    """
    chain, roots = FILES
    try:
        chain.parent.mkdir(exist_ok=True)
        roots.write_bytes(pem(case.trusted))
        chain.write_bytes(f"chain for {case.host} at {case.now.isoformat()}\n".encode() + pem(case.chain))
    except OSError:
        return ""
    chain, roots = (path.relative_to(PROJECT) for path in FILES)
    c.did(f"= openssl verify says of this chain: {case.openssl}. Ask it yourself:")
    c.did("    " + openssl_line(case, chain, roots))
    return f"cat {roots} {chain} | nc -w2 127.0.0.1 7004"


def openssl_line(case: Case, chain: Path, roots: Path) -> str:
    is_address = ":" in case.host or case.host.replace(".", "").isdigit()
    return (f"openssl verify -CAfile {roots} -untrusted {chain} -purpose sslserver -attime {case.now.timestamp():.0f} "
            f"-verify_{'ip' if is_address else 'hostname'} {case.host} {chain}")  # fmt: skip


def pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


async def compare_names(
    c: Check, pairs: dict[tuple[str, str], bool], why: dict[tuple[str, str], str], rule: str
) -> None:
    """Ask matches() about pairs of a presented name and a host."""
    for (pair, wanted), said in zip(pairs.items(), await asked(c, [("matches", pair) for pair in pairs]), strict=True):
        call = f"matches({pair[0]!r}, {pair[1]!r})"
        if "value" not in said:
            c.fail(
                f"Your {call} must return True or False: {said.get('raised') or 'it raised Refused, or took too long'}."
            )
        c.did(f"> {call}   < {said['value']}")
        if said["value"] is not wanted:
            c.fail(f"Your {call} is {said['value']}, and must be {wanted}: {why.get(pair, rule)}.")


# -- Names ---------------------------------------------------------------------------------------------


@step(
    "A name is the host's, or it is not",
    rfc=NAMES,
    symptom="Your matches() says no to the host itself, or yes to a host that only looks like it.",
    where="endswith(), startswith() and `in` compare letters, and a name is made of labels. A regular expression takes "
    "a dot for any letter. The case of letters does not matter, nor does a dot behind the last label of the host.",
    code='presented, host = presented.lower(), host.lower().removesuffix(".")\nif presented == host:\n    return True',
    seconds=PATIENCE,
)
async def exact_names(c: Check) -> None:
    case = "the case of letters does not matter"
    whole = "whole labels are compared, all of them, and not letters"
    pairs = {
        (HOST, HOST): True, (HOST, "evil-server.lab"): False, (HOST, "SERVER.Lab"): True,
        ("Server.LAB", HOST): True, (HOST, "server.lab."): True,
        ("xn--bcher-kva.lab", "XN--BCHER-KVA.lab"): True, ("localhost", "localhost"): True,
        (HOST, "evil.server.lab"): False, (HOST, "server.lab.evil.example"): False,
        (HOST, "server"): False, ("server", HOST): False, ("lab", HOST): False, (HOST, "serverxlab"): False,
        (HOST, "server.lab2"): False, ("", HOST): False, ("xn--bcher-kva.lab", "bcher.lab"): False,
    }  # fmt: skip
    why = {
        (HOST, "SERVER.Lab"): case, ("Server.LAB", HOST): case, ("xn--bcher-kva.lab", "XN--BCHER-KVA.lab"): case,
        (HOST, "server.lab."): "a dot at the end says that nothing is to be added to the name (RFC 1034 §3.1), and it "
        "is the same name", (HOST, "serverxlab"): "a dot is a dot",
    }  # fmt: skip
    await compare_names(c, pairs, why, whole)


@step(
    "A wildcard is one label, the first, and the whole of it",
    rfc="RFC 9525 §6.3: one wildcard character, as the complete content of the left-most label, for exactly one label",
    symptom="A wildcard covers too much, or not what it should.",
    where="Only the left-most label may be “*”, and “w*” is not “*”. It stands for exactly one label, and the rest of "
    "the name must be there and be equal. Is yours a pattern of the shell (fnmatch) or a regular expression? Their "
    "stars cross dots.",
    code='star, _, parent = presented.partition(".")\nlabel, _, rest = host.partition(".")\n'
    'return star == "*" and label != "" and parent == rest != ""     # and no "*" in the parent',
    seconds=PATIENCE,
)
async def wildcards(c: Check) -> None:
    web = "web.www.lab"
    one = "a wildcard stands for exactly one label"
    first = "only the whole left-most label may be a wildcard; any other is invalid and MUST be ignored"
    pairs = {
        ("*.www.lab", web): True, ("*.WWW.lab", "Web.www.LAB"): True, ("*.www.lab", "web.www.lab."): True,
        ("*.www.lab", "xn--bcher-kva.www.lab"): True, ("*.www.lab", "www.lab"): False,
        ("*.www.lab", "a.web.www.lab"): False, ("*.www.lab", "web.xwww.lab"): False,
        ("*.www.lab", "webwww.lab"): False, ("*.www.lab", "web.www.lab.evil.example"): False,
        ("*.www.lab", ".www.lab"): False, ("*.*.lab", "web.www.lab"): False, ("www.*.lab", "www.web.lab"): False,
        ("web.*", "web.lab"): False, ("w*.www.lab", web): False, ("*b.www.lab", web): False,
        ("w*b.www.lab", web): False, ("**.www.lab", web): False, ("xn--*.www.lab", "xn--bcher-kva.www.lab"): False,
        ("*", "localhost"): False, ("*", HOST): False, ("*.", "localhost."): False, ("*.", HOST): False,
        ("?eb.www.lab", web): False, ("[w]eb.www.lab", web): False, ("*www.lab", "evilwww.lab"): False,
        (".www.lab", web): False,
    }  # fmt: skip
    why = dict.fromkeys(pairs, first) | {
        ("*.www.lab", host): one
        for host in (web, "www.lab", "a.web.www.lab", "web.www.lab.", "xn--bcher-kva.www.lab", ".www.lab")
    }
    everything = (
        "alone it would be everybody's certificate, and nobody takes it (RFC 9525 §3: protocols may be stricter)"
    )
    why |= dict.fromkeys((("*", "localhost"), ("*", HOST), ("*.", "localhost."), ("*.", HOST)), everything)
    why |= dict.fromkeys([pair for pair in pairs if "*" not in pair[0]], "“*” is the only wildcard there is")
    rest = "behind the wildcard all labels must be equal"
    why |= {("*.www.lab", host): rest for host in ("web.xwww.lab", "webwww.lab", "web.www.lab.evil.example")}
    why["*.WWW.lab", "Web.www.LAB"] = "the case of letters does not matter"
    await compare_names(c, pairs, why, first)


@step(
    "Whom a certificate is for stands in its subjectAltName",
    rfc="RFC 9525 §2: the common name is not used; §6.2 to §6.4: DNS names and addresses, each with its kind",
    symptom="A certificate is taken for one for a host that it does not name, or not for one that it names.",
    where="Ask first whether the host is an address: ipaddress.ip_address() raises ValueError if not. An address is "
    "compared with iPAddress entries alone, a DNS name with dNSName entries alone.",
    code="names = extension(leaf, x509.SubjectAlternativeName)      # perhaps None\n"
    "names.get_values_for_type(x509.DNSName)                  # list of str\n"
    "names.get_values_for_type(x509.IPAddress)                # list of ipaddress.IPv4Address, IPv6Address",
    seconds=PATIENCE,
)
async def alternative_names(c: Check) -> None:
    await judge(c, "is_for", name_cases())


# -- One certificate -----------------------------------------------------------------------------------


@step(
    "Valid from its first second to its last",
    rfc="RFC 5280 §4.1.2.5: from notBefore through notAfter, inclusive; §6.1.3 (a)(2): it includes the current time",
    symptom="A certificate counts at a time at which it does not, or the other way round.",
    where="A validity period has two ends, and both belong to it. `now` knows its time zone, so compare it with what "
    "does, too: the attributes whose names end with _utc.",
    code='if now < certificate.not_valid_before_utc:\n    raise Refused("not yet valid")\n'
    'if now > certificate.not_valid_after_utc:\n    raise Refused("expired")',
    seconds=PATIENCE,
)
async def dates(c: Check) -> None:
    await judge(c, "check_alone", dates_cases())


@step(
    "Good for a server",
    rfc="RFC 5280 §4.2.1.12: if the extension is present, the key MUST only be used for one of the purposes indicated",
    symptom="A certificate that is for something else plays the server; or a good one is refused.",
    where="extendedKeyUsage is a list of purposes. Where it is missing, nothing is restricted.",
    code="purposes = extension(certificate, x509.ExtendedKeyUsage)\n"
    'if purposes is not None and ExtendedKeyUsageOID.SERVER_AUTH not in purposes:\n    raise Refused("purpose")',
    seconds=PATIENCE,
)
async def purposes(c: Check) -> None:
    await judge(c, "check_alone", purpose_cases())


@step(
    "What is critical is handled, or the certificate is refused",
    rfc="RFC 5280 §4.2: MUST reject a critical extension that it does not recognize or cannot process",
    symptom="A certificate says something critical that your program knows nothing about, and it does not mind.",
    where="Each extension has an `oid` and says whether it is `critical`. Which do you act upon? Five kinds: basic "
    "constraints, key usage, extended key usage, name constraints, subjectAltName.",
    code="for one in certificate.extensions:\n    if one.critical and one.oid not in HANDLED:\n"
    '        raise Refused("critical", one.oid)',
    seconds=PATIENCE,
)
async def critical_extensions(c: Check) -> None:
    await judge(c, "check_alone", critical_cases())


# -- One certificate and what is below it --------------------------------------------------------------


@step(
    "Only an authority may issue certificates",
    rfc="RFC 5280 §6.1.4 (k) and (n): the CA flag is set, and keyCertSign where there is a key usage",
    symptom="Whoever has any certificate can make one for every name there is, and your program believes it.",
    where="The CA flag is in basic constraints; no basic constraints, no flag. The key usage has a say, too, but only "
    "where it is there.",
    code="basic, usage = extension(issuer, x509.BasicConstraints), extension(issuer, x509.KeyUsage)\n"
    "if basic is None or not basic.ca or (usage is not None and not usage.key_cert_sign):\n"
    '    raise Refused("not a CA")',
    seconds=PATIENCE,
)
async def authorities(c: Check) -> None:
    await judge(c, "check_issuer", authority_cases())


@step(
    "And only so many below one another",
    rfc="RFC 5280 §4.2.1.9: the most non-self-issued intermediates that may follow; the last certificate is not one",
    symptom="Your program counts the authorities below another one differently.",
    where="The leaf, below[0], is no authority. 0 is a limit and None is not. Who has certified a new key of its own "
    "(subject and issuer are equal) is not counted twice.",
    code="authorities = [one for one in below[1:] if one.subject != one.issuer]\n"
    "if basic.path_length is not None and len(authorities) > basic.path_length:\n"
    '    raise Refused("path length")',
    seconds=PATIENCE,
)
async def path_length(c: Check) -> None:
    await judge(c, "check_issuer", path_length_cases())


@step(
    "And only for the names it may vouch for",
    rfc="RFC 5280 §4.2.1.10, §6.1.3 (b) and (c): each name of each certificate below is permitted and not excluded",
    symptom="An authority that is good for one corner vouches for names elsewhere; or is refused in its own corner.",
    where="Every name of every certificate below counts, not only the one that was asked for. Compare names with "
    "subtrees of their own form. A subtree of DNS names begins at a dot, and is reached by adding labels on the left. "
    "For a wildcard that meets an excluded name: what does it stand for?",
    code="permitted = [tree for tree in limits.permitted_subtrees or () if type(tree) is type(name)]\n"
    'if permitted and not any(is_within(name, tree) for tree in permitted):\n    raise Refused("constraints")\n'
    "...\n"
    'f".{name.value}".lower().endswith(f".{tree.value}".lower())      # DNSName\n'
    "name.value in tree.value                                        # IPAddress: an address in a network",
    seconds=PATIENCE,
)
async def constraints(c: Check) -> None:
    await judge(c, "check_names", constraint_cases())


# -- The chain -----------------------------------------------------------------------------------------


@step(
    "From the leaf to a root that you have",
    rfc=PATH + "; its signature is verified with the issuer's key (§6.1.3 a1)",
    symptom="Somebody who is not trusted has made a chain that looks like a good one, and your program believes it.",
    where="Names can be copied, signatures cannot: `issued` looks at both. A path is good when its last certificate is "
    "in `roots`: the very same certificate, and not one of the same name, nor one that signs itself.",
    code="paths = [[leaf]]\nwhile paths:\n    path = paths.pop()\n    if path[-1] in roots:\n        return path\n"
    "    paths += [[*path, one] for one in (*others, *roots) if one not in path and issued(one, path[-1])]\n"
    'raise Refused("unknown authority")',
    seconds=PATIENCE,
)
async def trust(c: Check) -> None:
    await judge(c, "verify", trust_cases())


@step(
    "Every rule for every certificate of the path",
    rfc="RFC 5280 §6.1.3 for each certificate, §6.1.4 for each but the leaf; RFC 9525 §6 for the leaf",
    symptom="The pieces are right, and verify() does not use all of them, or not everywhere.",
    where="is_for() is asked about the leaf, check_alone() about each certificate of the path, the root too; "
    "check_issuer() and check_names() about each but the leaf, with all that is below it.",
    code="*below, top = path\ncheck_alone(top, now)\nif below:\n    check_issuer(top, below)\n"
    "    check_names(top, below)",
    seconds=PATIENCE,
)
async def every_rule(c: Check) -> None:
    kinds = ("names", "dates", "purposes", "critical", "authorities", "path lengths", "constraints", "roots")
    await judge(c, "verify", [case for kind in kinds for case in TABLES[kind]()])


@step(
    "Good chains that look odd",
    rfc="RFC 8446 §4.4.2: be prepared to handle potentially extraneous certificates and arbitrary orderings",
    symptom="Your program is strict where nothing is wrong. Users learn from that to click warnings away.",
    where="The second certificate need not be the first one's issuer, and the last need not be a root. A way up that "
    "fails says nothing about the next one: remember why, and go on.",
    code="except Refused as error:\n    refusal = error     # no path leads through here; perhaps one leads round it\n"
    "    continue",
    seconds=PATIENCE,
)
async def good_chains(c: Check) -> None:
    await judge(c, "verify", good_cases())


@step(
    "A chain that leads nowhere, in many ways",
    rfc="RFC 4158 §5.2: detect loops; CVE-2018-16875: limit the work",
    symptom="A server has sent certificates that have signed each other, and your program is busy.",
    where="A certificate that is in the path already leads in a circle. And where there are thousands of ways, nobody "
    "needs them all: good paths are short and soon found.",
    code="for _ in range(50):     # instead of: while paths",
    seconds=PATIENCE,
)
async def hostile(c: Check) -> None:
    await judge(c, "verify", hostile_cases())


# -- On a socket ---------------------------------------------------------------------------------------


@step(
    "On the wire: the password goes to the right server, and to no other",
    rfc="RFC 5246 §7.4.2: the Certificate message, the leaf first; RFC 9525 §6.6: without a match the client goes no "
    "further",
    symptom="A client with your verify() has sent its password to a server that is not who it says it is.",
    where="The handshake is done by Python's ssl with its own verification off; before the first byte of data your "
    "verify() is asked. It gets the chain as it stands in the Certificate message, in the clear.",
    code="The steps above have all that is needed.",
    seconds=PATIENCE,
)
async def on_the_wire(c: Check) -> None:
    address = c.net.server.address
    server = leaf(intermediate(), HOST, ip(address))
    forger = authority("Root")
    forged = authority("Intermediate", forger)
    expired = leaf(intermediate(), end=NOW - DAY / 2)
    visits = [
        (HOST, "the server", (server, intermediate()), ""),
        (address, "the server, by its address", (server, intermediate()), ""),
        (HOST, "a forger with a root of the same name", (leaf(forged), forged, forger), "unknown authority"),
        ("bank.lab", "the server, when bank.lab was meant", (server, intermediate()), "name"),
        (HOST, "the server with an old certificate", (expired, intermediate()), "expired"),
    ]
    contexts = [server_context([made.certificate for made in chain], chain[0].key) for _, _, chain, _ in visits]
    with c.net.server.listen(0) as listening:
        port = listening.getsockname()[1]
        hosts, roots = json.dumps([visit[0] for visit in visits]), json.dumps(packed([root().certificate]))
        program = c.start("client_role", address, port, roots, hosts, host="client")
        answering = asyncio.create_task(
            asyncio.to_thread(lambda: [receive(listening, context) for context in contexts])
        )
        try:
            found = await program.result(PATIENCE - 2)
        finally:
            listening.shutdown(socket.SHUT_RDWR)  # Else a thread would wait for a client that has crashed.
            received = await answering
    for (host, who, _, reason), said, came in zip(visits, found, received, strict=True):
        c.did(f"> {who}: a chain of {said['chain']} certificates, for {host}")
        c.did(
            f"< {came.decode()!r}" if came else f"< nothing: {said.get('refused') or said.get('raised') or 'too late'}"
        )
        mine = f"tcp.port == {said['port']}"
        certificate = f"{mine} && tls.handshake.type == 11"
        if "value" not in said and "refused" not in said:
            c.fail(f"Your verify() gave no answer for the chain of {who}: {said.get('raised', 'it took too long')}.",
                   filter=certificate)  # fmt: skip
        if came and reason:
            c.fail(f"Your client has sent its password to {who}: there the chain must be refused, “{reason}”.",
                   filter=f"{mine} && tls.record.content_type == 23")  # fmt: skip
        if not came and not reason:
            c.fail(f"Your client has refused {who}, for the reason “{said.get('refused')}”.", filter=certificate)


def server_context(chain: list[x509.Certificate], key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    """A server's side of TLS that sends these certificates. The ssl module takes them from files only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with tempfile.NamedTemporaryFile() as file:  # Mode 0600, and gone at the end of the block.
        file.write(pem(chain) + secret)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def receive(listening: socket.socket, context: ssl.SSLContext) -> bytes:
    """Accept a client, and return the first that it sends, b"" if it closes instead."""
    try:
        sock, _ = listening.accept()
        sock.settimeout(5)
        with context.wrap_socket(sock, server_side=True) as secured:
            return secured.recv(1000)
    except OSError:  # It has gone in the middle, or has never come.
        return b""
