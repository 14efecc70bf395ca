r"""Server-sent events: one response that does not end, and a client that comes back where it was.

Every event has a number, which is its id. The last of them are remembered, so a client that lost its connection says
which one it saw last (Last-Event-ID), and gets those that it missed. What is no longer remembered it is told of, by an
event of type "gap". Publishing waits for nobody: whoever falls too far behind is sent away, and comes back in peace.

    /            a page that shows it in a browser; POST publishes the body, /?event=TYPE with a type
    /events      the stream (WHATWG HTML §9.2)
    /poll        for comparison: what is newer than ?since=ID, or 204
    /long-poll   the same, but waits for it

Run:   make sse-server     and open http://127.0.0.1:7009/
Try:   make sse-client
       curl -N http://127.0.0.1:7009/events
       curl -N http://127.0.0.1:7009/events -H 'Last-Event-ID: 1'
       curl -d 'hello, all' http://127.0.0.1:7009/
       make sse-server ARGS='--log captures/events.log'       and kill -9 it as often as you like
Left out on purpose: who may publish or listen, topics, a log that is cut when it grows, sharing it between servers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from protocols import sse
from protocols.errors import LocalProtocolError
from servers import command, http1, site
from servers.eventlog import EventLog, LogError

PORT = 7009
MAX_EVENT = 65536  # bytes of an event as it is sent. Each line end of its data becomes "\ndata: ", seven times as long.
REPLAY = 65536  # bytes of old events in one write: a thousand clients that come back must not double the history
BATCH = 100  # events in the answer to one poll
LONG_POLL_SECONDS = 25  # Proxies often give up after 30 or 60.

STREAM = [
    ("content-type", "text/event-stream"),
    ("cache-control", "no-store"),
    ("x-accel-buffering", "no"),  # nginx, and some after it: pass on what you have, do not wait for a full buffer.
]
NO_STORE = STREAM[1]
PAGE = Path(__file__).with_name("sse.html").read_bytes()

log = logging.getLogger("servers.sse")  # Silent, unless main() gives it a voice.


class TooLong(LocalProtocolError):
    """An event of more than MAX_EVENT bytes."""


class Queue:
    """What waits to be sent to one client."""

    def __init__(self) -> None:
        self.events: deque[bytes] = deque()
        self.ended = False  # Nothing more will come; what is there is still sent.
        self._news = asyncio.Event()

    def put(self, event: bytes) -> None:
        self.events.append(event)
        self._news.set()

    def end(self) -> None:
        self.ended = True
        self._news.set()

    async def wait(self, seconds: float) -> bool:
        """Until there is something, or the end; False when there was nothing for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0 if self.events or self.ended else seconds):
                await self._news.wait()
        self._news.clear()
        return bool(self.events) or self.ended


