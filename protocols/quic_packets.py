"""QUIC's packets as anybody on the way can read them, sans-IO: headers, and where one packet ends and the next begins.

     C3   00 00 00 01  08 83…08   00   00    44 9E     ▒▒ ▒▒ ▒▒ ▒▒  ▒▒▒▒▒▒▒…
    └first┘└─version─┘└─to whom─┘└from┘└token┘└length┘ └─number──┘ └─payload─┘     long: while keys are being agreed on

     4▒   83 94 C8 F0 3E 51 57 08  ▒▒ ▒▒  ▒▒▒▒▒▒▒…
    └first┘└─────── to whom ─────┘└number┘└─payload─┘                               short: from then on

A datagram holds one packet or several, and each long one says how long it is. A packet belongs to a connection because
of the ID that it carries, and not because of the addresses it came from: so a connection survives a change of these.
What is ▒ here is encrypted, even the packet's number, even four or five bits of the first byte (RFC 9001 §5.4):
protocols/quic_opened.py opens it.

What reads raises RemoteProtocolError and nothing else. Whoever gets that answers nothing: a packet that cannot be read
is dropped (RFC 9000 §5.2), for anybody could have sent it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.quic_numbers import VERSION_1, VERSION_2, ErrorCode, PacketType

__all__ = ["VERSION_1", "VERSION_2", "PacketType"]  # can be had from here

MAX_VARINT = (1 << 62) - 1  # RFC 9000 §16: two bits of 64 are the length
MAX_ID = 20  # bytes of a connection ID, in version 1 (§17.2)
MIN_INITIAL = 1200  # bytes of a datagram with a client's Initial (§14.1): so little must fit through any path
TAG = 16  # bytes that every AEAD of QUIC adds (RFC 9001 §5.3), and that a Retry ends with (§5.8)
MIN_RESET = 21  # bytes of a stateless reset (§10.3): whoever looks on must take it for a packet
LONG, FIXED = 0x80, 0x40  # bits of the first byte


# -- Variable-length integers (RFC 9000 §16) ---------------------------------------------------------


def encode_varint(number: int) -> bytes:
    """One, two, four or eight bytes, the fewest that do. The first two bits say how many."""
    for prefix, size in enumerate((1, 2, 4, 8)):
        if 0 <= number < 1 << (8 * size - 2):
            return (prefix << (8 * size - 2) | number).to_bytes(size, "big")
    raise LocalProtocolError(f"{number} does not fit into 62 bits (RFC 9000 §16)")


def decode_varint(data: bytes, at: int = 0) -> tuple[int, int]:
    """The number at *at*, and where the next thing begins. Any size is good: 37 may come in two bytes.

    RemoteProtocolError (FRAME_ENCODING_ERROR): the data ends within it.
    """
    if at < len(data):
        first = data[at]
        end = at + (1 << (first >> 6))
        if end <= len(data):
            return int.from_bytes(data[at:end], "big") & ((1 << (8 * (end - at) - 2)) - 1), end
    raise RemoteProtocolError("a number that is cut off (RFC 9000 §16)", ErrorCode.FRAME_ENCODING_ERROR)


# -- Packet numbers (RFC 9000 §17.1, §A.2, §A.3) -----------------------------------------------------


def encode_packet_number(number: int, largest_acked: int = -1) -> bytes:
    """Its last bytes, as many as tell it from twice as many numbers as may be on their way (§A.2)."""
    bits = (number - largest_acked - 1).bit_length() + 1  # §A.2: the logarithm of how many are not known, and one more
    size = (bits + 7) // 8
    if number > MAX_VARINT or size > 4 or number <= largest_acked:
        raise LocalProtocolError(f"packet {number} cannot be told when {largest_acked} was the last known to arrive")
    return (number & ((1 << 8 * size) - 1)).to_bytes(size, "big")


def decode_packet_number(largest: int, truncated: int, bits: int) -> int:
    """The whole number of which these are the last *bits*: the one that is nearest to the largest + 1 (§A.3).

    *largest* is the largest that has arrived; -1 before the first.
    """
    expected = largest + 1
    window = 1 << bits
    candidate = (expected & ~(window - 1)) | truncated
    if candidate <= expected - window // 2 and candidate < (1 << 62) - window:
        return candidate + window
    if candidate > expected + window // 2 and candidate >= window:
        return candidate - window
    return candidate


# -- What all versions have in common (RFC 8999) -----------------------------------------------------


class Invariant(NamedTuple):
    """What is true of a packet in all versions to come: enough to find its connection, or to refuse its version."""

    is_long: bool
    version: int  # 0: Version Negotiation
    destination: bytes  # of a short packet: all that follows the first byte, since only its receiver knows the length
    source: bytes
    end: int  # where the version's own part begins


def invariant(data: bytes, at: int = 0) -> Invariant:
    """RFC 8999 §5. An ID may have 255 bytes here: whoever refuses a version has to repeat its ID (RFC 9000 §17.2)."""
    if at >= len(data):
        raise RemoteProtocolError("a packet has a byte at least (RFC 8999 §5)")
    if not data[at] & LONG:
        return Invariant(False, VERSION_1, data[at + 1 :], b"", at + 1)
    destination, end = _behind_length(data, at + 5)
    source, end = _behind_length(data, end)
    return Invariant(True, int.from_bytes(data[at + 1 : at + 5], "big"), destination, source, end)


def _behind_length(data: bytes, at: int) -> tuple[bytes, int]:
    end = at + 1 + data[at] if at < len(data) else at + 1
    if end > len(data):
        raise RemoteProtocolError("a packet that ends within its header (RFC 8999 §5.1)")
    return data[at + 1 : end], end


# -- Version 1 (RFC 9000 §17) ------------------------------------------------------------------------


class Packet(NamedTuple):
    """A packet, its number and payload still under protection."""

    type: PacketType
    destination: bytes  # the ID that its receiver has chosen
    source: bytes = b""  # and the sender; a short packet does without
    token: bytes = b""  # Initial: that came with a Retry, or in NEW_TOKEN. Retry: to be repeated
    versions: tuple[int, ...] = ()  # Version Negotiation: that the server speaks
    number_at: int = 0  # where its number begins, in its data; 0: it has none (Retry, Version Negotiation)
    data: bytes = b""  # all of it, as it was on the wire

    @property
    def is_long(self) -> bool:
        return self.type != PacketType.ONE_RTT


def parse(datagram: bytes, id_length: int, at: int = 0) -> Packet:
    """The packet that begins at *at*; it ends where its data do.

    *id_length* is that of the IDs which the receiver gives out: a short packet does not tell it.
    RemoteProtocolError: it is to be dropped; also when it is of another version, which `invariant` tells.
    """
    seen = invariant(datagram, at)
    if not seen.is_long:
        end = at + 1 + id_length
        if not datagram[at] & FIXED:
            raise RemoteProtocolError("the fixed bit is 0 (RFC 9000 §17.3.1)")
        if len(datagram) < end + 4 + TAG:  # RFC 9001 §5.4.2: no sample, no number
            raise RemoteProtocolError(f"a short packet of {len(datagram) - at} bytes (RFC 9001 §5.4.2)")
        return Packet(PacketType.ONE_RTT, datagram[at + 1 : end], number_at=1 + id_length, data=datagram[at:])
    if seen.version == 0:
        versions = [datagram[i : i + 4] for i in range(seen.end, len(datagram), 4)]
        if not versions or len(versions[-1]) < 4:
            raise RemoteProtocolError("versions have four bytes each, and there is one at least (RFC 9000 §17.2.1)")
        known = tuple(int.from_bytes(version, "big") for version in versions)
        return Packet(PacketType.VERSION_NEGOTIATION, seen.destination, seen.source, versions=known, data=datagram[at:])
    if seen.version != VERSION_1:
        raise RemoteProtocolError(f"version {seen.version:#010x}")
    if not datagram[at] & FIXED:
        raise RemoteProtocolError("the fixed bit is 0 (RFC 9000 §17.2)")
    if max(len(seen.destination), len(seen.source)) > MAX_ID:
        raise RemoteProtocolError(f"a connection ID of more than {MAX_ID} bytes (RFC 9000 §17.2)")
    kind, start = PacketType(datagram[at] >> 4 & 3), seen.end
    if kind == PacketType.RETRY:  # It has no length, and so is the last in its datagram (§17.2.5).
        if len(datagram) - start <= TAG:  # §17.2.5.2: "a zero-length Retry Token field" is discarded
            raise RemoteProtocolError("a Retry without a token (RFC 9000 §17.2.5.2)")
        return Packet(kind, seen.destination, seen.source, datagram[start:-TAG], data=datagram[at:])
    token = b""
    if kind == PacketType.INITIAL:
        size, start = decode_varint(datagram, start)
        token, start = datagram[start : start + size], start + size
    size, start = decode_varint(datagram, start)
    if start + size > len(datagram):
        raise RemoteProtocolError(f"a length of {size}, and {len(datagram) - start} bytes follow (RFC 9000 §17.2)")
    if size < 4 + TAG:
        raise RemoteProtocolError(f"a length of {size} leaves nothing to sample (RFC 9001 §5.4.2)")
    return Packet(kind, seen.destination, seen.source, token, (), start - at, datagram[at : start + size])


def split(datagram: bytes, id_length: int) -> list[Packet]:
    """The packets of a datagram (§12.2). What cannot be read, and so hides where the next would begin, is left out."""
    found: list[Packet] = []
    at = 0
    while at < len(datagram):
        try:
            packet = parse(datagram, id_length, at)
        except RemoteProtocolError:
            break
        found.append(packet)
        at += len(packet.data)
    return found


def long_header(
    type: PacketType, destination: bytes, source: bytes, number: bytes, length: int, token: bytes = b""
) -> bytes:
    """The header of an Initial, 0-RTT or Handshake packet with its number, unprotected; *length* is the payload's."""
    first = LONG | FIXED | type << 4 | len(number) - 1
    header = bytes([first]) + VERSION_1.to_bytes(4, "big") + _with_length(destination) + _with_length(source)
    if type == PacketType.INITIAL:
        header += encode_varint(len(token)) + token
    return header + encode_varint(len(number) + length + TAG) + number


def short_header(destination: bytes, number: bytes, key_phase: bool = False, spin: bool = False) -> bytes:
    """The header of a 1-RTT packet with its number, unprotected (§17.3.1)."""
    return bytes([FIXED | spin << 5 | key_phase << 2 | len(number) - 1]) + destination + number


def version_negotiation(destination: bytes, source: bytes, versions: Iterable[int]) -> bytes:
    """To a packet of a version that we do not speak: its IDs the other way round, and what we do speak (§17.2.1)."""
    spoken = b"".join(version.to_bytes(4, "big") for version in versions)
    return bytes([LONG | FIXED, 0, 0, 0, 0]) + _with_length(destination) + _with_length(source) + spoken


def _with_length(connection_id: bytes) -> bytes:
    return bytes([len(connection_id)]) + connection_id
