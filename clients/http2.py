"""The other half of servers/http2.py: many requests at once over one connection to each server.

    async with Client() as client:
        answer = await client.request("GET", "http://127.0.0.1:7105/")                  # all of it, in answer.body
        async with client.stream("GET", "https://server.lab:7005/bytes/1000000000") as answer:
            async for piece in answer.body: ...                                         # as it is taken, no faster

Each request is a stream, and each stream has a window: who does not read on holds up the server on that stream only.
An https URL is HTTP/2 if the server agrees by ALPN; for an http URL both just have to know ("prior knowledge").

Run:   make http2-server   and in a second terminal   make http2-client
Try:   make http2-client ARGS='--n 3'       the second request's fields in fewer bytes: HPACK has seen them before
       make http2-client ARGS='--n 32 https://127.0.0.1:7005/bytes/100000'      the streams' frames, mixed
       nghttpd --no-tls 7105 -d . &    make http2-client ARGS=http://127.0.0.1:7105/README.md
Exit:  0 answered; 1 an error status, no proper answer, or none in time; 2 could not run (no connection, a bad
       argument); 130 Ctrl-C
Left out on purpose: server push (refused), CONNECT, trailers of requests, HTTP/1.1 for servers that speak no HTTP/2
(clients/http1.py does), proxies, cookies, caching.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Generic, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from certs.contexts import client_context
from clients import command
from clients.http1 import MAX_ANSWER, redirected
from clients.http1_connection import Body, Origin, Request, collect, split, unzip
from clients.http2_connection import Connection, Exchange, Unprocessed, log, request_fields
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http1 import Response as Http1Response
from protocols.http2_client import Response
from protocols.http2_messages import Pairs
from protocols.semantics import IDEMPOTENT

URL = "https://127.0.0.1:7005/"
TRIES = 10  # of a request that the server says it has not looked at; some take a few, and then another connection

T = TypeVar("T", bytes, AsyncIterator[bytes])


class Answer(NamedTuple, Generic[T]):
    """The final answer; `url` is where it came from in the end."""

    status: int
    fields: Mapping[str, str]  # lower-case name: value
    pairs: Pairs  # names and values as they came
    trailers: Pairs
    """Fields that came behind the body: empty until that is read."""
    interim: list[tuple[int, Pairs]]
    """Answers with 1xx that came before this one: 103 (Early Hints), …"""
    url: str
    body: T


class Client:
    """A connection per server, and requests over them.

    timeout           seconds for the whole of request(), and for each wait of stream(); None: for ever
    window            bytes of a body that a server may send before they are read: the memory that a stream can take
    max_connections   that are kept at a time
    idle_seconds      that a connection is kept for the next request
    max_answer        bytes that request() returns; a packed kilobyte can be a megabyte
    max_redirects     to follow: two servers could send us to and fro for ever. 0: the redirect is the answer
    expect_seconds    to wait for 100 (Continue), since not every server says it
    ssl               for https; its ALPN is set to h2
    """

    def __init__(
        self,
        *,
        timeout: float | None = 10,
        window: int = 1 << 18,
        max_connections: int = 100,
        idle_seconds: float = 15,
        max_answer: int = MAX_ANSWER,
        max_redirects: int = 10,
        expect_seconds: float = 1,
        ssl: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout, self._idle_seconds, self._expect_seconds, self._tls = timeout, idle_seconds, expect_seconds, ssl
        self._max_answer, self._max_redirects, self._window = max_answer, max_redirects, window
        self._most = max_connections
        if ssl:
            ssl.set_alpn_protocols(["h2"])
        self._connections: list[Connection] = []
        self._opening: WeakValueDictionary[Origin, asyncio.Lock] = WeakValueDictionary()  # while somebody waits
        self._closed = False

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        await asyncio.gather(*(connection.close() for connection in self._connections))

    async def request(
        self, method: str, url: str, *, fields: Pairs = (), body: Body = None, expect: bool = False, gzip: bool = False
    ) -> Answer[bytes]:
        """Ask, and return the whole answer. Arguments and errors are those of stream()."""
        async with (
            asyncio.timeout(self._timeout),
            self.stream(method, url, fields=fields, body=body, expect=expect, gzip=gzip) as answer,
        ):
            return Answer(*answer[:-1], await collect(answer.body, self._max_answer))

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, url: str, *, fields: Pairs = (), body: Body = None, expect: bool = False, gzip: bool = False
    ) -> AsyncIterator[Answer[AsyncIterator[bytes]]]:
        """Ask, and give the answer while its body arrives; what is not read by the end of the block is given up.

        fields   among them perhaps Priority: `u=1, i` (RFC 9218)
        expect   send the body when the server says that it wants it: 100 (Continue)
        gzip     ask for a packed answer, and unpack it

        LocalProtocolError    this cannot be sent, and was not
        RemoteProtocolError   what came is no answer, or half of one; the server has reset the stream (`code` says why)
        OSError               there is no connection (any more); TimeoutError, one kind of it: not in time
        """
        if body is None and method in ("POST", "PUT", "PATCH"):
            body = b""  # Tell that there is none: RFC 9110 §8.6.
        if gzip:
            fields = [*fields, ("accept-encoding", "gzip")]
        request = Request(method, url, fields, body, expect and body not in (None, b""))
        for left in range(self._max_redirects, -1, -1):
            async with self._exchange(request) as (connection, exchange, response):
                _, status, read_fields, pairs = response
                like_1 = Http1Response(status, "", read_fields, pairs, (2, 0))
                after = redirected(request, like_1) if self._max_redirects else None
                if after is None:
                    raw = connection.body(exchange, self._timeout)
                    packed = gzip and read_fields.get("content-encoding", "").lower() in ("gzip", "x-gzip")
                    async with contextlib.aclosing(raw), contextlib.aclosing(unzip(raw) if packed else raw) as pieces:
                        interim = [(one.status, one.pairs) for one in exchange.interim]
                        yield Answer(status, read_fields, pairs, exchange.trailers, interim, request.url, pieces)
                    return
                if not left:
                    raise RemoteProtocolError(f"more than {self._max_redirects} redirects")
            request = after

    @contextlib.asynccontextmanager
    async def _exchange(self, request: Request) -> AsyncIterator[tuple[Connection, Exchange, Response]]:
        """One request and the head of its answer. What the server has not looked at is asked again (§8.7)."""
        pairs, length = request_fields(request)
        tries = 0
        while True:
            async with asyncio.timeout(self._timeout):
                connection = await self._connection(split(request.url)[0])
            exchange = None
            try:
                try:
                    async with asyncio.timeout(self._timeout):
                        exchange = await connection.start(request, pairs, length, self._expect_seconds)
                    response = await connection.head(exchange, self._timeout)
                except (RemoteProtocolError, ConnectionError) as error:
                    again = isinstance(error, Unprocessed)
                    tries += 1 if again else TRIES - 1  # once more after a loss
                    if exchange:
                        # Was it closed while it was idle? So it seems, if nothing has come since.
                        was_idle = exchange.heard and not connection.has_heard(exchange)
                        again = again or bool(was_idle and request.method in IDEMPOTENT)
                    if tries >= TRIES or not again or not request.is_repeatable:
                        raise
                    log.info("! %s: once more", error)
                else:
                    yield connection, exchange, response
                    return
            finally:
                if exchange:
                    await connection.leave(exchange, self._timeout)

    async def _connection(self, origin: Origin) -> Connection:
        """The one that there is, or a new one: all that ask at once wait for the same."""
        async with self._opening.setdefault(origin, asyncio.Lock()):
            if self._closed:
                raise LocalProtocolError("the client is closed")
            for connection in self._connections:
                if connection.origin == origin and connection.is_usable:
                    return connection
            await self._shrink()
            connection = await self._open(origin)
            self._connections.append(connection)
            if self._closed:  # meanwhile
                await connection.close()
            return connection

    async def _open(self, origin: Origin) -> Connection:
        """HTTP/3 opens others, and is the same in all the rest."""
        return await Connection.open(origin, self._tls, self._window, self._idle_seconds)

    async def _shrink(self) -> None:
        """Forget those that have ended; if there are still too many, end those that are idle."""
        self._connections = [connection for connection in self._connections if not connection.has_ended]
        for connection in self._connections[: max(0, len(self._connections) - self._most + 1)]:
            if connection.is_idle:
                await connection.close()


async def show(options: argparse.Namespace) -> int:
    """All requests at once, on one connection."""
    async with Client(timeout=options.timeout, ssl=client_context(alpn=["h2"])) as client:
        statuses = await asyncio.gather(*(command.status_of(client, options) for _ in range(options.n)))
    return 0 if max(statuses) < 400 else 1


def main() -> int:
    parser = command.request_parser("http2", URL)
    parser.add_argument("--n", type=command.count, default=1, help="so many requests, at once")
    options = command.requested(parser)
    return command.main(log, lambda: show(options), peer=options.url, server="http2-server", late=options.late)


if __name__ == "__main__":
    sys.exit(main())
