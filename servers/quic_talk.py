"""One QUIC connection of servers/quic.py: its streams, each with a handler that reads and writes at its own pace.

A handler sees a stream, and nothing of packets. It waits where it has to: for what the client sends, for room to write,
for the handshake to be complete. While it waits nothing else does, neither the connection nor its other streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import TYPE_CHECKING

from aioquic.quic import events

from protocols.errors import LocalProtocolError
from servers.quic_endpoint import Link

if TYPE_CHECKING:
    from servers.quic import Server

LINE = 4096  # bytes of a line that says what is wanted
AHEAD = 1 << 16  # bytes that QUIC gets ahead of what it can send, of all streams together
MOST_HELD = 1 << 22  # bytes that are sent and not acknowledged: who says "got it" late, or never, costs us as much
SHARE = 1 << 12  # bytes that a stream may hand over at least, when it is its turn

log = logging.getLogger("servers.quic")


class Code(IntEnum):
    """Why a stream or a connection has ended. Each application of QUIC has its own codes (RFC 9000 §20.2)."""

    NO_ERROR = 0
    NOT_UNDERSTOOD = 1
    TOO_SLOW = 2
    MISTAKE = 3
    GOING_AWAY = 4


class StreamEnded(ConnectionError):
    """The client has reset the stream, or the connection is gone."""


class Stream:
    """One stream, as a handler sees it. `early`: what has come until now may be a replay."""

    def __init__(self, talk: Talk, number: int) -> None:
        self.talk, self.server, self.number = talk, talk.server, number
        self.protocol = talk.protocol
        self.can_write = not number & 2  # else it is unidirectional
        self.pieces: deque[bytes] = deque()
        self.rest = b""  # of what read_line() has read
        self.unwritten = memoryview(b"")
        self.has_all = self.has_finished = self.is_over = False
        self.error: StreamEnded | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.deadline: asyncio.Timeout | None = None

    @property
    def early(self) -> bool:
        return self.talk.connection.is_early

    async def read(self) -> bytes:
        """What has come, as it came; b"" at the end of the stream. The client may send more when this is taken."""
        if self.rest:
            rest, self.rest = self.rest, b""
            return rest
        while not self.pieces and not self.has_all:
            await self.wait()
        self.check()
        if not self.pieces:
            return b""
        piece = self.pieces.popleft()
        self.talk.connection.consume(self.number, len(piece))
        self.talk.link.transmit_soon()
        return piece

    async def read_line(self) -> bytes:
        """Up to a line feed, or the end of the stream. ValueError if that is too far, TimeoutError if it takes long."""
        line = b""
        async with asyncio.timeout(self.server.stall_seconds):  # for all of it: slowloris has time for a byte
            while b"\n" not in line and len(line) <= LINE and (piece := await self.read()):
                line += piece
        line, _, rest = line.partition(b"\n")
        if len(line) > LINE:
            raise ValueError("the line is too long")
        self.rest = rest
        return line.rstrip(b"\r")

    async def write(self, data: bytes) -> None:
        """Send this. It is handed over as it can leave: what waits for the client's window waits here, and uncopied."""
        self.check()
        self.unwritten = memoryview(data)
        writers = self.talk.writers
        if writers or not self.talk.hand_over(self):
            writers[self] = None
            self.talk.link.transmit_soon()  # There is a turn.
            try:
                while self.unwritten:
                    await self.wait()
            finally:
                writers.pop(self, None)
                self.unwritten = memoryview(b"")

    def finish(self, last: bytes = b"") -> None:
        """There is no more to send."""
        if self.error is None and self.can_write and not self.talk.connection.is_stopped(self.number):
            self.has_finished = True
            self.talk.connection.send_stream_data(self.number, last, end_stream=True)
            self.talk.link.transmit_soon()

    async def confirmed(self) -> None:
        """Wait until the handshake is complete: what has come is no replay."""
        while self.early:
            await self.wait()

    async def wait(self) -> None:
        """Until something has happened to this stream. TimeoutError when nothing does; a PING is nothing (§21.6)."""
        self.check()
        self.waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self.server.stall_seconds) as self.deadline:
                await self.waiter
        finally:
            self.waiter = self.deadline = None
        self.check()

    def check(self) -> None:
        if self.error is not None:
            raise self.error
        if self.talk.connection.is_stopped(self.number):  # before there was a stream, or it is not told yet
            raise StreamEnded(f"the client has stopped stream {self.number}")

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def has_moved(self) -> None:
        """Some of what waits has left: there is as much time again for the rest."""
        if self.deadline is not None and self.waiter is not None and not self.waiter.done():
            self.deadline.reschedule(asyncio.get_running_loop().time() + self.server.stall_seconds)


Handler = Callable[[Stream], Awaitable[None]]


