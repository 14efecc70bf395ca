"""An HTTP/2 server that only does what it is asked, for the experiment that shows why this is not enough.

h2 (the library) sees to the protocol: frames, HPACK, the states of streams, windows. What it leaves to its user is
missing here: nobody counts what a client begins and takes back, and what cannot be sent yet waits in memory.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, StreamReset, WindowUpdated
from h2.exceptions import ProtocolError

from servers import site

Respond = Callable[[site.Request], site.Response]


class Naive(asyncio.Protocol):
    """One connection. Whatever is asked for is begun at once."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.conn = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.waiting: dict[int, bytes] = {}  # what the windows do not let out yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.conn.initiate_connection()
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        for task in self.tasks.values():
            task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self.conn.receive_data(data):
                if isinstance(event, RequestReceived):
                    fields = dict(event.headers)
                    response = self.respond(site.Request(fields[":method"], fields[":path"], fields, nothing()))
                    self.tasks[event.stream_id] = asyncio.create_task(self.answer(event.stream_id, response))
                elif isinstance(event, StreamReset):
                    self.waiting.pop(event.stream_id, None)
                    if task := self.tasks.pop(event.stream_id, None):
                        task.cancel()
                elif isinstance(event, WindowUpdated):
                    for stream in [event.stream_id] if event.stream_id else list(self.waiting):
                        self.send(stream)
        except ProtocolError:
            self.flush()  # h2 has put a GOAWAY there.
            self.transport.close()
        self.flush()

    async def answer(self, stream: int, response: site.Response) -> None:
        """Bodies that are whole, to requests without one: more is not needed here."""
        assert isinstance(response.body, bytes)
        self.tasks.pop(stream)
        self.conn.send_headers(stream, [(":status", str(response.status)), *response.fields])
        self.waiting[stream] = response.body
        self.send(stream)
        self.flush()

    def send(self, stream: int) -> None:
        """As much as both windows let out."""
        while stream in self.waiting:
            size = min(self.conn.local_flow_control_window(stream), self.conn.max_outbound_frame_size)
            piece, rest = self.waiting[stream][:size], self.waiting[stream][size:]
            if rest and not piece:
                return
            self.conn.send_data(stream, piece, end_stream=not rest)
            self.waiting[stream] = rest
            if not rest:
                del self.waiting[stream]

    def flush(self) -> None:
        self.transport.write(self.conn.data_to_send())


async def nothing() -> AsyncIterator[bytes]:
    return
    yield b""


@asynccontextmanager
async def serve(host: str, port: int, respond: Respond, ssl: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Serve until the block is left."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Naive(respond), host, port, ssl=ssl)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()
