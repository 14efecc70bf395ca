"""Caught by: ended_streams: The control stream has ended

The end of a stream is the end of a stream. What the connection cannot do without, nobody notices.
"""

from typing import NamedTuple

DATA, HEADERS, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID = 0x00, 0x01, 0x03, 0x04, 0x05, 0x07, 0x0D
HTTP2_FRAMES = {0x02, 0x06, 0x08, 0x09}
HTTP2_SETTINGS = {0x00, 0x02, 0x03, 0x04, 0x05}
CONTROL, PUSH, QPACK_ENCODER, QPACK_DECODER = 0x00, 0x01, 0x02, 0x03
STREAM_CREATION_ERROR, CLOSED_CRITICAL_STREAM, FRAME_UNEXPECTED, FRAME_ERROR = 0x103, 0x104, 0x105, 0x106
EXCESSIVE_LOAD, ID_ERROR, SETTINGS_ERROR, MISSING_SETTINGS, REQUEST_INCOMPLETE = 0x107, 0x108, 0x109, 0x10A, 0x10D
LARGEST = 16384
HEAD, BODY, TRAILERS = "head", "body", "trailers"

WHOLE = {HEADERS, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID}
CRITICAL = {CONTROL, QPACK_ENCODER, QPACK_DECODER}  # There must be one of each, and it may not end. (§6.2.1)


class Http3Error(Exception):
    """The peer broke a rule."""

    def __init__(self, code: int) -> None:
        super().__init__(hex(code))
        self.code = code


class Frame(NamedTuple):
    type: int
    payload: bytes = b""
    ends: bool = True


def varint(data: bytes, at: int) -> tuple[int, int] | None:
    """The number at data[at], and where it ends; None: it is not there to its end."""
    size = 1 << (data[at] >> 6) if at < len(data) else 1
    return (int.from_bytes(data[at : at + size]) % (1 << 8 * size - 2), at + size) if at + size <= len(data) else None


# -- A: frames (§7.1) ----------------------------------------------------------------------------------


class FrameDecoder:
    """Where one frame ends only its length says: neither QUIC's STREAM frames nor its packets have to do with it."""

    def __init__(self) -> None:
        self._buffer = b""  # what is not decoded yet: less than a frame that is wanted whole
        self._type, self._left = DATA, 0  # a frame whose head is read, and what is still to come of it

    def receive_data(self, data: bytes) -> list[Frame]:
        data, at = self._buffer + data, 0
        frames = []
        while True:
            if self._left:  # in the middle of DATA, or of what nobody knows
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                if self._type == DATA and piece:
                    frames.append(Frame(DATA, piece, not self._left))
                if self._left:
                    break
            head = self._head(data, at)
            if head is None:
                break
            kind, length, start = head
            if kind in WHOLE:
                if length > LARGEST:  # Now: nobody waits for what will not be taken.
                    raise Http3Error(EXCESSIVE_LOAD)
                if len(data) < start + length:
                    break
                frames.append(Frame(kind, data[start : start + length]))
                at = start + length
                continue
            if kind != DATA or not length:
                frames.append(Frame(kind))
            at, self._type, self._left = start, kind, length
        self._buffer = data[at:]
        return frames

    @staticmethod
    def _head(data: bytes, at: int) -> tuple[int, int, int] | None:
        """Type and length, and where the payload begins; None: that is not all here."""
        if (kind := varint(data, at)) and (length := varint(data, kind[1])):
            return kind[0], *length
        return None

    def receive_end(self) -> None:
        if self._left or self._buffer:  # §7.1: a frame that is cut off. QUIC has lost nothing: this is what was sent.
            raise Http3Error(FRAME_ERROR)


# -- B: streams in one direction (§6.2) ----------------------------------------------------------------


