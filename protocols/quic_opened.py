"""What opens a recording of QUIC: the keys of each kind of packet, and an onlooker who has them (RFC 9001 §5, §6).

Every packet is sealed twice. The payload is encrypted, with the header as what must not be changed (§5.3). Then the
packet's number and some bits of the first byte are covered with a mask that is made of the sealed payload (§5.4): who
has no key cannot even tell how many packets were sent, or put one and the same sender's packets in their order.

    Initial      keys made of the ID that the client's first packet is sent to (§5.2): all can open it, but whoever
                 has not seen the packet cannot answer it
    0-RTT        CLIENT_EARLY_TRAFFIC_SECRET, of an earlier connection's ticket
    Handshake    CLIENT_ and SERVER_HANDSHAKE_TRAFFIC_SECRET
    1-RTT        CLIENT_ and SERVER_TRAFFIC_SECRET_0, and after each key update the secret that is made of that (§6)

The secrets are those of a key log (protocols/tls_opened.py): QUIC has TLS make them, and does the rest itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable
from functools import cached_property
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocols.errors import RemoteProtocolError
from protocols.quic_frames import Crypto, Frame, NewConnectionId, parse_parameters
from protocols.quic_frames import parse as parse_frames
from protocols.quic_numbers import TransportParameter
from protocols.quic_packets import (
    LONG,
    MIN_INITIAL,
    MIN_RESET,
    VERSION_1,
    VERSION_2,
    Packet,
    PacketType,
    decode_packet_number,
    invariant,
    split,
)
from protocols.tls import RETRY, Fields, HandshakeType, Message, Messages, client_hello, extensions, server_hello
from protocols.tls_opened import SUITES, Secrets, all_secrets, expand

AES_128_GCM_SHA256, CHACHA20_POLY1305_SHA256 = 0x1301, 0x1303
TRANSPORT_PARAMETERS = 0x39  # the extension of TLS that carries them (§8.2)
_SALT = bytes.fromhex(
    "38762cf7f55934b34d179ae6a4c80cadccbb7f0a"
)  # §5.2: of version 1, so that others must have read it
_LABELS = {
    PacketType.ZERO_RTT: "EARLY_TRAFFIC_SECRET",
    PacketType.HANDSHAKE: "HANDSHAKE_TRAFFIC_SECRET",
    PacketType.ONE_RTT: "TRAFFIC_SECRET_0",
}
_FRESH = 8  # bytes at least of the ID that a client's first packet is sent to (RFC 9000 §7.2)


class Keys:
    """The keys of one direction and one kind of packet, made of a secret."""

    def __init__(
        self, secret: bytes, suite: int = AES_128_GCM_SHA256, phase: bool = False, header_key: bytes = b""
    ) -> None:
        aead, length, self._hash = SUITES[suite]
        self._secret, self._suite, self.phase = secret, suite, phase
        self._aead = aead(expand(secret, b"quic key", length, self._hash))
        self._iv = int.from_bytes(expand(secret, b"quic iv", 12, self._hash), "big")
        self._header_key = header_key or expand(secret, b"quic hp", length, self._hash)
        self._blocks = Cipher(algorithms.AES(self._header_key), modes.ECB()).encryptor()

    @cached_property
    def next(self) -> Keys:
        """Those after a key update (§6.1). The header's key stays: or nobody could read that there was one."""
        secret = expand(self._secret, b"quic ku", len(self._secret), self._hash)
        return Keys(secret, self._suite, not self.phase, self._header_key)

    def open(self, packet: Packet, largest: int = -1) -> tuple[int, bytes]:
        """The number of a packet, and its payload; *largest* is the largest number so far, in its space.

        RemoteProtocolError: it was sealed with other keys, or it was changed on the way.
        """
        at = packet.number_at
        mask = self._mask(packet.data[at + 4 : at + 20])
        first = packet.data[0] ^ (mask[0] & (0x0F if packet.is_long else 0x1F))
        if not packet.is_long and bool(first & 4) != self.phase:
            raise RemoteProtocolError("sealed in another key phase (RFC 9001 §6)")
        end = at + (first & 3) + 1
        truncated = _xor(packet.data[at:end], mask[1:])
        number = decode_packet_number(largest, int.from_bytes(truncated, "big"), 8 * (end - at))
        header = bytes([first]) + packet.data[1:at] + truncated
        try:
            return number, self._aead.decrypt(self._nonce(number), packet.data[end:], header)
        except InvalidTag:
            raise RemoteProtocolError("sealed with other keys (RFC 9001 §5.3)") from None

    def seal(self, header: bytes, number: int, payload: bytes) -> bytes:
        """The packet: *header* ends with the bytes of the number (quic_packets.long_header, short_header)."""
        sealed = self._aead.encrypt(self._nonce(number), payload, header)
        at = len(header) - (header[0] & 3) - 1
        mask = self._mask(sealed[at + 4 - len(header) :][:16])  # As if the number had four bytes (§5.4.2).
        first = header[0] ^ (mask[0] & (0x0F if header[0] & LONG else 0x1F))
        return bytes([first]) + header[1:at] + _xor(header[at:], mask[1:]) + sealed

    def _nonce(self, number: int) -> bytes:
        return (self._iv ^ number).to_bytes(12, "big")

    def _mask(self, sample: bytes) -> bytes:
        if self._suite == CHACHA20_POLY1305_SHA256:  # §5.4.4
            return Cipher(algorithms.ChaCha20(self._header_key, sample), None).encryptor().update(bytes(5))
        return self._blocks.update(sample)[:5]  # §5.4.3


