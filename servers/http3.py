r"""HTTP/3: the same site over QUIC; and h1, h2 and h3 side by side, on one port number.

No client knows beforehand that there is HTTP/3: a URL says https, and that means TCP. So the servers on TCP say where
else the same site can be had (RFC 7838), and who has read it asks there the next time:

    alt-svc: h3=":7007"; ma=86400

Frames are the business of protocols/http3_frames.py, rules of protocols/http3.py, answers of servers/site.py, datagrams
of servers/quic_endpoint.py (and of aioquic); in between is servers/http3_talk.py.

Run:   make http3-server                             and in a second terminal:   make http3-client
Try:   curl -i --cacert certs/root.pem https://localhost:7007/              HTTP/2, with alt-svc
       gtlsclient --exit-on-all-streams-close 127.0.0.1 7007 https://localhost:7007/     every packet and frame
       chromium --host-resolver-rules="MAP localhost 127.0.0.1" --origin-to-force-quic-on=localhost:7007 \
           https://localhost:7007/tiles              if it trusts certs/root.pem (lab 04); its console may be asked:
       performance.getEntriesByType("navigation")[0].nextHopProtocol
Left out on purpose: server push, which browsers have given up; CONNECT and what is built on it; datagrams (RFC 9297).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Literal

from aioquic.quic.configuration import QuicConfiguration

from certs.quic import quic_server
from servers import command, http1, http1_talk, http2, site
from servers.http1_talk import Respond
from servers.http3_talk import Http3Limits, Talk
from servers.quic_endpoint import Endpoint, Limits, open_socket
from servers.quic_tokens import Tickets
from servers.tls import lab_context

PORT = 7007
ONE_WAY = 16  # streams in one direction: three are needed, a few more are for what nobody knows yet
ATTEMPTS = 20
MAX_AGE = 86400  # seconds that a client may remember where HTTP/3 is

log = logging.getLogger("servers.http3")  # Silent, unless main() gives it a voice.


class Server:
    """A running server: what its connections share."""

    endpoint: Endpoint

    def __init__(self, respond: Respond, limits: Http3Limits) -> None:
        self.respond, self.limits = respond, limits
        self.tick = min(limits[:3])  # seconds; no deadline is nearer than that
        self.address = ("", 0)
        self.date = http1.Server(respond, http1_talk.Limits(*limits[:3], 0, 0, 0)).date
        self.talks: set[Talk] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.logs = log.isEnabledFor(logging.INFO)


def announcing(respond: Respond, port: int) -> Respond:
    """The same answers, which say that they can be had over HTTP/3, too: on this port of this host (RFC 7838 §3)."""
    field = ("alt-svc", f'h3=":{port}"; ma={MAX_AGE}')

    def announce(request: site.Request) -> site.Response | Awaitable[site.Response]:
        response = respond(request)
        return with_field(response) if isinstance(response, site.Response) else later(response)

    async def later(coming: Awaitable[site.Response]) -> site.Response:
        return with_field(await coming)

    def with_field(response: site.Response) -> site.Response:
        return response._replace(fields=(*response.fields, field))

    return announce


@contextlib.asynccontextmanager
async def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    respond: Respond = site.respond,
    ssl: ssl.SSLContext | None = None,
    configuration: QuicConfiguration | None = None,
    retry: bool | Literal["when busy"] = "when busy",
    early_data: bool = True,
    tickets: Tickets | None = None,
    qlog: Path | None = None,
    path_mtu: bool = True,
    head_seconds: float = 10,
    body_seconds: float = 30,
    idle_seconds: float = 60,
    silent_seconds: float = 15,
    grace_seconds: float = 1,
    drain_seconds: float = 10,
    handshake_seconds: float = 10,
    max_connections: int = 10_000,
    max_half_open: int = 1_000,
    busy: int = 100,
    max_streams: int = 100,
    max_fields: int = 32768,
    max_body: int = 1 << 30,
    stream_window: int = 1 << 18,
    connection_window: int = 1 << 22,
) -> AsyncIterator[Server]:
    """Serve within the block; `address` is where. Every limit is there because somebody will try what is beyond it.

    ssl              from certs/contexts.py, with ALPN: HTTP/2 and HTTP/1.1 on TCP, on a port of the same number, and
                     they tell of HTTP/3 (alt-svc)
    configuration    from certs/quic.py, instead of `qlog` and `idle_seconds`
    retry            clients have to prove their address first: always, never, or while more than `busy` are half open
    early_data       may clients send requests with their first flight? What is not safe gets 425 then
    tickets          of several servers, if they share them
    qlog             a folder for what happened, a file per connection
    path_mtu         try larger datagrams than 1200 bytes
    head_seconds     for the fields of a request, from their first byte to their last, and what QPACK needs for them
    body_seconds     between two pieces of a body, in either direction
    idle_seconds     without a request; twice as long without a packet, after which QUIC gives up without a word
    silent_seconds   without an answer to probes, while something is not acknowledged; less when the block ends
    grace_seconds    between the two GOAWAYs, for a client that does not acknowledge the PING between them
    drain_seconds    for what is in flight when the block ends
    handshake_seconds   from a client's first packet to its last of the handshake
    max_connections  that are served at a time; the next one gets CONNECTION_REFUSED
    max_half_open    of them, whose handshake is not complete
    max_streams      that a client may have open at a time
    max_fields       bytes of the fields of a request, by the count of RFC 9114 §4.2.2; more gets 431
    max_body         bytes in the body of a request; more gets 413
    stream_window    bytes of a body that may come before anybody wants them
    connection_window   the same, of all streams of a connection together
    """
    limits = Http3Limits(
        head_seconds, body_seconds, idle_seconds, grace_seconds, max_streams, max_fields, max_body
    )  # fmt: skip
    server = Server(respond, limits)
    configuration = configuration or quic_server(alpn=["h3"], idle_seconds=2 * idle_seconds, qlog=qlog)
    of_quic = Limits(
        max_connections, max_half_open, busy, handshake_seconds, max_streams, ONE_WAY, stream_window, connection_window,
        silent_seconds,
    )  # fmt: skip
    async with contextlib.AsyncExitStack() as stack:
        for attempt in range(ATTEMPTS):
            sock = await open_socket(host, port)
            number = sock.getsockname()[1]
            if ssl is None:
                break
            tcp = http2.serve(
                host, number, respond=announcing(respond, number), ssl=ssl, head_seconds=head_seconds,
                body_seconds=body_seconds, idle_seconds=idle_seconds, drain_seconds=drain_seconds,
                handshake_seconds=handshake_seconds, max_connections=max_connections, max_streams=max_streams,
                max_fields=max_fields, max_body=max_body,
            )  # fmt: skip
            try:
                await stack.enter_async_context(tcp)
                break
            except OSError as error:  # Any number will do, but it must be free for both.
                sock.close()
                if port or error.errno != errno.EADDRINUSE or attempt == ATTEMPTS - 1:
                    raise
        endpoint = server.endpoint = Endpoint(
            sock,
            configuration,
            lambda link: Talk(server, link),
            retry=retry,
            early_data=early_data,
            tickets=tickets,
            path_mtu=path_mtu,
            limits=of_quic,
        )
        server.address = endpoint.address
        try:
            yield server
        finally:
            await endpoint.drain(drain_seconds)
            if server.tasks:
                await asyncio.wait(server.tasks)


def main() -> int:
    """Serve the site on loopback."""
    parser = command.parser("http3", PORT, "Serves the site over HTTP/3 (UDP), HTTP/2 and HTTP/1.1 (TCP).")
    parser.add_argument("--no-tcp", action="store_true", help="HTTP/3 only")
    parser.add_argument("--retry", action="store_true", help="every client has to prove its address first")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # Each connection on TCP is an open file.
    context = None if options.no_tcp else lab_context(alpn=["h2", "http/1.1"])

    def start() -> contextlib.AbstractAsyncContextManager[Server]:
        return serve(options.host, options.port, ssl=context, retry=options.retry or "when busy")

    return command.main("http3", start, options)


if __name__ == "__main__":
    sys.exit(main())
