"""One UDP socket, many QUIC connections: whom a datagram is for, and what strangers get.

A connection is found by its ID and not by its address, so a client may change its address. Everybody else is a
stranger, and a stranger's address may be forged (RFC 9000 §8, §21): whatever is answered is smaller than what came or,
in a handshake, at most three times as much; nothing is remembered of who has shown nothing that could be decrypted;
and no answer makes another server answer.

    an Initial of 1200 bytes   a new connection; or Retry, a token that has to come back from the same address (§8.1.2)
    an unknown version         Version Negotiation (§6): unless it is one itself
    a short header             a stateless reset: who has forgotten the connection says so (§10.3)
    all else                   nothing

Datagrams are sent and received many at a time where the kernel can (UDP_SEGMENT, UDP_GRO): a system call for each
costs as much as its encryption.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import logging
import secrets
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from aioquic._buffer import Buffer, BufferReadError
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicPacketType, encode_quic_retry
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.tls import SessionTicket

from protocols.quic import Connection, reset_token
from servers.quic_tokens import Proof, Tickets, Tokens

Address = Any  # (host, port), or with two numbers more for IPv6

SMALLEST = 1200  # bytes of a datagram with an Initial (§14.1)
ID = 8  # bytes of our connection IDs
PROBES = 5  # that nobody answers: a busy path loses two or three
LAST_CALL = 2  # seconds without an answer, when the server ends
AT_ONCE = 32  # datagrams, or bunches of them, before it is the turn of other work
RESETS = 100  # stateless resets per second: in answer to a flood they would be one

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104  # <linux/udp.h>; Python has no names for them
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, DO = 10, 23, 2  # <linux/in.h>: never fragment (§14)
BUNCH = 60000  # bytes for one system call; the kernel takes 65507
SEGMENTS = 64  # and so many datagrams
MAX_UNSENT = 1000  # bunches that wait for the kernel
BUFFER = 1 << 21  # bytes that the kernel may hold for us, if its limits allow

log = logging.getLogger("servers.quic")  # Silent, unless main() gives it a voice.


class Session(Protocol):
    """What the application makes of one connection."""

    def event(self, event: events.QuicEvent) -> None:
        """Something has happened."""

    def turn(self) -> None:
        """All that has come is told, and datagrams will be sent after this: write what may be written."""

    def drain(self) -> None:
        """The server ends: finish what is in flight, then link.close()."""

    def ended(self) -> None:
        """The connection has ended: link.connection.ended tells how. Nothing comes after this."""


class Limits(NamedTuple):
    """What serve() explains."""

    max_connections: int = 10_000
    max_half_open: int = 1_000
    busy: int = 100
    handshake_seconds: float = 10
    max_streams: int = 100
    max_uni_streams: int = 100
    stream_window: int = 1 << 18
    connection_window: int = 1 << 20
    silent_seconds: float = 15


class Link:
    """One connection, and its place at the endpoint."""

    session: Session

    def __init__(self, endpoint: Endpoint, connection: Connection, first_id: bytes, peer: Address) -> None:
        self.endpoint, self.connection = endpoint, connection
        self.ids = {first_id, connection.host_cid}
        self.peer = peer[:2]  # at the beginning
        self.is_half_open, self.has_ended = True, False
        self.timer: asyncio.TimerHandle | None = None
        self.born = self.asks_since = endpoint.now
        endpoint.half_open += 1
        endpoint.all.add(self)
        for one in self.ids:
            endpoint.links[one] = self

    def transmit_soon(self) -> None:
        """Something was written, outside of the session's callbacks."""
        self.endpoint.touch(self)

    def close(self, code: int = QuicErrorCode.NO_ERROR, reason: str = "") -> None:
        """End the connection, with an error code of the application (§19.19). What was not sent yet, is not."""
        self.connection.close(code, None, reason)
        self.endpoint.touch(self)

    def take_turn(self, now: float) -> None:
        """Tell the session what has come, and send what is to be sent."""
        self.hear()
        if not self.connection.ended:
            self.guard(self.session.turn)
        self.endpoint.transmit(self)
        self.hear()  # Sending issues connection IDs.
        if self.connection.ended:
            self.end()
        self.watch_time(now)

    def hear(self) -> None:
        while event := self.connection.next_event():
            if isinstance(event, events.ConnectionIdIssued):
                self.ids.add(event.connection_id)
                self.endpoint.links[event.connection_id] = self
            elif isinstance(event, events.ConnectionIdRetired):
                self.ids.discard(event.connection_id)
                self.endpoint.links.pop(event.connection_id, None)
            elif not self.has_ended and not isinstance(event, events.ConnectionTerminated):
                if isinstance(event, events.HandshakeCompleted):
                    self.is_open(event)
                self.guard(self.session.event, event)

    def guard(self, call: Callable[..., None], *arguments: events.QuicEvent) -> None:
        """A mistake of the application costs one connection, and no other."""
        try:
            call(*arguments)
        except Exception:
            log.exception("! %s", self.peer[1])
            self.connection.close(QuicErrorCode.INTERNAL_ERROR, QuicFrameType.PADDING, "a mistake of the server")

    def is_open(self, event: events.HandshakeCompleted) -> None:
        self.no_longer_half_open()
        resumed = ", resumed" * event.session_resumed + ", with early data" * event.early_data_accepted
        log.info("= %s %s%s", self.peer[1], event.alpn_protocol, resumed)

    def no_longer_half_open(self) -> None:
        if self.is_half_open:
            self.is_half_open = False
            self.endpoint.half_open -= 1

    def end(self) -> None:
        """Tell the session, once. The endpoint remembers the connection a little longer (§10.2)."""
        if not self.has_ended:
            self.has_ended = True
            self.no_longer_half_open()
            ended = self.connection.ended
            assert ended is not None
            log.info("= %s ended: %#x %s", self.peer[1], ended.error_code, ended.reason_phrase[:100])
            self.guard(self.session.ended)
            self.endpoint.gone.set()

    def watch_time(self, now: float) -> None:
        """Come back when the connection wants to, or when the handshake has taken too long."""
        at = self.connection.get_timer()
        if at is None:
            self.forget()
            return
        if self.is_half_open:
            at = min(at, self.born + self.endpoint.limits.handshake_seconds)
        if self.timer is not None:
            if self.timer.when() <= at:
                return  # It will ring early, and look again: cheaper than a new timer for each datagram.
            self.timer.cancel()
        self.timer = self.endpoint.clock.call_at(max(at, now), self.ring)

    def ring(self) -> None:
        self.timer = None
        now, connection = self.endpoint.clock.time(), self.connection
        if self.is_half_open and now >= self.born + self.endpoint.limits.handshake_seconds:
            connection.vanish()
        elif (at := connection.get_timer()) is not None and now >= at - 1e-6:
            connection.handle_timer(max(now, at))
            if connection.probes <= 1:
                self.asks_since = now
            self.give_up(now)
        self.endpoint.touch(self)

    def give_up(self, now: float) -> None:
        """Close, if something is not acknowledged, and probe after probe is not answered.

        Without this the idle timeout would be the end, and what is in flight would be held for so long. That it has
        gone the peer has perhaps said, in a CONNECTION_CLOSE that was lost. In case it has not, it gets ours (§10.1).
        """
        patience = self.endpoint.limits.silent_seconds
        if self.endpoint.draining:
            patience = min(patience, LAST_CALL)
        if self.connection.probes >= PROBES and now - self.asks_since >= patience and not self.connection.ended:
            self.connection.close(QuicErrorCode.NO_ERROR, QuicFrameType.PADDING, "no answer")

    def forget(self) -> None:
        """Nothing of it stays."""
        self.end()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        for one in self.ids:
            self.endpoint.links.pop(one, None)
        self.endpoint.all.discard(self)
        self.endpoint.gone.set()


