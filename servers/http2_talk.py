"""One HTTP/2 connection of servers/http2.py, from accept to its end: many requests at a time.

A request that needs no waiting is answered in the callback that brought it, and all answers of one read leave in one
write. What becomes of each request is in servers/http_answers.py; here is how bytes come and go.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, NamedTuple

from protocols import http2
from protocols.errors import RemoteProtocolError
from protocols.http2_frames import PREFACE, Decoder, ErrorCode
from servers.http_answers import Answers

if TYPE_CHECKING:
    from servers.http1_talk import Limits
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


class Talk(Answers, asyncio.Protocol):
    """One connection."""

    server: Server
    limits: Limits
    conn: http2.ServerConnection
    log, mistake, cancelled = log, ErrorCode.INTERNAL_ERROR, ErrorCode.CANCEL
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
        self.works = {}
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
        self.go_on()
        if self.conn.streams:
            self.busy_at = self.now
        elif (self.conn.is_last or (self.ended and not self.turn_comes)) and self.phase != "linger":
            self.finish()

    def write(self, data: bytes) -> None:
        self.transport.write(data)
        self.written += len(data)

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
            self.end_late()
            self.flush()

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
