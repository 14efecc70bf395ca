r"""HTTP/1.1 on TCP: one request after the other, each answered before the next one is looked at.

The bytes are the business of protocols/http1.py, the answers of servers/site.py, and what lies between, for one
connection, of servers/http1_talk.py. Here is what all connections share: limits, the time of day, and a good end.

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
import resource
import ssl
import sys
import time
from collections.abc import AsyncIterator

from protocols.semantics import http_date
from servers import command, site
from servers.http1_talk import Limits, Respond, Talk
from servers.tls_transport import Tls, end

PORT = 7003

log = logging.getLogger("servers.http1")  # Silent, unless main() gives it a voice.


class Server:
    """A running server: its connections, and the time of day."""

    def __init__(self, respond: Respond, limits: Limits) -> None:
        self.respond, self.limits = respond, limits
        self.tick = min(limits[:4])  # seconds; no deadline is nearer than that
        self.address = ("", 0)
        self.talks: set[Talk] = set()
        self.draining = False
        self.logs = log.isEnabledFor(logging.INFO)
        self._date = (0, ("date", ""))
        self._empty: asyncio.Event | None = None

    def date(self) -> tuple[str, str]:
        """The Date field of now (RFC 9110 §6.6.1), written once a second."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = (now, ("date", http_date(now)))
        return self._date[1]

    def left(self, talk: Talk) -> None:
        """A connection is gone."""
        if self._empty and not self.talks:
            self._empty.set()

    async def drain(self, seconds: float) -> None:
        """End: connections between two requests now, the others when theirs is answered, or time is up."""
        self.draining = True
        for talk in list(self.talks):
            if talk.phase in ("idle", "taking"):
                talk.finish()
        self._empty = asyncio.Event()
        if self.talks:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)
        tasks = [talk.task for talk in self.talks if talk.task]
        for talk in list(self.talks):
            talk.transport.abort()
        if self.talks:
            await self._empty.wait()
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
    handshake_seconds: float = 10,
    max_connections: int = 16384,
    max_body: int = 1 << 30,
) -> AsyncIterator[Server]:
    """Serve within the block; `address` is where. Every limit is there because somebody will try what is beyond it.

    ssl              from certs/contexts.py: HTTPS
    head_seconds     from the first byte of a head to its last (slowloris)
    body_seconds     between two pieces of a body, in either direction
    idle_seconds     between two requests
    linger_seconds   that a client may take to end, after our FIN
    drain_seconds    for what is in flight when the block ends
    handshake_seconds   that TLS may take to be agreed on
    max_connections  that are served at a time; the next one gets 503
    max_body         bytes in the body of a request; more gets 413
    """
    limits = Limits(head_seconds, body_seconds, idle_seconds, linger_seconds, max_connections, max_body)
    server = Server(respond, limits)
    secured: set[Tls] = set()  # connections over TLS, those in their handshake, too

    def accept() -> asyncio.Protocol:
        if ssl is None:
            return Talk(server)
        return Tls(
            ssl, lambda _: Talk(server), connections=secured, max_connections=2 * max_connections,
            handshake_seconds=handshake_seconds, linger_seconds=linger_seconds,
        )  # fmt: skip

    listening = await asyncio.get_running_loop().create_server(accept, host, port, backlog=256)
    server.address = listening.sockets[0].getsockname()[:2]
    try:
        yield server
    finally:
        listening.close()
        for connection in secured:
            if connection.inner is None:  # It has no request in flight yet.
                connection.close()
        await server.drain(drain_seconds)
        await end(secured)


def main() -> int:
    """Serve the site on loopback."""
    options = command.parser("http1", PORT, "Serves the site over HTTP/1.1.").parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # Each connection is an open file.
    return command.main("http1", lambda: serve(options.host, options.port), options)


if __name__ == "__main__":
    sys.exit(main())
