"""All certificates of the lab, in one table: what each is for, or what its one fault is.

A bad certificate has exactly one fault. All else about it is as it should be, so that whoever refuses it
refuses it for that, and whoever accepts it does not look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NETWORKS = ("127.0.0.0/8", "10.0.0.0/8")  # this machine, and the hosts of the experiments
DOMAINS = ("localhost", "lab", "server")
"""What the lab's authority may vouch for, and nothing else (RFC 5280 §4.2.1.10)."""

_SERVER = ("server.lab", "localhost", "server", "127.0.0.1")
_YEAR = 365


@dataclass(frozen=True)
class Kind:
    """What one certificate says, where it says something else than an ordinary server's."""

    about: str
    fault: str = ""  # of a bad one: a whole sentence
    use: Literal["authority", "server", "client"] = "server"
    signer: str | None = "intermediate"  # None: its own key
    common_name: str = "server.lab"
    names: tuple[str, ...] = _SERVER  # the subject alternative names; nobody looks at the common name (RFC 9525 §2)
    days: tuple[int, int] = (0, 90)  # valid from and to, counted from the day it is made
    renew: int = 7  # made anew when this many days are left
    path_length: int | None = None  # authorities only: how many authorities may follow below it
    constrained: bool = False  # authorities only: has the name constraints
    rsa: bool = False
    sends: tuple[str, ...] = ("intermediate",)  # what a server sends after it


# Signers come before what they sign. Authorities begin early enough for `expired` to have been in order once,
# and are made anew while they still outlive all that they sign.
KINDS = {
    "root": Kind(
        "the root: who trusts this one trusts all others", use="authority", signer=None, sends=(), constrained=True,
        common_name="Networking Lab Root CA", names=(), days=(-100, 10 * _YEAR), renew=3 * _YEAR + 7,
    ),
    "intermediate": Kind(
        "signs all others, so that the root's key could stay in a safe", use="authority", signer="root", sends=(),
        common_name="Networking Lab Intermediate CA", names=(), days=(-100, 3 * _YEAR), renew=500, path_length=0,
    ),
    "server": Kind("the lab's server, with an ECDSA key"),
    "server-rsa": Kind("the same with an RSA key, for old clients and for comparison", rsa=True),
    "www": Kind("a second site on the same address, told apart by SNI", common_name="www.lab",
                names=("www.lab", "*.www.lab")),
    "site": Kind("an ordinary site, signed by the root itself", signer="root", common_name="site.lab",
                 names=("site.lab",), sends=()),
    "client": Kind("a client called alice, for mutual TLS", use="client", common_name="alice",
                   names=("alice@client.lab",)),
    "expired": Kind("ended yesterday", "Its validity ended yesterday.", days=(-91, -1)),
    "not-yet-valid": Kind("begins in a year", "Its validity begins in a year.", days=(_YEAR, _YEAR + 90)),
    "wrong-name": Kind("is another's", "It is for another.lab only.", common_name="another.lab",
                       names=("another.lab",)),
    "self-signed": Kind("vouches for itself", "It is signed with its own key: nobody vouches for it.", signer=None,
                        sends=()),
    "unknown-root": Kind(
        "a root that nobody trusts", use="authority", signer=None, sends=(), constrained=True,
        common_name="Unknown Root CA", names=(), days=(-100, 10 * _YEAR), renew=500,
    ),
    "unknown-ca": Kind("is vouched for by a stranger", "It is signed by unknown-root, which nobody trusts.",
                       signer="unknown-root", sends=("unknown-root",)),
    "revoked": Kind("was taken back", "It is in intermediate.crl: its signer has taken it back."),
    "no-intermediate": Kind("comes alone", "Its server does not send the intermediate certificate.", sends=()),
    "wrong-purpose": Kind("is a client's", "It is for clients, by its extended key usage, and not for servers.",
                          use="client"),
    "forbidden-name": Kind("says a name too many", "It names bank.example, which its root may not vouch for.",
                           names=(*_SERVER, "bank.example")),
    "not-a-ca": Kind("is signed by a site", "It is signed with the key of site, which is no authority.", signer="site",
                     sends=("site",)),
    "client-unknown": Kind("a client vouched for by a stranger", "It is signed by unknown-root, which nobody trusts.",
                           use="client", signer="unknown-root", common_name="alice", names=("alice@client.lab",),
                           sends=("unknown-root",)),
    "client-expired": Kind("a client that ended yesterday", "Its validity ended yesterday.", use="client",
                           common_name="alice", names=("alice@client.lab",), days=(-91, -1)),
}  # fmt: skip

REVOKED = {"intermediate": ("revoked",), "root": ()}
"""Who publishes a list of revoked certificates (a CRL), and what is on it."""
