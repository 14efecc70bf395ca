"""A small transport around a learner's books: packets of QUIC's frames over UDP, both ways, until all has arrived.

It runs in the learner's own process. What it lacks of QUIC: handshake, keys, streams but one, congestion control; and a
probe timeout that is learned (RFC 9002 §6.2): here it is PROBE. Each call of the learner's code
is noted with its answer.
"""

from __future__ import annotations

import random
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from labkit.learner import load

asking: Any = sys.modules.get("labs_quic_asking") or load(Path(__file__).with_name("asking.py"), "labs_quic_asking")

PIECE = 1000  # bytes of content in a packet
WINDOW = 16  # packets on the way at once
PROBE = 0.08  # seconds without any news after which something is sent again
PATIENCE = 8.0  # seconds for all of it
HERE, DONE, ENOUGH = b"\1", b"\0", b""  # datagrams that are no packets: what an end and the road say to each other
STREAM, FIN = 0x0E, 0x01  # a type of frame, with offset and length; and its bit that says: the end


class Failed(Exception):
    """The learner's code raised something; the notes have it."""


class Went(NamedTuple):
    """What a packet had in it."""

    piece: int | None  # the number of the piece of content
    acknowledged: int | None  # the largest number in its ACK frame


def content(seed: int, pieces: int) -> bytes:
    return random.Random(seed).randbytes(pieces * PIECE)


def end_role(exercise: ModuleType, address: str, port: str, mine: str, theirs: str) -> dict[str, Any]:
    """One end: it sends as many pieces as *mine*, and waits for as many as *theirs*."""
    end = End(exercise, int(mine), int(theirs))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, int(port)))
        try:
            end.run(sock)
        except (Failed, TypeError, ValueError, LookupError, AttributeError):
            pass  # The last note says it: an exception, or an answer of another kind than was asked for.
    return {
        "done": end.done, "came": sum(map(len, end.came.values())), "whole": end.is_whole(), "notes": end.notes,
        "lost": end.lost, "packets": end.number, "probes": end.probes, "alone": end.alone, "carried": end.carried,
    }  # fmt: skip


