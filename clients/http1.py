r"""The other half of servers/http1.py: requests over connections that are kept, since the next request is soon to come.

    async with Client() as client:
        answer = await client.request("GET", "http://127.0.0.1:7003/")                  # all of it, in answer.body
        async with client.stream("GET", "http://127.0.0.1:7003/bytes/1000000000") as answer:
            async for piece in answer.body: ...                                         # as it is taken, no faster

A connection that is kept can be closed by the server at any moment, even while the next request is on its way. Then
nobody knows whether that was served. What may be served twice (GET, PUT, …) is sent again, once; POST is not.

Run:   make http1-server   and in a second terminal   make http1-client
Try:   make http1-client ARGS='http://127.0.0.1:7003/redirect?n=3'
       make http1-client ARGS='-d "some words" -H "Content-Type: text/plain" http://127.0.0.1:7003/'
       make tls-server   and   make http1-client ARGS=https://localhost:7004/
       python3 -m http.server -b 127.0.0.1 7103 &    make http1-client ARGS=http://127.0.0.1:7103/README.md
Exit:  0 answered; 1 an error status, no proper answer, or none in time; 2 could not run (no connection, a bad
       argument); 130 Ctrl-C
Left out on purpose: proxies, cookies, caching, trailers, passwords in URLs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import ssl
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit
from weakref import WeakValueDictionary

from clients import command
from clients.http1_connection import Body, Connection, Origin, Request, Sessions, collect, log, split, unzip
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http1 import Pairs, Response
from protocols.http1_syntax import is_host, request_line
from protocols.semantics import IDEMPOTENT

URL = "http://127.0.0.1:7003/"
MAX_ANSWER = 64 << 20  # bytes of an answer that is held in memory
NO_URL = re.compile(r"[^A-Za-z0-9\-._~!$&'()*+,;=:@/?#\[\]%]|%(?![0-9A-Fa-f]{2})")  # RFC 3986 §2: what no URL may have
SECRETS = ("authorization", "cookie", "proxy-authorization")

T = TypeVar("T", bytes, AsyncIterator[bytes])


class Answer(NamedTuple, Generic[T]):
    """The final answer; `url` is where it came from in the end."""

    status: int
    reason: str
    fields: Mapping[str, str]  # lower-case name: value
    pairs: Pairs  # names and values as they came
    url: str
    body: T


class Client:
    """A pool of connections, and requests over them.

    timeout           seconds for the whole of request(), and for each wait of stream(); None: for ever
    max_per_host, max_connections   at a time. One request more waits for its turn
    idle_seconds      that a connection is kept for the next request
    max_answer        bytes that request() returns; a packed kilobyte can be a megabyte
    max_redirects     to follow: two servers could send us to and fro for ever. 0: the redirect is the answer
    expect_seconds    to wait for 100 (Continue), since not every server says it
    ssl               for https, from certs/contexts.py (default: this machine's authorities and the lab's are trusted)
    """

    def __init__(
        self,
        *,
        timeout: float | None = 10,
        max_per_host: int = 6,
        max_connections: int = 100,
        idle_seconds: float = 15,
        max_answer: int = MAX_ANSWER,
        max_redirects: int = 10,
        expect_seconds: float = 1,
        ssl: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout, self._idle_seconds, self._expect_seconds, self._tls = timeout, idle_seconds, expect_seconds, ssl
        self._max_answer, self._max_redirects = max_answer, max_redirects
        self._per_host, self._most = max_per_host, max_connections
        self._turns = asyncio.Semaphore(max_connections)
        self._turns_of: WeakValueDictionary[Origin, asyncio.Semaphore] = WeakValueDictionary()  # while somebody waits
        self._kept: list[Connection] = []  # the one used last is the last
        self._sessions: Sessions = {}
        self._busy = 0
        self._closed = False

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        await self._shrink(0)

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

        expect   send the body when the server says that it wants it: 100 (Continue)
        gzip     ask for a packed answer, and unpack it

        LocalProtocolError    this cannot be sent, and was not
        RemoteProtocolError   what came is no answer, or half of one; or too many redirects
        TlsError              we refuse the server's certificate, it refuses ours, or the like
        OSError               there is no connection (any more); TimeoutError, one kind of it: not in time
        """
        if body is None and method in ("POST", "PUT", "PATCH"):
            body = b""  # Tell that there is none: RFC 9110 §8.6.
        if gzip:
            fields = [*fields, ("Accept-Encoding", "gzip")]
        request = Request(method, url, fields, body, expect and body not in (None, b""))
        for left in range(self._max_redirects, -1, -1):
            async with self._exchange(request) as (connection, response):
                after = redirected(request, response) if self._max_redirects else None
                if after is None:
                    raw = connection.body(self._timeout)
                    packed = gzip and response.fields.get("content-encoding", "").lower() in ("gzip", "x-gzip")
                    async with contextlib.aclosing(raw), contextlib.aclosing(unzip(raw) if packed else raw) as pieces:
                        status, reason, read_fields, pairs, _ = response
                        yield Answer(status, reason, read_fields, pairs, request.url, pieces)
                    return
                if not left:
                    raise RemoteProtocolError(f"more than {self._max_redirects} redirects")
            request = after

    @contextlib.asynccontextmanager
    async def _exchange(self, request: Request) -> AsyncIterator[tuple[Connection, Response]]:
        """One request and the head of its answer, on a connection that is kept afterwards, if it can be."""
        origin, _ = split(request.url)
        async with contextlib.AsyncExitStack() as turn:
            async with asyncio.timeout(self._timeout):
                await turn.enter_async_context(self._turn(origin))
                connection = await self._connection(origin)
            try:
                try:
                    response = await connection.ask(request, self._timeout, self._expect_seconds)
                except (ConnectionError, RemoteProtocolError):
                    again = request.method in IDEMPOTENT and request.is_repeatable  # RFC 9110 §9.2.2
                    if not connection.is_reused or connection.has_heard or not again:
                        raise
                    log.info("! it was closed while it was idle: once more")
                    await connection.close()
                    async with asyncio.timeout(self._timeout):
                        connection = await Connection.open(origin, self._tls, self._sessions)
                    response = await connection.ask(request, self._timeout, self._expect_seconds)
                yield connection, response
            finally:
                if connection.is_reusable() and not self._closed:
                    connection.keep(self._kept, self._idle_seconds)
                else:
                    await connection.close()

    @contextlib.asynccontextmanager
    async def _turn(self, origin: Origin) -> AsyncIterator[None]:
        """Wait until there are not too many requests at a time, to this origin and in all."""
        async with self._turns_of.setdefault(origin, asyncio.Semaphore(self._per_host)), self._turns:
            self._busy += 1
            try:
                yield
            finally:
                self._busy -= 1

    async def _connection(self, origin: Origin) -> Connection:
        """The one that was used last, for that is the least likely to be closed already; or a new one."""
        if self._closed:
            raise LocalProtocolError("the client is closed")
        while found := next((kept for kept in reversed(self._kept) if kept.origin == origin), None):
            if await found.take(self._kept):
                return found
            await found.close()
        await self._shrink(self._most - self._busy)
        return await Connection.open(origin, self._tls, self._sessions)

    async def _shrink(self, most: int) -> None:
        """Keep so many connections at most."""
        while len(self._kept) > most:
            oldest = self._kept[0]
            await oldest.take(self._kept)
            await oldest.close()


