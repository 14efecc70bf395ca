"""What clients/http3.py keeps for each server: one QUIC connection, and a stream for each request.

clients/quic.py has the socket and the clock, and calls _hear() for what has happened; protocols/http3_client.py says
what that means, and what is to be done. One task watches whether anybody is there: UDP itself never says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterable
from pathlib import Path

from aioquic.quic import events

from clients.http1_connection import Origin, Request, one, shown
from clients.http2_connection import Exchange, Unprocessed
from clients.quic import Connection as Quic
from clients.quic import QuicError, Ticket, connect
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http2_client import Data, Response
from protocols.http2_messages import Pairs
from protocols.http3_client import (
    Abort,
    ClientConnection,
    Close,
    Consumed,
    Event,
    GoAway,
    Stop,
    Write,
    code_name,
)
from protocols.http3_frames import (
    ErrorCode,
    Frame,
    FrameType,
    SettingCode,
    is_grease,
    parse_numbered,
    parse_settings,
)
from protocols.semantics import SAFE

PIECE = 1 << 16  # bytes of a request's body in one DATA frame
UNSENT = 1 << 18  # bytes of it that the server has not acknowledged: then the rest waits
IDLE = 60  # seconds; QUIC's own limit. It is far behind ours: while a request waits we ask for a sign of life.

log = logging.getLogger("clients.http3")


class Silent(OSError):
    """Nothing comes back: the server is gone, or somebody on the way lets no UDP through."""


class Connection:
    """One QUIC connection.

    tickets    gets what the server gives to resume with
    patience   seconds in which a sign of life must come when we ask for one
    """

    def __init__(
        self,
        origin: Origin,
        idle: float,
        patience: float,
        tickets: dict[Origin, Ticket],
        route: tuple[str, int] | None = None,
    ) -> None:
        self.origin, self.route = origin, route  # an alternative's host and port, if it is one
        self._idle, self._patience, self._tickets = idle, patience, tickets
        self._http = ClientConnection(observe=WireLog() if log.isEnabledFor(logging.INFO) else None)
        self._exchanges: dict[int, Exchange] = {}
        self._early: set[int] = set()  # streams whose request went out before the handshake was complete
        self._heard, self._heard_at = 0, self._now()  # bytes, and when
        self._line = asyncio.Lock()  # for those who want a stream: first come, first served
        self._timer: asyncio.TimerHandle | None = None
        self._why: Exception | None = None  # it has ended
        self._is_mute = False
        self._quic: Quic | None = None
        self._stack = contextlib.AsyncExitStack()
        self._watcher: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        origin: Origin,
        *,
        route: tuple[str, int] | None = None,
        window: int = 1 << 18,
        idle: float = 15,
        patience: float = 3,
        trust: Path | None,
        tickets: dict[Origin, Ticket],
        early: bool = True,
        qlog: Path | None = None,
    ) -> Connection:
        """*route*: host and port, where these are others than the origin's. The certificate is the origin's (§3.1).

        With a ticket that allows it, and *early*, the handshake is not waited for.
        """
        self = cls(origin, idle, patience, tickets, route)
        host, port = route or (origin.host, origin.port)
        ticket = tickets.pop(origin, None)  # Used once: two connections with one could be told to be ours.
        early = bool(early and ticket and ticket.allows_early)
        quic = connect(
            host, port, alpn=["h3"], name=origin.host, trust=trust, timeout=None, idle_seconds=IDLE, window=window,
            ticket=ticket, early=early, on_event=self._hear, qlog=qlog,
        )  # fmt: skip
        try:
            async with asyncio.timeout(patience):
                self._quic = await self._stack.enter_async_context(quic)
        except TimeoutError:
            raise Silent(f"nothing came back for {patience:g} s") from None
        except UnicodeError:  # IDNA: a label that is empty, or longer than 63
            raise socket.gaierror(socket.EAI_NONAME, f"{host[:80]!r} is no name of a host") from None
        how = "; the handshake is not waited for: early data" if early else ""
        log.info("= connected to %s port %d over QUIC%s", host, port, how)
        self._heard_at = self._now()
        self._watcher = asyncio.create_task(self._watch(self._quic))
        self._flush()
        self._rest()
        return self

    @property
    def is_usable(self) -> bool:
        """May it have more streams?"""
        return self._http.is_usable and self._why is None and not self._is_mute

    @property
    def has_ended(self) -> bool:
        return self._why is not None and (self._watcher is None or self._watcher.done())

    @property
    def is_idle(self) -> bool:
        return not self._exchanges and not self._line.locked()

    def retire(self) -> None:
        """It finishes what is under way, and gets no more."""
        self._is_mute = True
        self._rest()

    async def close(self) -> None:
        """End it, and all that is under way on it."""
        self._end(RemoteProtocolError("the client was closed"))
        if self._watcher:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        await self._stack.aclose()

    def _end(self, error: Exception) -> None:
        if self._why:
            return
        self._why = error
        if self._timer:
            self._timer.cancel()
        self._http.close()
        self._flush()
        if self._quic:
            if ticket := self._quic.ticket:
                self._tickets[self.origin] = ticket
            self._quic.close(ErrorCode.NO_ERROR)  # if it has not ended before
        half = RemoteProtocolError("the connection ended in the middle of the answer")
        for exchange in self._exchanges.values():
            exchange.fail(copy.copy(half if exchange.final else error))  # Each is raised somewhere else.
        log.info("= closed")

    # Is anybody there?

    async def _watch(self, quic: Quic) -> None:
        """Until it ends. Who waits for an answer asks for a sign of life now and then: a slow server gives that."""
        try:
            if not quic.is_handshaken:
                await self.alive()
            while True:
                try:
                    async with asyncio.timeout(self._patience):
                        await quic.until(lambda: False)  # QuicError, when it has ended
                except TimeoutError:
                    if self._exchanges and self._now() - self._heard_at > self._patience:
                        await self.alive()
        except (RemoteProtocolError, OSError) as error:
            if quic.ended and quic.ended.is_application and quic.ended.code != ErrorCode.NO_ERROR:
                self._heard += 1  # It was not closed for being idle.
            self._end(in_words(quic, error))
        await self._stack.aclose()

    async def alive(self) -> None:
        """Wait for a sign of life. Silent: there was none."""
        assert self._quic
        try:
            async with asyncio.timeout(self._patience):
                await self._quic.ping()
        except TimeoutError:
            raise Silent(f"nothing came back for {self._patience:g} s") from None
        self._heard_at = self._now()

    async def ready(self, wait: bool) -> None:
        """Has something been heard not long ago, or now? Silent: no. *wait*: for the handshake, too."""
        assert self._quic
        try:
            if not self._quic.is_handshaken:
                if wait:
                    async with asyncio.timeout(self._patience):
                        await self._quic.handshaken()
            elif self._now() - self._heard_at > self._patience:
                await self.alive()
        except OSError:  # TimeoutError is one
            self._is_mute = True
            raise

    # Requests.

    async def start(self, request: Request, pairs: Pairs, length: int | None, expect_seconds: float) -> Exchange:
        """Wait until the server allows one more stream, and send a request on it. Its body is sent meanwhile.

        *pairs* and *length* are what request_fields() makes of it. Who listens can send a copy of what goes out before
        the handshake is complete, so only what changes nothing goes out then (RFC 8470 §2.1, §3).
        """
        assert self._quic
        body = request.body
        if isinstance(body, bytes) and not body:
            body = None
        async with self._line:
            quic, may_be_early = self._quic, request.method in SAFE and body is None
            try:
                await quic.until(
                    lambda: not self.is_usable or (quic.room() > 0 and (may_be_early or quic.is_handshaken))
                )
            except (RemoteProtocolError, OSError) as error:
                raise copy.copy(self._why or in_words(quic, error)) from None
            if not self.is_usable:
                raise Unprocessed("the connection takes no more requests")
            if self.route:  # RFC 7838 §5: where it goes, said here, for only the connection knows that for certain
                pairs = [*pairs, ("alt-used", Origin("https", *self.route).authority)]
            stream = self._http.send_request(pairs, body is None)
            exchange = self._exchanges[stream] = Exchange(stream, self._heard, self._now())
            if not self._quic.is_handshaken:
                self._early.add(stream)
        if self._timer:
            self._timer.cancel()
        self._flush()
        if body is not None:
            if not request.expect:
                exchange.go.set()
            exchange.upload = asyncio.create_task(self._upload(self._quic, exchange, body, length, expect_seconds))
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

    def was_early(self, exchange: Exchange) -> bool:
        """Was it sent before the handshake was complete?"""
        return exchange.stream in self._early

    async def body(self, exchange: Exchange, seconds: float | None) -> AsyncGenerator[bytes, None]:
        """What has arrived, as often as somebody asks."""
        while True:
            if exchange.unread:
                piece = self._take(exchange)
                self._flush()
                yield piece
            elif exchange.error:
                raise exchange.error
            elif exchange.has_ended:
                return
            else:
                await exchange.news(seconds)

    def _take(self, exchange: Exchange) -> bytes:
        """What is unread. As much more may come."""
        piece = bytes(exchange.unread)
        exchange.unread.clear()
        self._http.consumed(exchange.stream, len(piece))
        return piece

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
        self._http.reset(exchange.stream)
        self._take(exchange)
        self._flush()
        del self._exchanges[exchange.stream]
        self._early.discard(exchange.stream)
        self._rest()

    def _rest(self) -> None:
        """With nothing to do, wait for the next request, but not for ever; after GOAWAY there is none."""
        if not self._exchanges and not self._why:
            if self._timer:
                self._timer.cancel()
            wait = self._idle if self.is_usable else 0
            self._timer = asyncio.get_running_loop().call_later(wait, self._end, RemoteProtocolError("it was idle"))

    async def _upload(
        self, quic: Quic, exchange: Exchange, body: bytes | AsyncIterable[bytes], length: int | None, wait: float
    ) -> None:
        """Each piece when the server has acknowledged enough of those before."""
        sent, ended, stream = 0, False, exchange.stream
        try:
            with contextlib.suppress(TimeoutError):  # Not every server knows 100 (RFC 9110 §10.1.1).
                async with asyncio.timeout(wait):
                    await exchange.go.wait()
            exchange.go.set()
            async for piece in one(body) if isinstance(body, bytes) else body:
                sent += len(piece)
                if length is not None and sent > length:
                    break
                for start in range(0, len(piece), PIECE):
                    while quic.buffered(stream) >= UNSENT and self._http.is_sending(stream):
                        await quic.until(lambda: quic.buffered(stream) < UNSENT)
                        exchange.has_moved = True
                    if not self._http.is_sending(stream):
                        return  # The answer, or an error, has come first.
                    ended = start + PIECE >= len(piece) and sent == length
                    self._http.send_data(stream, piece[start : start + PIECE], ended)
                    self._flush()
                    exchange.has_moved = True
                    await asyncio.sleep(0)  # One frame of each stream in turn.
            if length is not None and sent != length:
                raise LocalProtocolError(f"Content-Length is {length}, and the body has other {sent} bytes")
            if not ended:
                self._http.send_data(stream, b"", True)
                self._flush()
        except (RemoteProtocolError, ConnectionError):
            pass  # The connection has ended: the one who reads will find out.
        except Exception as error:
            exchange.fail(error)
            self._http.reset(stream)  # Half a body must not pass for a whole one.
            self._flush()
        finally:
            if isinstance(body, AsyncGenerator):
                await body.aclose()

    # What comes.

    def _hear(self, event: events.QuicEvent) -> None:
        """QUIC has something for us."""
        match event:
            case events.StreamDataReceived(data=data, end_stream=end, stream_id=stream):
                self._heard, self._heard_at = self._heard + len(data), self._now()
                self._http.receive_data(stream, data, end, self._heard_at)
            case events.StreamReset(error_code=code, stream_id=stream):
                self._heard, self._heard_at = self._heard + 1, self._now()  # It is an answer, too.
                self._http.receive_reset(stream, code)
            case events.StopSendingReceived(error_code=code, stream_id=stream):
                self._http.receive_stop(stream, code)
            case events.HandshakeCompleted():
                self._heard_at = self._now()
                return
            case _:
                return
        try:
            while (found := self._http.next_event()) is not None:
                self._handle(found)
        except RemoteProtocolError as broken:
            if not self._why:
                log.info("! %s", broken)
            for exchange in self._exchanges.values():
                exchange.fail(copy.copy(broken))
        self._flush()

    def _handle(self, event: Event) -> None:
        if isinstance(event, GoAway):
            words = f"the server goes away: it takes nothing from stream {event.first} on"
            for stream, exchange in self._exchanges.items():
                if stream >= event.first:
                    exchange.fail(Unprocessed(words))
            self._rest()
            return
        found = self._exchanges.get(event.stream)
        if found is None:
            if isinstance(event, Data):
                self._http.consumed(event.stream, len(event.data))
            return
        found.take(event, ErrorCode.REQUEST_REJECTED)

    def _flush(self) -> None:
        """Do what the core says."""
        if self._quic is None:  # It will be, soon.
            return
        for order in self._http.orders():
            if self._quic.ended:
                return
            match order:
                case Write(stream, data, end):
                    self._quic.send(stream, data, end)
                case Abort(stream, code):
                    self._quic.reset(stream, code)
                case Stop(stream, code):
                    self._quic.stop(stream, code)
                case Consumed(stream, size):
                    self._quic.consumed(stream, size)
                case Close(code, reason):
                    self._quic.close(code, reason)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def in_words(quic: Quic, error: Exception) -> Exception:
    """The same error; if the connection has been closed, with the name of the code (§8.1)."""
    ended = quic.ended
    if not isinstance(error, QuicError) or ended is None:
        return error
    if ended.how != "closed" or ended.by == "us" or not ended.is_application:
        return RemoteProtocolError(f"the connection has ended: {ended}", ended.code)
    text = f": {ended.reason}" if ended.reason else ""
    return RemoteProtocolError(f"the server has closed the connection: {code_name(ended.code)}{text}", ended.code)


class WireLog:
    """What is on the streams, for people."""

    def __call__(self, way: str, stream: int, what: Frame | str, pairs: Pairs | None) -> None:
        said = says(what, pairs) if isinstance(what, Frame) else ""
        log.info("%s stream %d: %s%s", way, stream, what, f": {said}" if said else "")
        for name, value in pairs or ():
            log.info("%s     %s", way, repr(f"{name}: {value}")[1:-1])  # Nobody has checked it yet.


def says(frame: Frame, pairs: Pairs | None) -> str:
    """The payload, in words."""
    with contextlib.suppress(RemoteProtocolError):
        match frame.type:
            case FrameType.DATA:
                return shown(frame.payload)
            case FrameType.HEADERS if pairs is not None:
                return f"{sum(len(name) + len(value) for name, value in pairs)} bytes of fields in {frame.length}"
            case FrameType.SETTINGS:
                return ", ".join(f"{setting(code)} {value}" for code, value in parse_settings(frame.payload).items())
            case FrameType.GOAWAY:
                return f"nothing from stream {parse_numbered(frame)} on"
    return ""


def setting(code: int) -> str:
    """The name of a setting; of one that is not known here, its number."""
    if code in set(SettingCode):
        return SettingCode(code).name
    return f"{'reserved' if is_grease(code) else 'unknown'} {code:#x}"
