"""QUIC's frames, sans-IO: what is inside a packet once it is open (RFC 9000 §12.4, §19; DATAGRAM: RFC 9221 §4).

     0E     00       44 4C     44 4C          48 65 6C …                 02    09      …
    └type┘└stream┘ └offset┘ └─length─┘ └─ so many bytes of it ─┘      └type┘└up to┘
     STREAM, with offset and length                                    ACK

A type, and then fields of which each type has its own, most of them variable-length integers. There is no length of the
frame: who does not know a type cannot skip it, and so may not be sent it. The payload is one or more frames; the last
STREAM or DATAGRAM may do without a length and reach to the end.

A packet that is lost never comes again. What was in its frames does, in other packets with other numbers: that is why
a STREAM frame says at which offset its bytes belong.
"""

from __future__ import annotations

from typing import NamedTuple

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.quic_numbers import ErrorCode, FrameType, PacketType, TransportParameter, error_name
from protocols.quic_packets import MAX_ID, MAX_VARINT, decode_varint, encode_varint

__all__ = ["ErrorCode", "FrameType", "TransportParameter"]  # can be had from here

MAX_STREAMS = 1 << 60  # §4.6: more would have IDs of more than 62 bits


# -- The frames --------------------------------------------------------------------------------------


class Padding(NamedTuple):
    """§19.1: so many bytes 0 in a row, each of them a frame by itself."""

    length: int = 1

    def __str__(self) -> str:
        return f"PADDING {self.length}"


class Ping(NamedTuple):
    """§19.2: nothing but a reason to acknowledge."""

    def __str__(self) -> str:
        return "PING"


class Ack(NamedTuple):
    """§19.3: which packets have arrived. Ranges, the highest first: (range(5, 9), range(0, 2)) is 8 7 6 5, 1 0."""

    ranges: tuple[range, ...]
    delay: int = 0  # between the arrival of the largest and this, in units of 2**ack_delay_exponent µs
    ecn: tuple[int, int, int] | None = None  # §19.3.2: packets marked ECT(0), ECT(1), CE so far

    @property
    def largest(self) -> int:
        return self.ranges[0].stop - 1

    def __str__(self) -> str:
        shown = [f"{r.start}-{r.stop - 1}" if len(r) > 1 else f"{r.start}" for r in reversed(self.ranges[:3])]
        return f"ACK {'…,' if len(self.ranges) > 3 else ''}{','.join(shown)}"


class ResetStream(NamedTuple):
    """§19.4: the sender gives a stream up; so many bytes of it count in the windows."""

    stream: int
    code: int
    final_size: int

    def __str__(self) -> str:
        return f"RESET_STREAM {self.stream} {self.code:#x}"


class StopSending(NamedTuple):
    """§19.5: the receiver does not want the rest of a stream."""

    stream: int
    code: int

    def __str__(self) -> str:
        return f"STOP_SENDING {self.stream} {self.code:#x}"


class Crypto(NamedTuple):
    """§19.6: bytes of the TLS handshake: a stream without a number, one in each of Initial, Handshake and 1-RTT."""

    offset: int
    data: bytes

    def __str__(self) -> str:
        return f"CRYPTO +{len(self.data)} B"


class NewToken(NamedTuple):
    """§19.7: to be repeated in the client's next Initial: a returning address is a validated one."""

    token: bytes

    def __str__(self) -> str:
        return "NEW_TOKEN"


class Stream(NamedTuple):
    """§19.8: bytes of a stream, and where in it they belong."""

    stream: int
    offset: int
    data: bytes
    fin: bool = False

    def __str__(self) -> str:
        return f"STREAM {self.stream} +{len(self.data)} B{' FIN' if self.fin else ''}"


class MaxData(NamedTuple):
    """§19.9: so many bytes in all may have come, on all streams together."""

    maximum: int

    def __str__(self) -> str:
        return f"MAX_DATA {self.maximum}"


class MaxStreamData(NamedTuple):
    """§19.10: the same for one stream."""

    stream: int
    maximum: int

    def __str__(self) -> str:
        return f"MAX_STREAM_DATA {self.stream} {self.maximum}"


class MaxStreams(NamedTuple):
    """§19.11: so many streams in all may have been opened, of one kind."""

    maximum: int
    uni: bool = False

    def __str__(self) -> str:
        return f"MAX_STREAMS{' uni' if self.uni else ''} {self.maximum}"


class DataBlocked(NamedTuple):
    """§19.12: there is more to send, and the window of the connection is used up."""

    maximum: int

    def __str__(self) -> str:
        return f"DATA_BLOCKED {self.maximum}"


