"""HTTP/1.1, sans-IO: bytes in, events out, in both directions (RFC 9112).

    conn = ServerConnection()                     conn = ClientConnection()
    conn.receive_data(what the socket gave)       out = conn.send_request("GET", "/", [("Host", "server.lab")])
    conn.next_event()    Request                  conn.receive_data(…)
    conn.next_event()    Data, …, EndOfMessage    conn.next_event()    Response, Data, …, EndOfMessage
    out = conn.send_response(200, [], b"hello")   conn.next_event()    None: more bytes are needed

Events are pulled, one at a time: what was good before an error is answered before the error is met, and a pipelined
request waits in the buffer until the one before it has its answer.

Three pages: the grammar (http1_syntax.py), how a message arrives and leaves (http1_connection.py), and here the two
ends: what a server has to refuse and may answer, and what a client may ask and has to bear.
"""

from __future__ import annotations

import http
import re
from collections import deque
from functools import lru_cache
from typing import NamedTuple

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.http1_connection import (
    BY_LENGTH,
    CHUNKED,
    NO_BODY,
    NOTHING,
    SWITCHED,
    UNTIL_CLOSE,
    Connection,
    ConnectionClosed,
    Data,
    EndOfMessage,
    Event,
    Request,
    Response,
    content_length,
    encode_fields,
)
from protocols.http1_syntax import Pairs, field_lines, host_of, persists, request_line, status_line, tokens, too_long

__all__ = [
    "ClientConnection",
    "ConnectionClosed",
    "Data",
    "EndOfMessage",
    "Event",
    "Pairs",
    "Request",
    "Response",
    "ServerConnection",
]

REASONS = {status.value: status.phrase for status in http.HTTPStatus}


class ServerConnection(Connection):
    """Receives requests, sends responses."""

    _request: Request | None = None  # that arrives, or waits for the end of its response
    _empty_lines = 0  # before this request
    _is_head = False  # What arrives begins like a HEAD request.
    is_whole = True
    """Has the request arrived to its end? One without a body has, with its head."""
    may_answer = True
    """Has what arrived last (a request, or the beginning of one) had no response yet?"""

    def _read_head(self) -> Event | None:
        data = self._buffer
        while data.startswith(b"\r\n", self._at):  # Some clients send an empty line after a body (§2.2).
            self._at += 2
            self._empty_lines += 1
            if self._empty_lines > self._max_fields:
                raise RemoteProtocolError("nothing but empty lines (§2.2)", 400)
        if self._at == len(data):
            return ConnectionClosed() if self.ended else None
        self.may_answer = True
        self._is_head = data.startswith(b"HEAD ", self._at)  # Then a refusal has no body either (RFC 9110 §9.3.2).
        head = self._take_head()
        if head is None:
            return None
        method, target, version = request_line(head[0])
        fields, pairs = field_lines(head[1], self._max_fields)
        host = host_of(fields, target, version)
        if host is not None:
            fields["host"] = host
        self._request = request = Request(method, target, fields, pairs, version)
        self._empty_lines = 0
        self.keep_alive = persists(fields, version)
        if "transfer-encoding" in fields or "content-length" in fields:
            self.is_whole = False  # also if it is refused
            if version == (1, 0) and "transfer-encoding" in fields:
                raise RemoteProtocolError("Transfer-Encoding in HTTP/1.0, which knows none (§6.1)", 400)
            self._expect_body(fields, self._read_end)
            self.is_whole = "transfer-encoding" not in fields and not self._remaining
        else:
            self._read = self._read_end
        if "expect" in fields and version > (1, 0) and set(tokens(fields["expect"])) - {"100-continue"}:
            raise RemoteProtocolError("an expectation that is not known here (RFC 9110 §10.1.1)", 417)
        return request

    def _check_line(self, line: str) -> None:
        request_line(line)

    def _line_too_long(self, line: bytes) -> RemoteProtocolError:
        return too_long(line, self._max_line)

    def _read_unanswered(self) -> Event | None:
        raise LocalProtocolError("answer the request before you ask for the next one")

    def _received(self) -> None:
        self.is_whole = True
        self._read = self._read_unanswered
        if self._request is None:
            self._sent()

    def _sent(self) -> None:
        self._request = None
        if self.is_whole:  # Both the request and its response: go on to the next request, or to none.
            self._read = self._read_head if self.keep_alive else self._read_closed

    def send_continue(self) -> bytes:
        """Tell a client that waits for it to send the body (RFC 9110 §15.2.1)."""
        return self.send_response(100, [])

    def send_response(self, status: int, pairs: Pairs, body: bytes | None = None) -> bytes:
        """Return the bytes of a response: the whole of it if *body* is given, else its head; send_data, end follow.

        How the body ends is chosen here: by Content-Length if it is known, else chunked, for HTTP/1.0 by closing. What
        has no body (to HEAD; 204, 304) gets none. After 101, or 2xx to CONNECT, the connection is another protocol's.
        Without a whole head to answer (it was refused, or does not come) the response ends the connection.
        """
        if not self.may_answer:
            raise LocalProtocolError("there is no request to answer")
        if self._request:
            method, version = self._request.method, self._request.version
        elif status >= 200:
            method, version, self.keep_alive = "HEAD" if self._is_head else "", (1, 1), False
        else:
            raise LocalProtocolError(f"there is no request that status {status} could be for")
        known = None if body is None else len(body)
        head = response_head(status, tuple(pairs), known, method, version, self.keep_alive)
        if head.framing is SWITCHED:
            if not self.is_whole:
                raise LocalProtocolError("read the request to its end before the switch (RFC 9110 §7.8)")
            self._read, self._request, self.may_answer = self._read_switched, None, False
        if head.framing is SWITCHED or status < 200:
            return head.lines
        self.keep_alive, self.may_answer = head.keep_alive, False
        if body is None:
            self._framing, self._unsent = head.framing, head.length
            return head.lines
        self._sent()
        return head.lines + body if head.framing is BY_LENGTH else head.lines


