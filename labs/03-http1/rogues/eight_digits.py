"""Caught by: one_read: zeros before a size change nothing

Eight digits are enough for any size, so it counts digits where it should have counted bytes.
"""

from __future__ import annotations

import re
from collections.abc import Generator

# chunk-size [ chunk-ext ]. int(line, 16) alone would take "+5", " 5", "0x5" and "1_0" as well. (§7.1, §7.1.1)
SIZE = re.compile(rb"([0-9A-Fa-f]+)(?:[ \t]*;[\t -~\x80-\xff]*)?")
# field-line: no blank before the colon, no CR, LF or NUL in the value. (§5; RFC 9110 §5.1, §5.5)
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)")


class BadChunk(Exception):
    """These bytes are no chunked body, or too much of one. The decoder raises nothing else, whatever comes."""


class ChunkedDecoder:
    """Takes a chunked body in whatever pieces it arrives; gives back what was in the chunks."""

    def __init__(self, *, max_line: int = 4096, max_body: int = 1 << 20, max_trailers: int = 100) -> None:
        self.trailers: list[tuple[bytes, bytes]] = []
        self.done = False
        self.rest = b""
        self._max_line, self._max_trailers = max_line, max_trailers
        self._allowed = max_body  # bytes of body that may still come
        self._buffer = bytearray()  # what came and was not read yet: at most a line, beside the data of one call
        self._body = bytearray()
        self._decoder = self._decode()

    def receive_data(self, data: bytes) -> bytes:
        """Return what these bytes add to the body, as soon as it is here."""
        self._buffer += data
        self._body.clear()
        next(self._decoder, None)
        if self.done:
            self.rest += self._buffer
            self._buffer.clear()
        return bytes(self._body)

    def _decode(self) -> Generator[None, None, None]:
        """RFC 9112 §7.1.3, nearly word for word. It stops at a yield where bytes are missing, and goes on there."""
        while size := self._size((yield from self._line())):
            while size:
                if not self._buffer:
                    yield
                piece = self._buffer[:size]
                del self._buffer[:size]  # At the front of a bytearray this costs nothing: no byte is moved.
                self._body += piece
                size -= len(piece)
            while self._buffer in (b"", b"\r"):
                yield
            if self._buffer[:2] != b"\r\n":
                raise BadChunk(f"the data ends with {bytes(self._buffer[:2])!r}, and not with CRLF")
            del self._buffer[:2]
        while line := (yield from self._line()):
            self.trailers.append(self._field(line))
        self.done = True

    def _line(self) -> Generator[None, None, bytes]:
        """Take the next line out of the buffer; return it without its CRLF."""
        while (end := self._buffer.find(b"\n", 0, self._max_line + 2)) < 0:
            if len(self._buffer) >= self._max_line + 2:
                raise BadChunk(f"a line of more than {self._max_line} bytes")
            yield
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        if not line.endswith(b"\r\n"):  # Others see no end of a line there, and so another message. (§11.2)
            raise BadChunk("a line that ends with LF alone")
        return line[:-2]

    def _size(self, line: bytes) -> int:
        if (match := SIZE.fullmatch(line)) is None:
            raise BadChunk(f"{line[:40]!r} is not the size of a chunk")
        if len(match[1]) > 8:
            raise BadChunk("a size of more than 32 bits")
        size = int(match[1], 16)  # It does not overflow: this is Python. (§7.1: elsewhere, beware)
        if size > self._allowed:
            raise BadChunk(f"a chunk of {size} bytes, and only {self._allowed} more are allowed")
        self._allowed -= size
        return size

    def _field(self, line: bytes) -> tuple[bytes, bytes]:
        if (match := FIELD.fullmatch(line)) is None:
            raise BadChunk(f"{line[:40]!r} is not a trailer field")
        if len(self.trailers) == self._max_trailers:
            raise BadChunk(f"more than {self._max_trailers} trailer fields")
        return match[1], match[2].strip(b" \t")