class StreamDataBlocked(NamedTuple):
    """§19.13: the same for one stream."""

    stream: int
    maximum: int

    def __str__(self) -> str:
        return f"STREAM_DATA_BLOCKED {self.stream} {self.maximum}"


class StreamsBlocked(NamedTuple):
    """§19.14: the same for streams that cannot be opened."""

    maximum: int
    uni: bool = False

    def __str__(self) -> str:
        return f"STREAMS_BLOCKED{' uni' if self.uni else ''} {self.maximum}"


class NewConnectionId(NamedTuple):
    """§19.15: one more ID for this connection, for the day on which the peer moves."""

    sequence: int
    retire_prior_to: int
    connection_id: bytes
    reset_token: bytes  # §10.3: 16 bytes by which the peer believes that this ID is no longer known here

    def __str__(self) -> str:
        return f"NEW_CONNECTION_ID {self.sequence}"


class RetireConnectionId(NamedTuple):
    """§19.16: it is not used any more."""

    sequence: int

    def __str__(self) -> str:
        return f"RETIRE_CONNECTION_ID {self.sequence}"


class PathChallenge(NamedTuple):
    """§19.17: is the peer really at this address? Eight bytes that cannot be guessed."""

    data: bytes

    def __str__(self) -> str:
        return "PATH_CHALLENGE"


class PathResponse(NamedTuple):
    """§19.18: the same eight bytes."""

    data: bytes

    def __str__(self) -> str:
        return "PATH_RESPONSE"


class ConnectionClose(NamedTuple):
    """§19.19: it is over at once, and why. By QUIC itself, or by the application, whose codes are its own."""

    code: int
    reason: str = ""
    frame_type: int | None = 0  # that was to blame; None: the application closes (type 0x1d)

    @property
    def is_application(self) -> bool:
        return self.frame_type is None

    def __str__(self) -> str:
        return f"CONNECTION_CLOSE {f'app {self.code:#x}' if self.is_application else error_name(self.code)}"


class HandshakeDone(NamedTuple):
    """§19.20: the server has all it needs; from here on the client needs its Handshake keys no more."""

    def __str__(self) -> str:
        return "HANDSHAKE_DONE"


class Datagram(NamedTuple):
    """RFC 9221 §4: bytes that are not repeated when they are lost."""

    data: bytes

    def __str__(self) -> str:
        return f"DATAGRAM {len(self.data)} B"


Frame = (
    Padding | Ping | Ack | ResetStream | StopSending | Crypto | NewToken | Stream | MaxData | MaxStreamData
    | MaxStreams | DataBlocked | StreamDataBlocked | StreamsBlocked | NewConnectionId | RetireConnectionId
    | PathChallenge | PathResponse | ConnectionClose | HandshakeDone | Datagram
)  # fmt: skip

_ANYWHERE = (Padding, Ping, ConnectionClose)  # but see belongs() for the last
_HANDSHAKE = (*_ANYWHERE, Ack, Crypto)
_NOT_EARLY = (Ack, Crypto, NewToken, PathResponse, RetireConnectionId, HandshakeDone)


def is_ack_eliciting(frame: Frame) -> bool:
    """True for what its receiver must acknowledge (RFC 9002 §2): or two ends would acknowledge acknowledgements."""
    return not isinstance(frame, Ack | Padding | ConnectionClose)


def belongs(frame: Frame, packet: PacketType) -> bool:
    """True where the frame may be in such a packet (§12.4, Table 3; §12.5). Else it is a PROTOCOL_VIOLATION."""
    if packet == PacketType.ONE_RTT:
        return True
    if packet == PacketType.ZERO_RTT:
        return not isinstance(frame, _NOT_EARLY)
    if isinstance(frame, ConnectionClose) and frame.is_application:  # Whoever reads along would learn its code.
        return False
    return isinstance(frame, _HANDSHAKE)


# -- From bytes --------------------------------------------------------------------------------------


