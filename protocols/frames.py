"""Length-prefixed framing, sans-IO: no sockets, no clock, no asyncio.

TCP carries a stream of bytes and no messages (RFC 9293 §3.7), so each message gets its length in
front: 4 bytes, most significant first (network byte order, RFC 791 Appendix B), then so many bytes.

     00 00 00 05  68 65 6c 6c 6f  00 00 00 00  00 00 …
    └─ length 5 ─┘└── "hello" ───┘└ length 0 ─┘└ not whole yet

The same shape frames DNS over TCP (2 bytes, RFC 7766 §8), gRPC messages, Kafka and PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterator

from protocols.errors import LocalProtocolError, RemoteProtocolError

PREFIX = 4  # bytes of length before each message
MAXIMUM = 65536  # Else a peer that announces 4 GiB, and sends them, owns our memory.


def encode(message: bytes, maximum: int = MAXIMUM) -> bytes:
    """Return *message* with its length in front. LocalProtocolError when it is longer than *maximum*."""
    if len(message) > maximum:
        raise LocalProtocolError(f"message of {len(message)} bytes, the most is {maximum}")
    return len(message).to_bytes(PREFIX, "big") + message


class Decoder:
    """Takes the stream in whatever pieces it arrives; gives the messages back whole."""

    def __init__(self, maximum: int = MAXIMUM) -> None:
        self._maximum = maximum
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that *data* completes; keep the unfinished tail for the next call.

        Raises RemoteProtocolError for a message longer than the maximum, as soon as its length is
        here and after the good messages before it, however the bytes were cut.
        """
        self._buffer += data
        return self._messages()

    def _messages(self) -> Iterator[bytes]:
        while len(self._buffer) >= PREFIX:
            length = int.from_bytes(self._buffer[:PREFIX], "big")
            if length > self._maximum:
                raise RemoteProtocolError(f"frame of {length} bytes, the most is {self._maximum}")
            end = PREFIX + length
            if len(self._buffer) < end:
                return
            message = bytes(self._buffer[PREFIX:end])
            del self._buffer[:end]
            yield message

    def receive_end(self) -> None:
        """The stream has ended (FIN). RemoteProtocolError when that was in the middle of a frame."""
        if self._buffer:
            raise RemoteProtocolError(f"the stream ended {len(self._buffer)} bytes into a frame")

    @property
    def is_idle(self) -> bool:
        """True between two frames: nothing is half received."""
        return not self._buffer
