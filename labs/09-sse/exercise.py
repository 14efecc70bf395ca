"""A parser for event streams. Yours to write.

An event stream is UTF-8 text in lines: fields fill an event, a blank line dispatches it. The rules stand in the
standard, in one page: https://html.spec.whatwg.org/multipage/server-sent-events.html §9.2.5 and §9.2.6. Read
labs/09-sse/README.md first; check with `make sse-check`, and when you are stuck ask for `make sse-hint`. As shipped
this file makes the classic mistake: it takes one read for one event.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Event(NamedTuple):
    data: str
    type: str = "message"
    id: str = ""  # the last event ID when it was dispatched


class Parser:
    """Takes one stream in whatever pieces it arrives; gives its events.

    last_event_id   what a client sends as Last-Event-ID, should the stream break now. The parser of the next
                    connection begins with it. (§9.2.6: the "last event ID string". Which lines change it, and when?)
    retry           how long to wait before connecting again, in milliseconds; None as long as nobody has said
    """

    def __init__(self, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry: int | None = None
        # TODO 1: What must it remember from one call to the next? A line that is not whole, an event that is not …

    def receive_data(self, data: bytes) -> Iterable[Event]:
        """Yield (or return) the events that these bytes complete. b"" says that the stream has ended."""
        # TODO 2: Cut the stream into lines; what is left over is the beginning of the next one.
        #         A line ends with CR LF, with LF, or with CR, and with nothing else.
        # TODO 3: What does each line say? data, event, id, retry; a comment; a blank line; something unknown.
        text = data.decode()
        return [Event(text.removeprefix("data:").strip())]
