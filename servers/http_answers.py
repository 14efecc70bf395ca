"""What becomes of the requests of one connection, in HTTP/2 and in HTTP/3: a request is a request.

One that needs no waiting is answered at once. One that waits, for its body or for the site, gets a task, which is
servers/http2_work.py, and keeps no other. How bytes come and go is another matter: servers/http2_talk.py and
servers/http3_talk.py, which have these methods from here.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from protocols import http2
from protocols.http2_messages import Head
from protocols.semantics import SAFE
from servers import site
from servers.http1_talk import NO_BODY
from servers.http2_work import Work

if TYPE_CHECKING:
    from protocols import http3
    from servers.http1_talk import Limits
    from servers.http2 import Server as Http2Server
    from servers.http3 import Server as Http3Server
    from servers.http3_talk import Http3Limits


class Answers:
    """The part of a connection that answers."""

    server: Http2Server | Http3Server
    limits: Limits | Http3Limits
    conn: http2.ServerConnection | http3.ServerConnection
    clock: asyncio.AbstractEventLoop
    peer: int  # its port, for the log
    now: float
    busy_at: float  # when it last had something to do
    works: dict[int, Work]  # what is being worked on, by stream
    log: logging.Logger
    mistake: int  # INTERNAL_ERROR, in this version's numbers
    cancelled: int

    def take_turn_soon(self) -> None:
        """There is something to send."""
        raise NotImplementedError

    def is_early(self, head: Head) -> bool:
        """May it be the copy of an old flight? TCP's connections begin without early data here."""
        return False

    def react(self, event: http2.Event | None) -> None:
        if isinstance(event, http2.Request):
            self.answer(event)
        elif isinstance(event, http2.Reset):
            self.log.info("= %s stream %d has ended: %s", self.peer, event.stream, event.reason)
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
        early = self.is_early(head)
        if self.server.logs:
            text = ", early" if early else ""
            self.log.info("= %s stream %d is %s %s%s", self.peer, event.stream, head.method, head.target[:100], text)
        if early and head.method not in SAFE:
            # RFC 8470 §5.2: its sender can ask again when the handshake is done.
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
        self.log.info("! %s stream %d %d %s", self.peer, stream, status, reason)
        if head_sent:
            self.conn.reset(stream, self.mistake if status == 500 else self.cancelled)
            return
        body = f"{reason}\n".encode()
        fields = (("content-type", "text/plain; charset=utf-8"), self.server.date(), ("content-length", str(len(body))))
        self.conn.send_head(stream, status, fields)
        self.conn.send_data(stream, body, self.now, end=True)

    def failed(self, stream: int, head: Head, head_sent: bool = False) -> None:
        """We have made a mistake."""
        self.log.exception("! %s %s %s", self.peer, head.method, head.target)
        self.refuse(stream, 500, "the server has made a mistake", head_sent)

    def end_late(self) -> None:
        """End what has waited for the client for too long."""
        for work in list(self.works.values()):
            if work.ends_at and self.now >= work.ends_at:
                work.end("the body of the request did not come in time", 408)

    def end_stalled(self, before: float) -> bool:
        """End the streams that the client has not read since then. Were there any?"""
        stalled = self.conn.stalled(before)
        for stream in stalled:
            self.log.info("! %s stream %d is not read", self.peer, stream)
            self.conn.reset(stream, self.cancelled)
            self.drop(stream)
        return bool(stalled)

    def go_on(self) -> None:
        """Who waited for something to leave goes on, if it has."""
        for work in self.works.values():
            if work.head_sent and self.conn.is_sent(work.stream):
                work.wake()

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