class Endpoint:
    """A running server: `address` is where. Made by open(); ended by drain()."""

    address: tuple[str, int]

    def __init__(
        self,
        sock: socket.socket,
        configuration: QuicConfiguration,
        make_session: Callable[[Link], Session],
        *,
        retry: bool | Literal["when busy"] = "when busy",
        early_data: bool = True,
        tickets: Tickets | None = None,
        key: bytes | None = None,
        path_mtu: bool = True,
        limits: Limits = Limits(),  # noqa: B008 it is immutable
    ) -> None:
        self.socket, self.configuration, self.make_session = sock, configuration, make_session
        self.retry, self.early_data, self.path_mtu, self.limits = retry, early_data, path_mtu, limits
        self.tickets = Tickets() if tickets is None else tickets
        key = key or secrets.token_bytes(32)
        self.reset_key, self.tokens = hmac.digest(key, b"stateless reset", "sha256"), Tokens(key)
        self.clock = asyncio.get_running_loop()
        self.now = self.clock.time()
        self.all: set[Link] = set()
        self.links: dict[bytes, Link] = {}  # by each of their connection IDs
        self.half_open = 0  # whose handshake is not complete
        self.draining = False
        self.gone = asyncio.Event()
        self.touched: dict[Link, None] = {}  # whose turn it is, in this order
        self.turn_comes = False
        self.unsent: deque[tuple[list[bytes], Address]] = deque()  # what the kernel would not take yet
        self.can_bunch = can_bunch(sock)
        self.resets_left, self.resets_at = float(RESETS), self.now
        self.address = sock.getsockname()[:2]
        self.clock.add_reader(sock.fileno(), self.readable)

    # In.

    def readable(self) -> None:
        """Take what has come, then let each connection that it was for have its turn."""
        self.now = self.clock.time()
        for _ in range(AT_ONCE):
            try:
                data, more, _, peer = self.socket.recvmsg(65535, 64)
            except BlockingIOError:
                break
            except OSError:
                continue  # An earlier datagram could not be delivered (ICMP). Anybody could have said so.
            if not data:
                continue
            size = len(data)  # of the first of a bunch; they are all of one size but the last
            for level, kind, value in more:
                if level == SOL_UDP and kind == UDP_GRO:
                    size = struct.unpack("i", value[:4])[0]
            for at in range(0, len(data), size):
                self.datagram(data if size == len(data) else data[at : at + size], peer)
        self.take_turns()

    def datagram(self, data: bytes, peer: Address) -> None:
        if data[0] & 0x80:
            if len(data) < 7 or len(data) < 6 + data[5]:
                return
            link = self.links.get(data[6 : 6 + data[5]])
            is_known = data[1:5] in VERSIONS
        else:
            link, is_known = self.links.get(data[1 : 1 + ID]), True
        if link is not None and is_known:
            link.connection.receive_datagram(data, peer, self.now)
            self.touched[link] = None
        elif data[0] & 0x80:
            self.stranger(data, peer)
        else:
            self.unknown(data, peer)

    def stranger(self, data: bytes, peer: Address) -> None:
        """A long header, and no connection of ours."""
        if len(data) < SMALLEST:
            return
        version, at = data[1:5], 6 + data[5]
        if len(data) < at + 1 + data[at]:
            return
        ours, theirs = data[6:at], data[at + 1 : at + 1 + data[at]]  # the connection IDs
        if version == bytes(4):
            return  # Version Negotiation is for clients, and answering it would be a loop (§6.1).
        if version not in VERSIONS:
            log.info("> %s Version Negotiation: 0x%s is none of ours", peer[1], version.hex())
            self.send([version_negotiation(ours, theirs)], peer)
            return
        is_initial = (data[0] >> 4) & 3 == VERSIONS[version] and data[0] & 0x40
        if not is_initial or len(ours) < 8 or max(len(ours), len(theirs)) > 20:
            return  # No Initial (§17.2.2), or an ID that is too short (§7.2) or too long (§17.2).
        buf = Buffer(data=data)
        try:
            buf.seek(at + 1 + len(theirs))
            token = buf.pull_bytes(buf.pull_uint_var())
        except BufferReadError:
            return
        self.initial(data, peer, int.from_bytes(version, "big"), ours, theirs, token)

    def initial(self, data: bytes, peer: Address, version: int, ours: bytes, theirs: bytes, token: bytes) -> None:
        """The first packet of a client. *ours* is the connection ID that it has made up for us."""
        limits, original, retried = self.limits, ours, None
        proof = self.tokens.open(token, peer, ours, time.time()) if token else Proof(False, False)
        if proof.was_retry:
            if not proof.is_good:  # It will not take another Retry (§8.1.2).
                self.refuse(peer, version, ours, theirs, QuicErrorCode.INVALID_TOKEN)
                return
            original, retried = proof.original, ours
        elif not proof.is_good and (self.retry is True or (self.retry and self.half_open >= limits.busy)):
            mine = secrets.token_bytes(ID)
            sealed = self.tokens.retry(peer, ours, mine, time.time())
            log.info("> %s Retry", peer[1])
            self.send([encode_quic_retry(version, mine, theirs, ours, sealed)], peer)
            return
        is_full = len(self.all) >= limits.max_connections or self.half_open >= limits.max_half_open
        if self.draining or is_full:
            self.refuse(peer, version, ours, theirs, QuicErrorCode.CONNECTION_REFUSED)  # §5.2.2
            return
        connection = self.connection(original, retried, proof.is_good, peer)
        connection.receive_datagram(data, peer, self.now)
        if not connection.has_begun:
            connection.vanish()  # Nothing could be decrypted.
            return
        if proof.is_good:
            self.tokens.spend(token, time.time())
        link = Link(self, connection, ours, peer)
        link.session = self.make_session(link)
        self.touched[link] = None

    def refuse(self, peer: Address, version: int, ours: bytes, theirs: bytes, code: QuicErrorCode) -> None:
        log.info("! %s %s", peer[1], code.name)
        self.send([refusal(version, ours, theirs, code)], peer)

    def connection(self, original: bytes, retried: bytes | None, is_valid: bool, peer: Address) -> Connection:
        """A new one, that knows about our tickets and tokens."""
        named: list[bytes] = []  # the ticket that the client brings

        def fetch(identity: bytes) -> SessionTicket | None:
            kept = self.tickets.find(identity)
            named.append(identity)
            return kept and kept[0]

        def may_be_early() -> bool:
            """The ticket's secret is proved now: it is taken, so this is asked, and said yes to, once."""
            kept = self.tickets.take(named[-1])
            return self.early_data and kept is not None and kept[1] == connection.tls.alpn_negotiated

        connection = Connection(
            configuration=self.configuration,
            stream_window=self.limits.stream_window,
            connection_window=self.limits.connection_window,
            max_streams=self.limits.max_streams,
            max_uni_streams=self.limits.max_uni_streams,
            reset_key=self.reset_key,
            address_is_valid=is_valid,
            accept_early=may_be_early,
            new_token=self.tokens.next_time(peer, time.time()),
            path_mtu=self.path_mtu,
            original_destination_connection_id=original,
            retry_source_connection_id=retried,
            session_ticket_fetcher=fetch,
            session_ticket_handler=lambda ticket: self.tickets.keep(ticket, connection.tls.alpn_negotiated),
        )
        return connection

    def unknown(self, data: bytes, peer: Address) -> None:
        """A short header, for a connection that is not known (any more): tell its owner, if there is one (§10.3).

        Always a byte shorter than what came, so that two servers that do not know each other soon fall silent.
        """
        size = min(len(data) - 1, 42)
        elapsed, self.resets_at = self.now - self.resets_at, self.now
        self.resets_left = min(RESETS, self.resets_left + elapsed * RESETS)
        if size < 21 or self.resets_left < 1 or not data[0] & 0x40:
            return
        self.resets_left -= 1
        log.info("> %s stateless reset", peer[1])
        noise = secrets.token_bytes(size - 16)
        token = reset_token(self.reset_key, data[1 : 1 + ID])
        self.send([bytes([noise[0] & 0x3F | 0x40]) + noise[1:] + token], peer)

    # Out.

    def touch(self, link: Link) -> None:
        """Let this connection have a turn, soon."""
        self.touched[link] = None
        if not self.turn_comes:
            self.turn_comes = True
            self.clock.call_soon(self.take_turns_now)

    def take_turns_now(self) -> None:
        self.turn_comes = False
        self.now = self.clock.time()
        self.take_turns()

    def take_turns(self) -> None:
        """Each connection that something has happened to, once. None while the kernel takes no more datagrams."""
        if self.unsent:
            return
        touched, self.touched = self.touched, {}
        for link in touched:
            link.take_turn(self.now)

    def transmit(self, link: Link) -> None:
        """Send what a connection has to send: datagrams of one size in bunches."""
        datagrams = link.connection.datagrams_to_send(self.now)
        bunch: list[bytes] = []
        peer, size, total = None, 0, 0
        for data, to in datagrams:
            fits = len(data) <= size == len(bunch[-1]) and total + len(data) <= BUNCH if bunch else False
            if bunch and not (fits and to == peer and self.can_bunch and len(bunch) < SEGMENTS):
                self.send(bunch, peer, link)
                bunch = []
            if not bunch:
                peer, size, total = to, len(data), 0
            bunch.append(data)
            total += len(data)
        if bunch:
            self.send(bunch, peer, link)

    def send(self, bunch: list[bytes], peer: Address, link: Link | None = None) -> None:
        """One system call; more where the kernel cannot send a bunch."""
        if self.unsent:
            if len(self.unsent) < MAX_UNSENT:
                self.unsent.append((bunch, peer))
            return
        try:
            if len(bunch) == 1:
                self.socket.sendto(bunch[0], peer)
            else:
                self.socket.sendmsg(bunch, [(SOL_UDP, UDP_SEGMENT, struct.pack("H", len(bunch[0])))], 0, peer)
        except BlockingIOError:
            self.unsent.append((bunch, peer))
            self.clock.add_writer(self.socket.fileno(), self.writable)
        except OSError as error:
            if len(bunch) > 1:  # The device cannot do it (EIO), or one of them is too large.
                self.can_bunch = self.can_bunch and error.errno == errno.EMSGSIZE
                for data in bunch:
                    self.send([data], peer, link)
            elif error.errno == errno.EMSGSIZE and link is not None:
                link.connection.too_large(len(bunch[0]))
                self.touch(link)
            # Anything else is as if it was lost on the way: QUIC will notice.

    def writable(self) -> None:
        """The kernel takes datagrams again."""
        self.clock.remove_writer(self.socket.fileno())
        unsent, self.unsent = self.unsent, deque()
        for bunch, peer in unsent:
            self.send(bunch, peer)
        self.take_turns_now()

    # The end.

    async def drain(self, seconds: float) -> None:
        """No more connections; those that there are when they have finished, or time is up."""
        self.draining = True
        for link in list(self.all):
            if link.is_half_open:
                link.connection.close(QuicErrorCode.CONNECTION_REFUSED, QuicFrameType.PADDING, "the server ends")
                self.touch(link)
            elif not link.has_ended:
                link.guard(link.session.drain)
                link.give_up(self.clock.time())
                self.touch(link)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(not link.has_ended for link in self.all):
                    self.gone.clear()
                    await self.gone.wait()
        for link in list(self.all):
            if not link.has_ended:
                link.connection.close(QuicErrorCode.NO_ERROR, QuicFrameType.PADDING, "the server ends")
            self.transmit(link)
        for link in list(self.all):
            link.connection.vanish()
            link.forget()
        self.clock.remove_reader(self.socket.fileno())
        self.clock.remove_writer(self.socket.fileno())
        self.socket.close()


