r"""TCP is a stream, not messages: a server that frames it, and whose last words are heard.

Each message travels as 4 bytes of length and its bytes (protocols/frames.py); the answer is the message in
upper case. What goes wrong is answered too, in a frame that begins with "error: ", which no answer does.

Run:   make tcp-server
Try:   make tcp-client
       (printf '\0\0\0\5hello\0\0\0\3two'; sleep 1) | nc 127.0.0.1 7001 | xxd      two frames in one write
       (printf '\0\0'; sleep 1; printf '\0\5hel'; sleep 1; printf lo; sleep 1) | nc 127.0.0.1 7001 | xxd
       curl --http0.9 http://127.0.0.1:7001/ --output -      "GET " read as a length is 1195725856
Left out on purpose: TLS, many requests in work at a time (HTTP/2 does that), authentication.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator

from protocols.errors import RemoteProtocolError
from protocols.frames import MAXIMUM, Decoder, encode
from servers import command

PORT = 7001
READ = 65536  # bytes taken from the socket at a time
SHOWN = 3  # messages of one read that are logged

log = logging.getLogger("servers.tcp")  # Silent, unless main() gives it a voice.


class Server:
    """A running server. Every limit is there because somebody will try what is beyond it.

    maximum          bytes in a message
    idle_seconds     in which a client must complete a message, and take its answers (slowloris)
    max_connections  that are served at a time; the next one is told so
    linger_seconds   that a connection may take to end
    """

    def __init__(self, maximum: int, idle_seconds: float, max_connections: int, linger_seconds: float) -> None:
        self.address = ("", 0)
        self._maximum, self._idle, self._most, self._linger = maximum, idle_seconds, max_connections, linger_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._talks: dict[asyncio.Timeout, Decoder] = {}  # the deadline of each connection that is served
        self._draining = False

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from accept to its end. Runs as a task of its own."""
        if len(self._tasks) >= 2 * self._most:  # A flood: no word for it, for a lingering close takes a while, too.
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = (writer.get_extra_info("peername") or ("", 0))[1]  # None when it has vanished already
        log.info("= %s connected", peer)
        last_words = ""
        try:
            if len(self._talks) >= self._most:
                last_words = f"error: {self._most} connections are served already"
            else:
                await self._talk(reader, writer, peer)
        except RemoteProtocolError as error:
            last_words = f"error: {error}"
        except TimeoutError:
            last_words = "" if self._draining else f"error: no whole message within {self._idle:g} s"
        except OSError as error:
            log.info("! %s vanished: %s", peer, error)  # RST, or a network that is gone
        finally:
            await self._end(reader, writer, last_words, peer)
            self._tasks.discard(task)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: int) -> None:
        """Answer until the client's FIN. TimeoutError when it dawdles, RemoteProtocolError when it errs."""
        loop = asyncio.get_running_loop()
        decoder = Decoder(self._maximum)
        async with asyncio.timeout(self._idle) as deadline:
            self._talks[deadline] = decoder
            try:
                while data := await reader.read(READ):
                    # A read can hold 16,384 empty messages: one write and a few words are for all of them.
                    answers: list[bytes] = []
                    try:
                        for message in decoder.receive_data(data):
                            answers.append(encode(message.upper(), self._maximum))
                            if len(answers) <= SHOWN:
                                log.info("< %s %r", peer, message[:60])
                                log.info("> %s %r", peer, message[:60].upper())
                    finally:
                        writer.write(b"".join(answers))  # Also what came before a length that is refused.
                    if len(answers) > SHOWN:
                        log.info("= %s and %d more", peer, len(answers) - SHOWN)
                    if answers:  # Only a whole message buys time: a byte now and then does not (slowloris).
                        deadline.reschedule(loop.time() + (0 if self._draining else self._idle))
                    await writer.drain()  # Who does not read is not read from: RFC 9293 §3.8.6.
                    await asyncio.sleep(0)  # read() and drain() wait only if they must; now it is the others' turn.
                decoder.receive_end()
            finally:
                del self._talks[deadline]

    async def _end(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, last_words: str, peer: int
    ) -> None:
        """The lingering close: FIN, then read and drop. Closing with unread data would be RST (RFC 9293 §3.6.1)."""
        if last_words:
            log.info("! %s %s", peer, last_words)
            writer.write(encode(last_words.encode()))
        try:
            async with asyncio.timeout(self._linger):
                writer.write_eof()
                while await reader.read(READ):
                    pass
                writer.close()
                await writer.wait_closed()
        except OSError:  # TimeoutError is one: the peer does not end, or does not take what it asked for.
            pass
        finally:
            writer.transport.abort()  # No effect on what has been closed in peace.
            log.info("= %s closed", peer)

    async def drain(self) -> None:
        """End all connections: at once those between two messages, the others when theirs is answered."""
        self._draining = True
        now = asyncio.get_running_loop().time()
        for deadline, decoder in self._talks.items():
            if not deadline.expired():
                deadline.reschedule(now if decoder.is_idle else now + self._linger)
        if self._tasks:
            await asyncio.wait(self._tasks)  # Each has a deadline.


@contextlib.asynccontextmanager
async def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    maximum: int = MAXIMUM,
    idle_seconds: float = 30,
    max_connections: int = 100,
    linger_seconds: float = 5,
) -> AsyncIterator[Server]:
    """Serve within the block; `address` is where. At its end stop accepting and finish what is in flight."""
    server = Server(maximum, idle_seconds, max_connections, linger_seconds)
    listening = await asyncio.start_server(server.handle, host, port)
    server.address = listening.sockets[0].getsockname()[:2]
    try:
        yield server
    finally:
        listening.close()
        await server.drain()


def main() -> int:
    options = command.parser("tcp", PORT, "Answers framed messages in upper case.").parse_args()
    return command.main("tcp", lambda: serve(options.host, options.port), options)


if __name__ == "__main__":
    sys.exit(main())