class Broker:
    """Numbers events, remembers the last of them, and gives them to whoever listens. To be used on one event loop.

    history            events that are remembered, for clients that come back
    history_bytes      the same in bytes: what is reached first, counts
    queue              events that may wait for one client; one more, and its stream ends
    heartbeat_seconds  of silence after which a comment is sent. A client that misses some knows that the line is dead,
                       a proxy that it is not, and to a client that has vanished a write fails at last
    retry_ms           how long a client shall wait before it comes back
    log_file           where events are written before they are sent, so that they outlive this process
    first              the number of the first event. If no log says how to go on, it is the clock in milliseconds: were
                       it 1 in every life, a client of the last one would take new events for those that it has seen
    """

    def __init__(
        self,
        *,
        history: int = 1000,
        history_bytes: int = sse.MAX_HISTORY,
        queue: int = 100,
        heartbeat_seconds: float = 15,
        retry_ms: int = 2000,
        log_file: Path | None = None,
        first: int | None = None,
    ) -> None:
        self.address = ("", 0)
        self.finished = False
        self._history = sse.History(history, int(time.time() * 1000) if first is None else first, history_bytes)
        self._queue, self._heartbeat, self._retry = queue, heartbeat_seconds, retry_ms
        self._queues: set[Queue] = set()
        self._stopped = False
        self._log = EventLog(log_file, self._history) if log_file else None

    @property
    def clients(self) -> int:
        """How many listen."""
        return len(self._queues)

    @property
    def longest_queue(self) -> int:
        """How many events wait for the slowest of them."""
        return max((len(queue.events) for queue in list(self._queues)), default=0)

    def publish(self, data: str, event: str = "") -> int:
        """Number the event, remember it, put it into every queue; return the number. It waits for nobody.

        TooLong, or another LocalProtocolError: the format cannot carry it. OSError: the log cannot be written.
        """
        number = self._history.next
        wire = sse.encode(data, event=event, id=str(number))
        if len(wire) > MAX_EVENT:
            raise TooLong(f"an event has at most {MAX_EVENT} bytes as it is sent, this one {len(wire)}")
        if self._log is not None:  # First of all: what a client has seen must be there after a crash.
            self._log.append(wire)
        self._history.add(wire)
        log.info("> %d %r, to %d", number, data[:60], len(self._queues))
        for queue in list(self._queues):
            if len(queue.events) < self._queue:
                queue.put(wire)
            else:
                log.info("! %d events wait for a client: it is sent away", len(queue.events))
                queue.events.clear()  # It will ask for them when it comes back.
                self._end(queue)
        return number

    def _end(self, queue: Queue) -> None:
        self._queues.discard(queue)
        queue.end()

    def disconnect(self) -> None:
        """End all streams. Clients come back."""
        for queue in list(self._queues):
            self._end(queue)

    def finish(self) -> None:
        """There will be no more events: streams end, and who comes back is told so (204), once it has them all."""
        self.finished = True
        self.disconnect()

    def stop(self) -> None:
        """End all streams, and begin no new ones: clients come back to whoever serves next."""
        self._stopped = True
        self.disconnect()

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    # -- Those who listen

    @contextlib.contextmanager
    def _listening(self) -> Iterator[Queue]:
        queue = Queue()
        self._queues.add(queue)
        if self._stopped or self.finished:
            self._end(queue)
        try:
            yield queue
        finally:
            self._queues.discard(queue)

    async def _stream(self, last_event_id: str) -> AsyncIterator[bytes]:
        with self._listening() as queue:
            # Nothing can be published between these two lines.
            old = deque([sse.encode(None, retry=self._retry), *self._history.since(last_event_id)])
            log.info("= a client that has %r; %d now", last_event_id[:60], len(self._queues))
            while old:
                yield joined(old)
            while True:
                while queue.events:
                    yield queue.events.popleft()
                if queue.ended:
                    break
                if not await queue.wait(self._heartbeat):
                    yield sse.comment()
        log.info("= a client less; %d now", len(self._queues))

    async def _poll(self, last_event_id: str, seconds: float) -> site.Response:
        with self._listening() as queue:
            if not (events := self._history.since(last_event_id)) and await queue.wait(seconds):
                events = self._history.since(last_event_id)
        return site.Response(200, STREAM, b"".join(events[:BATCH])) if events else site.Response(204, [NO_STORE], b"")

    async def respond(self, request: site.Request) -> site.Response:
        """Answer any request, of any version of HTTP."""
        path, _, text = request.target.partition("?")
        query = dict(parse_qsl(text))
        if path == "/" and request.method == "POST":
            return await self._take(request, query.get("event", ""))
        if path not in ("/", "/events", "/poll", "/long-poll"):
            return site.plain(404, "There are /, /events, /poll and /long-poll.")
        if request.method not in ("GET", "HEAD"):
            return site.plain(405, "Not with this method.", ("allow", "GET, HEAD" + ", POST" * (path == "/")))
        if path == "/":
            return site.Response(200, [("content-type", "text/html; charset=utf-8"), NO_STORE], PAGE)
        have = request.fields.get("last-event-id") or query.get("since", "")
        if path != "/events":
            return await self._poll(have, LONG_POLL_SECONDS if path == "/long-poll" else 0)
        if self.finished and not (have and self._history.since(have)):
            return site.Response(204, [NO_STORE], b"")  # Do not come back (WHATWG HTML §9.2.1).
        return site.Response(200, STREAM, self._stream(have))

    async def _take(self, request: site.Request, event: str) -> site.Response:
        """Publish the body of a request."""
        data = bytearray()
        async for piece in request.body:
            data += piece
            if len(data) > MAX_EVENT:
                return site.plain(413, f"An event has at most {MAX_EVENT} bytes.")
        try:
            return site.plain(201, str(self.publish(data.decode(), event)))
        except TooLong as error:
            return site.plain(413, f"Not published: {error}.")
        except (UnicodeDecodeError, LocalProtocolError) as error:
            return site.plain(400, f"This cannot be an event: {error}.")
        except OSError as error:
            log.info("! the log cannot be written: %s", error)
            return site.plain(507, "The log cannot be written, so nothing was published.")


def joined(events: deque[bytes]) -> bytes:
    """Take events from the left, in all not much more than REPLAY bytes."""
    data = bytearray()
    while events and len(data) < REPLAY:
        data += events.popleft()
    return bytes(data)


# -- The server ------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    max_connections: int = 2000,
    body_seconds: float = 30,
    **options: Any,
) -> AsyncIterator[Broker]:
    """Serve within the block; `address` is where. The options are the Broker's; a client that takes nothing for
    *body_seconds* is given up. At the end of the block the streams end, and clients come back to whoever serves next.
    LogError: the log cannot be used.
    """
    broker = Broker(**options)
    with contextlib.closing(broker):
        async with http1.serve(
            host, port, respond=broker.respond, max_connections=max_connections, body_seconds=body_seconds
        ) as server:
            broker.address = server.address
            try:
                yield broker
            finally:
                broker.stop()


@contextlib.asynccontextmanager
async def serve_the_time(options: argparse.Namespace) -> AsyncIterator[Broker]:
    """Serve, and publish the time now and then, so that there is something to see."""

    async def tick() -> None:
        while options.tick:
            try:
                broker.publish(time.strftime("%H:%M:%S"))
            except OSError as error:
                log.info("! the log cannot be written: %s", error)
            await asyncio.sleep(options.tick)

    async with serve(options.host, options.port, retry_ms=options.retry, log_file=options.log) as broker:
        ticking = asyncio.create_task(tick())
        try:
            yield broker
        finally:
            ticking.cancel()
            await asyncio.wait([ticking])


def main() -> int:
    parser = command.parser("sse", PORT, "Publishes events to whoever listens.")
    parser.add_argument("--log", type=Path, help="a file for the events, so that they outlive this process")
    parser.add_argument("--tick", type=float, default=1, help="publish the time, so many seconds apart; 0: never")
    parser.add_argument("--retry", type=int, default=2000, help="milliseconds a client waits before it comes back")
    options = parser.parse_args()
    if not (options.tick == 0 or 0.001 <= options.tick <= 3600) or not 0 <= options.retry <= 3_600_000:
        parser.error("--tick is 0 or 0.001 to 3600 seconds, --retry 0 to 3600000 milliseconds")
    try:
        return command.main("sse", lambda: serve_the_time(options), options)
    except LogError as error:
        print(f"{error}.", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