class Talk:
    """One connection: a Session of the endpoint."""

    protocol = ""

    def __init__(self, server: Server, link: Link) -> None:
        self.server, self.link, self.connection = server, link, link.connection
        self.streams: dict[int, Stream] = {}  # that are worked on, or of which more may come
        self.writers: dict[Stream, None] = {}  # that wait for room, and who has waited longest is first
        self.room: int | None = None  # bytes that may be handed over in this turn; None: not known yet
        self.draining = False

    # What the endpoint tells us.

    def event(self, event: events.QuicEvent) -> None:
        match event:
            case events.ProtocolNegotiated():
                self.protocol = event.alpn_protocol or ""
            case events.HandshakeCompleted():
                for waiting in self.streams.values():
                    waiting.wake()
            case events.StreamDataReceived():
                self.data(event)
            case events.StreamReset():
                if not event.stream_id & 2:
                    self.connection.reset_stream(event.stream_id, Code.NO_ERROR)  # Nobody answers half a question.
                if stream := self.streams.get(event.stream_id):
                    stream.has_all = True
                    self.fail(stream, f"the client has reset stream {stream.number}, code {event.error_code}")
            case events.StopSendingReceived():
                if stream := self.streams.get(event.stream_id):
                    self.fail(stream, f"the client has stopped stream {stream.number}, code {event.error_code}")
            case events.DatagramFrameReceived() if self.protocol == "lab":
                with contextlib.suppress(LocalProtocolError):  # It fitted into their packet, and not into ours.
                    self.connection.send_datagram_frame(event.data)

    def turn(self) -> None:
        """Acknowledgements may have come, or larger windows: whoever waits for room gets some."""
        self.room = None
        for stream in list(self.writers):
            if self.hand_over(stream):
                del self.writers[stream]
                stream.wake()
            elif not self.room:
                break
        if self.draining and not self.streams and self.connection.is_delivered:
            self.link.close(Code.GOING_AWAY, "the server ends")

    def drain(self) -> None:
        self.draining = True
        self.turn()

    def ended(self) -> None:
        for stream in list(self.streams.values()):
            self.fail(stream, "the connection has ended")

    # Streams.

    def hand_over(self, stream: Stream) -> bool:
        """Give QUIC some of what this stream wants to write, if there is room for it. Is that all of it?"""
        quic = self.connection
        if self.room is None:
            self.room = max(0, min(AHEAD - quic.unsent(), MOST_HELD - quic.unacknowledged(), quic.allowance()))
        share = max(SHARE, self.room // max(1, len(self.writers)))
        count = min(share, self.room, quic.window(stream.number), len(stream.unwritten))
        if count > 0:
            quic.send_stream_data(stream.number, bytes(stream.unwritten[:count]))
            stream.unwritten = stream.unwritten[count:]
            self.room -= count
            stream.has_moved()
            self.link.transmit_soon()
            if stream in self.writers:  # It is the others' turn first.
                del self.writers[stream]
                self.writers[stream] = None
        return not stream.unwritten

    def data(self, event: events.StreamDataReceived) -> None:
        stream = self.streams.get(event.stream_id) or self.begin(event.stream_id)
        stream.has_all = stream.has_all or event.end_stream
        if stream.is_over:  # Nobody wants it any more.
            self.connection.consume(stream.number, len(event.data))
            self.leave(stream)
            return
        if event.data:
            stream.pieces.append(event.data)
        if not stream.unwritten and (event.data or event.end_stream):  # Who writes waits for something else.
            stream.wake()

    def begin(self, number: int) -> Stream:
        stream = self.streams[number] = Stream(self, number)
        if self.draining:
            self.end(stream, Code.GOING_AWAY)
        else:
            task = asyncio.get_running_loop().create_task(self.work(stream))
            self.server.tasks.add(task)
            task.add_done_callback(self.server.tasks.discard)
        return stream

    async def work(self, stream: Stream) -> None:
        """Let the handler answer, and see to the end of the stream."""
        code = Code.NO_ERROR
        try:
            await self.server.handler(stream)
        except StreamEnded as error:
            log.info("= %s %s", self.link.peer[1], error)
        except TimeoutError:
            code = Code.TOO_SLOW
        except ValueError as error:
            log.info("! %s stream %d: %s", self.link.peer[1], stream.number, error)
            code = Code.NOT_UNDERSTOOD
        except Exception:
            log.exception("! %s stream %d", self.link.peer[1], stream.number)
            code = Code.MISTAKE
        self.end(stream, code)

    def end(self, stream: Stream, code: Code) -> None:
        """RESET_STREAM if the answer is not whole, STOP_SENDING if the client is not done. Then nothing is kept."""
        stream.is_over = True
        if not self.connection.ended:
            if stream.can_write and not stream.has_finished:
                self.connection.reset_stream(stream.number, code)
            if not stream.has_all:
                self.connection.stop_stream(stream.number, code)
            self.connection.consume(stream.number, sum(map(len, stream.pieces)))
            self.link.transmit_soon()
        stream.pieces.clear()
        self.leave(stream)

    def fail(self, stream: Stream, why: str) -> None:
        """Whoever works on it gets to know."""
        stream.error = StreamEnded(why)
        self.writers.pop(stream, None)
        stream.wake()
        self.leave(stream)

    def leave(self, stream: Stream) -> None:
        if stream.is_over and (stream.has_all or self.connection.ended):
            self.streams.pop(stream.number, None)
