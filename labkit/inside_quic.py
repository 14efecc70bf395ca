"""What a datagram of QUIC carries, in words for the ladder: Initial pn 0 ClientHello padded to 1200.

Packets that share a datagram are parted by |. What is encrypted is opened with the secrets that were recorded with it
(protocols/quic_opened.py), and a connection stays itself when its client's port or its ID changes.
"""

from __future__ import annotations

import contextlib
import re
from bisect import bisect
from collections.abc import Hashable
from typing import NamedTuple

from labkit.inside import counted, name
from labkit.inside_http3 import Streams
from protocols.errors import RemoteProtocolError
from protocols.quic_frames import (
    Ack,
    ConnectionClose,
    Crypto,
    Frame,
    NewConnectionId,
    Padding,
    PathChallenge,
    PathResponse,
    Stream,
)
from protocols.quic_opened import Onlooker, Seen, Sight
from protocols.quic_packets import PacketType, invariant
from protocols.tls import Fields, HandshakeType, Message, alpn, client_hello, extensions
from protocols.tls_opened import Secrets

_LINE = re.compile(rb"[ -~]{1,32}(?=[ -~]*\r?(?:\n|$))")  # the beginning of a line of text
_SAID = re.compile(r"STREAM \d+ ([A-Za-z]+)")  # a stream of which more is told than how many bytes
_CHANGES = ("from port", "to port", "key phase", "new ID")
_LITTLE = 8  # bytes of padding: so much is needed in a small packet for its sample (RFC 9001 §5.4.2), and says nothing
_SERVANTS = {"NEW_CONNECTION_ID", "PING"}  # They come in bunches, and are told last.
_Address = tuple[str, int]


class Run(NamedTuple):
    """Packets that follow each other and carry more of one stream, and perhaps an ACK on the side."""

    of: tuple[str, ...]  # what else is told of each of them
    first: int  # packet numbers
    last: int
    size: int

    def and_then(self, other: Run) -> Run | None:
        """Both in one; None: they do not follow each other."""
        if (other.of, other.first) != (self.of, self.last + 1):
            return None
        return Run(self.of, self.first, other.last, self.size + other.size)

    @property
    def words(self) -> tuple[str, ...]:
        *before, stream, again = self.of
        return (*before, "1-RTT", f"pn {self.first}-{self.last}", f"{stream} +{self.size} B{again}")


class Told(NamedTuple):
    """A datagram in words."""

    connection: int  # from 1
    words: tuple[str, ...]
    kind: Hashable  # the same for datagrams that carry the same in other numbers
    weight: int  # 6: another port, ID or key. 5: sent before, or a path is tried. 2: more than data and ACK
    run: Run | None = None


