"""What a server must make of frames, by the sentences of RFC 9113, 7541 and 9218: after a good beginning, these bytes.

Each case is the bytes that a client sends behind its preface and its first SETTINGS, and what must come of it. Where
there are two parts, what comes of the first (an answer, or an RST_STREAM) is waited for and not looked at:

    GOAWAY(code)        the connection ends, with this error
    RST(stream, code)   this stream ends, with this error; the connection goes on
    ANSWER(status)      stream 1 is answered
    NOTHING             no word of it; the connection goes on
"""

from __future__ import annotations

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

PROTOCOL, FLOW, CLOSED, SIZE = (
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.FLOW_CONTROL_ERROR,
    ErrorCode.STREAM_CLOSED,
    ErrorCode.FRAME_SIZE_ERROR,
)
COMPRESSION, CALM = ErrorCode.COMPRESSION_ERROR, ErrorCode.ENHANCE_YOUR_CALM
END, WHOLE = Flag.END_STREAM, Flag.END_STREAM | Flag.END_HEADERS


class GOAWAY(NamedTuple):
    code: int


class RST(NamedTuple):
    stream: int
    code: int


class ANSWER(NamedTuple):
    status: int


NOTHING = None
GET = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
POST = [(":method", "POST"), *GET[1:]]


def block(pairs) -> bytes:
    """Fields as literals that touch no table: each with its lengths, in the clear (RFC 7541 §6.2.2)."""
    out = b""
    for name, value in pairs:
        out += b"\0"
        for text in (name.encode("latin-1"), value.encode("latin-1")):
            out += integer(len(text), 7) + text
    return out


def integer(value: int, bits: int) -> bytes:
    """RFC 7541 §5.1."""
    most = 2**bits - 1
    if value < most:
        return bytes([value])
    value, out = value - most, [most]
    while value > 127:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def headers(stream=1, pairs=GET, flags=WHOLE, more=()) -> Frame:
    return Frame(FrameType.HEADERS, flags, stream, block([*pairs, *more]))


def data(stream=1, payload=b"", flags=END) -> Frame:
    return Frame(FrameType.DATA, flags, stream, payload)


def continuation(stream=1, payload=b"", flags=Flag.END_HEADERS) -> Frame:
    return Frame(FrameType.CONTINUATION, flags, stream, payload)


def priority(stream, depends_on) -> Frame:
    return Frame(FrameType.PRIORITY, 0, stream, depends_on.to_bytes(4, "big") + b"\x0f")


def without(name):
    return [pair for pair in GET if pair[0] != name]


def raw(stream, payload) -> Frame:
    """HEADERS with a block that somebody has made by hand."""
    return Frame(FrameType.HEADERS, WHOLE, stream, payload)


def wire(*frames) -> bytes:
    return b"".join(encode(frame) if isinstance(frame, Frame) else frame for frame in frames)


OPEN = Flag.END_HEADERS  # HEADERS that a body follows
PING = Frame(FrameType.PING, 0, 0, b"abcdefgh")
GET_BLOCK = block(GET)
UNKNOWN = Frame(0xEE, 0xFF, 1, b"what?")
POST_5 = headers(pairs=POST, flags=OPEN, more=[("content-length", "5")])
BODY = headers(pairs=POST, flags=OPEN)

