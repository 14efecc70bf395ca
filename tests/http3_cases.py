"""What a server must make of streams and frames, by the sentences of RFC 9114, 9204 and 9218.

Each case is what a client sends behind a good beginning (its three streams, with SETTINGS on the first), and what must
come of it:

    CLOSE(code)         the connection ends, with this error
    RST(stream, code)   this stream ends, with this error; the connection goes on
    ANSWER(status)      stream 0 is answered
    NOTHING             no word of it; the connection goes on

Names that begin with `bare` have no good beginning. The sentences are those of the RFCs.
"""

from __future__ import annotations

from typing import NamedTuple

from protocols.http3_frames import (
    LAST_REQUEST,
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
from protocols.quic_packets import encode_varint


class CLOSE(NamedTuple):
    code: int


class RST(NamedTuple):
    stream: int
    code: int


class ANSWER(NamedTuple):
    status: int


NOTHING = None


class On(NamedTuple):
    """These bytes on that stream; and is that its end?"""

    stream: int
    data: bytes
    end: bool = False


class Ends(NamedTuple):
    """RESET_STREAM: what is sent on this stream ends in the middle."""

    stream: int
    code: int = ErrorCode.REQUEST_CANCELLED


class Stops(NamedTuple):
    """STOP_SENDING: nothing more is wanted of this stream."""

    stream: int
    code: int = ErrorCode.REQUEST_CANCELLED


CONTROL, ENCODER, DECODER, NEXT = 2, 6, 10, 14  # streams of the client; the server's are 3, 7, 11
GET = [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "a")]
POST = [(":method", "POST"), *GET[1:]]


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """RFC 9204 §4.1.1."""
    most = 2**bits - 1
    if value < most:
        return bytes([first | value])
    value, out = value - most, [first | most]
    while value > 127:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def section(pairs) -> bytes:
    """Fields as literals that touch no table: each with its lengths, in the clear (RFC 9204 §4.5.6)."""
    out = b"\0\0"
    for name, value in pairs:
        name, value = name.encode("latin-1"), value.encode("latin-1")
        out += integer(len(name), 3, 0x20) + name + integer(len(value), 7) + value
    return out


def insert(name: str, value: str) -> bytes:
    """An instruction of the encoder (RFC 9204 §4.3.3)."""
    return integer(len(name), 5, 0x40) + name.encode() + integer(len(value), 7) + value.encode()


def wire(*frames) -> bytes:
    return b"".join(encode(frame) if isinstance(frame, Frame) else frame for frame in frames)


def headers(pairs=GET, *more) -> Frame:
    return Frame(FrameType.HEADERS, section([*pairs, *more]))


def data(payload=b"") -> Frame:
    return Frame(FrameType.DATA, payload)


def ask(*frames, stream=0) -> On:
    """A request, with its end."""
    return On(stream, wire(*frames), True)


def begins(*frames, stream=0) -> On:
    return On(stream, wire(*frames))


def control(*frames) -> On:
    """More on the control stream."""
    return On(CONTROL, wire(*frames))


def one_way(kind: int, rest: bytes = b"", stream=NEXT, end=False) -> On:
    return On(stream, encode_varint(kind) + rest, end)


def without(name):
    return [pair for pair in GET if pair[0] != name]


def instead(name, value):
    return [(key, value if key == name else old) for key, old in GET]


GREETING = [
    one_way(StreamType.CONTROL, wire(settings({})), CONTROL),
    one_way(StreamType.QPACK_ENCODER, b"", ENCODER),
    one_way(StreamType.QPACK_DECODER, b"", DECODER),
]
UNEXPECTED, FRAME, ID, SETTINGS = (
    CLOSE(ErrorCode.FRAME_UNEXPECTED),
    CLOSE(ErrorCode.FRAME_ERROR),
    CLOSE(ErrorCode.ID_ERROR),
    CLOSE(ErrorCode.SETTINGS_ERROR),
)
CREATION, CRITICAL, MISSING, LOAD = (
    CLOSE(ErrorCode.STREAM_CREATION_ERROR),
    CLOSE(ErrorCode.CLOSED_CRITICAL_STREAM),
    CLOSE(ErrorCode.MISSING_SETTINGS),
    CLOSE(ErrorCode.EXCESSIVE_LOAD),
)
UNPACKED, INSTRUCTED, ACKNOWLEDGED = (
    CLOSE(ErrorCode.QPACK_DECOMPRESSION_FAILED),
    CLOSE(ErrorCode.QPACK_ENCODER_STREAM_ERROR),
    CLOSE(ErrorCode.QPACK_DECODER_STREAM_ERROR),
)
MALFORMED, INCOMPLETE = RST(0, ErrorCode.MESSAGE_ERROR), RST(0, ErrorCode.REQUEST_INCOMPLETE)
GREASE = Frame(grease(7), b"whatever")
WAIT = ("x-wait", "1")  # It is not answered.
WAITS = [*GET, WAIT]
POST_5 = headers(POST, ("content-length", "5"))
TABLE = integer(4096, 5, 0x20)  # of the encoder: the table may grow to 4096 bytes
FROM_TABLE = Frame(FrameType.HEADERS, b"\x02\x00" + section(GET)[2:] + b"\x80")  # needs one insert, and is its entry

