"""One HTTP/3 connection of servers/http3.py, from its handshake to its end: many requests at a time.

QUIC has found out whose datagram it is, put its bytes in order and told them; here they become requests and answers. A
request that needs no waiting is answered at once; one that waits gets a task, which is servers/http2_work.py, for to
wait is the same in every version.
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
from protocols.semantics import SAFE
from servers import site
from servers.http1_talk import NO_BODY
from servers.http2_work import Work
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


class Talk:
    """One connection: a session of the endpoint."""

    conn: http3.ServerConnection
    agreed = False  # Has TLS agreed on h3? Then there is `conn`.

    def __init__(self, server: Server, link: Link) -> None:
        self.server, self.link, self.limits = server, link, server.limits
        self.clock = asyncio.get_running_loop()
        self.now = self.busy_at = self.clock.time()
        self.peer = link.peer[1]
        self.works: dict[int, Work] = {}
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
        for work in self.works.values():
            if work.head_sent and conn.is_sent(work.stream):
                work.wake()
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

    # Answers.

    def react(self, event: http2.Event | None) -> None:
        if isinstance(event, http2.Request):
            self.answer(event)
        elif isinstance(event, http2.Reset):
            log.info("= %s stream %d has ended: %s", self.peer, event.stream, event.reason)
            self.drop(event.stream)
        elif isinstance(event, http2.Data | http2.Trailers):
            if work := self.works.get(event.stream):
                work.receive(event)
            elif isinstance(event, http2.Data):
                self.conn.acknowledge(event.stream, event.size)  # It was answered without its body.

    def answer(self, event: http2.Request) -> None:
        """Answer now, if that needs no waiting; else leave it to a task."""
        head, self.busy_at = event.head, self.now
        if head is None:
            self.refuse(event.stream, event.status, event.reason)
            return
        early = self.link.connection.is_early
        if self.server.logs:
            text = ", early" if early else ""
            log.info("= %s stream %d is %s %s%s", self.peer, event.stream, head.method, head.target[:100], text)
        if head.method not in SAFE and (early or head.fields.get("early-data") == "1"):
            # RFC 8470 §5.2: it may be the copy of an old flight; its sender can ask again when the handshake is done.
            self.refuse(event.stream, 425, "too early for what changes something: this may be a replay")
            return
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
            self.conn.reset(stream, ErrorCode.INTERNAL_ERROR if status == 500 else ErrorCode.REQUEST_CANCELLED)
            return
        body = f"{reason}\n".encode()
        fields = (("content-type", "text/plain; charset=utf-8"), self.server.date(), ("content-length", str(len(body))))
        self.conn.send_head(stream, status, fields)
        self.conn.send_data(stream, body, self.now, end=True)

    def failed(self, stream: int, head: Head, head_sent: bool = False) -> None:
        """We have made a mistake."""
        log.exception("! %s %s %s", self.peer, head.method, head.target)
        self.refuse(stream, 500, "the server has made a mistake", head_sent)

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
        for stream in conn.stalled(now - limits.body_seconds):
            log.info("! %s stream %d is not read", self.peer, stream)
            conn.reset(stream)
            self.drop(stream)
        for work in list(self.works.values()):
            if work.ends_at and now >= work.ends_at:
                work.end("the body of the request did not come in time", 408)
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
