"""Tells a QUIC connection flight by flight, for clients/quic.py: datagrams, the packets in them, the frames in those.

Nobody else can read that much of it: even the numbers of the packets are encrypted. So it reads the secrets that go to
the key log, and opens what goes over the wire with them, as Wireshark does (protocols/quic_opened.py).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import Counter
from typing import NamedTuple, TextIO

from clients.tls_teller import describe
from protocols.errors import RemoteProtocolError
from protocols.quic_frames import Ack, ConnectionClose, Crypto, Frame, NewConnectionId, Padding, Stream
from protocols.quic_numbers import VERSION_1, VERSION_2, PacketType
from protocols.quic_opened import Onlooker, Seen, Sight
from protocols.quic_packets import invariant
from protocols.tls_numbers import HandshakeType, readable, words
from protocols.tls_opened import key_log

log = logging.getLogger("clients.quic")

PAUSE = 0.1  # seconds; what one side sends then is told by itself
REASON = 200  # letters of a reason to close
READABLE = (HandshakeType.CLIENT_HELLO, HandshakeType.SERVER_HELLO)  # of which describe() tells more than the name


class Flight(NamedTuple):
    """What one side has sent before the other said something; or once more, when the other did not."""

    is_ours: bool
    after: float  # seconds since the beginning
    datagrams: list[bytes]


class Teller:
    """watch() is shown the datagrams, write() the lines of the key log. `flights` counts what each side has sent."""

    def __init__(self) -> None:
        self.key_log: TextIO | None = None  # where the secrets go, too
        self.started = 0.0  # when the first datagram went out
        self._last = 0.0  # when there was a datagram
        self.flights: Counter[bool] = Counter()  # ours: True
        self._secrets: dict[tuple[str, bytes], bytes] = {}
        self._onlooker = Onlooker(self._secrets)
        self._flight: Flight | None = None
        self._held: list[Flight] = []
        self._is_ready = False

    def write(self, line: str) -> None:
        """A secret."""
        if self.key_log:
            self.key_log.write(line)
        self._secrets.update(key_log(line))
        self._is_ready = self._is_ready or line.startswith("CLIENT_TRAFFIC_SECRET_0")

    def flush(self) -> None:
        if self.key_log:
            self.key_log.flush()

    def watch(self, is_ours: bool, datagram: bytes) -> None:
        now = time.perf_counter()
        self.started = self.started or now
        is_late = now - self._last > PAUSE
        if self._flight is None or self._flight.is_ours != is_ours or is_late:
            self._land()
            self.flights[is_ours] += not is_late
            self._flight = Flight(is_ours, now - self.started, [])
        self._last = now
        self._flight.datagrams.append(datagram)

    def _land(self) -> None:
        """The flight is over. While hands are shaken, the server's are kept back: their keys are yet to come."""
        if self._flight:
            self._held.append(self._flight)
            self._flight = None
        if self._is_ready or not any(not flight.is_ours for flight in self._held):
            self.tell()

    def tell(self) -> None:
        """All that there is, also if it cannot be opened."""
        flights, self._held = [*self._held, *([self._flight] if self._flight else [])], []
        self._flight = None
        for flight in flights:
            mark = ">" if flight.is_ours else "<"
            count, size = len(flight.datagrams), sum(map(len, flight.datagrams))
            datagrams = f"{count} datagram{'s' * (count != 1)}"
            log.info("%s %d bytes in %s, after %.1f ms", mark, size, datagrams, 1000 * flight.after)
            way = ("we", "server") if flight.is_ours else ("server", "we")
            sights = [self._onlooker.receive_datagram(*way, datagram) for datagram in flight.datagrams]
            for line in told(flight.datagrams, sights):
                log.info("%s   %s", mark, line)


def told(datagrams: list[bytes], sights: list[Sight | None]) -> list[str]:
    """A line for each packet; those that only go on with one stream share a line."""
    lines: list[str] = []
    packets: list[Seen | str] = []
    for datagram, sight in zip(datagrams, sights, strict=True):
        if sight and sight.is_reset:
            packets.append("a stateless reset")
        elif sight and sight.packets:
            packets += sight.packets
        else:
            packets.append(unknown(datagram))
    for kind, group in itertools.groupby(packets, same):
        run = list(group)
        seen = [one for one in run if isinstance(one, Seen)]
        if kind is None or len(run) == 1:
            lines += [one if isinstance(one, str) else packet(one) for one in run]
        else:
            frames = [frame for one in seen for frame in one.frames or ()]
            size = sum(len(frame.data) for frame in frames if isinstance(frame, Stream))
            what = f"{kind} +{size} B" if size else kind
            lines.append(f"{seen[0].packet.type} {seen[0].number} to {seen[-1].number}: {what}, in {len(run)} packets")
    return lines


def same(one: Seen | str) -> str | None:
    """What all packets of a run have in common; None: this one is told by itself."""
    if isinstance(one, str) or one.packet.is_long or not one.frames:
        return None
    frames = one.frames
    if all(isinstance(frame, Ack) for frame in frames):
        return "ACK"
    streams = {frame.stream for frame in frames if isinstance(frame, Stream) and not frame.fin}
    if len(streams) == 1 and all(isinstance(frame, Stream | Ack) and not getattr(frame, "fin", 0) for frame in frames):
        return f"STREAM {streams.pop()}"
    return None


def packet(seen: Seen) -> str:
    """`Handshake 3: encrypted_extensions 102, certificate 1021, …`"""
    one = seen.packet
    if one.type == PacketType.VERSION_NEGOTIATION:
        return f"{one.type}: the server speaks {', '.join(map(version, one.versions))}"
    if one.type == PacketType.RETRY:
        return f"{one.type}: come again with this token of {len(one.token)} bytes"
    if seen.frames is None:
        return f"{one.type}: no key opens it"
    token = f" with a token of {len(one.token)} bytes" if one.token else ""
    phase = ", key phase 1" if seen.key_phase else ""
    messages = iter(seen.messages)
    shown = []
    for kind, group in itertools.groupby(seen.frames, type):
        frames = list(group)
        if kind is NewConnectionId and len(frames) > 1:
            shown.append(f"{frames[0]} to {frames[-1].sequence}")  # type: ignore[union-attr]
        else:
            shown += [text for frame in frames if (text := shown_frame(frame))]
    for message in messages:
        shown.append(describe(message) if message.type in READABLE else words(message.type, HandshakeType))
    padding = sum(frame.length for frame in seen.frames if isinstance(frame, Padding))
    return f"{one.type} {seen.number}{token}{phase}: {', '.join(shown)}{f', padding {padding} B' if padding else ''}"


def shown_frame(frame: Frame) -> str:
    if isinstance(frame, Padding):
        return ""
    if isinstance(frame, Crypto):
        return f"CRYPTO {frame.offset}+{len(frame.data)} B"
    if isinstance(frame, ConnectionClose) and frame.reason:
        return f"{frame} {readable(frame.reason[:REASON])}"
    return str(frame)


def unknown(datagram: bytes) -> str:
    """What can be told of a datagram without opening it (RFC 8999)."""
    with contextlib.suppress(RemoteProtocolError):
        seen = invariant(datagram)
        if seen.is_long and seen.version != VERSION_1:
            return f"a packet of {version(seen.version)}, which is not opened here"
    return "no packet of this connection"


def version(number: int) -> str:
    return {VERSION_1: "version 1", VERSION_2: "version 2"}.get(number, f"{number:#010x}")
