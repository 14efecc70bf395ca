"""HTTP/3, the client's end, sans-IO: what QUIC's streams give in, events out, and orders for the streams (RFC 9114).

    conn = ClientConnection()                    conn.orders() is to be carried out after each of these
    stream = conn.send_request(pairs, end=True)
    conn.receive_data(stream, what it gave, is_its_end, now)
    conn.next_event()    Response, Data, …, End  each with its stream; None: more is needed
    conn.consumed(stream, 5)                     somebody has read them: five more may come

A request is a stream of QUIC, so there are no windows here and no states of streams: QUIC has them. What is left is
frames, messages, and three streams in each direction that are no requests: one for control, two for QPACK's table.
What was one order of bytes is many now, so a field section can arrive before the entry of the table that it refers to.
Then its stream waits, and only that one (RFC 9204 §2.1.2).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http2_client import Data, End, Reset, Response
from protocols.http2_messages import Pairs, Raw, content_length, encode_field, regular_fields
from protocols.http2_rules import EMPTY, UNKNOWN, Purse
from protocols.http3_frames import (
    HTTP2_FRAMES,
    Decoder,
    ErrorCode,
    Frame,
    FrameType,
    SettingCode,
    StreamType,
    encode,
    grease,
    name_of,
    parse_numbered,
    parse_settings,
    settings,
    thinness,
)
from protocols.http3_qpack import BLOCKED, TABLE, FieldDecoder, FieldEncoder, Nameless, TooLarge
from protocols.quic_packets import encode_varint

MAX_FIELDS = 1 << 16  # bytes of the fields of a message, unpacked: so many we allow (§4.2.2), and a server may not care
MAX_INTERIM = 20  # answers with 1xx before the final one
THIN = 1 / 32  # of a DATA frame with next to nothing in it; some servers tell their news a few bytes at a time,
FREE_THIN = 16.0  # and many answers are short
PER_UNKNOWN = 1024  # bytes that nobody wants cost as much as a frame that nobody knows
INSTRUCTION = 1 / 16  # of a byte for QPACK's table: one can copy an entry of 4 KB (RFC 9204 §4.3.4)
FREE_INSTRUCTIONS = 4096  # bytes of them for each request of ours

QPACK_SETTINGS = SettingCode.QPACK_MAX_TABLE_CAPACITY, SettingCode.QPACK_BLOCKED_STREAMS
CONTROL, ENCODER, DECODER = 2, 6, 10  # the streams that we open: the first three of a client in one direction
NOT_ON_A_REQUEST = HTTP2_FRAMES | set(FrameType) - {FrameType.DATA, FrameType.HEADERS, FrameType.PUSH_PROMISE}
NOT_ON_CONTROL = HTTP2_FRAMES | {
    FrameType.DATA,
    FrameType.HEADERS,
    FrameType.PUSH_PROMISE,
    FrameType.MAX_PUSH_ID,
    FrameType.PRIORITY_UPDATE,
    FrameType.PRIORITY_UPDATE_PUSH,
}


# -- Events: those of HTTP/2, but -------------------------------------------------------------------


class GoAway(NamedTuple):
    """The server takes no new requests, and none from the stream `first` on was or will be processed (§5.2)."""

    first: int


Event = Response | Data | End | Reset | GoAway


# -- Orders: what is to be done with QUIC's streams ---------------------------------------------------


class Write(NamedTuple):
    stream: int
    data: bytes
    end: bool = False


class Abort(NamedTuple):
    """Send no more: RESET_STREAM."""

    stream: int
    code: int


class Stop(NamedTuple):
    """Want no more: STOP_SENDING."""

    stream: int
    code: int


class Consumed(NamedTuple):
    """So many bytes of what a stream gave are done with: its window may open by as many."""

    stream: int
    size: int


class Close(NamedTuple):
    """A connection error (§8): CONNECTION_CLOSE."""

    code: int
    reason: str


Order = Write | Abort | Stop | Consumed | Close


class Stream:
    """What is known of an answer that is on its way."""

    def __init__(self, number: int, method: str, sent: bool) -> None:
        self.number, self.method, self.sent = number, method, sent  # sent: our half is closed
        self.decoder = Decoder()
        self.ended = self.finished = False  # the server's half is; and all of it is read
        self.waits = self.is_ready = False  # for an entry of QPACK's table; it is here now
        self.is_settled = False  # QPACK's other end knows that its sections will not be read
        self.status = 0  # the final one, once it is here
        self.interim = 0
        self.trailers: Pairs | None = None
        self.length: int | None = None  # as Content-Length has it
        self.arrived = self.body = 0  # bytes: all, and those of the body
        self.thin = 0.0  # DATA frames with little in them
        self.handed_out = self.given_back = 0  # as Data; those that nobody needs any more

    def count(self, size: int, end: bool) -> None:
        """So much more of the body has come. RemoteProtocolError: malformed."""
        self.body += size
        if size and (self.method == "HEAD" or self.status in (204, 304)):
            raise malformed("a body where there can be none (RFC 9110 §6.4.1)")
        if self.length is not None and (self.body > self.length or (end and self.body < self.length)):
            raise malformed(f"Content-Length is {self.length}, and {self.body} bytes came (§4.1.2)")


class ClientConnection:
    """One connection, from the client's side.

    observe   called with ">" or "<", the stream, what is on it (a frame, or words), and the fields of a HEADERS frame:
              the wire log
    """

    def __init__(self, *, observe: Callable[[str, int, Frame | str, Pairs | None], None] | None = None) -> None:
        self._observe = observe
        self._encoder, self._decoder = FieldEncoder(), FieldDecoder(MAX_FIELDS)
        self._orders: list[Order] = []
        self._events: deque[Event] = deque()
        self._requests: dict[int, Stream] = {}
        self._theirs: dict[int, tuple[Decoder, int]] = {}  # the server's streams in one direction, and what they are
        self._next = 0
        self._purse, self._now = Purse(0.0, ErrorCode.EXCESSIVE_LOAD), 0.0
        self._free = FREE_INSTRUCTIONS
        self._error: RemoteProtocolError | None = None
        self.settings: Mapping[int, int] | None = None
        """The server's, once they are here."""
        self.goaway: GoAway | None = None
        """What the server said, if it wants no more requests."""
        ours = settings({
            SettingCode.QPACK_MAX_TABLE_CAPACITY: TABLE,
            SettingCode.QPACK_BLOCKED_STREAMS: BLOCKED,
            SettingCode.MAX_FIELD_SECTION_SIZE: MAX_FIELDS,
            grease(7): 1,
        })  # fmt: skip
        for stream, kind in zip((CONTROL, ENCODER, DECODER), CRITICAL, strict=True):
            if observe:
                observe(">", stream, CRITICAL[kind], None)
            self._orders.append(Write(stream, encode_varint(kind)))
        self._send(CONTROL, ours)

    # Sending.

    def orders(self) -> list[Order]:
        """What is to be done now, in this order."""
        orders, self._orders = self._orders, []
        return orders

    def is_open(self, stream: int) -> bool:
        """Is anything still to be sent, or to come?"""
        return stream in self._requests

    def is_sending(self, stream: int) -> bool:
        """Is the request's body still wanted?"""
        return stream in self._requests and not self._requests[stream].sent and self._error is None

    @property
    def is_usable(self) -> bool:
        """May there be more requests?"""
        return self._error is None and self.goaway is None

    @property
    def next_stream(self) -> int:
        """The stream of the next request. Whether QUIC allows it is for QUIC to say (RFC 9000 §4.6)."""
        return self._next

    def send_request(self, pairs: Pairs, end: bool) -> int:
        """Open a stream, return its number. *pairs* begin with the pseudo-header fields; *end*: there is no body."""
        if not self.is_usable:
            raise LocalProtocolError("the server takes no more requests")
        most = (self.settings or {}).get(SettingCode.MAX_FIELD_SECTION_SIZE)
        if most is not None and sum(len(name) + len(value) + 32 for name, value in pairs) > most:
            raise LocalProtocolError(f"the server takes no more than {most} bytes of fields (RFC 9114 §4.2.2)")
        raw = [(n.encode(), v.encode()) if n[:1] == ":" else encode_field(n, v) for n, v in pairs]
        stream, self._next = self._next, self._next + 4
        self._free += FREE_INSTRUCTIONS
        section = self._encoder.section(stream, tuple(raw))
        self._requests[stream] = Stream(stream, dict(pairs)[":method"], end)
        self._tell_qpack()
        self._send(stream, Frame(FrameType.HEADERS, section), end, pairs)
        return stream

    def send_data(self, stream: int, data: bytes, end: bool = False) -> None:
        """Send a piece of a request's body; *end*: that was all."""
        if not self.is_sending(stream):
            return
        if data:
            self._send(stream, Frame(FrameType.DATA, data), end)
        elif end:
            self._orders.append(Write(stream, b"", True))
        if end:
            self._requests[stream].sent = True
            self._retire(stream)

    def consumed(self, stream: int, size: int) -> None:
        """Somebody has read so many bytes of the body: as many more may come."""
        self._orders.append(Consumed(stream, size))

    def reset(self, stream: int, code: int = ErrorCode.REQUEST_CANCELLED) -> None:
        """Nobody wants the rest of this (§4.1.1)."""
        one = self._requests.get(stream)
        if one is None or self._error:
            return
        if not one.sent:
            self._orders.append(Abort(stream, code))
        if not one.ended:
            self._orders.append(Stop(stream, code))
        self._forget(one)

    def close(self) -> None:
        """Nothing more will be done here."""
        if self._error is None:
            self._orders.append(Close(ErrorCode.NO_ERROR, ""))
            self._error = RemoteProtocolError("the connection is closed")

    # Receiving.

    def next_event(self) -> Event | None:
        """The next thing that happened; None: more is needed.

        RemoteProtocolError: a connection error (§8). That the server is told so is among the orders.
        """
        if self._events:
            return self._events.popleft()
        if self._error:
            raise self._error
        return None

    def receive_data(self, stream: int, data: bytes, end: bool, now: float) -> None:
        """What came on a stream; *end*: there is no more of it; *now*: seconds of any clock."""
        if self._error:
            return
        self._now = now
        try:
            if stream % 4 == 1:
                raise broken("only we open streams in both directions (§6.1)", ErrorCode.STREAM_CREATION_ERROR)
            if stream % 4 == 3:
                self._orders.append(Consumed(stream, len(data)))
                self._receive_theirs(stream, data, end)
            elif one := self._requests.get(stream):
                one.arrived += len(data)
                one.ended = one.ended or end
                one.decoder.receive_data(data)
                self._read(one)
            else:
                self._orders.append(Consumed(stream, len(data)))  # It was on its way when we gave it up.
        except RemoteProtocolError as error:
            self._fail(error)

    def receive_reset(self, stream: int, code: int) -> None:
        """The server sends no more on this stream: RESET_STREAM."""
        _, kind = self._theirs.pop(stream, (None, -1))
        try:
            if kind in CRITICAL:
                raise broken("a stream that has to stay is reset (§6.2.1)", ErrorCode.CLOSED_CRITICAL_STREAM)
            if kind < 0 and stream % 4 == 3:  # It has not said what it is (§6.2).
                self._pay(UNKNOWN, f"stream {stream}")
        except RemoteProtocolError as error:
            self._fail(error)
        one = self._requests.get(stream)
        if one is None or self._error:
            return
        if self._observe:
            self._observe("<", stream, f"reset: {code_name(code)}", None)
        if not one.sent:
            self._orders.append(Abort(stream, ErrorCode.REQUEST_CANCELLED))
        self._forget(one)
        self._events.append(Reset(stream, code, f"the server has reset the stream: {code_name(code)}", True))

    def receive_stop(self, stream: int, code: int) -> None:
        """The server wants no more of a request: STOP_SENDING. Its answer can still come (§4.1)."""
        if self._error:
            return
        if stream in (CONTROL, ENCODER, DECODER):
            self._fail(broken("it wants a stream to end that has to stay (§6.2.1)", ErrorCode.CLOSED_CRITICAL_STREAM))
        elif one := self._requests.get(stream):
            if self._observe:
                self._observe("<", stream, f"send no more: {code_name(code)}", None)
            one.sent = True  # QUIC has reset it (RFC 9000 §3.5).
            self._retire(stream)

    # The streams of requests.

    def _read(self, one: Stream) -> None:
        """As many frames as are here; none behind a field section that waits."""
        try:
            if one.is_ready:
                one.is_ready = False
                self._section(one, None)
            while not one.waits and (frame := one.decoder.next_frame()) is not None:
                if self._observe and frame.type != FrameType.HEADERS:
                    self._observe("<", one.number, frame, None)
                self._frame(one, frame)
            if one.ended and not one.waits:
                self._finish(one)
        except Malformed as error:  # a stream error (§4.1.2): this stream ends, and the others go on
            self.reset(one.number, error.code)
            self._events.append(Reset(one.number, error.code, str(error), False))
        self._give_back(one, one.decoder.unread if one.waits else 0)

    def _give_back(self, one: Stream, held: int) -> None:
        """All that is no body is done with, but what waits: it is held where the server's window can see it."""
        rest = one.arrived - one.handed_out - one.given_back - held
        if rest > 0:
            one.given_back += rest
            self._orders.append(Consumed(one.number, rest))

    def _frame(self, one: Stream, frame: Frame) -> None:
        if frame.type in NOT_ON_A_REQUEST:
            raise broken(f"{name_of(frame.type)} on a request's stream (§7.2)", ErrorCode.FRAME_UNEXPECTED)
        if frame.type == FrameType.PUSH_PROMISE:
            raise broken("a push, and we have allowed none (§4.6, §7.2.5)", ErrorCode.ID_ERROR)
        if frame.type not in (FrameType.DATA, FrameType.HEADERS):
            self._ignore(frame)
        elif one.trailers is not None or (frame.type == FrameType.DATA and not one.status):
            where = "behind the trailers" if one.trailers is not None else "before the answer has begun"
            raise broken(f"{name_of(frame.type)} {where} (§4.1)", ErrorCode.FRAME_UNEXPECTED)
        elif frame.type == FrameType.DATA:
            one.count(len(frame.payload), False)
            if frame.payload:
                one.handed_out += len(frame.payload)
                one.thin += (thin := thinness(frame))
                if thin and one.thin > FREE_THIN:
                    self._pay(thin * THIN, frame)
                self._events.append(Data(one.number, frame.payload))
            else:
                self._pay(EMPTY, frame)
        elif frame.left:
            raise Malformed(f"a field section of {frame.length} bytes (§4.2.2)", ErrorCode.EXCESSIVE_LOAD)
        else:
            self._section(one, frame)

    def _section(self, one: Stream, frame: Frame | None) -> None:
        """A field section; None: the one that has waited for entries of the table."""
        try:
            raw = self._decoder.section(one.number, frame.payload) if frame else self._decoder.resume(one.number)
        except TooLarge:
            one.is_settled = True
            raise Malformed("more fields than anybody needs (§4.2.2)", ErrorCode.EXCESSIVE_LOAD) from None
        except Nameless:
            raise malformed("a field without a name (§4.2)") from None
        finally:
            self._tell_qpack()
        one.waits = raw is None
        if self._observe:
            what = frame or "HEADERS, which waited"
            pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw or ()]
            self._observe("<", one.number, f"{what}: it waits for QPACK's table" if one.waits else what, pairs)
        if raw is not None:
            self._message(one, raw)

    def _message(self, one: Stream, raw: Raw) -> None:
        """A whole field section: an interim answer, the final one, or trailers."""
        status, fields, pairs, length = read_fields(raw)
        if one.status:
            if status:
                raise malformed("trailers with a status (§4.1)")
            one.trailers = pairs
            return
        if not status:
            raise malformed("an answer that does not begin with :status (§4.3.2)")
        if status < 200:
            one.interim += 1
            if status == 101 or one.interim > MAX_INTERIM:
                raise malformed(f"{status}: a switch of protocols (§4.5), or one interim answer too many")
        else:
            one.status = status
            if one.method != "HEAD" and status not in (204, 304):
                one.length = length
        self._events.append(Response(one.number, status, fields, pairs))

    def _finish(self, one: Stream) -> None:
        """The stream has ended, and all of it is read."""
        if not one.decoder.is_between:
            raise broken("the stream ends within a frame (§7.1)", ErrorCode.FRAME_ERROR)
        if not one.status:
            raise malformed("the stream has ended before the answer has begun (§4.1)")
        one.count(0, True)
        self._events.append(End(one.number, one.trailers or []))
        one.finished = True
        self._retire(one.number)

    def _retire(self, stream: int) -> None:
        one = self._requests[stream]
        if one.sent and one.finished:
            self._forget(one)

    def _forget(self, one: Stream) -> None:
        del self._requests[one.number]
        self._give_back(one, 0)
        if not (one.finished or one.is_settled):
            self._decoder.cancel(one.number)
            self._tell_qpack()

    # The server's streams in one direction.

    def _receive_theirs(self, stream: int, data: bytes, end: bool) -> None:
        decoder, kind = self._theirs.get(stream) or (Decoder(), -1)
        decoder.receive_data(data)
        if kind < 0:
            number = decoder.next_number()
            if number is None:
                self._theirs[stream] = decoder, kind
                if end:  # §6.2: a stream may end before it has said what it is
                    del self._theirs[stream]
                    self._pay(UNKNOWN, f"stream {stream}")
                return
            kind = number
            self._opened(stream, kind)
        self._theirs[stream] = decoder, kind
        match kind:
            case StreamType.CONTROL:
                for frame in decoder.frames():
                    self._control(stream, frame)
            case StreamType.QPACK_ENCODER:
                self._entries(stream, decoder.rest())
            case StreamType.QPACK_DECODER:
                self._feedback(stream, decoder.rest())
            case _:
                self._pay(len(decoder.rest()) / PER_UNKNOWN, f"stream {stream}")
        if end:
            if kind in CRITICAL:
                raise broken(f"{CRITICAL[kind]} has ended (§6.2.1)", ErrorCode.CLOSED_CRITICAL_STREAM)
            del self._theirs[stream]

    def _opened(self, stream: int, kind: int) -> None:
        """The type of a stream is known now."""
        if self._observe:
            self._observe("<", stream, CRITICAL.get(kind, f"a stream of type {kind:#x}"), None)
        if kind == StreamType.PUSH:
            raise broken("a push, and we have allowed none (§4.6)", ErrorCode.ID_ERROR)
        if kind not in CRITICAL:  # §6.2.3, §9: unknown streams are to be ignored
            self._pay(UNKNOWN, f"stream {stream}")
            self._orders.append(Stop(stream, ErrorCode.STREAM_CREATION_ERROR))
        elif kind in [other for _, other in self._theirs.values()]:
            raise broken(f"{CRITICAL[kind]} for the second time (§6.2.1)", ErrorCode.STREAM_CREATION_ERROR)

    def _control(self, stream: int, frame: Frame) -> None:
        if self._observe and not frame.at:
            self._observe("<", stream, frame, None)
        if self.settings is None and frame.type != FrameType.SETTINGS:
            raise broken(f"{name_of(frame.type)} before SETTINGS (§6.2.1)", ErrorCode.MISSING_SETTINGS)
        if frame.type in NOT_ON_CONTROL or (frame.type == FrameType.SETTINGS and self.settings is not None):
            words = f"{name_of(frame.type)}: not from a server, not here, or not again (§7.2)"
            raise broken(words, ErrorCode.FRAME_UNEXPECTED)
        self._ignore(frame)  # also what is known has its price: nobody needs to tell us much here
        match frame.type:
            case FrameType.SETTINGS | FrameType.GOAWAY | FrameType.CANCEL_PUSH if frame.left:
                raise broken(f"{name_of(frame.type)} of {frame.length} bytes", ErrorCode.EXCESSIVE_LOAD)
            case FrameType.SETTINGS:
                self.settings = parse_settings(frame.payload)
                offer = [self.settings.get(code, 0) for code in QPACK_SETTINGS]
                self._encoder.offered(*offer)
                self._tell_qpack()
            case FrameType.GOAWAY:
                self._goaway(parse_numbered(frame))
            case FrameType.CANCEL_PUSH:
                parse_numbered(frame)
                raise broken("no push can be taken back, for none was allowed (§7.2.3)", ErrorCode.ID_ERROR)

    def _goaway(self, first: int) -> None:
        if first % 4 or (self.goaway and first > self.goaway.first):
            words = f"GOAWAY of {first}: no stream of ours, or more than it has said before (§5.2, §7.2.6)"
            raise broken(words, ErrorCode.ID_ERROR)
        self.goaway = GoAway(first)
        self._events.append(self.goaway)
        for stream in [stream for stream in self._requests if stream >= first]:
            self.reset(stream)

    def _entries(self, stream: int, data: bytes) -> None:
        """The server's encoder has new entries for the table: what has waited for them goes on."""
        if self._observe and data:
            self._observe("<", stream, f"entries for QPACK's table, {of_bytes(data)}", None)
        free = min(self._free, len(data))
        self._free -= free
        self._pay((len(data) - free) * INSTRUCTION, "an entry of QPACK's table")
        for number in self._decoder.feed(data):
            if one := self._requests.get(number):
                one.is_ready = True
                self._read(one)

    def _feedback(self, stream: int, data: bytes) -> None:
        """The server's decoder tells what it has got."""
        if self._observe and data:
            self._observe("<", stream, f"QPACK has got entries or sections, {of_bytes(data)}", None)
        self._encoder.feed(data)

    # What all have in common.

    def _send(self, stream: int, frame: Frame, end: bool = False, pairs: Pairs | None = None) -> None:
        if self._observe:
            self._observe(">", stream, frame, pairs)
        self._orders.append(Write(stream, encode(frame), end))

    def _say(self, stream: int, what: str, data: bytes) -> None:
        """Something that is no frame."""
        if self._observe:
            self._observe(">", stream, f"{what}, {of_bytes(data)}", None)
        self._orders.append(Write(stream, data))

    def _tell_qpack(self) -> None:
        """What the two ends of QPACK have to tell their other ends, before what depends on it."""
        if data := self._encoder.out:
            self._encoder.out = b""
            self._say(ENCODER, "entries for QPACK's table", data)
        if data := self._decoder.out:
            self._decoder.out = b""
            self._say(DECODER, "QPACK has got sections, or wants no more of some", data)

    def _fail(self, error: RemoteProtocolError) -> None:
        if self._error is None:
            self._error = error
            self._orders.append(Close(error.code, str(error)))

    def _ignore(self, frame: Frame) -> None:
        self._pay((0 if frame.at else UNKNOWN) + len(frame.payload) / PER_UNKNOWN, frame)

    def _pay(self, price: float, what: object) -> None:
        """§10.5: what is allowed, and nothing but work, has a price."""
        self._purse.pay(price, self._now, what)