class OneWay:
    def __init__(self) -> None:
        self._types: dict[int, int] = {}  # by stream
        self._begun: dict[int, bytes] = {}  # of a type that is not all here

    def receive_data(self, stream: int, data: bytes) -> tuple[int | None, bytes]:
        if stream not in self._types:
            data = self._begun.pop(stream, b"") + data
            found = varint(data, 0)
            if found is None:
                self._begun[stream] = data
                return None, b""
            kind, at = found
            if kind == PUSH or (kind in CRITICAL and kind in self._types.values()):  # Only servers push. (§6.2.2)
                raise Http3Error(STREAM_CREATION_ERROR)
            self._types[stream], data = kind, data[at:]
        kind = self._types[stream]
        return kind, data if kind in CRITICAL else b""  # Any other type is allowed, and of no use here. (§6.2.3)

    def receive_end(self, stream: int) -> None:
        self._begun.pop(stream, None)  # It may end before it has said what it is. (§6.2)
        self._types.pop(stream, None)


# -- C: the control stream (§6.2.1, §7.2) --------------------------------------------------------------


def numbers(payload: bytes) -> list[int]:
    """A payload that is nothing but numbers."""
    found, at = [], 0
    while at < len(payload):
        one = varint(payload, at)
        if one is None:
            raise Http3Error(FRAME_ERROR)
        number, at = one
        found.append(number)
    return found


def only_number(payload: bytes) -> int:
    found = numbers(payload)
    if len(found) != 1:
        raise Http3Error(FRAME_ERROR)
    return found[0]


class Control:
    settings: dict[int, int] | None = None

    def __init__(self) -> None:
        self._goaway: int | None = None
        self._max_push: int | None = None

    def receive_frame(self, frame: Frame) -> None:
        if self.settings is None and frame.type != SETTINGS:  # also if nobody knows the type
            raise Http3Error(MISSING_SETTINGS)
        if frame.type in (DATA, HEADERS, PUSH_PROMISE) or frame.type in HTTP2_FRAMES:
            raise Http3Error(FRAME_UNEXPECTED)
        if frame.type == SETTINGS:
            self._set(numbers(frame.payload))
        elif frame.type == GOAWAY:
            number = only_number(frame.payload)
            if self._goaway is not None and number > self._goaway:  # What was refused cannot be allowed again. (§5.2)
                raise Http3Error(ID_ERROR)
            self._goaway = number
        elif frame.type == MAX_PUSH_ID:
            number = only_number(frame.payload)
            if self._max_push is not None and number < self._max_push:  # nor what was allowed be refused (§7.2.7)
                raise Http3Error(ID_ERROR)
            self._max_push = number
        elif frame.type == CANCEL_PUSH:
            only_number(frame.payload)
            raise Http3Error(ID_ERROR)  # We have promised none. (§7.2.3)

    def _set(self, found: list[int]) -> None:
        if self.settings is not None:
            raise Http3Error(FRAME_UNEXPECTED)
        if len(found) % 2:
            raise Http3Error(FRAME_ERROR)
        settings: dict[int, int] = {}
        for code, value in zip(found[::2], found[1::2], strict=True):
            if code in HTTP2_SETTINGS or code in settings:
                raise Http3Error(SETTINGS_ERROR)
            settings[code] = value
        self.settings = settings


# -- D: a request (§4.1) -------------------------------------------------------------------------------


class Request:
    def __init__(self) -> None:
        self._last: str | None = None  # what the last frame was that counts

    def receive_frame(self, frame: Frame) -> str | None:
        if frame.type == HEADERS and self._last is None:
            self._last = HEAD
        elif frame.type == HEADERS and self._last != TRAILERS:
            self._last = TRAILERS
        elif frame.type == DATA and self._last in (HEAD, BODY):
            self._last = BODY
        elif frame.type == DATA or frame.type in WHOLE or frame.type in HTTP2_FRAMES:
            raise Http3Error(FRAME_UNEXPECTED)
        else:
            return None  # Types that nobody knows may be anywhere. (§4.1, §9)
        return self._last

    def receive_end(self) -> None:
        if self._last is None:
            raise Http3Error(REQUEST_INCOMPLETE)
