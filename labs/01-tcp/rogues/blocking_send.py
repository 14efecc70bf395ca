"""Caught by: backpressure: Nothing came back. Wanted: an answer to another client

One thread and select(), but sendall() waits: the one client that does not read stops all the others.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
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
    decoders: dict[socket.socket, Decoder] = {}
    refused: dict[socket.socket, float] = {}  # until when each may find out
    while True:
        for ready in select.select([listener, *decoders], [], [], 0.05)[0]:
            if ready is listener:
                decoders[listener.accept()[0]] = Decoder()
                continue
            try:
                goes_on = answer(ready, decoders[ready], refused)
            except ConnectionError:
                goes_on = False
            if not goes_on:
                end(ready, decoders, refused)
        for late in [sock for sock, until in refused.items() if time.monotonic() > until]:
            end(late, decoders, refused)


def answer(sock: socket.socket, decoder: Decoder, refused: dict[socket.socket, float]) -> bool:
    """Answer what has come from one client. False when it has ended."""
    data = sock.recv(65536)
    if sock in refused:
        return bool(data)
    try:
        for message in decoder.receive_data(data):
            sock.sendall(encode(message.upper()))  # select() said that we can read; nobody asked about writing.
    except ValueError:
        sock.sendall(encode(TOO_LONG))
        sock.shutdown(socket.SHUT_WR)
        refused[sock] = time.monotonic() + LINGER
    return bool(data)


def end(sock: socket.socket, decoders: dict[socket.socket, Decoder], refused: dict[socket.socket, float]) -> None:
    del decoders[sock]
    refused.pop(sock, None)
    sock.close()


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
