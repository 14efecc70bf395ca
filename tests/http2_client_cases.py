"""What a server may send to a client that has made one request (stream 1), and what the client has to do: RFC 9113.

Each case is: what it is, the section, the frames behind the server's SETTINGS, and the outcome:

    OK                        the answer is accepted
    GOAWAY(code)              a connection error: GOAWAY with this code, and the end (§5.4.1)
    LATE(code)                the same, and the answer is good: all of it was here before
    RESET(code)               a stream error: RST_STREAM with this code; the connection is as good as before (§5.4.2)
    THEIRS(code)              no fault of the message: the server has reset the stream, and the caller is told why
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from protocols.http2_frames import (
    MAX_WINDOW,
    SETTINGS_ACK,
    ErrorCode,
    Flag,
    Frame,
    FrameType,
    encode,
    goaway,
    pad,
    rst_stream,
    settings,
    window_update,
)

T = FrameType
END, ENDS = Flag.END_STREAM, Flag.END_HEADERS


class Outcome(NamedTuple):
    kind: str
    code: int = 0


OK = Outcome("ok")


def GOAWAY(code: str) -> Outcome:
    return Outcome("goaway", ErrorCode[code])


def LATE(code: str) -> Outcome:
    return Outcome("late", ErrorCode[code])


def RESET(code: str) -> Outcome:
    return Outcome("reset", ErrorCode[code])


def THEIRS(code: int) -> Outcome:
    return Outcome("theirs", code)


PROTOCOL, SIZE, FLOW, PACKING = "PROTOCOL_ERROR", "FRAME_SIZE_ERROR", "FLOW_CONTROL_ERROR", "COMPRESSION_ERROR"


class Case(NamedTuple):
    name: str
    section: str
    frames: list[Frame | bytes]
    outcome: Outcome
    method: str = "GET"
    first: Frame | bytes | None = settings({})
    body: bytes = b"ok"
    status: int = 200


def block(*pairs: tuple[str, str]) -> bytes:
    """HPACK without Huffman and without the table: as simple as it can be (RFC 7541 §6.2.2)."""
    packed = b""
    for pair in pairs:
        packed += b"\0"
        for text in pair:
            data = text.encode("latin-1")
            packed += length(len(data)) + data
    return packed


def length(size: int) -> bytes:
    """An integer of RFC 7541 §5.1 with a prefix of seven bits."""
    if size < 127:
        return bytes([size])
    size, out = size - 127, [127]
    while size >= 128:
        out.append(size % 128 | 128)
        size //= 128
    return bytes([*out, size])


def head(*pairs: tuple[str, str], status: str = "200", flags: int = ENDS, stream: int = 1) -> Frame:
    return Frame(T.HEADERS, flags, stream, block((":status", status), *pairs))


def fields(*pairs: tuple[str, str], flags: int = ENDS | END, stream: int = 1) -> Frame:
    return Frame(T.HEADERS, flags, stream, block(*pairs))


def data(payload: bytes = b"ok", flags: int = END, stream: int = 1) -> Frame:
    return Frame(T.DATA, flags, stream, payload)


def ping(payload: bytes = b"12345678", flags: int = 0, stream: int = 0) -> Frame:
    return Frame(T.PING, flags, stream, payload)


def priority(stream: int, depends_on: int, size: int = 5) -> Frame:
    return Frame(T.PRIORITY, 0, stream, (struct.pack(">LB", depends_on, 15) + bytes(9))[:size])


def reserved(frame: Frame) -> bytes:
    """With the first bit of the stream's number set."""
    raw = encode(frame)
    return raw[:5] + bytes([raw[5] | 0x80]) + raw[6:]


ANSWER = [head(("content-length", "2")), data()]
PART = Frame(T.HEADERS, 0, 1, block((":status", "200")))  # of a field block that goes on


def more(payload: bytes = b"", flags: int = ENDS, stream: int = 1) -> Frame:
    return Frame(T.CONTINUATION, flags, stream, payload)


def malformed(name: str, section: str, *frames: Frame, method: str = "GET") -> Case:
    return Case(name, section, list(frames), RESET(PROTOCOL), method)