class Head(NamedTuple):
    """The head of a response, and what it says about what follows."""

    lines: bytes
    framing: str = NO_BODY
    length: int = 0  # bytes of the body, if it is framed by its length
    keep_alive: bool = True


@lru_cache(maxsize=512)  # A server sends the same few heads again and again.
def response_head(
    status: int,
    pairs: tuple[tuple[str, str], ...],
    known: int | None,
    method: str,
    version: tuple[int, int],
    keep_alive: bool,
) -> Head:
    """Decide how the body of a response ends (§6); *known*: how many bytes it has, if that is known."""
    lines, fields = encode_fields(pairs)
    length = fields.get("content-length")
    switches = status == 101 or (method == "CONNECT" and 200 <= status < 300)
    if not 100 <= status < 600 or "transfer-encoding" in fields:
        raise LocalProtocolError("no such status, or a Transfer-Encoding, which is for the connection to choose")
    if length is not None and (status < 200 or status == 204 or switches):
        raise LocalProtocolError(f"Content-Length in a response with status {status} (RFC 9110 §8.6)")
    if status < 200 and version == (1, 0):
        raise LocalProtocolError(f"HTTP/1.0 has no status {status} (RFC 9110 §15.2)")
    lines = f"HTTP/1.1 {status} {REASONS.get(status, '')}\r\n".encode() + lines
    if status < 200 or switches:
        return Head(lines + b"\r\n", SWITCHED if switches else NO_BODY)

    if "connection" in fields and "close" in tokens(fields["connection"]):
        keep_alive = False
    if length is None and known is not None and status not in (204, 304):
        length = str(known)
        lines += b"content-length: %d\r\n" % known
    framing = NO_BODY
    if method != "HEAD" and status not in (204, 304):
        if length is not None:
            framing = BY_LENGTH
            if known not in (None, content_length(length)):
                raise LocalProtocolError("Content-Length is not the length of the body")
        elif version > (1, 0):
            framing = CHUNKED
            lines += b"transfer-encoding: chunked\r\n"
        else:
            framing, keep_alive = UNTIL_CLOSE, False
    if (not keep_alive or version == (1, 0)) and "connection" not in fields:
        lines += b"connection: keep-alive\r\n" if keep_alive else b"connection: close\r\n"
    return Head(lines + b"\r\n", framing, content_length(length or "0"), keep_alive)


