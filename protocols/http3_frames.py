"""HTTP/3's frames and streams, sans-IO: what is left of framing when QUIC has done the rest (RFC 9114 §6.2, §7).

     01   1d    00 00 d1 d7 …        a stream for each request: frames, one behind the other; QUIC says where it ends
    └type┘└length┘└─ the payload ─┘
    HEADERS   29

     00      04   07   01 50 00 …   a stream on which only one end sends says first what it is for
    └control┘└SETTINGS┘└ 7 bytes

In HTTP/2 nine bytes precede each payload: length, type, flags, and the number of its stream. Here QUIC has streams, so
two numbers are left, each of a variable length (RFC 9000 §16). No flag END_STREAM: the stream ends. No WINDOW_UPDATE,
PING or RST_STREAM: QUIC has its own. And no limit of 16 KB: one frame of DATA may be as long as the body.

Nothing here knows what a frame may mean where: any type and any payload goes in and comes out. So whatever a peer must
refuse can be made with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import NamedTuple

from protocols.errors import RemoteProtocolError
from protocols.quic_packets import MAX_VARINT, decode_varint, encode_varint

MAX_FRAME_SIZE = 65536  # bytes of a frame that is wanted whole: who takes it must hold it in memory
LAST_REQUEST = MAX_VARINT - 3  # §5.2: the greatest number of a request's stream: GOAWAY for none that is on its way


class StreamType(IntEnum):
    """§6.2; QPACK: RFC 9204 §4.2. What a stream in one direction begins with."""

    CONTROL = 0x00
    PUSH = 0x01
    QPACK_ENCODER = 0x02
    QPACK_DECODER = 0x03


class FrameType(IntEnum):
    """§7.2; PRIORITY_UPDATE: RFC 9218 §7.2."""

    DATA = 0x00
    HEADERS = 0x01
    CANCEL_PUSH = 0x03
    SETTINGS = 0x04
    PUSH_PROMISE = 0x05
    GOAWAY = 0x07
    MAX_PUSH_ID = 0x0D
    PRIORITY_UPDATE = 0xF0700  # of a request
    PRIORITY_UPDATE_PUSH = 0xF0701


class SettingCode(IntEnum):
    """§7.2.4.1; QPACK's: RFC 9204 §5. ENABLE_CONNECT_PROTOCOL: RFC 9220 §3; H3_DATAGRAM: RFC 9297 §2.1.1."""

    QPACK_MAX_TABLE_CAPACITY = 0x01
    MAX_FIELD_SECTION_SIZE = 0x06
    QPACK_BLOCKED_STREAMS = 0x07
    ENABLE_CONNECT_PROTOCOL = 0x08
    H3_DATAGRAM = 0x33


class ErrorCode(IntEnum):
    """§8.1; QPACK's: RFC 9204 §6; DATAGRAM_ERROR: RFC 9297 §5.2. Why a stream or the connection ends."""

    DATAGRAM_ERROR = 0x33
    NO_ERROR = 0x0100
    GENERAL_PROTOCOL_ERROR = 0x0101
    INTERNAL_ERROR = 0x0102
    STREAM_CREATION_ERROR = 0x0103
    CLOSED_CRITICAL_STREAM = 0x0104
    FRAME_UNEXPECTED = 0x0105
    FRAME_ERROR = 0x0106
    EXCESSIVE_LOAD = 0x0107
    ID_ERROR = 0x0108
    SETTINGS_ERROR = 0x0109
    MISSING_SETTINGS = 0x010A
    REQUEST_REJECTED = 0x010B
    REQUEST_CANCELLED = 0x010C
    REQUEST_INCOMPLETE = 0x010D
    MESSAGE_ERROR = 0x010E
    CONNECT_ERROR = 0x010F
    VERSION_FALLBACK = 0x0110
    QPACK_DECOMPRESSION_FAILED = 0x0200
    QPACK_ENCODER_STREAM_ERROR = 0x0201
    QPACK_DECODER_STREAM_ERROR = 0x0202


HTTP2_FRAMES = frozenset((0x02, 0x06, 0x08, 0x09))  # PRIORITY, PING, WINDOW_UPDATE, CONTINUATION: §7.2.8 forbids them
HTTP2_SETTINGS = frozenset((0x00, 0x02, 0x03, 0x04, 0x05))  # what QUIC does itself: §7.2.4.1 forbids them
_TYPES = frozenset(FrameType)
_WHOLE = _TYPES - {FrameType.DATA}
WORTH_IT = 64  # bytes in a DATA frame


