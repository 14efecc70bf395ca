"""The event stream format of server-sent events, sans-IO: no sockets, no clock, no asyncio.

A stream of UTF-8 text that never ends, in lines (WHATWG HTML §9.2.5, §9.2.6). Fields fill an event, a blank
line dispatches it, and what the stream breaks off within is no event at all:

    id: 7              where to go on, should the connection break: the client's Last-Event-ID
    event: price       its type; "message" when there is none
    data: 12.50        its data, here of two lines: "12.50\\nEUR"
    data: EUR
                       the blank line
    : still here       a comment, with which a server shows that it lives
    retry: 2000        how long to wait before connecting again, in milliseconds
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from protocols.errors import LocalProtocolError, RemoteProtocolError

MAX_LINE = 4 << 20  # Else a server that never ends its line owns our memory.
MAX_EVENT = 16 << 20  # The same with lines, and no blank one.
MAX_HISTORY = 16 << 20  # bytes of events that are remembered
LONGEST_RETRY = 10  # digits, some 115 days; int() of thousands of them is slow, and of more than 4300 an error

BOM = b"\xef\xbb\xbf"
LINE_END = re.compile(rb"\r\n|\r|\n")  # And no other: str.splitlines() also cuts at \v, \f, \x85 and U+2028.
ASCII_DIGITS = re.compile(r"[0-9]+")  # str.isdigit() is true of "²", and int() takes "1_000" and " +5 ".


@dataclass(frozen=True, slots=True)
class Event:
    """An event. `id` is the last that the stream has named, in this event or in one before it."""

    data: str
    type: str = "message"
    id: str = ""


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment line, all that stood behind its colon. It belongs to no event."""

    text: str


@dataclass(frozen=True, slots=True)
class Retry:
    """From now on, wait so long before connecting again."""

    milliseconds: int


class Decoder:
    """Takes one stream in whatever pieces it arrives; gives its events, comments and retry times.

    `last_event_id` is what to send as Last-Event-ID, should the stream break now. The decoder of the next
    connection begins with it: an event without an id has that of the one before, also across connections.
    """

    def __init__(self, last_event_id: str = "", *, max_line: int = MAX_LINE, max_event: int = MAX_EVENT) -> None:
        self.last_event_id = last_event_id
        self._max_line, self._max_event = max_line, max_event
        self._lines: deque[bytes] = deque()  # whole ones that nobody has asked for yet
        self._line = bytearray()  # the unfinished one
        self._at_start = True
        self._after_cr = False
        self._id = last_event_id  # Not the last event ID before the blank line: the event may never be whole.
        self._type = ""
        self._data: list[str] = []
        self._size = 0  # bytes of the event's data lines

    def receive_data(self, data: bytes) -> Iterator[Event | Comment | Retry]:
        """Yield what these bytes complete; keep the rest for the next call.

        Raises RemoteProtocolError for a line or an event that is too long, after the good ones before it. When
        the stream ends there is nothing to call: an event without its blank line is discarded (§9.2.6).
        """
        if self._after_cr and data:
            data = data.removeprefix(b"\n")  # The second half of a CR LF: its line ended with the read before.
            self._after_cr = False
        if data:
            *lines, rest = LINE_END.split(data)
            if lines:
                self._lines.append(bytes(self._line + lines[0]))
                self._lines.extend(lines[1:])
                self._line = bytearray()
            self._line += rest
            # A CR ends its line at once. Whoever waits for the next byte, since it might be LF, gives the event
            # when the one after it arrives.
            self._after_cr = data.endswith(b"\r")
        return self._items()

    def _items(self) -> Iterator[Event | Comment | Retry]:
        while self._lines:
            line = self._lines[0]
            self._check(line)
            if self._at_start:
                line = line.removeprefix(BOM)
            item = self._process(line)
            self._lines.popleft()
            self._at_start = False
            if item is not None:
                yield item
        self._check(self._line)

    def _check(self, line: bytes | bytearray) -> None:
        if len(line) > self._max_line:
            raise RemoteProtocolError(f"a line of more than {self._max_line} bytes")

    def _process(self, line: bytes) -> Event | Comment | Retry | None:
        if not line:
            return self._dispatch()
        # No character is cut in two here: no byte of one but ASCII's own is CR or LF.
        name, colon, value = line.decode("utf-8", "replace").partition(":")
        if colon and not name:
            return Comment(value)
        value = value.removeprefix(" ")  # One, and only a space: the rest is the author's.
        if name == "data":
            if self._size + len(line) > self._max_event:
                raise RemoteProtocolError(f"an event of more than {self._max_event} bytes")
            self._size += len(line)
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and ASCII_DIGITS.fullmatch(value):
            return Retry(int(value.lstrip("0")[:LONGEST_RETRY] or "0"))
        return None  # Unknown fields are ignored, so that there can be new ones.

    def _dispatch(self) -> Event | None:
        self.last_event_id = self._id  # Also when there is no data: a server can name a place without an event.
        event = Event("\n".join(self._data), self._type or "message", self._id) if self._data else None
        self._type, self._data, self._size = "", [], 0
        return event


