"""A client's end of one connection, by hand: frames in, frames out, and hardly anything that happens by itself.

A library would open windows, acknowledge and count on its own, and the experiments are about just these things.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import hpack

from certs.contexts import client_context
from labkit.lab import Network
from labkit.learner import load
from protocols import http2_frames as http2
from protocols.http1 import ClientConnection, Data, Response
from protocols.http2_frames import ErrorCode, Flag, Frame, FrameType, SettingCode

secure = load(Path(__file__).with_name("secure.py"), "labs_http2_secure")

EVERYTHING = range(1 << 31)  # all streams
END = Flag.END_HEADERS | Flag.END_STREAM  # a request whole in one frame

Pairs = Iterable[tuple[str, str]]


@dataclass
class Answer:
    """What has come on a stream so far."""

    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: float = 0  # when the last of it came; 0: it has not
    reset: int | None = None  # the error code of a RST_STREAM


offering = cache(lambda *alpn: client_context(alpn=alpn))  # The same settings need not be made for each connection.


def connect(net: Network, *alpn: str, buffer: int | None = None) -> secure.Secure:
    """A TLS connection from the client to the server that offers these protocols.

    buffer   bytes that the kernel may keep for a client that does not read
    """
    sock = net.client.socket()
    try:
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.connect((net.server.address, net.port))
    except BaseException:
        sock.close()
        raise
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return secure.Secure(sock, offering(*alpn), "server.lab")


class Talk:
    """A connection of HTTP/2.

    settings   what its SETTINGS say
    unread     streams that nobody reads: what comes on them opens no window again. On all others, it does
    buffer     bytes that the kernel may keep for this client
    """

    def __init__(
        self,
        net: Network,
        settings: Mapping[SettingCode, int] | None = None,
        *,
        unread: Container[int] = (),
        buffer: int | None = None,
    ) -> None:
        self.socket = connect(net, "h2", buffer=buffer)
        self.unread = unread
        self.encoder, self.decoder, self.frames = hpack.Encoder(), hpack.Decoder(), http2.Decoder(1 << 24)
        self.answers: dict[int, Answer] = {}
        self.settings: dict[int, int] = {}  # the server's
        self.goaways: list[tuple[int, int, bytes]] = []  # last stream, error code, words
        self.sent = self.received = 0  # bytes, as HTTP/2 counts them: TLS adds its own
        self.next_stream = 1
        self.write(http2.PREFACE + http2.encode(http2.settings(settings or {})))

    def write(self, wire: bytes) -> None:
        self.sent += len(wire)
        self.socket.sendall(wire)

    def send(self, *frames: Frame) -> None:
        """All of them in one write."""
        for frame in frames:
            if frame.type == FrameType.HEADERS:
                self.answers.setdefault(frame.stream, Answer())
        self.write(b"".join(map(http2.encode, frames)))

    def request(self, path: str, fields: Pairs = (), method: str = "GET", flags: Flag = END) -> Frame:
        """The HEADERS frame of the next request. It is not sent yet."""
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        pseudo = [(":method", method), (":scheme", "https"), (":authority", "server.lab"), (":path", path)]
        return Frame(FrameType.HEADERS, flags, stream, self.encoder.encode([*pseudo, *fields]))

    def ask(self, *paths: str, fields: Pairs = ()) -> list[Answer]:
        """Send so many GETs in one write, and read until all are answered."""
        requests = [self.request(path, fields) for path in paths]
        self.send(*requests)
        return self.until(*requests)

    def until(self, *requests: Frame) -> list[Answer]:
        """Read until the answers to these requests have ended."""
        answers = [self.answers[request.stream] for request in requests]
        while any(not answer.ended and answer.reset is None for answer in answers):
            if self.receive() is None:
                raise ConnectionError(f"the connection is over: GOAWAY {self.goaways}")
        return answers

    def receive(self) -> Frame | None:
        """The next frame, and what follows from it. None: the connection is over."""
        while (frame := self.frames.next_frame()) is None:
            try:
                data = self.socket.recv()
            except ConnectionError:
                data = b""
            if not data:
                return None
            self.frames.receive_data(data)
        self.received += http2.HEADER + len(frame.payload)
        answer = self.answers.get(frame.stream, Answer())
        match frame.type:
            case FrameType.SETTINGS if not frame.flags & Flag.ACK:
                self.settings |= dict(http2.parse_settings(frame.payload))
                self.send(http2.SETTINGS_ACK)
            case FrameType.PING if not frame.flags & Flag.ACK:
                self.send(frame._replace(flags=Flag.ACK))
            case FrameType.HEADERS:
                answer.fields |= dict(self.decoder.decode(frame.payload))
                answer.status = int(answer.fields.get(":status", 0))
            case FrameType.DATA:
                answer.body += http2.content(frame)
                if frame.payload and frame.stream not in self.unread:
                    self.open(0, len(frame.payload))
                    if not frame.flags & Flag.END_STREAM:
                        self.open(frame.stream, len(frame.payload))
            case FrameType.RST_STREAM:
                answer.reset = int.from_bytes(frame.payload)
            case FrameType.GOAWAY:
                self.goaways.append(http2.parse_goaway(frame.payload))
        if frame.type in (FrameType.HEADERS, FrameType.DATA) and frame.flags & Flag.END_STREAM:
            answer.ended = time.perf_counter()
        return frame

    def settle(self, seconds: float = 0.15) -> None:
        """Read whatever comes, until nothing has come for so long."""
        self.socket.socket.settimeout(seconds)
        try:
            while self.receive() is not None:
                pass
        except TimeoutError:
            pass
        finally:
            self.socket.socket.settimeout(10)

    def to_the_end(self) -> None:
        """Read whatever comes, until the server ends the connection."""
        while self.receive() is not None:
            pass

    def open(self, stream: int, size: int) -> None:
        """Let the server send so many bytes more: on this stream, or (0) on the connection."""
        self.send(http2.window_update(stream, size))

    def ping(self) -> None:
        """Wait until the server has seen all that was sent: its answer to a PING comes after that (RFC 9113 §6.7)."""
        self.send(Frame(FrameType.PING, payload=b"so far ?"))
        while (frame := self.receive()) is not None:
            if frame.type == FrameType.PING and frame.flags & Flag.ACK:
                return
        raise ConnectionError(f"the connection is over: GOAWAY {self.goaways}")

    def close(self) -> None:
        """Give up what is not whole yet, and say that it is over."""
        unfinished = [stream for stream, answer in self.answers.items() if not answer.ended and answer.reset is None]
        with contextlib.suppress(OSError):
            self.send(*(http2.rst_stream(stream, ErrorCode.CANCEL) for stream in unfinished))
            self.send(http2.goaway(0, ErrorCode.NO_ERROR))
        self.socket.close()


class Talk1:
    """A connection of HTTP/1.1, to compare with."""

    def __init__(self, net: Network) -> None:
        self.socket = connect(net, "http/1.1")
        self.conn = ClientConnection()
        self.sent = 0  # bytes, as HTTP counts them

    def wire(self, path: str, fields: Pairs = ()) -> bytes:
        """The bytes of a GET. They are not sent yet, but answers are expected in this order."""
        return self.conn.send_request("GET", path, [("Host", "server.lab"), *fields])

    def answer(self) -> tuple[int, bytes]:
        """Read until the next answer is whole; its status and its body."""
        status, body = 0, b""
        while True:
            event = self.conn.next_event()
            if event is None:
                self.conn.receive_data(self.socket.recv())
            elif isinstance(event, Response):
                status = event.status
            elif isinstance(event, Data):
                body += event.data
            else:
                return status, body

    def ask(self, path: str, fields: Pairs = ()) -> tuple[int, bytes]:
        """Send a GET; return its answer."""
        wire = self.wire(path, fields)
        self.sent += len(wire)
        self.socket.sendall(wire)
        return self.answer()

    def close(self) -> None:
        self.socket.close()
