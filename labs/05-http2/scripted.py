"""A server's end of one HTTP/2 connection, by hand: it answers, and says good-bye, as the experiment wants it."""

from __future__ import annotations

import socket
from functools import cache
from pathlib import Path

import hpack

from certs.contexts import server_context
from labkit.learner import load
from protocols import http2_frames as http2
from protocols.http2_frames import ErrorCode, Flag, Frame, FrameType

secure = load(Path(__file__).with_name("secure.py"), "labs_http2_secure")

settings = cache(lambda: server_context(alpn=("h2",)))


class Scripted:
    """The next connection that comes in."""

    def __init__(self, listening: socket.socket) -> None:
        accepted, _ = listening.accept()
        accepted.settimeout(10)
        self.socket = secure.Secure(accepted, settings())
        self.encoder, self.decoder, self.frames = hpack.Encoder(), hpack.Decoder(), http2.Decoder()
        self.streams: dict[str, int] = {}  # {"GET /": 1}
        received = b""
        while len(received) < len(http2.PREFACE):
            received += self.socket.recv()
        self.frames.receive_data(received.removeprefix(http2.PREFACE))
        self.send(http2.settings({}))

    def send(self, *frames: Frame) -> None:
        self.socket.sendall(b"".join(map(http2.encode, frames)))

    def requests(self, count: int) -> list[str]:
        """Read until so many have come: ["GET /"]."""
        found: list[str] = []
        while len(found) < count:
            while (frame := self.frames.next_frame()) is None:
                self.frames.receive_data(self.socket.recv())
            if frame.type == FrameType.SETTINGS and not frame.flags & Flag.ACK:
                self.send(http2.SETTINGS_ACK)
            elif frame.type == FrameType.HEADERS:
                fields = dict(self.decoder.decode(http2.content(frame)))
                found.append(f"{fields[':method']} {fields[':path']}")
                self.streams[found[-1]] = frame.stream
        return found

    def answer(self, request: str) -> None:
        """200, and no body."""
        block = self.encoder.encode([(":status", "200")])
        self.send(Frame(FrameType.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, self.streams[request], block))

    def go_away(self, last: int) -> None:
        """No stream above the last one has been looked at, nor will be."""
        self.send(http2.goaway(last, ErrorCode.NO_ERROR))

    def close(self) -> None:
        self.socket.close()
