"""HTTP/2, the server's end, sans-IO: bytes in, events out, and back (RFC 9113).

    conn = ServerConnection()
    conn.receive_data(what the socket gave)
    conn.next_event(now)     Request(stream=1, …), Data(1, …), Trailers(1, …), Reset(1, …); None: more bytes are needed
    conn.send_head(1, 200, [("content-type", "text/plain")])
    conn.send_data(1, b"hello", now, end=True)
    out = conn.data_to_send(now)

The library h2 keeps the books: the states of the streams, both windows, HPACK's tables, the settings. Here is what it
leaves to its user, or does otherwise than RFC 9113 wants:

- what may come where, how long, and with which error it is refused (http2_rules.py);
- messages (http2_messages.py): h2 ends the connection when one is malformed; §8.1.1 wants the end of its stream alone.
  So field sections are decoded and judged here, and h2 gets a HEADERS frame that says nothing (STUB), to count;
- frames that come late, for a stream that ended a moment ago. h2 answers RST_STREAM with RST_STREAM, or gives up;
- GOAWAY: h2 sends nothing more after either side's. But what is under way is to be finished (§6.8);
- work that brings nothing, which is how HTTP/2 is flooded: every such frame has a price;
- whose turn it is to send (RFC 9218).

A connection error is RemoteProtocolError, whose code goes to close().
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import h2.config
import h2.connection
import h2.exceptions
import h2.settings

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http2_frames import (
    DEFAULT_WINDOW,
    MAX_WINDOW,
    PREFACE,
    Decoder,
    ErrorCode,
    Flag,
    Frame,
    FrameType,
    SettingCode,
    content,
    encode,
    goaway,
    parse_settings,
    settings,
    window_update,
)
from protocols.http2_hpack import CachedDecoder, CachedEncoder
from protocols.http2_messages import Head, Pairs, Priority, Raw, encode_field, priority, regular_fields, request_head
from protocols.http2_rules import (
    CANCEL,
    EMPTY,
    KNOWN_SETTINGS,
    LATE,
    MOST_CREDIT,
    PRICES,
    RESET,
    RULES,
    TABLE,
    UNKNOWN,
    WORTH_IT,
    Purse,
    check_frame,
    check_priorities,
)

MOST = 32  # frames without an event, before it is the turn of others
MOST_UNPACKED = 8192  # bytes of field sections, before it is the turn of others: they are the work in a request
REMEMBERED = 1000  # streams that are over, for which more may be on its way
MAX_STREAM = 2**31 - 1
DRAIN = b"goodbye?"  # A PING: its answer comes after all that the client sent before it heard GOAWAY.
STUB = b"\x82"  # a field section that says nothing to HPACK's table: `:method: GET`


class Request(NamedTuple):
    """A request has begun on this stream. `whole`: there is no body. Not 0: answer with this status, and say why."""

    stream: int
    head: Head | None
    whole: bool
    status: int = 0
    reason: str = ""


class Data(NamedTuple):
    """A piece of a body. `size` is what it took of the windows: to be given back by acknowledge(), when it is used."""

    stream: int
    data: bytes
    size: int
    whole: bool


class Trailers(NamedTuple):
    """The end of a body, and fields that came behind it."""

    stream: int
    pairs: Pairs


class Reset(NamedTuple):
    """The stream has ended: the client did it, or did what ends it. Nobody waits for the answer."""

    stream: int
    code: int
    reason: str


class Pause(NamedTuple):
    """Many frames, and nothing in them for you, or many fields: it may be the turn of somebody else."""


Event = Request | Data | Trailers | Reset | Pause


class Stream:
    """One request and its answer, as far as the frames are concerned."""

    __slots__ = (
        "awaited", "ending", "has_left", "head_sent", "id", "moved", "out", "priority", "trailers", "turn", "whole"
    )  # fmt: skip

    def __init__(self, id: int, whole: bool, now: float) -> None:
        self.id, self.whole = id, whole  # Whole: the client has said all.
        self.awaited: int | None = None  # bytes that Content-Length says are still to come
        self.priority = Priority()
        self.turn = 0  # when it was last served
        self.out = memoryview(b"")  # what waits for the window
        self.ending = self.head_sent = False
        self.has_left = False  # some of the answer
        self.trailers: Pairs = ()
        self.moved = now  # when something was last sent, or there was nothing to send


class Books(h2.connection.H2Connection):
    """h2, with a shorter memory: for each of 65,536 streams that are over it would keep 100 bytes."""

    MAX_CLOSED_STREAMS = REMEMBERED


class ServerConnection:
    """Receives requests and sends responses, many at a time."""

    def __init__(
        self,
        max_streams: int = 100,
        max_fields: int = 32768,
        stream_window: int = 1 << 18,
        connection_window: int = 1 << 22,
        *,
        now: float = 0.0,
    ) -> None:
        self.max_streams, self.max_fields = max_streams, max_fields
        self.streams: dict[int, Stream] = {}  # that are not over
        self.settings_acknowledged = self.started = self.closed = False
        self.goaway_received = False
        self.is_last = False  # Is it said which stream is the last?
        self.unfinished_since: float | None = now
        self.last_stream = MAX_STREAM  # the highest that we still take
        self._preface = PREFACE
        self._frames = Decoder()
        self._block: Frame | None = None  # HEADERS whose CONTINUATION is to come
        self._fragments: list[bytes] = []
        self._unpacked = 0  # bytes of field sections since the last pause
        self._reset: dict[int, None] = {}  # by us; what still comes for these is dropped
        self._early: dict[int, Priority] = {}  # for streams that are not open yet
        self._purse = Purse(now)
        self._credit = 0.0  # WINDOW_UPDATEs that are free
        self._draining = False
        self._turn = 0
        self._moved = now  # when DATA was last sent
        self._out: list[bytes] = []
        config = h2.config.H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._h2 = Books(config)
        self._h2.receive_data(PREFACE)
        self._h2.encoder = CachedEncoder()
        self._decoder = CachedDecoder(2 * max_fields)  # Between one and two times the limit: 431; more: the end.
        ours: dict[int, int] = {
            SettingCode.MAX_CONCURRENT_STREAMS: max_streams,
            SettingCode.INITIAL_WINDOW_SIZE: stream_window,
            SettingCode.MAX_HEADER_LIST_SIZE: max_fields,
            SettingCode.NO_RFC7540_PRIORITIES: 1,
        }
        codes = h2.settings.SettingCodes
        self._h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={codes.INITIAL_WINDOW_SIZE: stream_window, codes.MAX_CONCURRENT_STREAMS: 1 << 20},
        )
        self._write(settings(ours))
        if connection_window > DEFAULT_WINDOW:
            self._h2.increment_flow_control_window(connection_window - DEFAULT_WINDOW)

    # -- What arrives --------------------------------------------------------------------------------

    @property
    def unread(self) -> int:
        """Bytes that wait for next_event(), or for more of their frame."""
        return self._frames.unread

    @property
    def unfinished(self) -> bool:
        """Has something begun of which the rest must come soon: the preface, a frame, the fields of a request?"""
        return bool(self._preface) or not self.started or self._frames.unread > 0 or self._block is not None

    def receive_data(self, data: bytes) -> None:
        """Keep what the socket gave."""
        if self._preface:
            size = min(len(self._preface), len(data))
            if data[:size] != self._preface[:size]:
                raise RemoteProtocolError("that is no HTTP/2: its preface is missing (§3.4)", ErrorCode.PROTOCOL_ERROR)
            self._preface, data = self._preface[size:], data[size:]
        self._frames.receive_data(data)

    def next_event(self, now: float) -> Event | None:
        """What the next frames say; None when more bytes are needed."""
        if self._unpacked >= MOST_UNPACKED and self._frames.unread:
            self._unpacked = 0
            return Pause()
        arrived = 0
        while not self.closed and (frame := self._frames.next_frame()):
            arrived += 1
            self._check(frame)
            if frame.type == FrameType.WINDOW_UPDATE and self._credit >= 1:
                self._credit -= 1
            elif price := PRICES.get(frame.type, 0.0 if frame.type in RULES else UNKNOWN):
                self._purse.pay(price, now, frame)
            if handle := HANDLERS.get(frame.type):
                try:
                    event = handle(self, frame, now)
                except h2.exceptions.ProtocolError as error:
                    # h2 has ended the connection in its books; the GOAWAY is ours to send, with a reason.
                    self._h2.clear_outbound_data_buffer()
                    raise RemoteProtocolError(f"{error} ({frame})", error.error_code) from None
                if event:
                    return event
            if arrived == MOST:
                return Pause()
        if not self.unfinished:
            self.unfinished_since = None
        elif self.unfinished_since is None or (not self._block and (arrived or self._frames.begun == FrameType.DATA)):
            self.unfinished_since = now  # A body may be slow, as long as it comes.
        self._unpacked = 0
        return None

    def _check(self, frame: Frame) -> None:
        """What is wrong wherever it comes: a connection error."""
        if not self.started:
            if frame.type != FrameType.SETTINGS or frame.flags & Flag.ACK:
                raise RemoteProtocolError("the first frame is not SETTINGS (§3.4)", ErrorCode.PROTOCOL_ERROR)
            self.started = True
        block = self._block
        if block and (frame.type != FrameType.CONTINUATION or frame.stream != block.stream):
            text = f"{frame} between HEADERS and its CONTINUATION (§6.10)"
            raise RemoteProtocolError(text, ErrorCode.PROTOCOL_ERROR)
        if frame.type != FrameType.PRIORITY or frame.stream not in self.streams:  # Of another size: a stream error.
            check_frame(frame)
        if frame.type == FrameType.PUSH_PROMISE:
            raise RemoteProtocolError("a client cannot push (§8.4)", ErrorCode.PROTOCOL_ERROR)
        if frame.type == FrameType.CONTINUATION and not block:
            raise RemoteProtocolError("CONTINUATION of nothing (§6.10)", ErrorCode.PROTOCOL_ERROR)
        if frame.type in (FrameType.DATA, FrameType.RST_STREAM, FrameType.WINDOW_UPDATE) and self._is_idle(
            frame.stream
        ):
            raise RemoteProtocolError(f"{frame}: nobody has opened it (§5.1)", ErrorCode.PROTOCOL_ERROR)

    def _is_idle(self, stream: int) -> bool:
        return stream > self._h2.highest_inbound_stream_id or (stream > 0 and stream % 2 == 0)

    # Frames of a stream.

    def _headers(self, frame: Frame, now: float) -> Event | None:
        if frame.flags & Flag.PRIORITY:
            start = 1 if frame.flags & Flag.PADDED else 0
            depends_on = int.from_bytes(frame.payload[start : start + 4], "big") & 0x7FFFFFFF
            if depends_on == frame.stream:
                raise RemoteProtocolError("a stream that depends on itself (RFC 7540 §5.3.1)", ErrorCode.PROTOCOL_ERROR)
        fragment = content(frame)
        if frame.flags & Flag.END_HEADERS:
            return self._section(frame, fragment, now)
        self._block, self._fragments = frame, [fragment]
        return None

    def _continuation(self, frame: Frame, now: float) -> Event | None:
        assert self._block
        self._fragments.append(frame.payload)
        if sum(map(len, self._fragments)) > 2 * self.max_fields or len(self._fragments) > 64:
            text = f"{len(self._fragments)} frames of fields without an end (§10.5.1)"
            raise RemoteProtocolError(text, ErrorCode.ENHANCE_YOUR_CALM)
        if not frame.flags & Flag.END_HEADERS:
            return None
        first, self._block = self._block, None
        return self._section(first, b"".join(self._fragments), now)

    def _section(self, frame: Frame, block: bytes, now: float) -> Event | None:
        """A whole field section. It is decoded whatever becomes of it: HPACK's table belongs to the connection."""
        raw = self._decoder.section(block)
        self._unpacked += len(block)
        stream, ends = self.streams.get(frame.stream), bool(frame.flags & Flag.END_STREAM)
        if stream and stream.whole:
            return self._end(frame, ErrorCode.STREAM_CLOSED, "HEADERS after the end of the request (§5.1)", now)
        if stream:
            try:
                _, pairs = regular_fields(raw)
            except RemoteProtocolError as error:
                return self._end(frame, error.code, str(error), now)
            if not ends:
                return self._end(frame, ErrorCode.PROTOCOL_ERROR, "trailers that are not the end (§8.1)", now)
            if stream.awaited:
                return self._end(frame, ErrorCode.PROTOCOL_ERROR, "less than Content-Length says (§8.1.1)", now)
            stream.whole = True
            self._tell_h2(frame.stream, True)
            return Trailers(frame.stream, pairs)
        if frame.stream in self._reset:
            self._purse.pay(LATE, now, frame)
            return None
        is_old = frame.stream <= self._h2.highest_inbound_stream_id
        self._tell_h2(frame.stream, ends)  # It knows how old ones ended: a connection error, or it has sent RST_STREAM.
        if is_old:
            self._purse.pay(RESET, now, frame)
            return None
        if len(self.streams) >= self.max_streams or frame.stream > self.last_stream:
            return self._end(frame, ErrorCode.REFUSED_STREAM, "too many streams at a time (§5.1.2)", now)
        stream = self.streams[frame.stream] = Stream(frame.stream, ends, now)
        early = self._early.pop(frame.stream, None)
        if sum(len(name) + len(value) + 32 for name, value in raw) > self.max_fields:
            return Request(frame.stream, None, ends, 431, f"more than {self.max_fields} bytes of fields")
        try:
            head = request_head(raw)
        except RemoteProtocolError as error:
            if error.code >= 400:
                return Request(frame.stream, None, ends, error.code, str(error))
            return self._end(frame, error.code, str(error), now)
        stream.priority = early or head.priority
        stream.awaited = head.length
        if ends and head.length:
            return self._end(frame, ErrorCode.PROTOCOL_ERROR, "less than Content-Length says (§8.1.1)", now)
        return Request(frame.stream, head, ends)

    def _tell_h2(self, stream: int, ends: bool) -> None:
        flags = Flag.END_HEADERS | (Flag.END_STREAM if ends else 0)
        self._h2.receive_data(encode(Frame(FrameType.HEADERS, flags, stream, STUB)))

    def _data(self, frame: Frame, now: float) -> Event | None:
        data, ends = content(frame), bool(frame.flags & Flag.END_STREAM)
        if not data and not ends:
            self._purse.pay(EMPTY, now, frame)
        stream = self.streams.get(frame.stream)
        if stream is None:
            if frame.stream in self._reset:  # It may not know yet.
                self._give_back(frame)
                return None
            self._purse.pay(RESET, now, frame)
            self._h2.receive_data(encode(frame))  # It answers RST_STREAM, STREAM_CLOSED, and gives the window back.
            return None
        if stream.whole:
            self._give_back(frame)
            return self._end(frame, ErrorCode.STREAM_CLOSED, "DATA after the end of the request (§5.1)", now)
        if stream.awaited is not None:
            stream.awaited -= len(data)
            if stream.awaited < 0 or (ends and stream.awaited):
                self._give_back(frame)
                return self._end(frame, ErrorCode.PROTOCOL_ERROR, "not what Content-Length says (§8.1.1)", now)
        self._h2.receive_data(encode(frame))
        if ends:
            stream.whole = True
        return Data(frame.stream, data, len(frame.payload), ends)

    def _give_back(self, frame: Frame) -> None:
        """The connection's share of a frame that h2 does not see."""
        if frame.payload:
            self._write(window_update(0, len(frame.payload)))

    def _rst_stream(self, frame: Frame, now: float) -> Event | None:
        stream = self.streams.pop(frame.stream, None)
        if stream is None:
            self._purse.pay(LATE, now, frame)
            return None  # Our END_STREAM and its RST_STREAM have met on the way.
        self._h2.receive_data(encode(frame))
        self._purse.pay(CANCEL if stream.has_left else RESET, now, frame)
        return Reset(frame.stream, int.from_bytes(frame.payload, "big"), "by the client")

    def _window_update(self, frame: Frame, now: float) -> Event | None:
        increment = int.from_bytes(frame.payload, "big") & 0x7FFFFFFF
        if frame.stream and frame.stream not in self.streams:
            return None
        if not increment:
            if not frame.stream:
                raise RemoteProtocolError("a window that grows by nothing (§6.9)", ErrorCode.PROTOCOL_ERROR)
            return self._end(frame, ErrorCode.PROTOCOL_ERROR, "a window that grows by nothing (§6.9)", now)
        if frame.stream and self._h2.streams[frame.stream].outbound_flow_control_window + increment > MAX_WINDOW:
            return self._end(frame, ErrorCode.FLOW_CONTROL_ERROR, "a window of more than 2^31-1 bytes (§6.9.1)", now)
        self._h2.receive_data(encode(window_update(frame.stream, increment)))  # h2 would look at the reserved bit.
        return None

    def _priority(self, frame: Frame, now: float) -> Event | None:
        """RFC 7540's priorities have gone (§5.3.2); what was malformed in them still is."""
        if len(frame.payload) != 5:
            return self._end(frame, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY has five bytes (§6.3)", now)
        if int.from_bytes(frame.payload[:4], "big") & 0x7FFFFFFF == frame.stream:
            raise RemoteProtocolError("a stream that depends on itself (RFC 7540 §5.3.1)", ErrorCode.PROTOCOL_ERROR)
        return None

    def _priority_update(self, frame: Frame, now: float) -> None:
        """RFC 9218 §7.1. It may come before its stream does."""
        stream = int.from_bytes(frame.payload[:4], "big") & 0x7FFFFFFF
        if stream % 2 == 0:
            raise RemoteProtocolError("PRIORITY_UPDATE for no request (RFC 9218 §7.1)", ErrorCode.PROTOCOL_ERROR)
        wanted = priority(frame.payload[4:].decode("latin-1"))
        if stream in self.streams:
            self.streams[stream].priority = wanted
        elif self._is_idle(stream) and len(self._early) < self.max_streams:
            self._early[stream] = wanted

    # Frames of the connection.

    def _settings(self, frame: Frame, now: float) -> None:
        if not frame.flags & Flag.ACK:
            pairs = parse_settings(frame.payload)
            check_priorities(pairs)
            known = {code: value for code, value in pairs if code in KNOWN_SETTINGS}
            if known.get(SettingCode.HEADER_TABLE_SIZE, 0) > TABLE:
                known[SettingCode.HEADER_TABLE_SIZE] = TABLE
            self._h2.receive_data(encode(settings(known)))
        elif frame.payload:
            raise RemoteProtocolError("SETTINGS that acknowledge have no payload (§6.5)", ErrorCode.FRAME_SIZE_ERROR)
        else:
            self.settings_acknowledged = True

    def _ping(self, frame: Frame, now: float) -> None:
        if not frame.flags & Flag.ACK:
            self._write(frame._replace(flags=Flag.ACK))
        elif frame.payload == DRAIN and self._draining:
            self.drain()

    def _goaway(self, frame: Frame, now: float) -> None:
        self.goaway_received = True  # No more requests will come. What is under way is finished.

    # -- What is sent --------------------------------------------------------------------------------

    def send_head(self, stream: int, status: int, pairs: Pairs, end: bool = False) -> None:
        """Send the head of a response, or (1xx) of one before it."""
        one = self._open(stream)
        if one.head_sent:
            raise LocalProtocolError("the head is sent")
        self._h2.send_headers(stream, response_head(status, tuple(pairs)), end_stream=end)
        one.head_sent = status >= 200
        if end:
            one.ending = True
            self._over(one)

    def send_data(self, stream: int, data: bytes, now: float, end: bool = False, trailers: Pairs = ()) -> None:
        """Send a piece of the body, once the windows let it, and its turn comes; is_sent() tells when.

        At its *end*, *trailers* may follow. Until is_sent(), no more is taken: what waits is the caller's to hold back.
        """
        one = self._open(stream)
        if not one.head_sent or one.ending or one.out:
            raise LocalProtocolError("no head yet, or the end is sent, or a piece still waits")
        one.out, one.ending, one.trailers, one.moved = memoryview(data), end, trailers, now

    def is_sent(self, stream: int) -> bool:
        """Has all left that was given to send_data()? Also when the stream is over."""
        one = self.streams.get(stream)
        return one is None or not one.out

    def acknowledge(self, stream: int, size: int) -> None:
        """So much of a body has been used: as much may come again (§6.9)."""
        if size and not self.closed:
            self._h2.acknowledge_received_data(size, stream)

    def stalled(self, before: float) -> list[int]:
        """Streams with something to send, for which the client has opened no window since then.

        To wait for one's turn, while others are sent, is no fault.
        """
        books = self._h2
        shut = books.outbound_flow_control_window <= 0 and self._moved < before
        return [
            one.id for one in self.streams.values()
            if one.out and one.moved < before and (shut or books.streams[one.id].outbound_flow_control_window <= 0)
        ]  # fmt: skip

    def reset(self, stream: int, code: int = ErrorCode.CANCEL) -> None:
        """End a stream at once. What waits for it is dropped."""
        if self.streams.pop(stream, None):
            self._forget(stream, code)

    def _forget(self, stream: int, code: int) -> None:
        self._h2.reset_stream(stream, code)
        self._reset[stream] = None
        if len(self._reset) > REMEMBERED:
            del self._reset[next(iter(self._reset))]

    def _end(self, frame: Frame, code: int, reason: str, now: float) -> Event | None:
        """A stream error (§5.4.2), for which the client is to blame."""
        known = self.streams.pop(frame.stream, None)
        self._forget(frame.stream, code)
        self._purse.pay(RESET, now, frame)
        return Reset(frame.stream, code, reason) if known else None

    def _open(self, stream: int) -> Stream:
        if stream not in self.streams or self.closed:
            raise LocalProtocolError(f"stream {stream} is over")
        return self.streams[stream]

    def _over(self, one: Stream) -> None:
        """The answer is sent to its end. A client that still sends is told that nobody needs the rest (§8.1)."""
        del self.streams[one.id]
        if not one.whole:
            self._forget(one.id, ErrorCode.NO_ERROR)

    def data_to_send(self, now: float, room: int = 1 << 17) -> bytes:
        """What is to be written now: all answers and control frames, and about *room* bytes of DATA.

        The most urgent streams first; of these one after the other, for a half of two answers is of no use, but those
        that are `incremental` in turns, frame by frame (RFC 9218 §10).
        """
        if self.streams:
            for one in [one for one in self.streams.values() if one.ending and not one.out]:
                self._send(one, 0, now)  # An end without data needs no window.
            self._send_in_turn(room, now)
        self._out.append(self._h2.data_to_send())
        out, self._out = b"".join(self._out), []
        return out

    def _send_in_turn(self, room: int, now: float) -> None:
        books = self._h2
        if books.outbound_flow_control_window <= 0:
            return
        waiting = [(*rank(one), one) for one in self.streams.values() if one.out]
        heapq.heapify(waiting)
        while waiting and (most := min(room, books.outbound_flow_control_window, books.max_outbound_frame_size)) > 0:
            one = waiting[0][-1]
            size = min(len(one.out), books.streams[one.id].outbound_flow_control_window, most)
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
        books, last = self._h2, one.ending and size == len(one.out)
        if size or not one.trailers:
            books.send_data(one.id, one.out[:size], end_stream=last and not one.trailers)
        one.out = one.out[size:]
        one.moved = self._moved = now
        one.has_left = True
        self._credit = min(self._credit + 2 * (size / WORTH_IT + last), MOST_CREDIT)
        if last and one.trailers:
            books.send_headers(one.id, [encode_field(*pair) for pair in one.trailers], end_stream=True)
        if last:
            self._over(one)

    def drain(self) -> None:
        """Take no more streams, and finish those that there are (§6.8). Call again when time is up for the first step.

        First GOAWAY for all numbers: there may be requests on their way, which are still served. When the answer to a
        PING shows that the client has heard it, GOAWAY with the last number.
        """
        if not self._draining:
            self._draining = True
            self._write(goaway(MAX_STREAM, ErrorCode.NO_ERROR, b"this server is about to end"))
            self._write(Frame(FrameType.PING, 0, 0, DRAIN))
        elif not self.is_last:
            self.is_last = True
            self.last_stream = self._h2.highest_inbound_stream_id
            self._write(goaway(self.last_stream, ErrorCode.NO_ERROR))

    def close(self, code: int, reason: str) -> None:
        """End the connection: GOAWAY, with a text that says why (§5.4.1)."""
        if not self.closed:
            last = min(self.last_stream, self._h2.highest_inbound_stream_id)
            self._write(goaway(last, code, reason.encode("utf-8", "replace")))
            self.closed = True
            self.streams.clear()

    def _write(self, frame: Frame) -> None:
        """A frame that h2 knows nothing of, behind all that it wants to send."""
        if before := self._h2.data_to_send():
            self._out.append(before)
        self._out.append(encode(frame))


@lru_cache(maxsize=512)  # A server sends the same few heads again and again.
def response_head(status: int, pairs: tuple[tuple[str, str], ...]) -> Raw:
    """The fields of a response, as HPACK takes them."""
    if not 100 <= status < 600 or status == 101:
        raise LocalProtocolError(f"there is no status {status} in HTTP/2 (§8.6)")
    return ((b":status", b"%d" % status), *(encode_field(name, value) for name, value in pairs))


def rank(one: Stream) -> tuple[int, bool, int, int]:
    """Who has the least comes first."""
    return (*one.priority, one.turn, one.id)


HANDLERS: dict[int, Callable[[ServerConnection, Frame, float], Event | None]] = {
    FrameType.DATA: ServerConnection._data,
    FrameType.HEADERS: ServerConnection._headers,
    FrameType.PRIORITY: ServerConnection._priority,
    FrameType.RST_STREAM: ServerConnection._rst_stream,
    FrameType.SETTINGS: ServerConnection._settings,
    FrameType.PING: ServerConnection._ping,
    FrameType.GOAWAY: ServerConnection._goaway,
    FrameType.WINDOW_UPDATE: ServerConnection._window_update,
    FrameType.CONTINUATION: ServerConnection._continuation,
    FrameType.PRIORITY_UPDATE: ServerConnection._priority_update,
}
