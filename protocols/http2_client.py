"""HTTP/2, the client's end, sans-IO: bytes in, events out (RFC 9113). On h2; here is what h2 leaves to its user.

    conn = ClientConnection()                         conn.data_to_send() is to be sent after each of these
    stream = conn.send_request(pairs, end=True)
    conn.receive_data(what the socket gave, now)
    conn.next_event()    Response, Data, …, End       each with its stream; None: more bytes are needed
    conn.consumed(stream, 5)                          somebody has read them: five more may come

h2 keeps the states of the streams, the windows for what we send, and the settings. It leaves to its user:

- what is only one stream's fault. h2 ends the whole connection for a field in upper case, or for a body that is not as
  long as Content-Length says; the other streams need not suffer (§8.1.1: a stream error). So messages are checked and
  counted here, and h2 is told no more of an answer than its status and its end;
- GOAWAY: h2 takes it for the end, yet all streams up to the last one may still finish (§6.8);
- what was on its way when a stream was reset: to be ignored (§5.1), but for the window and HPACK's table;
- the order of frames: SETTINGS first (§3.4), nothing on streams that nobody has opened (§5.1);
- floods: frames that are allowed, and nothing but work (http2_rules.py).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import InvalidSettingsValueError
from h2.exceptions import ProtocolError as H2Error
from h2.settings import SettingCodes, Settings

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http2_frames import (
    DEFAULT_WINDOW,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    PREFACE,
    Decoder,
    ErrorCode,
    Flag,
    Frame,
    FrameType,
    content,
    encode,
    goaway,
    parse_goaway,
    parse_settings,
    settings,
    window_update,
)
from protocols.http2_hpack import CachedDecoder, CachedEncoder
from protocols.http2_messages import Pairs, Raw, content_length, encode_field, malformed, regular_fields
from protocols.http2_rules import (
    EMPTY,
    KNOWN_SETTINGS,
    LATE,
    PRICES,
    RULES,
    TABLE,
    UNKNOWN,
    Purse,
    check_frame,
    check_priorities,
)

MAX_FIELDS = 1 << 16  # bytes of the fields of a message, unpacked: 4 KB of HPACK can be megabytes (CVE-2016-6581)
MAX_BLOCK = 1 << 16  # bytes of a field block, packed, and
MAX_CONTINUATIONS = 32  # frames that it comes in: it could go on for ever (CVE-2024-27316)
MAX_INTERIM = 20  # answers with 1xx before the final one
UNSEEN_LIMIT = 100  # streams at once until the server has told its limit; §6.5.2 recommends that it be no smaller
CREDIT = 8  # WINDOW_UPDATEs that are free for each frame of DATA that we send, up to
MOST_CREDIT = 1000
REMEMBERED = 1000  # streams that have ended, and how

ON_ITSELF = "a stream that depends on itself (RFC 7540 §5.3.1)"
PACKED_STATUS = b"\x08\x03"  # HPACK: ":status", not to be remembered, and three bytes: all that h2 is told


class Response(NamedTuple):
    """The head of an answer: an interim one (1xx), or the final one."""

    stream: int
    status: int
    fields: Mapping[str, str]
    """Lower-case name: value."""
    pairs: Pairs


class Data(NamedTuple):
    """A piece of the body. To be given back by consumed(), once somebody has read it."""

    stream: int
    data: bytes


class End(NamedTuple):
    """The answer is whole."""

    stream: int
    trailers: Pairs


class Reset(NamedTuple):
    """A stream ended before its answer did: by the server's RST_STREAM, or by us, since the answer was malformed."""

    stream: int
    code: int
    reason: str
    by_server: bool


class GoAway(NamedTuple):
    """The server takes no new streams, and none above `last` was or will be processed (§6.8)."""

    last: int
    code: int
    text: bytes


Event = Response | Data | End | Reset | GoAway