def encode(data: str | None, *, event: str = "", id: str | None = None, retry: int | None = None) -> bytes:
    """Return one event as bytes, blank line included.

    data    each of its lines becomes a field; they may end in CR LF, CR or LF, and arrive with LF.
            None: no data, so no event; but the id and the retry time count
    event   its type; "" is "message"
    id      None: that of the event before; "": the client shall forget the one it has
    retry   milliseconds

    LocalProtocolError for what the format cannot carry: a line end in event or id, NUL in id, half a surrogate.
    """
    fields = []
    if id is not None:
        if "\0" in id:
            raise LocalProtocolError("NUL in an id: clients ignore such an id")
        fields.append(("id", _one_line(id, "an id")))
    if event:
        fields.append(("event", _one_line(event, "an event type")))
    if retry is not None:
        if retry < 0:
            raise LocalProtocolError(f"a retry time of {retry} ms")
        fields.append(("retry", str(retry)))
    if data is not None:
        fields.append(("data", "\ndata: ".join(_lines(data))))
    # With a space even before nothing: a value that begins with one would lose it.
    return _utf_8("".join(f"{name}: {value}\n" for name, value in fields) + "\n")


def comment(text: str = "") -> bytes:
    """Return a comment, of as many lines as the text has. The shortest, ":" and LF, is the usual heartbeat."""
    return _utf_8("".join(f":{line}\n" for line in _lines(text)))


class History:
    """The last events of a stream, numbered without a gap, for clients that come back: the replay buffer.

    size        events that are remembered; those before them are forgotten, and a client that missed one is told
    first       the number of the first event, and so the beginning of all ids
    max_bytes   of all events that are remembered, as they are sent: a thousand may be small or large
    """

    def __init__(self, size: int = 1000, first: int = 1, max_bytes: int = MAX_HISTORY) -> None:
        self.next = first
        self._size, self._max_bytes = size, max_bytes
        self._events: deque[bytes] = deque()
        self._bytes = 0

    def add(self, wire: bytes) -> None:
        """Remember the next event, as encode() has made it: its id is `next`."""
        self._events.append(wire)
        self._bytes += len(wire)
        self.next += 1
        while len(self._events) > self._size or self._bytes > self._max_bytes:
            self._bytes -= len(self._events.popleft())

    def since(self, last_event_id: str = "") -> list[bytes]:
        """What to send to a client that has that event: those after it.

        A new client, which has none, gets an id without an event (§9.2.6, dispatch, step 1): a place to come back to.
        A client whose place is forgotten or unknown is told so, by an event of type "gap", and gets all there is.
        """
        if not last_event_id:
            return [encode(None, id=str(self.next - 1))]
        oldest = self.next - len(self._events)
        known = ASCII_DIGITS.fullmatch(last_event_id) and len(last_event_id) < 19
        if known and oldest - 1 <= (number := int(last_event_id)) < self.next:
            return list(islice(self._events, number + 1 - oldest, None))
        gap = f"Your last event is not known here, or too long ago; there are {len(self._events)}, from {oldest} on."
        return [encode(gap, event="gap", id=str(oldest - 1)), *self._events]


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _one_line(text: str, what: str) -> str:
    if "\r" in text or "\n" in text:
        raise LocalProtocolError(f"a line end in {what}: what follows would be a field of its own")
    return text


def _utf_8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"no text: {error}") from None
