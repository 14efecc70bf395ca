"""Caught by: one_read: the empty line too, and `done` is False

The classic. The author's client wrote each chunk with a send of its own, and each came in a read of its own.
"""

from __future__ import annotations


class BadChunk(Exception):
    """These bytes are no chunked body, or too much of one. The decoder raises nothing else, whatever comes."""


class ChunkedDecoder:
    """Takes a chunked body in whatever pieces it arrives; gives back what was in the chunks."""

    def __init__(self, *, max_line: int = 4096, max_body: int = 1 << 20, max_trailers: int = 100) -> None:
        self.trailers: list[tuple[bytes, bytes]] = []
        self.done = False
        self.rest = b""

    def receive_data(self, data: bytes) -> bytes:
        """Return what these bytes add to the body, as soon as it is here."""
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        self.done = size == 0
        return data[:size]
