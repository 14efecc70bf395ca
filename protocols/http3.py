"""HTTP/3, the server's end, sans-IO: bytes of streams in, events out, and back (RFC 9114).

    conn = ServerConnection(quic)
    conn.receive_data(0, what QUIC gave of stream 0, whether that was its end, now)
    conn.next_event(now)     Request(stream=0, …), Data(0, …), Trailers(0, …), Reset(0, …); None: more bytes are needed
    conn.send_head(0, 200, [("content-type", "text/plain")])
    conn.send_data(0, b"hello", now, end=True)
    conn.send(now)           hands over to QUIC what may leave

Of what HTTP/2 needs a library for, QUIC has taken the greater part: states of streams, windows, PING, what is lost.
What is left is here: frames on the streams where they belong, three streams for the connection itself, messages, the
price of work that brings nothing, whose turn it is to send (RFC 9218), and a good end (GOAWAY).

The events are those of protocols/http2.py: a request is a request. `size` of Data is what QUIC's windows have lost by
it, and acknowledge() gives that back. *quic* is protocols/quic.py, or whatever has the few methods of a Transport. That
is in protocols/http3_streams.py, with what is kept of each stream, and whose turn it is.

A connection error is RemoteProtocolError, whose code goes to close().
"""

from __future__ import annotations

import heapq
import re

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http2 import Data, Event, Pause, Request, Reset, Trailers, response_head
from protocols.http2_messages import Pairs, Priority, Raw, encode_field, priority, regular_fields, request_head
from protocols.http2_rules import CANCEL, EMPTY, LATE, RESET, UNKNOWN, Purse
from protocols.http3_frames import (
    HTTP2_FRAMES,
    LAST_REQUEST,
    ErrorCode,
    Frame,
    FrameType,
    SettingCode,
    StreamType,
    encode,
    grease,
    name_of,
    numbered,
    parse_numbered,
    parse_priority_update,
    parse_settings,
    settings,
    thinness,
)
from protocols.http3_qpack import BLOCKED, TABLE, FieldDecoder, FieldEncoder, Nameless, TooLarge
from protocols.http3_streams import LONGEST, OneWay, Settings, Stream, Transport, Watch, place, rank
from protocols.quic_packets import encode_varint

MOST = 32  # frames without an event, before it is the turn of others
PIECE = 16384  # bytes of one answer, before it is the turn of another that is incremental
REMEMBERED = 256  # streams that the client has stopped before they began
INSTRUCTION = 1 / 16  # the price of a byte on QPACK's streams: one can copy an entry of 4 KB (RFC 9204 §4.3.4)
FREE_INSTRUCTIONS = 1024  # bytes of them per request; a client that asks may fill our table as it likes
THIN = 1 / 8  # the price of a DATA frame with next to nothing in it,
FREE_THIN = 16.0  # but of these no message pays for so many: most bodies are short
PER_UNKNOWN = 1024  # bytes that nobody wants cost as much as a frame that nobody knows
UPDATE = 1.0  # PRIORITY_UPDATE, and whatever else is allowed on the control stream
CONTROL_FRAMES = frozenset(FrameType) - {FrameType.DATA, FrameType.HEADERS, FrameType.PUSH_PROMISE}


