r"""HTTP/2: one connection, many streams. Whoever is slow holds up nobody else, until they share a window or a loss.

The frames are the business of protocols/http2_frames.py, the rules of protocols/http2.py (and of the library h2), the
answers of servers/site.py; in between is servers/http2_talk.py, and for what waits servers/http2_work.py. Here is what
all connections share, and how a connection becomes one of HTTP/2: by ALPN inside TLS, or because it begins as one.

Run:   make http2-server                            over TLS; --plain without
Try:   curl -i --cacert certs/root.pem https://localhost:7005/
       nghttp -nv https://localhost:7005/tiles      every frame, and its stream
       h2load -n 10000 -c 1 -m 32 https://localhost:7005/
       make http2-server ARGS='--plain --port 8080'   and then
       curl -i --http2-prior-knowledge http://127.0.0.1:8080/
Left out on purpose: server push, which browsers have given up; the old tree of priorities (RFC 9113 §5.3.2); Upgrade:
h2c (§3.1); CONNECT and what is built on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import ssl
import sys
from collections.abc import AsyncIterator

from protocols.http2_frames import PREFACE
from servers import command, http1, http1_talk, site
from servers.http1_talk import Limits, Respond
from servers.http2_talk import Http2Limits, Talk
from servers.tls import lab_context
from servers.tls_transport import Tls, end

PORT = 7005

log = logging.getLogger("servers.http2")  # Silent, unless main() gives it a voice.


class Server:
    """A running server: what its connections share."""

    def __init__(self, http1_server: http1.Server, limits: Limits, http2_limits: Http2Limits) -> None:
        self.http1 = http1_server  # for those that speak HTTP/1.1
        self.respond, self.date = http1_server.respond, http1_server.date
        self.limits, self.http2 = limits, http2_limits
        self.tick = min(*limits[:4], http2_limits.settings_seconds)  # seconds; no deadline is nearer than that
        self.address = ("", 0)
        self.greetings: set[Greeting] = set()
        self.talks: set[Talk] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.draining = False
        self.logs = log.isEnabledFor(logging.INFO)
        self.changed = asyncio.Event()

    async def drain(self, seconds: float) -> None:
        """End: no more streams, and those that there are when they are answered, or time is up (RFC 9113 §6.8)."""
        self.draining = True
        for greeting in list(self.greetings):
            greeting.transport.abort()
        for talk in list(self.talks):
            talk.drain()
        await asyncio.gather(self.http1.drain(seconds), self.empty(seconds))
        for talk in list(self.talks):
            talk.transport.abort()
        await self.empty(None)
        if self.tasks:
            await asyncio.wait(self.tasks)

    async def empty(self, seconds: float | None) -> None:
        """Wait until nobody is here, but not longer than that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.talks or self.greetings:
                    self.changed.clear()
                    await self.changed.wait()


class Greeting(asyncio.Protocol):
    """A connection without TLS, until its first bytes tell what it is: HTTP/2's preface was made to be no HTTP/1.1."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.timer = asyncio.get_running_loop().call_later(self.server.limits.head_seconds, self.become, True)
        self.server.greetings.add(self)
        if len(self.server.greetings) > self.server.limits.max_connections:  # A flood: no word for it.
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.buffer[: len(PREFACE)] == PREFACE[: len(self.buffer)]:
            if len(self.buffer) >= len(PREFACE):
                self.become(True)
        elif b"\n" in self.buffer or not self.buffer[:1].isalpha() or len(self.buffer) > 8192:
            self.become(b" HTTP/1." not in self.buffer.partition(b"\n")[0])

    def become(self, http2: bool) -> None:
        """Hand the connection over. What is neither is told so in HTTP/2: GOAWAY."""
        self.leave()
        talk = Talk(self.server) if http2 else http1_talk.Talk(self.server.http1)
        self.transport.set_protocol(talk)
        talk.connection_made(self.transport)
        if self.buffer:
            talk.data_received(self.buffer)
        elif isinstance(talk, Talk):
            talk.late()

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()

    def leave(self) -> None:
        self.timer.cancel()
        self.server.greetings.discard(self)
        self.server.changed.set()


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
    handshake_seconds: float = 10,
    settings_seconds: float = 10,
    grace_seconds: float = 1,
    max_connections: int = 16384,
    max_streams: int = 100,
    max_fields: int = 32768,
    max_body: int = 1 << 30,
    stream_window: int = 1 << 18,
    connection_window: int = 1 << 22,
) -> AsyncIterator[Server]:
    """Serve within the block; `address` is where. Every limit is there because somebody will try what is beyond it.

    ssl              from certs/contexts.py, with ALPN; without it, h2c (and HTTP/1.1) in the clear
    head_seconds     for the preface, a frame, or the fields of a request, from its first byte to its last
    body_seconds     between two pieces of a body, in either direction
    idle_seconds     without a stream
    linger_seconds   that a client may take to end, after our FIN
    drain_seconds    for what is in flight when the block ends
    handshake_seconds   that TLS may take to be agreed on
    settings_seconds that the acknowledgement of our SETTINGS may take
    grace_seconds    between the two GOAWAYs, for a client that does not answer the PING between them
    max_connections  that are served at a time; the next one gets GOAWAY
    max_streams      at a time on a connection; the next one gets RST_STREAM (REFUSED_STREAM)
    max_fields       bytes of the fields of a request, by the count of §6.5.2; more gets 431
    max_body         bytes in the body of a request; more gets 413
    stream_window    bytes of a body that may come before anybody wants them
    connection_window   the same, of all streams of a connection together
    """
    limits = Limits(head_seconds, body_seconds, idle_seconds, linger_seconds, max_connections, max_body)
    more = Http2Limits(settings_seconds, grace_seconds, max_streams, max_fields, stream_window, connection_window)
    server = Server(http1.Server(respond, limits), limits, more)
    secured: set[Tls] = set()  # connections over TLS, those in their handshake, too

    def choose(protocol: str | None) -> asyncio.Protocol:
        return Talk(server) if protocol == "h2" else http1_talk.Talk(server.http1)

    def accept() -> asyncio.Protocol:
        if ssl is None:
            return Greeting(server)
        return Tls(
            ssl, choose, connections=secured, max_connections=2 * max_connections,
            handshake_seconds=handshake_seconds, linger_seconds=linger_seconds,
        )  # fmt: skip

    listening = await asyncio.get_running_loop().create_server(accept, host, port, backlog=256)
    server.address = listening.sockets[0].getsockname()[:2]
    try:
        yield server
    finally:
        listening.close()
        await server.drain(drain_seconds)
        await end(secured)


def main() -> int:
    """Serve the site on loopback."""
    parser = command.parser("http2", PORT, "Serves the site over HTTP/2, and to those who ask for it over HTTP/1.1.")
    parser.add_argument("--plain", action="store_true", help="without TLS (h2c)")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # Each connection is an open file.
    context = None if options.plain else lab_context(alpn=["h2", "http/1.1"])
    return command.main("http2", lambda: serve(options.host, options.port, ssl=context), options)


if __name__ == "__main__":
    sys.exit(main())
