"""Caught by: too_large: one read brought all three

The limit is for a frame, not for what is in the buffer: one read may bring a hundred small ones.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

STATIC = HeaderTable.STATIC_TABLE
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, COMPRESSION_ERROR = 1, 3, 6, 9  # RFC 9113 §7
DATA, HEADERS, PADDED, PRIORITY = 0, 1, 0x08, 0x20
MAX_WINDOW = 2**31 - 1
MAX_INTEGER = 2**32 - 1


class Http2Error(Exception):
    """The peer broke a rule: with a code, the error of a stream, or of the connection (0)."""

    def __init__(self, code: int, stream: int = 0) -> None:
        super().__init__(code, stream)
        self.code, self.stream = code, stream


# -- A: frames (RFC 9113 §4.1) -------------------------------------------------------------------------

HEADER = struct.Struct("!BHBBI")  # struct knows no 24 bits: 8 and 16. (R is the first bit of the last field.)


class Frame(NamedTuple):
    type: int
    flags: int
    stream: int
    payload: bytes
    size: int


def encode(type: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame. ValueError for a payload or a stream that does not fit into its field."""
    size = len(payload)
    if size >= 1 << 24 or not 0 <= stream < 1 << 31:  # Cut off, it would be another frame, and then garbage.
        raise ValueError(f"{size} bytes on stream {stream} do not fit into a frame")
    return HEADER.pack(size >> 16, size & 0xFFFF, type, flags, stream) + payload


class FrameDecoder:
    def __init__(self, max_size: int = 16384) -> None:
        self._max_size = max_size
        self._buffer = bytearray()  # at most one frame, beside the data of one call

    def receive_data(self, data: bytes) -> Iterator[Frame]:
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            high, low, type, flags, stream = HEADER.unpack_from(self._buffer)
            size = high << 16 | low
            if len(self._buffer) > HEADER.size + self._max_size or size > self._max_size:
                raise Http2Error(FRAME_SIZE_ERROR)
            end = HEADER.size + size
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]  # At the front of a bytearray this costs nothing: no byte is moved.
            yield Frame(type, flags, stream & MAX_WINDOW, content(type, flags, payload), size)


def content(type: int, flags: int, payload: bytes) -> bytes:
    """A payload without padding (§6.1, §6.2) and priority (§6.2). In other types these bits mean something else."""
    if type not in (DATA, HEADERS):
        return payload
    padded, priority = flags & PADDED, type == HEADERS and flags & PRIORITY
    start = (1 if padded else 0) + (5 if priority else 0)
    if len(payload) < start:
        raise Http2Error(FRAME_SIZE_ERROR)
    end = len(payload) - (payload[0] if padded else 0)
    if end < start:
        raise Http2Error(PROTOCOL_ERROR)
    return payload[start:end]


# -- B: flow control (RFC 9113 §5.2, §6.9) -------------------------------------------------------------


class Ledger:
    def __init__(self) -> None:
        self._initial = 65535
        self._windows = {0: 65535}  # by stream; 0 is the connection

    def open(self, stream: int) -> None:
        self._windows[stream] = self._initial

    def close(self, stream: int) -> None:
        self._windows.pop(stream, None)

    def available(self, stream: int) -> int:
        # A window may be below zero, but nobody can send that: data[:-500] is nearly all of it.
        return max(0, min(self._windows[0], self._windows.get(stream, 0)))

    def charge(self, stream: int, size: int) -> None:
        for one in (0, stream):  # The connection pays also for a stream that is closed, or in error. (§6.9)
            if one in self._windows:
                if size > max(0, self._windows[one]):  # No bytes always fit: END_STREAM needs no window. (§6.9.1)
                    raise Http2Error(FLOW_CONTROL_ERROR, one)
                self._windows[one] -= size

    def update(self, stream: int, increment: int) -> None:
        if increment == 0:
            raise Http2Error(PROTOCOL_ERROR, stream)
        if stream in self._windows:  # For one that is closed it may still come. (§5.1)
            self._grow(stream, increment, stream)

    def set_initial(self, size: int) -> None:
        if size > MAX_WINDOW:
            raise Http2Error(FLOW_CONTROL_ERROR)
        for stream in self._windows:
            if stream:  # §6.9.2: the connection's window is changed by WINDOW_UPDATE alone
                self._grow(stream, size - self._initial, 0)
        self._initial = size

    def _grow(self, stream: int, by: int, blamed: int) -> None:
        if self._windows[stream] + by > MAX_WINDOW:
            raise Http2Error(FLOW_CONTROL_ERROR, blamed)
        self._windows[stream] += by


# -- C: header compression (RFC 7541) ------------------------------------------------------------------


def decode_integer(data: bytes, at: int, bits: int) -> tuple[int, int]:
    """The integer whose prefix is the last *bits* of data[at], and where it ends. (§5.1)"""
    most = 2**bits - 1
    value = byte_at(data, at) & most
    if value < most:
        return value, at + 1
    for shift in range(0, 35, 7):  # A range, not `while True`: 0x80 again and again adds nothing, for ever.
        at += 1
        byte = byte_at(data, at)
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            if value > MAX_INTEGER:
                break
            return value, at + 1
    raise Http2Error(COMPRESSION_ERROR)


def byte_at(data: bytes, at: int) -> int:
    if at >= len(data):
        raise Http2Error(COMPRESSION_ERROR)
    return data[at]


class HeaderDecoder:
    def __init__(self, max_size: int = 4096) -> None:
        self._allowed = self._limit = max_size  # what we allow (SETTINGS), and what the encoder uses of it
        self._entries: list[tuple[bytes, bytes]] = []  # the dynamic table, the newest first (§2.3.2)

    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        fields: list[tuple[bytes, bytes]] = []
        at = 0
        while at < len(block):
            first = block[at]
            if first & 0x80:  # 1xxxxxxx: a field out of the tables (§6.1)
                index, at = decode_integer(block, at, 7)
                fields.append(self._entry(index))
            elif first & 0xE0 == 0x20:  # 001xxxxx: a new size of the dynamic table (§6.3), only in front (§4.2)
                self._limit, at = decode_integer(block, at, 5)
                if self._limit > self._allowed or fields:
                    raise Http2Error(COMPRESSION_ERROR)
                self._evict()
            else:  # 01xxxxxx: a literal that is kept; 0000xxxx, 0001xxxx: one that is not, or never (§6.2)
                index, at = decode_integer(block, at, 6 if first & 0x40 else 4)
                name, at = (self._entry(index)[0], at) if index else string(block, at)
                value, at = string(block, at)
                fields.append((name, value))
                if first & 0x40:
                    self._entries.insert(0, (name, value))
                    self._evict()
        return fields

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        table = [*STATIC, *self._entries]
        if not 1 <= index <= len(table):  # 0 is nobody's index; table[-1] would be somebody else's field. (§6.1)
            raise Http2Error(COMPRESSION_ERROR)
        return table[index - 1]

    def _evict(self) -> None:
        while sum(len(name) + len(value) + 32 for name, value in self._entries) > self._limit:  # §4.1
            self._entries.pop()


def string(data: bytes, at: int) -> tuple[bytes, int]:
    """The string at data[at], and where it ends. (§5.2)"""
    huffman = byte_at(data, at) & 0x80
    size, at = decode_integer(data, at, 7)
    if at + size > len(data):
        raise Http2Error(COMPRESSION_ERROR)
    text = data[at : at + size]
    try:
        return decode_huffman(text) if huffman else text, at + size
    except HPACKError:
        raise Http2Error(COMPRESSION_ERROR) from None
