"""What a server may send to a client that has made one request (stream 0), and what the client has to do: RFC 9114.

Each case is: what it is, the section, the steps (what comes on which stream), and the outcome:

    OK              the answer is accepted
    CLOSE(code)     a connection error: CONNECTION_CLOSE with this code (§8)
    LATE(code)      the same, and the answer is good: all of it was here before
    RESET(code)     a stream error: STOP_SENDING with this code, and the connection is as good as before (§4.1.2, §8)
    THEIRS(code)    no fault of the message: the server has reset the stream, and the caller is told why
    WAIT            nothing yet: more has to come, and that is no error
"""

from __future__ import annotations

from typing import NamedTuple

from protocols.http3_frames import (
    HTTP2_FRAMES,
    HTTP2_SETTINGS,
    ErrorCode,
    Frame,
    FrameType,
    StreamType,
    encode,
    grease,
    numbered,
    priority_update,
    settings,
)
from protocols.quic_packets import MAX_VARINT, encode_varint

T, S = FrameType, StreamType
CONTROL, ENCODER, DECODER = 3, 7, 11  # the server's first three streams in one direction
MORE = 15  # its next one


class Outcome(NamedTuple):
    kind: str
    code: int = 0


OK, WAIT = Outcome("ok"), Outcome("wait")


def CLOSE(code: str) -> Outcome:
    return Outcome("close", ErrorCode[code])


def LATE(code: str) -> Outcome:
    return Outcome("late", ErrorCode[code])


def RESET(code: str) -> Outcome:
    return Outcome("reset", ErrorCode[code])


def THEIRS(code: int) -> Outcome:
    return Outcome("theirs", code)


UNEXPECTED, FRAME, ID, CREATION = "FRAME_UNEXPECTED", "FRAME_ERROR", "ID_ERROR", "STREAM_CREATION_ERROR"
CRITICAL, MESSAGE, LOAD, SETTING = "CLOSED_CRITICAL_STREAM", "MESSAGE_ERROR", "EXCESSIVE_LOAD", "SETTINGS_ERROR"
PACKING = "QPACK_DECOMPRESSION_FAILED"


class On(NamedTuple):
    """Bytes on a stream; `end`: it has no more."""

    stream: int
    data: bytes
    end: bool = False


class Rst(NamedTuple):
    """RESET_STREAM."""

    stream: int
    code: int


class Halt(NamedTuple):
    """STOP_SENDING."""

    stream: int
    code: int


Step = On | Rst | Halt


class Case(NamedTuple):
    name: str
    section: str
    steps: list[Step]
    outcome: Outcome
    method: str = "GET"
    body: bytes = b"ok"
    status: int = 200
    first: list[Step] | None = None  # instead of SETTINGS


def integer(number: int, bits: int, first: int = 0) -> bytes:
    """An integer of RFC 9204 §4.1.1 with a prefix of so many bits."""
    most = (1 << bits) - 1
    if number < most:
        return bytes([first | number])
    number, out = number - most, [first | most]
    while number >= 128:
        out.append(number % 128 | 128)
        number //= 128
    return bytes([*out, number])


def line(name: str, value: str) -> bytes:
    """A field without Huffman and without tables: as simple as it can be (RFC 9204 §4.5.6)."""
    data, text = name.encode("latin-1"), value.encode("latin-1")
    return integer(len(data), 3, 0x20) + data + integer(len(text), 7) + text


def section(*pairs: tuple[str, str]) -> bytes:
    """A field section that needs no entry of the table (§4.5.1)."""
    return b"\0\0" + b"".join(line(name, value) for name, value in pairs)


def head(*pairs: tuple[str, str], status: str = "200") -> Frame:
    return Frame(T.HEADERS, section((":status", status), *pairs))


def fields(*pairs: tuple[str, str]) -> Frame:
    return Frame(T.HEADERS, section(*pairs))


def data(payload: bytes = b"ok") -> Frame:
    return Frame(T.DATA, payload)


