"""A reliable transfer over datagrams, sans-IO: selective repeat with an adaptive timeout.

The network loses, doubles and reorders datagrams; the receiver still gets every byte once and in order. The sender
may have `window` packets on the way; the receiver acknowledges each, and keeps those that came too early. A window
of 1 is stop-and-wait. Both ends are driven the same way, by whoever has the socket and the clock:

    end.receive_datagram(datagram, now)     what came; a Receiver returns the bytes that are now in order
    end.datagrams_to_send(now)              what to send now
    end.timer()                             when to ask again if nothing comes, or None
    end.done

On the wire, in network byte order:

    kind 8 | number 16 | payload             kind 0: a piece of the file; 1: its last piece
    kind 8 | number 16 | bitmap 64           kind 2: all before `number` arrived; bit i: so did number + 1 + i

Left out on purpose: congestion control. A fixed window is for a path that you own; on a shared one it must follow
the losses (RFC 8085 §3.1). And a handshake: both ends are told the first number, which TCP's SYN would carry.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from protocols.errors import LocalProtocolError

PAYLOAD = 1000  # bytes of the file per packet: no fragments on any path (RFC 8085 §3.2)
MAX_WINDOW = 64  # packets, as many as the bitmap can name. It bounds what a receiver must hold in memory.
GIVE_UP = 10.0  # seconds without any progress; then nobody is there any more (RFC 9293 §3.8.3 "R2")
LINGER = 1.0  # seconds of silence after which the receiver believes that its last ACK arrived

# RFC 6298 wants 1 s, 1 s and at least 60 s: its paths are longer than the lab's cables. Linux's TCP: 1 s, 0.2 s, 120 s.
INITIAL, MINIMUM, MAXIMUM = 0.5, 0.1, 4.0  # seconds of retransmission timeout
GRANULARITY = 0.01  # seconds: how late a timer or a process may be on a busy machine (RFC 6298 §2.3 "G")

_NUMBERS = 1 << 16  # Numbers wrap: all arithmetic on them is modulo this (RFC 1982).
_data = Struct("!BH")
_ack = Struct("!BHQ")


class Kind(IntEnum):
    PIECE = 0
    LAST = 1
    ACK = 2


class Timeout:
    """How long to wait for an acknowledgement: RFC 6298. `seconds` is the RTO."""

    def __init__(self) -> None:
        self.seconds = INITIAL
        self.smoothed: float | None = None  # SRTT
        self._variation = 0.0  # RTTVAR

    def sample(self, rtt: float) -> None:
        """Learn from a round trip that was measured (§2.2, §2.3). It also ends any backing off (§5)."""
        if self.smoothed is None:
            self.smoothed, self._variation = rtt, rtt / 2
        else:
            self._variation += (abs(self.smoothed - rtt) - self._variation) / 4
            self.smoothed += (rtt - self.smoothed) / 8
        self.seconds = min(max(self.smoothed + max(GRANULARITY, 4 * self._variation), MINIMUM), MAXIMUM)

    def back_off(self) -> None:
        """Wait twice as long: perhaps the network is full, and more packets would not help (§5.5)."""
        self.seconds = min(2 * self.seconds, MAXIMUM)


@dataclass
class _OnTheWay:
    datagram: bytes
    sent: float
    copies: int = 1


class Sender:
    """Sends *data*. `done` when all of it is acknowledged, or (`gave_up`) when nobody answers.

    `sent` counts datagrams, `ignored` those received that were no acknowledgement of ours.
    """

    def __init__(self, data: bytes, *, first: int = 0, window: int = 1, timeout: Timeout | None = None) -> None:
        _check(first, window)
        self._data, self._first, self._window = data, first, window
        self._packets = max(1, -(-len(data) // PAYLOAD))  # An empty file is one empty last piece.
        self._base = 0  # the first packet that is not acknowledged; counts from 0 and does not wrap
        self._next = 0  # the first packet that was never sent
        self._on_the_way: dict[int, _OnTheWay] = {}
        self._backed_off = float("-inf")  # when
        self._progress: float | None = None  # when it last was acknowledged something, or began
        self.timeout = timeout or Timeout()
        self.sent = self.ignored = 0
        self.gave_up = False

    @property
    def done(self) -> bool:
        return self.gave_up or self._base == self._packets

    def receive_datagram(self, datagram: bytes, now: float) -> None:
        """Take an acknowledgement. Anything else is ignored: whoever knows the port can send garbage."""
        if len(datagram) != _ack.size or datagram[0] != Kind.ACK:
            self.ignored += 1
            return
        _, number, bitmap = _ack.unpack(datagram)
        before = self._base + (number - self._first - self._base) % _NUMBERS
        if before > self._next:  # An old one that was overtaken, or a lie: nobody can have what was never sent.
            self.ignored += 1
            return
        later = [before + 1 + i for i in range(MAX_WINDOW) if bitmap >> i & 1]
        arrived = [i for i in (*range(self._base, before), *later) if i in self._on_the_way]
        # Only the newest packet tells the time, and only if sent once: which copy was acknowledged? (§3, Karn)
        if arrived and (newest := self._on_the_way[arrived[-1]]).copies == 1:
            self.timeout.sample(now - newest.sent)
        for i in arrived:
            del self._on_the_way[i]
            self._progress = now
        self._base = before

    def datagrams_to_send(self, now: float) -> list[bytes]:
        """What is overdue, again, and as many new packets as the window allows."""
        if self._progress is None:
            self._progress = now
        self.gave_up = now > self._progress + GIVE_UP
        overdue = [p for p in self._on_the_way.values() if p.sent + self.timeout.seconds <= now]
        # One loss doubles the timeout once, however many packets of that window are overdue.
        if any(p.sent >= self._backed_off for p in overdue):
            self.timeout.back_off()
            self._backed_off = now
        for packet in overdue:
            packet.sent = now
            packet.copies += 1
        datagrams = [packet.datagram for packet in overdue]
        while self._next < min(self._packets, self._base + self._window):
            datagrams.append(self._packet(self._next))
            self._on_the_way[self._next] = _OnTheWay(datagrams[-1], now)
            self._next += 1
        self.sent += len(datagrams)
        return datagrams

    def timer(self) -> float | None:
        oldest = min((p.sent for p in self._on_the_way.values()), default=None)
        return None if oldest is None else oldest + self.timeout.seconds

    def _packet(self, i: int) -> bytes:
        kind = Kind.LAST if i == self._packets - 1 else Kind.PIECE
        piece = self._data[i * PAYLOAD : (i + 1) * PAYLOAD]
        return _data.pack(kind, (self._first + i) % _NUMBERS) + piece


class Receiver:
    """Receives a file: `receive_datagram` returns its bytes in order, each once.

    `complete` when the last byte was returned; `done` when the sender has been silent since then for LINGER
    seconds. Till then a sender may still ask, for the ACK of the last packet can be lost like any other.
    """

    def __init__(self, *, first: int = 0, window: int = 1) -> None:
        _check(first, window)
        self._next, self._window = first, window  # the first number that is missing
        self._early: dict[int, tuple[int, bytes]] = {}  # number → kind, payload; never more than the window
        self._acks_due = 0
        self._heard = 0.0
        self.complete = self.done = False
        self.ignored = 0

    def receive_datagram(self, datagram: bytes, now: float) -> bytes:
        """Take a packet; return the bytes that it puts in order (b"" when another is missing before it)."""
        if not _data.size <= len(datagram) <= _data.size + PAYLOAD or datagram[0] not in (Kind.PIECE, Kind.LAST):
            self.ignored += 1
            return b""
        kind, number = _data.unpack_from(datagram)
        ahead = (number - self._next) % _NUMBERS
        if self._window <= ahead < _NUMBERS - MAX_WINDOW:  # Neither in the window nor one that we have had.
            self.ignored += 1
            return b""
        self._heard = now
        self._acks_due += 1  # Also for a copy: it may be here because our ACK was lost.
        if ahead < self._window:
            self._early[number] = kind, datagram[_data.size :]
        pieces = []
        while self._next in self._early and not self.complete:
            kind, piece = self._early.pop(self._next)
            pieces.append(piece)
            self._next = (self._next + 1) % _NUMBERS
            self.complete = kind == Kind.LAST
        if self.complete:
            self._early.clear()  # What lies beyond the last piece is no part of the file, whoever sent it.
        return b"".join(pieces)

    def datagrams_to_send(self, now: float) -> list[bytes]:
        """One acknowledgement for each packet that came."""
        self.done = self.complete and now >= self._heard + LINGER
        bitmap = sum(1 << (number - self._next - 1) % _NUMBERS for number in self._early)
        acks = [_ack.pack(Kind.ACK, self._next, bitmap)] * self._acks_due
        self._acks_due = 0
        return acks

    def timer(self) -> float | None:
        return self._heard + LINGER if self.complete else None


def _check(first: int, window: int) -> None:
    if not 0 <= first < _NUMBERS or not 1 <= window <= MAX_WINDOW:
        raise LocalProtocolError(f"first number {first} of 0…{_NUMBERS - 1}, window {window} of 1…{MAX_WINDOW}")
