"""What clients/http1.py keeps in its pool: a TCP connection, and one request after the other on it.

The body of a request is sent while its answer is read, for the answer may come first (413: too large, stop it).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import socket
import ssl
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import NamedTuple
from urllib.parse import urlsplit

import certs
from certs.contexts import client_context
from clients.tls_stream import Stream, connect
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http1 import ClientConnection, Data, Event, Pairs, Response

READ = 1 << 18  # bytes taken from the socket at a time
SHOWN = 60  # bytes of a piece of a body that are logged
INTERIM = 20  # answers with 1xx before the final one
TURN = 64  # events, or steps of unpacking, until all others have their turn: a server could keep us busy for ever
PACKED = 4096  # bytes that are unpacked in a step; zlib copies what is left of them whenever a file ends
UNPACKED = 1 << 16  # bytes that come out of it at most
ENDLESS = 1 << 62  # The core's limit for bodies: they are not kept here, so the user sets it.
PORTS = {"http": 80, "https": 443}
SESSIONS = 100  # that are kept to resume TLS with, one for each origin

log = logging.getLogger("clients.http1")

Body = bytes | AsyncIterable[bytes] | None


class Request(NamedTuple):
    method: str
    url: str
    fields: Pairs
    body: Body = None
    expect: bool = False  # Wait for 100 (Continue) before the body.

    @property
    def is_repeatable(self) -> bool:
        return self.body is None or isinstance(self.body, bytes)


class Origin(NamedTuple):
    """Whom a connection leads to."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """As in Host: without the port that is understood."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


@functools.lru_cache(256)
def split(url: str) -> tuple[Origin, str]:
    """Whom to ask, and for what. LocalProtocolError: no URL of HTTP, or one with a password in it (RFC 9110 §4.2.4)."""
    with contextlib.suppress(ValueError):  # a port, or an IPv6 address, that is none
        parts = urlsplit(url)
        port = PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
        if re.fullmatch(r"(?i:https?)://[!-~]+", url) and parts.hostname and port and "@" not in parts.netloc:
            return Origin(parts.scheme, parts.hostname, port), (parts.path or "/") + "?" * bool(
                parts.query
            ) + parts.query
    raise LocalProtocolError(f"{url[:200]!r} is not like http://host:port/path")


Sessions = dict[Origin, ssl.SSLSession]


@functools.cache
def context() -> ssl.SSLContext:
    """Trusts whom this machine trusts, and the lab's own authority, which can vouch for the lab's names only."""
    found = client_context(trust=None)
    if (root := certs.FOLDER / "root.pem").is_file():
        found.load_verify_locations(root)
    return found