CASES = {
    # §4.1: "Receipt of an invalid sequence of frames MUST be treated as a connection error of type H3_FRAME_UNEXPECTED"
    "4.1 a request": ([ask(headers())], ANSWER(200)),
    "4.1 its end comes later": ([begins(headers()), On(0, b"", True)], ANSWER(200)),
    "4.1 a body": ([ask(headers(POST), data(b"hello"))], ANSWER(200)),
    "4.1 a body in two frames": ([ask(headers(POST), data(b"hel"), data(b"lo"))], ANSWER(200)),
    "4.1 a body, and no end yet": ([begins(headers(POST), data(b"hello"))], NOTHING),
    "4.1 trailers": ([ask(headers(POST), data(b"hello"), headers([("x", "y")]))], ANSWER(200)),
    "4.1 trailers without a body": ([ask(headers(POST), headers([("x", "y")]))], ANSWER(200)),
    "4.1 trailers without a field": ([ask(headers(POST), headers([]))], ANSWER(200)),
    "4.1 DATA before HEADERS": ([begins(data(b"hello"))], UNEXPECTED),
    "4.1 empty DATA before HEADERS": ([begins(data())], UNEXPECTED),
    "4.1 DATA behind trailers": (
        [begins(headers(POST, WAIT), data(b"a"), headers([("x", "y")]), data(b"b"))],
        UNEXPECTED,
    ),
    "4.1 HEADERS behind trailers": (
        [begins(headers(POST, WAIT), data(b"a"), headers([("x", "y")]), headers([("x", "y")]))],
        UNEXPECTED,
    ),
    "4.1 an unknown frame before HEADERS": ([ask(GREASE, headers())], ANSWER(200)),
    "4.1 an unknown frame before DATA": ([ask(headers(POST), GREASE, data(b"hello"))], ANSWER(200)),
    "4.1 an unknown frame behind trailers": ([ask(headers(POST), headers([("x", "y")]), GREASE)], ANSWER(200)),
    "4.1 an unknown frame as the last": ([ask(headers(), GREASE)], ANSWER(200)),
    "4.1 two requests on one stream": ([begins(headers(POST), headers())], MALFORMED),
    # "If a client-initiated stream terminates without enough of the HTTP message to provide a complete response, the
    # server SHOULD abort its response stream with the error code H3_REQUEST_INCOMPLETE"
    "4.1 a stream without anything": ([On(0, b"", True)], INCOMPLETE),
    "4.1 a stream with an unknown frame only": ([ask(GREASE)], INCOMPLETE),
    # §4.2: "A request or response containing uppercase characters in field names MUST be treated as malformed"
    "4.2 capitals": ([ask(headers(GET, ("X-A", "b")))], MALFORMED),
    "4.2 a name with a space": ([ask(headers(GET, ("x a", "b")))], MALFORMED),
    "4.2 an empty name": ([ask(headers(GET, ("", "b")))], MALFORMED),
    "4.2 an empty name, and the stream goes on": ([begins(headers(POST, ("", "b")), data(b"a"))], MALFORMED),
    "4.2 an empty name in trailers": ([ask(headers(POST), headers([("", "b")]))], MALFORMED),
    "4.2 an empty name, of the table": (
        [On(ENCODER, TABLE + insert("", "y")), ask(FROM_TABLE)],
        MALFORMED,
    ),
    "4.2 a name with a colon in it": ([ask(headers(GET, ("x:a", "b")))], MALFORMED),
    "4.2 a line break in a value": ([ask(headers(GET, ("x", "a\r\nb: c")))], MALFORMED),
    "4.2 a NUL in a value": ([ask(headers(GET, ("x", "a\0b")))], MALFORMED),
    "4.2 a space at the end of a value": ([ask(headers(GET, ("x", "a ")))], MALFORMED),
    # "any message containing connection-specific fields MUST be treated as malformed"
    "4.2 connection": ([ask(headers(GET, ("connection", "close")))], MALFORMED),
    "4.2 keep-alive": ([ask(headers(GET, ("keep-alive", "5")))], MALFORMED),
    "4.2 proxy-connection": ([ask(headers(GET, ("proxy-connection", "close")))], MALFORMED),
    "4.2 transfer-encoding": ([ask(headers(POST, ("transfer-encoding", "chunked")))], MALFORMED),
    "4.2 upgrade": ([ask(headers(GET, ("upgrade", "h2c")))], MALFORMED),
    "4.2 te: gzip": ([ask(headers(GET, ("te", "gzip")))], MALFORMED),
    "4.2 te: trailers": ([ask(headers(GET, ("te", "trailers")))], ANSWER(200)),
    "4.2 connection, in trailers": ([ask(headers(POST), headers([("connection", "close")]))], MALFORMED),
    "4.2.1 cookies in crumbs": ([ask(headers(GET, ("cookie", "a=1"), ("cookie", "b=2")))], ANSWER(200)),
    # §4.2.2: "A server that receives a larger header section than it is willing to handle can send an HTTP 431"
    "4.2.2 too many fields": ([ask(headers(GET, *[("x", "y")] * 1000))], ANSWER(431)),
    "4.2.2 a field that is too long": ([ask(headers(GET, ("x", "y" * 32768)))], ANSWER(431)),
    "4.2.2 a head of a gigabyte": ([On(0, b"\x01" + encode_varint(1 << 30))], ANSWER(431)),
    "4.2.2 a head that says it has 2^62-1 bytes": ([On(0, b"\x01" + b"\xff" * 8 + b"abc")], ANSWER(431)),
    "4.2.2 trailers that are too long": (
        [ask(headers(POST), headers([("x", "y" * 32768)]))],
        RST(0, ErrorCode.EXCESSIVE_LOAD),
    ),
    # §4.3: "Endpoints MUST treat a request or response that contains undefined or invalid pseudo-header fields as
    # malformed"
    "4.3 an unknown pseudo-field": ([ask(headers([*GET, (":a", "b")]))], MALFORMED),
    "4.3 a response's pseudo-field": ([ask(headers([*GET, (":status", "200")]))], MALFORMED),
    "4.3 :protocol, which nobody has offered": ([ask(headers([*GET, (":protocol", "websocket")]))], MALFORMED),
    "4.3 a pseudo-field behind another": ([ask(headers([GET[0], ("x", "y"), *GET[1:]]))], MALFORMED),
    "4.3 a pseudo-field in trailers": ([ask(headers(POST), headers([(":path", "/")]))], MALFORMED),
    "4.3.1 :method twice": ([ask(headers([*GET, GET[0]]))], MALFORMED),
    "4.3.1 :path twice": ([ask(headers([*GET, GET[2]]))], MALFORMED),
    "4.3.1 no :method": ([ask(headers(without(":method")))], MALFORMED),
    "4.3.1 no :scheme": ([ask(headers(without(":scheme")))], MALFORMED),
    "4.3.1 no :path": ([ask(headers(without(":path")))], MALFORMED),
    "4.3.1 an empty :path": ([ask(headers(instead(":path", "")))], MALFORMED),
    "4.3.1 a :path without a slash": ([ask(headers(instead(":path", "index")))], MALFORMED),
    "4.3.1 an empty :method": ([ask(headers(instead(":method", "")))], MALFORMED),
    "4.3.1 a :scheme that is none": ([ask(headers(instead(":scheme", "1")))], MALFORMED),
    "4.3.1 OPTIONS *": ([ask(headers([(":method", "OPTIONS"), GET[1], (":path", "*"), GET[3]]))], ANSWER(200)),
    "4.3.1 GET *": ([ask(headers(instead(":path", "*")))], MALFORMED),
    "4.3.1 Host instead of :authority": ([ask(headers(without(":authority"), ("host", "a")))], ANSWER(200)),
    "4.3.1 Host and :authority are the same": ([ask(headers(GET, ("host", "a")))], ANSWER(200)),
    "4.3.1 Host and :authority differ": ([ask(headers(GET, ("host", "b")))], MALFORMED),
    # §4.1.2: "For malformed requests, a server MAY send an HTTP response indicating the error prior to closing"
    "4.3.1 neither Host nor :authority": ([ask(headers(without(":authority")))], ANSWER(400)),
    "4.3.1 an :authority that is none": ([ask(headers(instead(":authority", "a b")))], ANSWER(400)),
    "4.3.1 a space in :path": ([ask(headers(instead(":path", "/a b")))], ANSWER(400)),
    "4.3.1 an expectation that nobody knows": ([ask(headers(GET, ("expect", "miracles")))], ANSWER(417)),
    # §4.1.2: a message is malformed "if the value of a Content-Length header field does not equal the sum of the DATA
    # frame lengths received"
    "4.1.2 Content-Length": ([ask(POST_5, data(b"hello"))], ANSWER(200)),
    "4.1.2 Content-Length of two frames": ([ask(POST_5, data(b"he"), data(b"llo"))], ANSWER(200)),
    "4.1.2 less than Content-Length": ([ask(POST_5, data(b"hell"))], MALFORMED),
    "4.1.2 more than Content-Length": ([begins(POST_5, data(b"hello!"))], MALFORMED),
    "4.1.2 a frame more than Content-Length": ([begins(POST_5, data(b"hello"), data(b"!"))], MALFORMED),
    "4.1.2 no body at all": ([ask(POST_5)], MALFORMED),
    "4.1.2 the end comes too early, alone": ([begins(POST_5, data(b"he")), On(0, b"", True)], MALFORMED),
    "4.1.2 less than Content-Length before trailers": ([ask(POST_5, data(b"he"), headers([("x", "y")]))], MALFORMED),
    "4.1.2 two lengths": ([ask(headers(POST, ("content-length", "5"), ("content-length", "6")))], MALFORMED),
    "4.1.2 the same length twice": (
        [ask(headers(POST, ("content-length", "5"), ("content-length", "5")), data(b"hello"))],
        ANSWER(200),
    ),
    "4.1.2 a negative length": ([ask(headers(POST, ("content-length", "-5")))], MALFORMED),
    # §4.4
    "4.4 CONNECT": ([begins(headers([(":method", "CONNECT"), (":authority", "a:1")]))], NOTHING),
    "4.4 CONNECT with a path": ([ask(headers(instead(":method", "CONNECT")))], MALFORMED),
    "4.4 CONNECT to nowhere": ([ask(headers([(":method", "CONNECT")]))], MALFORMED),
    # §4.1.1: "the request is considered rejected", or cancelled
    "4.1.1 reset without a byte": ([Ends(0)], INCOMPLETE),
    "4.1.1 reset without a byte, when a later one has begun": (
        [begins(headers(WAITS), stream=4), Ends(0)],
        INCOMPLETE,
    ),
    "4.1.1 stopped before it began, when a later one has begun": (
        [begins(headers(WAITS), stream=4), Stops(0), ask(headers())],
        RST(0, ErrorCode.REQUEST_CANCELLED),
    ),
    "4.1.1 reset in the middle of a frame": ([On(0, b"\x01\x20abc"), Ends(0)], RST(0, ErrorCode.REQUEST_CANCELLED)),
    "4.1.1 reset in the middle of a body": (
        [begins(headers(POST), data(b"a")), Ends(0)],
        RST(0, ErrorCode.REQUEST_CANCELLED),
    ),
    "4.1.1 the answer is not wanted": ([ask(headers(WAITS)), Stops(0)], RST(0, ErrorCode.REQUEST_CANCELLED)),
    "4.1.1 stopped and reset": (
        [begins(headers(POST)), Stops(0), Ends(0)],
        RST(0, ErrorCode.REQUEST_CANCELLED),
    ),
    "4.1.1 stopped before it began": ([Stops(0), ask(headers())], RST(0, ErrorCode.REQUEST_CANCELLED)),
    # §5.2: "Receiving a GOAWAY containing a larger identifier than previously received MUST be treated as a connection
    # error of type H3_ID_ERROR"
    "5.2 GOAWAY": ([control(numbered(FrameType.GOAWAY, 0)), ask(headers())], ANSWER(200)),
    "5.2 GOAWAY, less": ([control(numbered(FrameType.GOAWAY, 8), numbered(FrameType.GOAWAY, 4))], NOTHING),
    "5.2 GOAWAY, the same": ([control(numbered(FrameType.GOAWAY, 8), numbered(FrameType.GOAWAY, 8))], NOTHING),
    "5.2 GOAWAY, more": ([control(numbered(FrameType.GOAWAY, 4), numbered(FrameType.GOAWAY, 8))], ID),
    "5.2 GOAWAY of a push, which need be no multiple of 4": ([control(numbered(FrameType.GOAWAY, 3))], NOTHING),
    # §6.2: "A receiver MUST tolerate unidirectional streams being closed or reset prior to the reception of the
    # unidirectional stream header."
    "6.2 a stream that ends before its type": ([On(NEXT, b"", True), ask(headers())], ANSWER(200)),
    "6.2 a stream that ends within its type": ([On(NEXT, b"\x40", True), ask(headers())], ANSWER(200)),
    "6.2 a stream that is reset before its type": ([On(NEXT, b"\xc0"), Ends(NEXT), ask(headers())], ANSWER(200)),
    # "The recipient MUST NOT consider unknown stream types to be a connection error of any kind."
    "6.2 an unknown type": ([one_way(0x33, b"what?"), ask(headers())], ANSWER(200)),
    "6.2 an unknown type of eight bytes": ([one_way(1 << 61, b"what?"), ask(headers())], ANSWER(200)),
    "6.2.3 a reserved type": ([one_way(grease(5), b"grease", end=True), ask(headers())], ANSWER(200)),
    "6.2.3 a reserved type, reset": ([one_way(grease(5), b"grease"), Ends(NEXT), ask(headers())], ANSWER(200)),
    # §6.2.1: "If the first frame of the control stream is any other frame type, this MUST be treated as a connection
    # error of type H3_MISSING_SETTINGS."
    "bare 6.2.1 no control stream yet": ([ask(headers())], ANSWER(200)),
    "bare 6.2.1 SETTINGS come later": ([one_way(0, b"", CONTROL), ask(headers())], ANSWER(200)),
    "bare 6.2.1 GOAWAY before SETTINGS": ([one_way(0, wire(numbered(FrameType.GOAWAY, 0)), CONTROL)], MISSING),
    "bare 6.2.1 MAX_PUSH_ID before SETTINGS": (
        [one_way(0, wire(numbered(FrameType.MAX_PUSH_ID, 0)), CONTROL)],
        MISSING,
    ),
    "bare 6.2.1 a reserved frame before SETTINGS": ([one_way(0, wire(GREASE, settings({})), CONTROL)], MISSING),
    "bare 6.2.1 DATA before SETTINGS": ([one_way(0, wire(data(b"a")), CONTROL)], MISSING),
    "bare 6.2.1 the control stream ends at once": ([one_way(0, b"", CONTROL, end=True)], CRITICAL),
    "bare 6.2.1 a type in two bytes": ([On(CONTROL, b"\x40\x00" + wire(settings({}))), ask(headers())], ANSWER(200)),
    # "receipt of a second stream claiming to be a control stream MUST be treated as a connection error of type
    # H3_STREAM_CREATION_ERROR"
    "6.2.1 a second control stream": ([one_way(0, wire(settings({})))], CREATION),
    "6.2.1 a second control stream, its type only": ([one_way(0)], CREATION),
    # "If either control stream is closed at any point, this MUST be treated as a connection error of type
    # H3_CLOSED_CRITICAL_STREAM."
    "6.2.1 the control stream ends": ([On(CONTROL, b"", True)], CRITICAL),
    "6.2.1 the control stream is reset": ([Ends(CONTROL)], CRITICAL),
    "6.2.1 our control stream is not wanted": ([Stops(3)], CRITICAL),
    # §6.2.2: "if a server receives a client-initiated push stream, this MUST be treated as a connection error of type
    # H3_STREAM_CREATION_ERROR"
    "6.2.2 a client pushes": ([one_way(1, b"\0")], CREATION),
    # §7.1: "a frame payload that terminates before the end of the identified fields MUST be treated as a connection
    # error of type H3_FRAME_ERROR"
    "7.1 GOAWAY without a number": ([control(Frame(FrameType.GOAWAY))], FRAME),
    "7.1 GOAWAY with half a number": ([control(Frame(FrameType.GOAWAY, b"\x40"))], FRAME),
    "7.1 GOAWAY with two numbers": ([control(Frame(FrameType.GOAWAY, b"\0\0"))], FRAME),
    "7.1 MAX_PUSH_ID without a number": ([control(Frame(FrameType.MAX_PUSH_ID))], FRAME),
    "7.1 MAX_PUSH_ID with something behind it": ([control(Frame(FrameType.MAX_PUSH_ID, b"\x05\x06"))], FRAME),
    "7.1 CANCEL_PUSH with something behind it": ([control(Frame(FrameType.CANCEL_PUSH, b"\x05\x06"))], FRAME),
    "bare 7.1 a setting without a value": ([one_way(0, wire(Frame(FrameType.SETTINGS, b"\x06")), CONTROL)], FRAME),
    "bare 7.1 a setting that is cut off": ([one_way(0, wire(Frame(FrameType.SETTINGS, b"\x06\x80")), CONTROL)], FRAME),
    "7.1 PRIORITY_UPDATE of nothing": ([control(Frame(FrameType.PRIORITY_UPDATE))], FRAME),
    # "When a stream terminates cleanly, if the last frame on the stream was truncated, this MUST be treated as a
    # connection error of type H3_FRAME_ERROR"
    "7.1 a stream that ends within HEADERS": ([On(0, wire(headers())[:-1], True)], FRAME),
    "7.1 a stream that ends within a type": ([On(0, b"\x40", True)], FRAME),
    "7.1 a stream that ends within a length": ([On(0, wire(headers()) + b"\0\x40", True)], FRAME),
    "7.1 a stream that ends within DATA": ([On(0, wire(headers(POST)) + b"\0\5hell", True)], FRAME),
    "7.1 a stream that ends before any of its DATA": ([On(0, wire(headers(POST)) + b"\0\5", True)], FRAME),
    "7.1 a stream that ends within an unknown frame": ([On(0, wire(headers()) + b"\x21\5hell", True)], FRAME),
    "7.1 a length in eight bytes": (
        [ask(b"\x01\xc0" + len(section(GET)).to_bytes(7, "big") + section(GET))],
        ANSWER(200),
    ),
    "7.1 a type in eight bytes": ([ask(b"\xc0" + bytes(6) + b"\x01" + wire(headers())[1:])], ANSWER(200)),
    # §7.2: Table 1, what may be on which stream
    "7.2.1 DATA on the control stream": ([control(data(b"a"))], UNEXPECTED),
    "7.2.2 HEADERS on the control stream": ([control(headers())], UNEXPECTED),
    "7.2.3 CANCEL_PUSH on a request": ([begins(numbered(FrameType.CANCEL_PUSH, 0))], UNEXPECTED),
    "7.2.3 CANCEL_PUSH of what was never promised": ([control(numbered(FrameType.CANCEL_PUSH, 0))], ID),
    "7.2.3 CANCEL_PUSH of what may be promised": (
        [control(numbered(FrameType.MAX_PUSH_ID, 5), numbered(FrameType.CANCEL_PUSH, 3))],
        ID,
    ),
    "7.2.4 SETTINGS twice": ([control(settings({}))], UNEXPECTED),
    "7.2.4 SETTINGS on a request": ([begins(settings({}))], UNEXPECTED),
    "7.2.4 SETTINGS behind a request": ([begins(headers(), settings({}))], UNEXPECTED),
    "bare 7.2.4 a setting twice": ([one_way(0, wire(settings([(6, 5), (6, 5)])), CONTROL)], SETTINGS),
    "bare 7.2.4 a reserved setting twice": ([one_way(0, wire(settings([(grease(1), 1)] * 2)), CONTROL)], SETTINGS),
    "bare 7.2.4 an unknown setting": ([one_way(0, wire(settings({0x99: 5})), CONTROL), ask(headers())], ANSWER(200)),
    "bare 7.2.4 a reserved setting": (
        [one_way(0, wire(settings({grease(2): 5})), CONTROL), ask(headers())],
        ANSWER(200),
    ),
    "bare 7.2.4 as large as numbers go": (
        [one_way(0, wire(settings({1: 2**62 - 1, 6: 2**62 - 1, 7: 2**62 - 1})), CONTROL), ask(headers())],
        ANSWER(200),
    ),
    "bare 7.2.4 SETTINGS of a megabyte": ([On(CONTROL, b"\0\4\x80\x10\0\0" + b"\6\1")], LOAD),
    # §7.2.4.1: HTTP/2's settings: "their receipt MUST be treated as a connection error of type H3_SETTINGS_ERROR"
    **{
        f"bare 7.2.4.1 HTTP/2's setting {code}": ([one_way(0, wire(settings({code: 1})), CONTROL)], SETTINGS)
        for code in (0, 2, 3, 4, 5)
    },
    "bare RFC 9220 §3 ENABLE_CONNECT_PROTOCOL 2": ([one_way(0, wire(settings({8: 2})), CONTROL)], SETTINGS),
    "bare RFC 9297 §2.1.1 H3_DATAGRAM 2": ([one_way(0, wire(settings({0x33: 2})), CONTROL)], SETTINGS),
    # §7.2.5: "A server MUST treat the receipt of a PUSH_PROMISE frame as a connection error of type
    # H3_FRAME_UNEXPECTED"
    "7.2.5 PUSH_PROMISE on a request": (
        [begins(headers(), Frame(FrameType.PUSH_PROMISE, b"\0" + section(GET)))],
        UNEXPECTED,
    ),
    "7.2.5 PUSH_PROMISE on the control stream": ([control(Frame(FrameType.PUSH_PROMISE, b"\0"))], UNEXPECTED),
    "7.2.6 GOAWAY on a request": ([begins(headers(), numbered(FrameType.GOAWAY, 0))], UNEXPECTED),
    "7.2.7 MAX_PUSH_ID": ([control(numbered(FrameType.MAX_PUSH_ID, 5), numbered(FrameType.MAX_PUSH_ID, 6))], NOTHING),
    "7.2.7 MAX_PUSH_ID, the same": (
        [control(numbered(FrameType.MAX_PUSH_ID, 5), numbered(FrameType.MAX_PUSH_ID, 5))],
        NOTHING,
    ),
    "7.2.7 MAX_PUSH_ID, less": ([control(numbered(FrameType.MAX_PUSH_ID, 5), numbered(FrameType.MAX_PUSH_ID, 4))], ID),
    "7.2.7 MAX_PUSH_ID on a request": ([begins(numbered(FrameType.MAX_PUSH_ID, 5))], UNEXPECTED),
    # §7.2.8: HTTP/2's frames: "their receipt MUST be treated as a connection error of type H3_FRAME_UNEXPECTED"
    **{
        f"7.2.8 HTTP/2's frame {type} on a request": ([begins(headers(), Frame(type))], UNEXPECTED)
        for type in (2, 6, 8, 9)
    },
    **{
        f"7.2.8 HTTP/2's frame {type} on the control stream": ([control(Frame(type))], UNEXPECTED)
        for type in (2, 6, 8, 9)
    },
    "7.2.8 a reserved frame on the control stream": ([control(GREASE, GREASE), ask(headers())], ANSWER(200)),
    "7.2.8 an empty reserved frame": ([control(Frame(grease(0))), ask(Frame(grease(0)), headers())], ANSWER(200)),
    "7.2.8 an unknown frame of 100 kB": ([ask(Frame(0x99, bytes(100_000)), headers())], ANSWER(200)),
    "7.2.8 an unknown frame on the control stream, in pieces": ([control(Frame(0x99, bytes(100_000)))], NOTHING),
    # RFC 9218 §7.2
    "RFC 9218 §7.2 PRIORITY_UPDATE": ([ask(headers(WAITS)), control(priority_update(0, b"u=1, i"))], NOTHING),
    "RFC 9218 §7.2 before its request": ([control(priority_update(0, b"u=1")), ask(headers())], ANSWER(200)),
    "RFC 9218 §7.2 what is not understood": ([control(priority_update(0, b"\xff=;;")), ask(headers())], ANSWER(200)),
    "RFC 9218 §7.2 of a stream that carries no request": ([control(priority_update(2, b"u=1"))], ID),
    "RFC 9218 §7.2 beyond all limits": ([control(priority_update(LAST_REQUEST, b"u=1"))], ID),
    "RFC 9218 §7.2 of a push that was not promised": ([control(Frame(FrameType.PRIORITY_UPDATE_PUSH, b"\0u=1"))], ID),
    "RFC 9218 §7.2 on a request": ([begins(priority_update(0, b"u=1"))], UNEXPECTED),
    "RFC 9218 §7.2 of 8 kB": ([control(priority_update(0, b"u=1" + bytes(8192)))], LOAD),
    # RFC 9204 §4.2: "These streams MUST NOT be closed."
    "RFC 9204 §4.2 the encoder stream ends": ([On(ENCODER, b"", True)], CRITICAL),
    "RFC 9204 §4.2 the decoder stream ends": ([On(DECODER, b"", True)], CRITICAL),
    "RFC 9204 §4.2 the encoder stream is reset": ([Ends(ENCODER)], CRITICAL),
    "RFC 9204 §4.2 the decoder stream is reset": ([Ends(DECODER)], CRITICAL),
    "RFC 9204 §4.2 our encoder stream is not wanted": ([Stops(7)], CRITICAL),
    "RFC 9204 §4.2 our decoder stream is not wanted": ([Stops(11)], CRITICAL),
    # "Receipt of a second instance of either stream type MUST be treated as a connection error of type
    # H3_STREAM_CREATION_ERROR."
    "RFC 9204 §4.2 a second encoder stream": ([one_way(2)], CREATION),
    "RFC 9204 §4.2 a second decoder stream": ([one_way(3)], CREATION),
    # §2.2.3: "it MUST treat this as a connection error of type QPACK_DECOMPRESSION_FAILED"
    "RFC 9204 §3.1 beyond the static table": ([begins(Frame(1, b"\0\0\xff\x40"))], UNPACKED),
    "RFC 9204 §2.2.3 an entry of an empty table": ([begins(Frame(1, b"\0\0\x80"))], UNPACKED),
    "RFC 9204 §2.2.3 an entry beyond what it says it needs": (
        [On(ENCODER, TABLE + insert("x", "y")), begins(Frame(1, b"\x02\0\x81"))],
        UNPACKED,
    ),
    "RFC 9204 §4.5.1 no prefix": ([begins(Frame(1))], UNPACKED),
    "RFC 9204 §4.5.1 half a prefix": ([begins(Frame(1, b"\0"))], UNPACKED),
    "RFC 9204 §4.5.1.1 more inserts than a table can hold": ([begins(Frame(1, b"\xff\xff\xff\x7f\0\x80"))], UNPACKED),
    "RFC 9204 §4.5 a section that is cut off": ([begins(Frame(1, section(GET)[:-1]))], UNPACKED),
    "RFC 9204 §4.1.1 a number without an end": ([begins(Frame(1, b"\0\0" + b"\xff" * 20))], UNPACKED),
    "RFC 9204 §2.1.2 blocked": ([ask(FROM_TABLE)], NOTHING),
    "RFC 9204 §2.1.2 blocked, then not": ([ask(FROM_TABLE), On(ENCODER, TABLE + insert("x", "y"))], ANSWER(200)),
    "RFC 9204 §2.1.2 the table first": ([On(ENCODER, TABLE + insert("x", "y")), ask(FROM_TABLE)], ANSWER(200)),
    "RFC 9204 §2.1.2 blocked, and given up": ([begins(FROM_TABLE), Ends(0)], RST(0, ErrorCode.REQUEST_CANCELLED)),
    # "If a decoder encounters more blocked streams than it promised to support, it MUST treat this as a connection
    # error of type QPACK_DECOMPRESSION_FAILED."
    "RFC 9204 §2.1.2 more blocked than was promised": ([ask(FROM_TABLE, stream=4 * i) for i in range(17)], UNPACKED),
    # §3.2.3, §4.3.1: "The decoder MUST treat a new dynamic table capacity value that exceeds this limit as a connection
    # error of type QPACK_ENCODER_STREAM_ERROR."
    "RFC 9204 §4.3.1 more than the table may be": ([On(ENCODER, integer(4097, 5, 0x20))], INSTRUCTED),
    "RFC 9204 §3.2.2 an entry that is larger than the table": (
        [On(ENCODER, TABLE + insert("x", "y" * 4096))],
        INSTRUCTED,
    ),
    "RFC 9204 §3.2.3 an insert, and no table yet": ([On(ENCODER, insert("x", "y"))], INSTRUCTED),
    "RFC 9204 §2.2.3 a copy of nothing": ([On(ENCODER, TABLE + b"\x05")], INSTRUCTED),
    "RFC 9204 §3.1 a name beyond the static table": ([On(ENCODER, TABLE + b"\xff\x40\x01a")], INSTRUCTED),
    # §4.4.3: "An encoder that receives an Increment field equal to zero […] MUST treat this as a connection error of
    # type QPACK_DECODER_STREAM_ERROR."
    "RFC 9204 §4.4.3 an increment of nothing": ([On(DECODER, b"\0")], ACKNOWLEDGED),
    "RFC 9204 §4.4.3 more inserts than there were": ([On(DECODER, b"\x05")], ACKNOWLEDGED),
    "RFC 9204 §4.4.1 a section that was never sent": ([On(DECODER, b"\x84")], ACKNOWLEDGED),
    "RFC 9204 §4.4.2 a stream that never was": ([On(DECODER, b"\x44"), ask(headers())], ANSWER(200)),
}
