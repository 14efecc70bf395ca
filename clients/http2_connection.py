"""What clients/http2.py keeps for each server: one connection, and many requests on it at once.

One task reads for all of them, and gives each stream what is its own. It never waits for anybody: what nobody has read
yet stays in the buffer of its stream, and the server may fill that once, since the window is no larger (RFC 9113 §5.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import itertools
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterable

from certs.contexts import client_context
from clients.http1_connection import TURN, Origin, Request, one, shown, split
from clients.tls_stream import Stream, connect
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http1_syntax import is_host, request_line
from protocols.http2_client import ClientConnection, Data, End, Event, GoAway, Reset, Response, name_of
from protocols.http2_frames import ErrorCode, Frame, FrameType, SettingCode, content, parse_goaway, parse_settings
from protocols.http2_messages import Pairs, encode_field

READ = 1 << 18  # bytes taken from the socket at a time
UNSENT = 1 << 20  # bytes that wait to be sent: a server that only pings, and reads nothing, would fill our memory
LINGER = 1  # second for the server to read why we end the connection; closed at once, it may never see it

log = logging.getLogger("clients.http2")


class Unprocessed(RemoteProtocolError):
    """The server says that it has done nothing with the request: it can be made again, whatever it is (§8.7)."""


class Exchange:
    """One request and its answer: one stream."""

    def __init__(self, stream: int, heard: int, now: float) -> None:
        self.stream, self.begun = stream, now
        self.heard = heard  # bytes from the server, before it
        self.interim: list[Response] = []
        self.final: Response | None = None
        self.unread = bytearray()
        self.trailers: list[tuple[str, str]] = []
        self.has_ended = False
        self.error: Exception | None = None
        self.go = asyncio.Event()  # The server wants the request's body.
        self.upload: asyncio.Task[None] | None = None
        self.has_moved = self.is_waiting = False
        self._news = asyncio.Event()

    def tell(self) -> None:
        """Something has changed."""
        self.has_moved = True
        self._news.set()

    def fail(self, error: Exception) -> None:
        if not self.has_ended and self.error is None:
            self.error = error
        self.tell()

    def take(self, event: Response | Data | End | Reset, refused: int) -> None:
        """What has come on this stream; *refused* is the code that says that nothing was done with the request."""
        match event:
            case Response(status=status) if status < 200:
                self.interim.append(event)
                if status == 100:
                    self.go.set()
            case Response():
                self.final = event
            case Data():
                self.unread += event.data
            case End():
                self.trailers += event.trailers
                self.has_ended = True
            case Reset():
                is_refused = event.by_server and event.code == refused
                self.fail((Unprocessed if is_refused else RemoteProtocolError)(event.reason, event.code))
        self.tell()

    async def news(self, seconds: float | None) -> None:
        """Wait until something changes. TimeoutError: nothing went to and fro for so long."""
        self._news.clear()
        self.is_waiting = True  # also when somebody's patience ends the wait
        while not self._news.is_set():
            self.has_moved = False
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            except TimeoutError:
                if not self.has_moved:
                    raise
        self.is_waiting = False


@functools.cache
def context() -> ssl.SSLContext:
    """Trusts whom this machine trusts."""
    return client_context(trust=None, alpn=["h2"])


class Connection:
    """One TCP connection, with or without TLS."""

    def __init__(
        self,
        origin: Origin,
        reader: asyncio.StreamReader | Stream,
        writer: asyncio.StreamWriter | Stream,
        window: int,
        idle: float,
    ) -> None:
        self.origin, self._reader, self._writer, self._idle = origin, reader, writer, idle
        observe = WireLog() if log.isEnabledFor(logging.INFO) else None
        self._http = ClientConnection(window=window, observe=observe)
        self._exchanges: dict[int, Exchange] = {}
        self._heard, self._heard_at = 0, self._now()  # bytes, and when
        self._line = asyncio.Lock()  # for those who want a stream: first come, first served
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._ended = self._is_mute = self._is_lingering = False
        self._flush()
        self._receiver = asyncio.create_task(self._receive())
        self._rest()

    @classmethod
    async def open(cls, origin: Origin, tls: ssl.SSLContext | None, window: int, idle: float) -> Connection:
        """With TLS, ALPN says that it is HTTP/2; without, both sides just know (§3.2, §3.3)."""
        reader: asyncio.StreamReader | Stream
        writer: asyncio.StreamWriter | Stream
        try:
            if origin.scheme == "https":
                stream = await connect(origin.host, origin.port, context=tls or context(), timeout=None)
                reader = writer = stream
                chosen = stream.channel.object.selected_alpn_protocol()
                if chosen != "h2":
                    stream.close()
                    raise RemoteProtocolError(f"the server does not speak HTTP/2: ALPN chose {chosen or 'nothing'}")
            else:
                reader, writer = await asyncio.open_connection(origin.host, origin.port)
        except UnicodeError:  # IDNA: a label that is empty, or longer than 63
            raise socket.gaierror(socket.EAI_NONAME, f"{origin.host[:80]!r} is no name of a host") from None
        log.info("= connected to %s port %d", origin.host, origin.port)
        return cls(origin, reader, writer, window, idle)

    @property
    def is_usable(self) -> bool:
        """May it have more streams?"""
        return self._http.is_usable and not self._ended and not self._is_mute

    @property
    def has_ended(self) -> bool:
        return self._ended and self._receiver.done()

    @property
    def is_idle(self) -> bool:
        return not self._exchanges and not self._line.locked()

    async def close(self) -> None:
        """End it, and all that is under way on it."""
        if self._is_lingering:
            await asyncio.wait([self._receiver])  # It knows when it is enough.
        self._end(RemoteProtocolError("the client was closed"))
        self._receiver.cancel()
        await asyncio.wait([self._receiver])
        await asyncio.sleep(0)  # for the transport to end

    def _end(self, error: Exception) -> None:
        if self._ended:
            return
        self._ended = True
        if self._timer:
            self._timer.cancel()
        self._http.close()
        self._flush()
        if self._writer.transport.get_write_buffer_size():
            self._writer.transport.abort()  # Who does not read cannot be told.
        else:
            self._writer.close()
        half = RemoteProtocolError("the connection ended in the middle of the answer")
        for exchange in self._exchanges.values():
            exchange.fail(copy.copy(half if exchange.final else error))  # Each is raised somewhere else.
        self._tell_all()
        log.info("= closed")

    # Requests.

    async def start(self, request: Request, pairs: Pairs, length: int | None, expect_seconds: float) -> Exchange:
        """Wait until the server allows one more stream, and send a request on it. Its body is sent meanwhile.

        *pairs* and *length* are what request_fields() makes of it.
        """
        body = request.body
        if isinstance(body, bytes) and not body:
            body = None
        async with self._line:
            while not self._http.has_room:
                if not self.is_usable:
                    raise Unprocessed("the connection takes no more streams")
                await self._change()
            stream = self._http.send_request(pairs, body is None)
            exchange = self._exchanges[stream] = Exchange(stream, self._heard, self._now())
        if self._timer:
            self._timer.cancel()
        self._flush()
        if body is not None:
            if not request.expect:
                exchange.go.set()
            exchange.upload = asyncio.create_task(self._upload(exchange, body, length, expect_seconds))
        return exchange

    async def head(self, exchange: Exchange, seconds: float | None) -> Response:
        """The final answer's."""
        while exchange.final is None:
            if exchange.error:
                raise exchange.error
            await exchange.news(seconds)
        if exchange.upload and (exchange.final.status >= 300 or not exchange.go.is_set()):
            exchange.upload.cancel()  # Nobody wants the rest of the body.
        return exchange.final

    def has_heard(self, exchange: Exchange) -> bool:
        """Has anything come since this request was made?"""
        return self._heard > exchange.heard

    async def body(self, exchange: Exchange, seconds: float | None) -> AsyncGenerator[bytes, None]:
        """What has arrived, as often as somebody asks."""
        while True:
            if exchange.unread:
                piece = bytes(exchange.unread)
                exchange.unread.clear()
                self._http.consumed(exchange.stream, len(piece))
                self._flush()
                yield piece
            elif exchange.error:
                raise exchange.error
            elif exchange.has_ended:
                return
            else:
                await exchange.news(seconds)

    async def leave(self, exchange: Exchange, patience: float | None) -> None:
        """Nobody wants more of this: if anything is still to come or to be sent, the server is told.

        If nothing at all was heard while it waited so long, perhaps nobody is there: the next request goes elsewhere.
        """
        silence = self._now() - max(self._heard_at, exchange.begun)
        if patience and exchange.is_waiting and silence > 0.9 * patience:
            self._is_mute = True
        if exchange.upload:
            exchange.upload.cancel()
            await asyncio.wait([exchange.upload])
        self._http.reset(exchange.stream, ErrorCode.CANCEL)
        self._flush()
        del self._exchanges[exchange.stream]
        self._tell_all()
        self._rest()

    def _rest(self) -> None:
        """With nothing to do, wait for the next request, but not for ever; after GOAWAY there is none."""
        if not self._exchanges and not self._ended:
            if self._timer:
                self._timer.cancel()
            wait = self._idle if self.is_usable else 0
            self._timer = asyncio.get_running_loop().call_later(wait, self._end, RemoteProtocolError("it was idle"))

    async def _upload(
        self, exchange: Exchange, body: bytes | AsyncIterable[bytes], length: int | None, wait: float
    ) -> None:
        """Each piece when the server's windows have room for it, and the socket has."""
        sent, ended = 0, False
        try:
            with contextlib.suppress(TimeoutError):  # Not every server knows 100 (RFC 9110 §10.1.1).
                async with asyncio.timeout(wait):
                    await exchange.go.wait()
            exchange.go.set()
            async for piece in one(body) if isinstance(body, bytes) else body:
                sent += len(piece)
                if length is not None and sent > length:
                    break
                rest = memoryview(piece)
                while rest:
                    room = self._http.window(exchange.stream)
                    if room > 0:
                        ended = len(rest) <= room and sent == length
                        self._http.send_data(exchange.stream, rest[:room], ended)
                        rest = rest[room:]
                        self._flush()
                        exchange.has_moved = True
                        await self._writer.drain()
                        await asyncio.sleep(0)  # One frame of each stream in turn.
                    elif self._http.is_open(exchange.stream) and not self._ended:
                        await self._change()
                    else:
                        return  # The answer, or an error, has come first.
            if length is not None and sent != length:
                raise LocalProtocolError(f"Content-Length is {length}, and the body has other {sent} bytes")
            if not ended and self._http.is_open(exchange.stream) and not self._ended:
                self._http.send_data(exchange.stream, b"", True)
                self._flush()
        except ConnectionError:
            pass  # The one who reads will find out.
        except Exception as error:
            exchange.fail(error)
            self._http.reset(exchange.stream, ErrorCode.CANCEL)  # Half a body must not pass for a whole one.
            self._flush()
        finally:
            if isinstance(body, AsyncGenerator):
                await body.aclose()

    # What comes.

    async def _receive(self) -> None:
        error: Exception = RemoteProtocolError("the server has closed the connection without an answer")
        try:
            while (data := await self._reader.read(READ)) and not self._ended:
                self._heard, self._heard_at = self._heard + len(data), self._now()
                self._http.receive_data(data, self._heard_at)
                for count in itertools.count(1):
                    event = self._http.next_event()
                    if event is None:
                        break
                    self._handle(event)
                    if count % TURN == 0:
                        await asyncio.sleep(0)
                self._flush()
                self._tell_all()
                if self._writer.transport.get_write_buffer_size() > UNSENT:
                    self._http.close(ErrorCode.ENHANCE_YOUR_CALM)
                    raise RemoteProtocolError("the server sends and does not read")
                await asyncio.sleep(0)  # As long as something is here already, nothing else lets others run.
        except RemoteProtocolError as broken:
            error = broken
            log.info("! %s", error)
            for exchange in self._exchanges.values():
                exchange.fail(copy.copy(broken))
            await self._linger()
        except OSError as lost:
            error = lost
        self._end(error)

    async def _linger(self) -> None:
        """Say why, then wait until the server has seen it: closed with bytes unread, TCP would reset it away."""
        self._flush()
        self._is_lingering = True
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(LINGER):
                self._writer.write_eof()
                while await self._reader.read(READ):
                    pass

    def _handle(self, event: Event) -> None:
        if isinstance(event, GoAway):
            words = f"the server goes away: {name_of(event.code)}{f' {shown(event.text)}' if event.text else ''}"
            for stream, exchange in self._exchanges.items():
                if stream > event.last:
                    exchange.fail(Unprocessed(words) if event.code == 0 else RemoteProtocolError(words, event.code))
            self._rest()
            return
        found = self._exchanges.get(event.stream)
        if found is None:
            return
        found.take(event, ErrorCode.REFUSED_STREAM)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _flush(self) -> None:
        data = self._http.data_to_send()
        if data and not self._writer.transport.is_closing():
            self._writer.write(data)

    def _tell_all(self) -> None:
        """Windows and room for streams may have changed."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _change(self) -> None:
        await self._changed.wait()


def request_fields(request: Request) -> tuple[Pairs, int | None]:
    """The fields of a request, those with a colon first (§8.3.1), and the length of its body, if that is known.

    LocalProtocolError: this cannot be sent.
    """
    origin, target = split(request.url)
    authority, body = origin.authority, request.body
    fields = []
    for name, value in request.fields:
        if name[:1] == ":":
            raise LocalProtocolError(f"{name!r} is no field: it comes from the method and the URL")
        if name.lower() == "host":
            authority = value.strip(" \t")  # §8.3.1: it has another name now.
            if not is_host(authority):
                raise LocalProtocolError(f"Host {value[:80]!r} is not host or host:port")
        elif name.lower() == "te" and value.lower() != "trailers":
            raise LocalProtocolError("TE may only be trailers in HTTP/2 (RFC 9113 §8.2.2)")
        else:
            fields.append((name.lower(), value.strip(" \t")))
            encode_field(*fields[-1])
    try:
        request_line(f"{request.method} {target} HTTP/1.1")
    except RemoteProtocolError as error:
        raise LocalProtocolError(str(error)) from None
    if request.method == "CONNECT":
        raise LocalProtocolError("CONNECT is not spoken here")
    lengths = [value for name, value in fields if name == "content-length"]
    if body is None and lengths:
        raise LocalProtocolError("the fields speak of a body, and there is none")
    if isinstance(body, bytes) and not lengths:
        lengths = [str(len(body))]
        fields.append(("content-length", lengths[0]))
    if len(lengths) > 1 or not all(length.isascii() and length.isdigit() for length in lengths):
        raise LocalProtocolError("Content-Length is one number")
    length = int(lengths[0]) if lengths else None
    if isinstance(body, bytes) and length != len(body):
        raise LocalProtocolError("Content-Length is not the length of the body")
    if request.expect:
        fields.append(("expect", "100-continue"))
    pseudo = [(":method", request.method), (":scheme", origin.scheme), (":authority", authority), (":path", target)]
    return [*pseudo, *fields], length


class WireLog:
    """Frames for people: what it is, its stream, and what it says."""

    def __init__(self) -> None:
        self._packed = {">": 0, "<": 0}

    def __call__(self, way: str, frame: Frame, pairs: Pairs | None) -> None:
        has_fields = frame.type in (FrameType.HEADERS, FrameType.CONTINUATION)
        said = self._fields(way, frame, pairs) if has_fields else says(frame)
        log.info("%s %s%s", way, frame, f": {said}" if said else "")
        for name, value in pairs or ():
            log.info("%s     %s", way, repr(f"{name}: {value}")[1:-1])  # Nobody has checked it yet.

    def _fields(self, way: str, frame: Frame, pairs: Pairs | None) -> str:
        """How much HPACK has saved."""
        self._packed[way] += len(content(frame) if frame.type == FrameType.HEADERS else frame.payload)
        if pairs is None:
            return ""
        packed, self._packed[way] = self._packed[way], 0
        return f"{sum(len(name) + len(value) for name, value in pairs)} bytes of fields in {packed}"


def says(frame: Frame) -> str:
    """The payload, in words."""
    payload = frame.payload
    match frame.type:
        case FrameType.DATA:
            return shown(content(frame))
        case FrameType.SETTINGS if len(payload) % 6 == 0:
            names = {code.value: code.name for code in SettingCode}
            return ", ".join(f"{names.get(code, code)} {value}" for code, value in parse_settings(payload))
        case FrameType.WINDOW_UPDATE:
            return f"{int.from_bytes(payload, 'big'):+}"
        case FrameType.RST_STREAM:
            return name_of(int.from_bytes(payload, "big"))
        case FrameType.PING:
            return payload.hex()
        case FrameType.GOAWAY if len(payload) >= 8:
            last, code, text = parse_goaway(payload)
            return f"last stream {last}, {name_of(code)} {shown(text) if text else ''}".rstrip()
    return ""