def grease(n: int) -> int:
    """The n-th number that will never mean anything (§6.2.3, §7.2.4.1, §7.2.8).

    It is sent so that nobody forgets to ignore what he does not know.
    """
    return 0x1F * n + 0x21


def is_grease(number: int) -> bool:
    """Is it one of these?"""
    return number >= 0x21 and (number - 0x21) % 0x1F == 0


class Frame(NamedTuple):
    """A frame; or a piece of one: `at` bytes of its payload came before this, and `left` will come after it."""

    type: int
    payload: bytes = b""
    at: int = 0
    left: int = 0

    @property
    def length(self) -> int:
        """What the frame says of its payload."""
        return self.at + len(self.payload) + self.left

    def __str__(self) -> str:
        """For the wire log: `HEADERS, 29 bytes`; `DATA, bytes 1200 to 2400 of 5000`."""
        size = len(self.payload)
        if self.length == size:
            return f"{name_of(self.type)}, {size} bytes"
        return f"{name_of(self.type)}, bytes {self.at} to {self.at + size} of {self.length}"


def name_of(type: int) -> str:
    """What a type of frame is called."""
    if type in _TYPES:
        return FrameType(type).name
    return f"{'reserved' if is_grease(type) else 'unknown'} type {type:#x}"


def encode(frame: Frame) -> bytes:
    """Return the bytes of any frame, also of one that breaks the rules; of a piece, what belongs before it."""
    head = b"" if frame.at else encode_varint(frame.type) + encode_varint(frame.length)
    return head + frame.payload


class Decoder:
    """Takes one stream in whatever pieces it arrives; gives its frames back.

    Whole, if their type is known here and they are not too long; all others in pieces, as they come, since nobody wants
    to wait for a gigabyte. What comes in pieces is as long as it says, and nobody has to believe that before.
    """

    def __init__(self, max_size: int = MAX_FRAME_SIZE) -> None:
        self.max_size = max_size
        self._buffer = b""
        self._at = 0  # What is before this is decoded.
        self._type, self._done, self._left = -1, 0, 0  # a frame of which only a part has been given

    @property
    def unread(self) -> int:
        """Bytes that are here and not decoded: frames that nobody asked for yet, or the beginning of one."""
        return len(self._buffer) - self._at

    @property
    def is_between(self) -> bool:
        """Is nothing begun? A stream that ends elsewhere has lost something (§7.1: FRAME_ERROR)."""
        return not self._left and not self.unread

    def receive_data(self, data: bytes) -> None:
        """Keep what the stream gave."""
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0

    def next_number(self) -> int | None:
        """A number that is no frame: the type of a stream, the first thing on it (§6.2). None: more bytes needed."""
        if not _is_there(self._buffer, self._at):
            return None
        number, self._at = decode_varint(self._buffer, self._at)
        return number

    def next_frame(self) -> Frame | None:
        """The next frame, or the next piece of one; None: more bytes are needed."""
        data, at = self._buffer, self._at
        if self._left:
            piece = data[at : at + self._left]
            return self._give(self._type, self._done, self._left, piece, at) if piece else None
        if not _is_there(data, at):
            return None
        type_, at = decode_varint(data, at)
        if not _is_there(data, at):
            return None
        length, at = decode_varint(data, at)
        if length <= self.max_size and type_ in _WHOLE and len(data) - at < length:
            return None
        if length and at == len(data) and (type_ not in _WHOLE):
            return None  # A piece has at least one byte, unless there will be none, or too many.
        return self._give(type_, 0, length, data[at : at + length], at)

    def _give(self, type_: int, done: int, left: int, piece: bytes, at: int) -> Frame:
        self._at = at + len(piece)
        self._type, self._done, self._left = type_, done + len(piece), left - len(piece)
        return Frame(type_, piece, done, self._left)

    def frames(self) -> Iterator[Frame]:
        """All that is here."""
        while frame := self.next_frame():
            yield frame

    def rest(self) -> bytes:
        """What is here, as it is: of a stream that has no frames, once its type is known."""
        data, self._buffer, self._at = self._buffer[self._at :], b"", 0
        return data


