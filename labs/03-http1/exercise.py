r"""The chunked decoder of RFC 9112 §7.1, sans-IO. Yours to write: bytes in, body out, no socket and no clock.

A body whose length nobody knew in advance travels in chunks, each with its size in front, in hexadecimal:

    1a;name="value"\r\n                 26 bytes follow. A recipient ignores extensions, whatever they say.
    abcdefghijklmnopqrstuvwxyz\r\n      this CRLF is not counted in the 26, and must be there
    0\r\n                               a chunk of size 0 is the last
    Digest: 5a3c\r\n                    trailer fields, as many as there are, or none
    \r\n                                an empty line: the end
    GET / HTTP/1.1\r\n …                not yours: the next request on the same connection

Every line ends with CRLF and nothing else; a size is hexadecimal digits, and blanks may stand before a “;”, nowhere
else. Where two programs read the same bytes differently, somebody else's request begins in the middle of yours: so
refuse what is not in the grammar. Read labs/03-http1/README.md first; check with `make http1-check`, and when you are
stuck ask for `make http1-hint`. As shipped this file makes the classic mistake: it takes one read for one chunk.
"""

from __future__ import annotations


class BadChunk(Exception):
    """These bytes are no chunked body, or too much of one. The decoder raises nothing else, whatever comes."""


class ChunkedDecoder:
    """Takes a chunked body in whatever pieces it arrives; gives back what was in the chunks."""

    def __init__(self, *, max_line: int = 4096, max_body: int = 1 << 20, max_trailers: int = 100) -> None:
        """Limits: bytes in a line (without its CRLF), bytes of body in all chunks together, trailer fields.

        As many are allowed, one more is an attack. An endless line must be refused before its end, for it has none;
        a chunk that is too large, before its data.
        """
        self.trailers: list[tuple[bytes, bytes]] = []  # name, value without blanks around it, in the order they came
        self.done = False  # True once the empty line at the end is here
        self.rest = b""  # what came behind it, in this call or a later one

    def receive_data(self, data: bytes) -> bytes:
        """Return what these bytes add to the body: as soon as it is here, not when its chunk is complete.

        BadChunk as soon as a line is here that is wrong; a bare LF, and a wrong byte after the data, at once.
        """
        size, _, body = data.partition(b"\r\n")
        return body[: int(size, 16)]  # TODO