class Connection:
    """One TCP connection, and what is known of the request on it."""

    def __init__(
        self, origin: Origin, reader: asyncio.StreamReader | Stream, writer: asyncio.StreamWriter | Stream
    ) -> None:
        self.origin, self._reader, self._writer = origin, reader, writer
        self._http = ClientConnection(max_body=ENDLESS)
        self._upload: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None  # while it is kept
        self._go = asyncio.Event()  # The server wants the body.
        self._error: Exception | None = None  # out of the caller's own body
        self._has_moved = self._is_closed = False
        self._stream: Stream | None = None  # with TLS, and then
        self._sessions: Sessions = {}
        self._events = 0
        self.has_heard = False
        """Has a byte of the answer arrived?"""
        self.is_reused = False

    @classmethod
    async def open(cls, origin: Origin, tls: ssl.SSLContext | None, sessions: Sessions) -> Connection:
        """*sessions* has what TLS can be resumed with, and gets what can be used the next time."""
        try:
            if origin.scheme == "https":
                session = sessions.pop(origin, None)  # Used once: two connections with one could be told to be ours.
                stream = await connect(
                    origin.host, origin.port, context=tls or context(), session=session, timeout=None
                )
                connection = cls(origin, stream, stream)
                connection._stream, connection._sessions = stream, sessions
            else:
                connection = cls(origin, *await asyncio.open_connection(origin.host, origin.port))
        except UnicodeError:  # IDNA: a label that is empty, or longer than 63
            raise socket.gaierror(socket.EAI_NONAME, f"{origin.host[:80]!r} is no name of a host") from None
        log.info("= connected to %s port %d", origin.host, origin.port)
        return connection

    async def close(self) -> None:
        if not self._is_closed:
            if self._stream:
                self._keep_session(self._stream)
                self._stream.close()
            else:
                self._writer.transport.abort()  # Nothing is left to send: all is answered, or something failed.
            log.info("= closed")
        self._is_closed = True
        if self._upload:
            self._upload.cancel()
            await asyncio.wait([self._upload])

    def _keep_session(self, stream: Stream) -> None:
        if session := stream.session:
            self._sessions.pop(self.origin, None)
            self._sessions[self.origin] = session
            if len(self._sessions) > SESSIONS:
                del self._sessions[next(iter(self._sessions))]

    # Sending.

    def send(self, request: Request, expect_seconds: float = 0) -> None:
        """Send a request. If its body is not in memory, or not wanted yet, that is sent piece by piece, meanwhile."""
        _, target = split(request.url)
        names, body = {name.lower() for name, _ in request.fields}, request.body
        fields = [*([] if "host" in names else [("Host", self.origin.authority)]), *request.fields]
        if body is None and names & {"content-length", "transfer-encoding"}:
            raise LocalProtocolError("the fields speak of a body, and there is none")
        at_once = body if isinstance(body, bytes) and not request.expect else None
        if body is not None and at_once is None:
            if isinstance(body, bytes):
                fields.append(("Content-Length", str(len(body))))
            elif "content-length" not in names:
                fields.append(("Transfer-Encoding", "chunked"))
            if request.expect:
                fields.append(("Expect", "100-continue"))
        data = self._http.send_request(request.method, target, fields, at_once)
        for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n"):
            log.info("> %s", repr(line)[2:-1])
        self._writer.write(data)
        if body is not None and at_once is None:
            self._go = asyncio.Event()
            if not request.expect:
                self._go.set()
            self._upload = asyncio.create_task(self._send_body(body, expect_seconds))

    async def _send_body(self, body: bytes | AsyncIterable[bytes], wait: float) -> None:
        """Each piece when the server has taken the one before."""
        try:
            with contextlib.suppress(TimeoutError):  # Not every server knows 100 (RFC 9110 §10.1.1).
                async with asyncio.timeout(wait):
                    await self._go.wait()
            self._go.set()
            async for piece in one(body) if isinstance(body, bytes) else body:
                log.info("> %s", shown(piece))
                self._writer.write(self._http.send_data(piece))
                try:
                    await self._writer.drain()
                except ConnectionError:
                    return  # The server takes no more. Perhaps it has said why.
                self._has_moved = True
            self._writer.write(self._http.end())
        except Exception as error:
            self._error = error
            self._writer.transport.abort()  # Half a body must not pass for a whole one.
        finally:
            if isinstance(body, AsyncGenerator):
                await body.aclose()

    # Receiving.

    async def ask(self, request: Request, seconds: float | None, expect_seconds: float) -> Response:
        """Send a request, return the head of its answer."""
        self._upload, self._error = None, None
        self.send(request, expect_seconds)
        response = await self.head(seconds)
        if self._upload and (response.status >= 300 or not self._go.is_set()):
            self._upload.cancel()  # Nobody wants the rest of the body: RFC 9112 §9.5.
        return response

    async def head(self, seconds: float | None) -> Response:
        """The next final answer's."""
        self.has_heard = False
        for _ in range(INTERIM):
            event = await self._event(seconds)
            if not isinstance(event, Response):
                raise RemoteProtocolError("the server has closed the connection without an answer")
            log.info("< HTTP/1.1 %d %s", event.status, repr(event.reason)[1:-1])
            for name, value in event.pairs:
                log.info("< %s: %s", name, repr(value)[1:-1])
            if event.status == 101:
                raise RemoteProtocolError("101: what comes now is another protocol, which is not spoken here")
            if event.status >= 200:
                return event
            if event.status == 100:
                self._go.set()
        raise RemoteProtocolError(f"{INTERIM} interim answers, and no final one")

    async def body(self, seconds: float | None) -> AsyncGenerator[bytes, None]:
        while isinstance(event := await self._event(seconds), Data):
            log.info("< %s", shown(event.data))
            yield event.data

    async def _event(self, seconds: float | None) -> Event:
        """What the server says next. TimeoutError: nothing went to and fro for so long."""
        self._events += 1
        if self._events % TURN == 0:
            await asyncio.sleep(0)  # As long as something is here already, nothing below lets others run.
        try:
            while (event := self._http.next_event()) is None:
                self._has_moved = False
                try:
                    async with asyncio.timeout(seconds):
                        data = await self._reader.read(READ)
                except TimeoutError:
                    if not self._has_moved:
                        raise
                else:
                    self.has_heard = self.has_heard or data != b""
                    self._http.receive_data(data)
        except (ConnectionError, RemoteProtocolError) as error:
            if self._error:
                raise self._error from None
            if not self.has_heard:
                raise RemoteProtocolError("the server has closed the connection without an answer") from error
            raise
        if self._error:
            raise self._error
        return event

    # Between two requests.

    def is_reusable(self) -> bool:
        """Is all sent, and the answer read, or a short rest here? Else the next answer would not be the next one's."""
        if not self._http.keep_alive:
            return False
        with contextlib.suppress(RemoteProtocolError):
            for _ in range(TURN):
                if not isinstance(self._http.next_event(), Data):
                    break
        return self._http.is_idle and not self._writer.transport.get_write_buffer_size()

    def keep(self, kept: list[Connection], seconds: float) -> None:
        """Be one of those that are kept, for so long, or until the server ends it, or says what nobody has asked."""

        async def watch() -> None:
            with contextlib.suppress(OSError):  # TimeoutError is one
                async with asyncio.timeout(seconds):
                    await self._reader.read(1)  # RFC 9112 §9.2: whatever comes now answers nothing.
            if self in kept:
                kept.remove(self)
                await self.close()

        kept.append(self)
        self._watch = asyncio.create_task(watch())

    async def take(self, kept: list[Connection]) -> bool:
        """Be kept no more. Is it still good, up to this moment?"""
        kept.remove(self)
        assert self._watch is not None
        self._watch.cancel()
        await asyncio.wait([self._watch])
        try:
            async with asyncio.timeout(0):
                await self._reader.read(1)
        except TimeoutError:  # Nothing came.
            self.is_reused = True
            return True
        except OSError:
            pass
        return False