class Stream:
    """What is known of an answer that is on its way."""

    def __init__(self, method: str, sent: bool, window: int) -> None:
        self.method, self.sent = method, sent  # sent: our half is closed
        self.window = window  # bytes that may come
        self.ended = False  # the server's half is
        self.status = 0  # the final one, once it is here
        self.interim = 0
        self.length: int | None = None  # as Content-Length has it
        self.arrived = self.read = 0  # bytes of the body; those that are read, and for which no more were asked yet

    def count(self, size: int, end: bool) -> None:
        """So much more of the body has come. RemoteProtocolError: malformed."""
        self.arrived += size
        if not self.status:
            raise malformed("DATA before the answer has begun (§8.1)")
        if size and (self.method == "HEAD" or self.status in (204, 304)):
            raise malformed("a body where there can be none (RFC 9110 §6.4.1)")
        if self.length is not None and (self.arrived > self.length or (end and self.arrived < self.length)):
            raise malformed(f"Content-Length is {self.length}, and {self.arrived} bytes came (§8.1.1)")


class Block(NamedTuple):
    """A field block that arrives in pieces."""

    stream: int
    ends: bool
    pieces: list[bytes]
    on_itself: bool  # Its priority says that the stream depends on itself.


class ClientConnection:
    """One connection, from the client's side.

    window       bytes of a body that the server may send before somebody reads them
    observe      called with ">" or "<", each frame, and for the last one of a field block its fields: the wire log
    """

    def __init__(
        self,
        *,
        window: int = 1 << 18,
        connection_window: int = 1 << 24,
        observe: Callable[[str, Frame, Pairs | None], None] | None = None,
    ) -> None:
        self._window, self._connection_window, self._observe = window, connection_window, observe
        self._h2 = H2Connection(
            H2Configuration(
                validate_inbound_headers=False, normalize_inbound_headers=False, validate_outbound_headers=False
            )
        )
        self._h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,  # §8.4: few servers push, and nobody here would know what to do with it
                SettingCodes.INITIAL_WINDOW_SIZE: window,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_FIELDS,
            },
        )
        del self._h2.local_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL]  # RFC 8441 §3: for servers to say
        self._h2.encoder, self._decoder = CachedEncoder(), CachedDecoder(MAX_FIELDS)
        self._h2.initiate_connection()
        if connection_window > DEFAULT_WINDOW:
            self._h2.increment_flow_control_window(connection_window - DEFAULT_WINDOW)
        self._room = max(connection_window, DEFAULT_WINDOW)  # bytes of DATA that may come, on all streams together
        self._frames, self._sent_frames = Decoder(), Decoder(MAX_FRAME_SIZE)
        self._out: list[bytes] = []
        self._seen: list[Pairs] = []  # the fields of blocks that are in the output, for the log
        self._events: deque[Event] = deque()
        self._streams: dict[int, Stream] = {}
        self._closed: dict[int, bool] = {}  # the streams that ended: True, by END_STREAM; False, by a reset
        self._highest = -1
        self._block: Block | None = None
        self._has_settings = False
        self._purse, self._credit, self._now = Purse(0.0), 0, 0.0
        self._error: RemoteProtocolError | None = None
        self.goaway: GoAway | None = None
        """What the server said, if it wants no more streams."""

    # Sending.

    def data_to_send(self) -> bytes:
        """What is to be sent now."""
        self._take()
        data = b"".join(self._out)
        self._out.clear()
        if data and self._observe:
            self._show(data)
        return data

    def is_open(self, stream: int) -> bool:
        """Is anything still to be sent, or to come?"""
        return stream in self._streams

    @property
    def is_usable(self) -> bool:
        """May streams be opened, now or when others have ended?"""
        return self._error is None and self.goaway is None and self._highest < MAX_WINDOW - 2

    @property
    def has_room(self) -> bool:
        """May one more be opened now (§5.1.2)?"""
        limit = self._h2.remote_settings.max_concurrent_streams if self._has_settings else UNSEEN_LIMIT
        return self.is_usable and len(self._streams) < limit

    def send_request(self, pairs: Pairs, end: bool) -> int:
        """Open a stream, return its number. *pairs* begin with the pseudo-header fields; *end*: there is no body."""
        if not self.has_room:
            raise LocalProtocolError("there are as many streams as the server allows")
        most = self._h2.remote_settings.max_header_list_size
        if most is not None and sum(len(name) + len(value) + 32 for name, value in pairs) > most:
            raise LocalProtocolError(f"the server takes no more than {most} bytes of fields (RFC 9113 §6.5.2)")
        raw = [(n.encode(), v.encode()) if n[:1] == ":" else encode_field(n, v) for n, v in pairs]
        stream = 1 if self._highest < 0 else self._highest + 2
        self._h2.send_headers(stream, raw, end)
        if self._observe:
            self._seen.append(pairs)
        self._highest = stream
        self._streams[stream] = Stream(dict(pairs)[":method"], end, self._window)
        return stream

    def window(self, stream: int) -> int:
        """How many bytes of the body may be sent now, in one frame; 0 or less: wait. Settings can make it negative."""
        if stream not in self._streams or self._error:
            return 0
        return min(self._h2.local_flow_control_window(stream), MAX_FRAME_SIZE)  # More would hold up the other streams.

    def send_data(self, stream: int, data: bytes | memoryview, end: bool = False) -> None:
        """Send as much of a request's body as window() allows; *end*: that was all."""
        self._h2.send_data(stream, data, end)
        self._credit = min(self._credit + CREDIT, MOST_CREDIT)  # The server will open its windows again.
        if end:
            self._streams[stream].sent = True
            self._retire(stream)

    def consumed(self, stream: int, size: int) -> None:
        """Somebody has read so many bytes of the body: as many more may come."""
        one = self._streams.get(stream)
        if one is None or one.ended or self._error:
            return
        one.read += size
        if one.read >= self._window // 2:  # Not for every few bytes: §6.9.1, RFC 1122 §4.2.3.3.
            self._write(window_update(stream, one.read))
            one.window, one.read = one.window + one.read, 0

    def reset(self, stream: int, code: int = ErrorCode.CANCEL) -> None:
        """Nobody wants the rest of this."""
        if stream in self._streams and self._error is None:
            self._h2.reset_stream(stream, code)
            self._forget(stream, ended=False)

    def close(self, code: int = ErrorCode.NO_ERROR, text: str = "") -> None:
        """Say goodbye: §9.1 wants it before the connection is closed."""
        if self._error is None:
            self._write(goaway(0, code, text.encode()))  # 0: the server has opened no stream
            self._error = RemoteProtocolError("the connection is closed")

    # Receiving.

    @property
    def unread(self) -> int:
        """Bytes that wait for next_event(), or for more of their frame."""
        return self._frames.unread

    def receive_data(self, data: bytes, now: float) -> None:
        """What came; *now*: seconds of any clock."""
        self._frames.receive_data(data)
        self._now = now

    def next_event(self) -> Event | None:
        """The next thing that happened; None: more bytes are needed.

        RemoteProtocolError: a connection error (§5.4.1). Its code is on its way to the server, in GOAWAY.
        """
        while not self._events:
            if self._error:
                raise self._error
            try:
                frame = self._frames.next_frame()
                if frame is None:
                    return None
                self._receive(frame)
            except RemoteProtocolError as error:
                no_preface = broken("the first frame is not SETTINGS (RFC 9113 §3.4): perhaps this is no HTTP/2")
                wrong = error if self._has_settings else no_preface
                self.close(wrong.code, str(wrong))
                self._error = wrong
        return self._events.popleft()

    def _receive(self, frame: Frame) -> None:
        kind, stream = frame.type, frame.stream
        if self._observe and kind not in (FrameType.HEADERS, FrameType.CONTINUATION):
            self._observe("<", frame, None)
        if not self._has_settings:
            if kind != FrameType.SETTINGS or frame.flags & Flag.ACK:
                raise broken("no preface")
            self._has_settings = True
        if self._block and (kind != FrameType.CONTINUATION or stream != self._block.stream):
            raise broken("a field block is not followed by its CONTINUATION (RFC 9113 §6.10)")
        if kind == FrameType.WINDOW_UPDATE and self._credit:
            self._credit -= 1
        else:
            self._pay(PRICES.get(kind, 0 if kind in RULES else UNKNOWN), frame)
        if kind not in HANDLERS:  # §5.5: an extension that we do not know
            return
        if kind != FrameType.PRIORITY or stream not in self._streams:  # Of another size: a stream error (§6.3).
            check_frame(frame)
        if kind != FrameType.PRIORITY and stream and (stream > self._highest or stream % 2 == 0):
            raise broken(f"{frame}: a stream that nobody has opened (RFC 9113 §5.1)")
        HANDLERS[kind](self, frame)

    def _data(self, frame: Frame) -> None:
        data, size, end = content(frame), len(frame.payload), bool(frame.flags & Flag.END_STREAM)
        self._arrive(size)
        one = self._open(frame)
        if one is None:
            self._pay(LATE, frame)
            return
        one.window -= size
        try:
            one.count(len(data), end)
        except RemoteProtocolError as error:
            self._malformed(frame, str(error))
            return
        if one.window < 0:
            words = "more than the stream's window has room for (RFC 9113 §6.9.1)"
            self._malformed(frame, words, ErrorCode.FLOW_CONTROL_ERROR)
            return
        if data:
            self._events.append(Data(frame.stream, data))
        elif not end:
            self._pay(EMPTY, frame)
        if end:
            self._tell(frame._replace(flags=Flag.END_STREAM, payload=b""))
            self._end(frame.stream, [])
        elif size > len(data):
            self.consumed(frame.stream, size - len(data))  # Nobody will read the padding.

    def _headers(self, frame: Frame) -> None:
        data, start = content(frame), 1 if frame.flags & Flag.PADDED else 0
        on_itself = bool(frame.flags & Flag.PRIORITY) and depends_on(frame.payload[start:]) == frame.stream
        self._block = Block(frame.stream, bool(frame.flags & Flag.END_STREAM), [data], on_itself)
        self._continue(frame)

    def _continuation(self, frame: Frame) -> None:
        if self._block is None:
            raise broken("CONTINUATION of nothing (RFC 9113 §6.10)")
        self._block.pieces.append(frame.payload)
        self._continue(frame)

    def _continue(self, frame: Frame) -> None:
        assert self._block
        _, ends, pieces, on_itself = self._block
        if len(pieces) > MAX_CONTINUATIONS or sum(map(len, pieces)) > MAX_BLOCK:
            raise broken("a field block without an end", ErrorCode.ENHANCE_YOUR_CALM)
        if not frame.flags & Flag.END_HEADERS:
            if self._observe:
                self._observe("<", frame, None)
            return
        self._block = None
        raw = self._decoder.section(b"".join(pieces))  # whatever becomes of it: HPACK's table must be right
        if self._observe:
            self._observe("<", frame, [(n.decode("latin-1"), v.decode("latin-1")) for n, v in raw])
        one = self._open(frame)
        if one is None:
            self._pay(LATE, frame)
            return
        try:
            if on_itself:
                raise broken(ON_ITSELF)
            self._message(one, frame.stream, raw, ends)
        except RemoteProtocolError as error:
            self._malformed(frame, str(error))

    def _message(self, one: Stream, stream: int, raw: Raw, end: bool) -> None:
        """A whole field block: an interim answer, the final one, or trailers. RemoteProtocolError: it is malformed."""
        status, fields, pairs = read_fields(raw)
        told = Frame(FrameType.HEADERS, Flag.END_HEADERS | (Flag.END_STREAM if end else 0), stream)
        if one.status:
            if status or not end:
                raise malformed("trailers with a status, or without END_STREAM (§8.1)")
            one.count(0, True)
            self._tell(told)
            self._end(stream, pairs)
            return
        if not status:
            raise malformed("an answer that does not begin with :status (§8.3.2)")
        if status < 200:
            one.interim += 1
            if end or status == 101 or one.interim > MAX_INTERIM:
                raise malformed(f"{status} as the end, a switch of protocols, or one too many (§8.1, §8.6)")
        else:
            one.status = status
            if one.method != "HEAD" and status not in (204, 304):
                one.length = content_length(fields)
            one.count(0, end)
        self._tell(told._replace(payload=PACKED_STATUS + b"%d" % status))
        self._events.append(Response(stream, status, fields, pairs))
        if end:
            self._end(stream, [])

    def _priority(self, frame: Frame) -> None:
        """§5.3.2: nobody here would know what to do with it."""
        if len(frame.payload) != 5:
            self._malformed(frame, "PRIORITY has five bytes (RFC 9113 §6.3)", ErrorCode.FRAME_SIZE_ERROR)
        elif depends_on(frame.payload) == frame.stream and frame.stream in self._streams:
            self._malformed(frame, ON_ITSELF)

    def _rst_stream(self, frame: Frame) -> None:
        if frame.stream not in self._streams:
            self._pay(LATE, frame)
            return
        code = int.from_bytes(frame.payload, "big")
        self._tell(frame)
        one = self._streams[frame.stream]
        self._forget(frame.stream, ended=False)
        if not one.ended:  # Else the answer is here, and it only wants no more of the request (§8.1).
            self._events.append(Reset(frame.stream, code, f"the server has reset the stream: {name_of(code)}", True))

    def _settings(self, frame: Frame) -> None:
        if frame.flags & Flag.ACK and frame.payload:
            raise broken("an acknowledgement of SETTINGS that has settings (RFC 9113 §6.5)", ErrorCode.FRAME_SIZE_ERROR)
        known = {}
        pairs = parse_settings(frame.payload)
        check_priorities(pairs)
        for code, value in pairs:  # h2 looks only at the last one of a kind (§6.5.3: at each).
            try:
                self._h2.remote_settings.validate_received_setting(code, value)
            except InvalidSettingsValueError as error:
                raise broken(f"a setting {code} of {value} (RFC 9113 §6.5.2)", error.error_code) from None
            if code in KNOWN_SETTINGS:
                known[code] = min(value, TABLE) if code == SettingCodes.HEADER_TABLE_SIZE else value
        _ = self._h2.open_outbound_streams  # Now it forgets those that have ended: a window's size is no error there.
        if not frame.flags & Flag.ACK:  # It can only be for the one frame that we have sent.
            self._tell(settings(known))

    def _ping(self, frame: Frame) -> None:
        self._tell(frame)

    def _goaway(self, frame: Frame) -> None:
        last, code, text = parse_goaway(frame.payload)
        if self.goaway and last > self.goaway.last:
            raise broken("a second GOAWAY whose last stream is higher (RFC 9113 §6.8)")
        self.goaway = GoAway(last, code, text)
        for stream in [stream for stream in self._streams if stream > last]:
            self._forget(stream, ended=False)  # h2 need not know: no stream will be opened any more.
        self._events.append(self.goaway)

    def _window_update(self, frame: Frame) -> None:
        increment = int.from_bytes(frame.payload, "big") & MAX_WINDOW  # The first bit is reserved: not looked at.
        if increment == 0 and frame.stream == 0:
            raise broken("a window that is opened by 0 (RFC 9113 §6.9)")
        if frame.stream and frame.stream not in self._streams:
            return  # It can have been on its way when the stream ended.
        if increment == 0:
            self._malformed(frame, "a window that is opened by 0 (RFC 9113 §6.9)")
        elif frame.stream and self._h2.streams[frame.stream].outbound_flow_control_window + increment > MAX_WINDOW:
            self._malformed(frame, "a window of more than 2^31-1 (RFC 9113 §6.9.1)", ErrorCode.FLOW_CONTROL_ERROR)
        else:
            self._tell(window_update(frame.stream, increment))

    def _refuse(self, frame: Frame) -> None:
        """A push, though we have told that we take none (§6.6), or what only clients may send (RFC 9218 §7.1)."""
        raise broken(f"{frame}: not from a server, not to us (RFC 9113 §6.6, RFC 9218 §7.1)")

    # What several frames have in common.

    def _open(self, frame: Frame) -> Stream | None:
        """The stream that DATA or HEADERS belong to. None: they are ignored, since we, or the server, have reset it."""
        one = self._streams.get(frame.stream)
        if one is None and self._closed.get(frame.stream):
            raise broken(f"{frame}: after the end of the stream (RFC 9113 §5.1)", ErrorCode.STREAM_CLOSED)
        if one and one.ended:  # half-closed: while our request is still being sent
            self._malformed(frame, "more after END_STREAM (RFC 9113 §5.1)", ErrorCode.STREAM_CLOSED)
            return None
        return one

    def _malformed(self, frame: Frame, reason: str, code: int = ErrorCode.PROTOCOL_ERROR) -> None:
        """A stream error (§5.4.2): this stream ends, and the others go on."""
        self.reset(frame.stream, code)
        self._events.append(Reset(frame.stream, code, reason, False))

    def _end(self, stream: int, trailers: Pairs) -> None:
        self._streams[stream].ended = True
        self._events.append(End(stream, trailers))
        self._retire(stream)

    def _retire(self, stream: int) -> None:
        one = self._streams[stream]
        if one.sent and one.ended:
            self._forget(stream, ended=True)

    def _forget(self, stream: int, ended: bool) -> None:
        del self._streams[stream]
        self._closed[stream] = ended
        if len(self._closed) > REMEMBERED:
            del self._closed[next(iter(self._closed))]

    def _arrive(self, size: int) -> None:
        """Count DATA for the connection's window, whatever becomes of it (§6.9).

        That window opens for what has arrived, read or not: so an unread stream holds up only itself.
        """
        self._room -= size
        if self._room < 0:
            words = "more than the connection's window has room for (RFC 9113 §6.9.1)"
            raise broken(words, ErrorCode.FLOW_CONTROL_ERROR)
        if self._room < self._connection_window // 2:
            self._write(window_update(0, self._connection_window - self._room))
            self._room = self._connection_window

    def _tell(self, frame: Frame) -> None:
        """Let h2 see a frame, and say what is wrong with it as we do."""
        self._take()
        try:
            self._h2.receive_data(encode(frame))
        except H2Error as error:
            self._h2.data_to_send()  # its own GOAWAY
            raise broken(str(error) or type(error).__name__, error.error_code) from None

    def _write(self, frame: Frame) -> None:
        """A frame that h2 does not know of."""
        self._take()
        self._out.append(encode(frame))

    def _take(self) -> None:
        if data := self._h2.data_to_send():
            self._out.append(data)

    def _pay(self, price: float, frame: Frame) -> None:
        if price:
            self._purse.pay(price, self._now, frame)

    def _show(self, data: bytes) -> None:
        """The frames that are about to be sent, for the log."""
        assert self._observe
        self._sent_frames.receive_data(data.removeprefix(PREFACE))
        for frame in self._sent_frames.frames():
            last = frame.type in (FrameType.HEADERS, FrameType.CONTINUATION) and frame.flags & Flag.END_HEADERS
            self._observe(">", frame, self._seen.pop(0) if last and self._seen else None)


