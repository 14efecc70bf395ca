"""Length-prefixed framing over TCP, both sides. Yours to write.

A message travels as its length (4 bytes, most significant first) and then its bytes. The server answers
each message in upper case: bytes.upper(), for a message need be no text. Read labs/01-tcp/README.md first;
check with `make tcp-check`, and when you are stuck ask for `make tcp-hint`. As shipped this file makes the
classic mistake: it takes one read for one message.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

MAXIMUM = 65536  # bytes in a message; a longer one is an attack
TOO_LONG = b"error: too long"  # what the server answers to it, before it ends the connection


def encode(message: bytes) -> bytes:
    """Return the message with its length in front. ValueError when it is longer than MAXIMUM."""
    return message  # TODO 1


class Decoder:
    """Takes the stream in whatever pieces it arrives; gives the messages back whole."""

    def __init__(self) -> None:
        pass  # TODO 2: What must it remember from one call to the next?

    def receive_data(self, data: bytes) -> Iterable[bytes]:
        """Yield (or return) the messages that these bytes complete.

        ValueError as soon as a length above MAXIMUM is here, without waiting for the bytes. But the good messages
        that came before it are given first, and a list that is not returned yet is lost when you raise.
        """
        return [data]  # TODO 2


async def serve(listener: socket.socket) -> None:
    """Accept connections on this listening socket; answer each message in upper case. It never returns.

    Many clients at once, and none may harm another. A message that is too long: answer TOO_LONG (framed),
    end the connection, and make sure that a client that is still sending can read that answer. Wait for
    such a client at most 2 s; then close, whatever it does.
    """
    raise NotImplementedError("TODO 3: asyncio.start_server(..., sock=listener)")


async def ask(host: str, port: int, messages: list[bytes]) -> list[bytes]:
    """Send the messages over one connection; return the answers, in order.

    ConnectionError when the server ends the connection before the last answer is whole, ValueError as soon as
    it announces an answer longer than MAXIMUM. Either way the connection is closed when it returns.
    """
    raise NotImplementedError("TODO 4: asyncio.open_connection(host, port)")