async def unzip(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Unpack gzip, at most UNPACKED bytes at a time: a packed kilobyte can be a megabyte, and is not held in memory."""
    inflate, begun, steps = zlib.decompressobj(wbits=31), False, 0
    async for piece in pieces:
        begun = True
        for start in range(0, len(piece), PACKED):
            packed = piece[start : start + PACKED]
            while packed:
                steps += 1
                if steps % TURN == 0:
                    await asyncio.sleep(0)
                if inflate.eof:
                    inflate = zlib.decompressobj(wbits=31)  # one file behind the other: RFC 1952 §2.2
                try:
                    unpacked = inflate.decompress(packed, UNPACKED)
                except zlib.error as error:
                    raise RemoteProtocolError(f"this is not gzip: {error}") from None
                if unpacked:
                    yield unpacked
                packed = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
    if begun and not inflate.eof:
        raise RemoteProtocolError("the packed answer ends in the middle")


async def collect(pieces: AsyncIterable[bytes], most: int) -> bytes:
    """All of them as one. RemoteProtocolError: more than *most* bytes."""
    found, size = [], 0
    async for piece in pieces:
        found.append(piece)
        size += len(piece)
        if size > most:
            raise RemoteProtocolError(f"an answer of more than {most} bytes")
    return b"".join(found)


async def one(piece: bytes) -> AsyncIterator[bytes]:
    yield piece


def shown(piece: bytes) -> str:
    more = f" and {len(piece) - SHOWN} more bytes" if len(piece) > SHOWN else ""
    return f"{piece[:SHOWN]!r}{more}"
