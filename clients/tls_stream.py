"""A connection over TLS that is read and written like asyncio's streams. What happens in it is certs/channel.py.

asyncio can do that, too (`open_connection(ssl=…)`), but when it refuses the server's certificate it hangs up without a
word. This one sends its alert, so that the server's log tells why.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable

from certs.channel import Channel, Data, Handshaken, TlsError
from certs.contexts import client_context

READ = 1 << 18  # bytes taken from the socket at a time
LINGER = 1  # seconds that the server may take to end, after we have refused it

Watch = Callable[[bool, bytes], None]
"""Is shown every byte of the connection: True for what we send."""


async def connect(
    host: str,
    port: int,
    *,
    context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    session: ssl.SSLSession | None = None,
    timeout: float | None = 10,
    watch: Watch | None = None,
) -> Stream:
    """Connect, and shake hands. The stream is to be closed.

    context          from certs/contexts.py (default: the lab's authority is trusted, nobody else)
    server_hostname  that the certificate must have (default: *host*)
    session          of an earlier connection with the same context, to resume: `Stream.session`

    CertificateError   we refuse the server's certificate, and have told it so
    TlsError           the handshake has failed otherwise; `reason` and `alert` tell why
    OSError            there is no connection; TimeoutError, one kind of it: not in time
    """
    context = context or client_context()
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            name = (server_hostname or host).rstrip(".")  # RFC 6066 §3: without a trailing dot
            channel = Channel(context, server_side=False, server_hostname=name, session=session)
            stream = Stream(reader, writer, channel, watch)
            await stream.shake()
        except BaseException:
            writer.transport.abort()
            raise
    return stream


class Stream:
    """Reader and writer in one: read(), write(), drain(), close(), as asyncio's have them.

    channel    `channel.object` tells version(), cipher(), selected_alpn_protocol(), getpeercert(), session_reused
    transport  TCP's: get_write_buffer_size() is true; abort() ends without close_notify, so that the server can tell
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, channel: Channel, watch: Watch | None
    ) -> None:
        self.channel, self.transport = channel, writer.transport
        self._reader, self._writer, self._watch = reader, writer, watch
        self._unread = b""

    @property
    def session(self) -> ssl.SSLSession | None:
        """To resume with, once the server has given a ticket; in TLS 1.3 that comes with the first data, or never."""
        session = self.channel.object.session
        return session if session and session.has_ticket else None

    async def shake(self) -> None:
        """The handshake."""
        try:
            while not isinstance(self.channel.next_event(), Handshaken):
                await self._flush()
                await self._receive()
        except TlsError:
            await self._flush()
            with contextlib.suppress(OSError):  # TimeoutError is one. Closing with data unread would be RST.
                self._writer.write_eof()
                async with asyncio.timeout(LINGER):
                    while await self._reader.read(READ):
                        pass
            raise
        await self._flush()

    async def read(self, most: int = READ) -> bytes:
        """Some bytes; b"": the server has said close_notify. TlsError: it has not, or it has refused us, or is broken.

        In TLS 1.3 a server that does not like our certificate can say so here only: our handshake is done before.
        """
        while not self._unread:
            try:
                event = self.channel.next_event()
            finally:
                await self._flush()  # What was read may want an answer: an alert, a new key.
            if isinstance(event, Data):
                self._unread = event.data
            elif event:
                return b""
            else:
                await self._receive()
        data, self._unread = self._unread[:most], self._unread[most:]
        return data

    def write(self, data: bytes) -> None:
        """Encrypted, and sent, at once. On a connection that has failed it is lost, as on TCP; read() tells why."""
        if self.channel.may_send:
            self.channel.send_data(data)
            self._send()

    async def drain(self) -> None:
        """Wait until the server has taken enough of it."""
        await self._writer.drain()

    def write_eof(self) -> None:
        """close_notify, then FIN. Reading goes on."""
        self.channel.close()
        self._send()
        self._writer.write_eof()

    def close(self) -> None:
        """close_notify, and the end; never waits. What the server has not taken yet is lost."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.channel.close()
            self._send()
            self.transport.close()

    async def wait_closed(self) -> None:
        await self._writer.wait_closed()

    def _send(self) -> bool:
        data = self.channel.data_to_send()
        if data:
            self._writer.write(data)
            if self._watch:
                self._watch(True, data)
        return data != b""

    async def _flush(self) -> None:
        if self._send():
            with contextlib.suppress(ConnectionError):  # What it has said before it left is still to be read.
                await self._writer.drain()

    async def _receive(self) -> None:
        data = await self._reader.read(READ)
        if data and self._watch:
            self._watch(False, data)
        self.channel.receive_data(data)
