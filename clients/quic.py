"""The other half of servers/quic.py: one connection, many streams that do not wait for each other, datagrams besides.

    async with connect("127.0.0.1", 7006, alpn=["lab"]) as connection:
        stream = await connection.open_stream()
        await stream.finish(b"bytes 1000000\\n")
        data = await stream.read_all()

QUIC is a transport in user space: this program does what a kernel does for TCP. So it can also take a connection to
another port or address in the middle (rebind, migrate), send data before the handshake is done (early), and change
keys while data flow. The connection is clients/quic_connection.py; a server that is not ours needs only the same ALPN.

Another protocol rides on it like this (clients/http3.py does): its core has no I/O, takes (stream, bytes, end) and
gives the same to be sent.

    def on_event(event):                    # of aioquic.quic.events, as they happen; it must not wait
        match event:
            case StreamDataReceived():      core.receive_data(event.stream_id, event.data, event.end_stream)
            case StreamReset():             ...             # and StopSendingReceived, HandshakeCompleted, …
        flush()
    def flush():                            # also after core has been asked for something, from anywhere
        for stream, data, end in core.data_to_send():
            connection.send(stream, data, end)              # sent together, when this turn of the loop ends
    async with connect(host, port, alpn=["h3"], on_event=on_event) as connection:
        connection.room() > 0                               # may a new stream be opened? await connection.change()
        connection.consumed(stream, count)                  # or its window stays shut: count bytes are used up
        connection.buffered(stream)                         # bytes not acknowledged: wait with more; change() again
        connection.reset(stream, code); connection.stop(stream, code); connection.close(code, reason)

on_event may be called before connect() has returned, so *core* must be there first, and `connection` may not be. The
last event is ConnectionTerminated; `connection.ended` tells more, and then nothing can be sent.

Run:   make quic-server   and in a second terminal   make quic-client
Try:   make quic-client ARGS=--early                         the second time, the question is in the first flight
       make quic-client ARGS="--rebind 'bytes 1000000'"      our port changes in the middle; the server challenges it
       make quic-client ARGS="'bytes 20000' 'bytes 20000'"   two streams take turns, packet by packet
       QLOGDIR=/tmp/qlog make quic-client                    a file that qvis draws; SSLKEYLOGFILE=… for Wireshark
       gtlsserver 127.0.0.1 7106 certs/server.key certs/server.pem -d .     (Debian: ngtcp2-server), and then
       make quic-client ARGS="--port 7106 --alpn h3 x"       another's server; it closes, since x is no HTTP/3
Exit:  0 answered; 1 refused, by us or by the server, or not in time; 2 could not run (nobody there, a bad argument);
       130 Ctrl-C
Left out on purpose: the server's preferred address (we stay where we are), ECN, several paths at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import logging
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO, cast

import certs
from certs.quic import quic_client
from clients import command
from clients.quic_connection import Connection, OnEvent
from clients.quic_ended import Ended, QuicError
from clients.quic_stream import Stream, StreamReset
from clients.quic_teller import Teller
from clients.quic_ticket import Ticket
from protocols.errors import LocalProtocolError
from protocols.tls_numbers import readable

__all__ = ["Connection", "Ended", "QuicError", "Stream", "StreamReset", "Ticket", "connect"]

PORT = 7006
PATIENCE = 3  # seconds that the server has to try a new path

log = logging.getLogger("clients.quic")  # Silent, unless main() gives it a voice.


@contextlib.asynccontextmanager
async def connect(
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    alpn: Sequence[str] = ("lab",),
    name: str | None = None,
    trust: Path | None = certs.FOLDER / "root.pem",
    verify: bool = True,
    timeout: float | None = 10,
    idle_seconds: float = 30,
    window: int = 1 << 18,
    ticket: Ticket | None = None,
    token: bytes = b"",
    early: bool = False,
    on_event: OnEvent | None = None,
    teller: Teller | None = None,
    qlog: Path | None = None,
    key_log: Path | None = None,
) -> AsyncIterator[Connection]:
    """Connect, shake hands, and close when the block ends: what the server has not acknowledged by then may be lost.

    alpn      the protocols above, the best first
    name      that the certificate must have (default: the host)
    trust     a file with the authorities to trust (default: the lab's); None: those of this machine
    timeout   seconds for the handshake; None: for ever
    idle_seconds   without a packet, after which nobody is there; the server may want less (RFC 9000 §10.1)
    window    bytes of a stream that the server may send before they are read: the memory that it can take
    ticket    of an earlier connection (`Connection.ticket`): to resume with
    token     to prove our address with (default: the ticket's)
    early     if the ticket allows it, do not wait for the handshake: what is written now goes out with the first flight
              (0-RTT). Somebody can send a copy of that, so only what may happen twice may be asked (RFC 9001 §9.2)
    teller    is to tell all that happens: to the log clients.quic
    qlog, key_log   a folder, and a file, as in certs/quic.py

    QuicError     the handshake has failed, or the server has closed: `ended` tells how; ended.alert: a certificate
    OSError       nobody is there, or no such host or file; TimeoutError, one kind of it: not in time
    UnicodeError  the name is none of a host
    """
    if not alpn:
        raise LocalProtocolError("QUIC needs the name of a protocol above it (RFC 9001 §8.1)")
    server_name = (name or host).rstrip(".").encode("idna").decode()
    configuration = quic_client(
        server_name, alpn=alpn, trust=trust, verify=verify, idle_seconds=idle_seconds,
        qlog=qlog, key_log=key_log, token=token,
    )  # fmt: skip
    if ticket and ticket.alpn in alpn:  # For another protocol it would be of no use, and early data a mistake.
        configuration.session_ticket = ticket.session
        configuration.token = token or ticket.token
    if teller:
        teller.key_log, configuration.secrets_log_file = configuration.secrets_log_file, cast(TextIO, teller)
    watch = teller.watch if teller else None
    loop = asyncio.get_running_loop()
    connection: Connection | None = None
    try:
        async with asyncio.timeout(timeout):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            if ticket:
                found.sort(key=lambda one: one[4][0] != ticket.address)  # where the server was is tried first
            for number, (family, _, _, _, address) in enumerate(found, 1):
                copy = dataclasses.replace(configuration)
                connection = Connection(copy, family, address, window, on_event, watch)
                connection.start(early)
                if early and connection.quic.may_send_early:
                    break
                try:
                    await connection.handshaken()
                    break
                except ConnectionRefusedError:
                    if number == len(found):
                        raise
        assert connection
        yield connection
    finally:
        if connection:
            connection.close()
        if teller:
            teller.tell()


class Talked(NamedTuple):
    """What has come of a connection."""

    ticket: Ticket | None
    seconds: float  # from its first datagram to the first bytes of an answer
    flights: int  # of the server, until then


async def talk(options: argparse.Namespace, ticket: Ticket | None, early: bool) -> Talked:
    """One connection: each request on a stream of its own, all at once."""
    teller = Teller()

    def say(text: str, *values: object) -> None:
        teller.tell()
        log.info("= " + text, *values)

    async def ask(connection: Connection, request: str) -> None:
        stream = await connection.open_stream()
        await stream.finish(f"{request}\n".encode())
        size, first = 0, b""
        while data := await stream.read():
            if not size:
                first = data
                begun.append((time.perf_counter() - teller.started, teller.flights[False]))
                say("stream %d: the answer has begun in the server's flight %d", stream.number, begun[-1][1])
                some.set()
            size += len(data)
        some.set()
        say("stream %d: %r%s, %d bytes", stream.number, first[:40], " …" if size > 40 else "", size)

    async def disturb(connection: Connection) -> None:
        """What can be done with a connection while data flow."""
        await some.wait()
        if options.rebind:
            before = connection.quic.challenges
            connection.rebind()
            say("our port is %d now, and nobody was told: so does a NAT", connection.local_address[1])
            await challenged(connection, before)
        if options.migrate:
            before = connection.quic.challenges
            await connection.migrate()
            say("we have moved to port %d, with another connection ID", connection.local_address[1])
            await challenged(connection, before)
        if options.update_keys:
            await connection.update_keys()
            say("both sides have new keys")

    async def challenged(connection: Connection, before: int) -> None:
        """Wait until the server has made sure that we are where our packets come from (RFC 9000 §9.3)."""
        try:
            async with asyncio.timeout(PATIENCE):
                await connection.until(lambda: connection.quic.challenges > before)
                await connection.ping()  # It follows our PATH_RESPONSE.
            say("the server has made sure that we are there")
        except TimeoutError:
            say("the server has not asked whether we are there")

    some = asyncio.Event()
    begun: list[tuple[float, int]] = []
    who = f"{options.host} port {options.port}"
    log.info("= connecting to %s, which should be %s%s", who, options.name, ", with a ticket" if ticket else "")
    async with connect(
        options.host, options.port, alpn=options.alpn.split(), name=options.name, trust=options.ca, ticket=ticket,
        early=early, timeout=options.timeout, teller=teller,
    ) as connection:  # fmt: skip
        async with asyncio.timeout(options.timeout):
            await asyncio.gather(*(ask(connection, one) for one in options.request), disturb(connection))
            for text in options.datagram:
                connection.send_datagram(text.encode())
                say("a datagram came back: %r", (await connection.receive_datagram())[:80])
            await connection.until(lambda: connection.quic.is_confirmed)  # The ticket comes with that.
        say("%s", agreed(connection))
    teller.tell()
    log.info("= %s; %s", connection.ended, "a ticket to resume with" if connection.ticket else "no ticket")
    return Talked(connection.ticket, *min(begun, default=(0.0, 0)))


def agreed(connection: Connection) -> str:
    """What the handshake has led to."""
    how = (
        "resumed"
        if connection.is_resumed
        else f"the server is {readable(connection.chain[0].subject.rfc4514_string())}"
    )
    early = {None: "", True: "; early data accepted", False: "; early data refused, and sent again"}[connection.early]
    return f"agreed on {connection.alpn}, {how}{early}"


async def show(options: argparse.Namespace) -> int:
    """The exit code. A file that cannot be read or written is no fault of the server's."""
    try:
        await connections(options)
    except OSError as error:
        if not error.filename:
            raise
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


async def connections(options: argparse.Namespace) -> None:
    """One, or with --early two."""
    first = last = await talk(options, options.ticket and options.ticket[1], bool(options.ticket))
    if options.early and first.ticket:
        last = await talk(options, first.ticket, True)
        said = [f"in flight {talked.flights}, after {1000 * talked.seconds:.1f} ms" for talked in (first, last)]
        log.info("= without a ticket the answer began %s; with one %s", *said)
    if options.ticket and (kept := last.ticket or first.ticket):
        kept.save(options.ticket[0])


def ticket_file(path: str) -> tuple[Path, Ticket | None]:
    """An argument that is a file with a ticket, or will be one."""
    try:
        return Path(path), Ticket.load(Path(path))
    except FileNotFoundError:
        return Path(path), None
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main() -> int:
    parser = argparse.ArgumentParser(prog="clients.quic", description="Asks over QUIC, and shows all that happens.")
    parser.add_argument("request", nargs="*", help="lines to ask with, each on its own stream (default: one)")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--alpn", default="lab", metavar="NAMES", help="what to speak inside, such as hq-interop")
    parser.add_argument("--name", help="that the certificate must have, and the server is told (default: the host)")
    parser.add_argument("--ca", type=Path, default=certs.FOLDER / "root.pem", help="whom to trust (default: the lab)")
    parser.add_argument("--early", action="store_true", help="connect twice, and ask in the second's first flight")
    parser.add_argument(
        "--ticket", type=ticket_file, metavar="FILE", help="ask early with the ticket in it; keep the new one"
    )
    parser.add_argument(
        "--datagram", action="append", default=[], metavar="TEXT", help="send one, and wait for another"
    )
    parser.add_argument("--rebind", action="store_true", help="change our port while data flow, as a NAT would")
    parser.add_argument("--migrate", action="store_true", help="the same on purpose")
    parser.add_argument("--update-keys", action="store_true", help="take new keys while data flow")
    parser.add_argument("--timeout", type=float, default=10, help="seconds for the handshake, and for all answers")
    options = parser.parse_args()
    if not 1 <= options.port <= 65535:
        parser.error(f"there is no port {options.port}")
    if not options.ca.is_file() and options.ca != certs.FOLDER / "root.pem":
        parser.error(f"there is no file {options.ca}")
    options.name = options.name or options.host
    options.request = options.request or ["GET /" if "hq-interop" in options.alpn else "bytes 5000"]
    peer = f"{options.host} port {options.port}"
    return command.main(log, lambda: show(options), peer=peer, server="quic-server", host=options.name)


if __name__ == "__main__":
    sys.exit(main())
