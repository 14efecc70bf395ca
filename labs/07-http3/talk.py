"""A small HTTP/3 server around the four pieces of the exercise: this is how little is left when they are written.

Run:   make http3-exercise                        your exercise.py, on port 7007
       make http3-exercise FILE=labs/07-http3/solution.py
Try:   gtlsclient -q --exit-on-all-streams-close localhost 7007 https://localhost:7007/hello
       make http3-client ARGS='https://localhost:7007/hello'
QUIC is servers/quic_endpoint.py, QPACK the library pylsqpack. Left out on purpose: nearly all that makes a server safe
(servers/http3.py has it): limits on requests, on fields and on frames that bring nothing, deadlines, what a request may
say (RFC 9114 §4.3), windows that close when nobody reads.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from types import ModuleType
from typing import Any

from aioquic.quic import events

from certs.quic import quic_server
from protocols.errors import RemoteProtocolError
from protocols.http3_frames import ErrorCode, Frame, FrameType, SettingCode, StreamType, encode, grease, settings
from protocols.http3_qpack import BLOCKED, TABLE, FieldDecoder, FieldEncoder, Nameless, TooLarge
from protocols.quic_packets import encode_varint
from servers.quic_endpoint import Endpoint, Link, open_socket

MAX_FIELDS = 65536
MOST = 10_000_000  # bytes that an answer may have


async def serve(exercise: ModuleType, host: str, port: int) -> None:
    """Serve for ever."""
    Endpoint(await open_socket(host, port), quic_server(alpn=["h3"]), lambda link: Talk(exercise, link), retry=False)
    print(f"listening on {host}:{port}", flush=True)
    await asyncio.Event().wait()


class Asked:
    """A request that is coming."""

    def __init__(self, exercise: ModuleType) -> None:
        self.frames, self.request = exercise.FrameDecoder(), exercise.Request()
        self.waiting: list[Any] = []  # frames behind a section that QPACK cannot read yet
        self.is_blocked = self.has_ended = False
        self.sections: dict[str, tuple[tuple[bytes, bytes], ...]] = {}  # head and trailers
        self.size = 0  # of the body


class Talk:
    """One connection. GET /bytes/N is answered with N bytes, anything else with what was asked."""

    def __init__(self, exercise: ModuleType, link: Link) -> None:
        self.exercise, self.link, self.quic = exercise, link, link.connection
        self.one_way, self.control = exercise.OneWay(), exercise.Control()
        self.control_frames = exercise.FrameDecoder()
        self.requests: dict[int, Asked] = {}
        self.stopped: set[int] = set()  # streams that nobody reads any more
        self.decoder, self.encoder = FieldDecoder(MAX_FIELDS), FieldEncoder()
        self.ours: dict[StreamType, int] = {}
        self.is_over = False

    # What the endpoint tells us.

    def event(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.ProtocolNegotiated):
            self.greet()
        elif isinstance(event, events.StreamDataReceived):
            self.quic.consume(event.stream_id, len(event.data))
            self.guarded(self.came, event.stream_id, event.data, event.end_stream)
        elif isinstance(event, events.StreamReset):
            self.guarded(self.was_reset, event.stream_id)

    def turn(self) -> None:
        for kind, qpack in ((StreamType.QPACK_ENCODER, self.encoder), (StreamType.QPACK_DECODER, self.decoder)):
            if qpack.out and kind in self.ours:
                self.quic.send_stream_data(self.ours[kind], qpack.out)
                qpack.out = b""

    def drain(self) -> None:
        self.link.close(ErrorCode.NO_ERROR)

    def ended(self) -> None:
        pass

    def guarded(self, call: Any, *arguments: Any) -> None:
        """An error of the connection: CONNECTION_CLOSE says which, and nothing is looked at any more."""
        if self.is_over:
            return
        try:
            call(*arguments)
        except self.exercise.Http3Error as error:
            self.give_up(error.code)
        except RemoteProtocolError as error:  # QPACK's
            self.give_up(error.code)
        except TooLarge:  # A short section that stands for many fields.
            self.give_up(ErrorCode.EXCESSIVE_LOAD)
        except Exception as error:
            own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == self.exercise.__file__]
            lines = [*traceback.format_list(own), *traceback.format_exception_only(error)]
            print("Traceback (most recent call last):\n", *lines, sep="", end="", file=sys.stderr, flush=True)
            self.give_up(ErrorCode.INTERNAL_ERROR)

    def give_up(self, code: int) -> None:
        print(f"! CONNECTION_CLOSE: {name_of(code)}", flush=True)
        self.is_over = True
        self.link.close(code)

    # In.

    def greet(self) -> None:
        values = {SettingCode.QPACK_MAX_TABLE_CAPACITY: TABLE, SettingCode.QPACK_BLOCKED_STREAMS: BLOCKED, grease(1): 0}
        for kind in (StreamType.CONTROL, StreamType.QPACK_ENCODER, StreamType.QPACK_DECODER):
            stream = self.ours[kind] = self.quic.get_next_available_stream_id(is_unidirectional=True)
            self.quic.send_stream_data(stream, encode_varint(kind))
        self.quic.send_stream_data(self.ours[StreamType.CONTROL], encode(settings(values)))

    def came(self, stream: int, data: bytes, end: bool) -> None:
        if stream & 2:
            self.came_one_way(stream, data, end)
        elif stream not in self.stopped:
            self.came_of_request(stream, data, end)

    def came_one_way(self, stream: int, data: bytes, end: bool) -> None:
        kind, data = self.one_way.receive_data(stream, data)
        if kind == StreamType.CONTROL:
            for frame in self.control_frames.receive_data(data):
                knew = self.control.settings is not None
                self.control.receive_frame(frame)
                if self.control.settings is not None and not knew:
                    told = self.control.settings
                    table, blocked = SettingCode.QPACK_MAX_TABLE_CAPACITY, SettingCode.QPACK_BLOCKED_STREAMS
                    self.encoder.offered(told.get(table, 0), told.get(blocked, 0))
        elif kind == StreamType.QPACK_ENCODER:
            for one in self.decoder.feed(data):
                self.resume(one)
        elif kind == StreamType.QPACK_DECODER:
            self.encoder.feed(data)
        elif kind is not None and stream not in self.stopped:
            print(f"! STOP_SENDING {stream}: a stream of type {kind:#x}", flush=True)
            self.stopped.add(stream)
            if not end:
                self.quic.stop_stream(stream, ErrorCode.STREAM_CREATION_ERROR)
        if end:
            self.one_way.receive_end(stream)

    def was_reset(self, stream: int) -> None:
        """RESET_STREAM. A frame that it cuts off is no error: whoever resets a stream need not end it well (§7.1)."""
        if stream & 2:
            self.one_way.receive_end(stream)
        elif self.requests.pop(stream, None):
            self.decoder.cancel(stream)
            self.quic.reset_stream(stream, ErrorCode.REQUEST_CANCELLED)
        else:  # Nothing of it came, and our half has to end, too, or the client never gets another stream for it.
            self.quic.reset_stream(stream, ErrorCode.REQUEST_INCOMPLETE)

    def came_of_request(self, stream: int, data: bytes, end: bool) -> None:
        asked = self.requests.setdefault(stream, Asked(self.exercise))
        asked.waiting += asked.frames.receive_data(data)
        if end:
            asked.frames.receive_end()
            asked.has_ended = True
        self.proceed(stream, asked)

    def proceed(self, stream: int, asked: Asked) -> None:
        """Look at the frames that have come, as far as QPACK allows it."""
        while asked.waiting and not asked.is_blocked:
            frame = asked.waiting.pop(0)
            part = asked.request.receive_frame(frame)
            if part == self.exercise.BODY:
                asked.size += len(frame.payload)
            elif part is not None:
                try:
                    section = self.decoder.section(stream, bytes(frame.payload))
                except Nameless:  # What else is wrong with fields is not looked at here, either.
                    self.decoder.cancel(stream)
                    section = ()
                asked.sections[part] = section or ()
                asked.is_blocked = section is None
        if asked.has_ended and not asked.waiting and not asked.is_blocked:
            self.finish(stream, asked)

    def resume(self, stream: int) -> None:
        """QPACK's table has what a section of this stream needs."""
        if asked := self.requests.get(stream):
            asked.sections[list(asked.sections)[-1]] = self.decoder.resume(stream)
            asked.is_blocked = False
            self.proceed(stream, asked)

    # Out.

    def finish(self, stream: int, asked: Asked) -> None:
        del self.requests[stream]
        try:
            asked.request.receive_end()
        except self.exercise.Http3Error as error:
            if error.code != ErrorCode.REQUEST_INCOMPLETE:
                raise
            print(f"! RESET_STREAM {stream}: {name_of(error.code)}", flush=True)  # A stream's: the others go on. (§8)
            self.quic.reset_stream(stream, error.code)
            return
        fields = asked.sections.get(self.exercise.HEAD, ())
        method, path = (dict(fields).get(name, b"?") for name in (b":method", b":path"))
        print(f"< {stream}: {method.decode('latin-1')} {path.decode('latin-1')}", flush=True)
        number = path.removeprefix(b"/bytes/")
        if path != number and number.isdigit() and int(number[:9]) <= MOST:
            body = some_bytes(int(number))
        else:
            body = report(fields, asked.size, asked.sections.get(self.exercise.TRAILERS, ()))
        head = ((b":status", b"200"), (b"content-length", b"%d" % len(body)))
        self.quic.send_stream_data(
            stream,
            encode(Frame(FrameType.HEADERS, self.encoder.section(stream, head)))
            + encode(Frame(grease(stream), b"nothing"))  # Its reader must ignore what it does not know, as you do.
            + encode(Frame(FrameType.DATA, body)),
            True,
        )


def some_bytes(size: int) -> bytes:
    return (bytes(range(256)) * (size // 256 + 1))[:size]


Fields = tuple[tuple[bytes, bytes], ...] | list[tuple[bytes, bytes]]


def report(fields: Fields, size: int, trailers: Fields) -> bytes:
    """What a request was, as text: its fields, the size of its body, its trailers."""
    lines = [b"%s: %s" % pair for pair in fields] + [b"%d bytes of body" % size]
    return b"\n".join([*lines, *(b"trailer %s: %s" % pair for pair in trailers), b""])


def name_of(code: int) -> str:
    return ErrorCode(code).name if code in set(ErrorCode) else hex(code)


# -- What runs in the learner's own process ------------------------------------------------------------


def server_role(exercise: ModuleType, host: str, port: str) -> None:
    asyncio.run(serve(exercise, host, int(port)))
