"""The chains of this lab's check: each made here, in memory, with exactly one fault, or none.

What `openssl verify` says of each stands beside it; tests/test_tls_exercise.py asks openssl and compares.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
HOST = "server.lab"
UNKNOWN_OID = x509.ObjectIdentifier("1.3.6.1.4.1.32473.1")  # RFC 5612: an enterprise number for examples
SERVER_AUTH, CLIENT_AUTH, EMAIL = (
    ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.EMAIL_PROTECTION,
)  # fmt: skip
BITS = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip


# -- How they are made ----------------------------------------------------------------------------------


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
    usage: Sequence[str] | None = None,
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
    may = usage or (["key_cert_sign", "crl_sign"] if ca else ["digital_signature"])
    bits = x509.KeyUsage(**{bit: bit in may for bit in BITS})
    extensions: list[tuple[x509.ExtensionType | None, bool]] = [
        (x509.BasicConstraints(ca, path_length), True),
        (bits, True),
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


# -- The cases -----------------------------------------------------------------------------------------


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
    athens = NOW.astimezone(timezone(timedelta(hours=3)))
    aware = "`now` knows its time zone, and 15:00+03:00 is 12:00 UTC: compare it, as it is."
    every = "Every certificate of a path must be valid at that time, and not only the leaf (RFC 5280 §6.1.3 a2)."
    return [
        Case("a leaf that is valid from yesterday to tomorrow", (leaf(good), good, root()), "It is June 1st."),
        Case("a leaf that has expired a second ago", (leaf(good, **old), good, root()),
             "RFC 5280 §6.1.3 (a)(2): the validity period includes the current time.", ("expired",), expired),
        Case("a leaf that will be valid in a second", (leaf(good, **early), good, root()),
             "A validity period has two ends, and before its beginning nobody has vouched for anything.",
             ("not yet valid",), not_yet),
        Case("a leaf that has expired a second ago, by a clock in Athens", (leaf(good, **old), good, root()), aware,
             ("expired",), expired, now=athens),
        Case("a leaf that will expire in a second, by a clock in Athens", (leaf(good, end=NOW + SECOND), good, root()),
             aware, now=athens),
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
    signs = (
        "A server proves by a signature who it is: where there is a key usage, digitalSignature MUST be set (RFC 8446 "
    )
    signs += "§4.4.2.2)."
    return [
        Case("a leaf for serverAuth", (leaf(good), good, root()), "That is what a server needs (RFC 5280 §4.2.1.12)."),
        Case("a leaf for clientAuth alone", (leaf(good, purposes=[CLIENT_AUTH]), good, root()),
             "Where there is an extended key usage, the key is for these purposes and no others (RFC 5280 §4.2.1.12): "
             "else every client could play the server.", ("purpose",), wrong),
        Case("a leaf for clientAuth and serverAuth", (leaf(good, purposes=[CLIENT_AUTH, SERVER_AUTH]), good, root()),
             "One purpose of the list is enough."),
        Case("a leaf without an extended key usage", (leaf(good, purposes=None), good, root()),
             "What is not there restricts nothing (RFC 5280 §4.2.1.12)."),
        Case("a leaf whose key usage is cRLSign alone", (leaf(good, usage=["crl_sign"]), good, root()), signs,
             ("purpose",), wrong),
        Case("a leaf whose key usage is keyCertSign alone", (leaf(good, usage=["key_cert_sign"]), good, root()), signs,
             ("purpose",), wrong),
        Case("an intermediate whose key usage is keyCertSign and cRLSign", (leaf(good), good, root()),
             "It signs certificates, and no handshakes: an authority needs no digitalSignature.", at=1),
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
    no_ca = make("Intermediate", root(), ca=False, usage=["digital_signature", "key_cert_sign"])
    silent = authority("Intermediate", root(), without=x509.BasicConstraints,
                       usage=["digital_signature", "key_cert_sign"])  # fmt: skip
    cannot_sign = authority("Intermediate", root(), usage=["crl_sign"])
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
    narrow_twin = authority("Intermediate", root(), constraints=x509.NameConstraints([x509.DNSName("lab")], None))
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
        directly("server.lab under “LAB”", limited("LAB"), [HOST], "Nor does case in subtrees (RFC 5280 §7.2)."),
        directly("server.lab under “.lab”, with a dot in front", limited(".lab"), [HOST],
                 "The RFC knows no such dot, for DNS names; it is often seen, and means at least all below."),
        directly("web.www.lab beside server.lab, and .www.lab is excluded, with a dot in front",
                 limited(never=[".www.lab"]), [HOST, "web.www.lab"],
                 "The RFC knows no such dot, for DNS names; it is often seen, and means at least all below.", word,
                 excluded),
        directly("fd00::1 beside server.lab under fd00::/8", limited("lab", ip("fd00::/8")), [HOST, ip("fd00::1")],
                 "It is within that network (RFC 5280 §4.2.1.10)."),
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
        directly("*.www.lab beside server.lab, and a.secret.www.lab is excluded",
                 limited(never=["a.secret.www.lab"]), [HOST, "*.www.lab"], "The wildcard is one label, not two."),
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
        Case("a leaf for bank.example and server.lab that has the name of its issuer, which is constrained to “lab”",
             (leaf(narrow_twin, HOST, "bank.example", name="Intermediate"), narrow_twin, root()),
             "A self-issued certificate is exempt, unless it is the leaf (RFC 5280 §6.1.3 b).", word, permitted, at=1),
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
    elsewhere, server = leaf(intermediate(), "other.lab"), leaf(intermediate())
    mine = authority("Mine", root(), names=["other.lab"], usage=["digital_signature", "key_cert_sign"])
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
        names("a leaf with the common name server.lab, for the address 127.0.0.1", HOST, [ip("127.0.0.1")], only_san +
              " openssl verify still takes it for a name, where no DNS name is beside it.", word, name=HOST),
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
             word, wrong, sent=(elsewhere, intermediate(), server)),
        Case("an authority's certificate for other.lab, and behind it the leaf of server.lab",
             (mine, root()), "Only the first certificate is the server's own (RFC 8446 §4.4.2), whatever it is: of the "
             "others it need not have the keys.", word, wrong, sent=(mine, server, intermediate())),
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
    one_below = authority("Root", path_length=1)
    a, b = authority("A", one_below), authority("B", one_below)
    a_by_b = authority("A", b, key=a.key)
    short = (leaf(a), a, one_below)
    stranger = ec.generate_private_key(ec.SECP256R1())
    many = [authority(f"Root {number}", key=stranger) for number in range(149)]
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
        *(Case(f"a chain with a second certificate for A, by B, which makes the path too long; in the order {order}",
               short, "What is wrong with one path need not be wrong with another.", sent=(short[0], *sent))
          for order, sent in (("A, A by B, B", (a, a_by_b, b)), ("A, B, A by B", (a, b, a_by_b)),
                              ("B, A, A by B", (b, a, a_by_b)))),
        Case("a chain, and 150 roots of which the last is its own", path, "A browser has about as many. To compare "
             "names is no work that needs a limit.", roots=(*many, root())),
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