class ServerConnection:
    """Receives requests and sends responses, many at a time."""

    def __init__(
        self,
        quic: Transport,
        max_fields: int = 32768,
        max_streams: int = 100,
        *,
        now: float = 0.0,
        watch: Watch | None = None,
    ) -> None:
        self.max_fields, self.max_streams = max_fields, max_streams
        self.streams: dict[int, Stream] = {}  # that are not over
        self.closed = False
        self.theirs: Settings | None = None
        self.goaway_received = False
        self.is_draining = False
        self.is_last = False  # Is it said which stream is the last?
        self._last = LAST_REQUEST  # the first that we do not take
        self._next = 0  # the first behind all that the client has begun
        self._skipped: dict[int, None] = {}  # before it, and not begun
        self._quic, self._watch = quic, watch
        self._ready: dict[int, None] = {}  # streams with something to look at, in turns
        self._one_way: dict[int, OneWay] = {}
        self._critical: dict[int, int] = {}  # type: stream, of the three that there must be, and may not end
        self._ignored: set[int] = set()  # of which the client may still send, and nobody reads it
        self._stopped: dict[int, None] = {}  # before it began
        self._early: dict[int, Priority] = {}  # for streams that have not begun
        self._max_push: int | None = None
        self._their_goaway: int | None = None
        self._purse = Purse(now, ErrorCode.EXCESSIVE_LOAD)
        self._instructions = 2 * TABLE  # bytes on QPACK's streams that are free
        self._seen = 0  # frames without an event
        self._turn = 0
        self._moved = now  # when something was last sent
        self._fields = FieldDecoder(max_fields)
        self._encoder = FieldEncoder()
        ours = {
            SettingCode.QPACK_MAX_TABLE_CAPACITY: TABLE,
            SettingCode.QPACK_BLOCKED_STREAMS: BLOCKED,
            SettingCode.MAX_FIELD_SECTION_SIZE: max_fields,
            grease(1): 0,
        }
        self._control = self._open(StreamType.CONTROL)
        self._write(self._control, settings(ours))
        self._encoder_stream = self._open(StreamType.QPACK_ENCODER)
        self._decoder_stream = self._open(StreamType.QPACK_DECODER)
        self._ours = (self._control, self._encoder_stream, self._decoder_stream)

    def _open(self, kind: StreamType) -> int:
        stream = self._quic.get_next_available_stream_id(is_unidirectional=True)
        self._quic.send_stream_data(stream, encode_varint(kind))
        return stream

    def _write(self, stream: int, frame: Frame) -> None:
        if self._watch:
            self._watch(">", stream, frame)
        self._quic.send_stream_data(stream, encode(frame))

    # -- What arrives --------------------------------------------------------------------------------

    def receive_data(self, stream: int, data: bytes, ended: bool, now: float) -> None:
        """Keep what QUIC gave. It may give what belongs to stream 8 before that of stream 4."""
        if stream in self._ignored or self.closed:
            self._quic.consume(stream, len(data))
            if ended:
                self._ignored.discard(stream)
            return
        one: OneWay | Stream | None
        if stream & 2:
            one = self._one_way.get(stream)
            if one is None:
                one = self._one_way[stream] = OneWay(stream)
        else:
            one = self.streams.get(stream)
            if one is None:
                one = self._begin(stream, now)
        one.frames.receive_data(data)
        one.ended = ended
        self._ready[stream] = None

    def _begin(self, stream: int, now: float) -> Stream:
        one = self.streams[stream] = Stream(stream, self.max_fields, now)
        self._is_begun(stream)
        if stream >= self._last:  # It crossed our GOAWAY: to be sent again, elsewhere (§5.2).
            one.state = "refused"
        elif stream in self._stopped:
            one.state = "stopped"
            del self._stopped[stream]
        if early := self._early.pop(stream, None):
            one.priority, one.updated = early, True
        return one

    def _is_new(self, stream: int) -> bool:
        """Has nothing come on it?"""
        return stream >= self._next or stream in self._skipped

    def _is_begun(self, stream: int) -> None:
        self._skipped.pop(stream, None)
        if stream >= self._next:
            self._skipped.update(dict.fromkeys(range(self._next, stream, 4)))
            self._next = stream + 4
        while len(self._skipped) > self.max_streams:  # QUIC allows no more.
            del self._skipped[next(iter(self._skipped))]

    def receive_reset(self, stream: int, code: int, now: float) -> Reset | None:
        """The client ends what it sends, in the middle (RESET_STREAM)."""
        self._ignored.discard(stream)
        if stream & 2:
            self._one_way_ends(stream, now)
            return None
        one = self.streams.get(stream)
        if one is None:
            self._purse.pay(LATE, now, f"RESET_STREAM {stream}")
            if self._is_new(stream):  # What came before is lost, and not sent again. Our half has to end, too (§4.1).
                self._is_begun(stream)
                self._early.pop(stream, None)
                self._stopped.pop(stream, None)
                self._quic.reset_stream(stream, ErrorCode.REQUEST_INCOMPLETE)
            return None
        one.ended = True
        return self._cancelled(one, code, now, "RESET_STREAM")

    def receive_stop(self, stream: int, code: int, now: float) -> Reset | None:
        """The client does not want to hear more (STOP_SENDING). QUIC has reset our side of the stream by itself."""
        if stream in self._ours:
            raise RemoteProtocolError(
                "STOP_SENDING for a stream that the connection needs (§6.2.1)", ErrorCode.CLOSED_CRITICAL_STREAM
            )
        one = self.streams.get(stream)
        if one is None:
            self._purse.pay(LATE, now, f"STOP_SENDING {stream}")
            if self._is_new(stream):
                self._stopped[stream] = None
                if len(self._stopped) > REMEMBERED:
                    del self._stopped[next(iter(self._stopped))]
            return None
        return self._cancelled(one, code, now, "STOP_SENDING")

    def _cancelled(self, one: Stream, code: int, now: float, how: str) -> Reset | None:
        self._purse.pay(CANCEL if one.has_left else RESET, now, f"{how} {one.id}")
        self._forget(one, ErrorCode.REQUEST_CANCELLED)
        return Reset(one.id, code, f"{how} by the client") if one.is_known else None

    def next_event(self, now: float) -> Event | None:
        """What the next frames say; None when more bytes are needed."""
        self._seen = 0
        while self._ready and not self.closed:
            stream = next(iter(self._ready))
            event: Event | None = None
            if one := self.streams.get(stream):
                event = self._request(one, now)
            elif way := self._one_way.get(stream):
                self._read_one_way(way, now)
            if event:
                if isinstance(event, Pause):
                    self._ready[stream] = self._ready.pop(stream)
                return event
            self._ready.pop(stream, None)  # It may be over.
        return None

    # Requests (§4.1).

    def _request(self, one: Stream, now: float) -> Event | None:
        """The next event of this stream; None: it has no more for the time being."""
        if one.state in ("refused", "stopped"):
            self._forget(one, ErrorCode.REQUEST_REJECTED if one.state == "refused" else ErrorCode.REQUEST_CANCELLED)
            return None
        if one.resumes:
            one.resumes = False
            self._quic.consume(one.id, one.held)
            one.held = 0
            if event := self._unpack(one, None, now):
                return event
        while not one.waits and one.id in self.streams:
            if self._seen == MOST:
                return Pause()
            before = one.frames.unread
            frame = one.frames.next_frame()
            if frame is None:
                return self._end_of(one, now) if one.ended else None
            self._seen += 1
            if self._watch:
                self._watch("<", one.id, frame)
            if event := self._frame(one, frame, before - one.frames.unread, now):
                return event
        return None

    def _frame(self, one: Stream, frame: Frame, size: int, now: float) -> Event | None:
        """A frame, or a piece of one; *size* bytes of the stream it was."""
        if frame.type == FrameType.DATA:
            return self._data(one, frame, size, now)
        if frame.type == FrameType.HEADERS:
            event = self._headers(one, frame, now)
            if one.waits:
                one.held = size  # Or else many could wait in memory, for inserts that never come (RFC 9204 §2.2.1).
            else:
                self._quic.consume(one.id, size)
            return event
        self._quic.consume(one.id, size)
        if frame.type in HTTP2_FRAMES or frame.type in CONTROL_FRAMES or frame.type == FrameType.PUSH_PROMISE:
            raise unexpected(frame, "on the stream of a request")
        self._purse.pay(size / PER_UNKNOWN if frame.at else UNKNOWN, now, frame)
        return None

    def _data(self, one: Stream, frame: Frame, size: int, now: float) -> Event | None:
        data = frame.payload
        if not frame.length:
            self._purse.pay(EMPTY, now, frame)
        elif thin := thinness(frame):
            one.thin += thin
            if one.thin > FREE_THIN:
                self._purse.pay(thin * THIN, now, frame)
        if one.state != "body":
            self._quic.consume(one.id, size)
            if one.state == "nothing":
                return None
            raise unexpected(frame, "before the head" if one.state == "head" else "behind the trailers")
        whole = one.ended and not (frame.left or one.frames.unread)
        if one.awaited is not None:
            one.awaited -= len(data)
            if one.awaited < 0 or (whole and one.awaited):
                self._quic.consume(one.id, size)
                return self._fail(one, ErrorCode.MESSAGE_ERROR, "not what Content-Length says (RFC 9114 §4.1.2)", now)
        one.whole = whole
        return Data(one.id, data, size, whole)

    def _headers(self, one: Stream, frame: Frame, now: float) -> Event | None:
        if one.state == "nothing":
            return None
        if one.state == "end":
            raise unexpected(frame, "behind the trailers")
        if frame.left or len(frame.payload) > self.max_fields:
            self._fields.cancel(one.id)
            return self._too_large(one, now)
        return self._unpack(one, frame.payload, now)

    def _unpack(self, one: Stream, section: bytes | None, now: float) -> Event | None:
        """A section of fields; None: the one that was blocked."""
        try:
            raw = self._fields.resume(one.id) if section is None else self._fields.section(one.id, section)
        except TooLarge:
            return self._too_large(one, now)
        except Nameless:
            return self._fail(one, ErrorCode.MESSAGE_ERROR, "a field without a name (RFC 9114 §4.2)", now)
        if raw is None:
            one.waits = True
            return None
        return self._section(one, raw, now)

    def _too_large(self, one: Stream, now: float) -> Event | None:
        """Too many fields. What else comes of this request is not looked at."""
        if one.state == "body":
            return self._fail(one, ErrorCode.EXCESSIVE_LOAD, f"trailers of more than {self.max_fields} bytes", now)
        one.state, one.began, one.is_known = "nothing", None, True
        self._purse.pay(RESET, now, "a field section")
        return Request(one.id, None, one.ended, 431, f"more than {self.max_fields} bytes of fields")

    def _section(self, one: Stream, raw: Raw, now: float) -> Event | None:
        if one.state == "body":
            try:
                _, pairs = regular_fields(raw)
            except RemoteProtocolError as error:
                return self._fail(one, ErrorCode.MESSAGE_ERROR, in_http3(error), now)
            if one.awaited:
                return self._fail(one, ErrorCode.MESSAGE_ERROR, "less than Content-Length says (RFC 9114 §4.1.2)", now)
            one.state, one.whole = "end", True
            return Trailers(one.id, pairs)
        one.state, one.began = "body", None
        self._instructions = min(self._instructions + FREE_INSTRUCTIONS, 4 * TABLE)
        whole = one.whole = one.ended and not one.frames.unread
        try:
            head = request_head(raw)
        except RemoteProtocolError as error:
            if error.code < 400:
                return self._fail(one, ErrorCode.MESSAGE_ERROR, in_http3(error), now)
            one.state, one.is_known = "nothing", True
            return Request(one.id, None, whole, error.code, in_http3(error))
        if not one.updated:
            one.priority = head.priority
        one.awaited = head.length
        if whole and head.length:
            return self._fail(one, ErrorCode.MESSAGE_ERROR, "less than Content-Length says (RFC 9114 §4.1.2)", now)
        one.is_known = True
        return Request(one.id, head, whole)

    def _end_of(self, one: Stream, now: float) -> Event | None:
        """The client has ended the stream, and all of it is read."""
        if not one.frames.is_between:
            raise RemoteProtocolError("a stream that ends within a frame (§7.1)", ErrorCode.FRAME_ERROR)
        if one.state == "head":
            return self._fail(one, ErrorCode.REQUEST_INCOMPLETE, "a stream that ends without a request (§4.1)", now)
        if one.whole or one.state != "body":
            one.whole = True
            return None
        if one.awaited:
            return self._fail(one, ErrorCode.MESSAGE_ERROR, "less than Content-Length says (RFC 9114 §4.1.2)", now)
        one.whole = True
        return Data(one.id, b"", 0, True)

    def late(self, before: float) -> list[int]:
        """Streams on which a request has begun before that, and its head is still not here, or waits for QPACK."""
        return [one.id for one in self.streams.values() if one.began is not None and one.began < before]

    # The connection's own streams (§6.2).

    def _read_one_way(self, way: OneWay, now: float) -> None:
        before = way.frames.unread
        if way.type is None:
            way.type = way.frames.next_number()
            if way.type is not None:
                self._is_for(way, way.type, now)
        if way.type == StreamType.CONTROL:
            while frame := way.frames.next_frame():
                if self._watch:
                    self._watch("<", way.id, frame)
                self._control_frame(frame, now)
        elif way.type in (StreamType.QPACK_ENCODER, StreamType.QPACK_DECODER):
            self._instruction(way.type, way.frames.rest(), now)
        elif way.type is not None:
            way.frames.rest()
        self._quic.consume(way.id, before - way.frames.unread)
        if way.ended:
            self._one_way_ends(way.id, now)

    def _is_for(self, way: OneWay, type_: int, now: float) -> None:
        if type_ == StreamType.PUSH:
            raise RemoteProtocolError("a client cannot push (§6.2.2)", ErrorCode.STREAM_CREATION_ERROR)
        if type_ in (StreamType.CONTROL, StreamType.QPACK_ENCODER, StreamType.QPACK_DECODER):
            if type_ in self._critical:
                text = f"a second stream of type {StreamType(type_).name} (§6.2.1, RFC 9204 §4.2)"
                raise RemoteProtocolError(text, ErrorCode.STREAM_CREATION_ERROR)
            self._critical[type_] = way.id
            return
        self._purse.pay(UNKNOWN, now, f"a stream of type {type_:#x}")
        if not way.ended:
            self._quic.stop_stream(way.id, ErrorCode.STREAM_CREATION_ERROR)  # §6.2.3: no error, but no use either

    def _one_way_ends(self, stream: int, now: float) -> None:
        if stream in self._critical.values():
            text = "the end of a stream that the connection needs (§6.2.1, RFC 9204 §4.2)"
            raise RemoteProtocolError(text, ErrorCode.CLOSED_CRITICAL_STREAM)
        way = self._one_way.pop(stream, None)
        if way is None or way.type is None:  # §6.2: to be tolerated, but not for ever
            self._purse.pay(UNKNOWN, now, f"stream {stream}, which has not said what it is")
        if way:
            self._quic.consume(stream, len(way.frames.rest()))

    def _control_frame(self, frame: Frame, now: float) -> None:
        if self.theirs is None and frame.type != FrameType.SETTINGS:
            raise RemoteProtocolError(f"{frame} where SETTINGS must come (§6.2.1)", ErrorCode.MISSING_SETTINGS)
        if frame.type in HTTP2_FRAMES or frame.type in (FrameType.DATA, FrameType.HEADERS, FrameType.PUSH_PROMISE):
            raise unexpected(frame, "on the control stream")
        self._purse.pay(len(frame.payload) / PER_UNKNOWN if frame.at else UPDATE, now, frame)
        if frame.type not in CONTROL_FRAMES:
            return
        if frame.length > LONGEST:
            raise RemoteProtocolError(f"{frame}: nobody needs so much (§10.5)", ErrorCode.EXCESSIVE_LOAD)
        if frame.type == FrameType.SETTINGS:
            self._settings(frame)
        elif frame.type == FrameType.PRIORITY_UPDATE:
            self._priority_update(frame)
        elif frame.type == FrameType.MAX_PUSH_ID:
            number = parse_numbered(frame)
            if self._max_push is not None and number < self._max_push:
                raise RemoteProtocolError("MAX_PUSH_ID may only grow (§7.2.7)", ErrorCode.ID_ERROR)
            self._max_push = number
        elif frame.type == FrameType.GOAWAY:
            number = parse_numbered(frame)
            if self._their_goaway is not None and number > self._their_goaway:
                raise RemoteProtocolError("GOAWAY may only shrink (§5.2)", ErrorCode.ID_ERROR)
            self._their_goaway, self.goaway_received = number, True
        else:
            parse_priority_update(frame) if frame.type == FrameType.PRIORITY_UPDATE_PUSH else parse_numbered(frame)
            raise RemoteProtocolError(f"{frame}, of a push that was not promised (§7.2.3)", ErrorCode.ID_ERROR)

    def _settings(self, frame: Frame) -> None:
        if self.theirs is not None:
            raise unexpected(frame, "a second time (§7.2.4)")
        values = parse_settings(frame.payload)
        self.theirs = Settings(
            values.get(SettingCode.QPACK_MAX_TABLE_CAPACITY, 0),
            values.get(SettingCode.QPACK_BLOCKED_STREAMS, 0),
            values.get(SettingCode.MAX_FIELD_SECTION_SIZE, 1 << 62),
        )
        self._encoder.offered(self.theirs.table, self.theirs.blocked)
        self._send_instructions()

    def _priority_update(self, frame: Frame) -> None:
        """RFC 9218 §7.2. It may come before its stream does: they are not the same stream of QUIC."""
        stream, value = parse_priority_update(frame)
        if stream % 4 or stream >= self._next + 4 * (self.max_streams + len(self.streams)):
            raise RemoteProtocolError("PRIORITY_UPDATE for what can be no request (RFC 9218 §7.2)", ErrorCode.ID_ERROR)
        wanted = priority(value.decode("latin-1"))
        self._quic.set_place(stream, place(stream, wanted))
        if stream in self.streams:
            self.streams[stream].priority, self.streams[stream].updated = wanted, True
        elif self._is_new(stream) and len(self._early) < self.max_streams:
            self._early[stream] = wanted

    def _instruction(self, type_: int, data: bytes, now: float) -> None:
        """What came on QPACK's streams. As long as requests come, too, that is free."""
        self._instructions -= len(data)
        if self._instructions < 0:
            self._purse.pay(-self._instructions * INSTRUCTION, now, "QPACK's instructions without requests")
            self._instructions = 0
        if type_ == StreamType.QPACK_DECODER:
            self._encoder.feed(data)
            return
        for stream in self._fields.feed(data):
            if (one := self.streams.get(stream)) and one.waits:
                one.waits, one.resumes = False, True
                self._ready[stream] = None

    # -- What is sent --------------------------------------------------------------------------------

    def send_head(self, stream: int, status: int, pairs: Pairs, end: bool = False) -> None:
        """Send the head of a response, or (1xx) of one before it."""
        one = self._known(stream)
        if one.head_sent:
            raise LocalProtocolError("the head is sent")
        section = self._encoder.section(stream, response_head(status, tuple(pairs)))
        self._send_instructions()
        one.head += self._framed(one, Frame(FrameType.HEADERS, section))
        one.head_sent = status >= 200
        one.ending = end

    def send_data(self, stream: int, data: bytes, now: float, end: bool = False, trailers: Pairs = ()) -> None:
        """Send a piece of the body, once the windows let it, and its turn comes; is_sent() tells when.

        At its *end*, *trailers* may follow. Until is_sent(), no more is taken: what waits is the caller's to hold back.
        """
        one = self._known(stream)
        if not one.head_sent or one.ending or one.out:
            raise LocalProtocolError("no head yet, or the end is sent, or a piece still waits")
        if data:
            if self._watch:
                self._watch(">", stream, Frame(FrameType.DATA, data))
            one.head += encode(Frame(FrameType.DATA, b"", 0, len(data)))
        one.out, one.ending, one.trailers, one.moved = memoryview(data), end, trailers, now

    def _framed(self, one: Stream, frame: Frame) -> bytes:
        if self._watch:
            self._watch(">", one.id, frame)
        return encode(frame)

    def is_sent(self, stream: int) -> bool:
        """Has all left that was given to send_data()? Also when the stream is over."""
        one = self.streams.get(stream)
        return one is None or not one.out

    def acknowledge(self, stream: int, size: int) -> None:
        """So much of a body has been used: as much may come again."""
        if size and not self.closed:
            self._quic.consume(stream, size)

    def stalled(self, before: float) -> list[int]:
        """Streams with something to send, for which the client has opened no window since then.

        To wait for one's turn, while others are sent, is no fault.
        """
        shut = self._quic.allowance() <= 0 and self._moved < before
        return [
            one.id
            for one in self.streams.values()
            if one.out and one.moved < before and (shut or self._quic.window(one.id) <= 0)
        ]

    def reset(self, stream: int, code: int = ErrorCode.REQUEST_CANCELLED) -> None:
        """End a stream at once. What waits for it is dropped."""
        if one := self.streams.get(stream):
            self._forget(one, code)

    def _fail(self, one: Stream, code: int, reason: str, now: float) -> Event | None:
        """A stream error (§8), for which the client is to blame."""
        self._purse.pay(RESET, now, f"stream {one.id}")
        self._forget(one, code)
        return Reset(one.id, code, reason) if one.is_known else None

    def _forget(self, one: Stream, code: int) -> None:
        """The stream is over, though not finished: in both directions."""
        self._quic.reset_stream(one.id, code)
        self._over(one, code)

    def _over(self, one: Stream, code: int) -> None:
        """Nobody looks at this stream any more. A client that still sends is told so (§4.1)."""
        del self.streams[one.id]
        self._ready.pop(one.id, None)
        self._quic.consume(one.id, len(one.frames.rest()) + one.held)
        if not one.whole:
            self._fields.cancel(one.id)  # There may have been fields in what nobody reads (RFC 9204 §2.2.2.2).
        if not one.ended:
            self._quic.stop_stream(one.id, code)
            self._ignored.add(one.id)

    def _known(self, stream: int) -> Stream:
        if stream not in self.streams or self.closed:
            raise LocalProtocolError(f"stream {stream} is over")
        return self.streams[stream]

    def _send_instructions(self) -> None:
        for stream, qpack in ((self._encoder_stream, self._encoder), (self._decoder_stream, self._fields)):
            if qpack.out:
                self._quic.send_stream_data(stream, qpack.out)
                qpack.out = b""

    def send(self, now: float, room: int = 1 << 16) -> None:
        """Hand over to QUIC: all heads without a body, and about *room* bytes of bodies.

        The most urgent streams first; of these one after the other, for a half of two answers is of no use, but those
        that are `incremental` in turns, piece by piece (RFC 9218 §10). QUIC is told the same order, for what it has and
        cannot send yet. It gets no more than it can send soon: there may be much, and the rest of it is not copied.
        """
        self._send_instructions()
        waiting = []
        for one in list(self.streams.values()):
            if one.out:
                waiting.append((*rank(one), one))
            elif one.head or one.ending:
                self._send(one, 0, now)
        heapq.heapify(waiting)
        room = min(room, self._quic.allowance()) if waiting else 0
        while waiting and room > 0:
            one = waiting[0][-1]
            size = min(len(one.out), self._quic.window(one.id) - len(one.head), room, PIECE)
            if size <= 0:
                heapq.heappop(waiting)  # Its reader is slow. The others go on.
                continue
            self._send(one, size, now)
            room -= size
            if not one.out:
                heapq.heappop(waiting)
            elif one.priority.incremental:
                self._turn += 1
                one.turn = self._turn
                heapq.heapreplace(waiting, (*rank(one), one))

    def _send(self, one: Stream, size: int, now: float) -> None:
        """So many bytes of what waits; and the end, if that was all."""
        last = one.ending and size == len(one.out)
        data, one.head = one.head, b""
        if size:
            data += one.out[:size]
            one.out = one.out[size:]
        if last and one.trailers:
            fields = tuple(encode_field(*pair) for pair in one.trailers)
            data += self._framed(one, Frame(FrameType.HEADERS, self._encoder.section(one.id, fields)))
            self._send_instructions()
        self._quic.send_stream_data(one.id, data, last)
        self._quic.set_place(one.id, place(one.id, one.priority))
        one.moved, one.has_left, self._moved = now, True, now
        if last:
            self._over(one, ErrorCode.NO_ERROR)

    def drain(self) -> None:
        """Take no more requests, and finish those that there are (§5.2). Call again when time is up for the first step.

        First GOAWAY for all numbers: there may be requests on their way, which are still served. When the client has
        had the time to hear it, GOAWAY with the last number.
        """
        if not self.is_draining:
            self.is_draining = True
            self._write(self._control, numbered(FrameType.GOAWAY, LAST_REQUEST))
        elif not self.is_last:
            self.is_last = True
            self._last = self._next
            self._write(self._control, numbered(FrameType.GOAWAY, self._last))

    def close(self, code: int, reason: str) -> None:
        """End the connection, with a text that says why (§8)."""
        if not self.closed:
            self.closed = True
            self.streams.clear()
            self._quic.close(error_code=code, reason_phrase=reason)


def unexpected(frame: Frame, where: str) -> RemoteProtocolError:
    """§7: Table 1 has what may be where."""
    return RemoteProtocolError(f"{name_of(frame.type)} {where} (§7.2)", ErrorCode.FRAME_UNEXPECTED)


def in_http3(error: RemoteProtocolError) -> str:
    """What is wrong with a message is wrong in HTTP/2, too; only the sentence that forbids it is in another RFC."""
    return re.sub(r"\(§[^)]*\)", "(RFC 9114 §4.1.2)", str(error))
