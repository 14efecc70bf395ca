"""All certificates of the lab, in one table: what each is for, or what its one fault is.

A bad certificate has exactly one fault. All else about it is as it should be, so that whoever refuses it
refuses it for that, and whoever accepts it does not look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# This machine, and the hosts of the experiments. Without one of IPv6, GnuTLS would let the root vouch for any.
NETWORKS = ("127.0.0.0/8", "10.0.0.0/8", "::1/128")
DOMAINS = ("localhost", "lab", "server")
"""What the lab's authority may vouch for, and nothing else (RFC 5280 §4.2.1.10)."""

_SERVER = ("server.lab", "localhost", "server", "127.0.0.1")
_ALICE = ("alice@client.lab",)
_YEAR = 365


@dataclass(frozen=True)
class Kind:
    """What one certificate says, where it says something else than an ordinary server's."""

    about: str = ""  # of one that is in order
    fault: str = ""  # of a bad one
    use: Literal["authority", "server", "client"] = "server"
    signer: str | None = "intermediate"  # None: its own key
    common_name: str = "server.lab"
    names: tuple[str, ...] = _SERVER  # subject alternative names: the common name counts no more (RFC 9525 §2)
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
    "client": Kind("a client called alice, for mutual TLS", use="client", common_name="alice", names=_ALICE),
    "unknown-root": Kind(
        "a root that nobody trusts", use="authority", signer=None, sends=(), constrained=True,
        common_name="Unknown Root CA", names=(), days=(-100, 10 * _YEAR), renew=500,
    ),
    "expired": Kind(fault="its validity is over", days=(-91, -1)),
    "not-yet-valid": Kind(fault="its validity has not begun", days=(_YEAR, _YEAR + 90)),
    "wrong-name": Kind(fault="it is for another.lab, which is not this server", common_name="another.lab",
                       names=("another.lab",)),
    "self-signed": Kind(fault="it is signed with its own key: nobody vouches for it", signer=None, sends=()),
    "unknown-ca": Kind(fault="it is signed by unknown-root, which nobody trusts", signer="unknown-root",
                       sends=("unknown-root",)),
    "revoked": Kind(fault="its signer has taken it back (intermediate.crl)"),
    "no-intermediate": Kind(fault="its server does not send the intermediate's certificate", sends=()),
    "wrong-purpose": Kind(fault="its extended key usage is for clients, not for servers", use="client"),
    "forbidden-name": Kind(fault="it names bank.example, for which its root may not vouch",
                           names=(*_SERVER, "bank.example")),
    "not-a-ca": Kind(fault="it is signed with the key of site, which is no authority", signer="site",
                     sends=("site",)),
    "client-expired": Kind(fault="its validity is over", use="client", common_name="alice", names=_ALICE,
                           days=(-91, -1)),
    "client-unknown": Kind(fault="it is signed by unknown-root, which nobody trusts", use="client",
                           signer="unknown-root", common_name="alice", names=_ALICE, sends=("unknown-root",)),
}  # fmt: skip

REVOKED = {"intermediate": ("revoked",), "root": ()}
"""Who publishes a list of revoked certificates (SIGNER.crl), and what is on it."""

STAPLED = ("server", "revoked")
"""For whom there is a signed answer to "is it revoked?" (NAME.ocsp), which a server can send along (RFC 6066 §8)."""
