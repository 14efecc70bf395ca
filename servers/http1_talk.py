"""One HTTP/1.1 connection of servers/http1.py, from accept to its end.

Most requests are answered in the callback that brought their last byte. One that has to wait (for its body, for time to
pass, for a client that is slow to read) gets a task. So an idle connection costs little, and a waiting one nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

from protocols.errors import RemoteProtocolError
from protocols.http1 import Data, Event, Pairs, Request, ServerConnection
from servers import site

if TYPE_CHECKING:
    from servers.http1 import Server

READ_AHEAD = 65536  # bytes that may arrive before somebody wants them
UNWANTED = 1 << 20  # bytes of a body that nobody wanted, read for the sake of the request behind it
AT_ONCE = 4  # pipelined requests, or pieces of a body, before it is the turn of other connections

log = logging.getLogger("servers.http1")


class NoBody(AsyncIterator[bytes]):
    """The body of a request that has none."""

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


NO_BODY = NoBody()

Respond = Callable[[site.Request], site.Response | Awaitable[site.Response]]


class Limits(NamedTuple):
    """What serve() explains."""

    head_seconds: float
    body_seconds: float
    idle_seconds: float
    linger_seconds: float
    max_connections: int
    max_body: int


class Talk(asyncio.Protocol):
    """One connection, from accept to its end."""

    transport: asyncio.Transport
    task: asyncio.Task[None] | None = None  # answers a request that takes time
    waiter: asyncio.Future[None] | None = None  # set when the task waits for the client, to send or to read
    paused = False  # The client has sent more than anybody wanted yet.
    full = False  # The client is slow to read: what we have sent fills the transport's buffer.
    wants_continue = False  # The client wants to hear 100 (Continue) before it sends the body (RFC 9110 §10.1.1).
    phase = "idle"  # What the deadline is for: idle, head, body, write, work (none), linger.
    turn_comes = False  # There is more to answer, after the others.
    unsent = 0  # bytes, when the connection began to end

    def __init__(self, server: Server) -> None:
        self.server, self.limits = server, server.limits
        self.conn = ServerConnection(max_body=server.limits.max_body)
        self.clock = asyncio.get_running_loop()

    # What the event loop tells us.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.peer = (transport.get_extra_info("peername") or ("", 0))[1]  # None when it has vanished already
        self.ends_at = self.clock.time() + self.limits.idle_seconds
        self.timer = self.clock.call_later(self.server.tick, self.ring)
        if len(self.server.talks) >= 2 * self.limits.max_connections:  # A flood: no word for it.
            transport.abort()
        self.server.talks.add(self)
        if len(self.server.talks) > self.limits.max_connections:
            self.refuse(503, f"{self.limits.max_connections} connections are served already")

    def data_received(self, data: bytes) -> None:
        if self.phase == "linger":
            return
        self.conn.receive_data(data)
        if self.phase == "body":
            self.wake()
        else:
            self.proceed()
        if self.conn.unread > READ_AHEAD and self.phase != "linger":
            self.paused = True
            self.transport.pause_reading()  # TCP tells the client to wait (RFC 9293 §3.8.6).

    def listen(self) -> None:
        if self.paused:
            self.paused = False
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        if self.phase == "linger":
            return False  # The transport closes.
        self.conn.receive_data(b"")
        if self.phase == "body":
            self.wake()
        else:
            self.proceed()
        return True  # The client has no more to say, but may still listen.

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.phase == "write":
            self.wake()
        else:
            self.proceed()

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        self.server.talks.discard(self)
        if self.task:
            self.task.cancel()
        self.server.left(self)

    # One timer per connection. A deadline is moved by setting a number; a timer that rings too early is set again.

    def allow(self, phase: str, seconds: float) -> None:
        self.phase, self.ends_at = phase, self.clock.time() + seconds

    def ring(self) -> None:
        left = self.ends_at - self.clock.time()
        unsent = self.transport.get_write_buffer_size()
        if self.phase == "work":
            left = self.server.tick
        elif left <= 0 and 0 < unsent < self.unsent:  # A slow reader, but it does read.
            self.allow(self.phase, self.server.tick)
            left = self.server.tick
        self.unsent = unsent
        if left > 0:
            self.timer = self.clock.call_later(min(left, self.server.tick), self.ring)
        elif self.phase == "head":
            self.refuse(408, "the head of the request did not come in time")
        elif self.phase == "body" and self.waiter:
            if not self.waiter.done():
                self.waiter.set_exception(RemoteProtocolError("the body of the request did not come in time", 408))
            self.timer = self.clock.call_later(self.server.tick, self.ring)
        elif self.phase == "idle":
            self.finish()
        else:  # It does not take its answer, or does not end.
            self.transport.abort()

    # Answering at once.

    def proceed(self) -> None:
        """Answer what has arrived whole; leave what takes time to a task."""
        if self.task or self.full or self.phase == "linger":
            return
        for _ in range(AT_ONCE):
            try:
                event = self.conn.next_event()
                if isinstance(event, Request):
                    if not self.answered(event):
                        return
                    if self.conn.unread or self.conn.ended:
                        continue
                    event = None
                if event is not None:
                    self.finish()
                elif not self.conn.unread:
                    self.allow("idle", self.limits.idle_seconds)
                elif self.phase != "head":  # The first bytes of a request: from now on, time runs.
                    self.allow("head", self.limits.head_seconds)
                if self.paused:
                    self.listen()
                return
            except RemoteProtocolError as error:
                self.refuse(error.code, str(error))
                return
        if not self.turn_comes:
            self.turn_comes = True
            self.clock.call_soon(self.take_turn)

    def take_turn(self) -> None:
        self.turn_comes = False
        if not self.transport.is_closing():
            self.proceed()

    def answered(self, request: Request) -> bool:
        """Answer the request now, if that needs no waiting, and say whether the next one may follow."""
        body = NO_BODY if self.conn.is_whole else self.body()
        asked = site.Request(request.method, request.path, request.fields, body)
        try:
            response = self.server.respond(asked)
            if not (isinstance(response, site.Response) and isinstance(response.body, bytes) and self.conn.is_whole):
                self.phase = "work"
                self.task = self.clock.create_task(self.answer(request, response))
                return False
            self.transport.write(self.head(request, response, response.body))
        except Exception:
            self.failed(request)
            return False
        if not self.conn.keep_alive:
            self.finish()
        elif self.full:
            self.allow("taking", self.limits.body_seconds)
            self.unsent = self.transport.get_write_buffer_size() + 1
        return self.conn.keep_alive and not self.full

    def head(self, request: Request, response: site.Response, body: bytes | None = None) -> bytes:
        fields = (*response.fields, self.server.date())
        if self.server.draining or self.wants_continue:  # Nobody knows whether it sends the body now.
            fields = (*fields, ("connection", "close"))
        if self.server.logs:
            log.info("< %s %s %s", self.peer, request.method, request.target[:100])
            log.info("> %s %s", self.peer, response.status)
        return self.conn.send_response(response.status, fields, body)

    # Answering in a task.

    async def answer(self, request: Request, coming: site.Response | Awaitable[site.Response]) -> None:
        self.wants_continue = request.expects_continue and not (self.conn.is_whole or self.conn.unread)
        try:
            response = coming if isinstance(coming, site.Response) else await coming
            if isinstance(response.body, bytes):
                await self.write(self.head(request, response, response.body))
            else:
                await self.stream(request, response, response.body)
            await self.skip()
        except RemoteProtocolError as error:
            self.refuse(error.code, str(error))
        except Exception:
            self.failed(request)
        else:
            self.task = None
            if self.conn.keep_alive and not self.server.draining:
                self.proceed()
            else:
                self.finish()

    async def stream(self, request: Request, response: site.Response, body: AsyncIterator[bytes]) -> None:
        """Send a body as it comes into being. When that fails half-way, its end is missing, and the client can tell."""
        try:
            first = b""
            if self.wants_continue:  # Does the answer need the body? Then 100 (Continue) comes before it.
                first = await anext(body, b"")
            await self.write(self.head(request, response) + self.conn.send_data(first))
            if request.method != "HEAD" and response.status not in (204, 304):
                async for piece in body:
                    await self.write(self.conn.send_data(piece))
            await self.write(self.conn.end())
        finally:
            if isinstance(body, AsyncGenerator):
                await body.aclose()

    async def body(self) -> AsyncIterator[bytes]:
        """The body of the request, as it arrives."""
        pieces = 0
        while not self.conn.is_whole:
            event = await self.event()
            if isinstance(event, Data):
                yield event.data
            pieces += 1
            if pieces % AT_ONCE == 0:
                await asyncio.sleep(0)  # A read can hold thousands of chunks.

    async def event(self) -> Event:
        while (event := self.conn.next_event()) is None:
            if self.wants_continue:
                self.wants_continue = False
                await self.write(self.conn.send_continue())
            self.listen()
            await self.wait("body")
        return event

    async def write(self, data: bytes) -> None:
        """Send, and wait for a client that is slow to read: what it does not take is not held in memory."""
        self.transport.write(data)
        if self.full:
            await self.wait("write")
        elif self.transport.is_closing():
            await asyncio.sleep(0)  # The client is gone. Without a pause nobody could tell us, nor anybody else.

    async def wait(self, phase: str) -> None:
        self.allow(phase, self.limits.body_seconds)
        self.unsent = self.transport.get_write_buffer_size() + 1
        self.waiter = self.clock.create_future()
        try:
            await self.waiter
        finally:
            self.waiter, self.phase = None, "work"

    def wake(self) -> None:
        if self.waiter and not self.waiter.done():
            self.waiter.set_result(None)

    async def skip(self) -> None:
        """Read what is left of a body that nobody wanted, for the next request is behind it."""
        size = 0
        while self.conn.keep_alive and not self.conn.is_whole:
            event = await self.event()
            size += len(event.data) if isinstance(event, Data) else 0
            self.conn.keep_alive = size <= UNWANTED

    # The end.

    def failed(self, request: Request) -> None:
        """We have made a mistake."""
        log.exception("! %s %s %s", self.peer, request.method, request.target)
        self.refuse(500, "the server has made a mistake")

    def refuse(self, status: int, reason: str) -> None:
        """Say why, if an answer is still possible, and end."""
        log.info("! %s %d %s", self.peer, status, reason)
        self.task = None
        if not self.conn.may_answer:
            self.transport.abort()  # In the middle of an answer: nothing but a broken end says that it is not whole.
            return
        self.conn.keep_alive = False
        fields: Pairs = (("content-type", "text/plain; charset=utf-8"), self.server.date())
        self.transport.write(self.conn.send_response(status, fields, f"{reason}\n".encode()))
        self.finish()

    def finish(self) -> None:
        """The lingering close: FIN, then read and drop. Closing with unread data would be RST (RFC 9112 §9.6)."""
        self.allow("linger", self.limits.linger_seconds)
        self.timer.cancel()  # It may have rung already, and be why we are here.
        self.timer = self.clock.call_later(self.limits.linger_seconds, self.ring)
        self.unsent = self.transport.get_write_buffer_size() + 1
        if self.conn.ended or not self.transport.can_write_eof():
            self.transport.close()  # once all is sent
        else:
            try:
                self.transport.write_eof()
                self.transport.resume_reading()
            except OSError:  # It has vanished (RST), and we hear of it here first.
                self.transport.abort()