class End:
    def __init__(self, exercise: ModuleType, mine: int, theirs: int) -> None:
        self.exercise, self.mine, self.theirs = exercise, content(mine, mine), theirs
        self.books: dict[str, Any] = {}  # the learner's Received and Sent
        self.notes: list[list[Any]] = []  # calls as a script has them, each with its answer
        self.start = time.monotonic()
        self.waiting = deque(range(mine))  # pieces that are to be sent
        self.arrived: set[int] = set()  # pieces that the other end has
        self.on_the_way: dict[int, Went] = {}
        self.carried: list[list[int]] = []  # the number of a packet, and of the piece in it
        self.acked = -1
        self.came: dict[int, bytes] = {}  # by offset
        self.lost: list[int] = []
        self.number = self.probes = self.alone = 0
        self.heard = 0.0  # when there was news

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call the learner's code, and note it."""
        one = asking.Call(name, arguments)
        kept: list[Any] = []

        def make() -> Any:
            kept.append(asking.made(self.exercise, self.books, one))
            return kept[0]

        said = asking.answered(self.exercise, make)
        often = name in ("due", "timer", "largest") and "value" in said and isinstance(kept[0], float | int | None)
        if not often:  # Else there were ten lines of them to one of the others.
            self.notes.append([name, asking.packed(arguments), said])
        if "value" not in said:
            raise Failed
        return kept[0]

    def now(self) -> float:
        return time.monotonic() - self.start

    @property
    def done(self) -> bool:
        return len(self.arrived) * PIECE == len(self.mine) and sum(map(len, self.came.values())) >= self.theirs * PIECE

    def is_whole(self) -> bool:
        return b"".join(self.came[offset] for offset in sorted(self.came)) == content(self.theirs, self.theirs)

    def run(self, sock: socket.socket) -> None:
        """Until the road says that it is enough, since both ends are done."""
        sock.send(HERE)
        while self.now() < PATIENCE:
            self.send_all(sock)
            if self.done:
                sock.send(DONE)
            if select.select([sock], [], [], self.pause())[0]:
                datagram = sock.recv(65535)
                if datagram == ENOUGH:
                    return
                self.receive(datagram)
            self.give_up(self.ask("lost", self.now()))

    def pause(self) -> float:
        times = [self.ask("due"), self.ask("timer"), self.heard + PROBE]
        return max(0.0, min(when for when in times if when is not None) - self.now())

    def send_all(self, sock: socket.socket) -> None:
        while self.waiting and sum(went.piece is not None for went in self.on_the_way.values()) < WINDOW:
            piece = self.waiting.popleft()
            if piece not in self.arrived:
                self.send(sock, piece)
        due = self.ask("due")
        if due is not None and due <= self.now():
            self.send(sock, None)
        if self.now() >= self.heard + PROBE:
            self.heard = self.now()
            for piece in [went.piece for went in self.on_the_way.values() if went.piece is not None][:1]:
                self.probes += 1
                self.send(sock, piece)

    def send(self, sock: socket.socket, piece: int | None) -> None:
        """A packet with an ACK, if there is something to say, and with a piece of the content, if there is one."""
        now, number = self.now(), self.number
        self.number += 1
        payload = frame = self.ask("ack", now)
        if piece is not None:
            offset = piece * PIECE
            self.carried.append([number, piece])
            data = self.mine[offset : offset + PIECE]
            last = FIN if offset + PIECE == len(self.mine) else 0
            head = b"".join(self.ask("encode_varint", value) for value in (STREAM | last, 0, offset, len(data)))
            payload += head + data
        if not payload:
            return
        self.alone += piece is None
        end = self.ask("encode_number", number, self.acked)
        acknowledged = self.ask("decode_ack", frame, 0).ranges[0][1] if frame else None
        self.on_the_way[number] = Went(piece, acknowledged)
        self.ask("send", number, piece is not None, now)
        sock.send(bytes([0x40 | len(end) - 1]) + end + payload)  # a short header, RFC 9000 §17.3.1

    def receive(self, datagram: bytes) -> None:
        now, size = self.now(), (datagram[0] & 3) + 1
        largest = self.ask("largest")
        number = self.ask("decode_number", datagram[1 : 1 + size], largest)
        frames = list(self.frames(datagram, 1 + size))
        if not self.ask("receive", number, any(kind != "ack" for kind, _ in frames), now):
            return
        self.heard = now
        for kind, value in frames:
            if kind == "stream":
                self.came[value[0]] = value[1]
            elif kind == "ack":
                self.take_ack(value, now)

    def frames(self, data: bytes, at: int) -> Any:
        while at < len(data):
            if data[at] == self.exercise.ACK:
                ack = self.ask("decode_ack", data[at : at + 300], 0)
                yield "ack", ack
                at += ack.end
            else:
                head, place = data[at : at + 20], 0
                values = []
                for _ in range(4):
                    value, place = self.ask("decode_varint", head, place)
                    values.append(value)
                yield "stream", (values[2], data[at + place : at + place + values[3]])
                at += place + values[3]

    def take_ack(self, ack: Any, now: float) -> None:
        self.acked = max(self.acked, ack.ranges[0][1])
        for number in self.ask("receive_ack", [list(one) for one in ack.ranges], ack.delay, now):
            went = self.on_the_way.pop(number, Went(None, None))
            if went.piece is not None:
                self.arrived.add(went.piece)
            if went.acknowledged is not None:
                self.ask("forget", went.acknowledged)

    def give_up(self, lost: list[int]) -> None:
        for number in lost:
            self.lost.append(number)
            went = self.on_the_way.pop(number, Went(None, None))
            if went.piece is not None:
                self.waiting.appendleft(went.piece)
