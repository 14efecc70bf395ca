r"""QUIC: connections over UDP, each with many streams; a loss holds up the streams whose bytes it took, and no other.

aioquic keeps the books of a connection, with what protocols/quic.py adds; servers/quic_endpoint.py holds the socket and
deals with strangers; servers/quic_talk.py makes streams of what comes. Here is what is served, under two names (ALPN):

    hq-interop   HTTP/0.9, as QUIC's makers use it among themselves: "GET /path", and the body comes back on the stream
    lab          a line, then data:   echo        what comes goes back
                                      bytes N     N bytes, as /bytes/N of the site
                                      count NAME  one more; and how many there are now
                 and DATAGRAM frames come back as they are

Early data (0-RTT) can be replayed by anybody who has seen it. `echo` and `bytes` do no harm twice, and are answered at
once; `count` waits until the handshake is complete, which a replay never makes (RFC 9001 §9.2). And a ticket is good
for early data only once: servers/quic_tokens.py.

Run:   make quic-server                                 ARGS=--retry: every client has to prove its address first
Try:   make quic-client
       SSLKEYLOGFILE=/tmp/keys make quic-server         and Wireshark can read it all;  QLOGDIR=/tmp/qlog  is for qvis
Left out on purpose: a preferred address (RFC 9000 §9.6), ECN (§13.4), connection IDs that tell a balancer where to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

from aioquic.quic.configuration import QuicConfiguration

from certs.quic import quic_server
from servers import command, site
from servers.quic_endpoint import Endpoint, Limits, open_socket
from servers.quic_talk import Handler, Stream, Talk
from servers.quic_tokens import Tickets

PORT = 7006
PROTOCOLS = ("hq-interop", "lab")
NAMES = 1000  # of counters

log = logging.getLogger("servers.quic")  # Silent, unless main() gives it a voice.


# -- What is served ----------------------------------------------------------------------------------


async def answer(stream: Stream) -> None:
    """By the protocol that was agreed on."""
    await (command_line(stream) if stream.protocol == "lab" else page(stream))


async def page(stream: Stream) -> None:
    """HTTP/0.9: the path, and the body; no status, no fields."""
    method, _, target = (await stream.read_line()).decode("latin-1").partition(" ")
    if method != "GET" or not stream.can_write:
        raise ValueError("GET and a path, on a stream that can be answered")
    log.info(
        "< %s stream %d GET %s%s", stream.talk.link.peer[1], stream.number, target[:100], " (early)" * stream.early
    )
    response = await site.answer(site.Request("GET", target, {}, nothing()))
    if isinstance(response.body, bytes):
        await stream.write(response.body)
    else:
        async for piece in response.body:
            await stream.write(piece)
    stream.finish()


async def nothing() -> AsyncIterator[bytes]:
    """A body that is empty."""
    pieces: tuple[bytes, ...] = ()
    for piece in pieces:
        yield piece


async def command_line(stream: Stream) -> None:
    line = (await stream.read_line()).decode("latin-1")
    log.info("< %s stream %d %s%s", stream.talk.link.peer[1], stream.number, line[:100], " (early)" * stream.early)
    if not stream.can_write and not line.startswith("count"):
        raise ValueError("there is no way back on this stream")
    if line == "echo":
        while data := await stream.read():
            await stream.write(data)
        stream.finish()
    elif found := re.fullmatch(r"bytes ([0-9]{1,12})", line):
        for piece in site.cut_pattern(0, int(found[1])):
            await stream.write(piece)
        stream.finish()
    elif found := re.fullmatch(r"count ([!-~]{1,40})", line):
        await stream.confirmed()  # Not twice: see above.
        counts = stream.server.counts
        if found[1] not in counts and len(counts) >= NAMES:
            raise ValueError("too many names")
        counts[found[1]] += 1
        stream.finish(b"%d\n" % counts[found[1]])
    else:
        raise ValueError(f"nobody knows {line[:40]!r}")


# -- The server --------------------------------------------------------------------------------------


class Server:
    """A running server: what its connections share."""

    endpoint: Endpoint

    def __init__(self, handler: Handler, stall_seconds: float) -> None:
        self.handler, self.stall_seconds = handler, stall_seconds
        self.counts: Counter[str] = Counter()
        self.tasks: set[asyncio.Task[None]] = set()
        self.address = ("", 0)


@contextlib.asynccontextmanager
async def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    handler: Handler = answer,
    protocols: Sequence[str] = PROTOCOLS,
    configuration: QuicConfiguration | None = None,
    qlog: Path | None = None,
    retry: bool | Literal["when busy"] = "when busy",
    early_data: bool = True,
    replay_cache: bool = True,
    tickets: Tickets | None = None,
    key: bytes | None = None,
    path_mtu: bool = True,
    idle_seconds: float = 30,
    silent_seconds: float = 15,
    handshake_seconds: float = 10,
    stall_seconds: float = 30,
    drain_seconds: float = 10,
    max_connections: int = 10_000,
    max_half_open: int = 1_000,
    busy: int = 100,
    max_streams: int = 100,
    stream_window: int = 1 << 18,
    connection_window: int = 1 << 20,
) -> AsyncIterator[Server]:
    """Serve within the block; `address` is where. Every limit is there because somebody will try what is beyond it.

    handler            what answers a stream
    configuration      from certs/quic.py, instead of `protocols`, `qlog` and `idle_seconds`
    retry              clients have to prove their address first: always, never, or while more than `busy` are half open
    early_data         may clients send requests with their first flight? What waits for nothing can then be replayed
    replay_cache       a ticket is good once. False: a recorded first flight works again and again
    tickets            of several servers, if they share them
    key                for tokens and stateless resets: who has the same after a restart, can say that it has forgotten
    path_mtu           try larger datagrams than 1200 bytes
    idle_seconds       without a packet
    silent_seconds     without an answer to probes, while something is not acknowledged; less when the block ends
    handshake_seconds  from a client's first packet to its last of the handshake
    stall_seconds      that a stream may wait for the client, in either direction
    drain_seconds      for what is in flight when the block ends
    max_connections    that are served at a time; the next one gets CONNECTION_REFUSED
    max_half_open      of them, whose handshake is not complete
    max_streams        that a client may have open at a time
    stream_window      bytes of a stream that may come before anybody wants them
    connection_window  the same, of all streams of a connection together
    """
    server = Server(handler, stall_seconds)
    configuration = configuration or quic_server(alpn=protocols, idle_seconds=idle_seconds, qlog=qlog)
    server.endpoint = Endpoint(
        await open_socket(host, port),
        configuration,
        lambda link: Talk(server, link),
        retry=retry,
        early_data=early_data,
        tickets=tickets or Tickets(only_once=replay_cache),
        key=key,
        path_mtu=path_mtu,
        limits=Limits(
            max_connections, max_half_open, busy, handshake_seconds, max_streams, max_streams, stream_window,
            connection_window, silent_seconds,
        ),
    )  # fmt: skip
    server.address = server.endpoint.address
    try:
        yield server
    finally:
        await server.endpoint.drain(drain_seconds)
        for task in server.tasks:
            task.cancel()
        if server.tasks:
            await asyncio.wait(server.tasks)


def main() -> int:
    """Serve on loopback."""
    parser = command.parser("quic", PORT, "Serves the site (hq-interop), and commands on streams (lab), over QUIC.")
    parser.add_argument("--retry", action="store_true", help="every client has to prove its address first")
    parser.add_argument("--no-early-data", action="store_true", help="no 0-RTT")
    options = parser.parse_args()

    def start() -> contextlib.AbstractAsyncContextManager[Server]:
        retry: bool | Literal["when busy"] = True if options.retry else "when busy"
        return serve(options.host, options.port, retry=retry, early_data=not options.no_early_data)

    return command.main("quic", start, options)


if __name__ == "__main__":
    sys.exit(main())