def _is_there(data: bytes, at: int) -> bool:
    """Is the number that begins at *at* here to its end? Its first byte says how long it is."""
    return at < len(data) and at + (1 << (data[at] >> 6)) <= len(data)


def thinness(frame: Frame) -> float:
    """How far a DATA frame is from bringing anything: 0 from WORTH_IT bytes on, 1 without any.

    To read one costs the same, whatever is in it: a megabyte in frames of one byte is work for seconds.
    """
    return max(0.0, 1 - frame.length / WORTH_IT) if not frame.at else 0.0


# -- Payloads ----------------------------------------------------------------------------------------


def settings(values: Mapping[int, int] | Iterable[tuple[int, int]]) -> Frame:
    """SETTINGS (§7.2.4): pairs of numbers. Each end sends it once, first on its control stream; there is no ACK."""
    pairs = values.items() if isinstance(values, Mapping) else values
    return Frame(FrameType.SETTINGS, b"".join(encode_varint(code) + encode_varint(value) for code, value in pairs))


def parse_settings(payload: bytes) -> dict[int, int]:
    """What settings() wrote. RemoteProtocolError: it is cut, has one twice, or one of HTTP/2's (§7.2.4)."""
    found: dict[int, int] = {}
    numbers = parse_numbers(payload)
    if len(numbers) % 2:
        raise RemoteProtocolError("a setting without a value (RFC 9114 §7.1)", ErrorCode.FRAME_ERROR)
    for code, value in zip(numbers[::2], numbers[1::2], strict=True):
        if code in HTTP2_SETTINGS:
            raise RemoteProtocolError(f"setting {code:#x} is HTTP/2's (RFC 9114 §7.2.4.1)", ErrorCode.SETTINGS_ERROR)
        if code in found:
            raise RemoteProtocolError(f"setting {code:#x} twice (RFC 9114 §7.2.4)", ErrorCode.SETTINGS_ERROR)
        if code in (SettingCode.ENABLE_CONNECT_PROTOCOL, SettingCode.H3_DATAGRAM) and value > 1:
            raise RemoteProtocolError(
                f"setting {code:#x} is 0 or 1 (RFC 9220 §3, RFC 9297 §2.1.1)", ErrorCode.SETTINGS_ERROR
            )
        found[code] = value
    return found


def parse_numbers(payload: bytes) -> list[int]:
    """A payload that is nothing but numbers. RemoteProtocolError (FRAME_ERROR, §7.1): the last one is cut off."""
    numbers, at = [], 0
    while at < len(payload):
        if not _is_there(payload, at):
            raise RemoteProtocolError("a payload that is cut off (RFC 9114 §7.1)", ErrorCode.FRAME_ERROR)
        number, at = decode_varint(payload, at)
        numbers.append(number)
    return numbers


def numbered(type: FrameType, number: int) -> Frame:
    """GOAWAY (§7.2.6), MAX_PUSH_ID (§7.2.7), CANCEL_PUSH (§7.2.3): one number."""
    return Frame(type, encode_varint(number))


def parse_numbered(frame: Frame) -> int:
    """What numbered() wrote. RemoteProtocolError (FRAME_ERROR, §7.1): none, or something behind it."""
    numbers = parse_numbers(frame.payload)
    if len(numbers) != 1:
        raise RemoteProtocolError(f"{name_of(frame.type)} is one number (RFC 9114 §7.1)", ErrorCode.FRAME_ERROR)
    return numbers[0]


def priority_update(stream: int, value: bytes) -> Frame:
    """PRIORITY_UPDATE (RFC 9218 §7.2): which request, and what its `priority` field shall say from now on."""
    return Frame(FrameType.PRIORITY_UPDATE, encode_varint(stream) + value)


def parse_priority_update(frame: Frame) -> tuple[int, bytes]:
    """What priority_update() wrote. RemoteProtocolError (FRAME_ERROR): not even a number."""
    if not _is_there(frame.payload, 0):
        raise RemoteProtocolError("PRIORITY_UPDATE of nothing (RFC 9114 §7.1)", ErrorCode.FRAME_ERROR)
    stream, at = decode_varint(frame.payload)
    return stream, frame.payload[at:]
