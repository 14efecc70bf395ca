r"""HTTP/1.1 on TCP: one task per connection, one request after the other, each answered before the next is looked at.

The bytes are the business of protocols/http1.py, and the answers of servers/site.py. Here is what lies between:
deadlines, backpressure both ways, limits, and an end that lets the last words be heard.

Run:   make http1-server
Try:   curl -i http://127.0.0.1:7003/                   curl -i -d 'some words' http://127.0.0.1:7003/
       (printf 'GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /headers HTTP/1.1\r\nHost: a\r\n\r\n'; sleep 1) | nc 127.0.0.1 7003
       (printf 'GET / HTTP/1.1\r\nHost : a\r\n\r\n'; sleep 1) | nc 127.0.0.1 7003         refused, and it says why
Left out on purpose: files, virtual hosts, upgrades (the websocket lab has one), a minimum rate for bodies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import resource
import ssl
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from protocols.errors import RemoteProtocolError
from protocols.http1 import ConnectionClosed, Data, Event, Request, ServerConnection
from protocols.semantics import http_date
from servers import command, site

PORT = 7003
READ = 65536  # bytes taken from a socket at a time
UNWANTED = 1 << 20  # bytes of a body that nobody wanted, read for the sake of the request behind it

log = logging.getLogger("servers.http1")  # Silent, unless main() gives it a voice.

Respond = Callable[[site.Request], Awaitable[site.Response]]


class Talk:
    """One connection, from accept to its end."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.reader, self.writer = server, reader, writer
        self.conn = ServerConnection(max_body=server.max_body)
        self.peer = (writer.get_extra_info("peername") or ("", 0))[1]  # None when it has vanished already
        self.waits = False  # The client wants to hear 100 (Continue) before it sends the body.
        self.phase = ""  # What the deadline is for.
        task = asyncio.current_task()
        assert task is not None
        self.task, self.clock = task, asyncio.get_running_loop()
        self.ends_at = math.inf
        self.timer = self.clock.call_later(server.tick, self.ring)

    # One timer per connection. A deadline is moved by setting a number; a timer that rings too early is set again.

    def allow(self, phase: str, seconds: float = math.inf) -> None:
        self.phase, self.ends_at = phase, self.clock.time() + seconds

    def ring(self) -> None:
        left = self.ends_at - self.clock.time()
        if left <= 0:
            self.stop()
        else:
            self.timer = self.clock.call_later(min(left, self.server.tick), self.ring)

    def stop(self) -> None:
        """End the waiting, whatever for."""
        self.timer.cancel()
        self.ends_at = 0
        self.task.cancel()

    # Reading and writing.

    async def event(self) -> Event:
        """Return what the client sends next."""
        while (event := self.conn.next_event()) is None:
            if self.waits:
                self.waits = False
                await self.write(self.conn.send_continue())
            data = await self.reader.read(READ)
            if self.phase == "idle":  # The first bytes of a request: from now on, time runs.
                self.allow("head", self.server.head_seconds)
            self.conn.receive_data(data)
        return event

    async def write(self, data: bytes) -> None:
        """Send, and wait for a client that is slow to read: what it does not take is not held in memory."""
        phase = self.phase
        self.writer.write(data)
        self.allow("write", self.server.body_seconds)
        await self.writer.drain()
        self.allow(phase)

    async def body(self) -> AsyncIterator[bytes]:
        """The body of the request, as it arrives."""
        while not self.conn.is_whole:
            self.allow("body", self.server.body_seconds)
            event = await self.event()
            self.allow("work")
            if isinstance(event, Data):
                yield event.data

    async def run(self) -> None:
        """Answer one request after the other."""
        while True:
            self.allow("idle", self.server.idle_seconds)
            event = await self.event()
            self.allow("work")
            if isinstance(event, ConnectionClosed):
                return
            assert isinstance(event, Request)
            await self.answer(event)
            if self.server.draining or not self.conn.keep_alive:
                return
            if not self.conn.is_idle:
                await asyncio.sleep(0)  # More was sent at once. Now it is the others' turn.

    async def answer(self, request: Request) -> None:
        self.waits = request.expects_continue and request.has_body
        if not request.has_body:
            self.conn.next_event()  # the end of the message
        response = await self.respond(site.Request(request.method, request.path, request.fields, self.body()))
        first = b""
        if self.waits and not isinstance(response.body, bytes):  # Does the answer need the body? Then 100 comes first.
            first = await anext(response.body, b"")
        fields = [*response.fields, ("date", self.server.date())]
        if self.server.draining or self.waits:  # Who waits for 100 and gets an answer may send the body, or may not.
            fields.append(("connection", "close"))
        if self.server.logs:
            log.info("< %s %s %s", self.peer, request.method, request.target[:100])
            log.info("> %s %s", self.peer, response.status)
        if isinstance(response.body, bytes):
            await self.write(self.conn.send_response(response.status, fields, response.body))
        else:
            await self.stream(request.method, response.status, fields, first, response.body)
        await self.skip()

    async def respond(self, request: site.Request) -> site.Response:
        try:
            return await self.server.respond(request)
        except (RemoteProtocolError, ConnectionError):
            raise
        except Exception:
            log.exception("! %s %s %s", self.peer, request.method, request.target)
            return site.plain(500, "The server has made a mistake.")

    async def stream(
        self, method: str, status: int, fields: list[tuple[str, str]], first: bytes, body: AsyncIterator[bytes]
    ) -> None:
        """Send a body as it comes into being. When that fails half-way, its end is missing, and the client can tell."""
        try:
            await self.write(self.conn.send_response(status, fields) + self.conn.send_data(first))
            if method != "HEAD" and status not in (204, 304):
                async for piece in body:
                    await self.write(self.conn.send_data(piece))
            await self.write(self.conn.end())
        finally:
            if isinstance(body, AsyncGenerator):
                await body.aclose()

    async def skip(self) -> None:
        """Read what is left of a body that nobody wanted, for the next request is behind it."""
        size = 0
        async for data in self.body():
            size += len(data)
            if size > UNWANTED:
                self.conn.keep_alive = False
                break

    async def last_words(self) -> None:
        """Run; and if that ends before its time, say why."""
        status, reason = 0, ""
        try:
            if len(self.server.talks) > self.server.max_connections:
                status, reason = 503, f"{self.server.max_connections} connections are served already"
            else:
                await self.run()
        except RemoteProtocolError as error:
            status, reason = error.code, str(error)
        except asyncio.CancelledError:
            if self.ends_at:
                raise  # somebody else's
            self.task.uncancel()
            if self.phase in ("head", "body"):
                status, reason = 408, f"the {self.phase} of the request did not come in time"
        if status:
            log.info("! %s %d %s", self.peer, status, reason)
        if status and self.conn.may_answer:
            fields = [("content-type", "text/plain; charset=utf-8"), ("date", self.server.date())]
            self.writer.write(self.conn.send_response(status, fields, f"{reason}\n".encode()))

    async def end(self) -> None:
        """The lingering close: FIN, then read and drop. Closing with unread data would be RST (RFC 9112 §9.6)."""
        self.timer.cancel()
        async with asyncio.timeout(0 if self.phase == "write" else self.server.linger_seconds):
            if self.writer.can_write_eof():
                self.writer.write_eof()
            while await self.reader.read(READ):
                pass
            self.writer.close()
            await self.writer.wait_closed()