HANDLERS: Mapping[int, Callable[[ClientConnection, Frame], None]] = {
    FrameType.DATA: ClientConnection._data,
    FrameType.HEADERS: ClientConnection._headers,
    FrameType.PRIORITY: ClientConnection._priority,
    FrameType.RST_STREAM: ClientConnection._rst_stream,
    FrameType.SETTINGS: ClientConnection._settings,
    FrameType.PUSH_PROMISE: ClientConnection._refuse,
    FrameType.PING: ClientConnection._ping,
    FrameType.GOAWAY: ClientConnection._goaway,
    FrameType.WINDOW_UPDATE: ClientConnection._window_update,
    FrameType.CONTINUATION: ClientConnection._continuation,
    FrameType.PRIORITY_UPDATE: ClientConnection._refuse,
}


def broken(reason: str, code: int = ErrorCode.PROTOCOL_ERROR) -> RemoteProtocolError:
    return RemoteProtocolError(reason, code)


def depends_on(payload: bytes) -> int:
    """Priority begins with the number of a stream, behind a bit (§6.3)."""
    return int.from_bytes(payload[:4], "big") & MAX_WINDOW


def name_of(code: int) -> str:
    """`CANCEL`; of one that nobody knows, its number (§7: no special behaviour)."""
    return ErrorCode(code).name if code in list(ErrorCode) else f"error code {code:#x}"


def read_fields(raw: Raw) -> tuple[int, dict[str, str], Pairs]:
    """The status (0: there is none) and the fields of a block."""
    status = 0
    if raw and raw[0][0] == b":status":
        if not re.fullmatch(rb"[1-9]\d\d", raw[0][1]):
            raise malformed(f"a status of {raw[0][1][:40]!r} (RFC 9110 §15)")
        status, raw = int(raw[0][1]), raw[1:]
    return status, *regular_fields(raw)