# -- Answers to strangers ------------------------------------------------------------------------------


V1, V2 = bytes.fromhex("00000001"), bytes.fromhex("6b3343cf")
VERSIONS = {V1: 0, V2: 1}  # and how each of them says Initial (§17.2, RFC 9369 §3.2)


def version_negotiation(ours: bytes, theirs: bytes) -> bytes:
    """What we speak (§17.2.1). By RFC 8999 alone: the client's version may have IDs of any length."""
    first = bytes([secrets.randbits(7) | 0x80])
    return first + bytes(4) + bytes([len(theirs)]) + theirs + bytes([len(ours)]) + ours + b"".join(VERSIONS)


def refusal(version: int, ours: bytes, theirs: bytes, code: QuicErrorCode) -> bytes:
    """An Initial that only says CONNECTION_CLOSE: for who has no connection here, and gets none."""
    crypto = CryptoPair()
    crypto.setup_initial(cid=ours, is_client=False, version=version)
    builder = QuicPacketBuilder(
        host_cid=ours, peer_cid=theirs, version=version, is_client=False, max_datagram_size=SMALLEST
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    buf = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, 25)
    for number in (code, QuicFrameType.PADDING, 0):
        buf.push_uint_var(number)
    return builder.flush()[0][0]


def can_bunch(sock: socket.socket) -> bool:
    """Does the kernel cut up bunches? (Linux, since 4.18.)"""
    try:
        sock.setsockopt(SOL_UDP, UDP_SEGMENT, 0)
    except OSError:
        return False
    return True


async def open_socket(host: str, port: int) -> socket.socket:
    """A UDP socket that never fragments, with room in the kernel."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, DO)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, DO)
        with contextlib.suppress(OSError):
            sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock
