"""What a QUIC server gives away and gets back: tokens that prove an address, and tickets that resume a session.

A token costs the server no memory until it comes back: all that it needs is inside, sealed with a key of its own. Then
it is remembered for as long as it would be good, because it is good once (RFC 9000 §8.1.4). A ticket is kept here, and
is good for early data once: so a first flight that somebody has recorded and sends again finds it gone, and what it
carries is not run a second time (RFC 8446 §8.1, single-use tickets).
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import struct
from collections import OrderedDict
from typing import Any, NamedTuple

from aioquic.tls import SessionTicket
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

RETRY, NEXT_TIME = b"r", b"n"  # the first byte: which kind of token it is (§8.1.1: a server must be able to tell)
RETRY_SECONDS = 10  # It comes back at once.
NEXT_TIME_SECONDS = 3600
MOST_SPENT = 20_000  # tokens of each kind that are remembered; then the oldest of them could be used again


class Proof(NamedTuple):
    """What a token says."""

    was_retry: bool
    is_good: bool  # Else it is expired, or somebody else's, or nobody's.
    original: bytes = b""  # the connection ID of the client's first packet, before Retry


class Tokens:
    """Sealed with AES-GCM: nobody can make one, change one, or give it to somebody at another address."""

    def __init__(self, key: bytes) -> None:
        self._seal = AESGCM(hmac.digest(key, b"tokens", "sha256"))
        self._spent: dict[bytes, dict[bytes, float]] = {RETRY: {}, NEXT_TIME: {}}  # until when, the first to go first

    def retry(self, peer: Any, original: bytes, ours: bytes, now: float) -> bytes:
        """For a Retry: bound to address and port, and to the connection ID that the Retry gives out."""
        return self._close(RETRY, now + RETRY_SECONDS, address(peer) + port(peer) + ours, original)

    def next_time(self, peer: Any, now: float) -> bytes:
        """For NEW_TOKEN: bound to the address. The port will be another one."""
        return self._close(NEXT_TIME, now + NEXT_TIME_SECONDS, address(peer), b"")

    def open(self, token: bytes, peer: Any, ours: bytes, now: float) -> Proof:
        kind = token[:1]
        bound = address(peer) + port(peer) + ours if kind == RETRY else address(peer)
        try:
            plain = self._seal.decrypt(token[1:13], token[13:], kind + bound)
        except (InvalidTag, ValueError):
            return Proof(kind == RETRY, False)
        (until,) = struct.unpack_from("!d", plain)
        return Proof(kind == RETRY, now <= until and token not in self._spent[kind], plain[8:])

    def spend(self, token: bytes, now: float) -> None:
        """It has been of use, and is of no more: else whoever saw it could have us flood its owner for an hour."""
        spent = self._spent[token[:1]]
        while spent and (spent[first := next(iter(spent))] < now or len(spent) >= MOST_SPENT):
            del spent[first]
        spent[token] = now + (RETRY_SECONDS if token[:1] == RETRY else NEXT_TIME_SECONDS)

    def _close(self, kind: bytes, until: float, bound: bytes, inside: bytes) -> bytes:
        nonce = secrets.token_bytes(12)
        return kind + nonce + self._seal.encrypt(nonce, struct.pack("!d", until) + inside, kind + bound)


def address(peer: Any) -> bytes:
    return ipaddress.ip_address(peer[0].partition("%")[0]).packed


def port(peer: Any) -> bytes:
    return struct.pack("!H", peer[1])


class Tickets:
    """Sessions to resume. Several servers may share them: only one gets a ticket, and only once.

    most       that are kept; the oldest go first
    only_once  False: a ticket may be taken again. Do not: early data can then be replayed
    """

    def __init__(self, most: int = 10_000, only_once: bool = True) -> None:
        self.most, self.only_once = most, only_once
        self._kept: OrderedDict[bytes, tuple[SessionTicket, str | None]] = OrderedDict()

    def keep(self, ticket: SessionTicket, protocol: str | None) -> None:
        self._kept[ticket.ticket] = ticket, protocol
        if len(self._kept) > self.most:
            self._kept.popitem(last=False)

    def find(self, identity: bytes) -> tuple[SessionTicket, str | None] | None:
        """The ticket, and the protocol that was spoken under it: early data is for no other (RFC 8446 §4.2.10).

        It stays: its name can be read in a first flight, and whoever names it need not have its secret (§4.2.11.2).
        """
        return self._kept.get(identity)

    def take(self, identity: bytes) -> tuple[SessionTicket, str | None] | None:
        """For who has the secret: early data may come."""
        return self._kept.pop(identity, None) if self.only_once else self._kept.get(identity)
