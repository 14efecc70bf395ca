"""TLS between TCP and any protocol of asyncio: to the one it is a protocol, to the other a transport.

What it does between is certs/channel.py. asyncio has the same built in, but drops the alert of a handshake that fails.
Here whatever goes wrong is told to the peer, and then waited for: a socket that is closed with data unread sends RST,
which can overtake the alert.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any

from certs.channel import Channel, Closed, Data, Handshaken, TlsError
from protocols.tls_numbers import readable

log = logging.getLogger("servers.tls")

Factory = Callable[[str | None], asyncio.Protocol]
"""Makes the inner protocol when the handshake is done, for what ALPN has agreed on. None: the client did not ask."""


class Tls(asyncio.Transport, asyncio.Protocol):
    """One connection. To the inner protocol it is a transport like TCP's, and behaves like that:

    write(), writelines()   encrypt at once. pause_writing() and resume_writing() come as from TCP, whose buffer it is
    pause_reading(), resume_reading()   TCP tells the client to wait; at most one read is held here
    write_eof()             close_notify, then FIN. Reading goes on
    close()                 the same; what still arrives is dropped, until the client ends, too (linger_seconds)
    abort()                 now, unsent data is lost; the client sees a truncated stream
    get_extra_info()        "ssl_object" (version(), cipher(), getpeercert(), session_reused …), the others as TCP's
    eof_received()          the client has said close_notify. Return True to go on writing, else close() follows
    connection_lost(exc)    TlsError: truncated (FIN without close_notify), or broken. Nobody hears of failed handshakes
    """

    inner: asyncio.Protocol | None = None  # from the handshake to connection_lost()
    transport: asyncio.Transport
    is_paused = False  # The inner protocol wants no data now.
    is_full = False  # The client is slow to read.
    is_over = False  # Nothing that arrives is of interest.
    has_ended = False  # The client has said close_notify.
    has_left = False  # The client has sent FIN.
    is_deaf = False  # We answer what we read, and it does not read our answers: a flood of key updates.
    unsent = 0  # bytes, when the connection began to end

    def __init__(
        self,
        context: ssl.SSLContext,
        factory: Factory,
        *,
        handshake_seconds: float = 10,
        linger_seconds: float = 2,
        connections: set[Tls] | None = None,
        max_connections: int = 32768,
    ) -> None:
        """*connections* has all that are open, those in their handshake, too; one beyond *max_connections* is cut."""
        super().__init__()
        self.context, self.factory = context, factory
        self.handshake_seconds, self.linger_seconds = handshake_seconds, linger_seconds
        self.connections: set[Tls] = set() if connections is None else connections
        self.most = max_connections
        self.clock = asyncio.get_running_loop()

    # To TCP it is a protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.peer = (transport.get_extra_info("peername") or ("", 0))[1]  # None when it has vanished already
        self.channel = Channel(self.context, server_side=True)
        self.timer = self.clock.call_later(self.handshake_seconds, self.late)
        if len(self.connections) >= self.most:  # A flood: no word for it.
            self.abort()
        self.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if not self.is_over:
            self.channel.receive_data(data)
            self.proceed()

    def eof_received(self) -> bool:
        self.has_left = True
        if not self.is_over:
            self.channel.receive_data(b"")
            self.proceed()
        return not self.is_over  # False: the transport closes, once all is sent.

    def pause_writing(self) -> None:
        self.is_full = True
        if self.inner:
            self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.is_full = False
        if self.is_deaf:
            self.is_deaf = False
            self.listen()
        if self.inner:
            self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        self.is_over = True
        self.connections.discard(self)
        self.leave(exc)

    def proceed(self) -> None:
        """Tell the inner protocol what has arrived."""
        try:
            while not (self.is_paused or self.is_over or self.has_ended) and (event := self.channel.next_event()):
                match event:
                    case Data(data):
                        if self.inner:
                            self.inner.data_received(data)
                    case Handshaken():
                        self.greet()
                    case Closed():
                        self.has_ended = True
                        if self.inner and not self.inner.eof_received():
                            self.close()
        except TlsError as error:
            self.failed(error)
            return
        if (reply := self.channel.data_to_send()) and not self.transport.is_closing():
            self.transport.write(reply)
            if self.is_full and not self.is_deaf:
                self.is_deaf = True
                self.transport.pause_reading()

    def greet(self) -> None:
        """The handshake is done. Who is there?"""
        self.timer.cancel()
        connection = self.channel.object
        self.flush()
        if log.isEnabledFor(logging.INFO):
            log.info("= %s %s", self.peer, agreed(connection))
        self.inner = self.factory(connection.selected_alpn_protocol())
        self.inner.connection_made(self)

    def failed(self, error: TlsError) -> None:
        """The alert, if there is one, is on its way before the FIN, and no RST overtakes it."""
        log.info("! %s %s", self.peer, error.told())
        self.flush()
        self.end()
        self.leave(error)

    def late(self) -> None:
        log.info("! %s no handshake in %g s", self.peer, self.handshake_seconds)
        self.close()

    def leave(self, exc: Exception | None) -> None:
        inner, self.inner = self.inner, None
        if inner:
            inner.connection_lost(exc)

    def flush(self) -> None:
        if (data := self.channel.data_to_send()) and not self.transport.is_closing():
            self.transport.write(data)

    def listen(self) -> None:
        if not (self.is_paused or self.is_deaf or self.transport.is_closing()):
            self.transport.resume_reading()

    def end(self) -> None:
        """The lingering close: FIN, then read and drop, until the peer ends, too."""
        self.is_over, self.is_paused, self.is_deaf = True, False, False
        self.timer.cancel()
        self.unsent = self.transport.get_write_buffer_size() + 1
        self.timer = self.clock.call_later(self.linger_seconds, self.ring)
        try:
            if self.has_left:
                self.transport.close()
            else:
                self.transport.write_eof()
                self.listen()
        except OSError:  # It has vanished (RST), and we hear of it here first.
            self.transport.abort()

    def ring(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if 0 < unsent < self.unsent:  # A slow reader, but it does read.
            self.unsent = unsent
            self.timer = self.clock.call_later(self.linger_seconds, self.ring)
        else:
            self.transport.abort()

    # To the inner protocol it is a transport.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.channel.may_send and not self.is_closing():
            self.channel.send_data(data)
            self.transport.write(self.channel.data_to_send())

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self.is_closing() and not self.channel.has_closed:
            self.channel.close()
            self.flush()
            self.transport.write_eof()

    def close(self) -> None:
        if not self.is_over:
            self.channel.close()
            self.flush()
            self.end()

    def abort(self) -> None:
        self.is_over = True
        self.transport.abort()

    def is_closing(self) -> bool:
        return self.is_over or self.transport.is_closing()

    def pause_reading(self) -> None:
        self.is_paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.is_paused:
            self.is_paused = False
            self.clock.call_soon(self.resume)

    def resume(self) -> None:
        """What is here already comes first."""
        if not self.is_over:
            self.proceed()
            self.listen()

    def is_reading(self) -> bool:
        return not self.is_paused and self.transport.is_reading()

    def get_write_buffer_size(self) -> int:
        return self.transport.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self.transport.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.transport.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.channel.object if name == "ssl_object" else self.transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.inner = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self.inner
        return self.inner


def agreed(connection: ssl.SSLObject) -> str:
    """What a handshake has led to, in a line."""
    cipher = connection.cipher()
    hello = getattr(connection, "hello", None)
    name = hello and hello.server_name
    found = [
        f"{connection.version()} {cipher[0] if cipher else ''}",
        f"for {readable(name)}" if name else "no name asked for",
    ]
    found.append(connection.selected_alpn_protocol() or "no ALPN")
    if certificate := connection.getpeercert():
        found.append(f"client {readable(named(certificate))}")
    if connection.session_reused:
        found.append("resumed")
    return ", ".join(found)


def named(certificate: dict[str, Any]) -> str:
    """The common name: for people. What is to be compared is in subjectAltName."""
    return ", ".join(value for part in certificate.get("subject", ()) for key, value in part if key == "commonName")


async def end(connections: set[Tls]) -> None:
    """Cut those that are left, and wait until they are gone."""
    for connection in list(connections):
        connection.abort()
    while connections:  # noqa: ASYNC110  it takes one turn
        await asyncio.sleep(0)
