"""The other half of servers/http3.py: what clients/http2.py does, over QUIC, for https URLs.

    async with Client() as client:
        answer = await client.request("GET", "https://127.0.0.1:7007/")                 # all of it, in answer.body
        async with client.stream("GET", "https://server.lab:7007/bytes/1000000000") as answer:
            async for piece in answer.body: ...                                         # as it is taken, no faster

Nothing in a URL says that it is HTTP/3: this client just knows. How a browser finds out: clients/altsvc.py.

One round trip and the first request is on its way: QUIC's handshake is TLS's. With a ticket of an earlier connection it
is none: the request goes out beside the ClientHello (0-RTT). Anybody who saw that can send it once more, so this client
sends in that way only what changes nothing (GET, HEAD, …), and what the server does not want so early (425) once more.

Run:   make http3-server   and in a second terminal   make http3-client
Try:   make http3-client ARGS='--n 3'       the second request's fields in fewer bytes: QPACK has seen them before
       make http3-client ARGS='--n 32 https://127.0.0.1:7007/bytes/100000'      the streams' frames, mixed
       make http3-client ARGS='--again'     once more, on a new connection: 0-RTT
       make http3-client ARGS='--h2-first'  begin over TCP, and see Alt-Svc move the second request to QUIC
Exit:  0 answered; 1 an error status, no proper answer, or none in time; 2 could not run (no connection, a bad
       argument); 130 Ctrl-C
Left out on purpose: server push (none is allowed), CONNECT, trailers of requests, DATAGRAMs, cookies, caching.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import certs
from clients import command, http2
from clients.http1_connection import SESSIONS, Origin, Request
from clients.http2 import Answer
from clients.http2_connection import Exchange
from clients.http3_connection import Connection, log
from clients.quic import Ticket
from protocols.errors import LocalProtocolError
from protocols.http2_client import Response

__all__ = ["Answer", "Client"]

URL = "https://127.0.0.1:7007/"
PATIENCE = 3.0  # seconds in which a sign of life must come when we ask for one


class Client(http2.Client):
    """A connection per server, and requests over them: request() and stream(), as clients/http2.py has them.

    trust     a file with the authorities to trust (default: the lab's); None: those of this machine
    patience  seconds in which a sign of life must come when we ask for one. A slow server gives it, a blocked path not
    early     with a ticket, send what changes nothing before the handshake is complete (0-RTT)
    tickets   of connections that were, by origin: to be had and given again, if a new client shall resume them
    qlog      a folder, as in certs/quic.py
    options   those of http2.Client
    """

    def __init__(
        self,
        *,
        trust: Path | None = certs.FOLDER / "root.pem",
        patience: float = PATIENCE,
        early: bool = True,
        tickets: dict[Origin, Ticket] | None = None,
        qlog: Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._trust, self._patience, self._early, self._qlog = trust, patience, early, qlog
        self.tickets: dict[Origin, Ticket] = {} if tickets is None else tickets
        self.routes: dict[Origin, tuple[str, int]] = {}
        """Host and port to connect to, where these are not the origin's own."""

    def use(self, origin: Origin, route: tuple[str, int]) -> None:
        """Connect there from now on. What goes elsewhere gets no more requests."""
        self.routes[origin] = route
        connections: list[Any] = self._connections
        for connection in connections:
            if connection.origin == origin and connection.route != route:
                connection.retire()

    async def ready(self, origin: Origin, wait: bool) -> None:
        """Have a connection on which something was heard not long ago. *wait*: one whose handshake is complete.

        OSError, RemoteProtocolError: there is none, and nothing was asked.
        """
        connection: Any = await self._connection(origin)
        await connection.ready(wait)

    def has_one(self, origin: Origin) -> bool:
        """Is there a connection already?"""
        return any(connection.origin == origin and connection.is_usable for connection in self._connections)

    async def _open(self, origin: Origin) -> Connection:  # type: ignore[override]  # It is used in the same way.
        if origin.scheme != "https":
            raise LocalProtocolError("HTTP/3 is for https: QUIC always encrypts")
        for old in [old for old in self.tickets if old != origin][: len(self.tickets) - SESSIONS]:
            del self.tickets[old]
        return await Connection.open(
            origin, route=self.routes.get(origin), window=self._window, idle=self._idle_seconds,
            patience=self._patience, trust=self._trust, tickets=self.tickets, early=self._early, qlog=self._qlog,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def _exchange(self, request: Request) -> AsyncIterator[tuple[Any, Exchange, Response]]:
        async with super()._exchange(request) as found:
            connection: Any = found[0]
            if found[2].status != 425 or not connection.was_early(found[1]):
                yield found
                return
        log.info("! 425: not so early. Once more, now that the handshake is complete")
        await connection.ready(wait=True)
        async with super()._exchange(request) as found:  # RFC 8470 §5.2: any request, but only once
            yield found


async def show(options: argparse.Namespace) -> int:
    """All requests at once, on one connection."""
    if options.h2_first:
        from clients.altsvc import Browser  # It is built on what is here.

        async with Browser(timeout=options.timeout) as browser:
            statuses = [await command.status_of(browser, options), await command.status_of(browser, options)]
            return 0 if max(statuses) < 400 else 1
    statuses = []
    tickets: dict[Origin, Ticket] = {}
    for _ in range(2 if options.again else 1):
        async with Client(timeout=options.timeout, tickets=tickets) as client:
            statuses += await asyncio.gather(*(command.status_of(client, options) for _ in range(options.n)))
    return 0 if max(statuses) < 400 else 1


def main() -> int:
    parser = command.request_parser("http3", URL)
    parser.add_argument("--n", type=command.count, default=1, help="so many requests, at once")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--again", action="store_true", help="then once more, on a new connection that resumes this one")
    way.add_argument("--h2-first", action="store_true", help="begin over TCP, twice: Alt-Svc tells where HTTP/3 is")
    options = command.requested(parser)
    return command.main(log, lambda: show(options), peer=options.url, server="http3-server", late=options.late)


if __name__ == "__main__":
    sys.exit(main())