def _xor(data: bytes, mask: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, mask, strict=False))


def initial_keys(destination: bytes) -> dict[bool, Keys]:
    """The client's (True) and the server's (False) Initial keys; *destination*: of the client's first packet (§5.2)."""
    secret = HKDF.extract(hashes.SHA256(), _SALT, destination)
    return {
        is_client: Keys(expand(secret, b"client in" if is_client else b"server in", 32, hashes.SHA256()))
        for is_client in (True, False)
    }


# -- Reading along -----------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A packet of a recording, as far as it can be opened."""

    packet: Packet
    number: int = -1
    key_phase: bool = False
    frames: list[Frame] | None = None  # None: there is no key for it, or it has no frames
    messages: tuple[Message, ...] = ()  # of the handshake, that end in it


class Connection:
    """One connection of a recording: whose IDs are whose, and the keys as they become known."""

    def __init__(self, first_destination: bytes, secrets: Secrets) -> None:
        self.first_destination = first_destination
        self.ids: dict[bool, list[bytes]] = {True: [], False: []}  # that the client and the server have chosen
        self.reset_tokens: set[bytes] = set()
        self._secrets, self._random, self._suites = secrets, b"", tuple[int, ...]()
        self._keys: dict[tuple[bool, PacketType], list[Keys]] = {}  # those that may open it, the latest first
        self._largest: dict[tuple[bool, PacketType], int] = {}
        self._streams: dict[tuple[bool, PacketType], _CryptoStream] = {}
        self._begin(first_destination)

    def _begin(self, destination: bytes) -> None:
        for from_client, keys in initial_keys(destination).items():
            self._keys.setdefault((from_client, PacketType.INITIAL), []).insert(0, keys)

    def receive_datagram(self, from_client: bool, datagram: bytes) -> list[Seen]:
        """All packets of a datagram, in their order."""
        receivers = self.ids[not from_client]
        return [self._look(from_client, packet) for packet in split(datagram, len(receivers[0]) if receivers else 0)]

    def is_stateless_reset(self, datagram: bytes) -> bool:
        """RFC 9000 §10.3.1: what looks like a packet and ends with a token that only its sender knew."""
        return len(datagram) >= MIN_RESET and datagram[-16:] in self.reset_tokens

    def _look(self, from_client: bool, packet: Packet) -> Seen:
        if packet.type == PacketType.VERSION_NEGOTIATION:  # It says nothing of its sender: the ID is the client's own.
            return Seen(packet)
        if packet.type == PacketType.RETRY:
            self._learn_id(from_client, packet.source)
            self._begin(packet.source)
            self._streams.clear()  # The client begins anew, and not every one with the same hello.
            return Seen(packet)
        space = PacketType.ONE_RTT if packet.type == PacketType.ZERO_RTT else packet.type  # RFC 9000 §12.3
        opened = self._open(from_client, space, packet)
        if opened is None:
            return Seen(packet)
        if packet.is_long:
            self._learn_id(from_client, packet.source)
        number, payload, phase = opened
        self._largest[from_client, space] = max(number, self._largest.get((from_client, space), -1))
        try:
            frames = parse_frames(payload)
        except RemoteProtocolError:
            return Seen(packet, number, phase)
        stream = self._streams.setdefault((from_client, space), _CryptoStream())
        messages = tuple(message for frame in frames if isinstance(frame, Crypto) for message in stream.receive(frame))
        with contextlib.suppress(RemoteProtocolError):  # Somebody shows how a handshake is broken.
            self._learn(from_client, frames, messages)
        return Seen(packet, number, phase, frames, messages)

    def _open(self, from_client: bool, space: PacketType, packet: Packet) -> tuple[int, bytes, bool] | None:
        largest = self._largest.get((from_client, space), -1)
        known = self._known(from_client, packet.type)
        for keys in known:
            for candidate in (keys,) if packet.is_long else (keys, keys.next):
                try:
                    number, payload = candidate.open(packet, largest)
                except RemoteProtocolError:
                    continue
                if candidate not in known:  # A key update. What was sent before it may still come.
                    known.insert(0, candidate)
                return number, payload, candidate.phase
        return None

    def _learn_id(self, from_client: bool, connection_id: bytes) -> None:
        if connection_id not in self.ids[from_client]:
            self.ids[from_client].append(connection_id)

    def _learn(self, from_client: bool, frames: list[Frame], messages: tuple[Message, ...]) -> None:
        for frame in frames:
            if isinstance(frame, NewConnectionId):
                self._learn_id(from_client, frame.connection_id)
                self.reset_tokens.add(frame.reset_token)
        for message in messages:
            if message.type == HandshakeType.CLIENT_HELLO:
                self._random = client_hello(message.body).random
            elif message.type == HandshakeType.SERVER_HELLO and (hello := server_hello(message.body)).random != RETRY:
                self._suites = (hello.cipher,)
            elif message.type == HandshakeType.ENCRYPTED_EXTENSIONS:
                told = parse_parameters(extensions(Fields(message.body)).get(TRANSPORT_PARAMETERS, b""))
                if token := told.get(TransportParameter.STATELESS_RESET_TOKEN):
                    self.reset_tokens.add(token)

    def _known(self, from_client: bool, kind: PacketType) -> list[Keys]:
        """Keys that may open it. Those of the log are made when they are needed: it may be written while we read."""
        if (from_client, kind) not in self._keys:
            label = f"{'CLIENT' if from_client else 'SERVER'}_{_LABELS[kind]}"
            suites = tuple(SUITES) if kind == PacketType.ZERO_RTT else self._suites  # 0-RTT: that of the ticket
            found = [
                Keys(secret, suite)
                for secret in all_secrets(self._secrets, label, self._random)
                for suite in suites
                if suite in SUITES and SUITES[suite][2].digest_size == len(secret)
            ]
            if not found:
                return []
            self._keys[from_client, kind] = found
        return self._keys[from_client, kind]