def on(*frames: Frame | bytes, stream: int = 0, end: bool = True) -> On:
    """These frames, one behind the other."""
    return On(stream, b"".join(frame if isinstance(frame, bytes) else encode(frame) for frame in frames), end)


def opened(kind: int, *frames: Frame | bytes, stream: int = MORE, end: bool = False) -> On:
    """A stream in one direction, from its type on."""
    return on(encode_varint(kind), *frames, stream=stream, end=end)


def control(*frames: Frame | bytes, end: bool = False) -> On:
    """More on the control stream, which has begun."""
    return on(*frames, stream=CONTROL, end=end)


ANSWER = [head(("content-length", "2")), data()]
GOOD = on(*ANSWER)
BEGIN = [opened(S.CONTROL, settings({}), stream=CONTROL)]
EMPTY = Frame(T.HEADERS, b"\0\0")  # a field section without fields
SIZE = b"\x3f\xe1\x1f"  # QPACK: the table may have 4096 bytes (RFC 9204 §4.3.1)
INSERT = b"\x43x-a\x03yes"  # insert x-a: yes (§4.3.3)
REFERS = b"\x02\x00\x80"  # a section that needs one entry, and has it: the last one
STATUS = b"\xd9"  # :status 200, entry 25 of the static table


def malformed(name: str, where: str, *frames: Frame, method: str = "GET") -> Case:
    return Case(name, where, [on(*frames)], RESET(MESSAGE), method)


def setting(code: int, value: int) -> list[Step]:
    return [opened(S.CONTROL, settings({code: value}), stream=CONTROL)]


