"""Caught by: backpressure: Your server took 16 MB from a client that reads no answer

write() always succeeds, so drain() looks like a formality. Without it the answers pile up in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

PREFIX = 4  # bytes of length
MAXIMUM = 65536  # bytes in a message; a longer one is an attack
TOO_LONG = b"error: too long"  # what the server answers to it, before it ends the connection
LINGER = 0.5  # seconds in which a refused client may find out; for ever would be a gift to it


def encode(message: bytes) -> bytes:
    """Return the message with its length in front. ValueError when it is longer than MAXIMUM."""
    if len(message) > MAXIMUM:
        raise ValueError(f"message of {len(message)} bytes, the most is {MAXIMUM}")
    return len(message).to_bytes(PREFIX, "big") + message


class Decoder:
    """Takes the stream in whatever pieces it arrives; gives the messages back whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that these bytes complete. ValueError as soon as a length above MAXIMUM is here."""
        self._buffer += data
        while len(self._buffer) >= PREFIX:
            length = int.from_bytes(self._buffer[:PREFIX], "big")
            if length > MAXIMUM:
                raise ValueError(f"frame of {length} bytes, the most is {MAXIMUM}")
            if len(self._buffer) < PREFIX + length:
                return  # The tail stays for the next call.
            message = bytes(self._buffer[PREFIX : PREFIX + length])
            del self._buffer[: PREFIX + length]
            yield message


async def serve(listener: socket.socket) -> None:
    """Accept connections on this listening socket for ever; answer each message in upper case."""
    async with await asyncio.start_server(answer, sock=listener) as server:
        await server.serve_forever()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client. Each has a task and a decoder of its own."""
    decoder = Decoder()
    try:
        while data := await reader.read(65536):  # b"" is the client's FIN: it has asked all, and listens.
            for message in decoder.receive_data(data):
                writer.write(encode(message.upper()))
    except ValueError:
        writer.write(encode(TOO_LONG))
        await linger(reader, writer)
    except ConnectionError:
        pass  # RST: nobody is left to answer.
    finally:
        writer.close()


async def linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send FIN, then read and drop what still comes: closing with unread data would be an RST."""
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(LINGER):
            writer.write_eof()
            while await reader.read(65536):
                pass


async def ask(host: str, port: int, messages: list[bytes]) -> list[bytes]:
    """Send the messages over one connection; return the answers, in order."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        decoder = Decoder()
        answers: list[bytes] = []
        for message in messages:
            writer.write(encode(message))  # No drain(): two sides that both write first wait for ever.
        while len(answers) < len(messages):
            data = await reader.read(65536)
            if not data:
                raise ConnectionError(f"the server ended after {len(answers)} of {len(messages)} answers")
            answers += decoder.receive_data(data)
        return answers
    finally:
        writer.close()
