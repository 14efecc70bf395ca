r"""The other half of servers/tcp.py: send all questions, take the answers from the stream.

Answers come out of the same decoder as the questions on the other side, for they may arrive in pieces or all
at once. The FIN waits until the last answer is here: a server should go on answering after it (the half-close
experiment), but some take it for a good-bye (`ncat --exec` does).

Run:   make tcp-server   and in a second terminal   make tcp-client
Try:   make tcp-client ARGS='hello "two words"'
       socat TCP-LISTEN:7001,bind=127.0.0.1,reuseaddr,fork EXEC:cat     any echo server will answer it
Exit:  0 answered; 1 the server did not answer as wanted, or not in time; 2 could not run (no connection, a bad
       argument); 130 Ctrl-C
Left out on purpose: reconnecting, a pool of connections, TLS.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from clients import command
from protocols.errors import RemoteProtocolError
from protocols.frames import MAXIMUM, Decoder, encode

PORT = 7001
READ = 65536  # bytes taken from the socket at a time
ERROR = b"error: "  # Answers are in upper case, so none begins like that.

log = logging.getLogger("clients.tcp")  # Silent, unless main() gives it a voice.


async def ask(
    messages: Sequence[bytes], host: str = "127.0.0.1", port: int = PORT, *, timeout: float = 10, maximum: int = MAXIMUM
) -> list[bytes]:
    """Send all messages over one connection; return the answers, in order.

    LocalProtocolError    a message is longer than *maximum*; nothing was sent
    RemoteProtocolError   the server refused, ended too early, or sent what is no answer
    OSError               there is no connection (any more); TimeoutError, one kind of it: not done in time
    """
    wire = b"".join(encode(message, maximum) for message in messages)
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(host, port)
        log.info("= connected to %s port %d", host, port)
        try:
            # No drain() before the reading: a server that reads no more until we take its answers
            # would wait for us, and we for it. The messages are in memory anyway.
            writer.write(wire)
            for message in messages:
                log.info("> %r", message[:60])
            return await _answers(reader, len(messages), maximum)
        finally:
            writer.transport.abort()  # Nothing is left to send: all is answered, or something failed.
            log.info("= closed")


async def _answers(reader: asyncio.StreamReader, wanted: int, maximum: int) -> list[bytes]:
    """Read so many answers, in whatever pieces they come."""
    decoder = Decoder(maximum)
    answers: list[bytes] = []
    while len(answers) < wanted:
        data = await reader.read(READ)
        if not data:
            decoder.receive_end()
            raise RemoteProtocolError(f"the server ended after {len(answers)} of {wanted} answers")
        for answer in decoder.receive_data(data):
            log.info("< %r", answer[:60])
            if answer.startswith(ERROR):
                # Like repr(): a server's bytes can be commands to the terminal that they are printed on.
                raise RemoteProtocolError(repr(answer[:200])[2:-1])
            answers.append(answer)
    if len(answers) > wanted or not decoder.is_idle:
        raise RemoteProtocolError(f"more than the {wanted} answers that were asked for")
    return answers


def main() -> int:
    parser = argparse.ArgumentParser(prog="clients.tcp", description="Asks servers.tcp.")
    parser.add_argument("message", nargs="*", default=["hello", "a stream", "not messages"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--timeout", type=float, default=10, help="seconds for all of it")
    options = parser.parse_args()
    if not 0 < options.port < 65536:
        parser.error(f"{options.port} is no port: they go from 1 to 65535")
    messages = [os.fsencode(message) for message in options.message]  # The bytes that were typed, UTF-8 or not.

    async def show() -> None:
        await ask(messages, options.host, options.port, timeout=options.timeout)

    return command.main(
        log, show, peer=f"{options.host} port {options.port}", host=options.host, server="tcp-server",
        late=f"not done within {options.timeout:g} s",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
