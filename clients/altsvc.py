"""A client that finds HTTP/3 as browsers do: it begins over TCP, and goes where Alt-Svc says (RFC 7838; 9114 §3.1.1).

    async with Browser() as browser:
        await browser.request("GET", "https://127.0.0.1:7007/")     over TCP: HTTP/2, or 1.1. alt-svc: h3=":7007"
        await browser.request("GET", "https://127.0.0.1:7007/")     over QUIC, on the same port
        browser.next_hop["https://127.0.0.1:7007"]                  h3

A name leads to an address, and an address to a TCP port; nothing tells whether anybody listens for UDP, or whether it
gets through: some networks drop all of it, without a word. So QUIC gets one second (`patience`) to show a sign of life.
If there is none the request goes over TCP, its user sees no error, and QUIC is left alone for five minutes, then ten, …

What must not happen twice does not: before a POST the path has to be seen to work, and if it fails behind that, that is
an error, as it is over TCP.

Run:   make http3-server   and in a second terminal   make http3-client ARGS=--h2-first
Left out on purpose: the ALTSVC frame of HTTP/2, HTTPS records of the DNS, racing both, noticing that the network is
another one (persist), and what clients/http2.py says.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import certs
from certs.channel import TlsError
from certs.contexts import client_context
from clients import http1, http2, http3
from clients.http1_connection import Origin, Request, split
from clients.http2_connection import Connection, Unprocessed, log
from clients.quic import Ticket
from protocols.altsvc import BROKEN, Alternative, Cache
from protocols.errors import RemoteProtocolError
from protocols.http2_client import Response
from protocols.http2_messages import Pairs
from protocols.semantics import IDEMPOTENT, SAFE
from protocols.tls_numbers import Alert

PATIENCE = 1.0  # seconds in which something must come back over UDP
PROTOCOLS = (b"h3",)  # that can be alternatives: "h2" elsewhere would bring nothing new

Found = tuple[Any, Any, Response]
"""A connection, a request on it, and the head of its answer."""


class NoHttp2(Exception):
    """Over TCP the server speaks HTTP/1.1 only."""


class Browser(http2.Client):
    """Requests over what each server speaks best: request() and stream(), as clients/http2.py has them.

    trust     a file with the authorities to trust (default: the lab's); None: those of this machine
    patience  seconds in which something must come back over UDP; then the request goes over TCP
    broken    seconds that QUIC is left alone then; after the next failure twice as long, and so on
    tickets   of QUIC connections that were, as in clients/http3.py
    options   those of http2.Client
    """

    def __init__(
        self,
        *,
        trust: Path | None = certs.FOLDER / "root.pem",
        patience: float = PATIENCE,
        broken: float = BROKEN,
        tickets: dict[Origin, Ticket] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(ssl=client_context(trust=trust, alpn=["h2"]), **options)
        self._quic = http3.Client(trust=trust, patience=patience, tickets=tickets, **options)
        self._http1 = http1.Client(
            timeout=self._timeout, idle_seconds=self._idle_seconds, ssl=client_context(trust=trust, alpn=["http/1.1"])
        )
        self._patience = patience
        self._only_http1: set[Origin] = set()
        self._using: dict[Origin, Alternative] = {}  # over which there is a connection, if it has not ended
        self.alternatives = Cache(broken)
        """What the servers have told, and what of it does not work."""
        self.next_hop: dict[str, str] = {}
        """What the last answer of each origin came over: `h3`, `h2` or `http/1.1`."""

    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__()
        await self._quic.__aexit__()
        await self._http1.__aexit__()

    @contextlib.asynccontextmanager
    async def _exchange(self, request: Request) -> AsyncIterator[Found]:
        origin = split(request.url)[0]
        async with contextlib.AsyncExitStack() as stack:
            way = "h3"
            found = await self._over_quic(stack, request, origin)
            if found is None:
                way, found = await self._over_tcp(stack, request, origin)
            self.next_hop[f"{origin.scheme}://{origin.authority}"] = way
            self._learn(origin, found[2])
            yield found

    def _learn(self, origin: Origin, response: Response) -> None:
        """Where else the origin is to be found. Only TLS can know that it says so itself (RFC 7838 §2.1)."""
        value = response.fields.get("alt-svc")
        if value is None or response.status == 421 or origin.scheme != "https":
            return
        age = response.fields.get("age", "")
        now = self._now()
        before = self.alternatives.find(origin, PROTOCOLS, now)
        self.alternatives.learn(origin, value, now, age=int(age[:10]) if age.isascii() and age.isdigit() else 0)
        after = self.alternatives.find(origin, PROTOCOLS, now)
        if after and not before:
            log.info("= Alt-Svc: the next request goes over QUIC, to %s, for %d s", after.authority, after.max_age)
        if after is None:
            self._using.pop(origin, None)

    # QUIC.

    async def _over_quic(self, stack: contextlib.AsyncExitStack, request: Request, origin: Origin) -> Found | None:
        """None: it is to go over TCP. What may not run twice is then known not to have run."""
        one = self.alternatives.find(origin, PROTOCOLS, self._now())
        if one is None and self._quic.has_one(origin):
            one = self._using.get(origin)  # Too old to begin with, but not to go on with (RFC 7838 §2.2).
        if one is None:
            return None
        route = one.host.strip("[]") or origin.host, one.port
        self._quic.use(origin, route)
        is_sent = False
        try:
            can_be_early = request.method in SAFE and request.body is None
            async with asyncio.timeout(self._patience):
                await self._quic.ready(origin, wait=not can_be_early)
            is_sent = True
            found: Found = await stack.enter_async_context(self._quic._exchange(request))
        except (RemoteProtocolError, OSError) as error:
            if is_sent and self._quic.has_one(origin) and not isinstance(error, Unprocessed):
                raise  # The connection is good; it is the answer that is not.
            self._failed(origin, one, error)
            may_run = not is_sent or isinstance(error, Unprocessed) or request.method in IDEMPOTENT
            if not may_run or (is_sent and not request.is_repeatable):
                raise
            return None
        if found[0].route == route:  # Another request may have moved to another meanwhile.
            self.alternatives.works(origin, one)
            self._using[origin] = one
        if found[2].status == 421 and request.is_repeatable:  # RFC 7838 §6: whatever the method is
            log.info("! 421: %s port %d does not speak for this origin", *route)
            self.alternatives.forget(origin, one)
            self._using.pop(origin, None)
            await stack.aclose()
            return None
        return found

    def _failed(self, origin: Origin, one: Alternative, error: Exception) -> None:
        self._using.pop(origin, None)
        if self.alternatives.find(origin, PROTOCOLS, self._now()) == one:  # Nobody else has seen it meanwhile.
            seconds = self.alternatives.failed(origin, one, self._now())
            why = str(error) or f"nothing came back for {self._patience:g} s"
            log.info("! over QUIC: %s. It is left alone for %g s", why, seconds)

    # TCP.

    async def _over_tcp(self, stack: contextlib.AsyncExitStack, request: Request, origin: Origin) -> tuple[str, Found]:
        if origin.scheme == "https" and origin not in self._only_http1:
            try:
                return "h2", await stack.enter_async_context(super()._exchange(request))
            except NoHttp2:
                self._only_http1.add(origin)
        connection, response = await stack.enter_async_context(self._http1._exchange(request))
        status, _, fields, pairs, _ = response
        return "http/1.1", (Http1(connection), Http1Exchange(), Response(0, status, fields, pairs))

    async def _open(self, origin: Origin) -> Connection:
        try:
            return await super()._open(origin)
        except TlsError as error:
            if error.alert != Alert.NO_APPLICATION_PROTOCOL:
                raise
            raise NoHttp2 from error
        except RemoteProtocolError as error:
            raise NoHttp2 from error

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


class Http1Exchange(NamedTuple):
    """What clients/http1.py does not tell."""

    trailers: Pairs = ()
    interim: tuple[Response, ...] = ()


class Http1(NamedTuple):
    """A connection with one request at a time, as one with many is asked."""

    connection: Any

    def body(self, _: Http1Exchange, seconds: float | None) -> AsyncGenerator[bytes, None]:
        found: AsyncGenerator[bytes, None] = self.connection.body(seconds)
        return found