CASES = [
    # The control stream.
    Case("SETTINGS, empty", "6.2.1", [GOOD], OK),
    Case("SETTINGS behind the answer", "7.2.4.2", [GOOD, *BEGIN], OK, first=[]),
    Case("no SETTINGS at all", "7.2.4.2", [GOOD], OK, first=[]),
    Case("settings that nobody knows", "7.2.4.1", [GOOD], OK, first=setting(0x1234, 5)),
    Case("a reserved setting", "7.2.4.1", [GOOD], OK, first=setting(grease(3), MAX_VARINT)),
    Case("limits of 2^62-1", "7.2.4.1", [GOOD], OK, first=[
        opened(S.CONTROL, settings({1: MAX_VARINT, 6: MAX_VARINT, 7: MAX_VARINT}), stream=CONTROL)
    ]),
    *(
        Case(f"setting {code:#x}, which is HTTP/2's", "7.2.4.1", [GOOD], CLOSE(SETTING), first=setting(code, 1))
        for code in sorted(HTTP2_SETTINGS)
    ),
    Case("a setting twice", "7.2.4", [GOOD], CLOSE(SETTING), first=[
        opened(S.CONTROL, settings([(6, 1000), (6, 1000)]), stream=CONTROL)
    ]),
    Case("ENABLE_CONNECT_PROTOCOL of 2", "9220 3", [GOOD], CLOSE(SETTING), first=setting(0x08, 2)),
    Case("H3_DATAGRAM of 2", "9297 2.1.1", [GOOD], CLOSE(SETTING), first=setting(0x33, 2)),
    Case("a setting without a value", "7.1", [GOOD], CLOSE(FRAME), first=[
        opened(S.CONTROL, Frame(T.SETTINGS, b"\x06"), stream=CONTROL)
    ]),
    Case("a setting that is cut off", "7.1", [GOOD], CLOSE(FRAME), first=[
        opened(S.CONTROL, Frame(T.SETTINGS, b"\x06\x80\x01"), stream=CONTROL)
    ]),
    Case("SETTINGS of 100,000 bytes", "10.5", [GOOD], CLOSE(LOAD), first=[
        opened(S.CONTROL, Frame(T.SETTINGS, bytes(10), left=100_000), stream=CONTROL)
    ]),
    *(
        Case(f"the control stream begins with {name}", "6.2.1", [GOOD], CLOSE("MISSING_SETTINGS"), first=[
            opened(S.CONTROL, frame, stream=CONTROL)
        ])
        for name, frame in {
            "GOAWAY": numbered(T.GOAWAY, 0), "DATA": data(), "HEADERS": head(), "an unknown type": Frame(0x1234),
            "a reserved type": Frame(grease(1)), "MAX_PUSH_ID": numbered(T.MAX_PUSH_ID, 0), "PING": Frame(0x06),
        }.items()
    ),
    Case("SETTINGS twice", "7.2.4", [control(settings({})), GOOD], CLOSE(UNEXPECTED)),
    Case("SETTINGS twice, behind the answer", "7.2.4", [GOOD, control(settings({}))], LATE(UNEXPECTED)),
    *(
        Case(f"{name} on the control stream", "7.2", [control(frame)], CLOSE(UNEXPECTED))
        for name, frame in {
            "DATA": data(), "HEADERS": head(), "PUSH_PROMISE": Frame(T.PUSH_PROMISE, b"\0\0\0"),
            "MAX_PUSH_ID": numbered(T.MAX_PUSH_ID, 1), "PRIORITY_UPDATE": priority_update(0, b"u=1"),
            "PRIORITY_UPDATE of a push": Frame(T.PRIORITY_UPDATE_PUSH, b"\0u=1"),
        }.items()
    ),
    *(
        Case(f"frame {type_:#x}, which is HTTP/2's, on the control stream", "7.2.8", [control(Frame(type_, bytes(8)))],
             CLOSE(UNEXPECTED))
        for type_ in sorted(HTTP2_FRAMES)
    ),
    Case("unknown frames on the control stream", "9", [
        control(Frame(0x1234, b"?"), Frame(grease(100), bytes(1000)), Frame(0x40, bytes(100_000))), GOOD
    ], OK),
    Case("an unknown frame without an end", "9", [control(Frame(0x1234, bytes(10), left=MAX_VARINT - 10)), GOOD], OK),
    Case("the control stream ends", "6.2.1", [control(end=True)], CLOSE(CRITICAL)),
    Case("the control stream ends within a frame", "6.2.1", [control(b"\x07", end=True)], CLOSE(CRITICAL)),
    Case("the control stream ends behind the answer", "6.2.1", [GOOD, control(end=True)], LATE(CRITICAL)),
    Case("the control stream is reset", "6.2.1", [Rst(CONTROL, 0x100)], CLOSE(CRITICAL)),
    Case("a second control stream", "6.2.1", [opened(S.CONTROL, settings({}))], CLOSE(CREATION)),
    Case("our control stream is not wanted", "6.2.1", [Halt(2, 0x100)], CLOSE(CRITICAL)),
    Case("our encoder's stream is not wanted", "9204 4.2", [Halt(6, 0x100)], CLOSE(CRITICAL)),
    Case("our decoder's stream is not wanted", "9204 4.2", [Halt(10, 0x100)], CLOSE(CRITICAL)),
    # GOAWAY, and pushes.
    Case("GOAWAY for what comes next", "5.2", [control(numbered(T.GOAWAY, 4)), GOOD], OK),
    Case("GOAWAY twice, lower", "5.2", [control(numbered(T.GOAWAY, 400), numbered(T.GOAWAY, 4)), GOOD], OK),
    Case("GOAWAY twice, the same", "5.2", [control(numbered(T.GOAWAY, 4), numbered(T.GOAWAY, 4)), GOOD], OK),
    Case("GOAWAY twice, higher", "5.2", [control(numbered(T.GOAWAY, 4), numbered(T.GOAWAY, 8))], CLOSE(ID)),
    Case("GOAWAY of 2^62-4", "5.2", [control(numbered(T.GOAWAY, MAX_VARINT - 3)), GOOD], OK),
    *(
        Case(f"GOAWAY of stream {stream}", "7.2.6", [control(numbered(T.GOAWAY, stream))], CLOSE(ID))
        for stream in (1, 2, 3, MAX_VARINT)
    ),
    Case("GOAWAY of nothing", "7.1", [control(Frame(T.GOAWAY))], CLOSE(FRAME)),
    Case("GOAWAY of two numbers", "7.1", [control(Frame(T.GOAWAY, b"\0\0"))], CLOSE(FRAME)),
    Case("GOAWAY, cut off", "7.1", [control(Frame(T.GOAWAY, b"\x80\0"))], CLOSE(FRAME)),
    Case("GOAWAY on the request's stream", "7.2.6", [on(numbered(T.GOAWAY, 0))], CLOSE(UNEXPECTED)),
    Case("PUSH_PROMISE", "7.2.5", [on(Frame(T.PUSH_PROMISE, b"\0" + section((":method", "GET"))))], CLOSE(ID)),
    Case("a stream of a push", "4.6", [opened(S.PUSH, b"\0")], CLOSE(ID)),
    Case("CANCEL_PUSH", "7.2.3", [control(numbered(T.CANCEL_PUSH, 0))], CLOSE(ID)),
    Case("CANCEL_PUSH of nothing", "7.1", [control(Frame(T.CANCEL_PUSH))], CLOSE(FRAME)),
    Case("CANCEL_PUSH on the request's stream", "7.2.3", [on(numbered(T.CANCEL_PUSH, 0))], CLOSE(UNEXPECTED)),
    # Streams.
    Case("a stream in both directions", "6.1", [on(*ANSWER, stream=1)], CLOSE(CREATION)),
    Case("a stream in both directions, empty", "6.1", [on(stream=1)], CLOSE(CREATION)),
    Case("a stream of an unknown type", "9", [opened(0x1234, b"?" * 1000), GOOD], OK),
    Case("streams of reserved types", "6.2.3", [opened(grease(n), b"?", stream=15 + 4 * n) for n in range(5)] + [GOOD],
         OK),
    Case("an unknown stream that ends", "9", [opened(0x1234, b"?", end=True), GOOD], OK),
    Case("an unknown stream that is reset", "9", [opened(0x1234, b"?"), Rst(MORE, 0x100), GOOD], OK),
    Case("a stream that ends before its type", "6.2", [on(stream=MORE), GOOD], OK),
    Case("a stream that ends within its type", "6.2", [on(b"\x40", stream=MORE), GOOD], OK),
    Case("a stream that is reset before its type", "6.2", [
        on(b"\x40", stream=MORE, end=False), Rst(MORE, 0), GOOD
    ], OK),
    Case("a type in eight bytes", "6.2, 9000 16", [on(b"\xc0" + bytes(7), settings({}), stream=CONTROL,
        end=False), GOOD], OK, first=[]),
    Case("no answer", "4.1", [on()], RESET(MESSAGE)),
    Case("no answer yet", "4.1", [on(end=False)], WAIT),
    Case("half an answer", "4.1", [on(*ANSWER, end=False)], WAIT),
    Case("a reset", "8", [Rst(0, ErrorCode.INTERNAL_ERROR)], THEIRS(0x102)),
    Case("a reset in the body", "8", [on(head(), data(), end=False), Rst(0, ErrorCode.INTERNAL_ERROR)], THEIRS(0x102)),
    Case("a reset for no reason", "8.1", [Rst(0, ErrorCode.NO_ERROR)], THEIRS(0x100)),
    Case("a reset with an unknown code", "8.1", [Rst(0, 0xDEADBEEF)], THEIRS(0xDEADBEEF)),
    Case("a reset within a frame", "7.1", [on(head(), b"\0\x10ok", end=False), Rst(0, 0x10C)], THEIRS(0x10C)),
    Case("it wants no more of a request that is sent", "4.1", [Halt(0, ErrorCode.NO_ERROR), GOOD], OK),
    # Frames of an answer.
    Case("an answer", "4.1", [GOOD], OK),
    Case("an answer without Content-Length", "4.1", [on(head(), data())], OK),
    Case("the end alone", "4.1", [on(*ANSWER, end=False), on()], OK),
    Case("DATA in pieces", "7.2.1", [on(head(), data(b"o"), data(b"k"))], OK),
    Case("empty DATA in between", "7.2.1", [on(head(), data(b""), data(b"o"), data(b""), data(b"k"), data(b""))], OK),
    Case("100,000 bytes in one frame", "7.2.1", [on(head(), data(b"x" * 100_000))], OK, body=b"x" * 100_000),
    Case("lengths in eight bytes", "9000 16", [
        on(head(), b"\xc0" + bytes(7) + b"\xc0" + bytes(6) + b"\x02ok")
    ], OK),
    Case("unknown frames everywhere", "9", [
        on(Frame(0x1234, b"?"), ANSWER[0], Frame(grease(5)), ANSWER[1], Frame(0x4321, bytes(70_000)))
    ], OK),
    Case("an unknown frame behind the trailers", "9", [on(*ANSWER, fields(("a", "b")), Frame(grease(9), b"?"))], OK),
    Case("DATA before the answer", "4.1", [on(data(), head())], CLOSE(UNEXPECTED)),
    Case("DATA behind an interim answer", "4.1", [on(head(status="103"), data())], CLOSE(UNEXPECTED)),
    Case("empty DATA before the answer", "4.1", [on(data(b""), *ANSWER)], CLOSE(UNEXPECTED)),
    Case("DATA behind the trailers", "4.1", [on(head(), fields(("a", "b")), data())], CLOSE(UNEXPECTED)),
    Case("HEADERS behind the trailers", "4.1", [on(*ANSWER, fields(("a", "b")), fields(("c", "d")))],
         CLOSE(UNEXPECTED)),
    *(
        Case(f"{name} on the request's stream", "7.2", [on(head(), frame)], CLOSE(UNEXPECTED))
        for name, frame in {
            "SETTINGS": settings({}), "MAX_PUSH_ID": numbered(T.MAX_PUSH_ID, 1),
            "PRIORITY_UPDATE": priority_update(0, b"u=1"),
        }.items()
    ),
    *(
        Case(f"frame {type_:#x}, which is HTTP/2's, on the request's stream", "7.2.8",
             [on(head(), Frame(type_, bytes(8)))], CLOSE(UNEXPECTED))
        for type_ in sorted(HTTP2_FRAMES)
    ),
    Case("the stream ends within DATA", "7.1", [on(head(), b"\0\x10ok")], CLOSE(FRAME)),
    Case("the stream ends within HEADERS", "7.1", [on(b"\x01\x10\0\0")], CLOSE(FRAME)),
    Case("the stream ends within a length", "7.1", [on(*ANSWER, b"\0\x40")], CLOSE(FRAME)),
    Case("the stream ends within a type", "7.1", [on(*ANSWER, b"\x40")], CLOSE(FRAME)),
    Case("the stream ends within an unknown frame", "7.1", [on(*ANSWER, b"\x21\x10?")], CLOSE(FRAME)),
    Case("HEADERS of 100,000 bytes", "4.2.2", [
        on(Frame(T.HEADERS, bytes(10), left=100_000), end=False)
    ], RESET(LOAD)),
    Case("HEADERS of 2^62-1 bytes", "4.2.2", [
        on(b"\x01" + b"\xff" * 8, end=False), on(b"x" * 100, end=False)
    ], RESET(LOAD)),
    Case("more fields than we take", "4.2.2", [on(head(*[("a", "")] * 2500))], RESET(LOAD)),
    Case("more bytes of fields than we take", "4.2.2", [on(head(*[("a", "x" * 1000)] * 64))], RESET(LOAD)),
    Case("HTTP/1.1", "7.2", [on(b"HTTP/1.1 400 Bad Request\r\n\r\n")], CLOSE(FRAME)),
    Case("garbage", "7.1", [on(b"\xff" * 100)], CLOSE(FRAME)),
    # QPACK.
    Case("an entry that is here", "9204 2.1", [
        opened(S.QPACK_ENCODER, SIZE, INSERT, stream=ENCODER),
        on(Frame(T.HEADERS, b"\x02\x00" + STATUS + b"\x80"), data()),
    ], OK),
    Case("an entry that comes later", "9204 2.1.2", [
        on(Frame(T.HEADERS, b"\x02\x00" + STATUS + b"\x80"), data()),
        opened(S.QPACK_ENCODER, SIZE, INSERT, stream=ENCODER),
    ], OK),
    Case("an entry that never comes", "9204 2.1.2", [
        on(Frame(T.HEADERS, b"\x02\x00" + STATUS + b"\x80"), data())
    ], WAIT),
    Case("trailers that wait", "9204 2.1.2", [
        on(*ANSWER, Frame(T.HEADERS, REFERS)), opened(S.QPACK_ENCODER, SIZE, INSERT, stream=ENCODER)
    ], OK),
    Case("a reset while it waits", "9204 2.2.2.2", [
        on(Frame(T.HEADERS, REFERS), end=False), Rst(0, 0x102),
        opened(S.QPACK_ENCODER, SIZE, INSERT, stream=ENCODER),
    ], THEIRS(0x102)),
    Case("what waited was malformed", "4.1.2", [
        on(Frame(T.HEADERS, REFERS), data()), opened(S.QPACK_ENCODER, SIZE, INSERT, stream=ENCODER)
    ], RESET(MESSAGE)),
    Case("an entry that is not in the static table", "9204 3.1", [on(Frame(T.HEADERS, b"\0\0\xff\x24"))],
         CLOSE(PACKING)),
    Case("an entry that cannot come any more", "9204 2.2.3", [on(Frame(T.HEADERS, b"\xff\xff\x03\x00\x80"))],
         CLOSE(PACKING)),
    Case("an entry older than the section says", "9204 2.2.3", [on(Frame(T.HEADERS, b"\0\0\x80"))], CLOSE(PACKING)),
    Case("a section that is cut off", "9204 4.5", [on(Frame(T.HEADERS, b"\0\0\x23ab"))], CLOSE(PACKING)),
    Case("a section of one byte", "9204 4.5.1", [on(Frame(T.HEADERS, b"\0"))], CLOSE(PACKING)),
    Case("a section of no bytes", "9204 4.5.1", [on(Frame(T.HEADERS))], CLOSE(PACKING)),
    Case("Huffman's end of string", "9204 4.1.2", [
        on(Frame(T.HEADERS, b"\0\0" + STATUS + b"\x21a\x84\xff\xff\xff\xff"))
    ], CLOSE(PACKING)),
    Case("an integer without an end", "9204 4.1.1", [on(Frame(T.HEADERS, b"\0\0\xff" + b"\x80" * 100))],
         CLOSE(PACKING)),
    Case("QPACK broken in the trailers", "9204 2.2", [on(*ANSWER, Frame(T.HEADERS, b"\0\0\x80"))], CLOSE(PACKING)),
    Case("a table larger than allowed", "9204 4.3.1", [
        opened(S.QPACK_ENCODER, b"\x3f\xe2\x1f", stream=ENCODER)
    ], CLOSE("QPACK_ENCODER_STREAM_ERROR")),
    Case("an entry larger than the table", "9204 3.2.2", [
        opened(S.QPACK_ENCODER, INSERT, stream=ENCODER)
    ], CLOSE("QPACK_ENCODER_STREAM_ERROR")),
    Case("a copy of what is not there", "9204 4.3.4", [
        opened(S.QPACK_ENCODER, SIZE, b"\x05", stream=ENCODER)
    ], CLOSE("QPACK_ENCODER_STREAM_ERROR")),
    Case("an acknowledgement of what was never sent", "9204 4.4.1", [
        opened(S.QPACK_DECODER, b"\x80", stream=DECODER)
    ], CLOSE("QPACK_DECODER_STREAM_ERROR")),
    Case("an increment of 0", "9204 4.4.3", [
        opened(S.QPACK_DECODER, b"\x00", stream=DECODER)
    ], CLOSE("QPACK_DECODER_STREAM_ERROR")),
    Case("entries that we never sent have arrived", "9204 4.4.3", [
        opened(S.QPACK_DECODER, b"\x3e", stream=DECODER)
    ], CLOSE("QPACK_DECODER_STREAM_ERROR")),
    Case("a second stream of the encoder", "9204 4.2", [
        opened(S.QPACK_ENCODER, stream=ENCODER), opened(S.QPACK_ENCODER)
    ], CLOSE(CREATION)),
    Case("a second stream of the decoder", "9204 4.2", [
        opened(S.QPACK_DECODER, stream=DECODER), opened(S.QPACK_DECODER)
    ], CLOSE(CREATION)),
    Case("the encoder's stream ends", "9204 4.2", [opened(S.QPACK_ENCODER, stream=ENCODER, end=True)], CLOSE(CRITICAL)),
    Case("the decoder's stream is reset", "9204 4.2", [opened(S.QPACK_DECODER, stream=DECODER), Rst(DECODER, 0)],
         CLOSE(CRITICAL)),
    # Messages.
    malformed("no status", "4.3.2", fields(("a", "b")), data()),
    malformed("no fields", "4.3.2", EMPTY, data()),
    malformed("a status behind a field", "4.3", fields(("a", "b"), (":status", "200"))),
    malformed("a status twice", "4.3", head((":status", "200"))),
    *(malformed(f"a status of {status!r}", "4.3.2", head(status=status))
      for status in ("", "20", "2000", "099", "2x0", " 200", "+20")),
    malformed("a field of requests", "4.3", head((":path", "/"))),
    malformed("an unknown field with a colon", "4.3", head((":x", "y"))),
    malformed("a name in capitals", "4.2", head(("Server", "x"))),
    Case("an empty name", "4.2", [on(head(("", "x")), data())], RESET(MESSAGE)),
    Case("an empty name in trailers", "4.2", [on(head(), data(), fields(("", "x")))], RESET(MESSAGE)),
    malformed("a name with a space", "4.2", head(("a b", "x"))),
    malformed("a name with a colon in it", "10.3", head(("a:b", "x"))),
    malformed("CR LF in a value", "10.3", head(("a", "x\r\nset-cookie: evil=1"))),
    malformed("NUL in a value", "10.3", head(("a", "x\0y"))),
    malformed("a space before a value", "10.3", head(("a", " x"))),
    *(malformed(f"{name}: about a connection", "4.2", head((name, value)))
      for name, value in (("connection", "close"), ("keep-alive", "5"), ("proxy-connection", "x"),
                          ("transfer-encoding", "chunked"), ("upgrade", "h2c"), ("te", "gzip"))),
    malformed("101", "4.5", head(status="101")),
    malformed("an interim answer as the end", "4.1", head(status="103")),
    malformed("21 interim answers", "4.1", *[head(status="103")] * 21, *ANSWER),
    Case("interim answers", "4.1", [on(head(status="100"), head(("link", "</a>"), status="103"), *ANSWER)], OK),
    Case("20 interim answers", "4.1", [on(*[head(status="103")] * 20, *ANSWER)], OK),
    Case("an interim answer with Content-Length", "4.1", [
        on(head(("content-length", "500"), status="103"), *ANSWER)
    ], OK),
    Case("a field that is no text", "4.2", [on(head(("a", "\xff\x80")), data())], OK),
    Case("204", "4.1", [on(head(status="204"))], OK, status=204, body=b""),
    Case("304 with Content-Length", "9110 8.6", [on(head(("content-length", "5"), status="304"))], OK, status=304,
         body=b""),
    Case("HEAD with Content-Length", "4.1.2", [on(head(("content-length", "5")))], OK, method="HEAD", body=b""),
    malformed("a body behind HEAD", "4.1.2", head(), data(), method="HEAD"),
    malformed("a body behind 204", "9110 6.4.1", head(status="204"), data()),
    malformed("a body behind 304", "9110 6.4.1", head(status="304"), data()),
    malformed("less than Content-Length", "4.1.2", head(("content-length", "3")), data()),
    malformed("more than Content-Length", "4.1.2", head(("content-length", "1")), data()),
    malformed("nothing of Content-Length", "4.1.2", head(("content-length", "1"))),
    malformed("more than Content-Length, in pieces", "4.1.2", head(("content-length", "3")), data(), data()),
    malformed("less than Content-Length, with trailers", "4.1.2",
              head(("content-length", "3")), data(), fields(("a", "b"))),
    malformed("Content-Length twice, and not the same", "9110 8.6",
              head(("content-length", "2"), ("content-length", "3")), data()),
    malformed("Content-Length of -1", "9110 8.6", head(("content-length", "-1")), data()),
    malformed("Content-Length in Arabic", "9110 8.6", head(("content-length", "\xb2")), data()),
    Case("Content-Length twice, and the same", "9110 8.6", [
        on(head(("content-length", "2"), ("content-length", "2")), data())
    ], OK),
    Case("trailers", "4.1", [on(*ANSWER, fields(("a", "b")))], OK),
    Case("trailers without a body", "4.1", [on(head(), fields(("a", "b")))], OK, body=b""),
    Case("trailers without fields", "4.1", [on(*ANSWER, EMPTY)], OK),
    malformed("trailers with a status", "4.3", head(), data(), fields((":status", "200"))),
    malformed("trailers with :path", "4.3", head(), data(), fields((":path", "/"))),
    malformed("trailers with Connection", "4.2", head(), data(), fields(("connection", "close"))),
    # Floods: what brings nothing has a price (§10.5).
    Case("1001 empty frames of DATA", "10.5", [on(head(), *[data(b"")] * 1001)], CLOSE(LOAD)),
    Case("40 kB, a byte each", "10.5", [on(head(), *[data(b"a")] * 40_000)], CLOSE(LOAD)),
    Case("10 kB, a byte each", "10.5", [on(head(), *[data(b"a")] * 10_000)], OK, body=b"a" * 10_000),
    Case("1001 unknown frames", "10.5", [on(head(), *[Frame(grease(1))] * 1001)], CLOSE(LOAD)),
    Case("1001 unknown frames on the control stream", "10.5", [control(*[Frame(0x1234)] * 1001)], CLOSE(LOAD)),
    Case("1001 GOAWAYs", "10.5", [control(*[numbered(T.GOAWAY, 4)] * 1001)], CLOSE(LOAD)),
    Case("1001 unknown streams", "10.5", [opened(0x1234, stream=15 + 4 * n, end=True) for n in range(1001)],
         CLOSE(LOAD)),
    Case("1001 streams without a type", "10.5", [On(15 + 4 * n, b"", True) for n in range(1001)], CLOSE(LOAD)),
    Case("1001 streams reset before their type", "10.5", [Rst(15 + 4 * n, 0) for n in range(1001)], CLOSE(LOAD)),
    Case("2 MB that nobody wants", "10.5", [on(Frame(0x1234, bytes(2_000_000)))], CLOSE(LOAD)),
    Case("2 MB on a stream that nobody knows", "10.5", [opened(0x1234, bytes(2_000_000))], CLOSE(LOAD)),
    Case("30,000 copies of an entry", "10.5", [
        opened(S.QPACK_ENCODER, SIZE, INSERT, b"\0" * 30_000, stream=ENCODER)
    ], CLOSE(LOAD)),
    Case("500 of each", "10.5", [
        on(head(), *[data(b""), data(b"x"), Frame(grease(1))] * 400)
    ], OK, body=b"x" * 400),
]  # fmt: skip
