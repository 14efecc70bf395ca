"""Caught by: trust: accepts a whole chain with its own root

A root is what signs itself; so the chain ends well where it ends with one.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

Path = list[x509.Certificate]  # from the leaf upwards; each certificate is issued by the next

# What stands in these is acted upon below. Whatever else is critical means: refuse, if you do not know it. (§4.2)
HANDLED = {kind.oid for kind in (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.NameConstraints,
                                 x509.SubjectAlternativeName)}  # fmt: skip
MOST = 50  # paths looked at: certificates that all sign each other would make millions of them (CVE-2018-16875)


class Refused(Exception):
    """Its first argument is the reason, the second tells more."""


def extension(certificate: x509.Certificate, kind: type) -> Any:
    """A certificate's extension of this kind, None if it has none."""
    return next((one.value for one in certificate.extensions if isinstance(one.value, kind)), None)


def issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Is the issuer's name in the certificate, and has the issuer's key signed it?"""
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # Another name, another key, a kind of signature that nobody knows.
        return False
    return True


def matches(presented: str, host: str) -> bool:
    """Does a DNS name of a certificate, perhaps with a wildcard, cover this host? (RFC 9525 §6.3)"""
    presented, host = presented.lower(), host.lower().removesuffix(".")
    if presented == host:
        return True
    star, _, parent = presented.partition(".")  # "*" is a whole label, the left-most, and stands for exactly one.
    label, _, rest = host.partition(".")
    return star == "*" and "*" not in parent and label != "" and parent == rest != ""


def is_for(leaf: x509.Certificate, host: str) -> bool:
    """Is this certificate for the host? The common name is for people, not for us. (RFC 9525 §6.2 to §6.4)"""
    names = extension(leaf, x509.SubjectAlternativeName)
    if names is None:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return any(matches(name, host) for name in names.get_values_for_type(x509.DNSName))
    return address in names.get_values_for_type(x509.IPAddress)  # Numbers, so "::1" is "0:0::1"; never a DNS name.


def check_alone(certificate: x509.Certificate, now: datetime) -> None:
    """What is asked of every certificate in the path, whatever stands below it."""
    if now < certificate.not_valid_before_utc:
        raise Refused("not yet valid", f"before {certificate.not_valid_before_utc}")
    if now > certificate.not_valid_after_utc:  # Both ends are inclusive. (§4.1.2.5)
        raise Refused("expired", f"on {certificate.not_valid_after_utc}")
    purposes = extension(certificate, x509.ExtendedKeyUsage)
    if purposes is not None and ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
        raise Refused("purpose", f"good for {[purpose.dotted_string for purpose in purposes]}")
    basic, usage = extension(certificate, x509.BasicConstraints), extension(certificate, x509.KeyUsage)
    if not (basic and basic.ca) and usage and not usage.digital_signature:
        raise Refused("purpose", "its key may not sign a handshake")  # (RFC 8446 §4.4.2.2)
    for one in certificate.extensions:
        if one.critical and one.oid not in HANDLED:
            raise Refused("critical", f"who knows what {one.oid.dotted_string} forbids?")


def check_issuer(issuer: x509.Certificate, below: Path) -> None:
    """May it issue certificates at all (§6.1.4 k, n), and with so many authorities below it (l, m)?"""
    basic, usage = extension(issuer, x509.BasicConstraints), extension(issuer, x509.KeyUsage)
    if basic is None or not basic.ca or (usage is not None and not usage.key_cert_sign):
        raise Refused("not a CA", issuer.subject.rfc4514_string())
    authorities = [one for one in below[1:] if not is_self_issued(one)]  # The leaf does not count, nor a new key.
    if basic.path_length is not None and len(authorities) > basic.path_length:
        raise Refused("path length", f"{len(authorities)} authorities below, {basic.path_length} allowed")


def is_self_issued(certificate: x509.Certificate) -> bool:
    """An authority that has certified its own new key; or any root. (§6.1)"""
    return certificate.subject == certificate.issuer


def check_names(issuer: x509.Certificate, below: Path) -> None:
    """All names of all certificates below must be permitted, and not excluded. (§4.2.1.10, §6.1.3 b, c)"""
    limits = extension(issuer, x509.NameConstraints)
    if limits is None:
        return
    leaf = below[0]
    for certificate in below:
        if is_self_issued(certificate) and certificate is not leaf:
            continue
        for name in names_of(certificate):
            permitted = [tree for tree in limits.permitted_subtrees or () if type(tree) is type(name)]
            excluded = [tree for tree in limits.excluded_subtrees or () if type(tree) is type(name)]
            # What is permitted to DNS names says nothing about addresses.
            if permitted and not any(is_within(name, tree) for tree in permitted):
                raise Refused("constraints", f"{name.value} is not permitted")
            if any(is_within(name, tree) or stands_for(name, tree) for tree in excluded):
                raise Refused("constraints", f"{name.value} is excluded")


def names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """Its subject, unless that is empty, and its alternative names."""
    names = list(extension(certificate, x509.SubjectAlternativeName) or ())
    return [x509.DirectoryName(certificate.subject), *names] if certificate.subject.rdns else names


def is_within(name: x509.GeneralName, tree: x509.GeneralName) -> bool:
    """Is the name in the subtree? For DNS: equal but for labels on the left, and "" is above all."""
    if isinstance(name, x509.DNSName):
        base = tree.value.lower().removeprefix(".")  # A dot in front is not in the RFC, and often seen.
        return base == "" or f".{name.value.lower()}".endswith(f".{base}")
    if isinstance(name, x509.IPAddress):
        return name.value in tree.value
    raise Refused("critical", f"a constraint on {type(name).__name__}")  # Process it or reject. (§4.2.1.10)


def stands_for(name: x509.GeneralName, tree: x509.GeneralName) -> bool:
    """Is the name a wildcard that covers the top of the subtree? *.lab is as good as secret.lab. (CVE-2025-61727)"""
    return isinstance(name, x509.DNSName) and matches(name.value, tree.value.removeprefix("."))


def verify(chain: Path, roots: Path, host: str, now: datetime) -> Path:
    """Return the path that is good, from the leaf to one of the roots. Refused if there is none."""
    leaf, *others = chain
    if not is_for(leaf, host):
        raise Refused("name", host)
    refusal = Refused("unknown authority", leaf.issuer.rfc4514_string())
    paths = [[leaf]]
    for _ in range(MOST):
        if not paths:
            break
        path = paths.pop()
        *below, top = path
        try:
            check_alone(top, now)
            if below:
                check_issuer(top, below)
                check_names(top, below)
        except Refused as error:
            refusal = error  # No path leads through here; perhaps one leads round it.
            continue
        if top in roots or (is_self_issued(top) and issued(top, top)):
            return path
        known = [one for one in (*others, *roots) if one not in path]  # The last is tried first: roots are.
        paths += [[*path, issuer] for issuer in known if issued(issuer, top)]
    raise refusal
