"""One HTTP/3 connection of servers/http3.py, from its handshake to its end: many requests at a time.

QUIC has found out whose datagram it is, put its bytes in order and told them; here they become requests. What becomes
of each is in servers/http_answers.py, for that is the same in HTTP/2.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from aioquic.quic import events

from protocols import http2, http3
from protocols.errors import RemoteProtocolError
from protocols.http2_messages import Head
from protocols.http3_frames import ErrorCode, Frame
from servers.http_answers import Answers
from servers.quic_endpoint import Link

if TYPE_CHECKING:
    from servers.http3 import Server

AT_ONCE = 16  # events before it is the turn of other connections
ROOM = 1 << 16  # bytes that QUIC gets ahead of what it can send
MOST_HELD = 1 << 22  # bytes that are sent and not acknowledged: who says "got it" late, or never, costs us as much
GOODBYE = 1  # the number of a PING

log = logging.getLogger("servers.http3")


class Http3Limits(NamedTuple):
    """What serve() explains."""

    head_seconds: float
    body_seconds: float
    idle_seconds: float
    grace_seconds: float
    max_streams: int
    max_fields: int
    max_body: int


class Talk(Answers):
    """One connection: a session of the endpoint."""

    server: Server
    limits: Http3Limits
    conn: http3.ServerConnection
    log, mistake, cancelled = log, ErrorCode.INTERNAL_ERROR, ErrorCode.REQUEST_CANCELLED
    agreed = False  # Has TLS agreed on h3? Then there is `conn`.

    def __init__(self, server: Server, link: Link) -> None:
        self.server, self.link, self.limits = server, link, server.limits
        self.clock = asyncio.get_running_loop()
        self.now = self.busy_at = self.clock.time()
        self.peer = link.peer[1]
        self.works = {}
        self.timer = self.clock.call_later(server.tick, self.ring)
        server.talks.add(self)

    # What the endpoint tells us.

    def event(self, event: events.QuicEvent) -> None:
        self.now = self.clock.time()
        if isinstance(event, events.ProtocolNegotiated):
            limits, watch = self.limits, self.watch if self.server.logs else None
            self.conn = http3.ServerConnection(
                self.link.connection, limits.max_fields, limits.max_streams, now=self.now, watch=watch
            )
            self.agreed = True
        if not self.agreed or self.conn.closed:
            return
        conn = self.conn
        try:
            if isinstance(event, events.StreamDataReceived):
                conn.receive_data(event.stream_id, event.data, event.end_stream, self.now)
            elif isinstance(event, events.StreamReset):
                self.react(conn.receive_reset(event.stream_id, event.error_code, self.now))
            elif isinstance(event, events.StopSendingReceived):
                self.react(conn.receive_stop(event.stream_id, event.error_code, self.now))
            elif isinstance(event, events.PingAcknowledged) and event.uid == GOODBYE:
                conn.drain()  # The client has heard the first GOAWAY.
        except RemoteProtocolError as error:
            self.fail(error)

    def turn(self) -> None:
        """Look at what has arrived; then hand over what there is to send."""
        if not self.agreed or self.conn.closed:
            return
        conn, quic = self.conn, self.link.connection
        self.now = self.clock.time()
        try:
            for _ in range(AT_ONCE):
                event = conn.next_event(self.now)
                if event is None:
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
        waits = quic.unsent()
        conn.send(self.now, min(ROOM - waits, MOST_HELD - quic.unacknowledged()))
        self.go_on()
        if not waits and quic.unsent() >= ROOM:
            self.take_turn_soon()  # The path may take more than that; and first those who are woken go on.
        if conn.streams:
            self.busy_at = self.now
        elif conn.is_last and not quic.unacknowledged():
            conn.close(ErrorCode.NO_ERROR, "")  # §5.2: a good end

    def ended(self) -> None:
        """The connection has ended, whoever did it."""
        if self.agreed:
            self.conn.closed = True  # Nothing will be sent.
        self.timer.cancel()
        self.stop()
        self.server.talks.discard(self)

    def take_turn_soon(self) -> None:
        self.link.transmit_soon()

    def is_early(self, head: Head) -> bool:
        """Was it in a first flight, which anybody who saw that can send again?"""
        return self.link.connection.is_early

    # Time. One timer per connection; deadlines are numbers. That nothing comes at all, QUIC notices by itself.

    def ring(self) -> None:
        self.now = now = self.clock.time()
        self.timer = self.clock.call_later(self.server.tick, self.ring)
        if not self.agreed or self.conn.closed:
            return
        limits, conn = self.limits, self.conn
        if not conn.streams and not conn.is_draining and now - self.busy_at >= limits.idle_seconds:
            log.info("= %s nothing was asked for a while", self.peer)
            self.drain()  # A request may be on its way.
        for stream in conn.late(now - limits.head_seconds):  # slowloris, or inserts that never come
            log.info("! %s stream %d: its head does not come", self.peer, stream)
            conn.reset(stream, ErrorCode.REQUEST_REJECTED)
        self.end_stalled(now - limits.body_seconds)
        self.end_late()
        self.take_turn_soon()

    # The end.

    def drain(self) -> None:
        """GOAWAY, and finish what is under way; then the last GOAWAY, when the client has heard the first."""
        if not self.agreed:
            self.link.close(ErrorCode.NO_ERROR)
            return
        conn = self.conn
        if conn.closed:
            return
        if not conn.is_draining:
            self.link.connection.send_ping(GOODBYE)
            self.clock.call_later(self.limits.grace_seconds, self.drain)
        conn.drain()
        self.take_turn_soon()

    def fail(self, error: RemoteProtocolError) -> None:
        """A connection error: CONNECTION_CLOSE says why."""
        log.info("! %s %s", self.peer, error)
        self.conn.close(error.code, str(error)[:200])
        self.stop()
        self.take_turn_soon()

    # The wire log.

    def watch(self, direction: str, stream: int, frame: Frame) -> None:
        log.info("%s %s stream %d %s", direction, self.peer, stream, frame)