class _CryptoStream:
    """The handshake's bytes in one direction and space: they come in any order, and some of them twice."""

    def __init__(self) -> None:
        self._messages, self._at = Messages(), 0
        self._early: dict[int, bytes] = {}

    def receive(self, frame: Crypto) -> list[Message]:
        self._early[frame.offset] = max(frame.data, self._early.get(frame.offset, b""), key=len)
        for offset in sorted(self._early):
            if offset > self._at:
                break
            data = self._early.pop(offset)[self._at - offset :]
            self._messages.receive_data(data)
            self._at += len(data)
        found = []
        with contextlib.suppress(RemoteProtocolError):
            while message := self._messages.next_event():
                found.append(message)
        return found


class Sight(NamedTuple):
    """A datagram of a recording."""

    number: int  # of its connection, from 1
    connection: Connection
    from_client: bool
    packets: list[Seen]
    is_reset: bool = False  # stateless


class Onlooker:
    """Somebody who has recorded all datagrams, of any number of connections, and has the secrets."""

    def __init__(self, secrets: Secrets | None = None) -> None:
        self._secrets = {} if secrets is None else secrets  # perhaps empty so far, and filled as we go
        self._connections: list[Connection] = []
        self._servers: list[Hashable] = []  # of each connection, the server's address
        self._by_id: dict[bytes, int] = {}
        self._by_path: dict[tuple[Hashable, Hashable], int] = {}

    def receive_datagram(self, source: Hashable, target: Hashable, datagram: bytes) -> Sight | None:
        """What can be told of a datagram; None: it is not QUIC, or it belongs to nothing whose beginning was seen."""
        try:
            seen = invariant(datagram)
        except RemoteProtocolError:
            return None
        path = self._by_path.get((source, target))
        index = path if seen.is_long else self._by_destination(seen.destination, path)
        if seen.is_long and seen.version and self._is_first(seen.destination, seen.version, path, datagram):
            index = len(self._connections)
            self._connections.append(Connection(seen.destination, self._secrets))
            self._servers.append(target)
        if index is None:
            return None
        self._by_path[source, target] = self._by_path[target, source] = index
        connection, from_client = self._connections[index], target == self._servers[index]
        packets = connection.receive_datagram(from_client, datagram)
        for one in (*connection.ids[True], *connection.ids[False]):
            if one:
                self._by_id.setdefault(one, index)
        was_opened = any(packet.frames is not None for packet in packets)
        is_reset = not seen.is_long and not was_opened and connection.is_stateless_reset(datagram)
        return Sight(index + 1, connection, from_client, [] if is_reset else packets, is_reset)

    def _by_destination(self, data: bytes, path: int | None) -> int | None:
        """A short packet belongs to the connection whose ID it carries, wherever it comes from (RFC 9000 §9)."""
        if path is not None:  # Who replays a hello makes two connections with the same ID, on two paths.
            known = self._connections[path].ids
            if any(data.startswith(one) for one in (*known[True], *known[False]) if one):
                return path
        for length in {len(one) for one in self._by_id}:
            if (index := self._by_id.get(data[:length])) is not None:
                return index
        return path

    def _is_first(self, destination: bytes, version: int, path: int | None, datagram: bytes) -> bool:
        """True for a client's first packet: its ID is new on this path, and made up by the client."""
        if len(destination) < _FRESH:
            return False
        if path is not None:
            known = self._connections[path]
            if destination in (known.first_destination, *known.ids[True], *known.ids[False]):
                return False
        if version != VERSION_1:  # What else may come here: version 2, and those that are there to be refused (§15).
            return len(datagram) >= MIN_INITIAL and (version == VERSION_2 or version & 0x0F0F0F0F == 0x0A0A0A0A)
        opened = Connection(destination, {}).receive_datagram(True, datagram)
        return bool(opened) and opened[0].packet.type == PacketType.INITIAL and opened[0].frames is not None