class Datagrams:
    """Reads all datagrams of a recording, in their order."""

    def __init__(self, secrets: Secrets | None = None) -> None:
        self._onlooker = Onlooker(secrets)
        self._paths: dict[int, _Address] = {}  # connection → where its client was last
        self._latest: dict[tuple[int, bool, str], object] = {}  # of each direction the key phase, and the ID in use
        self._sent: dict[Hashable, Pieces] = {}
        self._http3: dict[int, Streams] = {}  # of those connections that speak it

    def read(self, source: _Address, target: _Address, payload: bytes) -> Told | None:
        """None: it is not QUIC, or belongs to a connection whose beginning was not recorded."""
        sight = self._onlooker.receive_datagram(source, target, payload)
        if sight is None:
            return None
        words = self._path(sight, source if sight.from_client else target)
        if sight.is_reset:
            return Told(sight.number, (*words, "stateless reset", f"len {len(payload)}"), "reset", 4)
        if not sight.packets:
            seen = invariant(payload)
            what = f"version {seen.version:#x}" if seen.is_long else "unreadable"
            return Told(sight.number, (*words, what, f"len {len(payload)}"), what, 2)
        kind: list[Hashable] = [sight.from_client]
        for i, packet in enumerate(sight.packets):
            words += ["|"] if i else []
            words += [str(packet.packet.type), *self._packet(sight, packet)]
            kind += [packet.packet.type, *map(type, packet.frames or ())]
        frames = [frame for packet in sight.packets for frame in packet.frames or ()]
        padding = sum(frame.length for frame in frames if isinstance(frame, Padding))
        padding += len(payload) - sum(len(packet.packet.data) for packet in sight.packets)  # Some put it behind them.
        if padding > _LITTLE:
            words.append(f"padded to {len(payload)}")
        if any(packet.packet.number_at and packet.number < 0 for packet in sight.packets):
            words.append(f"len {len(payload)}")
        again = any(word.endswith(" again") for word in words)
        said = [told[1] for word in words if (told := _SAID.match(word))]
        changes = [word for word in words if word.startswith(_CHANGES)]
        kind += said + changes
        plain = not said and not changes
        plain &= all(isinstance(frame, Ack | Stream | Padding) and not getattr(frame, "fin", False) for frame in frames)
        path = any(isinstance(frame, PathChallenge | PathResponse) for frame in frames)
        if any(not word.startswith("to port") for word in changes):
            weight = 6
        else:
            weight = 5 if again or path else 0 if plain and frames else 2
        return Told(sight.number, tuple(words), tuple(kind), weight, _run(words, sight.packets))

    def _path(self, sight: Sight, client: _Address) -> list[str]:
        """Where the client is, if it is elsewhere than before."""
        before = self._paths.setdefault(sight.number, client)
        if client == before:
            return []
        if sight.from_client:  # Its server follows, or looks whether it is really there.
            self._paths[sight.number] = client
        return [f"{'from' if sight.from_client else 'to'} port {client[1]}"]

    def _packet(self, sight: Sight, seen: Seen) -> list[str]:
        packet = seen.packet
        if packet.type == PacketType.VERSION_NEGOTIATION:
            return [" ".join(f"{version:#x}" for version in packet.versions)]
        if packet.type == PacketType.RETRY:
            return [f"token of {len(packet.token)} B"]
        words = ["with token"] if packet.token else []
        if seen.number < 0:
            return [*words, "encrypted"]
        words.append(f"pn {seen.number}")
        if not packet.is_long:
            if self._changed(sight, "phase", seen.key_phase, False):
                words.append(f"key phase {int(seen.key_phase)}")
            if self._changed(sight, "ID", packet.destination, packet.destination):
                words.append("new ID")
        if seen.frames is None:
            return [*words, "malformed"]
        space = PacketType.ONE_RTT if packet.type == PacketType.ZERO_RTT else packet.type
        for message in seen.messages:
            if _speaks_http3(message):
                self._http3.setdefault(sight.number, Streams())
        told = [self._frame(sight, frame) for frame in seen.frames if not isinstance(frame, Padding | Crypto)]
        told = [*self._handshake(sight, space, seen), *told]
        told = counted(sorted(told, key=_order))
        reasons = [frame.reason for frame in seen.frames if isinstance(frame, ConnectionClose) and frame.reason]
        return words + told + [_readable(reason) for reason in reasons]

    def _handshake(self, sight: Sight, space: PacketType, seen: Seen) -> list[str]:
        """The messages that end in it; or how much of one, for browsers cut theirs to shreds."""
        pieces = [frame for frame in seen.frames or () if isinstance(frame, Crypto)]
        again = [self._was_sent(sight, space, piece) for piece in pieces]
        if seen.messages or not pieces:
            return [name(message) for message in seen.messages]
        return [f"CRYPTO +{sum(len(piece.data) for piece in pieces)} B{' again' if all(again) else ''}"]

    def _was_sent(self, sight: Sight, which: Hashable, frame: Stream | Crypto) -> bool:
        sent = self._sent.setdefault((sight.number, sight.from_client, type(frame), which), Pieces())
        return sent.add(frame.offset, frame.offset + len(frame.data))

    def _changed(self, sight: Sight, what: str, value: object, first: object) -> bool:
        key = (sight.number, sight.from_client, what)
        before, self._latest[key] = self._latest.get(key, first), value
        return before != value

    def _frame(self, sight: Sight, frame: Frame) -> str:
        if isinstance(frame, NewConnectionId):
            return "NEW_CONNECTION_ID"
        if not isinstance(frame, Stream):
            return str(frame)
        if self._was_sent(sight, frame.stream, frame):
            return f"{frame} again"
        end = " FIN" if frame.fin else ""
        if http3 := self._http3.get(sight.number):
            if said := http3.words(sight.from_client, frame):
                return f"STREAM {frame.stream} {' '.join(said)}{end}"
        elif not frame.offset and sight.from_client and (line := _LINE.match(frame.data)):
            return f"STREAM {frame.stream} {line[0].decode()}{end}"
        return str(frame)


def _order(word: str) -> int:
    """An ACK first: where there is no room for all, it goes first. What is cut off is the end."""
    return 0 if word.startswith("ACK ") else 1 if "HEADERS" in word else 3 if word in _SERVANTS else 2


def _speaks_http3(message: Message) -> bool:
    """Does the client offer it first, or does the server take it (RFC 9114 §3.1)?"""
    with contextlib.suppress(RemoteProtocolError):
        if message.type == HandshakeType.CLIENT_HELLO:
            return client_hello(message.body).alpn[:1] == ("h3",)
        if message.type == HandshakeType.ENCRYPTED_EXTENSIONS:
            return alpn(extensions(Fields(message.body))) == ("h3",)
    return False


def _run(words: list[str], packets: list[Seen]) -> Run | None:
    """A datagram that a run can begin with, or go on with: nothing else may be told of it."""
    packet = packets[0]
    streams = [frame for frame in packet.frames or () if isinstance(frame, Stream)]
    others = [frame for frame in packet.frames or () if not isinstance(frame, Stream | Ack)]
    if len(packets) > 1 or len(streams) != 1 or others or streams[0].fin:
        return None
    at = words.index(str(packet.packet.type))
    told = [word for word in words[at + 1 :] if not word.startswith(("pn ", "ACK "))]
    for again in ("", " again"):
        if told == [f"{streams[0]}{again}"]:
            of = (*words[:at], f"STREAM {streams[0].stream}", again)
            return Run(of, packet.number, packet.number, len(streams[0].data))
    return None


class Pieces:
    """Which bytes of a stream were sent already."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> bool:
        """True if the first of them was."""
        at = bisect(self._starts, start)
        known = at > 0 and start < self._ends[at - 1]
        first = at - 1 if at and self._ends[at - 1] >= start else at  # Those that it touches become one with it.
        last = bisect(self._starts, end)
        if start < end:
            self._starts[first:last] = [min(start, *self._starts[first:last])] if first < last else [start]
            self._ends[first:last] = [max(end, *self._ends[first:last])] if first < last else [end]
        return known


def _readable(text: str) -> str:
    """A stranger's words: they make no line of their own."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:32]