class Server:
    """A running server, and its limits."""

    def __init__(self, respond: Respond, **limits: float) -> None:
        self.respond = respond
        self.head_seconds, self.body_seconds = limits["head_seconds"], limits["body_seconds"]
        self.idle_seconds, self.linger_seconds = limits["idle_seconds"], limits["linger_seconds"]
        self.max_connections, self.max_body = int(limits["max_connections"]), int(limits["max_body"])
        self.tick = min(self.head_seconds, self.body_seconds, self.idle_seconds)  # No deadline is nearer than that.
        self.address = ("", 0)
        self.talks: set[Talk] = set()
        self.draining = False
        self.logs = log.isEnabledFor(logging.INFO)
        self._date = (0, "")

    def date(self) -> str:
        """The Date field of now (RFC 9110 §6.6.1), written once a second."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = (now, http_date(now))
        return self._date[1]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from accept to its end. Runs as a task of its own."""
        if len(self.talks) >= 2 * self.max_connections:  # A flood: no word for it, for that takes a while, too.
            writer.transport.abort()
            return
        talk = Talk(self, reader, writer)
        self.talks.add(talk)
        try:
            await talk.last_words()
            await talk.end()
        except OSError as error:  # TimeoutError is one. The client has vanished, or does not take its answer.
            if self.logs:
                log.info("! %s %s", talk.peer, error or "did not take its answer")
        except Exception:
            log.exception("! %s", talk.peer)
        finally:
            talk.timer.cancel()
            self.talks.discard(talk)
            writer.transport.abort()  # No effect on what has been closed in peace.

    async def drain(self, seconds: float) -> None:
        """Stop: connections between two requests end now, the others when theirs is answered, or time is up."""
        self.draining = True
        for talk in self.talks:
            if talk.phase == "idle":
                talk.stop()
        tasks = [talk.task for talk in self.talks]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for talk in self.talks:
            talk.phase = "write"
            talk.stop()
        tasks = [talk.task for talk in self.talks]
        if tasks:
            await asyncio.wait(tasks)


@contextlib.asynccontextmanager
async def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    respond: Respond = site.respond,
    ssl: ssl.SSLContext | None = None,
    head_seconds: float = 10,
    body_seconds: float = 30,
    idle_seconds: float = 60,
    linger_seconds: float = 2,
    drain_seconds: float = 10,
    max_connections: int = 16384,
    max_body: int = 1 << 30,
) -> AsyncIterator[Server]:
    """Serve within the block; `address` is where. Every limit is there because somebody will try what is beyond it.

    head_seconds     from the first byte of a head to its last (slowloris)
    body_seconds     between two pieces of a body, in either direction
    idle_seconds     between two requests
    linger_seconds   that a client may take to end, after our FIN
    drain_seconds    for what is in flight when the block ends
    max_connections  that are served at a time; the next one gets 503
    max_body         bytes in the body of a request; more gets 413
    """
    server = Server(
        respond,
        head_seconds=head_seconds,
        body_seconds=body_seconds,
        idle_seconds=idle_seconds,
        linger_seconds=linger_seconds,
        max_connections=max_connections,
        max_body=max_body,
    )
    listening = await asyncio.start_server(server.handle, host, port, ssl=ssl, backlog=1024, limit=READ // 2)
    server.address = listening.sockets[0].getsockname()[:2]
    try:
        yield server
    finally:
        listening.close()
        await server.drain(drain_seconds)


def main() -> int:
    """Serve the site on loopback."""
    options = command.parser("http1", PORT, "Serves the site over HTTP/1.1.").parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # Each connection is an open file.
    return command.main("http1", lambda: serve(options.host, options.port), options)


if __name__ == "__main__":
    sys.exit(main())
