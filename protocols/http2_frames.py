"""HTTP/2's frames, sans-IO: nine bytes that say what follows, then that (RFC 9113 §4.1).

     00 00 08   06    00    00 00 00 00    01 02 03 04 05 06 07 08
    └─ length ─┘└type┘└flags┘└── stream ──┘└──── the payload: 8 ────┘
                 PING         0: the whole connection

One TCP connection carries many streams: each frame says which one it belongs to, and whoever reads sorts them out.
The length is the payload's, without the nine bytes. The first bit of the stream is reserved: sent as 0, not looked at.

Nothing here knows what a frame may mean where: any type, any flag and any payload goes in and comes out. So whatever a
peer must refuse can be made with it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum, IntFlag
from typing import NamedTuple

from protocols.errors import RemoteProtocolError

PREFACE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # §3.4: what a client sends first. No HTTP/1.1 server takes it for a request.
)
HEADER = 9  # bytes before each payload
MAX_FRAME_SIZE = 16384  # §4.2: what every endpoint must take, and the most it has to take unless it offers more
MAX_WINDOW = 2**31 - 1  # §6.9.1
DEFAULT_WINDOW = 65535  # §6.9.2


class FrameType(IntEnum):
    """§6; PRIORITY_UPDATE: RFC 9218 §7.1."""

    DATA = 0x00
    HEADERS = 0x01
    PRIORITY = 0x02
    RST_STREAM = 0x03
    SETTINGS = 0x04
    PUSH_PROMISE = 0x05
    PING = 0x06
    GOAWAY = 0x07
    WINDOW_UPDATE = 0x08
    CONTINUATION = 0x09
    PRIORITY_UPDATE = 0x10


class Flag(IntFlag):
    """§6. The same bit means another thing in another type of frame."""

    END_STREAM = 0x01  # DATA, HEADERS
    ACK = 0x01  # SETTINGS, PING
    END_HEADERS = 0x04  # HEADERS, CONTINUATION
    PADDED = 0x08  # DATA, HEADERS
    PRIORITY = 0x20  # HEADERS


class ErrorCode(IntEnum):
    """§7: why a stream (RST_STREAM) or the connection (GOAWAY) ends."""

    NO_ERROR = 0x00
    PROTOCOL_ERROR = 0x01
    INTERNAL_ERROR = 0x02
    FLOW_CONTROL_ERROR = 0x03
    SETTINGS_TIMEOUT = 0x04
    STREAM_CLOSED = 0x05
    FRAME_SIZE_ERROR = 0x06
    REFUSED_STREAM = 0x07
    CANCEL = 0x08
    COMPRESSION_ERROR = 0x09
    CONNECT_ERROR = 0x0A
    ENHANCE_YOUR_CALM = 0x0B
    INADEQUATE_SECURITY = 0x0C
    HTTP_1_1_REQUIRED = 0x0D


class SettingCode(IntEnum):
    """§6.5.2; NO_RFC7540_PRIORITIES: RFC 9218 §2.1."""

    HEADER_TABLE_SIZE = 0x01
    ENABLE_PUSH = 0x02
    MAX_CONCURRENT_STREAMS = 0x03
    INITIAL_WINDOW_SIZE = 0x04
    MAX_FRAME_SIZE = 0x05
    MAX_HEADER_LIST_SIZE = 0x06
    NO_RFC7540_PRIORITIES = 0x09


class Frame(NamedTuple):
    """One frame, as it is on the wire."""

    type: int
    flags: int = 0
    stream: int = 0
    payload: bytes = b""

    def __str__(self) -> str:
        """For the wire log: `HEADERS stream 1, 31 bytes, END_STREAM END_HEADERS`."""
        name = FrameType(self.type).name if self.type in _TYPES else f"type {self.type:#04x}"
        flags = " ".join(word for bit, word in FLAGS.get(self.type, {}).items() if self.flags & bit)
        return f"{name} stream {self.stream}, {len(self.payload)} bytes{', ' if flags else ''}{flags}"


_TYPES = frozenset(FrameType)
_END = {0x04: "END_HEADERS"}
_BODY = {0x01: "END_STREAM", 0x08: "PADDED"}
FLAGS: dict[int, dict[int, str]] = {  # which bits mean what in which type
    FrameType.DATA: _BODY,
    FrameType.HEADERS: _BODY | _END | {0x20: "PRIORITY"},
    FrameType.SETTINGS: {0x01: "ACK"},
    FrameType.PUSH_PROMISE: _END | {0x08: "PADDED"},
    FrameType.PING: {0x01: "ACK"},
    FrameType.CONTINUATION: _END,
}


def encode(frame: Frame) -> bytes:
    """Return the bytes of any frame, also of one that breaks the rules."""
    length = len(frame.payload)
    return struct.pack(">BHBBL", length >> 16, length & 0xFFFF, frame.type, frame.flags, frame.stream) + frame.payload


class Decoder:
    """Takes the stream in whatever pieces it arrives; gives the frames back whole."""

    def __init__(self, max_size: int = MAX_FRAME_SIZE) -> None:
        self.max_size = max_size
        self._buffer = b""
        self._at = 0  # Frames before this are decoded. A cut per read, and not one per frame.

    @property
    def unread(self) -> int:
        """Bytes that are here and not decoded: whole frames that nobody asked for yet, or the beginning of one."""
        return len(self._buffer) - self._at

    @property
    def begun(self) -> int | None:
        """The type of the frame that comes next, if so much of it is here."""
        return self._buffer[self._at + 3] if self.unread > 3 else None

    def receive_data(self, data: bytes) -> None:
        """Keep what the socket gave."""
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0

    def next_frame(self) -> Frame | None:
        """Return the next frame; None: more bytes are needed.

        RemoteProtocolError (FRAME_SIZE_ERROR, §4.2) for one that is longer than the maximum, as soon as its header is
        here: whoever waits for the payload of it waits for 16 MB.
        """
        data, at = self._buffer, self._at
        if len(data) - at < HEADER:
            return None
        high, low, type_, flags, stream = struct.unpack_from(">BHBBL", data, at)
        length = high << 16 | low
        if length > self.max_size:
            raise RemoteProtocolError(
                f"a frame of {length} bytes, the most is {self.max_size} (RFC 9113 §4.2)", ErrorCode.FRAME_SIZE_ERROR
            )
        end = at + HEADER + length
        if len(data) < end:
            return None
        self._at = end
        return Frame(type_, flags, stream & 0x7FFFFFFF, data[at + HEADER : end])

    def frames(self) -> Iterator[Frame]:
        """All frames that are here."""
        while frame := self.next_frame():
            yield frame


# -- Payloads ----------------------------------------------------------------------------------------


def settings(values: Mapping[int, int]) -> Frame:
    """SETTINGS (§6.5): six bytes each, what and how much."""
    return Frame(FrameType.SETTINGS, payload=b"".join(struct.pack(">HL", *item) for item in values.items()))


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """What settings() wrote, in its order."""
    return list(struct.iter_unpack(">HL", payload))


SETTINGS_ACK = Frame(FrameType.SETTINGS, Flag.ACK)


def window_update(stream: int, increment: int) -> Frame:
    """WINDOW_UPDATE (§6.9): so many bytes more may come, on a stream, or (0) on the connection."""
    return Frame(FrameType.WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def rst_stream(stream: int, code: int) -> Frame:
    """RST_STREAM (§6.4): this stream has ended, and why."""
    return Frame(FrameType.RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last_stream: int, code: int, text: bytes = b"") -> Frame:
    """GOAWAY (§6.8): no stream above the last one will be served; why; and a text for people."""
    return Frame(FrameType.GOAWAY, 0, 0, struct.pack(">LL", last_stream, code) + text)


def parse_goaway(payload: bytes) -> tuple[int, int, bytes]:
    """What goaway() wrote: last stream, code, text."""
    last, code = struct.unpack_from(">LL", payload)
    return last & 0x7FFFFFFF, code, payload[8:]


def pad(frame: Frame, length: int) -> Frame:
    """DATA or HEADERS with so many bytes (at most 255) that mean nothing, to hide how long it is (§6.1, §10.7)."""
    return frame._replace(flags=frame.flags | Flag.PADDED, payload=bytes([length]) + frame.payload + bytes(length))


def content(frame: Frame) -> bytes:
    """The payload of DATA or HEADERS without padding and priority. RemoteProtocolError if these are all, and more."""
    start, end = 0, len(frame.payload)
    if frame.flags & Flag.PADDED:
        end -= frame.payload[0] if frame.payload else 1
        start = 1
    if frame.type == FrameType.HEADERS and frame.flags & Flag.PRIORITY:
        start += 5
    if start > end:
        raise RemoteProtocolError(
            "padding (or priority) that is longer than its frame (RFC 9113 §6.1)", ErrorCode.PROTOCOL_ERROR
        )
    return frame.payload[start:end]
