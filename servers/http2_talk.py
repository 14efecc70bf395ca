"""One HTTP/2 connection of servers/http2.py, from accept to its end: many requests at a time.

A request that needs no waiting is answered in the callback that brought it, and all answers of one read leave in one
write. One that waits gets a task, which is servers/http2_work.py. A stream that waits keeps no other.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, NamedTuple

from protocols import http2
from protocols.errors import RemoteProtocolError
from protocols.http2_frames import PREFACE, Decoder, ErrorCode
from protocols.http2_messages import Head
from servers import site
from servers.http1_talk import NO_BODY
from servers.http2_work import Work

if TYPE_CHECKING:
    from servers.http2 import Server

AT_ONCE = 16  # events before it is the turn of other connections
ROOM = 1 << 17  # bytes of DATA per write
ROUNDS = 2  # writes before it is the turn of other connections
READ_AHEAD = 65536  # bytes of frames that wait for their turn

log = logging.getLogger("servers.http2")


class Http2Limits(NamedTuple):
    """What serve() explains, beyond the limits of HTTP/1.1."""

    settings_seconds: float
    grace_seconds: float
    max_streams: int
    max_fields: int
    stream_window: int
    connection_window: int


class Talk(asyncio.Protocol):
    """One connection."""

    transport: asyncio.Transport
    phase = "open"  # or linger
    full = False  # The client is slow to read: what we have sent fills the transport's buffer.
    paused = False  # The client has sent more than we have looked at yet.
    ended = False  # The client has said FIN.
    turn_comes = False  # There is more to look at, or to send, after the others.
    written = 0  # bytes
    gone = 0  # how many of them had left when last looked at

    def __init__(self, server: Server) -> None:
        self.server, self.limits = server, server.limits
        self.clock = asyncio.get_running_loop()
        self.now = self.busy_at = self.made_at = self.reads_at = self.clock.time()
        self.works: dict[int, Work] = {}
        self.conn = http2.ServerConnection(*server.http2[2:], now=self.now)
        if server.logs:
            self.seen, self.said = Decoder(1 << 24), Decoder(1 << 24)
            self.preface = len(PREFACE)

    # What the event loop tells us.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.peer = (transport.get_extra_info("peername") or ("", 0))[1]  # None when it has vanished already
        self.timer = self.clock.call_later(self.server.tick, self.ring)
        self.server.talks.add(self)
        self.flush()
        if len(self.server.talks) > self.limits.max_connections:
            text = f"{self.limits.max_connections} connections are served already"
            self.fail(RemoteProtocolError(text, ErrorCode.ENHANCE_YOUR_CALM))
        elif self.server.draining:
            self.drain()

    def data_received(self, data: bytes) -> None:
        if self.phase == "linger":
            return
        if self.server.logs:
            self.watch(data)
        self.now = self.clock.time()
        try:
            self.conn.receive_data(data)
        except RemoteProtocolError as error:
            self.fail(error)
            return
        if not self.turn_comes:
            self.proceed()
        if self.conn.unread > READ_AHEAD and self.phase != "linger":
            self.paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """The client has no more to say, but may still listen. It gets what the windows allow: they will not grow."""
        if self.phase == "linger":
            return False  # The transport closes.
        self.ended = True
        if not self.turn_comes:
            self.take_turn()
        return True

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self.take_turn_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        self.stop()
        self.server.talks.discard(self)
        self.server.changed.set()

    def stop(self) -> None:
        """Nobody waits for what is being worked on."""
        for stream in list(self.works):
            self.drop(stream)

    def drop(self, stream: int) -> None:
        """The same for one stream. A task begins before it is cancelled: what it was given has to be closed."""
        if work := self.works.pop(stream, None):
            work.is_over = True
            work.give_back()
            self.clock.call_soon(work.task.cancel)

    # In turns.

    def take_turn_soon(self) -> None:
        if not self.turn_comes:
            self.turn_comes = True
            self.clock.call_soon(self.take_turn)

    def take_turn(self) -> None:
        self.turn_comes = False
        if self.phase != "linger" and not self.transport.is_closing():
            self.now = self.clock.time()
            self.proceed()

    def proceed(self) -> None:
        """Look at what has arrived, unless the client does not read what it gets; then send what there is to send."""
        try:
            for _ in range(AT_ONCE):
                if self.full or (event := self.conn.next_event(self.now)) is None:
                    break
                if isinstance(event, http2.Pause):
                    self.take_turn_soon()
                    break
                self.react(event)
            else:
                self.take_turn_soon()
        except RemoteProtocolError as error:
            self.fail(error)
            return
        self.flush()
        if self.paused and self.conn.unread <= READ_AHEAD:
            self.paused = False
            self.transport.resume_reading()

    def flush(self) -> None:
        """Write what may be written. Who waited for that goes on."""
        for _ in range(ROUNDS):
            if self.full:
                break
            data = self.conn.data_to_send(self.now, ROOM)
            if not data:
                break
            if self.server.logs:
                self.watch_ours(data)
            self.write(data)
            if len(data) < ROOM:
                break
        else:
            self.take_turn_soon()
        if self.ended and not (self.full or self.turn_comes) and self.end_stalled(math.inf):
            self.take_turn_soon()  # A client that has said FIN opens no window any more.
        if self.works:
            for work in self.works.values():
                if work.head_sent and self.conn.is_sent(work.stream):
                    work.wake()
        if self.conn.streams:
            self.busy_at = self.now
        elif (self.conn.is_last or (self.ended and not self.turn_comes)) and self.phase != "linger":
            self.finish()

    def write(self, data: bytes) -> None:
        self.transport.write(data)
        self.written += len(data)

    # Answers.

    def react(self, event: http2.Request | http2.Data | http2.Trailers | http2.Reset) -> None:
        if isinstance(event, http2.Request):
            self.answer(event)
            return
        work = self.works.get(event.stream)
        if isinstance(event, http2.Reset):
            log.info("= %s stream %d has ended: %s", self.peer, event.stream, event.reason)
            self.drop(event.stream)
        elif work is None:
            if isinstance(event, http2.Data):
                self.conn.acknowledge(event.stream, event.size)  # It was answered without its body.
        else:
            work.receive(event)

    def answer(self, event: http2.Request) -> None:
        """Answer now, if that needs no waiting; else leave it to a task."""
        head, self.busy_at = event.head, self.now
        if head is None:
            self.refuse(event.stream, event.status, event.reason)
            return
        if self.server.logs:
            log.info("= %s stream %d is %s %s", self.peer, event.stream, head.method, head.target[:100])
        if head.length is not None and head.length > self.limits.max_body:
            self.refuse(event.stream, 413, f"a body of more than {self.limits.max_body} bytes")
            return
        work = None if event.whole else Work(self, event.stream, head, False)
        body = work.body() if work else NO_BODY
        try:
            response = self.server.respond(site.Request(head.method, head.target, head.fields, body))
            if work is None and isinstance(response, site.Response) and isinstance(response.body, bytes):
                self.send(event.stream, head, response, response.body)
                return
        except Exception:
            self.failed(event.stream, head)
            return
        work = work or Work(self, event.stream, head, True)
        self.works[event.stream] = work
        work.task = self.clock.create_task(work.run(response))
        self.server.tasks.add(work.task)
        work.task.add_done_callback(self.server.tasks.discard)

    def send(self, stream: int, head: Head, response: site.Response, body: bytes) -> None:
        """A whole answer."""
        fields = (*response.fields, self.server.date())
        if response.status not in (204, 304):
            fields = (*fields, ("content-length", str(len(body))))
        end = not body or head.method == "HEAD" or response.status in (204, 304)
        self.conn.send_head(stream, response.status, fields, end)
        if not end:
            self.conn.send_data(stream, body, self.now, end=True)

    def refuse(self, stream: int, status: int, reason: str, head_sent: bool = False) -> None:
        """Say why, if an answer is still possible."""
        log.info("! %s stream %d %d %s", self.peer, stream, status, reason)
        if head_sent:
            self.conn.reset(stream, ErrorCode.INTERNAL_ERROR if status == 500 else ErrorCode.CANCEL)
            return
        body = f"{reason}\n".encode()
        fields = (("content-type", "text/plain; charset=utf-8"), self.server.date(), ("content-length", str(len(body))))
        self.conn.send_head(stream, status, fields)
        self.conn.send_data(stream, body, self.now, end=True)

    def failed(self, stream: int, head: Head, head_sent: bool = False) -> None:
        """We have made a mistake."""
        log.exception("! %s %s %s", self.peer, head.method, head.target)
        self.refuse(stream, 500, "the server has made a mistake", head_sent)

    # Time. One timer per connection; deadlines are numbers.

    def ring(self) -> None:
        self.now = now = self.clock.time()
        limits, conn = self.limits, self.conn
        unsent = self.transport.get_write_buffer_size()
        gone = self.written - unsent
        reads = gone > self.gone  # slowly, perhaps; `unsent` may be what it was, for as much has been written since
        self.gone = gone
        if self.phase == "linger":
            if unsent and reads:
                self.timer = self.clock.call_later(limits.linger_seconds, self.ring)
            else:
                self.transport.abort()
            return
        self.timer = self.clock.call_later(self.server.tick, self.ring)
        if not unsent or reads:
            self.reads_at = now
        if now - self.reads_at >= limits.body_seconds:  # It does not read at all.
            self.transport.abort()
            return
        since = conn.unfinished_since
        if since is not None and now - since >= limits.head_seconds and not self.full:
            self.late()
        elif not conn.settings_acknowledged and now - self.made_at >= self.server.http2.settings_seconds:
            self.fail(RemoteProtocolError("SETTINGS were not acknowledged (§6.5.3)", ErrorCode.SETTINGS_TIMEOUT))
        elif not conn.streams and now - self.busy_at >= (
            limits.linger_seconds if conn.goaway_received else limits.idle_seconds
        ):
            self.fail(RemoteProtocolError("nothing was asked for a while", ErrorCode.NO_ERROR))
        else:
            self.end_stalled(now - limits.body_seconds)
            for work in list(self.works.values()):
                if work.ends_at and now >= work.ends_at:
                    work.end("the body of the request did not come in time", 408)
            self.flush()

    def end_stalled(self, before: float) -> bool:
        """End the streams that the client has not read since then. Were there any?"""
        stalled = self.conn.stalled(before)
        for stream in stalled:
            log.info("! %s stream %d is not read", self.peer, stream)
            self.conn.reset(stream, ErrorCode.CANCEL)
            self.drop(stream)
        return bool(stalled)

    def late(self) -> None:
        """Somebody begins, and does not go on (slowloris)."""
        text = "the preface, or the rest of a frame, or of the fields of a request, did not come in time"
        self.fail(RemoteProtocolError(text, ErrorCode.ENHANCE_YOUR_CALM))

    # The end.

    def drain(self) -> None:
        """GOAWAY, and finish what is under way."""
        if self.phase == "linger" or self.conn.is_last or self.transport.is_closing():
            return
        self.now = self.clock.time()
        self.conn.drain()
        self.flush()
        if not self.conn.is_last:
            self.clock.call_later(self.server.http2.grace_seconds, self.drain)

    def fail(self, error: RemoteProtocolError) -> None:
        """A connection error: GOAWAY says why."""
        log.info("! %s %s", self.peer, error)
        self.conn.close(error.code, str(error))
        self.stop()
        self.write(self.conn.data_to_send(self.now))
        self.finish()

    def finish(self) -> None:
        """The lingering close: FIN, then read and drop, so that no RST overtakes the GOAWAY."""
        self.phase = "linger"
        self.timer.cancel()
        self.timer = self.clock.call_later(self.limits.linger_seconds, self.ring)
        try:
            if self.ended or not self.transport.can_write_eof():
                self.transport.close()  # once all is sent
            else:
                self.transport.write_eof()
                self.transport.resume_reading()
        except OSError:  # It has vanished (RST), and we hear of it here first.
            self.transport.abort()

    # The wire log.

    def watch(self, data: bytes) -> None:
        skip = min(self.preface, len(data))
        self.preface -= skip
        self.seen.receive_data(data[skip:])
        for frame in self.seen.frames():
            log.info("< %s %s", self.peer, frame)

    def watch_ours(self, data: bytes) -> None:
        self.said.receive_data(data)
        for frame in self.said.frames():
            log.info("> %s %s", self.peer, frame)