CASES = {
    # RFC 9113 §4: frames
    "4.1 unknown type": (wire(UNKNOWN, UNKNOWN._replace(stream=0)), NOTHING),
    "4.1 unknown flags": (wire(PING._replace(flags=0xFE)), NOTHING),
    "4.1 reserved bit": (wire(PING._replace(stream=0x80000000)), NOTHING),
    "4.2 DATA of the greatest size": (wire(BODY, data(payload=bytes(16384))), ANSWER(200)),
    "4.2 DATA that is too long": (wire(BODY, data(payload=bytes(16385))), GOAWAY(SIZE)),
    "4.2 HEADERS that are too long": (wire(headers(more=[("x", "y" * 16384)])), GOAWAY(SIZE)),
    "4.2 unknown type that is too long": (wire(UNKNOWN._replace(payload=bytes(16385))), GOAWAY(SIZE)),
    "4.3 cut HPACK": (wire(raw(1, GET_BLOCK[:-1])), GOAWAY(COMPRESSION)),
    "4.3 another frame in a block": (wire(headers(flags=END), PING), GOAWAY(PROTOCOL)),
    "4.3 an unknown frame in a block": (wire(headers(flags=END), UNKNOWN), GOAWAY(PROTOCOL)),
    "4.3 another stream's HEADERS in a block": (wire(headers(flags=END), headers(3)), GOAWAY(PROTOCOL)),
    # §5.1: states
    "5.1 idle: DATA": (wire(data()), GOAWAY(PROTOCOL)),
    "5.1 idle: RST_STREAM": (wire(rst_stream(1, 8)), GOAWAY(PROTOCOL)),
    "5.1 idle: WINDOW_UPDATE": (wire(window_update(1, 5)), GOAWAY(PROTOCOL)),
    "5.1 idle: CONTINUATION": (wire(continuation()), GOAWAY(PROTOCOL)),
    "5.1 idle: PRIORITY": (wire(priority(1, 3)), NOTHING),
    "5.1 idle, even: DATA": (wire(data(2)), GOAWAY(PROTOCOL)),
    "5.1 half-closed: DATA": (wire(headers(more=[("x-wait", "1")]), data()), RST(1, CLOSED)),
    "5.1 half-closed: HEADERS": (wire(headers(more=[("x-wait", "1")]), headers()), RST(1, CLOSED)),
    "5.1 half-closed: CONTINUATION": (wire(headers(more=[("x-wait", "1")]), continuation()), GOAWAY(PROTOCOL)),
    "5.1 half-closed: WINDOW_UPDATE": (wire(headers(more=[("x-wait", "1")]), window_update(1, 5)), NOTHING),
    "5.1 half-closed: PRIORITY": (wire(headers(more=[("x-wait", "1")]), priority(1, 3)), NOTHING),
    "5.1 reset: DATA": (wire(BODY, rst_stream(1, 8), data()), RST(1, CLOSED)),
    "5.1 reset: HEADERS": (wire(BODY, rst_stream(1, 8), headers()), RST(1, CLOSED)),
    "5.1 reset: CONTINUATION": (wire(BODY, rst_stream(1, 8), continuation()), GOAWAY(PROTOCOL)),
    "5.1 reset: RST_STREAM": (wire(BODY, rst_stream(1, 8), rst_stream(1, 8)), NOTHING),
    "5.1 reset: WINDOW_UPDATE, PRIORITY": (wire(BODY, rst_stream(1, 8), window_update(1, 1), priority(1, 3)), NOTHING),
    "5.1 closed: DATA": ((wire(headers()), wire(data())), RST(1, CLOSED)),
    "5.1 closed: HEADERS": ((wire(headers()), wire(headers())), GOAWAY(CLOSED)),
    "5.1 closed: CONTINUATION": ((wire(headers()), wire(continuation())), GOAWAY(PROTOCOL)),
    "5.1 closed: RST_STREAM": ((wire(headers()), wire(rst_stream(1, 8), rst_stream(1, 8))), NOTHING),
    "5.1 closed: WINDOW_UPDATE": ((wire(headers()), wire(window_update(1, 8))), NOTHING),
    "5.1 closed: WINDOW_UPDATE of 0": ((wire(headers()), wire(window_update(1, 0))), NOTHING),
    "5.1 closed: PRIORITY": ((wire(headers()), wire(priority(1, 3))), NOTHING),
    "5.1 closed, others since: DATA": ((wire(headers()), wire(headers(3), headers(5), data())), RST(1, CLOSED)),
    "5.1 closed, others since: HEADERS": ((wire(headers()), wire(headers(3), headers(5), headers())), GOAWAY(CLOSED)),
    "5.1 closed, others since: RST_STREAM": (
        (wire(headers()), wire(headers(3), headers(5), rst_stream(1, 8))),
        NOTHING,
    ),
    "5.1 reset by us: DATA, HEADERS, RST_STREAM": (
        (
            wire(headers(more=[("X", "")], flags=OPEN)),
            wire(data(flags=0), headers(pairs=[("x", "y")]), rst_stream(1, 8)),
        ),
        NOTHING,
    ),
    "5.1.1 even number": (wire(headers(2)), GOAWAY(PROTOCOL)),
    "5.1.1 lower number": (wire(headers(5), headers(3)), GOAWAY(PROTOCOL)),
    "5.1.1 the highest number": (wire(headers(1), headers(MAX_WINDOW)), ANSWER(200)),
    "5.1.1 stream 0": (wire(headers(0)), GOAWAY(PROTOCOL)),
    "5.3.1 HEADERS on itself": (
        wire(Frame(FrameType.HEADERS, WHOLE | Flag.PRIORITY, 1, b"\0\0\0\1\7" + GET_BLOCK)),
        GOAWAY(PROTOCOL),
    ),
    "5.3.1 HEADERS, padded, on itself": (
        wire(pad(Frame(FrameType.HEADERS, WHOLE | Flag.PRIORITY, 1, b"\x80\0\0\1\7" + GET_BLOCK), 3)),
        GOAWAY(PROTOCOL),
    ),
    "5.3.1 PRIORITY on itself": (wire(priority(1, 1)), GOAWAY(PROTOCOL)),
    "5.4.1 nothing after GOAWAY": (wire(window_update(0, 0), headers()), GOAWAY(PROTOCOL)),
    # §6.1 DATA
    "6.1 on stream 0": (wire(data(0, b"x")), GOAWAY(PROTOCOL)),
    "6.1 padded": (wire(POST_5, pad(data(payload=b"hello"), 255)), ANSWER(200)),
    "6.1 only padding": (wire(BODY, pad(data(), 0)), ANSWER(200)),
    "6.1 padding as long as the frame": (wire(BODY, Frame(0, Flag.PADDED, 1, b"\5abcde")), NOTHING),
    "6.1 padding longer than the frame": (wire(BODY, Frame(0, Flag.PADDED, 1, b"\6abcde")), GOAWAY(PROTOCOL)),
    "6.1 no room for the length of padding": (wire(BODY, Frame(0, Flag.PADDED, 1, b"")), GOAWAY(PROTOCOL)),
    # §6.2 HEADERS
    "6.2 padded": (wire(pad(headers(), 10)), ANSWER(200)),
    "6.2 priority and padding": (
        wire(pad(Frame(FrameType.HEADERS, WHOLE | Flag.PRIORITY, 1, b"\0\0\0\3\7" + GET_BLOCK), 9)),
        ANSWER(200),
    ),
    "6.2 padding longer than the frame": (
        wire(Frame(1, WHOLE | Flag.PADDED, 1, b"\x7f" + GET_BLOCK)),
        GOAWAY(PROTOCOL),
    ),
    "6.2 no room for priority": (wire(Frame(1, WHOLE | Flag.PRIORITY, 1, b"\0\0\0")), GOAWAY(PROTOCOL)),
    # §6.3 PRIORITY
    "6.3 on stream 0": (wire(priority(0, 1)), GOAWAY(PROTOCOL)),
    "6.3 of another size, open": (wire(BODY, Frame(2, 0, 1, b"\0\0\0\3")), RST(1, SIZE)),
    "6.3 of another size, idle": (wire(Frame(2, 0, 1, b"\0\0\0\3")), GOAWAY(SIZE)),
    # §6.4 RST_STREAM
    "6.4 on stream 0": (wire(rst_stream(0, 8)), GOAWAY(PROTOCOL)),
    "6.4 of another size": (wire(BODY, Frame(3, 0, 1, b"\0\0\0")), GOAWAY(SIZE)),
    "6.4 unknown code": (wire(BODY, rst_stream(1, 0xFFFFFFFF)), NOTHING),
    # §6.5 SETTINGS
    "6.5 acknowledgement with a payload": (wire(settings({3: 1})._replace(flags=1)), GOAWAY(SIZE)),
    "6.5 on a stream": (wire(settings({3: 1})._replace(stream=1)), GOAWAY(PROTOCOL)),
    "6.5 no multiple of six": (wire(Frame(4, 0, 0, b"\0\3\0")), GOAWAY(SIZE)),
    "6.5.2 ENABLE_PUSH 2": (wire(settings({2: 2})), GOAWAY(PROTOCOL)),
    "6.5.2 INITIAL_WINDOW_SIZE 2^31": (wire(settings({4: 2**31})), GOAWAY(FLOW)),
    "6.5.2 MAX_FRAME_SIZE 16383": (wire(settings({5: 16383})), GOAWAY(PROTOCOL)),
    "6.5.2 MAX_FRAME_SIZE 2^24": (wire(settings({5: 2**24})), GOAWAY(PROTOCOL)),
    "6.5.2 unknown": (wire(settings({0xFF: 1, 0x10: 2})), NOTHING),
    "6.5.3 twice the same": (wire(Frame(4, 0, 0, b"\0\4\0\0\0\1\0\4\0\0\xff\xff")), NOTHING),
    "6.5.3 acknowledgement of nothing": (wire(SETTINGS_ACK, SETTINGS_ACK), NOTHING),
    # §6.6 PUSH_PROMISE
    "6.6 from a client": (wire(BODY, Frame(5, 4, 1, b"\0\0\0\2" + GET_BLOCK)), GOAWAY(PROTOCOL)),
    # §6.7 PING
    "6.7 acknowledgement of nothing": (wire(PING._replace(flags=1)), NOTHING),
    "6.7 on a stream": (wire(PING._replace(stream=1)), GOAWAY(PROTOCOL)),
    "6.7 of another size": (wire(PING._replace(payload=b"abcdef")), GOAWAY(SIZE)),
    # §6.8 GOAWAY
    "6.8 on a stream": (wire(goaway(0, 0)._replace(stream=1)), GOAWAY(PROTOCOL)),
    "6.8 too short": (wire(Frame(7, 0, 0, b"\0\0\0\0")), GOAWAY(SIZE)),
    "6.8 what is under way is finished": (wire(BODY, goaway(0, 0), data()), ANSWER(200)),
    # §6.9 WINDOW_UPDATE
    "6.9 of 0 on the connection": (wire(window_update(0, 0)), GOAWAY(PROTOCOL)),
    "6.9 of 0 on a stream": (wire(BODY, window_update(1, 0)), RST(1, PROTOCOL)),
    "6.9 of another size": (wire(Frame(8, 0, 0, b"\0\0\1")), GOAWAY(SIZE)),
    "6.9 the reserved bit": (wire(BODY, *[Frame(8, 0, stream, b"\x80\0\0\1") for stream in (0, 1)]), NOTHING),
    "6.9.1 overflow on the connection": (
        wire(window_update(0, MAX_WINDOW), window_update(0, MAX_WINDOW)),
        GOAWAY(FLOW),
    ),
    "6.9.1 overflow on a stream": (
        wire(BODY, window_update(1, MAX_WINDOW), window_update(1, MAX_WINDOW)),
        RST(1, FLOW),
    ),
    "6.9.1 not quite an overflow": (wire(BODY, window_update(1, MAX_WINDOW - 65535)), NOTHING),
    "6.9.2 overflow by SETTINGS": (
        wire(BODY, window_update(1, MAX_WINDOW - 65535), settings({4: 65536})),
        GOAWAY(FLOW),
    ),
    "6.9.1 more than our window": (wire(BODY, *[data(payload=bytes(16384), flags=0)] * 17), GOAWAY(FLOW)),
    # §6.10 CONTINUATION
    "6.10 two of them": (
        wire(Frame(1, END, 1, GET_BLOCK[:5]), continuation(1, GET_BLOCK[5:9], 0), continuation(1, GET_BLOCK[9:])),
        ANSWER(200),
    ),
    "6.10 an empty one": (wire(headers(flags=END), continuation()), ANSWER(200)),
    "6.10 after the end": (wire(headers(), continuation()), GOAWAY(PROTOCOL)),
    "6.10 of another stream": (wire(headers(flags=END), continuation(3)), GOAWAY(PROTOCOL)),
    "6.10 on stream 0": (wire(headers(flags=END), continuation(0)), GOAWAY(PROTOCOL)),
    "6.10 after DATA": (wire(BODY, data(), continuation()), GOAWAY(PROTOCOL)),
    # §8: messages
    "8.1 trailers": (wire(BODY, data(flags=0), headers(pairs=[("x", "y")])), ANSWER(200)),
    "8.1 trailers that are not the end": (wire(BODY, headers(pairs=[("x", "y")], flags=OPEN)), RST(1, PROTOCOL)),
    "8.1 trailers with a pseudo-header": (wire(BODY, headers(pairs=[(":path", "/")])), RST(1, PROTOCOL)),
    "8.1 trailers with capitals": (wire(BODY, headers(pairs=[("X", "/")])), RST(1, PROTOCOL)),
    "8.1.1 more than Content-Length": (wire(POST_5, data(payload=b"hello!")), RST(1, PROTOCOL)),
    "8.1.1 less than Content-Length": (wire(POST_5, data(payload=b"hell")), RST(1, PROTOCOL)),
    "8.1.1 less, in two frames": (wire(POST_5, data(payload=b"he", flags=0), data(payload=b"l")), RST(1, PROTOCOL)),
    "8.1.1 less, then trailers": (
        wire(POST_5, data(payload=b"h", flags=0), headers(pairs=[("x", "y")])),
        RST(1, PROTOCOL),
    ),
    "8.1.1 more, and no end": (wire(POST_5, data(payload=b"hello!", flags=0)), RST(1, PROTOCOL)),
    "8.1.1 as long as it says": (wire(POST_5, data(payload=b"he", flags=0), data(payload=b"llo")), ANSWER(200)),
    "8.1.1 length, and no body": (wire(headers(pairs=POST, more=[("content-length", "5")])), RST(1, PROTOCOL)),
    "8.1.1 length 0": (wire(headers(pairs=POST, more=[("content-length", "0")])), ANSWER(200)),
    "8.1.1 length is no number": (
        wire(headers(pairs=POST, flags=OPEN, more=[("content-length", "+5")])),
        RST(1, PROTOCOL),
    ),
    **{
        f"8.1.1 length is {length!r}, with a space that is none": (
            wire(headers(pairs=POST, flags=OPEN, more=[("content-length", length)]), data(payload=b"hello")),
            RST(1, PROTOCOL),
        )
        for length in ("5\xa0", "\xa05", "5\x85", "5,5\xa0")
    },
    "8.1.1 length with zeros before it": (
        wire(headers(pairs=POST, flags=OPEN, more=[("content-length", "5".zfill(30))]), data(payload=b"hello")),
        ANSWER(200),
    ),
    "8.1.1 two lengths": (
        wire(headers(pairs=POST, flags=OPEN, more=[("content-length", "5"), ("content-length", "6")])),
        RST(1, PROTOCOL),
    ),
    "8.2.1 capitals": (wire(headers(more=[("X-Y", "z")])), RST(1, PROTOCOL)),
    "8.2.1 a space in a name": (wire(headers(more=[("x y", "z")])), RST(1, PROTOCOL)),
    "8.2.1 an empty name": (wire(headers(more=[("", "z")])), RST(1, PROTOCOL)),
    "8.2.1 a colon in a name": (wire(headers(more=[("x:y", "z")])), RST(1, PROTOCOL)),
    "8.2.1 a byte above 127 in a name": (wire(headers(more=[("x\xe9", "z")])), RST(1, PROTOCOL)),
    "8.2.1 CR LF in a value": (wire(headers(more=[("x", "y\r\nz: a")])), RST(1, PROTOCOL)),
    "8.2.1 NUL in a value": (wire(headers(more=[("x", "y\0")])), RST(1, PROTOCOL)),
    "8.2.1 a space before a value": (wire(headers(more=[("x", " y")])), RST(1, PROTOCOL)),
    "8.2.1 a tab after a value": (wire(headers(more=[("x", "y\t")])), RST(1, PROTOCOL)),
    "8.2.1 an empty value": (wire(headers(more=[("x", "")])), ANSWER(200)),
    "8.2.1 a space in a value": (wire(headers(more=[("x", "y z")])), ANSWER(200)),
    "8.2.2 Connection": (wire(headers(more=[("connection", "keep-alive")])), RST(1, PROTOCOL)),
    "8.2.2 Keep-Alive": (wire(headers(more=[("keep-alive", "1")])), RST(1, PROTOCOL)),
    "8.2.2 Proxy-Connection": (wire(headers(more=[("proxy-connection", "x")])), RST(1, PROTOCOL)),
    "8.2.2 Transfer-Encoding": (wire(headers(more=[("transfer-encoding", "chunked")])), RST(1, PROTOCOL)),
    "8.2.2 Upgrade": (wire(headers(more=[("upgrade", "foo")])), RST(1, PROTOCOL)),
    "8.2.2 TE": (wire(headers(more=[("te", "trailers, deflate;q=0.5")])), RST(1, PROTOCOL)),
    "8.2.2 TE: trailers": (wire(headers(more=[("te", "trailers")])), ANSWER(200)),
    "8.3 unknown pseudo-header": (wire(headers(pairs=[*GET, (":test", "x")])), RST(1, PROTOCOL)),
    "8.3 the response's pseudo-header": (wire(headers(pairs=[*GET, (":status", "200")])), RST(1, PROTOCOL)),
    "8.3 pseudo-header after a field": (wire(headers(pairs=[*GET[:3], ("x", "y"), GET[3]])), RST(1, PROTOCOL)),
    "8.3.1 no method": (wire(headers(pairs=without(":method"))), RST(1, PROTOCOL)),
    "8.3.1 no scheme": (wire(headers(pairs=without(":scheme"))), RST(1, PROTOCOL)),
    "8.3.1 no path": (wire(headers(pairs=without(":path"))), RST(1, PROTOCOL)),
    "8.3.1 an empty path": (wire(headers(pairs=[*without(":path"), (":path", "")])), RST(1, PROTOCOL)),
    "8.3.1 a path without /": (wire(headers(pairs=[*without(":path"), (":path", "a/b")])), RST(1, PROTOCOL)),
    "8.3.1 * is for OPTIONS": (wire(headers(pairs=[*without(":path"), (":path", "*")])), RST(1, PROTOCOL)),
    "8.3.1 OPTIONS *": (
        wire(headers(pairs=[(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), GET[3]])),
        ANSWER(204),
    ),
    "8.3.1 method twice": (wire(headers(pairs=[GET[0], *GET])), RST(1, PROTOCOL)),
    "8.3.1 scheme twice": (wire(headers(pairs=[GET[1], *GET])), RST(1, PROTOCOL)),
    "8.3.1 path twice": (wire(headers(pairs=[GET[2], *GET])), RST(1, PROTOCOL)),
    "8.3.1 authority twice": (wire(headers(pairs=[GET[3], *GET])), RST(1, PROTOCOL)),
    "8.3.1 Host instead": (wire(headers(pairs=without(":authority"), more=[("host", "a")])), ANSWER(200)),
    "8.3.1 the same Host": (wire(headers(more=[("host", "a")])), ANSWER(200)),
    "8.3.1 another Host": (wire(headers(more=[("host", "b")])), RST(1, PROTOCOL)),
    "8.3.1 no host at all": (wire(headers(pairs=without(":authority"))), ANSWER(400)),
    "8.3.1 nothing at all": (wire(raw(1, b"")), RST(1, PROTOCOL)),
    "8.3.1 user in authority": (wire(headers(pairs=[*GET[:3], (":authority", "me@a")])), ANSWER(400)),
    "8.5 CONNECT": (wire(headers(pairs=[(":method", "CONNECT"), (":authority", "a:80")])), ANSWER(501)),
    "8.5 CONNECT with a path": (wire(headers(pairs=[(":method", "CONNECT"), *GET[1:]])), RST(1, PROTOCOL)),
    "RFC 8441 :protocol that was not offered": (
        wire(headers(pairs=[(":method", "CONNECT"), *GET[1:], (":protocol", "websocket")])),
        RST(1, PROTOCOL),
    ),
    "9110 HEAD": (wire(headers(pairs=[(":method", "HEAD"), *GET[1:]])), ANSWER(200)),
    "9110 unknown method": (wire(headers(pairs=[(":method", "FOO"), *GET[1:]])), ANSWER(501)),
    "9110 unknown expectation": (wire(headers(more=[("expect", "miracle")])), ANSWER(417)),
    "10.5.1 too many fields": (wire(headers(more=[("x", "")] * 1200)), ANSWER(431)),
    # RFC 7541
    "7541 2.3.3 an index beyond the tables": (wire(raw(1, b"\xff\x7f")), GOAWAY(COMPRESSION)),
    "7541 4.2 size update behind a field": (wire(raw(1, GET_BLOCK + b"\x20")), GOAWAY(COMPRESSION)),
    "7541 4.2 size update at the start": (wire(raw(1, b"\x20\x3f\xe1\x1f" + GET_BLOCK)), ANSWER(200)),
    "7541 4.2 three size updates": (wire(raw(1, b"\x20\x3f\xe1\x1f\x20" + GET_BLOCK)), GOAWAY(COMPRESSION)),
    "7541 5.1 an integer without an end": (wire(raw(1, b"\x7f" + b"\xff" * 20)), GOAWAY(COMPRESSION)),
    "7541 5.2 padding of 8 bits": (wire(raw(1, GET_BLOCK + b"\0\x81\x1f\x82\x1f\xff")), GOAWAY(COMPRESSION)),
    "7541 5.2 padding of zeros": (wire(raw(1, GET_BLOCK + b"\0\x81\x18\x81\x1f")), GOAWAY(COMPRESSION)),
    "7541 5.2 EOS in a string": (wire(raw(1, GET_BLOCK + b"\0\x84\xff\xff\xff\xff\x81\x1f")), GOAWAY(COMPRESSION)),
    "7541 6.1 index 0": (wire(raw(1, b"\x80")), GOAWAY(COMPRESSION)),
    "7541 6.2.2 a name beyond the tables": (wire(raw(1, b"\x0f\x70\1x")), GOAWAY(COMPRESSION)),
    "7541 6.3 a table larger than ours": (wire(raw(1, b"\x3f\xe2\x1f" + GET_BLOCK)), GOAWAY(COMPRESSION)),
    # RFC 9218
    "9218 2.1 a value of 1": (wire(settings({9: 1})), NOTHING),
    "9218 2.1 a value of 2": (wire(settings({9: 2})), GOAWAY(PROTOCOL)),
    "9218 7.1 on a stream": (wire(Frame(0x10, 0, 1, b"\0\0\0\1u=0")), GOAWAY(PROTOCOL)),
    "9218 7.1 of stream 0": (wire(Frame(0x10, 0, 0, b"\0\0\0\0u=0")), GOAWAY(PROTOCOL)),
    "9218 7.1 too short": (wire(Frame(0x10, 0, 0, b"\0\0\0")), GOAWAY(SIZE)),
    "9218 7.1 before its stream": (wire(Frame(0x10, 0, 0, b"\0\0\0\1u=0"), headers()), ANSWER(200)),
    "9218 7.1 nonsense": (wire(Frame(0x10, 0, 0, b"\0\0\0\1\xff,,=;u=99"), headers()), ANSWER(200)),
}