class ClientConnection(Connection):
    """Sends requests, receives responses. Several requests may be under way: their answers come in order (§9.3.2)."""

    def __init__(
        self, *, max_line: int = 8192, max_fields: int = 100, max_fields_size: int = 32768, max_body: int = 1 << 30
    ) -> None:
        super().__init__(max_line=max_line, max_fields=max_fields, max_fields_size=max_fields_size, max_body=max_body)
        self._methods: deque[tuple[str, bool]] = deque()  # of requests to be answered; does it ask to upgrade?
        self._last = False  # The server has said that the response at hand is its last.

    @property
    def is_idle(self) -> bool:
        """Nothing is being sent, no answer is awaited, and nothing of one is here."""
        return self._framing is NOTHING and not self._methods and super().is_idle

    def send_request(self, method: str, target: str, pairs: Pairs, body: bytes | None = None) -> bytes:
        """Return the bytes of a request: with *body*, the whole of it.

        Without, its head. If that has a Content-Length or "Transfer-Encoding: chunked", send_data() and end() follow;
        if it has neither, there is no body.
        """
        if self._framing is not NOTHING or not self.keep_alive:
            raise LocalProtocolError("the request before is not sent yet, or the connection is about to close")
        lines, fields = encode_fields(pairs)
        length, coding = fields.get("content-length"), fields.get("transfer-encoding")
        try:
            request_line(f"{method} {target} HTTP/1.1")
            host_of(fields, target, (1, 1))
        except RemoteProtocolError as error:
            raise LocalProtocolError(str(error)) from None
        if coding is not None and (coding != "chunked" or length is not None or body is not None):
            raise LocalProtocolError("Transfer-Encoding is chunked, and alone, or there is none")
        size = content_length(length) if length is not None else len(body or b"")
        if body is not None and length is None:
            lines += b"content-length: %d\r\n" % size
        elif body is not None and size != len(body):
            raise LocalProtocolError("Content-Length is not the length of the body")
        out = f"{method} {target} HTTP/1.1\r\n".encode() + lines + b"\r\n" + (body or b"")

        # All is checked. Only now does anything change: what is refused leaves the connection as it was.
        self._methods.append((method, "upgrade" in fields))
        self.keep_alive = persists(fields, (1, 1))
        if body is None and (coding is not None or length is not None):
            self._framing, self._unsent = (BY_LENGTH, size) if coding is None else (CHUNKED, 0)
        return out

    def next_event(self) -> Event | None:
        try:
            return super().next_event()
        except RemoteProtocolError as error:
            error.code = 0  # A client has no status to answer with.
            raise

    def _read_head(self) -> Event | None:
        data, at = self._buffer, self._at
        if not self._methods and at < len(data):
            raise RemoteProtocolError("bytes that answer no request")
        if at == len(data):
            return ConnectionClosed() if self.ended and not self._methods else None
        head = self._take_head()
        if head is None:
            return None
        (status, reason, version), block = status_line(head[0]), head[1]
        if "\r\n " in block or "\r\n\t" in block:  # A user agent has to bear folded lines in responses (§5.2).
            if block.count("\n") > self._max_fields:
                raise RemoteProtocolError(f"more than {self._max_fields} lines of fields")
            block = re.sub(r"(?<![ \t])[ \t]*+\r\n[ \t]++", " ", block)
        fields, pairs = field_lines(block, self._max_fields)
        response = Response(status, reason, fields, pairs, version)
        method, upgrades = self._methods[0]
        if status == 101 and not upgrades:
            raise RemoteProtocolError("a switch to another protocol that nobody asked for with Upgrade (RFC 9110 §7.8)")
        if status == 101 or (method == "CONNECT" and 200 <= status < 300):
            self._read, self.keep_alive = self._read_switched, False
        elif status >= 200:
            self._last = not persists(fields, version)
            self._expect_answer(method, response)
            self.keep_alive = self.keep_alive and not self._last
        return response

    def _expect_answer(self, method: str, response: Response) -> None:
        """§6.3, from the client's side."""
        if method == "HEAD" or response.status in (204, 304):
            self._read = self._read_end
            return
        if response.version == (1, 0) and "transfer-encoding" in response.fields:
            raise RemoteProtocolError("Transfer-Encoding in HTTP/1.0, which knows none (§6.1)")
        self._expect_body(response.fields, self._read_until_close)
        self._last = self._last or self._read == self._read_until_close

    def _check_line(self, line: str) -> None:
        status_line(line)

    def _line_too_long(self, line: bytes) -> RemoteProtocolError:
        return RemoteProtocolError(f"a status line of more than {self._max_line} bytes")

    def _received(self) -> None:
        self._methods.popleft()
        going_on = not self._last and (self.keep_alive or self._methods)
        self._read = self._read_head if going_on else self._read_closed

    def _sent(self) -> None:
        """The response may have begun meanwhile: nothing to do."""