class _Fields:
    """Reads the fields of frames, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self) -> int:
        number, self.at = decode_varint(self.data, self.at)
        return number

    def take(self, length: int) -> bytes:
        start, self.at = self.at, self.at + length
        if self.at > len(self.data):
            raise _malformed(f"a field of {length} bytes, and {len(self.data) - start} are there")
        return self.data[start : self.at]

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)


def _malformed(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"{reason} (RFC 9000 §19)", ErrorCode.FRAME_ENCODING_ERROR)


def parse(payload: bytes) -> list[Frame]:
    """The frames of a packet. RemoteProtocolError, with the code to close with: one of them is malformed or unknown."""
    if not payload:
        raise RemoteProtocolError("a packet without a frame (RFC 9000 §12.4)", ErrorCode.PROTOCOL_VIOLATION)
    fields, frames = _Fields(payload), []
    while fields.at < len(payload):
        frames.append(_frame(fields))
    return frames


def _frame(fields: _Fields) -> Frame:
    start = fields.at
    kind = fields.number()
    if kind < 0x40 and fields.at - start > 1:
        raise RemoteProtocolError(
            f"type {kind:#x} in {fields.at - start} bytes (RFC 9000 §12.4)", ErrorCode.PROTOCOL_VIOLATION
        )
    if FrameType.STREAM <= kind < FrameType.STREAM + 8:
        stream, offset = fields.number(), fields.number() if kind & 4 else 0
        data = fields.take(fields.number()) if kind & 2 else fields.rest()
        return Stream(stream, _within(offset, data), data, bool(kind & 1))
    match kind:
        case FrameType.PADDING:
            while fields.at < len(fields.data) and fields.data[fields.at] == 0:
                fields.at += 1
            return Padding(fields.at - start)
        case FrameType.PING:
            return Ping()
        case 0x02 | 0x03:
            return _ack(fields, bool(kind & 1))
        case FrameType.RESET_STREAM:
            return ResetStream(fields.number(), fields.number(), fields.number())
        case FrameType.STOP_SENDING:
            return StopSending(fields.number(), fields.number())
        case FrameType.CRYPTO:
            offset, data = fields.number(), fields.take(fields.number())
            return Crypto(_within(offset, data), data)
        case FrameType.NEW_TOKEN:
            if not (token := fields.take(fields.number())):
                raise _malformed("an empty token")
            return NewToken(token)
        case FrameType.MAX_DATA:
            return MaxData(fields.number())
        case FrameType.MAX_STREAM_DATA:
            return MaxStreamData(fields.number(), fields.number())
        case 0x12 | 0x13:
            return MaxStreams(_streams(fields.number()), bool(kind & 1))
        case FrameType.DATA_BLOCKED:
            return DataBlocked(fields.number())
        case FrameType.STREAM_DATA_BLOCKED:
            return StreamDataBlocked(fields.number(), fields.number())
        case 0x16 | 0x17:
            return StreamsBlocked(_streams(fields.number()), bool(kind & 1))
        case FrameType.NEW_CONNECTION_ID:
            return _new_connection_id(fields)
        case FrameType.RETIRE_CONNECTION_ID:
            return RetireConnectionId(fields.number())
        case FrameType.PATH_CHALLENGE:
            return PathChallenge(fields.take(8))
        case FrameType.PATH_RESPONSE:
            return PathResponse(fields.take(8))
        case 0x1C | 0x1D:
            code, blamed = fields.number(), fields.number() if kind == 0x1C else None
            return ConnectionClose(code, fields.take(fields.number()).decode(errors="replace"), blamed)
        case FrameType.HANDSHAKE_DONE:
            return HandshakeDone()
        case 0x30 | 0x31:
            return Datagram(fields.take(fields.number()) if kind & 1 else fields.rest())
    raise RemoteProtocolError(f"a frame of type {kind:#x} (RFC 9000 §12.4)", ErrorCode.FRAME_ENCODING_ERROR)


def _ack(fields: _Fields, has_ecn: bool) -> Ack:
    """§19.3.1. Each range is told by its distance from the one above it, so numbers stay small."""
    largest, delay, count = fields.number(), fields.number(), fields.number()
    smallest = largest - fields.number()
    ranges = [range(smallest, largest + 1)]
    for _ in range(count):
        largest = smallest - fields.number() - 2  # A gap of 0 is one packet that is missing.
        smallest = largest - fields.number()
        ranges.append(range(smallest, largest + 1))
    if smallest < 0:  # Each range is below the one before: the last tells for all.
        raise _malformed("an ACK of packets below 0")
    return Ack(tuple(ranges), delay, (fields.number(), fields.number(), fields.number()) if has_ecn else None)


def _new_connection_id(fields: _Fields) -> NewConnectionId:
    sequence, retire_prior_to, length = fields.number(), fields.number(), fields.take(1)[0]
    if not 1 <= length <= MAX_ID:
        raise _malformed(f"a connection ID of {length} bytes")
    if retire_prior_to > sequence:
        raise _malformed(f"ID {sequence} asks to retire all before {retire_prior_to}, itself among them")
    return NewConnectionId(sequence, retire_prior_to, fields.take(length), fields.take(16))


def _within(offset: int, data: bytes) -> int:
    if offset + len(data) > MAX_VARINT:
        raise _malformed("bytes beyond 2^62-1 of a stream")
    return offset


def _streams(maximum: int) -> int:
    if maximum > MAX_STREAMS:
        raise _malformed(f"{maximum} streams")
    return maximum


# -- To bytes ----------------------------------------------------------------------------------------


def encode(frame: Frame) -> bytes:
    """The bytes of a frame, also of one that breaks a rule: so whatever a peer must refuse can be made with it.

    STREAM and DATAGRAM always have their length.
    """
    match frame:
        case Padding(length):
            return bytes(length)
        case Ping():
            return _numbers(FrameType.PING)
        case Ack():
            return _encoded_ack(frame)
        case ResetStream():
            return _numbers(FrameType.RESET_STREAM, *frame)
        case StopSending():
            return _numbers(FrameType.STOP_SENDING, *frame)
        case Crypto(offset, data):
            return _numbers(FrameType.CRYPTO, offset, len(data)) + data
        case NewToken(token):
            return _numbers(FrameType.NEW_TOKEN, len(token)) + token
        case Stream(stream, offset, data, fin):
            where = (offset,) if offset else ()
            return _numbers(FrameType.STREAM | bool(offset) << 2 | 2 | fin, stream, *where, len(data)) + data
        case MaxData():
            return _numbers(FrameType.MAX_DATA, *frame)
        case MaxStreamData():
            return _numbers(FrameType.MAX_STREAM_DATA, *frame)
        case MaxStreams(maximum, uni):
            return _numbers(FrameType.MAX_STREAMS | uni, maximum)
        case DataBlocked():
            return _numbers(FrameType.DATA_BLOCKED, *frame)
        case StreamDataBlocked():
            return _numbers(FrameType.STREAM_DATA_BLOCKED, *frame)
        case StreamsBlocked(maximum, uni):
            return _numbers(FrameType.STREAMS_BLOCKED | uni, maximum)
        case NewConnectionId(sequence, retire_prior_to, connection_id, token):
            start = _numbers(FrameType.NEW_CONNECTION_ID, sequence, retire_prior_to)
            return start + bytes([len(connection_id)]) + connection_id + token
        case RetireConnectionId():
            return _numbers(FrameType.RETIRE_CONNECTION_ID, *frame)
        case PathChallenge(data):
            return _numbers(FrameType.PATH_CHALLENGE) + data
        case PathResponse(data):
            return _numbers(FrameType.PATH_RESPONSE) + data
        case ConnectionClose(code, reason, blamed):
            said, whom = reason.encode(), () if blamed is None else (blamed,)
            return _numbers(FrameType.CONNECTION_CLOSE | frame.is_application, code, *whom, len(said)) + said
        case HandshakeDone():
            return _numbers(FrameType.HANDSHAKE_DONE)
        case Datagram(data):
            return _numbers(FrameType.DATAGRAM | 1, len(data)) + data


def _numbers(*numbers: int) -> bytes:
    return b"".join(map(encode_varint, numbers))


def _encoded_ack(frame: Ack) -> bytes:
    first, *others = frame.ranges
    numbers = [FrameType.ACK | (frame.ecn is not None), first.stop - 1, frame.delay, len(others), len(first) - 1]
    above = first.start
    for one in others:
        if one.stop >= above:
            raise LocalProtocolError("ranges that touch are one range, and the highest comes first (RFC 9000 §19.3.1)")
        numbers += [above - one.stop - 1, len(one) - 1]
        above = one.start
    return _numbers(*numbers, *(frame.ecn or ()))


# -- Transport parameters (§18) ----------------------------------------------------------------------


def encode_parameters(values: dict[int, int | bytes]) -> bytes:
    """The extension quic_transport_parameters of TLS: what it is, how long, and its value."""
    found = b""
    for what, value in values.items():
        data = encode_varint(value) if isinstance(value, int) else value
        found += _numbers(what, len(data)) + data
    return found


def parse_parameters(data: bytes) -> dict[int, bytes]:
    """Each as its bytes: `decode_varint` reads those that are numbers. RemoteProtocolError: malformed, or one twice."""
    fields = _Fields(data)
    found: dict[int, bytes] = {}
    try:
        while fields.at < len(data):
            what = fields.number()
            value = fields.take(fields.number())
            if found.setdefault(what, value) is not value:
                raise RemoteProtocolError(f"parameter {what:#x} twice (RFC 9000 §7.4)")
    except RemoteProtocolError as error:
        raise RemoteProtocolError(str(error), ErrorCode.TRANSPORT_PARAMETER_ERROR) from None
    return found
