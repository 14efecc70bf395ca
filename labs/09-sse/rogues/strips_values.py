"""Caught by: fields: One space after the colon belongs to the format; every other space, also at the end, is data

str.strip() is a reflex. Indented text, and text that ends with a space, is not what it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

LINE_END = re.compile(rb"\r\n|\r|\n")
BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    data: str
    type: str = "message"
    id: str = ""  # the last event ID when it was dispatched


class Parser:
    """Takes one stream in whatever pieces it arrives; gives its events."""

    def __init__(self, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self._line = bytearray()  # the unfinished one, as bytes: a character may be cut in two
        self._after_cr = False
        self._at_start = True
        self._id = last_event_id
        self._type = ""
        self._data: list[str] = []

    def receive_data(self, data: bytes) -> Iterator[Event]:
        """Yield the events that these bytes complete. b"" says that the stream has ended."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")  # the LF of a CR LF that was cut in two; its line has ended already
            self._after_cr = False
        if not data:
            return
        self._after_cr = data.endswith(b"\r")
        *lines, rest = LINE_END.split(data)
        for line in lines:
            self._line += line
            whole, self._line = bytes(self._line), bytearray()
            if self._at_start:
                whole, self._at_start = whole.removeprefix(BOM), False
            yield from self._process(whole.decode("utf-8", "replace"))
        self._line += rest

    def _process(self, line: str) -> Iterator[Event]:
        if not line:
            yield from self._dispatch()
        name, _, value = line.partition(":")  # A comment's name is empty, and no field is called that.
        value = value.strip()
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            self.retry = int(value.lstrip("0")[:10] or "0")  # int() of 5000 digits is an error, and no waiting time.

    def _dispatch(self) -> Iterator[Event]:
        self.last_event_id = self._id  # Not earlier: an event that breaks off has to come again.
        if self._data:
            yield Event("\n".join(self._data), self._type or "message", self._id)
        self._data, self._type = [], ""
