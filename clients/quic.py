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

on_event may be called before connect() has returned, so *core* must be there first, and `connection` may not be.

Run:   make quic-server   and in a second terminal   make quic-client
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import certs
from certs.quic import quic_client
from clients.quic_connection import Connection, Ended, OnEvent, QuicError, Stream, StreamReset
from clients.quic_ticket import Ticket

__all__ = ["Connection", "Ended", "QuicError", "Stream", "StreamReset", "Ticket", "connect"]

PORT = 7006


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
    early     do not wait for the handshake: what is written now goes out with the first flight if the ticket allows
              (0-RTT). Somebody can send a copy of that, so only what may happen twice may be asked (RFC 9001 §9.2)
    qlog, key_log   a folder, and a file, as in certs/quic.py

    QuicError     the handshake has failed, or the server has closed: `ended` tells how; ended.alert: a certificate
    OSError       nobody is there, or no such host; TimeoutError, one kind of it: not in time
    """
    configuration = quic_client(
        (name or host).rstrip("."), alpn=alpn, trust=trust, verify=verify, idle_seconds=idle_seconds,
        qlog=qlog, key_log=key_log, token=token,
    )  # fmt: skip
    if ticket and ticket.alpn in alpn:  # For another protocol it would be of no use, and early data a mistake.
        configuration.session_ticket = ticket.session
        configuration.token = token or ticket.token
    loop = asyncio.get_running_loop()
    connection: Connection | None = None
    try:
        async with asyncio.timeout(timeout):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            for number, (family, _, _, _, address) in enumerate(found, 1):
                copy = dataclasses.replace(configuration)
                connection = Connection(copy, family, address, window, on_event, lambda: None)
                try:
                    connection.start()
                    if not early:
                        await connection.handshaken()
                    elif number < len(found):
                        await asyncio.sleep(0.01)  # On this machine, a port where nobody is says so by now.
                        connection.check()
                except ConnectionRefusedError:
                    if number == len(found):
                        raise
                else:
                    break
        assert connection
        yield connection
    finally:
        if connection:
            connection.close()