CRITICAL: Mapping[int, str] = {
    StreamType.CONTROL: "the control stream",
    StreamType.QPACK_ENCODER: "the stream of QPACK's encoder",
    StreamType.QPACK_DECODER: "the stream of QPACK's decoder",
}


class Malformed(RemoteProtocolError):
    """The fault of one message: its stream ends (§4.1.2), and no other."""


def malformed(reason: str) -> Malformed:
    return Malformed(f"malformed: {reason}", ErrorCode.MESSAGE_ERROR)


def broken(reason: str, code: int) -> RemoteProtocolError:
    """A connection error (§8)."""
    return RemoteProtocolError(reason, code)


def of_bytes(data: bytes) -> str:
    return "1 byte" if len(data) == 1 else f"{len(data)} bytes"


def code_name(code: int) -> str:
    """`H3_REQUEST_CANCELLED`; of one that nobody knows, its number (§8.1: as H3_NO_ERROR)."""
    if code not in list(ErrorCode):
        return f"error code {code:#x}"
    name = ErrorCode(code).name
    return name if name.startswith("QPACK") else f"H3_{name}"


def read_fields(raw: Raw) -> tuple[int, dict[str, str], Pairs, int | None]:
    """The status (0: there is none), the fields, and the length that they tell. Malformed: one of them is not."""
    status = 0
    if raw and raw[0][0] == b":status":
        if not re.fullmatch(rb"[1-9]\d\d", raw[0][1]):
            raise malformed(f"a status of {raw[0][1][:40]!r} (RFC 9110 §15)")
        status, raw = int(raw[0][1]), raw[1:]
    try:
        fields, pairs = regular_fields(raw)
        return status, fields, pairs, content_length(fields)
    except RemoteProtocolError as error:
        text = str(error).replace("(§", "(as in RFC 9113 §")  # The rules are HTTP/2's (§4.2).
        raise Malformed(text, ErrorCode.MESSAGE_ERROR) from None
