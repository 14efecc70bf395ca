"""A small HTTP/2 server around the three pieces of the exercise: this is how little is left when they are written.

Run:   make http2-exercise                        your exercise.py, on port 7005, without TLS (h2c, prior knowledge)
       make http2-exercise FILE=labs/05-http2/solution.py
Try:   curl --http2-prior-knowledge http://127.0.0.1:7005/hello
       curl --http2-prior-knowledge http://127.0.0.1:7005/bytes/1000000 | wc -c
       head -c 300000 /dev/zero | curl --http2-prior-knowledge -T - http://127.0.0.1:7005/
Left out on purpose: nearly all that makes a server safe (servers/http2.py has it): limits on streams, on header
lists and on frames without end, deadlines, the rules of RFC 9113 §8 for what a request is.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import traceback
from types import ModuleType
from typing import Any

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 0x01, 0x01, 0x04
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # what a client says first (RFC 9113 §3.4)
NOT_HTTP2 = b"HTTP/1.1 505 HTTP Version Not Supported\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
INITIAL_WINDOW_SIZE = 4  # the one setting that matters here (§6.5.2)
NAMES = {1: "PROTOCOL_ERROR", 3: "FLOW_CONTROL_ERROR", 6: "FRAME_SIZE_ERROR", 9: "COMPRESSION_ERROR"}


async def serve(exercise: ModuleType, host: str, port: int) -> None:
    """Serve for ever."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await Talk(exercise, reader, writer).run()
        except (ConnectionError, EOFError, TimeoutError):
            pass  # The client has gone.
        except Exception as error:
            own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == exercise.__file__]
            lines = [*traceback.format_list(own), *traceback.format_exception_only(error)]
            print("Traceback (most recent call last):\n", *lines, sep="", end="", file=sys.stderr)
        finally:
            writer.close()

    async with await asyncio.start_server(handle, host, port) as server:
        print(f"listening on {host}:{port}", flush=True)
        await server.serve_forever()


