"""What both ends of an HTTP/1.1 connection share: events, and how a message arrives and leaves (RFC 9112 §6, §7)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http1_syntax import ABSOLUTE_FORM, BREAKS, BROKEN, CHUNK_LINE, Pairs, field_lines, tokens

NOT_IN_TRAILERS = frozenset(  # RFC 9110 §6.5.1: framing, routing, authentication, and how to read the content
    "authorization cache-control connection content-encoding content-length content-range content-type cookie expect "
    "host max-forwards proxy-authorization range set-cookie te trailer transfer-encoding upgrade".split()
)
CHUNK_LINE_LIMIT = 1024  # bytes: a size, extensions, CRLF
FREE_EXTENSIONS = 16384  # bytes of chunk extensions in a body, besides as many as it has data


class Request(NamedTuple):
    """The head of a request. Text is one character per byte (latin-1)."""

    method: str
    target: str  # as sent: "/path?query", "http://host/path", "host:port" (CONNECT) or "*" (OPTIONS)
    fields: Mapping[str, str]  # lower-case name → value; repeated ones joined by ", " (RFC 9110 §5.3)
    pairs: Pairs  # names and values as sent, in order
    version: tuple[int, int] = (1, 1)

    @property
    def expects_continue(self) -> bool:
        """The client waits for 100 (Continue) before it sends the body (RFC 9110 §10.1.1)."""
        return self.version > (1, 0) and "100-continue" in tokens(self.fields.get("expect", ""))

    @property
    def path(self) -> str:
        """The target without scheme and host: "/path?query" of any form but CONNECT's and "*" (§3.2)."""
        if self.target[0] == "/" or not (absolute := ABSOLUTE_FORM.fullmatch(self.target)):
            return self.target
        return absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]


class Response(NamedTuple):
    """The head of a response. A status below 200 is interim: another head follows (RFC 9110 §15.2)."""

    status: int
    reason: str
    fields: Mapping[str, str]
    pairs: Pairs
    version: tuple[int, int] = (1, 1)


class Data(NamedTuple):
    """A piece of the body, cut as its bytes arrived: the cut has no meaning."""

    data: bytes


class EndOfMessage(NamedTuple):
    """The message is whole."""

    trailers: Mapping[str, str] = MappingProxyType({})


class ConnectionClosed(NamedTuple):
    """No further message comes: the peer has sent FIN between two messages, or one end has said close."""


Event = Request | Response | Data | EndOfMessage | ConnectionClosed
_END = EndOfMessage()

# How the end of the body being sent is told.
UNTIL_CLOSE, BY_LENGTH, CHUNKED, NO_BODY, NOTHING = "until close", "by length", "chunked", "no body", "nothing to send"
SWITCHED = "not HTTP any more"


