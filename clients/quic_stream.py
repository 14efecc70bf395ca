"""One stream of a QUIC connection (clients/quic_connection.py), to read and to write."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from protocols.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from clients.quic_connection import Connection

UNSENT = 1 << 18  # bytes of a stream that the server has not acknowledged: then write() waits


class StreamReset(RemoteProtocolError):
    """The server gives up this stream (RESET_STREAM), or does not want what we send on it (STOP_SENDING): `code`."""


class Stream:
    """Bytes in order, both ways; or one way, if it is unidirectional. Others do not wait for it.

    number  its stream ID: 0, 4, 8 are ours; 2, 6 ours to write only; 1, 5 the server's; 3, 7 the server's to read only
    """

    def __init__(self, connection: Connection, number: int) -> None:
        self.number, self.news = number, asyncio.Event()
        self._connection = connection
        self._unread = bytearray()
        self._has_ended = number & 3 == 2  # nothing (more) to read
        self._has_finished = number & 3 == 3  # nothing (more) to write
        self._reset: int | None = None
        self._stopped: int | None = None
        self._is_left = False

    # By the connection.

    def arrived(self, data: bytes, fin: bool) -> None:
        if self._is_left:
            self._connection.consumed(self.number, len(data))
        else:
            self._unread += data
        self._has_ended = self._has_ended or fin
        self.news.set()
        self._look_for_end()

    def was_reset(self, code: int) -> None:
        self._reset, self._has_ended = code, True
        self.news.set()
        self._look_for_end()

    def was_stopped(self, code: int) -> None:
        self._stopped, self._has_finished = code, True
        self.news.set()
        self._look_for_end()

    def _look_for_end(self) -> None:
        if self._has_ended and self._has_finished:
            self._connection.forget(self)

    # By its user.

    async def read(self, most: int = 1 << 18) -> bytes:
        """What has arrived, at least a byte; b"": the server has sent all.

        StreamReset: it has given up, and bytes may be missing. QuicError: the connection has ended.
        """
        while not self._unread:
            if self._reset is not None:
                raise StreamReset(f"the server has reset stream {self.number} with {self._reset:#x}", self._reset)
            if self._has_ended:
                return b""
            self._connection.check()
            self.news.clear()
            await self.news.wait()
        data = bytes(self._unread[:most])
        del self._unread[: len(data)]
        if self._connection.ended is None:
            self._connection.consumed(self.number, len(data))
        return data

    async def read_all(self, most: int = 1 << 26) -> bytes:
        """All until the end. RemoteProtocolError: it is more than *most* bytes."""
        found = bytearray()
        while data := await self.read():
            found += data
            if len(found) > most:
                self.stop()
                raise RemoteProtocolError(f"more than {most} bytes on stream {self.number}")
        return bytes(found)

    async def write(self, data: bytes, fin: bool = False) -> None:
        """Wait until the server has acknowledged enough of what was written before, then send this.

        StreamReset: it does not want it. QuicError: the connection has ended.
        """
        rest = memoryview(data)
        while True:
            if self._stopped is not None:
                raise StreamReset(f"the server has stopped stream {self.number} with {self._stopped:#x}", self._stopped)
            if self._has_finished:
                raise LocalProtocolError(f"stream {self.number} has no more to say")
            room = UNSENT - self._connection.buffered(self.number)
            if room > 0 or not rest:
                piece, rest = rest[:room], rest[room:]
                self._has_finished = fin and not rest
                self._connection.send(self.number, bytes(piece), self._has_finished)
                if not rest:
                    self._look_for_end()
                    return
            await self._connection.change()

    async def finish(self, data: bytes = b"") -> None:
        """The last of it."""
        await self.write(data, fin=True)

    def reset(self, code: int = 0) -> None:
        """Give up writing; what was written may be lost."""
        if not self._has_finished:
            self._has_finished = True
            self._connection.reset(self.number, code)
            self._look_for_end()

    def stop(self, code: int = 0) -> None:
        """Give up reading; what still comes is dropped."""
        if not self._is_left:
            self._is_left = True
            self._connection.consumed(self.number, len(self._unread))
            self._unread.clear()
            if not self._has_ended:
                self._connection.stop(self.number, code)

    def close(self, code: int = 0) -> None:
        """Both."""
        self.reset(code)
        self.stop(code)