class Talk:
    """One connection. GET /bytes/N is answered with N bytes, anything else with what was asked."""

    def __init__(self, exercise: ModuleType, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.exercise, self.reader, self.writer = exercise, reader, writer
        self.frames, self.fields = exercise.FrameDecoder(), exercise.HeaderDecoder()
        self.sending, self.receiving = exercise.Ledger(), exercise.Ledger()
        self.last = 0  # the last stream that the client opened
        self.block, self.ends = b"", False  # the header block that is coming, and whether a body follows it
        self.requests: dict[int, tuple[list[tuple[bytes, bytes]], int]] = {}  # fields, bytes of body that have come
        self.bodies: dict[int, bytes] = {}  # what is still to be sent, by stream

    async def run(self) -> None:
        if await self.reader.readexactly(len(PREFACE)) != PREFACE:
            self.writer.write(NOT_HTTP2)
            return
        self.say(SETTINGS, 0, 0)
        while data := await self.reader.read(65536):
            try:
                for frame in self.frames.receive_data(data):
                    self.take(frame)
            except self.exercise.Http2Error as error:
                await self.give_up(error.code)
                return
            await self.writer.drain()

    def say(self, type: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self.writer.write(self.exercise.encode(type, flags, stream, payload))

    def take(self, frame: Any) -> None:
        """Act on a frame; then send what may be sent."""
        try:
            self.act(frame)
        except self.exercise.Http2Error as error:
            if not error.stream:  # The connection's: nothing that follows can be trusted. (§5.4.1)
                raise
            print(f"! RST_STREAM {error.stream}: {NAMES.get(error.code, error.code)}", flush=True)
            self.end(error.stream)  # A stream's: the others go on. (§5.4.2)
            self.say(RST_STREAM, 0, error.stream, error.code.to_bytes(4))
        self.send()

    def act(self, frame: Any) -> None:
        type, flags, stream = frame.type, frame.flags, frame.stream
        if type == HEADERS:
            self.sending.open(stream)
            self.receiving.open(stream)
            self.last, self.block, self.ends = stream, frame.payload, bool(flags & END_STREAM)
        elif type == CONTINUATION:
            self.block += frame.payload
        elif type == DATA:
            self.uploaded(stream, frame.payload, frame.size)
            self.ends = bool(flags & END_STREAM)
        elif type == RST_STREAM:
            self.end(stream)
        elif type == SETTINGS and not flags & ACK:
            for at in range(0, len(frame.payload), 6):
                if int.from_bytes(frame.payload[at : at + 2]) == INITIAL_WINDOW_SIZE:
                    self.sending.set_initial(int.from_bytes(frame.payload[at + 2 : at + 6]))
            self.say(SETTINGS, ACK, 0)
        elif type == PING and not flags & ACK:
            self.say(PING, ACK, 0, frame.payload)
        elif type == WINDOW_UPDATE:
            self.sending.update(stream, int.from_bytes(frame.payload) & 0x7FFFFFFF)
        if type in (HEADERS, CONTINUATION) and flags & END_HEADERS:
            self.requests[stream] = (self.fields.decode(bytes(self.block)), 0)
        if type in (HEADERS, CONTINUATION, DATA) and self.ends and stream in self.requests:
            self.answer(stream)

    def uploaded(self, stream: int, piece: bytes, size: int) -> None:
        """Count a piece of a body, and give its bytes back at once: nothing is kept of it."""
        self.receiving.charge(stream, size)
        open_ones = (0, stream) if stream in self.requests else (0,)
        for one in open_ones if size else ():
            self.receiving.update(one, size)
            self.say(WINDOW_UPDATE, 0, one, size.to_bytes(4))
        if stream in self.requests:
            fields, before = self.requests[stream]
            self.requests[stream] = fields, before + len(piece)

    def answer(self, stream: int) -> None:
        fields, uploaded = self.requests.pop(stream)
        method, path = (dict(fields).get(name, b"?") for name in (b":method", b":path"))
        print(f"< {stream}: {method.decode('latin-1')} {path.decode('latin-1')}", flush=True)
        number = path.removeprefix(b"/bytes/")
        if path != number and number.isdigit() and len(number) < 8:
            body = some_bytes(int(number))
        else:
            body = report(fields, uploaded)
        size = b"%d" % len(body)
        # By hand: 0x88 is the static table's ":status: 200", 0x0f 0x0d a literal with the name at its index 28.
        self.say(HEADERS, END_HEADERS, stream, b"\x88\x0f\x0d" + bytes((len(size),)) + size)
        self.bodies[stream] = body

    def send(self) -> None:
        """Send what the windows allow, in frames that everybody takes (§4.2: 16,384 bytes)."""
        for stream, body in list(self.bodies.items()):
            while (size := min(len(body), self.sending.available(stream), 16384)) > 0:
                piece, body = body[:size], body[size:]
                self.sending.charge(stream, size)
                self.say(DATA, 0 if body else END_STREAM, stream, piece)
            self.bodies[stream] = body
            if not body:
                self.end(stream)

    def end(self, stream: int) -> None:
        self.sending.close(stream)
        self.receiving.close(stream)
        self.requests.pop(stream, None)
        self.bodies.pop(stream, None)

    async def give_up(self, code: int) -> None:
        """GOAWAY, then end, so that a client that is still sending can read it (the lingering close of lab 01)."""
        print(f"! GOAWAY: {NAMES.get(code, code)}", flush=True)
        self.say(GOAWAY, 0, 0, self.last.to_bytes(4) + code.to_bytes(4))
        self.writer.write_eof()
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(0.5):
                while await self.reader.read(65536):
                    pass


def some_bytes(size: int) -> bytes:
    return (bytes(range(256)) * (size // 256 + 1))[:size]


def report(fields: list[tuple[bytes, bytes]], uploaded: int) -> bytes:
    """What a request was, as text: its fields, and the size of its body. (Never empty.)"""
    return b"".join(b"%s: %s\n" % (name, value) for name, value in fields) + b"%d bytes of body\n" % uploaded