class Connection:
    """What has arrived and is not read yet, and what is being sent.

    The state of receiving is `_read`, the function that reads what comes next; the state of sending is `_framing`.
    """

    def __init__(
        self, *, max_line: int = 8192, max_fields: int = 100, max_fields_size: int = 32768, max_body: int = 1 << 30
    ) -> None:
        """Each limit (bytes; max_fields: lines) is what a peer would else fill our memory with, or keep us busy."""
        self._max_line, self._max_fields, self._max_fields_size = max_line, max_fields, max_fields_size
        self._max_body = max_body
        self._buffer, self._at = b"", 0  # What is before _at has been read.
        self._checked = 0  # No block of lines ends before this: searching from here keeps byte by byte linear.
        self.ended = False
        """Has the peer sent FIN?"""
        self._failure: RemoteProtocolError | None = None
        self._read: Callable[[], Event | None] = self._read_head
        self._remaining = self._size = self._extensions = 0  # bytes: of this body or chunk, of the body, of extensions
        self._framing, self._unsent = NOTHING, 0
        self.keep_alive = True
        """May another message follow on this connection (§9.3)?"""

    def receive_data(self, data: bytes) -> None:
        """Take what the socket gave; b"" says that the peer has sent FIN."""
        if not data:
            self.ended = True
        if self._at == len(self._buffer):
            self._buffer, self._at, self._checked = data, 0, 0
        else:
            self._checked = max(self._checked - self._at, 0)
            self._buffer, self._at = self._buffer[self._at :] + data, 0

    def next_event(self) -> Event | None:
        """Return the next event, or None when more bytes are needed (never after FIN).

        RemoteProtocolError: the peer broke the protocol; on a server, `code` is the status to answer with. Nobody
        knows where its next message begins, so there is none.
        """
        if self._failure:
            raise self._failure
        try:
            event = self._read()
            if event is None and self.ended:
                raise RemoteProtocolError("the connection ended in the middle of a message (§8)", 400)
        except RemoteProtocolError as error:
            self._failure, self.keep_alive = error, False
            raise
        return event

    @property
    def trailing_data(self) -> bytes:
        """What has arrived and belongs to no message: after an upgrade, the first bytes of the other protocol."""
        return self._buffer[self._at :]

    @property
    def is_idle(self) -> bool:
        """Between two messages, with nothing of the next one here."""
        return self._read == self._read_head and self._at == len(self._buffer)

    @property
    def unread(self) -> int:
        """How many bytes have arrived and are not read yet."""
        return len(self._buffer) - self._at

    # Receiving a head, or trailers: lines that end with an empty one.

    def _unfinished(self, start: int) -> None:
        """The field lines from *start* on have no end yet: refuse at once what no later byte can mend."""
        self._refuse_broken(start)
        self._check_size(len(self._buffer) - start - 1)  # The last may be the CR of the empty line.
        if self._buffer.count(b"\n", start) > self._max_fields:
            raise RemoteProtocolError(f"more than {self._max_fields} field lines", 431)

    def _refuse_broken(self, start: int) -> None:
        if broken := BROKEN.search(self._buffer, max(start, self._checked - 1)):
            raise RemoteProtocolError(BREAKS[broken[0]], 400)
        self._checked = len(self._buffer)

    def _check_size(self, size: int) -> None:
        if size > self._max_fields_size:
            raise RemoteProtocolError(f"more than {self._max_fields_size} bytes of field lines", 431)

    def _take_head(self) -> tuple[str, str] | None:
        """Return the first line and the field lines of a head; None when they are not here yet."""
        data, at = self._buffer, self._at
        end = data.find(b"\r\n\r\n", max(at, self._checked - 3))
        if end < 0:
            line_end = data.find(b"\r\n", at, at + self._max_line + 2)
            if line_end < 0 and len(data) - at > self._max_line + 1:
                raise self._line_too_long(data[at : at + self._max_line])
            if line_end >= 0:
                if line_end + 2 > self._checked:  # Once is enough: more may arrive byte by byte.
                    self._check_line(data[at:line_end].decode("latin-1"))
                self._unfinished(line_end + 2)
            else:
                self._refuse_broken(at)
            return None
        line, _, block = data[at : end + 2].decode("latin-1").partition("\r\n")
        if end - at > self._max_line or end - at > self._max_fields_size:  # Only then one of them can be too long.
            if len(line) > self._max_line:
                raise self._line_too_long(data[at : at + self._max_line])
            self._check_line(line)
            self._check_size(len(block))
        self._at = self._checked = end + 4
        return line, block

    def _check_line(self, line: str) -> None:
        raise NotImplementedError

    def _read_head(self) -> Event | None:
        raise NotImplementedError

    def _line_too_long(self, line: bytes) -> RemoteProtocolError:
        raise NotImplementedError

    def _received(self) -> None:
        """The message that was arriving is whole."""
        raise NotImplementedError

    # Receiving a body.

    def _expect_body(self, fields: Mapping[str, str], otherwise: Callable[[], Event | None]) -> None:
        """Choose how the body ends (§6.3); *otherwise* is for a head that does not say it."""
        self._size = self._extensions = self._remaining = 0
        coding, length = fields.get("transfer-encoding"), fields.get("content-length")
        if coding is None and length is None:
            self._read = otherwise
        elif coding is None:
            assert length is not None
            if not (length.isascii() and length.isdigit()):
                more = ": a list, or sent twice" if "," in length else ""
                raise RemoteProtocolError(f"Content-Length is not one number{more} (§6.3)", 400)
            self._remaining = self._sized(int(length.lstrip("0")[:20] or 0))  # 20 digits are too many for any limit.
            self._read = self._read_length
        elif length is not None:
            raise RemoteProtocolError("both Transfer-Encoding and Content-Length: request smuggling (§6.3)", 400)
        elif coding.lower() == "chunked":
            self._read = self._read_chunk_line
        else:
            *others, last = tokens(coding) or [""]
            if last == "chunked" and others and "chunked" not in others:
                raise RemoteProtocolError("a transfer coding besides chunked is not known here (§6.1)", 501)
            raise RemoteProtocolError("Transfer-Encoding does not end with one chunked: where is the end? (§6.3)", 400)

    def _sized(self, size: int) -> int:
        if size > self._max_body:
            raise RemoteProtocolError(f"a body of more than {self._max_body} bytes", 413)
        return size

    def _take(self) -> Data | None:
        data = self._buffer[self._at : self._at + self._remaining]
        self._at += len(data)
        self._remaining -= len(data)
        return Data(data) if data else None

    def _read_end(self) -> EndOfMessage:
        self._received()
        return _END

    def _read_length(self) -> Event | None:
        return self._take() if self._remaining else self._read_end()

    def _read_until_close(self) -> Event | None:
        self._remaining = len(self._buffer) - self._at
        self._size = self._sized(self._size + self._remaining)
        return self._take() or (self._read_end() if self.ended else None)

    def _read_chunk_line(self) -> Event | None:
        """§7.1: the size in hexadecimal digits, extensions, CRLF."""
        line = self._buffer[self._at : self._at + CHUNK_LINE_LIMIT]
        match = CHUNK_LINE.match(line)
        if not match:
            if len(line) == CHUNK_LINE_LIMIT:
                raise RemoteProtocolError(f"a chunk-size line of more than {CHUNK_LINE_LIMIT} bytes", 400)
            if b"\n" in line or BROKEN.search(line) or not re.match(rb"[0-9A-Fa-f]|\Z", line):
                raise RemoteProtocolError("a chunk has to begin with its size in hexadecimal and CRLF (§7.1)", 400)
            return None
        self._at += match.end()
        self._checked = self._at
        self._remaining = int(match[1], 16)
        self._size = self._sized(self._size + self._remaining)
        self._extensions += len(match[2])
        if self._extensions > FREE_EXTENSIONS + self._size:  # Else they keep us busy for no data (CVE-2023-39326).
            raise RemoteProtocolError("more chunk extensions than data (§7.1.1)", 400)
        self._read = self._read_chunk if self._remaining else self._read_trailers
        return self._read()

    def _read_chunk(self) -> Event | None:
        if self._remaining:
            return self._take()
        after = self._buffer[self._at : self._at + 2]
        if not b"\r\n".startswith(after):
            raise RemoteProtocolError("no CRLF where the chunk's size says that its data ends (§7.1)", 400)
        if len(after) < 2:
            return None
        self._at += 2
        self._read = self._read_chunk_line
        return self._read_chunk_line()

    def _read_trailers(self) -> Event | None:
        """§7.1.2."""
        if self._buffer.startswith(b"\r\n", self._at):
            self._at += 2
            return self._read_end()
        end = self._buffer.find(b"\r\n\r\n", max(self._at, self._checked - 3))
        if end < 0:
            self._unfinished(self._at)
            return None
        self._check_size(end + 2 - self._at)
        trailers, _ = field_lines(self._buffer[self._at : end + 2].decode("latin-1"), self._max_fields)
        if bad := trailers.keys() & NOT_IN_TRAILERS:
            raise RemoteProtocolError(f"{min(bad)} in the trailers, where it comes too late (RFC 9110 §6.5.1)", 400)
        self._at = self._checked = end + 4
        self._received()
        return EndOfMessage(trailers)

    def _read_closed(self) -> Event | None:
        return ConnectionClosed()

    def _read_switched(self) -> Event | None:
        raise LocalProtocolError("the connection speaks another protocol now; what arrived is trailing_data")

    # Sending a body.

    def send_data(self, data: bytes) -> bytes:
        """Return the bytes of a piece of the body. LocalProtocolError: more than Content-Length says."""
        if self._framing is CHUNKED:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""  # A chunk of no bytes would end the body.
        if self._framing is BY_LENGTH:
            if len(data) > self._unsent:
                raise LocalProtocolError(f"{len(data) - self._unsent} bytes more than Content-Length says")
            self._unsent -= len(data)
        elif self._framing is NOTHING:
            raise LocalProtocolError("no message is being sent")
        return b"" if self._framing is NO_BODY else data

    def end(self, trailers: Pairs = ()) -> bytes:
        """Return the bytes that end the message. Trailers travel with chunked bodies only (§7.1.2)."""
        if self._framing is NOTHING:
            raise LocalProtocolError("no message is being sent")
        if self._framing is BY_LENGTH and self._unsent:
            raise LocalProtocolError(f"{self._unsent} bytes less than Content-Length says")
        lines, fields = encode_fields(trailers)
        if bad := fields.keys() & NOT_IN_TRAILERS:
            raise LocalProtocolError(f"{min(bad)} may not be in the trailers (RFC 9110 §6.5.1)")
        out = b"0\r\n%b\r\n" % lines if self._framing is CHUNKED else b""
        self._framing = NOTHING
        self._sent()
        return out

    def _sent(self) -> None:
        """The message that was being sent is whole."""
        raise NotImplementedError


def encode_fields(pairs: Pairs) -> tuple[bytes, Mapping[str, str]]:
    """Return field lines as bytes, and as the mapping that a receiver makes of them.

    A value that would become a line of its own is refused (response splitting, CWE-113): there would be more lines.
    """
    return _encode_fields(tuple(pairs))


@lru_cache(maxsize=256)  # Servers and clients send the same few sets again and again.
def _encode_fields(pairs: tuple[tuple[str, str], ...]) -> tuple[bytes, Mapping[str, str]]:
    text = "".join([f"{name}: {value}\r\n" for name, value in pairs])
    try:
        fields, _ = field_lines(text, len(pairs))
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"these field lines cannot be sent: {error}") from None
    return text.encode("latin-1"), fields


def content_length(value: str) -> int:
    """Read our own Content-Length."""
    if not (value.isascii() and value.isdigit()):
        raise LocalProtocolError(f"Content-Length {value[:40]!r} is not a number")
    return int(value.lstrip("0")[:20] or 0)