def with_setting(code: int, value: int) -> list[Frame | bytes]:
    return [settings({code: value}), *ANSWER]


CASES = [
    # The preface.
    Case("SETTINGS, empty", "3.4", ANSWER, OK),
    Case("SETTINGS, with values", "3.4", ANSWER, OK, first=settings({3: 10, 4: 100, 5: 20000, 6: 9999})),
    Case("PING before SETTINGS", "3.4", ANSWER, GOAWAY(PROTOCOL), first=ping()),
    Case("WINDOW_UPDATE before SETTINGS", "3.4", ANSWER, GOAWAY(PROTOCOL), first=window_update(0, 1)),
    Case("an answer before SETTINGS", "3.4", [], GOAWAY(PROTOCOL), first=ANSWER[0]),
    Case("the acknowledgement before SETTINGS", "3.4", ANSWER, GOAWAY(PROTOCOL), first=SETTINGS_ACK),
    Case("GOAWAY before SETTINGS", "3.4", [], GOAWAY(PROTOCOL), first=goaway(0, 0)),
    Case("an unknown frame before SETTINGS", "3.4", ANSWER, GOAWAY(PROTOCOL), first=Frame(0xFA)),
    Case("SETTINGS on a stream", "3.4, 6.5", ANSWER, GOAWAY(PROTOCOL), first=Frame(T.SETTINGS, 0, 1)),
    Case("HTTP/1.1", "3.4", [b"HTTP/1.1 400 Bad Request\r\n\r\n"], GOAWAY(PROTOCOL), first=None),
    Case("garbage", "3.4", [b"\xff" * 100], GOAWAY(PROTOCOL), first=None),
    # Frames, whatever is in them.
    Case("an unknown frame on the connection", "5.5", [Frame(0xFA, 0xFF, 0, b"?"), *ANSWER], OK),
    Case("an unknown frame on the stream", "5.5", [ANSWER[0], Frame(0xFA, 0xFF, 1, b"?"), ANSWER[1]], OK),
    Case("an unknown frame on an idle stream", "5.1, 5.5", [Frame(0xFA, 0xFF, 99, b"?"), *ANSWER], OK),
    Case("an unknown frame, empty", "5.5", [Frame(0xFA), *ANSWER], OK),
    Case("ALTSVC of nothing", "5.5", [Frame(0x0A, 0, 0, b"\xff"), *ANSWER], OK),
    Case("ORIGIN", "5.5", [Frame(0x0C, 0, 0, b"\0\x03abc"), *ANSWER], OK),
    Case("unknown flags on all", "4.1", [
        ping(flags=0xFE), Frame(T.HEADERS, 0xD2 | ENDS, 1, ANSWER[0].payload), Frame(T.DATA, 0xF6 | END, 1, b"ok"),
    ], OK),
    Case("unknown flags on SETTINGS", "4.1", [Frame(T.SETTINGS, 0xFE), *ANSWER], OK),
    Case("the reserved bit of the stream", "4.1", [reserved(frame) for frame in ANSWER], OK),
    Case("the reserved bit on the connection", "4.1", [reserved(ping()), reserved(settings({})), *ANSWER], OK),
    Case("DATA as long as may be", "4.2", [head(), data(b"x" * 16384)], OK, body=b"x" * 16384),
    Case("DATA a byte too long", "4.2", [head(), data(b"x" * 16385)], GOAWAY(SIZE)),
    Case("HEADERS a byte too long", "4.2", [head(("a", "x" * 16384))], GOAWAY(SIZE)),
    Case("an unknown frame, too long", "4.2", [Frame(0xFA, 0, 0, bytes(16385))], GOAWAY(SIZE)),
    Case("the header of a frame of 16 MB", "4.2", [b"\xff\xff\xff\0\0\0\0\0\x01"], GOAWAY(SIZE)),
    # HPACK.
    Case("an index that is not in the table", "4.3", [Frame(T.HEADERS, ENDS, 1, b"\xff\x80\x01")], GOAWAY(PACKING)),
    Case("index 0", "4.3, 7541 6.1", [Frame(T.HEADERS, ENDS, 1, b"\x80")], GOAWAY(PACKING)),
    Case("a string that is cut off", "4.3", [Frame(T.HEADERS, ENDS, 1, b"\x88\0\x05ab")], GOAWAY(PACKING)),
    Case("a table larger than allowed", "4.3, 7541 6.3", [
        Frame(T.HEADERS, ENDS, 1, b"\x3f\xe2\x1f\x88")
    ], GOAWAY(PACKING)),
    Case("a table that changes in the middle", "4.3, 7541 4.2", [
        Frame(T.HEADERS, ENDS, 1, b"\x88\x20")
    ], GOAWAY(PACKING)),
    Case("more than two size updates", "7541 4.2",
         [Frame(T.HEADERS, ENDS | END, 1, b"\x20\x20\x20\x88")], GOAWAY(PACKING)),
    Case("a smaller table", "7541 4.2", [Frame(T.HEADERS, ENDS, 1, b"\x20\x88"), ANSWER[1]], OK),
    Case("Huffman's end of string", "7541 5.2", [
        Frame(T.HEADERS, ENDS, 1, b"\x88\0\x01a\x84\xff\xff\xff\xff")
    ], GOAWAY(PACKING)),
    Case("an integer without an end", "7541 5.1", [
        Frame(T.HEADERS, ENDS, 1, b"\xff" + b"\x80" * 1000)
    ], GOAWAY(PACKING)),
    Case("HPACK broken in the trailers", "4.3", [
        head(), data(flags=0), Frame(T.HEADERS, ENDS | END, 1, b"\x80")
    ], GOAWAY(PACKING)),
    # The states of streams.
    *(
        Case(f"{frame} on an idle stream", "5.1", [frame, *ANSWER], GOAWAY(PROTOCOL))
        for frame in (
            data(stream=3), head(stream=3), rst_stream(3, 8), window_update(3, 1), more(stream=3),
            data(stream=2), head(stream=2), rst_stream(2, 8), window_update(2, 1), head(stream=MAX_WINDOW),
        )
    ),
    Case("PRIORITY on an idle stream", "5.1", [priority(3, 0), priority(2, 0), *ANSWER], OK),
    Case("DATA behind the end", "5.1", [*ANSWER, data()], LATE("STREAM_CLOSED")),
    Case("HEADERS behind the end", "5.1", [*ANSWER, head()], LATE("STREAM_CLOSED")),
    Case("trailers behind the end", "5.1", [*ANSWER, fields(("a", "b"))], LATE("STREAM_CLOSED")),
    Case("CONTINUATION behind the end", "5.1, 6.10", [*ANSWER, more()], LATE(PROTOCOL)),
    Case("what may come behind the end", "5.1", [*ANSWER, window_update(1, 1), rst_stream(1, 0), priority(1, 0)], OK),
    Case("DATA behind its RST_STREAM", "5.1", [head(), rst_stream(1, 2), data()], THEIRS(2)),
    # Each type of frame.
    Case("DATA on the connection", "6.1", [ANSWER[0], data(stream=0)], GOAWAY(PROTOCOL)),
    Case("DATA, padded", "6.1", [ANSWER[0], pad(data(), 255)], OK),
    Case("DATA, padded with nothing", "6.1", [ANSWER[0], pad(data(), 0)], OK),
    Case("DATA that is padding", "6.1", [ANSWER[0], pad(data(b"", 0), 100), data()], OK),
    Case("padding, and nothing else", "6.1", [head(), data(b"\x04okk\0", END | Flag.PADDED)], OK, body=b""),
    Case("padding longer than the payload", "6.1",
        [ANSWER[0], data(b"\x05okk\0", END | Flag.PADDED)], GOAWAY(PROTOCOL)
    ),
    Case("padding of 255 in two bytes", "6.1", [ANSWER[0], data(b"\xff\0", END | Flag.PADDED)], GOAWAY(PROTOCOL)),
    Case("padding that does not say how long", "6.1", [ANSWER[0], data(b"", END | Flag.PADDED)], GOAWAY(PROTOCOL)),
    Case("empty DATA in between", "6.1",
        [ANSWER[0], data(b"", 0), data(b"o", 0), data(b"", 0), data(b"k", 0), data(b"")], OK
    ),
    Case("HEADERS on the connection", "6.2", [head(stream=0)], GOAWAY(PROTOCOL)),
    Case("HEADERS, padded", "6.2", [pad(ANSWER[0], 200), ANSWER[1]], OK),
    Case("HEADERS with priority", "6.2", [
        Frame(T.HEADERS, ENDS | Flag.PRIORITY, 1, b"\x80\0\0\0\x10" + ANSWER[0].payload), ANSWER[1]
    ], OK),
    Case("HEADERS, padded and with priority", "6.2", [
        pad(Frame(T.HEADERS, ENDS | Flag.PRIORITY, 1, b"\0\0\0\0\x10" + ANSWER[0].payload), 9), ANSWER[1]
    ], OK),
    Case("HEADERS with priority, on itself", "7540 5.3.1", [
        Frame(T.HEADERS, ENDS | Flag.PRIORITY, 1, b"\x80\0\0\x01\x10" + ANSWER[0].payload), ANSWER[1]
    ], RESET(PROTOCOL)),
    Case("HEADERS of too much padding", "6.2",
        [Frame(T.HEADERS, ENDS | Flag.PADDED, 1, b"\x02\x88")], GOAWAY(PROTOCOL)
    ),
    Case("HEADERS with less than a priority", "6.2",
        [Frame(T.HEADERS, ENDS | Flag.PRIORITY, 1, b"\0\0\0")], GOAWAY(PROTOCOL)
    ),
    Case("PRIORITY on the connection", "6.3", [priority(0, 1)], GOAWAY(PROTOCOL)),
    Case("PRIORITY, too short", "6.3", [priority(1, 0, 4), *ANSWER], RESET(SIZE)),
    Case("PRIORITY, too long", "6.3", [priority(1, 0, 6), *ANSWER], RESET(SIZE)),
    Case("PRIORITY", "6.3", [priority(1, 3), *ANSWER], OK),
    Case("PRIORITY on itself", "7540 5.3.1", [priority(1, 1), *ANSWER], RESET(PROTOCOL)),
    Case("RST_STREAM", "6.4", [rst_stream(1, ErrorCode.INTERNAL_ERROR)], THEIRS(2)),
    Case("RST_STREAM in the body", "6.4", [head(), data(flags=0), rst_stream(1, 2)], THEIRS(2)),
    Case("RST_STREAM for no reason", "6.4", [rst_stream(1, 0)], THEIRS(0)),
    Case("RST_STREAM with an unknown code", "7", [rst_stream(1, 0xDEADBEEF)], THEIRS(0xDEADBEEF)),
    Case("RST_STREAM on the connection", "6.4", [rst_stream(0, 8)], GOAWAY(PROTOCOL)),
    Case("RST_STREAM, too short", "6.4", [Frame(T.RST_STREAM, 0, 1, bytes(3))], GOAWAY(SIZE)),
    Case("RST_STREAM, too long", "6.4", [Frame(T.RST_STREAM, 0, 1, bytes(5))], GOAWAY(SIZE)),
    Case("SETTINGS on the stream", "6.5", [Frame(T.SETTINGS, 0, 1), *ANSWER], GOAWAY(PROTOCOL)),
    Case("SETTINGS acknowledged with settings", "6.5", [settings({3: 1})._replace(flags=Flag.ACK)], GOAWAY(SIZE)),
    Case("SETTINGS acknowledged twice", "6.5.3", [SETTINGS_ACK, SETTINGS_ACK, *ANSWER], OK),
    Case("SETTINGS, five bytes", "6.5", [Frame(T.SETTINGS, 0, 0, bytes(5))], GOAWAY(SIZE)),
    Case("push: 0", "6.5.2", with_setting(2, 0), OK),
    Case("push: 1, from a server", "6.5.2", with_setting(2, 1), GOAWAY(PROTOCOL)),
    Case("push: 2", "6.5.2", with_setting(2, 2), GOAWAY(PROTOCOL)),
    Case("a window of 2^31", "6.5.2", with_setting(4, 1 << 31), GOAWAY(FLOW)),
    Case("a window of 2^31-1", "6.5.2", with_setting(4, MAX_WINDOW), OK),
    Case("a window of 0", "6.5.2", with_setting(4, 0), OK),
    Case("frames of 16383", "6.5.2", with_setting(5, 16383), GOAWAY(PROTOCOL)),
    Case("frames of 2^24", "6.5.2", with_setting(5, 1 << 24), GOAWAY(PROTOCOL)),
    Case("frames of 2^24-1", "6.5.2", with_setting(5, (1 << 24) - 1), OK),
    Case("a table of 4 GB", "6.5.2", with_setting(1, (1 << 32) - 1), OK),
    Case("a table of 0", "6.5.2", with_setting(1, 0), OK),
    Case("an unknown setting", "6.5.2", with_setting(0xFAFA, 7), OK),
    Case("a wrong setting, then a right one", "6.5.3", [
        Frame(T.SETTINGS, 0, 0, settings({2: 2}).payload + settings({2: 0}).payload), *ANSWER
    ], GOAWAY(PROTOCOL)),
    Case("one setting, twice", "6.5", [
        Frame(T.SETTINGS, 0, 0, settings({3: 0}).payload + settings({3: 5}).payload), *ANSWER
    ], OK),
    Case("a push", "6.6, 8.4",
        [Frame(T.PUSH_PROMISE, ENDS, 1, b"\0\0\0\x02" + block((":method", "GET")))], GOAWAY(PROTOCOL)
    ),
    Case("a push on the connection", "6.6", [Frame(T.PUSH_PROMISE, ENDS, 0, b"\0\0\0\x02")], GOAWAY(PROTOCOL)),
    Case("NO_RFC7540_PRIORITIES of 1", "9218 2.1", [settings({9: 1}), *ANSWER], OK),
    Case("NO_RFC7540_PRIORITIES of 2", "9218 2.1", [settings({9: 2})], GOAWAY(PROTOCOL)),
    Case("PRIORITY_UPDATE", "9218 7.1", [Frame(T.PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01u=1")], GOAWAY(PROTOCOL)),
    Case("PING, and its answer", "6.7", [ping(), ping(b"87654321", Flag.ACK), *ANSWER], OK),
    Case("PING, too short", "6.7", [ping(bytes(7))], GOAWAY(SIZE)),
    Case("PING, too long", "6.7", [ping(bytes(9))], GOAWAY(SIZE)),
    Case("PING on the stream", "6.7", [ping(stream=1)], GOAWAY(PROTOCOL)),
    Case("GOAWAY on the stream", "6.8", [goaway(1, 0)._replace(stream=1)], GOAWAY(PROTOCOL)),
    Case("GOAWAY, too short", "6.8", [Frame(T.GOAWAY, 0, 0, bytes(7))], GOAWAY(SIZE)),
    Case("GOAWAY that grows", "6.8", [goaway(1, 0), goaway(3, 0)], GOAWAY(PROTOCOL)),
    Case("WINDOW_UPDATE", "6.9", [window_update(0, 1), window_update(1, 1), *ANSWER], OK),
    Case("WINDOW_UPDATE with the reserved bit", "6.9",
        [window_update(0, 1 << 31 | 1), window_update(1, 1 << 31 | 1), *ANSWER], OK
    ),
    Case("the connection's window opened by 0", "6.9", [window_update(0, 0)], GOAWAY(PROTOCOL)),
    Case("the stream's window opened by 0", "6.9", [window_update(1, 0), *ANSWER], RESET(PROTOCOL)),
    Case("WINDOW_UPDATE, too short", "6.9", [Frame(T.WINDOW_UPDATE, 0, 0, bytes(3))], GOAWAY(SIZE)),
    Case("WINDOW_UPDATE, too long", "6.9", [Frame(T.WINDOW_UPDATE, 0, 1, b"\0\0\0\0\x01")], GOAWAY(SIZE)),
    Case("the connection's window over 2^31-1", "6.9.1", [window_update(0, MAX_WINDOW)], GOAWAY(FLOW)),
    Case("the stream's window over 2^31-1", "6.9.1", [window_update(1, MAX_WINDOW), *ANSWER], RESET(FLOW)),
    Case("SETTINGS that open a window over 2^31-1", "6.9.2", [
        window_update(1, MAX_WINDOW - 65535), settings({4: 65536})
    ], GOAWAY(FLOW)),
    Case("CONTINUATION", "6.10", [PART, more(block(("content-length", "2"))), data()], OK),
    Case("CONTINUATION, bytewise", "6.10", [
        Frame(T.HEADERS, 0, 1), *(more(bytes([byte]), 0) for byte in block((":status", "200"))), more(), data(),
    ], OK),
    Case("CONTINUATION behind HEADERS that end the stream", "6.2", [
        Frame(T.HEADERS, END, 1, block((":status", "200"))), more()
    ], OK, body=b""),
    Case("CONTINUATION on the connection", "6.10", [PART, more(stream=0)], GOAWAY(PROTOCOL)),
    Case("CONTINUATION on another stream", "6.10", [PART, more(stream=3)], GOAWAY(PROTOCOL)),
    Case("CONTINUATION of nothing", "6.10", [more(), *ANSWER], GOAWAY(PROTOCOL)),
    Case("CONTINUATION of a whole block", "6.10", [head(), more()], GOAWAY(PROTOCOL)),
    *(
        Case(f"{frame} in a field block", "6.10", [PART, frame], GOAWAY(PROTOCOL))
        for frame in (
            data(), head(), ping(), settings({}), priority(1, 0), window_update(0, 1), rst_stream(1, 8), goaway(1, 0),
        )
    ),
    Case("an unknown frame in a field block", "5.5", [PART, Frame(0xFA, 0, 1)], GOAWAY(PROTOCOL)),
    Case("a field block without an end", "10.5.1", [PART, *[more(flags=0)] * 100], GOAWAY("ENHANCE_YOUR_CALM")),
    Case("a field block of 160 KB", "10.5.1", [PART, *[more(bytes(16384), 0)] * 10], GOAWAY("ENHANCE_YOUR_CALM")),
    Case("fields of 400 KB in 4 KB", "10.5.1", [
        Frame(T.HEADERS, ENDS, 1, b"\x88\x40\x01a" + length(1000) + b"x" * 1000 + b"\xbe" * 400)
    ], GOAWAY("ENHANCE_YOUR_CALM")),
    # Messages.
    Case("100, and then the answer", "8.1", [head(status="100"), *ANSWER], OK),
    Case("103, thrice", "8.1", [*[head(("link", "</a>"), status="103")] * 3, *ANSWER], OK),
    malformed("100 that ends the stream", "8.1", head(status="100", flags=ENDS | END)),
    malformed("1xx without end", "8.1", *[head(status="102")] * 30),
    malformed("101", "8.6", head(status="101"), *ANSWER),
    malformed("100 behind the answer", "8.1", ANSWER[0], head(status="100"), data()),
    Case("trailers", "8.1", [ANSWER[0], data(flags=0), fields(("a", "b"))], OK),
    Case("trailers without any", "8.1", [ANSWER[0], data(flags=0), fields()], OK),
    malformed("trailers that do not end the stream", "8.1", ANSWER[0], data(flags=0), fields(("a", "b"), flags=ENDS)),
    malformed("trailers with a status", "8.1, 8.3", ANSWER[0], data(flags=0), head(flags=ENDS | END)),
    malformed("trailers with :path", "8.1, 8.3", ANSWER[0], data(flags=0), fields((":path", "/"))),
    malformed("trailers in upper case", "8.2.1", ANSWER[0], data(flags=0), fields(("A", "b"))),
    malformed("two answers", "8.1", head(), head(), data()),
    malformed("DATA before the answer", "8.1", data(flags=0), *ANSWER),
    malformed("DATA between 100 and the answer", "8.1", head(status="100"), data(flags=0), *ANSWER),
    malformed("Content-Length, and less", "8.1.1", head(("content-length", "3")), data()),
    malformed("Content-Length with a space that is none", "8.1.1", head(("content-length", "2\xa0")), data()),
    Case("Content-Length with zeros before it", "8.1.1", [head(("content-length", "2".zfill(30))), data()], OK),
    malformed("Content-Length, and more", "8.1.1", head(("content-length", "1")), data()),
    malformed("Content-Length, and more, not yet all", "8.1.1", head(("content-length", "1")), data(flags=0)),
    malformed("Content-Length, and nothing", "8.1.1", head(("content-length", "1"), flags=ENDS | END)),
    malformed("Content-Length, and less, and trailers", "8.1.1",
        head(("content-length", "3")), data(flags=0), fields()
    ),
    malformed("Content-Length, and only padding", "8.1.1", head(("content-length", "2")), pad(data(b""), 2)),
    malformed("Content-Length of two kinds", "8.1.1", head(("content-length", "2"), ("content-length", "3")), data()),
    malformed("Content-Length that is no number", "8.1.1", head(("content-length", "two")), data()),
    malformed("Content-Length +2", "8.1.1", head(("content-length", "+2")), data()),
    Case("Content-Length twice the same", "8.1.1",
        [head(("content-length", "2"), ("content-length", "2")), data()], OK
    ),
    Case("Content-Length 0", "8.1.1", [head(("content-length", "0"), flags=ENDS | END)], OK, body=b""),
    Case("HEAD with Content-Length", "8.1.1", [head(("content-length", "9"), flags=ENDS | END)], OK, "HEAD", body=b""),
    Case("HEAD that ends with empty DATA", "8.1.1", [head(("content-length", "9")), data(b"")], OK, "HEAD", body=b""),
    malformed("HEAD with a body", "8.1.1", *ANSWER, method="HEAD"),
    malformed("204 with a body", "8.1.1", head(status="204"), data()),
    malformed("304 with a body", "8.1.1", head(status="304"), data()),
    Case("204", "8.1.1", [head(status="204", flags=ENDS | END)], OK, body=b"", status=204),
    Case("304 with Content-Length", "8.1.1", [
        head(("content-length", "9"), status="304", flags=ENDS | END)
    ], OK, body=b"", status=304),
    *(
        malformed(f"the field {name!r}: {value!r}", "8.2.1", head((name, value)), data())
        for name, value in (
            ("Server", "x"), ("sERVER", "x"), ("a b", "x"), (" a", "x"), ("a ", "x"), ("", "x"), ("a:b", "x"),
            ("a\0", "x"), ("a\x7f", "x"), ("\x80", "x"), ("a\t", "x"), ("a\r\nb", "x"),
            ("a", "\0"), ("a", "b\rc"), ("a", "b\nc"), ("a", " b"), ("a", "b "), ("a", "\tb"), ("a", "b\t"), ("a", " "),
        )
    ),
    Case("a value with anything else", "8.2.1", [head(("a", "\x80 \t\xff~")), data()], OK),
    Case("an empty value", "8.2.1", [head(("a", "")), data()], OK),
    *(
        malformed(f"{name}, which is HTTP/1.1's", "8.2.2", head((name, value)), data())
        for name, value in (
            ("connection", "close"), ("keep-alive", "timeout=5"), ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"), ("upgrade", "h2c"), ("te", "gzip"),
        )
    ),
    malformed("no :status", "8.3.2", fields(("a", "b"), flags=ENDS), data()),
    malformed("no field at all", "8.3.2", fields(flags=ENDS), data()),
    malformed(":status behind a field", "8.3", fields(("a", "b"), (":status", "200"), flags=ENDS), data()),
    malformed(":status twice", "8.3", head((":status", "200")), data()),
    malformed(":status in an interim answer missing", "8.3.2", fields(("link", "</a>"), flags=ENDS), *ANSWER),
    *(
        malformed(f"{name} in an answer", "8.3", head((name, value)), data())
        for name, value in (
            (":path", "/"), (":method", "GET"), (":scheme", "http"), (":authority", "a"), (":x", "y"), (":", ""),
        )
    ),
    *(
        malformed(f"status {status!r}", "9110 15", head(status=status), data())
        for status in ("", "ok", "20", "2000", "099", "+20")
    ),
]  # fmt: skip