def redirected(request: Request, response: Response) -> Request | None:
    """The request to make next (RFC 9110 §15.4). None: this is no redirect, or the body cannot be sent again.

    A POST becomes a GET after 301 and 302, because that is what all browsers do. Other origins are told no secrets.
    """
    if response.status not in (301, 302, 303, 307, 308) or "location" not in response.fields:
        return None
    method, url, fields, body, expect = request
    location = NO_URL.sub(percent, response.fields["location"])
    if (response.status == 303 and method != "HEAD") or (response.status in (301, 302) and method == "POST"):
        method, body, expect = "GET", None, False
        fields = [(name, value) for name, value in fields if not name.lower().startswith("content-")]
    elif not request.is_repeatable:
        return None
    try:
        parts = urlsplit(urljoin(url, location))
        path, query = (re.sub(r"[\[\]]", percent, part) for part in (parts.path, parts.query))
        url = parts._replace(path=path, query=query).geturl()
        origin, target = split(url)
        request_line(f"{method} {target} HTTP/1.1")
        if not is_host(origin.authority) or not origin.host.encode("idna"):
            raise ValueError
    except (ValueError, LocalProtocolError, RemoteProtocolError):  # UnicodeError, from IDNA, is a ValueError.
        raise RemoteProtocolError(f"a redirect to {location[:200]!r}, which is no URL of HTTP") from None
    if origin != split(request.url)[0]:
        fields = [(name, value) for name, value in fields if name.lower() not in (*SECRETS, "host")]
    return Request(method, url, fields, body, expect)


def percent(found: re.Match[str]) -> str:
    """RFC 3986 §2.1."""
    return f"%{ord(found[0]):02X}"


async def pipeline(
    urls: Sequence[str], *, timeout: float = 10, max_answer: int = MAX_ANSWER, ssl: ssl.SSLContext | None = None
) -> list[Answer[bytes]]:
    """GET all of them, of one origin, over one connection and at once: the answers come in order, RFC 9112 §9.3.2."""
    origins = {split(url)[0] for url in urls}
    if len(origins) != 1:
        raise LocalProtocolError(f"URLs of {len(origins)} origins for one connection")
    answers: list[Answer[bytes]] = []
    async with asyncio.timeout(timeout):
        connection = await Connection.open(origins.pop(), ssl, {})
        try:
            for url in urls:
                connection.send(Request("GET", url, ()))
            for url in urls:
                status, reason, fields, pairs, _ = await connection.head(None)
                async with contextlib.aclosing(connection.body(None)) as pieces:
                    answers.append(Answer(status, reason, fields, pairs, url, await collect(pieces, max_answer)))
        finally:
            await connection.close()
    return answers


async def show(options: argparse.Namespace) -> int:
    async with Client(timeout=options.timeout) as client:
        return 0 if await command.status_of(client, options) < 400 else 1


def main() -> int:
    options = command.requested(command.request_parser("http1", URL))
    server = "tls-server" if options.url.startswith("https:") else "http1-server"
    return command.main(log, lambda: show(options), peer=options.url, server=server, late=options.late)


if __name__ == "__main__":
    sys.exit(main())
