r"""The other half of servers/sse.py, and an EventSource for Python: events, over as many connections as it takes.

When the stream ends or breaks, wait, connect again, and say which event was the last: that is all of it (WHATWG HTML
§9.2.3). The rest is when not to: 204 says that there is no more, and an answer that is no event stream will be none
the next time, either.

Run:   make sse-server   and in a second terminal   make sse-client
Try:   make sse-client ARGS='--events 0'            then stop the server, and start it again
       make sse-client ARGS='--last-event-id 1'
Exit:  0 the events have come, or the server said that there are no more; 1 it answered with something else; 2 could not
       run (a bad argument, or nobody answers); 130 Ctrl-C
Left out on purpose: Retry-After, cookies, compressed streams.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import re
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Iterator, Mapping
from typing import TypeVar

from clients import command
from clients.http1 import Answer, Client, redirected
from clients.http1_connection import Request
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http1 import Response
from protocols.sse import MAX_EVENT, MAX_LINE, Comment, Decoder, Event, Retry

URL = "http://127.0.0.1:7009/events"
FIELD_VALUE = re.compile(r"[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?")  # RFC 9110 §5.5
BRIEF = 1  # seconds. A server that ends each stream so soon could do so for ever
PERMANENT = (301, 308)  # RFC 9110 §15.4.2, §15.4.9

log = logging.getLogger("clients.sse")  # Silent, unless main() gives it a voice.

T = TypeVar("T")


class Refused(RemoteProtocolError):
    """An answer that would be the same the next time. `code` is its status."""


class EventSource:
    """The events of a URL:

        async with EventSource("http://127.0.0.1:7009/events") as source:
            async for event in source:
                print(event.id, event.type, event.data)

    The loop ends when the server says that there are no more (204), or after close(). It raises RemoteProtocolError
    (`code` is the status) for what connecting again would not mend: an answer other than 200 with text/event-stream,
    too many redirects, a line or an event beyond the limits.

    method, headers, body   of the request; the headers as pairs or a mapping, the body as bytes
    last_event_id           where to begin; later, where it is
    retry_ms                how long to wait before connecting again, until the server says another time ("retry:")
    min_wait                seconds at least, after a stream that was BRIEF: with "retry: 0", a server that ends each
                            stream at once would be asked a hundred times a second. (§9.2.3: "wait some more")
    max_wait                seconds. Each attempt that fails doubles the wait, up to this. A fraction *jitter* more is
                            added by chance, or a thousand clients would come back in the same moment
    attempts                how many may fail in a row before the error is raised; None: it never gives up
    connect_timeout         seconds until the head of the answer is here
    read_timeout            seconds without a single byte, heartbeats included, after which the line counts as dead
    retry_statuses          statuses to come back after, such as {502, 503, 504}; the standard knows none
    on_open, on_comment, on_error   called when the stream begins, with the text of each comment, and with what ended
                            the stream or kept it from beginning (connecting again comes next). What they raise ends
                            the loop

    Whoever cancels the wait for an event (asyncio.timeout) costs it the connection: the next wait makes a new one.
    """

    def __init__(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
        last_event_id: str = "",
        retry_ms: float = 3000,
        min_wait: float = 0.1,
        max_wait: float = 30,
        jitter: float = 0.5,
        attempts: int | None = None,
        connect_timeout: float = 10,
        read_timeout: float | None = 60,
        retry_statuses: Container[int] = (),
        max_redirects: int = 10,
        max_line: int = MAX_LINE,
        max_event: int = MAX_EVENT,
        ssl: ssl.SSLContext | None = None,
        on_open: Callable[[], object] = lambda: None,
        on_comment: Callable[[str], object] = lambda text: None,
        on_error: Callable[[Exception], object] = lambda error: None,
    ) -> None:
        fields = list(headers.items() if isinstance(headers, Mapping) else headers)
        names = {name.lower() for name, _ in fields}
        defaults = [("Accept", "text/event-stream"), ("Cache-Control", "no-store")]
        if body is not None:
            defaults.append(("Content-Type", "text/plain; charset=utf-8"))
        fields = [*(pair for pair in defaults if pair[0].lower() not in names), *fields]
        self._request = Request(method, url, fields, body)
        self.retry_ms = retry_ms
        self._min_wait, self._max_wait, self._jitter, self._attempts = min_wait, max_wait, jitter, attempts
        self._connect_timeout, self._read_timeout = connect_timeout, read_timeout
        self._retry_statuses, self._max_redirects = retry_statuses, max_redirects
        self._max_line, self._max_event, self._ssl = max_line, max_event, ssl
        self._on_open, self._on_comment, self._on_error = on_open, on_comment, on_error
        self._decoder = Decoder(last_event_id, max_line=max_line, max_event=max_event)
        self._items: Iterator[Event | Comment | Retry] = iter(())
        self._body: AsyncIterator[bytes] | None = None  # of the answer, while there is one
        self._connection = contextlib.AsyncExitStack()
        self._failed = 0  # attempts in a row
        self._began = 0.0  # when the stream did
        self._wait = 0.0  # seconds before the next attempt
        self._deadline: asyncio.Timeout | None = None  # of what is awaited now
        self._restarting = self._closed = False

    @property
    def last_event_id(self) -> str:
        """The id of the last event that the loop was given, or where the server said that the stream is."""
        return self._decoder.last_event_id

    def restart(self) -> None:
        """Leave the connection, and make a new one at once."""
        self._restarting = True
        self._interrupt()

    def close(self) -> None:
        """End the loop."""
        self._closed = True
        self._interrupt()

    def _interrupt(self) -> None:
        """Let what is awaited now end at once, as if its time were up."""
        if self._deadline is not None:
            with contextlib.suppress(RuntimeError):  # It is up.
                self._deadline.reschedule(asyncio.get_running_loop().time())

    async def _within(self, seconds: float | None, work: Awaitable[T]) -> T:
        """Wait for that, but no longer than so, and not after restart() or close(): TimeoutError."""
        try:
            async with asyncio.timeout(0 if self._restarting or self._closed else seconds) as self._deadline:
                return await work
        finally:
            self._deadline = None

    async def __aenter__(self) -> EventSource:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self._disconnect()

    def __aiter__(self) -> EventSource:
        return self

    async def __anext__(self) -> Event:
        while not self._closed:
            if (event := self._take()) is not None:
                log.info("< %r %r %r", event.id[:60], event.type[:60], event.data[:60])
                return event
            begins = self._body is None
            try:
                await (self._begin() if begins else self._read())
            except (Refused, LocalProtocolError):
                await self.__aexit__()
                raise
            except (OSError, RemoteProtocolError) as error:
                await self._disconnect()
                self._lost(error)
            else:
                if begins and not self._closed:
                    log.info("= the stream begins")
                    self._on_open()
        await self._disconnect()
        raise StopAsyncIteration

    def _take(self) -> Event | None:
        """The next event of what has been read. Items are taken one by one, for the last event ID is that of the last
        one taken: what has not been, comes again when the connection is lost."""
        while True:
            try:
                item = next(self._items, None)
            except RemoteProtocolError as error:  # Too long, and it will be the next time.
                raise Refused(str(error)) from None
            match item:
                case Comment(text):
                    log.info("< : %r", text[:60])
                    self._on_comment(text)
                case Retry(milliseconds):
                    log.info("= the time to wait is %d ms now", milliseconds)
                    self.retry_ms = milliseconds
                case _:
                    return item

    async def _begin(self) -> None:
        """Make a connection, when its time has come."""
        await self._within(None, asyncio.sleep(self._wait))
        self._failed += 1
        self._body = await self._within(self._connect_timeout, self._connect())
        self._failed, self._began = 0, time.monotonic()
        self._decoder = Decoder(self.last_event_id, max_line=self._max_line, max_event=self._max_event)

    async def _read(self) -> None:
        assert self._body is not None
        piece = await self._within(self._read_timeout, anext(self._body, None))
        if piece is None:
            raise ConnectionError("the server has ended the stream")
        self._items = self._decoder.receive_data(piece)

    def _lost(self, error: Exception) -> None:
        """There is no connection (any more): how long to wait before the next attempt?"""
        if self._restarting or self._closed:
            self._restarting, self._wait = False, 0
            return
        log.info("! %s", str(error) or type(error).__name__)
        self._on_error(error)
        if self._attempts is not None and self._failed >= self._attempts:
            self._closed = True
            raise error
        wait = self.retry_ms / 1000
        if time.monotonic() - self._began < BRIEF:
            wait = max(wait, self._min_wait)
        if self._failed:  # Also where the server says "retry: 0".
            wait = max(wait, min(max(wait, 0.1) * 2 ** min(self._failed - 1, 30), self._max_wait))
        self._wait = wait * (1 + self._jitter * random.random())
        log.info("= connecting again in %.1f s, after event %r", self._wait, self.last_event_id[:60])

    async def _connect(self) -> AsyncIterator[bytes]:
        """Ask, follow redirects, return the body of an event stream. 301 and 308 are for ever: where they led to is
        asked the next time. 302, 303 and 307 are for now: the next attempt begins where this one did."""
        request, for_ever = self._request, True
        for _ in range(self._max_redirects + 1):
            answer = await self._ask(request)
            status, kind = answer.status, answer.fields.get("content-type", "").partition(";")[0].strip().lower()
            if status == 204:
                log.info("= there is no more")
                self._closed = True
            if self._closed or (status == 200 and kind == "text/event-stream"):
                return answer.body
            if status in self._retry_statuses:
                raise ConnectionError(f"status {status}")
            try:
                after = redirected(request, Response(*answer[:3], list(answer.pairs)))
            except RemoteProtocolError as error:
                raise Refused(str(error), status) from None
            if after is None:
                shown = repr(kind[:60]) if kind else "missing"  # It may hold what a terminal obeys.
                raise Refused(f"no event stream: status {status}, content-type {shown}", status)
            await self._disconnect()
            request, for_ever = after, for_ever and status in PERMANENT
            if for_ever:
                self._request = request
        raise Refused(f"more than {self._max_redirects} redirects", status)

    async def _ask(self, request: Request) -> Answer[AsyncIterator[bytes]]:
        """One request, on a connection of its own."""
        method, url, fields, body, _ = request
        last_event_id = self.last_event_id.encode().decode("latin-1")  # UTF-8, says the standard; fields are bytes.
        if FIELD_VALUE.fullmatch(last_event_id):  # Not when there is none; and no HTTP carries a control character.
            fields = [
                *(pair for pair in fields if pair[0].lower() != "last-event-id"),
                ("Last-Event-ID", last_event_id),
            ]
        client = await self._connection.enter_async_context(Client(timeout=None, max_redirects=0, ssl=self._ssl))
        stream = client.stream(method, url, fields=fields, body=body)
        return await self._connection.enter_async_context(stream)

    async def _disconnect(self) -> None:
        self._body = None
        await self._connection.aclose()


async def show(options: argparse.Namespace) -> None:
    """Log events until there are enough of them, or no more."""
    opened = False

    def on_open() -> None:
        nonlocal opened
        opened = True

    def on_error(error: Exception) -> None:
        if not opened:  # Nobody is there: a person wants to know, and now. Later on, it comes back.
            raise error

    log.info("> GET %s", options.url)
    async with EventSource(
        options.url, last_event_id=options.last_event_id, on_open=on_open, on_error=on_error
    ) as source:
        count = 0
        async for _ in source:
            count += 1
            if count == options.events:
                break


def main() -> int:
    parser = argparse.ArgumentParser(prog="clients.sse", description="Listens to an event stream.")
    parser.add_argument("url", nargs="?", default=URL)
    parser.add_argument("--events", type=int, default=3, help="how many to wait for; 0: until Ctrl-C")
    parser.add_argument("--last-event-id", default="", help="the event that you have seen last")
    options = parser.parse_args()
    logging.getLogger("clients.http1").setLevel(logging.WARNING)  # The events are what is to be seen here.
    return command.main(log, lambda: show(options), peer=options.url, server="sse-server")


if __name__ == "__main__":
    sys.exit(main())
