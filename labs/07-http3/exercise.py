"""HTTP/3's frames, and the streams of QUIC that they are on: a server's end. No sockets, QUIC or QPACK in here.

    A  FrameDecoder   the frames of one stream, whose bytes come in any pieces   RFC 9114 §7.1, §7.2.8, §9
    B  OneWay         streams in one direction say first what they are for       §6.2
    C  Control        one of them carries SETTINGS, first and once, and GOAWAY   §6.2.1, §7.2.4, §5.2, §7.2.7
    D  Request        which frames make a request, and in which order            §4.1, §7.2

Read labs/07-http3/README.md first. Check with `make http3-check`: it begins with A, and ends with a server made of your
pieces, QUIC around it, and a client that nobody here has written. Stuck? `make http3-hint`.
"""

from typing import NamedTuple

DATA, HEADERS, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID = 0x00, 0x01, 0x03, 0x04, 0x05, 0x07, 0x0D
HTTP2_FRAMES = {0x02, 0x06, 0x08, 0x09}  # PRIORITY, PING, WINDOW_UPDATE, CONTINUATION: forbidden (§7.2.8)
HTTP2_SETTINGS = {0x00, 0x02, 0x03, 0x04, 0x05}  # what QUIC does itself: forbidden (§7.2.4.1)
CONTROL, PUSH, QPACK_ENCODER, QPACK_DECODER = 0x00, 0x01, 0x02, 0x03  # types of stream (§6.2; RFC 9204 §4.2)
STREAM_CREATION_ERROR, CLOSED_CRITICAL_STREAM, FRAME_UNEXPECTED, FRAME_ERROR = 0x103, 0x104, 0x105, 0x106  # §8.1
EXCESSIVE_LOAD, ID_ERROR, SETTINGS_ERROR, MISSING_SETTINGS, REQUEST_INCOMPLETE = 0x107, 0x108, 0x109, 0x10A, 0x10D
LARGEST = 16384  # bytes of payload that are kept until they are whole; more is EXCESSIVE_LOAD
HEAD, BODY, TRAILERS = "head", "body", "trailers"


class Http3Error(Exception):
    """The peer broke a rule. It gets no other exception out of you."""

    def __init__(self, code: int) -> None:
        super().__init__(hex(code))
        self.code = code


class Frame(NamedTuple):
    type: int
    payload: bytes = b""  # of DATA: what has come of it. Of a type that is not among the seven above: nothing, ever
    ends: bool = True  # False: DATA, of which more will come


def varint(data: bytes, at: int) -> tuple[int, int] | None:
    """The number at data[at], and where it ends; None: it is not there to its end. (You wrote it in lab 06.)"""
    size = 1 << (data[at] >> 6) if at < len(data) else 1
    return (int.from_bytes(data[at : at + size]) % (1 << 8 * size - 2), at + size) if at + size <= len(data) else None


class FrameDecoder:  # TODO A: one for each stream that has frames
    def receive_data(self, data: bytes) -> list[Frame]: ...  # DATA at once, six types whole, of others only the type
    def receive_end(self) -> None: ...  # the stream has ended: may it, here?


class OneWay:  # TODO B: all streams on which only the client sends
    def receive_data(self, stream: int, data: bytes) -> tuple[int | None, bytes]: ...  # its type; what is to be read
    def receive_end(self, stream: int) -> None: ...  # it has ended, or was reset


class Control:  # TODO C: settings: all that the frame said, whatever it means; None: it has not come
    settings: dict[int, int] | None = None

    def receive_frame(self, frame: Frame) -> None: ...  # the next frame of the control stream


class Request:  # TODO D: one for each request
    def receive_frame(self, frame: Frame) -> str | None: ...  # HEAD, BODY or TRAILERS: it is of that. None: of nothing
    def receive_end(self) -> None: ...  # the stream has ended behind a frame: may it?
