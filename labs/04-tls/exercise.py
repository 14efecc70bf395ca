"""Is that server who it says it is? Yours to write: RFC 9525 §6 for its name, RFC 5280 §6.1 for its chain.

    leaf: server.lab, issued by Intermediate   ←   Intermediate, issued by Root   ←   Root, which is in `roots`

The leaf is sent first; behind it, in any order, comes what may help: too much of it, or all but the root. Climb from
the leaf: who of those that you know has issued the one on top, and may it? A root is trusted because you have it.
`cryptography` reads and does the sums, you decide. Read README.md, check with `make tls-check`, ask `make tls-hint`.
As shipped this makes the classic mistake: it looks for the right letters, and trusts what it was sent.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from cryptography import x509


class Refused(Exception):
    """Its first argument is the reason: "name", "not yet valid", "expired", "purpose", "critical", "not a CA",
    "path length", "constraints" or "unknown authority". What follows is yours, for whoever reads the log."""


def extension(certificate: x509.Certificate, kind: type) -> Any:
    """Given: the extension of a kind, as in extension(leaf, x509.SubjectAlternativeName); None if there is none."""
    return next((one.value for one in certificate.extensions if isinstance(one.value, kind)), None)


def issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Given: does the certificate name this issuer, and has this issuer's key signed it?"""
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # Another name, another key, a kind of signature that nobody knows.
        return False
    return True


def matches(presented: str, host: str) -> bool:
    """TODO 1: does a DNS name in a certificate, perhaps with a wildcard, cover this host? Both are ASCII."""
    return host.endswith(presented.lstrip("*"))


def is_for(leaf: x509.Certificate, host: str) -> bool:
    """TODO 2: is it for this host, a DNS name or the text of an IP address? Only the subjectAltName counts."""
    return matches(leaf.subject.rfc4514_string().removeprefix("CN="), host)


def check_alone(certificate: x509.Certificate, now: datetime) -> None:
    """TODO 3: Refused unless it is valid at `now`, good for serverAuth, able to sign handshakes if it is no authority,
    and handled here in all that is critical. `now` is aware, so compare it with the attributes not_valid_…_utc."""


def check_issuer(issuer: x509.Certificate, below: list[x509.Certificate]) -> None:
    """TODO 4: Refused unless it may issue certificates, and so many: `below` is the path under it, the leaf first."""


def check_names(issuer: x509.Certificate, below: list[x509.Certificate]) -> None:
    """TODO 5: Refused unless its name constraints allow every name below: DNSName, IPAddress; others: "critical"."""


def verify(chain: list[x509.Certificate], roots: list[x509.Certificate], host: str, now: datetime) -> object:
    """TODO 6: return the path that convinced you, from the leaf up to one of the roots. Refused if there is none."""
    return chain
