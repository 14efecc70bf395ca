"""One request of HTTP/2 or HTTP/3 that takes time: it waits for its body, for time to pass, for a window that is spent.

Its task waits, and nothing else does. What the client sends meanwhile is held here, as much as the stream's window lets
through; what the site gives is held until the client's window has taken it, and the next piece is not asked for before.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import TYPE_CHECKING

from protocols.errors import RemoteProtocolError
from protocols.http2 import Data, Trailers
from protocols.http2_messages import Head
from servers import site

if TYPE_CHECKING:
    from servers.http_answers import Answers


class Work:
    """One request, its task, and what has come of its body."""

    task: asyncio.Task[None]
    waiter: asyncio.Future[None] | None = None  # for a piece of the body, or for room to send
    ends_at = 0.0  # until when it waits for the client to send; 0: it does not
    received = 0  # bytes of the body
    head_sent = False
    is_over = False  # Nobody waits for it any more.
    wants_continue = False  # The client wants to hear 100 (Continue) before it sends the body (RFC 9110 §10.1.1).
    error: RemoteProtocolError | None = None

    def __init__(self, talk: Answers, stream: int, head: Head, whole: bool) -> None:
        self.talk, self.conn, self.clock = talk, talk.conn, talk.clock
        self.stream, self.head, self.whole = stream, head, whole
        self.inbox: deque[Data] = deque()

    # The connection tells.

    def receive(self, event: Data | Trailers) -> None:
        """The body goes on, or ends."""
        if isinstance(event, Data):
            self.inbox.append(event)
            self.received += len(event.data)
        self.whole = isinstance(event, Trailers) or event.whole
        if self.received > self.talk.limits.max_body:
            self.end(f"a body of more than {self.talk.limits.max_body} bytes", 413)
        self.wake()

    def end(self, reason: str, status: int) -> None:
        """The body will not come, or not all of it: whoever reads it gets an error."""
        self.error = RemoteProtocolError(reason, status)
        self.wake()

    def wake(self) -> None:
        """What the task waits for may have come."""
        if self.waiter and not self.waiter.done():
            self.waiter.set_result(None)

    def give_back(self) -> None:
        """Nobody will use what is here. It was counted for the connection's window, too."""
        for unused in self.inbox:
            self.conn.acknowledge(self.stream, unused.size)
        self.inbox.clear()

    # The task.

    async def run(self, coming: site.Response | Awaitable[site.Response]) -> None:
        """Answer, whatever time it takes."""
        self.wants_continue = self.head.expects_continue and not (self.whole or self.inbox)
        try:
            response = coming if isinstance(coming, site.Response) else await coming
            if not isinstance(response.body, bytes):
                await self.send_pieces(response, response.body)
            elif not self.is_over:
                self.head_sent = True
                self.talk.send(self.stream, self.head, response, response.body)
        except RemoteProtocolError as error:
            if not self.is_over:
                self.talk.refuse(self.stream, error.code, str(error), self.head_sent)
        except Exception:
            if not self.is_over:
                self.talk.failed(self.stream, self.head, self.head_sent)
        self.talk.works.pop(self.stream, None)
        self.give_back()
        self.talk.take_turn_soon()

    async def send_pieces(self, response: site.Response, body: AsyncIterator[bytes]) -> None:
        """Send a body as it comes into being. When that fails half-way, RST_STREAM says that it is not whole."""
        try:
            bodiless = self.head.method == "HEAD" or response.status in (204, 304)
            first = b""
            if self.wants_continue and not bodiless:  # Does the answer need the body? Then 100 (Continue) comes first.
                first = await anext(body, b"")
            self.head_sent = True
            fields = (*response.fields, self.talk.server.date())
            self.conn.send_head(self.stream, response.status, fields, bodiless)
            self.talk.take_turn_soon()
            if bodiless:
                return
            left = next((int(value) for name, value in response.fields if name == "content-length"), -1)
            if first:
                left -= len(first)
                await self.write(first, left == 0)
            async for piece in body:
                if piece:
                    left -= len(piece)
                    await self.write(piece, left == 0)
            if left:
                await self.write(b"", True)
        finally:
            if isinstance(body, AsyncGenerator):
                await body.aclose()

    async def write(self, data: bytes, end: bool) -> None:
        """Send, and wait until it has left: what a window keeps back is not held in memory twice."""
        self.conn.send_data(self.stream, data, self.clock.time(), end)
        self.talk.take_turn_soon()
        while not self.conn.is_sent(self.stream):
            await self.wait()

    async def body(self) -> AsyncIterator[bytes]:
        """The body of the request, as it arrives. What is taken may come again: WINDOW_UPDATE."""
        while True:
            self.ends_at = self.clock.time() + self.talk.limits.body_seconds
            while not (self.inbox or self.whole or self.error):
                if self.wants_continue and not self.head_sent:
                    self.conn.send_head(self.stream, 100, ())
                    self.talk.take_turn_soon()
                self.wants_continue = False
                await self.wait()
            self.ends_at = 0
            if self.error:
                raise self.error
            if not self.inbox:
                return
            event = self.inbox.popleft()
            self.conn.acknowledge(self.stream, event.size)
            self.talk.take_turn_soon()
            if event.data:
                yield event.data

    async def wait(self) -> None:
        self.waiter = self.clock.create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None
